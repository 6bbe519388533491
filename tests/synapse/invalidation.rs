//! How long a session that has ended passes the edge, from the moment MAS begins to tell Synapse.

use std::{collections::HashMap, sync::Arc, time::Duration};

use serde_json::{Value, json};
use stand_in::mas::{Mas, Options, ProvisioningCall, Session, token};
use tokio::{
    task::{JoinHandle, JoinSet},
    time::Instant,
};

use super::rig::{self, SECRET, SERVER_NAME, is_from_synapse};
use crate::support::{
    envoy::{Envoy, workers::WORKERS},
    http::{Connection, Request, Response, within_limit},
    product_time::Stalls,
    synapse::Synapse,
};

const WHOAMI: &str = "/_matrix/client/v3/account/whoami";

const TRIALS: usize = 200;
/// How many trials run at a time.
const LANES: usize = 4;
/// Users whom nothing happens to.
const BYSTANDERS: usize = 20;

const LIMIT: Duration = Duration::from_secs(1);

/// Users share 16,384 slots. Where two that something happened to meet in one, the devices that the first had
/// left are asked about once more: of [`TRIALS`] users, one or two do.
const MOST_ASKED_AGAIN: usize = 6;

/// What happens to a user.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Event {
    SessionRevoked,
    Locked,
    Deactivated,
    DeviceDeleted,
}

const EVENTS: [Event; 4] = [
    Event::SessionRevoked,
    Event::Locked,
    Event::Deactivated,
    Event::DeviceDeleted,
];

/// A user with a token for each of two devices.
struct Trial {
    user: String,
    event: Event,
    phone: String,
    tablet: String,
}

impl Trial {
    fn new(mas: &Mas, number: usize) -> Self {
        let user = format!("user{number}");
        let [phone, tablet] = ["PHONE", "TABLET"].map(|device| new_token(mas, &user, device));
        Self {
            user,
            event: EVENTS[number % EVENTS.len()],
            phone,
            tablet,
        }
    }

    /// Ends the session of the phone at least.
    fn happen(&self, mas: &Mas) {
        match self.event {
            Event::SessionRevoked => mas.revoke(&self.phone),
            Event::Locked => mas.lock_user(&self.user),
            Event::Deactivated => mas.deactivate_user(&self.user),
            Event::DeviceDeleted => {
                mas.revoke_unannounced(&self.phone);
                mas.delete_device(&self.user, "PHONE");
            }
        }
    }

    /// Whether this call is the first that tells of the event. MAS made others when it made the user.
    fn is_told_by(&self, call: &ProvisioningCall) -> bool {
        let path = match self.event {
            Event::SessionRevoked => "/_synapse/mas/sync_devices",
            Event::Locked => "/_synapse/mas/provision_user",
            Event::Deactivated => "/_synapse/mas/delete_user",
            Event::DeviceDeleted => "/_synapse/mas/delete_device",
        };
        let body: Value = serde_json::from_str(&call.body).expect("JSON");
        call.path == path && body["localpart"] == *self.user
    }

    /// The token that the event must not touch.
    fn survivor(&self) -> Option<&String> {
        let survives = matches!(self.event, Event::SessionRevoked | Event::DeviceDeleted);
        survives.then_some(&self.tablet)
    }
}

fn new_token(mas: &Mas, user: &str, device: &str) -> String {
    let token = token("mat", &format!("{user} {device}"));
    mas.insert(&token, Session::access(user, device).permanent());
    token
}

/// What the lanes share.
struct Work {
    mas: Mas,
    envoy: Envoy,
    trials: Vec<Trial>,
    bystanders: Vec<String>,
}

/// What one worker did about one trial.
struct Seen {
    trial: usize,
    /// When the edge's own 401 was there.
    rejected: Instant,
    /// How long the machine stalled meanwhile.
    stalled: Duration,
    /// How many requests came to Synapse and were refused there before that.
    refused_by_synapse: usize,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_worker_rejects_within_a_second_of_mas_telling_synapse() {
    let options = Options {
        secret: SECRET.to_owned(),
        ..Options::default()
    };
    let mas = Mas::start(options).await.expect("a free port");
    let synapse = Synapse::start(SERVER_NAME, mas.addr(), SECRET).await;
    mas.set_homeserver(synapse.addr());
    let trials: Vec<Trial> = (0..TRIALS).map(|number| Trial::new(&mas, number)).collect();
    let bystanders = (0..BYSTANDERS).map(|number| format!("bystander{number}"));
    let bystanders = bystanders.map(|user| (new_token(&mas, &user, "PHONE"), user));
    let (bystanders, names): (Vec<_>, Vec<_>) = bystanders.unzip();
    for user in trials.iter().map(|trial| &trial.user).chain(&names) {
        mas.provision_user(user);
        within_limit("Synapse to know a user", mas.wait_until_provisioned()).await;
    }
    let before = mas.provisioning().len();

    let envoy = start_envoy(&mas, &synapse).await;
    mas.set_homeserver(envoy.listener("provisioning"));
    let mut connections = envoy.connections(LANES).await;
    let work = Arc::new(Work {
        mas,
        envoy,
        trials,
        bystanders,
    });
    let untouched = || {
        let survivors = work.trials.iter().filter_map(Trial::survivor);
        survivors.chain(&work.bystanders)
    };
    let phones = work.trials.iter().map(|trial| &trial.phone);
    let held: Vec<&String> = phones.chain(untouched()).collect();
    ask_everywhere(&mut connections, &held).await;
    let local = local(&work.envoy).await;
    ask_everywhere(&mut connections, &held).await;
    let own = self::local(&work.envoy).await - local;
    assert_eq!(own, (held.len() * WORKERS) as f64, "held by each worker");

    let started = Instant::now();
    let mut lanes = JoinSet::new();
    for lane in 0..LANES {
        let own = connections.drain(..WORKERS).collect();
        lanes.spawn(run_lane(Arc::clone(&work), lane, own));
    }
    let (lanes_connections, seen): (Vec<_>, Vec<_>) = lanes.join_all().await.into_iter().unzip();
    let mut connections: Vec<Connection> = lanes_connections.into_iter().flatten().collect();
    let seen: Vec<Seen> = seen.into_iter().flatten().collect();
    println!("{TRIALS} trials in {:.1?}", started.elapsed());
    work.mas.wait_until_provisioned().await;
    report(&work, &work.mas.provisioning()[before..], &seen);

    let untouched: Vec<&String> = untouched().collect();
    ask_everywhere(&mut connections, &untouched).await;
    let calls = calls_of_edge(&work.mas);
    let asked_again = untouched.iter().filter(|token| calls[**token] != 1).count();
    println!(
        "{asked_again} of {} others were asked about again",
        untouched.len()
    );
    assert!(asked_again <= MOST_ASKED_AGAIN, "{asked_again}");
}

/// Envoy in front of Synapse, on the side of the clients and on that of MAS.
async fn start_envoy(mas: &Mas, synapse: &Synapse) -> Envoy {
    let plugin = |role: &str| {
        json!({
            "role": role,
            "server_name": SERVER_NAME,
            "introspection": {"cluster": "mas", "credential": {"bearer": {"value": SECRET}}},
            // No answer ends by itself.
            "cache": {"ttl": "1h"},
        })
    };
    Envoy::builder()
        .plugin(plugin("gateway"))
        .internal_listener("provisioning", plugin("provisioning"), "homeserver")
        .homeserver(synapse.addr())
        .mas(mas.addr())
        .balanced()
        .start()
        .await
}

/// Runs every trial that is this lane's, one after the other, on a connection to each worker.
async fn run_lane(
    work: Arc<Work>,
    lane: usize,
    mut connections: Vec<Connection>,
) -> (Vec<Connection>, Vec<Seen>) {
    let mut all_seen = Vec::new();
    for number in (lane..TRIALS).step_by(LANES) {
        let trial = &work.trials[number];
        for connection in &mut connections {
            // What happened to others has not touched it.
            assert_eq!(whoami(connection, &trial.phone).await.status, 200);
        }
        let clients: Vec<JoinHandle<(Connection, Seen)>> = connections
            .drain(..)
            .map(|connection| use_until_rejected(connection, trial.phone.clone(), number))
            .map(tokio::spawn)
            .collect();
        trial.happen(&work.mas);
        for client in clients {
            let client = within_limit("a worker to reject", client).await;
            let (connection, seen) = client.expect("every worker rejects");
            connections.push(connection);
            all_seen.push(seen);
        }
        let bystander = &work.bystanders[number % BYSTANDERS];
        for token in trial.survivor().into_iter().chain([bystander]) {
            for connection in &mut connections {
                assert_eq!(whoami(connection, token).await.status, 200);
            }
        }
    }
    (connections, all_seen)
}

async fn use_until_rejected(
    mut connection: Connection,
    token: String,
    trial: usize,
) -> (Connection, Seen) {
    let mut refused_by_synapse = 0;
    let stalls = Stalls::measure();
    loop {
        let response = whoami(&mut connection, &token).await;
        let rejected = Instant::now();
        match response.status {
            200 => {}
            401 if is_from_upstream(&response) => refused_by_synapse += 1,
            401 => {
                let seen = Seen {
                    trial,
                    rejected,
                    stalled: stalls.so_far(),
                    refused_by_synapse,
                };
                return (connection, seen);
            }
            _ => panic!("{response:?}"),
        }
    }
}

/// Envoy notes how long the upstream took, unless the answer is the edge's own.
fn is_from_upstream(response: &Response) -> bool {
    response.header("x-envoy-upstream-service-time").is_some()
}

fn report(work: &Work, calls: &[ProvisioningCall], seen: &[Seen]) {
    assert_eq!(seen.len(), TRIALS * WORKERS);
    let after = |seen: &Seen| {
        let trial = &work.trials[seen.trial];
        let told = calls.iter().find(|call| trial.is_told_by(call));
        let took = seen
            .rejected
            .saturating_duration_since(told.expect("MAS has told").sent);
        took.saturating_sub(seen.stalled)
    };
    let mut all: Vec<Duration> = Vec::new();
    for event in EVENTS {
        let of_event = seen
            .iter()
            .filter(|seen| work.trials[seen.trial].event == event);
        let durations: Vec<Duration> = of_event.map(after).collect();
        println!("{event:?}: {}", Summary::of(&durations));
        all.extend(durations);
    }
    let summary = Summary::of(&all);
    println!("from MAS's call to a worker's first 401: {summary}");
    let refused: usize = seen.iter().map(|seen| seen.refused_by_synapse).sum();
    println!("{refused} requests came to Synapse, and were refused there, before that");
    assert!(summary.p99 <= LIMIT, "{summary}");
}

struct Summary {
    samples: usize,
    p50: Duration,
    p99: Duration,
    max: Duration,
}

impl Summary {
    fn of(durations: &[Duration]) -> Self {
        let mut sorted = durations.to_vec();
        sorted.sort_unstable();
        // The nearest rank.
        let percentile = |percent: usize| sorted[(sorted.len() * percent).div_ceil(100) - 1];
        Self {
            samples: sorted.len(),
            p50: percentile(50),
            p99: percentile(99),
            max: percentile(100),
        }
    }
}

impl std::fmt::Display for Summary {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            samples,
            p50,
            p99,
            max,
        } = self;
        write!(
            f,
            "p50 {p50:.1?}, p99 {p99:.1?}, max {max:.1?} ({samples} samples)"
        )
    }
}

/// Uses each token once on each worker.
async fn ask_everywhere(connections: &mut [Connection], tokens: &[&String]) {
    let lanes = connections.len() / WORKERS;
    for tokens in tokens.chunks(lanes) {
        let lanes = || tokens.iter().flat_map(|token| [token; WORKERS]);
        for (connection, token) in connections.iter_mut().zip(lanes()) {
            let request = Request::get(WHOAMI).bearer(token);
            connection.send(&request.to_bytes()).await;
        }
        for (connection, _) in connections.iter_mut().zip(lanes()) {
            assert_eq!(connection.response(false).await.status, 200);
        }
    }
}

/// How many requests a worker let through by what it holds for itself.
async fn local(envoy: &Envoy) -> f64 {
    let labels = [("verdict", "active"), ("source", "local")];
    let stats = envoy.stats().await;
    stats.sum("matrix_edge_auth_requests_total", &labels)
}

/// How often the edge asked about each token; Synapse asks for itself.
fn calls_of_edge(mas: &Mas) -> HashMap<String, usize> {
    let mut calls = HashMap::new();
    for request in mas.requests() {
        if !is_from_synapse(&request) {
            *calls.entry(rig::token(&request)).or_default() += 1;
        }
    }
    calls
}

async fn whoami(connection: &mut Connection, token: &str) -> Response {
    connection
        .request(&Request::get(WHOAMI).bearer(token))
        .await
}
