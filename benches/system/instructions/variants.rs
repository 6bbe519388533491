//! What is counted: an Envoy with a filter, and a kind of request.

use serde_json::{Value, json};

use super::super::{client, damaged};

/// Requests to warm up with, and as many to count.
const REQUESTS: usize = 2_000;

/// Of uploads: they take as long as 60 others.
const UPLOADS: usize = 100;

const UPLOAD_BYTES: usize = 1 << 20;

/// What stands before the homeserver.
pub enum Filter {
    None,
    /// The module, with these sections of its configuration.
    Module(Value),
    /// Another module: a file that `scripts/bench` has built.
    Built(&'static str),
    /// Whatever is in `MATRIX_EDGE_AUTH_WASM`.
    Given,
    /// Envoy's own filter, with a service that says yes.
    ExtAuthz,
}

/// Whose tokens the requests have.
pub enum Tokens {
    /// One, over and over.
    Same,
    /// Two in turn.
    InTurn,
    /// Each request has one of its own.
    New,
    /// One that no MAS can have issued.
    Impossible,
}

/// What the module's metrics must say of each request.
#[derive(Clone, Copy)]
pub struct Decision {
    pub metric: &'static str,
    pub verdict: &'static str,
    pub source: &'static str,
}

/// A kind of request at an Envoy of its own.
pub struct Variant {
    /// In the file of figures.
    pub name: &'static str,
    /// In the table.
    pub what: &'static str,
    /// The same request without a filter; none where there is nothing to compare with.
    pub beside: Option<&'static str>,
    pub filter: Filter,
    pub tokens: Tokens,
    /// Whether MAS calls them active.
    pub active: bool,
    /// The request of a token, in bytes.
    pub request: fn(&str) -> Vec<u8>,
    pub status: u16,
    pub decision: Option<Decision>,
    /// Whether the homeserver must be told who sends it.
    pub identified: bool,
    /// Calls to MAS for each request.
    pub calls: usize,
    /// To warm up, and as many to count.
    pub requests: usize,
    pub only_if_named: bool,
}

impl Variant {
    /// Whether a change of the module can alter it, or it is what such a variant is compared with.
    pub fn is_of_the_module(&self) -> bool {
        matches!(self.filter, Filter::None | Filter::Module(_))
    }

    /// The token of a request.
    pub fn token(&self, number: usize) -> String {
        let name = match self.tokens {
            Tokens::Same | Tokens::Impossible => 0,
            Tokens::InTurn => number % 2,
            Tokens::New => number,
        };
        let token = stand_in::mas::token("mat", &format!("{} {name}", self.name));
        match self.tokens {
            Tokens::Impossible => damaged(&token),
            _ => token,
        }
    }
}

/// All of them, in the order of the table.
pub fn all() -> Vec<Variant> {
    let mut all = without_filter();
    all.extend(by_hand());
    all.extend(alternatives());
    all.extend(hits());
    all.extend(passing());
    all.extend(refused());
    all.extend(never_seen());
    all
}

/// A proxied request of one active session.
fn whoami(name: &'static str, what: &'static str, filter: Filter) -> Variant {
    Variant {
        name,
        what,
        beside: Some("none"),
        filter,
        tokens: Tokens::Same,
        active: true,
        request: client::whoami,
        status: 200,
        decision: None,
        identified: true,
        calls: 0,
        requests: REQUESTS,
        only_if_named: false,
    }
}

/// The same at the module.
fn module(
    name: &'static str,
    what: &'static str,
    settings: Value,
    decision: [&'static str; 2],
) -> Variant {
    let [verdict, source] = decision;
    Variant {
        decision: Some(Decision {
            metric: "matrix_edge_auth_requests_total",
            verdict,
            source,
        }),
        ..whoami(name, what, Filter::Module(settings))
    }
}

fn without_filter() -> Vec<Variant> {
    let alone = |name, what, request| Variant {
        beside: None,
        identified: false,
        request,
        ..whoami(name, what, Filter::None)
    };
    vec![
        alone("none", "no filter", client::whoami),
        alone("none-federation", "no filter: federation", federation),
        alone("none-media", "no filter: media", media),
        Variant {
            requests: UPLOADS,
            ..alone("none-upload", "no filter: an upload of 1 MiB", upload)
        },
    ]
}

fn by_hand() -> Vec<Variant> {
    let by_hand = |name, what, file| whoami(name, what, Filter::Built(file));
    vec![
        by_hand("floor", "by hand, a hit: the fewest calls", "floor.wasm"),
        by_hand(
            "limit-not-learning",
            "by hand, a hit: and called for the response and at the end",
            "limit_not_learning.wasm",
        ),
        by_hand(
            "limit",
            "by hand, a hit: and the status is read",
            "limit.wasm",
        ),
        by_hand(
            "limit-shared",
            "by hand, a shared hit: and a record is read",
            "limit_shared.wasm",
        ),
        by_hand(
            "limit-shared-whole",
            "the same, with all that the module promises",
            "limit_shared_whole.wasm",
        ),
        Variant {
            identified: false,
            ..by_hand(
                "limit-pass",
                "by hand, a request that passes",
                "limit_pass.wasm",
            )
        },
        Variant {
            tokens: Tokens::New,
            calls: 1,
            ..by_hand(
                "limit-cold",
                "by hand, an unproven token, active",
                "limit_cold.wasm",
            )
        },
        Variant {
            tokens: Tokens::New,
            calls: 1,
            ..by_hand(
                "limit-cold-whole",
                "the same, with all that the module promises",
                "limit_cold_whole.wasm",
            )
        },
        Variant {
            tokens: Tokens::New,
            calls: 1,
            ..by_hand(
                "limit-cold-spared",
                "the same, without the calls that the module spares",
                "limit_cold_spared.wasm",
            )
        },
        Variant {
            beside: None,
            tokens: Tokens::New,
            active: false,
            status: 401,
            identified: false,
            calls: 1,
            ..by_hand(
                "limit-cold-inactive-whole",
                "by hand, an unproven token, inactive: 401; with all promises",
                "limit_cold_inactive_whole.wasm",
            )
        },
        Variant {
            beside: None,
            status: 401,
            identified: false,
            ..by_hand(
                "limit-refusal",
                "by hand, a refusal: 401",
                "limit_refusal.wasm",
            )
        },
    ]
}

fn alternatives() -> Vec<Variant> {
    vec![
        Variant {
            identified: false,
            ..whoami(
                "sdk",
                "the SDK's empty filter",
                Filter::Built("empty_filter.wasm"),
            )
        },
        whoami(
            "ext-authz",
            "`ext_authz`, without the service's own cost",
            Filter::ExtAuthz,
        ),
        Variant {
            only_if_named: true,
            ..whoami(
                "given",
                "the file in `MATRIX_EDGE_AUTH_WASM`",
                Filter::Given,
            )
        },
    ]
}

fn hits() -> Vec<Variant> {
    const LOCAL: [&str; 2] = ["active", "local"];
    vec![
        module(
            "local-hit",
            "active, from the worker's own cache",
            json!({}),
            LOCAL,
        ),
        module(
            "local-hit-not-learning",
            "the same with `learn_from_refusals: false`",
            json!({"learn_from_refusals": false}),
            LOCAL,
        ),
        Variant {
            beside: Some("none-upload"),
            request: upload,
            requests: UPLOADS,
            ..module("upload", "the same, an upload of 1 MiB", json!({}), LOCAL)
        },
        Variant {
            tokens: Tokens::InTurn,
            // Each of two sessions pushes the other out of the worker's own cache.
            ..module(
                "shared-hit",
                "active, from the shared cache",
                json!({"cache": {"local_entries": 1}}),
                ["active", "shared"],
            )
        },
        Variant {
            beside: None,
            identified: false,
            request: introspect,
            decision: Some(Decision {
                metric: "matrix_edge_auth_introspection_answers_total",
                verdict: "active",
                source: "shared",
            }),
            ..module(
                "introspection",
                "the homeserver's own introspection, from the cache",
                json!({"role": "introspection"}),
                LOCAL,
            )
        },
    ]
}

fn passing() -> Vec<Variant> {
    const PASSES: [&str; 2] = ["not_asked", "offline"];
    vec![
        Variant {
            beside: Some("none-federation"),
            identified: false,
            request: federation,
            ..module("federation", "federation passes", json!({}), PASSES)
        },
        Variant {
            beside: Some("none-media"),
            identified: false,
            request: media,
            ..module("media", "media passes", json!({}), PASSES)
        },
    ]
}

/// Answered without an upstream.
fn refused() -> Vec<Variant> {
    vec![
        Variant {
            beside: None,
            status: 401,
            identified: false,
            active: false,
            ..module(
                "negative-hit",
                "inactive, from the shared cache: 401",
                json!({"cache": {"negative_ttl": "120s"}}),
                ["inactive", "shared"],
            )
        },
        Variant {
            beside: None,
            status: 401,
            identified: false,
            tokens: Tokens::Impossible,
            ..module(
                "offline-reject",
                "a token that cannot exist: 401",
                json!({}),
                ["inactive", "offline"],
            )
        },
    ]
}

fn never_seen() -> Vec<Variant> {
    vec![
        Variant {
            tokens: Tokens::New,
            calls: 1,
            ..module(
                "cold-active",
                "an unproven token, active",
                json!({}),
                ["active", "mas"],
            )
        },
        Variant {
            beside: None,
            tokens: Tokens::New,
            active: false,
            status: 401,
            identified: false,
            calls: 1,
            ..module(
                "cold-inactive",
                "an unproven token, inactive: 401",
                json!({}),
                ["inactive", "mas"],
            )
        },
    ]
}

/// A request of another homeserver, with a signature of the usual length.
fn federation(_token: &str) -> Vec<u8> {
    format!(
        "GET /_matrix/federation/v1/event/$Rqnc-F-dvnEYJTyHq_iKxU2bZ1CI92-kuZq3a5lr5Zg HTTP/1.1\r\n\
         host: matrix.example.org\r\n\
         authorization: X-Matrix origin=\"other.example\",destination=\"example.org\",key=\"ed25519:a_1\",\
         sig=\"{:A<86}\"\r\n\
         accept: application/json\r\nuser-agent: Synapse/1.163.2\r\n\r\n",
        ""
    )
    .into_bytes()
}

/// A request that needs no token.
fn media(_token: &str) -> Vec<u8> {
    client::get(
        "/_matrix/media/v3/download/example.org/AbCdEfGhIjKlMnOpQrStUvWx",
        None,
    )
}

fn upload(token: &str) -> Vec<u8> {
    let head = format!(
        "POST /_matrix/media/v3/upload HTTP/1.1\r\nhost: matrix.example.org\r\n\
         authorization: Bearer {token}\r\naccept: application/json\r\nuser-agent: Element/1.11 (bench)\r\n\
         content-type: image/jpeg\r\ncontent-length: {UPLOAD_BYTES}\r\n\r\n"
    );
    let mut bytes = head.into_bytes();
    bytes.resize(bytes.len() + UPLOAD_BYTES, b'.');
    bytes
}

/// What Synapse sends.
fn introspect(token: &str) -> Vec<u8> {
    let body = format!("token={token}&token_type_hint=access_token");
    format!(
        "POST /oauth2/introspect HTTP/1.1\r\nhost: auth.example.org\r\nauthorization: Bearer bench\r\n\
         accept: application/json\r\nuser-agent: Synapse/1.163.2\r\nx-mas-supports-device-id: 1\r\n\
         content-type: application/x-www-form-urlencoded\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )
    .into_bytes()
}
