//! The three ways of a request: to Synapse, through an Envoy with nothing but the router, and through the module.

use std::net::SocketAddr;

use serde_json::{Value, json};
use stand_in::mas::{Mas, Options};

use super::{
    super::{
        rig::{SECRET, SERVER_NAME, sha256_hex},
        servlets,
    },
    author::{Case, Material},
    differences::{self, Outcomes},
    http2,
    outcome::Outcome,
    request::{Request, Version},
    tokens,
};
use crate::support::{
    envoy::{Envoy, bootstrap},
    http,
    synapse::{AS_TOKEN, Synapse},
};

/// The listener whose module asks MAS about every token, and knows the appservice's.
const STRICT: &str = "strict";

/// A MAS, a Synapse that tells what it did, and the two Envoys.
pub struct Stand {
    pub mas: Mas,
    synapse: Synapse,
    plain: Envoy,
    gateway: Envoy,
}

impl Stand {
    /// Starts everything. Returns also what requests are to be made from.
    pub async fn start() -> (Self, Material) {
        let options = Options {
            secret: SECRET.to_owned(),
            keep_requests: 0,
            ..Options::default()
        };
        let mas = Mas::start(options).await.expect("a free port");
        let synapse =
            Synapse::start_with(SERVER_NAME, mas.addr(), SECRET, synapse_settings()).await;
        let tokens = tokens::prepare(&mas, &synapse).await;
        let module = |unrecognized_tokens: &str, appservice_tokens: &[String]| {
            json!({
                "server_name": SERVER_NAME,
                "introspection": {"cluster": "mas", "credential": {"bearer": {"value": SECRET}}},
                "unrecognized_tokens": unrecognized_tokens,
                "appservice_tokens": appservice_tokens,
            })
        };
        let gateway = Envoy::builder()
            .plugin(module("pass", &[]))
            .internal_listener(
                STRICT,
                module("introspect", &[sha256_hex(AS_TOKEN)]),
                "homeserver",
            )
            .homeserver(synapse.addr())
            .mas(mas.addr())
            .bootstrap(connect_anew)
            .start()
            .await;
        let plain = Envoy::builder()
            .homeserver(synapse.addr())
            .bootstrap(connect_anew)
            .start()
            .await;
        (
            Self {
                mas,
                synapse,
                plain,
                gateway,
            },
            Material::new(tokens),
        )
    }

    /// Who sends requests, one at a time.
    pub fn sender(&self) -> Sender {
        let strict = self.gateway.listener(STRICT);
        Sender {
            direct: Client::new(self.synapse.addr()),
            plain: Client::new(self.plain.addr()),
            gateway: Client::new(self.gateway.addr()),
            strict: Client::new(strict),
        }
    }
}

/// The kept connections of one sender.
pub struct Sender {
    direct: Client,
    plain: Client,
    gateway: Client,
    strict: Client,
}

impl Sender {
    /// Sends the request on all of its ways.
    pub async fn send(&mut self, case: &Case) -> Outcomes {
        let request = &case.request;
        let gateway = if case.is_strict {
            &mut self.strict
        } else {
            &mut self.gateway
        };
        let direct = async {
            match request.version {
                Version::Http1 => Some(self.direct.send(request).await),
                Version::Http2 => None,
            }
        };
        let (direct, plain, gated) =
            tokio::join!(direct, self.plain.send(request), gateway.send(request));
        let mut outcomes = Outcomes {
            direct,
            plain,
            gated,
            reference: None,
        };
        if outcomes.has_difference_of_module() {
            let reference = differences::reference(request, &outcomes.gated);
            outcomes.reference = Some(self.plain.send(&reference).await);
        }
        outcomes
    }
}

/// Keeps a connection of each version to one server.
struct Client {
    addr: SocketAddr,
    http1: Option<http::Connection>,
    http2: Option<http2::Connection>,
}

impl Client {
    fn new(addr: SocketAddr) -> Self {
        Self {
            addr,
            http1: None,
            http2: None,
        }
    }

    async fn send(&mut self, request: &Request) -> Outcome {
        let response = match request.version {
            Version::Http1 => self.send_http1(request).await,
            Version::Http2 => self.send_http2(request).await,
        };
        Outcome::new(response.as_ref())
    }

    /// A kept connection may have been closed meanwhile; a new one has not.
    async fn send_http1(&mut self, request: &Request) -> Option<http::Response> {
        let (bytes, is_head) = (request.http1_bytes(), request.method == "HEAD");
        let kept = match self.http1.take() {
            Some(mut kept) => kept
                .try_raw(&bytes, is_head)
                .await
                .map(|response| (kept, response)),
            None => None,
        };
        let (connection, response) = match kept {
            Some(done) => done,
            None => {
                let mut new = http::Connection::open(self.addr).await;
                let response = new.try_raw(&bytes, is_head).await?;
                (new, response)
            }
        };
        let is_kept = !matches!(response.header("connection"), Some(text) if text.eq_ignore_ascii_case("close"));
        // After a refusal nobody knows how much of the request was read.
        if is_kept && response.status != 400 && has_length(&response) {
            self.http1 = Some(connection);
        }
        Some(response)
    }

    async fn send_http2(&mut self, request: &Request) -> Option<http::Response> {
        if let Some(kept) = &mut self.http2 {
            match kept.request(request).await {
                Ok(response) => return Some(response),
                Err(_) => self.http2 = None,
            }
        }
        let mut new = http2::Connection::open(self.addr).await;
        let response = new.request(request).await.ok()?;
        self.http2 = Some(new);
        Some(response)
    }
}

/// Makes Envoy open a connection to Synapse for each request. Synapse closes a kept one after some requests, and the
/// next one on it would then get a 503.
fn connect_anew(bootstrap: &mut Value) {
    const OPTIONS: &str = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";
    bootstrap::cluster(bootstrap, "homeserver")["typed_extension_protocol_options"] = json!({
        (OPTIONS): {
            "@type": format!("type.googleapis.com/{OPTIONS}"),
            "common_http_protocol_options": {"max_requests_per_connection": 1},
            "explicit_http_config": {"http_protocol_options": {}},
        },
    });
}

/// Whether the end of the response can be told from the end of the connection.
fn has_length(response: &http::Response) -> bool {
    let framing = ["content-length", "transfer-encoding"];
    framing.iter().any(|name| response.header(name).is_some())
}

/// A Synapse that serves as much as it can, limits nobody, and asks no other homeserver.
fn synapse_settings() -> Value {
    let mut settings = servlets::everything();
    let unlimited = json!({"per_second": 1e6, "burst_count": 1_000_000});
    for limit in [
        "message",
        "registration",
        "registration_token_validity",
        "admin_redaction",
        "3pid_validation",
        "key_requests",
        "reports",
        "room_creation",
        "media_create",
        "user_directory",
        "profile",
        "delayed_event_mgmt",
        "joins_per_room",
        "third_party_invite",
    ] {
        settings[format!("rc_{limit}")] = unlimited.clone();
    }
    for (limit, parts) in [
        ("login", &["address", "account", "failed_attempts"][..]),
        ("joins", &["local", "remote"]),
        ("invites", &["per_room", "per_user", "per_issuer"]),
        ("presence", &["per_user"]),
    ] {
        for part in parts {
            settings[format!("rc_{limit}")][part] = unlimited.clone();
        }
    }
    settings["federation_domain_whitelist"] = json!([]);
    settings["modules"] = json!([{"module": "witness.Witness"}]);
    settings["listeners"] = json!([{
        "type": "http",
        "port": 0,
        "bind_addresses": ["127.0.0.1"],
        "resources": [{"names": ["client", "federation", "keys", "static"]}],
    }]);
    settings
}
