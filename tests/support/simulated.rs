//! A simulated Envoy: several workers with one shared data, a virtual clock and injected faults, running
//! the real core.
//!
//! It keeps the host's awkward rules: the headers of a resumed request can no longer be touched, a stream
//! that has gone cannot be selected, a call goes when its root goes, and an absent key takes any CAS
//! number.

use std::{
    cell::{Cell, RefCell},
    collections::{BTreeMap, VecDeque},
    rc::Rc,
    time::Duration,
};

use matrix_edge_auth::{
    cache::{If, NotWritten, Store, Versioned},
    clock::Instant,
    config,
    host::{CallId, Host, HostError, QueueId, RootId, StreamId},
    mas::introspection::{IntrospectionRequest, IntrospectionResponse},
    matrix::reply::Reply,
    metrics::Metric,
    worker::{Exchange, Phase, Plugin, Worker},
};

/// The status for "not in this phase", as Envoy gives it.
const BAD_ARGUMENT: HostError = HostError(2);
const INTERNAL_FAILURE: HostError = HostError(10);

/// Context ids of streams begin here, those of roots end.
const FIRST_STREAM: u32 = 1_000;

/// What all workers share.
#[derive(Default)]
pub struct Process {
    now: Cell<u64>,
    shared_data: RefCell<BTreeMap<String, (Vec<u8>, u32)>>,
    cas: Cell<u32>,
    /// Counters, gauges and sums of histograms, by full name.
    metrics: RefCell<BTreeMap<String, i64>>,
    queues: RefCell<Vec<Queue>>,
    workers: Cell<usize>,
    random_numbers: Cell<u64>,
    interference: RefCell<Option<Interference>>,
    planted: RefCell<Option<Planted>>,
}

/// What another worker does between two calls to shared data.
struct Interference {
    /// After this many more calls.
    after: usize,
    action: Box<dyn FnOnce()>,
}

/// The value under a key that nobody has written.
type Planted = Box<dyn Fn(&str) -> Option<Vec<u8>>>;

struct Queue {
    name: String,
    worker: usize,
    root: RootId,
    messages: VecDeque<Vec<u8>>,
    /// Messages whose callback has not run yet.
    undelivered: usize,
}

impl Process {
    pub fn new() -> Rc<Self> {
        let process = Self::default();
        process.now.set(1_000_000);
        Rc::new(process)
    }

    pub fn advance(&self, time: Duration) {
        self.now.set(self.now.get() + time.as_millis() as u64);
    }

    /// Fixes the secret of the process, by which places in shared data are chosen.
    pub fn set_secret(&self, secret: [u8; 16]) {
        let mut data = self.shared_data.borrow_mut();
        data.insert("matrix-edge-auth.seed".to_owned(), (secret.to_vec(), 0));
    }

    /// Lets `action` happen in the middle of a callback: before the call to shared data that comes after
    /// `after` others. It must be another worker's.
    pub fn interfere(&self, after: usize, action: impl FnOnce() + 'static) {
        let action = Box::new(action);
        let interference = Interference { after, action };
        self.interference.replace(Some(interference));
    }

    /// Lets happen what found no call to come before.
    pub fn catch_up(&self) {
        let interference = self.interference.take();
        if let Some(Interference { action, .. }) = interference {
            action();
        }
    }

    fn on_shared_data_call(&self) {
        let due = {
            let mut interference = self.interference.borrow_mut();
            match &mut *interference {
                Some(Interference { after: 0, .. }) => interference.take(),
                Some(Interference { after, .. }) => {
                    *after -= 1;
                    None
                }
                None => None,
            }
        };
        if let Some(Interference { action, .. }) = due {
            action();
        }
    }

    /// Shared data holds these values until they are written over.
    pub fn plant(&self, values: impl Fn(&str) -> Option<Vec<u8>> + 'static) {
        self.planted.replace(Some(Box::new(values)));
    }

    /// Sends `message` to every worker, as another version of the module might.
    pub fn tell_all(&self, message: &[u8]) {
        for queue in self.queues.borrow_mut().iter_mut() {
            queue.messages.push_back(message.to_vec());
            queue.undelivered += 1;
        }
    }

    fn stored(&self, key: &str) -> Option<(Vec<u8>, u32)> {
        let written = self.shared_data.borrow().get(key).cloned();
        written.or_else(|| {
            let planted = self.planted.borrow();
            Some((planted.as_ref()?(key)?, 0))
        })
    }

    /// The sum of all counters whose name starts with `prefix`.
    pub fn metric(&self, prefix: &str) -> i64 {
        let metrics = self.metrics.borrow();
        metrics
            .iter()
            .filter(|(name, _)| name.starts_with(prefix))
            .map(|(_, value)| value)
            .sum()
    }

    /// Messages that wait in shared queues.
    pub fn messages(&self) -> usize {
        self.queues
            .borrow()
            .iter()
            .map(|queue| queue.messages.len())
            .sum()
    }

    pub fn now(&self) -> Instant {
        Instant::from_millis(self.now.get())
    }

    pub fn keys(&self) -> usize {
        self.shared_data.borrow().len()
    }
}

/// A request as the simulated proxy holds it.
#[derive(Clone, Debug, Default)]
pub struct Request {
    pub headers: Vec<(String, Vec<u8>)>,
    pub filter_state: BTreeMap<String, Vec<u8>>,
    source: Vec<u8>,
    body: Vec<u8>,
    /// What Envoy holds of the body, or the piece that passes.
    held: Vec<u8>,
    reply: Option<(u16, String)>,
    resumed: bool,
}

impl Request {
    pub fn new(method: &str, path: &str) -> Self {
        Self::default()
            .header(":method", method)
            .header(":path", path)
    }

    pub fn get(path: &str) -> Self {
        Self::new("GET", path)
    }

    pub fn header(mut self, name: &str, value: impl AsRef<[u8]>) -> Self {
        self.headers
            .push((name.to_owned(), value.as_ref().to_vec()));
        self
    }

    /// A body, of which `content-length` tells the length.
    pub fn body(mut self, body: impl AsRef<[u8]>) -> Self {
        self.body = body.as_ref().to_vec();
        let length = self.body.len().to_string();
        self.header("content-length", length)
    }

    pub fn source(mut self, source: &str) -> Self {
        self.source = source.as_bytes().to_vec();
        self
    }

    pub fn bearer(self, token: &str) -> Self {
        self.header("authorization", format!("Bearer {token}"))
    }

    pub fn value(&self, name: &str) -> Option<&[u8]> {
        self.headers
            .iter()
            .find(|(key, _)| key == name)
            .map(|(_, value)| value.as_slice())
    }
}

/// What has become of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It waits.
    Held,
    /// It went on, with this user and device.
    Forwarded {
        user_id: Option<String>,
        device_id: Option<String>,
    },
    /// It was answered at the edge: status and body.
    Answered(u16, String),
}

impl Fate {
    pub fn forwarded_as(user_id: &str) -> Self {
        Self::Forwarded {
            user_id: Some(user_id.to_owned()),
            device_id: None,
        }
    }

    pub fn forwarded_unannotated() -> Self {
        Self::Forwarded {
            user_id: None,
            device_id: None,
        }
    }

    pub fn status(&self) -> Option<u16> {
        match self {
            Self::Answered(status, _) => Some(*status),
            _ => None,
        }
    }
}

/// A call that the simulated proxy has under way.
#[derive(Clone, Debug)]
pub struct Call {
    pub id: CallId,
    pub root: RootId,
    pub headers: Vec<(String, String)>,
    pub body: String,
    pub sent_at: Instant,
    timeout: Duration,
}

/// Faults that can be switched on for one worker.
#[derive(Default)]
pub struct Faults {
    /// `dispatch_http_call` fails: no such cluster, no host, circuit breaker.
    pub dispatch: Cell<bool>,
    /// Every change of a header fails.
    pub set_header: Cell<bool>,
    /// Every reading of a header fails.
    pub get_header: Cell<bool>,
}

#[derive(Default)]
struct Vm {
    number: usize,
    streams: RefCell<BTreeMap<StreamId, Request>>,
    calls: RefCell<Vec<Call>>,
    ticking: RefCell<BTreeMap<RootId, Duration>>,
    /// Roots that have gone.
    dropped: RefCell<Vec<RootId>>,
    next_call: Cell<u32>,
    /// What body callbacks show while they run, and the response's status.
    shown_request: RefCell<Vec<u8>>,
    shown_response: RefCell<Vec<u8>>,
    response_status: Cell<u16>,
    faults: Faults,
    host_calls: RefCell<BTreeMap<String, u64>>,
}

/// One worker: a VM with its streams, calls and timers.
pub struct SimulatedWorker {
    process: Rc<Process>,
    vm: Rc<Vm>,
    worker: Worker,
    exchanges: BTreeMap<StreamId, Rc<Exchange>>,
    plugins: BTreeMap<StreamId, Rc<Plugin>>,
    next_stream: u32,
}

/// The gateway role, with these keys put over the required ones.
pub fn gateway(root: u32, overrides: serde_json::Value) -> Rc<Plugin> {
    plugin(root, "gateway", overrides)
}

/// A role, with these keys put over the required ones.
pub fn plugin(root: u32, role: &str, overrides: serde_json::Value) -> Rc<Plugin> {
    let mut json = serde_json::json!({
        "role": role,
        "server_name": "example.org",
        "introspection": {"cluster": "mas", "credential": {"bearer": {"value": "secret"}}},
    });
    merge(&mut json, overrides);
    let config =
        config::parse(json.to_string().as_bytes(), &|_| None).expect("valid configuration");
    Rc::new(Plugin::new(RootId(root), config))
}

fn merge(into: &mut serde_json::Value, from: serde_json::Value) {
    match (into, from) {
        (serde_json::Value::Object(into), serde_json::Value::Object(from)) => {
            for (key, value) in from {
                let into = into.entry(&key).or_insert(serde_json::Value::Null);
                // Of the kinds of credential there is one.
                if key == "credential" {
                    *into = value;
                } else {
                    merge(into, value);
                }
            }
        }
        (into, from) => *into = from,
    }
}

impl SimulatedWorker {
    pub fn new(process: &Rc<Process>) -> Self {
        process.workers.set(process.workers.get() + 1);
        Self {
            process: Rc::clone(process),
            vm: Rc::new(Vm {
                number: process.workers.get(),
                ..Vm::default()
            }),
            worker: Worker::default(),
            exchanges: BTreeMap::new(),
            plugins: BTreeMap::new(),
            next_stream: FIRST_STREAM,
        }
    }

    pub fn faults(&self) -> &Faults {
        &self.vm.faults
    }

    /// Host calls made so far, by kind.
    pub fn host_calls(&self) -> BTreeMap<String, u64> {
        self.vm.host_calls.borrow().clone()
    }

    /// A request arrives: its headers, and its body if it has one.
    pub fn request(&mut self, plugin: &Rc<Plugin>, request: Request) -> StreamId {
        let body = request.body.clone();
        let stream = self.request_headers(plugin, request, body.is_empty());
        if !body.is_empty() {
            self.request_body(stream, &body, true);
        }
        stream
    }

    /// The headers of a request arrive. `is_whole`: it has no body.
    pub fn request_headers(
        &mut self,
        plugin: &Rc<Plugin>,
        request: Request,
        is_whole: bool,
    ) -> StreamId {
        self.next_stream += 1;
        let stream = StreamId(self.next_stream);
        self.vm.streams.borrow_mut().insert(stream, request);
        let host = self.host(stream.0);
        let exchange = self.worker.on_request(&host, plugin, stream, is_whole);
        self.exchanges.insert(stream, exchange);
        self.plugins.insert(stream, Rc::clone(plugin));
        stream
    }

    /// A piece of a request's body arrives. Envoy adds it to what it holds, if it holds the body.
    pub fn request_body(&mut self, stream: StreamId, piece: &[u8], is_last: bool) {
        let (exchange, plugin) = (
            Rc::clone(&self.exchanges[&stream]),
            Rc::clone(&self.plugins[&stream]),
        );
        if exchange.phase() == Phase::Answered || !exchange.reads_request_body() {
            return;
        }
        let shown = {
            let mut streams = self.vm.streams.borrow_mut();
            let Some(request) = streams.get_mut(&stream) else {
                return;
            };
            if exchange.phase() == Phase::Forwarded {
                request.held.clear();
            }
            request.held.extend_from_slice(piece);
            request.held.clone()
        };
        self.vm.shown_request.replace(shown.clone());
        let host = self.host(stream.0);
        self.worker
            .on_request_body(&host, &plugin, stream, &exchange, shown.len(), is_last);
        self.vm.shown_request.take();
    }

    /// The response to a forwarded request passes.
    pub fn response(&mut self, stream: StreamId, status: u16, pieces: &[&str]) {
        let (exchange, plugin) = (
            Rc::clone(&self.exchanges[&stream]),
            Rc::clone(&self.plugins[&stream]),
        );
        let host = self.host(stream.0);
        self.vm.response_status.set(status);
        if exchange.reads_response() {
            self.worker
                .on_response(&host, &plugin, &exchange, pieces.is_empty());
        }
        for (at, piece) in pieces.iter().enumerate() {
            if exchange.reads_response_body() {
                self.vm.shown_response.replace(piece.as_bytes().to_vec());
                let is_last = at + 1 == pieces.len();
                self.worker
                    .on_response_body(&host, &plugin, &exchange, piece.len(), is_last);
                self.vm.shown_response.take();
            }
        }
    }

    /// The requests of a configuration that wait.
    pub fn held_by(&self, gateway: &Rc<Plugin>) -> Vec<StreamId> {
        self.exchanges
            .iter()
            .filter(|(_, exchange)| exchange.phase() == Phase::Held)
            .map(|(stream, _)| *stream)
            .filter(|stream| Rc::ptr_eq(&self.plugins[stream], gateway))
            .collect()
    }

    /// A request arrives; what becomes of it before anything else happens.
    pub fn fate_of(&mut self, gateway: &Rc<Plugin>, request: Request) -> Fate {
        let stream = self.request(gateway, request);
        self.fate(stream)
    }

    pub fn fate(&self, stream: StreamId) -> Fate {
        let streams = self.vm.streams.borrow();
        let request = &streams[&stream];
        match self.exchanges[&stream].phase() {
            Phase::Held => Fate::Held,
            Phase::Answered => {
                let (status, body) = request
                    .reply
                    .clone()
                    .expect("an answered request has a reply");
                Fate::Answered(status, body)
            }
            Phase::Forwarded => {
                assert!(request.reply.is_none(), "a forwarded request has no reply");
                let text = |name| {
                    request
                        .value(name)
                        .map(|v| String::from_utf8(v.to_vec()).unwrap())
                };
                Fate::Forwarded {
                    user_id: text("x-matrix-user-id"),
                    device_id: text("x-matrix-device-id"),
                }
            }
        }
    }

    /// The request as it would reach the homeserver.
    pub fn seen_by_homeserver(&self, stream: StreamId) -> Request {
        assert!(matches!(self.fate(stream), Fate::Forwarded { .. }));
        self.vm.streams.borrow()[&stream].clone()
    }

    /// The client hangs up.
    pub fn hang_up(&mut self, stream: StreamId) {
        self.vm.streams.borrow_mut().remove(&stream);
        self.exchanges.remove(&stream);
        self.plugins.remove(&stream);
        self.worker.on_stream_end(stream);
    }

    pub fn calls(&self) -> Vec<Call> {
        self.vm.calls.borrow().clone()
    }

    /// MAS answers a call with `status` and a JSON body.
    pub fn answer(&mut self, call: CallId, status: u16, body: &str) {
        self.respond(
            call,
            IntrospectionResponse {
                status: Some(status),
                content_type: Some(b"application/json"),
                body: Some(body.as_bytes()),
            },
        );
    }

    /// MAS answers the only call.
    pub fn answer_the_call(&mut self, body: &str) {
        let calls = self.calls();
        assert_eq!(calls.len(), 1, "one call under way");
        self.answer(calls[0].id, 200, body);
    }

    pub fn respond(&mut self, call: CallId, response: IntrospectionResponse<'_>) {
        let root = {
            let mut calls = self.vm.calls.borrow_mut();
            let at = calls
                .iter()
                .position(|under_way| under_way.id == call)
                .expect("under way");
            calls.remove(at).root
        };
        self.worker
            .on_answer(&self.host(root.0), root, call, response);
    }

    /// Envoy never delivers the answer to a call.
    pub fn lose(&self, call: CallId) {
        self.vm
            .calls
            .borrow_mut()
            .retain(|under_way| under_way.id != call);
    }

    /// Calls past their timeout.
    pub fn timed_out(&self) -> Vec<Call> {
        let now = self.process.now();
        let mut calls = self.calls();
        calls.retain(|call| now.since(call.sent_at) >= call.timeout);
        calls
    }

    /// Calls past their timeout are answered by Envoy, and every timer that is set fires once.
    pub fn tick(&mut self) {
        for call in self.timed_out() {
            self.answer(call.id, 504, "upstream request timeout");
        }
        let roots: Vec<RootId> = self.vm.ticking.borrow().keys().copied().collect();
        for root in roots {
            self.worker.on_tick(&self.host(root.0), root);
        }
    }

    /// Envoy calls back for one message that was sent to this worker, if there is one.
    pub fn deliver(&mut self) -> bool {
        let due = {
            let mut queues = self.process.queues.borrow_mut();
            queues
                .iter_mut()
                .enumerate()
                .find(|(_, queue)| queue.worker == self.vm.number && queue.undelivered > 0)
                .map(|(id, queue)| {
                    queue.undelivered -= 1;
                    (QueueId(id as u32), queue.root)
                })
        };
        let Some((queue, root)) = due else {
            return false;
        };
        if self.vm.dropped.borrow().contains(&root) {
            // Envoy skips the callback; the message stays.
            return true;
        }
        self.worker.on_queue(&self.host(root.0), root, queue);
        true
    }

    /// Whether anything that was sent to this worker has not been read.
    pub fn has_mail(&self) -> bool {
        let queues = self.process.queues.borrow();
        let mut own = queues.iter().filter(|queue| queue.worker == self.vm.number);
        own.any(|queue| !queue.messages.is_empty())
    }

    /// How many queues reach this worker.
    pub fn queues(&self) -> usize {
        let queues = self.process.queues.borrow();
        let own = queues.iter().filter(|queue| queue.worker == self.vm.number);
        own.count()
    }

    /// How many answers this worker keeps for itself.
    pub fn local_entries(&self) -> usize {
        self.worker.local_entries()
    }

    /// The callbacks for everything sent to this worker are lost; the messages stay.
    pub fn lose_hints(&mut self) {
        for queue in self.process.queues.borrow_mut().iter_mut() {
            if queue.worker == self.vm.number {
                queue.undelivered = 0;
            }
        }
    }

    /// The VM fails and is loaded anew: everything it held is gone, and nobody is told.
    pub fn reload(&mut self) {
        let process = Rc::clone(&self.process);
        let streams = self.next_stream;
        *self = Self::new(&process);
        self.next_stream = streams;
    }

    /// A configuration's last stream has ended and Envoy drops its root, with its calls and timer.
    pub fn drop_root(&mut self, root: RootId) {
        self.vm.calls.borrow_mut().retain(|call| call.root != root);
        self.vm.ticking.borrow_mut().remove(&root);
        self.vm.dropped.borrow_mut().push(root);
        self.worker.on_root_end(root);
    }

    fn host(&self, context: u32) -> SimulatedHost {
        SimulatedHost {
            process: Rc::clone(&self.process),
            vm: Rc::clone(&self.vm),
            selected: Cell::new(StreamId(context)),
            context,
        }
    }
}

/// The shared data of a process, as any worker sees it.
pub fn store(process: &Rc<Process>) -> impl Store {
    SimulatedHost {
        process: Rc::clone(process),
        vm: Rc::default(),
        selected: Cell::new(StreamId(0)),
        context: 0,
    }
}

/// The host as one callback sees it.
struct SimulatedHost {
    process: Rc<Process>,
    vm: Rc<Vm>,
    selected: Cell<StreamId>,
    /// Whose callback runs: a root or a stream.
    context: u32,
}

impl SimulatedHost {
    fn note(&self, call: impl Into<String>) {
        *self
            .vm
            .host_calls
            .borrow_mut()
            .entry(call.into())
            .or_default() += 1;
    }

    fn with_request<T>(
        &self,
        f: impl FnOnce(&mut Request) -> Result<T, HostError>,
    ) -> Result<T, HostError> {
        let mut streams = self.vm.streams.borrow_mut();
        f(streams.get_mut(&self.selected.get()).ok_or(BAD_ARGUMENT)?)
    }

    fn change_header(&self, change: impl FnOnce(&mut Request)) -> Result<(), HostError> {
        if self.vm.faults.set_header.get() {
            return Err(INTERNAL_FAILURE);
        }
        self.with_request(|request| {
            if request.resumed {
                return Err(BAD_ARGUMENT);
            }
            change(request);
            Ok(())
        })
    }
}

impl Host for SimulatedHost {
    fn now(&self) -> Instant {
        self.note("clock");
        Instant::from_millis(self.process.now.get())
    }

    fn select(&self, stream: StreamId) -> bool {
        self.note("select");
        let alive = self.vm.streams.borrow().contains_key(&stream);
        if alive {
            self.selected.set(stream);
        }
        alive
    }

    fn request_header(&self, name: &str) -> Result<Option<Vec<u8>>, HostError> {
        self.note(format!("get {name}"));
        if self.vm.faults.get_header.get() {
            return Err(INTERNAL_FAILURE);
        }
        self.with_request(|request| {
            let values: Vec<&[u8]> = request
                .headers
                .iter()
                .filter(|(key, _)| key == name)
                .map(|(_, value)| value.as_slice())
                .collect();
            Ok(match (name, values.as_slice()) {
                (_, []) => None,
                ("authorization", values) => Some(values.join(&b',')),
                (_, [first, ..]) => Some(first.to_vec()),
            })
        })
    }

    fn set_request_header(&self, name: &str, value: &[u8]) -> Result<(), HostError> {
        self.note(format!("set {name}"));
        self.change_header(|request| {
            request.headers.retain(|(key, _)| key != name);
            request.headers.push((name.to_owned(), value.to_vec()));
        })
    }

    fn remove_request_header(&self, name: &str) -> Result<(), HostError> {
        self.note(format!("remove {name}"));
        self.change_header(|request| request.headers.retain(|(key, _)| key != name))
    }

    fn remove_request_trailer(&self, _name: &str) -> Result<(), HostError> {
        self.note("remove trailer");
        Ok(())
    }

    fn request_body(&self, max: usize) -> Result<Vec<u8>, HostError> {
        self.note("request body");
        let shown = self.vm.shown_request.borrow();
        Ok(shown[..max.min(shown.len())].to_vec())
    }

    fn response_header(&self, name: &str) -> Result<Option<Vec<u8>>, HostError> {
        self.note(format!("get response {name}"));
        let status = self.vm.response_status.get();
        Ok((name == ":status").then(|| status.to_string().into_bytes()))
    }

    fn response_body(&self, max: usize) -> Result<Vec<u8>, HostError> {
        self.note("response body");
        let shown = self.vm.shown_response.borrow();
        Ok(shown[..max.min(shown.len())].to_vec())
    }

    fn set_filter_state(&self, name: &str, value: &[u8]) -> Result<(), HostError> {
        self.note("filter state");
        self.with_request(|request| {
            request.filter_state.insert(name.to_owned(), value.to_vec());
            Ok(())
        })
    }

    fn respond(&self, reply: &Reply) -> Result<(), HostError> {
        self.note("reply");
        let body = String::from_utf8(reply.body.to_vec()).expect("replies are text");
        self.with_request(|request| {
            assert!(
                request.reply.is_none() && !request.resumed,
                "answered or resumed before"
            );
            request.reply = Some((reply.status, body));
            Ok(())
        })
    }

    fn resume(&self) -> Result<(), HostError> {
        self.note("resume");
        self.with_request(|request| {
            assert!(
                request.reply.is_none() && !request.resumed,
                "answered or resumed before"
            );
            request.resumed = true;
            Ok(())
        })
    }

    fn dispatch(
        &self,
        root: RootId,
        request: &IntrospectionRequest<'_>,
    ) -> Result<CallId, HostError> {
        self.note("dispatch");
        assert!(
            self.context >= FIRST_STREAM || self.context == root.0,
            "the SDK would panic"
        );
        if self.vm.faults.dispatch.get() || self.vm.dropped.borrow().contains(&root) {
            return Err(INTERNAL_FAILURE);
        }
        self.vm.next_call.set(self.vm.next_call.get() + 1);
        let id = CallId(self.vm.next_call.get());
        let owned = |(name, value): (&str, &str)| (name.to_owned(), value.to_owned());
        self.vm.calls.borrow_mut().push(Call {
            id,
            root,
            headers: request.headers().into_iter().map(owned).collect(),
            body: String::from_utf8(request.body().to_vec()).expect("forms are ASCII"),
            sent_at: self.process.now(),
            timeout: request.timeout(),
        });
        Ok(id)
    }

    fn tick_every(&self, root: RootId, period: Option<Duration>) {
        self.note("timer");
        let mut ticking = self.vm.ticking.borrow_mut();
        match period {
            Some(period) => ticking.insert(root, period),
            None => ticking.remove(&root),
        };
    }

    fn source_address(&self) -> Option<Vec<u8>> {
        self.note("source address");
        self.with_request(|request| Ok(request.source.clone())).ok()
    }

    fn register_queue(&self, root: RootId, name: &str) -> Option<QueueId> {
        self.note("register queue");
        let mut queues = self.process.queues.borrow_mut();
        let id = queues
            .iter()
            .position(|queue| queue.name == name)
            .unwrap_or_else(|| {
                queues.push(Queue {
                    name: name.to_owned(),
                    worker: 0,
                    root,
                    messages: VecDeque::new(),
                    undelivered: 0,
                });
                queues.len() - 1
            });
        let queue = queues.get_mut(id)?;
        queue.worker = self.vm.number;
        queue.root = root;
        Some(QueueId(id as u32))
    }

    fn enqueue(&self, queue: QueueId, message: &[u8]) {
        self.note("enqueue");
        let mut queues = self.process.queues.borrow_mut();
        let Some(queue) = queues.get_mut(queue.0 as usize) else {
            // Envoy knows no such queue.
            assert!(
                self.process.planted.borrow().is_some(),
                "a registered queue"
            );
            return;
        };
        queue.messages.push_back(message.to_vec());
        queue.undelivered += 1;
    }

    fn dequeue(&self, queue: QueueId) -> Option<Vec<u8>> {
        self.note("dequeue");
        self.process
            .queues
            .borrow_mut()
            .get_mut(queue.0 as usize)?
            .messages
            .pop_front()
    }

    fn record(&self, metric: Metric, value: i64) {
        self.note("metric");
        *self
            .process
            .metrics
            .borrow_mut()
            .entry(metric.name())
            .or_default() += value;
    }
}

impl Store for SimulatedHost {
    fn read(&self, key: &str) -> Option<Versioned> {
        self.note("read shared data");
        self.process.on_shared_data_call();
        let (value, cas) = self.process.stored(key)?;
        Some(Versioned { value, cas })
    }

    fn write(&self, key: &str, value: &[u8], condition: If) -> Result<(), NotWritten> {
        self.note("write shared data");
        self.process.on_shared_data_call();
        match (self.process.stored(key), condition) {
            (Some(_), If::Absent) => return Err(NotWritten::Changed),
            (Some((_, now)), If::Unchanged(then)) if now != then => {
                return Err(NotWritten::Changed);
            }
            _ => {}
        }
        self.process.cas.set(self.process.cas.get() + 1);
        let mut data = self.process.shared_data.borrow_mut();
        data.insert(key.to_owned(), (value.to_vec(), self.process.cas.get()));
        Ok(())
    }

    fn random(&self) -> u64 {
        let number = self.process.random_numbers.get() + 1;
        self.process.random_numbers.set(number);
        fastrand::Rng::with_seed(number).u64(..)
    }
}
