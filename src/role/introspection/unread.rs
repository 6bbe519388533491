//! Introspection requests that are held until their form has come.

use std::{collections::BTreeMap, rc::Rc, time::Duration};

use super::watch::Exchange;
use crate::{
    clock::Instant,
    host::{Callback, Host, StreamId},
    metrics::{Metric, Outcome},
    role::exchange::Phase,
};

/// How long a request is held for its body before it is passed on as it is.
const BODY_TIMEOUT: Duration = Duration::from_secs(1);

/// Requests that may be held at once in one worker.
const MAX_REQUESTS: usize = 16_384;

/// Requests that one tick lets go on at the most. Where the cluster refuses them, Envoy's replies are nested in each
/// other, and a thousand are more than the stack of the VM takes.
const MAX_RELEASED: usize = 64;

/// The requests.
#[derive(Debug, Default)]
pub struct AwaitingBody {
    streams: BTreeMap<StreamId, Request>,
    has_warned: bool,
}

#[derive(Debug)]
struct Request {
    since: Instant,
    exchange: Rc<Exchange>,
    /// A piece of its form has come.
    has_body: bool,
}

impl AwaitingBody {
    /// Notes a request. `false`: there are too many, and it is not to be held.
    pub fn insert(&mut self, exchange: &Rc<Exchange>, now: Instant) -> bool {
        if self.streams.len() >= MAX_REQUESTS {
            return false;
        }
        let request = Request {
            since: now,
            exchange: Rc::clone(exchange),
            has_body: false,
        };
        self.streams.insert(exchange.stream, request);
        true
    }

    /// Forgets a request whose form has come, or whose stream has ended.
    pub fn remove(&mut self, stream: StreamId) {
        self.streams.remove(&stream);
    }

    /// Notes that a piece of the form has come.
    pub fn note_piece(&mut self, stream: StreamId) {
        if let Some(request) = self.streams.get_mut(&stream) {
            request.has_body = true;
        }
    }

    /// Passes on the requests that have waited too long.
    pub fn release_expired<H: Host>(&mut self, cb: &Callback<'_, H>) {
        let now = cb.now();
        let mut released = 0;
        self.streams.retain(|stream, request| {
            if now < request.since + BODY_TIMEOUT || released == MAX_RELEASED {
                return true;
            }
            released += 1;
            if cb.host.select(*stream) {
                request.exchange.take_watch();
                request.exchange.set_phase(Phase::Forwarded);
                cb.host.count(Metric::Answered(Outcome::NotAsked));
                request.exchange.resume_forwarded(cb.host);
            }
            if !request.has_body && !std::mem::replace(&mut self.has_warned, true) {
                log::error!(
                    "no body came with an introspection request, which goes on to MAS: set \
                     allow_on_headers_stop_iteration in the plugin configuration of this listener"
                );
            }
            false
        });
    }
}
