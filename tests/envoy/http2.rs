//! HTTP/2 with prior knowledge (RFC 9113), frame by frame: header fields go out as they are given, which no
//! well-behaved client does. Of what comes back it sees at the most that an answer begins.

use std::{io, net::SocketAddr};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};

use crate::support::http::within_limit;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// A connection.
pub struct Http2 {
    stream: TcpStream,
    next: u32,
    sent: u64,
}

impl Http2 {
    /// The value of the field that [`begin_large_heads`](Self::begin_large_heads) repeats. A table of 4 KiB holds it.
    const LARGE: usize = 3_900;

    const DATA: u8 = 0;
    const HEADERS: u8 = 1;
    const RST_STREAM: u8 = 3;
    const SETTINGS: u8 = 4;
    const END_STREAM: u8 = 1;
    const END_HEADERS: u8 = 4;

    /// Connects.
    pub async fn open(addr: SocketAddr) -> Self {
        Self::try_open(addr).await.expect("a connection")
    }

    /// Connects, and lets no byte of an answer come: its streams have no window (RFC 9113, section 6.9.2).
    pub async fn unread(addr: SocketAddr) -> Self {
        const INITIAL_WINDOW_SIZE: u8 = 4;
        let mut http2 = Self::open(addr).await;
        let settings = [0, INITIAL_WINDOW_SIZE, 0, 0, 0, 0];
        http2.frame(Self::SETTINGS, 0, 0, &settings).await;
        http2
    }

    /// Connects, unless the peer closes the connection.
    pub async fn try_open(addr: SocketAddr) -> io::Result<Self> {
        let mut stream = TcpStream::connect(addr).await?;
        let bytes = [PREFACE, &frame(Self::SETTINGS, 0, 0, b"")].concat();
        stream.write_all(&bytes).await?;
        Ok(Self {
            stream,
            next: 1,
            sent: bytes.len() as u64,
        })
    }

    /// Begins so many `POST`s that do not end, the first on this connection, each with a field of 3,900 bytes, as often as
    /// `times` says. It goes out once: each other time is one byte (RFC 7541, section 6.1). Fails if the peer closes the
    /// connection.
    pub async fn begin_large_heads(
        &mut self,
        path: &str,
        streams: u32,
        times: usize,
    ) -> io::Result<()> {
        const NEWEST: u8 = 0x80 | 62;
        let fields = [
            (":method", "POST"),
            (":path", path),
            (":scheme", "http"),
            (":authority", "matrix.example.org"),
            ("content-type", "application/json"),
            ("content-length", "10"),
        ];
        let mut bytes = Vec::new();
        for number in 0..streams {
            let mut block = block(&fields);
            let mut left = times;
            if number == 0 {
                block.extend(large_field());
                left -= 1;
            }
            block.resize(block.len() + left, NEWEST);
            bytes.extend(frame(Self::HEADERS, Self::END_HEADERS, self.next, &block));
            self.next += 2;
        }
        self.stream.write_all(&bytes).await?;
        self.sent += bytes.len() as u64;
        Ok(())
    }

    /// Sends a `GET`, or a `PUT` whose body does not end, and returns its stream.
    pub async fn request(&mut self, path: &str, fields: &[(&str, &str)], complete: bool) -> u32 {
        let pseudo = [
            (":method", if complete { "GET" } else { "PUT" }),
            (":path", path),
        ];
        let stream = self
            .headers(&[&pseudo[..], fields].concat(), complete)
            .await;
        if !complete {
            self.frame(Self::DATA, 0, stream, b"a beginning").await;
        }
        stream
    }

    /// Sends a `POST` with this beginning of a body, and returns its stream.
    pub async fn begin_post(&mut self, path: &str, fields: &[(&str, &str)], body: &[u8]) -> u32 {
        let begun = self.try_begin_post(path, fields, body).await;
        begun.expect("the peer has not closed")
    }

    /// The same, unless the peer closes the connection.
    pub async fn try_begin_post(
        &mut self,
        path: &str,
        fields: &[(&str, &str)],
        body: &[u8],
    ) -> io::Result<u32> {
        const MAX_FRAME: usize = 16_384;
        let pseudo = [(":method", "POST"), (":path", path)];
        let fields = [&pseudo[..], fields].concat();
        let stream = self.try_headers(&fields, false).await?;
        for piece in body.chunks(MAX_FRAME) {
            self.try_frame(Self::DATA, 0, stream, piece).await?;
        }
        Ok(stream)
    }

    /// Sends a `POST` with this body and these trailers.
    pub async fn post_with_trailers(
        &mut self,
        path: &str,
        fields: &[(&str, &str)],
        body: &[u8],
        trailers: &[(&str, &str)],
    ) {
        let pseudo = [(":method", "POST"), (":path", path)];
        let stream = self.headers(&[&pseudo[..], fields].concat(), false).await;
        self.frame(Self::DATA, 0, stream, body).await;
        let flags = Self::END_HEADERS | Self::END_STREAM;
        self.frame(Self::HEADERS, flags, stream, &block(trailers))
            .await;
    }

    /// Returns how many bytes were sent on the connection so far.
    pub fn sent(&self) -> u64 {
        self.sent
    }

    /// Sends the headers of a request on a new stream. `is_whole`: nothing comes after them.
    async fn headers(&mut self, fields: &[(&str, &str)], is_whole: bool) -> u32 {
        let sent = self.try_headers(fields, is_whole).await;
        sent.expect("the peer has not closed")
    }

    async fn try_headers(&mut self, fields: &[(&str, &str)], is_whole: bool) -> io::Result<u32> {
        let stream = self.next;
        self.next += 2;
        let everywhere = [(":scheme", "http"), (":authority", "matrix.example.org")];
        let end = if is_whole { Self::END_STREAM } else { 0 };
        let block = block(&[&everywhere[..], fields].concat());
        self.try_frame(Self::HEADERS, Self::END_HEADERS | end, stream, &block)
            .await?;
        Ok(stream)
    }

    /// Sends more of a body that does not end.
    pub async fn send(&mut self, stream: u32, bytes: &[u8]) {
        self.frame(Self::DATA, 0, stream, bytes).await;
    }

    /// Ends a request, of which nothing more comes.
    pub async fn end(&mut self, stream: u32) {
        self.frame(Self::DATA, Self::END_STREAM, stream, b"").await;
    }

    /// Resets a stream.
    pub async fn reset(&mut self, stream: u32) {
        self.reset_all(&[stream]).await;
    }

    fn reset_frame(stream: u32) -> Vec<u8> {
        const CANCEL: u32 = 8;
        frame(Self::RST_STREAM, 0, stream, &CANCEL.to_be_bytes())
    }

    /// Resets these streams at once.
    pub async fn reset_all(&mut self, streams: &[u32]) {
        let frames = streams.iter().flat_map(|stream| Self::reset_frame(*stream));
        let frames: Vec<u8> = frames.collect();
        let sent = within_limit("the peer to read", self.stream.write_all(&frames)).await;
        sent.expect("the peer has not closed");
    }

    /// Waits until the first answer on this connection begins. Call it once.
    pub async fn answer_begins(&mut self) {
        let answer = async {
            loop {
                let mut head = [0; 9];
                self.stream.read_exact(&mut head).await?;
                let [a, b, c, kind, ..] = head;
                if kind == Self::HEADERS {
                    return io::Result::Ok(());
                }
                let length = u32::from_be_bytes([0, a, b, c]);
                let mut payload = vec![0; length as usize];
                self.stream.read_exact(&mut payload).await?;
            }
        };
        let answer = within_limit("an answer", answer).await;
        answer.expect("the peer has not closed");
    }

    async fn frame(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
        let sent = self.try_frame(kind, flags, stream, payload).await;
        sent.expect("the peer has not closed");
    }

    async fn try_frame(
        &mut self,
        kind: u8,
        flags: u8,
        stream: u32,
        payload: &[u8],
    ) -> io::Result<()> {
        let frame = frame(kind, flags, stream, payload);
        within_limit("the peer to read", self.stream.write_all(&frame)).await?;
        self.sent += frame.len() as u64;
        Ok(())
    }
}

/// A server that takes any number of requests of any length, and answers none.
pub struct Sink {
    addr: SocketAddr,
    task: JoinHandle<()>,
}

impl Sink {
    /// As many streams and bytes as the protocol allows.
    const UNLIMITED: u32 = 0x7fff_ffff;

    /// Starts one on a free port.
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let addr = listener.local_addr().expect("it listens");
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(Self::drain(stream));
            }
        });
        Self { addr, task }
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    async fn drain(mut stream: TcpStream) {
        const WINDOW_UPDATE: u8 = 8;
        const MAX_CONCURRENT_STREAMS: u16 = 3;
        const INITIAL_WINDOW_SIZE: u16 = 4;
        const ACK: u8 = 1;
        let settings: Vec<u8> = [MAX_CONCURRENT_STREAMS, INITIAL_WINDOW_SIZE]
            .iter()
            .flat_map(|name| [&name.to_be_bytes()[..], &Self::UNLIMITED.to_be_bytes()].concat())
            .collect();
        // A connection begins with a window of 65,535 bytes.
        let more = (Self::UNLIMITED - 65_535).to_be_bytes();
        let hello = [
            frame(Http2::SETTINGS, 0, 0, &settings),
            frame(WINDOW_UPDATE, 0, 0, &more),
            frame(Http2::SETTINGS, ACK, 0, b""),
        ]
        .concat();
        let mut buffer = vec![0; 65_536];
        // The client's preface and settings come first.
        let mut is_greeted = false;
        while let Ok(1..) = stream.read(&mut buffer).await {
            if !std::mem::replace(&mut is_greeted, true) && stream.write_all(&hello).await.is_err()
            {
                return;
            }
        }
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len())
        .expect("a short frame")
        .to_be_bytes();
    let head = [&length[1..], &[kind, flags], &stream.to_be_bytes()].concat();
    [&head, payload].concat()
}

/// RFC 7541, section 6.2.1: a literal that the peer keeps in its table.
fn large_field() -> Vec<u8> {
    const INDEXED: u8 = 0x40;
    let name = b"x-large";
    let mut field = vec![INDEXED, name.len() as u8];
    field.extend_from_slice(name);
    // Section 5.1: what seven bits do not hold goes on in groups of seven bits, the lowest first.
    let rest = Http2::LARGE - 127;
    field.extend_from_slice(&[127, (rest % 128) as u8 | 0x80, (rest / 128) as u8]);
    field.resize(field.len() + Http2::LARGE, b'v');
    field
}

/// RFC 7541, section 6.2.2: literals without indexing, not compressed.
pub(super) fn block(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in fields {
        block.push(0);
        for text in [name, value] {
            assert!(text.len() < 127, "one byte holds the length");
            block.push(text.len() as u8);
            block.extend_from_slice(text.as_bytes());
        }
    }
    block
}
