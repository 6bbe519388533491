//! A client that brings all its dead tokens at once.

use std::time::Duration;

use serde_json::json;
use stand_in::mas::Fault;
use tokio::task::JoinSet;

use super::{
    edge::{WHOAMI, new_token},
    workers::{WORKERS, connections, start},
};
use crate::support::http::Request;

/// What waits in line is asked about only while the budget of its client allows it.
#[tokio::test(flavor = "multi_thread")]
async fn a_budget_counts_for_what_waits_in_line() {
    const BUDGET: usize = 5;
    const CAP: usize = 8;
    const TOKENS: usize = 400;
    let edge = start(json!({
        "introspection": {"max_in_flight": CAP},
        "unknown_token_budget": {"per_source": BUDGET, "window": "1h"},
    }))
    .await;
    let connections = connections(&edge, TOKENS / WORKERS).await;
    edge.mas.fault(Fault::delay(Duration::from_millis(20)));
    let mut answers = JoinSet::new();
    for mut connection in connections {
        answers.spawn(async move {
            let request = Request::get(WHOAMI).bearer(&new_token("mat"));
            connection.request(&request).await.status
        });
    }
    let answers = answers.join_all().await;
    let count = |status| answers.iter().filter(|answer| **answer == status).count();
    println!(
        "{} calls; {} x 401, {} x 429, {} x 503",
        edge.mas.total_calls(),
        count(401),
        count(429),
        count(503)
    );
    // What was under way when the budget was spent.
    assert!(edge.mas.total_calls() <= (BUDGET + CAP * WORKERS) as u64);
}
