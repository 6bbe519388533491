//! Envoy with four workers, and connections of which it is known that each worker serves as many.

use std::time::Duration;

use serde_json::Value;
use stand_in::mas::Options;

use super::edge::{Edge, WHOAMI};
pub use crate::support::envoy::workers::WORKERS;
use crate::support::{
    envoy::Builder,
    http::{Connection, Request, Response, within_limit},
};

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
        adapt(builder.balanced())
    })
    .await
}

/// Opens this many connections to each worker. Each of [`WORKERS`] in a row goes to another worker.
pub async fn connections(edge: &Edge, each: usize) -> Vec<Connection> {
    edge.envoy.connections(each).await
}

/// How many connections each worker has now (`active`), or has had (`total`).
pub async fn served(edge: &Edge, which: &str) -> [usize; WORKERS] {
    edge.envoy.served(which).await
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
