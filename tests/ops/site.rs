//! A small site under load: an Envoy with all three roles and a gateway in shadow mode beside the first, a stand-in MAS, a
//! stand-in homeserver, and clients that do what clients do on a bad day.
//!
//! The load is a story of fixed parts of its length, so that a picture of it shows each kind of event.

use std::{net::SocketAddr, time::Duration};

use serde_json::{Value, json};
use stand_in::{
    homeserver::Homeserver,
    mas::{DEFAULT_SECRET, Fault, Mas, Options, Session, introspection_body, token},
};
use tokio::{
    task::JoinSet,
    time::{Instant, sleep, sleep_until},
};

use crate::support::{
    envoy::Envoy,
    http::{self, Connection, Request},
};

const WHOAMI: &str = "/_matrix/client/v3/account/whoami";
const ADMIN: &str = "/_synapse/admin/v2/users";
pub const USERS: usize = 30;
/// Clients of the gateway that keep a connection open.
const CLIENTS: usize = 6;
/// How long such a client waits between requests.
const PAUSE: Duration = Duration::from_millis(25);

/// Envoy and what it stands between.
pub struct Site {
    pub envoy: Envoy,
    mas: Mas,
    _homeserver: Homeserver,
}

impl Site {
    pub async fn start() -> Self {
        let mas = Mas::start(Options::default()).await.expect("a free port");
        let homeserver = Homeserver::start_local().await.expect("a free port");
        let envoy = Envoy::builder()
            .concurrency(2)
            .plugin(plugin("gateway", "enforce"))
            .internal_listener("shadow", plugin("gateway", "shadow"), "homeserver")
            .internal_listener("introspection", plugin("introspection", "enforce"), "mas")
            .internal_listener(
                "provisioning",
                plugin("provisioning", "enforce"),
                "homeserver",
            )
            .homeserver(homeserver.addr())
            .mas(mas.addr())
            .start()
            .await;
        mas.set_homeserver(envoy.listener("provisioning"));
        homeserver.respond(ADMIN, 403, r#"{"errcode":"M_FORBIDDEN"}"#);
        for user in 0..USERS {
            mas.insert(&access_token(user), session(user));
        }
        Self {
            envoy,
            mas,
            _homeserver: homeserver,
        }
    }

    /// Lets clients work for so long, while one thing after the other happens.
    pub async fn run(&self, length: Duration) {
        let start = Instant::now();
        let end = start + length;
        let mut work = JoinSet::new();
        for client in 0..CLIENTS {
            work.spawn(client_of(self.envoy.addr(), client, end));
        }
        work.spawn(client_of(self.envoy.listener("shadow"), CLIENTS, end));
        work.spawn(homeserver_of(self.envoy.listener("introspection"), end));
        let at = |part: f64| sleep_until(start + length.mul_f64(part));
        at(0.2).await;
        self.herd().await;
        at(0.35).await;
        for user in 0..USERS / 3 {
            self.mas.revoke(&access_token(user));
        }
        at(0.4).await;
        for user in 0..USERS / 3 {
            self.mas.insert(&access_token(user), session(user));
        }
        for user in USERS / 3..USERS / 2 {
            let request = Request::new("POST", "/_matrix/client/v3/logout");
            http::send(self.envoy.addr(), &request.bearer(&access_token(user))).await;
        }
        at(0.55).await;
        self.mas.take_down().await;
        at(0.65).await;
        self.mas.bring_up().await.expect("the port is free again");
        at(0.8).await;
        self.scan().await;
        work.join_all().await;
    }

    /// Brings 200 invented tokens.
    pub async fn scan(&self) {
        let mut scanners = JoinSet::new();
        for number in 0..200 {
            let addr = self.envoy.addr();
            let request = Request::get(WHOAMI).bearer(&token("mat", &format!("scan {number}")));
            scanners.spawn(async move { http::send(addr, &request).await });
        }
        scanners.join_all().await;
    }

    /// Sends a request of each of these users, and returns those whose token still serves.
    pub async fn serve(&self, users: impl IntoIterator<Item = usize>) -> Vec<usize> {
        let mut served = Vec::new();
        for user in users {
            let request = Request::get(WHOAMI).bearer(&access_token(user));
            if http::send(self.envoy.addr(), &request).await.status == 200 {
                served.push(user);
            }
        }
        served
    }

    /// Lets MAS forget all sessions, and tell nobody.
    pub fn forget_all(&self) {
        for user in 0..USERS {
            self.mas.forget(&access_token(user));
        }
    }

    /// Many requests at once with tokens that no cache knows, while MAS is so slow that a scrape sees it.
    async fn herd(&self) {
        self.mas
            .fault(Fault::delay(Duration::from_millis(1_500)).times(5));
        let mut herd = JoinSet::new();
        for user in 0..5 {
            let name = format!("herd {user}");
            let token = token("mat", &name);
            self.mas
                .insert(&token, Session::access(&format!("herd{user}"), "PHONE"));
            for _ in 0..60 {
                let (addr, request) = (self.envoy.addr(), Request::get(WHOAMI).bearer(&token));
                herd.spawn(async move { http::send(addr, &request).await });
            }
        }
        herd.join_all().await;
    }
}

fn access_token(user: usize) -> String {
    token("mat", &format!("user {user}"))
}

fn session(user: usize) -> Session {
    Session::access(&format!("user{user}"), "PHONE")
}

fn plugin(role: &str, mode: &str) -> Value {
    json!({
        "role": role,
        "mode": mode,
        "server_name": "example.org",
        "introspection": {
            "cluster": "mas",
            "authority": "auth.example.org",
            "credential": {"bearer": {"value": DEFAULT_SECRET}},
            "timeout": "2s",
        },
        // Short, so that a short run has misses and renewals.
        "cache": {"ttl": "8s", "negative_ttl": "2s"},
    })
}

/// A client of the gateway: mostly with tokens of its users, sometimes without, or with one that no MAS made.
async fn client_of(addr: SocketAddr, client: usize, end: Instant) {
    let mut random = fastrand::Rng::with_seed(client as u64);
    let mut connection: Option<Connection> = None;
    while Instant::now() < end {
        let request = match random.u32(..40) {
            0 => Request::get(WHOAMI),
            1 => Request::get(WHOAMI).bearer(&token("mat", &random.u32(..).to_string())),
            2 => Request::get(ADMIN).bearer(&access_token(random.usize(..USERS))),
            3..6 => Request::get("/_matrix/client/versions"),
            _ => Request::get(WHOAMI).bearer(&access_token(random.usize(..USERS))),
        };
        let mut open = match connection.take() {
            Some(open) => open,
            None => Connection::open(addr).await,
        };
        // A connection that Envoy has closed is opened anew.
        if open.try_request(&request).await.is_some() {
            connection = Some(open);
        }
        sleep(PAUSE).await;
    }
}

/// The homeserver, which asks about the tokens of its users.
async fn homeserver_of(addr: SocketAddr, end: Instant) {
    let authorization = format!("Bearer {DEFAULT_SECRET}");
    let mut random = fastrand::Rng::with_seed(99);
    while Instant::now() < end {
        let request = Request::new("POST", "/oauth2/introspect")
            .header("Accept", "application/json")
            .header("X-MAS-Supports-Device-Id", "1")
            .header("Authorization", &authorization)
            .header("Content-Type", "application/x-www-form-urlencoded")
            .body(introspection_body(&access_token(random.usize(..USERS))));
        http::send(addr, &request).await;
        sleep(2 * PAUSE).await;
    }
}
