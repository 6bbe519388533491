//! An HTTP/2 client (RFC 9113) that sends the header fields it is given, byte for byte, and reads whole responses.
//!
//! The client of the crate `h2` does the work. It would refuse to send most of what is of interest here, so it sends
//! a plain request, and on the wire the header block of that request is replaced by one of our own. The block is
//! made of literals without indexing (RFC 7541, section 6.2.2), so nothing that follows depends on it.

use std::{
    io,
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use bytes::Bytes;
use h2::client::SendRequest;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream, copy, duplex, split},
    net::TcpStream,
    task::JoinSet,
};

use super::request::Request;
use crate::support::http::{Response, within_limit};

/// RFC 9113, sections 3.4, 4.1 and 6.2.
const PREFACE_BYTES: usize = 24;
const FRAME_HEAD_BYTES: usize = 9;
const HEADERS: u8 = 1;
/// What a frame may hold unless the peer allows more.
const MAX_FRAME_BYTES: usize = 16 * 1024;

/// The header block to send next.
type NextBlock = Arc<Mutex<Vec<u8>>>;

/// One connection, used for one request after the other.
pub struct Connection {
    client: SendRequest<Bytes>,
    next: NextBlock,
    // Dropping it ends the connection.
    _tasks: JoinSet<()>,
}

impl Connection {
    /// Connects.
    pub async fn open(addr: SocketAddr) -> Self {
        let peer = within_limit("a connection", TcpStream::connect(addr))
            .await
            .expect("a connection");
        peer.set_nodelay(true).expect("a socket");
        let (near, far) = duplex(4 * MAX_FRAME_BYTES);
        let next = NextBlock::default();
        let mut tasks = JoinSet::new();
        let blocks = Arc::clone(&next);
        tasks.spawn(async move {
            // Errors are one side leaving; dropping the other tells it.
            let _ = pass(far, peer, &blocks).await;
        });
        let (client, connection) = h2::client::handshake(near).await.expect("a handshake");
        tasks.spawn(async move {
            // What ends a connection shows in the request that it was for.
            let _ = connection.await;
        });
        Self {
            client,
            next,
            _tasks: tasks,
        }
    }

    /// Sends `request` and reads the response to it.
    ///
    /// # Errors
    ///
    /// If the peer resets the stream or ends the connection instead.
    pub async fn request(&mut self, request: &Request) -> Result<Response, h2::Error> {
        within_limit("a response", self.exchange(request)).await
    }

    async fn exchange(&mut self, request: &Request) -> Result<Response, h2::Error> {
        *self.next.lock().expect("no panic while locked") = block(&request.http2_fields());
        // The client reads the response to a HEAD in another way.
        let method = if request.method == "HEAD" {
            "HEAD"
        } else {
            "POST"
        };
        let plain = http::Request::builder()
            .method(method)
            .uri("http://placeholder/")
            .body(())
            .expect("a request");
        std::future::poll_fn(|context| self.client.poll_ready(context)).await?;
        let (response, mut sending) = self.client.send_request(plain, request.body.is_empty())?;
        if !request.body.is_empty() {
            // A failure shows in the response, or in its absence.
            let _ = sending.send_data(Bytes::from(request.body.clone()), true);
        }
        let (head, mut body) = response.await?.into_parts();
        let mut received = Vec::new();
        while let Some(data) = body.data().await {
            let data = data?;
            // It fails only on a stream that has ended.
            let _ = body.flow_control().release_capacity(data.len());
            received.extend_from_slice(&data);
        }
        let headers = head.headers.iter();
        Ok(Response {
            status: head.status.as_u16(),
            headers: headers
                .map(|(name, value)| (name.to_string(), value.as_bytes().to_vec()))
                .collect(),
            body: received,
        })
    }
}

/// Passes everything between the client and the peer, and replaces header blocks on their way to the peer.
async fn pass(client: DuplexStream, peer: TcpStream, next: &NextBlock) -> io::Result<()> {
    let (mut from_client, mut to_client) = split(client);
    let (mut from_peer, mut to_peer) = peer.into_split();
    let outgoing = async {
        let mut preface = [0; PREFACE_BYTES];
        from_client.read_exact(&mut preface).await?;
        to_peer.write_all(&preface).await?;
        loop {
            let mut head = [0; FRAME_HEAD_BYTES];
            from_client.read_exact(&mut head).await?;
            let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
            let mut payload = vec![0; usize::try_from(length).expect("three bytes")];
            from_client.read_exact(&mut payload).await?;
            if head[3] == HEADERS {
                payload = std::mem::take(&mut *next.lock().expect("no panic while locked"));
                assert!(
                    payload.len() <= MAX_FRAME_BYTES,
                    "one frame holds the block"
                );
                let length = u32::try_from(payload.len()).expect("a short frame");
                head[..3].copy_from_slice(&length.to_be_bytes()[1..]);
            }
            to_peer.write_all(&[&head, &*payload].concat()).await?;
        }
    };
    tokio::select! {
        ended = outgoing => ended,
        ended = copy(&mut from_peer, &mut to_client) => ended.map(drop),
    }
}

/// RFC 7541, section 6.2.2.
fn block(fields: &[(Vec<u8>, Vec<u8>)]) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in fields {
        block.push(0);
        for text in [name, value] {
            integer(text.len(), &mut block);
            block.extend_from_slice(text);
        }
    }
    block
}

/// RFC 7541, section 5.1, with a prefix of seven bits that follows a zero bit.
fn integer(number: usize, block: &mut Vec<u8>) {
    const PREFIX: usize = 127;
    let Some(mut rest) = number.checked_sub(PREFIX) else {
        block.push(number as u8);
        return;
    };
    block.push(PREFIX as u8);
    while rest >= 128 {
        block.push((rest % 128) as u8 | 128);
        rest /= 128;
    }
    block.push(rest as u8);
}
