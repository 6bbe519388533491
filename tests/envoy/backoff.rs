//! A herd with a token that no cache knows, on all workers, while MAS fails: one call a second, and 503 at once in between.

use std::time::Duration;

use serde_json::{Value, json};
use stand_in::mas::{Fault, Options};
use tokio::time::Instant;

use super::{
    edge::{Edge, WHOAMI, assert_no_verdict, closed_port},
    workers::{POLL, connections, decided},
};
use crate::support::{
    envoy::{Builder, bootstrap},
    http::Request,
    product_time::Moment,
};

/// How long an outage is looked at.
const OUTAGE: Duration = Duration::from_secs(5);

async fn start(introspection: Value, adapt: impl FnOnce(Builder) -> Builder) -> Edge {
    let changes = json!({"introspection": introspection});
    Edge::start_with(changes, Options::default(), |builder| {
        adapt(builder.balanced())
    })
    .await
}

/// Asks with `token` on every worker, again and again. Returns how many requests there were and how long it took.
async fn stampede(edge: &Edge, token: &str) -> (u64, Duration) {
    let mut clients = connections(edge, 4).await;
    let request = Request::get(WHOAMI).bearer(token).to_bytes();
    let begun = Instant::now();
    let mut requests = 0;
    while begun.elapsed() < OUTAGE {
        for client in &mut clients {
            client.send(&request).await;
        }
        for client in &mut clients {
            assert_no_verdict(&client.response(false).await);
            requests += 1;
        }
        tokio::time::sleep(POLL).await;
    }
    (requests, begun.elapsed())
}

/// One call a second, the first at once.
fn assert_few(calls: f64, (requests, took): (u64, Duration)) {
    println!("{requests} requests in {took:?} made {calls} calls");
    assert!(requests as f64 > 10.0 * calls, "a herd");
    assert!(calls >= 2.0, "MAS is tried again");
    assert!(
        calls <= took.as_secs_f64().ceil(),
        "{calls} calls in {took:?}"
    );
}

#[tokio::test]
async fn a_cold_herd_asks_a_dead_mas_once_a_second() {
    let (_socket, dead) = closed_port();
    let edge = start(json!({"retries": 0}), |builder| {
        builder.bootstrap(move |config| {
            bootstrap::move_cluster(bootstrap::cluster(config, "mas"), dead);
        })
    })
    .await;
    let herd = stampede(&edge, &edge.alice()).await;
    assert_few(edge.introspections("unreachable").await, herd);
    let refused = decided(&edge, "no_verdict", "mas").await;
    assert_eq!(refused, herd.0 as f64);
}

#[tokio::test]
async fn a_cold_herd_asks_a_mas_that_answers_with_errors_once_a_second_until_it_is_well() {
    let edge = start(json!({}), |builder| builder).await;
    let token = edge.alice();
    edge.mas.fault(Fault::status(500, ""));
    let herd = stampede(&edge, &token).await;
    assert_few(edge.mas.calls(&token) as f64, herd);
    // Another token is asked about meanwhile.
    let others = edge.mas.total_calls();
    assert_no_verdict(&edge.whoami(&edge.active("bob", "PHONE")).await);
    assert_eq!(edge.mas.total_calls(), others + 1);
    edge.mas.clear_faults();
    let well = Moment::now();
    let request = Request::get(WHOAMI).bearer(&token);
    let recovered = edge.send_until_verdict(&request).await;
    let took = well.elapsed();
    assert_eq!(recovered.status, 200, "{recovered:?}");
    println!("200 again after {took:?}");
    assert!(took < Duration::from_secs(2), "it recovers: {took:?}");
    edge.assert_alive().await;
}
