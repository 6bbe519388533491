//! The stream context: one exchange, whatever the role of the plugin configuration.

use std::rc::Rc;

use proxy_wasm::{
    traits::{Context, HttpContext},
    types::Action,
};

use super::{dispatch, host::Envoy, vm::with_worker};
use crate::{
    host::StreamId,
    worker::{AnyExchange, Chunk, Phase, Plugin},
};

/// An exchange on its way through the filter.
pub(super) struct Stream {
    id: StreamId,
    plugin: Option<Rc<Plugin>>,
    /// `None` until the request's headers have come. Envoy serves no requests with a plugin whose
    /// configuration was refused.
    exchange: Option<AnyExchange>,
}

impl Stream {
    pub fn new(id: StreamId, plugin: Option<Rc<Plugin>>) -> Self {
        Self {
            id,
            plugin,
            exchange: None,
        }
    }

    fn host(&self) -> Envoy {
        Envoy { context: self.id.0 }
    }

    /// Nothing of a request may go on before it is decided: with `allow_on_headers_stop_iteration` Envoy
    /// delivers the body while the headers are held, and a body let through takes the headers along.
    fn action(&self) -> Action {
        match self.exchange.as_ref().map(AnyExchange::phase) {
            Some(Phase::Forwarded) => Action::Continue,
            Some(Phase::Held | Phase::Replied) | None => Action::Pause,
        }
    }

    fn forget(&mut self) {
        with_worker(|worker| {
            worker.on_stream_end(&self.host(), self.id, self.exchange.as_ref());
        });
    }
}

impl Context for Stream {
    fn on_done(&mut self) -> bool {
        self.forget();
        true
    }
}

impl HttpContext for Stream {
    fn on_http_request_headers(&mut self, _num_headers: usize, end_of_stream: bool) -> Action {
        #[cfg(feature = "trap")]
        super::trap::on_request_headers();
        if with_worker(|worker| worker.may_be_hinted(&self.host(), self.id)) == Some(true) {
            dispatch::add_root(self.id);
        }
        if let Some(plugin) = &self.plugin {
            let host = self.host();
            self.exchange = with_worker(|worker| {
                worker.on_request_headers(&host, plugin, self.id, end_of_stream)
            });
        }
        self.action()
    }

    fn on_http_request_body(&mut self, body_size: usize, end_of_stream: bool) -> Action {
        if let Some(exchange) = &self.exchange {
            let chunk = Chunk {
                size: body_size,
                is_last: end_of_stream,
            };
            with_worker(|worker| worker.on_request_body(&self.host(), exchange, chunk));
        }
        self.action()
    }

    fn on_http_request_trailers(&mut self, _num_trailers: usize) -> Action {
        let seen = self.exchange.as_ref().and_then(|exchange| {
            with_worker(|worker| worker.on_request_trailers(&self.host(), exchange))
        });
        match seen {
            Some(()) => self.action(),
            None => Action::Pause,
        }
    }

    fn on_http_response_headers(&mut self, _num_headers: usize, _end_of_stream: bool) -> Action {
        if let Some(exchange) = &self.exchange {
            with_worker(|worker| worker.on_response_headers(&self.host(), exchange));
        }
        Action::Continue
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.forget();
    }
}
