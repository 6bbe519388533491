//! No client makes the edge serve a stale answer while MAS is well: MAS is asked about a known token, one of which an
//! active answer is still there, whatever else its client brings.

use std::{rc::Rc, time::Duration};

use matrix_edge_auth::worker::Plugin;
use serde_json::{Value, json};

use crate::{
    ALICE, INACTIVE, WHOAMI, active, alice,
    attack::invented,
    introspection_role::{answered, introspect},
    simulated::{Fate, Process, Request, SimulatedWorker, gateway, plugin},
    whoami,
};

const OFFICE: &str = "192.0.2.1";
const TICK: Duration = Duration::from_millis(250);

fn settings(mut overrides: Value) -> Value {
    overrides["cache"] = json!({"ttl": "3s", "stale_if_error": "10m", "refresh_ahead": false});
    overrides
}

/// A request of the office with an invented token.
fn flood(number: u32) -> Request {
    Request::get(WHOAMI)
        .bearer(&invented(number))
        .source(OFFICE)
}

/// Alice's token was active, and its answer has just ended.
fn worker_that_knows_alice(process: &Rc<Process>, gateway: &Rc<Plugin>) -> SimulatedWorker {
    let mut worker = SimulatedWorker::new(process);
    worker.request(gateway, whoami(ALICE).source(OFFICE));
    worker.answer_only_call(&active("alice"));
    pass(process, &mut worker, Duration::from_secs(4));
    worker
}

fn pass(process: &Process, worker: &mut SimulatedWorker, time: Duration) {
    let mut passed = Duration::ZERO;
    while passed < time {
        process.advance(TICK);
        worker.tick();
        passed += TICK;
    }
}

/// MAS is asked about Alice's token at once, and says that her session has ended.
fn assert_asked_at_once(worker: &mut SimulatedWorker, gateway: &Rc<Plugin>) {
    let before = worker.calls().len();
    let stream = worker.request(gateway, whoami(ALICE).source(OFFICE));
    assert_eq!(worker.fate(stream), Fate::Held);
    let calls = worker.calls();
    assert_eq!(calls.len(), before + 1);
    let call = calls.last().unwrap();
    assert!(call.body.contains(ALICE));
    worker.answer(call.id, 200, INACTIVE);
    assert_eq!(worker.fate(stream).status(), Some(401));
}

/// It has so many requests to read at once that it comes to nothing else for a while. MAS has answered meanwhile.
#[test]
fn a_busy_worker_is_no_reason_to_serve_a_stale_answer() {
    for timeout in ["5s", "1m"] {
        let process = Process::new();
        let gateway = gateway(1, settings(json!({"introspection": {"timeout": timeout}})));
        let mut worker = worker_that_knows_alice(&process, &gateway);
        let stream = worker.request(&gateway, whoami(ALICE).source(OFFICE));
        process.advance(Duration::from_secs(13));
        // Envoy may take the call for timed out before it reads the answer.
        worker.tick();
        let next = worker.request(&gateway, whoami(ALICE).source(OFFICE));
        assert_eq!(worker.fate(next), Fate::Held, "{timeout}");
        worker.answer_only_call(INACTIVE);
        for stream in [stream, next] {
            assert_eq!(worker.fate(stream).status(), Some(401), "{timeout}");
        }
    }
}

#[test]
fn a_spent_budget_is_no_reason_to_serve_a_stale_answer() {
    let process = Process::new();
    let budget = json!({"unknown_token_budget": {"per_source": 3, "window": "1h"}});
    let gateway = gateway(1, settings(budget));
    let mut worker = worker_that_knows_alice(&process, &gateway);
    for number in 0..3 {
        worker.request(&gateway, flood(number));
        worker.answer_only_call(INACTIVE);
    }
    assert_eq!(worker.send(&gateway, flood(3)).status(), Some(429));
    assert_asked_at_once(&mut worker, &gateway);
    // It is dead for good, and free: the client is told so again, not that it asks too much.
    pass(&process, &mut worker, Duration::from_secs(60));
    assert_asked_at_once(&mut worker, &gateway);
}

#[test]
fn calls_that_a_flood_fills_are_no_reason_to_serve_a_stale_answer() {
    for cap in [1, 8, 64, 256] {
        let process = Process::new();
        let calls = json!({"introspection": {"max_in_flight": cap, "timeout": "1m"}});
        let gateway = gateway(1, settings(calls));
        let mut worker = worker_that_knows_alice(&process, &gateway);
        // More than may be under way and wait in line.
        for number in 0..5_000 {
            worker.request(&gateway, flood(number));
        }
        assert_asked_at_once(&mut worker, &gateway);
    }
}

#[test]
fn room_that_a_flood_fills_is_no_reason_to_serve_a_stale_answer() {
    let process = Process::new();
    let gateway = gateway(1, settings(json!({"introspection": {"timeout": "1m"}})));
    let mut worker = worker_that_knows_alice(&process, &gateway);
    // Of two addresses, as many as may wait, with a few tokens.
    for number in 0..9 {
        for source in [OFFICE, "192.0.2.2"] {
            for _ in 0..2_048 {
                worker.request(&gateway, flood(number).source(source));
            }
        }
    }
    let refused = worker.send(&gateway, flood(10).source("192.0.2.3"));
    assert_eq!(refused.status(), Some(503));
    // The first request with her token finds room. Those that join it do not, and are told so.
    let calls = worker.calls().len();
    let stream = worker.request(&gateway, whoami(ALICE).source(OFFICE));
    assert_eq!(worker.calls().len(), calls + 1);
    let joins = worker.send(&gateway, whoami(ALICE).source(OFFICE));
    assert_eq!(joins.status(), Some(503));
    let call = worker.calls().pop().unwrap();
    worker.answer(call.id, 200, INACTIVE);
    assert_eq!(worker.fate(stream).status(), Some(401));
}

#[test]
fn an_answer_is_renewed_while_a_flood_fills_the_calls() {
    let process = Process::new();
    let calls = json!({
        "introspection": {"max_in_flight": 8, "timeout": "1m"},
        "cache": {"ttl": "10s", "stale_if_error": "10m"},
    });
    let gateway = gateway(1, calls);
    let mut worker = SimulatedWorker::new(&process);
    worker.request(&gateway, whoami(ALICE));
    worker.answer_only_call(&active("alice"));
    for number in 0..100 {
        worker.request(&gateway, flood(number));
    }
    pass(&process, &mut worker, Duration::from_millis(9_500));
    let before = worker.calls().len();
    assert_eq!(worker.send(&gateway, whoami(ALICE)), alice());
    assert_eq!(worker.calls().len(), before + 1);
}

/// Known tokens come first, in the order of their requests; one that no call was free for within a second tells that
/// MAS is slow, and is asked about again with its next request.
#[test]
fn known_tokens_come_first_in_line() {
    let process = Process::new();
    let calls = json!({"introspection": {"max_in_flight": 4, "timeout": "1m"}});
    let gateway = gateway(1, settings(calls));
    let mut worker = SimulatedWorker::new(&process);
    let known = |number: u32| flood(1_000 + number);
    for number in 0..3 {
        worker.request(&gateway, known(number));
        worker.answer_only_call(&active("alice"));
    }
    pass(&process, &mut worker, Duration::from_secs(4));
    for number in 0..100 {
        worker.request(&gateway, flood(number));
    }
    // One may go beyond the cap.
    let streams = [0, 1, 2].map(|number| worker.request(&gateway, known(number)));
    let calls = worker.calls();
    assert_eq!(calls.len(), 5);
    // The first to end makes way for the next known token, and not for one of the hundred.
    worker.answer(calls[0].id, 200, INACTIVE);
    let next = worker.calls().pop().unwrap();
    assert!(next.body.contains(&invented(1_001)));
    pass(&process, &mut worker, Duration::from_secs(1));
    assert_eq!(worker.fate(streams[2]), alice(), "stale");
    let again = worker.request(&gateway, known(2));
    assert_eq!(worker.fate(again), Fate::Held, "no failure is remembered");
}

#[test]
fn the_homeserver_is_asked_for_while_other_questions_fill_its_calls() {
    let process = Process::new();
    let calls = json!({"introspection": {"max_in_flight": 8, "timeout": "1m"}});
    let role = plugin(2, "introspection", settings(calls));
    let mut worker = SimulatedWorker::new(&process);
    worker.request(&role, introspect(ALICE));
    worker.answer_only_call(&active("alice"));
    pass(&process, &mut worker, Duration::from_secs(4));
    for number in 0..100 {
        worker.request(&role, introspect(&invented(number)));
    }
    assert_eq!(worker.calls().len(), 8);
    let stream = worker.request(&role, introspect(ALICE));
    let call = worker.calls().pop().unwrap();
    worker.answer(call.id, 200, INACTIVE);
    assert_eq!(worker.fate(stream), answered(INACTIVE));
}

/// Whatever the addresses are: behind one there may be many users.
#[test]
fn users_take_turns_with_their_known_tokens() {
    let process = Process::new();
    let calls = json!({"introspection": {"max_in_flight": 1, "timeout": "1m"}});
    let gateway = gateway(1, settings(calls));
    let mut worker = SimulatedWorker::new(&process);
    let order = [
        (1, "mallory", OFFICE),
        (2, "mallory", OFFICE),
        (3, "mallory", "192.0.2.2"),
        (4, "alice", OFFICE),
        (5, "bob", "192.0.2.2"),
    ];
    let known = |number: u32, source: &str| flood(number).source(source);
    for (number, user, source) in order {
        worker.request(&gateway, known(number, source));
        worker.answer_only_call(&active(user));
    }
    pass(&process, &mut worker, Duration::from_secs(4));
    worker.request(&gateway, flood(100));
    for (number, _, source) in order {
        worker.request(&gateway, known(number, source));
    }
    let mut asked = Vec::new();
    loop {
        // The oldest is the flood's, which has its one call all the while.
        let calls = worker.calls();
        let Some(call) = calls.get(1) else {
            break;
        };
        asked.extend((1..=5).filter(|number| call.body.contains(&invented(*number))));
        worker.answer(call.id, 200, INACTIVE);
    }
    // Of two that come next it is a matter of their names.
    let place = |number: u32| asked.iter().position(|other| *other == number);
    assert_eq!((place(1), asked.len()), (Some(0), 5));
    assert!(
        place(4).max(place(5)) < place(3) && place(2) < place(3),
        "{asked:?}"
    );
}
