//! The stream context: one exchange, whatever the role of the plugin configuration.

use alloc::rc::Rc;

use super::host::Envoy;
use crate::{
    host::StreamId,
    worker::{AnyExchange, Chunk, Phase, Plugin, Worker},
};

/// What Envoy does with a piece of a request.
#[derive(Clone, Copy)]
#[repr(u32)]
pub(super) enum Action {
    Continue = 0,
    Pause = 1,
}

/// An exchange on its way through the filter.
pub(super) struct Stream {
    id: StreamId,
    /// The number of its root context, which lives longer.
    pub root: u32,
    /// `None` until the request's headers have come. Envoy serves no requests with a plugin whose
    /// configuration was refused.
    exchange: Option<AnyExchange>,
}

impl Stream {
    pub fn new(id: StreamId, root: u32) -> Self {
        Self {
            id,
            root,
            exchange: None,
        }
    }

    /// Nothing of a request may go on before it is decided: with `allow_on_headers_stop_iteration` Envoy
    /// delivers the body while the headers are held, and a body let through takes the headers along.
    #[inline]
    pub fn action(&self) -> Action {
        match self.exchange.as_ref().map(AnyExchange::phase) {
            Some(Phase::Forwarded) => Action::Continue,
            Some(Phase::Held | Phase::Replied | Phase::Ended) | None => Action::Pause,
        }
    }

    pub fn on_request_headers(&mut self, worker: &mut Worker, plugin: &Rc<Plugin>, is_whole: bool) {
        #[cfg(feature = "trap")]
        super::trap::on_request_headers();
        let exchange = worker.on_request_headers(&self.host(), plugin, self.id, is_whole);
        self.exchange = Some(exchange);
    }

    pub fn on_request_body(&mut self, worker: &mut Worker, chunk: Chunk) {
        if let Some(exchange) = &self.exchange {
            worker.on_request_body(&self.host(), exchange, chunk);
        }
    }

    pub fn on_request_trailers(&mut self, worker: &mut Worker, plugin: &Rc<Plugin>) {
        let host = self.host();
        if let Some(exchange) = &mut self.exchange {
            worker.on_request_trailers(&host, plugin, self.id, exchange);
        }
    }

    pub fn on_response_headers(&mut self, worker: &mut Worker) {
        match &self.exchange {
            None | Some(AnyExchange::Passed) => {}
            Some(exchange) => worker.on_response_headers(&self.host(), self.id, exchange),
        }
    }

    #[inline]
    pub fn end(self, worker: &mut Worker) {
        match self.exchange {
            None | Some(AnyExchange::Passed) => {}
            Some(exchange) => worker.on_stream_end(&Envoy::of(self.id.0), self.id, &exchange),
        }
    }

    fn host(&self) -> Envoy {
        Envoy::of(self.id.0)
    }
}
