//! HTTP/1.1 clients that cost little: kept-alive connections and ready-made requests.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    time::{Duration, Instant},
};

/// Requests on their way at once. Not pipelined: with that, one read would bring many requests, which makes
/// everything else look dear beside a real client's.
pub const CONNECTIONS: usize = 16;

/// Far more than any response takes, also of an emulated Envoy on a busy machine.
const LIMIT: Duration = Duration::from_secs(120);

/// The `User-Agent` of an attacker, as long as that of the others.
pub const ATTACKER: &str = "Mallory/1.11 (bench)";

/// The bytes of a request that needs a token.
pub fn whoami(token: &str) -> Vec<u8> {
    get("/_matrix/client/v3/account/whoami", Some(token))
}

/// The same from an attacker, who can be told from the others by [`ATTACKER`].
pub fn attack(token: &str) -> Vec<u8> {
    request("/_matrix/client/v3/account/whoami", Some(token), ATTACKER)
}

/// The bytes of a `GET`, with headers such as a Matrix client sends.
pub fn get(path: &str, token: Option<&str>) -> Vec<u8> {
    request(path, token, "Element/1.11 (bench)")
}

fn request(path: &str, token: Option<&str>, user_agent: &str) -> Vec<u8> {
    let authorization = token.map_or(String::new(), |token| {
        format!("authorization: Bearer {token}\r\n")
    });
    format!(
        "GET {path} HTTP/1.1\r\nhost: matrix.example.org\r\n{authorization}\
         accept: application/json\r\nuser-agent: {user_agent}\r\n\r\n"
    )
    .into_bytes()
}

/// Some connections, used at once.
pub struct Client {
    connections: Vec<Connection>,
}

impl Client {
    pub fn open(addr: SocketAddr) -> Self {
        let connections = (0..CONNECTIONS).map(|_| Connection::open(addr));
        Self {
            connections: connections.collect(),
        }
    }

    /// Sends `number` of these requests, over and over, and reads the responses.
    ///
    /// # Panics
    ///
    /// If one has another status.
    pub fn send(&mut self, requests: &[Vec<u8>], number: usize, status: u16) {
        let mut requests = requests.iter().cycle().take(number).peekable();
        while requests.peek().is_some() {
            let mut asked = 0;
            for (connection, request) in self.connections.iter_mut().zip(requests.by_ref()) {
                connection.send(request);
                asked += 1;
            }
            for connection in self.connections.iter_mut().take(asked) {
                connection.expect(status);
            }
        }
    }
}

/// One connection.
pub struct Connection {
    addr: SocketAddr,
    stream: TcpStream,
    received: Vec<u8>,
}

impl Connection {
    pub fn open(addr: SocketAddr) -> Self {
        Self {
            addr,
            stream: connect(addr),
            received: Vec::new(),
        }
    }

    /// Sends one request and waits for the response.
    pub fn time(&mut self, request: &[u8], status: u16) -> Duration {
        let begun = Instant::now();
        self.send(request);
        self.expect(status);
        begun.elapsed()
    }

    pub fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).expect("Envoy reads");
    }

    /// Reads one response.
    ///
    /// # Panics
    ///
    /// If it has another status.
    pub fn expect(&mut self, status: u16) {
        assert_eq!(self.answer(), status, "the status of a response");
    }

    /// Reads one response and returns its status. Connects anew if the server is about to close the connection.
    pub fn answer(&mut self) -> u16 {
        let response = loop {
            match super::response(&self.received) {
                Some(response) => break response,
                None => self.fill(),
            }
        };
        self.received.clear();
        if response.is_last {
            self.stream = connect(self.addr);
        }
        response.status
    }

    fn fill(&mut self) {
        let mut buffer = [0; 4 * 1024];
        let length = self.stream.read(&mut buffer).expect("Envoy answers");
        assert!(length > 0, "the connection ended before a response");
        self.received.extend_from_slice(&buffer[..length]);
    }
}

fn connect(addr: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(addr).expect("Envoy listens");
    stream.set_nodelay(true).expect("a TCP connection");
    stream.set_read_timeout(Some(LIMIT)).expect("not zero");
    stream
}
