//! A stand-in for a homeserver: answers every request with what it saw.
//!
//! The answer is `200` with
//! `{"method","path","query"?,"headers":{"name":["value",..]},"body_bytes","body_sha256","trailers"?}`, unless
//! [`Homeserver::respond`] says otherwise. It tells apart what has begun to arrive from what has arrived, so that
//! a test can show that nothing reaches the homeserver before a verdict.

use std::{
    collections::{BTreeMap, HashMap},
    fmt, io,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use bytes::{Bytes, BytesMut};
use http::{HeaderValue, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use serde::Serialize;
use sha2::{Digest, Sha256};
use tokio::sync::watch;

use crate::{
    SeenRequest,
    seen::{hex, pairs},
    server::Server,
};

/// How much of a body [`SeenRequest::body`] keeps; length and digest are of the whole.
const KEPT_BODY: usize = 64 * 1024;
/// How many requests are kept; the counts go on.
const KEPT_REQUESTS: usize = 10_000;

/// A running stand-in homeserver. Dropping it closes its listener and all connections.
pub struct Homeserver {
    shared: Arc<Shared>,
    server: Server,
}

#[derive(Default)]
struct Shared {
    seen: Mutex<Seen>,
    /// Requests whose headers arrived.
    started: watch::Sender<u64>,
    /// Requests whose body ended.
    completed: watch::Sender<u64>,
    responses: Mutex<HashMap<String, (StatusCode, Bytes)>>,
    watch: Option<Watch>,
}

/// See [`Homeserver::start_watched`].
pub type Watch = Arc<dyn Fn(&SeenRequest) + Send + Sync>;

#[derive(Default)]
struct Seen {
    completed: Vec<SeenRequest>,
    pending: BTreeMap<u64, SeenRequest>,
}

impl Homeserver {
    /// Starts listening on `listen` and answering.
    ///
    /// # Errors
    ///
    /// If the address cannot be listened on.
    pub async fn start(listen: SocketAddr) -> io::Result<Self> {
        Self::start_with(listen, None).await
    }

    /// The same, where `watch` is called for each request whose headers have arrived, be its body still on the way or
    /// never to come.
    ///
    /// # Errors
    ///
    /// If the address cannot be listened on.
    pub async fn start_watched(listen: SocketAddr, watch: Watch) -> io::Result<Self> {
        Self::start_with(listen, Some(watch)).await
    }

    async fn start_with(listen: SocketAddr, watch: Option<Watch>) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            watch,
            ..Shared::default()
        });
        let server = Server::start(listen, {
            let shared = Arc::clone(&shared);
            move |request, _| answer(Arc::clone(&shared), request)
        })
        .await?;
        Ok(Self { shared, server })
    }

    /// Starts on a free loopback port.
    ///
    /// # Errors
    ///
    /// If there is none.
    pub async fn start_local() -> io::Result<Self> {
        Self::start(SocketAddr::from(([127, 0, 0, 1], 0))).await
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.server.addr()
    }

    /// Stops, and returns once the port refuses connections.
    pub async fn stop(self) {
        self.server.stop().await;
    }

    /// The requests that arrived whole, in the order they did; the first 10,000.
    pub fn requests(&self) -> Vec<SeenRequest> {
        lock(&self.shared.seen).completed.clone()
    }

    /// How many requests arrived whole.
    pub fn count(&self) -> u64 {
        *self.shared.completed.borrow()
    }

    /// How many requests began to arrive: those whose headers did.
    pub fn started(&self) -> u64 {
        *self.shared.started.borrow()
    }

    /// The requests whose headers arrived and whose body has not ended: `body` and `body_bytes` so far.
    pub fn pending(&self) -> Vec<SeenRequest> {
        lock(&self.shared.seen).pending.values().cloned().collect()
    }

    /// Whether anything at all was ever received, be it half a request line.
    pub fn first_byte_seen(&self) -> bool {
        self.server.traffic().bytes_received() > 0
    }

    /// How many bytes were received on all connections.
    pub fn bytes_received(&self) -> u64 {
        self.server.traffic().bytes_received()
    }

    /// How many TCP connections were accepted.
    pub fn connections(&self) -> u64 {
        self.server.traffic().connections()
    }

    /// Resolves when at least `count` requests arrived whole since the start.
    pub async fn wait_for(&self, count: u64) {
        // The sender lives in `self`, so waiting cannot fail.
        let _ = self
            .shared
            .completed
            .subscribe()
            .wait_for(|completed| *completed >= count)
            .await;
    }

    /// Resolves when the headers of at least `count` requests arrived since the start.
    pub async fn wait_for_started(&self, count: u64) {
        let _ = self
            .shared
            .started
            .subscribe()
            .wait_for(|started| *started >= count)
            .await;
    }

    /// Answers requests to `path` (exact, without the query) with `status` and this JSON body from now on.
    ///
    /// # Panics
    ///
    /// If `status` is not an HTTP status from 200 to 999.
    pub fn respond(&self, path: &str, status: u16, body: impl Into<Bytes>) {
        assert!(status >= 200, "an interim status answers nothing: {status}");
        let status = StatusCode::from_u16(status).expect("a three-digit status");
        lock(&self.shared.responses).insert(path.to_owned(), (status, body.into()));
    }

    /// Answers all requests with what was seen again.
    pub fn clear_responses(&self) {
        lock(&self.shared.responses).clear();
    }
}

impl fmt::Debug for Homeserver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Homeserver")
            .field("addr", &self.addr())
            .field("count", &self.count())
            .finish_non_exhaustive()
    }
}

/// The answer's JSON.
#[derive(Serialize)]
struct Echo<'a> {
    method: &'a str,
    path: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    query: Option<&'a str>,
    headers: BTreeMap<&'a str, Vec<String>>,
    body_bytes: u64,
    body_sha256: &'a str,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    trailers: BTreeMap<&'a str, Vec<String>>,
}

async fn answer(shared: Arc<Shared>, request: Request<Incoming>) -> Response<Full<Bytes>> {
    let (head, body) = request.into_parts();
    let request = SeenRequest::from_head(&head);
    if let Some(watch) = &shared.watch {
        watch(&request);
    }
    let arrival = Arrival::begin(&shared, request);
    let Some(seen) = arrival.read(body).await else {
        return reply(StatusCode::BAD_REQUEST, Bytes::new());
    };
    let response = lock(&shared.responses).get(seen.path()).cloned();
    match response {
        Some((status, body)) => reply(status, body),
        None => reply(StatusCode::OK, echo(&seen)),
    }
}

/// A request on its way in. Dropping it (the caller left) takes it off the pending ones.
struct Arrival<'a> {
    shared: &'a Shared,
    number: u64,
}

impl<'a> Arrival<'a> {
    fn begin(shared: &'a Shared, request: SeenRequest) -> Self {
        let mut number = 0;
        let mut seen = lock(&shared.seen);
        // Under the lock, so that whoever waits for the count finds the request pending.
        shared.started.send_modify(|started| {
            number = *started;
            *started += 1;
        });
        seen.pending.insert(number, request);
        Self { shared, number }
    }

    /// Reads the body to its end and moves the request to the complete ones; `None` if it broke off.
    async fn read(self, mut body: Incoming) -> Option<SeenRequest> {
        let mut sha256 = Sha256::new();
        let mut kept = BytesMut::new();
        let mut trailers = Vec::new();
        while let Some(frame) = body.frame().await {
            match frame.ok()?.into_data() {
                Ok(data) => {
                    sha256.update(&data);
                    let room = KEPT_BODY.saturating_sub(kept.len()).min(data.len());
                    kept.extend_from_slice(&data[..room]);
                    if let Some(pending) = lock(&self.shared.seen).pending.get_mut(&self.number) {
                        pending.body_bytes += data.len() as u64;
                    }
                }
                Err(frame) => {
                    trailers = frame
                        .into_trailers()
                        .map(|map| pairs(&map))
                        .unwrap_or_default()
                }
            }
        }
        let mut seen = lock(&self.shared.seen);
        let request = SeenRequest {
            body: kept.freeze(),
            body_sha256: hex(&sha256.finalize()),
            trailers,
            ..seen.pending.remove(&self.number)?
        };
        if seen.completed.len() < KEPT_REQUESTS {
            seen.completed.push(request.clone());
        }
        self.shared
            .completed
            .send_modify(|completed| *completed += 1);
        // `self` locks again when it is dropped.
        drop(seen);
        Some(request)
    }
}

impl Drop for Arrival<'_> {
    fn drop(&mut self) {
        lock(&self.shared.seen).pending.remove(&self.number);
    }
}

fn echo(seen: &SeenRequest) -> Bytes {
    let echo = Echo {
        method: &seen.method,
        path: seen.path(),
        query: seen.query(),
        headers: by_name(&seen.headers),
        body_bytes: seen.body_bytes,
        body_sha256: &seen.body_sha256,
        trailers: by_name(&seen.trailers),
    };
    serde_json::to_vec(&echo).unwrap_or_default().into()
}

/// All values by name; bytes that are not UTF-8 are shown as U+FFFD.
fn by_name(pairs: &[(String, Bytes)]) -> BTreeMap<&str, Vec<String>> {
    let mut by_name: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for (name, value) in pairs {
        by_name
            .entry(name)
            .or_default()
            .push(String::from_utf8_lossy(value).into_owned());
    }
    by_name
}

fn reply(status: StatusCode, body: Bytes) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body));
    *response.status_mut() = status;
    response.headers_mut().insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/json"),
    );
    response
}

/// A panic elsewhere leaves these plain values whole, so a poisoned lock is still good.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
