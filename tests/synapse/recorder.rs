//! A TCP proxy in front of Synapse that keeps the head of every request as it passes: what reached
//! the homeserver, to the byte. It changes nothing.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use tokio::{
    io::{self, AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    task::{JoinHandle, JoinSet},
};

const MAX_HEADERS: usize = 128;

/// A running proxy. Dropping it closes the listener and every connection.
pub struct Recorder {
    addr: SocketAddr,
    heads: Arc<Mutex<Vec<Head>>>,
    task: JoinHandle<()>,
}

/// The head of a request.
#[derive(Clone, Debug)]
pub struct Head {
    /// Names and values as they passed.
    pub headers: Vec<(String, Vec<u8>)>,
}

impl Recorder {
    /// Listens on a free port and passes everything on to `upstream`.
    pub async fn start(upstream: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let addr = listener.local_addr().expect("an address");
        let heads = Arc::default();
        let task = tokio::spawn(accept(listener, upstream, Arc::clone(&heads)));
        Self { addr, heads, task }
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// What has passed since the last time.
    pub fn take(&self) -> Vec<Head> {
        std::mem::take(&mut *self.heads.lock().expect("no panic while held"))
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Head {
    /// The values of the header `name` (lower case).
    pub fn texts<'a>(&'a self, name: &str) -> Vec<&'a str> {
        self.headers
            .iter()
            .filter(|(given, _)| given.eq_ignore_ascii_case(name))
            .map(|(_, value)| str::from_utf8(value).expect("text in a header that a test asks for"))
            .collect()
    }
}

async fn accept(listener: TcpListener, upstream: SocketAddr, heads: Arc<Mutex<Vec<Head>>>) {
    // The set lives in this task, so that aborting the task ends every connection.
    let mut connections = JoinSet::new();
    while let Ok((client, _)) = listener.accept().await {
        let heads = Arc::clone(&heads);
        connections.spawn(async move {
            // Errors are one side leaving; dropping the other tells it.
            let _ = pass(client, upstream, &heads).await;
        });
    }
}

async fn pass(client: TcpStream, upstream: SocketAddr, heads: &Mutex<Vec<Head>>) -> io::Result<()> {
    let server = TcpStream::connect(upstream).await?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let (from_client, mut to_client) = client.into_split();
    let (mut from_server, to_server) = server.into_split();
    tokio::select! {
        ended = pass_requests(from_client, to_server, heads) => ended,
        ended = io::copy(&mut from_server, &mut to_client) => ended.map(drop),
    }
}

async fn pass_requests(
    mut client: OwnedReadHalf,
    mut server: OwnedWriteHalf,
    heads: &Mutex<Vec<Head>>,
) -> io::Result<()> {
    let mut reader = Reader::default();
    let mut buffer = vec![0; 16 * 1024];
    loop {
        let length = client.read(&mut buffer).await?;
        if length == 0 {
            return Ok(());
        }
        let passing = &buffer[..length];
        reader.read(passing, |head| {
            heads.lock().expect("no panic while held").push(head)
        });
        server.write_all(passing).await?;
    }
}

/// Finds the heads in a stream of requests (RFC 9112).
#[derive(Default)]
struct Reader {
    unread: Vec<u8>,
    body: Body,
}

/// What is left of a body.
#[derive(Default)]
enum Body {
    #[default]
    None,
    Bytes(usize),
    Chunks,
}

impl Reader {
    fn read(&mut self, bytes: &[u8], mut found: impl FnMut(Head)) {
        self.unread.extend_from_slice(bytes);
        while let Some((length, next, head)) = self.step() {
            self.unread.drain(..length);
            self.body = next;
            head.into_iter().for_each(&mut found);
        }
    }

    /// How many bytes the next part takes, and what follows it.
    fn step(&self) -> Option<(usize, Body, Option<Head>)> {
        match self.body {
            Body::None => {
                let (length, head, body) = parse_head(&self.unread)?;
                Some((length, body, Some(head)))
            }
            Body::Bytes(left) => {
                let length = left.min(self.unread.len());
                let next = if length == left {
                    Body::None
                } else {
                    Body::Bytes(left - length)
                };
                (length > 0 || left == 0).then_some((length, next, None))
            }
            Body::Chunks => {
                let size = httparse::parse_chunk_size(&self.unread).expect("a chunk size");
                let httparse::Status::Complete((start, size)) = size else {
                    return None;
                };
                let length =
                    start + usize::try_from(size).expect("a chunk that fits in memory") + 2;
                let next = if size == 0 { Body::None } else { Body::Chunks };
                (self.unread.len() >= length).then_some((length, next, None))
            }
        }
    }
}

fn parse_head(bytes: &[u8]) -> Option<(usize, Head, Body)> {
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut request = httparse::Request::new(&mut headers);
    let httparse::Status::Complete(length) = request.parse(bytes).expect("a request head") else {
        return None;
    };
    let headers = request
        .headers
        .iter()
        .map(|header| (header.name.to_owned(), header.value.to_vec()))
        .collect();
    let head = Head { headers };
    let body = match (
        head.texts("transfer-encoding").as_slice(),
        head.texts("content-length").as_slice(),
    ) {
        ([], []) => Body::None,
        ([], [length]) => Body::Bytes(length.parse().expect("a length")),
        _ => Body::Chunks,
    };
    Some((length, head, body))
}
