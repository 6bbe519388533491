//! Sessions that end while the gateway looks on: logouts, revocations, and tokens that the homeserver refuses.

use std::time::Duration;

use serde_json::json;

use crate::{
    ALICE, BOB, INACTIVE, active, not_active,
    simulated::{Fate, Process, Request, SimulatedWorker, gateway},
    whoami,
};

const REFUSAL: &str =
    r#"{"errcode":"M_UNKNOWN_TOKEN","error":"Token is not active","soft_logout":false}"#;

fn alice() -> Fate {
    Fate::forwarded_as("@alice:example.org")
}

fn logout(path: &str, token: &str) -> Request {
    Request::new("POST", path).bearer(token)
}

fn revocation(token: &str) -> Request {
    Request::new("POST", "/oauth2/revoke")
        .header("content-type", "application/x-www-form-urlencoded")
        .header("authorization", "Basic eDp5")
        .body(format!("token_type_hint=access_token&token={token}"))
}

/// Workers that all hold alice's token for themselves.
fn workers(process: &std::rc::Rc<Process>, number: usize) -> Vec<SimulatedWorker> {
    let gateway = gateway(1, json!({}));
    let mut workers: Vec<_> = (0..number).map(|_| SimulatedWorker::new(process)).collect();
    // The first request takes a worker's place among the others.
    for worker in &mut workers {
        worker.request(&gateway, Request::get("/"));
    }
    workers[0].request(&gateway, whoami(ALICE));
    workers[0].answer_the_call(&active("alice"));
    for worker in &mut workers {
        assert_eq!(worker.fate_of(&gateway, whoami(ALICE)), alice());
    }
    workers
}

/// Everything that was sent between workers arrives.
fn deliver(workers: &mut [SimulatedWorker]) {
    for worker in workers {
        while worker.deliver() {}
    }
}

#[test]
fn a_session_that_ends_is_forgotten_by_every_worker() {
    for request in [
        logout("/_matrix/client/v3/logout", ALICE),
        logout("/_matrix/client/r0/logout/all", ALICE),
        revocation(ALICE),
    ] {
        let process = Process::new();
        let gateway = gateway(1, json!({}));
        let mut workers = workers(&process, 3);
        let stream = workers[1].request(&gateway, request.clone());
        assert_eq!(workers[1].fate(stream), Fate::forwarded_unannotated());
        for worker in &mut workers {
            assert_eq!(worker.fate_of(&gateway, whoami(ALICE)), alice(), "not yet");
        }
        workers[1].response(stream, 200, &["{}"]);
        deliver(&mut workers);
        for worker in &mut workers {
            assert_eq!(worker.fate_of(&gateway, whoami(ALICE)), Fate::Held);
        }
        let calls = workers.iter().flat_map(SimulatedWorker::calls);
        assert_eq!(calls.count(), 1, "{request:?}");
    }
}

#[test]
fn a_mas_below_a_path_ends_sessions_there() {
    let gateway = gateway(
        1,
        json!({"introspection": {"path": "/auth/oauth2/introspect"}}),
    );
    let revocation = || {
        Request::new("POST", "/auth/oauth2/revoke")
            .header("content-type", "application/x-www-form-urlencoded")
            .body(format!("token={ALICE}"))
    };
    for request in [
        revocation(),
        logout("/auth/_matrix/client/v3/logout", ALICE),
        logout("/auth/_matrix/client/v3/logout/all", ALICE),
        // The compat routes on the homeserver's own paths stay.
        logout("/_matrix/client/v3/logout", ALICE),
    ] {
        let mut worker = SimulatedWorker::new(&Process::new());
        worker.request(&gateway, whoami(ALICE));
        worker.answer_the_call(&active("alice"));
        let stream = worker.request(&gateway, request.clone());
        assert_eq!(worker.fate(stream), Fate::forwarded_unannotated());
        assert_eq!(worker.fate_of(&gateway, whoami(ALICE)), alice(), "not yet");
        worker.response(stream, 200, &["{}"]);
        assert_eq!(
            worker.fate_of(&gateway, whoami(ALICE)),
            Fate::Held,
            "{request:?}"
        );
    }
}

#[test]
fn what_mas_refuses_to_end_stays() {
    for request in [
        logout("/_matrix/client/v3/logout", ALICE),
        revocation(ALICE),
    ] {
        let process = Process::new();
        let gateway = gateway(1, json!({}));
        let mut workers = workers(&process, 1);
        for status in [400, 401, 404, 500, 503] {
            let stream = workers[0].request(&gateway, request.clone());
            workers[0].response(stream, status, &["{}"]);
        }
        assert_eq!(workers[0].fate_of(&gateway, whoami(ALICE)), alice());
        assert_eq!(process.metric("matrix_edge_auth_invalidations_total"), 0);
    }
}

#[test]
fn logout_all_ends_what_is_known_of_the_user() {
    let process = Process::new();
    let gateway = gateway(1, json!({}));
    let mut workers = workers(&process, 2);
    workers[0].request(&gateway, whoami(BOB));
    workers[0].answer_the_call(&active("alice"));
    let stream = workers[1].request(&gateway, logout("/_matrix/client/v3/logout/all", ALICE));
    workers[1].response(stream, 200, &[]);
    deliver(&mut workers);
    // The user's other token.
    assert_eq!(workers[0].fate_of(&gateway, whoami(BOB)), Fate::Held);
}

#[test]
fn an_answer_that_was_on_its_way_when_the_session_ended_is_asked_for_again() {
    for request in [
        logout("/_matrix/client/v3/logout", ALICE),
        revocation(ALICE),
    ] {
        let process = Process::new();
        let gateway = gateway(1, json!({}));
        let mut workers = [
            SimulatedWorker::new(&process),
            SimulatedWorker::new(&process),
        ];
        let waiting = workers[0].request(&gateway, whoami(ALICE));
        let end = workers[1].request(&gateway, request);
        workers[1].response(end, 200, &[]);
        workers[0].answer_the_call(&active("alice"));
        assert_eq!(workers[0].fate(waiting), Fate::Held);
        workers[0].answer_the_call(INACTIVE);
        assert_eq!(workers[0].fate(waiting), not_active());
        assert_eq!(workers[1].fate_of(&gateway, whoami(ALICE)), not_active());
    }
}

#[test]
fn who_waits_for_another_worker_waits_while_that_one_asks_again() {
    let process = Process::new();
    let gateway = gateway(1, json!({"introspection": {"timeout": "2s"}}));
    let mut workers = [
        SimulatedWorker::new(&process),
        SimulatedWorker::new(&process),
    ];
    workers[0].request(&gateway, whoami(ALICE));
    let waiting = workers[1].request(&gateway, whoami(ALICE));
    let pass = |workers: &mut [SimulatedWorker], quarters| {
        for _ in 0..quarters {
            process.advance(Duration::from_millis(250));
            for worker in &mut *workers {
                worker.tick();
            }
        }
    };
    pass(&mut workers, 7);
    let end = workers[1].request(&gateway, revocation(ALICE));
    workers[1].response(end, 200, &[]);
    workers[0].answer_the_call(&active("alice"));
    pass(&mut workers, 7);
    assert_eq!(workers[1].fate(waiting), Fate::Held);
    workers[0].answer_the_call(INACTIVE);
    deliver(&mut workers);
    assert_eq!(workers[1].fate(waiting), not_active());
}

#[test]
fn naming_tokens_that_nobody_knows_writes_nothing() {
    let process = Process::new();
    let gateway = gateway(1, json!({}));
    let mut workers = workers(&process, 1);
    let keys = process.keys();
    for number in 0..1_000 {
        let stream = workers[0].request(&gateway, revocation(&format!("mat_{number}")));
        workers[0].response(stream, 200, &[]);
    }
    assert_eq!(process.keys(), keys);
    assert_eq!(process.metric("matrix_edge_auth_invalidations_total"), 0);
    let local = "matrix_edge_auth_requests_total.verdict=active.source=local";
    let before = process.metric(local);
    assert_eq!(workers[0].fate_of(&gateway, whoami(ALICE)), alice());
    assert_eq!(process.metric(local), before + 1);
}

#[test]
fn a_revocation_in_pieces_is_read_and_one_that_is_too_long_is_not() {
    for (padding, expected) in [(10, Fate::Held), (70_000, alice())] {
        let process = Process::new();
        let gateway = gateway(1, json!({}));
        let mut workers = workers(&process, 1);
        let request = Request::new("POST", "/oauth2/revoke");
        let stream = workers[0].request_headers(&gateway, request, false);
        let form = format!("x={}&token={ALICE}", "y".repeat(padding));
        for piece in form.as_bytes().chunks(7_000) {
            workers[0].request_body(stream, piece, false);
        }
        workers[0].request_body(stream, b"", true);
        workers[0].response(stream, 200, &[]);
        assert_eq!(workers[0].fate_of(&gateway, whoami(ALICE)), expected);
    }
}

#[test]
fn a_token_that_the_homeserver_refuses_is_asked_about_again() {
    let process = Process::new();
    let gateway = gateway(1, json!({}));
    let mut workers = workers(&process, 2);
    let refused = workers[0].request(&gateway, whoami(ALICE));
    let (one, two) = REFUSAL.split_at(20);
    workers[0].response(refused, 401, &[one, two]);
    deliver(&mut workers);
    let waiting = workers[1].request(&gateway, whoami(ALICE));
    assert_eq!(
        workers[1].fate(waiting),
        Fate::Held,
        "forgotten, not inactive"
    );
    workers[1].answer_the_call(&active("alice"));
    assert_eq!(workers[1].fate(waiting), alice());
    assert_eq!(workers[0].fate_of(&gateway, whoami(ALICE)), alice());
}

#[test]
fn only_m_unknown_token_is_a_refusal_of_the_token() {
    let process = Process::new();
    let gateway = gateway(1, json!({}));
    let mut workers = workers(&process, 1);
    for (status, pieces) in [
        // User-interactive authentication is a 401 too.
        (401, &[r#"{"flows":[{"stages":[]}],"session":"x"}"#][..]),
        (401, &[r#"{"errcode":"M_MISSING_TOKEN","error":"x"}"#]),
        (401, &["<html>M_UNKNOWN_TOKEN</html>"]),
        (401, &[]),
        (403, &[REFUSAL]),
        (200, &[REFUSAL]),
    ] {
        let stream = workers[0].request(&gateway, whoami(ALICE));
        workers[0].response(stream, status, pieces);
        assert_eq!(workers[0].fate_of(&gateway, whoami(ALICE)), alice());
    }
}

#[test]
fn a_homeserver_that_keeps_refusing_an_active_token_costs_few_calls() {
    let process = Process::new();
    let gateway = gateway(1, json!({}));
    let mut workers = workers(&process, 1);
    let before = process.metric("matrix_edge_auth_introspections_total");
    for _ in 0..300 {
        let stream = workers[0].request(&gateway, whoami(ALICE));
        for call in workers[0].calls() {
            workers[0].answer(call.id, 200, &active("alice"));
        }
        workers[0].response(stream, 401, &[REFUSAL]);
        process.advance(Duration::from_millis(100));
        workers[0].tick();
    }
    let calls = process.metric("matrix_edge_auth_introspections_total") - before;
    println!("{calls} calls in 30 s");
    assert!((2..=4).contains(&calls), "{calls}");
}

#[test]
fn a_user_who_is_gone_takes_a_waiting_answer_along() {
    // See `provisioning` for what MAS says; here only that the gateway's flights mind it.
    let process = Process::new();
    let gateway = gateway(1, json!({}));
    let provisioning = crate::simulated::plugin(2, "provisioning", json!({}));
    let mut worker = SimulatedWorker::new(&process);
    let waiting = worker.request(&gateway, whoami(ALICE));
    let told = worker.request(
        &provisioning,
        Request::new("POST", "/_synapse/mas/delete_user")
            .bearer("secret")
            .body(r#"{"localpart":"alice","erase":false}"#),
    );
    assert_eq!(worker.fate(told), Fate::forwarded_unannotated());
    worker.answer_the_call(&active("alice"));
    assert_eq!(worker.fate(waiting), Fate::Held);
    worker.answer_the_call(INACTIVE);
    assert_eq!(worker.fate(waiting), not_active());
}
