//! A gateway's configuration in which every key stands, each with another value than its default.

use serde_json::{Value, json};

/// The configuration. `tests/schema/agreement.rs` fails if a key of the table is not in it.
pub fn gateway() -> Value {
    json!({
        "role": "gateway",
        "server_name": "[2001:db8::1]:8448",
        "introspection": {
            "cluster": "mas",
            "authority": "auth.example.org:8443",
            "path": "/prefix/oauth2/introspect",
            "timeout": "500ms",
            "credential": {"basic": {"client_id": "id", "client_secret": {"value": "s"}}},
            "max_in_flight": 1,
            "retries": 2,
            "shard_by_token": true,
        },
        "cache": {
            "ttl": "1h", "negative_ttl": "0s", "stale_if_error": "2m", "refresh_ahead": false,
            "slots": 1, "negative_slots": 4_194_304, "local_entries": 0,
        },
        "mode": "shadow",
        "on_introspection_failure": "pass",
        "unrecognized_tokens": "introspect",
        "appservice_tokens": ["0123456789abcdef".repeat(4)],
        "query_token": "reject",
        "form_tokens": "reject",
        "identity_headers": {
            "user_id": "x-user", "device_id": "x-device", "client_id": "x-client", "scope": "x-scope",
            "token_kind": "x-kind",
        },
        "filter_state": true,
        "learn_from_refusals": false,
        "endpoints": [
            {"prefix": "/_matrix/client/unstable/org.example/", "auth": "required"},
            {"exact": "/a", "methods": ["GET", "PUT"], "auth": "foreign"},
        ],
        "unknown_token_budget": {"per_source": 50, "window": "10s"},
    })
}
