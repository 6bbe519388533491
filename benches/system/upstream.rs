//! A MAS that does nothing but introspect, as fast as one thread can: the stand-in MAS keeps every request
//! for later questions, which a million of them would make the slowest part of the bench.
//!
//! It also refuses requests that are no introspection, for an Envoy that has no module to do so.

use std::{
    collections::HashSet,
    net::{SocketAddr, TcpListener},
    sync::{
        Arc, OnceLock, RwLock,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::{Refusal, process};

/// A running MAS. It ends with the process.
pub struct Mas {
    addr: SocketAddr,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    active: RwLock<HashSet<Vec<u8>>>,
    calls: AtomicU64,
    active_calls: AtomicU64,
    delay_millis: AtomicU64,
    open: AtomicU64,
    most_open: AtomicU64,
    refusal: OnceLock<Vec<u8>>,
}

impl Mas {
    /// Starts one on a free port, on a thread of its own, which gives way to all that is measured.
    pub fn start() -> Self {
        Self::start_after(process::give_way)
    }

    /// Starts one that does not give way, for where no time is measured.
    pub fn attentive() -> Self {
        Self::start_after(|| {})
    }

    fn start_after(prepare: fn()) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let addr = listener.local_addr().expect("a bound listener");
        let shared = Arc::<Shared>::default();
        let served = Arc::clone(&shared);
        std::thread::spawn(move || {
            prepare();
            super::on_this_thread(serve(listener, served));
        });
        Self { addr, shared }
    }

    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Makes these tokens active; all others are inactive.
    pub fn activate(&self, tokens: &[String]) {
        let mut active = self.shared.active.write().expect("no panic while locked");
        active.extend(tokens.iter().map(|token| token.clone().into_bytes()));
    }

    /// Answers this much later from now on.
    pub fn delay(&self, delay: Duration) {
        let millis = u64::try_from(delay.as_millis()).expect("not that long");
        self.shared.delay_millis.store(millis, Ordering::Relaxed);
    }

    /// What requests get that are no introspection.
    pub fn refuse_with(&self, refusal: &Refusal) {
        self.shared.refusal.get_or_init(|| refusal.to_bytes());
    }

    /// Most introspections that ever waited for an answer at once.
    pub fn most_open(&self) -> u64 {
        self.shared.most_open.load(Ordering::Relaxed)
    }

    /// Introspections so far.
    pub fn calls(&self) -> u64 {
        self.shared.calls.load(Ordering::Relaxed)
    }

    /// Introspections of active tokens so far.
    pub fn active_calls(&self) -> u64 {
        self.shared.active_calls.load(Ordering::Relaxed)
    }
}

async fn serve(listener: TcpListener, shared: Arc<Shared>) {
    listener
        .set_nonblocking(true)
        .expect("a listener can be non-blocking");
    let listener = tokio::net::TcpListener::from_std(listener).expect("a listener");
    loop {
        let (stream, _) = listener.accept().await.expect("a connection");
        tokio::spawn(answer(stream, Arc::clone(&shared)));
    }
}

/// Answers the requests of one connection until it ends.
async fn answer(mut stream: TcpStream, shared: Arc<Shared>) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let active = reply(
        &json!({
            "active": true,
            "scope": "urn:matrix:client:api:* urn:matrix:client:device:AABBCCDDEE",
            "client_id": "01JAAAAAAAAAAAAAAAAAAAAAAA",
            "username": "somebody",
            "token_type": "access_token",
            "exp": 4_000_000_000_u64,
            "expires_in": 4_000_000,
            "iat": 1_700_000_000,
            "nbf": 1_700_000_000,
            "sub": "01JBBBBBBBBBBBBBBBBBBBBBBB",
            "jti": "access_token_01JCCCCCCCCCCCCCCCCCCCCCCC",
            "device_id": "AABBCCDDEE",
        })
        .to_string(),
    );
    let inactive = reply(r#"{"active":false}"#);
    let mut received = Vec::new();
    loop {
        while let Some((length, token)) = request(&received) {
            shared.calls.fetch_add(1, Ordering::Relaxed);
            let reply = match token.map(|token| shared.is_active(token)) {
                None => shared.refusal.get().expect("a refusal is set"),
                Some(true) => &active,
                Some(false) => &inactive,
            };
            let open = 1 + shared.open.fetch_add(1, Ordering::Relaxed);
            shared.most_open.fetch_max(open, Ordering::Relaxed);
            let delay = shared.delay_millis.load(Ordering::Relaxed);
            if delay > 0 {
                tokio::time::sleep(Duration::from_millis(delay)).await;
            }
            shared.open.fetch_sub(1, Ordering::Relaxed);
            stream.write_all(reply).await?;
            received.drain(..length);
        }
        if stream.read_buf(&mut received).await? == 0 {
            return Ok(());
        }
    }
}

impl Shared {
    fn is_active(&self, token: &[u8]) -> bool {
        let active = self.active.read().expect("no panic while locked");
        let is_active = active.contains(token);
        if is_active {
            self.active_calls.fetch_add(1, Ordering::Relaxed);
        }
        is_active
    }
}

/// The length of the first whole request, and the token in its form if it is an introspection; MAS tokens
/// need no decoding.
fn request(received: &[u8]) -> Option<(usize, Option<&[u8]>)> {
    let mut headers = [httparse::EMPTY_HEADER; 32];
    let mut head = httparse::Request::new(&mut headers);
    let httparse::Status::Complete(start) = head.parse(received).expect("a request head") else {
        return None;
    };
    let end = start + super::content_length(head.headers);
    let body = received.get(start..end)?;
    let token = body
        .split(|byte| *byte == b'&')
        .find_map(|pair| pair.strip_prefix(b"token="));
    Some((end, token))
}

fn reply(body: &str) -> Vec<u8> {
    format!(
        "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )
    .into_bytes()
}
