//! MAS cannot be asked, for every reason there is: with `stale_if_error` people with live sessions are served, by
//! the gateway and by the introspection role, and MAS gets one question per token and second at the most.

use std::time::Duration;

use serde_json::{Value, json};
use stand_in::mas::{Fault, Options};
use tokio::time::{Instant, sleep};

use super::{
    edge::{Edge, WHOAMI, new_token, values},
    introspection_role::{NAME, answers, assert_active, introspect, plugin},
    workers::{WORKERS, connections, decided},
};
use crate::support::{
    envoy::{Builder, bootstrap, workers::connections_to},
    http::{Connection, Request},
    product_time::Moment,
};

/// Live sessions.
const USERS: usize = 4;

/// How long a call may take.
const TIMEOUT: Duration = Duration::from_secs(3);

/// How long each outage is looked at, after the first failure.
const OUTAGE: Duration = Duration::from_secs(4);

/// Between two requests of a client.
const BETWEEN: Duration = Duration::from_millis(50);

/// The edge with both roles, sessions that every worker knows, and a connection of each to each worker.
struct Rig {
    edge: Edge,
    tokens: Vec<String>,
    clients: Vec<Connection>,
    homeservers: Vec<Connection>,
    /// Questions of the homeserver about tokens that nobody knows, which get no verdict.
    unknown: usize,
}

/// What an outage did.
struct Outcome {
    /// How long it was looked at.
    lasted: Duration,
    /// How often MAS was asked about each token.
    calls: Vec<u64>,
}

impl Rig {
    async fn start(changes: Value, adapt: impl FnOnce(Builder) -> Builder) -> Self {
        let mut settings = json!({
            "cache": {"ttl": "1s", "stale_if_error": "10m"},
            "introspection": {"timeout": "3s"},
        });
        for (key, change) in changes.as_object().into_iter().flatten() {
            match (settings[key].as_object_mut(), change.as_object()) {
                (Some(section), Some(change)) => section.extend(change.clone()),
                _ => settings[key] = change.clone(),
            }
        }
        let role = plugin(settings.clone());
        let edge = Edge::start_with(settings, Options::default(), |builder| {
            adapt(builder.internal_listener(NAME, role, "mas").balanced())
        })
        .await;
        let clients = connections(&edge, USERS).await;
        let homeservers = connections_to(edge.envoy.listener(NAME), "/health", USERS).await;
        let tokens = (0..USERS)
            .map(|user| edge.active(&format!("user{user}"), "PHONE"))
            .collect();
        let mut rig = Self {
            edge,
            tokens,
            clients,
            homeservers,
            unknown: 0,
        };
        // One after the other, since Envoy may allow no two calls at once.
        for token in &rig.tokens {
            assert_eq!(rig.edge.whoami(token).await.status, 200);
        }
        rig.assert_served().await;
        rig
    }

    /// Everybody asks on every worker, in both roles, and is served. Returns how long that took.
    async fn assert_served(&mut self) -> Duration {
        let sent = Moment::now();
        for (at, connection) in self.clients.iter_mut().enumerate() {
            let request = Request::get(WHOAMI).bearer(&self.tokens[at / WORKERS]);
            connection.send(&request.to_bytes()).await;
        }
        for (at, connection) in self.homeservers.iter_mut().enumerate() {
            let request = introspect(&self.tokens[at / WORKERS]);
            connection.send(&request.to_bytes()).await;
        }
        for (at, connection) in self.homeservers.iter_mut().enumerate() {
            let response = connection.response(false).await;
            assert_active(&response, &format!("user{}", at / WORKERS));
        }
        let seen = self.edge.homeserver.requests().len();
        for connection in &mut self.clients {
            let response = connection.response(false).await;
            assert_eq!(response.status, 200, "{response:?}");
        }
        for request in &self.edge.homeserver.requests()[seen..] {
            let [user] = values(request, "x-matrix-user-id")[..] else {
                panic!("annotated: {request:?}");
            };
            assert!(user.starts_with("@user"), "{user}");
        }
        sent.elapsed()
    }

    /// Everybody uses the edge all the time. `begin` has begun an outage; the answers have not ended yet.
    async fn assert_served_through(&mut self) -> Outcome {
        let begun = Instant::now();
        let before: Vec<u64> = self.calls();
        // Until the answers have ended and the first call has failed, a request may wait for that.
        let mut longest_first = Duration::ZERO;
        while begun.elapsed() < Duration::from_secs(1) + TIMEOUT {
            longest_first = longest_first.max(self.assert_served().await);
            sleep(BETWEEN).await;
        }
        let mut longest = Duration::ZERO;
        let failed = Instant::now();
        let mut rounds = 0;
        while failed.elapsed() < OUTAGE {
            longest = longest.max(self.assert_served().await);
            rounds += 1;
            sleep(BETWEEN).await;
        }
        let lasted = begun.elapsed();
        let calls = self.calls();
        let calls = calls.iter().zip(before).map(|(now, then)| now - then);
        let outcome = Outcome {
            lasted,
            calls: calls.collect(),
        };
        println!(
            "{lasted:?}: calls {:?}; the first {longest_first:?}, then {longest:?} in {rounds} rounds",
            outcome.calls
        );
        assert!(longest < TIMEOUT, "nobody waits for a retry");
        for calls in &outcome.calls {
            assert!(*calls <= outcome.most(), "{calls} calls in {lasted:?}");
        }
        assert!(decided(&self.edge, "active", "stale").await > 0.0);
        assert!(answers(&self.edge, "active", "stale").await > 0.0);
        let without = answers(&self.edge, "no_verdict", "mas").await;
        assert_eq!(without, self.unknown as f64);
        assert_eq!(answers(&self.edge, "not_asked", "offline").await, 0.0);
        outcome
    }

    fn calls(&self) -> Vec<u64> {
        let calls = |token: &String| self.edge.mas.calls(token);
        self.tokens.iter().map(calls).collect()
    }

    /// The outage is over: MAS is asked again, and what it says counts.
    async fn assert_recovers(mut self) {
        self.edge.mas.clear_faults();
        let before = self.calls();
        let begun = Instant::now();
        while self
            .calls()
            .iter()
            .zip(&before)
            .any(|(now, then)| now == then)
        {
            assert!(begun.elapsed() < Duration::from_secs(20), "MAS is asked");
            self.assert_served().await;
            sleep(BETWEEN).await;
        }
        self.edge.wait_until_none_is_under_way().await;
        self.edge.assert_alive().await;
    }
}

impl Outcome {
    /// One call a second, the first at once.
    fn most(&self) -> u64 {
        self.lasted.as_secs() + 1
    }
}

#[tokio::test]
async fn mas_answers_with_an_error() {
    let mut rig = Rig::start(json!({}), |builder| builder).await;
    rig.edge.mas.fault(Fault::status(500, ""));
    let outcome = rig.assert_served_through().await;
    assert!(outcome.calls.iter().all(|calls| *calls >= 2), "it is tried");
    rig.assert_recovers().await;
}

#[tokio::test]
async fn mas_resets_its_connections() {
    // Envoy repeats a call that was reset, which would count twice.
    let settings = json!({"introspection": {"retries": 0}});
    let mut rig = Rig::start(settings, |builder| builder).await;
    rig.edge.mas.fault(Fault::reset());
    rig.assert_served_through().await;
    rig.assert_recovers().await;
}

#[tokio::test]
async fn mas_hangs() {
    let mut rig = Rig::start(json!({}), |builder| builder).await;
    rig.edge.mas.fault(Fault::hang());
    rig.assert_served_through().await;
    rig.assert_recovers().await;
}

/// The ordinary outage in Kubernetes: no pod of MAS is ready.
#[tokio::test]
async fn the_cluster_of_mas_has_no_endpoint() {
    let mut rig = Rig::start(json!({}), |builder| builder.dynamic_endpoints("mas")).await;
    rig.edge.envoy.set_endpoints(false).await;
    let outcome = rig.assert_served_through().await;
    assert_tries_are_few(&rig, &outcome).await;
    rig.edge.envoy.set_endpoints(true).await;
    rig.assert_recovers().await;
}

/// One call is under way, which hangs, and Envoy allows no second one.
#[tokio::test]
async fn the_circuit_breaker_is_open() {
    let mut rig = Rig::start(json!({"introspection": {"timeout": "1m"}}), |builder| {
        builder.bootstrap(|config| {
            let cluster = bootstrap::cluster(config, "mas");
            cluster["circuit_breakers"]["thresholds"][0]["max_requests"] = 1.into();
        })
    })
    .await;
    rig.edge.mas.fault(Fault::hang());
    let calls = rig.edge.mas.total_calls();
    let hanging = rig
        .edge
        .spawn(&Request::get(WHOAMI).bearer(&new_token("mat")));
    rig.edge.wait_for_calls(calls + 1).await;
    let outcome = rig.assert_served_through().await;
    assert_eq!(outcome.calls, [0; USERS], "none gets through");
    assert_tries_are_few(&rig, &outcome).await;
    rig.assert_recovers().await;
    assert_eq!(hanging.await.expect("a response").status, 401);
}

/// Every call about an unknown token that may be under way is, in both roles, and hangs. Those about live sessions, which
/// have calls of their own, hang too.
#[tokio::test]
async fn every_call_hangs() {
    const CAP: usize = 2;
    let mut rig = Rig::start(
        json!({"introspection": {"max_in_flight": CAP}}),
        |builder| builder,
    )
    .await;
    rig.edge.mas.fault(Fault::hang());
    let calls = rig.edge.mas.total_calls();
    let mut clients = connections_to(rig.edge.envoy.addr(), "/", CAP).await;
    let mut homeservers = connections_to(rig.edge.envoy.listener(NAME), "/health", CAP).await;
    for connection in &mut clients {
        let request = Request::get(WHOAMI).bearer(&new_token("mat"));
        connection.send(&request.to_bytes()).await;
    }
    for connection in &mut homeservers {
        let request = introspect(&new_token("mat"));
        connection.send(&request.to_bytes()).await;
    }
    rig.unknown = homeservers.len();
    let hanging = clients.len() + homeservers.len();
    rig.edge.wait_for_calls(calls + hanging as u64).await;
    let outcome = rig.assert_served_through().await;
    assert!(outcome.calls.iter().all(|calls| *calls > 0));
    rig.assert_recovers().await;
    for connection in &mut clients {
        assert_eq!(connection.response(false).await.status, 503);
    }
}

/// Their address has brought more unknown tokens than it may, and then MAS fails.
#[tokio::test]
async fn the_address_is_over_its_budget() {
    const BUDGET: usize = 3;
    let budget = json!({"per_source": BUDGET, "window": "1h"});
    let mut rig = Rig::start(json!({"unknown_token_budget": budget}), |builder| builder).await;
    let mut statuses = Vec::new();
    for _ in 0..=BUDGET {
        statuses.push(rig.edge.whoami(&new_token("mat")).await.status);
    }
    assert_eq!(statuses, [401, 401, 401, 429]);
    rig.edge.mas.fault(Fault::status(500, ""));
    rig.assert_served_through().await;
    assert_eq!(decided(&rig.edge, "no_verdict", "budget").await, 1.0);
    rig.edge.mas.clear_faults();
    // A budget harms no live session.
    for _ in 0..20 {
        rig.assert_served().await;
        sleep(BETWEEN).await;
    }
    assert_eq!(decided(&rig.edge, "no_verdict", "budget").await, 1.0);
}

/// Where no call leaves Envoy, it is the tries that count.
async fn assert_tries_are_few(rig: &Rig, outcome: &Outcome) {
    let tries = rig.edge.introspections("undeliverable").await;
    println!("{tries} tries in {:?}", outcome.lasted);
    assert!(tries > 0.0 && tries <= (USERS as u64 * outcome.most()) as f64);
}
