//! What single settings change, and several configurations in one process.

use std::collections::BTreeMap;

use matrix_edge_auth::host::RootId;
use serde_json::json;

use crate::{
    ALICE, WHOAMI, active, not_active,
    simulated::{Fate, Process, Request, SimulatedWorker, gateway},
    whoami,
};

#[test]
fn unrecognized_tokens_follow_the_configuration() {
    let token = "as_secret_token";
    for (policy, expected) in [
        ("pass", Fate::forwarded_unannotated()),
        ("introspect", Fate::Held),
        ("reject", not_active()),
    ] {
        let mut worker = SimulatedWorker::new(&Process::new());
        let gateway = gateway(1, json!({"unrecognized_tokens": policy}));
        assert_eq!(
            worker.fate_of(&gateway, whoami(token)),
            expected,
            "{policy}"
        );
    }
}

#[test]
fn a_listed_appservice_token_passes_whatever_it_looks_like() {
    use sha2::Digest;
    for token in ["as_secret_token", ALICE, "mat_looks_like_one"] {
        let mut digest = String::new();
        for byte in sha2::Sha256::digest(token) {
            digest.push_str(&format!("{byte:02x}"));
        }
        let mut worker = SimulatedWorker::new(&Process::new());
        let gateway = gateway(
            1,
            json!({"unrecognized_tokens": "reject", "appservice_tokens": ["0".repeat(64), digest, "f".repeat(64)]}),
        );
        assert_eq!(
            worker.fate_of(&gateway, whoami(token)),
            Fate::forwarded_unannotated()
        );
    }
}

#[test]
fn a_query_token_is_rejected_where_configured() {
    let mut worker = SimulatedWorker::new(&Process::new());
    let request = Request::get(&format!("{WHOAMI}?access_token={ALICE}"));
    assert_eq!(
        worker.fate_of(&gateway(1, json!({})), request.clone()),
        Fate::Held
    );
    let missing = r#"{"errcode":"M_MISSING_TOKEN","error":"Missing access token"}"#;
    let rejecting = gateway(2, json!({"query_token": "reject"}));
    assert_eq!(
        worker.fate_of(&rejecting, request),
        Fate::Answered(401, missing.into())
    );
}

#[test]
fn the_other_credential_forms_and_the_shard_label() {
    let authorization = |introspection: serde_json::Value| {
        let mut worker = SimulatedWorker::new(&Process::new());
        let mut config = json!({"introspection": {"cluster": "mas", "credential": null}});
        config["introspection"] = introspection;
        let config =
            json!({"server_name": "example.org", "introspection": config["introspection"]});
        let config =
            matrix_edge_auth::config::parse(config.to_string().as_bytes(), &|_| None).unwrap();
        let gateway = std::rc::Rc::new(matrix_edge_auth::worker::Plugin::new(RootId(1), config));
        worker.request(&gateway, whoami(ALICE));
        let headers: BTreeMap<_, _> = worker.calls().remove(0).headers.into_iter().collect();
        (
            headers.get("authorization").cloned(),
            headers[":authority"].clone(),
        )
    };
    let basic = json!({"client_id": "a b", "client_secret": {"value": "s:é".replace('é', "x")}});
    assert_eq!(
        authorization(json!({"cluster": "mas", "credential": {"basic": basic}}))
            .0
            .as_deref(),
        Some("Basic YStiOnMlM0F4"),
    );
    assert_eq!(
        authorization(json!({"cluster": "mas", "credential": {"injected": true}})).0,
        None
    );
    let (_, authority) = authorization(json!({
        "cluster": "mas", "authority": "auth.example.org", "shard_by_token": true,
        "credential": {"injected": true},
    }));
    let (label, rest) = authority.split_once('.').unwrap();
    assert_eq!((label.len(), rest), (4, "auth.example.org"));
}

#[test]
fn a_configuration_update_shares_the_cache_and_the_flights() {
    let process = Process::new();
    let mut worker = SimulatedWorker::new(&process);
    let (old, new) = (gateway(1, json!({})), gateway(2, json!({"mode": "shadow"})));
    let first = worker.request(&old, whoami(ALICE));
    let second = worker.request(&new, whoami(ALICE));
    worker.answer_the_call(&active("alice"));
    for stream in [first, second] {
        assert_eq!(
            worker.fate(stream),
            Fate::forwarded_as("@alice:example.org")
        );
    }
    assert_eq!(
        worker.fate_of(&new, whoami(ALICE)),
        Fate::forwarded_as("@alice:example.org")
    );
}

#[test]
fn another_mas_is_asked_on_its_own() {
    let mut worker = SimulatedWorker::new(&Process::new());
    let one = gateway(1, json!({}));
    let other = gateway(2, json!({"introspection": {"cluster": "other"}}));
    worker.request(&one, whoami(ALICE));
    worker.answer_the_call(&active("alice"));
    assert_eq!(worker.fate_of(&other, whoami(ALICE)), Fate::Held);
}

#[test]
fn who_waits_for_the_call_of_a_vanished_configuration_is_asked_again() {
    let mut worker = SimulatedWorker::new(&Process::new());
    let (old, new) = (gateway(1, json!({})), gateway(2, json!({})));
    let first = worker.request(&old, whoami(ALICE));
    let second = worker.request(&new, whoami(ALICE));
    worker.hang_up(first);
    worker.drop_root(RootId(1));
    assert!(worker.calls().is_empty(), "its calls went with it");
    worker.tick();
    worker.answer_the_call(&active("alice"));
    assert_eq!(
        worker.fate(second),
        Fate::forwarded_as("@alice:example.org")
    );
}
