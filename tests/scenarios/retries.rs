//! Calls that the module repeats: those whose connection failed before MAS answered, as often as configured, within the time of
//! one call, and never for anything that MAS has answered.

use std::{rc::Rc, time::Duration};

use matrix_edge_auth::{
    host::RootId, mas::introspection::IntrospectionResponse, resolver::RETRY_TICK, worker::Plugin,
};
use serde_json::{Value, json};

use crate::{
    ALICE, BOB, CONNECTION_CLOSED, active, alice,
    simulated::{Cluster, Fate, Process, SimulatedWorker, gateway},
    unable, whoami,
};

const TIMEOUT: Duration = Duration::from_secs(5);
const RETRIES: &str = "matrix_edge_auth_introspection_retries_total";
const DURATION: &str = "matrix_edge_auth_introspection_duration_milliseconds";
const SECOND: Duration = Duration::from_secs(1);
const MILLISECOND: Duration = Duration::from_millis(1);

fn gateway_with(introspection: Value) -> Rc<Plugin> {
    gateway(1, json!({"introspection": introspection}))
}

/// Envoy says of the only call that MAS has closed its connection.
fn close_connection(worker: &mut SimulatedWorker) {
    let [call] = &worker.calls()[..] else {
        panic!("one call: {:?}", worker.calls());
    };
    worker.answer(call.id, 503, CONNECTION_CLOSED);
}

/// The tick comes that repeats calls.
fn tick(worker: &mut SimulatedWorker) {
    worker.process.advance(RETRY_TICK);
    worker.tick();
}

#[test]
fn a_call_whose_connection_failed_is_repeated_as_often_as_configured() {
    for (retries, calls) in [(None, 2), (Some(0), 1), (Some(1), 2), (Some(2), 3)] {
        let gateway = gateway_with(retries.map_or(json!({}), |count| json!({"retries": count})));
        let mut worker = SimulatedWorker::new(&Process::new());
        let stream = worker.request(&gateway, whoami(ALICE));
        for call in 1..=calls {
            assert_eq!(worker.fate(stream), Fate::Held, "{retries:?}: {call}");
            close_connection(&mut worker);
            tick(&mut worker);
        }
        assert_eq!(worker.fate(stream), unable(), "{retries:?}");
        assert!(worker.calls().is_empty());
        assert_eq!(worker.host_calls()["dispatch"], calls, "{retries:?}");
        assert_eq!(worker.process.metric(RETRIES), calls - 1, "{retries:?}");
    }
}

#[test]
fn an_answer_to_the_second_call_serves_and_counts_as_one() {
    let mut worker = SimulatedWorker::new(&Process::new());
    let stream = worker.request(&gateway_with(json!({})), whoami(ALICE));
    worker.process.advance(30 * MILLISECOND);
    close_connection(&mut worker);
    tick(&mut worker);
    worker.process.advance(20 * MILLISECOND);
    worker.answer_only_call(&active("alice"));
    assert_eq!(worker.fate(stream), alice());
    let metric = |name: &str| worker.process.metric(name);
    assert_eq!(metric("matrix_edge_auth_introspections_total"), 1);
    assert_eq!(metric(RETRIES), 1);
    assert_eq!(metric(DURATION), 75, "both calls together");
    assert_eq!(
        metric("matrix_edge_auth_introspections_total.outcome=active"),
        1
    );
}

/// One that is repeated at once may meet the next connection that closes. The tick of another root may come before.
#[test]
fn a_call_is_repeated_a_little_later() {
    let gateway = gateway_with(json!({}));
    let mut worker = SimulatedWorker::new(&Process::new());
    let stream = worker.request(&gateway, whoami(ALICE));
    close_connection(&mut worker);
    for _ in 0..2 {
        worker.process.advance(RETRY_TICK / 5);
        worker.tick();
        assert!(worker.calls().is_empty());
    }
    assert_eq!(worker.fate(stream), Fate::Held);
    // Who asks the same meanwhile waits with it.
    let second = worker.request(&gateway, whoami(ALICE));
    tick(&mut worker);
    // The call is not repeated again.
    tick(&mut worker);
    worker.answer_only_call(&active("alice"));
    assert_eq!(worker.fate(stream), alice());
    assert_eq!(worker.fate(second), alice());
    assert_eq!(worker.host_calls()["dispatch"], 2);
}

#[test]
fn what_says_that_another_try_is_of_no_use_is_not_repeated() {
    let gateway = gateway_with(json!({"retries": 2}));
    let reply = |status: u16, body: &str| (Some(status), body.to_owned());
    let overflow = CONNECTION_CLOSED.replace("connection termination", "overflow");
    for (status, body) in [
        reply(500, ""),
        reply(502, ""),
        reply(503, ""),
        reply(503, "no healthy upstream"),
        reply(503, &overflow),
        reply(504, "upstream request timeout"),
        reply(504, CONNECTION_CLOSED),
        reply(200, CONNECTION_CLOSED),
        (None, String::new()),
    ] {
        let mut worker = SimulatedWorker::new(&Process::new());
        let stream = worker.request(&gateway, whoami(ALICE));
        let response = IntrospectionResponse {
            status,
            content_type: Some(b"application/json"),
            lifetime: None,
            body: Some(body.as_bytes().into()),
        };
        worker.respond(worker.calls()[0].id, response);
        tick(&mut worker);
        assert_eq!(worker.fate(stream), unable(), "{status:?} {body}");
        assert!(worker.calls().is_empty(), "{status:?} {body}");
    }
}

#[test]
fn all_calls_together_have_the_time_of_one() {
    let gateway = gateway_with(json!({"timeout": "5s", "retries": 2}));
    let mut worker = SimulatedWorker::new(&Process::new());
    let stream = worker.request(&gateway, whoami(ALICE));
    for spent in 0..2 {
        assert_eq!(worker.calls()[0].timeout, TIMEOUT - 2 * spent * SECOND);
        worker.tick_for(2 * SECOND - RETRY_TICK);
        close_connection(&mut worker);
        tick(&mut worker);
    }
    assert_eq!(worker.calls()[0].timeout, SECOND);
    worker.tick_for(SECOND);
    assert_eq!(worker.fate(stream), unable());
}

#[test]
fn no_call_is_made_when_the_time_is_over() {
    let gateway = gateway_with(json!({"timeout": "5s"}));
    let mut worker = SimulatedWorker::new(&Process::new());
    let stream = worker.request(&gateway, whoami(ALICE));
    worker.tick_for(TIMEOUT - RETRY_TICK);
    close_connection(&mut worker);
    tick(&mut worker);
    assert!(worker.calls().is_empty());
    assert_eq!(worker.fate(stream), unable());
}

/// A worker that was busy for seconds gives all that waits the time back.
#[test]
fn the_time_of_a_busy_worker_counts_for_no_call() {
    let gateway = gateway_with(json!({"timeout": "5s"}));
    let mut worker = SimulatedWorker::new(&Process::new());
    let stream = worker.request(&gateway, whoami(ALICE));
    worker.process.advance(6 * SECOND);
    close_connection(&mut worker);
    tick(&mut worker);
    worker.answer_only_call(&active("alice"));
    assert_eq!(worker.fate(stream), alice());
}

#[test]
fn a_call_that_envoy_refuses_to_repeat_has_failed() {
    let gateway = gateway_with(json!({}));
    let mut worker = SimulatedWorker::new(&Process::new());
    let stream = worker.request(&gateway, whoami(ALICE));
    worker.faults().dispatch.set(true);
    worker.process.advance(40 * MILLISECOND);
    close_connection(&mut worker);
    tick(&mut worker);
    assert_eq!(worker.fate(stream), unable());
    let outcome = "matrix_edge_auth_introspections_total.outcome=unreachable";
    assert_eq!(worker.process.metric(outcome), 1);
    assert_eq!(worker.process.metric(DURATION), 65);
}

/// It still counts as under way.
#[test]
fn a_call_that_waits_to_be_repeated_keeps_its_place() {
    let gateway = gateway_with(json!({"max_in_flight": 1}));
    let mut worker = SimulatedWorker::new(&Process::new());
    let first = worker.request(&gateway, whoami(ALICE));
    close_connection(&mut worker);
    let second = worker.request(&gateway, whoami(BOB));
    assert!(worker.calls().is_empty());
    tick(&mut worker);
    worker.answer_only_call(&active("alice"));
    assert_eq!(worker.fate(first), alice());
    worker.answer_only_call(&active("bob"));
    assert_eq!(worker.fate(second), Fate::forwarded_as("@bob:example.org"));
}

#[test]
fn other_workers_wait_for_the_second_call() {
    let gateway = gateway_with(json!({}));
    let mut cluster = Cluster::new(2);
    cluster.seat_all(&gateway);
    let streams = cluster.request_each(&gateway, &whoami(ALICE));
    cluster.deliver_all();
    close_connection(&mut cluster[0]);
    cluster.deliver_all();
    assert_eq!(cluster.fates(&streams), [Fate::Held, Fate::Held]);
    tick(&mut cluster[0]);
    cluster.deliver_all();
    assert_eq!(cluster.calls().len(), 1);
    cluster[0].answer_only_call(&active("alice"));
    cluster.deliver_all();
    assert_eq!(cluster.fates(&streams), [alice(), alice()]);
}

#[test]
fn a_call_whose_root_ends_before_it_is_repeated_is_made_by_another_one() {
    let (old, new) = (gateway_with(json!({})), gateway(2, json!({})));
    let mut worker = SimulatedWorker::new(&Process::new());
    let first = worker.request(&old, whoami(ALICE));
    let second = worker.request(&new, whoami(ALICE));
    close_connection(&mut worker);
    worker.hang_up(first);
    worker.drop_root(RootId(1));
    worker.tick();
    worker.answer_only_call(&active("alice"));
    assert_eq!(worker.fate(second), alice());
}

/// The tick of any root repeats it, as a call of its own.
#[test]
fn a_call_that_another_root_repeats_goes_with_that_root() {
    let (old, new) = (gateway_with(json!({})), gateway(2, json!({})));
    let mut worker = SimulatedWorker::new(&Process::new());
    let first = worker.request(&new, whoami(ALICE));
    let second = worker.request(&old, whoami(ALICE));
    close_connection(&mut worker);
    tick(&mut worker);
    let [call] = &worker.calls()[..] else {
        panic!("one call: {:?}", worker.calls());
    };
    assert_eq!(call.root, RootId(1), "whose timer fires first");
    worker.hang_up(second);
    worker.drop_root(RootId(1));
    worker.tick();
    worker.answer_only_call(&active("alice"));
    assert_eq!(worker.fate(first), alice());
}
