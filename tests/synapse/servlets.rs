//! The endpoint table against the Synapse that is installed: every path and method that it serves to
//! clients, with all of its experimental features, with empty segments and in encodings, is asked without a token
//! and with a dead one.
//!
//! A newer Synapse may serve more. What the table does not say of it fails the test and is printed, so that a
//! line can be added. A difference that is meant stands in a list, with its reason; a listed one that is
//! none fails as well.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    process::Command,
};

use matrix_edge_auth::matrix::endpoint::{
    AuthRequirement::{
        self, Admin, Appservice, Blocked, Dotted, Foreign, MasOwned, None as Nothing, Optional,
        Required, Unknown,
    },
    Endpoints, Method, classify,
};
use serde::Deserialize;
use serde_json::{Value, json};
use stand_in::mas::{Mas, Options, Session};

use super::rig::{SECRET, SERVER_NAME, device};
use crate::support::{
    http::{self, Request},
    synapse::{Synapse, process::python},
};

const METHODS: [&str; 4] = ["GET", "POST", "PUT", "DELETE"];
/// Of a user who is no server admin.
const ALICE: &str = "servlets-alice";
const DEAD: &str = "servlets-dead";

/// Endpoints that the table judges otherwise: as they are printed, what the table says, and why.
const DIFFERENCES: [(&str, AuthRequirement, &str); 10] = [
    ("GET /_matrix/client/*/publicRooms", Optional, CONFIGURED),
    (
        "GET /_matrix/client/*/io.element.msc4388/rendezvous",
        Optional,
        CONFIGURED,
    ),
    (
        "POST /_matrix/client/*/io.element.msc4388/rendezvous",
        Optional,
        CONFIGURED,
    ),
    (
        "POST /_matrix/client/*/appservice/x/ping",
        Appservice,
        OF_APPSERVICES,
    ),
    (
        "POST /_matrix/client/*/appservice//ping",
        Appservice,
        OF_APPSERVICES,
    ),
    (
        "PUT /_matrix/client/*/directory/list/appservice//!x:example.org",
        Appservice,
        OF_APPSERVICES,
    ),
    (
        "PUT /_matrix/client/*/directory/list/appservice/x/",
        Appservice,
        OF_APPSERVICES,
    ),
    (
        "POST /_matrix/client/*/io.element.msc4512/appservice/fed_proxy",
        Appservice,
        OF_APPSERVICES,
    ),
    (
        "PUT /_matrix/client/*/directory/list/appservice/x/!x:example.org",
        Appservice,
        OF_APPSERVICES,
    ),
    (
        "PUT /_matrix/client/*/directory/room/%23x:example.org",
        Required,
        "Synapse looks for the room first, and then at the token",
    ),
];
const CONFIGURED: &str = "Synapse can be told to require a token and not to";
const OF_APPSERVICES: &str = "Synapse alone knows the tokens of application services";

/// Methods that the table takes to be served by a family, though this Synapse serves them on none of its
/// paths: family, method, and why.
const NOT_REFUSED: [(&str, &str, &str); 4] = [
    ("/_matrix/client/*/admin", "PUT", LATER),
    ("/_matrix/client/*/org.matrix.msc4140", "PUT", LATER),
    ("/_matrix/client/*/register", "GET", "not under MAS"),
    ("/_matrix/client/*/sync", "POST", LATER),
];
const LATER: &str = "of a proposal that Synapse does not have yet";

/// What Synapse does with the token of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Observed {
    /// It refuses a dead one, and none.
    Requires,
    /// It refuses a dead one.
    Checks,
    /// It answers as if there were none.
    Ignores,
}

#[derive(Deserialize)]
struct Served {
    path: String,
    methods: Vec<String>,
}

#[test]
fn the_table_knows_what_the_installed_synapse_does_with_a_token() {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(compare());
}

async fn compare() {
    let options = Options {
        secret: SECRET.to_owned(),
        ..Options::default()
    };
    let mas = Mas::start(options).await.expect("a free port");
    let more = everything();
    let synapse = Synapse::start_with(SERVER_NAME, mas.addr(), SECRET, more).await;
    synapse.provision_user("alice").await;
    synapse.upsert_device("alice", &device("alice")).await;
    mas.insert(
        ALICE,
        Session::access("alice", &device("alice")).permanent(),
    );
    let served: Vec<Served> = ask_servlets(&[
        "paths",
        synapse.configuration_file().to_str().expect("a path"),
    ]);
    assert!(served.len() > 400, "{} paths", served.len());

    let mut unlisted = BTreeSet::new();
    let mut listed: BTreeMap<_, _> = DIFFERENCES
        .iter()
        .map(|(endpoint, found, _)| (*endpoint, (*found, false)))
        .collect();
    for Served { path, methods } in &served {
        for method in methods {
            let found = classify(path.as_bytes(), Method::from_bytes(method.as_bytes()));
            let observed = observe(&synapse, method, path).await;
            if agree(observed, found)
                && (found != Admin || is_forbidden(&synapse, method, path).await)
            {
                continue;
            }
            let endpoint = format!("{method} {}", without_version(path));
            match listed.get_mut(&*endpoint) {
                Some((expected, is_seen)) if *expected == found => *is_seen = true,
                _ => {
                    unlisted.insert(format!(
                        "{endpoint}: Synapse {observed:?}, the table says {found:?}"
                    ));
                }
            }
        }
    }
    for (endpoint, (_, is_seen)) in listed {
        if !is_seen {
            unlisted.insert(format!("{endpoint}: listed, but no difference"));
        }
    }
    unlisted.extend(compare_methods(&served));
    let unlisted: Vec<_> = unlisted.into_iter().collect();
    assert!(unlisted.is_empty(), "{}", unlisted.join("\n"));
}

/// Returns the methods that the table takes to be refused or served, and Synapse does otherwise.
fn compare_methods(served: &[Served]) -> Vec<String> {
    let mut families: BTreeMap<String, (BTreeSet<&str>, Vec<&str>)> = BTreeMap::new();
    for Served { path, methods } in served {
        if let Some(family) = family(path) {
            let (family_methods, paths) = families.entry(family).or_default();
            family_methods.extend(methods.iter().map(String::as_str));
            paths.push(path);
        }
    }
    let endpoints = Endpoints::default();
    let mut wrong = Vec::new();
    let mut listed: BTreeSet<_> = NOT_REFUSED
        .iter()
        .map(|(family, method, _)| (*family, *method))
        .collect();
    for (family, (methods, paths)) in &families {
        for method in METHODS {
            let is_served = methods.contains(method);
            let is_listed = listed.remove(&(family.as_str(), method));
            let refused = paths
                .iter()
                .filter(|path| {
                    endpoints.refuses(path.as_bytes(), Method::from_bytes(method.as_bytes()))
                })
                .count();
            let expected = if is_served || is_listed {
                0
            } else {
                paths.len()
            };
            if refused != expected || (is_served && is_listed) {
                let (serves, refuses) = (
                    if is_served { "serves" } else { "refuses" },
                    if refused > 0 { "refuses" } else { "serves" },
                );
                wrong.push(format!(
                    "{method} {family}: Synapse {serves} it, the table says that it {refuses} it"
                ));
            }
        }
    }
    wrong.extend(
        listed
            .into_iter()
            .map(|(family, method)| format!("{method} {family}: listed, but not served at all")),
    );
    wrong
}

/// The settings that make Synapse serve as much as it can without further programs.
pub(super) fn everything() -> Value {
    let features: Vec<String> = ask_servlets(&["features"]);
    let mut experimental: serde_json::Map<_, _> = features
        .into_iter()
        .map(|feature| (feature, true.into()))
        .collect();
    experimental.insert("msc4388_mode".to_owned(), "open".into());
    json!({
        "experimental_features": experimental,
        "retention": {"enabled": true},
        "federation_whitelist_endpoint_enabled": true,
    })
}

fn ask_servlets<T: for<'de> Deserialize<'de>>(arguments: &[&str]) -> T {
    let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/synapse/servlets.py");
    let output = Command::new(python())
        .arg(program)
        .args(arguments)
        .output()
        .expect("the program runs");
    let log = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments:?}: {log}");
    serde_json::from_slice(&output.stdout).expect("JSON")
}

async fn observe(synapse: &Synapse, method: &str, path: &str) -> Observed {
    let errcode = async |request: &Request| {
        let response = http::send(synapse.addr(), request).await;
        (response.status == 401).then(|| response.json()["errcode"].clone())
    };
    let dead = errcode(&request(method, path).bearer(DEAD)).await;
    if dead != Some("M_UNKNOWN_TOKEN".into()) {
        return Observed::Ignores;
    }
    match errcode(&request(method, path)).await {
        Some(errcode) if errcode == "M_MISSING_TOKEN" => Observed::Requires,
        _ => Observed::Checks,
    }
}

/// Whether a user who is no server admin is turned away.
async fn is_forbidden(synapse: &Synapse, method: &str, path: &str) -> bool {
    let response = http::send(synapse.addr(), &request(method, path).bearer(ALICE)).await;
    response.status == 403
}

/// A request with everything that a servlet looks at before it looks at the token.
fn request(method: &str, path: &str) -> Request {
    let request = Request::new(method, format!("{path}?user_id=@alice:example.org"));
    let body = json!({
        "action": "send",
        "client_secret": "x",
        "device_data": {"algorithm": "x"},
        "device_id": "x",
        "id_access_token": "x",
        "id_server": "x",
        "initial_device_display_name": "x",
        "room_id": "!x:example.org",
        "sid": "x",
    });
    match method {
        "POST" | "PUT" => request
            .header("Content-Type", "application/json")
            .body(body.to_string()),
        _ => request,
    }
}

fn agree(observed: Observed, found: AuthRequirement) -> bool {
    match observed {
        Observed::Requires => matches!(found, Required | Admin),
        Observed::Checks => found == Optional,
        Observed::Ignores => match found {
            Appservice | Blocked | Foreign | MasOwned | Nothing => true,
            Admin | Dotted | Optional | Required | Unknown => false,
        },
    }
}

/// The path with a star for its version, since the table does not tell versions apart.
fn without_version(path: &str) -> String {
    for api in ["/_matrix/client/", "/_matrix/media/"] {
        let Some(rest) = path.strip_prefix(api) else {
            continue;
        };
        for version in ["api/v1/", "r0/", "v1/", "v3/", "unstable/"] {
            if let Some(rest) = rest.strip_prefix(version) {
                return format!("{api}*/{rest}");
            }
        }
    }
    path.to_owned()
}

/// The API and the first segment after the version, for paths that have one: what the table tells methods
/// apart by.
fn family(path: &str) -> Option<String> {
    let path = without_version(path);
    let (api, rest) = path.split_once("/*/")?;
    Some(format!("{api}/*/{}", rest.split('/').next()?))
}
