//! [`Host`](crate::host::Host) by proxy-wasm host calls.

use alloc::{borrow::Cow, rc::Rc, string::ToString, vec::Vec};
use core::{cell::Cell, ptr, time::Duration};

use super::{
    abi::{self, Buffer, Map, MetricType},
    clock,
    only_thread::OnlyThread,
    random,
};
use crate::{
    clock::{Instant, millis},
    host::{
        CallId, Fields, HostError, HttpCall, If, Metrics, NotSent, NotWritten, QueueId,
        RequestHead, ResponseOrigin, RootId, Runtime, Store, StreamId, Streams, Unreadable,
        Versioned, fields::serialize,
    },
    matrix::reply::{Header, Reply},
    metrics::{Kind, Metric},
};

/// What the response code details of our replies begin with, as Envoy's own filters do it.
const DETAILS_PREFIX: &str = "matrix_edge_auth_";

/// Envoy's id of a metric.
#[derive(Clone, Copy)]
enum MetricId {
    /// It was not used so far.
    Unknown,
    /// It could not be defined.
    Refused,
    Known(u32),
}

/// A list of headers that is a constant, and its serialized form.
type Constant = (&'static [Header], Rc<[u8]>);

/// Envoy's ids of the metrics, each at the place of its metric.
static METRICS: OnlyThread<[Cell<MetricId>; Metric::PLACES]> =
    OnlyThread::new([const { Cell::new(MetricId::Unknown) }; Metric::PLACES]);

/// What is to be added to the counters that are told at a tick, each at the place of its metric.
static GATHERED: OnlyThread<[Cell<u64>; Metric::PLACES]> =
    OnlyThread::new([const { Cell::new(0) }; Metric::PLACES]);

/// The lists of headers that are constants. There are three.
static CONSTANTS: OnlyThread<Cell<Vec<Constant>>> = OnlyThread::new(Cell::new(Vec::new()));

/// The proxy, as seen from the context whose callback runs.
pub(super) struct Envoy {
    /// The context whose stream is to be acted on: that one, or the stream that was selected last.
    stream: Cell<u32>,
    /// The context that host calls act on. A call to MAS and a timer need a root. The stream is selected again only when something
    /// is to be done to it: most callbacks that make a call do nothing more.
    effective: Cell<u32>,
}

impl Envoy {
    /// The proxy in a callback of this context.
    pub fn of(context: u32) -> Self {
        Self {
            stream: Cell::new(context),
            effective: Cell::new(context),
        }
    }

    /// Selects a root. Also where that or what follows is refused, the stream is selected again before it is used.
    fn go_to_root(&self, root: RootId) -> Result<(), HostError> {
        self.effective.set(root.0);
        abi::set_effective_context(root.0)
    }

    /// Selects the stream again, if a root is selected in its place.
    #[inline]
    fn return_to_stream(&self) -> Result<(), HostError> {
        let stream = self.stream.get();
        if self.effective.replace(stream) != stream {
            return abi::set_effective_context(stream);
        }
        Ok(())
    }
}

impl Streams for Envoy {
    fn select(&self, stream: StreamId) -> bool {
        self.stream.set(stream.0);
        self.effective.set(stream.0);
        abi::set_effective_context(stream.0).is_ok()
    }

    #[inline]
    fn request_head(&self) -> Result<RequestHead, HostError> {
        self.return_to_stream()?;
        RequestHead::parse(abi::header_map(Map::Request)?).ok_or(HostError::PARSE_FAILURE)
    }

    fn request_trailers(&self) -> Result<Fields, HostError> {
        self.return_to_stream()?;
        Fields::parse(abi::header_map(Map::RequestTrailers)?).ok_or(HostError::PARSE_FAILURE)
    }

    fn add_request_header(&self, name: &str, value: &[u8]) -> Result<(), HostError> {
        self.return_to_stream()?;
        abi::add_header(Map::Request, name, value)
    }

    fn remove_request_header(&self, name: &str) -> Result<(), HostError> {
        self.return_to_stream()?;
        abi::remove_header(Map::Request, name)
    }

    fn remove_request_trailer(&self, name: &str) -> Result<(), HostError> {
        self.return_to_stream()?;
        abi::remove_header(Map::RequestTrailers, name)
    }

    fn request_body(&self, start: usize, max: usize) -> Result<Vec<u8>, HostError> {
        self.return_to_stream()?;
        abi::buffer(Buffer::RequestBody, start, max).map(Option::unwrap_or_default)
    }

    fn response_header(&self, name: &str) -> Result<Option<Vec<u8>>, HostError> {
        self.return_to_stream()?;
        abi::header(Map::Response, name)
    }

    fn response_origin(&self) -> ResponseOrigin {
        let details = self.return_to_stream();
        match details.and_then(|()| abi::property("response\0code_details")) {
            Ok(Some(details)) => ResponseOrigin::of_details(&details),
            // It may have been any.
            _ => ResponseOrigin::Lost,
        }
    }

    fn set_response_status(&self, status: u16) -> Result<(), HostError> {
        self.return_to_stream()?;
        abi::set_header(Map::Response, ":status", status.to_string().as_bytes())
    }

    fn set_filter_state(&self, name: &str, value: &[u8]) -> Result<(), HostError> {
        self.return_to_stream()?;
        abi::set_property(name, value)
    }

    fn respond(&self, reply: &Reply) -> Result<(), HostError> {
        self.return_to_stream()?;
        let details = [DETAILS_PREFIX, reply.reason].concat();
        let send =
            |headers: &[u8]| abi::send_local_response(reply.status, &details, headers, &reply.body);
        match &reply.headers {
            Cow::Borrowed(headers) => send(&constant(headers)),
            Cow::Owned(headers) => send(&serialized(headers)),
        }
    }

    fn resume(&self) -> Result<(), HostError> {
        self.return_to_stream()?;
        abi::continue_request()
    }

    fn route_cluster(&self) -> Option<Vec<u8>> {
        self.return_to_stream().ok()?;
        abi::property("xds\0cluster_name").ok().flatten()
    }

    fn source_address(&self) -> Option<Vec<u8>> {
        self.return_to_stream().ok()?;
        let mut address = abi::property("source\0address").ok().flatten()?;
        // `192.0.2.1:1234` or `[2001:db8::1]:1234`.
        let port = address.iter().rposition(|byte| *byte == b':')?;
        address.truncate(port);
        Some(address)
    }
}

impl Runtime for Envoy {
    fn now(&self) -> Instant {
        clock::now()
    }

    fn dispatch(&self, root: RootId, call: HttpCall<'_>) -> Result<CallId, NotSent> {
        // The answer comes to the context that makes the call, and is lost if that has ended, as a stream may have.
        self.go_to_root(root).map_err(|_| NotSent::Refused)?;
        let HttpCall {
            cluster,
            headers,
            body,
            timeout,
        } = call;
        let sent = abi::http_call(cluster, headers, body, whole_millis(timeout));
        sent.map(CallId).map_err(|HostError(status)| match status {
            abi::BAD_ARGUMENT => NotSent::UnknownCluster,
            _ => NotSent::Refused,
        })
    }

    fn tick_every(&self, root: RootId, period: Option<Duration>) {
        let millis = period.map_or(0, whole_millis);
        let set = self.go_to_root(root);
        if let Err(error) = set.and_then(|()| abi::set_tick_period(millis)) {
            log_refusal("a timer", error);
        }
    }

    fn register_queue(&self, root: RootId, name: &str) -> Option<QueueId> {
        self.go_to_root(root)
            .and_then(|()| abi::register_shared_queue(name))
            .inspect_err(|error| log_refusal("a shared queue", *error))
            .ok()
            .map(QueueId)
    }

    fn enqueue(&self, queue: QueueId, message: &[u8]) {
        // A hint that is lost is made up for by the next tick.
        let _ = abi::enqueue_shared_queue(queue.0, message);
    }

    fn dequeue(&self, queue: QueueId) -> Option<Vec<u8>> {
        abi::dequeue_shared_queue(queue.0).ok().flatten()
    }
}

impl Metrics for Envoy {
    fn define(&self, metric: Metric) {
        if let (Some(id), Kind::Counter) = (id(metric), metric.kind()) {
            // It counts as used then, which a scrape with `usedonly` looks for.
            let _ = abi::record_metric(id, 0);
        }
    }

    /// A counter is told with the next tick only: telling is a host call, and every request counts.
    #[inline]
    fn record(&self, metric: Metric, value: u64) {
        let Some(id) = id(metric) else { return };
        match metric.kind() {
            Kind::Counter => {
                if let Some(sum) = GATHERED.get(metric.place()) {
                    sum.update(|sum| sum.saturating_add(value));
                }
            }
            // A failure costs a sample; there is nothing to do about it.
            Kind::Histogram => {
                let _ = abi::record_metric(id, value);
            }
        }
    }
}

/// Tells what has been gathered of counters.
pub(super) fn tell_gathered() {
    let tell = |(sum, id): (&Cell<u64>, &Cell<MetricId>)| {
        if let (1.., MetricId::Known(id)) = (sum.get(), id.get()) {
            let _ = abi::increment_metric(id, sum.take());
        }
    };
    GATHERED.iter().zip(METRICS.iter()).for_each(tell);
}

/// Returns a list of headers that is a constant, serialized. It is kept so from its first use on.
fn constant(headers: &'static [Header]) -> Rc<[u8]> {
    let mut constants = CONSTANTS.take();
    let known = constants.iter().find(|(list, _)| ptr::eq(*list, headers));
    let written = match known {
        Some((_, written)) => Rc::clone(written),
        None => {
            let written = Rc::from(serialized(headers));
            constants.push((headers, Rc::clone(&written)));
            written
        }
    };
    CONSTANTS.set(constants);
    written
}

fn serialized(headers: &[(&str, impl AsRef<str>)]) -> Vec<u8> {
    serialize(
        headers
            .iter()
            .map(|(name, value)| (*name, value.as_ref().as_bytes())),
    )
}

fn whole_millis(duration: Duration) -> u32 {
    u32::try_from(millis(duration)).unwrap_or(u32::MAX)
}

/// Returns Envoy's id of a metric, which is defined at its first use.
#[inline]
fn id(metric: Metric) -> Option<u32> {
    let known = METRICS.get(metric.place()).map(Cell::get)?;
    let id = match known {
        MetricId::Unknown => first_id(metric),
        known => known,
    };
    match id {
        MetricId::Known(id) => Some(id),
        MetricId::Unknown | MetricId::Refused => None,
    }
}

/// Defines a metric, and keeps its id.
#[cold]
fn first_id(metric: Metric) -> MetricId {
    let id = define(metric);
    if let Some(place) = METRICS.get(metric.place()) {
        place.set(id);
    }
    id
}

fn define(metric: Metric) -> MetricId {
    let kind = match metric.kind() {
        Kind::Counter => MetricType::Counter,
        Kind::Histogram => MetricType::Histogram,
    };
    let name = metric.name();
    match abi::define_metric(kind, &name) {
        Ok(id) => MetricId::Known(id),
        Err(error) => {
            log_refusal(&name, error);
            MetricId::Refused
        }
    }
}

impl Store for Envoy {
    fn try_read(&self, key: &[u8]) -> Result<Option<Versioned>, Unreadable> {
        match abi::shared_data(key) {
            Ok(found) => Ok(found.map(|(value, cas)| Versioned { value, cas })),
            Err(error) => {
                log_refusal("to read shared data", error);
                Err(Unreadable)
            }
        }
    }

    fn write(&self, key: &[u8], value: &[u8], condition: If) -> Result<(), NotWritten> {
        // An absent key takes any number but 0, which would write over whatever is there by now.
        let cas = match condition {
            If::Absent => u32::MAX,
            If::Unchanged(cas) => cas,
        };
        abi::set_shared_data(key, value, cas).map_err(|HostError(status)| match status {
            abi::CAS_MISMATCH => NotWritten::Changed,
            _ => NotWritten::Refused,
        })
    }

    fn random(&self) -> u64 {
        random::number()
    }
}

/// Says in the log what Envoy refused.
#[cold]
fn log_refusal(what: &str, error: HostError) {
    log::error!("Envoy refused {what} with {error}");
}
