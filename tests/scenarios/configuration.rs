//! What single settings change, and several configurations in one process.

use std::collections::BTreeMap;

use matrix_edge_auth::host::RootId;
use serde_json::json;

use crate::{
    ALICE, BOB, WHOAMI, active, alice,
    attack::invented,
    not_active,
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
        assert_eq!(worker.send(&gateway, whoami(token)), expected, "{policy}");
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
            worker.send(&gateway, whoami(token)),
            Fate::forwarded_unannotated()
        );
    }
}

/// Such a token cannot exist, and MAS, which it never reaches, would call it inactive.
#[test]
fn an_unrecognized_token_with_a_control_byte_never_passes_unverified() {
    for (policy, expected) in [
        ("pass", Fate::forwarded_unannotated()),
        ("introspect", not_active()),
        ("reject", not_active()),
    ] {
        let mut worker = SimulatedWorker::new(&Process::new());
        let gateway = gateway(1, json!({"unrecognized_tokens": policy}));
        for byte in ["%00", "%01", "%0A", "%7F"] {
            let request = Request::get(&format!("{WHOAMI}?access_token=junk{byte}"));
            assert_eq!(worker.send(&gateway, request), expected, "{policy} {byte}");
        }
        assert!(worker.calls().is_empty());
    }
}

#[test]
fn a_query_token_is_rejected_where_configured() {
    let mut worker = SimulatedWorker::new(&Process::new());
    let request = Request::get(&format!("{WHOAMI}?access_token={ALICE}"));
    assert_eq!(
        worker.send(&gateway(1, json!({})), request.clone()),
        Fate::Held
    );
    let missing = r#"{"errcode":"M_MISSING_TOKEN","error":"Missing access token"}"#;
    let rejecting = gateway(2, json!({"query_token": "reject"}));
    assert_eq!(
        worker.send(&rejecting, request),
        Fate::Replied(401, missing.into())
    );
}

/// The form says whose the request is, and the gateway does not read it.
#[test]
fn a_form_without_a_header_is_rejected_where_configured() {
    let missing = Fate::Replied(
        401,
        r#"{"errcode":"M_MISSING_TOKEN","error":"Missing access token"}"#.into(),
    );
    let form = |path: &str| {
        Request::new("POST", path)
            .header("content-type", "application/x-www-form-urlencoded")
            .body(format!("access_token={ALICE}"))
    };
    let pass = gateway(1, json!({}));
    let reject = gateway(2, json!({"form_tokens": "reject"}));
    let no_query = gateway(3, json!({"query_token": "reject"}));
    let mut worker = SimulatedWorker::new(&Process::new());
    let forwarded = Fate::forwarded_unannotated();
    let with_query = &format!("{WHOAMI}?access_token={ALICE}");
    for (gateway, path, expected) in [
        (&pass, WHOAMI, &forwarded),
        (&pass, with_query, &forwarded),
        (&reject, WHOAMI, &missing),
        (&reject, with_query, &missing),
        // The homeserver refuses the method before it looks at a token.
        (&reject, "/_matrix/client/versions", &forwarded),
        // Another service's form is not Matrix's to judge.
        (&reject, "/hookshot/form", &forwarded),
        // A token does not count here, or it is MAS's.
        (&reject, "/_matrix/client/v3/login", &forwarded),
        (&reject, "/_matrix/federation/v1/version", &forwarded),
        (&reject, "/oauth2/token", &forwarded),
        (&no_query, WHOAMI, &forwarded),
        (&no_query, with_query, &missing),
        (&no_query, &format!("{WHOAMI}?access%5ftoken="), &missing),
    ] {
        assert_eq!(worker.send(gateway, form(path)), *expected, "{path}");
    }
    let with_header = form(WHOAMI).bearer(ALICE);
    assert_eq!(worker.send(&reject, with_header), Fate::Held);
    let json = Request::new("POST", WHOAMI)
        .header("content-type", "application/json")
        .body("{}");
    assert_eq!(worker.send(&reject, json), missing);
}

/// In a fleet Envoy repeats calls, since it knows the member that it has asked.
#[test]
fn envoy_is_told_to_repeat_calls_where_each_token_has_a_member_of_its_own() {
    let failed = Some("reset");
    for (introspection, expected_reasons, count) in [
        (json!({}), None, None),
        (json!({"retries": 2}), None, None),
        // Envoy repeats a call once unless it is told otherwise.
        (json!({"shard_by_token": true}), failed, None),
        (json!({"shard_by_token": true, "retries": 1}), failed, None),
        (json!({"shard_by_token": true, "retries": 0}), None, None),
        (
            json!({"shard_by_token": true, "retries": 2}),
            failed,
            Some("2"),
        ),
    ] {
        let headers = headers_of_a_call(introspection);
        let found = headers.get("x-envoy-max-retries").map(String::as_str);
        assert_eq!(found, count);
        let reasons = headers.get("x-envoy-retry-on").map(String::as_str);
        assert_eq!(reasons, expected_reasons);
    }
}

#[test]
fn a_refusal_of_the_homeserver_is_not_looked_at_where_configured() {
    let mut host_calls = Vec::new();
    for (learn, expected) in [(true, Fate::Held), (false, alice())] {
        let mut worker = SimulatedWorker::new(&Process::new());
        let gateway = gateway(1, json!({"learn_from_refusals": learn}));
        let held = worker.request(&gateway, whoami(ALICE));
        worker.answer_only_call(&active("alice"));
        let hit = worker.request(&gateway, whoami(ALICE));
        let before: u64 = worker.host_calls().values().sum();
        for stream in [held, hit] {
            worker.response(stream, 401);
        }
        let after: u64 = worker.host_calls().values().sum();
        host_calls.push(after - before);
        assert_eq!(worker.send(&gateway, whoami(ALICE)), expected, "{learn}");
    }
    assert!(host_calls[0] > 0 && host_calls[1] == 0, "{host_calls:?}");
}

#[test]
fn the_call_carries_the_credential_that_is_configured() {
    let basic = json!({"client_id": "a b", "client_secret": {"value": "s:x"}});
    for (credential, expected) in [
        // `a b:s:x`: MAS compares the bytes of the pair, and does not decode its halves.
        (json!({"basic": basic}), Some("Basic YSBiOnM6eA==")),
        (json!({"injected": true}), None),
    ] {
        let headers = headers_of_a_call(json!({"credential": credential}));
        let authorization = headers.get("authorization").map(String::as_str);
        assert_eq!(authorization, expected);
    }
}

#[test]
fn sharding_puts_a_label_of_the_token_before_the_authority() {
    let headers =
        headers_of_a_call(json!({"authority": "auth.example.org", "shard_by_token": true}));
    let (label, rest) = headers[":authority"].split_once('.').unwrap();
    assert_eq!((label.len(), rest), (4, "auth.example.org"));
}

#[test]
fn mas_is_asked_at_the_configured_path() {
    let headers = headers_of_a_call(json!({"path": "/prefix/oauth2/introspect"}));
    assert_eq!(headers[":path"], "/prefix/oauth2/introspect");
}

/// Returns the headers of an introspection call under these settings.
fn headers_of_a_call(introspection: serde_json::Value) -> BTreeMap<String, String> {
    let mut worker = SimulatedWorker::new(&Process::new());
    let gateway = gateway(1, json!({"introspection": introspection}));
    worker.request(&gateway, whoami(ALICE));
    worker.calls().remove(0).headers.into_iter().collect()
}

#[test]
fn a_configuration_update_shares_the_cache_and_the_flights() {
    let process = Process::new();
    let mut worker = SimulatedWorker::new(&process);
    let (old, new) = (gateway(1, json!({})), gateway(2, json!({"mode": "shadow"})));
    let first = worker.request(&old, whoami(ALICE));
    let second = worker.request(&new, whoami(ALICE));
    worker.answer_only_call(&active("alice"));
    assert_eq!(worker.fate(first), alice());
    assert_eq!(worker.fate(second), Fate::forwarded_unannotated());
    assert_eq!(worker.send(&new, whoami(ALICE)), alice());
}

#[test]
fn another_mas_is_asked_on_its_own() {
    let mut worker = SimulatedWorker::new(&Process::new());
    let one = gateway(1, json!({}));
    let other = gateway(2, json!({"introspection": {"cluster": "other"}}));
    worker.request(&one, whoami(ALICE));
    worker.answer_only_call(&active("alice"));
    assert_eq!(worker.send(&other, whoami(ALICE)), Fate::Held);
}

#[test]
fn an_orphaned_call_is_repeated_by_another_root() {
    let mut worker = SimulatedWorker::new(&Process::new());
    let (old, new) = (gateway(1, json!({})), gateway(2, json!({})));
    let first = worker.request(&old, whoami(ALICE));
    let second = worker.request(&new, whoami(ALICE));
    worker.hang_up(first);
    worker.drop_root(RootId(1));
    assert!(worker.calls().is_empty(), "its calls went with it");
    worker.tick();
    worker.answer_only_call(&active("alice"));
    assert_eq!(worker.fate(second), alice());
}

/// A worker's own cache is one for all listeners.
#[test]
fn a_listener_that_keeps_few_sessions_pushes_out_none_of_another() {
    for few in [0, 1, 10] {
        let process = Process::new();
        let mut worker = SimulatedWorker::new(&process);
        let large = gateway(1, json!({}));
        let small = gateway(2, json!({"cache": {"local_entries": few}}));
        let tokens: Vec<String> = (0..100).map(invented).collect();
        for token in &tokens {
            worker.request(&large, whoami(token));
            worker.answer_only_call(&active("alice"));
        }
        assert_eq!(worker.local_entries(), 100);
        for token in [ALICE, BOB] {
            worker.request(&small, whoami(token));
            worker.answer_only_call(&active("bob"));
        }
        let kept = if few == 0 { 100 } else { 102 };
        assert_eq!(worker.local_entries(), kept, "local_entries: {few}");
        let reads = worker.host_calls()["read shared data"];
        for token in &tokens {
            assert_eq!(worker.send(&large, whoami(token)), alice());
        }
        assert_eq!(worker.host_calls()["read shared data"], reads);
    }
}

/// Those that the worker has kept for the larger one go as new ones come.
#[test]
fn the_bound_of_a_workers_own_cache_goes_with_its_listener() {
    let mut worker = SimulatedWorker::new(&Process::new());
    let large = gateway(1, json!({}));
    let small = gateway(2, json!({"cache": {"local_entries": 10}}));
    for token in (0..100).map(invented) {
        worker.request(&large, whoami(&token));
        worker.answer_only_call(&active("alice"));
    }
    worker.request(&small, whoami(ALICE));
    worker.answer_only_call(&active("alice"));
    assert_eq!(worker.local_entries(), 101);
    worker.drop_root(RootId(1));
    worker.request(&small, whoami(BOB));
    worker.answer_only_call(&active("bob"));
    assert_eq!(worker.local_entries(), 10);
}
