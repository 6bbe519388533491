//! Whom the introspection role answers: those whom MAS would. MAS judges all others itself.

use serde_json::json;
use stand_in::mas::{
    Client, DEFAULT_CLIENT_ID, DEFAULT_CLIENT_SECRET, DEFAULT_SECRET, Options, introspection_body,
};

use super::{
    edge::Edge,
    introspection::{basic, start_with_injected},
    introspection_role::{
        NAME, PATH, ask, assert_active, assert_mas_answers, headers, introspect, plugin, secret,
        start,
    },
};
use crate::support::{envoy::bootstrap, http::Request};

/// MAS judges every other caller, each time, also about a token whose answer is kept.
#[tokio::test]
async fn other_callers_are_for_mas_to_judge() {
    let edge = start(json!({})).await;
    let token = edge.alice();
    assert_active(&ask(&edge, &introspect(&token)).await, "alice");
    for authorization in [
        "Bearer wrong",
        "Bearer",
        &format!("Bearer {token}"),
        &format!("{}x", secret()),
        &format!("Basic {DEFAULT_SECRET}"),
        &basic(DEFAULT_CLIENT_ID, DEFAULT_CLIENT_SECRET),
        &basic(DEFAULT_CLIENT_ID, "wrong"),
        &basic("another", DEFAULT_CLIENT_SECRET),
        "Basic !!!",
        "Digest x",
    ] {
        let request = headers(authorization).body(introspection_body(&token));
        for _ in 0..3 {
            assert_mas_answers(&edge, &request, 1).await;
        }
    }
    let without = Request::post(
        PATH,
        "application/x-www-form-urlencoded",
        introspection_body(&token),
    )
    .header("X-MAS-Supports-Device-Id", "1");
    assert_mas_answers(&edge, &without, 1).await;

    let calls = edge.mas.total_calls();
    assert_active(&ask(&edge, &introspect(&token)).await, "alice");
    assert_eq!(edge.mas.total_calls(), calls, "what was kept is kept");
    edge.assert_alive().await;
}

#[tokio::test]
async fn a_client_of_the_configured_credential_is_answered_and_the_shared_secret_is_not() {
    let client =
        json!({"client_id": DEFAULT_CLIENT_ID, "client_secret": {"value": DEFAULT_CLIENT_SECRET}});
    let edge = start(json!({"introspection": {"credential": {"basic": client}}})).await;
    let token = edge.alice();
    let form = introspection_body(&token);
    let ours = headers(&basic(DEFAULT_CLIENT_ID, DEFAULT_CLIENT_SECRET)).body(&form);
    for _ in 0..3 {
        assert_active(&ask(&edge, &ours).await, "alice");
    }
    assert_eq!(edge.mas.calls(&token), 1);
    assert_mas_answers(&edge, &headers(&secret()).body(&form), 1).await;
}

/// RFC 6749 (section 2.3.1) has both halves of the pair form-encoded. MAS compares the pair as it is, and other
/// clients of a deployment may do either.
#[tokio::test]
async fn a_client_is_recognised_plain_and_form_encoded() {
    let secret = "n0Tq+3u/9mZ2yVQ1==";
    let options = Options {
        clients: vec![Client::basic(DEFAULT_CLIENT_ID, secret)],
        ..Options::default()
    };
    let client = json!({"client_id": DEFAULT_CLIENT_ID, "client_secret": {"value": secret}});
    let changes = json!({"introspection": {"credential": {"basic": client}}});
    let role = plugin(changes.clone());
    let edge = Edge::start_with(changes, options, |builder| {
        builder.internal_listener(NAME, role, "mas")
    })
    .await;
    let token = edge.alice();
    let form = introspection_body(&token);
    for secret in [secret, "n0Tq%2B3u%2F9mZ2yVQ1%3D%3D"] {
        let request = headers(&basic(DEFAULT_CLIENT_ID, secret)).body(&form);
        assert_active(&ask(&edge, &request).await, "alice");
    }
    assert_eq!(edge.mas.calls(&token), 1);
}

/// The module knows no secret: whom MAS has answered once is answered from the cache.
#[tokio::test]
async fn with_an_injected_credential_a_caller_must_have_been_answered_by_mas() {
    let (edge, _secret) = start_with_injected(Options::default(), &secret(), |builder| {
        let changes = json!({"introspection": {"credential": {"injected": true}}});
        builder
            .internal_listener(NAME, plugin(changes), "mas-without-credential")
            .bootstrap(|config| {
                let mut cluster = bootstrap::cluster(config, "mas").clone();
                cluster["name"] = "mas-without-credential".into();
                bootstrap::clusters(config).push(cluster);
            })
    })
    .await;
    let token = edge.alice();
    assert_eq!(edge.whoami(&token).await.status, 200);
    let wrong = [
        "Bearer wrong".to_owned(),
        basic(DEFAULT_CLIENT_ID, "wrong"),
        format!("Bearer {token}"),
    ]
    .map(|authorization| headers(&authorization).body(introspection_body(&token)));
    for request in &wrong {
        assert_mas_answers(&edge, request, 1).await;
    }
    // What MAS says to another form proves nothing.
    assert_mas_answers(&edge, &headers(&secret()).body("token=x"), 1).await;
    assert_mas_answers(&edge, &introspect(&token), 1).await;
    for request in [introspect(&token), introspect(&token)] {
        let before = edge.mas.total_calls();
        assert_active(&ask(&edge, &request).await, "alice");
        assert_eq!(edge.mas.total_calls(), before, "the caller is known");
    }
    for request in &wrong {
        for _ in 0..3 {
            assert_mas_answers(&edge, request, 1).await;
        }
    }
    edge.assert_alive().await;
}
