//! A whole host in memory for unit tests: shared data, a clock, calls, queues, metrics, and requests.
//!
//! Several workers share shared data, queues and time by sharing one of these. The simulated Envoy of the scenarios
//! (`tests/support/`) has Envoy's awkward rules as well; this one serves tests of one part of the core.

use std::{
    cell::{Cell, RefCell},
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::Duration,
};

use super::{
    CallId, Fields, HostError, HttpCall, If, Metrics, NotSent, NotWritten, QueueId, RequestHead,
    ResponseOrigin, RootId, Runtime, Store, StreamId, Streams, Unreadable, Versioned,
    memory::MemoryStore,
};
use crate::{clock::Instant, matrix::reply::Reply, metrics::Metric};

/// The head of a question that Synapse asks MAS.
pub(crate) const INTROSPECTION: [(&str, &str); 6] = [
    (":method", "POST"),
    (":path", "/oauth2/introspect"),
    ("authorization", "Bearer secret"),
    ("content-type", "application/x-www-form-urlencoded"),
    ("content-length", "50"),
    ("x-mas-supports-device-id", "1"),
];

/// Where the clock begins.
pub(crate) const START: Instant = Instant::from_millis(1_000_000);

#[derive(Default)]
pub(crate) struct FakeHost {
    pub store: MemoryStore,
    /// How far the clock has gone since [`START`].
    elapsed: Cell<Duration>,
    /// For tests without a worker.
    randoms: Cell<u64>,
    pub metrics: RefCell<BTreeMap<String, u64>>,
    /// Calls that MAS has not answered, oldest first.
    pub calls: RefCell<Vec<CallId>>,
    dispatched: Cell<u32>,
    /// No call can be made.
    pub is_unreachable: Cell<bool>,
    /// No queue can be registered.
    pub has_no_queues: Cell<bool>,
    queues: RefCell<BTreeMap<String, QueueId>>,
    messages: RefCell<BTreeMap<QueueId, VecDeque<Vec<u8>>>>,
    /// The request that calls act on. All have the same headers and body.
    selected: Cell<Option<StreamId>>,
    pub headers: RefCell<BTreeMap<&'static str, &'static str>>,
    pub body: RefCell<&'static str>,
    /// Streams that have ended.
    pub ended: RefCell<BTreeSet<StreamId>>,
    /// What became of the selected requests.
    pub replies: RefCell<Vec<Reply>>,
    pub resumed: RefCell<Vec<StreamId>>,
    /// How often a tick comes, as asked for last.
    pub period: Cell<Option<Duration>>,
    /// How often the cluster of a route was asked for.
    pub routes_looked_at: Cell<u32>,
}

impl FakeHost {
    /// Lets time pass.
    pub fn advance(&self, time: Duration) {
        self.elapsed.set(self.elapsed.get() + time);
    }

    /// Takes out the oldest call that MAS has not answered.
    pub fn take_oldest_call(&self) -> CallId {
        self.calls.borrow_mut().remove(0)
    }

    /// Returns the value of a metric.
    pub fn metric(&self, metric: Metric) -> u64 {
        let metrics = self.metrics.borrow();
        metrics.get(&metric.name()).copied().unwrap_or_default()
    }
}

impl Store for FakeHost {
    fn try_read(&self, key: &[u8]) -> Result<Option<Versioned>, Unreadable> {
        self.store.try_read(key)
    }

    fn write(&self, key: &[u8], value: &[u8], condition: If) -> Result<(), NotWritten> {
        self.store.write(key, value, condition)
    }

    fn random(&self) -> u64 {
        self.randoms.set(self.randoms.get() + 1);
        self.randoms.get().wrapping_mul(0x9e37_79b9_7f4a_7c15)
    }
}

impl Metrics for FakeHost {
    fn define(&self, metric: Metric) {
        self.record(metric, 0);
    }

    fn record(&self, metric: Metric, value: u64) {
        *self.metrics.borrow_mut().entry(metric.name()).or_default() += value;
    }
}

impl Runtime for FakeHost {
    fn now(&self) -> Instant {
        START + self.elapsed.get()
    }

    fn dispatch(&self, _root: RootId, _call: HttpCall<'_>) -> Result<CallId, NotSent> {
        if self.is_unreachable.get() {
            return Err(NotSent::Refused);
        }
        self.dispatched.set(self.dispatched.get() + 1);
        let call = CallId(self.dispatched.get());
        self.calls.borrow_mut().push(call);
        Ok(call)
    }

    fn tick_every(&self, _root: RootId, period: Option<Duration>) {
        self.period.set(period);
    }

    fn register_queue(&self, _root: RootId, name: &str) -> Option<QueueId> {
        if self.has_no_queues.get() {
            return None;
        }
        let mut queues = self.queues.borrow_mut();
        let next = QueueId(queues.len() as u32 + 1);
        Some(*queues.entry(name.to_owned()).or_insert(next))
    }

    fn enqueue(&self, queue: QueueId, message: &[u8]) {
        let mut messages = self.messages.borrow_mut();
        messages
            .entry(queue)
            .or_default()
            .push_back(message.to_vec());
    }

    fn dequeue(&self, queue: QueueId) -> Option<Vec<u8>> {
        self.messages.borrow_mut().get_mut(&queue)?.pop_front()
    }
}

impl Streams for FakeHost {
    fn select(&self, stream: StreamId) -> bool {
        let is_there = !self.ended.borrow().contains(&stream);
        self.selected.set(is_there.then_some(stream));
        is_there
    }

    fn request_head(&self) -> Result<RequestHead, HostError> {
        let headers = self.headers.borrow();
        let fields = headers
            .iter()
            .map(|(name, value)| (*name, value.as_bytes()));
        Ok(RequestHead::new(Fields::of(fields)))
    }

    fn request_trailers(&self) -> Result<Fields, HostError> {
        Ok(Fields::default())
    }

    fn add_request_header(&self, _name: &str, _value: &[u8]) -> Result<(), HostError> {
        Ok(())
    }

    fn remove_request_header(&self, _name: &str) -> Result<(), HostError> {
        Ok(())
    }

    fn remove_request_trailer(&self, _name: &str) -> Result<(), HostError> {
        Ok(())
    }

    fn request_body(&self, start: usize, max: usize) -> Result<Vec<u8>, HostError> {
        Ok(self.body.borrow().bytes().skip(start).take(max).collect())
    }

    fn response_header(&self, name: &str) -> Result<Option<Vec<u8>>, HostError> {
        let headers = self.headers.borrow();
        Ok(headers.get(name).map(|value| value.as_bytes().to_vec()))
    }

    fn response_origin(&self) -> ResponseOrigin {
        ResponseOrigin::Upstream
    }

    fn set_response_status(&self, _status: u16) -> Result<(), HostError> {
        Ok(())
    }

    fn set_filter_state(&self, _name: &str, _value: &[u8]) -> Result<(), HostError> {
        Ok(())
    }

    fn respond(&self, reply: &Reply) -> Result<(), HostError> {
        self.replies.borrow_mut().push(reply.clone());
        Ok(())
    }

    fn resume(&self) -> Result<(), HostError> {
        let selected = self.selected.get().ok_or(HostError::INTERNAL_FAILURE)?;
        self.resumed.borrow_mut().push(selected);
        Ok(())
    }

    fn route_cluster(&self) -> Option<Vec<u8>> {
        self.routes_looked_at.set(self.routes_looked_at.get() + 1);
        None
    }

    fn source_address(&self) -> Option<Vec<u8>> {
        None
    }
}
