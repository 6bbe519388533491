//! A small HTTP server that owns its connections, so that it can also break them.
//!
//! hyper parses and answers; between it and the TCP stream sits [`Socket`]. A handler that wants to misbehave below
//! HTTP leaves a [`Sabotage`] with its [`Wire`]; when hyper then writes the response, the socket sends
//! the prepared bytes instead and ends the connection. HTTP/1.1 (keep-alive) and HTTP/2 with prior knowledge are served.

use std::{
    convert::Infallible,
    future::Future,
    io,
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::{Buf, Bytes};
use http::{Request, Response};
use hyper::{
    body::{Body, Incoming},
    service::service_fn,
};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    task::{JoinHandle, JoinSet},
};

/// A running server. Dropping it closes the listener and every connection.
pub(crate) struct Server {
    addr: SocketAddr,
    traffic: Arc<Traffic>,
    /// Answers what a listener brings; made anew each time the server is opened.
    accept: Box<dyn Fn(TcpListener) -> JoinHandle<()> + Send + Sync>,
    /// `None` while it is closed.
    task: Mutex<Option<JoinHandle<()>>>,
}

/// What a server saw below HTTP, over all its connections.
#[derive(Default)]
pub(crate) struct Traffic {
    connections: AtomicU64,
    bytes_received: AtomicU64,
}

impl Traffic {
    /// How many connections were accepted.
    pub(crate) fn connections(&self) -> u64 {
        self.connections.load(Ordering::Relaxed)
    }

    /// How many bytes were received.
    pub(crate) fn bytes_received(&self) -> u64 {
        self.bytes_received.load(Ordering::Relaxed)
    }
}

impl Server {
    /// Listens on `listen` and answers every request with `handler`.
    pub(crate) async fn start<H, F, B>(listen: SocketAddr, handler: H) -> io::Result<Self>
    where
        H: Fn(Request<Incoming>, Wire) -> F + Clone + Send + Sync + 'static,
        F: Future<Output = Response<B>> + Send + 'static,
        B: Body<Data = Bytes, Error = Infallible> + Send + 'static,
    {
        let listener = TcpListener::bind(listen).await?;
        let addr = listener.local_addr()?;
        let traffic = Arc::new(Traffic::default());
        let accept = Box::new({
            let traffic = Arc::clone(&traffic);
            move |listener| tokio::spawn(accept(listener, Arc::clone(&traffic), handler.clone()))
        });
        let task = Mutex::new(Some(accept(listener)));
        Ok(Self {
            addr,
            traffic,
            accept,
            task,
        })
    }

    pub(crate) fn addr(&self) -> SocketAddr {
        self.addr
    }

    pub(crate) fn traffic(&self) -> &Traffic {
        &self.traffic
    }

    /// Whether it listens.
    pub(crate) fn is_open(&self) -> bool {
        self.task().is_some()
    }

    /// Stops, and returns once the listener and all connections are closed.
    pub(crate) async fn stop(self) {
        self.close().await;
    }

    /// Closes the listener and all connections, and returns once they are closed. [`open`](Self::open) undoes it.
    pub(crate) async fn close(&self) {
        let task = self.task().take();
        if let Some(task) = task {
            task.abort();
            // An aborted task ends with an error that says just that.
            let _ = task.await;
        }
    }

    /// Listens again on the same address, unless it does.
    pub(crate) async fn open(&self) -> io::Result<()> {
        if self.task().is_some() {
            return Ok(());
        }
        let listener = TcpListener::bind(self.addr).await?;
        self.task().get_or_insert_with(|| (self.accept)(listener));
        Ok(())
    }

    fn task(&self) -> MutexGuard<'_, Option<JoinHandle<()>>> {
        self.task.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(task) = self.task().take() {
            task.abort();
        }
    }
}

async fn accept<H, F, B>(listener: TcpListener, traffic: Arc<Traffic>, handler: H)
where
    H: Fn(Request<Incoming>, Wire) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Response<B>> + Send + 'static,
    B: Body<Data = Bytes, Error = Infallible> + Send + 'static,
{
    // The set lives in this task: aborting the task ends every connection.
    let mut connections = JoinSet::new();
    loop {
        let stream = tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                // The peer left before it was accepted, or there are no descriptors left for now.
                Err(_) => {
                    tokio::time::sleep(Duration::from_millis(10)).await;
                    continue;
                }
            },
            Some(_) = connections.join_next() => continue,
        };
        traffic.connections.fetch_add(1, Ordering::Relaxed);
        connections.spawn(serve(stream, Arc::clone(&traffic), handler.clone()));
    }
}

async fn serve<H, F, B>(stream: TcpStream, traffic: Arc<Traffic>, handler: H)
where
    H: Fn(Request<Incoming>, Wire) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Response<B>> + Send + 'static,
    B: Body<Data = Bytes, Error = Infallible> + Send + 'static,
{
    // Without this, small answers wait for acknowledgements. A socket that refuses is already gone.
    let _ = stream.set_nodelay(true);
    let wire = Wire::default();
    let socket = Socket {
        stream,
        wire: wire.clone(),
        traffic,
    };
    let service = service_fn(move |request| {
        wire.requests.fetch_add(1, Ordering::Relaxed);
        let answer = handler(request, wire.clone());
        async move { Ok::<_, Infallible>(answer.await) }
    });
    // Errors are the peer's or our own doing (sabotage); either way the connection is over.
    let _ = auto::Builder::new(TokioExecutor::new())
        .serve_connection(TokioIo::new(socket), service)
        .await;
}

/// A handler's grip on the connection that its request came in on.
#[derive(Clone, Default)]
pub(crate) struct Wire {
    sabotage: Arc<Mutex<Option<Sabotage>>>,
    requests: Arc<AtomicU64>,
}

/// Bytes to send instead of the response, and how the connection then ends.
pub(crate) struct Sabotage {
    pub(crate) bytes: Bytes,
    pub(crate) end: End,
}

/// How a sabotaged connection ends.
#[derive(Clone, Copy)]
pub(crate) enum End {
    /// In order: TCP FIN.
    Close,
    /// At once: TCP RST.
    Reset,
}

impl Wire {
    /// Replaces whatever is written next on this connection. On HTTP/2 that hits all its streams.
    pub(crate) fn sabotage(&self, sabotage: Sabotage) {
        *self.sabotage.lock().unwrap_or_else(PoisonError::into_inner) = Some(sabotage);
    }

    /// Whether the connection has brought a request before the latest.
    pub(crate) fn is_reused(&self) -> bool {
        self.requests.load(Ordering::Relaxed) > 1
    }
}

struct Socket {
    stream: TcpStream,
    wire: Wire,
    traffic: Arc<Traffic>,
}

impl Socket {
    /// Sends what is left of a pending sabotage and ends the connection, or does nothing if there is none.
    fn poll_sabotage(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut pending = self
            .wire
            .sabotage
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let Some(sabotage) = pending.as_mut() else {
            return Poll::Ready(Ok(()));
        };
        while sabotage.bytes.has_remaining() {
            let written = ready!(Pin::new(&mut self.stream).poll_write(cx, &sabotage.bytes))?;
            sabotage.bytes.advance(written);
        }
        if matches!(sabotage.end, End::Reset) {
            self.stream.set_zero_linger()?;
        }
        // hyper drops the socket on an error, which sends the FIN or the RST.
        Poll::Ready(Err(io::Error::new(
            io::ErrorKind::ConnectionAborted,
            "sabotaged on command",
        )))
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buf))?;
        let received = buf.filled().len() - before;
        self.traffic
            .bytes_received
            .fetch_add(received as u64, Ordering::Relaxed);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Socket {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_sabotage(cx))?;
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_sabotage(cx))?;
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}
