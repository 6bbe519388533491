//! The host as one callback of the core sees it.
//!
//! It keeps Envoy's awkward rules: the headers of a resumed request can no longer be touched, a stream that
//! has gone cannot be selected, and a call goes when its root goes.

use std::{cell::Cell, rc::Rc, time::Duration};

use matrix_edge_auth::{
    clock::Instant,
    host::{
        CallId, Fields, HostError, HttpCall, If, Metrics, NotSent, NotWritten, QueueId,
        RequestHead, ResponseOrigin, RootId, Runtime, Store, StreamId, Streams, Unreadable,
        Versioned,
    },
    matrix::reply::Reply,
    metrics::Metric,
};

use super::{Call, Process, Request, vm::Vm};

/// The status for "not in this phase", as Envoy gives it.
const BAD_ARGUMENT: HostError = HostError(2);
const INTERNAL_FAILURE: HostError = HostError(10);

const AUTHORIZATION: &str = "authorization";

/// Envoy carries them out after the callback, each from within the one before: a thousand are more than the stack takes.
const MAX_ENDED: usize = 256;

/// The only cluster that this Envoy does not know.
pub const UNKNOWN_CLUSTER: &str = "nowhere";

/// Context ids of streams begin here, those of roots end.
pub(super) const FIRST_STREAM: u32 = 1_000;

/// Fields as Envoy hands them over: it joins those of `authorization`.
fn fields(fields: &[(String, Vec<u8>)]) -> Fields {
    let values = fields.iter().filter(|(name, _)| name == AUTHORIZATION);
    let values: Vec<&[u8]> = values.map(|(_, value)| &**value).collect();
    let joined = values.join(&b',');
    let first = fields.iter().position(|(name, _)| name == AUTHORIZATION);
    let shown =
        fields
            .iter()
            .enumerate()
            .filter_map(|(at, (name, value))| match name == AUTHORIZATION {
                true if Some(at) == first => Some((AUTHORIZATION, &*joined)),
                true => None,
                false => Some((&**name, &**value)),
            });
    Fields::of(shown)
}

/// The shared data of a process, as any worker sees it.
pub fn store(process: &Rc<Process>) -> impl Store {
    SimulatedHost {
        process: Rc::clone(process),
        vm: Rc::default(),
        selected: Cell::new(StreamId(0)),
        context: 0,
        ended: Cell::new(0),
    }
}

/// The host as one callback sees it.
pub(super) struct SimulatedHost {
    pub process: Rc<Process>,
    pub vm: Rc<Vm>,
    pub selected: Cell<StreamId>,
    /// Whose callback runs: a root or a stream.
    pub context: u32,
    /// Replies and resumptions that the callback has asked for.
    pub ended: Cell<usize>,
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

    fn is_out_of_reach(&self, key: &[u8]) -> bool {
        let part = self.vm.faults.shared_data.get();
        part.is_some_and(|part| name(key).contains(part))
    }

    fn note_end(&self) {
        let is_own = self.selected.get() == StreamId(self.context);
        assert!(
            self.context < FIRST_STREAM || is_own,
            "a reply inside a callback of another stream stops that"
        );
        self.ended.set(self.ended.get() + 1);
        assert!(
            self.ended.get() <= MAX_ENDED,
            "the VM's stack would overflow"
        );
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

impl Streams for SimulatedHost {
    fn select(&self, stream: StreamId) -> bool {
        self.note("select");
        // Envoy keeps a stream that has ended for a moment and lets it be selected, and whatever is done to it then breaks Envoy.
        let is_alive = self.vm.streams.borrow().contains_key(&stream);
        assert!(is_alive, "{stream:?} has ended before it is selected");
        self.selected.set(stream);
        true
    }

    fn request_head(&self) -> Result<RequestHead, HostError> {
        self.note("get head");
        if self.vm.faults.get_header.get() {
            return Err(INTERNAL_FAILURE);
        }
        self.with_request(|request| Ok(RequestHead::new(fields(&request.headers))))
    }

    fn request_trailers(&self) -> Result<Fields, HostError> {
        self.note("get trailers");
        if self.vm.faults.trailers.get() {
            return Err(INTERNAL_FAILURE);
        }
        self.with_request(|request| Ok(fields(&request.trailers)))
    }

    fn add_request_header(&self, name: &str, value: &[u8]) -> Result<(), HostError> {
        self.note(format!("add {name}"));
        self.change_header(|request| request.headers.push((name.to_owned(), value.to_vec())))
    }

    fn remove_request_header(&self, name: &str) -> Result<(), HostError> {
        self.note(format!("remove {name}"));
        self.change_header(|request| request.headers.retain(|(key, _)| key != name))
    }

    fn remove_request_trailer(&self, name: &str) -> Result<(), HostError> {
        self.note("remove trailer");
        if self.vm.faults.trailers.get() {
            return Err(INTERNAL_FAILURE);
        }
        self.with_request(|request| {
            request.trailers.retain(|(key, _)| key != name);
            Ok(())
        })
    }

    fn request_body(&self, start: usize, max: usize) -> Result<Vec<u8>, HostError> {
        self.note("request body");
        let shown = self.vm.shown_request.borrow();
        Ok(shown.iter().skip(start).take(max).copied().collect())
    }

    fn response_header(&self, name: &str) -> Result<Option<Vec<u8>>, HostError> {
        self.note(format!("get response {name}"));
        if name == ":status" && self.vm.faults.get_header.get() {
            return Err(INTERNAL_FAILURE);
        }
        let status = self.vm.response_status.get();
        if name == "grpc-status" {
            return self.with_request(|request| Ok(request.is_grpc_reply().then(|| b"2".to_vec())));
        }
        Ok((name == ":status").then(|| status.to_string().into_bytes()))
    }

    fn response_origin(&self) -> ResponseOrigin {
        self.note("response code details");
        self.vm.response_origin.get()
    }

    fn set_response_status(&self, status: u16) -> Result<(), HostError> {
        self.note("set response :status");
        self.vm.response_status.set(status);
        Ok(())
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
        self.note_end();
        let body = String::from_utf8(reply.body.to_vec()).expect("replies are text");
        self.with_request(|request| {
            assert!(
                request.reply.is_none() && !request.resumed,
                "answered or resumed before"
            );
            request.reply = Some((reply.status, body));
            let headers = reply.headers.iter();
            request.reply_headers = headers
                .map(|(name, value)| ((*name).to_owned(), value.to_string()))
                .collect();
            Ok(())
        })
    }

    fn resume(&self) -> Result<(), HostError> {
        self.note("resume");
        self.note_end();
        self.with_request(|request| {
            assert!(
                request.reply.is_none() && !request.resumed,
                "answered or resumed before"
            );
            request.resumed = true;
            Ok(())
        })
    }

    fn route_cluster(&self) -> Option<Vec<u8>> {
        self.note("route cluster");
        self.with_request(|request| Ok(request.cluster.clone()))
            .ok()
            .flatten()
    }

    fn source_address(&self) -> Option<Vec<u8>> {
        self.note("source address");
        self.with_request(|request| Ok(request.source.clone())).ok()
    }
}

impl Runtime for SimulatedHost {
    fn now(&self) -> Instant {
        self.note("clock");
        self.process.now()
    }

    fn dispatch(&self, root: RootId, call: HttpCall<'_>) -> Result<CallId, NotSent> {
        self.note("dispatch");
        assert!(
            self.context >= FIRST_STREAM || self.context == root.0,
            "roots make no calls for each other"
        );
        if self.vm.faults.dispatch.get() || self.vm.dropped.borrow().contains(&root) {
            return Err(NotSent::Refused);
        }
        if call.cluster == UNKNOWN_CLUSTER {
            return Err(NotSent::UnknownCluster);
        }
        self.vm.next_call.set(self.vm.next_call.get() + 1);
        let id = CallId(self.vm.next_call.get());
        let headers = Fields::parse(call.headers.to_vec()).expect("they are whole");
        let owned =
            |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("headers of a call are text");
        self.vm.calls.borrow_mut().push(Call {
            id,
            root,
            headers: headers
                .iter()
                .map(|(name, value)| (owned(name), owned(value)))
                .collect(),
            body: String::from_utf8(call.body.to_vec()).expect("forms are ASCII"),
            sent_at: self.process.now(),
            timeout: call.timeout,
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

    fn register_queue(&self, root: RootId, name: &str) -> Option<QueueId> {
        self.note("register queue");
        let mut queues = self.process.queues.borrow_mut();
        Some(queues.register(name, self.vm.number, root))
    }

    fn enqueue(&self, queue: QueueId, message: &[u8]) {
        self.note("enqueue");
        let is_registered = self.process.queues.borrow_mut().send(queue, message);
        assert!(
            is_registered || self.process.has_planted(),
            "a registered queue"
        );
    }

    fn dequeue(&self, queue: QueueId) -> Option<Vec<u8>> {
        self.note("dequeue");
        self.process.queues.borrow_mut().receive(queue)
    }
}

impl Metrics for SimulatedHost {
    fn define(&self, metric: Metric) {
        self.process.define(metric);
    }

    fn record(&self, metric: Metric, value: u64) {
        self.note("metric");
        self.process.record(metric, value);
    }
}

impl Store for SimulatedHost {
    fn try_read(&self, key: &[u8]) -> Result<Option<Versioned>, Unreadable> {
        self.note("read shared data");
        if self.is_out_of_reach(key) {
            return Err(Unreadable);
        }
        Ok(self.process.read(&name(key)))
    }

    fn write(&self, key: &[u8], value: &[u8], condition: If) -> Result<(), NotWritten> {
        self.note("write shared data");
        let part = self.vm.faults.writing.get();
        if self.is_out_of_reach(key) || part.is_some_and(|part| name(key).contains(part)) {
            return Err(NotWritten::Refused);
        }
        self.process.write(&name(key), value, condition)
    }

    fn random(&self) -> u64 {
        self.process.random()
    }
}

/// Returns a key as text. Some end in bytes that are none.
fn name(key: &[u8]) -> String {
    key.escape_ascii().to_string()
}
