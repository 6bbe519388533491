//! Counts one variant.
//!
//! One request follows the other on one connection. After a warm-up, and when V8 has compiled what is hot, the
//! instructions of as many requests again are counted, and what the worker executes in idle time is taken off. Of
//! every request the status is checked, and of all together whether the homeserver was told who sends them, what the module
//! says of them, and how often MAS was asked.
//!
//! The non-obvious rule: only the worker's own thread counts. V8 compiles on other threads at moments of its own, and
//! Envoy's main thread has timers.

use std::{
    path::PathBuf,
    thread,
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use super::{
    super::{
        client::Connection,
        plugin,
        service::Service,
        support::{
            envoy::{Builder, Envoy, bootstrap, module},
            http::within_limit,
        },
        upstream::Mas,
    },
    counter::{Counter, built},
    variants::{Decision, Filter, Variant},
};

/// A longer request is sent in pieces, the next one when the homeserver has the one before, so that the number of times
/// that Envoy reads does not depend on the machine.
const PIECE: usize = 16 * 1024;

/// For how large a part of the time that the requests took the worker is watched while it is idle. That is many ticks of
/// its timers, which execute less than a hundredth of what requests do.
const IDLE_PART: u32 = 4;

/// Returns the instructions of one request.
///
/// # Panics
///
/// If a request was not what the variant says, since that is no figure.
pub async fn instructions(variant: &Variant) -> u64 {
    let requests = variant.requests;
    let tokens: Vec<String> = (0..2 * requests).map(|n| variant.token(n)).collect();
    let (warm_up, measured) = tokens.split_at(requests);
    let mut setup = Setup::start(variant).await;
    if variant.active {
        setup.mas.activate(&tokens);
    }

    setup.send(warm_up);
    let decided = setup.decided(requests).await;
    setup.counter.wait_until_quiet();
    let calls = setup.mas.calls();
    let identified = setup.homeserver.identified();

    let begun = Instant::now();
    let before = setup.counter.read();
    setup.send(measured);
    let after = setup.counter.read();
    thread::sleep(begun.elapsed() / IDLE_PART);
    let idle = setup.counter.read();

    let name = variant.name;
    let asked = setup.mas.calls() - calls;
    assert_eq!(
        asked,
        (variant.calls * requests) as u64,
        "{name}: calls to MAS"
    );
    if !matches!(variant.filter, Filter::Given) {
        let identified = setup.homeserver.identified() - identified;
        let expected = if variant.identified { requests } else { 0 };
        assert_eq!(identified, expected, "{name}: requests with an identity");
    }
    let decided = setup.decided(2 * requests).await - decided;
    assert_eq!(
        decided,
        variant.decision.map_or(0, |_| requests as u64),
        "{name}: decided as it says"
    );

    let worker = (0..before.len()).max_by_key(|thread| after[*thread] - before[*thread]);
    let worker = worker.expect("an Envoy has threads");
    let worked = after[worker] - before[worker];
    let idled = (idle[worker] - after[worker]) * u64::from(IDLE_PART);
    worked.saturating_sub(idled) / requests as u64
}

/// An Envoy, and all that it talks to.
struct Setup<'a> {
    variant: &'a Variant,
    client: Connection,
    envoy: Envoy,
    counter: Counter,
    mas: Mas,
    homeserver: Service,
}

impl<'a> Setup<'a> {
    async fn start(variant: &'a Variant) -> Self {
        let counter = Counter::new();
        let mas = Mas::attentive();
        let homeserver = Service::start(response(&[("content-type", "application/json")]));
        let builder = match &variant.filter {
            Filter::ExtAuthz => Envoy::builder().mas(yes()).bootstrap(add_ext_authz),
            filter => with_filter(Envoy::builder(), filter).mas(mas.addr()),
        };
        let envoy = builder
            .homeserver(homeserver.addr())
            .bootstrap(set_routes)
            .through(counter.command())
            .start()
            .await;
        Self {
            variant,
            client: Connection::open(envoy.addr()),
            envoy,
            counter,
            mas,
            homeserver,
        }
    }

    /// Sends a request of each token, and reads the responses.
    fn send(&mut self, tokens: &[String]) {
        for token in tokens {
            let request = (self.variant.request)(token);
            if request.len() <= PIECE {
                self.client.send(&request);
            } else {
                self.send_in_pieces(&request);
            }
            self.client.expect(self.variant.status);
        }
    }

    fn send_in_pieces(&mut self, request: &[u8]) {
        let head = request.windows(4).position(|end| end == b"\r\n\r\n");
        let head = head.expect("a request has a head") + 4;
        let arrived = self.homeserver.received();
        let mut sent = 0;
        for piece in request.chunks(PIECE) {
            self.client.send(piece);
            sent += piece.len();
            self.homeserver.wait_for(arrived + sent - head);
        }
    }

    /// Requests that the module has decided as the variant says, by its own metrics, once it has told of this many in all.
    async fn decided(&self, requests: usize) -> u64 {
        let Some(Decision {
            metric,
            verdict,
            source,
        }) = self.variant.decision
        else {
            return 0;
        };
        within_limit("the module to count all requests", async {
            loop {
                let stats = self.envoy.stats().await;
                if stats.sum(metric, &[]) as usize >= requests {
                    let labels = [("verdict", verdict), ("source", source)];
                    return stats.sum(metric, &labels) as u64;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        })
        .await
    }
}

/// The address of a service that says yes, and who it is.
fn yes() -> std::net::SocketAddr {
    Service::start(response(&[
        ("x-matrix-user-id", "@somebody:example.org"),
        ("x-matrix-device-id", "AABBCCDDEE"),
    ]))
    .addr()
}

fn response(headers: &[(&str, &str)]) -> String {
    let headers: String = headers
        .iter()
        .map(|(name, value)| format!("{name}: {value}\r\n"))
        .collect();
    format!("HTTP/1.1 200 OK\r\n{headers}content-length: 2\r\n\r\n{{}}")
}

fn with_filter(builder: Builder, filter: &Filter) -> Builder {
    match filter {
        Filter::None | Filter::ExtAuthz => builder,
        Filter::Module(settings) => builder.plugin(plugin(settings)),
        Filter::Built(file) => with_module(builder, built(file)),
        Filter::Given => with_module(builder, module()),
    }
}

/// Another module in the place of the module. It may call whatever it likes.
fn with_module(builder: Builder, file: PathBuf) -> Builder {
    builder.plugin(json!({})).bootstrap(move |config| {
        let plugin = bootstrap::plugin(bootstrap::http_manager(config));
        plugin["vm_config"]["code"]["local"]["filename"] = json!(file);
        plugin[bootstrap::CAPABILITIES].take();
    })
}

fn add_ext_authz(config: &mut Value) {
    let headers = ["x-matrix-user-id", "x-matrix-device-id"].map(|name| json!({"exact": name}));
    let filter = json!({
        "name": "envoy.filters.http.ext_authz",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.http.ext_authz.v3.ExtAuthz",
            "http_service": {
                "server_uri": {"uri": "http://authorizer", "cluster": "mas", "timeout": "5s"},
                "authorization_response": {"allowed_upstream_headers": {"patterns": headers}},
            },
        },
    });
    bootstrap::http_filters(bootstrap::http_manager(config)).insert(0, filter);
}

/// Three routes, one of them a regular expression, as in a deployment: Envoy looks for one, and again when a header was set.
fn set_routes(config: &mut Value) {
    let manager = bootstrap::http_manager(config);
    let routes = &mut manager["route_config"]["virtual_hosts"][0]["routes"];
    let to_homeserver = routes[0]["route"].clone();
    *routes = json!([
        {
            "match": {"safe_regex": {"regex":
                "/_matrix/client/(api/v1|r0|v3|unstable)/(login(/sso/redirect(/[^/]*)?)?|logout(/all)?|refresh)"}},
            "route": {"cluster": "mas", "timeout": "60s"},
        },
        {"match": {"prefix": "/_synapse/admin/"}, "direct_response": {"status": 403}},
        {"match": {"prefix": "/"}, "route": to_homeserver},
    ]);
}
