//! Requests at a given rate, whatever becomes of those before, or as fast as answers come.
//!
//! At a rate they come as those of many attackers who know nothing of each other do: the gaps between them are
//! exponentially distributed, always in the same way. The requests are made ahead, and one thread sends them
//! while another reads the answers: whoever attacks should cost the machine little, since on a real one they cost
//! nothing.

use std::{
    collections::VecDeque,
    io::{ErrorKind, Write},
    net::{Shutdown, SocketAddr, TcpStream},
    sync::{Arc, Mutex, mpsc},
    time::{Duration, Instant},
};

use tokio::{io::AsyncReadExt, sync::oneshot, task::JoinSet};

use super::process;

/// How often requests are sent.
#[derive(Clone, Copy)]
pub enum Pace {
    /// So many on average. Each has its moment, as long as a connection is free.
    PerSecond(u64),
    /// As fast as answers come, until this time is over.
    FlatOut(Duration),
}

/// What is to be sent.
pub struct Attack {
    pub connections: usize,
    /// Each once.
    pub requests: Vec<Vec<u8>>,
    pub pace: Pace,
    /// Only the others' answers are timed, not these.
    pub gives_way: bool,
}

/// A flood on its way.
pub struct Flood {
    answers: oneshot::Receiver<Answers>,
}

/// What came back.
#[derive(Default)]
pub struct Answers {
    pub all: Vec<Answer>,
    /// From the first request sent to the last.
    pub lasted: Duration,
    /// How late the requests were sent that were sent latest.
    pub late: Duration,
}

pub struct Answer {
    pub status: u16,
    pub has_retry_after: bool,
    pub length: usize,
    pub took: Duration,
}

impl Flood {
    /// Connects, and begins.
    pub async fn start(addr: SocketAddr, attack: Attack) -> Self {
        let (finished, answers) = oneshot::channel();
        let connections: Vec<_> = (0..attack.connections)
            .map(|_| Connection::open(addr))
            .collect();
        std::thread::spawn(move || {
            if attack.gives_way {
                process::give_way();
            }
            let _ = finished.send(converse(&connections, &attack.requests, attack.pace));
        });
        Self { answers }
    }

    /// Waits for the last answer.
    pub async fn finish(self) -> Answers {
        self.answers.await.expect("the flood ends")
    }
}

impl Answers {
    pub fn count(&self, status: u16) -> usize {
        self.all
            .iter()
            .filter(|answer| answer.status == status)
            .count()
    }
}

struct Connection {
    stream: TcpStream,
    /// When the request was sent that is to be answered.
    sent: Arc<Mutex<Instant>>,
}

impl Connection {
    fn open(addr: SocketAddr) -> Self {
        let stream = TcpStream::connect(addr).expect("Envoy listens");
        stream.set_nodelay(true).expect("a TCP connection");
        // For the side that reads.
        stream.set_nonblocking(true).expect("a TCP connection");
        Self {
            stream,
            sent: Arc::new(Mutex::new(Instant::now())),
        }
    }

    fn send(&self, request: &[u8]) {
        *self.sent.lock().expect("no panic while locked") = Instant::now();
        let mut rest = request;
        while !rest.is_empty() {
            match (&self.stream).write(rest) {
                Ok(length) => rest = &rest[length..],
                Err(error) if error.kind() == ErrorKind::WouldBlock => std::thread::yield_now(),
                Err(error) => panic!("Envoy reads: {error}"),
            }
        }
    }
}

/// Sends from this thread, and reads on another.
fn converse(connections: &[Connection], requests: &[Vec<u8>], pace: Pace) -> Answers {
    let (answered, free) = mpsc::channel();
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| read(connections, answered));
        let sent = send(connections, requests, pace, &free);
        for connection in connections {
            let closed = connection.stream.shutdown(Shutdown::Both);
            closed.expect("the connection is still open");
        }
        Answers {
            all: reader.join().expect("the answers are read"),
            ..sent
        }
    })
}

/// Sends each request in its turn, and waits for all answers. `free` tells which connections have had theirs.
fn send(
    connections: &[Connection],
    requests: &[Vec<u8>],
    pace: Pace,
    free: &mpsc::Receiver<usize>,
) -> Answers {
    let mut sent = Answers::default();
    let mut idle: VecDeque<usize> = (0..connections.len()).collect();
    let mut chance = fastrand::Rng::with_seed(1);
    let begun = Instant::now();
    let mut due = Duration::ZERO;
    for request in requests {
        match pace {
            Pace::PerSecond(rate) => {
                due += Duration::from_secs_f64(-(1.0 - chance.f64()).ln() / rate as f64);
                std::thread::sleep(due.saturating_sub(begun.elapsed()));
            }
            Pace::FlatOut(time) if begun.elapsed() > time => break,
            Pace::FlatOut(_) => due = begun.elapsed(),
        }
        idle.extend(free.try_iter());
        let number = idle
            .pop_front()
            .unwrap_or_else(|| free.recv().expect("connections end after this"));
        connections[number].send(request);
        sent.lasted = begun.elapsed();
        sent.late = sent.late.max(sent.lasted.saturating_sub(due));
    }
    while idle.len() < connections.len() {
        idle.push_back(free.recv().expect("connections end after this"));
    }
    sent
}

/// Reads the answers on all connections until they end.
fn read(connections: &[Connection], answered: mpsc::Sender<usize>) -> Vec<Answer> {
    let mut answers = Vec::new();
    super::on_this_thread(async {
        let mut tasks = JoinSet::new();
        for (number, connection) in connections.iter().enumerate() {
            let stream = connection.stream.try_clone().expect("a socket");
            let sent = Arc::clone(&connection.sent);
            tasks.spawn(read_one(stream, sent, number, answered.clone()));
        }
        for some in tasks.join_all().await {
            answers.extend(some);
        }
    });
    answers
}

async fn read_one(
    stream: TcpStream,
    sent: Arc<Mutex<Instant>>,
    number: usize,
    answered: mpsc::Sender<usize>,
) -> Vec<Answer> {
    let mut stream = tokio::net::TcpStream::from_std(stream).expect("it does not block");
    let mut answers = Vec::new();
    let mut received = Vec::new();
    while stream.read_buf(&mut received).await.expect("Envoy answers") > 0 {
        if let Some(response) = super::response(&received) {
            received.clear();
            answers.push(Answer {
                status: response.status,
                has_retry_after: response.has_retry_after,
                length: response.length,
                took: sent.lock().expect("no panic while locked").elapsed(),
            });
            answered.send(number).expect("the sender waits for it");
        }
    }
    assert!(
        received.is_empty(),
        "the connection ended before a response"
    );
    answers
}
