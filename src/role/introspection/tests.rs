//! The role without Envoy: which requests are held for their form, and the reply that each verdict makes.

use std::time::Duration;

use serde_json::{Value, json};

use super::*;
use crate::{
    cache::ActiveEntry,
    config,
    host::{
        RootId, Streams as _,
        fake::{FakeHost, INTROSPECTION, START},
    },
    mas::introspection::{Answer, ConnectionFault, IntrospectionResponse, NoVerdict},
    role::{exchange::Watch as _, plugin::Plugin},
    token::{TokenDigest, TokenSecret},
};

const ROOT: RootId = RootId(1);
const ACTIVE: &str = r#"{"active":true, "username":"alice"}"#;
const INACTIVE: &str = r#"{"active":false}"#;
const FORMS: [&str; 2] = [
    "token=syt_one&token_type_hint=access_token",
    "token=syt_two&token_type_hint=access_token",
];

/// The configuration of a listener that knows the credential, with these keys in place of others.
fn config(overrides: &Value) -> Config {
    let mut keys = json!({
        "role": "introspection",
        "introspection": {"credential": {"bearer": {"value": "secret"}}},
    });
    if let (Value::Object(keys), Value::Object(overrides)) = (&mut keys, overrides) {
        keys.extend(overrides.clone());
    }
    config::tests::with(keys)
}

/// One listener in one worker. Every request has the same good headers.
struct Listener {
    host: FakeHost,
    plugin: Rc<Plugin>,
    role: Introspection,
    budget: BodyBudget,
    resolver: Resolver<Waiter>,
    streams: u32,
}

impl Listener {
    fn new(overrides: &Value) -> Self {
        let host = FakeHost::default();
        host.headers.replace(INTROSPECTION.into());
        Self {
            host,
            plugin: Rc::new(Plugin::new(ROOT, config(overrides))),
            role: Introspection::default(),
            budget: BodyBudget::default(),
            resolver: Resolver::default(),
            streams: 0,
        }
    }

    /// Takes in the headers of a request.
    fn begin(&mut self, is_whole: bool) -> Rc<Exchange> {
        self.streams += 1;
        let exchange = Rc::new(Exchange::new(&self.plugin, StreamId(self.streams)));
        self.host.select(exchange.stream);
        let cb = Callback::new(&self.host, ROOT);
        self.role
            .on_request_headers(&cb, &self.resolver, &exchange, is_whole, &self.budget);
        exchange
    }

    /// Takes in a piece of its form.
    fn piece(&mut self, exchange: &Rc<Exchange>, form: &'static str, is_last: bool) {
        self.host.body.replace(form);
        let size = form.len();
        let chunk = Chunk { size, is_last };
        let cb = Callback::new(&self.host, ROOT);
        self.role
            .on_request_body(&cb, &mut self.resolver, exchange, chunk);
    }

    /// Takes in a whole request.
    fn ask(&mut self, form: &'static str) -> Rc<Exchange> {
        let exchange = self.begin(false);
        self.piece(&exchange, form, true);
        exchange
    }

    /// MAS answers the oldest call.
    fn answer(&mut self, status: u16, body: &str) {
        let call = self.host.take_oldest_call();
        let response = IntrospectionResponse::json(status, body);
        let cb = Callback::new(&self.host, ROOT);
        self.resolver.on_call_response(&cb, call, response);
        while let Some(resolution) = self.resolver.poll() {
            for (_, waiting) in resolution.waiters {
                self.host.select(waiting.waiter.exchange.stream);
                self.role.finish(&cb, &resolution.found, &waiting.waiter);
            }
        }
    }

    /// Takes in the response of MAS to a request that was passed on.
    fn respond(&mut self, exchange: &Exchange, status: &'static str) {
        self.host.headers.borrow_mut().insert(":status", status);
        let cb = Callback::new(&self.host, ROOT);
        self.role.on_response_headers(&cb, exchange);
    }

    fn calls(&self) -> usize {
        self.host.calls.borrow().len()
    }

    /// The status and body of the replies so far, oldest first.
    fn replies(&self) -> Vec<(u16, String)> {
        let replies = self.host.replies.borrow();
        let shown = |reply: &Reply| {
            let body = String::from_utf8_lossy(&reply.body).into_owned();
            (reply.status, body)
        };
        replies.iter().map(shown).collect()
    }
}

fn is_passed_by(exchange: &Exchange) -> bool {
    exchange.phase() == Phase::Forwarded && !exchange.wants().request_body
}

#[test]
fn a_request_is_held_until_mas_has_answered_and_gets_its_bytes() {
    for body in [ACTIVE, INACTIVE] {
        let mut listener = Listener::new(&json!({}));
        let first = listener.begin(false);
        assert_eq!(first.phase(), Phase::Held);
        assert!(first.wants().request_body);
        listener.piece(&first, "token=", false);
        assert_eq!((first.phase(), listener.calls()), (Phase::Held, 0));
        listener.piece(&first, FORMS[0], true);
        assert_eq!((first.phase(), listener.calls()), (Phase::Held, 1));
        listener.answer(200, body);
        assert_eq!(first.phase(), Phase::Replied);
        let second = listener.ask(FORMS[0]);
        assert_eq!((second.phase(), listener.calls()), (Phase::Replied, 0));
        let reply = (200, body.to_owned());
        assert_eq!(listener.replies(), [reply.clone(), reply]);
        assert!(listener.host.resumed.borrow().is_empty());
    }
}

#[test]
fn a_token_that_cannot_exist_costs_no_call() {
    let mut listener = Listener::new(&json!({}));
    listener.ask("token=mat_damaged&token_type_hint=access_token");
    assert_eq!(listener.calls(), 0);
    assert_eq!(listener.replies(), [(200, INACTIVE.to_owned())]);
    let answered = Metric::Answered(Outcome::InactiveOffline);
    assert_eq!(listener.host.metric(answered), 1);
}

#[test]
fn a_form_that_is_not_understood_goes_to_mas() {
    for form in ["token=syt_one", "x"] {
        let mut listener = Listener::new(&json!({}));
        let exchange = listener.ask(form);
        assert!(is_passed_by(&exchange), "{form}");
        assert_eq!(listener.calls(), 0);
    }
}

/// Envoy has answered it, and shows the rest of its form all the same.
#[test]
fn the_form_of_a_request_that_envoy_has_answered_is_not_read() {
    let mut listener = Listener::new(&json!({}));
    let exchange = listener.begin(false);
    listener.role.cancel(exchange.stream);
    exchange.set_phase(Phase::Replied);
    listener.piece(&exchange, FORMS[0], true);
    assert_eq!((exchange.phase(), listener.calls()), (Phase::Replied, 0));
    assert!(listener.host.resumed.borrow().is_empty());
}

#[test]
fn a_form_that_turns_out_too_long_goes_to_mas_at_once() {
    let mut listener = Listener::new(&json!({}));
    let exchange = listener.begin(false);
    let form = "x".repeat(MAX_FORM_BYTES + 1).leak();
    listener.piece(&exchange, form, false);
    assert!(is_passed_by(&exchange));
}

#[test]
fn a_form_counts_against_the_budget_until_its_request_is_decided() {
    let mut listener = Listener::new(&json!({}));
    let held = listener.begin(false);
    assert_eq!(listener.budget.taken(), 50, "as content-length says");
    listener.piece(&held, FORMS[0], true);
    assert_eq!(held.phase(), Phase::Held);
    assert_eq!(listener.budget.taken(), 50, "Envoy still has it");
    listener.answer(200, ACTIVE);
    assert_eq!(listener.budget.taken(), 0);

    // One that nobody ends, and one of another kind.
    let reset = listener.begin(false);
    drop(reset);
    listener.role.cancel(StreamId(listener.streams));
    assert!(is_passed_by(&listener.ask("token=syt_one")));
    assert_eq!(listener.budget.taken(), 0);
}

#[test]
fn over_the_budget_mas_answers() {
    let mut listener = Listener::new(&json!({}));
    let mut others = Vec::new();
    while let Some(share) = listener.budget.take(50_000) {
        others.push(share);
    }
    while let Some(share) = listener.budget.take(50) {
        others.push(share);
    }
    let exchange = listener.begin(false);
    assert!(is_passed_by(&exchange));
    others.pop();
    assert_eq!(listener.begin(false).phase(), Phase::Held);
}

#[test]
fn what_is_not_the_homeservers_question_is_let_alone() {
    let shadow = json!({"mode": "shadow"});
    for (name, overrides, is_whole, header) in [
        ("no body", json!({}), true, (":method", "POST")),
        ("shadow", shadow, false, (":method", "POST")),
        ("another method", json!({}), false, (":method", "GET")),
        (
            "another caller",
            json!({}),
            false,
            ("authorization", "Bearer other"),
        ),
    ] {
        let mut listener = Listener::new(&overrides);
        listener.host.headers.borrow_mut().extend([header]);
        let exchange = listener.begin(is_whole);
        assert!(is_passed_by(&exchange), "{name}");
    }
}

#[test]
fn a_caller_that_the_module_does_not_know_must_be_answered_by_mas_first() {
    let injected = json!({
        "introspection": {"cluster": "mas", "credential": {"injected": true}},
    });
    for (form, status, is_accepted) in [
        (FORMS[0], "200", true),
        (FORMS[0], "401", false),
        (FORMS[0], "500", false),
        // MAS answers this one, and it says nothing of who may introspect.
        ("token=syt_one", "200", false),
    ] {
        let mut listener = Listener::new(&injected);
        let first = listener.begin(false);
        assert_eq!(first.phase(), Phase::Forwarded);
        assert!(first.wants().request_body);
        // In two pieces: Envoy ends an HTTP/1.1 body with an empty one.
        listener.piece(&first, form, false);
        listener.piece(&first, "", true);
        listener.respond(&first, status);
        let second = listener.begin(false);
        let expected = if is_accepted {
            Phase::Held
        } else {
            Phase::Forwarded
        };
        assert_eq!(second.phase(), expected, "{form} {status}");
        assert_eq!(listener.calls(), 0, "it was never asked in its place");
    }
}

#[test]
fn the_homeserver_is_never_cut_off_by_the_cap_on_calls() {
    let mut listener = Listener::new(&json!({
        "introspection": {
            "cluster": "mas",
            "credential": {"bearer": {"value": "secret"}},
            "max_in_flight": 1,
        },
    }));
    listener.ask(FORMS[0]);
    let over = listener.ask(FORMS[1]);
    assert_eq!(listener.calls(), 1);
    assert!(is_passed_by(&over), "MAS answers itself");
    assert_eq!(listener.replies(), []);
    let passed_on = Metric::Answered(Outcome::NotAsked);
    assert_eq!(listener.host.metric(passed_on), 1);
}

#[test]
fn a_call_that_fails_ends_in_a_503_or_at_mas() {
    for (on_failure, expected) in [("reject", Phase::Replied), ("pass", Phase::Forwarded)] {
        let overrides = json!({"on_introspection_failure": on_failure});
        let mut listener = Listener::new(&overrides);
        let held = listener.ask(FORMS[0]);
        listener.answer(500, "");
        assert_eq!(held.phase(), expected);
        let is_resumed = *listener.host.resumed.borrow() == [held.stream];
        assert_eq!(is_resumed, on_failure == "pass", "it was held");

        let mut listener = Listener::new(&overrides);
        listener.host.is_unreachable.set(true);
        let not_held = listener.ask(FORMS[0]);
        assert_eq!(not_held.phase(), expected);
        assert!(listener.host.resumed.borrow().is_empty());
        let statuses = listener.replies().into_iter().map(|(status, _)| status);
        let expected: &[u16] = if on_failure == "pass" { &[] } else { &[503] };
        assert!(statuses.eq(expected.iter().copied()));
    }
}

/// All reasons for no verdict, and whether MAS is left to answer itself whatever the configuration says.
#[test]
fn each_verdict_makes_its_reply() {
    let retry_after_ms = 1;
    for (why, is_passed_on) in [
        (NoVerdict::Undeliverable, false),
        (NoVerdict::Reset, false),
        (NoVerdict::Status(500), false),
        (NoVerdict::UnknownCluster, false),
        (NoVerdict::Unreachable(ConnectionFault::Other), false),
        (NoVerdict::Timeout, false),
        (NoVerdict::NotJson, false),
        (NoVerdict::Oversized, false),
        (NoVerdict::Malformed, false),
        (NoVerdict::Lost, false),
        (NoVerdict::Elsewhere, false),
        (NoVerdict::Overloaded, true),
        (NoVerdict::TokenTooLong, true),
        (NoVerdict::Outdated, true),
        (NoVerdict::OverBudget { retry_after_ms }, true),
    ] {
        for (on_failure, passes) in [("reject", is_passed_on), ("pass", true)] {
            let config = config(&json!({"on_introspection_failure": on_failure}));
            let reply = reply(&config, &Verdict::None(why), Instant::default());
            let expected = (!passes).then(request::unavailable);
            assert_eq!(reply, expected, "{why:?} {on_failure}");
        }
    }
    let now = Instant::from_millis(1_000);
    let Ok(Answer::Active(answer)) = Answer::parse(ACTIVE.into()) else {
        panic!("{ACTIVE} is active");
    };
    let entry = ActiveEntry {
        digest: TokenDigest::of(b"token"),
        user: None,
        answer,
        expiry: None,
        asked_at: now,
        fresh_until: now + Duration::from_secs(1),
        refresh_at: None,
    };
    let config = config(&json!({}));
    let active = reply(&config, &Verdict::Active(Box::new(entry)), now);
    assert_eq!(active, Some(request::reply(ACTIVE.into())));
    let inactive = Verdict::Inactive(InactiveAnswer::default());
    let inactive = reply(&config, &inactive, now);
    assert_eq!(inactive, Some(request::reply(INACTIVE.into())));
}

#[test]
fn a_request_whose_form_does_not_come_goes_to_mas_after_a_moment() {
    let mut listener = Listener::new(&json!({}));
    let waits = listener.begin(false);
    let ended = listener.begin(false);
    listener.role.cancel(ended.stream);
    listener.host.advance(Duration::from_secs(1));
    let cb = Callback::new(&listener.host, ROOT);
    listener.role.on_tick(&cb);
    assert_eq!(waits.phase(), Phase::Forwarded);
    assert_eq!(listener.budget.taken(), 50, "of the other one only");
    listener.piece(&waits, FORMS[0], false);
    assert!(is_passed_by(&waits));
    assert_eq!(*listener.host.resumed.borrow(), [waits.stream]);
}

#[test]
fn later_callbacks_are_asked_for_only_while_something_is_watched_for() {
    let caller = || {
        let plugin = Plugin::new(ROOT, config(&json!({})));
        CallerKey::of(&plugin.upstream, TokenSecret::NONE, b"Bearer secret")
    };
    let share = BodyBudget::default().take(1).unwrap();
    for (watch, body, response) in [
        (Watch::Nothing, false, false),
        (Watch::HeldForBody(share, 0), true, false),
        (Watch::Released(START), true, false),
        (
            Watch::Unauthenticated(caller(), Box::default()),
            true,
            false,
        ),
        (Watch::Matched(caller()), false, true),
        (Watch::GrpcReply(431), false, true),
    ] {
        let found = watch.wants();
        assert_eq!(found.request_body, body, "{watch:?}");
        assert_eq!(found.response_headers, response, "{watch:?}");
        assert!(!found.stream_end, "{watch:?}");
    }
}
