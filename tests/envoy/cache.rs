//! One introspection per token and TTL for all workers of a process, and never past the token's own expiry.
//!
//! Where time must pass, real time does: a test waits for the moment at which an answer is asked for again,
//! and then checks that it came neither early nor late.

use std::time::Duration;

use serde_json::{Value, json};
use stand_in::{
    clock::Clock,
    mas::{Fault, Options, Session},
};
use tokio::time::Instant;

use super::edge::{Edge, WHOAMI, assert_not_active, identity, new_token};
use crate::support::{
    envoy::bootstrap,
    http::{self, Connection, Request, within_limit},
    product_time::{EARLY, Moment},
};

/// How late an expiry may be noticed, on a machine that does not stall.
const LATE: Duration = Duration::from_secs(2);

#[tokio::test]
async fn the_second_request_asks_nobody() {
    let edge = Edge::start(json!({})).await;
    let token = edge.alice();
    for request in [
        Request::get(WHOAMI).bearer(&token),
        Request::get(WHOAMI).bearer(&token),
        Request::get(format!("{WHOAMI}?access_token={token}")),
        Request::get("/_matrix/client/v3/sync").bearer(&token),
    ] {
        let seen = edge.pass(request).await;
        assert_eq!(identity(&seen), [["@alice:example.org"], ["PHONE"]]);
    }
    assert_eq!(edge.mas.total_calls(), 1);
}

/// A longer one costs a call each time, and the log says why, without the token.
#[tokio::test]
async fn answers_of_up_to_8_kib_are_kept() {
    for (bytes, calls) in [(8_192, 1), (8_193, 3)] {
        let edge = Edge::start(json!({})).await;
        let token = edge.alice();
        edge.mas.fault(Fault::oversized(bytes));
        for _ in 0..3 {
            assert_eq!(edge.whoami(&token).await.status, 200);
        }
        assert_eq!(edge.mas.calls(&token), calls, "{bytes} bytes");
        let log = edge.envoy.log();
        let said = log.matches("an answer of MAS has 8193 bytes").count();
        assert_eq!(said, usize::from(calls > 1), "once a minute: {log}");
        assert!(!log.contains(&token));
    }
}

/// Staleness is bounded by the TTL, and the homeserver checks for itself.
#[tokio::test]
async fn a_cached_token_stays_active_within_the_ttl() {
    let edge = Edge::start(json!({})).await;
    let token = edge.alice();
    edge.whoami(&token).await;
    edge.mas.revoke(&token);
    assert_eq!(edge.whoami(&token).await.status, 200);
    assert_eq!(edge.mas.calls(&token), 1);
}

#[tokio::test]
async fn what_one_worker_learned_all_workers_know() {
    let edge = Edge::start_with(json!({}), Options::default(), |builder| {
        builder.concurrency(2).bootstrap(balance_connections)
    })
    .await;
    let (active, inactive) = (edge.alice(), new_token("mat"));
    let mut connections = Vec::new();
    for _ in 0..8 {
        let mut connection = Connection::open(edge.envoy.addr()).await;
        let response = connection
            .request(&Request::get(WHOAMI).bearer(&active))
            .await;
        assert_eq!(response.status, 200, "{response:?}");
        assert_not_active(
            &connection
                .request(&Request::get(WHOAMI).bearer(&inactive))
                .await,
        );
        // Open connections are what Envoy balances.
        connections.push(connection);
    }
    let stats = edge.envoy.stats().await;
    for worker in ["0", "1"] {
        let name = "envoy_listener_worker_downstream_cx_active";
        assert_eq!(
            stats.sum(name, &[("envoy_worker_id", worker)]),
            4.0,
            "{stats:?}"
        );
    }
    assert_eq!(
        [&active, &inactive].map(|token| edge.mas.calls(token)),
        [1, 1]
    );
    // The worker that did not ask found it in the shared tables.
    for (verdict, others) in [
        ("active", &["shared", "local"][..]),
        // What a worker keeps for itself of these counts as shared.
        ("inactive", &["shared"]),
    ] {
        let requests = |source| {
            let labels = [("verdict", verdict), ("source", source)];
            stats.sum("matrix_edge_auth_requests_total", &labels)
        };
        assert_eq!(requests("mas"), 1.0, "{verdict}");
        assert!(requests("shared") >= 1.0, "{verdict}");
        let all: f64 = others.iter().copied().map(requests).sum();
        assert_eq!(all, 7.0, "{verdict}");
    }
}

#[tokio::test]
async fn an_active_answer_is_asked_for_again_after_the_ttl() {
    let edge = Edge::start(json!({"cache": {"ttl": "1s", "refresh_ahead": false}})).await;
    let token = new_token("mct");
    // Compat tokens do not expire.
    edge.mas.insert(&token, Session::compat("alice", "PHONE"));
    assert_lasts(&edge, &token, 200, Duration::from_secs(1)).await;
}

#[tokio::test]
async fn an_answer_is_not_kept_longer_than_the_token_lives() {
    // The stand-in's clock stands, so that every answer gives the token two seconds more.
    let edge = start_at(
        Clock::manual(Duration::from_secs(1_800_000_000)),
        json!({"cache": {"ttl": "1h", "refresh_ahead": false}}),
    )
    .await;
    let token = new_token("mat");
    edge.mas.insert(
        &token,
        Session::access("alice", "PHONE").expires_in(Duration::from_secs(2)),
    );
    assert_lasts(&edge, &token, 200, Duration::from_secs(2)).await;
}

#[tokio::test]
async fn an_expired_token_is_inactive() {
    let edge = Edge::start(json!({"cache": {"ttl": "1h"}})).await;
    let token = new_token("mat");
    let life = Duration::from_secs(2);
    edge.mas
        .insert(&token, Session::access("alice", "PHONE").expires_in(life));
    let (inserted, by_product) = (Instant::now(), Moment::now());
    let (at_most, at_least) = within_limit("the token to expire", async {
        loop {
            let sent = by_product.elapsed();
            let response = edge.whoami(&token).await;
            if response.status != 200 {
                assert_not_active(&response);
                return (inserted.elapsed(), sent);
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    // MAS says "2 seconds" to the nearest.
    assert!(at_most > life - Duration::from_millis(600), "{at_most:?}");
    assert!(at_least < life + LATE, "{at_least:?}");
}

#[tokio::test]
async fn a_token_with_no_whole_second_left_is_not_cached() {
    let clock = Clock::manual(Duration::from_secs(1_800_000_000));
    let edge = start_at(clock, json!({})).await;
    let token = new_token("mat");
    edge.mas.insert(
        &token,
        Session::access("alice", "PHONE").expires_in(Duration::from_millis(300)),
    );
    for calls in 1..=3 {
        let seen = edge.pass(Request::get(WHOAMI).bearer(&token)).await;
        assert_eq!(identity(&seen), [["@alice:example.org"], ["PHONE"]]);
        assert_eq!(edge.mas.calls(&token), calls);
    }
}

#[tokio::test]
async fn an_inactive_answer_is_kept_for_its_own_shorter_time() {
    let edge = Edge::start(json!({"cache": {"negative_ttl": "1s", "ttl": "1h"}})).await;
    assert_lasts(&edge, &new_token("mat"), 401, Duration::from_secs(1)).await;
}

/// Unlocking a user revives the same token.
#[tokio::test]
async fn an_inactive_token_can_become_active_again() {
    let edge = Edge::start(json!({"cache": {"negative_ttl": "1s"}})).await;
    let token = edge.alice();
    edge.mas.lock_user("alice");
    assert_not_active(&edge.whoami(&token).await);
    edge.mas.unlock_user("alice");
    within_limit("the negative answer to end", async {
        while edge.whoami(&token).await.status != 200 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    assert_eq!(edge.mas.calls(&token), 2);
}

#[tokio::test]
async fn inactive_answers_need_not_be_kept() {
    let edge = Edge::start(json!({"cache": {"negative_ttl": "0s"}})).await;
    let token = new_token("mat");
    for calls in 1..=3 {
        assert_not_active(&edge.whoami(&token).await);
        assert_eq!(edge.mas.calls(&token), calls);
    }
}

#[tokio::test]
async fn a_full_cache_forgets_but_never_mistakes() {
    let edge = Edge::start(json!({"cache": {"slots": 4, "negative_slots": 2}})).await;
    let users: Vec<(String, String)> = (0..40)
        .map(|n| format!("user{n}"))
        .map(|user| (edge.active(&user, "X"), format!("@{user}:example.org")))
        .collect();
    for _ in 0..2 {
        for (token, user_id) in &users {
            let seen = edge.pass(Request::get(WHOAMI).bearer(token)).await;
            assert_eq!(identity(&seen)[0], [user_id]);
            assert_not_active(&edge.whoami(&new_token("mat")).await);
        }
    }
    let again = edge.mas.total_calls();
    let (token, _) = &users[39];
    edge.pass(Request::get(WHOAMI).bearer(token)).await;
    assert_eq!(edge.mas.total_calls(), again, "the last one is still there");
}

/// Checks that the answer to `token` is kept for `life`, counted from before it was asked for.
async fn assert_lasts(edge: &Edge, token: &str, status: u16, life: Duration) {
    let before = Instant::now();
    assert_eq!(edge.whoami(token).await.status, status);
    let after = Moment::now();
    within_limit("the answer to be asked for again", async {
        while edge.mas.calls(token) == 1 {
            // Early enough to be a hit for certain, or at most a hit.
            assert_eq!(edge.whoami(token).await.status, status);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    let (shortest, longest) = (after.elapsed(), before.elapsed());
    assert_eq!(edge.mas.calls(token), 2);
    assert!(longest >= life - EARLY, "asked again after {longest:?}");
    assert!(shortest < life + LATE, "asked again after {shortest:?}");
}

async fn start_at(clock: Clock, changes: Value) -> Edge {
    let options = Options {
        clock,
        ..Options::default()
    };
    Edge::start_with(changes, options, |builder| builder).await
}

/// Every worker gets the same number of open connections.
fn balance_connections(config: &mut Value) {
    bootstrap::listener(config)["connection_balance_config"] = json!({"exact_balance": {}});
}

/// What the README says a cached session takes, of the memory that Envoy has allocated: shared data, without the
/// memory of the VMs.
#[tokio::test]
async fn a_session_takes_about_690_bytes_of_shared_data() {
    const SESSIONS: usize = 4_000;
    let edge = Edge::start(json!({"cache": {"local_entries": 0}})).await;
    let mut connection = Connection::open(edge.envoy.addr()).await;
    let mut use_sessions = async |number: usize| -> u64 {
        for user in 0..number {
            let token = edge.active(&format!("user{user}"), "ABCDEFGHIJ");
            let response = connection
                .request(&Request::get(WHOAMI).bearer(&token))
                .await;
            assert_eq!(response.status, 200);
        }
        let memory = http::send(edge.envoy.admin(), &Request::get("/memory")).await;
        let allocated = memory.json()["allocated"].take();
        let allocated = allocated.as_str().expect("a number as text").parse();
        allocated.expect("a number of bytes")
    };
    let before = use_sessions(SESSIONS / 4).await;
    let after = use_sessions(SESSIONS).await;
    let each = after.saturating_sub(before) / SESSIONS as u64;
    println!("{each} bytes for each of {SESSIONS} sessions");
    assert!((550..=800).contains(&each), "{each}");
}
