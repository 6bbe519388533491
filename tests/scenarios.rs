//! Scenarios on a simulated Envoy: the real core, a virtual clock, several workers, injected faults.

#![cfg(not(target_arch = "wasm32"))]

#[path = "support/every_key.rs"]
mod every_key;
#[path = "support/simulated.rs"]
#[expect(dead_code, reason = "each test layer uses a part of it")]
mod simulated;

#[path = "scenarios/askers.rs"]
mod askers;
#[path = "scenarios/attack.rs"]
mod attack;
#[path = "scenarios/backoff.rs"]
mod backoff;
#[path = "scenarios/bodies.rs"]
mod bodies;
#[path = "scenarios/budget.rs"]
mod budget;
#[path = "scenarios/chain.rs"]
mod chain;
#[path = "scenarios/client_routes.rs"]
mod client_routes;
#[path = "scenarios/configuration.rs"]
mod configuration;
#[path = "scenarios/ends.rs"]
mod ends;
#[path = "scenarios/expiry.rs"]
mod expiry;
#[path = "scenarios/faults.rs"]
mod faults;
#[path = "scenarios/formats.rs"]
mod formats;
#[path = "scenarios/gateway.rs"]
mod gateway;
#[path = "scenarios/heads.rs"]
mod heads;
#[path = "scenarios/introspection_role.rs"]
mod introspection_role;
#[path = "scenarios/known.rs"]
mod known;
#[path = "scenarios/names.rs"]
mod names;
#[path = "scenarios/outage.rs"]
mod outage;
#[path = "scenarios/provisioning.rs"]
mod provisioning;
#[path = "scenarios/random.rs"]
mod random;
#[path = "scenarios/refusals.rs"]
mod refusals;
#[path = "scenarios/renewal.rs"]
mod renewal;
#[path = "scenarios/retries.rs"]
mod retries;
#[path = "scenarios/rush.rs"]
mod rush;
#[path = "scenarios/sessions.rs"]
mod sessions;
#[path = "scenarios/shadow.rs"]
mod shadow;
#[path = "scenarios/siege.rs"]
mod siege;
#[path = "scenarios/silence.rs"]
mod silence;
#[path = "scenarios/trust.rs"]
mod trust;
#[path = "scenarios/workers.rs"]
mod workers;

use serde_json::json;

use self::simulated::{Fate, Request};

const ALICE: &str = "mat_Z9zA8yB7xC6wD5vE4uF3tG2sH1rI0q_0lFrY1";
const BOB: &str = "mat_mavzfVABqZ5YsOOlB1f46RfHk7hp3I_0pfwQt";
const WHOAMI: &str = "/_matrix/client/v3/account/whoami";
const INACTIVE: &str = r#"{"active":false}"#;
const NOT_ACTIVE: &str =
    r#"{"errcode":"M_UNKNOWN_TOKEN","error":"Token is not active","soft_logout":false}"#;
/// Envoy's reply where MAS closes the connection before it answers.
const CONNECTION_CLOSED: &str = "upstream connect error or disconnect/reset before headers. reset reason: connection termination";
const UNABLE: &str = r#"{"errcode":"M_UNKNOWN","error":"Unable to introspect the access token"}"#;

fn active(username: &str) -> String {
    json!({"active": true, "scope": "urn:matrix:client:api:*", "username": username}).to_string()
}

fn whoami(token: &str) -> Request {
    Request::get(WHOAMI).bearer(token)
}

fn alice() -> Fate {
    Fate::forwarded_as("@alice:example.org")
}

fn unable() -> Fate {
    Fate::Replied(503, UNABLE.to_owned())
}

fn not_active() -> Fate {
    Fate::Replied(401, NOT_ACTIVE.to_owned())
}
