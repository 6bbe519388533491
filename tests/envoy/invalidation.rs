//! A token that MAS calls inactive is inactive on every worker within a second, whatever the worker holds.

use std::{sync::Arc, time::Duration};

use serde_json::json;
use tokio::{
    task::JoinSet,
    time::{Instant, sleep, sleep_until},
};

use super::{
    edge::{Edge, WHOAMI, assert_not_active},
    workers::{POLL, WORKERS, connections, decided, start},
};
use crate::support::{
    http::{Connection, Request, within_limit},
    product_time::{Moment, Stalls},
};

const TRIALS: usize = 6;

/// Long enough that a worker which heard of nothing would go on for 1.5 s after the renewal: that comes a
/// tenth of the TTL before the end, and a worker lets go of its own answer a second before the end.
const TTL: Duration = Duration::from_secs(25);

/// From then on the tokens are in use again: well before the renewal.
const IN_USE: Duration = Duration::from_secs(20);

const LIMIT: Duration = Duration::from_secs(1);

/// What one connection saw.
struct Seen {
    /// When the last request was sent that was let through.
    let_through: Moment,
    /// When the first 401 came.
    rejected: Moment,
}

#[tokio::test]
async fn every_worker_rejects_within_a_second_of_the_first() {
    let edge = Arc::new(start(json!({"cache": {"ttl": format!("{}s", TTL.as_secs())}})).await);
    let mut connections = connections(&edge, TRIALS).await;
    let tokens: Vec<String> = (0..TRIALS).map(|_| edge.alice()).collect();
    let (cold, stalls) = (Instant::now(), Stalls::measure());
    // The second time, each worker answers by itself.
    for _ in 0..2 {
        for (connections, token) in connections.chunks_mut(WORKERS).zip(&tokens) {
            for connection in connections {
                let request = Request::get(WHOAMI).bearer(token);
                assert_eq!(connection.request(&request).await.status, 200);
            }
        }
    }
    let own = (TRIALS * WORKERS) as f64;
    assert_eq!(decided(&edge, "active", "local").await, own);

    for token in &tokens {
        edge.mas.revoke(token);
    }
    sleep_until(cold + IN_USE).await;
    let mut trials = Vec::new();
    let mut connections = connections.into_iter();
    for token in &tokens {
        let mut seen = JoinSet::new();
        for connection in connections.by_ref().take(WORKERS) {
            seen.spawn(use_until_rejected(
                Arc::clone(&edge),
                connection,
                token.clone(),
            ));
        }
        trials.push(seen);
    }
    let (mut worst, mut spread) = (Duration::ZERO, Duration::ZERO);
    for seen in trials {
        let seen = within_limit("every worker to reject", seen.join_all()).await;
        assert_eq!(seen.len(), WORKERS);
        let rejected = seen.iter().map(|seen| seen.rejected);
        let first = rejected.clone().min().expect("four of them");
        for seen in &seen {
            worst = worst.max(seen.let_through.since(first));
            spread = spread.max(seen.rejected.since(first));
        }
    }
    println!("after the first 401, at worst of {TRIALS} trials:");
    println!(
        "a request let through was sent {worst:?} later, the last worker's 401 came {spread:?} later"
    );
    assert!(worst <= LIMIT);
    // The first and the renewal.
    let each = stalls.calls_for_a_token(WORKERS);
    for token in &tokens {
        let calls = edge.mas.calls(token);
        assert!((2..=2 * each.end()).contains(&calls), "{calls} calls");
    }
    edge.assert_alive().await;
}

/// Uses a token until it is rejected, and long enough after that to see whether that lasts.
async fn use_until_rejected(edge: Arc<Edge>, mut connection: Connection, token: String) -> Seen {
    let request = Request::get(WHOAMI).bearer(&token);
    let (mut let_through, mut rejected) = (Moment::now(), None);
    while rejected.is_none_or(|rejected: Moment| rejected.elapsed() < 2 * LIMIT) {
        let sent = Moment::now();
        let response = connection.request(&request).await;
        if response.status == 200 {
            assert_eq!(rejected, None, "a worker went back on its word");
            let_through = sent;
        } else {
            assert_not_active(&response);
            rejected.get_or_insert_with(Moment::now);
        }
        sleep(POLL).await;
    }
    assert!(edge.envoy.is_alive());
    Seen {
        let_through,
        rejected: rejected.expect("it was rejected"),
    }
}
