//! People who are logged in, while something else goes on: one request after the other, each timed from its
//! sending to its answer.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use super::{
    client::{self, Connection},
    process::{self, Process, Threads},
};

/// In turn, so that every worker is asked.
const CONNECTIONS: usize = 16;

/// Between an answer and the next request.
const PAUSE: Duration = Duration::from_millis(1);

/// A probe at work.
pub struct Probe<'a> {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Times>,
    process: &'a Process,
    workers: Threads,
    others: f64,
    begun: Instant,
}

#[derive(Default)]
struct Times {
    hits: Vec<Duration>,
    wakings: Vec<Duration>,
}

/// What a probe saw.
pub struct Seen {
    pub hits: Percentiles,
    /// How late the probe's own thread woke from its pauses: what the machine adds to any latency, whoever
    /// answers. Timing starts only then.
    pub woken_late: Percentiles,
    /// CPU time of Envoy's workers, per second.
    pub workers_ran: Duration,
    /// How long they had something to do and no processor to do it on, per second.
    pub workers_waited: Duration,
    /// CPU time of everything that is neither this Envoy nor the bench, per second: how quiet the machine was.
    pub others_ran: Duration,
}

/// In microseconds.
#[derive(Clone, Copy)]
pub struct Percentiles {
    pub p50: f64,
    pub p90: f64,
    pub p99: f64,
    pub slowest: f64,
}

impl<'a> Probe<'a> {
    /// Asks for these live sessions at `addr`, where `process` answers.
    pub fn start(addr: SocketAddr, process: &'a Process, live: &[String]) -> Self {
        let stop = Arc::<AtomicBool>::default();
        let stopped = Arc::clone(&stop);
        let live: Vec<Vec<u8>> = live.iter().map(|token| client::whoami(token)).collect();
        let mut clients: Vec<_> = (0..CONNECTIONS).map(|_| Connection::open(addr)).collect();
        let workers = process.workers();
        let begun = Instant::now();
        let thread = std::thread::spawn(move || {
            let mut times = Times::default();
            for (turn, request) in live.iter().cycle().enumerate() {
                if stopped.load(Ordering::Relaxed) {
                    break;
                }
                times
                    .hits
                    .push(clients[turn % CONNECTIONS].time(request, 200));
                let paused = Instant::now();
                std::thread::sleep(PAUSE);
                times.wakings.push(paused.elapsed().saturating_sub(PAUSE));
            }
            times
        });
        Self {
            stop,
            thread,
            process,
            workers,
            others: others_cpu_micros(process),
            begun,
        }
    }

    pub fn finish(self) -> Seen {
        let seconds = self.begun.elapsed().as_secs_f64();
        let workers = self.process.workers();
        let others = (others_cpu_micros(self.process) - self.others).max(0.0);
        self.stop.store(true, Ordering::Relaxed);
        let times = self.thread.join().expect("the live sessions are served");
        Seen {
            hits: Percentiles::of(times.hits),
            woken_late: Percentiles::of(times.wakings),
            workers_ran: (workers.ran - self.workers.ran).div_f64(seconds),
            others_ran: Duration::from_secs_f64(others / 1e6 / seconds),
            workers_waited: (workers.waited - self.workers.waited).div_f64(seconds),
        }
    }
}

fn others_cpu_micros(envoy: &Process) -> f64 {
    process::machine_cpu_micros() - envoy.cpu_micros() - Process::this().cpu_micros()
}

impl Percentiles {
    pub fn of(mut times: Vec<Duration>) -> Self {
        times.sort_unstable();
        let at = |share: f64| {
            let index = (times.len() as f64 * share) as usize;
            let time = times.get(index.min(times.len().saturating_sub(1)));
            time.map_or(f64::NAN, |time| time.as_secs_f64() * 1e6)
        };
        Self {
            p50: at(0.5),
            p90: at(0.9),
            p99: at(0.99),
            slowest: at(1.0),
        }
    }
}
