//! What Envoy holds for one worker's VM: streams, calls, timers; and the faults of that worker.

use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
    time::Duration,
};

use matrix_edge_auth::{
    clock::Instant,
    host::{CallId, ResponseOrigin, RootId, StreamId},
};

use super::Request;

#[derive(Default)]
pub(super) struct Vm {
    pub number: usize,
    pub streams: RefCell<BTreeMap<StreamId, Request>>,
    pub calls: RefCell<Vec<Call>>,
    pub ticking: RefCell<BTreeMap<RootId, Duration>>,
    /// Roots that have gone.
    pub dropped: RefCell<Vec<RootId>>,
    pub next_call: Cell<u32>,
    /// What a body callback shows while it runs, and the response's status.
    pub shown_request: RefCell<Vec<u8>>,
    pub response_status: Cell<u16>,
    pub response_origin: Cell<ResponseOrigin>,
    pub faults: Faults,
    pub host_calls: RefCell<BTreeMap<String, u64>>,
}

/// A call that the simulated proxy has under way.
#[derive(Clone, Debug)]
pub struct Call {
    pub id: CallId,
    pub root: RootId,
    pub headers: Vec<(String, String)>,
    pub body: String,
    pub sent_at: Instant,
    pub timeout: Duration,
}

impl Call {
    /// Returns what proves to MAS that the edge may ask, if the module sends it.
    pub fn secret(&self) -> Option<String> {
        let mut headers = self.headers.iter();
        let (_, value) = headers.find(|(name, _)| name == "authorization")?;
        Some(value.clone())
    }
}

/// Faults that can be switched on for one worker.
#[derive(Default)]
pub struct Faults {
    /// `dispatch_http_call` fails: no host, circuit breaker.
    pub dispatch: Cell<bool>,
    /// Every change of a header fails.
    pub set_header: Cell<bool>,
    /// Every reading of a header fails.
    pub get_header: Cell<bool>,
    /// Every look at trailers, and every change, fails.
    pub trailers: Cell<bool>,
    /// Every reading of shared data finds nothing, and every writing is refused, where a key contains this.
    pub shared_data: Cell<Option<&'static str>>,
    /// Every writing of shared data is refused where a key contains this.
    pub writing: Cell<Option<&'static str>>,
    /// A hurried timer fires with the next tick, and not at once: other events come in between.
    pub late_timers: Cell<bool>,
}
