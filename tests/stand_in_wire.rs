//! The stand-in MAS answers as a real MAS 1.22 was recorded to answer (`tests/wire/mas.jsonl`).
//!
//! Each recorded request goes over a raw socket, byte for byte, in the recorded order; the status line, the headers
//! with their order, and the body must be the recorded ones. `support/recorded_mas.rs` says what is not compared.

#![expect(
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test file"
)]

mod support {
    pub mod recorded_mas;
    pub mod replayed_mas;
}

use std::collections::BTreeSet;

use support::{
    recorded_mas::{OUT_OF_SCOPE, exchange, records},
    replayed_mas::Replay,
};

#[tokio::test]
async fn every_recorded_exchange_is_answered_as_recorded() {
    let records = records();
    let mut replay = Replay::start(&records).await;
    let mut differences = Vec::new();
    let mut introspections = 0;
    for record in records.iter().filter(|record| !record.is_out_of_scope()) {
        replay.advance_to(record);
        introspections += u64::from(record.request.starts_with("POST /oauth2/introspect "));
        let answer = exchange(replay.mas.addr(), &record.request_bytes()).await;
        if let Err(difference) = record.compare(&answer, &[]) {
            differences.push(format!("{}: {difference}", record.name));
        }
    }
    assert!(
        differences.is_empty(),
        "{} differ:\n{}",
        differences.len(),
        differences.join("\n")
    );
    assert_eq!(
        replay.mas.total_calls(),
        introspections,
        "every introspection is counted"
    );
}

#[test]
fn what_is_out_of_scope_is_recorded_and_of_an_endpoint_that_is_not_served() {
    let records = records();
    let recorded: BTreeSet<&str> = records.iter().map(|record| record.name.as_str()).collect();
    assert_eq!(recorded.len(), records.len(), "names are unique");
    for (name, reason) in OUT_OF_SCOPE {
        assert!(recorded.contains(name), "{name} ({reason}) is not recorded");
    }
    for record in records.iter().filter(|record| record.is_out_of_scope()) {
        let target = record.request.split(' ').nth(1).expect("a request line");
        assert!(
            [
                "/_matrix/client/v3/login",
                "/_matrix/client/v3/refresh",
                "/oauth2/token"
            ]
            .contains(&target),
            "{}: {target} is served, so it must be replayed",
            record.name
        );
    }
}
