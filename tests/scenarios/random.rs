//! Random scenarios: a seed decides what happens to a few workers, and rules that must always hold are
//! checked after every step.
//!
//! Shared data refuses writes at random, as if another worker had written first. Hints between workers are
//! delivered late, in any order, or never. MAS answers, fails, or is silent. Clients hang up, time passes,
//! configurations are replaced and VMs fail.
//!
//! The seeds are printed. `SCENARIO_SEED=n` replays one, `SCENARIO_SEEDS=n` runs as many.

use std::{collections::BTreeMap, rc::Rc, time::Duration};

use fastrand::Rng;
use matrix_edge_auth::{
    host::{RootId, StreamId},
    mas::introspection::IntrospectionResponse,
    worker::Plugin,
};
use serde_json::json;

use crate::{
    active, not_active,
    simulated::{Call, Fate, Process, SimulatedWorker, gateway},
    unable, whoami,
};

const SEEDS: u64 = 2_000;
const STEPS: usize = 250;

const TTL: u64 = 20_000;
const NEGATIVE_TTL: u64 = 5_000;
const TIMEOUT: u64 = 2_000;

/// How long after an invalidation an answer may still be served, by contract.
const INVALIDATION: u64 = 1_000;

/// Longest that a request waits: it may join a flight that another worker began, see that worker vanish,
/// and then wait for a call of its own.
const PATIENCE: u64 = 2 * (TIMEOUT + 500) + 1_000 + 500;

/// Tokens with the right checksum, and the user each belongs to.
const SESSIONS: [(&str, &str); 4] = [
    ("mat_Z9zA8yB7xC6wD5vE4uF3tG2sH1rI0q_0lFrY1", "alice"),
    ("mat_mavzfVABqZ5YsOOlB1f46RfHk7hp3I_0pfwQt", "bob"),
    ("mct_qGh7iRXFLAjieIGwtXLPByYRJfDhd1_GkhVP2", "carol"),
    ("mpt_axW7vg7OvqRxfwDbI1mInQZa8ByaHA_dl7rZ3", "dave"),
];

/// A token's true state, and what MAS has said of it. Times are virtual milliseconds.
#[derive(Clone, Copy, Default)]
struct Truth {
    active: bool,
    expires_at: Option<u64>,
    said_active: Option<u64>,
    said_inactive: Option<u64>,
}

impl Truth {
    fn is_active(&self, now: u64) -> bool {
        self.active && self.expires_at.is_none_or(|expiry| now < expiry)
    }
}

struct Scenario {
    rng: Rng,
    now: u64,
    process: Rc<Process>,
    workers: Vec<SimulatedWorker>,
    gateways: Vec<(RootId, Rc<Plugin>)>,
    roots: u32,
    slots: u32,
    stale: u64,
    truth: [Truth; SESSIONS.len()],
    /// Undecided requests: worker and stream, session and arrival.
    open: BTreeMap<(usize, StreamId), (usize, u64)>,
    vms: usize,
}

#[test]
fn rules_that_always_hold() {
    let number = |name| {
        std::env::var(name)
            .ok()
            .map(|text| text.parse().expect("a number"))
    };
    let seeds = match number("SCENARIO_SEED") {
        Some(seed) => seed..seed + 1,
        None => {
            let first = fastrand::u64(..u64::from(u32::MAX));
            first..first + number("SCENARIO_SEEDS").unwrap_or(SEEDS)
        }
    };
    println!("seeds {seeds:?}");
    for seed in seeds {
        let outcome = std::panic::catch_unwind(|| Scenario::new(seed).run());
        assert!(outcome.is_ok(), "failed; replay with SCENARIO_SEED={seed}");
    }
}

impl Scenario {
    fn new(seed: u64) -> Self {
        let mut rng = Rng::with_seed(seed);
        let process = Process::new();
        process.refuse_writes(rng.choice([0.0, 0.0, 0.05]).unwrap(), seed);
        let workers: Vec<_> = (0..rng.usize(1..5))
            .map(|_| SimulatedWorker::new(&process))
            .collect();
        let truth = std::array::from_fn(|_| Truth {
            active: rng.bool(),
            expires_at: rng.bool().then(|| rng.u64(1..90_000)),
            ..Truth::default()
        });
        let mut scenario = Self {
            vms: workers.len(),
            now: 0,
            process,
            workers,
            gateways: Vec::new(),
            roots: 0,
            slots: rng.u32(1..8),
            stale: rng.choice([0, 10_000]).unwrap(),
            truth,
            open: BTreeMap::new(),
            rng,
        };
        scenario.configure();
        scenario.configure();
        scenario
    }

    fn configure(&mut self) {
        let config = json!({
            "introspection": {
                "max_in_flight": self.rng.u32(1..5), "timeout": format!("{TIMEOUT}ms"),
            },
            "cache": {
                "ttl": format!("{TTL}ms"),
                "negative_ttl": format!("{NEGATIVE_TTL}ms"),
                "stale_if_error": format!("{}ms", self.stale),
                "refresh_ahead": self.rng.bool(),
                "slots": self.slots,
                "negative_slots": self.slots,
                "local_entries": self.rng.u32(0..4),
            },
        });
        self.roots += 1;
        self.gateways
            .push((RootId(self.roots), gateway(self.roots, config)));
    }

    fn run(mut self) {
        for _ in 0..STEPS {
            let worker = self.rng.usize(..self.workers.len());
            match self.rng.u32(..100) {
                0..44 => self.request(worker),
                44..66 => self.answer(worker),
                66..70 => self.hang_up(worker),
                70..82 => {
                    let millis = self.rng.u64(1..2_000);
                    self.pass_time(millis);
                }
                82..84 => self.change_a_session(),
                84..87 => self.lose_a_call(worker),
                87..96 => drop(self.workers[worker].deliver()),
                96..98 => self.workers[worker].lose_hints(),
                98 => self.replace_a_configuration(),
                _ => self.fail_a_vm(worker),
            }
            self.check();
        }
        self.pass_time(PATIENCE);
        assert!(self.open.is_empty(), "every request is answered");
        self.check_memory();
    }

    fn request(&mut self, worker: usize) {
        let session = self.rng.usize(..SESSIONS.len());
        let (_, gateway) = &self.gateways[self.rng.usize(..self.gateways.len())];
        let stream = self.workers[worker].request(gateway, whoami(SESSIONS[session].0));
        self.open.insert((worker, stream), (session, self.now));
    }

    fn answer(&mut self, worker: usize) {
        let Some(call) = self.choose_call(worker) else {
            return;
        };
        let session = session_of(&call);
        let truth = &mut self.truth[session];
        let worker = &mut self.workers[worker];
        match self.rng.u32(..10) {
            0 => worker.answer(call.id, 500, r#"{"active":false}"#),
            1 => worker.answer(call.id, 200, r#"{"active":"false"}"#),
            2 => worker.respond(
                call.id,
                IntrospectionResponse {
                    status: None,
                    content_type: None,
                    body: None,
                },
            ),
            _ if truth.is_active(self.now) => {
                truth.said_active = Some(self.now);
                let mut body: serde_json::Value =
                    serde_json::from_str(&active(SESSIONS[session].1)).unwrap();
                if let Some(expiry) = truth.expires_at {
                    // MAS rounds to the nearest second.
                    body["expires_in"] = ((expiry - self.now + 500) / 1_000).into();
                }
                worker.answer(call.id, 200, &body.to_string());
            }
            _ => {
                truth.said_inactive = Some(self.now);
                worker.answer(call.id, 200, r#"{"active":false}"#);
            }
        }
    }

    fn hang_up(&mut self, worker: usize) {
        let mine = self.open.keys().filter(|(at, _)| *at == worker).copied();
        let Some(key) = self.rng.choice(mine.collect::<Vec<_>>()) else {
            return;
        };
        self.open.remove(&key);
        self.workers[worker].hang_up(key.1);
    }

    /// Time passes in steps no longer than a tick, as it does in a healthy event loop.
    fn pass_time(&mut self, millis: u64) {
        let mut left = millis;
        while left > 0 {
            let step = left.min(250);
            left -= step;
            self.process.advance(Duration::from_millis(step));
            self.now += step;
            for worker in &mut self.workers {
                worker.tick();
            }
            self.check();
        }
    }

    fn change_a_session(&mut self) {
        let session = self.rng.usize(..SESSIONS.len());
        self.truth[session].active ^= true;
    }

    fn lose_a_call(&mut self, worker: usize) {
        if let Some(call) = self.choose_call(worker) {
            self.workers[worker].lose(call.id);
        }
    }

    /// A new configuration takes the place of the oldest, whose remaining clients hang up.
    fn replace_a_configuration(&mut self) {
        let (root, old) = self.gateways.remove(0);
        self.configure();
        for (at, worker) in self.workers.iter_mut().enumerate() {
            for stream in worker.held_by(&old) {
                self.open.remove(&(at, stream));
                worker.hang_up(stream);
            }
            worker.drop_root(root);
        }
    }

    /// A VM fails. What it held stays unanswered, which nothing in it can help.
    fn fail_a_vm(&mut self, worker: usize) {
        self.open.retain(|(at, _), _| *at != worker);
        self.workers[worker].reload();
        self.vms += 1;
    }

    fn choose_call(&mut self, worker: usize) -> Option<Call> {
        self.rng.choice(self.workers[worker].calls())
    }

    fn check(&mut self) {
        let calls = self.workers.iter().flat_map(SimulatedWorker::calls);
        let mut asked: Vec<usize> = calls.map(|call| session_of(&call)).collect();
        asked.sort_unstable();
        // A refused write may cost a lease, and with it a second call.
        if !self.process.refuses_writes() {
            let doubled = asked.windows(2).any(|pair| pair[0] == pair[1]);
            assert!(!doubled, "one call per token in the whole process");
        }
        let open = std::mem::take(&mut self.open);
        for ((worker, stream), (session, since)) in open {
            if self.is_undecided(worker, stream, session, since) {
                self.open.insert((worker, stream), (session, since));
            }
        }
    }

    fn is_undecided(&self, worker: usize, stream: StreamId, session: usize, since: u64) -> bool {
        let truth = &self.truth[session];
        let now = self.now;
        let within = |said: Option<u64>, time| said.is_some_and(|said| since < said + time);
        match self.workers[worker].fate(stream) {
            Fate::Held => {
                assert!(now - since < PATIENCE, "nobody waits past the deadline");
                return true;
            }
            Fate::Forwarded {
                user_id: Some(user_id),
                ..
            } => {
                assert_eq!(user_id, format!("@{}:example.org", SESSIONS[session].1));
                assert!(
                    within(truth.said_active, TTL + self.stale),
                    "active only if MAS said so"
                );
                let invalid = truth.said_inactive > truth.said_active
                    && truth
                        .said_inactive
                        .is_some_and(|said| since > said + INVALIDATION);
                assert!(!invalid, "nothing is served long after an invalidation");
                let expired = truth.expires_at.is_some_and(|expiry| since >= expiry + 500);
                assert!(!expired, "nothing is served past its expiry");
            }
            Fate::Forwarded { user_id: None, .. } => panic!("forwarded without an identity"),
            fate if fate == not_active() => {
                let expired = truth.expires_at.is_some_and(|expiry| now >= expiry);
                assert!(
                    within(truth.said_inactive, NEGATIVE_TTL) || expired,
                    "401 only if MAS said inactive or the expiry has passed"
                );
            }
            fate => assert_eq!(fate, unable()),
        }
        false
    }

    fn check_memory(&self) {
        let tables = 2 * self.slots as usize;
        let leases = 2 * SESSIONS.len();
        let seed_and_epoch = 2;
        let bound = tables + leases + self.vms + seed_and_epoch;
        assert!(self.process.keys() <= bound, "bounded keys");
    }
}

fn session_of(call: &Call) -> usize {
    SESSIONS
        .iter()
        .position(|(token, _)| call.body.contains(token))
        .expect("a known token")
}
