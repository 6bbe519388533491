//! Several workers: one call between them, whoever is lost.

use std::time::Duration;

use matrix_edge_auth::host::{RootId, StreamId};
use serde_json::json;

use crate::{
    ALICE, active, alice,
    simulated::{Cluster, Fate, Process, SimulatedWorker, gateway},
    unable, whoami,
};

/// Four workers, each with a request for the same cold token; the first one calls MAS.
fn herd() -> (Cluster, Vec<StreamId>) {
    let mut cluster = Cluster::new(4);
    let streams = cluster.request_each(&gateway(1, json!({})), &whoami(ALICE));
    let calls: Vec<_> = cluster.workers.iter().map(|w| w.calls().len()).collect();
    assert_eq!(calls, [1, 0, 0, 0]);
    (cluster, streams)
}

#[test]
fn a_hint_brings_the_answer_to_every_worker() {
    let (mut cluster, streams) = herd();
    cluster[0].answer_only_call(&active("alice"));
    cluster.deliver_all();
    assert_eq!(cluster.fates(&streams), vec![alice(); 4]);
    assert_eq!(cluster.metric("matrix_edge_auth_introspections_total"), 1);
    assert_eq!(cluster.process.messages(), 0);
}

#[test]
fn without_hints_the_answer_is_found_when_the_lease_runs_out() {
    let (mut cluster, streams) = herd();
    cluster[0].answer_only_call(&active("alice"));
    cluster.drop_hints();
    cluster.tick_for(Duration::from_millis(1_250));
    assert_eq!(cluster.fates(&streams), vec![alice(); 4]);
    assert_eq!(cluster.metric("matrix_edge_auth_introspections_total"), 1);
}

#[test]
fn a_lease_that_was_left_is_given_back_to_the_first_that_needs_it() {
    for hints_arrive in [true, false] {
        let gateway = gateway(1, json!({}));
        let mut cluster = Cluster::new(2);
        // Both take their places.
        cluster.request_each(&gateway, &whoami("mat_bad"));
        cluster[0].request(&gateway, whoami(ALICE));
        cluster[0].answer_only_call(&active("alice"));
        let refused = cluster[0].request(&gateway, whoami(ALICE));
        cluster[0].response(refused, 401);
        cluster.deliver_all();
        let waiting = cluster[1].request(&gateway, whoami(ALICE));
        assert!(cluster.calls().is_empty(), "the other one may be asking");
        if hints_arrive {
            cluster.deliver_all();
        } else {
            cluster.drop_hints();
            cluster.tick_for(Duration::from_millis(1_250));
        }
        cluster[1].answer_only_call(&active("alice"));
        assert_eq!(cluster[1].fate(waiting), alice());
    }
}

#[test]
fn a_failure_is_shared_too() {
    let (mut cluster, streams) = herd();
    cluster[0].answer_only_call("no verdict");
    cluster.deliver_all();
    assert_eq!(cluster.fates(&streams), vec![unable(); 4]);
    assert!(cluster.calls().is_empty());
}

#[test]
fn a_slow_answer_is_waited_for_under_a_renewed_lease() {
    let (mut cluster, streams) = herd();
    cluster.tick_for(Duration::from_millis(4_500));
    assert_eq!(cluster.calls().len(), 1);
    cluster[0].answer_only_call(&active("alice"));
    cluster.deliver_all();
    assert_eq!(cluster.fates(&streams), vec![alice(); 4]);
}

#[test]
fn a_worker_that_fails_costs_the_others_one_lease() {
    let (mut cluster, streams) = herd();
    cluster[0].reload();
    cluster.tick_for(Duration::from_millis(750));
    assert_eq!(cluster.calls().len(), 0);
    cluster.tick_for(Duration::from_millis(500));
    let asking: Vec<usize> = (0..4)
        .filter(|worker| !cluster[*worker].calls().is_empty())
        .collect();
    assert_eq!(asking.len(), 1, "one of the others asks");
    cluster[asking[0]].answer_only_call(&active("alice"));
    cluster.deliver_all();
    for (worker, stream) in cluster.workers.iter().zip(streams).skip(1) {
        assert_eq!(worker.fate(stream), alice());
    }
}

#[test]
fn a_configuration_that_ends_with_its_call_costs_the_others_one_lease() {
    let (mut cluster, streams) = herd();
    cluster[0].hang_up(streams[0]);
    cluster[0].drop_root(RootId(1));
    cluster.tick_for(Duration::from_millis(1_250));
    assert_eq!(cluster.calls().len(), 1);
}

#[test]
fn the_place_of_a_failed_worker_is_taken_over() {
    let process = Process::new();
    let gateway = gateway(1, json!({}));
    let mut worker = SimulatedWorker::new(&process);
    for _ in 0..50 {
        worker.request(&gateway, whoami("mat_bad"));
        worker.reload();
        process.advance(Duration::from_secs(5));
    }
    let keys = process.keys();
    assert_eq!(
        keys, 2,
        "one place, however often it fails, and the secret that names tokens"
    );
}

/// A lease holds for longer than a call may take there.
#[test]
fn with_a_short_timeout_too_who_waits_for_a_lease_calls_when_it_ends() {
    for timeout in [100, 300, 400, 500, 1_000] {
        let gateway = gateway(
            1,
            json!({"introspection": {"timeout": format!("{timeout}ms")}}),
        );
        let mut cluster = Cluster::new(2);
        let streams = cluster.request_each(&gateway, &whoami(ALICE));
        // The one that calls goes.
        cluster[0].reload();
        for _ in 0..8 {
            if cluster[1].calls().is_empty() {
                cluster.process.advance(Duration::from_millis(250));
                cluster[1].tick();
            }
        }
        assert_eq!(cluster[1].fate(streams[1]), Fate::Held, "{timeout}");
        cluster[1].answer_only_call(&active("alice"));
        assert_eq!(cluster[1].fate(streams[1]), alice());
    }
}
