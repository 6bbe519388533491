//! Envoy with four workers, and connections of which it is known that each worker serves as many.

use std::{net::SocketAddr, time::Duration};

use serde_json::{Value, json};
use stand_in::mas::Options;

use super::edge::{Edge, WHOAMI};
use crate::support::{
    envoy::{Builder, bootstrap},
    http::{Connection, Request, Response, within_limit},
};

/// Workers of [`start`].
pub const WORKERS: usize = 4;

/// Between two requests of a client that asks again and again.
pub const POLL: Duration = Duration::from_millis(20);

/// Starts the edge with [`WORKERS`] workers and no limit but the module's own. `changes` as in
/// [`super::edge::plugin`].
pub async fn start(changes: Value) -> Edge {
    start_with(changes, |builder| builder).await
}

/// Like [`start`], with this change to how Envoy starts.
pub async fn start_with(changes: Value, adapt: impl FnOnce(Builder) -> Builder) -> Edge {
    Edge::start_with(changes, Options::default(), |builder| {
        let workers = u32::try_from(WORKERS).expect("a few");
        adapt(builder.concurrency(workers).bootstrap(|config| {
            for listener in bootstrap::listeners(config) {
                listener["connection_balance_config"] = json!({"exact_balance": {}});
            }
            for cluster in bootstrap::clusters(config) {
                raise_limits(cluster);
            }
        }))
    })
    .await
}

/// Envoy's own limits, of which the defaults are near 1,000 for all workers together.
fn raise_limits(cluster: &mut Value) {
    let limit = 100_000;
    cluster["circuit_breakers"]["thresholds"] = json!([{
        "max_connections": limit,
        "max_pending_requests": limit,
        "max_requests": limit,
    }]);
}

/// Opens this many connections to each worker. Each of [`WORKERS`] in a row goes to another worker.
pub async fn connections(edge: &Edge, each: usize) -> Vec<Connection> {
    let connections = connections_to(edge.envoy.addr(), "/", each).await;
    assert_eq!(served(edge, "active").await, [each; WORKERS]);
    connections
}

/// The same to the listener at `addr`, which answers `path` with 200.
pub async fn connections_to(addr: SocketAddr, path: &str, each: usize) -> Vec<Connection> {
    let mut connections = Vec::new();
    for _ in 0..each {
        for _ in 0..WORKERS {
            let mut connection = Connection::open(addr).await;
            // Envoy balances what it has accepted.
            let response = connection.request(&Request::get(path)).await;
            assert_eq!(response.status, 200, "{response:?}");
            connections.push(connection);
        }
    }
    connections
}

/// How many connections each worker has now (`active`), or has had (`total`).
pub async fn served(edge: &Edge, which: &str) -> [usize; WORKERS] {
    let stats = edge.envoy.stats().await;
    let name = format!("envoy_listener_worker_downstream_cx_{which}");
    std::array::from_fn(|worker| {
        stats.sum(&name, &[("envoy_worker_id", &worker.to_string())]) as usize
    })
}

/// Sends one request on each connection at once, and returns the responses in that order.
pub async fn ask_all<'a>(
    connections: &mut [Connection],
    tokens: impl Iterator<Item = &'a String>,
) -> Vec<Response> {
    for (connection, token) in connections.iter_mut().zip(tokens) {
        let request = Request::get(WHOAMI).bearer(token);
        connection.send(&request.to_bytes()).await;
    }
    let mut responses = Vec::new();
    for connection in connections {
        responses.push(connection.response(false).await);
    }
    responses
}

/// Resolves when this many requests are in Envoy and have no answer.
pub async fn wait_for_waiting(edge: &Edge, requests: usize) {
    edge.envoy
        .wait_for_stat("http.gateway.downstream_rq_active", |active| {
            active == requests as u64
        })
        .await;
}

/// How many requests were decided like this.
pub async fn decided(edge: &Edge, verdict: &str, source: &str) -> f64 {
    let labels = [("verdict", verdict), ("source", source)];
    let stats = edge.envoy.stats().await;
    stats.sum("matrix_edge_auth_requests_total", &labels)
}

/// Asks with `token` until an answer is as `wanted`, and returns that.
pub async fn ask_until(
    connection: &mut Connection,
    token: &str,
    what: &str,
    wanted: impl Fn(&Response) -> bool,
) -> Response {
    let request = Request::get(WHOAMI).bearer(token);
    within_limit(what, async {
        loop {
            let response = connection.request(&request).await;
            if wanted(&response) {
                return response;
            }
            tokio::time::sleep(POLL).await;
        }
    })
    .await
}
