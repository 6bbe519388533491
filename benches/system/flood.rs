//! Requests at a fixed rate, whatever becomes of those before, or as fast as answers come.
//!
//! The requests are made ahead and sent from a thread of their own: whoever attacks should cost the machine
//! little, since on a real one they cost nothing.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::oneshot,
    task::JoinSet,
};

use super::process;

/// How often requests are sent.
#[derive(Clone, Copy)]
pub enum Pace {
    /// Each has its moment, as long as a connection is free.
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
        let (ready, begun) = oneshot::channel();
        std::thread::spawn(move || {
            if attack.gives_way {
                process::give_way();
            }
            super::on_this_thread(async {
                let mut streams = Vec::new();
                for _ in 0..attack.connections {
                    let stream = TcpStream::connect(addr).await.expect("Envoy listens");
                    stream.set_nodelay(true).expect("a TCP connection");
                    streams.push(stream);
                }
                let _ = ready.send(());
                let _ = finished.send(send(streams, attack.requests, attack.pace).await);
            });
        });
        begun.await.expect("the flood begins");
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

async fn send(streams: Vec<TcpStream>, requests: Vec<Vec<u8>>, pace: Pace) -> Answers {
    let turns = Arc::new(Turns {
        requests,
        next: AtomicUsize::new(0),
        begun: Instant::now(),
        pace,
    });
    // Tasks of the runtime: each is woken by its own connection or moment only.
    let mut tasks = JoinSet::new();
    for stream in streams {
        tasks.spawn(converse(stream, Arc::clone(&turns)));
    }
    let mut together = Answers::default();
    for answers in tasks.join_all().await {
        together.all.extend(answers.all);
        together.lasted = together.lasted.max(answers.lasted);
        together.late = together.late.max(answers.late);
    }
    together
}

/// The requests that are left.
struct Turns {
    requests: Vec<Vec<u8>>,
    next: AtomicUsize,
    begun: Instant,
    pace: Pace,
}

impl Turns {
    /// Waits for the moment of the next request; returns it, and how long after its moment that is.
    async fn next(&self) -> Option<(&[u8], Duration)> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let request = self.requests.get(number)?;
        let late = match self.pace {
            Pace::PerSecond(rate) => {
                let due = Duration::from_secs_f64(number as f64 / rate as f64);
                let wait = due.saturating_sub(self.begun.elapsed());
                if !wait.is_zero() {
                    tokio::time::sleep(wait).await;
                }
                self.begun.elapsed().saturating_sub(due)
            }
            Pace::FlatOut(time) if self.begun.elapsed() > time => return None,
            Pace::FlatOut(_) => Duration::ZERO,
        };
        Some((request, late))
    }
}

/// Takes turns on one connection.
async fn converse(mut stream: TcpStream, turns: Arc<Turns>) -> Answers {
    let mut answers = Answers::default();
    let mut received = Vec::new();
    while let Some((request, late)) = turns.next().await {
        let sent = Instant::now();
        answers.lasted = sent - turns.begun;
        answers.late = answers.late.max(late);
        stream.write_all(request).await.expect("Envoy reads");
        received.clear();
        let response = loop {
            let length = stream.read_buf(&mut received).await.expect("Envoy answers");
            assert!(length > 0, "the connection ended before a response");
            if let Some(response) = super::response(&received) {
                break response;
            }
        };
        answers.all.push(Answer {
            status: response.status,
            has_retry_after: response.has_retry_after,
            length: response.length,
            took: sent.elapsed(),
        });
    }
    answers
}
