//! Introspection requests that are held until their form has come.
//!
//! The non-obvious rule: a request goes on by itself only if nothing of its form has come. If a piece of a body
//! was held and the request is resumed, Envoy before 1.39 drops what comes of the body afterwards. So a form that has
//! begun is waited for, for as long as Envoy lets a stream be silent (`stream_idle_timeout`): MAS could not answer half
//! of it either.

use alloc::rc::Rc;
use core::time::Duration;

use super::watch::{Exchange, Watch};
use crate::{
    clock::Instant,
    host::{Callback, Host, StreamId},
    maps::sorted::SortedMap,
    metrics::{Metric, Outcome},
    role::exchange::Phase,
};

/// How long a request is held for a first piece of its body before it is passed on as it is.
const BODY_TIMEOUT: Duration = Duration::from_secs(1);

/// Requests that may be held at once in one worker.
const MAX_REQUESTS: usize = 16_384;

/// Requests that one tick lets go on at the most. Where the cluster refuses them, Envoy's replies are nested in each
/// other, and a thousand are more than the stack of the VM takes.
const MAX_RELEASED: usize = 64;

/// What comes of a form within this time after its request was passed on had come before: Envoy had it and did not
/// show it.
const AT_ONCE: Duration = Duration::from_millis(10);

/// The requests.
#[derive(Debug, Default)]
pub struct AwaitingBody {
    streams: SortedMap<StreamId, Request>,
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

    /// Passes on the requests that have waited too long, and of which nothing has come. They are watched a little longer,
    /// to see why. Returns whether some are left, which are to be passed on soon.
    pub fn release_expired<H: Host>(&mut self, cb: &Callback<'_, H>) -> bool {
        let now = cb.now();
        let mut released = 0;
        let mut is_left = false;
        self.streams.retain(|stream, request| {
            let is_due = !request.has_body && now >= request.since + BODY_TIMEOUT;
            if !is_due || released == MAX_RELEASED {
                is_left |= is_due;
                return true;
            }
            released += 1;
            if cb.host.select(*stream) {
                request.exchange.set_watch(Watch::Released(now));
                request.exchange.set_phase(Phase::Forwarded);
                cb.host.count(Metric::Answered(Outcome::NotAsked));
                request.exchange.resume_forwarded(cb.host);
            }
            false
        });
        is_left
    }

    /// Notes the first piece of a form whose request was passed on at the moment `released_at` without one. A client may
    /// be slow, and then the piece comes at any time. If it comes at once, Envoy had it all the while.
    pub fn suspect_listener<H: Host>(&mut self, cb: &Callback<'_, H>, released_at: Instant) {
        if cb.now().since(released_at) < AT_ONCE && !core::mem::replace(&mut self.has_warned, true)
        {
            log::error!(
                "no body came with an introspection request, which goes on to MAS: set \
                 allow_on_headers_stop_iteration in the plugin configuration of this listener"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::{
        config,
        host::{RootId, Runtime as _, fake::FakeHost},
        role::{body::BodyBudget, plugin::Plugin},
    };

    const ROOT: RootId = RootId(1);

    fn plugin() -> Rc<Plugin> {
        let config = config::tests::with(json!({"role": "introspection"}));
        Rc::new(Plugin::new(ROOT, config))
    }

    /// A request that is held for its form.
    fn held(plugin: &Rc<Plugin>, stream: u32) -> Rc<Exchange> {
        let exchange = Rc::new(Exchange::new(plugin, StreamId(stream)));
        let share = BodyBudget::default().take(1).unwrap();
        exchange.set_watch(Watch::HeldForBody(share, 0));
        exchange
    }

    fn release(awaiting: &mut AwaitingBody, host: &FakeHost) -> bool {
        let cb = Callback::new(host, ROOT);
        awaiting.release_expired(&cb)
    }

    #[test]
    fn each_request_is_passed_on_once_when_its_time_is_over() {
        let (host, plugin) = (FakeHost::default(), plugin());
        let mut awaiting = AwaitingBody::default();
        let early = held(&plugin, 1);
        assert!(awaiting.insert(&early, host.now()));
        host.advance(BODY_TIMEOUT / 2);
        let late = held(&plugin, 2);
        assert!(awaiting.insert(&late, host.now()));
        host.advance(BODY_TIMEOUT / 2 - Duration::from_millis(1));
        release(&mut awaiting, &host);
        assert_eq!(early.phase(), Phase::Held);
        host.advance(Duration::from_millis(1));
        for _ in 0..2 {
            release(&mut awaiting, &host);
            assert_eq!(early.phase(), Phase::Forwarded);
            assert_eq!(late.phase(), Phase::Held);
            assert_eq!(*host.resumed.borrow(), [early.stream]);
            assert_eq!(host.metric(Metric::Answered(Outcome::NotAsked)), 1);
        }
    }

    #[test]
    fn a_request_whose_form_came_or_whose_stream_ended_is_let_alone() {
        let (host, plugin) = (FakeHost::default(), plugin());
        let mut awaiting = AwaitingBody::default();
        let (whole, gone) = (held(&plugin, 1), held(&plugin, 2));
        awaiting.insert(&whole, host.now());
        awaiting.insert(&gone, host.now());
        awaiting.remove(whole.stream);
        host.ended.borrow_mut().insert(gone.stream);
        host.advance(BODY_TIMEOUT);
        release(&mut awaiting, &host);
        assert_eq!(whole.phase(), Phase::Held, "its question decides it");
        assert!(host.resumed.borrow().is_empty());
        assert_eq!(host.metric(Metric::Answered(Outcome::NotAsked)), 0);
        assert!(awaiting.streams.is_empty());
    }

    #[test]
    fn a_form_that_has_begun_is_waited_for() {
        let (host, plugin) = (FakeHost::default(), plugin());
        let mut awaiting = AwaitingBody::default();
        let slow = held(&plugin, 1);
        awaiting.insert(&slow, host.now());
        awaiting.note_piece(slow.stream);
        host.advance(10 * BODY_TIMEOUT);
        release(&mut awaiting, &host);
        assert_eq!(slow.phase(), Phase::Held);
        assert!(host.resumed.borrow().is_empty());
    }

    #[test]
    fn the_listener_is_suspected_only_if_envoy_had_the_form() {
        let (host, plugin) = (FakeHost::default(), plugin());
        let mut awaiting = AwaitingBody::default();
        for (delay, warns) in [(AT_ONCE, false), (AT_ONCE - Duration::from_millis(1), true)] {
            let exchange = held(&plugin, 1);
            awaiting.insert(&exchange, host.now());
            host.advance(BODY_TIMEOUT);
            release(&mut awaiting, &host);
            host.advance(delay);
            let Watch::Released(at) = exchange.take_watch() else {
                panic!("it is watched a little longer");
            };
            let cb = Callback::new(&host, ROOT);
            awaiting.suspect_listener(&cb, at);
            assert_eq!(awaiting.has_warned, warns, "{delay:?}");
        }
    }

    /// Each reply is nested in another one.
    #[test]
    fn one_tick_passes_on_so_many_and_asks_for_another() {
        let (host, plugin) = (FakeHost::default(), plugin());
        let mut awaiting = AwaitingBody::default();
        for stream in 0..=MAX_RELEASED as u32 {
            awaiting.insert(&held(&plugin, stream), host.now());
        }
        for (delay, is_left, resumed) in [
            (Duration::ZERO, false, 0),
            (BODY_TIMEOUT, true, MAX_RELEASED),
            (Duration::ZERO, false, MAX_RELEASED + 1),
        ] {
            host.advance(delay);
            assert_eq!(release(&mut awaiting, &host), is_left);
            assert_eq!(host.resumed.borrow().len(), resumed);
        }
    }

    #[test]
    fn held_requests_are_bounded() {
        let (host, plugin) = (FakeHost::default(), plugin());
        let mut awaiting = AwaitingBody::default();
        for stream in 0..MAX_REQUESTS as u32 {
            assert!(awaiting.insert(&held(&plugin, stream), host.now()));
        }
        let surplus = held(&plugin, u32::MAX);
        assert!(!awaiting.insert(&surplus, host.now()));
        awaiting.remove(StreamId(0));
        assert!(awaiting.insert(&surplus, host.now()));
    }
}
