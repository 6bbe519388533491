//! `stale_if_error`: whatever the reason is that there is no fresh verdict, a live session is served, and MAS gets
//! one question per token and second at the most.

use std::{collections::BTreeMap, rc::Rc, time::Duration};

use matrix_edge_auth::{host::StreamId, worker::Plugin};
use serde_json::json;

use crate::{
    ALICE, INACTIVE, WHOAMI, active, alice,
    attack::invented,
    introspection_role::{answered, introspect},
    not_active,
    simulated::{Cluster, Fate, Request, gateway, plugin},
    whoami,
};

const WORKERS: usize = 4;

/// Between two requests of a client.
const STEP: Duration = Duration::from_millis(50);

/// How often the timers fire, in steps.
const TICK: u32 = 5;

/// How long a call may take, and calls that may be under way in each worker and role.
const TIMEOUT: Duration = Duration::from_secs(2);
const CAP: u32 = 8;

/// Live sessions.
const USERS: u32 = 6;

/// The address that they share.
const OFFICE: &str = "192.0.2.1";

/// How long each outage is looked at.
const STEPS: u32 = 200;

/// Why there is no fresh verdict.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outage {
    /// The cluster has no endpoint, or its circuit breaker is open.
    Undeliverable,
    /// Every call that may be under way hangs.
    CapReached,
    /// The address brought too many unknown tokens.
    OverBudget,
    /// MAS answers 500.
    Fails,
    /// MAS does not answer; Envoy says so when the call's time is over.
    Hangs,
    /// Envoy never delivers an answer.
    Lost,
}

/// The two roles that ask.
#[derive(Clone, Copy, Debug)]
enum Role {
    Gateway,
    Introspection,
}

/// A request under way.
struct Sent {
    worker: usize,
    stream: StreamId,
    at: Duration,
}

struct Edge {
    cluster: Cluster,
    gateway: Rc<Plugin>,
    introspection: Rc<Plugin>,
    outage: Outage,
    /// When each token was asked about.
    asked_at: BTreeMap<String, Vec<Duration>>,
    elapsed: Duration,
}

impl Edge {
    /// All workers know all users, and their answers have just ended.
    fn new(outage: Outage) -> Self {
        let settings = json!({
            // A renewal ahead of the end is no retry.
            "cache": {"ttl": "1s", "stale_if_error": "10m", "refresh_ahead": false},
            "introspection": {"timeout": "2s", "max_in_flight": CAP},
            "unknown_token_budget": {"per_source": 3, "window": "1h"},
        });
        let mut cluster = Cluster::new(WORKERS);
        let gateway = gateway(1, settings.clone());
        cluster.seat_all(&gateway);
        let mut edge = Self {
            cluster,
            gateway,
            introspection: plugin(2, "introspection", settings),
            outage,
            asked_at: BTreeMap::new(),
            elapsed: Duration::ZERO,
        };
        for user in 0..USERS {
            for worker in 0..WORKERS {
                edge.send(Role::Gateway, worker, &invented(user), OFFICE);
            }
            edge.cluster.answer_all(&active("alice"));
            edge.cluster.deliver_all();
        }
        edge.cluster.skip(Duration::from_secs(2));
        edge
    }

    fn send(&mut self, role: Role, worker: usize, token: &str, source: &str) -> Sent {
        let (plugin, request) = match role {
            Role::Gateway => (&self.gateway, Request::get(WHOAMI).bearer(token)),
            Role::Introspection => (&self.introspection, introspect(token)),
        };
        let stream = self.cluster[worker].request(plugin, request.source(source));
        Sent {
            worker,
            stream,
            at: self.elapsed,
        }
    }

    fn begin(&mut self) {
        match self.outage {
            Outage::Undeliverable => {
                for worker in &self.cluster.workers {
                    worker.faults().dispatch.set(true);
                }
            }
            // Calls of other clients and of the homeserver, none of which is answered.
            Outage::CapReached => {
                for number in 0..CAP {
                    for worker in 0..WORKERS {
                        let unknown = 1_000 * (worker as u32 + 1) + number;
                        let source = format!("198.51.100.{number}");
                        self.send(Role::Gateway, worker, &invented(unknown), &source);
                        let unknown = invented(unknown + 500);
                        self.send(Role::Introspection, worker, &unknown, "");
                    }
                }
                assert_eq!(self.cluster.calls().len(), 2 * WORKERS * CAP as usize);
            }
            Outage::OverBudget => {
                for number in 1_000..1_003 {
                    self.send(Role::Gateway, 0, &invented(number), OFFICE);
                    self.cluster[0].answer_only_call(INACTIVE);
                }
                let over = self.send(Role::Gateway, 1, &invented(1_003), OFFICE);
                assert_eq!(self.fate(&over).status(), Some(429));
            }
            Outage::Fails | Outage::Hangs | Outage::Lost => {}
        }
    }

    /// A step of time: MAS does as the outage says.
    fn step(&mut self, number: u32) {
        self.elapsed += STEP;
        self.cluster.process.advance(STEP);
        for worker in &mut self.cluster.workers {
            for call in worker.calls() {
                if self.cluster.process.now().since(call.sent_at) == STEP {
                    let asked_at = self.asked_at.entry(call.body.clone()).or_default();
                    asked_at.push(self.elapsed);
                }
                match self.outage {
                    Outage::OverBudget => worker.answer(call.id, 200, &active("alice")),
                    Outage::Fails => worker.answer(call.id, 500, "{}"),
                    Outage::Lost => worker.drop_call(call.id),
                    Outage::Hangs | Outage::CapReached | Outage::Undeliverable => {}
                }
            }
            if number.is_multiple_of(TICK) {
                worker.tick();
            }
        }
        self.cluster.deliver_all();
    }

    fn fate(&self, sent: &Sent) -> Fate {
        self.cluster[sent.worker].fate(sent.stream)
    }
}

/// Everybody uses the edge again and again, on all workers, until the outage has lasted ten seconds.
fn assert_everyone_is_served(outage: Outage, role: Role) -> Edge {
    let mut edge = Edge::new(outage);
    edge.begin();
    let expected = match role {
        Role::Gateway => alice(),
        Role::Introspection => answered(&active("alice")),
    };
    let mut held = Vec::new();
    let mut longest = Duration::ZERO;
    for number in 0..STEPS {
        for user in 0..USERS {
            for worker in 0..WORKERS {
                held.push(edge.send(role, worker, &invented(user), OFFICE));
            }
        }
        held.retain(|sent| {
            let fate = edge.fate(sent);
            if fate == Fate::Held {
                return true;
            }
            assert_eq!(fate, expected, "{outage:?} {role:?} at {:?}", edge.elapsed);
            longest = longest.max(edge.elapsed - sent.at);
            false
        });
        edge.step(number);
    }
    println!("{outage:?} {role:?}: the longest wait was {longest:?}");
    assert!(held.is_empty(), "{outage:?} {role:?}: {} wait", held.len());
    // The first request waits for the first failure, or in line.
    assert!(longest <= TIMEOUT + Duration::from_secs(1));
    for asked_at in edge.asked_at.values() {
        for pair in asked_at.windows(2) {
            let apart = pair[1] - pair[0];
            assert!(apart >= Duration::from_secs(1), "{outage:?}: {asked_at:?}");
        }
    }
    edge
}

#[test]
fn people_with_live_sessions_are_served_whatever_the_reason_is() {
    for role in [Role::Gateway, Role::Introspection] {
        for outage in [
            Outage::CapReached,
            Outage::OverBudget,
            Outage::Fails,
            Outage::Hangs,
            Outage::Lost,
        ] {
            assert_everyone_is_served(outage, role);
        }
    }
}

/// Where no call leaves Envoy, it is the tries that count.
#[test]
fn a_cluster_without_endpoints_is_tried_once_per_token_and_second() {
    for role in [Role::Gateway, Role::Introspection] {
        let edge = assert_everyone_is_served(Outage::Undeliverable, role);
        let tries = edge
            .cluster
            .metric("matrix_edge_auth_introspections_total.outcome=undeliverable");
        let seconds = u64::from(STEPS) * STEP.as_millis() as u64 / 1_000;
        println!("{role:?}: {tries} tries of {USERS} tokens in {seconds} s");
        assert!(tries <= u64::from(USERS) * (seconds + 1));
        assert!(tries >= u64::from(USERS) * seconds / 2);
    }
}

/// A token that nobody uses for a while learns nothing by itself of a MAS that is well again.
#[test]
fn a_failure_says_nothing_once_mas_has_answered_anything() {
    let other = invented(0);
    for is_well in [false, true] {
        let cache = json!({"cache": {"ttl": "2m", "stale_if_error": "10m"}});
        let gateway = gateway(1, cache);
        let mut cluster = Cluster::new(1);
        cluster.seat_all(&gateway);
        cluster[0].request(&gateway, whoami(ALICE));
        cluster[0].answer_only_call(&active("alice"));
        cluster.tick_for(Duration::from_secs(125));
        let during = cluster[0].request(&gateway, whoami(ALICE));
        let call = cluster[0].calls()[0].id;
        cluster[0].answer(call, 503, "");
        assert_eq!(cluster[0].fate(during), alice());
        cluster.tick_for(Duration::from_secs(60));
        if is_well {
            cluster[0].request(&gateway, whoami(&other));
            cluster[0].answer_only_call(INACTIVE);
        }
        // Its session has ended meanwhile, and nobody has told.
        let after = cluster[0].request(&gateway, whoami(ALICE));
        let expected = if is_well { Fate::Held } else { alice() };
        assert_eq!(cluster[0].fate(after), expected);
        cluster[0].answer_only_call(INACTIVE);
        let last = cluster[0].send(&gateway, whoami(ALICE));
        assert_eq!(last, not_active());
        assert!(!is_well || cluster[0].fate(after) == not_active());
    }
}

/// The last configuration of a worker goes with its timer, and another one comes later. A call that times out then does so although
/// the worker had all the time.
#[test]
fn a_time_without_a_configuration_excuses_no_call() {
    let mut cluster = Cluster::new(1);
    let [before, after] = [1, 2].map(|root| gateway(root, json!({})));
    cluster[0].request(&before, Request::get("/"));
    cluster[0].drop_root(before.root);
    cluster.process.advance(Duration::from_secs(13));
    let stream = cluster[0].request(&after, whoami(ALICE));
    cluster[0].tick_for(Duration::from_secs(6));
    assert_eq!(cluster[0].fate(stream).status(), Some(503));
    assert!(cluster[0].calls().is_empty(), "MAS is not asked again");
}
