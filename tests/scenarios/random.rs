//! Random scenarios: a seed decides what happens to a few workers, and rules that must always hold are
//! checked after every step.
//!
//! Hints between workers are delivered late, in any order, or never. MAS answers late, fails, or is silent;
//! locks users and ends sessions, and tells of it some time later. Clients hang up and log out, time passes,
//! ticks are late, configurations and VMs are replaced, and VMs fail. In half of the seeds another worker does
//! something between two host calls of one callback. In an eighth of them workers are busy for seconds: then they
//! read nothing and come to no tick, and only what must never happen is checked, not what must happen in time.
//!
//! The seeds are printed. `SCENARIO_SEED=n` replays one and shows its steps, `SCENARIO_SEEDS=n` runs as many.

#[path = "random/mas.rs"]
mod mas;
#[path = "random/memory.rs"]
mod memory;
#[path = "random/relay.rs"]
mod relay;
#[path = "random/rules.rs"]
mod rules;
#[path = "random/steps.rs"]
mod steps;

use std::{
    cell::RefCell,
    collections::BTreeMap,
    ops::Range,
    rc::Rc,
    sync::atomic::{AtomicU64, Ordering},
    thread,
};

use fastrand::Rng;
use matrix_edge_auth::{
    host::{CallId, RootId, StreamId},
    worker::Plugin,
};
use serde_json::{Value, json};

use self::{
    mas::{Mas, Moment, SESSIONS, Told, WORLDS},
    memory::{Lost, Memory, Open, Repeat},
    rules::{BETWEEN_TICKS, LEASE, LOST_AFTER},
};
use crate::simulated::{Process, SimulatedWorker, plugin};

const SEEDS: u64 = 2_000;
const STEPS: usize = 160;

const TTL: u64 = 8_000;
const NEGATIVE_TTL: u64 = 4_000;
const TIMEOUT: u64 = 2_000;
/// Less than a lease holds.
const SHORT_TIMEOUT: u64 = 200;
/// The window of a source's budget.
const WINDOW: u64 = 5_000;

/// Slots in plenty: nothing is ever pushed out.
const ROOMY: u32 = 4_096;

/// What a seed decides once.
struct Settings {
    /// See [`ROOMY`]; otherwise entries push each other out all the time.
    slots: u32,
    stale: u64,
    refresh_ahead: bool,
    max_in_flight: usize,
    local_entries: usize,
    /// Unknown tokens that a source may bring.
    budget: Option<usize>,
    /// The two users' records share a slot.
    has_neighbours: bool,
    /// Why the provisioning role cannot prove a request of MAS, if it cannot.
    unproven: Option<Unproven>,
    /// Another worker may do something between two host calls.
    interferes: bool,
    /// MAS's answers may come through other Envoys.
    is_relayed: bool,
    /// Configurations differ in the size of their tables and in how long an answer holds.
    is_varied: bool,
    /// Configurations have secrets of their own: a call that fails decides for nobody who asks with another one.
    has_secrets: bool,
    /// Workers may be busy for seconds with something else.
    is_crowded: bool,
    /// Milliseconds that a call may take.
    timeout: u64,
}

impl Settings {
    fn choose(rng: &mut Rng) -> Self {
        let stale = rng.choice([0, 0, 6_000]).unwrap();
        let has_budget = stale == 0 && rng.u32(..3) == 0;
        Self {
            slots: if rng.bool() { ROOMY } else { rng.u32(1..8) },
            stale,
            refresh_ahead: rng.bool(),
            max_in_flight: rng.choice([1, 2, 8, 8]).unwrap(),
            local_entries: rng.usize(..4),
            budget: has_budget.then(|| rng.usize(1..4)),
            has_neighbours: rng.u32(..4) == 0,
            unproven: (rng.u32(..4) == 0)
                .then(|| rng.choice(Unproven::ALL).unwrap_or(Unproven::Injected)),
            interferes: rng.bool(),
            is_relayed: rng.bool(),
            is_varied: rng.u32(..4) == 0,
            has_secrets: rng.u32(..4) == 0,
            is_crowded: rng.u32(..8) == 0,
            timeout: rng
                .choice([SHORT_TIMEOUT, TIMEOUT, TIMEOUT, TIMEOUT])
                .unwrap(),
        }
    }

    /// Returns the longest that a request waits: one call, the lease of a lost worker, one more call, and the next tick.
    fn patience(&self) -> u64 {
        2 * (self.timeout + LOST_AFTER) + LEASE + BETWEEN_TICKS
    }

    /// Returns the number of slots, the TTL and the negative TTL of the configuration of this root.
    fn cache(&self, root: u32) -> (u32, u64, u64) {
        if self.is_varied {
            let slots = self.slots * [1, 3, 8][root as usize % 3];
            let part = [1, 2][root as usize % 2];
            (slots, TTL / part, NEGATIVE_TTL / part)
        } else {
            (self.slots, TTL, NEGATIVE_TTL)
        }
    }

    /// Returns the most slots that any configuration has.
    fn most_slots(&self) -> u32 {
        let slots = (0..6).map(|root| self.cache(root).0);
        slots.max().expect("some roots")
    }

    fn config(&self, role: Role, root: u32) -> Value {
        let (slots, ttl, negative_ttl) = self.cache(root);
        let mut config = json!({
            "introspection": {
                "max_in_flight": self.max_in_flight, "timeout": format!("{}ms", self.timeout),
            },
            "cache": {
                "ttl": format!("{ttl}ms"),
                "negative_ttl": format!("{negative_ttl}ms"),
                "stale_if_error": format!("{}ms", self.stale),
                "refresh_ahead": self.refresh_ahead,
                "slots": slots,
                "negative_slots": slots,
                "local_entries": self.local_entries,
            },
        });
        match role {
            Role::Gateway => {
                if self.has_secrets {
                    let secret = format!("secret {}", root % 3);
                    config["introspection"]["credential"] = json!({"bearer": {"value": secret}});
                }
                // By the client's name the rules know which answer is served.
                config["identity_headers"] = json!({"client_id": "x-client"});
                if let Some(budget) = self.budget {
                    config["unknown_token_budget"] =
                        json!({"per_source": budget, "window": format!("{WINDOW}ms")});
                }
            }
            Role::Provisioning => {
                if let Some(unproven) = self.unproven {
                    config["introspection"]["credential"] = unproven.credential();
                }
            }
            Role::Introspection => {}
        }
        config
    }
}

/// Why the provisioning role cannot prove a request of MAS.
#[derive(Clone, Copy)]
enum Unproven {
    /// Envoy injects the secret, and the module does not know it.
    Injected,
    /// MAS has another secret than the module.
    Replaced,
}

impl Unproven {
    const ALL: [Self; 2] = [Self::Injected, Self::Replaced];

    fn credential(self) -> Value {
        match self {
            Self::Injected => json!({"injected": true}),
            Self::Replaced => json!({"bearer": {"value": "replaced"}}),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    Gateway,
    Introspection,
    Provisioning,
}

/// A configuration that is live.
struct Configured {
    role: Role,
    root: RootId,
    /// Each worker's own, as in Envoy.
    plugins: Vec<Rc<Plugin>>,
}

/// One worker, and what the simulation knows of it.
struct Member {
    worker: Rc<RefCell<SimulatedWorker>>,
    ticked_at: u64,
    /// How late the next tick is.
    late: u64,
    /// Until when it does something else, and neither reads nor ticks.
    busy_until: u64,
    /// The newest call that was looked at.
    newest_call: CallId,
    /// From when on its tick repeats the calls whose connection failed.
    retry_at: Option<u64>,
    /// Since when the others can tell it something; unknown after its root went.
    reachable_since: Option<u64>,
    /// How many queues reach it.
    queues: usize,
    /// When it last had nothing to read.
    messages_read: Moment,
}

impl Member {
    /// It has no queue; the one that it takes next may hold messages from before.
    fn go_out_of_reach(&mut self) {
        self.reachable_since = None;
        self.messages_read = Moment::default();
    }
}

/// While a worker listens to no further word that MAS does not know a token which it calls active.
#[derive(Clone, Copy, Default)]
struct Deafness {
    until: u64,
    /// It has listened to the word before.
    is_certain: bool,
}

impl Deafness {
    /// The worker may listen again.
    fn may_end_by(self, now: u64) -> bool {
        self.until <= now || !self.is_certain
    }
}

/// A request of a client that ends a session, on its way to MAS.
#[derive(Clone, Copy)]
struct SessionEnd {
    worker: usize,
    stream: StreamId,
    session: usize,
    kind: EndKind,
    /// MAS's status, once it has done it.
    status: Option<u16>,
    /// The edge certainly knows whose token it is.
    knows_user: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum EndKind {
    Logout,
    LogoutAll,
    Revocation,
}

/// A request of MAS that the homeserver has not answered.
struct Telling {
    worker: usize,
    stream: StreamId,
    told: Told,
}

struct Scenario {
    is_replay: bool,
    rng: Rng,
    step: u64,
    process: Rc<Process>,
    settings: Settings,
    mas: Mas,
    members: Vec<Member>,
    configured: Vec<Configured>,
    roots: u32,
    vms: usize,
    /// Answers that MAS has computed and Envoy has not delivered, by number.
    computed: BTreeMap<(usize, CallId), usize>,
    /// The calls that repeat one whose connection failed, with the moment at which the first one was sent.
    repeated: BTreeMap<(usize, CallId), u64>,
    /// The sessions about which a worker is to repeat a call, with the call.
    to_repeat: BTreeMap<(usize, usize), Repeat>,
    session_ends: Vec<SessionEnd>,
    tellings: Vec<Telling>,
    /// Requests that went on with an identity and have no response.
    forwarded: Vec<(usize, StreamId, usize)>,
    /// Until when a worker does not listen to another refusal of a token.
    deafness: BTreeMap<(usize, usize), Deafness>,
    /// Undecided requests.
    open: BTreeMap<(usize, StreamId), Open>,
    lost: Vec<Lost>,
    memory: [Memory; SESSIONS],
    /// When a call was last lost, or a VM with its leases.
    last_loss: u64,
    /// When a worker last had as many calls under way as it may.
    full: Option<Moment>,
    /// Clients' requests: when, from which source, and about which token.
    charges: Vec<(Moment, usize, usize)>,
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
    if let Some(seed) = first_failure(seeds) {
        panic!(
            "failed; to repeat: SCENARIO_SEED={seed} cargo test --test scenarios -- \
             --exact random::rules_that_always_hold --nocapture"
        );
    }
}

/// Runs the seeds on all cores, until one fails.
fn first_failure(seeds: Range<u64>) -> Option<u64> {
    let threads = thread::available_parallelism().map_or(1, usize::from);
    let next = AtomicU64::new(seeds.start);
    let is_replay = seeds.end - seeds.start == 1;
    let run = || {
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if !seeds.contains(&seed) {
                return None;
            }
            if std::panic::catch_unwind(|| Scenario::new(seed, is_replay).run()).is_err() {
                next.store(seeds.end, Ordering::Relaxed);
                return Some(seed);
            }
        }
    };
    thread::scope(|scope| {
        let running: Vec<_> = (0..threads).map(|_| scope.spawn(run)).collect();
        let failed = running
            .into_iter()
            .filter_map(|thread| thread.join().unwrap());
        failed.min()
    })
}

impl Scenario {
    fn new(seed: u64, is_replay: bool) -> Self {
        let mut rng = Rng::with_seed(seed);
        let settings = Settings::choose(&mut rng);
        let world = rng.choice(WORLDS.iter()).unwrap();
        let names = if settings.has_neighbours {
            world.neighbours.clone()
        } else {
            ["alice", "bob"].map(str::to_owned)
        };
        let process = Process::new();
        process.set_secret(world.secret);
        let now = process.now().as_millis();
        let mut scenario = Self {
            is_replay,
            step: 0,
            mas: Mas::new(names, settings.is_relayed, &mut rng, now),
            memory: std::array::from_fn(|_| Memory::default()),
            members: Vec::new(),
            configured: Vec::new(),
            roots: 0,
            vms: rng.usize(1..5),
            computed: BTreeMap::new(),
            repeated: BTreeMap::new(),
            to_repeat: BTreeMap::new(),
            session_ends: Vec::new(),
            tellings: Vec::new(),
            forwarded: Vec::new(),
            deafness: BTreeMap::new(),
            open: BTreeMap::new(),
            lost: Vec::new(),
            last_loss: 0,
            full: None,
            charges: Vec::new(),
            process,
            settings,
            rng,
        };
        scenario.members = (0..scenario.vms).map(|_| scenario.member()).collect();
        for role in [
            Role::Gateway,
            Role::Gateway,
            Role::Introspection,
            Role::Provisioning,
        ] {
            scenario.configure(role);
        }
        scenario
    }

    fn member(&self) -> Member {
        Member {
            worker: Rc::new(RefCell::new(SimulatedWorker::new(&self.process))),
            ticked_at: self.now().at,
            late: 0,
            busy_until: 0,
            newest_call: CallId(0),
            retry_at: None,
            reachable_since: None,
            queues: 0,
            messages_read: self.now(),
        }
    }

    fn configure(&mut self, role: Role) {
        self.roots += 1;
        let plugins = (0..self.members.len()).map(|_| self.new_plugin(role, self.roots));
        let plugins: Vec<_> = plugins.collect();
        for (member, plugin) in self.members.iter().zip(&plugins) {
            member.worker.borrow_mut().configure(plugin);
        }
        self.configured.push(Configured {
            role,
            root: RootId(self.roots),
            plugins,
        });
    }

    fn new_plugin(&self, role: Role, root: u32) -> Rc<Plugin> {
        let name = format!("{role:?}").to_lowercase();
        plugin(root, &name, self.settings.config(role, root))
    }

    fn now(&self) -> Moment {
        Moment {
            step: self.step,
            at: self.process.now().as_millis(),
        }
    }

    fn run(mut self) {
        for _ in 0..STEPS {
            self.take_a_step();
        }
        self.let_everyone_be_answered();
        assert!(self.open.is_empty(), "every request is answered");
        self.check_memory();
    }
}
