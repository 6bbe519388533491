//! What fails, and when: MAS, its endpoints, the configuration, the secret, and the VMs themselves.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use serde_json::{Value, json};
use stand_in::mas::{Database, Fault, Mas};

use super::{
    ledger::{LONGEST_NO, LONGEST_STALE, LONGEST_TTL},
    phone::{Ending, Leaving, Parts, Phone},
    rig::{INTROSPECTION, PROVISIONING, configurations},
    tally::Breach,
    world::World,
};
use crate::support::envoy::{Envoy, bootstrap};

/// The header that makes a VM fail, in the module that was built for this.
pub const TRAP: &str = "x-matrix-edge-auth-trap";

/// The secret that MAS, the homeserver and the edge share, as each of them has it now.
pub struct Secrets {
    homeserver: Mutex<String>,
}

impl Secrets {
    /// All have the same.
    pub fn new(secret: &str) -> Arc<Self> {
        let homeserver = Mutex::new(secret.to_owned());
        Arc::new(Self { homeserver })
    }

    /// The homeserver's.
    pub fn homeserver(&self) -> String {
        self.homeserver
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    fn give_homeserver(&self, secret: &str) {
        secret.clone_into(
            &mut self
                .homeserver
                .lock()
                .unwrap_or_else(PoisonError::into_inner),
        );
    }
}

/// What the module is configured with now. Changed by two parts of the run, one at a time.
pub struct Configured {
    /// The secret.
    pub secret: String,
    /// `cache` of the gateway.
    pub gateway: Value,
    /// `cache` of the other two.
    pub internal: Value,
}

impl Configured {
    /// What the run begins with.
    pub fn new(secret: &str) -> Self {
        let cache = json!({"ttl": "10s", "negative_ttl": "5s"});
        Self {
            secret: secret.to_owned(),
            gateway: cache.clone(),
            internal: cache,
        }
    }
}

/// What fails, with everything that it takes to make it fail.
pub struct Faults {
    /// Shared with all.
    pub world: Arc<World>,
    /// The one that fails.
    pub mas: Arc<Mas>,
    /// The one that does not.
    pub envoy: Arc<Envoy>,
    /// Who has which secret.
    pub secrets: Arc<Secrets>,
    /// What Envoy has.
    pub configured: Arc<tokio::sync::Mutex<Configured>>,
}

/// Everything that MAS and the way to it can do wrong.
#[derive(Clone, Copy, Debug)]
enum Trouble {
    Killed,
    NoEndpoints,
    DatabaseDown,
    Hanging,
    Slow,
    Answering(Wrong),
}

/// Wrong answers.
#[derive(Clone, Copy, Debug)]
enum Wrong {
    Resetting,
    Closing,
    ClosingReused,
    ResettingInBody,
    Truncated,
    Garbage,
    Status(u16),
    TooMany,
    Html,
    Redirect,
    Oversized,
    InvalidJson,
    NoActive,
    ActiveText,
}

const TROUBLES: [Trouble; 22] = [
    Trouble::Killed,
    Trouble::Killed,
    Trouble::NoEndpoints,
    Trouble::DatabaseDown,
    Trouble::Hanging,
    Trouble::Hanging,
    Trouble::Slow,
    Trouble::Slow,
    Trouble::Answering(Wrong::Resetting),
    Trouble::Answering(Wrong::Closing),
    Trouble::Answering(Wrong::ClosingReused),
    Trouble::Answering(Wrong::ResettingInBody),
    Trouble::Answering(Wrong::Truncated),
    Trouble::Answering(Wrong::Garbage),
    Trouble::Answering(Wrong::Status(401)),
    Trouble::Answering(Wrong::Status(500)),
    Trouble::Answering(Wrong::TooMany),
    Trouble::Answering(Wrong::Html),
    Trouble::Answering(Wrong::Redirect),
    Trouble::Answering(Wrong::Oversized),
    Trouble::Answering(Wrong::NoActive),
    Trouble::Answering(Wrong::ActiveText),
];

impl Wrong {
    fn fault(self) -> Fault {
        match self {
            Self::Resetting => Fault::reset(),
            Self::Closing => Fault::close(),
            Self::ClosingReused => Fault::close_reused(),
            Self::ResettingInBody => Fault::reset_mid_body(),
            Self::Truncated => Fault::truncated(),
            Self::Garbage => Fault::garbage(),
            Self::Status(status) => Fault::status(status, r#"{"error":"server_error"}"#),
            Self::TooMany => Fault::too_many_requests(),
            Self::Html => Fault::html(),
            Self::Redirect => Fault::redirect("https://elsewhere.example.org/"),
            Self::Oversized => Fault::oversized(300_000),
            Self::InvalidJson => Fault::invalid_json(),
            Self::NoActive => Fault::missing_active(),
            Self::ActiveText => Fault::active_literal(r#""true""#),
        }
    }
}

impl Faults {
    /// Trouble with MAS, one kind after the other, with rests between them.
    pub async fn trouble(self: Arc<Self>) {
        let mut random = self.world.random(1);
        let mut order = TROUBLES.to_vec();
        // Never taken by name above, and in the same turn as truncation.
        order.push(Trouble::Answering(Wrong::InvalidJson));
        while !self.world.is_over() {
            random.shuffle(&mut order);
            for trouble in &order {
                self.world
                    .pause(Duration::from_millis(random.u64(500..2_500)))
                    .await;
                if self.world.is_over() {
                    return;
                }
                let longest = match trouble {
                    Trouble::Answering(_) => 2_000,
                    _ => 4_500,
                };
                let lasts = Duration::from_millis(random.u64(500..longest));
                let slow = Duration::from_millis(random.u64(200..3_000));
                self.make(*trouble, lasts, slow).await;
            }
        }
    }

    async fn make(&self, trouble: Trouble, lasts: Duration, slow: Duration) {
        let name = match trouble {
            Trouble::Answering(wrong) => format!("{wrong:?}"),
            other => format!("{other:?}"),
        };
        self.world.set_fault(&name);
        self.world.tally.count(format!("fault: {name}"));
        match trouble {
            Trouble::Killed => self.mas.take_down().await,
            Trouble::NoEndpoints => self.envoy.set_endpoints(false).await,
            Trouble::DatabaseDown => self.mas.set_database(Database::Down),
            Trouble::Hanging => self.mas.fault(Fault::hang()),
            Trouble::Slow => self.mas.fault(Fault::delay(slow)),
            Trouble::Answering(wrong) => self.mas.fault(wrong.fault()),
        }
        self.world.pause(lasts).await;
        match trouble {
            Trouble::Killed => bring_up(&self.mas).await,
            Trouble::NoEndpoints => self.envoy.set_endpoints(true).await,
            Trouble::DatabaseDown => self.mas.set_database(Database::Up),
            Trouble::Hanging | Trouble::Slow | Trouble::Answering(_) => self.mas.clear_faults(),
        }
        self.world.set_fault("nothing");
    }

    /// Replaces all listeners every few seconds, with other caches.
    pub async fn updates(self: Arc<Self>) {
        let mut random = self.world.random(2);
        while !self.world.is_over() {
            self.world
                .pause(Duration::from_millis(random.u64(2_000..5_000)))
                .await;
            let cache = cache(&mut random);
            let other = cache_like(&cache, &mut random);
            let mut configured = self.configured.lock().await;
            configured.gateway = cache;
            configured.internal = other;
            self.update(&configured).await;
        }
    }

    /// Gives MAS, the homeserver and the edge another secret, in any order and not at once.
    pub async fn rotations(self: Arc<Self>) {
        let mut random = self.world.random(3);
        let mut number = 0;
        while !self.world.is_over() {
            self.world
                .pause(Duration::from_millis(random.u64(6_000..15_000)))
                .await;
            number += 1;
            let secret = format!("secret-{}-{number}", self.world.seed);
            self.world.hidden.hide(&secret);
            let mut order = [0, 1, 2];
            random.shuffle(&mut order);
            for who in order {
                self.world.disturb();
                match who {
                    0 => self.mas.set_secret(&secret),
                    1 => self.secrets.give_homeserver(&secret),
                    _ => {
                        let mut configured = self.configured.lock().await;
                        configured.secret.clone_from(&secret);
                        self.update(&configured).await;
                    }
                }
                self.world
                    .pause(Duration::from_millis(random.u64(0..1_500)))
                    .await;
            }
            self.world.disturb();
            self.world.tally.count("did: secret rotated");
        }
    }

    async fn update(&self, configured: &Configured) {
        let configurations = configurations(configured);
        let taken = self
            .envoy
            .update_listeners(|listeners| {
                for (listener, configuration) in listeners.iter_mut().zip(configurations) {
                    let manager = bootstrap::http_manager_of(listener);
                    bootstrap::configure(manager, &configuration);
                }
            })
            .await;
        match taken {
            Ok(()) => self.world.tally.count("did: all listeners replaced"),
            Err(why) => self
                .world
                .tally
                .breach(Breach::Unexplained, format!("an update was refused: {why}")),
        }
    }

    /// Makes one VM fail every few seconds, at the head of a request or at the next answer of MAS.
    pub async fn traps(self: Arc<Self>) {
        let mut random = self.world.random(4);
        while !self.world.is_over() {
            self.world
                .pause(Duration::from_millis(random.u64(3_000..8_000)))
                .await;
            if self.world.is_over() {
                return;
            }
            let listener = match random.u8(..4) {
                0 => self.envoy.listener(INTROSPECTION),
                1 => self.envoy.listener(PROVISIONING),
                _ => self.envoy.addr(),
            };
            let when = if random.bool() { "head" } else { "answer" };
            self.world.disturb();
            let request = Parts::new("GET", "/_synapse/mas/query_user").header(TRAP, when);
            let ending = Phone::new(listener, false)
                .send(request, Leaving::Never)
                .await;
            let ending = match ending {
                Ending::Answered(status, _) => status.to_string(),
                Ending::Cut(_) => "cut".to_owned(),
                Ending::Unanswered => "unanswered".to_owned(),
                Ending::Left => "left".to_owned(),
            };
            self.world
                .tally
                .count(format!("trap at the {when}: its request got {ending}"));
        }
    }
}

/// Another program may have the port for a moment: it is nobody's while MAS is down.
pub async fn bring_up(mas: &Mas) {
    while mas.bring_up().await.is_err() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Some configuration of the caches.
fn cache(random: &mut fastrand::Rng) -> Value {
    let slots = [64, 512, 4_096, 65_536];
    let entries = [0, 64, 4_096];
    let no = LONGEST_NO.as_secs();
    json!({
        "ttl": format!("{}s", [1, 3, 8, LONGEST_TTL][random.usize(..4)]),
        "negative_ttl": format!("{}s", [0, 1, 4, no][random.usize(..4)]),
        "stale_if_error": format!("{}s", [0, 0, 3, LONGEST_STALE][random.usize(..4)]),
        "refresh_ahead": random.bool(),
        "slots": slots[random.usize(..slots.len())],
        "negative_slots": slots[random.usize(..3)],
        "local_entries": entries[random.usize(..entries.len())],
    })
}

/// The same, or one that differs.
fn cache_like(other: &Value, random: &mut fastrand::Rng) -> Value {
    match random.u8(..3) {
        0 => cache(random),
        _ => other.clone(),
    }
}
