//! `mode: shadow`: everything passes, and what `enforce` would have rejected is counted.

use serde_json::json;
use stand_in::mas::{Fault, Session};

use super::edge::{Edge, NOBODY, WHOAMI, identity, new_token};
use crate::support::http::Request;

#[tokio::test]
async fn shadow_mode_counts_what_it_lets_pass() {
    let edge = Edge::start(json!({"mode": "shadow"})).await;
    let [inactive, no_scope, alice, unanswered] = [
        new_token("mat"),
        new_token("mat"),
        edge.alice(),
        edge.alice(),
    ];
    edge.mas
        .insert(&no_scope, Session::access("alice", "X").scope("openid"));
    edge.mas
        .fault(Fault::status(500, "").for_token(&unanswered));
    for (reason, request) in [
        ("missing_token", Request::get(WHOAMI)),
        (
            "invalid_header",
            Request::get(WHOAMI).header("Authorization", "Basic eDp5"),
        ),
        (
            "mixed",
            Request::get(format!("{WHOAMI}?access_token=x")).bearer(&alice),
        ),
        (
            "not_ascii",
            Request::get(format!("{WHOAMI}?access_token=%ff")),
        ),
        ("not_active", Request::get(WHOAMI).bearer(&inactive)),
        ("not_active", Request::get(WHOAMI).bearer(&inactive)),
        ("not_active", Request::get(WHOAMI).bearer(&new_token("mar"))),
        ("no_api_scope", Request::get(WHOAMI).bearer(&no_scope)),
        (
            "not_server_admin",
            Request::get("/_synapse/admin/v2/users").bearer(&alice),
        ),
        (
            "introspection_failed",
            Request::get(WHOAMI).bearer(&unanswered),
        ),
        ("unrecognized", Request::get("/_synapse/mas/query_user")),
    ] {
        let before = would_reject(&edge, reason).await;
        let seen = edge.pass(request).await;
        assert_eq!(identity(&seen), NOBODY, "{reason}");
        assert_eq!(would_reject(&edge, reason).await, before + 1.0, "{reason}");
    }
    let stats = edge.envoy.stats().await;
    assert_eq!(stats.sum("matrix_edge_auth_rejections_total", &[]), 0.0);
}

#[tokio::test]
async fn shadow_mode_annotates_and_caches_as_usual() {
    let edge = Edge::start(json!({"mode": "shadow"})).await;
    let token = edge.alice();
    for _ in 0..2 {
        let seen = edge.pass(Request::get(WHOAMI).bearer(&token)).await;
        assert_eq!(identity(&seen), [["@alice:example.org"], ["PHONE"]]);
    }
    assert_eq!(edge.mas.total_calls(), 1);
    let stats = edge.envoy.stats().await;
    assert_eq!(stats.sum("matrix_edge_auth_would_reject_total", &[]), 0.0);
}

async fn would_reject(edge: &Edge, reason: &str) -> f64 {
    let stats = edge.envoy.stats().await;
    stats.sum("matrix_edge_auth_would_reject_total", &[("reason", reason)])
}
