//! A token in use never waits for MAS after its first request; one that is no longer used costs nothing.

use std::time::Duration;

use serde_json::json;
use stand_in::mas::Fault;
use tokio::time::{Instant, sleep};

use super::{
    edge::{Edge, WHOAMI},
    workers::{POLL, WORKERS, connections, decided, start},
};
use crate::support::http::{self, Request};

const TTL: Duration = Duration::from_secs(3);

const HELD: &str = "matrix_edge_auth_held_duration_milliseconds";

#[tokio::test]
async fn a_token_in_use_waits_once_and_costs_one_call_per_ttl() {
    let edge = start(json!({"cache": {"ttl": "3s"}})).await;
    let mut connections = connections(&edge, 1).await;
    let token = edge.alice();
    let request = Request::get(WHOAMI).bearer(&token);
    let cold = Instant::now();
    let mut sent = 0;
    while cold.elapsed() < 3 * TTL {
        for connection in &mut connections {
            let response = connection.request(&request).await;
            assert_eq!(response.status, 200, "{response:?}");
            sent += 1;
        }
        sleep(POLL).await;
    }
    println!("{sent} requests on {WORKERS} workers");
    // The first request only.
    assert_waits(&edge, 1.0).await;
    // Renewed at nine tenths of the TTL each time.
    assert_eq!(edge.mas.calls(&token), 4, "in three TTLs");
    let refreshes = edge.envoy.stats().await;
    let refreshes = refreshes.sum("matrix_edge_auth_refreshes_total", &[]);
    assert_eq!(refreshes, 3.0);

    // Nobody uses it for longer than any answer lasts.
    sleep(2 * TTL).await;
    assert_eq!(edge.mas.calls(&token), 4);
    assert_eq!(edge.whoami(&token).await.status, 200);
    assert_eq!(edge.mas.calls(&token), 5);
    assert_waits(&edge, 2.0).await;
    edge.assert_alive().await;
}

/// A MAS that takes its time is not noticed either, as long as it answers before the end.
#[tokio::test]
async fn a_slow_renewal_makes_nobody_wait() {
    let edge = start(json!({"cache": {"ttl": "10s"}})).await;
    let mut connections = connections(&edge, 1).await;
    let token = edge.alice();
    let request = Request::get(WHOAMI).bearer(&token);
    assert_eq!(connections[0].request(&request).await.status, 200);
    edge.mas.fault(Fault::delay(Duration::from_millis(500)));
    let warm = Instant::now();
    while edge.mas.calls(&token) < 2 || warm.elapsed() < Duration::from_secs(11) {
        assert!(warm.elapsed() < http::LIMIT, "it is renewed");
        for connection in &mut connections {
            assert_eq!(connection.request(&request).await.status, 200);
        }
        sleep(POLL).await;
    }
    // The first request only.
    assert_waits(&edge, 1.0).await;
    assert_eq!(edge.mas.calls(&token), 2);
}

/// Checks how many requests have waited, and prints for how long.
async fn assert_waits(edge: &Edge, expected: f64) {
    assert_eq!(decided(edge, "active", "mas").await, expected);
    // Envoy collects histograms from its workers in its own time after it was asked.
    edge.wait_for_metric(&format!("{HELD}_count"), &[], expected)
        .await;
    let stats = http::send(edge.envoy.admin(), &Request::get("/stats/prometheus")).await;
    let waits = stats.text().lines().filter(|line| line.starts_with(HELD));
    waits.for_each(|line| println!("{line}"));
}
