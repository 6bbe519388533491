//! Configurations that are taken, and those that are refused with one line that names the key.

#![cfg(not(target_arch = "wasm32"))]

#[path = "support/every_key.rs"]
mod every_key;

use std::time::Duration;

use matrix_edge_auth::config::{
    self, Config, FormTokens, Mode, OnFailure, QueryToken, Role, UnrecognizedTokens,
};
use serde_json::{Value, json};

const SECRET: &str = "do-not-print-me";

fn env(name: &str) -> Option<String> {
    match name {
        "MAS_SECRET" => Some(SECRET.to_owned()),
        "EMPTY" => Some(String::new()),
        "BINARY" => Some("a\u{7f}\n".to_owned()),
        "PADDED" => Some(format!("{SECRET}\n")),
        "HEADER" => Some(format!("Bearer {SECRET}")),
        _ => None,
    }
}

fn minimal() -> Value {
    json!({
        "server_name": "example.org",
        "introspection": {"cluster": "mas", "credential": {"bearer": {"env": "MAS_SECRET"}}},
    })
}

/// The minimal configuration with the value at a JSON pointer replaced, or removed if `None`.
fn with(pointer: &str, value: Option<Value>) -> Value {
    let mut json = minimal();
    let (parent, key) = pointer.rsplit_once('/').unwrap();
    let mut at = &mut json;
    for step in parent.split('/').skip(1) {
        at = at
            .as_object_mut()
            .unwrap()
            .entry(step)
            .or_insert_with(|| json!({}));
    }
    let members = at.as_object_mut().unwrap();
    match value {
        Some(value) => members.insert(key.to_owned(), value),
        None => members.remove(key),
    };
    json
}

fn parse(json: &Value) -> Result<Config, String> {
    config::parse(json.to_string().as_bytes(), &env).map_err(|error| error.to_string())
}

#[test]
fn the_defaults_are_those_of_the_contract() {
    let config = parse(&minimal()).unwrap();
    assert_eq!(config.server_name, "example.org");
    let introspection = &config.introspection;
    assert_eq!(introspection.cluster, "mas");
    assert_eq!(introspection.authority, "mas");
    assert_eq!(introspection.path, "/oauth2/introspect");
    assert_eq!(introspection.timeout, Duration::from_secs(5));
    assert_eq!(introspection.max_in_flight, 256);
    assert_eq!(introspection.retries, 1);
    assert!(!introspection.shard_by_token);
    assert_eq!(
        introspection.credential.authorization(),
        Some("Bearer do-not-print-me")
    );
    assert_eq!(config.cache.ttl, Duration::from_secs(120));
    assert_eq!(config.cache.negative_ttl, Duration::from_secs(10));
    assert_eq!(
        (config.cache.slots, config.cache.negative_slots),
        (65_536, 8_192)
    );
    assert_eq!(config.mode, Mode::Enforce);
    assert_eq!(config.on_introspection_failure, OnFailure::Reject);
    assert_eq!(config.unrecognized_tokens, UnrecognizedTokens::Pass);
    assert_eq!(config.query_token, QueryToken::Accept);
    assert_eq!(config.form_tokens, FormTokens::Pass);
    assert!(config.learn_from_refusals);
    assert!(config.appservice_tokens.is_empty());
    assert_eq!(
        config.identity_headers.user_id.as_deref(),
        Some("x-matrix-user-id")
    );
    assert_eq!(
        config.identity_headers.device_id.as_deref(),
        Some("x-matrix-device-id")
    );
    assert_eq!(config.identity_headers.scope, None);
    assert!(!config.filter_state);
}

/// A configuration with every key of the contract, one header turned off.
fn all() -> Value {
    let mut configuration = every_key::gateway();
    configuration["identity_headers"]["device_id"] = Value::Null;
    configuration
}

#[test]
fn every_key_of_the_contract_is_taken() {
    let config = parse(&all()).unwrap();
    assert_eq!(config.introspection.retries, 2);
    assert_eq!(config.form_tokens, FormTokens::Reject);
    assert!(!config.learn_from_refusals);
    assert_eq!(
        config.introspection.credential.authorization(),
        Some("Basic aWQ6cw==")
    );
    assert_eq!(config.identity_headers.device_id, None);
    // Envoy hands a `Struct` over with every number as a double.
    assert_eq!(
        parse(&with("/cache/slots", Some(json!(1024.0))))
            .unwrap()
            .cache
            .slots,
        1024
    );
    assert!(parse(&with("/unknown_token_budget", Some(Value::Null))).is_ok());
}

#[test]
fn each_role_takes_the_same_keys_and_needs_what_it_uses() {
    for (name, role) in [
        ("gateway", Role::Gateway),
        ("introspection", Role::Introspection),
        ("provisioning", Role::Provisioning),
    ] {
        let named = with("/role", Some(json!(name)));
        assert_eq!(parse(&named).unwrap().role, role);
        let mut nameless = named;
        nameless.as_object_mut().unwrap().remove("server_name");
        let outcome = parse(&nameless).map(|config| config.server_name);
        match role {
            Role::Introspection => assert_eq!(outcome, Ok(String::new())),
            _ => assert!(outcome.unwrap_err().starts_with("server_name: is required")),
        }
    }
    assert_eq!(parse(&minimal()).unwrap().role, Role::Gateway);
}

#[test]
fn roles_that_ask_the_same_question_share_its_answers() {
    fn fingerprint(pointer: &str, value: Value) -> u64 {
        parse(&with(pointer, Some(value))).unwrap().fingerprint()
    }
    let gateway = parse(&minimal()).unwrap().fingerprint();
    assert_eq!(fingerprint("/role", json!("introspection")), gateway);
    assert_eq!(fingerprint("/server_name", json!("other.example")), gateway);
    assert_eq!(fingerprint("/introspection/timeout", json!("1s")), gateway);
    for key in ["cluster", "authority", "path"] {
        // A path begins with a slash, and the authority of a request has none.
        let other = if key == "path" { "/other" } else { "other" };
        let pointer = format!("/introspection/{key}");
        assert_ne!(fingerprint(&pointer, json!(other)), gateway, "{key}");
    }
    let bearer = |secret: &str| json!({"bearer": {"value": secret}});
    let credential = |value| fingerprint("/introspection/credential", value);
    assert_eq!(credential(bearer("new")), credential(bearer("old")));
    let basic = json!({"client_id": "x", "client_secret": {"value": "y"}});
    let kinds = [
        bearer("x"),
        json!({"basic": basic}),
        json!({"injected": true}),
    ]
    .map(credential);
    assert!(kinds[0] != kinds[1] && kinds[1] != kinds[2] && kinds[0] != kinds[2]);
}

#[test]
fn a_workers_own_grants_are_of_one_server_and_one_life() {
    let identity = |pointer: &str, value: Value| {
        let config = parse(&with(pointer, Some(value))).unwrap();
        config.identity_fingerprint()
    };
    let own = parse(&minimal()).unwrap().identity_fingerprint();
    assert_eq!(identity("/cache", json!({"ttl": "2m"})), own);
    assert_eq!(identity("/cache", json!({"slots": 8})), own);
    assert_ne!(identity("/cache", json!({"ttl": "119s"})), own);
    assert_eq!(identity("/cache", json!({"refresh_ahead": true})), own);
    assert_ne!(identity("/cache", json!({"refresh_ahead": false})), own);
    assert_ne!(identity("/server_name", json!("other.example")), own);
    assert_ne!(identity("/introspection/path", json!("/other")), own);
    let mut told = vec![own];
    for names in [
        json!({"client_id": "x-client"}),
        json!({"scope": "x-scope"}),
        json!({"client_id": "x-client", "scope": "x-scope"}),
    ] {
        let identity = identity("/identity_headers", names);
        assert!(
            !told.contains(&identity),
            "what a grant holds is told apart"
        );
        told.push(identity);
    }
}

#[test]
fn bad_configurations_are_refused_with_a_line_that_names_the_key() {
    let digest = "0".repeat(64);
    let bad: Vec<(&str, Option<Value>, &str)> = vec![
        ("/roles", Some(json!("gateway")), "roles: is not a key here"),
        (
            "/role",
            Some(json!("proxy")),
            "role: takes one of gateway, introspection, provisioning",
        ),
        ("/role", Some(json!(1)), "role: takes"),
        ("/server_name", None, "server_name: is required"),
        ("/server_name", Some(json!("")), "server_name: takes"),
        (
            "/server_name",
            Some(json!("@alice:example.org")),
            "server_name: takes",
        ),
        (
            "/server_name",
            Some(json!("https://example.org")),
            "server_name: takes",
        ),
        (
            "/server_name",
            Some(json!("example.org:")),
            "server_name: takes",
        ),
        ("/server_name", Some(json!("[::1")), "server_name: takes"),
        ("/server_name", Some(json!("[:::]")), "server_name: takes"),
        (
            "/server_name",
            Some(json!("example.org:65536")),
            "server_name: takes",
        ),
        (
            "/server_name",
            Some(json!("example..org")),
            "server_name: takes",
        ),
        (
            "/server_name",
            Some(json!("example.org.")),
            "server_name: takes",
        ),
        (
            "/server_name",
            Some(json!(" example.org")),
            "server_name: takes",
        ),
        (
            "/server_name",
            Some(json!("x".repeat(256))),
            "server_name: takes",
        ),
        ("/introspection", None, "introspection: is required"),
        (
            "/introspection",
            Some(json!([])),
            "introspection: takes an object",
        ),
        (
            "/introspection/cluster",
            None,
            "introspection.cluster: is required",
        ),
        (
            "/introspection/cluster",
            Some(json!("")),
            "introspection.cluster: takes",
        ),
        (
            "/introspection/endpoint",
            Some(json!("x")),
            "introspection.endpoint: is not a key here",
        ),
        (
            "/introspection/cluster",
            Some(json!("m as")),
            "introspection.cluster: takes",
        ),
        (
            "/introspection/authority",
            Some(json!("a b")),
            "introspection.authority: takes",
        ),
        (
            "/introspection/authority",
            Some(json!("https://auth.example.org")),
            "introspection.authority: takes a host name",
        ),
        (
            "/introspection/authority",
            Some(json!("auth.example.org/auth")),
            "introspection.authority: takes a host name",
        ),
        (
            "/introspection/authority",
            Some(json!("auth.example.org/")),
            "introspection.authority: takes a host name",
        ),
        (
            "/introspection/authority",
            Some(json!(format!("edge:{SECRET}@auth.example.org"))),
            "introspection.authority: takes a host name",
        ),
        (
            "/introspection/authority",
            Some(json!(" auth.example.org")),
            "introspection.authority: takes a host name",
        ),
        (
            "/introspection/authority",
            Some(json!("auth.example.org\n")),
            "introspection.authority: takes a host name",
        ),
        (
            "/introspection/authority",
            Some(json!("auth.example.org:https")),
            "introspection.authority: takes a host name",
        ),
        (
            "/introspection/path",
            Some(json!("/oauth2/introspect?x=1")),
            "introspection.path: takes",
        ),
        (
            "/introspection/path",
            Some(json!("/oauth2/introspect#x")),
            "introspection.path: takes",
        ),
        (
            "/introspection/path",
            Some(json!("https://auth.example.org/oauth2/introspect")),
            "introspection.path: takes",
        ),
        (
            "/introspection/path",
            Some(json!("")),
            "introspection.path: takes",
        ),
        (
            "/introspection/retries",
            Some(json!(3)),
            "introspection.retries: takes a whole number from 0 to 2",
        ),
        (
            "/introspection/retries",
            Some(json!(true)),
            "introspection.retries: takes a whole number from 0 to 2",
        ),
        (
            "/introspection/path",
            Some(json!("oauth2")),
            "introspection.path: takes",
        ),
        (
            "/introspection/path",
            Some(json!("/a b")),
            "introspection.path: takes",
        ),
        (
            "/introspection/timeout",
            Some(json!("0s")),
            "introspection.timeout: takes",
        ),
        (
            "/introspection/timeout",
            Some(json!("2h")),
            "introspection.timeout: takes",
        ),
        (
            "/introspection/timeout",
            Some(json!(5)),
            "introspection.timeout: takes",
        ),
        (
            "/introspection/timeout",
            Some(json!("5")),
            "introspection.timeout: takes",
        ),
        (
            "/introspection/max_in_flight",
            Some(json!(0)),
            "introspection.max_in_flight: takes",
        ),
        (
            "/introspection/max_in_flight",
            Some(json!(1.5)),
            "introspection.max_in_flight: takes",
        ),
        (
            "/introspection/max_in_flight",
            Some(json!("256")),
            "introspection.max_in_flight: takes",
        ),
        (
            "/introspection/shard_by_token",
            Some(json!("yes")),
            "introspection.shard_by_token: takes",
        ),
        (
            "/introspection/credential",
            None,
            "introspection.credential: is required",
        ),
        (
            "/introspection/credential",
            Some(json!(SECRET)),
            "introspection.credential: takes",
        ),
        (
            "/introspection/credential",
            Some(json!({})),
            "introspection.credential: takes",
        ),
        (
            "/introspection/credential",
            Some(json!({"bearer": {"value": SECRET}, "injected": true})),
            "introspection.credential: takes exactly one",
        ),
        // Inside the credential an unknown key is not named: it may be the secret.
        (
            "/introspection/credential/token",
            Some(json!(SECRET)),
            "introspection.credential: takes exactly one",
        ),
        (
            "/introspection/credential",
            Some(json!({ SECRET: null })),
            "introspection.credential: takes exactly one",
        ),
        (
            "/introspection/credential/bearer",
            Some(json!({ SECRET: null })),
            "introspection.credential.bearer: takes {env",
        ),
        (
            "/introspection/credential",
            Some(
                json!({"basic": {"client_id": "id", "client_secret": {"value": "s"}, SECRET: null}}),
            ),
            "introspection.credential.basic: takes {client_id",
        ),
        (
            "/introspection/credential",
            Some(json!({"basic": {"client_id": "id", "client_secret": { SECRET: null }}})),
            "introspection.credential.basic.client_secret: takes {env",
        ),
        (
            "/introspection/credential/bearer/env",
            Some(json!("PADDED")),
            "introspection.credential.bearer.env: takes an environment variable",
        ),
        (
            "/introspection/credential/bearer/env",
            Some(json!("HEADER")),
            "introspection.credential.bearer.env: takes an environment variable that holds the secret alone",
        ),
        (
            "/introspection/credential/bearer",
            Some(json!({"value": format!("Bearer {SECRET}")})),
            "introspection.credential.bearer.value: takes the secret alone",
        ),
        (
            "/introspection/credential/bearer",
            Some(json!({"value": format!("bASIC  {SECRET}")})),
            "introspection.credential.bearer.value: takes the secret alone",
        ),
        (
            "/introspection/credential/bearer",
            Some(json!({"value": "Bearer "})),
            "introspection.credential.bearer.value: takes the secret alone",
        ),
        (
            "/introspection/credential/bearer",
            Some(json!({"value": format!(" {SECRET}")})),
            "introspection.credential.bearer.value: takes the secret alone",
        ),
        (
            "/introspection/credential/bearer",
            Some(json!({"value": format!("{SECRET} ")})),
            "introspection.credential.bearer.value: takes the secret alone",
        ),
        (
            "/introspection/credential/bearer",
            Some(json!({"value": format!("{SECRET}\u{0}")})),
            "introspection.credential.bearer.value: takes the secret alone",
        ),
        (
            "/introspection/credential/bearer",
            Some(json!({"value": format!("{SECRET}é")})),
            "introspection.credential.bearer.value: takes the secret alone",
        ),
        (
            "/introspection/credential",
            Some(
                json!({"basic": {"client_id": "id", "client_secret": {"value": format!("Basic {SECRET}")}}}),
            ),
            "introspection.credential.basic.client_secret.value: takes the secret alone",
        ),
        (
            "/introspection/credential",
            Some(
                json!({"basic": {"client_id": format!("id:{SECRET}"), "client_secret": {"value": SECRET}}}),
            ),
            "introspection.credential.basic.client_id: takes the client's id",
        ),
        (
            "/introspection/credential",
            Some(json!({"basic": {"client_id": "id\n", "client_secret": {"value": SECRET}}})),
            "introspection.credential.basic.client_id: takes the client's id",
        ),
        (
            "/introspection/credential",
            Some(json!({"injected": false})),
            "introspection.credential.injected: takes true",
        ),
        (
            "/introspection/credential/bearer",
            Some(json!(SECRET)),
            "introspection.credential.bearer: takes {env",
        ),
        (
            "/introspection/credential/bearer",
            Some(json!({"env": "MAS_SECRET", "value": SECRET})),
            "introspection.credential.bearer: takes {env",
        ),
        (
            "/introspection/credential/bearer/env",
            Some(json!("UNSET")),
            "introspection.credential.bearer.env: takes an environment variable",
        ),
        (
            "/introspection/credential/bearer/env",
            Some(json!("EMPTY")),
            "introspection.credential.bearer.env: takes an environment variable",
        ),
        (
            "/introspection/credential/bearer/env",
            Some(json!("BINARY")),
            "introspection.credential.bearer.env: takes an environment variable",
        ),
        (
            "/introspection/credential/bearer",
            Some(json!({"value": ""})),
            "introspection.credential.bearer.value: takes",
        ),
        (
            "/introspection/credential/bearer",
            Some(json!({"value": format!("{SECRET}\n")})),
            "introspection.credential.bearer.value: takes",
        ),
        (
            "/introspection/credential",
            Some(json!({"basic": {"client_secret": {"value": SECRET}}})),
            "introspection.credential.basic.client_id: is required",
        ),
        (
            "/introspection/credential",
            Some(json!({"basic": {"client_id": "id", "client_secret": SECRET}})),
            "introspection.credential.basic.client_secret: takes {env",
        ),
        ("/cache", Some(json!("120s")), "cache: takes an object"),
        ("/cache/max", Some(json!(1)), "cache.max: is not a key here"),
        ("/cache/ttl", Some(json!("0s")), "cache.ttl: takes"),
        ("/cache/ttl", Some(json!("61m")), "cache.ttl: takes"),
        ("/cache/ttl", Some(json!("1.5s")), "cache.ttl: takes"),
        (
            "/cache/negative_ttl",
            Some(json!("-1s")),
            "cache.negative_ttl: takes",
        ),
        (
            "/cache/negative_ttl",
            Some(json!("1h")),
            "cache.negative_ttl: takes",
        ),
        (
            "/cache/stale_if_error",
            Some(json!(0)),
            "cache.stale_if_error: takes",
        ),
        (
            "/cache/refresh_ahead",
            Some(json!("true")),
            "cache.refresh_ahead: takes true or false",
        ),
        (
            "/cache/slots",
            Some(json!(0)),
            "cache.slots: takes a whole number",
        ),
        (
            "/cache/slots",
            Some(json!(-1)),
            "cache.slots: takes a whole number",
        ),
        (
            "/cache/slots",
            Some(json!(1e12)),
            "cache.slots: takes a whole number",
        ),
        (
            "/cache/negative_slots",
            Some(json!(null)),
            "cache.negative_slots: takes",
        ),
        (
            "/cache/local_entries",
            Some(json!([])),
            "cache.local_entries: takes",
        ),
        (
            "/mode",
            Some(json!("off")),
            "mode: takes one of enforce, shadow",
        ),
        (
            "/on_introspection_failure",
            Some(json!("allow")),
            "on_introspection_failure: takes one of",
        ),
        (
            "/unrecognized_tokens",
            Some(json!(true)),
            "unrecognized_tokens: takes one of",
        ),
        (
            "/query_token",
            Some(json!("ACCEPT")),
            "query_token: takes one of accept, reject",
        ),
        (
            "/form_tokens",
            Some(json!("accept")),
            "form_tokens: takes one of pass, reject",
        ),
        (
            "/learn_from_refusals",
            Some(json!("no")),
            "learn_from_refusals: takes true or false",
        ),
        (
            "/appservice_tokens",
            Some(json!(digest)),
            "appservice_tokens: takes a list",
        ),
        (
            "/appservice_tokens",
            Some(json!([digest, SECRET])),
            "appservice_tokens[1]: takes the SHA-256",
        ),
        (
            "/appservice_tokens",
            Some(json!(["A".repeat(64)])),
            "appservice_tokens[0]: takes the SHA-256",
        ),
        (
            "/appservice_tokens",
            Some(json!(["é".repeat(32)])),
            "appservice_tokens[0]: takes the SHA-256",
        ),
        (
            "/identity_headers",
            Some(json!([])),
            "identity_headers: takes an object",
        ),
        (
            "/identity_headers/user",
            Some(json!("x")),
            "identity_headers.user: is not a key here",
        ),
        (
            "/identity_headers/user_id",
            Some(json!("X-User")),
            "identity_headers.user_id: takes",
        ),
        (
            "/identity_headers/user_id",
            Some(json!(":path")),
            "identity_headers.user_id: takes",
        ),
        (
            "/identity_headers/user_id",
            Some(json!("authorization")),
            "identity_headers.user_id: takes",
        ),
        (
            "/identity_headers/user_id",
            Some(json!("a b")),
            "identity_headers.user_id: takes",
        ),
        // Names that mean something already; src/config/header_name.rs has them all.
        (
            "/identity_headers/user_id",
            Some(json!("origin")),
            "identity_headers.user_id: takes a header name of its own",
        ),
        (
            "/identity_headers/device_id",
            Some(json!("x_device")),
            "identity_headers.device_id: takes a header name of its own",
        ),
        (
            "/identity_headers/client_id",
            Some(json!("x-forwarded-for")),
            "names that begin with \"x-forwarded-\" cannot be had",
        ),
        (
            "/identity_headers/scope",
            Some(json!("x-envoy-retry-on")),
            "names that begin with \"x-envoy-\" cannot be had: Envoy acts on it",
        ),
        (
            "/identity_headers/token_kind",
            Some(json!("x-request-id")),
            "the name \"x-request-id\" cannot be had",
        ),
        (
            "/identity_headers/scope",
            Some(json!("x-matrix-user-id")),
            "identity_headers: takes header names that differ from each other: user_id and scope have the same",
        ),
        (
            "/filter_state",
            Some(json!("on")),
            "filter_state: takes true or false",
        ),
        ("/endpoints", Some(json!({})), "endpoints: takes a list"),
        ("/endpoints", Some(json!(["/a"])), "endpoints[0]: takes"),
        (
            "/endpoints",
            Some(json!([{"auth": "none"}])),
            "endpoints[0]: takes",
        ),
        (
            "/endpoints",
            Some(json!([{"prefix": "/a", "exact": "/a", "auth": "none"}])),
            "endpoints[0]: takes",
        ),
        (
            "/endpoints",
            Some(json!([{"prefix": "a", "auth": "none"}])),
            "endpoints[0].prefix: takes",
        ),
        (
            "/endpoints",
            Some(json!([{"exact": "/a?b", "auth": "none"}])),
            "endpoints[0].exact: takes",
        ),
        (
            "/endpoints",
            Some(json!([{"exact": "/a"}])),
            "endpoints[0].auth: is required",
        ),
        (
            "/endpoints",
            Some(json!([{"exact": "/a", "auth": "maybe"}])),
            "endpoints[0].auth: takes one of",
        ),
        (
            "/endpoints",
            Some(json!([{"exact": "/a", "auth": "none", "methods": []}])),
            "endpoints[0].methods: takes a list of GET, POST, PUT, DELETE and PATCH, not empty",
        ),
        (
            "/endpoints",
            Some(json!([{"exact": "/a", "auth": "none", "methods": ["get"]}])),
            "endpoints[0].methods[0]: takes one of GET",
        ),
        (
            "/unknown_token_budget",
            Some(json!(50)),
            "unknown_token_budget: takes",
        ),
        (
            "/unknown_token_budget/window",
            Some(json!("10s")),
            "unknown_token_budget.per_source: is required",
        ),
        (
            "/unknown_token_budget",
            Some(json!({"per_source": 0, "window": "10s"})),
            "unknown_token_budget.per_source: takes",
        ),
        (
            "/unknown_token_budget",
            Some(json!({"per_source": 1, "window": "0s"})),
            "unknown_token_budget.window: takes",
        ),
    ];
    assert!(bad.len() >= 40);
    for (pointer, value, expected) in bad {
        let json = with(pointer, value);
        let error = parse(&json).expect_err(&format!("{json} is refused"));
        assert!(
            error.contains(expected),
            "{json}\n  gave      {error}\n  expected  {expected}"
        );
        assert!(!error.contains('\n'), "one line: {error}");
        assert!(!error.contains(SECRET), "a secret in {error}");
    }
}

/// A misspelled key leaves two faults, and only the one that names it helps.
#[test]
fn an_unknown_key_is_told_before_one_that_lacks() {
    let cases = [
        (
            json!({"sever_name": "example.org", "introspection": {"cluster": "mas", "credential": {"injected": true}}}),
            "sever_name: is not a key here; did you mean server_name?",
        ),
        (
            json!({"server_name": "example.org", "introspection": {"cluser": "mas", "credential": {"injected": true}}}),
            "introspection.cluser: is not a key here; did you mean cluster?",
        ),
        // The faults stand in two objects.
        (
            json!({"introspection": {"cluster": "mas"}, "cache": {"TTL": "120s"}}),
            "cache.TTL: is not a key here; did you mean ttl?",
        ),
        (
            json!({"introspection": {"cluster": "mas", "credential": {}}, "endpoints": [{"paths": "/a"}]}),
            "endpoints[0].paths: is not a key here; the keys are prefix, exact, methods, auth",
        ),
        // A key at the wrong place.
        (
            json!({"cluster": "mas", "server_name": "example.org", "introspection": {"credential": {"injected": true}}}),
            "cluster: is not a key here; did you mean introspection.cluster?",
        ),
        (
            json!({"server_name": "example.org", "introspection": {"cluster": "mas", "bearer": {"value": SECRET}}}),
            "introspection.bearer: is not a key here; did you mean introspection.credential.bearer?",
        ),
        // A value that is wrong helps more than a key that lacks, too.
        (
            json!({"introspection": {"cluster": ""}}),
            "introspection.cluster: takes the name of the Envoy cluster of MAS",
        ),
        // What lacks is told in the order of the table.
        (
            json!({"endpoints": [{"exact": "/a"}]}),
            "server_name: is required and takes the homeserver's server_name, such as \"example.org\" or \"example.org:8448\"",
        ),
        (
            json!({"server_name": "example.org", "introspection": {"cluster": "mas", "credential": {"basic": {}}}}),
            "introspection.credential.basic.client_id: is required and takes the client's id in visible ASCII, \
             without a colon, which would end it in the credential",
        ),
    ];
    for (json, expected) in cases {
        assert_eq!(parse(&json).map(|_| ()), Err(expected.to_owned()), "{json}");
    }
}

#[test]
fn a_key_given_twice_is_refused_at_any_depth() {
    let valid = minimal().to_string();
    for (before, after, key) in [
        ("{", r#"{"mode":"enforce","mode":"shadow","#, "mode"),
        (
            r#""cluster":"mas""#,
            r#""cluster":"mas","cluster":"mas""#,
            "introspection.cluster",
        ),
        (
            r#"{"env":"MAS_SECRET"}"#,
            r#"{"value":"do-not-print-me","value":"x"}"#,
            "introspection.credential.bearer.value",
        ),
        (
            "{",
            r#"{"endpoints":[{"exact":"/a","auth":"none","auth":"required"}],"#,
            "endpoints[0].auth",
        ),
    ] {
        assert!(valid.contains(before), "{valid}");
        let json = valid.replacen(before, after, 1);
        let error = config::parse(json.as_bytes(), &env).unwrap_err();
        let error = error.to_string();
        assert!(
            error.starts_with(&format!("{key}: is given twice")),
            "{error}"
        );
        assert!(!error.contains(SECRET), "{error}");
    }
}

/// Whatever the operator puts a secret in the place of, or around.
#[test]
fn no_refusal_shows_the_secret() {
    let shapes: [fn() -> Value; 7] = [
        || json!(SECRET),
        || json!(format!("Bearer {SECRET}")),
        || json!(format!("{SECRET}\n")),
        || json!([SECRET]),
        || json!({"value": SECRET}),
        || json!({"bearer": SECRET}),
        || json!({"bearer": {"value": [SECRET]}}),
    ];
    let mut refused = 0;
    for whole in [minimal(), all()] {
        for pointer in pointers(&whole) {
            for shape in shapes {
                let mut json = whole.clone();
                *json.pointer_mut(&pointer).unwrap() = shape();
                if let Err(error) = parse(&json) {
                    assert!(!error.contains(SECRET), "{json}\n  gave {error}");
                    refused += 1;
                }
            }
        }
    }
    assert!(refused > 300, "{refused}");
}

/// Every place below the root of a value.
fn pointers(value: &Value) -> Vec<String> {
    let members: Vec<(String, &Value)> = match value {
        Value::Object(members) => members
            .iter()
            .map(|(key, member)| (key.clone(), member))
            .collect(),
        Value::Array(items) => items
            .iter()
            .enumerate()
            .map(|(index, item)| (index.to_string(), item))
            .collect(),
        _ => Vec::new(),
    };
    let below = |(key, member): (String, &Value)| {
        let inner = pointers(member).into_iter();
        let inner: Vec<String> = inner.map(|rest| format!("/{key}{rest}")).collect();
        [vec![format!("/{key}")], inner].concat()
    };
    members.into_iter().flat_map(below).collect()
}

#[test]
fn what_is_no_json_object_is_refused() {
    for json in [
        "",
        "{",
        "[]",
        "null",
        "\"gateway\"",
        "{} {}",
        "\u{feff}{}",
        "role: gateway",
    ] {
        let error = config::parse(json.as_bytes(), &env)
            .unwrap_err()
            .to_string();
        assert!(error.contains("takes a JSON object"), "{error}");
        assert!(!error.contains('\n'));
    }
    assert!(config::parse(b"\xff", &env).is_err());
}

#[test]
fn debug_output_shows_no_secret() {
    let config = parse(&minimal()).unwrap();
    assert!(!format!("{config:?}").contains(SECRET));
}
