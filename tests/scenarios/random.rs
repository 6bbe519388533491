//! Random scenarios: a seed decides what happens, and rules that must always hold are checked throughout.
//!
//! The seed is printed; `SCENARIO_SEED=n` replays one.

use std::{collections::BTreeMap, rc::Rc, time::Duration};

use fastrand::Rng;
use matrix_edge_auth::{
    host::StreamId, mas::introspection::IntrospectionResponse, worker::Gateway,
};
use serde_json::json;

use crate::{
    active, not_active,
    simulated::{Call, Fate, Process, SimulatedWorker, gateway},
    unable, whoami,
};

const SEEDS: u64 = 300;
const STEPS: usize = 400;

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
    last_said_active: Option<u64>,
    last_said_inactive: Option<u64>,
    expires_at: Option<u64>,
}

struct Scenario {
    rng: Rng,
    now: u64,
    process: Rc<Process>,
    workers: Vec<SimulatedWorker>,
    gateways: Vec<Rc<Gateway>>,
    truth: [Truth; SESSIONS.len()],
    open: BTreeMap<(usize, StreamId), (usize, u64)>,
}

#[test]
fn rules_that_always_hold() {
    let seeds: Vec<u64> = match std::env::var("SCENARIO_SEED") {
        Ok(seed) => vec![seed.parse().expect("SCENARIO_SEED takes a number")],
        Err(_) => {
            let first = fastrand::u64(..u64::MAX - SEEDS);
            (first..first + SEEDS).collect()
        }
    };
    println!("seeds {}..={}", seeds[0], seeds[seeds.len() - 1]);
    for seed in seeds {
        let outcome = std::panic::catch_unwind(|| Scenario::new(seed).run());
        assert!(outcome.is_ok(), "failed; replay with SCENARIO_SEED={seed}");
    }
}

impl Scenario {
    fn new(seed: u64) -> Self {
        let mut rng = Rng::with_seed(seed);
        let process = Process::new();
        let workers = (0..rng.usize(1..4))
            .map(|_| SimulatedWorker::new(&process))
            .collect();
        let slots = rng.u32(1..8);
        let gateways = (1..3)
            .map(|root| {
                gateway(
                    root,
                    json!({
                        "introspection": {"max_in_flight": rng.u32(1..5), "timeout": "2s"},
                        "cache": {"ttl": "20s", "negative_ttl": "5s", "slots": slots, "negative_slots": slots},
                    }),
                )
            })
            .collect();
        let truth = std::array::from_fn(|_| Truth {
            active: rng.bool(),
            ..Truth::default()
        });
        Self {
            rng,
            now: 0,
            process,
            workers,
            gateways,
            truth,
            open: BTreeMap::new(),
        }
    }

    fn run(mut self) {
        for _ in 0..STEPS {
            let worker = self.rng.usize(..self.workers.len());
            match self.rng.u32(..100) {
                0..50 => self.request(worker),
                50..75 => self.answer(worker),
                75..80 => self.hang_up(worker),
                80..90 => self.pass_time(),
                90..95 => self.change_a_session(),
                _ => self.lose_a_call(worker),
            }
            self.check();
        }
        // Whatever happened, everyone is answered by the deadline.
        self.process.advance(Duration::from_secs(3));
        self.now += 3_000;
        for worker in 0..self.workers.len() {
            self.workers[worker].tick();
        }
        self.check();
        assert!(self.open.is_empty(), "every request is answered");
        assert!(self.process.keys() <= 15, "memory is bounded");
    }

    fn request(&mut self, worker: usize) {
        let session = self.rng.usize(..SESSIONS.len());
        let gateway = Rc::clone(&self.gateways[self.rng.usize(..self.gateways.len())]);
        let stream = self.workers[worker].request(&gateway, whoami(SESSIONS[session].0));
        self.open.insert((worker, stream), (session, self.now));
    }

    fn answer(&mut self, worker: usize) {
        let Some(call) = self.choose_call(worker) else {
            return;
        };
        let session = SESSIONS
            .iter()
            .position(|(token, _)| call.body.contains(token))
            .unwrap();
        let truth = &mut self.truth[session];
        match self.rng.u32(..10) {
            0 => self.workers[worker].answer(call.id, 500, r#"{"active":false}"#),
            1 => self.workers[worker].answer(call.id, 200, r#"{"active":"false"}"#),
            2 => self.workers[worker].respond(
                call.id,
                IntrospectionResponse {
                    status: None,
                    content_type: None,
                    body: None,
                },
            ),
            _ if truth.active => {
                truth.last_said_active = Some(self.now);
                let expires_in = self.rng.choice([None, Some(3_u64), Some(60)]).unwrap();
                let mut body: serde_json::Value =
                    serde_json::from_str(&active(SESSIONS[session].1)).unwrap();
                truth.expires_at = expires_in.map(|seconds| {
                    body["expires_in"] = seconds.into();
                    self.now + seconds * 1_000
                });
                self.workers[worker].answer(call.id, 200, &body.to_string());
            }
            _ => {
                truth.last_said_inactive = Some(self.now);
                self.workers[worker].answer(call.id, 200, r#"{"active":false}"#);
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

    fn pass_time(&mut self) {
        let millis = self.rng.u64(1..3_000);
        self.process.advance(Duration::from_millis(millis));
        self.now += millis;
        for worker in &mut self.workers {
            worker.tick();
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

    fn choose_call(&mut self, worker: usize) -> Option<Call> {
        self.rng.choice(self.workers[worker].calls())
    }

    fn check(&mut self) {
        for worker in &self.workers {
            let mut asked: Vec<String> = worker.calls().into_iter().map(|call| call.body).collect();
            asked.sort();
            let calls = asked.len();
            asked.dedup();
            assert_eq!(asked.len(), calls, "one call per token and worker");
        }
        let workers = &self.workers;
        let (truth, now) = (&self.truth, self.now);
        self.open.retain(|(worker, stream), (session, since)| {
            let truth = &truth[*session];
            let within = |said: Option<u64>, ttl| said.is_some_and(|said| *since < said + ttl);
            match workers[*worker].fate(*stream) {
                Fate::Held => {
                    assert!(
                        now - *since < 2_500 + 3_000,
                        "nobody waits past the deadline"
                    );
                    return true;
                }
                Fate::Forwarded {
                    user_id: Some(user_id),
                    ..
                } => {
                    assert_eq!(user_id, format!("@{}:example.org", SESSIONS[*session].1));
                    assert!(
                        within(truth.last_said_active, 20_000),
                        "active only if MAS said so"
                    );
                }
                Fate::Forwarded { user_id: None, .. } => panic!("forwarded without an identity"),
                fate if fate == not_active() => {
                    let expired = truth.expires_at.is_some_and(|expiry| now >= expiry);
                    assert!(
                        within(truth.last_said_inactive, 5_000) || expired,
                        "401 only if MAS said inactive or the expiry has passed"
                    );
                }
                fate => assert_eq!(fate, unable()),
            }
            false
        });
    }
}
