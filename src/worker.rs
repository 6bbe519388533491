//! One Envoy worker: hands each callback to the role of its listener, and each resolution to the role whose
//! request waited. It decides nothing itself.
//!
//! A worker lives as long as its VM and serves every plugin configuration loaded into it, whatever its role.

use alloc::rc::Rc;

mod timers;

use self::timers::{HURRIED_TICK, Timers};
use crate::{
    clock::millis,
    config::Role,
    host::{CallId, Callback, Host, QueueId, RootId, StreamId},
    mas::introspection::IntrospectionResponse,
    metrics::Metric,
    resolver::{RETRY_TICK, Resolution, Resolver, WaiterId},
    role::{
        body::BodyBudget,
        exchange::{Exchange, Wants},
        gateway::{self, Gateway},
        introspection::{self, Introspection},
        provisioning::{self, Provisioning},
    },
};

pub use crate::role::{
    exchange::{Chunk, Phase},
    plugin::Plugin,
};

/// An exchange of any role. It has one role for life.
#[derive(Clone, Debug)]
pub enum AnyExchange {
    /// Of a gateway that has let the request go on and watches for nothing.
    Passed,
    /// Of a gateway.
    Gateway(Rc<gateway::Exchange>),
    /// Of the introspection role.
    Introspection(Rc<introspection::Exchange>),
    /// Of the provisioning role.
    Provisioning(Rc<provisioning::Exchange>),
}

impl AnyExchange {
    /// Returns how far the request has come.
    pub fn phase(&self) -> Phase {
        match self {
            Self::Passed => Phase::Forwarded,
            Self::Gateway(exchange) => exchange.phase(),
            Self::Introspection(exchange) => exchange.phase(),
            Self::Provisioning(exchange) => exchange.phase(),
        }
    }

    /// Notes how far the request has come.
    fn set_phase(&self, phase: Phase) {
        match self {
            Self::Passed => {}
            Self::Gateway(exchange) => exchange.set_phase(phase),
            Self::Introspection(exchange) => exchange.set_phase(phase),
            Self::Provisioning(exchange) => exchange.set_phase(phase),
        }
    }

    /// Returns which later callbacks are needed.
    #[inline]
    pub fn wants(&self) -> Wants {
        match self {
            Self::Passed => Wants::default(),
            Self::Gateway(exchange) => exchange.wants(),
            Self::Introspection(exchange) => exchange.wants(),
            Self::Provisioning(exchange) => exchange.wants(),
        }
    }

    /// Returns the root of the exchange's configuration. `None`: the request has passed, and the exchange was not kept.
    fn root(&self) -> Option<RootId> {
        match self {
            Self::Passed => None,
            Self::Gateway(exchange) => Some(exchange.plugin.root),
            Self::Introspection(exchange) => Some(exchange.plugin.root),
            Self::Provisioning(exchange) => Some(exchange.plugin.root),
        }
    }
}

/// A request of any role that waits for a resolution.
#[derive(Debug)]
enum Waiter {
    Gateway(gateway::Waiter),
    Introspection(introspection::Waiter),
}

impl Waiter {
    /// Returns whether the request still waits. It may have ended since it was resolved: by its client, by its trailers, or by a
    /// response of Envoy's own.
    fn is_held(&self) -> bool {
        let phase = match self {
            Self::Gateway(waiter) => waiter.phase(),
            Self::Introspection(waiter) => waiter.phase(),
        };
        phase == Phase::Held
    }
}

impl From<gateway::Waiter> for Waiter {
    fn from(waiter: gateway::Waiter) -> Self {
        Self::Gateway(waiter)
    }
}

impl From<introspection::Waiter> for Waiter {
    fn from(waiter: introspection::Waiter) -> Self {
        Self::Introspection(waiter)
    }
}

/// Holds that one callback ends at the most because of resolutions. A tick ends as many more whose form has not come
/// (`role/introspection/awaiting_body.rs`), so 128 in all.
///
/// Envoy replies to them after the callback, and calls the module back for the headers of each reply. At the end of
/// that call it goes on to the next reply, so replies are nested in each other, and a thousand are more than the
/// stack of the VM takes.
const MAX_FINISHED: usize = 64;

/// The state of one worker's VM.
#[derive(Debug)]
pub struct Worker {
    resolver: Resolver<Waiter>,
    gateway: Gateway,
    introspection: Introspection,
    provisioning: Provisioning,
    bodies: BodyBudget,
    timers: Timers,
}

impl Worker {
    /// Before its first request. `random` makes numbers that no client knows.
    pub fn new(random: impl FnMut() -> u64) -> Self {
        Self {
            resolver: Resolver::default(),
            gateway: Gateway::new(random),
            introspection: Introspection::default(),
            provisioning: Provisioning::default(),
            bodies: BodyBudget::default(),
            timers: Timers::default(),
        }
    }

    /// Takes in the headers of a request: answers it, lets it go on, or holds it. `is_whole`: it has no body.
    #[inline]
    pub fn on_request_headers(
        &mut self,
        host: &impl Host,
        plugin: &Rc<Plugin>,
        stream: StreamId,
        is_whole: bool,
    ) -> AnyExchange {
        if !self.timers.run(plugin.root) {
            self.start(host, plugin);
        }
        let cb = Callback::new(host, plugin.root);
        match plugin.config.role {
            Role::Gateway => {
                let begin = || Rc::new(Exchange::new(plugin, stream));
                let resolver = &mut self.resolver;
                let exchange = self
                    .gateway
                    .on_request_headers(&cb, resolver, plugin, begin);
                exchange.map_or(AnyExchange::Passed, AnyExchange::Gateway)
            }
            Role::Introspection => {
                let resolver = &self.resolver;
                let exchange = Rc::new(Exchange::new(plugin, stream));
                self.introspection.on_request_headers(
                    &cb,
                    resolver,
                    &exchange,
                    is_whole,
                    &self.bodies,
                );
                AnyExchange::Introspection(exchange)
            }
            Role::Provisioning => {
                let exchange = Rc::new(Exchange::new(plugin, stream));
                self.provisioning
                    .on_request_headers(&cb, &exchange, is_whole, &self.bodies);
                AnyExchange::Provisioning(exchange)
            }
        }
    }

    /// Takes in a piece of a request's body, if the exchange wants it.
    pub fn on_request_body(&mut self, host: &impl Host, exchange: &AnyExchange, chunk: Chunk) {
        let Some(root) = exchange.root().filter(|_| exchange.wants().request_body) else {
            return;
        };
        let cb = Callback::new(host, root);
        let resolver = &mut self.resolver;
        match exchange {
            AnyExchange::Passed => {}
            AnyExchange::Gateway(exchange) => self.gateway.on_request_body(&cb, exchange, chunk),
            AnyExchange::Introspection(exchange) => {
                self.introspection
                    .on_request_body(&cb, resolver, exchange, chunk);
            }
            AnyExchange::Provisioning(exchange) => {
                self.provisioning
                    .on_request_body(&cb, resolver, exchange, chunk);
            }
        }
    }

    /// Takes in the trailers of a request. They go on if the request does. A request that has gone on may still be answered
    /// because of its trailers.
    pub fn on_request_trailers(
        &mut self,
        host: &impl Host,
        plugin: &Rc<Plugin>,
        stream: StreamId,
        exchange: &mut AnyExchange,
    ) {
        if let AnyExchange::Passed = exchange {
            let passed = Exchange::new(plugin, stream);
            passed.set_phase(Phase::Forwarded);
            *exchange = AnyExchange::Gateway(Rc::new(passed));
        }
        // The body has ended without a last piece.
        let end = Chunk {
            size: 0,
            is_last: true,
        };
        self.on_request_body(host, exchange, end);
        let cb = Callback::new(host, plugin.root);
        let resolver = &mut self.resolver;
        match exchange {
            AnyExchange::Passed => {}
            AnyExchange::Gateway(exchange) => {
                self.gateway.on_request_trailers(&cb, resolver, exchange);
            }
            AnyExchange::Introspection(exchange) => {
                self.introspection.on_request_trailers(&cb, exchange);
            }
            AnyExchange::Provisioning(exchange) => {
                self.provisioning.on_request_trailers(&cb, exchange);
            }
        }
    }

    /// Takes in the headers of a response, if the exchange wants them.
    ///
    /// A response to a request that is held is Envoy's own, such as that to a stream which was silent for too long. Its body may be
    /// on its way for a while, and a second response would break it off. So the request is not decided any more.
    pub fn on_response_headers(
        &mut self,
        host: &impl Host,
        stream: StreamId,
        exchange: &AnyExchange,
    ) {
        if exchange.phase() == Phase::Held {
            self.cancel(stream);
            exchange.set_phase(Phase::Replied);
            return;
        }
        let Some(root) = exchange
            .root()
            .filter(|_| exchange.wants().response_headers)
        else {
            return;
        };
        let cb = Callback::new(host, root);
        let resolver = &mut self.resolver;
        match exchange {
            AnyExchange::Passed => {}
            AnyExchange::Gateway(exchange) => {
                self.gateway.on_response_headers(&cb, resolver, exchange);
            }
            AnyExchange::Introspection(exchange) => {
                self.introspection.on_response_headers(&cb, exchange);
            }
            AnyExchange::Provisioning(exchange) => {
                self.provisioning
                    .on_response_headers(&cb, resolver, exchange);
            }
        }
    }

    /// Notes that a stream has ended, whatever it waited for.
    pub fn on_stream_end(&mut self, host: &impl Host, stream: StreamId, exchange: &AnyExchange) {
        // Nothing else waits: most streams have gone on long before.
        if exchange.phase() == Phase::Held {
            self.cancel(stream);
        }
        self.learn_from_stream_end(host, exchange);
        exchange.set_phase(Phase::Ended);
    }

    /// Forgets a request that is held.
    fn cancel(&mut self, stream: StreamId) {
        self.resolver.cancel(stream);
        self.introspection.cancel(stream);
    }

    fn learn_from_stream_end(&mut self, host: &impl Host, exchange: &AnyExchange) {
        let Some(root) = exchange.root().filter(|_| exchange.wants().stream_end) else {
            return;
        };
        let cb = Callback::new(host, root);
        let resolver = &mut self.resolver;
        match exchange {
            AnyExchange::Gateway(exchange) => self.gateway.on_stream_end(&cb, resolver, exchange),
            AnyExchange::Passed | AnyExchange::Introspection(_) => {}
            AnyExchange::Provisioning(exchange) => {
                self.provisioning.on_stream_end(&cb, resolver, exchange);
            }
        }
    }

    /// Notes that a root context has ended. If its timer was the last one, one of the others gets a timer, whether it has had
    /// a request or not, since ends of sessions may still wait for a tick (`gateway/ends.rs`). `another` returns one that has a
    /// configuration. Without any the VM goes.
    pub fn on_root_end(
        &mut self,
        host: &impl Host,
        root: RootId,
        another: impl FnOnce() -> Option<Rc<Plugin>>,
    ) {
        self.resolver.on_root_end(root);
        self.gateway.on_root_end(root);
        if self.timers.stop(host, root) && self.timers.are_none() {
            match another() {
                Some(another) => self.start(host, &another),
                None => {
                    self.gateway.leave(host);
                    self.resolver.rest();
                }
            }
        }
    }

    /// Takes in the response to `call`, one of `root`.
    pub fn on_call_response(
        &mut self,
        host: &impl Host,
        root: RootId,
        call: CallId,
        response: IntrospectionResponse<'_>,
    ) {
        let cb = Callback::new(host, root);
        self.resolver.on_call_response(&cb, call, response);
        if self.finish_resolved(&cb) {
            self.timers.hurry(&cb, HURRIED_TICK);
        } else if self.resolver.has_retries() {
            self.timers.hurry(&cb, RETRY_TICK);
        }
    }

    /// Takes in the messages of a shared queue of `root`.
    pub fn on_queue(&mut self, host: &impl Host, root: RootId, queue: QueueId) {
        let cb = Callback::new(host, root);
        self.resolver.on_queue(&cb, queue);
        if self.finish_resolved(&cb) {
            self.timers.hurry(&cb, HURRIED_TICK);
        }
    }

    /// Takes in a tick of the root of `plugin`.
    pub fn on_tick(&mut self, host: &impl Host, plugin: &Rc<Plugin>) {
        let cb = Callback::new(host, plugin.root);
        plugin.route_watch.on_tick();
        self.resolver.on_tick(&cb);
        self.gateway.on_tick(&cb, &mut self.resolver);
        self.gateway.take_over(&cb, &mut self.resolver, plugin);
        // Both, whatever the first says.
        let is_left = self.introspection.on_tick(&cb) | self.finish_resolved(&cb);
        if is_left {
            self.timers.hurry(&cb, HURRIED_TICK);
        } else if !self.resolver.has_retries() {
            self.timers.slow_down(host);
        }
    }

    /// Returns what this worker has in memory of bodies.
    pub fn bodies(&self) -> &BodyBudget {
        &self.bodies
    }

    /// Returns how many grants this worker keeps for itself.
    pub fn local_entries(&self) -> usize {
        self.gateway.local_entries()
    }

    /// Starts the timer of a root context. Its first request must not be decided by what other VMs have left to end.
    fn start(&mut self, host: &impl Host, plugin: &Rc<Plugin>) {
        self.timers.note(plugin.root);
        self.gateway.start(plugin);
        let cb = Callback::new(host, plugin.root);
        self.resolver.start(&cb);
        self.gateway.take_over(&cb, &mut self.resolver, plugin);
    }

    /// Ends the holds whose resolution has come: as many as one callback may end. Returns whether some are left, which are to end
    /// soon.
    ///
    /// Call it in callbacks of roots only. A reply to one stream inside a callback of another stops that other, and
    /// callbacks of responses may be nested in replies.
    fn finish_resolved<H: Host>(&mut self, cb: &Callback<'_, H>) -> bool {
        let mut finished = 0;
        while let Some(Resolution { found, mut waiters }) = self.resolver.poll() {
            while let Some((id, waiting)) = waiters.pop_first() {
                if finished == MAX_FINISHED {
                    waiters.insert(id, waiting);
                    self.resolver.put_back(Resolution { found, waiters });
                    return true;
                }
                if let WaiterId::Held(stream) = id {
                    if !waiting.waiter.is_held() || !cb.host.select(stream) {
                        continue;
                    }
                    let held = cb.now().since(waiting.since);
                    cb.host.record(Metric::HeldMillis, millis(held));
                }
                finished += 1;
                match waiting.waiter {
                    Waiter::Gateway(waiter) => self.gateway.finish(cb, &found, waiter),
                    Waiter::Introspection(waiter) => self.introspection.finish(cb, &found, &waiter),
                }
            }
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::{Value, json};

    use super::*;
    use crate::{
        config,
        host::fake::{FakeHost, INTROSPECTION},
        resolver::TICK,
    };

    fn plugin(keys: Value) -> Rc<Plugin> {
        Rc::new(Plugin::new(RootId(1), config::tests::with(keys)))
    }

    /// The introspection role, to which requests of the homeserver come.
    fn introspection(host: &FakeHost) -> Rc<Plugin> {
        host.headers.replace(INTROSPECTION.into());
        plugin(json!({
            "role": "introspection",
            "introspection": {"credential": {"bearer": {"value": "secret"}}},
        }))
    }

    /// The homeserver asks, and MAS is asked.
    fn ask(worker: &mut Worker, host: &FakeHost, plugin: &Rc<Plugin>) {
        let asked = worker.on_request_headers(host, plugin, StreamId(1000), false);
        let form = "token=syt_one&token_type_hint=access_token";
        host.body.replace(form);
        let chunk = Chunk {
            size: form.len(),
            is_last: true,
        };
        worker.on_request_body(host, &asked, chunk);
    }

    #[test]
    fn a_tick_comes_soon_for_a_call_that_is_to_be_repeated_and_then_as_usual() {
        let host = FakeHost::default();
        let plugin = introspection(&host);
        let mut worker = Worker::new(|| 7);
        ask(&mut worker, &host, &plugin);
        let closed = "upstream connect error or disconnect/reset before headers";
        let response = IntrospectionResponse::json(503, closed);
        worker.on_call_response(&host, RootId(1), host.take_oldest_call(), response);
        assert_eq!(host.period.get(), Some(RETRY_TICK));
        // That of another root.
        worker.on_tick(&host, &plugin);
        assert_eq!(host.period.get(), Some(RETRY_TICK));
        host.advance(RETRY_TICK);
        worker.on_tick(&host, &plugin);
        assert_eq!(host.period.get(), Some(TICK));
        let response = IntrospectionResponse::json(200, r#"{"active":false}"#);
        worker.on_call_response(&host, RootId(1), host.take_oldest_call(), response);
        assert_eq!(host.period.get(), Some(TICK));
    }

    #[test]
    fn an_answer_does_not_slow_down_a_tick_that_is_hurried_for_others() {
        let host = FakeHost::default();
        let plugin = introspection(&host);
        let mut worker = Worker::new(|| 7);
        // One that has come whole and waits for MAS.
        ask(&mut worker, &host, &plugin);
        let call = host.take_oldest_call();
        // More than one tick passes on, whose forms do not come.
        for stream in 0..200 {
            worker.on_request_headers(&host, &plugin, StreamId(stream), false);
        }
        host.advance(Duration::from_secs(1));
        worker.on_tick(&host, &plugin);
        assert!(host.resumed.borrow().len() < 200);
        assert_eq!(host.period.get(), Some(HURRIED_TICK));
        let response = IntrospectionResponse::json(200, r#"{"active":false}"#);
        worker.on_call_response(&host, RootId(1), call, response);
        assert_eq!(host.period.get(), Some(HURRIED_TICK), "some still wait");
        for _ in 0..4 {
            worker.on_tick(&host, &plugin);
        }
        assert_eq!(host.resumed.borrow().len(), 200);
        assert_eq!(host.period.get(), Some(TICK));
    }

    #[test]
    fn a_root_leaves_no_timer_behind() {
        let host = FakeHost::default();
        let plugin = plugin(json!({}));
        let mut worker = Worker::new(|| 7);
        worker.on_request_headers(&host, &plugin, StreamId(1000), true);
        assert_eq!(host.period.get(), Some(TICK));
        worker.on_root_end(&host, plugin.root, || None);
        assert_eq!(host.period.get(), None);
    }

    /// A token that no cache knows reads the clock, which must not count as time in which a route can change.
    #[test]
    fn one_route_is_looked_at_between_two_ticks() {
        let host = FakeHost::default();
        let plugin = plugin(json!({}));
        let mut worker = Worker::new(|| 7);
        let mut streams = (1..).map(StreamId);
        let mut send = |worker: &mut Worker, path: &'static str, authorization: &'static str| {
            let headers = [
                (":method", "GET"),
                (":path", path),
                ("authorization", authorization),
            ];
            host.headers.replace(headers.into());
            let stream = streams.next().expect("there is no end of numbers");
            worker.on_request_headers(&host, &plugin, stream, true);
        };
        let (whoami, federation) = (
            "/_matrix/client/v3/account/whoami",
            "/_matrix/federation/v1/version",
        );
        for bearer in ["Bearer syt_a", "Bearer syt_b", "Bearer syt_c"] {
            host.advance(Duration::from_millis(1));
            send(&mut worker, whoami, bearer);
            send(&mut worker, federation, "");
        }
        assert_eq!(host.routes_looked_at.get(), 1);
        worker.on_tick(&host, &plugin);
        send(&mut worker, federation, "");
        assert_eq!(host.routes_looked_at.get(), 2);
    }
}
