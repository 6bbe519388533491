//! Trailers of a request: none of them is an identity that the client made up, whenever they come.

use matrix_edge_auth::host::StreamId;
use serde_json::json;

use crate::{
    ALICE, active, alice,
    simulated::{Fate, Process, SimulatedWorker, gateway},
    whoami,
};

const FORGED: [(&str, &str); 4] = [
    ("x-matrix-user-id", "@admin:example.org"),
    ("x-checksum", "1234"),
    ("x-matrix-device-id", "FORGED"),
    ("x-matrix-user-id", "@other:example.org"),
];

fn trailers(worker: &SimulatedWorker, stream: StreamId) -> Vec<(String, Vec<u8>)> {
    worker.seen_by_homeserver(stream).trailers
}

#[test]
fn trailers_are_cleaned_while_the_request_is_held_and_after() {
    let process = Process::new();
    let mut worker = SimulatedWorker::new(&process);
    let gateway = gateway(1, json!({}));
    let clean = [("x-checksum".to_owned(), b"1234".to_vec())];
    let held = worker.request_headers(&gateway, whoami(ALICE), false);
    worker.request_trailers(held, &FORGED);
    assert_eq!(worker.fate(held), Fate::Held);
    worker.answer_only_call(&active("alice"));
    assert_eq!(worker.fate(held), alice());
    assert_eq!(trailers(&worker, held), clean);
    let passing = worker.request_headers(&gateway, whoami(ALICE), false);
    worker.request_trailers(passing, &FORGED);
    assert_eq!(worker.fate(passing), alice());
    assert_eq!(trailers(&worker, passing), clean);
}

#[test]
fn a_request_whose_trailers_cannot_be_cleaned_is_answered_once() {
    let process = Process::new();
    let mut worker = SimulatedWorker::new(&process);
    let gateway = gateway(1, json!({}));
    let held = worker.request_headers(&gateway, whoami(ALICE), false);
    worker.faults().trailers.set(true);
    worker.request_trailers(held, &FORGED);
    assert_eq!(worker.fate(held).status(), Some(500));
    worker.answer_only_call(&active("alice"));
    assert_eq!(worker.fate(held).status(), Some(500));
    let passing = worker.request_headers(&gateway, whoami(ALICE), false);
    worker.request_trailers(passing, &FORGED);
    assert_eq!(worker.fate(passing).status(), Some(500));
}
