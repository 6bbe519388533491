//! What meets at one worker of Synapse behind `envoy/production/`: a homeserver's transactions, requests for one thing, and what
//! goes to one room. Several servers stand behind each of these clusters, so that what is not hashed does not meet.

use std::{collections::BTreeSet, net::SocketAddr};

use serde_json::Value;
use stand_in::homeserver::Homeserver;

use super::{
    edge::values,
    production::{MATRIX, Site},
    tls::{self, Way},
};
use crate::support::{
    envoy::{Envoy, bootstrap},
    http::{self, Request},
};

/// Behind each cluster.
const SERVERS: usize = 4;
/// Of homeservers, things and rooms, so that every server gets some.
const MANY: usize = 30;

/// The addresses that requests come from.
const SOURCES: [&str; MANY] = [
    "127.0.0.1",
    "127.0.0.2",
    "127.0.0.3",
    "127.0.0.4",
    "127.0.0.5",
    "127.0.0.6",
    "127.0.0.7",
    "127.0.0.8",
    "127.0.0.9",
    "127.0.0.10",
    "127.0.0.11",
    "127.0.0.12",
    "127.0.0.13",
    "127.0.0.14",
    "127.0.0.15",
    "127.0.0.16",
    "127.0.0.17",
    "127.0.0.18",
    "127.0.0.19",
    "127.0.0.20",
    "127.0.0.21",
    "127.0.0.22",
    "127.0.0.23",
    "127.0.0.24",
    "127.0.0.25",
    "127.0.0.26",
    "127.0.0.27",
    "127.0.0.28",
    "127.0.0.29",
    "127.0.0.30",
];

/// The servers of a cluster.
struct Cluster(Vec<Homeserver>);

impl Cluster {
    async fn start() -> Self {
        let mut servers = Vec::new();
        for _ in 0..SERVERS {
            servers.push(Homeserver::start_local().await.expect("a free port"));
        }
        Self(servers)
    }

    fn addrs(&self) -> Vec<SocketAddr> {
        self.0.iter().map(Homeserver::addr).collect()
    }

    /// Of each mark: how many requests with it every server got.
    fn counts(&self, mark: &str) -> Vec<usize> {
        let got = |server: &Homeserver| {
            let seen = server.requests();
            seen.iter()
                .filter(|seen| values(seen, "x-mark") == [mark])
                .count()
        };
        self.0.iter().map(got).collect()
    }

    /// Checks that all requests with one mark, so many, reached one server, and that every server got some mark.
    #[track_caller]
    fn assert_meet(&self, marks: &[String], each: usize) {
        let mut used = BTreeSet::new();
        for mark in marks {
            let counts = self.counts(mark);
            let reached: Vec<usize> = (0..SERVERS).filter(|server| counts[*server] > 0).collect();
            assert_eq!(counts.iter().sum::<usize>(), each, "{mark}");
            assert_eq!(reached.len(), 1, "{mark} reached {counts:?}");
            used.extend(reached);
        }
        assert_eq!(used.len(), SERVERS, "{used:?}");
    }
}

/// Puts as many servers behind a cluster, each with a name of its own, as shipped.
fn spread(config: &mut Value, name: &str, addrs: &[SocketAddr]) {
    let cluster = bootstrap::cluster(config, name);
    let endpoints = cluster.pointer_mut("/load_assignment/endpoints/0/lb_endpoints");
    let endpoints = endpoints.and_then(Value::as_array_mut).expect("a list");
    let shipped = endpoints[0].clone();
    *endpoints = addrs
        .iter()
        .enumerate()
        .map(|(number, addr)| {
            let mut endpoint = shipped.clone();
            bootstrap::move_endpoint(&mut endpoint, *addr);
            let key = &mut endpoint["metadata"]["filter_metadata"]["envoy.lb"]["hash_key"];
            assert!(
                key.is_string(),
                "{name} has a ring that depends on addresses"
            );
            *key = format!("{name}-{}", number + 1).into();
            endpoint
        })
        .collect();
}

/// The site with several servers behind one cluster.
async fn start(name: &'static str) -> (Site, Cluster) {
    let cluster = Cluster::start().await;
    let addrs = cluster.addrs();
    let site = Site::start_with(2, move |config, _| spread(config, name, &addrs)).await;
    (site, cluster)
}

/// Ways into a listener from all addresses, called as these.
async fn from_everywhere(site: &Site, listener: &str) -> Envoy {
    let way = |from| Way {
        name: from,
        to: site.envoy.listener(listener),
        protocol: "http/1.1",
        from,
    };
    let ways = SOURCES.map(way).into();
    tls::start(ways, &site.dir.path().join("fullchain.pem")).await
}

/// Sends a request that must pass.
async fn send(to: SocketAddr, mark: &str, request: Request) {
    let request = request.header("Host", MATRIX).header("X-Mark", mark);
    let response = http::send(to, &request).await;
    assert_eq!(response.status, 200, "{response:?}");
}

#[tokio::test]
async fn the_transactions_of_one_homeserver_meet_at_one_worker() {
    for listener in ["federation", "gateway"] {
        let (site, cluster) = start("synapse-federation-inbound").await;
        let ways = from_everywhere(&site, listener).await;
        for from in SOURCES {
            for number in 0..4 {
                let target = format!("/_matrix/federation/v1/send/{from}-{number}");
                // What it says of itself moves nothing.
                let request = Request::new("PUT", target)
                    .header("X-Forwarded-For", format!("192.0.2.{number}"))
                    .header("Authorization", format!("X-Matrix origin=o{number}"))
                    .body("{}");
                send(ways.listener(from), from, request).await;
            }
        }
        cluster.assert_meet(&SOURCES.map(str::to_owned), 4);
    }
}

#[tokio::test]
async fn what_homeservers_ask_of_one_thing_meets_at_one_worker() {
    for listener in ["federation", "gateway"] {
        let (site, cluster) = start("synapse-federation-reader").await;
        let ways = from_everywhere(&site, listener).await;
        let targets: Vec<String> = (0..MANY)
            .map(|number| format!("/_matrix/federation/v1/state_ids/!room:a?event_id=$e{number}"))
            .collect();
        for target in &targets {
            for from in &SOURCES[..4] {
                send(ways.listener(from), target, Request::get(target)).await;
            }
        }
        cluster.assert_meet(&targets, 4);
    }
}

/// Method and target, but for the room.
const EVENTS: [(&str, &str); 13] = [
    ("PUT", "/_matrix/client/v3/rooms/ROOM/send/m.room.message/1"),
    (
        "PUT",
        "/_matrix/client/r0/rooms/ROOM/send/m.room.message/2?ts=1",
    ),
    (
        "PUT",
        "/_matrix/client/api/v1/rooms/ROOM/send/m.room.message/3",
    ),
    ("PUT", "/_matrix/client/v3/rooms/ROOM/state/m.room.topic/"),
    ("PUT", "/_matrix/client/v3/rooms/ROOM/redact/$e/1"),
    ("POST", "/_matrix/client/v3/rooms/ROOM/join"),
    ("POST", "/_matrix/client/v3/rooms/ROOM/invite"),
    ("POST", "/_matrix/client/v3/rooms/ROOM/leave"),
    ("POST", "/_matrix/client/v3/rooms/ROOM/kick"),
    ("POST", "/_matrix/client/v3/join/ROOM"),
    ("POST", "/_matrix/client/v3/join/ROOM?server_name=a&via=b"),
    ("POST", "/_matrix/client/unstable/knock/ROOM"),
    ("POST", "/_matrix/client/v3/knock/ROOM?via=a"),
];

const MESSAGES: [(&str, &str); 4] = [
    ("GET", "/_matrix/client/v3/rooms/ROOM/messages"),
    (
        "GET",
        "/_matrix/client/v3/rooms/ROOM/messages?from=t1&dir=b",
    ),
    (
        "GET",
        "/_matrix/client/r0/rooms/ROOM/messages?from=t2&dir=b",
    ),
    ("GET", "/_matrix/client/api/v1/rooms/ROOM/messages?from=t3"),
];

#[tokio::test]
async fn what_goes_to_one_room_meets_at_one_worker() {
    for (name, table) in [
        ("synapse-event-creator", &EVENTS[..]),
        ("synapse-client-reader", &MESSAGES),
    ] {
        let (site, cluster) = start(name).await;
        let rooms: Vec<String> = (0..MANY)
            .map(|number| format!("!room{number}:example.org"))
            .collect();
        let gateway = site.tls.listener("gateway");
        for room in &rooms {
            for (method, target) in table {
                let request = Request::new(method, target.replace("ROOM", room));
                send(gateway, room, request.bearer(&site.token)).await;
            }
        }
        cluster.assert_meet(&rooms, table.len());
    }
}
