//! The introspection role: the homeserver asks MAS through Envoy, and the gateway's cache answers. The files
//! `introspection_*.rs` beside this one have a topic of it each.

use std::time::Duration;

use serde_json::{Value, json};
use stand_in::mas::{DEFAULT_SECRET, Fault, Options, introspection_body};
use tokio::time::Instant;

use super::{
    edge::{self, Edge, WHOAMI, assert_not_active, new_token},
    workers::{self, WORKERS},
};
use crate::support::{
    envoy::{Builder, workers::connections_to},
    http::{self, Connection, Request, Response},
};

/// The listener between the homeserver and MAS.
pub const NAME: &str = "introspection";

/// The path of the endpoint.
pub const PATH: &str = "/oauth2/introspect";

/// MAS's word for "inactive".
pub const INACTIVE: &str = r#"{"active":false}"#;

/// The role's plugin configuration, with `changes` as in [`edge::plugin`]. It knows no server name.
pub fn plugin(changes: Value) -> Value {
    let mut plugin = edge::plugin(changes);
    plugin["role"] = "introspection".into();
    if let Some(plugin) = plugin.as_object_mut() {
        plugin.remove("server_name");
    }
    plugin
}

/// The edge with a listener of this role. `changes` are for both listeners.
pub async fn start(changes: Value) -> Edge {
    start_with(changes, |builder| builder).await
}

/// Like [`start`], with this change to how Envoy starts.
pub async fn start_with(changes: Value, adapt: impl FnOnce(Builder) -> Builder) -> Edge {
    let plugin = plugin(changes.clone());
    Edge::start_with(changes, Options::default(), |builder| {
        adapt(builder.internal_listener(NAME, plugin, "mas"))
    })
    .await
}

/// The headers of Synapse's request, with this credential.
pub fn headers(authorization: &str) -> Request {
    Request::new("POST", PATH)
        .header("Accept", "application/json")
        .header("X-MAS-Supports-Device-Id", "1")
        .header("Authorization", authorization)
        .header("Content-Type", "application/x-www-form-urlencoded")
        .header("User-Agent", "Synapse/1.163.2")
}

/// The credential that the tests configure.
pub fn secret() -> String {
    format!("Bearer {DEFAULT_SECRET}")
}

/// Synapse's request.
pub fn introspect(token: &str) -> Request {
    headers(&secret()).body(introspection_body(token))
}

/// Sends a request to the role's listener, on a connection of its own.
pub async fn ask(edge: &Edge, request: &Request) -> Response {
    http::send(edge.envoy.listener(NAME), request).await
}

/// Checks that a request to the role's listener is answered with MAS's own answer, which costs this many
/// introspections besides the one of the comparison.
pub async fn assert_mas_answers(edge: &Edge, request: &Request, calls: u64) {
    let direct = http::send(edge.mas.addr(), request).await;
    let before = edge.mas.total_calls();
    let response = ask(edge, request).await;
    assert_eq!(comparable(&response), comparable(&direct));
    assert_eq!(edge.mas.total_calls() - before, calls, "{response:?}");
}

/// All but what the proxy and the edge add, and the time, also that in `expires_in`. `transfer-encoding` is of the proxy's
/// connections, and it adds one to the headers that answer a `HEAD`.
pub fn comparable(response: &Response) -> Response {
    let mut response = response.clone();
    let added = [
        "date",
        "server",
        "transfer-encoding",
        "x-envoy-upstream-service-time",
        "x-matrix-edge-auth-lifetime",
    ];
    response
        .headers
        .retain(|(name, _)| !added.contains(&name.as_str()));
    let expires_in = "\"expires_in\":";
    if let Some((start, rest)) = response.text().split_once(expires_in) {
        let rest = rest.trim_start_matches(|c: char| c.is_ascii_digit());
        response.body = format!("{start}{expires_in}{rest}").into_bytes();
    }
    response
}

/// Checks that an answer tells of a user's active token.
#[track_caller]
pub fn assert_active(response: &Response, username: &str) {
    assert_eq!(response.status, 200, "{response:?}");
    let body = response.json();
    assert_eq!(body["active"], true, "{response:?}");
    assert_eq!(body["username"], username, "{response:?}");
}

/// How many introspection requests were answered like this.
pub async fn answers(edge: &Edge, verdict: &str, source: &str) -> f64 {
    let labels = [("verdict", verdict), ("source", source)];
    let stats = edge.envoy.stats().await;
    stats.sum("matrix_edge_auth_introspection_answers_total", &labels)
}

#[tokio::test]
async fn clients_and_the_homeserver_share_the_cache() {
    let edge = start(json!({})).await;
    let [alice, bob] = [edge.alice(), edge.active("bob", "LAPTOP")];
    let unknown = new_token("mat");
    let asked = ask(&edge, &introspect(&alice)).await;
    let direct = http::send(edge.mas.addr(), &introspect(&alice)).await;
    assert_eq!(comparable(&asked), comparable(&direct));
    assert_eq!(edge.whoami(&alice).await.status, 200);
    assert_eq!(edge.whoami(&bob).await.status, 200);
    assert_eq!(ask(&edge, &introspect(&unknown)).await.text(), INACTIVE);
    assert_not_active(&edge.whoami(&unknown).await);
    for _ in 0..3 {
        assert_active(&ask(&edge, &introspect(&alice)).await, "alice");
        assert_active(&ask(&edge, &introspect(&bob)).await, "bob");
        assert_eq!(ask(&edge, &introspect(&unknown)).await.text(), INACTIVE);
    }
    assert_eq!(
        ask(&edge, &introspect(&new_token("mar"))).await.text(),
        INACTIVE
    );
    assert_mas_answers(&edge, &headers(&secret()).body("token=x"), 1).await;
    edge.mas.fault(Fault::status(500, "").times(1));
    assert_eq!(ask(&edge, &introspect(&edge.alice())).await.status, 503);

    assert_eq!(edge.mas.calls(&alice), 2, "one of them by this test");
    assert_eq!(edge.mas.calls(&bob), 1);
    assert_eq!(edge.mas.calls(&unknown), 1);
    for (verdict, source, count) in [
        ("active", "mas", 1.0),
        ("active", "shared", 6.0),
        ("inactive", "mas", 1.0),
        ("inactive", "shared", 3.0),
        ("inactive", "offline", 1.0),
        ("no_verdict", "mas", 1.0),
        ("not_asked", "offline", 1.0),
    ] {
        let counted = answers(&edge, verdict, source).await;
        assert_eq!(counted, count, "{verdict} {source}");
    }
    edge.assert_alive().await;
}

/// `expires_in` is what MAS said when it was asked, less the age of that, rounded down.
#[tokio::test]
async fn an_answer_from_the_cache_expires_when_mas_said_it_would() {
    let edge = start(json!({})).await;
    let token = edge.alice();
    let asked_at = Instant::now();
    let asked = ask(&edge, &introspect(&token)).await;
    let answered_at = Instant::now();
    let seconds = |response: &Response| response.json()["expires_in"].as_u64().expect("a number");
    let told = seconds(&asked);
    http::within_limit("an age of two seconds", async {
        loop {
            let at_least = answered_at.elapsed();
            let response = ask(&edge, &introspect(&token)).await;
            let at_most = asked_at.elapsed();
            assert_eq!(comparable(&response), comparable(&asked));
            let age = told - seconds(&response);
            // The module counts in milliseconds.
            let ages = at_least.saturating_sub(Duration::from_millis(2)).as_secs()
                ..=(at_most + Duration::from_millis(2)).as_secs();
            assert!(ages.contains(&age), "{age} in {ages:?}");
            if age > 1 {
                return;
            }
        }
    })
    .await;
    assert_eq!(edge.mas.calls(&token), 1);
}

#[tokio::test]
async fn all_workers_of_both_listeners_make_one_call() {
    const RUNS: usize = 20;
    const EACH: usize = 3;
    let edge = workers::start_with(json!({}), |builder| {
        builder.internal_listener(NAME, plugin(json!({})), "mas")
    })
    .await;
    let mut clients = connections_to(edge.envoy.addr(), "/", EACH).await;
    let mut homeservers = connections_to(edge.envoy.listener(NAME), "/health", EACH).await;
    assert_eq!(workers::served(&edge, "active").await, [EACH; WORKERS]);
    let all = EACH * WORKERS;
    let mut calls = Vec::new();
    for run in 0..RUNS {
        let is_active = run % 5 != 4;
        let token = if is_active {
            edge.alice()
        } else {
            new_token("mat")
        };
        // In every second run nobody is answered before all wait.
        let hold = (run % 2 == 0).then(|| edge.mas.hold());
        let tokens = vec![token.clone(); all];
        send_all(
            &mut homeservers,
            tokens.iter().map(|token| introspect(token)),
        )
        .await;
        let whoami = |token: &String| Request::get(WHOAMI).bearer(token);
        send_all(&mut clients, tokens.iter().map(whoami)).await;
        if let Some(hold) = hold {
            for name in ["gateway", NAME] {
                let active = format!("http.{name}.downstream_rq_active");
                let edge = &edge.envoy;
                edge.wait_for_stat(&active, |n| n == all as u64).await;
            }
            hold.release();
        }
        for connection in &mut homeservers {
            let response = connection.response(false).await;
            match is_active {
                true => assert_active(&response, "alice"),
                false => assert_eq!(response.text(), INACTIVE),
            }
        }
        for connection in &mut clients {
            let response = connection.response(false).await;
            match is_active {
                true => assert_eq!(response.status, 200, "{response:?}"),
                false => assert_not_active(&response),
            }
        }
        calls.push(edge.mas.calls(&token));
    }
    assert_eq!(calls, [1; RUNS]);
    edge.assert_alive().await;
}

#[tokio::test]
async fn distinct_tokens_get_their_own_answers() {
    const EACH: usize = 25;
    let edge = workers::start_with(json!({}), |builder| {
        builder.internal_listener(NAME, plugin(json!({})), "mas")
    })
    .await;
    let mut connections = connections_to(edge.envoy.listener(NAME), "/health", EACH).await;
    let users: Vec<String> = (0..EACH * WORKERS).map(|n| format!("user{n}")).collect();
    let tokens: Vec<String> = users.iter().map(|user| edge.active(user, "X")).collect();
    for _ in 0..2 {
        send_all(
            &mut connections,
            tokens.iter().map(|token| introspect(token)),
        )
        .await;
        for (connection, user) in connections.iter_mut().zip(&users) {
            assert_active(&connection.response(false).await, user);
        }
        // To another worker the next time.
        connections.rotate_left(1);
    }
    assert!(tokens.iter().all(|token| edge.mas.calls(token) == 1));
    edge.assert_alive().await;
}

async fn send_all(connections: &mut [Connection], requests: impl Iterator<Item = Request>) {
    for (connection, request) in connections.iter_mut().zip(requests) {
        connection.send(&request.to_bytes()).await;
    }
}
