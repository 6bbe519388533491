//! One exchange on its way through the filter: how far its request has come, and what is still to be read.
//!
//! The exchange is shared by its stream and by the role that decides it, since a held request is decided in the
//! callback of another context. `W` is what the role watches for in later callbacks.

use alloc::rc::Rc;
use core::cell::{Cell, RefCell};

use super::plugin::Plugin;
use crate::{
    host::{StreamId, Streams},
    matrix::reply::Reply,
};

/// How far a request has come. The adapter holds its body back by this.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// It waits for a verdict, or for the rest of itself: nothing of it may go on.
    Held,
    /// It goes on upstream.
    Forwarded,
    /// It was answered here: nothing of it may go on.
    Replied,
    /// Its stream has ended. Envoy keeps a stream for a moment longer and lets it be selected, but a reply to it, or anything
    /// else that is done to it then, writes over memory that is no longer the stream's.
    Ended,
}

/// Which later callbacks the role needs. All others cost no host call.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wants {
    /// The pieces of the request's body.
    pub request_body: bool,
    /// The headers of the response. Its body is never looked at.
    pub response_headers: bool,
    /// The end of the stream, if the role has something to learn from it.
    pub stream_end: bool,
}

/// What a role still watches for in an exchange.
pub trait Watch: Default {
    /// Returns which callbacks that takes.
    fn wants(&self) -> Wants;

    /// Returns the watch over a reply with this status to a request that calls itself gRPC, see `grpc.rs`.
    fn grpc_reply(status: u16) -> Self;
}

/// A piece of a body.
#[derive(Clone, Copy, Debug)]
pub struct Chunk {
    /// Its length in bytes; of a held body, the length of all so far. 0 if the body has ended with trailers.
    pub size: usize,
    /// The body ends with it.
    pub is_last: bool,
}

/// A request and its response.
#[derive(Debug)]
pub struct Exchange<W> {
    /// The stream.
    pub stream: StreamId,
    /// The configuration that it came in under.
    pub plugin: Rc<Plugin>,
    phase: Cell<Phase>,
    watch: RefCell<W>,
}

impl<W: Watch> Exchange<W> {
    /// An exchange whose request has just begun: it is held, and nothing is watched for.
    pub fn new(plugin: &Rc<Plugin>, stream: StreamId) -> Self {
        Self {
            stream,
            plugin: Rc::clone(plugin),
            phase: Cell::new(Phase::Held),
            watch: RefCell::default(),
        }
    }

    /// Returns how far the request has come.
    pub fn phase(&self) -> Phase {
        self.phase.get()
    }

    /// Returns which later callbacks are needed.
    #[inline]
    pub fn wants(&self) -> Wants {
        self.watch
            .try_borrow()
            .map(|watch| watch.wants())
            .unwrap_or_default()
    }

    /// Notes how far the request has come.
    pub fn set_phase(&self, phase: Phase) {
        self.phase.set(phase);
    }

    pub(super) fn set_watch(&self, watch: W) {
        self.watch.replace(watch);
    }

    /// Takes out what is watched for. Nothing is, unless it is put back.
    pub(super) fn take_watch(&self) -> W {
        self.watch.take()
    }

    /// Answers the selected request, which is this exchange's.
    pub(super) fn reply(&self, host: &impl Streams, reply: &Reply) {
        if let Err(error) = host.respond(reply) {
            log::error!(
                "Envoy refused a local reply with {error}; the request is held until it times out"
            );
        }
        self.set_phase(Phase::Replied);
    }

    /// Lets the selected request go on if it was held and has been forwarded since. Its headers cannot be
    /// changed afterwards.
    pub(super) fn resume_forwarded(&self, host: &impl Streams) {
        if self.phase() == Phase::Forwarded
            && let Err(error) = host.resume()
        {
            log::error!("Envoy refused to resume a request with {error}");
        }
    }
}
