//! Two whole workers over shared data that holds anything. Seats, leases, answers, revocations and budgets come
//! together, and hints that say anything.
//!
//! Until MAS has answered, nobody is annotated or refused by what says nothing about the token. Afterwards what MAS
//! said counts. An input is the planted values; what is planted as a seed is sent as hints as well.

#![no_main]

#[expect(dead_code, reason = "the simulated Envoy is the store")]
mod planted;
#[path = "../../tests/support/simulated.rs"]
#[expect(dead_code, reason = "it is the simulated Envoy of the scenarios")]
mod simulated;

use std::time::Duration;

use libfuzzer_sys::fuzz_target;
use matrix_edge_auth::{shared_data::name::FORMAT_VERSION, token::TokenSecret};
use serde_json::json;

use self::{
    planted::Values,
    simulated::{Fate, Process, Request, SimulatedWorker, gateway},
};

const TOKEN: &str = "mat_Z9zA8yB7xC6wD5vE4uF3tG2sH1rI0q_0lFrY1";
const ACTIVE: &str = r#"{"active":true,"scope":"urn:matrix:client:api:*","username":"alice"}"#;
const INACTIVE: &str = r#"{"active":false}"#;

/// Ticks of a quarter of a second within which every request must be decided.
const PATIENCE: usize = 100;

fuzz_target!(|input: &[u8]| {
    for answer in [ACTIVE, INACTIVE] {
        run(Values::cut(input), answer);
    }
});

fn run(values: Values, answer: &str) {
    let digest = TokenSecret::NONE.digest(TOKEN.as_bytes());
    let is_told = ["a", "n"]
        .iter()
        .any(|kind| values.tell(kind, FORMAT_VERSION, &digest.0));
    let hints = values.of("seed").to_vec();
    let process = Process::new();
    process.plant(move |key| match key {
        "matrix-edge-auth.token-secret" => Some(vec![0; 16]),
        _ => values.get(key.as_bytes()).map(<[u8]>::to_vec),
    });
    let plugin = gateway(
        1,
        json!({
            "cache": {"slots": 4, "negative_slots": 4},
            "unknown_token_budget": {"per_source": 100, "window": "10s"},
        }),
    );
    let mut workers = [
        SimulatedWorker::new(&process),
        SimulatedWorker::new(&process),
    ];
    let request = || Request::get("/_matrix/client/v3/account/whoami").bearer(TOKEN);
    let streams = workers
        .each_mut()
        .map(|worker| worker.request(&plugin, request()));
    let fates = |workers: &[SimulatedWorker; 2]| [0, 1].map(|at| workers[at].fate(streams[at]));

    if !is_told {
        for fate in fates(&workers) {
            assert!(is_undecided(&fate), "MAS has not answered: {fate:?}");
        }
    }
    for hint in &hints {
        process.broadcast(hint);
    }
    for _ in 0..PATIENCE {
        for worker in &mut workers {
            while worker.deliver() {}
            worker.answer_all(answer);
            worker.tick();
        }
        process.advance(Duration::from_millis(250));
        if !fates(&workers).contains(&Fate::Held) {
            break;
        }
    }
    for fate in fates(&workers) {
        let expected = match &fate {
            Fate::Held => false,
            _ if is_told => true,
            Fate::Replied(401, _) => answer == INACTIVE,
            Fate::Replied(status, _) => [429, 503].contains(status),
            Fate::Forwarded { user_id, .. } => {
                answer == ACTIVE && user_id.as_deref() == Some("@alice:example.org")
            }
        };
        assert!(expected, "{answer}: {fate:?}");
    }
}

/// Whether the request waits, or is told to come again.
fn is_undecided(fate: &Fate) -> bool {
    matches!(fate, Fate::Held | Fate::Replied(429 | 503, _))
}
