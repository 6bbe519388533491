//! A client's connection, HTTP/1.1 or HTTP/2, that is kept between requests and can be left at any moment.

use std::{
    collections::VecDeque,
    convert::Infallible,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use http_body_util::BodyExt;
use hyper::{
    Request, Response,
    body::{Body, Bytes, Frame, Incoming, SizeHint},
    client::conn::{http1, http2},
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{io::AsyncWriteExt, net::TcpStream, task::AbortHandle};

/// How long an answer may take.
pub const PATIENCE: Duration = Duration::from_secs(15);
/// How long a client waits for one: a machine that is late may be late with an answer too.
const LIMIT: Duration = Duration::from_secs(45);

/// Where a client hangs up.
#[derive(Clone, Copy, Debug)]
pub enum Leaving {
    /// Nowhere.
    Never,
    /// After this long, wherever the request is then.
    After(Duration),
    /// When the answer has begun.
    InAnswer,
}

/// How a request ended.
#[derive(Debug)]
pub enum Ending {
    /// With a whole answer.
    Answered(u16, Bytes),
    /// The connection ended before.
    Cut(String),
    /// There was no answer in time.
    Unanswered,
    /// The client hung up.
    Left,
}

/// A client's end of its connections, of which it keeps one.
pub struct Phone {
    addr: SocketAddr,
    is_http2: bool,
    kept: Option<Kept>,
}

#[derive(Clone)]
struct Kept {
    sender: Sender,
    /// The connection ends with the last of those that use it.
    #[expect(dead_code, reason = "held for its drop")]
    connection: Arc<Connection>,
}

enum Sender {
    Http1(Option<http1::SendRequest<Flow>>),
    Http2(http2::SendRequest<Flow>),
}

impl Clone for Sender {
    /// Only HTTP/2 carries more than one request at once.
    fn clone(&self) -> Self {
        match self {
            Self::Http1(_) => Self::Http1(None),
            Self::Http2(sender) => Self::Http2(sender.clone()),
        }
    }
}

struct Connection(AbortHandle);

impl Drop for Connection {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Phone {
    /// One that has no connection yet.
    pub fn new(addr: SocketAddr, is_http2: bool) -> Self {
        Self {
            addr,
            is_http2,
            kept: None,
        }
    }

    /// A second one, on the same connection if that can carry more than one request at once.
    pub fn fork(&self) -> Self {
        Self {
            addr: self.addr,
            is_http2: self.is_http2,
            kept: self.kept.clone(),
        }
    }

    /// Whether the next request goes out on a connection that was used before.
    pub fn has_connection(&self) -> bool {
        self.kept.as_ref().is_some_and(|kept| match &kept.sender {
            Sender::Http1(sender) => sender.as_ref().is_some_and(|sender| !sender.is_closed()),
            Sender::Http2(sender) => !sender.is_closed(),
        })
    }

    /// Ends the connection.
    pub fn hang_up(&mut self) {
        self.kept = None;
    }

    /// Sends a request and waits for the answer, or leaves. A connection that a request was left on, or that has failed,
    /// is not used again.
    pub async fn send(&mut self, request: Parts, leaving: Leaving) -> Ending {
        let limit = match leaving {
            Leaving::After(limit) => limit,
            Leaving::Never | Leaving::InAnswer => LIMIT,
        };
        let ending = match tokio::time::timeout(limit, self.exchange(request, leaving)).await {
            Ok(ending) => ending,
            Err(_) if matches!(leaving, Leaving::After(_)) => Ending::Left,
            Err(_) => Ending::Unanswered,
        };
        if !matches!(ending, Ending::Answered(..)) {
            self.hang_up();
        }
        ending
    }

    async fn exchange(&mut self, request: Parts, leaving: Leaving) -> Ending {
        if !self.has_connection() {
            match self.connect().await {
                Ok(kept) => self.kept = Some(kept),
                Err(why) => return Ending::Cut(why),
            }
        }
        let request = request.build(self.is_http2);
        let Some(kept) = &mut self.kept else {
            return Ending::Cut("no connection".to_owned());
        };
        let response = match &mut kept.sender {
            Sender::Http1(Some(sender)) => sender.send_request(request).await,
            Sender::Http1(None) => return Ending::Cut("no connection".to_owned()),
            Sender::Http2(sender) => sender.send_request(request).await,
        };
        match response {
            Ok(response) => read(response, leaving).await,
            Err(error) => Ending::Cut(chain(&error)),
        }
    }

    async fn connect(&self) -> Result<Kept, String> {
        let stream = TcpStream::connect(self.addr)
            .await
            .map_err(|error| format!("connecting: {error}"))?;
        // Small requests must not wait for acknowledgements.
        let _ = stream.set_nodelay(true);
        let stream = TokioIo::new(stream);
        let failed = |error: hyper::Error| chain(&error);
        let (sender, task) = if self.is_http2 {
            let (sender, connection) = http2::handshake(TokioExecutor::new(), stream)
                .await
                .map_err(failed)?;
            let task = tokio::spawn(async { drop(connection.await) });
            (Sender::Http2(sender), task)
        } else {
            let (sender, connection) = http1::handshake(stream).await.map_err(failed)?;
            let task = tokio::spawn(async { drop(connection.await) });
            (Sender::Http1(Some(sender)), task)
        };
        Ok(Kept {
            sender,
            connection: Arc::new(Connection(task.abort_handle())),
        })
    }
}

/// Begins a request and hangs up in its head.
pub async fn leave_in_head(addr: SocketAddr, bytes: &[u8]) {
    if let Ok(mut stream) = TcpStream::connect(addr).await {
        let _ = stream.write_all(bytes).await;
    }
}

async fn read(response: Response<Incoming>, leaving: Leaving) -> Ending {
    let status = response.status().as_u16();
    let mut body = response.into_body();
    if matches!(leaving, Leaving::InAnswer) {
        let _ = body.frame().await;
        return Ending::Left;
    }
    match body.collect().await {
        Ok(body) => Ending::Answered(status, body.to_bytes()),
        Err(error) => Ending::Cut(format!("in the answer of {status}: {}", chain(&error))),
    }
}

/// An error with its causes.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

/// A request that is not yet of one version of HTTP.
#[derive(Clone)]
pub struct Parts {
    /// The method.
    pub method: &'static str,
    /// Path and query.
    pub target: String,
    /// All header fields but those that the version of HTTP adds.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Flow,
}

impl Parts {
    /// A request without a body.
    pub fn new(method: &'static str, target: impl Into<String>) -> Self {
        Self {
            method,
            target: target.into(),
            headers: Vec::new(),
            body: Flow::default(),
        }
    }

    /// Adds a header field.
    #[must_use]
    pub fn header(mut self, name: &str, value: impl Into<String>) -> Self {
        self.headers.push((name.to_owned(), value.into()));
        self
    }

    /// Sends a body.
    #[must_use]
    pub fn body(mut self, body: Flow) -> Self {
        self.body = body;
        self
    }

    fn build(self, is_http2: bool) -> Request<Flow> {
        const HOST: &str = "matrix.example.org";
        let mut request = Request::builder().method(self.method);
        request = if is_http2 {
            request.uri(format!("http://{HOST}{}", self.target))
        } else {
            request.uri(self.target).header("host", HOST)
        };
        for (name, value) in self.headers {
            request = request.header(name, value);
        }
        request
            .body(self.body)
            .expect("a request of this program is one")
    }
}

/// A body in pieces, which ends or stops to come.
#[derive(Clone, Default)]
pub struct Flow {
    pieces: VecDeque<Bytes>,
    never_ends: bool,
}

impl Flow {
    /// These bytes, with a `content-length`.
    pub fn whole(bytes: impl Into<Bytes>) -> Self {
        Self {
            pieces: [bytes.into()].into(),
            never_ends: false,
        }
    }

    /// These bytes, after which nothing comes any more.
    pub fn endless(bytes: impl Into<Bytes>) -> Self {
        Self {
            never_ends: true,
            ..Self::whole(bytes)
        }
    }
}

impl Body for Flow {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match self.pieces.pop_front() {
            Some(piece) => Poll::Ready(Some(Ok(Frame::data(piece)))),
            None if self.never_ends => Poll::Pending,
            None => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.pieces.is_empty() && !self.never_ends
    }

    fn size_hint(&self) -> SizeHint {
        let bytes = self.pieces.iter().map(Bytes::len).sum::<usize>() as u64;
        if self.never_ends {
            SizeHint::default()
        } else {
            SizeHint::with_exact(bytes)
        }
    }
}
