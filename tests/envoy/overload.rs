//! More questions than MAS can take: the calls are bounded, the rest waits for a moment and is then refused, and live
//! sessions notice nothing.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use serde_json::json;
use stand_in::mas::Fault;
use tokio::{
    sync::mpsc,
    time::{Instant, sleep},
};

use super::{
    edge::{Edge, WHOAMI, assert_no_verdict, new_token},
    workers::{POLL, WORKERS, ask_all, connections, start, start_with},
};
use crate::support::{
    envoy::bootstrap,
    http::{Connection, Request, Response},
};

/// What became of a request, and how long that took.
type Answer = (Response, Duration);

/// Sends a cold token on each connection, and sends what becomes of it through the channel.
fn send_cold(edge: &Edge, cold: Vec<Connection>) -> mpsc::UnboundedReceiver<Answer> {
    let (sender, answers) = mpsc::unbounded_channel();
    for (client, mut connection) in cold.into_iter().enumerate() {
        let (token, sender) = (edge.active(&client.to_string(), "X"), sender.clone());
        tokio::spawn(async move {
            let sent = Instant::now();
            let request = Request::get(WHOAMI).bearer(&token);
            let response = connection.request(&request).await;
            // The test may have failed meanwhile.
            let _ = sender.send((response, sent.elapsed()));
        });
    }
    answers
}

/// A live session asks on each worker again and again, until `is_over`. Returns how long that took each time.
async fn use_session(
    connections: &mut [Connection],
    token: &str,
    is_over: &AtomicBool,
) -> Vec<Duration> {
    let mut times = Vec::new();
    while !is_over.load(Ordering::Relaxed) {
        for connection in &mut *connections {
            let sent = Instant::now();
            let request = Request::get(WHOAMI).bearer(token);
            let response = connection.request(&request).await;
            assert_eq!(response.status, 200, "{response:?}");
            times.push(sent.elapsed());
        }
        sleep(POLL).await;
    }
    times
}

/// All come from one address, which gets all of so few calls.
#[tokio::test]
async fn a_mas_that_hangs_gets_no_more_calls_than_it_should_and_live_sessions_notice_nothing() {
    const CALLED: usize = 8 * WORKERS;
    const COLD: usize = 1_000;
    let edge = start(json!({"introspection": {"max_in_flight": 8}})).await;
    let mut connections = connections(&edge, 1 + COLD / WORKERS).await;
    let cold = connections.split_off(WORKERS);
    let live = edge.alice();
    for _ in 0..2 {
        ask_all(&mut connections, [&live; WORKERS].into_iter()).await;
    }
    let hold = edge.mas.hold();
    let is_over = AtomicBool::new(false);
    let flood = async {
        let mut answers = send_cold(&edge, cold);
        let mut refused = Vec::new();
        while refused.len() < COLD - CALLED {
            refused.push(answers.recv().await.expect("an answer"));
        }
        is_over.store(true, Ordering::Relaxed);
        let under_way = edge.envoy.stats_so_far().await.calls_under_way();
        assert_eq!(under_way, CALLED as f64);
        (refused, answers)
    };
    let sessions = use_session(&mut connections, &live, &is_over);
    let ((refused, mut answers), times) = tokio::join!(flood, sessions);

    let waited = |(_, time): &Answer| *time;
    let [least, most] = [
        refused.iter().map(waited).min(),
        refused.iter().map(waited).max(),
    ];
    println!("{} refused, after {least:?} to {most:?}", refused.len());
    println!(
        "{} requests of a live session took {:?} at the most",
        times.len(),
        times.iter().max()
    );
    assert!(
        least >= Some(Duration::from_millis(500)),
        "they wait for a free call"
    );
    refused
        .iter()
        .for_each(|(answer, _)| assert_no_verdict(answer));
    assert_eq!(edge.mas.total_calls(), 1 + CALLED as u64);
    hold.release();
    while let Some((answer, _)) = answers.recv().await {
        assert_eq!(answer.status, 200, "{answer:?}");
    }
    edge.wait_until_none_is_under_way().await;
    edge.assert_alive().await;
}

/// Thousands of cold tokens a second for some seconds, each from an address of its own, and a MAS that takes two
/// seconds for each: far more than the calls and the lines take.
#[tokio::test(flavor = "multi_thread")]
async fn a_slow_mas_and_thousands_of_cold_tokens_leave_memory_flat() {
    const CLIENTS: usize = 3_000;
    const WARM_UP: Duration = Duration::from_secs(4);
    const FLOOD: Duration = Duration::from_secs(6);
    const GROWTH: u64 = 16 * 1024 * 1024;
    let edge = start_with(json!({}), |builder| {
        builder.bootstrap(|config| {
            bootstrap::http_manager(config)["xff_num_trusted_hops"] = 1.into();
        })
    })
    .await;
    let mut connections = connections(&edge, 1 + CLIENTS / WORKERS).await;
    let cold = connections.split_off(WORKERS);
    let live = edge.alice();
    ask_all(&mut connections, [&live; WORKERS].into_iter()).await;
    edge.mas.fault(Fault::delay(Duration::from_secs(2)));

    let is_over = Arc::new(AtomicBool::new(false));
    let mut clients = tokio::task::JoinSet::new();
    for (client, mut connection) in cold.into_iter().enumerate() {
        let is_over = Arc::clone(&is_over);
        clients.spawn(async move {
            let mut answers = Vec::new();
            while !is_over.load(Ordering::Relaxed) {
                let address = format!("10.0.{}.{}", client / 256, client % 256);
                let request = Request::get(WHOAMI)
                    .bearer(&new_token("mat"))
                    .header("X-Forwarded-For", address);
                answers.push(connection.request(&request).await);
            }
            answers
        });
    }
    let memory = async {
        sleep(WARM_UP).await;
        let before = edge.envoy.resident_bytes();
        sleep(FLOOD).await;
        is_over.store(true, Ordering::Relaxed);
        [before, edge.envoy.resident_bytes()]
    };
    let sessions = use_session(&mut connections, &live, &is_over);
    let ([before, after], times) = tokio::join!(memory, sessions);
    let answers = clients.join_all().await.into_iter().flatten();
    let (asked, refused): (Vec<_>, Vec<_>) =
        answers.partition(|response: &Response| response.status == 401);
    println!(
        "{} asked about, {} refused; memory {before}, then {after}; {} requests of a live session took {:?} at the most",
        asked.len(),
        refused.len(),
        times.len(),
        times.iter().max()
    );
    assert!(refused.len() > CLIENTS, "far more than MAS takes");
    refused.iter().for_each(assert_no_verdict);
    assert!(edge.mas.most_at_once() <= 256 * WORKERS as u64);
    assert!(after < before + GROWTH, "{before} bytes, then {after}");
    assert_eq!(edge.mas.calls(&live), 1);
    edge.mas.clear_faults();
    edge.wait_until_none_is_under_way().await;
    edge.assert_alive().await;
}
