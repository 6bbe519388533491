//! The introspection role: the homeserver asks MAS, and the cache answers with MAS's own words.

use std::{rc::Rc, time::Duration};

use matrix_edge_auth::{resolver::flight::MAX_WAITERS_PER_FLIGHT, worker::Plugin};
use serde_json::{Value, json};

use crate::{
    ALICE, BOB, INACTIVE, active, alice,
    attack::invented,
    not_active,
    simulated::{Cluster, Fate, Process, Request, SimulatedWorker, gateway, plugin},
    unable, whoami,
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
pub fn introspect(token: &str) -> Request {
    headers().bearer("secret").body(form(token))
}

pub fn answered(body: &str) -> Fate {
    Fate::Replied(200, body.to_owned())
}

fn expiring(seconds: u64) -> String {
    ANSWER.replace(":300", &format!(":{seconds}"))
}

pub fn passed_on() -> Fate {
    Fate::forwarded_unannotated()
}

/// Two workers, of which the first has asked MAS about alice's token.
fn warmed(role: &Rc<Plugin>) -> Cluster {
    let mut cluster = Cluster::new(2);
    let stream = cluster[0].request(role, introspect(ALICE));
    assert_eq!(cluster[0].fate(stream), Fate::Held);
    cluster[0].answer_only_call(ANSWER);
    assert_eq!(cluster[0].fate(stream), answered(ANSWER), "MAS's own bytes");
    cluster
}

/// The role where Envoy injects the credential.
fn injected_role() -> Rc<Plugin> {
    role(json!({"introspection": {"credential": {"injected": true}}}))
}

/// A worker whose gateway has asked MAS about alice's token, with the credential that Envoy injects.
fn warmed_by_the_gateway() -> Cluster {
    let gateway = gateway(
        1,
        json!({"introspection": {"credential": {"injected": true}}}),
    );
    let mut cluster = Cluster::new(1);
    cluster[0].request(&gateway, whoami(ALICE));
    cluster[0].answer_only_call(ANSWER);
    cluster
}

/// The trailers come in place of the last piece. Empty ones, or those of a proxy, are trailers too.
#[test]
fn a_form_with_trailers_is_answered_like_any() {
    let role = role(json!({}));
    let mut cluster = warmed(&role);
    let form = form(ALICE);
    for at in [form.len(), 9] {
        let stream = cluster[0].request_headers(&role, announced(ALICE), false);
        for piece in [&form[..at], &form[at..]] {
            cluster[0].request_body(stream, piece.as_bytes(), false);
        }
        assert_eq!(cluster[0].fate(stream), Fate::Held);
        cluster[0].request_trailers(stream, &[("x-checksum", "1234")]);
        assert_eq!(cluster[0].fate(stream), answered(ANSWER));
    }
    // Without any form it is MAS's.
    let stream = cluster[0].request_headers(&role, announced(ALICE), false);
    cluster[0].request_trailers(stream, &[]);
    assert_eq!(cluster[0].fate(stream), passed_on());
}

#[test]
fn the_gateway_and_the_homeserver_share_one_call() {
    let process = Process::new();
    let (gateway, role) = (gateway(1, json!({})), role(json!({})));
    for first in 0..2 {
        let mut cluster = Cluster::on(&process, 2);
        let token = [ALICE, BOB][first];
        let mut client = None;
        let mut homeserver = None;
        for turn in 0..2 {
            if turn == first {
                client = Some(cluster[0].request(&gateway, whoami(token)));
            } else {
                homeserver = Some(cluster[0].request(&role, introspect(token)));
            }
        }
        let elsewhere = cluster[1].request(&role, introspect(token));
        cluster[0].answer_only_call(ANSWER);
        cluster.deliver_all();
        assert_eq!(cluster[0].fate(client.unwrap()), alice());
        assert_eq!(cluster[0].fate(homeserver.unwrap()), answered(ANSWER));
        assert_eq!(cluster[1].fate(elsewhere), answered(ANSWER));
        assert!(cluster[1].calls().is_empty());
        let fates = cluster.send_each(&gateway, &whoami(token));
        assert_eq!(fates, vec![alice(); 2]);
        let fates = cluster.send_each(&role, &introspect(token));
        assert_eq!(fates, vec![answered(ANSWER); 2]);
    }
}

#[test]
fn expires_in_is_lowered_by_the_age_and_nothing_else_changes() {
    let role = role(json!({"cache": {"ttl": "1h", "refresh_ahead": false}}));
    let mut cluster = warmed(&role);
    let mut age = 0;
    // Rounded down; a clock of whole milliseconds may count one too many.
    for (at, left) in [(1, 300), (1_000, 300), (1_001, 299), (299_900, 1)] {
        cluster.process.advance(Duration::from_millis(at - age));
        age = at;
        let fates = cluster.send_each(&role, &introspect(ALICE));
        assert_eq!(fates, vec![answered(&expiring(left)); 2], "after {at} ms");
    }
}

#[test]
fn near_the_end_mas_is_asked_and_after_it_the_token_is_inactive() {
    let role = role(json!({"cache": {"ttl": "1h", "refresh_ahead": false}}));
    let mut cluster = warmed(&role);
    cluster.process.advance(Duration::from_millis(299_999));
    let fate = cluster[0].send(&role, introspect(ALICE));
    assert_eq!(fate, answered(&expiring(1)));
    for (millis, left) in [(1, 0), (500, 0)] {
        cluster.process.advance(Duration::from_millis(millis));
        let stream = cluster[0].request(&role, introspect(ALICE));
        cluster[0].answer_only_call(&expiring(left));
        let fate = cluster[0].fate(stream);
        assert_eq!(fate, answered(&expiring(left)), "MAS's own word");
    }
    cluster.process.advance(Duration::from_millis(500));
    assert_eq!(
        cluster[0].send(&role, introspect(ALICE)),
        answered(INACTIVE)
    );
}

#[test]
fn the_lifetime_goes_along_if_there_is_one() {
    let process = Process::new();
    let mut worker = SimulatedWorker::new(&process);
    let role = role(json!({"cache": {"refresh_ahead": false}}));
    let lasting = active("bob");
    for (token, answer, headers) in [
        (ALICE, ANSWER, ["299899-301001", "299399-300501"].map(Some)),
        (BOB, &*lasting, [None; 2]),
    ] {
        let asked = worker.request(&role, introspect(token));
        process.advance(Duration::from_millis(100));
        worker.answer_only_call(answer);
        process.advance(Duration::from_millis(500));
        let cached = worker.request(&role, introspect(token));
        for (stream, expected) in [asked, cached].into_iter().zip(headers) {
            assert_eq!(worker.fate(stream), answered(answer));
            let header = worker.reply_header(stream, "x-matrix-edge-auth-lifetime");
            assert_eq!(header.as_deref(), expected);
        }
    }
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
        let fate = worker.send(&role(json!({})), introspect(token));
        assert_eq!(fate, answered(INACTIVE), "{token}");
    }
    assert!(worker.calls().is_empty());
}

#[test]
fn what_differs_from_synapses_request_is_for_mas_to_answer() {
    let role = role(json!({}));
    let mut cluster = warmed(&role);
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
        // Chunked: its length is not known beforehand.
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
        assert_eq!(cluster[0].send(&role, request), passed_on(), "{shown}");
    }
    assert_eq!(cluster[0].send(&role, introspect(ALICE)), answered(ANSWER));
    assert!(cluster[0].calls().is_empty());
}

#[test]
fn the_form_may_come_in_pieces() {
    let role = role(json!({}));
    let mut cluster = warmed(&role);
    let stream = cluster[0].request_headers(&role, announced(ALICE), false);
    for piece in form(ALICE).as_bytes().chunks(10) {
        assert_eq!(cluster[0].fate(stream), Fate::Held);
        cluster[0].request_body(stream, piece, false);
    }
    cluster[0].request_body(stream, b"", true);
    assert_eq!(cluster[0].fate(stream), answered(ANSWER));
    // Longer than it was announced, which Envoy does not let happen: passed on as soon as that is known.
    let stream = cluster[0].request_headers(&role, announced(ALICE), false);
    cluster[0].request_body(stream, &[b'x'; 40_000], false);
    assert_eq!(cluster[0].fate(stream), Fate::Held);
    cluster[0].request_body(stream, &[b'x'; 40_000], false);
    assert_eq!(cluster[0].fate(stream), passed_on());
}

#[test]
fn a_question_that_ends_between_the_answer_and_its_turn_is_left_alone() {
    let role = role(json!({}));
    let mut worker = SimulatedWorker::new(&Process::new());
    let streams = [(); 300].map(|()| {
        let stream = worker.request_headers(&role, announced(ALICE), false);
        worker.request_body(stream, form(ALICE).as_bytes(), true);
        stream
    });
    worker.faults().late_timers.set(true);
    worker.answer_only_call(ANSWER);
    let waiting = streams.into_iter();
    let mut waiting: Vec<_> = waiting
        .filter(|stream| worker.fate(*stream) == Fate::Held)
        .collect();
    let last = waiting.pop().unwrap();
    assert!(waiting.len() > 100);
    for stream in waiting {
        worker.hang_up(stream);
    }
    worker.faults().late_timers.set(false);
    worker.tick();
    assert_eq!(worker.fate(last), answered(ANSWER));
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

/// One tick passes on some of them, and the next one comes at once.
#[test]
fn many_requests_whose_bodies_never_come_are_passed_on_as_soon() {
    let process = Process::new();
    let role = role(json!({}));
    let mut worker = SimulatedWorker::new(&process);
    let streams = [(); 1_000].map(|()| worker.request_headers(&role, announced(ALICE), false));
    process.advance(Duration::from_millis(1_100));
    worker.tick();
    for stream in streams {
        assert_eq!(worker.fate(stream), passed_on());
    }
}

#[test]
fn a_caller_of_an_injected_credential_must_have_been_answered_by_mas() {
    let mut cluster = warmed_by_the_gateway();
    let role = injected_role();
    let caller = |secret: &str| headers().bearer(secret).body(form(ALICE));
    for status in [401, 400, 500, 503] {
        let stream = cluster[0].request(&role, caller("hers"));
        assert_eq!(cluster[0].fate(stream), passed_on());
        cluster[0].response(stream, status);
    }
    // Of another form: what MAS says to it proves nothing.
    let stream = cluster[0].request(&role, headers().bearer("hers").body("token=x"));
    cluster[0].response(stream, 200);
    // Envoy shows a form that passes in pieces, of which the last may be empty.
    let hers = headers().bearer("hers").header("content-length", "100");
    let stream = cluster[0].request_headers(&role, hers, false);
    for piece in form(ALICE).as_bytes().chunks(30) {
        cluster[0].request_body(stream, piece, false);
    }
    cluster[0].request_body(stream, b"", true);
    assert_eq!(cluster[0].fate(stream), passed_on());
    cluster[0].response(stream, 200);
    assert_eq!(cluster[0].send(&role, caller("hers")), answered(ANSWER));
    assert_eq!(cluster[0].send(&role, caller("theirs")), passed_on());
    assert_eq!(cluster[0].send(&role, caller("Hers")), passed_on());
    cluster.process.advance(Duration::from_secs(301));
    let stream = cluster[0].request(&role, caller("hers"));
    assert_eq!(
        cluster[0].fate(stream),
        passed_on(),
        "it must be proved again"
    );
    cluster[0].response(stream, 401);
    assert_eq!(cluster[0].send(&role, caller("hers")), passed_on());
}

/// The homeserver is answered from the cache however long MAS fails; one request in a while asks whether it still does.
#[test]
fn a_caller_stays_accepted_while_mas_gives_no_answer() {
    let mut cluster = warmed_by_the_gateway();
    let role = injected_role();
    let hers = || headers().bearer("hers").body(form(BOB));
    let stream = cluster[0].request(&role, hers());
    cluster[0].response(stream, 200);
    cluster.process.advance(Duration::from_secs(301));
    // The cache has no answer about this token: a request that is held waits for a call of the module.
    let stream = cluster[0].request(&role, hers());
    assert_eq!(cluster[0].fate(stream), passed_on(), "MAS is to judge it");
    let meanwhile = cluster[0].request(&role, hers());
    assert_eq!(cluster[0].fate(meanwhile), Fate::Held);
    cluster[0].response(stream, 503);
    cluster[0].answer_only_call(ANSWER);
    assert_eq!(cluster[0].fate(meanwhile), answered(ANSWER));
    cluster.process.advance(Duration::from_secs(150));
    let later = cluster[0].request(&role, hers());
    assert_eq!(cluster[0].fate(later), Fate::Held, "it is still accepted");
    cluster[0].answer_only_call(ANSWER);
    cluster.process.advance(Duration::from_secs(151));
    // MAS is back, and has another secret.
    let stream = cluster[0].request(&role, hers());
    assert_eq!(cluster[0].fate(stream), passed_on());
    cluster[0].response(stream, 401);
    assert_eq!(cluster[0].send(&role, hers()), passed_on());
}

/// A filter of the listener, or a route without a server, says nothing of the caller.
#[test]
fn what_envoy_answers_a_caller_is_no_word_of_mas() {
    let mut cluster = warmed_by_the_gateway();
    let role = injected_role();
    let hers = || headers().bearer("hers").body(form(ALICE));
    let stream = cluster[0].request(&role, hers());
    cluster[0].local_response(stream, 200);
    let stream = cluster[0].request(&role, hers());
    assert_eq!(cluster[0].fate(stream), passed_on(), "MAS has not said so");
    cluster[0].response(stream, 200);
    for status in [401, 403, 429, 503] {
        cluster.process.advance(Duration::from_secs(301));
        let stream = cluster[0].request(&role, hers());
        assert_eq!(cluster[0].fate(stream), passed_on(), "MAS is to judge it");
        cluster[0].local_response(stream, status);
        let later = cluster[0].request(&role, hers());
        assert_ne!(cluster[0].fate(later), passed_on(), "{status}");
    }
}

/// As Envoy delivers an HTTP/1 body: its end comes with an empty piece.
#[test]
fn the_form_that_proves_a_caller_may_come_in_pieces() {
    let mut cluster = warmed_by_the_gateway();
    let role = injected_role();
    let mut passes = |form: &str| {
        let length = form.len().to_string();
        let hers = headers().bearer("hers").header("content-length", length);
        let stream = cluster[0].request_headers(&role, hers, false);
        for piece in form.as_bytes().chunks(30) {
            cluster[0].request_body(stream, piece, false);
        }
        cluster[0].request_body(stream, b"", true);
        let is_passed = cluster[0].fate(stream) == passed_on();
        cluster[0].response(stream, 200);
        is_passed
    };
    let exact = form(ALICE);
    assert!(passes(&(exact.clone() + "&client_id=x")));
    assert!(passes(&exact), "another form has proved nothing");
    assert!(!passes(&exact));
}

#[test]
fn a_form_that_comes_slowly_is_waited_for() {
    let mut cluster = Cluster::new(1);
    let role = role(json!({}));
    let form = form(ALICE);
    let (first, rest) = form.split_at(10);
    let [slow, silent] =
        [(); 2].map(|()| cluster[0].request_headers(&role, announced(ALICE), false));
    cluster[0].request_body(slow, first.as_bytes(), false);
    cluster.tick_for(Duration::from_secs(3));
    assert_eq!(cluster[0].fate(silent), passed_on(), "none of it came");
    assert_eq!(cluster[0].fate(slow), Fate::Held);
    cluster[0].request_body(slow, rest.as_bytes(), true);
    cluster[0].answer_only_call(ANSWER);
    assert_eq!(cluster[0].fate(slow), answered(ANSWER));
}

#[test]
fn without_a_verdict_there_is_no_word_of_the_token() {
    for (overrides, expected) in [
        (
            json!({}),
            Fate::Replied(
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
        // MAS is left alone for a second. Nothing is kept.
        assert_eq!(worker.send(&role, introspect(ALICE)), expected);
        process.advance(Duration::from_secs(1));
        let stream = worker.request(&role, introspect(ALICE));
        worker.answer_only_call(ANSWER);
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
    worker.answer_only_call(ANSWER);
    process.advance(Duration::from_secs(20));
    let stream = worker.request(&role, introspect(ALICE));
    let call = worker.calls()[0].id;
    worker.answer(call, 500, "{}");
    assert_eq!(worker.fate(stream), answered(&expiring(281)));
    // MAS has failed: nobody waits for it again.
    assert_eq!(
        worker.send(&role, introspect(ALICE)),
        answered(&expiring(281))
    );
}

#[test]
fn shadow_mode_answers_nothing() {
    let mut cluster = warmed(&role(json!({})));
    let role = role(json!({"mode": "shadow"}));
    assert_eq!(cluster[0].send(&role, introspect(ALICE)), passed_on());
}

#[test]
fn an_answer_in_use_by_the_homeserver_alone_is_renewed() {
    let process = Process::new();
    let mut worker = SimulatedWorker::new(&process);
    let role = role(json!({"cache": {"ttl": "100s"}}));
    let lasting = active("alice");
    worker.request(&role, introspect(ALICE));
    worker.answer_only_call(&lasting);
    for _ in 0..1_000 {
        process.advance(Duration::from_secs(1));
        worker.tick();
        assert_eq!(worker.send(&role, introspect(ALICE)), answered(&lasting));
        worker.answer_all(&lasting);
    }
    let calls = process.metric("matrix_edge_auth_introspections_total");
    assert!((10..=12).contains(&calls), "{calls} calls in ten TTLs");
}

#[test]
fn the_gateway_does_not_trust_the_homeservers_server_name() {
    // The introspection role needs no server name; the gateway completes user ids with its own.
    let mut cluster = warmed(&role(json!({})));
    let other = gateway(3, json!({"server_name": "other.example"}));
    let fate = cluster[0].send(&gateway(1, json!({})), whoami(ALICE));
    assert_eq!(fate, alice());
    let fate = cluster[0].send(&other, whoami(ALICE));
    assert_eq!(fate, Fate::forwarded_as("@alice:other.example"));
}

#[test]
fn a_revoked_session_is_not_answered_from_the_cache() {
    let (gateway, role) = (gateway(1, json!({})), role(json!({})));
    let mut cluster = warmed(&role);
    let logout = Request::new("POST", "/_matrix/client/v3/logout").bearer(ALICE);
    let stream = cluster[0].request(&gateway, logout);
    cluster[0].response(stream, 200);
    let stream = cluster[0].request(&role, introspect(ALICE));
    cluster[0].answer_only_call(INACTIVE);
    assert_eq!(cluster[0].fate(stream), answered(INACTIVE));
    assert_eq!(cluster[0].send(&gateway, whoami(ALICE)), not_active());
}

#[test]
fn many_processes_that_ask_at_once_cost_one_call() {
    let process = Process::new();
    let role = role(json!({"introspection": {"max_in_flight": 1}}));
    let mut worker = SimulatedWorker::new(&process);
    let streams: Vec<_> = (0..100)
        .map(|_| worker.request(&role, introspect(ALICE)))
        .collect();
    worker.answer_only_call(ANSWER);
    for stream in streams {
        assert_eq!(worker.fate(stream), answered(ANSWER));
    }
}

#[test]
fn a_flood_of_clients_does_not_cut_the_homeserver_off_from_mas() {
    let process = Process::new();
    let mut worker = SimulatedWorker::new(&process);
    let settings = json!({"introspection": {"max_in_flight": 4}});
    let (gateway, role) = (gateway(1, settings.clone()), role(settings));
    for number in 0..400 {
        let source = format!("192.0.2.{}", number % 8);
        worker.request(&gateway, whoami(&invented(number)).source(&source));
    }
    assert_eq!(worker.calls().len(), 4);
    // The homeserver has calls of its own.
    let asked = worker.request(&role, introspect(ALICE));
    assert_eq!(worker.calls().len(), 5);
    // A token that a client waits for in line is asked about at once for the homeserver, and once for both.
    let both = worker.request(&role, introspect(&invented(300)));
    assert_eq!(worker.calls().len(), 6);
    for number in 500..502 {
        worker.request(&role, introspect(&invented(number)));
    }
    // Over its own cap its questions are for MAS to answer, and nothing is queued.
    let over = worker.request(&role, introspect(&invented(502)));
    assert_eq!(worker.fate(over), passed_on());
    assert_eq!(worker.calls().len(), 8);
    for call in worker.calls() {
        if call.body.contains(ALICE) || call.body.contains(&invented(300)) {
            worker.answer(call.id, 200, ANSWER);
        }
    }
    for stream in [asked, both] {
        assert_eq!(worker.fate(stream), answered(ANSWER));
    }
}

#[test]
fn where_no_request_may_wait_any_more_mas_answers_itself() {
    let process = Process::new();
    let mut worker = SimulatedWorker::new(&process);
    let (gateway, role) = (gateway(1, json!({})), role(json!({})));
    for _ in 0..MAX_WAITERS_PER_FLIGHT {
        worker.request(&gateway, whoami(ALICE));
    }
    assert_eq!(worker.send(&role, introspect(ALICE)), passed_on());
    for number in 0..7 {
        for _ in 0..MAX_WAITERS_PER_FLIGHT {
            // One client has a part of the places only.
            let source = format!("192.0.2.{number}");
            worker.request(&gateway, whoami(&invented(number)).source(&source));
        }
    }
    assert_eq!(worker.send(&role, introspect(BOB)), passed_on());
    assert_eq!(worker.send(&gateway, whoami(BOB)), unable());
}

/// However often the homeserver asks. A worker of the gateway keeps the token alone, without MAS's words.
#[test]
fn an_inactive_token_is_answered_with_mas_own_bytes_each_time() {
    let body = r#"{ "active":false, "new":{"a":1} }"#;
    let role = role(json!({}));
    let mut worker = SimulatedWorker::new(&Process::new());
    let asked = worker.request(&role, introspect(ALICE));
    worker.answer_only_call(body);
    assert_eq!(worker.fate(asked), answered(body));
    for _ in 0..5 {
        assert_eq!(worker.send(&role, introspect(ALICE)), answered(body));
    }
    let gateway = gateway(1, json!({}));
    for _ in 0..5 {
        assert_eq!(worker.send(&gateway, whoami(ALICE)), not_active());
        assert_eq!(worker.send(&role, introspect(ALICE)), answered(body));
    }
    assert!(worker.calls().is_empty());
}
