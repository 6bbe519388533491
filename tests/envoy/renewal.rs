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
    let mut use_ = Use::new(TTL / 10);
    let mut sent = 0;
    while use_.begun.elapsed() < 3 * TTL {
        for connection in &mut connections {
            let response = connection.request(&request).await;
            assert_eq!(response.status, 200, "{response:?}");
            sent += 1;
        }
        use_.note();
        sleep(POLL).await;
    }
    println!(
        "{sent} requests on {WORKERS} workers, {} pauses",
        use_.pauses
    );
    // The first request only.
    let waits = waits(&edge).await;
    assert!(use_.is_first_or_after_a_pause(waits), "{waits} have waited");
    // Renewed at nine tenths of the TTL each time.
    let calls = edge.mas.calls(&token);
    assert!((3..=4).contains(&calls), "{calls} in three TTLs");
    assert!(calls == 4 || use_.pauses > 0, "{calls} in three TTLs");
    let refreshes = edge.envoy.stats().await;
    let refreshes = refreshes.sum("matrix_edge_auth_refreshes_total", &[]);
    // After a pause a request may make the call, or wait for the renewal.
    assert!((calls as f64 - waits..=calls as f64 - 1.0).contains(&refreshes));

    // Nobody uses it for longer than any answer lasts.
    sleep(2 * TTL).await;
    assert_eq!(edge.mas.calls(&token), calls);
    assert_eq!(edge.whoami(&token).await.status, 200);
    assert_eq!(edge.mas.calls(&token), calls + 1);
    assert_eq!(self::waits(&edge).await, waits + 1.0);
    edge.assert_alive().await;
}

/// A MAS that takes its time is not noticed either, as long as it answers before the end.
#[tokio::test]
async fn a_slow_renewal_makes_nobody_wait() {
    // Half a second of the tenth of the TTL.
    const SLOW: Duration = Duration::from_millis(500);
    let edge = start(json!({"cache": {"ttl": "10s"}})).await;
    let mut connections = connections(&edge, 1).await;
    let token = edge.alice();
    let request = Request::get(WHOAMI).bearer(&token);
    assert_eq!(connections[0].request(&request).await.status, 200);
    edge.mas.fault(Fault::delay(SLOW));
    let mut use_ = Use::new(Duration::from_secs(1) - SLOW);
    while edge.mas.calls(&token) < 2 || use_.begun.elapsed() < Duration::from_secs(11) {
        assert!(use_.begun.elapsed() < http::LIMIT, "it is renewed");
        for connection in &mut connections {
            assert_eq!(connection.request(&request).await.status, 200);
        }
        use_.note();
        sleep(POLL).await;
    }
    // The first request only.
    let waits = waits(&edge).await;
    assert!(use_.is_first_or_after_a_pause(waits), "{waits} have waited");
    assert_eq!(edge.mas.calls(&token), 2);
}

/// The use of a token. On a machine that stalls, it pauses.
struct Use {
    begun: Instant,
    noted: Instant,
    /// As long as a pause may be for an answer to be renewed in time.
    longest: Duration,
    /// How many were longer.
    pauses: usize,
}

impl Use {
    fn new(longest: Duration) -> Self {
        let begun = Instant::now();
        Self {
            begun,
            noted: begun,
            // The renewal takes a moment too.
            longest: longest / 2,
            pauses: 0,
        }
    }

    /// The token was used now.
    fn note(&mut self) {
        let now = Instant::now();
        self.pauses += usize::from(now - self.noted > self.longest);
        self.noted = now;
    }

    /// Whether so many requests may have waited: the first, and after each pause another one.
    fn is_first_or_after_a_pause(&self, waits: f64) -> bool {
        (1.0..=1.0 + self.pauses as f64).contains(&waits)
    }
}

/// Returns how many requests have waited for MAS, and prints for how long.
async fn waits(edge: &Edge) -> f64 {
    let waits = decided(edge, "active", "mas").await;
    // Envoy collects histograms from its workers in its own time after it was asked.
    edge.wait_for_metric(&format!("{HELD}_count"), &[], waits)
        .await;
    let stats = http::send(edge.envoy.admin(), &Request::get("/stats/prometheus")).await;
    let lines = stats.text().lines().filter(|line| line.starts_with(HELD));
    lines.for_each(|line| println!("{line}"));
    waits
}
