//! Requests whose bodies do not end, by the thousand: they cost the process no more memory with the module than
//! without it, the VM lives, and live sessions are served.
//!
//! By default an attack lasts a few seconds. `UNFINISHED_BODIES_SECONDS=60` makes it longer, `UNFINISHED_BODIES=8000`
//! says how many requests are open at once.

use std::{
    collections::VecDeque,
    env,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use serde_json::json;
use tokio::{
    task::JoinHandle,
    time::{Instant, sleep},
};

use super::{
    edge::{Edge, WHOAMI},
    http2::{Http2, Sink},
};
use crate::support::{
    envoy::{Builder, Envoy, bootstrap},
    http::{Connection, Request},
};

/// A path whose forms the module reads, and one whose forms it lets pass.
const PATHS: [&str; 2] = ["/oauth2/revoke", "/oauth2/token"];

/// Streams of one HTTP/2 connection.
const STREAMS: usize = 100;

/// How much more the process may grow, in bytes, where the module reads forms. Streams have a context in the module, and
/// in Envoy one for each Wasm filter: that is in it.
const MAX_GROWTH: u64 = 16 * 1024 * 1024;

/// Requests before the memory is looked at for the first time.
const WARM_UP: usize = 100;

/// So many requests are on their way to Envoy at the most.
const BATCH: u64 = 100;

const RECEIVED: &str = "cluster.sink.upstream_rq_total";
const SENT: &str = "cluster.sink.upstream_cx_tx_bytes_total";
const ACTIVE: &str = "http.gateway.downstream_rq_active";

#[derive(Clone, Copy, Debug, PartialEq)]
enum Protocol {
    Http1,
    Http2,
}

#[tokio::test(flavor = "multi_thread")]
async fn unfinished_forms_over_http2_cost_no_memory() {
    compare(Protocol::Http2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn unfinished_forms_over_http1_cost_no_memory() {
    compare(Protocol::Http1).await;
}

/// The same attack on an Envoy without the module, on one whose module lets the forms pass, and on one whose module
/// reads them: forms that are too long to be read to their end, and forms of which all so far is read.
async fn compare(protocol: Protocol) {
    let number = setting("UNFINISHED_BODIES", 8_000);
    let time = Duration::from_secs(setting("UNFINISHED_BODIES_SECONDS", 5) as u64);
    let [read, unread] = PATHS;
    let mut growths = Vec::new();
    for (has_module, path, bytes) in [
        (false, read, 65_535),
        (true, unread, 65_535),
        (true, read, 65_535),
        (true, read, 8_000),
    ] {
        let sink = Sink::start().await;
        let edge = edge(&sink, has_module).await;
        let attack = Attack {
            protocol,
            path,
            bytes,
            number,
            time,
        };
        let growth = attack.run(&edge).await;
        println!(
            "{protocol:?} {path} {bytes} bytes, module: {has_module}: {} KiB more",
            growth / 1_024
        );
        if has_module {
            edge.assert_alive().await;
        }
        growths.push(growth);
    }
    let [without, unread, long, short] = growths[..] else {
        panic!("four attacks");
    };
    for read in [long, short] {
        assert!(read <= unread + MAX_GROWTH, "{growths:?}");
        assert!(read <= without + MAX_GROWTH, "{growths:?}");
    }
}

fn setting(name: &str, default: usize) -> usize {
    env::var(name).map_or(default, |value| value.parse().expect("a number"))
}

/// An Envoy in which revocations go to the sink.
async fn edge(sink: &Sink, has_module: bool) -> Edge {
    let sink = sink.addr();
    let adapt = |builder: Builder| {
        builder.bootstrap(move |config| {
            let mut cluster = bootstrap::static_cluster("sink", sink);
            cluster["typed_extension_protocol_options"] = json!({
                "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                    "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
                    "explicit_http_config": {"http2_protocol_options": {}},
                },
            });
            let limit = 100_000;
            cluster["circuit_breakers"]["thresholds"] = json!([{
                "max_connections": limit,
                "max_pending_requests": limit,
                "max_requests": limit,
            }]);
            bootstrap::clusters(config).push(cluster);
            let manager = bootstrap::http_manager(config);
            let routes = manager["route_config"]["virtual_hosts"][0]["routes"]
                .as_array_mut()
                .expect("routes is a list");
            routes.insert(
                0,
                json!({"match": {"prefix": "/oauth2/"}, "route": {"cluster": "sink", "timeout": "0s"}}),
            );
        })
    };
    Edge::start_with(json!({}), Default::default(), |builder| {
        let builder = adapt(builder);
        if has_module {
            builder
        } else {
            builder.without_plugin()
        }
    })
    .await
}

/// Requests whose bodies do not end.
#[derive(Clone, Copy)]
struct Attack {
    protocol: Protocol,
    path: &'static str,
    /// So many bytes come of each form.
    bytes: usize,
    /// So many are open at once.
    number: usize,
    /// For so long, others are opened in place of the oldest.
    time: Duration,
}

impl Attack {
    /// Returns by how much the process grew.
    async fn run(self, edge: &Edge) -> u64 {
        let token = edge.alice();
        for _ in 0..WARM_UP {
            assert_eq!(edge.whoami(&token).await.status, 200);
        }
        let sessions = Sessions::start(edge, &token).await;
        let before = edge.envoy.resident_bytes();
        let cpu_before = edge.envoy.cpu_time();
        let started = Instant::now();
        let mut open = Open::default();
        let mut most = 0;
        let mut total = 0;
        while total < self.number || started.elapsed() < self.time {
            if total >= self.number {
                open.close_oldest();
            }
            total += open.add(&edge.envoy, self).await;
            // Envoy keeps step, and so does who reads behind it: what lies in their sockets is not what is measured.
            let all = total as u64;
            if all.is_multiple_of(BATCH) {
                let received = |requests| requests >= all;
                edge.envoy.wait_for_stat(RECEIVED, received).await;
                let sent = |bytes| bytes >= all * self.bytes as u64;
                edge.envoy.wait_for_stat(SENT, sent).await;
            }
            most = most.max(edge.envoy.resident_bytes());
        }
        let is_full = |active| active >= self.number as u64;
        edge.envoy.wait_for_stat(ACTIVE, is_full).await;
        most = most.max(edge.envoy.resident_bytes());
        let times = sessions.end().await;
        println!(
            "{total} requests in {:?}, {:?} of CPU; {} of a live session, {:?} at the most",
            started.elapsed(),
            edge.envoy.cpu_time() - cpu_before,
            times.len(),
            times.iter().max()
        );
        assert!(!times.is_empty());
        assert_eq!(edge.whoami(&token).await.status, 200);
        most.saturating_sub(before)
    }
}

/// Requests that are open.
#[derive(Default)]
struct Open {
    http1: VecDeque<Connection>,
    http2: VecDeque<Http2>,
}

impl Open {
    /// Opens some more. Returns how many.
    async fn add(&mut self, envoy: &Envoy, attack: Attack) -> usize {
        let mut form = b"token=".to_vec();
        form.resize(attack.bytes, b'x');
        match attack.protocol {
            Protocol::Http1 => {
                let mut connection = Connection::open(envoy.addr()).await;
                let head = Request::new("POST", attack.path)
                    .header("Content-Length", (attack.bytes + 1).to_string());
                connection.send(&head.to_bytes()).await;
                connection.send(&form).await;
                self.http1.push_back(connection);
                1
            }
            Protocol::Http2 => {
                let mut connection = Http2::open(envoy.addr()).await;
                for _ in 0..STREAMS {
                    connection.begin_post(attack.path, &[], &form).await;
                }
                self.http2.push_back(connection);
                STREAMS
            }
        }
    }

    fn close_oldest(&mut self) {
        self.http1.pop_front();
        self.http2.pop_front();
    }
}

/// A live session that is used all the time.
struct Sessions {
    is_over: Arc<AtomicBool>,
    task: JoinHandle<Vec<Duration>>,
}

impl Sessions {
    async fn start(edge: &Edge, token: &str) -> Self {
        let mut connection = Connection::open(edge.envoy.addr()).await;
        let request = Request::get(WHOAMI).bearer(token);
        let is_over = Arc::new(AtomicBool::new(false));
        let seen = Arc::clone(&is_over);
        let task = tokio::spawn(async move {
            let mut times = Vec::new();
            while !seen.load(Ordering::Relaxed) {
                let sent = Instant::now();
                let response = connection.request(&request).await;
                assert_eq!(response.status, 200, "{response:?}");
                times.push(sent.elapsed());
                sleep(Duration::from_millis(10)).await;
            }
            times
        });
        Self { is_over, task }
    }

    async fn end(self) -> Vec<Duration> {
        self.is_over.store(true, Ordering::Relaxed);
        self.task.await.expect("all are served")
    }
}
