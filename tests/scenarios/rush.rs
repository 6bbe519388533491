//! Cold starts: many clients with tokens that no cache knows, all at once, and MAS a few milliseconds away.

use std::{
    cell::Cell,
    collections::{BTreeMap, BTreeSet, HashSet},
    rc::Rc,
    time::Duration,
};

use matrix_edge_auth::{host::StreamId, worker::Plugin};
use serde_json::json;

use crate::{
    ALICE, INACTIVE, WHOAMI, active, alice,
    attack::invented,
    simulated::{Cluster, Fate, Request, gateway},
    unable, whoami,
};

/// Calls that one worker may have under way, unless configured.
const CAP: usize = 256;

/// Questions that may wait in the line of one worker.
const LINE: usize = 4_096;

/// Between two looks of the event loops.
const STEP: Duration = Duration::from_millis(10);

/// How often a worker's timer fires.
const TICK: Duration = Duration::from_millis(250);

/// Connections are never spread evenly: how many of a hundred clients each worker gets.
const SHARES: [usize; 4] = [55, 25, 15, 5];

/// The first of the numbers that make invented tokens.
const UNKNOWN: u32 = 1_000_000;

/// Who sends the invented tokens.
const FLOOD: &str = "203.0.113.1";

/// A request under way.
struct Sent {
    worker: usize,
    stream: StreamId,
    at: u128,
}

/// Four workers, and a MAS that takes its time.
struct Rush {
    cluster: Cluster,
    gateway: Rc<Plugin>,
    latency: Duration,
    elapsed: Duration,
    /// How often each valid token was asked about.
    asked: BTreeMap<String, usize>,
    valid: HashSet<String>,
    flooded: Cell<u32>,
    /// Requests of the flood, which nobody waits for.
    flood: Vec<Sent>,
}

impl Rush {
    fn new(latency: Duration, overrides: serde_json::Value) -> Self {
        let mut cluster = Cluster::new(4);
        let gateway = gateway(1, overrides);
        cluster.seat_all(&gateway);
        Self {
            cluster,
            gateway,
            latency,
            elapsed: Duration::ZERO,
            asked: BTreeMap::new(),
            valid: HashSet::new(),
            flooded: Cell::new(0),
            flood: Vec::new(),
        }
    }

    /// Sends a valid token that no cache knows.
    fn send_cold(&mut self, worker: usize, number: u32, source: &str) -> Sent {
        let token = invented(number);
        self.valid.insert(token.clone());
        self.send(worker, &token, source)
    }

    fn send(&mut self, worker: usize, token: &str, source: &str) -> Sent {
        let request = Request::get(WHOAMI).bearer(token).source(source);
        let stream = self.cluster[worker].request(&self.gateway, request);
        Sent {
            worker,
            stream,
            at: self.elapsed.as_millis(),
        }
    }

    /// Sends this many invented tokens of one client, to the workers in turn.
    fn send_flood(&mut self, tokens: u32) {
        for _ in 0..tokens {
            let number = self.flooded.get();
            self.flooded.set(number + 1);
            let sent = self.send(number as usize % 4, &invented(UNKNOWN + number), FLOOD);
            self.flood.push(sent);
        }
    }

    /// A step of time: MAS answers what has waited for it long enough, timers fire, hints arrive.
    fn step(&mut self) {
        self.cluster.process.advance(STEP);
        self.elapsed += STEP;
        let now = self.cluster.process.now();
        let tick = self.elapsed.as_millis() % TICK.as_millis();
        for (number, worker) in self.cluster.workers.iter_mut().enumerate() {
            for call in worker.calls() {
                if now.since(call.sent_at) < self.latency {
                    continue;
                }
                let token = call.body.trim_start_matches("token=");
                let token = token.split('&').next().unwrap_or_default();
                match self.valid.contains(token) {
                    true => {
                        *self.asked.entry(token.to_owned()).or_default() += 1;
                        worker.answer(call.id, 200, &active("alice"));
                    }
                    false => worker.answer(call.id, 200, INACTIVE),
                }
            }
            // Each has a moment of its own.
            if tick == number as u128 * 50 {
                worker.tick();
            }
        }
        self.cluster.deliver_all();
        self.check_bounds();
    }

    fn check_bounds(&mut self) {
        let cap = self.gateway.config.introspection.max_in_flight;
        for worker in &self.cluster.workers {
            assert!(worker.calls().len() <= cap, "the cap is kept");
        }
    }

    fn fate(&self, sent: &Sent) -> Fate {
        self.cluster[sent.worker].fate(sent.stream)
    }

    /// Returns the requests that wait, of all workers.
    fn held(&self) -> usize {
        let workers = self.cluster.workers.iter();
        workers
            .map(|worker| worker.held_by(&self.gateway).len())
            .sum()
    }

    /// Lets time pass until none of the requests waits. Returns how long that took.
    fn run_until_decided(
        &mut self,
        sent: &[Sent],
        mut meanwhile: impl FnMut(&mut Self),
    ) -> Duration {
        let begun = self.elapsed;
        while sent.iter().any(|sent| self.fate(sent) == Fate::Held) {
            assert!(self.elapsed - begun < Duration::from_secs(5), "an end");
            meanwhile(self);
            self.step();
        }
        self.elapsed - begun
    }
}

/// Returns an address for each client, or the same for all.
fn address(client: usize, has_own: bool) -> String {
    let client = if has_own { client } else { 0 };
    std::net::Ipv4Addr::from(0x0a00_0000 + client as u32).to_string()
}

/// Returns which worker each of so many clients is connected to.
fn spread(clients: usize) -> Vec<usize> {
    let mut workers = Vec::new();
    for (worker, share) in SHARES.into_iter().enumerate() {
        workers.extend(std::iter::repeat_n(worker, clients * share / 100));
    }
    workers
}

/// `clients` arrive at once, each with an address of its own or all with one. `flood` invented tokens come in
/// each step beside them.
fn assert_cold_start_serves_everyone(clients: usize, has_own_address: bool, flood: u32) {
    let mut rush = Rush::new(Duration::from_millis(50), json!({}));
    for _ in 0..50 {
        rush.send_flood(flood);
        rush.step();
    }
    let sent: Vec<Sent> = spread(clients)
        .into_iter()
        .enumerate()
        .map(|(client, worker)| {
            let source = address(client, has_own_address);
            rush.send_cold(worker, client as u32, &source)
        })
        .collect();
    assert_eq!(sent.len(), clients);
    let took = rush.run_until_decided(&sent, |rush| rush.send_flood(flood));
    println!("{clients} clients, own addresses: {has_own_address}, flood {flood}: {took:?}");
    for sent in &sent {
        assert_eq!(rush.fate(sent), alice());
    }
    let asked: BTreeSet<usize> = rush.asked.values().copied().collect();
    assert_eq!((rush.asked.len(), asked), (clients, BTreeSet::from([1])));
    assert!(took < Duration::from_secs(1));
}

#[test]
fn a_cold_start_serves_everyone_and_asks_once_for_each() {
    for clients in [1_000, 4_000] {
        for has_own_address in [true, false] {
            assert_cold_start_serves_everyone(clients, has_own_address, 0);
        }
    }
}

/// 2,000 invented tokens a second.
#[test]
fn a_cold_start_serves_everyone_beside_a_flood() {
    for clients in [1_000, 4_000] {
        for has_own_address in [true, false] {
            assert_cold_start_serves_everyone(clients, has_own_address, 20);
        }
    }
}

/// MAS can take far fewer calls than the flood asks for, so the flood fills its share and its part of the line.
#[test]
fn a_flood_waits_behind_itself() {
    let overrides = json!({"introspection": {"max_in_flight": 8}});
    let mut rush = Rush::new(Duration::from_millis(100), overrides);
    let mut sent = Vec::new();
    for step in 0..300 {
        rush.send_flood(20);
        // Ten clients a second and worker, each of whom is asked about once.
        if step % 10 == 0 {
            for worker in 0..4 {
                let client = sent.len();
                sent.push(rush.send_cold(worker, client as u32, &address(client, true)));
            }
        }
        rush.step();
    }
    rush.run_until_decided(&sent, |rush| rush.send_flood(20));
    assert!(sent.iter().all(|sent| rush.fate(sent) == alice()));
    let refused = rush.flood.iter().filter(|sent| rush.fate(sent) == unable());
    assert!(refused.count() > 1_000, "the flood itself is refused");
}

/// MAS is slow, and more clients arrive than the line takes.
#[test]
fn a_full_line_and_a_slow_mas_stay_bounded_and_harm_no_session() {
    const BURST: usize = 20_000;
    let mut rush = Rush::new(Duration::from_secs(2), json!({}));
    rush.valid.insert(ALICE.to_owned());
    let live: Vec<Sent> = (0..4)
        .map(|worker| rush.send(worker, ALICE, "192.0.2.1"))
        .collect();
    rush.run_until_decided(&live, |_| ());
    let mut sent: Vec<Sent> = Vec::new();
    for step in 0..300 {
        // Each from an address of its own, so none has to make room for another.
        if step % 150 == 0 {
            let first = BURST * (step / 150);
            sent.extend(
                (first..first + BURST).map(|client| {
                    rush.send_cold(client % 4, client as u32, &address(client, true))
                }),
            );
            let held = rush.held();
            assert!(held <= 4 * (CAP + LINE), "{held} wait");
            assert!(held > 4 * LINE, "{held} wait");
        }
        rush.step();
        if step % 10 != 9 {
            continue;
        }
        for worker in 0..4 {
            let fate = rush.cluster[worker].send(&rush.gateway, whoami(ALICE));
            assert_eq!(fate, alice(), "a live session waits for nothing");
        }
        sent.retain(|sent| {
            let fate = rush.fate(sent);
            let waited = rush.elapsed.as_millis() - sent.at;
            if fate == Fate::Held {
                return true;
            }
            assert!(fate == alice() || fate == unable(), "{fate:?}");
            assert!(
                fate == alice() || waited <= 1_010,
                "refused after {waited} ms"
            );
            rush.cluster[sent.worker].hang_up(sent.stream);
            false
        });
    }
    rush.run_until_decided(&sent, |_| ());
    assert_eq!(rush.held(), 0);
}

/// A worker has so many requests to read at once that it comes to nothing else for two seconds. MAS's answers wait in
/// its sockets meanwhile.
#[test]
fn time_in_which_the_worker_did_not_run_does_not_count() {
    let mut rush = Rush::new(Duration::from_millis(50), json!({}));
    let sent: Vec<Sent> = (0..1_000)
        .map(|client| rush.send_cold(0, client, &address(client as usize, true)))
        .collect();
    rush.cluster.process.advance(Duration::from_secs(2));
    rush.cluster[0].tick();
    rush.run_until_decided(&sent, |_| ());
    assert!(sent.iter().all(|sent| rush.fate(sent) == alice()));
}

/// A worker that is always late refuses, too.
#[test]
fn nobody_waits_for_ever_in_a_worker_that_is_always_late() {
    let overrides = json!({"introspection": {"max_in_flight": 1, "timeout": "1m"}});
    let mut rush = Rush::new(Duration::from_secs(60), overrides);
    rush.send_cold(0, 0, "192.0.2.1");
    let second = rush.send_cold(0, 1, "192.0.2.1");
    for _ in 0..3 {
        assert_eq!(rush.fate(&second), Fate::Held);
        rush.cluster.process.advance(Duration::from_secs(2));
        rush.cluster[0].tick();
    }
    assert_eq!(rush.fate(&second), unable());
}

/// More requests wait for one answer of another worker than a callback may end. The rest ends at once and not with the next tick.
#[test]
fn everyone_who_waits_for_another_worker_goes_on_with_its_answer() {
    let gateway = gateway(1, json!({}));
    let mut cluster = Cluster::new(2);
    cluster.seat_all(&gateway);
    cluster[0].request(&gateway, whoami(ALICE));
    let waiting: Vec<StreamId> = (0..500)
        .map(|_| cluster[1].request(&gateway, whoami(ALICE)))
        .collect();
    cluster[0].answer_only_call(&active("alice"));
    cluster.deliver_all();
    assert!(
        waiting
            .iter()
            .all(|stream| cluster[1].fate(*stream) == alice())
    );
}
