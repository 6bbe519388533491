//! HTTP/2 clients, with prior knowledge: as many connections as the HTTP/1.1 clients have, and one request at a time on
//! each, so that both protocols carry the same load.

use std::net::SocketAddr;

use bytes::Bytes;
use h2::client::SendRequest;
use http::Request;
use tokio::{net::TcpStream, task::JoinSet};

use super::client::CONNECTIONS;

/// Some connections, used at once.
pub struct Client {
    connections: Vec<SendRequest<Bytes>>,
}

impl Client {
    pub async fn open(addr: SocketAddr) -> Self {
        let mut connections = Vec::new();
        for _ in 0..CONNECTIONS {
            connections.push(connect(addr).await);
        }
        Self { connections }
    }

    /// Sends `number` requests with these tokens, over and over, and reads the responses.
    ///
    /// # Panics
    ///
    /// If one has another status.
    pub async fn send(&mut self, tokens: &[String], number: usize, status: u16) {
        let mut tokens = tokens.iter().cycle().take(number).peekable();
        while tokens.peek().is_some() {
            let mut asked = Vec::new();
            for (connection, token) in self.connections.iter_mut().zip(tokens.by_ref()) {
                asked.push(whoami(connection, token).await);
            }
            for answer in asked {
                assert_eq!(finish(answer).await, status, "the status of a response");
            }
        }
    }

    /// Sends `number` requests with one token at once, and returns the statuses of all answers.
    pub async fn herd(&mut self, token: &str, number: usize) -> Vec<u16> {
        let mut answers = JoinSet::new();
        for turn in 0..number {
            let mut connection = self.connections[turn % CONNECTIONS].clone();
            let token = token.to_owned();
            answers.spawn(async move { finish(whoami(&mut connection, &token).await).await });
        }
        answers.join_all().await
    }
}

async fn connect(addr: SocketAddr) -> SendRequest<Bytes> {
    let stream = TcpStream::connect(addr).await.expect("a listener");
    stream.set_nodelay(true).expect("a TCP connection");
    let (client, connection) = h2::client::handshake(stream).await.expect("HTTP/2");
    // It ends with an error when the server does, and then nobody waits for it.
    tokio::spawn(async move { drop(connection.await) });
    client
}

/// Sends what the HTTP/1.1 clients send.
async fn whoami(connection: &mut SendRequest<Bytes>, token: &str) -> h2::client::ResponseFuture {
    let request = Request::get("http://matrix.example.org/_matrix/client/v3/account/whoami")
        .header("authorization", format!("Bearer {token}"))
        .header("accept", "application/json")
        .header("user-agent", "Element/1.11 (bench)")
        .body(())
        .expect("a request");
    std::future::poll_fn(|context| connection.poll_ready(context))
        .await
        .expect("the connection stays");
    let (response, _) = connection.send_request(request, true).expect("a request");
    response
}

/// Reads a response to its end.
async fn finish(response: h2::client::ResponseFuture) -> u16 {
    let response = response.await.expect("a response");
    let status = response.status().as_u16();
    let mut body = response.into_body();
    while let Some(data) = body.data().await {
        let length = data.expect("a body").len();
        body.flow_control()
            .release_capacity(length)
            .expect("what was received");
    }
    status
}
