//! A server that gives every request the same answer: a homeserver, or a service that says yes.
//!
//! The non-obvious rule: head and body leave in one write. In two, the second waits until the first is acknowledged
//! (Nagle's algorithm), and the peer acknowledges late.

use std::{
    io::{self, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Condvar, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

/// Far more than any request takes.
const LIMIT: Duration = Duration::from_secs(120);

/// A running server. It ends with the process.
pub struct Service {
    addr: SocketAddr,
    received: Arc<Received>,
}

/// What has arrived.
#[derive(Default)]
struct Received {
    /// Bytes of bodies.
    bytes: Mutex<usize>,
    more: Condvar,
    identified: AtomicUsize,
}

impl Service {
    /// Starts one on a free port. `answer` is a whole response, in bytes.
    pub fn start(answer: String) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let addr = listener.local_addr().expect("a bound listener");
        let received = Arc::<Received>::default();
        let counted = Arc::clone(&received);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (answer, counted) = (answer.clone(), Arc::clone(&counted));
                // Fails when Envoy ends, which is the end of this connection too.
                thread::spawn(move || serve(stream, answer.as_bytes(), &counted));
            }
        });
        Self { addr, received }
    }

    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Bytes of bodies that have arrived so far.
    pub fn received(&self) -> usize {
        *self.received.bytes.lock().expect("no panic while locked")
    }

    /// Requests so far that said who sends them, in the module's own header.
    pub fn identified(&self) -> usize {
        self.received.identified.load(Ordering::Relaxed)
    }

    /// Waits until this many bytes of bodies have arrived.
    pub fn wait_for(&self, bytes: usize) {
        let arrived = self.received.bytes.lock().expect("no panic while locked");
        let (_arrived, timeout) = self
            .received
            .more
            .wait_timeout_while(arrived, LIMIT, |arrived| *arrived < bytes)
            .expect("no panic while locked");
        assert!(!timeout.timed_out(), "a body arrives within {LIMIT:?}");
    }
}

impl Received {
    fn add(&self, bytes: usize) {
        *self.bytes.lock().expect("no panic while locked") += bytes;
        self.more.notify_all();
    }
}

/// Answers the requests of one connection until it ends.
fn serve(mut stream: TcpStream, answer: &[u8], received: &Received) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut buffer = vec![0; 64 * 1024];
    let mut head = Vec::new();
    // Of the body of the request whose head is read.
    let mut missing = None;
    loop {
        let length = stream.read(&mut buffer)?;
        if length == 0 {
            return Ok(());
        }
        let mut part = &buffer[..length];
        while !part.is_empty() {
            let still = match missing {
                Some(still) => still,
                None => {
                    let before = head.len();
                    head.extend_from_slice(part);
                    let Some((end, body, identified)) = parse(&head) else {
                        break;
                    };
                    let more = usize::from(identified);
                    received.identified.fetch_add(more, Ordering::Relaxed);
                    part = &part[end - before..];
                    head.clear();
                    body
                }
            };
            let body = still.min(part.len());
            part = &part[body..];
            received.add(body);
            missing = (still > body).then_some(still - body);
            if missing.is_none() {
                stream.write_all(answer)?;
            }
        }
    }
}

/// The length of a whole head, that of the body which follows it, and whether it says who sends it.
fn parse(received: &[u8]) -> Option<(usize, usize, bool)> {
    let mut headers = [httparse::EMPTY_HEADER; 32];
    let mut head = httparse::Request::new(&mut headers);
    match head.parse(received).expect("a request head") {
        httparse::Status::Complete(end) => {
            let names = ["x-matrix-user-id", "x-matrix-device-id"];
            let has = |name| head.headers.iter().any(|header| header.name == name);
            let identified = names.into_iter().all(has);
            Some((end, super::content_length(head.headers), identified))
        }
        httparse::Status::Partial => None,
    }
}
