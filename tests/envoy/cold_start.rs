//! Cold starts: Envoy has just started, and everyone comes at once. Nobody is refused as long as MAS answers.
//!
//! Thousands of requests take seconds of processor time, and MAS's stand-in shares the processors with Envoy and the
//! clients. If the calls take longer than a question may wait in line, or the machine stalls, this machine is a slow MAS, and some
//! are refused rightly. The scenarios in `tests/scenarios/rush.rs` have no such excuse.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::Duration,
};

use serde_json::json;
use stand_in::mas::Fault;
use tokio::{
    task::JoinSet,
    time::{Instant, sleep, sleep_until},
};

use super::{
    edge::{Edge, WHOAMI, assert_no_verdict, new_token},
    workers::{POLL, WORKERS, connections, start_with},
};
use crate::support::{
    envoy::bootstrap,
    http::{Connection, Request, Response},
    product_time::Stalls,
};

/// How long MAS takes for an answer.
const MAS: Duration = Duration::from_millis(50);

/// Calls that may be under way in all workers.
const CAP: u64 = 256 * WORKERS as u64;

/// How long a question may wait in line, up to the next tick.
const LINE: Duration = Duration::from_millis(750);

/// Connections are never spread evenly: of twenty, so many go to each worker.
const SPREAD: [usize; WORKERS] = [7, 6, 4, 3];

/// The edge behind a proxy that tells each client's address.
async fn start() -> Edge {
    start_with(json!({}), |builder| {
        builder.bootstrap(|config| {
            bootstrap::http_manager(config)["xff_num_trusted_hops"] = 1.into();
        })
    })
    .await
}

/// Opens a connection for each client, so many to each worker.
async fn spread_connections(edge: &Edge, clients: usize) -> Vec<Connection> {
    let shares = SPREAD.map(|share| clients * share / SPREAD.iter().sum::<usize>());
    let all = connections(edge, shares[0]).await.into_iter().enumerate();
    let within = all.filter(|(at, _)| at / WORKERS < shares[at % WORKERS]);
    let chosen: Vec<Connection> = within.map(|(_, connection)| connection).collect();
    assert_eq!(chosen.len(), clients);
    chosen
}

/// Sends one valid token on each connection, all at once, each from an address of its own.
fn send_all(edge: &Edge, connections: Vec<Connection>) -> (Vec<String>, JoinSet<Response>) {
    let mut responses = JoinSet::new();
    let mut tokens = Vec::new();
    for (client, mut connection) in connections.into_iter().enumerate() {
        let token = edge.active(&format!("user{client}"), "PHONE");
        let address = format!("10.0.{}.{}", client / 256, client % 256);
        let request = Request::get(WHOAMI)
            .bearer(&token)
            .header("X-Forwarded-For", address);
        tokens.push(token);
        responses.spawn(async move { connection.request(&request).await });
    }
    (tokens, responses)
}

async fn assert_all_are_served(clients: usize, beside_a_flood: bool) {
    let edge = start().await;
    let connections = spread_connections(&edge, clients).await;
    edge.mas.fault(Fault::delay(MAS));
    let flood = match beside_a_flood {
        true => Some(Flood::start(&edge).await),
        false => None,
    };
    let is_over = AtomicBool::new(false);
    let rush = async {
        let (begun, stalls) = (Instant::now(), Stalls::measure());
        let (tokens, responses) = send_all(&edge, connections);
        let responses = responses.join_all().await;
        is_over.store(true, Ordering::Relaxed);
        (tokens, responses, begun.elapsed(), stalls.are_there())
    };
    let gauge = async {
        let mut most = 0.0;
        while !is_over.load(Ordering::Relaxed) {
            most = edge.envoy.stats_so_far().await.calls_under_way().max(most);
            sleep(POLL).await;
        }
        most as u64
    };
    let ((tokens, responses, took, stalled), most) = tokio::join!(rush, gauge);
    let flood = match flood {
        Some(flood) => flood.stop().await,
        None => 0.0,
    };

    let stats = edge.envoy.stats().await;
    let sum = |name: &str| stats.sum(&format!("matrix_edge_auth_{name}"), &[]);
    let calls = sum("introspection_duration_milliseconds_count");
    let call = sum("introspection_duration_milliseconds_sum") / calls;
    let waits = sum("line_waits_total");
    let (served, refused): (Vec<_>, Vec<_>) = responses
        .iter()
        .partition(|response| response.status == 200);
    println!(
        "{clients} clients took {took:?} (the machine stalled: {stalled}), {} were refused; {waits} waits in line; a call took {call:.0} ms; {most} were \
         under way by the gauge and {} by MAS; {flood:.0} invented tokens a second beside them",
        refused.len(),
        edge.mas.most_at_once(),
    );
    // On a busy machine the clients may come so slowly that there is room for each.
    assert!(waits > 0.0 || most < CAP, "more than the cap");
    // Envoy counts a call for as long as the module is told its answer, and then the next one begins: one in each worker.
    assert!(most <= CAP + WORKERS as u64 && edge.mas.most_at_once() <= CAP);
    refused
        .iter()
        .for_each(|response| assert_no_verdict(response));
    // The busiest worker makes its calls in so many rounds, and the last may begin while its question waits.
    let rounds = (clients * SPREAD[0] / SPREAD.iter().sum::<usize>()).div_ceil(256);
    if !stalled && call * (rounds as f64) < LINE.as_millis() as f64 {
        assert_eq!(served.len(), clients);
    }
    let calls = tokens.iter().map(|token| edge.mas.calls(token));
    assert!(
        calls.max() == Some(1) || stalled,
        "each is asked about once"
    );
    edge.wait_until_none_is_under_way().await;
    edge.assert_alive().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn everyone_is_served_after_a_restart() {
    for clients in [1_000, 4_000] {
        assert_all_are_served(clients, false).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn everyone_is_served_beside_a_flood() {
    for clients in [1_000, 4_000] {
        assert_all_are_served(clients, true).await;
    }
}

/// One client that sends 2,000 invented tokens a second, or as many as this machine can.
struct Flood {
    begun: Instant,
    sent: Arc<AtomicU32>,
    is_over: Arc<AtomicBool>,
    connections: JoinSet<()>,
}

impl Flood {
    const A_SECOND: u32 = 2_000;
    const CONNECTIONS: usize = 200;

    /// Returns once it has calls under way.
    async fn start(edge: &Edge) -> Self {
        let mut flood = Self {
            begun: Instant::now(),
            sent: Arc::default(),
            is_over: Arc::default(),
            connections: JoinSet::new(),
        };
        for _ in 0..Self::CONNECTIONS {
            let mut connection = Connection::open(edge.envoy.addr()).await;
            let (sent, is_over) = (Arc::clone(&flood.sent), Arc::clone(&flood.is_over));
            let begun = flood.begun;
            flood.connections.spawn(async move {
                while !is_over.load(Ordering::Relaxed) {
                    let number = sent.fetch_add(1, Ordering::Relaxed);
                    let due = begun + Duration::from_secs(1) * number / Self::A_SECOND;
                    sleep_until(due).await;
                    let request = Request::get(WHOAMI)
                        .bearer(&new_token("mat"))
                        .header("X-Forwarded-For", "203.0.113.1");
                    connection.request(&request).await;
                }
            });
        }
        edge.wait_for_calls(200).await;
        flood
    }

    /// Returns how many tokens were sent in a second.
    async fn stop(self) -> f64 {
        self.is_over.store(true, Ordering::Relaxed);
        let lasted = self.begun.elapsed();
        self.connections.join_all().await;
        f64::from(self.sent.load(Ordering::Relaxed)) / lasted.as_secs_f64()
    }
}
