//! Floods of invented tokens, and what they do to memory and to the people who are logged in.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::{
    Gateway,
    client::{self, Client, Connection},
    tokens,
    upstream::Mas,
};

/// Invented tokens after the warm-up; `ATTACK_TOKENS` overrides it.
const TOKENS: u64 = 1_000_000;

/// Until every slot for inactive answers and for leases has been written at least once: 16,384 slots are
/// all hit after about 16,384 x ln 16,384 = 159,000 tokens.
const WARM_UP: u64 = 200_000;

/// Invented tokens per second of an attack that leaves the machine room to breathe.
const MODERATE: u64 = 2_000;

const LIVE: usize = 1_000;
const CONNECTIONS: usize = 64;
const MIB: f64 = 1024.0 * 1024.0;

/// Invented tokens that MAS must be asked about.
pub async fn unknown_tokens(mas: &Mas) {
    let number = std::env::var("ATTACK_TOKENS").map_or(TOKENS, |text| {
        text.parse().expect("ATTACK_TOKENS is a number")
    });
    println!(
        "\nAttack: invented tokens with a valid checksum, {CONNECTIONS} connections, 2 workers"
    );
    let gateway = Gateway::start(mas, 2, json!({})).await;
    let live = tokens("live", LIVE);
    mas.activate(&live);
    let live: Vec<Vec<u8>> = live.iter().map(|token| client::whoami(token)).collect();
    // Often and on many connections, so that both workers know them.
    for _ in 0..8 {
        Client::open(gateway.addr()).send(&live, LIVE, 200);
    }
    let asked = mas.active_calls();
    let flood = Flood::default();
    let start = gateway.memory().await;

    let quiet = Probe::start(gateway.addr(), &live);
    tokio::time::sleep(Duration::from_secs(5)).await;
    quiet.finish("quiet").print();

    flood.send(gateway.addr(), WARM_UP, None).await;
    let warm = gateway.memory().await;
    let moderate = number.min(MODERATE * 15);
    let probe = Probe::start(gateway.addr(), &live);
    flood.send(gateway.addr(), moderate, Some(MODERATE)).await;
    probe.finish("2,000 invented tokens/s").print();
    let probe = Probe::start(gateway.addr(), &live);
    let begun = Instant::now();
    flood.send(gateway.addr(), number - moderate, None).await;
    let rate = (number - moderate) as f64 / begun.elapsed().as_secs_f64();
    probe
        .finish(&format!("{rate:.0} invented tokens/s, all it can take"))
        .print();
    let end = gateway.memory().await;

    for (name, now) in [("start", start), ("after the warm-up", warm), ("end", end)] {
        println!(
            "  memory, {name:18} {:7.1} MiB resident, {:6.1} MiB allocated by Envoy's own count",
            now.0 as f64 / MIB,
            now.1 as f64 / MIB
        );
    }
    println!(
        "  growth after the warm-up of {WARM_UP} tokens, over {number} more: {:+.2} MiB resident (goal: at most 16)",
        (end.0 as f64 - warm.0 as f64) / MIB
    );
    let evicted = gateway
        .metric("cache_evictions_total", &[("table", "active")])
        .await;
    println!(
        "  answers: {} x 401, {} other; MAS was asked {} times about {LIVE} live sessions during the attack; \
         active answers evicted: {evicted}",
        flood.rejected.load(Ordering::Relaxed),
        flood.other.load(Ordering::Relaxed),
        mas.active_calls() - asked,
    );
}

/// Invented tokens that cannot exist.
pub async fn impossible_tokens(mas: &Mas) {
    println!("\nAttack: invented tokens with a wrong checksum");
    let gateway = Gateway::start(mas, 2, json!({})).await;
    let mut client = Client::open(gateway.addr());
    let batch = |from: u64| -> Vec<Vec<u8>> {
        (from..from + 10_000)
            .map(|n| client::whoami(&super::damaged(&invented(n))))
            .collect()
    };
    client.send(&batch(0), 10_000, 401);
    let before = (mas.calls(), gateway.memory().await);
    let number = std::env::var("ATTACK_TOKENS").map_or(TOKENS, |text| {
        text.parse().expect("ATTACK_TOKENS is a number")
    });
    let mut sent = 0;
    while sent < number {
        client.send(&batch(sent), 10_000, 401);
        sent += 10_000;
    }
    let after = (mas.calls(), gateway.memory().await);
    let lookups = gateway.metric("cache_lookups_total", &[]).await;
    println!(
        "  {sent} tokens, all 401: {} calls to MAS, {lookups} look-ups in the shared cache (a write follows a \
         look-up), {:+.2} MiB resident",
        after.0 - before.0,
        (after.1.0 as f64 - before.1.0 as f64) / MIB
    );
}

fn invented(number: u64) -> String {
    stand_in::mas::token("mat", &format!("invented {number}"))
}

/// Invented tokens, each sent once.
#[derive(Default)]
struct Flood {
    next: AtomicU64,
    rejected: AtomicU64,
    other: AtomicU64,
}

impl Flood {
    /// Sends `number` tokens, at this rate a second or as fast as answers come.
    async fn send(&self, addr: SocketAddr, number: u64, rate: Option<u64>) {
        let from = self.next.load(Ordering::Relaxed);
        let (end, begun) = (from + number, Instant::now());
        let connections = (0..CONNECTIONS).map(|_| async {
            let mut stream = TcpStream::connect(addr).await.expect("Envoy listens");
            stream.set_nodelay(true).expect("a TCP connection");
            let mut received = Vec::new();
            loop {
                let token = self.next.fetch_add(1, Ordering::Relaxed);
                if token >= end {
                    break;
                }
                if let Some(rate) = rate {
                    let due = Duration::from_secs_f64((token - from) as f64 / rate as f64);
                    tokio::time::sleep(due.saturating_sub(begun.elapsed())).await;
                }
                let request = client::whoami(&invented(token));
                stream.write_all(&request).await.expect("Envoy reads");
                received.clear();
                let status = loop {
                    let length = stream.read_buf(&mut received).await.expect("Envoy answers");
                    assert!(length > 0, "the connection ended before a response");
                    if let Some((status, _)) = super::response(&received) {
                        break status;
                    }
                };
                let answers = if status == 401 {
                    &self.rejected
                } else {
                    &self.other
                };
                answers.fetch_add(1, Ordering::Relaxed);
            }
        });
        join(connections.collect()).await;
        self.next.store(end, Ordering::Relaxed);
    }
}

/// Runs futures that borrow, all at once, on this thread.
async fn join<F: Future<Output = ()>>(futures: Vec<F>) {
    let mut futures: Vec<_> = futures.into_iter().map(Box::pin).map(Some).collect();
    std::future::poll_fn(|context| {
        for slot in &mut futures {
            if let Some(future) = slot
                && future.as_mut().poll(context).is_ready()
            {
                *slot = None;
            }
        }
        if futures.iter().all(Option::is_none) {
            std::task::Poll::Ready(())
        } else {
            std::task::Poll::Pending
        }
    })
    .await;
}

/// People who are logged in: one request after the other on two connections, each timed.
struct Probe {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Vec<Duration>>,
}

impl Probe {
    fn start(addr: SocketAddr, live: &[Vec<u8>]) -> Self {
        let stop = Arc::<AtomicBool>::default();
        let (stopped, live) = (Arc::clone(&stop), live.to_vec());
        let thread = std::thread::spawn(move || {
            let mut clients = [Connection::open(addr), Connection::open(addr)];
            let mut times = Vec::new();
            for request in live.iter().cycle() {
                if stopped.load(Ordering::Relaxed) {
                    break;
                }
                let turn = times.len() % clients.len();
                times.push(clients[turn].time(request, 200));
                std::thread::sleep(Duration::from_millis(1));
            }
            times
        });
        Self { stop, thread }
    }

    fn finish(self, name: &str) -> Latencies {
        self.stop.store(true, Ordering::Relaxed);
        let mut times = self.thread.join().expect("the live sessions are served");
        times.sort_unstable();
        Latencies {
            name: name.to_owned(),
            times,
        }
    }
}

struct Latencies {
    name: String,
    times: Vec<Duration>,
}

impl Latencies {
    fn print(&self) {
        let at = |share: f64| {
            let index = (self.times.len() as f64 * share) as usize;
            self.times[index.min(self.times.len() - 1)].as_micros()
        };
        println!(
            "  hits of live sessions, {:45} p50 {:5} us, p99 {:5} us  ({} requests)",
            self.name,
            at(0.5),
            at(0.99),
            self.times.len()
        );
    }
}
