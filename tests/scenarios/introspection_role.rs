//! The introspection role: the homeserver asks MAS, and the cache answers with MAS's own words.

use std::{rc::Rc, time::Duration};

use matrix_edge_auth::worker::Plugin;
use serde_json::{Value, json};

use crate::{
    ALICE, INACTIVE, active, not_active,
    simulated::{Fate, Process, Request, SimulatedWorker, gateway, plugin},
    whoami,
};

/// Members in no order of ours, one that nobody knows, and spaces.
const ANSWER: &str = r#"{"active":true, "new":{"expires_in":1},"username":"alice","expires_in":300,"scope":"urn:matrix:client:api:*","exp":1795460505}"#;

fn role(overrides: Value) -> Rc<Plugin> {
    plugin(2, "introspection", overrides)
}

fn headers() -> Request {
    Request::new("POST", "/oauth2/introspect")
        .header("accept", "application/json")
        .header("content-type", "application/x-www-form-urlencoded")
        .header("x-mas-supports-device-id", "1")
}

fn form(token: &str) -> String {
    format!("token={token}&token_type_hint=access_token")
}

/// The headers of the request that Synapse sends: its form comes later.
fn announced(token: &str) -> Request {
    let length = form(token).len().to_string();
    headers().bearer("secret").header("content-length", length)
}

/// The request that Synapse sends.
fn introspect(token: &str) -> Request {
    headers().bearer("secret").body(form(token))
}

fn answered(body: &str) -> Fate {
    Fate::Answered(200, body.to_owned())
}

fn expiring(seconds: u64) -> String {
    ANSWER.replace(":300", &format!(":{seconds}"))
}

fn passed_on() -> Fate {
    Fate::forwarded_unannotated()
}

/// Workers that hold MAS's answer about alice.
fn workers(process: &Rc<Process>) -> [SimulatedWorker; 2] {
    workers_of(process, &role(json!({})))
}

/// The same, kept by this configuration.
fn workers_of(process: &Rc<Process>, role: &Rc<Plugin>) -> [SimulatedWorker; 2] {
    let mut workers = [(); 2].map(|()| SimulatedWorker::new(process));
    let stream = workers[0].request(role, introspect(ALICE));
    assert_eq!(workers[0].fate(stream), Fate::Held);
    workers[0].answer_the_call(ANSWER);
    assert_eq!(workers[0].fate(stream), answered(ANSWER), "MAS's own bytes");
    workers
}

#[test]
fn the_gateway_and_the_homeserver_share_one_call() {
    let process = Process::new();
    let (gateway, role) = (gateway(1, json!({})), role(json!({})));
    for first in 0..2 {
        let mut workers = [
            SimulatedWorker::new(&process),
            SimulatedWorker::new(&process),
        ];
        let token = [ALICE, crate::BOB][first];
        let mut client = None;
        let mut homeserver = None;
        for turn in 0..2 {
            if turn == first {
                client = Some(workers[0].request(&gateway, whoami(token)));
            } else {
                homeserver = Some(workers[0].request(&role, introspect(token)));
            }
        }
        let elsewhere = workers[1].request(&role, introspect(token));
        workers[0].answer_the_call(ANSWER);
        while workers[1].deliver() {}
        let alice = Fate::forwarded_as("@alice:example.org");
        assert_eq!(workers[0].fate(client.unwrap()), alice);
        assert_eq!(workers[0].fate(homeserver.unwrap()), answered(ANSWER));
        assert_eq!(workers[1].fate(elsewhere), answered(ANSWER));
        assert!(workers[1].calls().is_empty());
        for worker in &mut workers {
            assert_eq!(worker.fate_of(&gateway, whoami(token)), alice);
            assert_eq!(worker.fate_of(&role, introspect(token)), answered(ANSWER));
        }
    }
}

#[test]
fn expires_in_is_lowered_by_the_age_and_nothing_else_changes() {
    let process = Process::new();
    let role = role(json!({"cache": {"ttl": "1h", "refresh_ahead": false}}));
    let mut workers = workers_of(&process, &role);
    let mut age = 0;
    for (at, left) in [(1, 299), (1_000, 299), (1_001, 298), (298_900, 1)] {
        process.advance(Duration::from_millis(at - age));
        age = at;
        for worker in &mut workers {
            let fate = worker.fate_of(&role, introspect(ALICE));
            assert_eq!(fate, answered(&expiring(left)), "after {at} ms");
        }
    }
}

#[test]
fn near_the_end_mas_answers_and_after_it_the_token_is_inactive() {
    let process = Process::new();
    let role = role(json!({"cache": {"ttl": "1h", "refresh_ahead": false}}));
    let mut workers = workers_of(&process, &role);
    process.advance(Duration::from_millis(299_500));
    assert_eq!(workers[0].fate_of(&role, introspect(ALICE)), passed_on());
    process.advance(Duration::from_millis(1_500));
    assert_eq!(
        workers[0].fate_of(&role, introspect(ALICE)),
        answered(INACTIVE)
    );
}

#[test]
fn tokens_that_cannot_exist_are_inactive_without_a_call() {
    let process = Process::new();
    let mut worker = SimulatedWorker::new(&process);
    for token in [
        "mat_x",
        "mar_x",
        "mat_Z9zA8yB7xC6wD5vE4uF3tG2sH1rI0q_0lFrY2",
        "syr_x",
    ] {
        let fate = worker.fate_of(&role(json!({})), introspect(token));
        assert_eq!(fate, answered(INACTIVE), "{token}");
    }
    assert!(worker.calls().is_empty());
}

#[test]
fn what_differs_from_synapses_request_is_for_mas_to_answer() {
    let process = Process::new();
    let role = role(json!({}));
    let [mut worker, _] = workers(&process);
    let with = |name: &str, value: &str| {
        let mut request = introspect(ALICE);
        request.headers.retain(|(header, _)| header != name);
        request.header(name, value)
    };
    let without = |name: &str| {
        let mut request = introspect(ALICE);
        request.headers.retain(|(header, _)| header != name);
        request
    };
    for request in [
        with(":method", "PUT"),
        with(":path", "/oauth2/introspect/"),
        with(":path", "/oauth2/introspect?x=y"),
        with(":path", "/.well-known/openid-configuration"),
        with(":path", "/oauth2/token"),
        with("authorization", "Bearer wrong"),
        with("authorization", "Basic c2VjcmV0"),
        with("content-type", "application/json"),
        with("content-length", "65537"),
        with("x-mas-supports-device-id", "0"),
        without("authorization"),
        without("content-type"),
        // Chunked: nobody knows how long it will be.
        without("content-length"),
        without("x-mas-supports-device-id"),
        headers().bearer("secret"),
        headers().bearer("secret").body(format!("token={ALICE}")),
        headers()
            .bearer("secret")
            .body(format!("token={ALICE}&token_type_hint=refresh_token")),
        headers()
            .bearer("secret")
            .body(form(ALICE) + "&client_id=x&client_secret=y"),
        headers().bearer("secret").body(form("a%00b")),
        headers().bearer("secret").body(form("%C3%A9")),
        headers().bearer("secret").body(form(&"x".repeat(70_000))),
    ] {
        let shown = format!("{:?}", request.headers);
        assert_eq!(worker.fate_of(&role, request), passed_on(), "{shown}");
    }
    assert_eq!(worker.fate_of(&role, introspect(ALICE)), answered(ANSWER));
    assert!(worker.calls().is_empty());
}

#[test]
fn the_form_may_come_in_pieces() {
    let process = Process::new();
    let role = role(json!({}));
    let [mut worker, _] = workers(&process);
    let stream = worker.request_headers(&role, announced(ALICE), false);
    for piece in form(ALICE).as_bytes().chunks(10) {
        assert_eq!(worker.fate(stream), Fate::Held);
        worker.request_body(stream, piece, false);
    }
    worker.request_body(stream, b"", true);
    assert_eq!(worker.fate(stream), answered(ANSWER));
    // Longer than it was announced, which Envoy does not let happen: passed on as soon as that is known.
    let stream = worker.request_headers(&role, announced(ALICE), false);
    worker.request_body(stream, &[b'x'; 40_000], false);
    assert_eq!(worker.fate(stream), Fate::Held);
    worker.request_body(stream, &[b'x'; 40_000], false);
    assert_eq!(worker.fate(stream), passed_on());
}

#[test]
fn a_request_whose_body_never_comes_is_passed_on() {
    let process = Process::new();
    let role = role(json!({}));
    let mut worker = SimulatedWorker::new(&process);
    let stream = worker.request_headers(&role, announced(ALICE), false);
    let gone = worker.request_headers(&role, announced(ALICE), false);
    worker.hang_up(gone);
    process.advance(Duration::from_millis(900));
    worker.tick();
    assert_eq!(worker.fate(stream), Fate::Held);
    process.advance(Duration::from_millis(200));
    worker.tick();
    assert_eq!(worker.fate(stream), passed_on());
    worker.request_body(stream, form(ALICE).as_bytes(), true);
    assert_eq!(worker.fate(stream), passed_on());
}

#[test]
fn a_caller_of_an_injected_credential_must_have_been_answered_by_mas() {
    let process = Process::new();
    let role = role(json!({"introspection": {"credential": {"injected": true}}}));
    let [mut worker, _] = workers(&process);
    let caller = |secret: &str| headers().bearer(secret).body(form(ALICE));
    for status in [401, 400, 500, 503] {
        let stream = worker.request(&role, caller("hers"));
        assert_eq!(worker.fate(stream), passed_on());
        worker.response(stream, status, &["{}"]);
    }
    // Of another form: what MAS says to it proves nothing.
    let stream = worker.request(&role, headers().bearer("hers").body("token=x"));
    worker.response(stream, 200, &[INACTIVE]);
    // Envoy shows a form that passes in pieces, of which the last may be empty.
    let hers = headers().bearer("hers").header("content-length", "100");
    let stream = worker.request_headers(&role, hers, false);
    for piece in form(ALICE).as_bytes().chunks(30) {
        worker.request_body(stream, piece, false);
    }
    worker.request_body(stream, b"", true);
    assert_eq!(worker.fate(stream), passed_on());
    worker.response(stream, 200, &[ANSWER]);
    assert_eq!(worker.fate_of(&role, caller("hers")), answered(ANSWER));
    assert_eq!(worker.fate_of(&role, caller("theirs")), passed_on());
    assert_eq!(worker.fate_of(&role, caller("Hers")), passed_on());
    process.advance(Duration::from_secs(301));
    let stream = worker.request(&role, caller("hers"));
    assert_eq!(worker.fate(stream), passed_on(), "it must be proved again");
    worker.response(stream, 401, &["{}"]);
    assert_eq!(worker.fate_of(&role, caller("hers")), passed_on());
}

/// As Envoy delivers an HTTP/1 body: its end comes with an empty piece.
#[test]
fn the_form_that_proves_a_caller_may_come_in_pieces() {
    let process = Process::new();
    let role = role(json!({"introspection": {"credential": {"injected": true}}}));
    let [mut worker, _] = workers(&process);
    let mut passes = |form: &str| {
        let length = form.len().to_string();
        let hers = headers().bearer("hers").header("content-length", length);
        let stream = worker.request_headers(&role, hers, false);
        for piece in form.as_bytes().chunks(30) {
            worker.request_body(stream, piece, false);
        }
        worker.request_body(stream, b"", true);
        let is_passed = worker.fate(stream) == passed_on();
        worker.response(stream, 200, &[ANSWER]);
        is_passed
    };
    let exact = form(ALICE);
    assert!(passes(&(exact.clone() + "&client_id=x")));
    assert!(passes(&exact), "another form has proved nothing");
    assert!(!passes(&exact));
}

#[test]
fn without_a_verdict_there_is_no_word_of_the_token() {
    for (overrides, expected) in [
        (
            json!({}),
            Fate::Answered(
                503,
                r#"{"error":"temporarily_unavailable","error_description":"Unable to introspect the token"}"#.into(),
            ),
        ),
        (json!({"on_introspection_failure": "pass"}), passed_on()),
    ] {
        let process = Process::new();
        let mut worker = SimulatedWorker::new(&process);
        let role = role(overrides);
        let stream = worker.request(&role, introspect(ALICE));
        let call = worker.calls()[0].id;
        worker.answer(call, 500, "{}");
        assert_eq!(worker.fate(stream), expected);
        // Not kept.
        let stream = worker.request(&role, introspect(ALICE));
        worker.answer_the_call(ANSWER);
        assert_eq!(worker.fate(stream), answered(ANSWER));
    }
}

#[test]
fn a_stale_answer_serves_the_homeserver_too() {
    let process = Process::new();
    let mut worker = SimulatedWorker::new(&process);
    let role =
        role(json!({"cache": {"ttl": "10s", "stale_if_error": "1m", "refresh_ahead": false}}));
    worker.request(&role, introspect(ALICE));
    worker.answer_the_call(ANSWER);
    process.advance(Duration::from_secs(20));
    let stream = worker.request(&role, introspect(ALICE));
    let call = worker.calls()[0].id;
    worker.answer(call, 500, "{}");
    assert_eq!(worker.fate(stream), answered(&expiring(280)));
    // MAS has failed: nobody waits for it again.
    assert_eq!(
        worker.fate_of(&role, introspect(ALICE)),
        answered(&expiring(280))
    );
}

#[test]
fn shadow_mode_answers_nothing() {
    let process = Process::new();
    let [mut worker, _] = workers(&process);
    let role = role(json!({"mode": "shadow"}));
    assert_eq!(worker.fate_of(&role, introspect(ALICE)), passed_on());
}

#[test]
fn an_answer_in_use_by_the_homeserver_alone_is_renewed() {
    let process = Process::new();
    let mut worker = SimulatedWorker::new(&process);
    let role = role(json!({"cache": {"ttl": "100s"}}));
    let lasting = active("alice");
    worker.request(&role, introspect(ALICE));
    worker.answer_the_call(&lasting);
    for _ in 0..1_000 {
        process.advance(Duration::from_secs(1));
        worker.tick();
        assert_eq!(worker.fate_of(&role, introspect(ALICE)), answered(&lasting));
        for call in worker.calls() {
            worker.answer(call.id, 200, &lasting);
        }
    }
    let calls = process.metric("matrix_edge_auth_introspections_total");
    assert!((10..=12).contains(&calls), "{calls} calls in ten TTLs");
}

#[test]
fn the_gateway_does_not_trust_the_homeservers_server_name() {
    // The introspection role needs no server name; the gateway completes user ids with its own.
    let process = Process::new();
    let [mut worker, _] = workers(&process);
    let other = gateway(3, json!({"server_name": "other.example"}));
    let fate = worker.fate_of(&gateway(1, json!({})), whoami(ALICE));
    assert_eq!(fate, Fate::forwarded_as("@alice:example.org"));
    let fate = worker.fate_of(&other, whoami(ALICE));
    assert_eq!(fate, Fate::forwarded_as("@alice:other.example"));
}

#[test]
fn a_revoked_session_is_not_answered_from_the_cache() {
    let process = Process::new();
    let (gateway, role) = (gateway(1, json!({})), role(json!({})));
    let [mut worker, _] = workers(&process);
    let logout = Request::new("POST", "/_matrix/client/v3/logout").bearer(ALICE);
    let stream = worker.request(&gateway, logout);
    worker.response(stream, 200, &[]);
    let stream = worker.request(&role, introspect(ALICE));
    worker.answer_the_call(INACTIVE);
    assert_eq!(worker.fate(stream), answered(INACTIVE));
    assert_eq!(worker.fate_of(&gateway, whoami(ALICE)), not_active());
}

#[test]
fn many_processes_that_ask_at_once_cost_one_call() {
    let process = Process::new();
    let role = role(json!({"introspection": {"max_in_flight": 1}}));
    let mut worker = SimulatedWorker::new(&process);
    let streams: Vec<_> = (0..100)
        .map(|_| worker.request(&role, introspect(ALICE)))
        .collect();
    worker.answer_the_call(ANSWER);
    for stream in streams {
        assert_eq!(worker.fate(stream), answered(ANSWER));
    }
}
