//! The configurations and manifests below `envoy/`, running: Envoy between a stand-in homeserver and a stand-in MAS, and
//! what every gateway among them must do. One folder a file: `compose.rs`, `envoy_gateway.rs`,
//! `istio.rs`, `kubernetes.rs`.

use std::{net::SocketAddr, path::Path};

use serde_json::{Value, json};
use stand_in::{
    SeenRequest,
    homeserver::Homeserver,
    mas::{DEFAULT_SECRET, Mas, Options, Session},
};
use tempfile::TempDir;

use super::{
    edge::{WHOAMI, assert_not_active, assert_too_large, identity, new_token, values},
    http2::Http2,
    introspection_role::{assert_active, introspect},
};
use crate::support::{
    envoy::{Builder, Envoy},
    http::{self, Request, Response},
    mesh::Upstreams,
};

/// Envoy with a configuration that is shipped, and what it stands between.
pub struct Deployed {
    pub mas: Mas,
    pub homeserver: Homeserver,
    /// Behind all other clusters.
    pub other: Homeserver,
    pub envoy: Envoy,
    /// What the configuration calls the homeserver.
    pub server_name: &'static str,
    /// Files that Envoy reads.
    pub dir: TempDir,
}

/// Paths that a proxy is tempted to rewrite, and that must arrive as they were sent.
pub const PATHS: [&str; 6] = [
    "/_matrix/client/v3/rooms/%21a%3Aexample.org/state/x/",
    "/_matrix/client/v3/room_keys/keys/%21r%3Aexample.org/a%2Fb",
    "/_matrix/client/v3/room_keys/keys/%21r%3Aexample.org/a%5Cb",
    "/_matrix/client/v3/profile//x",
    "/_matrix/federation/v1/query/profile?user_id=%40a%3Aexample.org&x=%7E",
    "/_matrix/federation/v1/event/$a-b_c~d",
];

/// Paths with characters that need no encoding and have one, or with dots. A signature of another server covers them.
pub const REDUNDANT_PATHS: [&str; 3] = [
    "/_matrix/federation/v1/event/%24a%2Db%7E",
    "/_matrix/federation/v1/state/%41",
    "/_matrix/client/v3/rooms/../x",
];

/// Checks that each request has a line of JSON in Envoy's access log, with whose it was or why the edge refused it, and
/// without its token. It is that of the user's device `PHONE`.
pub async fn assert_access_log(envoy: &Envoy, listener: SocketAddr, token: &str, user: &str) {
    let line = async |path: &str| -> Value {
        let line = envoy.wait_for_log(&format!("\"{path}\"")).await;
        serde_json::from_str(&line).unwrap_or_else(|_| panic!("one line is one object: {line}"))
    };
    let path = "/_matrix/client/v3/logged%22";
    let passing = Request::get(format!("{path}?access_token={token}"));
    assert_eq!(http::send(listener, &passing).await.status, 200);
    let passed = line(path).await;
    for (field, expected) in [
        ("user", json!(user)),
        ("device", json!("PHONE")),
        ("verdict", json!("active")),
        ("status", json!(200)),
        ("details", json!("via_upstream")),
    ] {
        assert_eq!(passed[field], expected, "{passed}");
    }
    let path = "/_matrix/client/v3/joined_rooms";
    assert_eq!(http::send(listener, &Request::get(path)).await.status, 401);
    let refused = line(path).await;
    assert_eq!(refused["details"], "matrix_edge_auth_missing_token");
    assert!(refused["user"].is_null(), "{refused}");
    assert!(!envoy.log().contains(token));
}

impl Deployed {
    /// Starts all with the bootstrap configuration that `make` returns. It may write files into the directory.
    pub async fn start(make: impl FnOnce(Upstreams, &Path) -> Value) -> Self {
        Self::start_with(make, |builder| builder.concurrency(2)).await
    }

    /// Like [`start`](Self::start), with this change to how Envoy starts.
    pub async fn start_with(
        make: impl FnOnce(Upstreams, &Path) -> Value,
        adapt: impl FnOnce(Builder) -> Builder,
    ) -> Self {
        let mas = Mas::start(Options::default()).await.expect("a free port");
        let homeserver = Homeserver::start_local().await.expect("a free port");
        let other = Homeserver::start_local().await.expect("a free port");
        let dir = tempfile::tempdir().expect("a temporary directory");
        let upstreams = Upstreams {
            homeserver: homeserver.addr(),
            mas: mas.addr(),
            other: other.addr(),
        };
        let mut made = make(upstreams, dir.path());
        // The harness brings the same labels; others are compared with them elsewhere.
        made["stats_config"].take();
        let builder = Envoy::builder()
            .env("MAS_SECRET", DEFAULT_SECRET)
            .bootstrap(move |config| {
                *config = made;
                config["stats_flush_on_admin"] = true.into();
            });
        let envoy = adapt(builder).start().await;
        Self {
            mas,
            homeserver,
            other,
            envoy,
            server_name: "example.org",
            dir,
        }
    }

    /// Sends a request to a listener, on a connection of its own.
    pub async fn send(&self, listener: &str, request: &Request) -> Response {
        http::send(self.envoy.listener(listener), request).await
    }

    /// Sends a request that must reach the homeserver, and returns it as it arrived there.
    pub async fn pass(&self, listener: &str, request: &Request) -> SeenRequest {
        let before = self.homeserver.requests().len();
        let response = self.send(listener, request).await;
        assert_eq!(response.status, 200, "{response:?}");
        let mut seen = self.homeserver.requests();
        assert_eq!(seen.len(), before + 1, "the homeserver saw one request");
        seen.remove(before)
    }

    /// A new active access token of alice, device `PHONE`.
    pub fn alice(&self) -> String {
        let token = new_token("mat");
        self.mas.insert(&token, Session::access("alice", "PHONE"));
        token
    }

    /// Checks that requests with an active token are annotated, and that no client forges an identity.
    pub async fn assert_annotates(&self, listener: &str) {
        let request = Request::get(WHOAMI)
            .bearer(&self.alice())
            .header("X-Matrix-User-Id", "@admin:example.org");
        let seen = self.pass(listener, &request).await;
        self.assert_alice(&seen);
        self.assert_removes(listener).await;
    }

    /// The same in shadow mode, where no request waits: one with a token that is known already is annotated.
    pub async fn assert_annotates_in_time(&self, listener: &str) {
        let request = Request::get(WHOAMI)
            .bearer(&self.alice())
            .header("X-Matrix-User-Id", "@admin:example.org");
        let mut seen = self.pass(listener, &request).await;
        while values(&seen, "x-matrix-user-id").is_empty() {
            seen = self.pass(listener, &request).await;
        }
        self.assert_alice(&seen);
        self.assert_removes(listener).await;
    }

    fn assert_alice(&self, seen: &SeenRequest) {
        let user = format!("@alice:{}", self.server_name);
        assert_eq!(identity(seen), [[user.as_str()], ["PHONE"]]);
    }

    /// Checks that no identity of a client's arrives where there is none of MAS's.
    async fn assert_removes(&self, listener: &str) {
        let forged = Request::get("/_matrix/client/versions")
            .header("X-Matrix-User-Id", "@admin:example.org");
        let seen = self.pass(listener, &forged).await;
        assert!(values(&seen, "x-matrix-user-id").is_empty());
        let forged = forged.header("x_matrix_user_id", "@admin:example.org");
        assert_eq!(self.send(listener, &forged).await.status, 400);
    }

    /// Checks what the access log tells of requests.
    pub async fn assert_logs(&self, listener: &str) {
        let user = format!("@alice:{}", self.server_name);
        let addr = self.envoy.listener(listener);
        assert_access_log(&self.envoy, addr, &self.alice(), &user).await;
    }

    /// Checks that a token which MAS does not know ends here.
    pub async fn assert_enforces(&self, listener: &str) {
        let request = Request::get(WHOAMI).bearer(&new_token("mat"));
        assert_not_active(&self.send(listener, &request).await);
    }

    /// Checks that a token which MAS does not know passes, and is counted.
    pub async fn assert_shadows(&self, listener: &str) {
        let request = Request::get(WHOAMI).bearer(&new_token("mat"));
        let seen = self.pass(listener, &request).await;
        assert!(values(&seen, "x-matrix-user-id").is_empty());
        let labels = [("reason", "not_active")];
        let name = "matrix_edge_auth_would_reject_total";
        while self.envoy.stats_so_far().await.sum(name, &labels) < 1.0 {
            tokio::task::yield_now().await;
        }
    }

    /// Checks that these paths arrive as they were sent.
    pub async fn assert_keeps(&self, listener: &str, paths: &[&str]) {
        for path in paths {
            let request = Request::get(path).bearer(&self.alice());
            assert_eq!(self.pass(listener, &request).await.target, *path);
        }
    }

    /// Checks that the homeserver is told one address of the client, which no client can choose.
    pub async fn assert_tells_the_true_address(&self, listener: &str) {
        for path in [
            WHOAMI,
            "/_matrix/client/v3/sync",
            "/_matrix/media/v3/upload",
        ] {
            let forged = Request::get(path)
                .bearer(&self.alice())
                .header("X-Forwarded-For", "192.0.2.1")
                .header("X-Forwarded-For", "192.0.2.2, 192.0.2.3");
            let seen = self.pass(listener, &forged).await;
            assert_eq!(values(&seen, "x-forwarded-for"), ["127.0.0.1"], "{path}");
        }
    }

    /// Checks that the login API is MAS's, which answers by itself what it answers here.
    pub async fn assert_login_is_of_mas(&self, listener: &str) {
        for path in [
            "/_matrix/client/v3/logout",
            "/_matrix/client/r0/logout/all",
            "/_matrix/client/api/v1/logout",
        ] {
            let before = self.homeserver.count();
            let request = Request::post(path, "application/json", "{}").bearer(&new_token("mct"));
            let response = self.send(listener, &request).await;
            let own = http::send(self.mas.addr(), &request).await;
            assert_eq!(self.homeserver.count(), before, "{path}");
            assert_eq!(
                (response.status, response.body),
                (own.status, own.body),
                "{path}"
            );
        }
        for path in [
            "/_matrix/client/v3/login",
            "/_matrix/client/r0/refresh",
            "/_matrix/client/v3/login/sso/redirect/x",
        ] {
            let before = self.homeserver.count();
            self.send(listener, &Request::get(path)).await;
            assert_eq!(self.homeserver.count(), before, "{path}");
        }
        // What else is below these paths is the homeserver's.
        let before = self.homeserver.count();
        let other = Request::get("/_matrix/client/v3/login/other");
        self.send(listener, &other).await;
        assert_eq!(self.homeserver.count(), before + 1);
    }

    /// Checks that a request takes no place in MAS's cluster before it has ended: a few connections could fill it.
    pub async fn assert_waits_for_whole_requests(&self, listener: &str) {
        const LOGIN: &str = "/_matrix/client/v3/login";
        let count = async |name: &str| self.envoy.stat(&format!("cluster.mas.{name}")).await;
        let [total, completed] = ["upstream_rq_total", "upstream_rq_completed"];
        let before = count(total).await;
        let whole = count(completed).await;
        let mut http2 = Http2::open(self.envoy.listener(listener)).await;
        let json = [("content-type", "application/json")];
        http2.begin_post(LOGIN, &json, b"{").await;
        // One worker reads both, in this order.
        http2.request(LOGIN, &[], true).await;
        let completed = format!("cluster.mas.{completed}");
        self.envoy
            .wait_for_stat(&completed, |now| now == whole + 1)
            .await;
        assert_eq!(count(total).await, before + 1, "{listener}");
        let long = Request::post(LOGIN, "application/json", vec![b' '; 70_000]);
        assert_eq!(self.send(listener, &long).await.status, 413, "{listener}");
    }

    /// Checks the same of the homeserver's cluster. In that of media, which may be the same, a request takes its place as it
    /// comes. Checks as well that a body may be as long as Synapse reads it.
    pub async fn assert_holds_bodies(&self, listener: &str, clusters: [&str; 2]) {
        const SEND: &str = "/_matrix/client/v3/rooms/!a:b/send/m.x/1";
        const UPLOAD: &str = "/_matrix/media/v3/upload";
        const BACKUP: &str = "/_matrix/client/v3/room_keys/keys";
        const LONGEST: usize = 200 * 65_536;
        let count = async |cluster: &str, name: &str| {
            self.envoy.stat(&format!("cluster.{cluster}.{name}")).await
        };
        let [homeserver, media] = clusters;
        let [total, completed] = ["upstream_rq_total", "upstream_rq_completed"];
        let before = count(homeserver, total).await;
        let whole = count(homeserver, completed).await;
        let uploads = count(media, total).await;
        let bearer = format!("Bearer {}", self.alice());
        let token = [("authorization", bearer.as_str())];
        let mut http2 = Http2::open(self.envoy.listener(listener)).await;
        http2.request(SEND, &token, false).await;
        // One worker reads all three, in this order.
        http2.begin_post(UPLOAD, &token, b"a beginning").await;
        http2.request(WHOAMI, &token, true).await;
        let completed = format!("cluster.{homeserver}.{completed}");
        self.envoy
            .wait_for_stat(&completed, |now| now == whole + 1)
            .await;
        let of_upload = u64::from(homeserver == media);
        let of_both = count(homeserver, total).await;
        assert_eq!(of_both, before + 1 + of_upload, "{listener}");
        let of_whoami = of_upload;
        self.envoy
            .wait_for_stat(&format!("cluster.{media}.{total}"), |now| {
                now == uploads + 1 + of_whoami
            })
            .await;
        let backup = Request::new("PUT", BACKUP).bearer(&self.alice());
        let response = self
            .send(listener, &backup.clone().body("a".repeat(LONGEST)))
            .await;
        assert_eq!(response.json()["body_bytes"], LONGEST, "{listener}");
        let longer = backup.body("a".repeat(LONGEST + 1));
        assert_eq!(self.send(listener, &longer).await.status, 413, "{listener}");
        let upload = Request::new("POST", UPLOAD).bearer(&self.alice());
        let upload = upload.body("a".repeat(LONGEST + 1));
        self.pass(listener, &upload).await;
    }

    /// Checks how Envoy answers by itself. The module's own replies are compared with Synapse's elsewhere, byte for byte.
    pub async fn assert_answers_as_synapse(&self, listener: &str) {
        let long = Request::new("PUT", "/_matrix/client/v3/room_keys/keys")
            .bearer(&self.alice())
            .body("a".repeat(200 * 65_536 + 1));
        assert_too_large(&self.send(listener, &long).await);
        assert_not_active(
            &self
                .send(listener, &Request::get(WHOAMI).bearer(&new_token("mat")))
                .await,
        );
    }

    /// Checks that what is not for the public reaches nobody, also with a good token.
    pub async fn assert_hides(&self, listener: &str) {
        let before = self.homeserver.count();
        for path in [
            "/_synapse/admin/v1/users",
            "/_synapse/mas/query_user",
            "/health",
        ] {
            let request = Request::get(path).bearer(&self.alice());
            let response = self.send(listener, &request).await;
            assert!(
                [403, 404].contains(&response.status),
                "{path}: {response:?}"
            );
        }
        assert_eq!(self.homeserver.count(), before);
    }

    /// Checks that the three roles share one cache: what the gateway has asked, the introspection role answers, and what
    /// MAS says to the provisioning role ends it.
    pub async fn assert_roles_share(
        &self,
        gateway: &str,
        [introspection, provisioning]: [&str; 2],
    ) {
        self.mas.set_homeserver(self.envoy.listener(provisioning));
        let token = new_token("mat");
        self.mas.insert(&token, Session::access("carol", "PHONE"));
        let whoami = Request::get(WHOAMI).bearer(&token);
        let before = self.mas.total_calls();
        self.pass(gateway, &whoami).await;
        let question = introspect(&token);
        let answer = self.send(introspection, &question).await;
        assert_active(&answer, "carol");
        assert_eq!(self.mas.total_calls(), before + 1);
        self.mas.lock_user("carol");
        while self.mas.total_calls() < before + 2 {
            let response = self.send(gateway, &whoami).await;
            assert!([200, 401].contains(&response.status), "{response:?}");
        }
        assert_not_active(&self.send(gateway, &whoami).await);
        // It did not end by its age.
        let stats = self.envoy.stats().await;
        assert!(stats.sum("matrix_edge_auth_invalidations_total", &[]) >= 1.0);
    }

    /// Checks that Envoy gave the module all that it asked for, and that no VM has failed.
    pub fn assert_untroubled(&self) {
        for trouble in [
            "RuntimeError",
            "Envoy refused",
            "allow_on_headers_stop_iteration",
        ] {
            assert!(!self.envoy.log().contains(trouble), "see the log");
        }
    }
}

/// Sets a member of every plugin configuration in `value` that has it.
pub fn set_everywhere(value: &mut Value, key: &str, wanted: &str) {
    match value {
        Value::Object(map) => {
            for (found, value) in map {
                if found == key && value.is_string() {
                    *value = json!(wanted);
                } else {
                    set_everywhere(value, key, wanted);
                }
            }
        }
        Value::Array(list) => list
            .iter_mut()
            .for_each(|value| set_everywhere(value, key, wanted)),
        _ => {}
    }
}
