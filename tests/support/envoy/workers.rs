//! An Envoy with several workers, and connections of which it is known that each worker serves as many.

use std::net::SocketAddr;

use serde_json::{Value, json};

use super::{Builder, Envoy, bootstrap};
use crate::support::http::{Connection, Request};

/// Workers of [`Builder::balanced`].
pub const WORKERS: usize = 4;

impl Builder {
    /// [`WORKERS`] workers, which the connections to each listener are dealt out to in turn, and no limit but
    /// the module's own.
    #[must_use]
    pub fn balanced(self) -> Self {
        let workers = u32::try_from(WORKERS).expect("a few");
        self.concurrency(workers).bootstrap(|config| {
            for listener in bootstrap::listeners(config) {
                listener["connection_balance_config"] = json!({"exact_balance": {}});
            }
            for cluster in bootstrap::clusters(config) {
                raise_limits(cluster);
            }
        })
    }
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

impl Envoy {
    /// Opens this many connections to each worker. Each of [`WORKERS`] in a row goes to another worker.
    pub async fn connections(&self, each: usize) -> Vec<Connection> {
        let path = "/_matrix/client/versions";
        let connections = connections_to(self.addr(), path, each).await;
        assert_eq!(self.served("active").await, [each; WORKERS]);
        connections
    }

    /// How many connections to the first listener each worker has now (`active`), or has had (`total`).
    pub async fn served(&self, which: &str) -> [usize; WORKERS] {
        let stats = self.stats_so_far().await;
        let name = format!("envoy_listener_worker_downstream_cx_{which}");
        std::array::from_fn(|worker| {
            let labels = [
                ("envoy_listener_address", bootstrap::GATEWAY),
                ("envoy_worker_id", &worker.to_string()),
            ];
            stats.sum(&name, &labels) as usize
        })
    }
}

/// The same to the listener at `addr`, which answers `path` with 200.
pub async fn connections_to(addr: SocketAddr, path: &str, each: usize) -> Vec<Connection> {
    let mut connections = Vec::new();
    for _ in 0..each * WORKERS {
        let mut connection = Connection::open(addr).await;
        // Envoy balances what it has accepted.
        let response = connection.request(&Request::get(path)).await;
        assert_eq!(response.status, 200, "{response:?}");
        connections.push(connection);
    }
    connections
}
