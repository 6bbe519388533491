//! Every exchange of `tests/wire/synapse.jsonl`, sent again through the gateway: the recorded
//! answer comes back, and where it is about the access token, the gateway gives it without
//! troubling Synapse.

use percent_encoding::percent_decode_str;
use serde_json::Value;
use stand_in::mas::{Fault, Session};

use super::{
    answer::{Answer, until_answered},
    recorder::Head,
    recording::{self, Exchange},
    rig::{Rig, localpart, with_rig},
};
use crate::support::http;

/// Exchanges that end otherwise through the gateway: the status then, and why.
const DIFFERENCES: [(&str, u16, &str); 13] = [
    (
        "keysquery-token-in-multipart-body",
        401,
        "there is no token, and the gateway looks no further",
    ),
    (
        "masdown-auth_metadata-wellformed",
        200,
        "only introspection is down here, and this asks MAS for other things",
    ),
    (
        "masdown-whoami-badcrc",
        401,
        "a wrong checksum shows that the token cannot exist, without MAS",
    ),
    ("nonexistent-garbage", 401, UNKNOWN_PATH),
    ("nonexistent-inactive", 401, UNKNOWN_PATH),
    ("synapse-mas-endpoint-shared-secret", 404, FOR_MAS_ONLY),
    ("synapse-mas-endpoint-user-token", 404, FOR_MAS_ONLY),
    (
        "whoami-absolute-form",
        200,
        "Envoy turns a request target in absolute form into a path",
    ),
    (
        "whoami-long-garbage-8k",
        503,
        "the gateway asks about no token that is longer than any of MAS",
    ),
    (
        "whoami-query-syt-nul",
        401,
        "no token has a NUL; MAS fails on it, so anyone could provoke a 503",
    ),
    ("whoami-two-auth-bearer-and-basic", 401, TWO_AUTHORIZATIONS),
    ("whoami-two-auth-headers-different", 401, TWO_AUTHORIZATIONS),
    ("whoami-two-auth-headers-same", 401, TWO_AUTHORIZATIONS),
];
const FOR_MAS_ONLY: &str = "the gateway has nothing under /_synapse/mas";
const TWO_AUTHORIZATIONS: &str =
    "Envoy joins two Authorization headers, which makes one that is invalid";
const UNKNOWN_PATH: &str = "on an unknown path a token is optional, and an inactive one refused";

/// Exchanges about the access token that the gateway leaves to Synapse, and why.
const LEFT_TO_SYNAPSE: [(&str, &str); 11] = [
    ("keysquery-token-in-form-body-and-header", FORM),
    ("keysquery-token-in-form-body-garbage", FORM),
    ("profile-basic", OPTIONAL),
    ("profile-lowercase", OPTIONAL),
    ("publicRooms-basic", OPTIONAL),
    ("publicRooms-lowercase", OPTIONAL),
    ("publicRooms-no-token", OPTIONAL),
    ("upload-form-body-token-garbage", FORM),
    ("upload-query-valid-form-body-garbage", FORM),
    ("versions-basic", OPTIONAL),
    ("versions-lowercase", OPTIONAL),
];
const FORM: &str = "the token is in a form body";
const OPTIONAL: &str =
    "the token is optional, so Synapse decides what its absence or a malformed one means";

/// Synapse was recorded without an answer: it waits for MAS for ever.
const UNANSWERED: &str = "fault-hang-whoami";

#[test]
fn every_recorded_answer_comes_back_through_the_gateway() {
    with_rig(async |rig| {
        let gateway = rig.gateway().await;
        let mut exchanges = recording::exchanges();
        // Before this user is made, there is no masquerading as it.
        exchanges.sort_by_key(|exchange| exchange.name != "appservice-register");
        give_sessions(&rig, &exchanges).await;
        let mut failures = Vec::new();
        for exchange in exchanges
            .iter()
            .filter(|exchange| exchange.name != UNANSWERED)
        {
            let request = exchange.request();
            let send = async || http::send_raw(gateway.addr(), &request).await;
            let is_failing = set_fault(&rig, &exchange.name);
            let is_refused = DIFFERENCES
                .iter()
                .any(|(name, status, _)| *status == 503 && *name == exchange.name);
            let response = if is_failing || is_refused || exchange.status() == Some(503) {
                send().await
            } else {
                // An exchange before it may have had the same token and a fault.
                until_answered(send).await
            };
            rig.mas.clear_faults();
            let reached = gateway.recorder.take();
            for failure in failures_of(exchange, &Answer::from(&response), &reached) {
                failures.push(format!("{}: {failure}", exchange.name));
            }
        }
        assert!(
            failures.is_empty(),
            "{} failures:\n\n{}",
            failures.len(),
            failures.join("\n\n")
        );
        assert_eq!(exchanges.len(), 291, "exchanges in the file");
    });
}

/// Gives MAS the sessions, and Synapse the users and devices, that the recorded answers speak of.
async fn give_sessions(rig: &Rig, exchanges: &[Exchange]) {
    const API: &str = "urn:matrix:client:api:*";
    let alice = || Session::access("alice", "ALICEPHONE").permanent();
    for exchange in exchanges {
        let Some(token) = exchange.bearer() else {
            continue;
        };
        let session = match exchange.name.as_str() {
            "fault-active-noscope-whoami" | "kind-alice_oauth_noapi" => alice().scope("openid"),
            "fault-active-nouser-whoami" => Session::access("nobody", "PHONE"),
            "fault-active-nousername-whoami" => Session::client_credentials("app").grant(API),
            "kind-client_credentials" => Session::client_credentials("app"),
            "kind-two-device-scopes" => alice().scope(&format!(
                "{API} urn:matrix:client:device:ONE urn:matrix:client:device:TWO"
            )),
            name if name.starts_with("kind-") && exchange.status() == Some(200) => {
                recorded_session(rig, token, &exchange.answer()).await
            }
            _ => continue,
        };
        rig.mas.insert(token, session);
    }
}

/// The session that `whoami` told of.
async fn recorded_session(rig: &Rig, token: &str, whoami: &Answer) -> Session {
    let whoami: Value = serde_json::from_str(&whoami.body).expect("JSON");
    let user = localpart(whoami["user_id"].as_str().expect("a user"));
    rig.synapse.provision_user(user).await;
    let device = whoami["device_id"].as_str();
    if let Some(device) = device {
        rig.synapse.upsert_device(user, device).await;
    }
    let session = match device {
        Some(device) if token.starts_with("mct_") => Session::compat(user, device),
        Some(device) => Session::access(user, device).permanent(),
        None => Session::access(user, "").no_device().permanent(),
    };
    if user == "erin" {
        session.admin()
    } else {
        session
    }
}

/// What MAS did wrong when the exchange was recorded.
/// Lets MAS fail as it did in this exchange. Returns whether it did.
fn set_fault(rig: &Rig, name: &str) -> bool {
    let fault = match name {
        "dbdown-whoami-cold" => Fault::status(500, "pool timed out"),
        "fault-302-whoami" => Fault::redirect("/oauth2/introspect"),
        "fault-401-whoami" => Fault::status(401, r#"{"error":"access_denied"}"#),
        "fault-429-whoami" => Fault::too_many_requests(),
        "fault-500-whoami" => Fault::status(500, r#"{"error":"server_error"}"#),
        "fault-503-whoami" => Fault::status(503, ""),
        "fault-activestr-whoami" => Fault::active_literal(r#""true""#),
        "fault-html-whoami" => Fault::html(),
        "fault-noactive-whoami" => Fault::missing_active(),
        "fault-null-whoami" => Fault::active_literal("null"),
        "fault-reset-whoami" => Fault::reset(),
        name if name.starts_with("masdown-") => Fault::close(),
        _ => return false,
    };
    rig.mas.fault(fault);
    true
}

fn failures_of(exchange: &Exchange, through: &Answer, reached: &[Head]) -> Vec<String> {
    let mut failures = Vec::new();
    let recorded = Recorded::of(exchange);
    let is_same = match &recorded {
        Recorded::Whole(answer) => through == answer,
        Recorded::Success => through.status == 200,
    };
    match DIFFERENCES.iter().find(|(name, ..)| *name == exchange.name) {
        None if !is_same => {
            failures.push(format!("the answer is\n{through:#?}\nnot\n{recorded:#?}"))
        }
        Some((_, status, _)) if through.status != *status => {
            failures.push(format!("the status is {}, not {status}", through.status));
        }
        Some((.., reason)) if is_same => failures.push(format!("no difference any more: {reason}")),
        _ => {}
    }
    if reached.len() != usize::from(goes_on(&exchange.name, through)) {
        failures.push(format!(
            "{} requests reached Synapse, which gave\n{through:#?}",
            reached.len()
        ));
    }
    if through.status == 200 && exchange.is_whoami() && !through.body.is_empty() {
        failures.extend(
            reached
                .iter()
                .filter_map(|head| wrong_identity(head, through)),
        );
    }
    failures
}

/// What the identity headers say, if it is not what Synapse says.
fn wrong_identity(head: &Head, whoami: &Answer) -> Option<String> {
    let whoami: Value = serde_json::from_str(&whoami.body).expect("JSON");
    let device = whoami["device_id"].as_str();
    // MAS does not know the bridge and its users, so the gateway does not either.
    let user = whoami["user_id"]
        .as_str()
        .filter(|user| !user.starts_with("@bridge"));
    let decoded = |name: &str| {
        let values = head.texts(name).into_iter();
        values
            .map(|value| percent_decode_str(value).decode_utf8_lossy().into_owned())
            .collect::<Vec<_>>()
    };
    let is = (decoded("x-matrix-user-id"), decoded("x-matrix-device-id"));
    let should_be = (
        Vec::from_iter(user.map(str::to_owned)),
        Vec::from_iter(device.map(str::to_owned)),
    );
    (is != should_be).then(|| format!("annotated as {is:?}, not {should_be:?}"))
}

#[derive(Debug)]
enum Recorded {
    Whole(Answer),
    /// What else a client got depended on the day.
    Success,
}

impl Recorded {
    fn of(exchange: &Exchange) -> Self {
        if exchange.status() == Some(200) && !exchange.is_whoami() {
            return Self::Success;
        }
        let mut answer = exchange.answer();
        if answer.status == 503 {
            answer.say_when_to_come_back();
        }
        Self::Whole(answer)
    }
}

/// Whether the gateway leaves the exchange that ended with `answer` to Synapse.
fn goes_on(name: &str, answer: &Answer) -> bool {
    if LEFT_TO_SYNAPSE.iter().any(|(left, _)| *left == name) {
        return true;
    }
    let error: Value = serde_json::from_str(&answer.body).unwrap_or_default();
    match answer.status {
        401 | 503 => false,
        403 => error["error"] != "You are not a server admin",
        404 => !DIFFERENCES.iter().any(|(different, ..)| *different == name),
        500 => error["error"] == "User not found",
        _ => true,
    }
}
