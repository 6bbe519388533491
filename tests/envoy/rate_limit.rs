//! `envoy/rate-limit/` as it is shipped, but for addresses, numbers and how fast a limit fills up again: never, here.

mod service;

use serde_json::{Value, json};
use stand_in::{
    homeserver::Homeserver,
    mas::{DEFAULT_SECRET, Mas, Options, Session},
};

use self::service::RateLimitService;
use super::{
    deployed::assert_access_log,
    edge::{self, WHOAMI, new_token},
};
use crate::support::{
    envoy::{Envoy, bootstrap, read, shipped_at, yaml},
    http::{self, Connection, Request, Response},
};

const ROOMS: &str = "/_matrix/client/v3/createRoom";

/// What a user may have, and each device.
const USER: u64 = 12;
const DEVICE: u64 = 8;

/// An Envoy of two workers, with a connection to each, and what is behind it.
struct Site {
    mas: Mas,
    homeserver: Homeserver,
    connections: [Connection; 2],
    sent: usize,
    envoy: Envoy,
}

impl Site {
    async fn start(path: &str, edit: impl FnOnce(&mut Value)) -> Self {
        let mas = Mas::start(Options::default()).await.expect("a free port");
        let homeserver = Homeserver::start_local().await.expect("a free port");
        let mut config = shipped_at(path, &[]);
        let balance = json!({"exact_balance": {}});
        bootstrap::listener(&mut config)["connection_balance_config"] = balance;
        for (name, addr) in [
            ("homeserver", homeserver.addr()),
            ("homeserver-media", homeserver.addr()),
            ("mas", mas.addr()),
            ("mas-introspection", mas.addr()),
        ] {
            bootstrap::move_cluster(bootstrap::cluster(&mut config, name), addr);
        }
        edit(&mut config);
        let envoy = Envoy::builder()
            .concurrency(2)
            .env("MAS_SECRET", DEFAULT_SECRET)
            .bootstrap(move |whole| *whole = config)
            .start()
            .await;
        Self {
            mas,
            homeserver,
            connections: [
                Connection::open(envoy.addr()).await,
                Connection::open(envoy.addr()).await,
            ],
            sent: 0,
            envoy,
        }
    }

    fn device(&self, username: &str, device: &str) -> String {
        let token = new_token("mat");
        self.mas.insert(&token, Session::access(username, device));
        token
    }

    /// Sends a request through Envoy's workers in turn, from the one address of this machine.
    async fn send(&mut self, request: &Request) -> Response {
        self.sent += 1;
        self.connections[self.sent % 2].request(request).await
    }

    /// How many of this many requests with the token pass. The others get what a Matrix client understands.
    async fn passing(&mut self, token: &str, requests: u64) -> u64 {
        let mut passing = 0;
        for _ in 0..requests {
            let response = self.send(&Request::get(WHOAMI).bearer(token)).await;
            match response.status {
                200 => passing += 1,
                _ => assert_limit_exceeded(&response),
            }
        }
        passing
    }

    /// What the two limits must do, whoever counts.
    async fn assert_users_are_counted(&mut self) {
        let [phone, tablet] = ["PHONE", "TABLET"].map(|device| self.device("alice", device));
        // A device of hers has its own limit. What is over it does not count for her.
        assert_eq!(self.passing(&phone, DEVICE + 2).await, DEVICE);
        let refreshed = self.device("alice", "PHONE");
        assert_eq!(
            self.passing(&refreshed, 1).await,
            0,
            "a new token, the same device"
        );
        // Two devices share hers.
        let left = self.passing(&tablet, USER).await;
        assert!(left > 0 && left <= USER - DEVICE, "{left} of {USER}");
        // Another user at the same address, with a device of the same name, is untouched.
        let phone_of_bob = self.device("bob", "PHONE");
        assert_eq!(self.passing(&phone_of_bob, DEVICE + 2).await, DEVICE);
        // Nobody spends another's limit, or has one by saying so.
        let carol = self.device("carol", "LAPTOP");
        let forged = Request::get(WHOAMI)
            .header("X-Matrix-User-Id", "@alice:example.org")
            .bearer(&carol);
        assert_eq!(self.send(&forged).await.status, 200);
        // A bridge has no user.
        for _ in 0..USER * 2 {
            let response = self.send(&Request::get(WHOAMI).bearer("bridge")).await;
            assert_eq!(response.status, 200, "{response:?}");
        }
        // Nobody gets out of a limit by a token that only Synapse would read.
        let dave = self.device("dave", "DESK");
        for content_type in [
            "application/x-www-form-urlencoded",
            "=?utf-8?q?application/x-www-form-urlencoded?=",
            "application/x-www-form-urlencoded;a==?",
        ] {
            for target in [ROOMS.to_owned(), format!("{ROOMS}?access_token={dave}")] {
                let form = Request::new("POST", &target)
                    .header("content-type", content_type)
                    .body(format!("{{\"x\":\"&access_token={dave}&\"}}"));
                // Envoy closes a connection whose request it refuses before the body.
                let refused = http::send(self.envoy.addr(), &form).await;
                assert_eq!(
                    refused.json()["errcode"],
                    "M_MISSING_TOKEN",
                    "{content_type}"
                );
            }
        }
        // Nor by a type that is none of a form.
        let erin = self.device("erin", "DESK");
        for number in 0..DEVICE + 2 {
            let target = format!("{ROOMS}?access_token={erin}");
            let json = Request::new("POST", &target)
                .header("content-type", "application/json;a==?")
                .body("{}");
            let expected = if number < DEVICE { 200 } else { 429 };
            let response = http::send(self.envoy.addr(), &json).await;
            assert_eq!(response.status, expected, "{number}");
        }
        let frank = self.device("frank", "PHONE");
        assert_access_log(&self.envoy, self.envoy.addr(), &frank, "@frank:example.org").await;
        // The module's own replies stay its own.
        let refused = self.send(&Request::get(WHOAMI)).await;
        assert_eq!(refused.json()["errcode"], "M_MISSING_TOKEN");
        assert_eq!(self.homeserver.count(), 3 * DEVICE + left + 2 + USER * 2);
    }
}

#[track_caller]
fn assert_limit_exceeded(response: &Response) {
    assert_eq!(response.status, 429, "{response:?}");
    let body = response.json();
    assert_eq!(body["errcode"], "M_LIMIT_EXCEEDED", "{response:?}");
    assert_eq!(body["retry_after_ms"], 1000);
    for (name, value) in [
        ("content-type", "application/json"),
        ("retry-after", "1"),
        ("access-control-allow-origin", "*"),
    ] {
        assert_eq!(response.header(name), Some(value), "{name}");
    }
}

/// Gives the two limits the numbers of the tests.
fn with_small_buckets(config: &mut Value) {
    let filters = bootstrap::http_filters(bootstrap::http_manager(config));
    let limit = &mut filters[1]["typed_config"];
    limit["token_bucket"]["fill_interval"] = "3600s".into();
    let descriptors = limit["descriptors"].as_array_mut().expect("a list");
    assert_eq!(descriptors.len(), 2);
    for (descriptor, tokens) in descriptors.iter_mut().zip([USER, DEVICE]) {
        descriptor["token_bucket"] = json!({
            "max_tokens": tokens, "tokens_per_fill": tokens, "fill_interval": "3600s",
        });
    }
}

#[tokio::test]
async fn envoys_own_limit_counts_by_user_and_by_device() {
    let path = "envoy/rate-limit/envoy.yaml";
    let mut site = Site::start(path, with_small_buckets).await;
    site.assert_users_are_counted().await;
}

#[tokio::test]
async fn the_limit_of_a_fleet_counts_by_user_and_by_device() {
    let shipped = yaml(&read("envoy/rate-limit/service.yaml"));
    let service = RateLimitService::start(&shipped, USER, DEVICE).await;
    let addr = service.addr();
    let mut site = Site::start("envoy/rate-limit/global.yaml", |config| {
        bootstrap::move_cluster(bootstrap::cluster(config, "ratelimit"), addr);
        // A busy machine is no reason to let a request pass here.
        let filters = bootstrap::http_filters(bootstrap::http_manager(config));
        filters[1]["typed_config"]["timeout"] = "20s".into();
    })
    .await;
    site.assert_users_are_counted().await;

    // A service that is gone takes no request with it.
    drop(service);
    let dave = site.device("dave", "PHONE");
    assert_eq!(site.passing(&dave, 2 * DEVICE).await, 2 * DEVICE);
    let failed = site.envoy.stat("cluster.homeserver.ratelimit.error").await;
    assert!(failed > 0);
}

/// The folder's Envoy is a whole one: MAS is behind it, too.
#[tokio::test]
async fn the_login_api_and_the_host_of_mas_are_of_mas() {
    let mut site = Site::start("envoy/rate-limit/envoy.yaml", |_| {}).await;
    let (mas, homeserver) = (&site.mas, &site.homeserver);
    edge::assert_mas_has_its_own(&mut site.connections[0], mas, homeserver).await;
}
