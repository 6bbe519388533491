//! The stream context: one client request.

use std::{cell::Cell, rc::Rc};

use proxy_wasm::{
    traits::{Context, HttpContext},
    types::Action,
};

use super::{host::Envoy, with_worker};
use crate::{
    host::StreamId,
    worker::{Gateway, Phase},
};

/// A client request on its way through the filter.
pub(super) struct Stream {
    id: StreamId,
    gateway: Option<Rc<Gateway>>,
    phase: Rc<Cell<Phase>>,
}

impl Stream {
    pub fn new(id: StreamId, gateway: Option<Rc<Gateway>>) -> Self {
        Self {
            id,
            gateway,
            phase: Rc::new(Cell::new(Phase::Held)),
        }
    }

    /// Nothing of a request may go on before it is decided: with `allow_on_headers_stop_iteration` Envoy
    /// delivers the body while the headers are held, and a body let through takes the headers along.
    fn action(&self) -> Action {
        match self.phase.get() {
            Phase::Forwarded => Action::Continue,
            Phase::Held | Phase::Answered => Action::Pause,
        }
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
    fn on_http_request_headers(&mut self, _num_headers: usize, _end_of_stream: bool) -> Action {
        // Envoy serves no requests with a plugin whose configuration was refused.
        if let Some(gateway) = &self.gateway {
            let host = Envoy { context: self.id.0 };
            if let Some(phase) = with_worker(|worker| worker.on_request(&host, gateway, self.id)) {
                self.phase = phase;
            }
        }
        self.action()
    }

    fn on_http_request_body(&mut self, _body_size: usize, _end_of_stream: bool) -> Action {
        self.action()
    }

    fn on_http_request_trailers(&mut self, _num_trailers: usize) -> Action {
        let (action, Some(gateway)) = (self.action(), &self.gateway) else {
            return Action::Pause;
        };
        if action == Action::Pause {
            return action;
        }
        let host = Envoy { context: self.id.0 };
        match with_worker(|worker| worker.on_trailers(&host, gateway)) {
            Some(true) => Action::Continue,
            _ => Action::Pause,
        }
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.forget();
    }
}
