//! Cold starts: Envoy has just started, and everyone comes at once. Nobody is refused as long as MAS answers.

use std::{
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    time::Duration,
};

use serde_json::json;
use stand_in::mas::Fault;
use tokio::{
    task::JoinSet,
    time::{Instant, sleep},
};

use super::{
    edge::{Edge, WHOAMI, assert_no_verdict, new_token},
    workers::{POLL, WORKERS, connections, start_with},
};
use crate::support::{
    envoy::bootstrap,
    http::{Connection, Request, Response},
};

/// How long MAS takes for an answer.
const MAS: Duration = Duration::from_millis(50);

/// Calls that may be under way in all workers.
const CAP: u64 = 256 * WORKERS as u64;

const IN_FLIGHT: &str = "matrix_edge_auth_introspections_in_flight";

/// The edge behind a proxy that tells each client's address.
async fn start() -> Edge {
    start_with(json!({}), |builder| {
        builder.bootstrap(|config| {
            bootstrap::http_manager(config)["xff_num_trusted_hops"] = 1.into();
        })
    })
    .await
}

/// A request of the client with this number.
fn request(token: &str, client: usize) -> Request {
    let [.., b, c] = u32::try_from(client).expect("a few thousand").to_be_bytes();
    Request::get(WHOAMI)
        .bearer(token)
        .header("X-Forwarded-For", format!("10.0.{b}.{c}"))
}

/// What became of a request, and how long that took.
type Answer = (Response, Duration);

/// Sends one valid token on each connection, all at once.
fn send_all(edge: &Edge, connections: Vec<Connection>) -> (Vec<String>, JoinSet<Answer>) {
    let mut answers = JoinSet::new();
    let mut tokens = Vec::new();
    for (client, mut connection) in connections.into_iter().enumerate() {
        let token = edge.active(&format!("user{client}"), "PHONE");
        let request = request(&token, client);
        tokens.push(token);
        answers.spawn(async move {
            let sent = Instant::now();
            let response = connection.request(&request).await;
            (response, sent.elapsed())
        });
    }
    (tokens, answers)
}

async fn assert_all_are_served(clients: usize, flood: bool) {
    let edge = start().await;
    let connections = connections(&edge, clients / WORKERS).await;
    let mut flooding = match flood {
        true => Some(Flood::open(&edge).await),
        false => None,
    };
    edge.mas.fault(Fault::delay(MAS));
    let over = AtomicBool::new(false);
    let rush = async {
        // The flood has its calls under way.
        if flood {
            edge.wait_for_calls(100).await;
        }
        let begun = Instant::now();
        let (tokens, answers) = send_all(&edge, connections);
        let answers = answers.join_all().await;
        let took = begun.elapsed();
        over.store(true, Ordering::Relaxed);
        (tokens, answers, took)
    };
    let invented = async {
        match &mut flooding {
            Some(flood) => flood.run(&over).await,
            None => 0,
        }
    };
    let gauge = async {
        let mut most = 0.0;
        while !over.load(Ordering::Relaxed) {
            most = edge.envoy.stats().await.sum(IN_FLIGHT, &[]).max(most);
            sleep(POLL).await;
        }
        most as u64
    };
    let ((tokens, answers, took), invented, most) = tokio::join!(rush, invented, gauge);

    let slowest = answers.iter().map(|(_, time)| *time).max();
    let stats = edge.envoy.stats().await;
    let waited = stats.sum("matrix_edge_auth_line_waits_total", &[]);
    println!(
        "{clients} clients took {took:?}, the slowest {slowest:?}; {waited} waited in line; \
         {most} calls under way by the gauge, {} by MAS; {invented} invented tokens beside them",
        edge.mas.most_at_once()
    );
    let refused = answers.iter().filter(|(answer, _)| answer.status != 200);
    assert_eq!(refused.count(), 0, "of {clients}");
    for token in &tokens {
        assert_eq!(edge.mas.calls(token), 1);
    }
    assert!(most <= CAP && edge.mas.most_at_once() <= CAP);
    edge.wait_for_metric(IN_FLIGHT, &[], 0.0).await;
    edge.assert_alive().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_clients_at_once_are_all_served() {
    assert_all_are_served(1_000, false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn four_thousand_clients_at_once_are_all_served() {
    assert_all_are_served(4_000, false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_clients_at_once_are_all_served_beside_a_flood() {
    assert_all_are_served(1_000, true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn four_thousand_clients_at_once_are_all_served_beside_a_flood() {
    assert_all_are_served(4_000, true).await;
}

/// One client that sends 2,000 invented tokens a second, or as many as this machine can.
struct Flood(Vec<Connection>);

impl Flood {
    const A_SECOND: usize = 2_000;

    async fn open(edge: &Edge) -> Self {
        let mut connections = Vec::new();
        for _ in 0..200 {
            connections.push(Connection::open(edge.envoy.addr()).await);
        }
        Self(connections)
    }

    /// Returns how many tokens were sent.
    async fn run(&mut self, over: &AtomicBool) -> usize {
        let begun = Instant::now();
        let sent = AtomicUsize::new(0);
        let clients = self.0.iter_mut().map(|connection| async {
            while !over.load(Ordering::Relaxed) {
                let number = sent.fetch_add(1, Ordering::Relaxed);
                let due = begun + Duration::from_secs(1) * u32::try_from(number).expect("a few") / Self::A_SECOND as u32;
                tokio::time::sleep_until(due).await;
                let request = Request::get(WHOAMI)
                    .bearer(&new_token("mat"))
                    .header("X-Forwarded-For", "203.0.113.1");
                connection.request(&request).await;
            }
        });
        futures_join_all(clients).await;
        sent.into_inner()
    }
}
