//! Several workers of one process, and time that passes for all of them.

use std::{
    ops::{Index, IndexMut},
    rc::Rc,
    time::Duration,
};

use matrix_edge_auth::{host::StreamId, worker::Plugin};

use super::{Call, Fate, Process, Request, SimulatedWorker};

/// How often a healthy event loop runs a timer of the module.
const TICK: Duration = Duration::from_millis(250);

/// The workers can be indexed: `cluster[0]` is the first.
pub struct Cluster {
    pub process: Rc<Process>,
    pub workers: Vec<SimulatedWorker>,
}

impl Cluster {
    pub fn new(workers: usize) -> Self {
        Self::on(&Process::new(), workers)
    }

    /// Returns new workers of a process that may have others.
    pub fn on(process: &Rc<Process>, workers: usize) -> Self {
        let workers = (0..workers).map(|_| SimulatedWorker::new(process));
        Self {
            process: Rc::clone(process),
            workers: workers.collect(),
        }
    }

    /// Lets every worker take its seat, so that the others can reach it. A worker does that at its first
    /// request.
    pub fn seat_all(&mut self, plugin: &Rc<Plugin>) {
        self.request_each(plugin, &Request::get("/"));
    }

    /// Sends the request to each worker, and returns the streams.
    pub fn request_each(&mut self, plugin: &Rc<Plugin>, request: &Request) -> Vec<StreamId> {
        self.workers
            .iter_mut()
            .map(|worker| worker.request(plugin, request.clone()))
            .collect()
    }

    /// Sends the request to each worker, and returns what becomes of each before anything else happens.
    pub fn send_each(&mut self, plugin: &Rc<Plugin>, request: &Request) -> Vec<Fate> {
        self.workers
            .iter_mut()
            .map(|worker| worker.send(plugin, request.clone()))
            .collect()
    }

    /// Returns what has become of one stream of each worker.
    pub fn fates(&self, streams: &[StreamId]) -> Vec<Fate> {
        assert_eq!(streams.len(), self.workers.len(), "one for each worker");
        self.workers
            .iter()
            .zip(streams)
            .map(|(worker, stream)| worker.fate(*stream))
            .collect()
    }

    /// Returns the calls under way, of all workers.
    pub fn calls(&self) -> Vec<Call> {
        let calls = self.workers.iter().flat_map(SimulatedWorker::calls);
        calls.collect()
    }

    /// Returns the sum of all counters whose name starts with `prefix`.
    pub fn metric(&self, prefix: &str) -> u64 {
        self.process.metric(prefix)
    }

    /// MAS answers every call with 200 and `body`.
    pub fn answer_all(&mut self, body: &str) {
        for worker in &mut self.workers {
            worker.answer_all(body);
        }
    }

    /// Everything that was sent between workers arrives.
    pub fn deliver_all(&mut self) {
        for worker in &mut self.workers {
            while worker.deliver() {}
        }
    }

    /// Nothing that was sent between workers is announced; the messages stay.
    pub fn drop_hints(&mut self) {
        self.workers
            .iter_mut()
            .for_each(SimulatedWorker::drop_hints);
    }

    /// Time passes at once, and then every timer fires.
    pub fn skip(&mut self, time: Duration) {
        self.process.advance(time);
        self.workers.iter_mut().for_each(SimulatedWorker::tick);
    }

    /// Time passes while timers fire, MAS is silent and nothing arrives from another worker.
    pub fn tick_for(&mut self, time: Duration) {
        for _ in 0..ticks(time) {
            self.skip(TICK);
        }
    }

    /// Time passes as in a healthy event loop, and MAS answers every call with 200 and `body`.
    pub fn run_for(&mut self, time: Duration, body: &str) {
        for _ in 0..ticks(time) {
            self.process.advance(TICK);
            for worker in &mut self.workers {
                worker.tick();
                worker.answer_all(body);
            }
            self.deliver_all();
        }
    }
}

impl Index<usize> for Cluster {
    type Output = SimulatedWorker;

    fn index(&self, worker: usize) -> &SimulatedWorker {
        &self.workers[worker]
    }
}

impl IndexMut<usize> for Cluster {
    fn index_mut(&mut self, worker: usize) -> &mut SimulatedWorker {
        &mut self.workers[worker]
    }
}

/// Returns how many ticks make up `time`, which must be a multiple of one.
fn ticks(time: Duration) -> u128 {
    assert_eq!(time.as_nanos() % TICK.as_nanos(), 0, "whole ticks");
    time.as_nanos() / TICK.as_nanos()
}
