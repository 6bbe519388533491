//! Several workers: one call between them, whoever is lost.

use std::time::Duration;

use matrix_edge_auth::host::RootId;
use serde_json::json;

use crate::{
    ALICE, active,
    simulated::{Fate, Process, SimulatedWorker, gateway},
    unable, whoami,
};

fn alice() -> Fate {
    Fate::forwarded_as("@alice:example.org")
}

/// Four workers, each with a request for the same cold token; the first one asks.
fn herd(
    process: &std::rc::Rc<Process>,
) -> (Vec<SimulatedWorker>, Vec<matrix_edge_auth::host::StreamId>) {
    let gateway = gateway(1, json!({}));
    let mut workers: Vec<_> = (0..4).map(|_| SimulatedWorker::new(process)).collect();
    let streams = workers
        .iter_mut()
        .map(|worker| worker.request(&gateway, whoami(ALICE)))
        .collect();
    let calls: Vec<usize> = workers.iter().map(|worker| worker.calls().len()).collect();
    assert_eq!(calls, [1, 0, 0, 0]);
    (workers, streams)
}

fn tick_for(process: &Process, workers: &mut [SimulatedWorker], millis: u64) {
    for _ in 0..millis / 250 {
        process.advance(Duration::from_millis(250));
        workers.iter_mut().for_each(SimulatedWorker::tick);
    }
}

#[test]
fn a_hint_brings_the_answer_to_every_worker() {
    let process = Process::new();
    let (mut workers, streams) = herd(&process);
    workers[0].answer_the_call(&active("alice"));
    for (worker, stream) in workers.iter_mut().zip(streams) {
        while worker.deliver() {}
        assert_eq!(worker.fate(stream), alice());
    }
    assert_eq!(process.metric("matrix_edge_auth_introspections_total"), 1);
    assert_eq!(process.messages(), 0);
}

#[test]
fn without_hints_the_answer_is_found_when_the_lease_runs_out() {
    let process = Process::new();
    let (mut workers, streams) = herd(&process);
    workers[0].answer_the_call(&active("alice"));
    workers.iter_mut().for_each(SimulatedWorker::lose_hints);
    tick_for(&process, &mut workers, 1_250);
    for (worker, stream) in workers.iter().zip(streams) {
        assert_eq!(worker.fate(stream), alice());
    }
    assert_eq!(process.metric("matrix_edge_auth_introspections_total"), 1);
}

#[test]
fn a_failure_is_shared_too() {
    let process = Process::new();
    let (mut workers, streams) = herd(&process);
    workers[0].answer_the_call("no verdict");
    for (worker, stream) in workers.iter_mut().zip(streams) {
        while worker.deliver() {}
        assert_eq!(worker.fate(stream), unable());
        assert!(worker.calls().is_empty());
    }
}

#[test]
fn a_slow_answer_is_waited_for_under_a_renewed_lease() {
    let process = Process::new();
    let (mut workers, streams) = herd(&process);
    tick_for(&process, &mut workers, 4_500);
    assert_eq!(
        workers
            .iter()
            .map(|worker| worker.calls().len())
            .sum::<usize>(),
        1
    );
    workers[0].answer_the_call(&active("alice"));
    for (worker, stream) in workers.iter_mut().zip(streams) {
        while worker.deliver() {}
        assert_eq!(worker.fate(stream), alice());
    }
}

#[test]
fn a_worker_that_fails_costs_the_others_one_lease() {
    let process = Process::new();
    let (mut workers, streams) = herd(&process);
    workers[0].reload();
    tick_for(&process, &mut workers, 750);
    assert_eq!(
        workers
            .iter()
            .map(|worker| worker.calls().len())
            .sum::<usize>(),
        0
    );
    tick_for(&process, &mut workers, 500);
    let asking: Vec<usize> = (0..4)
        .filter(|worker| !workers[*worker].calls().is_empty())
        .collect();
    assert_eq!(asking.len(), 1, "one of the others asks");
    workers[asking[0]].answer_the_call(&active("alice"));
    for (worker, stream) in workers.iter_mut().zip(streams).skip(1) {
        while worker.deliver() {}
        assert_eq!(worker.fate(stream), alice());
    }
}

#[test]
fn a_configuration_that_ends_with_its_call_costs_the_others_one_lease() {
    let process = Process::new();
    let (mut workers, streams) = herd(&process);
    workers[0].hang_up(streams[0]);
    workers[0].drop_root(RootId(1));
    tick_for(&process, &mut workers, 1_250);
    let calls: usize = workers.iter().map(|worker| worker.calls().len()).sum();
    assert_eq!(calls, 1);
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
    assert_eq!(process.keys(), 1, "one place, however often the VM fails");
}
