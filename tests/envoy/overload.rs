//! More unknown tokens than MAS can take: a limit for each worker, and a budget for each client address.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use serde_json::json;
use stand_in::mas::Fault;
use tokio::time::{Instant, sleep};

use super::{
    edge::{Edge, WHOAMI, assert_no_verdict, assert_not_active, new_token},
    workers::{POLL, WORKERS, ask_all, connections, decided, start, start_with},
};
use crate::support::{
    envoy::bootstrap,
    http::{Connection, Request, Response},
};

/// How long MAS takes for an answer.
const SLOW: Duration = Duration::from_secs(2);

/// How long a refusal or a live session may take meanwhile, on a machine that does everything else too.
const AT_ONCE: Duration = Duration::from_secs(1);

/// Longest that a question waits for a free call.
const IN_LINE: Duration = Duration::from_secs(1);

const IN_FLIGHT: &str = "matrix_edge_auth_introspections_in_flight";

#[tokio::test]
async fn a_slow_mas_gets_no_more_calls_than_it_should_and_live_sessions_notice_nothing() {
    const LIMIT: usize = 8 * WORKERS;
    const COLD: usize = 1_000;
    let edge = start(json!({"introspection": {"max_in_flight": 8}})).await;
    let mut connections = connections(&edge, 1 + COLD / WORKERS).await;
    let mut cold = connections.split_off(WORKERS);
    let live = edge.alice();
    for _ in 0..2 {
        ask_all(&mut connections, [&live; WORKERS].into_iter()).await;
    }
    let tokens: Vec<String> = (0..COLD)
        .map(|n| edge.active(&n.to_string(), "X"))
        .collect();
    edge.mas.fault(Fault::delay(SLOW));

    let over = AtomicBool::new(false);
    let flood = async {
        let begun = Instant::now();
        let mut answers = tokio::task::JoinSet::new();
        for (mut connection, token) in cold.drain(..).zip(tokens) {
            answers.spawn(async move {
                let sent = Instant::now();
                let response = connection
                    .request(&Request::get(WHOAMI).bearer(&token))
                    .await;
                (response, sent.elapsed())
            });
        }
        let answers = answers.join_all().await;
        println!("{COLD} cold tokens took {:?}", begun.elapsed());
        over.store(true, Ordering::Relaxed);
        answers
    };
    let sessions = async {
        let mut times = Vec::new();
        while !over.load(Ordering::Relaxed) {
            for connection in &mut connections {
                let sent = Instant::now();
                let response = connection
                    .request(&Request::get(WHOAMI).bearer(&live))
                    .await;
                assert_eq!(response.status, 200, "{response:?}");
                times.push(sent.elapsed());
            }
            sleep(POLL).await;
        }
        times
    };
    let gauge = async {
        let mut most = 0.0;
        while !over.load(Ordering::Relaxed) {
            most = edge.envoy.stats().await.sum(IN_FLIGHT, &[]).max(most);
            sleep(POLL).await;
        }
        most
    };
    let (answers, times, most) = tokio::join!(flood, sessions, gauge);

    let (asked, refused): (Vec<_>, Vec<_>) = answers
        .into_iter()
        .partition(|(answer, _)| answer.status == 200);
    let slowest = refused
        .iter()
        .map(|(_, time)| *time)
        .max()
        .unwrap_or_default();
    let live = times.iter().copied().max().unwrap_or_default();
    println!(
        "in flight: {most} at the most; {} refused, within {slowest:?}",
        refused.len()
    );
    println!(
        "{} requests of a live session took {live:?} at the most",
        times.len()
    );
    assert_eq!(most, LIMIT as f64);
    assert_eq!((asked.len(), refused.len()), (LIMIT, COLD - LIMIT));
    assert_eq!(edge.mas.total_calls(), 1 + LIMIT as u64);
    refused
        .iter()
        .for_each(|(answer, _)| assert_no_verdict(answer));
    // Refused after the line's second, so before MAS could have answered.
    assert!(slowest < IN_LINE + AT_ONCE && live < AT_ONCE);
    edge.wait_for_metric(IN_FLIGHT, &[], 0.0).await;
    edge.assert_alive().await;
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
    let budget = json!({"per_source": 1, "window": "2s"});
    let edge = Edge::start(json!({"unknown_token_budget": budget})).await;
    assert_not_active(&edge.whoami(&new_token("mat")).await);
    let refused = edge.whoami(&new_token("mat")).await;
    let wait = assert_limit_exceeded(&refused);
    assert!(wait <= Duration::from_secs(2));
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
