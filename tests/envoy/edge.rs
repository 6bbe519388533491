//! The whole edge: Envoy with the module, between a stand-in homeserver and a stand-in MAS.

use std::{future::Future, net::SocketAddr, time::Duration};

use serde_json::{Value, json};
use stand_in::{
    SeenRequest,
    homeserver::Homeserver,
    mas::{DEFAULT_SECRET, Mas, Options, Session, token},
};
use tokio::{
    net::TcpSocket,
    task::{JoinHandle, JoinSet},
};

use crate::support::{
    envoy::{Builder, Envoy},
    http::{self, Connection, Request, Response, within_limit},
    recorded,
};

/// An endpoint that needs a token.
pub const WHOAMI: &str = "/_matrix/client/v3/account/whoami";

/// How many introspections have ended, by outcome.
pub const INTROSPECTIONS: &str = "matrix_edge_auth_introspections_total";

/// How often a metric is looked at while waiting for it.
const POLL: Duration = Duration::from_millis(5);

/// Envoy and what it stands between.
pub struct Edge {
    /// Behind the cluster `mas`.
    pub mas: Mas,
    /// Behind the cluster `homeserver`.
    pub homeserver: Homeserver,
    /// In front.
    pub envoy: Envoy,
}

/// The plugin configuration of these tests, with the members of `changes` put over it; one level of
/// objects is merged, what is deeper is replaced.
pub fn plugin(changes: Value) -> Value {
    let mut configuration = json!({
        "server_name": "example.org",
        "introspection": {
            "cluster": "mas",
            "authority": "auth.example.org",
            "credential": {"bearer": {"value": DEFAULT_SECRET}},
            // MAS is held back until enough has happened, which takes its time on a busy machine.
            "timeout": "1m",
        },
    });
    let Value::Object(changes) = changes else {
        panic!("changes are an object");
    };
    for (key, change) in changes {
        match (&mut configuration[&key], change) {
            (Value::Object(section), Value::Object(change)) => section.extend(change),
            (value, change) => *value = change,
        }
    }
    configuration
}

impl Edge {
    /// Starts all three. `changes` as in [`plugin`].
    pub async fn start(changes: Value) -> Self {
        Self::start_with(changes, Options::default(), |builder| builder).await
    }

    /// Starts all three, with these options of the stand-in MAS and this change to how Envoy starts.
    pub async fn start_with(
        changes: Value,
        options: Options,
        adapt: impl FnOnce(Builder) -> Builder,
    ) -> Self {
        let mas = Mas::start(options).await.expect("a free port");
        let homeserver = Homeserver::start_local().await.expect("a free port");
        let builder = Envoy::builder()
            .plugin(plugin(changes))
            .homeserver(homeserver.addr())
            .mas(mas.addr());
        let envoy = adapt(builder).start().await;
        Self {
            mas,
            homeserver,
            envoy,
        }
    }

    /// A new active access token of `@alice:example.org`, device `PHONE`.
    pub fn alice(&self) -> String {
        self.active("alice", "PHONE")
    }

    /// A new active access token.
    pub fn active(&self, username: &str, device: &str) -> String {
        let token = new_token("mat");
        self.mas.insert(&token, Session::access(username, device));
        token
    }

    /// Sends a request on a connection of its own.
    pub async fn send(&self, request: &Request) -> Response {
        http::send(self.envoy.addr(), request).await
    }

    /// Asks [`WHOAMI`] with a token in the header, on a connection of its own.
    pub async fn whoami(&self, token: &str) -> Response {
        self.send(&Request::get(WHOAMI).bearer(token)).await
    }

    /// Sends a request on a connection of its own, beside whatever else happens.
    pub fn spawn(&self, request: &Request) -> JoinHandle<Response> {
        let (addr, request) = (self.envoy.addr(), request.clone());
        tokio::spawn(async move { http::send(addr, &request).await })
    }

    /// Sends a request this often at once, each on a connection of its own.
    pub fn spawn_many(&self, request: &Request, times: usize) -> JoinSet<Response> {
        let mut set = JoinSet::new();
        for _ in 0..times {
            let (addr, request) = (self.envoy.addr(), request.clone());
            set.spawn(async move { http::send(addr, &request).await });
        }
        set
    }

    /// Sends a request that passes, and returns it as the homeserver saw it.
    #[track_caller]
    pub fn pass(&self, request: Request) -> impl Future<Output = SeenRequest> {
        let caller = std::panic::Location::caller();
        async move {
            let before = self.homeserver.requests().len();
            let response = self.send(&request).await;
            assert_eq!(response.status, 200, "{caller}: {response:?}");
            let mut seen = self.homeserver.requests();
            assert_eq!(
                seen.len(),
                before + 1,
                "{caller}: the homeserver saw one request"
            );
            seen.remove(before)
        }
    }

    /// Resolves when MAS has received this many introspections since the start.
    pub async fn wait_for_calls(&self, total: u64) {
        within_limit(
            &format!("call {total} to MAS"),
            self.mas.wait_for_calls(total),
        )
        .await;
    }

    /// Resolves when a metric of the module, summed over `labels`, is as `wanted`.
    pub async fn wait_for_metric(&self, name: &str, labels: &[(&str, &str)], wanted: f64) {
        within_limit(&format!("{name}{labels:?} to be {wanted}"), async {
            while self.envoy.stats_so_far().await.sum(name, labels) != wanted {
                tokio::time::sleep(POLL).await;
            }
        })
        .await;
    }

    /// Sends the request again and again until there is a verdict: after a call that failed MAS is left alone about a token
    /// for a second.
    pub async fn send_until_verdict(&self, request: &Request) -> Response {
        within_limit("a verdict", async {
            loop {
                let response = self.send(request).await;
                if response.status != 503 {
                    break response;
                }
                tokio::time::sleep(POLL).await;
            }
        })
        .await
    }

    /// Resolves when no call to MAS is under way, as Envoy counts them.
    pub async fn wait_until_none_is_under_way(&self) {
        within_limit("all calls to have ended", async {
            while self.envoy.stats_so_far().await.calls_under_way() > 0.0 {
                tokio::time::sleep(POLL).await;
            }
        })
        .await;
    }

    /// Resolves when this many requests have joined an introspection that was already in flight.
    pub async fn wait_for_coalesced(&self, requests: u32) {
        let name = "matrix_edge_auth_coalesced_requests_total";
        self.wait_for_metric(name, &[], requests.into()).await;
    }

    /// Checks that the module works, and that no VM of it has failed meanwhile: Envoy makes a failed one anew
    /// at the next request.
    pub async fn assert_alive(&self) {
        let response = self.whoami(&self.alice()).await;
        assert_eq!(response.status, 200, "{response:?}");
        assert!(self.envoy.is_alive());
        let stats = self.envoy.stats_so_far().await;
        for event in [
            "vm_reload",
            "vm_reload_success",
            "vm_reload_failure",
            "vm_reload_backoff",
        ] {
            let name = format!("envoy_wasm_matrix_edge_auth_{event}");
            assert_eq!(stats.find(&name, &[]), Some(0.0), "{name}");
        }
        // A trap, and what the module says when Envoy does not do what it asks for.
        for trouble in ["RuntimeError", "Envoy refused"] {
            assert!(!self.envoy.log().contains(trouble), "see the log");
        }
    }

    /// How many introspections have ended like this, by the module's own count.
    pub async fn introspections(&self, outcome: &str) -> f64 {
        let stats = self.envoy.stats().await;
        stats.sum(INTROSPECTIONS, &[("outcome", outcome)])
    }
}

/// A token as MAS makes them, with this prefix; never the same one twice.
pub fn new_token(prefix: &str) -> String {
    use std::sync::atomic::{AtomicU64, Ordering};

    static MADE: AtomicU64 = AtomicU64::new(0);
    token(prefix, &MADE.fetch_add(1, Ordering::Relaxed).to_string())
}

/// The values of a header as the homeserver saw them.
pub fn values<'a>(seen: &'a SeenRequest, name: &str) -> Vec<&'a str> {
    seen.header_values(name)
        .map(|value| std::str::from_utf8(value).expect("a header that a test asks for is text"))
        .collect()
}

/// `x-matrix-user-id` and `x-matrix-device-id` as the homeserver saw them.
///
/// # Panics
///
/// If the request has a header that some server takes for one of them: no separator of a name is another to all.
pub fn identity(seen: &SeenRequest) -> [Vec<&str>; 2] {
    for (name, _) in &seen.headers {
        let lenient = name.replace(|c: char| !c.is_ascii_alphanumeric(), "-");
        let is_ours = lenient.starts_with("x-matrix-") && *name != lenient;
        assert!(!is_ours, "{name} passes for {lenient}");
    }
    ["x-matrix-user-id", "x-matrix-device-id"].map(|name| values(seen, name))
}

/// No identity at all.
pub const NOBODY: [Vec<&str>; 2] = [Vec::new(), Vec::new()];

/// Checks that this is Synapse's reply to an inactive token.
#[track_caller]
pub fn assert_not_active(response: &Response) {
    recorded::assert_is_synapses(response, "whoami-inactive-wellformed", &[]);
}

/// Checks that this is Synapse's reply when there is no verdict, with a `Retry-After`.
#[track_caller]
pub fn assert_no_verdict(response: &Response) {
    recorded::assert_is_synapses(response, "fault-503-whoami", &["retry-after"]);
    let seconds = response
        .header("retry-after")
        .and_then(|value| value.parse().ok());
    assert!(
        seconds.is_some_and(|seconds: u32| seconds > 0),
        "{response:?}"
    );
}

/// Checks that Envoy refused a long body as Synapse would, and that a browser may read that.
#[track_caller]
pub fn assert_too_large(response: &Response) {
    assert_eq!(response.status, 413, "{response:?}");
    assert_is_matrix_error(response, "M_TOO_LARGE");
}

/// Checks that an Envoy that serves without TLS leads the login API and MAS's host to MAS, and what Envoy says of a body that
/// is too long.
pub async fn assert_mas_has_its_own(
    connection: &mut Connection,
    mas: &Mas,
    homeserver: &Homeserver,
) {
    let before = homeserver.count();
    for (host, request) in [
        (
            "example.org",
            super::sessions::logout("v3", &new_token("mct")),
        ),
        ("example.org", Request::get("/_matrix/client/v3/login")),
        (
            "auth.example.org",
            super::sessions::revocation_with_post(&new_token("mat")),
        ),
    ] {
        let request = request.header("Host", host);
        let response = connection.request(&request).await;
        let own = http::send(mas.addr(), &request).await;
        assert_eq!(
            (response.status, &response.body),
            (own.status, &own.body),
            "{host}"
        );
    }
    assert_eq!(homeserver.count(), before);
    let long = Request::new("PUT", "/_matrix/client/v3/rooms/!a:b/send/m.x/1");
    let token = new_token("mat");
    mas.insert(&token, Session::access("alice", "PHONE"));
    let long = long.bearer(&token).body("a".repeat((1 << 20) + 1));
    assert_too_large(&connection.request(&long).await);
}

/// Checks that a reply of Envoy's has the form of Matrix, and that a browser may read it.
#[track_caller]
pub fn assert_is_matrix_error(response: &Response, errcode: &str) {
    let values = |wanted: &str| -> Vec<&[u8]> {
        let named = response.headers.iter().filter(|(name, _)| name == wanted);
        named.map(|(_, value)| value.as_slice()).collect()
    };
    assert_eq!(
        values("content-type"),
        [b"application/json"],
        "{response:?}"
    );
    assert_eq!(
        values("access-control-allow-origin"),
        [b"*"],
        "{response:?}"
    );
    let error = response.json();
    assert_eq!(error["errcode"], errcode, "{response:?}");
    assert!(error["error"].is_string(), "{response:?}");
}

/// Lower hex.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Returns an address on which nothing listens. Nobody else gets the port while the socket is kept.
pub fn closed_port() -> (TcpSocket, SocketAddr) {
    let socket = TcpSocket::new_v4().expect("a socket");
    let free = SocketAddr::from(([127, 0, 0, 1], 0));
    socket.bind(free).expect("a free port");
    let addr = socket.local_addr().expect("a bound socket has an address");
    (socket, addr)
}
