//! The stream context: one exchange, whatever the role of the plugin configuration.

use std::rc::Rc;

use proxy_wasm::{
    traits::{Context, HttpContext},
    types::Action,
};

use super::{host::Envoy, with_worker};
use crate::{
    host::StreamId,
    worker::{Exchange, Phase, Plugin, Worker},
};

/// An exchange on its way through the filter.
pub(super) struct Stream {
    id: StreamId,
    plugin: Option<Rc<Plugin>>,
    exchange: Rc<Exchange>,
}

impl Stream {
    pub fn new(id: StreamId, plugin: Option<Rc<Plugin>>) -> Self {
        Self {
            id,
            plugin,
            exchange: Rc::default(),
        }
    }

    /// Nothing of a request may go on before it is decided: with `allow_on_headers_stop_iteration` Envoy
    /// delivers the body while the headers are held, and a body let through takes the headers along.
    fn action(&self) -> Action {
        match self.exchange.phase() {
            Phase::Forwarded => Action::Continue,
            Phase::Held | Phase::Answered => Action::Pause,
        }
    }

    /// Envoy serves no requests with a plugin whose configuration was refused.
    fn with_plugin<T>(&self, f: impl FnOnce(&mut Worker, &Envoy, &Rc<Plugin>) -> T) -> Option<T> {
        let plugin = self.plugin.as_ref()?;
        let host = Envoy { context: self.id.0 };
        with_worker(|worker| f(worker, &host, plugin))
    }

    fn forget(&mut self) {
        with_worker(|worker| worker.on_stream_end(self.id));
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
        let exchange = self.with_plugin(|worker, host, plugin| {
            worker.on_request(host, plugin, self.id, end_of_stream)
        });
        if let Some(exchange) = exchange {
            self.exchange = exchange;
        }
        self.action()
    }

    fn on_http_request_body(&mut self, body_size: usize, end_of_stream: bool) -> Action {
        if self.exchange.reads_request_body() {
            self.with_plugin(|worker, host, plugin| {
                worker.on_request_body(
                    host,
                    plugin,
                    self.id,
                    &self.exchange,
                    body_size,
                    end_of_stream,
                );
            });
        }
        self.action()
    }

    fn on_http_request_trailers(&mut self, _num_trailers: usize) -> Action {
        let may_go_on = self.with_plugin(|worker, host, plugin| {
            worker.on_trailers(host, plugin, self.id, &self.exchange)
        });
        match may_go_on {
            Some(true) => self.action(),
            _ => Action::Pause,
        }
    }

    fn on_http_response_headers(&mut self, _num_headers: usize, end_of_stream: bool) -> Action {
        if self.exchange.reads_response() {
            self.with_plugin(|worker, host, plugin| {
                worker.on_response(host, plugin, &self.exchange, end_of_stream);
            });
        }
        Action::Continue
    }

    fn on_http_response_body(&mut self, body_size: usize, end_of_stream: bool) -> Action {
        if self.exchange.reads_response_body() {
            self.with_plugin(|worker, host, plugin| {
                worker.on_response_body(host, plugin, &self.exchange, body_size, end_of_stream);
            });
        }
        Action::Continue
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.forget();
    }
}
