//! The seam between the core and Envoy: everything the core asks of the proxy it runs in.
//!
//! `src/envoy` implements it with proxy-wasm host calls, the tests with a simulated Envoy that has a
//! virtual clock and injected faults. There is one trait for each capability, so that a signature says what
//! its function may touch: [`Backend`] is all that asking MAS takes, and knows no request.
//!
//! The non-obvious rule: calls about a request act on the *selected* stream. It is the one whose callback
//! runs, or the last one given to [`Streams::select`].

use alloc::vec::Vec;
use core::{cell::OnceCell, fmt, time::Duration};

#[cfg(test)]
pub(crate) mod fake;
pub(crate) mod fields;
mod head;
#[cfg(test)]
pub(crate) mod memory;
mod origin;
mod status;
mod store;

pub use self::{
    fields::{Fields, Lengths, extended},
    head::RequestHead,
    origin::ResponseOrigin,
    store::{If, NotWritten, Store, Unreadable, Versioned, until_written, update},
};
use crate::{clock::Instant, matrix::reply::Reply, metrics::Metric};

/// A stream of this worker's VM: the proxy-wasm context id. Meaningless in any other VM.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct StreamId(pub u32);

/// A root context of this worker's VM: one for each plugin configuration that is live.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RootId(pub u32);

/// An outstanding HTTP call of this worker's VM.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct CallId(pub u32);

/// A shared queue. Known to every VM; its messages reach the worker that registered it last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct QueueId(pub u32);

/// The host refused a call, with the proxy-wasm status it gave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HostError(pub u32);

impl HostError {
    /// What must be there is not.
    pub const MISSING: Self = Self(1);

    /// The bytes are not a header map.
    pub const PARSE_FAILURE: Self = Self(4);

    /// Something failed in the host.
    #[cfg(test)]
    pub const INTERNAL_FAILURE: Self = Self(10);
}

impl fmt::Display for HostError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "status {}", self.0)
    }
}

impl core::error::Error for HostError {}

/// Why a call was not sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotSent {
    /// Envoy knows no cluster of that name.
    UnknownCluster,
    /// Envoy did not take the call: no host of the cluster is healthy, a circuit breaker is open, or there is no
    /// credential to inject.
    Refused,
}

/// Counters and histograms.
pub trait Metrics {
    /// Makes the series of `metric` exist, at 0 if nothing has been counted.
    fn define(&self, metric: Metric);

    /// Adds `value` to a counter, or takes it as a sample of a histogram.
    fn record(&self, metric: Metric, value: u64);

    /// Adds one to a counter.
    #[inline]
    fn count(&self, metric: Metric) {
        self.record(metric, 1);
    }
}

/// An HTTP call to a cluster.
#[derive(Clone, Copy)]
pub struct HttpCall<'a> {
    /// The cluster.
    pub cluster: &'a str,
    /// Pseudo-headers and headers, [serialized](Fields::parse).
    pub headers: &'a [u8],
    /// The body.
    pub body: &'a [u8],
    /// How long the answer may take.
    pub timeout: Duration,
}

/// Time, calls, timers and queues: what a worker needs beside any request.
pub trait Runtime {
    /// Returns the present moment.
    fn now(&self) -> Instant;

    /// Makes a call on behalf of `root`, which outlives the stream that caused it. `root`
    /// is the stream's own, or the one whose callback runs: it cannot be a third one.
    fn dispatch(&self, root: RootId, call: HttpCall<'_>) -> Result<CallId, NotSent>;

    /// Asks for [`crate::worker::Worker::on_tick`] to be called for `root`, again and again; `None` ends it.
    fn tick_every(&self, root: RootId, period: Option<Duration>);

    /// Registers the shared queue `name` for messages to `root` in this worker.
    fn register_queue(&self, root: RootId, name: &str) -> Option<QueueId>;

    /// Sends a message to the worker that registered `queue`. It may be lost.
    fn enqueue(&self, queue: QueueId, message: &[u8]);

    /// Returns the next message of a queue; `None` if it is empty.
    fn dequeue(&self, queue: QueueId) -> Option<Vec<u8>>;
}

/// Requests and responses.
pub trait Streams {
    /// Makes `stream` the one that request calls act on. `false`: it has gone.
    fn select(&self, stream: StreamId) -> bool;

    /// Returns the head of the selected request, by one host call. What is not understood whole is an error.
    fn request_head(&self) -> Result<RequestHead, HostError>;

    /// Returns the trailers of the selected request. Only while a trailers callback of that request runs.
    fn request_trailers(&self) -> Result<Fields, HostError>;

    /// Adds a field to the selected request, which has none of that name.
    fn add_request_header(&self, name: &str, value: &[u8]) -> Result<(), HostError>;

    /// Removes every field of that name from the selected request.
    fn remove_request_header(&self, name: &str) -> Result<(), HostError>;

    /// Removes every trailer of that name from the selected request.
    fn remove_request_trailer(&self, name: &str) -> Result<(), HostError>;

    /// Returns as much as `max` bytes, from `start` on, of what Envoy shows of the selected request's body: the piece
    /// that passes, or all so far if the body is held. Only while a body callback of that request runs.
    fn request_body(&self, start: usize, max: usize) -> Result<Vec<u8>, HostError>;

    /// Returns a header of the selected stream's response, `None` if absent.
    fn response_header(&self, name: &str) -> Result<Option<Vec<u8>>, HostError>;

    /// Returns the status of the selected stream's response. `None`: it has none, or Envoy does not tell.
    fn response_status(&self) -> Option<u16> {
        status::parse(&self.response_header(":status").ok().flatten()?)
    }

    /// Returns who made the selected stream's response. Only while its headers callback runs.
    fn response_origin(&self) -> ResponseOrigin;

    /// Returns the status of the selected stream's response, if the server behind Envoy has made it. What Envoy answers, or one of
    /// its other filters, is no word of that server.
    fn upstream_status(&self) -> Option<u16> {
        let status = self.response_status()?;
        (self.response_origin() == ResponseOrigin::Upstream).then_some(status)
    }

    /// Sets the status of the selected stream's response.
    fn set_response_status(&self, status: u16) -> Result<(), HostError>;

    /// Publishes `wasm.<name>` in the filter state of the selected stream.
    fn set_filter_state(&self, name: &str, value: &[u8]) -> Result<(), HostError>;

    /// Answers the selected request in place of the homeserver.
    fn respond(&self, reply: &Reply) -> Result<(), HostError>;

    /// Lets the selected request, which was held, go on to the homeserver. Its headers cannot be changed
    /// afterwards.
    fn resume(&self) -> Result<(), HostError>;

    /// Returns the name of the cluster that the selected request is routed to. `None`: Envoy does not tell, for
    /// example because the route has no cluster.
    fn route_cluster(&self) -> Option<Vec<u8>>;

    /// Returns the address of the client as Envoy trusts it, without the port.
    fn source_address(&self) -> Option<Vec<u8>>;
}

/// What asking MAS takes: no request.
pub trait Backend: Store + Metrics + Runtime {}

impl<H: Store + Metrics + Runtime> Backend for H {}

/// What the roles take.
pub trait Host: Backend + Streams {}

impl<H: Backend + Streams> Host for H {}

/// One callback of Envoy: what it may call, for which root, and when.
#[derive(Debug)]
pub struct Callback<'h, H> {
    /// The proxy.
    pub host: &'h H,
    /// The root context whose callback runs, or that owns the stream whose callback runs.
    pub root: RootId,
    now: OnceCell<Instant>,
}

impl<'h, H: Runtime> Callback<'h, H> {
    /// A callback that runs now.
    pub fn new(host: &'h H, root: RootId) -> Self {
        Self {
            host,
            root,
            now: OnceCell::new(),
        }
    }

    /// Returns the present moment. Reads the host's clock once in a callback at the most.
    pub fn now(&self) -> Instant {
        *self.now.get_or_init(|| self.host.now())
    }
}
