//! A thousand requests at once with one token that no cache knows.
//!
//! They go over a few HTTP/2 connections, which are made before the clock starts: what is measured is the edge, not the
//! making of a thousand connections. Both of Envoy's workers get some.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use http::{Request, header};
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde::Serialize;
use tokio::{net::TcpStream, task::JoinSet, time::Instant};

use super::{
    Member, Shared,
    journal::{Tone, Who},
    kind::duration,
    millis,
};

/// How many requests.
const SIZE: u64 = 1000;
/// Over how many connections: the gateway takes 32 requests at once on each.
const CONNECTIONS: u64 = 40;
const PATIENCE: Duration = Duration::from_secs(70);

/// The herd that runs, and how the last one ended.
#[derive(Default)]
pub(super) struct Herd {
    is_running: AtomicBool,
    answered: Arc<AtomicU64>,
    last: Mutex<Option<Outcome>>,
}

/// As the page shows it.
#[derive(Serialize)]
pub(super) struct State {
    size: u64,
    running: bool,
    /// Of the one that runs.
    answered: u64,
    last: Option<Outcome>,
}

impl State {
    pub(super) const fn is_running(&self) -> bool {
        self.running
    }
}

/// How a herd ended.
#[derive(Clone, Serialize)]
struct Outcome {
    requests: u64,
    /// Calls about its token that reached MAS.
    calls: u64,
    /// Requests that got a verdict without a call of their own.
    spared: u64,
    took_ms: u64,
    /// How many got which status; 0: none at all.
    statuses: BTreeMap<u16, u64>,
}

/// While it lives, no other herd begins. It is dropped also if the page that pressed the button leaves.
struct Running<'a>(&'a Herd);

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.is_running.store(false, Ordering::Release);
    }
}

impl Herd {
    pub(super) fn state(&self) -> State {
        State {
            size: SIZE,
            running: self.is_running.load(Ordering::Acquire),
            answered: self.answered.load(Ordering::Relaxed),
            last: self.last().clone(),
        }
    }

    fn begin(&self) -> Option<Running<'_>> {
        if self.is_running.swap(true, Ordering::AcqRel) {
            return None;
        }
        self.answered.store(0, Ordering::Relaxed);
        Some(Running(self))
    }

    fn last(&self) -> std::sync::MutexGuard<'_, Option<Outcome>> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Sends a herd, and tells what became of it.
pub(super) async fn send(shared: &Shared) -> Result<String, String> {
    let herd = &shared.herd;
    let running = herd.begin().ok_or("a herd is under way")?;
    let stack = &shared.stack;
    stack.observer.forget(Member::Herd);
    let token = stack.cast.begin_again(Member::Herd);
    let mut tasks = JoinSet::new();
    let connections = connect(stack.gateway, &mut tasks)
        .await
        .map_err(|error| format!("the edge does not answer: {error}"))?;
    stack.observer.wake();

    let begun = Instant::now();
    let mut requests = JoinSet::new();
    for number in 0..SIZE {
        let connection = connections.get((number % CONNECTIONS) as usize);
        let connection = connection.ok_or("no connection")?.clone();
        let request = request(stack.gateway, &token).ok_or("the request cannot be made")?;
        let answered = Arc::clone(&herd.answered);
        requests.spawn(async move {
            let status = tokio::time::timeout(PATIENCE, ask(connection, request)).await;
            answered.fetch_add(1, Ordering::Relaxed);
            status.ok().flatten().unwrap_or_default()
        });
    }
    let mut statuses: BTreeMap<u16, u64> = BTreeMap::new();
    while let Some(ended) = requests.join_next().await {
        *statuses.entry(ended.unwrap_or_default()).or_default() += 1;
    }
    let took = begun.elapsed();

    let calls = stack.mas.calls(&token);
    let decided = statuses.get(&200).copied().unwrap_or_default();
    let outcome = Outcome {
        requests: SIZE,
        calls,
        spared: decided.saturating_sub(calls),
        took_ms: millis(took),
        statuses,
    };
    let told = outcome.told(took);
    let tone = if decided == SIZE {
        Tone::Passed
    } else {
        Tone::Failed
    };
    *herd.last() = Some(outcome);
    drop(running);
    stack.observer.write(Who::Client, tone, told.clone());
    Ok(told)
}

impl Outcome {
    fn told(&self, took: Duration) -> String {
        let statuses: Vec<String> = self
            .statuses
            .iter()
            .map(|(status, count)| match status {
                0 => format!("{} without an answer", grouped(*count)),
                _ => format!("{} got {status}", grouped(*count)),
            })
            .collect();
        let calls = match self.calls {
            1 => "1 call".to_owned(),
            calls => format!("{calls} calls"),
        };
        format!(
            "the herd: {} requests at once, {}; {calls} reached MAS, {} spared; {}",
            grouped(self.requests),
            statuses.join(", "),
            self.spared,
            duration(took)
        )
    }
}

/// A number below a million, as people write it.
fn grouped(number: u64) -> String {
    match (number / 1000, number % 1000) {
        (0, rest) => rest.to_string(),
        (thousands, rest) => format!("{thousands},{rest:03}"),
    }
}

type Connection = SendRequest<Empty<Bytes>>;

/// Opens the connections. They end with `tasks`.
async fn connect(to: SocketAddr, tasks: &mut JoinSet<()>) -> Result<Vec<Connection>, String> {
    let mut connections = Vec::new();
    for _ in 0..CONNECTIONS {
        let stream = TcpStream::connect(to)
            .await
            .map_err(|error| error.to_string())?;
        let (sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
            .await
            .map_err(|error| error.to_string())?;
        tasks.spawn(async move {
            // How it ends shows in the requests.
            let _ = connection.await;
        });
        connections.push(sender);
    }
    Ok(connections)
}

fn request(to: SocketAddr, token: &str) -> Option<Request<Empty<Bytes>>> {
    Request::get(format!("http://{to}/_matrix/client/v3/account/whoami"))
        .header(header::AUTHORIZATION, format!("Bearer {token}"))
        .body(Empty::new())
        .ok()
}

/// The status of the answer, once it has come whole.
async fn ask(mut connection: Connection, request: Request<Empty<Bytes>>) -> Option<u16> {
    let response = connection.send_request(request).await.ok()?;
    let status = response.status().as_u16();
    response.into_body().collect().await.ok()?;
    Some(status)
}
