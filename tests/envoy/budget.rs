//! The budget of each client address: it counts distinct tokens that MAS called inactive, and nothing else. What one
//! address has under way is bounded by its share of the calls.

use std::time::Duration;

use serde_json::{Value, json};
use stand_in::mas::{Fault, Options};
use tokio::time::sleep;

use super::{
    edge::{Edge, WHOAMI, assert_no_verdict, assert_not_active, new_token},
    workers::{WORKERS, connections, decided, start_with},
};
use crate::support::{
    envoy::bootstrap,
    http::{Connection, Request, Response},
};

/// The address of an office.
const OFFICE: &str = "192.0.2.1";

/// One worker behind a proxy that tells each client's address, with a budget of so many tokens an hour.
async fn behind_a_proxy(per_source: usize, mut changes: Value) -> Edge {
    changes["unknown_token_budget"] = json!({"per_source": per_source, "window": "1h"});
    Edge::start_with(changes, Options::default(), |builder| {
        builder.bootstrap(|config| {
            bootstrap::http_manager(config)["xff_num_trusted_hops"] = 1.into();
        })
    })
    .await
}

/// A request of the client at `address`.
fn from(address: &str, token: &str) -> Request {
    Request::get(WHOAMI)
        .bearer(token)
        .header("X-Forwarded-For", address)
}

#[tokio::test]
async fn an_outage_of_mas_costs_nothing() {
    let edge = behind_a_proxy(3, json!({})).await;
    let mut tokens = Vec::new();
    for fault in [Fault::status(500, ""), Fault::reset()] {
        edge.mas.fault(fault);
        for _ in 0..5 {
            let token = edge.alice();
            assert_no_verdict(&edge.send(&from(OFFICE, &token)).await);
            tokens.push(token);
        }
        edge.mas.clear_faults();
    }
    for token in &tokens {
        let again = edge.send_until_verdict(&from(OFFICE, token)).await;
        assert_eq!(again.status, 200);
    }
    assert_eq!(decided(&edge, "no_verdict", "budget").await, 0.0);
}

#[tokio::test]
async fn good_tokens_at_once_cost_nothing() {
    const TOKENS: usize = 20;
    let edge = behind_a_proxy(5, json!({})).await;
    let hold = edge.mas.hold();
    let waiting: Vec<_> = (0..TOKENS)
        .map(|_| edge.spawn(&from(OFFICE, &edge.alice())))
        .collect();
    edge.wait_for_calls(TOKENS as u64).await;
    hold.release();
    for response in waiting {
        assert_eq!(response.await.expect("a response").status, 200);
    }
}

#[tokio::test]
async fn one_dead_token_keeps_its_401_and_is_one_token() {
    for negative_ttl in ["0s", "10s"] {
        let edge = behind_a_proxy(3, json!({"cache": {"negative_ttl": negative_ttl}})).await;
        let dead = new_token("mat");
        for _ in 0..10 {
            assert_not_active(&edge.send(&from(OFFICE, &dead)).await);
        }
        for _ in 0..2 {
            assert_not_active(&edge.send(&from(OFFICE, &new_token("mat"))).await);
        }
        assert_limit_exceeded(&edge.send(&from(OFFICE, &new_token("mat"))).await);
        assert_not_active(&edge.send(&from(OFFICE, &dead)).await);
    }
}

/// What an address has under way is not its budget: over its share a question waits, and is refused as if MAS was slow.
#[tokio::test]
async fn over_its_share_an_address_gets_503_and_others_are_asked_about() {
    const SHARE: u64 = 48;
    let edge = behind_a_proxy(100, json!({"introspection": {"max_in_flight": 64}})).await;
    let hold = edge.mas.hold();
    let mut waiting = Vec::new();
    for _ in 0..SHARE {
        waiting.push(edge.spawn(&from(OFFICE, &new_token("mat"))));
        edge.wait_for_calls(waiting.len() as u64).await;
    }
    let over: Vec<_> = (0..5)
        .map(|_| edge.spawn(&from(OFFICE, &new_token("mat"))))
        .collect();
    for response in over {
        let response = response.await.expect("a response");
        assert_no_verdict(&response);
        assert_eq!(response.header("retry-after"), Some("1"));
    }
    assert_eq!(edge.mas.total_calls(), SHARE);
    let other = edge.spawn(&from("192.0.2.2", &new_token("mat")));
    edge.wait_for_calls(SHARE + 1).await;
    hold.release();
    waiting.push(other);
    for response in waiting {
        assert_not_active(&response.await.expect("a response"));
    }
}

#[tokio::test]
async fn addresses_of_one_network_are_one_client() {
    for (one, same, another) in [
        ("2001:db8:1:2::1", "2001:db8:1:2:ffff::9", "2001:db8:1:3::1"),
        ("::ffff:198.51.100.9", "198.51.100.9", "198.51.100.10"),
    ] {
        let edge = behind_a_proxy(2, json!({})).await;
        for address in [one, same] {
            assert_not_active(&edge.send(&from(address, &new_token("mat"))).await);
        }
        for address in [one, same] {
            assert_limit_exceeded(&edge.send(&from(address, &new_token("mat"))).await);
        }
        assert_not_active(&edge.send(&from(another, &new_token("mat"))).await);
    }
}

/// The source is the address that Envoy trusts, whatever a client writes before it.
#[tokio::test]
async fn a_source_over_its_budget_makes_no_more_calls_and_harms_no_other() {
    const BUDGET: usize = 5;
    let edge = start_with(
        json!({"unknown_token_budget": {"per_source": BUDGET, "window": "1h"}}),
        |builder| {
            builder.bootstrap(|config| {
                bootstrap::http_manager(config)["xff_num_trusted_hops"] = 1.into();
            })
        },
    )
    .await;
    let mut connections = connections(&edge, 1).await;
    let live = edge.alice();
    // Active tokens are no loss.
    for connection in &mut connections {
        assert_eq!(ask(connection, "192.0.2.1", &live).await.status, 200);
        let fresh = edge.alice();
        assert_eq!(ask(connection, "192.0.2.1", &fresh).await.status, 200);
    }
    let calls = edge.mas.total_calls();
    // All workers count together.
    let mut connection = (0..WORKERS).cycle();
    let mut next = || connection.next().expect("a cycle has no end");
    for _ in 0..BUDGET {
        let answer = ask(&mut connections[next()], "192.0.2.1", &new_token("mat")).await;
        assert_not_active(&answer);
    }
    let spent = calls + BUDGET as u64;
    assert_eq!(edge.mas.total_calls(), spent);
    for invented in 0..3 * WORKERS {
        // What the client itself puts in front counts for nothing.
        let forwarded = format!("198.51.100.{invented}, 192.0.2.1");
        let answer = ask(&mut connections[next()], &forwarded, &new_token("mat")).await;
        assert_limit_exceeded(&answer);
    }
    assert_eq!(edge.mas.total_calls(), spent, "no further calls");

    for other in ["192.0.2.2", "2001:db8::1"] {
        let answer = ask(&mut connections[next()], other, &new_token("mat")).await;
        assert_not_active(&answer);
    }
    assert_eq!(edge.mas.total_calls(), spent + 2);
    for connection in &mut connections {
        let answer = ask(connection, "192.0.2.1", &live).await;
        assert_eq!(answer.status, 200, "a live session of the same source");
    }
    let refused = decided(&edge, "no_verdict", "budget").await;
    assert_eq!(refused, 3.0 * WORKERS as f64);
    edge.assert_alive().await;
}

/// Without a proxy in front the source is who connects, and `x-forwarded-for` is anybody's word.
#[tokio::test]
async fn a_forwarded_address_that_envoy_does_not_trust_is_no_source() {
    let budget = json!({"per_source": 1, "window": "1h"});
    let edge = Edge::start(json!({"unknown_token_budget": budget})).await;
    let mut connection = Connection::open(edge.envoy.addr()).await;
    let first = ask(&mut connection, "192.0.2.1", &new_token("mat")).await;
    assert_not_active(&first);
    let second = ask(&mut connection, "192.0.2.2", &new_token("mat")).await;
    assert_limit_exceeded(&second);
}

#[tokio::test]
async fn a_budget_comes_back_with_the_next_window() {
    // Long enough that two requests come within it also on a machine that stalls.
    let budget = json!({"per_source": 1, "window": "5s"});
    let edge = Edge::start(json!({"unknown_token_budget": budget})).await;
    assert_not_active(&edge.whoami(&new_token("mat")).await);
    let refused = edge.whoami(&new_token("mat")).await;
    let wait = assert_limit_exceeded(&refused);
    assert!(wait <= Duration::from_secs(5));
    // As long as the client was told to.
    sleep(wait).await;
    assert_not_active(&edge.whoami(&new_token("mat")).await);
    assert_eq!(edge.mas.total_calls(), 2);
}

async fn ask(connection: &mut Connection, forwarded_for: &str, token: &str) -> Response {
    let request = Request::get(WHOAMI)
        .bearer(token)
        .header("X-Forwarded-For", forwarded_for);
    connection.request(&request).await
}

/// Checks that this is Synapse's reply to too many requests, and returns how long the client is to wait.
#[track_caller]
fn assert_limit_exceeded(response: &Response) -> Duration {
    assert_eq!(response.status, 429, "{response:?}");
    let wait = response.json()["retry_after_ms"]
        .as_u64()
        .expect("a number");
    let body = format!(
        r#"{{"errcode":"M_LIMIT_EXCEEDED","error":"Too Many Requests","retry_after_ms":{wait}}}"#
    );
    assert_eq!(response.text(), body);
    assert_eq!(response.header("content-type"), Some("application/json"));
    let seconds = wait.div_ceil(1_000).to_string();
    assert_eq!(response.header("retry-after"), Some(&*seconds));
    Duration::from_millis(wait)
}
