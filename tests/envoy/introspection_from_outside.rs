//! A credential that Envoy injects is for the module's calls: nobody outside can ask MAS with it.

use serde_json::{Value, json};
use stand_in::mas::{DEFAULT_SECRET, Options, introspection_body};

use super::{
    edge::{Edge, WHOAMI},
    introspection::{SecretFile, start_with_injected},
};
use crate::support::{
    envoy::bootstrap,
    http::{Request, Response},
};

/// A client without a credential asks about a token.
fn introspect(target: &str, token: &str) -> Request {
    Request::new("POST", target)
        .header("Content-Type", "application/x-www-form-urlencoded")
        .body(introspection_body(token))
}

/// An edge that routes `/shared` to the cluster of the introspections and `/clients` to another one of the same MAS.
/// What comes after is the path there.
async fn start() -> (Edge, SecretFile) {
    let secret = format!("Bearer {DEFAULT_SECRET}");
    start_with_injected(Options::default(), &secret, |builder| {
        builder.bootstrap(|config| {
            let mut clients = bootstrap::cluster(config, "mas").clone();
            clients["name"] = "mas-clients".into();
            bootstrap::clusters(config).push(clients);
            let manager = bootstrap::http_manager(config);
            let routes = &mut manager["route_config"]["virtual_hosts"][0]["routes"];
            let homeserver = routes[0].take();
            *routes = json!([
                route("/shared", "mas"),
                route("/clients", "mas-clients"),
                homeserver,
            ]);
        })
    })
    .await
}

fn route(prefix: &str, cluster: &str) -> Value {
    json!({
        "match": {"prefix": prefix},
        "route": {"cluster": cluster, "regex_rewrite": {
            "pattern": {"regex": "^/[a-z]+"},
            "substitution": "",
        }},
    })
}

#[track_caller]
fn assert_unrecognized(response: &Response) {
    let body = r#"{"errcode":"M_UNRECOGNIZED","error":"Unrecognized request"}"#;
    assert_eq!((response.status, response.text()), (404, body));
}

#[tokio::test]
async fn a_client_cannot_introspect_with_the_injected_credential() {
    let (edge, _secret) = start().await;
    let token = edge.alice();
    for path in [
        "/oauth2/introspect",
        "/oauth2/introspect?x",
        "/oauth2/introspect/",
        "/oauth2/%69ntrospect",
        "/oauth2/%2569ntrospect",
        "/oauth2//introspect",
    ] {
        let request = introspect(&format!("/shared{path}"), &token);
        for request in [
            request.clone(),
            // Removing it makes Envoy match the route again.
            request
                .clone()
                .header("X-Matrix-User-Id", "@evil:example.org"),
            request.clone().bearer(&token),
            request.header("Content-Type", "application/grpc"),
        ] {
            assert_unrecognized(&edge.send(&request).await);
        }
    }
    assert_eq!(edge.mas.requests().len(), 0);

    // Where nothing is injected, MAS refuses by itself.
    let response = edge
        .send(&introspect("/clients/oauth2/introspect", &token))
        .await;
    assert_eq!(response.status, 400, "{response:?}");
    // The module's own question is answered.
    edge.pass(Request::get(WHOAMI).bearer(&token)).await;
    edge.assert_alive().await;
}

#[tokio::test]
async fn a_route_of_clients_to_the_cluster_of_the_introspections_is_told_once() {
    let (edge, _secret) = start().await;
    let told = "requests of clients are routed to the cluster mas";
    for target in ["/clients/health", "/unknown"] {
        assert_eq!(edge.send(&Request::get(target)).await.status, 200);
    }
    assert!(!edge.envoy.log().contains(told));
    // One request between two ticks is looked at.
    let mut sent = 0;
    while !edge.envoy.log().contains(told) {
        assert!(sent < 10_000, "no request was looked at");
        assert_eq!(edge.send(&Request::get("/shared/health")).await.status, 200);
        sent += 1;
    }
    for _ in 0..3 {
        assert_eq!(edge.send(&Request::get("/shared/health")).await.status, 200);
    }
    edge.assert_alive().await;
    assert_eq!(edge.envoy.log().matches(told).count(), 1);
}
