//! Floods: what they cost, and that they cost nobody else anything.

use std::time::Duration;

use serde_json::json;

use crate::{
    ALICE, BOB, INACTIVE, WHOAMI, active, alice,
    simulated::{Cluster, Fate, Process, Request, SimulatedWorker, gateway},
    whoami,
};

/// Returns a token that MAS could have made: the checksum is right. It is computed here once more, so that a
/// mistake in the module's own check shows.
pub fn invented(number: u32) -> String {
    const DIGITS: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
    let body = format!("mat_{number:030}");
    let mut crc = !0_u32;
    for byte in body.bytes() {
        crc ^= u32::from(byte);
        for _ in 0..8 {
            crc = (crc >> 1) ^ if crc & 1 == 1 { 0xedb8_8320 } else { 0 };
        }
    }
    let mut left = !crc;
    let mut check = String::new();
    while left > 0 {
        check.push(char::from(DIGITS[left as usize % 62]));
        left /= 62;
    }
    format!("{body}_{check:0>6}")
}

#[test]
fn invented_tokens_neither_grow_memory_nor_evict_a_session() {
    let process = Process::new();
    let mut worker = SimulatedWorker::new(&process);
    let slots = json!({"cache": {"slots": 256, "negative_slots": 256}});
    let gateway = gateway(1, slots);
    for token in [ALICE, BOB] {
        worker.request(&gateway, whoami(token));
        worker.answer_only_call(&active("alice"));
    }
    for number in 0..20_000 {
        let stream = worker.request(&gateway, whoami(&invented(number)));
        worker.answer_only_call(INACTIVE);
        worker.hang_up(stream);
    }
    let leases = 16_384;
    assert!(
        process.keys() <= 256 + 256 + leases + 3,
        "{} keys",
        process.keys()
    );
    let calls = process.metric("matrix_edge_auth_introspections_total");
    worker.tick();
    let looked = worker.host_calls()["read shared data"];
    for token in [ALICE, BOB] {
        assert_eq!(worker.send(&gateway, whoami(token)), alice());
    }
    assert_eq!(
        process.metric("matrix_edge_auth_introspections_total"),
        calls
    );
    let again = worker.host_calls()["read shared data"];
    assert_eq!(
        again, looked,
        "the flood does not send hits back to shared data"
    );
}

#[test]
fn bad_checksums_cost_no_call_and_no_write() {
    let process = Process::new();
    let mut worker = SimulatedWorker::new(&process);
    let gateway = gateway(1, json!({}));
    worker.request(&gateway, Request::get("/_matrix/client/versions"));
    let before = worker.host_calls();
    for number in 0..10_000 {
        let token = format!("mat_{number:030}_000000");
        let stream = worker.request(&gateway, whoami(&token));
        assert_eq!(worker.fate(stream).status(), Some(401));
        worker.hang_up(stream);
    }
    let after = worker.host_calls();
    for call in ["dispatch", "write shared data", "read shared data"] {
        assert_eq!(before.get(call), after.get(call), "{call}");
    }
}

#[test]
fn a_source_over_its_budget_is_limited_and_others_are_not() {
    let mut cluster = Cluster::new(2);
    let budget = json!({"unknown_token_budget": {"per_source": 50, "window": "10s"}});
    let gateway = gateway(1, budget);
    let ask = |number| {
        Request::get(WHOAMI)
            .bearer(&invented(number))
            .source("192.0.2.1")
    };
    for number in 0..50 {
        let worker = &mut cluster[number as usize % 2];
        worker.request(&gateway, ask(number));
        worker.answer_only_call(INACTIVE);
    }
    cluster.process.advance(Duration::from_secs(4));
    for worker in &mut cluster.workers {
        worker.tick();
        let fate = worker.send(&gateway, ask(100));
        let Fate::Replied(429, body) = fate else {
            panic!("{fate:?}")
        };
        let expected =
            r#"{"errcode":"M_LIMIT_EXCEEDED","error":"Too Many Requests","retry_after_ms":6000}"#;
        assert_eq!(body, expected);
        assert!(worker.calls().is_empty());
        // What is known is not counted, and other sources are untouched.
        assert_eq!(worker.send(&gateway, ask(1)).status(), Some(401));
    }
    let other = Request::get(WHOAMI)
        .bearer(&invented(101))
        .source("192.0.2.2");
    assert_eq!(cluster[0].send(&gateway, other), Fate::Held);
    cluster.process.advance(Duration::from_secs(6));
    cluster[1].tick();
    assert_eq!(
        cluster[1].send(&gateway, ask(102)),
        Fate::Held,
        "a new window"
    );
}

#[test]
fn active_tokens_are_not_charged() {
    let process = Process::new();
    let mut worker = SimulatedWorker::new(&process);
    let budget = json!({"unknown_token_budget": {"per_source": 1, "window": "1h"}});
    let gateway = gateway(1, budget);
    for number in 0..100 {
        let stream = worker.request(
            &gateway,
            Request::get(WHOAMI)
                .bearer(&invented(number))
                .source("192.0.2.1"),
        );
        worker.answer_only_call(&active("alice"));
        assert_eq!(worker.fate(stream), alice());
    }
}

#[test]
fn an_active_token_that_two_workers_want_is_charged_to_nobody() {
    let budget = json!({"unknown_token_budget": {"per_source": 2, "window": "1h"}});
    let gateway = gateway(1, budget);
    let mut cluster = Cluster::new(2);
    for number in 0..10 {
        let request = Request::get(WHOAMI)
            .bearer(&invented(number))
            .source("192.0.2.1");
        let streams = cluster.request_each(&gateway, &request);
        cluster[0].answer_only_call(&active("alice"));
        cluster.deliver_all();
        assert_eq!(cluster.fates(&streams), vec![alice(); 2]);
    }
}

#[test]
fn the_state_of_budgets_is_bounded() {
    let process = Process::new();
    let mut worker = SimulatedWorker::new(&process);
    let budget = json!({
        "unknown_token_budget": {"per_source": 1, "window": "1h"},
        "cache": {"negative_ttl": "0s"},
    });
    let gateway = gateway(1, budget);
    for number in 0..10_000_u32 {
        let source = std::net::Ipv4Addr::from(number).to_string();
        let request = Request::get(WHOAMI)
            .bearer(&invented(number % 10))
            .source(&source);
        let stream = worker.request(&gateway, request);
        worker.answer_only_call(INACTIVE);
        worker.hang_up(stream);
    }
    let (counts, leases, rest) = (4_096, 20, 3);
    assert!(
        process.keys() <= counts + leases + rest,
        "{} keys",
        process.keys()
    );
}
