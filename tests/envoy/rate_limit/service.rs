//! A rate limit service: gRPC over HTTP/2 with prior knowledge (RFC 9113), as much of it as Envoy uses.
//!
//! It counts each list of keys and values that the shipped file has a limit for, and never forgets. It reads no header:
//! Envoy calls one method only.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinSet,
};

use super::super::http2::block;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const WINDOW_UPDATE: u8 = 8;
const END_STREAM: u8 = 1;
const ACK: u8 = 1;
const END_HEADERS: u8 = 4;

/// Keys and values of one descriptor.
type Descriptor = Vec<(String, String)>;

/// A running service. Dropping it ends it and its connections.
pub struct RateLimitService {
    addr: SocketAddr,
    _tasks: JoinSet<()>,
}

/// What it counts by.
struct Limits {
    domain: String,
    /// How often a descriptor with these keys passes.
    limits: HashMap<Vec<String>, u64>,
    counts: Mutex<HashMap<Descriptor, u64>>,
}

impl RateLimitService {
    /// Starts with the keys of the shipped file and other numbers.
    pub async fn start(shipped: &Value, user: u64, device: u64) -> Self {
        let key = |value: &Value| value["key"].as_str().expect("a key").to_owned();
        let outer = &shipped["descriptors"][0];
        let inner = &outer["descriptors"][0];
        for limited in [outer, inner] {
            assert!(limited["rate_limit"]["requests_per_unit"].as_u64() > Some(0));
        }
        let limits = HashMap::from([
            (vec![key(outer)], user),
            (vec![key(outer), key(inner)], device),
        ]);
        let limits = Arc::new(Limits {
            domain: shipped["domain"].as_str().expect("a domain").to_owned(),
            limits,
            counts: Mutex::default(),
        });
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let addr = listener.local_addr().expect("it listens");
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                connections.spawn(serve(stream, Arc::clone(&limits)));
            }
        });
        Self {
            addr,
            _tasks: tasks,
        }
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }
}

impl Limits {
    /// RateLimitRequest in, RateLimitResponse out: `overall_code` is OK (1) or OVER_LIMIT (2).
    fn answer(&self, request: &[u8]) -> [u8; 2] {
        let mut counts = self.counts.lock().expect("no panic while locked");
        let mut is_over = false;
        for (field, value) in fields(request) {
            match field {
                1 => assert_eq!(value, self.domain.as_bytes(), "the domain"),
                2 => {
                    let descriptor: Descriptor = fields(value)
                        .into_iter()
                        .filter(|(field, _)| *field == 1)
                        .map(|(_, entry)| entry_of(entry))
                        .collect();
                    let keys: Vec<String> = descriptor.iter().map(|(key, _)| key.clone()).collect();
                    let limit = self.limits.get(&keys).expect("a limit of the shipped file");
                    let count = counts.entry(descriptor).or_default();
                    *count += 1;
                    is_over |= *count > *limit;
                }
                _ => {}
            }
        }
        [0x08, if is_over { 2 } else { 1 }]
    }
}

/// RateLimitDescriptor.Entry: key and value.
fn entry_of(entry: &[u8]) -> (String, String) {
    let text = |wanted: u8| {
        let found = fields(entry)
            .into_iter()
            .find(|(field, _)| *field == wanted);
        String::from_utf8(found.expect("key and value").1.to_vec()).expect("text")
    };
    (text(1), text(2))
}

/// The fields of a message of Protocol Buffers: numbers below 16, and texts and messages shorter than 16 KiB only.
fn fields(mut message: &[u8]) -> Vec<(u8, &[u8])> {
    let mut fields = Vec::new();
    while let [tag, rest @ ..] = message {
        let (length, rest) = varint(rest);
        match tag & 7 {
            // A number: its value is no length.
            0 => message = rest,
            2 => {
                let (value, rest) = rest.split_at(length);
                fields.push((tag >> 3, value));
                message = rest;
            }
            kind => panic!("a field of kind {kind}"),
        }
    }
    fields
}

fn varint(bytes: &[u8]) -> (usize, &[u8]) {
    let (mut value, mut shift, mut at) = (0, 0, 0);
    loop {
        let byte = bytes[at];
        value |= usize::from(byte & 0x7f) << shift;
        shift += 7;
        at += 1;
        if byte < 0x80 {
            return (value, &bytes[at..]);
        }
    }
}

/// Serves a connection until the peer leaves.
async fn serve(mut stream: TcpStream, limits: Arc<Limits>) {
    let mut preface = [0; 24];
    if stream.read_exact(&mut preface).await.is_err() {
        return;
    }
    let mut out = frame(SETTINGS, 0, 0, b"");
    let mut bodies: HashMap<u32, Vec<u8>> = HashMap::new();
    loop {
        if stream.write_all(&out).await.is_err() {
            return;
        }
        out.clear();
        let mut head = [0; 9];
        if stream.read_exact(&mut head).await.is_err() {
            return;
        }
        let [l0, l1, l2, kind, flags, s0, s1, s2, s3] = head;
        let mut payload = vec![0; u32::from_be_bytes([0, l0, l1, l2]) as usize];
        if stream.read_exact(&mut payload).await.is_err() {
            return;
        }
        let id = u32::from_be_bytes([s0, s1, s2, s3]);
        match kind {
            SETTINGS | PING if flags & ACK == 0 => {
                out = frame(kind, ACK, 0, &payload[..kept(kind)])
            }
            DATA => {
                let window = u32::try_from(payload.len()).expect("a short frame");
                bodies.entry(id).or_default().extend_from_slice(&payload);
                if window > 0 {
                    out = frame(WINDOW_UPDATE, 0, 0, &window.to_be_bytes());
                }
                if flags & END_STREAM != 0 {
                    // Five bytes of gRPC stand before the message.
                    let body = bodies.remove(&id).unwrap_or_default();
                    out.extend(reply(id, &limits.answer(&body[5..])));
                }
            }
            _ => {}
        }
    }
}

/// How much of a frame its acknowledgement repeats.
fn kept(kind: u8) -> usize {
    if kind == PING { 8 } else { 0 }
}

fn reply(id: u32, message: &[u8; 2]) -> Vec<u8> {
    let head = block(&[(":status", "200"), ("content-type", "application/grpc")]);
    let end = block(&[("grpc-status", "0")]);
    let body = [&[0, 0, 0, 0, 2], &message[..]].concat();
    [
        frame(HEADERS, END_HEADERS, id, &head),
        frame(DATA, 0, id, &body),
        frame(HEADERS, END_HEADERS | END_STREAM, id, &end),
    ]
    .concat()
}

fn frame(kind: u8, flags: u8, id: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len())
        .expect("a short frame")
        .to_be_bytes();
    [&length[1..], &[kind, flags], &id.to_be_bytes(), payload].concat()
}
