//! A raw HTTP/1.1 client (RFC 9112) that sends exactly the bytes it is told to, and hides nothing of the
//! response: headers keep their order and their bytes.
//!
//! Every wait has a limit, so that a test which hangs fails instead, and says what it waited for.

use std::{future::Future, io, net::SocketAddr, time::Duration};

use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
};

/// How long anything may take. Far more than anything here needs: passing it is a failure.
pub const LIMIT: Duration = Duration::from_secs(30);

const MAX_HEADERS: usize = 128;

/// Waits for `what`, which `done` resolves with, for at most [`LIMIT`].
///
/// # Panics
///
/// If it takes longer.
pub async fn within_limit<T>(what: &str, done: impl Future<Output = T>) -> T {
    match tokio::time::timeout(LIMIT, done).await {
        Ok(value) => value,
        Err(_) => panic!("waited {LIMIT:?} in vain for {what}"),
    }
}

/// A request to be built up.
#[derive(Clone)]
pub struct Request {
    method: String,
    target: Vec<u8>,
    headers: Vec<(String, Vec<u8>)>,
    body: Vec<u8>,
    framing: Framing,
    trailers: Vec<(String, Vec<u8>)>,
}

#[derive(Clone, Copy)]
enum Framing {
    None,
    ContentLength,
    Chunked,
}

impl Request {
    /// `method` and `target` as they are to stand in the request line.
    pub fn new(method: &str, target: impl AsRef<[u8]>) -> Self {
        Self {
            method: method.to_owned(),
            target: target.as_ref().to_vec(),
            headers: Vec::new(),
            body: Vec::new(),
            framing: Framing::None,
            trailers: Vec::new(),
        }
    }

    /// A `GET`.
    pub fn get(target: impl AsRef<[u8]>) -> Self {
        Self::new("GET", target)
    }

    /// A `POST` with a body, of the type `content_type`.
    pub fn post(target: impl AsRef<[u8]>, content_type: &str, body: impl AsRef<[u8]>) -> Self {
        Self::new("POST", target)
            .header("Content-Type", content_type)
            .body(body)
    }

    /// Adds a header field; repeated names are sent repeatedly.
    #[must_use]
    pub fn header(mut self, name: &str, value: impl AsRef<[u8]>) -> Self {
        self.headers
            .push((name.to_owned(), value.as_ref().to_vec()));
        self
    }

    /// Adds `Authorization: Bearer {token}`.
    #[must_use]
    pub fn bearer(self, token: &str) -> Self {
        self.header("Authorization", format!("Bearer {token}"))
    }

    /// Sends `body` with a `Content-Length`.
    #[must_use]
    pub fn body(mut self, body: impl AsRef<[u8]>) -> Self {
        self.body = body.as_ref().to_vec();
        self.framing = Framing::ContentLength;
        self
    }

    /// Sends `body` in chunks.
    #[must_use]
    pub fn chunked(mut self, body: impl AsRef<[u8]>) -> Self {
        self.body = body.as_ref().to_vec();
        self.framing = Framing::Chunked;
        self
    }

    /// Adds a trailer field; only a chunked request can have them.
    #[must_use]
    pub fn trailer(mut self, name: &str, value: impl AsRef<[u8]>) -> Self {
        self.trailers
            .push((name.to_owned(), value.as_ref().to_vec()));
        self
    }

    /// The bytes that are sent.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = [self.method.as_bytes(), b" ", &self.target, b" HTTP/1.1\r\n"].concat();
        let mut field = |name: &[u8], value: &[u8]| {
            bytes.extend_from_slice(&[name, b": ", value, b"\r\n"].concat());
        };
        if !self.has_header("host") {
            field(b"Host", b"matrix.example.org");
        }
        for (name, value) in &self.headers {
            field(name.as_bytes(), value);
        }
        match self.framing {
            Framing::None => {}
            Framing::ContentLength => {
                field(b"Content-Length", self.body.len().to_string().as_bytes());
            }
            Framing::Chunked => field(b"Transfer-Encoding", b"chunked"),
        }
        bytes.extend_from_slice(b"\r\n");
        match self.framing {
            Framing::None => {}
            Framing::ContentLength => bytes.extend_from_slice(&self.body),
            Framing::Chunked => {
                for chunk in self.body.chunks(16 * 1024) {
                    bytes.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
                    bytes.extend_from_slice(chunk);
                    bytes.extend_from_slice(b"\r\n");
                }
                bytes.extend_from_slice(b"0\r\n");
                for (name, value) in &self.trailers {
                    bytes.extend_from_slice(&[name.as_bytes(), b": ", value, b"\r\n"].concat());
                }
                bytes.extend_from_slice(b"\r\n");
            }
        }
        bytes
    }

    fn has_header(&self, name: &str) -> bool {
        self.headers
            .iter()
            .any(|(given, _)| given.eq_ignore_ascii_case(name))
    }

    fn is_head(&self) -> bool {
        self.method == "HEAD"
    }
}

/// A response as it came.
#[derive(Clone, PartialEq, Eq)]
pub struct Response {
    /// Status code.
    pub status: u16,
    /// Names as sent and values, in order.
    pub headers: Vec<(String, Vec<u8>)>,
    /// The body, without chunks' frames.
    pub body: Vec<u8>,
}

impl Response {
    /// The first value of a header, in any case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(given, _)| given.eq_ignore_ascii_case(name))
            .map(|(_, value)| {
                std::str::from_utf8(value).expect("a header that a test asks for is text")
            })
    }

    /// The body as text.
    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).expect("the body is text")
    }

    /// The body as JSON.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("not JSON ({error}): {self:?}"))
    }
}

impl std::fmt::Debug for Response {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(f, "{}", self.status)?;
        for (name, value) in &self.headers {
            writeln!(f, "{name}: {}", String::from_utf8_lossy(value))?;
        }
        write!(f, "\n{}", String::from_utf8_lossy(&self.body))
    }
}

/// One connection, kept alive between requests.
pub struct Connection {
    outgoing: OwnedWriteHalf,
    incoming: Incoming,
}

impl Connection {
    /// Connects.
    pub async fn open(addr: SocketAddr) -> Self {
        Self::try_open(addr)
            .await
            .unwrap_or_else(|error| panic!("cannot connect to {addr}: {error}"))
    }

    /// Like [`open`](Self::open); an error if nobody listens.
    pub async fn try_open(addr: SocketAddr) -> io::Result<Self> {
        let stream = within_limit("a connection", TcpStream::connect(addr)).await?;
        // Small requests must not wait for acknowledgements.
        stream.set_nodelay(true)?;
        let (stream, outgoing) = stream.into_split();
        let received = Vec::new();
        Ok(Self {
            outgoing,
            incoming: Incoming { stream, received },
        })
    }

    /// Sends `request` and reads the response to it.
    pub async fn request(&mut self, request: &Request) -> Response {
        self.try_request(request).await.unwrap_or_else(ended)
    }

    /// Like [`request`](Self::request); `None` if the connection ends before the response does.
    pub async fn try_request(&mut self, request: &Request) -> Option<Response> {
        self.try_raw(&request.to_bytes(), request.is_head()).await
    }

    /// The same for a request in bytes. `head`: it is a `HEAD`.
    pub async fn try_raw(&mut self, bytes: &[u8], head: bool) -> Option<Response> {
        within_limit("a response", self.exchange(bytes, head)).await
    }

    async fn exchange(&mut self, bytes: &[u8], head: bool) -> Option<Response> {
        let sending = self.outgoing.write_all(bytes);
        let receiving = self.incoming.response(head);
        tokio::pin!(receiving);
        // A response may come before all of the request is sent, and may then be the end of it. A failure
        // to send shows in the response, or in its absence.
        tokio::select! {
            biased;
            response = &mut receiving => response,
            _ = sending => receiving.await,
        }
    }

    /// Sends these bytes and no more.
    pub async fn send(&mut self, bytes: &[u8]) {
        within_limit("the peer to read", self.outgoing.write_all(bytes))
            .await
            .expect("the peer has not closed");
    }

    /// Reads one response. `head`: it answers a `HEAD`, which has no body whatever its headers say.
    pub async fn response(&mut self, head: bool) -> Response {
        within_limit("a response", self.incoming.response(head))
            .await
            .unwrap_or_else(ended)
    }
}

fn ended() -> Response {
    panic!("the connection ended before a whole response")
}

/// What a connection receives.
struct Incoming {
    stream: OwnedReadHalf,
    received: Vec<u8>,
}

impl Incoming {
    async fn response(&mut self, head: bool) -> Option<Response> {
        loop {
            let (mut response, length) = loop {
                if let Some(found) = parse_head(&self.received) {
                    break found;
                }
                self.fill().await?;
            };
            self.received.drain(..length);
            if response.status < 200 {
                continue;
            }
            if !head && !matches!(response.status, 204 | 304) {
                response.body = self.body(&response).await?;
            }
            return Some(response);
        }
    }

    async fn body(&mut self, response: &Response) -> Option<Vec<u8>> {
        if response.header("transfer-encoding") == Some("chunked") {
            return self.chunks().await;
        }
        match response.header("content-length") {
            Some(length) => {
                let length = length.parse().expect("content-length is a number");
                self.take(length).await
            }
            None => {
                while self.fill().await.is_some() {}
                Some(std::mem::take(&mut self.received))
            }
        }
    }

    async fn chunks(&mut self) -> Option<Vec<u8>> {
        let mut body = Vec::new();
        loop {
            let size = loop {
                match httparse::parse_chunk_size(&self.received).expect("a chunk size") {
                    httparse::Status::Complete((start, size)) => {
                        self.received.drain(..start);
                        break usize::try_from(size).expect("a chunk that fits in memory");
                    }
                    httparse::Status::Partial => self.fill().await?,
                }
            };
            // No server in these tests sends trailers, so the last chunk ends like the others.
            let chunk = self.take(size).await?;
            assert_eq!(self.take(2).await?, b"\r\n", "a chunk ends with CRLF");
            if size == 0 {
                return Some(body);
            }
            body.extend_from_slice(&chunk);
        }
    }

    async fn take(&mut self, length: usize) -> Option<Vec<u8>> {
        while self.received.len() < length {
            self.fill().await?;
        }
        Some(self.received.drain(..length).collect())
    }

    async fn fill(&mut self) -> Option<()> {
        match self.stream.read_buf(&mut self.received).await {
            Ok(0) | Err(_) => None,
            Ok(_) => Some(()),
        }
    }
}

/// Sends `request` on a connection of its own.
pub async fn send(addr: SocketAddr, request: &Request) -> Response {
    Connection::open(addr).await.request(request).await
}

/// Like [`send`]; `None` if nobody listens or the connection ends before the response does.
pub async fn try_send(addr: SocketAddr, request: &Request) -> Option<Response> {
    Connection::try_open(addr)
        .await
        .ok()?
        .try_request(request)
        .await
}

/// Like [`try_send`], as part of a wait that has a limit of its own.
pub async fn try_send_without_limit(addr: SocketAddr, request: &Request) -> Option<Response> {
    let mut connection = Connection::try_open(addr).await.ok()?;
    connection
        .exchange(&request.to_bytes(), request.is_head())
        .await
}

/// Sends `bytes` on a connection of its own and reads one response.
pub async fn send_raw(addr: SocketAddr, bytes: &[u8]) -> Response {
    let mut connection = Connection::open(addr).await;
    connection.send(bytes).await;
    connection.response(bytes.starts_with(b"HEAD ")).await
}

/// A response without its body, and how long its head is in bytes.
fn parse_head(received: &[u8]) -> Option<(Response, usize)> {
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut head = httparse::Response::new(&mut headers);
    let length = match head.parse(received).expect("a response head") {
        httparse::Status::Complete(length) => length,
        httparse::Status::Partial => return None,
    };
    let headers = head
        .headers
        .iter()
        .map(|header| (header.name.to_owned(), header.value.to_vec()))
        .collect();
    let response = Response {
        status: head.code.expect("a parsed head has a status"),
        headers,
        body: Vec::new(),
    };
    Some((response, length))
}
