//! The provisioning role: what MAS tells the homeserver ends answers in every worker.

use std::{net::TcpListener, time::Duration};

use serde_json::{Value, json};
use stand_in::mas::{DEFAULT_SECRET, Fault, Mas, Options, Session};
use tokio::time::sleep;

use super::{
    edge::{Edge, WHOAMI, assert_not_active, new_token, plugin},
    workers::{POLL, WORKERS, ask_all, ask_until, connections, decided},
};
use crate::support::{
    envoy::{Builder, bootstrap},
    http::{self, Connection, Request, Response, within_limit},
};

/// What the log says of a secret that the homeserver takes and the edge does not know.
const DIFFERENCE: &str = "introspection.credential differs";

/// The listener between MAS and the homeserver.
pub const LISTENER: &str = "provisioning";

/// Starts the edge with four workers, and has MAS call the homeserver through it.
pub async fn start(changes: Value) -> Edge {
    start_with(changes, |builder| {
        builder.internal_listener(LISTENER, provisioning(), "homeserver")
    })
    .await
}

/// The same with these listeners.
async fn start_with(changes: Value, add_listeners: impl FnOnce(Builder) -> Builder) -> Edge {
    let edge = Edge::start_with(changes, Options::default(), |builder| {
        add_listeners(builder.balanced())
    })
    .await;
    edge.mas.set_homeserver(edge.envoy.listener(LISTENER));
    edge
}

/// The plugin configuration of that listener.
pub fn provisioning() -> Value {
    plugin(json!({"role": "provisioning"}))
}

/// What becomes of a token that every worker holds.
#[derive(Clone, Copy, Debug)]
enum Fate {
    /// The workers go on with what they hold.
    Kept,
    /// MAS is asked once more, and says active.
    AskedAgain,
    /// MAS is asked once more, and says inactive.
    Ended,
}
use Fate::{AskedAgain, Ended, Kept};

impl Fate {
    const fn status(self) -> u16 {
        match self {
            Kept | AskedAgain => 200,
            Ended => 401,
        }
    }

    const fn calls(self) -> u64 {
        match self {
            Kept => 1,
            AskedAgain | Ended => 2,
        }
    }
}

/// A user with two devices, and with a token for each of them and one without a device.
struct User {
    name: String,
    tokens: [String; 3],
}

const PHONE: usize = 0;
const TABLET: usize = 1;
const NO_DEVICE: usize = 2;

impl User {
    fn new(edge: &Edge, name: &str) -> Self {
        let sessions = [
            Session::compat(name, "PHONE"),
            Session::compat(name, "TABLET"),
            Session::access(name, "").no_device(),
        ];
        let tokens = sessions.map(|session| {
            let token = new_token("mct");
            edge.mas.insert(&token, session);
            token
        });
        Self {
            name: name.to_owned(),
            tokens,
        }
    }
}

type Event = fn(&Mas, &User);

const EVENTS: [(&str, Event, [Fate; 3]); 7] = [
    (
        "revoked-tablet",
        |mas, user| mas.revoke(&user.tokens[TABLET]),
        // No list of devices tells which of the sessions without one are left.
        [Kept, Ended, AskedAgain],
    ),
    (
        "revoked-without-device",
        |mas, user| mas.revoke(&user.tokens[NO_DEVICE]),
        [Kept, Kept, Ended],
    ),
    (
        "deleted-tablet",
        |mas, user| {
            mas.revoke_unannounced(&user.tokens[TABLET]);
            mas.delete_device(&user.name, "TABLET");
        },
        [Kept, Ended, Kept],
    ),
    (
        "taken-over-tablet",
        // MAS ends the device's session and tells of the device only.
        |mas, user| mas.compat_login(&new_token("mct"), Session::compat(&user.name, "TABLET")),
        [Kept, Ended, Kept],
    ),
    (
        "locked",
        |mas, user| mas.lock_user(&user.name),
        [Ended, Ended, Ended],
    ),
    (
        "deactivated",
        |mas, user| mas.deactivate_user(&user.name),
        [Ended, Ended, Ended],
    ),
    ("bystander", |_, _| {}, [Kept, Kept, Kept]),
];

#[tokio::test]
async fn each_event_ends_what_it_is_about_on_every_worker_and_nothing_else() {
    let edge = start(json!({})).await;
    let mut connections = connections(&edge, 1).await;
    let users = EVENTS.map(|(name, ..)| User::new(&edge, name));
    hold_everywhere(
        &edge,
        &mut connections,
        users.iter().flat_map(|user| &user.tokens),
    )
    .await;
    for ((name, event, fates), user) in EVENTS.iter().zip(&users) {
        event(&edge.mas, user);
        told(&edge).await;
        for connection in &mut connections {
            let tokens = || user.tokens.iter().zip(fates);
            if let Some((token, _)) = tokens().find(|(_, fate)| matches!(fate, Ended)) {
                let rejected = ask_until(connection, token, name, |r| r.status != 200).await;
                assert_not_active(&rejected);
            }
            for (token, fate) in tokens() {
                let status = whoami(connection, token).await.status;
                assert_eq!(status, fate.status(), "{name}: {fate:?}");
            }
        }
    }
    // Also what came later left it so.
    for ((name, _, fates), user) in EVENTS.iter().zip(&users) {
        let calls = user.tokens.each_ref().map(|token| edge.mas.calls(token));
        assert_eq!(calls, fates.map(Fate::calls), "{name}");
        for connection in &mut connections {
            for (token, fate) in user.tokens.iter().zip(fates) {
                let status = whoami(connection, token).await.status;
                assert_eq!(status, fate.status(), "{name}: {fate:?}");
            }
        }
        let calls = user.tokens.each_ref().map(|token| edge.mas.calls(token));
        assert_eq!(calls, fates.map(Fate::calls), "{name}");
    }
    edge.assert_alive().await;
}

/// The gateway does not see it.
#[tokio::test]
async fn a_compat_logout_elsewhere_ends_the_device_on_every_worker() {
    let edge = start(json!({})).await;
    let mut connections = connections(&edge, 1).await;
    let user = User::new(&edge, "alice");
    hold_everywhere(&edge, &mut connections, user.tokens.iter()).await;
    let logout = Request::new("POST", "/_matrix/client/v3/logout").bearer(&user.tokens[PHONE]);
    let response = http::send(edge.mas.addr(), &logout).await;
    assert_eq!(response.status, 200, "{response:?}");
    told(&edge).await;
    for connection in &mut connections {
        let phone = &user.tokens[PHONE];
        let rejected = ask_until(connection, phone, "a 401", |r| r.status != 200).await;
        assert_not_active(&rejected);
        for token in [TABLET, NO_DEVICE] {
            assert_eq!(whoami(connection, &user.tokens[token]).await.status, 200);
        }
    }
    let calls = user.tokens.each_ref().map(|token| edge.mas.calls(token));
    assert_eq!(calls, [Ended, Kept, AskedAgain].map(Fate::calls));
}

#[tokio::test]
async fn a_user_who_is_back_is_so_at_once() {
    let edge = start(json!({"cache": {"negative_ttl": "2m"}})).await;
    let mut connections = connections(&edge, 1).await;
    let [locked, deactivated] = ["locked", "deactivated"].map(|name| edge.active(name, "PHONE"));
    hold_everywhere(&edge, &mut connections, [&locked, &deactivated].into_iter()).await;

    edge.mas.lock_user("locked");
    edge.mas.deactivate_user("deactivated");
    told(&edge).await;
    // Whose these are was never said.
    let unknown = edge.active("locked", "TABLET");
    let new = edge.active("deactivated", "TABLET");
    for connection in &mut connections {
        for token in [&locked, &deactivated, &unknown, &new] {
            let rejected = ask_until(connection, token, "a 401", |r| r.status != 200).await;
            assert_not_active(&rejected);
        }
    }
    let calls = |tokens: [&String; 4]| tokens.map(|token| edge.mas.calls(token));
    let tokens = [&locked, &unknown, &new, &deactivated];
    assert_eq!(calls(tokens), [2, 1, 1, 2]);

    edge.mas.unlock_user("locked");
    edge.mas.reactivate_user("deactivated");
    told(&edge).await;
    for connection in &mut connections {
        for (token, status) in tokens.into_iter().zip([200, 200, 200, 401]) {
            assert_eq!(whoami(connection, token).await.status, status);
        }
    }
    assert_eq!(calls(tokens), [3, 2, 2, 3]);
    edge.assert_alive().await;
}

/// Whose token it is that MAS calls inactive, nobody knows, so that any user who is back voids the answer.
#[tokio::test]
async fn a_herd_costs_two_calls_on_however_many_workers_while_mas_goes_on_telling() {
    let edge = start(json!({})).await;
    let mut connections = connections(&edge, 3).await;
    edge.active("stranger", "PHONE");
    let token = new_token("mat");
    edge.mas.fault(Fault::delay(Duration::from_millis(400)));
    let goes_on_telling = async {
        loop {
            edge.mas.lock_user("stranger");
            edge.mas.unlock_user("stranger");
            told(&edge).await;
        }
    };
    let herd = std::iter::repeat_n(&token, connections.len());
    let responses = tokio::select! {
        responses = ask_all(&mut connections, herd) => responses,
        () = goes_on_telling => Vec::new(),
    };
    assert_eq!(responses.len(), 3 * WORKERS);
    responses.iter().for_each(assert_not_active);
    assert_eq!(edge.mas.calls(&token), 2);
    edge.assert_alive().await;
}

#[tokio::test]
async fn whom_the_homeserver_refuses_ends_nothing() {
    let edge = start(json!({})).await;
    let mut connections = connections(&edge, 1).await;
    let [alice, bob] = ["alice", "bob"].map(|name| edge.active(name, "PHONE"));
    hold_everywhere(&edge, &mut connections, [&alice, &bob].into_iter()).await;
    let delete = |name: &str| {
        let body = json!({"localpart": name, "erase": false}).to_string();
        Request::post("/_synapse/mas/delete_user", "application/json", body)
    };
    let listener = edge.envoy.listener(LISTENER);
    edge.homeserver
        .respond("/_synapse/mas/delete_user", 403, "{}");
    for request in [
        delete("alice"),
        delete("alice").bearer("wrong"),
        delete("alice").bearer(""),
        delete("alice").bearer(&DEFAULT_SECRET[1..]),
        delete("alice").bearer(&format!("{DEFAULT_SECRET}x")),
        delete("alice").bearer(&alice),
        delete("alice").header("Authorization", format!("Basic {DEFAULT_SECRET}")),
        delete("alice").header("Authorization", DEFAULT_SECRET),
        delete("alice").header("X-Authorization", format!("Bearer {DEFAULT_SECRET}")),
    ] {
        assert_eq!(http::send(listener, &request).await.status, 403);
    }
    // The gateway has no such endpoint, whoever asks.
    edge.homeserver.clear_responses();
    let response = edge.send(&delete("alice").bearer(DEFAULT_SECRET)).await;
    assert_eq!(response.status, 404, "{response:?}");

    // What every worker has heard of was sent later.
    edge.mas.revoke_unannounced(&bob);
    let response = http::send(listener, &delete("bob").bearer(DEFAULT_SECRET)).await;
    assert_eq!(response.status, 200);
    for connection in &mut connections {
        ask_until(connection, &bob, "a 401", |r| r.status == 401).await;
        assert_eq!(whoami(connection, &alice).await.status, 200);
    }
    assert_eq!(edge.mas.calls(&alice), 1);
    let log = edge.envoy.log();
    assert!(
        !log.contains(DIFFERENCE),
        "an outsider's secret says nothing"
    );
}

/// MAS and the homeserver have their new secret, and the edge has not.
#[tokio::test]
async fn a_new_secret_counts_before_the_edge_knows_it() {
    let edge = start(json!({})).await;
    let mut connections = connections(&edge, 1).await;
    let tokens = ["alice", "bob", "carol"].map(|name| edge.active(name, "PHONE"));
    hold_everywhere(&edge, &mut connections, tokens.iter()).await;
    let provisioning = edge.envoy.listener(LISTENER);
    for (token, name) in tokens.iter().zip(["alice", "bob", "carol"]) {
        edge.mas.revoke_unannounced(token);
        let body = json!({"localpart": name, "devices": []}).to_string();
        let request = Request::post("/_synapse/mas/sync_devices", "application/json", body)
            .bearer("a-new-secret");
        assert_eq!(http::send(provisioning, &request).await.status, 200);
        for connection in &mut connections {
            let rejected = ask_until(connection, token, "a 401", |r| r.status != 200).await;
            assert_not_active(&rejected);
        }
    }
    edge.envoy.wait_for_log(DIFFERENCE).await;
    let log = edge.envoy.log();
    let lines = log.lines().filter(|line| line.contains(DIFFERENCE)).count();
    assert!((1..=WORKERS).contains(&lines), "once per worker: {lines}");
    assert!(!log.contains("a-new-secret") && !log.contains(DEFAULT_SECRET));
    let stats = edge.envoy.stats().await;
    let counted = |secret| {
        let labels = [("secret", secret)];
        stats.sum("matrix_edge_auth_provisioning_requests_total", &labels)
    };
    assert_eq!(counted("different"), 3.0);
    assert_eq!(counted("matching"), 0.0);
    edge.assert_alive().await;
}

/// With the secret a request is believed before the homeserver has answered, and whatever it answers. With another
/// one, and where Envoy injects the credential, the homeserver's answer is the proof.
#[tokio::test]
async fn without_the_secret_the_homeserver_must_agree() {
    const INJECTED: &str = "injected";
    const SILENT: [&str; 2] = ["silent", "silent-injected"];
    // Nobody accepts its connections, so that it takes a request and never answers.
    let silent = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let addr = silent.local_addr().expect("an address");
    let injected = plugin(
        json!({"role": "provisioning", "introspection": {"credential": {"injected": true}}}),
    );
    let edge = start_with(json!({}), |builder| {
        builder
            .internal_listener(LISTENER, provisioning(), "homeserver")
            .internal_listener(INJECTED, injected.clone(), "homeserver")
            .internal_listener(SILENT[0], provisioning(), "silent")
            .internal_listener(SILENT[1], injected, "silent")
            .bootstrap(move |config| {
                bootstrap::clusters(config).push(bootstrap::static_cluster("silent", addr));
            })
    })
    .await;
    let delete = |name: &str, secret: &str| {
        let body = json!({"localpart": name, "erase": false}).to_string();
        Request::post("/_synapse/mas/delete_user", "application/json", body).bearer(secret)
    };
    // Each is a user of its own; active as far as MAS knows, so each end costs one call.
    for (listener, secret, status, calls) in [
        (LISTENER, DEFAULT_SECRET, 200, 2),
        (LISTENER, DEFAULT_SECRET, 404, 2),
        (LISTENER, DEFAULT_SECRET, 500, 2),
        (LISTENER, "wrong", 200, 2),
        (LISTENER, "wrong", 403, 1),
        (INJECTED, "whatever", 200, 2),
        (INJECTED, "whatever", 201, 2),
        (INJECTED, DEFAULT_SECRET, 401, 1),
        (INJECTED, DEFAULT_SECRET, 404, 1),
        (INJECTED, DEFAULT_SECRET, 500, 1),
        (INJECTED, DEFAULT_SECRET, 302, 1),
    ] {
        let name = format!("{listener}-{secret}-{status}");
        let mut connection = Connection::open(edge.envoy.addr()).await;
        let token = edge.active(&name, "PHONE");
        assert_eq!(whoami(&mut connection, &token).await.status, 200);
        edge.homeserver
            .respond("/_synapse/mas/delete_user", status, "{}");
        let told = http::send(edge.envoy.listener(listener), &delete(&name, secret)).await;
        assert_eq!(told.status, status, "{name}");
        hear(&edge, &mut connection).await;
        assert_eq!(whoami(&mut connection, &token).await.status, 200);
        assert_eq!(edge.mas.calls(&token), calls, "{name}");
    }

    let mut connection = Connection::open(edge.envoy.addr()).await;
    let mut told = Vec::new();
    // What is proven ends once more when it is answered, also by Envoy.
    for (listener, (calls, in_the_end)) in SILENT.into_iter().zip([(2, 3), (1, 1)]) {
        let token = edge.active(listener, "PHONE");
        assert_eq!(whoami(&mut connection, &token).await.status, 200);
        let mut provisioning = Connection::open(edge.envoy.listener(listener)).await;
        let request = delete(listener, DEFAULT_SECRET);
        let sent = edge.envoy.stat("cluster.silent.upstream_rq_total").await;
        provisioning.send(&request.to_bytes()).await;
        edge.envoy
            .wait_for_stat("cluster.silent.upstream_rq_total", |n| n > sent)
            .await;
        hear(&edge, &mut connection).await;
        assert_eq!(whoami(&mut connection, &token).await.status, 200);
        assert_eq!(edge.mas.calls(&token), calls, "{listener}");
        told.push((provisioning, token, in_the_end));
    }
    drop(silent);
    for (mut provisioning, token, calls) in told {
        // Envoy's own, since the connection was reset.
        assert_eq!(provisioning.response(false).await.status, 503);
        hear(&edge, &mut connection).await;
        assert_eq!(whoami(&mut connection, &token).await.status, 200);
        assert_eq!(edge.mas.calls(&token), calls);
    }
    edge.assert_alive().await;
}

/// Resolves when the worker of `connection` has heard of everything so far.
async fn hear(edge: &Edge, connection: &mut Connection) {
    let [user, token] = [new_token("mat"), new_token("mat")];
    edge.mas.insert(&token, Session::access(&user, "PHONE"));
    assert_eq!(whoami(connection, &token).await.status, 200);
    edge.mas.lock_user(&user);
    ask_until(connection, &token, "a 401", |r| r.status == 401).await;
}

#[tokio::test]
async fn thousands_of_users_end_and_the_others_go_on() {
    const USERS: usize = 2_000;
    const BYSTANDERS: usize = 200;
    /// Users whose records had to share a slot with two that ended: of 16,384 slots, some hundred are such.
    const MOST_ASKED_AGAIN: usize = 12;
    /// 16,384 records of 41 bytes, all of them with their keys, are less than this.
    const MOST_MEMORY: u64 = 16 << 20;
    let edge = start(json!({})).await;
    let mut connections = connections(&edge, 4).await;
    let name = |number: usize| format!("user{number}");
    let mut tokens: Vec<String> = (0..USERS + BYSTANDERS)
        .map(|number| edge.active(&name(number), "PHONE"))
        .collect();
    let statuses = async |connections: &mut [Connection], tokens: &[String]| {
        let mut statuses = Vec::new();
        for tokens in tokens.chunks(connections.len()) {
            let responses = ask_all(&mut connections[..tokens.len()], tokens.iter()).await;
            statuses.extend(responses.iter().map(|response| response.status));
        }
        statuses
    };
    for _ in 0..2 {
        let held = statuses(&mut connections, &tokens).await;
        assert!(held.iter().all(|status| *status == 200));
    }
    let memory = edge.envoy.stat("server.memory_allocated").await;

    for (number, token) in tokens[..USERS].iter().enumerate() {
        match number % 4 {
            0 => edge.mas.revoke(token),
            1 => edge.mas.lock_user(&name(number)),
            2 => edge.mas.deactivate_user(&name(number)),
            _ => {
                edge.mas.revoke_unannounced(token);
                edge.mas.delete_device(&name(number), "PHONE");
            }
        }
    }
    told(&edge).await;
    let grown = edge.envoy.stat("server.memory_allocated").await;
    let grown = grown.saturating_sub(memory);
    println!("{} KiB more for {USERS} users", grown / 1024);
    assert!(grown < MOST_MEMORY, "{grown}");

    hear(&edge, &mut connections[0]).await;
    let bystanders = tokens.split_off(USERS);
    within_limit("every token to be rejected", async {
        while let statuses = statuses(&mut connections, &tokens).await
            && statuses.iter().any(|status| *status != 401)
        {
            sleep(POLL).await;
        }
    })
    .await;
    let held = statuses(&mut connections, &bystanders).await;
    assert!(held.iter().all(|status| *status == 200));
    let asked_again = bystanders
        .iter()
        .filter(|token| edge.mas.calls(token) != 1)
        .count();
    println!("{asked_again} of {BYSTANDERS} bystanders were asked about again");
    assert!(asked_again <= MOST_ASKED_AGAIN, "{asked_again}");
    edge.assert_alive().await;
}

/// Resolves when the homeserver knows of every event so far, and time has passed: the module counts it in
/// milliseconds, and an answer to a question of the same one may be from before.
async fn told(edge: &Edge) {
    within_limit("MAS to tell", edge.mas.wait_until_provisioned()).await;
    sleep(Duration::from_millis(1)).await;
}

/// Has every worker hold the answers about these tokens for itself, after one call each.
async fn hold_everywhere<'a>(
    edge: &Edge,
    connections: &mut [Connection],
    tokens: impl Iterator<Item = &'a String> + Clone,
) {
    let ask = async |connections: &mut [Connection]| {
        for token in tokens.clone() {
            for connection in &mut *connections {
                assert_eq!(whoami(connection, token).await.status, 200);
            }
        }
    };
    ask(connections).await;
    let before = decided(edge, "active", "local").await;
    ask(connections).await;
    let own = decided(edge, "active", "local").await - before;
    assert_eq!(own, (tokens.clone().count() * WORKERS) as f64);
    for token in tokens.clone() {
        assert_eq!(edge.mas.calls(token), 1);
    }
}

async fn whoami(connection: &mut Connection, token: &str) -> Response {
    connection
        .request(&Request::get(WHOAMI).bearer(token))
        .await
}
