//! What an endpoint needs of its caller: nothing, a token, an admin's token, or to stay away.

use serde_json::json;
use stand_in::mas::Session;

use super::edge::{
    Edge, NOBODY, WHOAMI, assert_no_verdict, assert_not_active, identity, new_token,
};
use crate::support::{http::Request, recorded::assert_is_synapses};

#[tokio::test]
async fn the_admin_api_needs_the_admin_scope() {
    let edge = Edge::start(json!({})).await;
    let users = || Request::get("/_synapse/admin/v2/users");
    let [alice, erin] = [edge.alice(), new_token("mat")];
    edge.mas
        .insert(&erin, Session::access("erin", "ADMIN").admin());
    assert_is_synapses(
        &edge.send(&users().bearer(&alice)).await,
        "admin-users-valid",
        &[],
    );
    assert_is_synapses(&edge.send(&users()).await, "admin-users-no-token", &[]);
    assert!(!edge.homeserver.first_byte_seen());
    let seen = edge.pass(users().bearer(&erin)).await;
    assert_eq!(identity(&seen), [["@erin:example.org"], ["ADMIN"]]);
}

#[tokio::test]
async fn options_always_passes() {
    let edge = Edge::start(json!({"unrecognized_tokens": "reject"})).await;
    let inactive = new_token("mat");
    assert_not_active(&edge.whoami(&inactive).await);
    for path in [
        WHOAMI,
        "/_synapse/admin/v2/users",
        "/_matrix/client/unknown",
    ] {
        let options = || Request::new("OPTIONS", path);
        edge.pass(options().header("Origin", "https://app.example"))
            .await;
        edge.pass(options().bearer("garbage")).await;
        edge.pass(options().bearer(&inactive)).await;
        edge.pass(options().header("Authorization", "nonsense"))
            .await;
    }
    assert_eq!(edge.mas.total_calls(), 1);
}

#[tokio::test]
async fn optional_endpoints_pass_without_a_token_and_refuse_a_bad_one() {
    let edge = Edge::start(json!({})).await;
    for path in [
        "/_matrix/client/versions",
        "/_matrix/client/v3/profile/@a:b",
        "/_matrix/client/unknown",
        "/x",
    ] {
        let seen = edge.pass(Request::get(path)).await;
        assert_eq!(identity(&seen), NOBODY);
        let response = edge
            .send(&Request::get(path).bearer(&new_token("mat")))
            .await;
        assert_not_active(&response);
    }
}

#[tokio::test]
async fn an_unknown_path_lets_an_active_token_pass_whatever_its_scope() {
    let edge = Edge::start(json!({})).await;
    let [alice, openid, dead] = [edge.alice(), new_token("mat"), new_token("mat")];
    let session = Session::access("alice", "PHONE").scope("openid email");
    edge.mas.insert(&openid, session);
    for path in ["/auth/oauth2/userinfo", "/hookshot/v1/rooms"] {
        let request = |token: &str| Request::get(path).bearer(token);
        let seen = edge.pass(request(&openid)).await;
        assert_eq!(identity(&seen), NOBODY);
        let seen = edge.pass(request(&alice)).await;
        assert_eq!(identity(&seen)[0].len(), 1);
        assert_not_active(&edge.send(&request(&dead)).await);
    }
    let response = edge.whoami(&openid).await;
    assert_eq!(response.status, 401, "{response:?}");
}

#[tokio::test]
async fn below_the_prefix_of_mas_no_token_is_looked_at() {
    let introspection = json!({"path": "/auth/oauth2/introspect"});
    let edge = Edge::start(json!({"introspection": introspection})).await;
    for path in [
        "/auth/oauth2/userinfo",
        "/auth/graphql",
        "/auth/api/admin/v1/users",
        "/auth/_matrix/client/v3/logout",
    ] {
        let seen = edge
            .pass(Request::new("POST", path).bearer(&new_token("mat")))
            .await;
        assert_eq!(identity(&seen), NOBODY);
    }
    assert_eq!(edge.mas.total_calls(), 0);
}

/// A proxy behind the edge may resolve dots, and hand the request to the homeserver.
#[tokio::test]
async fn a_path_that_may_lead_elsewhere_is_looked_at() {
    let edge = Edge::start(json!({})).await;
    for path in [
        "/oauth2/../_matrix/client/v3/account/whoami",
        "/oauth2/x%252f..%252f../_matrix/client/v3/account/whoami",
        "/_matrix/client/v3/login/%2e%2e/account/whoami",
        "/_matrix/federation/../client/v3/account/whoami",
        "/_matrix/key/..%2fclient/v3/account/whoami",
    ] {
        let dead = Request::get(path).bearer(&new_token("mat"));
        assert_not_active(&edge.send(&dead).await);
        // As on any path that nobody knows.
        assert_eq!(identity(&edge.pass(Request::get(path)).await), NOBODY);
        let seen = edge.pass(Request::get(path).bearer(&edge.alice())).await;
        assert_eq!(identity(&seen)[0].len(), 1, "{path}");
    }
    // MAS would take these for logouts.
    for path in [
        "/_matrix/client/..%2Fv3/logout",
        "/_matrix/client/..%2F..%2F_matrix%2Fclient%2Fv3%2Frooms%2Fx%2Fjoin/logout/all",
    ] {
        let request = |token: &str| Request::new("POST", path).bearer(token);
        assert_not_active(&edge.send(&request(&new_token("mat"))).await);
        let seen = edge.pass(request(&edge.alice())).await;
        assert_eq!(identity(&seen)[0].len(), 1, "{path}");
    }
    let introspection = json!({"path": "/auth/oauth2/introspect"});
    let edge = Edge::start(json!({"introspection": introspection})).await;
    for path in [
        "/auth/../_matrix/client/v3/account/whoami",
        "/auth/%2e%2e/_matrix/client/v3/account/whoami",
    ] {
        // The stand-in for MAS has no such prefix, so it is asked and gives no verdict.
        let dead = Request::get(path).bearer(&new_token("mat"));
        assert_no_verdict(&edge.send(&dead).await);
    }
    assert_eq!(edge.homeserver.count(), 0);
}

#[tokio::test]
async fn what_a_rule_restricts_is_restricted_in_every_spelling() {
    let edge = Edge::start(json!({
        "unrecognized_tokens": "reject",
        "form_tokens": "reject",
        "endpoints": [
            {"prefix": "/internal/", "auth": "required"},
            {"exact": "/metrics-private", "auth": "admin"},
            {"prefix": "/_matrix/client/unstable/org.example/", "auth": "admin"},
        ],
    }))
    .await;
    for path in [
        "/internal/x",
        "/%69nternal/x",
        "//internal/x",
        "/./internal/x",
        "/internal%2fx",
        "/x/../internal/x",
        "/internal;a/x",
        "/metrics%2dprivate",
        "/metrics-private/",
        "/_matrix/client/unstable/org%2eexample/a",
        "/_matrix/client//unstable/org.example/a",
    ] {
        let response = edge.send(&Request::get(path)).await;
        assert_eq!(response.status, 401, "{path}");
        let foreign = Request::get(path).bearer("as_foreign");
        assert_eq!(edge.send(&foreign).await.status, 401, "{path}");
        let form = Request::post(path, "application/x-www-form-urlencoded", "access_token=x");
        assert_eq!(edge.send(&form).await.status, 401, "{path}");
    }
    assert_eq!(edge.homeserver.count(), 0);
    let alice = edge.alice();
    for (path, status) in [("//internal/x", 200), ("/metrics-private/", 403)] {
        let request = Request::get(path).bearer(&alice);
        assert_eq!(edge.send(&request).await.status, status, "{path}");
    }
}

#[tokio::test]
async fn a_method_that_the_homeserver_refuses_is_left_to_it() {
    let edge = Edge::start(json!({})).await;
    let sync = "/_matrix/client/unstable/org.matrix.simplified_msc3575/sync";
    let dead = new_token("mat");
    assert_not_active(&edge.send(&Request::new("POST", sync).bearer(&dead)).await);
    for request in [
        Request::get(sync),
        Request::get(sync).bearer(&dead),
        Request::get(sync).bearer(&new_token("mat")),
    ] {
        let seen = edge.pass(request).await;
        assert_eq!(identity(&seen), NOBODY);
    }
    assert_eq!(edge.mas.total_calls(), 1);
}

#[tokio::test]
async fn public_endpoints_and_foreign_tokens_are_left_alone() {
    let edge = Edge::start(json!({"unrecognized_tokens": "reject"})).await;
    for target in [
        "/_matrix/client/v1/auth_metadata",
        "/_matrix/client/v3/login",
        "/_matrix/client/v3/logout",
        "/.well-known/matrix/client",
        "/_matrix/federation/v1/openid/userinfo?access_token=openid",
        "/_synapse/client/unsubscribe?access_token=macaroon",
        "/_matrix/client/unstable/pushers/remove?access_token=macaroon",
    ] {
        let seen = edge.pass(Request::get(target)).await;
        assert_eq!(identity(&seen), NOBODY);
    }
    let seen = edge
        .pass(Request::get("/_matrix/client/v1/auth_metadata").bearer("garbage"))
        .await;
    assert_eq!(identity(&seen), NOBODY);
    assert_eq!(edge.mas.total_calls(), 0);
}

#[tokio::test]
async fn configured_endpoints_come_before_the_built_in_ones() {
    let edge = Edge::start(json!({"endpoints": [
        {"exact": "/_matrix/client/v3/account/whoami", "methods": ["GET"], "auth": "none"},
        {"prefix": "/bridge/", "auth": "required"},
        {"prefix": "/ops/", "auth": "admin"},
        {"prefix": "/_matrix/client/v3/sync", "auth": "optional"},
        {"exact": "/foreign", "auth": "foreign"},
        {"prefix": "/_synapse/", "auth": "none"},
    ]}))
    .await;
    let alice = edge.alice();
    let garbage = new_token("mat");
    let seen = edge.pass(Request::get(WHOAMI).bearer(&garbage)).await;
    assert_eq!(identity(&seen), NOBODY);
    edge.pass(Request::get("/foreign").bearer(&garbage)).await;
    edge.pass(Request::get("/_matrix/client/v3/sync")).await;
    for (request, status) in [
        (Request::new("PUT", WHOAMI), 401),
        (Request::get(format!("{WHOAMI}/")).bearer(&garbage), 401),
        (Request::get("/bridge/x"), 401),
        (Request::get("/bridge/x").bearer(&alice), 200),
        (Request::get("/ops/x").bearer(&alice), 403),
        (Request::get("/_synapse/admin/v2/users"), 200),
        (Request::get("/_synapse/mas/query_user"), 404),
    ] {
        let response = edge.send(&request).await;
        assert_eq!(response.status, status, "{response:?}");
    }
}

#[tokio::test]
async fn internal_paths_are_never_served_in_any_encoding() {
    let edge = Edge::start(json!({})).await;
    let token = edge.alice();
    for path in [
        "/_synapse/mas/query_user",
        "/_synapse/mas",
        "/_synapse/replication/x",
        "/_synapse/metrics",
        "/_synapse/%6das/query_user",
        "/%5fsynapse/mas/query_user",
        "/%5Fsynapse/%6D%61%73/query_user",
        "/_synapse/%256das/query_user",
        "/_synapse//mas/query_user",
        "//_synapse/mas/query_user",
        "/_synapse/./mas/query_user",
        "/_synapse/x/../mas/query_user",
        "/_synapse/x/%2e%2e/mas/query_user",
        "/_matrix/../_synapse/mas/query_user",
        "/_matrix/%2e%2e/_synapse/metrics",
        "/_synapse%2fmas/query_user",
        "/_synapse/metrics?x=/_matrix/",
        "/_synapse/m%65trics%2Fx",
        "http://matrix.example.org/_synapse/mas/query_user",
    ] {
        for method in ["GET", "POST", "OPTIONS"] {
            let response = edge.send(&Request::new(method, path).bearer(&token)).await;
            assert_eq!(response.status, 404, "{method} {path}: {response:?}");
        }
    }
    assert!(!edge.homeserver.first_byte_seen());
    let response = edge.send(&Request::get("/_synapse/mas/query_user")).await;
    assert_is_synapses(&response, "whoami-dotdot", &[]);
    assert_eq!(edge.mas.total_calls(), 0);
}
