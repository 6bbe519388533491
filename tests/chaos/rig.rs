//! Envoy with the module in its three roles and four workers, MAS and the homeserver, and the run itself.

use std::{
    collections::HashMap, env, fmt, net::SocketAddr, path::PathBuf, sync::Arc, time::Duration,
};

use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use stand_in::{
    homeserver::Homeserver,
    mas::{DEFAULT_SECRET, Mas, Options},
};
use tokio::task::JoinSet;

use super::{
    client::{APPSERVICE, CLIENTS, Client, LONG},
    faults::{Configured, Faults, Secrets, bring_up},
    phone::{Ending, Leaving, Parts, Phone},
    synapse,
    tally::{Breach, Counts},
    world::{SERVER_NAME, World},
};
use crate::support::{
    envoy::{Envoy, bootstrap, workers::WORKERS},
    http::{self, Request},
};

/// The listener for the homeserver's own introspections.
pub const INTROSPECTION: &str = "introspection";
/// The listener for MAS's calls to the homeserver.
pub const PROVISIONING: &str = "provisioning";
/// The cluster of the module's own calls.
const MODULE_TO_MAS: &str = "mas-introspection";
/// What the module says as it fails on request.
pub const ANNOUNCED: &str = "panic at src/envoy/trap.rs:";
/// How the failure of a VM begins in Envoy's log.
pub const FAILED: &str = "Uncaught RuntimeError";
/// What ends a request of a VM that has failed; the shipped configuration says more, since /sync may wait longer.
pub const IDLE_TIMEOUT: Duration = Duration::from_secs(8);
/// How many processes of the homeserver ask about tokens.
const SYNAPSES: u64 = 4;

/// Everything that runs.
pub struct Rig {
    world: Arc<World>,
    mas: Arc<Mas>,
    envoy: Arc<Envoy>,
    secrets: Arc<Secrets>,
    /// Held until the end.
    #[expect(dead_code, reason = "held for its drop")]
    homeserver: Homeserver,
}

impl Rig {
    /// Starts everything, with the module that can be made to fail.
    pub async fn start(world: &Arc<World>) -> Self {
        let homeserver = Homeserver::start_watched(SocketAddr::from(([127, 0, 0, 1], 0)), {
            let world = Arc::clone(world);
            Arc::new(move |request| world.arrived(request))
        })
        .await
        .expect("a free port");
        homeserver.respond(LONG, 200, vec![b' '; 300_000]);
        let options = Options {
            pool_timeout: Duration::from_secs(3),
            first_retry_delay: Duration::from_millis(200),
            logout_all: true,
            keep_requests: 100,
            on_provisioning: Some({
                let world = Arc::clone(world);
                Arc::new(move |call| {
                    let status = call
                        .status
                        .map_or("none".to_owned(), |status| status.to_string());
                    world
                        .tally
                        .count(format!("MAS told the homeserver: {status}"));
                    world.ledger().told(call);
                })
            }),
            ..Options::default()
        };
        let mas = Arc::new(Mas::start(options).await.expect("a free port"));
        let envoy = Arc::new(start_envoy(&homeserver, &mas).await);
        mas.set_homeserver(envoy.listener(PROVISIONING));
        world.ask(&mas);
        world.hidden.hide(DEFAULT_SECRET);
        Self {
            world: Arc::clone(world),
            mas,
            envoy,
            secrets: Secrets::new(DEFAULT_SECRET),
            homeserver,
        }
    }

    /// Lets everything fail for as long as it is to, and then sees whether all is well again.
    pub async fn run(self) -> Sums {
        let world = &self.world;
        // Every worker has a VM.
        self.assert_serving().await;
        let resident = [self.envoy.resident_bytes()];
        world.begin();
        let mut parts = JoinSet::new();
        for number in 0..CLIENTS {
            let client = Client::new(world, &self.mas, self.envoy.addr(), number);
            parts.spawn(client.live());
        }
        let internal = self.envoy.listener(INTROSPECTION);
        for number in 0..SYNAPSES {
            let secrets = Arc::clone(&self.secrets);
            parts.spawn(synapse::ask_on(
                Arc::clone(world),
                internal,
                secrets,
                number,
            ));
        }
        let faults = Arc::new(Faults {
            world: Arc::clone(world),
            mas: Arc::clone(&self.mas),
            envoy: Arc::clone(&self.envoy),
            secrets: Arc::clone(&self.secrets),
            configured: Arc::new(tokio::sync::Mutex::new(Configured::new(DEFAULT_SECRET))),
        });
        parts.spawn(Arc::clone(&faults).trouble());
        parts.spawn(Arc::clone(&faults).updates());
        parts.spawn(Arc::clone(&faults).rotations());
        parts.spawn(faults.traps());
        parts.spawn({
            let world = Arc::clone(world);
            async move { world.lateness.measure(&world).await }
        });
        let peak = self.watch().await;
        while let Some(ended) = parts.join_next().await {
            ended.expect("no part of the run panics");
        }
        self.mas.clear_faults();
        bring_up(&self.mas).await;
        self.assert_serving().await;
        let resident = [resident[0], peak, self.envoy.resident_bytes()];
        let metrics = http::send(self.envoy.admin(), &Request::get("/stats")).await;
        self.sums(resident, metrics.text())
    }

    /// Says every five seconds how it goes; returns the most memory that Envoy had.
    async fn watch(&self) -> u64 {
        let mut peak = 0;
        let begun = tokio::time::Instant::now();
        while !self.world.is_over() {
            self.world.pause(Duration::from_secs(5)).await;
            let resident = self.envoy.resident_bytes();
            peak = resident.max(peak);
            let counts = self.world.tally.so_far();
            println!(
                "{:>4} s  {:<16} {:>7} requests: {} x 200, {} x 401, {} x 503; {} breaches; {} MiB",
                begun.elapsed().as_secs(),
                self.world.fault(),
                counts.of("requests"),
                counts.sum("answer: 200"),
                counts.sum("answer: 401"),
                counts.sum("answer: 503"),
                counts.all_breaches(),
                resident >> 20,
            );
        }
        peak
    }

    /// Sees that every worker serves. A VM that has failed is made again a second later.
    async fn assert_serving(&self) {
        let mut phones: Vec<Phone> = (0..2 * WORKERS)
            .map(|_| Phone::new(self.envoy.addr(), false))
            .collect();
        let mut tries = 0;
        for phone in &mut phones {
            loop {
                let request = Parts::new("GET", "/_matrix/client/versions");
                match phone
                    .send(
                        request.header(super::world::NUMBER, self.free_pass()),
                        Leaving::Never,
                    )
                    .await
                {
                    Ending::Answered(200, _) => break,
                    other => {
                        tries += 1;
                        assert!(tries < 200, "a worker does not serve: {other:?}");
                        tokio::time::sleep(Duration::from_millis(100)).await;
                    }
                }
            }
        }
    }

    /// The number of a request that may pass without a token.
    fn free_pass(&self) -> String {
        let nobody = super::ledger::Credential::None;
        let needs = super::world::Needs::NoBadToken;
        self.world.send("versions", &nobody, needs).to_string()
    }

    fn sums(&self, resident: [u64; 3], metrics: &str) -> Sums {
        let log = self.envoy.log();
        let announced = log.matches(ANNOUNCED).count() as u64;
        for failure in unprovoked(&log) {
            self.world.tally.breach(Breach::LostVm, failure);
        }
        for text in [log.as_str(), metrics] {
            for line in self.world.hidden.lines(text) {
                self.world.tally.breach(Breach::Leaked, line.to_owned());
            }
        }
        if let Ok(path) = env::var("CHAOS_LOG") {
            std::fs::write(path, &log).expect("CHAOS_LOG can be written");
        }
        Sums {
            length: self.world.length,
            counts: self.world.tally.so_far(),
            traps: announced,
            hidden: self.world.hidden.count(),
            looked_through: log.len() + metrics.len(),
            resident,
        }
    }
}

/// The failures in Envoy's log that were not announced by the same worker just before, with the line before each.
fn unprovoked(log: &str) -> Vec<String> {
    let mut last: HashMap<&str, &str> = HashMap::new();
    let mut unprovoked = Vec::new();
    for line in log.lines() {
        // `[time][thread][level]...`
        let thread = line.split(']').nth(1).unwrap_or_default();
        let before = last.insert(thread, line).unwrap_or_default();
        if line.contains(FAILED) && !before.contains(ANNOUNCED) {
            unprovoked.push(format!("{line}\nafter {before}"));
        }
    }
    unprovoked
}

async fn start_envoy(homeserver: &Homeserver, mas: &Mas) -> Envoy {
    let to_mas = mas.addr();
    let [gateway, introspection, provisioning] = configurations(&Configured::new(DEFAULT_SECRET));
    Envoy::builder()
        .plugin(gateway)
        .homeserver(homeserver.addr())
        .mas(to_mas)
        .internal_listener(INTROSPECTION, introspection, "mas")
        .internal_listener(PROVISIONING, provisioning, "homeserver")
        .bootstrap(move |config| {
            bootstrap::clusters(config).push(bootstrap::static_cluster(MODULE_TO_MAS, to_mas));
        })
        .balanced()
        .bootstrap(|config| {
            for listener in bootstrap::listeners(config) {
                let manager = bootstrap::http_manager_of(listener);
                manager["stream_idle_timeout"] = format!("{}s", IDLE_TIMEOUT.as_secs()).into();
                let plugin = bootstrap::plugin(manager);
                plugin["vm_config"]["code"]["local"]["filename"] =
                    trap_module().to_string_lossy().into();
            }
            let manager = bootstrap::http_manager(config);
            manager["route_config"]["virtual_hosts"][0]["routes"] = json!([
                {"match": {"prefix": "/oauth2/"}, "route": {"cluster": "mas", "timeout": "10s"}},
                {
                    "match": {"safe_regex": {"regex": "/_matrix/client/v3/logout(/all)?"}},
                    "route": {"cluster": "mas", "timeout": "10s"},
                },
                {"match": {"prefix": "/"}, "route": {"cluster": "homeserver", "timeout": "0s"}},
            ]);
        })
        .dynamic_listeners()
        .dynamic_endpoints(MODULE_TO_MAS)
        // Longer than any request, so that none is cut when its listener has gone.
        .option("--drain-time-s", "20")
        .option("--drain-strategy", "immediate")
        .start()
        .await
}

/// The module's configurations: of the gateway, the introspection and the provisioning role.
pub fn configurations(configured: &Configured) -> [Value; 3] {
    let introspection = json!({
        "cluster": MODULE_TO_MAS,
        "authority": "auth.example.org",
        "timeout": "3s",
        "credential": {"bearer": {"value": configured.secret}},
    });
    let appservice = Sha256::digest(APPSERVICE);
    let appservice: String = appservice
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    [
        json!({
            "server_name": SERVER_NAME,
            "introspection": introspection,
            "cache": configured.gateway,
            "unrecognized_tokens": "reject",
            "appservice_tokens": [appservice],
        }),
        json!({
            "role": "introspection",
            "introspection": introspection,
            "cache": configured.internal,
        }),
        json!({
            "role": "provisioning",
            "server_name": SERVER_NAME,
            "introspection": introspection,
            "cache": configured.internal,
        }),
    ]
}

/// The module with the switch.
pub fn trap_module() -> PathBuf {
    let path = env::var_os("MATRIX_EDGE_AUTH_TRAP_WASM").map(PathBuf::from);
    path.filter(|path| path.exists())
        .expect("MATRIX_EDGE_AUTH_TRAP_WASM names a module; run `make chaos`")
}

/// What a run comes to.
pub struct Sums {
    length: Duration,
    counts: Counts,
    traps: u64,
    /// How many tokens and secrets there were.
    hidden: usize,
    /// In how many bytes of log and metrics they were looked for.
    looked_through: usize,
    resident: [u64; 3],
}

impl Sums {
    /// Fails if a promise was broken, or if so little has happened that it says nothing.
    pub fn assert_promises(&self) {
        for breach in Breach::ALL {
            assert_eq!(self.counts.breaches(breach), 0, "{}", breach.title());
        }
        if self.length < Duration::from_secs(60) {
            return;
        }
        assert!(self.traps > 0, "no VM was made to fail");
        assert!(self.hidden > 2_000, "only {} tokens", self.hidden);
        assert!(
            self.looked_through > 100_000,
            "{} bytes",
            self.looked_through
        );
        for (event, least) in [
            ("answer: 200", 100),
            ("answer: 401", 20),
            ("answer: 503", 20),
            ("did: refresh", 20),
            ("did: logout", 5),
            ("did: lock", 5),
            ("did: all listeners", 2),
            ("did: secret", 1),
            ("fault: ", 5),
            ("hung up: ", 20),
            ("introspection: active", 20),
        ] {
            let count = self.counts.sum(event);
            assert!(count >= least, "{event} only {count} times");
        }
    }
}

impl fmt::Display for Sums {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [start, peak, end] = self.resident.map(|bytes| bytes >> 20);
        writeln!(f, "\n{}", self.counts)?;
        writeln!(f, "{:<60} {:>9}", "VMs made to fail", self.traps)?;
        for (what, count) in [
            ("tokens and secrets that were looked for", self.hidden),
            (
                "bytes of log and metrics that were looked through",
                self.looked_through,
            ),
        ] {
            writeln!(f, "{what:<60} {count:>9}")?;
        }
        writeln!(
            f,
            "memory of Envoy: {start} MiB at the start, {peak} at the most, {end} at the end"
        )
    }
}
