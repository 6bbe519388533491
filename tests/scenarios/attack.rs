//! Floods: what they cost, and that they cost nobody else anything.

use serde_json::json;

use crate::{
    ALICE, BOB, INACTIVE, active, alice,
    simulated::{Process, SimulatedWorker, gateway},
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
        process.keys() <= 256 + 256 + leases + 5,
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
    // The first token makes the secret of the process.
    worker.request(
        &gateway,
        whoami("mat_000000000000000000000000000000_000000"),
    );
    let before = worker.host_calls();
    for number in 1..10_000 {
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
