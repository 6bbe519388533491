//! One worker of a simulated Envoy: it calls the real core back as Envoy does, in Envoy's order.
//!
//! Every callback into the core is made here.

use std::{cell::Cell, collections::BTreeMap, rc::Rc, time::Duration};

use matrix_edge_auth::{
    host::{CallId, ResponseOrigin, RootId, StreamId},
    mas::introspection::IntrospectionResponse,
    resolver::{RETRY_TICK, TICK},
    worker::{AnyExchange, Chunk, Phase, Plugin, Worker},
};

use super::{
    Call, Fate, Faults, Process, Request,
    host::{FIRST_STREAM, SimulatedHost},
    vm::Vm,
};

/// One worker: a VM with its streams, calls and timers.
pub struct SimulatedWorker {
    pub process: Rc<Process>,
    vm: Rc<Vm>,
    worker: Worker,
    exchanges: BTreeMap<StreamId, AnyExchange>,
    plugins: BTreeMap<StreamId, Rc<Plugin>>,
    /// Configurations, each of a root of its own.
    configured: BTreeMap<RootId, Rc<Plugin>>,
    next_stream: u32,
}

/// What happens: each of these leads to callbacks into the core.
impl SimulatedWorker {
    pub fn new(process: &Rc<Process>) -> Self {
        Self {
            process: Rc::clone(process),
            vm: Rc::new(Vm {
                number: process.add_worker(),
                ..Vm::default()
            }),
            worker: Worker::new(|| process.random()),
            exchanges: BTreeMap::new(),
            plugins: BTreeMap::new(),
            configured: BTreeMap::new(),
            next_stream: FIRST_STREAM,
        }
    }

    /// Envoy hands a configuration over, before its first request.
    pub fn configure(&mut self, plugin: &Rc<Plugin>) {
        self.configured.insert(plugin.root, Rc::clone(plugin));
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

    /// The headers of a request arrive. With `is_whole` it has no body.
    pub fn request_headers(
        &mut self,
        plugin: &Rc<Plugin>,
        request: Request,
        is_whole: bool,
    ) -> StreamId {
        self.configure(plugin);
        self.next_stream += 1;
        let stream = StreamId(self.next_stream);
        self.vm.streams.borrow_mut().insert(stream, request);
        let host = self.host(stream.0);
        self.process.configure(&host, &plugin.config);
        let exchange = self
            .worker
            .on_request_headers(&host, plugin, stream, is_whole);
        self.exchanges.insert(stream, exchange);
        self.plugins.insert(stream, Rc::clone(plugin));
        self.run_hurried_timers();
        stream
    }

    /// A piece of a request's body arrives. Envoy adds it to what it holds, if it holds the body.
    pub fn request_body(&mut self, stream: StreamId, piece: &[u8], is_last: bool) {
        let exchange = self.exchanges[&stream].clone();
        if exchange.phase() == Phase::Replied {
            return;
        }
        let shown = {
            let mut streams = self.vm.streams.borrow_mut();
            let Some(request) = streams.get_mut(&stream) else {
                return;
            };
            if exchange.phase() == Phase::Forwarded {
                request.buffered.clear();
            }
            request.buffered.extend_from_slice(piece);
            request.buffered.clone()
        };
        self.vm.shown_request.replace(shown.clone());
        let host = self.host(stream.0);
        let chunk = Chunk {
            size: shown.len(),
            is_last,
        };
        self.worker.on_request_body(&host, &exchange, chunk);
        self.vm.shown_request.take();
    }

    /// The trailers of a request arrive, and end it. Envoy shows what it holds of the body.
    pub fn request_trailers(&mut self, stream: StreamId, trailers: &[(&str, &str)]) {
        if let Some(request) = self.vm.streams.borrow_mut().get_mut(&stream) {
            let owned =
                |(name, value): &(&str, &str)| ((*name).to_owned(), value.as_bytes().to_vec());
            request.trailers = trailers.iter().map(owned).collect();
            self.vm.shown_request.replace(request.buffered.clone());
        }
        let host = self.host(stream.0);
        let plugin = Rc::clone(&self.plugins[&stream]);
        let exchange = self
            .exchanges
            .get_mut(&stream)
            .expect("the request has begun");
        self.worker
            .on_request_trailers(&host, &plugin, stream, exchange);
        self.vm.shown_request.take();
    }

    /// The headers of the response to a forwarded request pass. The core sees nothing else of it.
    pub fn response(&mut self, stream: StreamId, status: u16) {
        self.response_of(stream, status, ResponseOrigin::Upstream);
    }

    /// Envoy itself answers a forwarded request, and no upstream has had it.
    pub fn local_response(&mut self, stream: StreamId, status: u16) {
        self.response_of(stream, status, ResponseOrigin::Unsent);
    }

    /// Envoy itself answers a forwarded request: an upstream may have had it.
    pub fn lost_response(&mut self, stream: StreamId, status: u16) {
        self.response_of(stream, status, ResponseOrigin::Lost);
    }

    /// Envoy sends the module's reply to a request, and has made 200 of it if the request calls itself gRPC. Returns the status that
    /// the client gets.
    pub fn reply_status(&mut self, stream: StreamId) -> u16 {
        let is_grpc = self.vm.streams.borrow()[&stream].is_grpc_reply();
        let status = self.fate(stream).status();
        let status = status.filter(|_| !is_grpc).unwrap_or(200);
        self.local_response(stream, status);
        self.vm.response_status.get()
    }

    fn response_of(&mut self, stream: StreamId, status: u16, origin: ResponseOrigin) {
        let exchange = self.exchanges[&stream].clone();
        self.vm.response_status.set(status);
        self.vm.response_origin.set(origin);
        self.worker
            .on_response_headers(&self.host(stream.0), stream, &exchange);
    }

    /// The client hangs up.
    pub fn hang_up(&mut self, stream: StreamId) {
        self.vm.streams.borrow_mut().remove(&stream);
        let exchange = self.exchanges.remove(&stream);
        self.plugins.remove(&stream);
        let host = self.host(stream.0);
        if let Some(exchange) = &exchange {
            self.worker.on_stream_end(&host, stream, exchange);
        }
    }

    /// MAS answers a call with `status` and a JSON body.
    pub fn answer(&mut self, call: CallId, status: u16, body: &str) {
        self.respond(
            call,
            IntrospectionResponse {
                status: Some(status),
                content_type: Some(b"application/json"),
                lifetime: None,
                body: Some(body.as_bytes().into()),
            },
        );
    }

    /// MAS answers the only call with 200 and `body`.
    pub fn answer_only_call(&mut self, body: &str) {
        let calls = self.calls();
        assert_eq!(calls.len(), 1, "one call under way");
        self.answer(calls[0].id, 200, body);
    }

    /// MAS answers every call with 200 and `body`.
    pub fn answer_all(&mut self, body: &str) {
        for call in self.calls() {
            self.answer(call.id, 200, body);
        }
    }

    /// MAS answers a call. The body is read as Envoy's would be.
    pub fn respond(&mut self, call: CallId, response: IntrospectionResponse<'_>) {
        let root = {
            let mut calls = self.vm.calls.borrow_mut();
            let at = calls
                .iter()
                .position(|under_way| under_way.id == call)
                .expect("under way");
            calls.remove(at).root
        };
        let body = response.body.and_then(|body| {
            let bodies = self.worker.bodies();
            let (body, _share) = bodies.read_answer(body.len(), || Some(body))?;
            Some(body)
        });
        let response = IntrospectionResponse { body, ..response };
        self.worker
            .on_call_response(&self.host(root.0), root, call, response);
        self.run_hurried_timers();
    }

    /// Envoy never delivers the answer to a call.
    pub fn drop_call(&self, call: CallId) {
        self.vm
            .calls
            .borrow_mut()
            .retain(|under_way| under_way.id != call);
    }

    /// Calls past their timeout are answered by Envoy, and every timer that is set fires once.
    pub fn tick(&mut self) {
        for call in self.timed_out() {
            self.answer(call.id, 504, "upstream request timeout");
        }
        let roots: Vec<RootId> = self.vm.ticking.borrow().keys().copied().collect();
        for root in roots {
            self.tick_of(root);
        }
        self.run_hurried_timers();
    }

    /// Time passes while the timers fire when they should.
    pub fn tick_for(&mut self, mut time: Duration) {
        while !time.is_zero() {
            let piece = time.min(TICK);
            time -= piece;
            self.process.advance(piece);
            self.tick();
        }
    }

    /// Envoy calls back for one message that was sent to this worker, if there is one.
    pub fn deliver(&mut self) -> bool {
        let mut queues = self.process.queues.borrow_mut();
        let callback = queues.take_callback(self.vm.number);
        drop(queues);
        let Some((queue, root)) = callback else {
            return false;
        };
        if self.vm.dropped.borrow().contains(&root) {
            // Envoy skips the callback; the message stays.
            return true;
        }
        self.worker.on_queue(&self.host(root.0), root, queue);
        self.run_hurried_timers();
        true
    }

    /// The callbacks for everything sent to this worker are lost; the messages stay.
    pub fn drop_hints(&mut self) {
        let mut queues = self.process.queues.borrow_mut();
        queues.drop_callbacks(self.vm.number);
    }

    /// The VM fails and is loaded anew: everything it held is gone, and no callback says so.
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
        self.configured.remove(&root);
        let another = self.configured.values().next().cloned();
        let host = self.host(root.0);
        self.worker.on_root_end(&host, root, || another);
    }

    /// The timer of a root fires.
    fn tick_of(&mut self, root: RootId) {
        let plugin = Rc::clone(&self.configured[&root]);
        self.worker.on_tick(&self.host(root.0), &plugin);
    }

    fn host(&self, context: u32) -> SimulatedHost {
        SimulatedHost {
            process: Rc::clone(&self.process),
            vm: Rc::clone(&self.vm),
            selected: Cell::new(StreamId(context)),
            context,
            ended: Cell::new(0),
        }
    }

    /// Timers that were set to fire at once fire, until none is.
    fn run_hurried_timers(&mut self) {
        while !self.vm.faults.late_timers.get() {
            let hurried = {
                let ticking = self.vm.ticking.borrow();
                let mut hurried = ticking.iter().filter(|(_, period)| **period < RETRY_TICK);
                hurried.next().map(|(root, _)| *root)
            };
            let Some(root) = hurried else {
                return;
            };
            self.tick_of(root);
        }
    }
}

/// What has become of it.
impl SimulatedWorker {
    /// A request arrives. Returns what becomes of it before anything else happens.
    pub fn send(&mut self, plugin: &Rc<Plugin>, request: Request) -> Fate {
        let stream = self.request(plugin, request);
        self.fate(stream)
    }

    /// Returns how many roots have a timer.
    pub fn timers(&self) -> usize {
        self.vm.ticking.borrow().len()
    }

    pub fn fate(&self, stream: StreamId) -> Fate {
        let streams = self.vm.streams.borrow();
        let request = &streams[&stream];
        match self.exchanges[&stream].phase() {
            Phase::Held => Fate::Held,
            Phase::Ended => panic!("a stream that has ended is nobody's"),
            Phase::Replied => {
                let (status, body) = request
                    .reply
                    .clone()
                    .expect("an answered request has a reply");
                Fate::Replied(status, body)
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

    /// Returns a header of the reply that answered a request, if it has one.
    pub fn reply_header(&self, stream: StreamId, name: &str) -> Option<String> {
        let streams = self.vm.streams.borrow();
        let headers = &streams[&stream].reply_headers;
        let header = headers.iter().find(|(header, _)| header == name);
        header.map(|(_, value)| value.clone())
    }

    /// Returns the request as it would reach the homeserver.
    pub fn seen_by_homeserver(&self, stream: StreamId) -> Request {
        assert!(matches!(self.fate(stream), Fate::Forwarded { .. }));
        self.vm.streams.borrow()[&stream].clone()
    }

    /// Returns the configuration of a stream.
    pub fn plugin_of(&self, stream: StreamId) -> Rc<Plugin> {
        Rc::clone(&self.plugins[&stream])
    }

    /// Returns the requests of a configuration that wait.
    pub fn held_by(&self, plugin: &Rc<Plugin>) -> Vec<StreamId> {
        self.exchanges
            .iter()
            .filter(|(_, exchange)| exchange.phase() == Phase::Held)
            .map(|(stream, _)| *stream)
            .filter(|stream| Rc::ptr_eq(&self.plugins[stream], plugin))
            .collect()
    }

    pub fn calls(&self) -> Vec<Call> {
        self.vm.calls.borrow().clone()
    }

    /// Returns the calls past their timeout.
    pub fn timed_out(&self) -> Vec<Call> {
        let now = self.process.now();
        let mut calls = self.calls();
        calls.retain(|call| now.since(call.sent_at) >= call.timeout);
        calls
    }

    /// Returns whether anything that was sent to this worker has not been read.
    pub fn has_messages(&self) -> bool {
        self.process.queues.borrow().messages_of(self.vm.number) > 0
    }

    /// Returns how many queues reach this worker.
    pub fn queues(&self) -> usize {
        self.process.queues.borrow().count_of(self.vm.number)
    }

    /// Returns how many entries the worker's local cache has.
    pub fn local_entries(&self) -> usize {
        self.worker.local_entries()
    }

    /// Returns how many bytes of bodies the worker has in memory.
    pub fn body_bytes(&self) -> usize {
        self.worker.bodies().taken()
    }

    /// Returns the host calls made so far, by kind.
    pub fn host_calls(&self) -> BTreeMap<String, u64> {
        self.vm.host_calls.borrow().clone()
    }

    pub fn faults(&self) -> &Faults {
        &self.vm.faults
    }
}
