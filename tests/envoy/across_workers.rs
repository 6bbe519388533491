//! One call per token for all workers of a process, also while the configuration changes.

use std::time::Duration;

use serde_json::json;
use tokio::task::JoinHandle;

use super::{
    edge::{Edge, WHOAMI, assert_not_active, new_token, plugin},
    workers::{WORKERS, ask_all, connections, served, start, start_with, wait_for_waiting},
};
use crate::support::{
    envoy::bootstrap,
    http::{Connection, Request, Response},
    product_time::{Moment, Stalls},
};

const REQUESTS: usize = 1_000;

/// How long an answer may take that was lost with the configuration that asked for it: a lease, and then
/// what the machine needs.
const LOST: Duration = Duration::from_secs(3);

/// How long Envoy keeps an old configuration: long enough that all requests have come by then.
const DRAIN: Duration = Duration::from_secs(3);

#[tokio::test]
async fn a_thousand_requests_with_one_cold_token_make_one_call() {
    const HELD: usize = 20;
    const FREE: usize = 5;
    let edge = start(json!({})).await;
    let mut connections = connections(&edge, REQUESTS / 4).await;
    let mut counts = Vec::new();
    for run in 0..HELD + FREE {
        let stalls = Stalls::measure();
        let user = format!("user{run}");
        let token = edge.active(&user, "X");
        let hold = (run < HELD).then(|| edge.mas.hold());
        let envoy = async {
            // Held runs: no answer before every request waits for it.
            if let Some(hold) = hold {
                wait_for_waiting(&edge, REQUESTS).await;
                hold.release();
            }
        };
        let tokens = std::iter::repeat_n(&token, REQUESTS);
        let ((), responses) = tokio::join!(envoy, ask_all(&mut connections, tokens));
        for response in responses {
            assert_is(&response, &user);
        }
        let calls = edge.mas.calls(&token);
        assert!(
            stalls.calls_for_a_token(WORKERS).contains(&calls),
            "run {run}: {calls} calls"
        );
        counts.push(calls);
    }
    println!("calls in {HELD} held and {FREE} free runs: {counts:?}");
    // The same connections all the way, as many to each worker.
    assert_eq!(served(&edge, "total").await, [REQUESTS / 4; 4]);
    edge.assert_alive().await;
}

#[tokio::test]
async fn a_thousand_cold_tokens_make_a_thousand_calls() {
    let edge = start(json!({"introspection": {"max_in_flight": REQUESTS}})).await;
    let mut connections = connections(&edge, REQUESTS / 4).await;
    let users: Vec<String> = (0..REQUESTS).map(|n| format!("user{n}")).collect();
    let tokens: Vec<String> = users.iter().map(|user| edge.active(user, "X")).collect();
    let responses = ask_all(&mut connections, tokens.iter()).await;
    for (response, user) in responses.iter().zip(&users) {
        assert_is(response, user);
    }
    assert!(tokens.iter().all(|token| edge.mas.calls(token) == 1));
    assert_eq!(edge.mas.total_calls(), REQUESTS as u64);
    edge.assert_alive().await;
}

/// Some active, some not, in any order over all workers.
#[tokio::test]
async fn two_hundred_tokens_five_times_each_make_two_hundred_calls() {
    const TOKENS: usize = 200;
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let edge = start(json!({})).await;
    let mut connections = connections(&edge, REQUESTS / 4).await;
    let tokens: Vec<String> = (0..TOKENS)
        .map(|n| match n % 4 {
            0 => new_token("mat"),
            _ => edge.active(&format!("user{n}"), "X"),
        })
        .collect();
    let stalls = Stalls::measure();
    let mut order: Vec<usize> = (0..REQUESTS).map(|n| n % TOKENS).collect();
    fastrand::Rng::with_seed(seed).shuffle(&mut order);
    let asked = order.iter().map(|number| &tokens[*number]);
    let responses = ask_all(&mut connections, asked).await;
    for (response, number) in responses.iter().zip(&order) {
        match number % 4 {
            0 => assert_not_active(response),
            _ => assert_is(response, &format!("user{number}")),
        }
    }
    let expected = stalls.calls_for_a_token(WORKERS);
    let calls: Vec<u64> = tokens.iter().map(|token| edge.mas.calls(token)).collect();
    assert!(
        calls.iter().all(|calls| expected.contains(calls)),
        "{calls:?}"
    );
    assert_eq!(edge.mas.total_calls(), calls.iter().sum::<u64>());
    edge.assert_alive().await;
}

/// The old configuration's requests wait on; those of the new one wait for the same calls.
#[tokio::test]
async fn a_configuration_update_in_mid_flight_leaves_nobody_waiting() {
    let edge = start_with(json!({}), |builder| builder.dynamic_listeners()).await;
    let tokens: Vec<String> = (0..20).map(|_| edge.alice()).collect();
    let stalls = Stalls::measure();
    let hold = edge.mas.hold();
    let before = ask_each(&edge, &tokens, 10);
    wait_for_waiting(&edge, 200).await;
    update(&edge).await;
    let after = ask_each(&edge, &tokens, 10);
    wait_for_waiting(&edge, 400).await;
    hold.release();
    for answer in before.into_iter().chain(after) {
        assert_is(&answer.await.expect("a response"), "alice");
    }
    // Either configuration has its own workers.
    let expected = stalls.calls_for_a_token(2 * WORKERS);
    assert!(
        tokens
            .iter()
            .all(|token| expected.contains(&edge.mas.calls(token)))
    );
    edge.assert_alive().await;
}

/// The calls of a configuration go with it. Envoy cuts off its own requests; those of the new one, which
/// waited for its calls, ask again.
#[tokio::test]
async fn calls_lost_with_their_configuration_are_made_again() {
    // The calls do not fail by themselves before their configuration has gone.
    let edge = start_with(json!({"introspection": {"timeout": "20s"}}), |builder| {
        builder
            .dynamic_listeners()
            .option("--drain-time-s", &DRAIN.as_secs().to_string())
    })
    .await;
    let tokens: Vec<String> = (0..20).map(|_| edge.alice()).collect();
    let asked = tokens.len() as u64;
    let stalls = Stalls::measure();
    let hold = edge.mas.hold();
    let mut before = Vec::new();
    for token in &tokens {
        let mut connection = Connection::open(edge.envoy.addr()).await;
        let request = Request::get(WHOAMI).bearer(token);
        connection.send(&request.to_bytes()).await;
        before.push(connection);
    }
    edge.wait_for_calls(asked).await;
    let replaced = Moment::now();
    update(&edge).await;
    let after = ask_each(&edge, &tokens, 10);
    wait_for_waiting(&edge, before.len() + after.len()).await;
    if !stalls.are_there() {
        assert_eq!(edge.mas.total_calls(), asked, "all wait for the same calls");
    }
    edge.wait_for_calls(2 * asked).await;
    println!(
        "all were asked again {:?} after the update",
        replaced.elapsed()
    );
    assert!(replaced.elapsed() < DRAIN + LOST);
    hold.release();
    for answer in after {
        assert_is(&answer.await.expect("a response"), "alice");
    }
    // If a worker looked dead before the update, the others asked then.
    let most = *stalls.calls_for_a_token(WORKERS).end();
    for token in &tokens {
        let again = edge.mas.calls(token) - 1;
        assert!(again == 1 || most > 1 && again <= most, "{again} of {most}");
    }
    edge.assert_alive().await;
}

fn ask_each(edge: &Edge, tokens: &[String], times: usize) -> Vec<JoinHandle<Response>> {
    let requests = tokens
        .iter()
        .map(|token| Request::get(WHOAMI).bearer(token))
        .flat_map(|request| std::iter::repeat_n(request, times));
    requests.map(|request| edge.spawn(&request)).collect()
}

/// Replaces the plugin configuration by another one that asks the same MAS.
async fn update(edge: &Edge) {
    let changed = plugin(json!({"cache": {"ttl": "1h"}}));
    edge.envoy
        .update_listener(|listener| {
            bootstrap::configure(bootstrap::http_manager_of(listener), &changed);
        })
        .await
        .expect("a good configuration");
}

#[track_caller]
fn assert_is(response: &Response, user: &str) {
    assert_eq!(response.status, 200, "{response:?}");
    let seen = &response.json()["headers"]["x-matrix-user-id"][0];
    assert_eq!(*seen, format!("@{user}:example.org"));
}
