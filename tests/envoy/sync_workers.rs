//! `envoy/sync-workers/` as it is shipped, but for addresses: users stay at their sync worker, whatever token they have.
//!
//! What is measured stands in `envoy/sync-workers/measured.csv` and its plot. Names of workers, users and tokens are fixed,
//! and so is the ring: every run must measure the same. With `UPDATE_FIGURES` set the two files are written anew.

mod plot;

use std::{collections::BTreeMap, path::Path};

use serde_json::{Value, json};
use stand_in::{
    homeserver::Homeserver,
    mas::{DEFAULT_SECRET, Mas, Options, Session, token},
};
use tempfile::TempDir;

use super::{
    deployed::assert_access_log,
    edge::{self, WHOAMI, identity, values},
};
use crate::support::{
    envoy::{Envoy, bootstrap, read, repository, shipped_at, yaml},
    http::{Connection, Request, within_limit},
};

const USERS: usize = 100;
const REFRESHES: usize = 10;
const BRIDGES: usize = 2_000;
const SYNC: &str = "/_matrix/client/v3/sync?since=s1";
const CLUSTER: &str = "synapse-sync";

/// What a request is hashed by.
#[derive(Clone, Copy, PartialEq)]
enum Hash {
    /// As shipped.
    User,
    /// The same file without the user's header, as is usual elsewhere.
    Token,
}

/// Which worker answered each user.
type Places = Vec<String>;

/// A line of the figures.
struct Measured {
    hash: Hash,
    step: String,
    /// How many users are at another worker than a step before.
    moved: usize,
    /// How many are where they began.
    at_first: usize,
}

/// Five sync workers, of which Envoy knows four at first.
struct Site {
    mas: Mas,
    homeserver: Homeserver,
    workers: Vec<Homeserver>,
    envoy: Envoy,
    /// To one of Envoy's workers each.
    connections: [Connection; 2],
    dir: TempDir,
}

impl Site {
    async fn start(hash: Hash) -> Self {
        let mas = Mas::start(Options::default()).await.expect("a free port");
        let homeserver = Homeserver::start_local().await.expect("a free port");
        let mut workers = Vec::new();
        for number in 1..=5 {
            let worker = Homeserver::start_local().await.expect("a free port");
            worker.respond("/_matrix/client/v3/sync", 200, format!("\"sync-{number}\""));
            workers.push(worker);
        }
        let dir = tempfile::tempdir().expect("a temporary directory");
        homeserver.respond("/_matrix/client/v3/sync", 200, "\"main\"");
        write_endpoints(dir.path(), &homeserver, &workers[..4]);
        let endpoints = dir.path().join("endpoints.yaml");
        let endpoints = endpoints.display().to_string();
        let mut config = shipped_at(
            "envoy/sync-workers/envoy.yaml",
            &[("envoy/sync-workers/endpoints.yaml", &endpoints)],
        );
        let listener = bootstrap::listener(&mut config);
        listener["connection_balance_config"] = json!({"exact_balance": {}});
        for (name, addr) in [
            ("homeserver", homeserver.addr()),
            ("homeserver-media", homeserver.addr()),
            ("mas", mas.addr()),
            ("mas-introspection", mas.addr()),
        ] {
            bootstrap::move_cluster(bootstrap::cluster(&mut config, name), addr);
        }
        if hash == Hash::Token {
            let route = "/route_config/virtual_hosts/1/routes/1/route/hash_policy";
            let policy = bootstrap::http_manager(&mut config).pointer_mut(route);
            let policy = policy
                .and_then(Value::as_array_mut)
                .expect("the shipped policy");
            policy.retain(|policy| policy["header"]["header_name"] != "x-matrix-user-id");
        }
        let envoy = Envoy::builder()
            .concurrency(2)
            .env("MAS_SECRET", DEFAULT_SECRET)
            .bootstrap(move |whole| *whole = config)
            .start()
            .await;
        let connections = [
            Connection::open(envoy.addr()).await,
            Connection::open(envoy.addr()).await,
        ];
        let mut site = Self {
            mas,
            homeserver,
            workers,
            envoy,
            connections,
            dir,
        };
        site.wait_until_in_use(4).await;
        site
    }

    /// Lets Envoy know this many workers, and waits until all of its own workers do.
    async fn set_workers(&mut self, count: usize) {
        write_endpoints(self.dir.path(), &self.homeserver, &self.workers[..count]);
        self.wait_until_in_use(count).await;
    }

    async fn wait_until_in_use(&mut self, count: usize) {
        for gauge in ["membership_total", "membership_healthy"] {
            let gauge = format!("cluster.{CLUSTER}.{gauge}");
            self.envoy
                .wait_for_stat(&gauge, |known| known == 1 + count as u64)
                .await;
        }
        // Envoy's workers learn it a moment after the gauges. A bridge's tokens cost no question to MAS.
        let wanted: Vec<String> = (1..=count).map(|number| format!("sync-{number}")).collect();
        within_limit("both workers to use the ring", async {
            for connection in 0..self.connections.len() {
                while self.workers_in_use(connection).await != wanted {}
            }
        })
        .await;
    }

    /// The workers that one of Envoy's workers sends requests to, in order.
    async fn workers_in_use(&mut self, connection: usize) -> Places {
        let mut used = Vec::new();
        for bridge in 0..40 {
            used.push(self.ask(connection, &format!("bridge-{bridge}")).await);
        }
        used.retain(|worker| worker != "main");
        used.sort();
        used.dedup();
        used
    }

    /// The worker that answers a token.
    async fn ask(&mut self, connection: usize, token: &str) -> String {
        let request = Request::get(SYNC).bearer(token);
        let response = self.connections[connection].request(&request).await;
        assert_eq!(response.status, 200, "{response:?}");
        response
            .json()
            .as_str()
            .expect("a worker's name")
            .to_owned()
    }

    /// Where all users are with their tokens of this generation. Every worker of Envoy sends a user to the same one.
    async fn places(&mut self, generation: usize) -> Places {
        let mut places = Vec::new();
        for user in 0..USERS {
            let token = token_of(user, generation);
            let place = self.ask(0, &token).await;
            assert_eq!(self.ask(1, &token).await, place, "user {user}");
            places.push(place);
        }
        places
    }

    /// Where many are who have no identity here.
    async fn places_of_bridges(&mut self) -> Places {
        let mut places = Vec::new();
        for bridge in 0..BRIDGES {
            places.push(self.ask(0, &format!("bridge-{bridge}")).await);
        }
        places
    }

    /// What happens to the users: refreshes of all their tokens, then a fifth worker.
    async fn measure(&mut self, hash: Hash) -> Vec<Measured> {
        for user in 0..USERS {
            let session = Session::access(&format!("user{user}"), "PHONE");
            self.mas.insert(&token_of(user, 0), session);
        }
        let first = self.places(0).await;
        let mut before = first.clone();
        let mut measured = Vec::new();
        for step in 1..=REFRESHES + 1 {
            let is_refresh = step <= REFRESHES;
            if is_refresh {
                for user in 0..USERS {
                    self.mas
                        .refresh(&token_of(user, step - 1), &token_of(user, step));
                }
            } else {
                self.set_workers(5).await;
            }
            let now = self.places(step.min(REFRESHES)).await;
            if !is_refresh {
                assert_moved_to(&before, &now, "sync-5");
            }
            measured.push(Measured {
                hash,
                step: if is_refresh {
                    format!("refresh {step}")
                } else {
                    "fifth worker".to_owned()
                },
                moved: differing(&before, &now),
                at_first: USERS - differing(&first, &now),
            });
            before = now;
        }
        measured
    }
}

/// Puts the shipped file into place, with this main process and these workers.
fn write_endpoints(dir: &Path, main: &Homeserver, workers: &[Homeserver]) {
    let mut shipped = yaml(&read("envoy/sync-workers/endpoints.yaml"));
    let endpoints = shipped["resources"][0]["endpoints"][0]["lb_endpoints"]
        .as_array_mut()
        .expect("a list");
    let mut fifth = endpoints[4].clone();
    fifth["metadata"]["filter_metadata"]["envoy.lb"]["hash_key"] = "sync-5".into();
    endpoints.push(fifth);
    endpoints.truncate(1 + workers.len());
    for (endpoint, process) in endpoints.iter_mut().zip([main].into_iter().chain(workers)) {
        bootstrap::move_endpoint(endpoint, process.addr());
    }
    let new = dir.join("new");
    std::fs::write(&new, shipped.to_string()).expect("a file of our own");
    std::fs::rename(new, dir.join("endpoints.yaml")).expect("a file of our own");
}

fn token_of(user: usize, generation: usize) -> String {
    token("mat", &format!("user{user}.{generation}"))
}

fn differing(a: &Places, b: &Places) -> usize {
    a.iter().zip(b).filter(|(a, b)| a != b).count()
}

#[track_caller]
fn assert_moved_to(before: &Places, now: &Places, worker: &str) {
    for (user, (before, now)) in before.iter().zip(now).enumerate() {
        assert!(
            before == now || now == worker,
            "user {user} went from {before} to {now}"
        );
    }
}

fn how_many_at_each(places: &Places) -> BTreeMap<&str, usize> {
    let mut counts = BTreeMap::new();
    for place in places {
        *counts.entry(place.as_str()).or_default() += 1;
    }
    counts
}

#[tokio::test]
async fn users_stay_at_their_sync_worker_and_only_a_fifth_of_them_move_to_a_fifth_one() {
    let mut measured = Site::start(Hash::User).await.measure(Hash::User).await;
    for step in &measured[..REFRESHES] {
        assert_eq!((step.moved, step.at_first), (0, USERS), "{}", step.step);
    }
    let moved = measured[REFRESHES].moved;
    assert!((10..=30).contains(&moved), "{moved} users moved");

    // By token three of four users move at every refresh.
    let by_token = Site::start(Hash::Token).await.measure(Hash::Token).await;
    for step in &by_token[..REFRESHES] {
        assert!(
            (60..=90).contains(&step.moved),
            "{} moved {}",
            step.step,
            step.moved
        );
    }
    measured.extend(by_token);
    for (name, text) in [
        ("measured.csv", plot::csv(&measured)),
        ("measured.svg", plot::svg(&measured)),
    ] {
        let path = repository().join("envoy/sync-workers").join(name);
        if std::env::var_os("UPDATE_FIGURES").is_some() {
            std::fs::write(&path, &text).expect("the repository can be written to");
        }
        let shipped = std::fs::read_to_string(&path).unwrap_or_default();
        assert_eq!(
            shipped, text,
            "{name} is not what was measured: see README.md beside it"
        );
    }
}

#[tokio::test]
async fn when_a_sync_worker_goes_only_its_users_move_and_they_come_back() {
    let mut site = Site::start(Hash::User).await;
    for user in 0..USERS {
        let session = Session::access(&format!("user{user}"), "PHONE");
        site.mas.insert(&token_of(user, 0), session);
    }
    let before = site.places(0).await;
    // Nobody has much more than a share.
    let counts = how_many_at_each(&before);
    assert!(
        counts.values().all(|count| (15..=35).contains(count)),
        "{counts:?}"
    );
    site.set_workers(3).await;
    let without = site.places(0).await;
    for (before, now) in before.iter().zip(&without) {
        assert!(
            before == now || before == "sync-4",
            "from {before} to {now}"
        );
    }
    site.set_workers(4).await;
    assert_eq!(site.places(0).await, before);

    // A fifth of the ring is a fifth one's. Many more are needed to see that, and bridges cost no question to MAS.
    let before = site.places_of_bridges().await;
    site.set_workers(5).await;
    let now = site.places_of_bridges().await;
    assert_moved_to(&before, &now, "sync-5");
    let moved = differing(&before, &now) * 100 / BRIDGES;
    assert!((18..=22).contains(&moved), "{moved} of a hundred moved");
}

#[tokio::test]
async fn a_sync_without_an_identity_stays_where_its_token_is_and_nobody_chooses_a_worker() {
    let mut site = Site::start(Hash::User).await;
    // A bridge's token, which MAS does not know, always at the same worker, and told of no one.
    let place = site.ask(0, "bridge").await;
    for connection in [0, 1, 0, 1] {
        assert_eq!(site.ask(connection, "bridge").await, place);
    }
    let dora = token_of(1, 0);
    site.mas.insert(&dora, Session::access("dora", "PHONE"));
    assert_access_log(&site.envoy, site.envoy.addr(), &dora, "@dora:example.org").await;
    // A user who says to be others is where they are by themselves.
    let alice = token_of(0, 0);
    site.mas.insert(&alice, Session::access("alice", "PHONE"));
    let place = site.ask(0, &alice).await;
    for other in 0..20 {
        let request = Request::get(SYNC)
            .header("X-Matrix-User-Id", format!("@user{other}:example.org"))
            .bearer(&alice);
        let response = site.connections[other % 2].request(&request).await;
        assert_eq!(response.json(), place.as_str());
    }
    let number: usize = place["sync-".len()..].parse().expect("a number");
    let seen = site.workers[number - 1].requests();
    let hers = seen
        .iter()
        .filter(|seen| !values(seen, "x-matrix-user-id").is_empty());
    assert_eq!(hers.count(), 21);
    // Two devices of hers meet, by sliding sync as well; what is no sync goes elsewhere.
    let tablet = token_of(0, 1);
    site.mas.insert(&tablet, Session::access("alice", "TABLET"));
    assert_eq!(site.ask(1, &tablet).await, place);
    let sliding = "/_matrix/client/unstable/org.matrix.simplified_msc3575/sync";
    let request = Request::post(sliding, "application/json", "{}").bearer(&tablet);
    assert_eq!(site.connections[0].request(&request).await.status, 200);
    assert!(
        site.workers[number - 1]
            .requests()
            .iter()
            .any(|seen| seen.path() == sliding)
    );
    let whoami = Request::get(WHOAMI).bearer(&tablet);
    assert_eq!(site.connections[0].request(&whoami).await.status, 200);
    let mut seen = site.homeserver.requests();
    seen.retain(|seen| seen.path() == WHOAMI);
    assert_eq!(seen.len(), 1);
    assert_eq!(identity(&seen[0]), [["@alice:example.org"], ["TABLET"]]);
}

#[test]
fn the_production_sync_workers_are_chosen_in_the_same_way() {
    let [mut small, mut whole] = ["envoy/sync-workers", "envoy/production"]
        .map(|folder| yaml(&read(&format!("{folder}/envoy.yaml"))));
    let policies = [&mut small, &mut whole].map(|config| {
        let manager = bootstrap::http_manager(config);
        let hosts = manager["route_config"]["virtual_hosts"].as_array();
        let routes = hosts
            .into_iter()
            .flatten()
            .flat_map(|host| host["routes"].as_array().into_iter().flatten());
        routes
            .map(|route| &route["route"])
            .filter(|route| route["cluster"] == CLUSTER)
            .map(|route| {
                // What comes after these is for requests without any of them.
                route["hash_policy"].as_array().expect("a list")[..3].to_vec()
            })
            .collect::<Vec<_>>()
    });
    let [[policy], of_whole] = [&policies[0][..], &policies[1][..]] else {
        panic!("one route in the small file: {policies:?}");
    };
    assert_eq!(of_whole, vec![policy.clone(); 3]);
    // The ring, and each worker's part of it.
    let [ring, of_whole] =
        [&mut small, &mut whole].map(|config| bootstrap::cluster(config, CLUSTER).clone());
    for key in [
        "lb_policy",
        "ring_hash_lb_config",
        "ignore_health_on_host_removal",
    ] {
        assert_eq!(ring[key], of_whole[key], "{key}");
    }
    let endpoints = yaml(&read("envoy/sync-workers/endpoints.yaml"));
    let [ring, of_whole] = [&endpoints["resources"][0], &of_whole["load_assignment"]].map(|all| {
        let endpoints = all["endpoints"][0]["lb_endpoints"]
            .as_array()
            .expect("a list");
        endpoints
            .iter()
            .map(|endpoint| (&endpoint["metadata"], &endpoint["load_balancing_weight"]))
            .collect::<Vec<_>>()
    });
    assert_eq!(ring, of_whole);
}

/// The folder's Envoy is a whole one: MAS is behind it, too.
#[tokio::test]
async fn the_login_api_and_the_host_of_mas_are_of_mas() {
    let mut site = Site::start(Hash::User).await;
    let (mas, homeserver) = (&site.mas, &site.homeserver);
    edge::assert_mas_has_its_own(&mut site.connections[0], mas, homeserver).await;
}
