//! Replies of the edge: what the access log tells of them, and that gRPC does not change them.

use serde_json::{Value, json};
use stand_in::mas::{Fault, Options};

use super::{
    edge::{Edge, WHOAMI, new_token},
    heads::many_spellings,
};
use crate::support::{
    envoy::bootstrap,
    http::{Request, Response},
};

#[tokio::test]
async fn the_access_log_tells_why_the_edge_refused() {
    let budget = json!({"unknown_token_budget": {"per_source": 1, "window": "1m"}});
    let edge = Edge::start_with(budget, Options::default(), |builder| {
        builder.bootstrap(log_details)
    })
    .await;
    let alice = edge.alice();
    let slow = edge.alice();
    let whoami = |name: &str| Request::get(format!("{WHOAMI}?{name}"));
    for (name, request, status) in [
        ("via_upstream", whoami("via_upstream").bearer(&alice), 200),
        (
            "introspection_failed",
            whoami("introspection_failed").bearer(&slow),
            503,
        ),
        ("missing_token", whoami("missing_token"), 401),
        (
            "invalid_header",
            whoami("invalid_header").header("Authorization", "Basic x"),
            401,
        ),
        (
            "not_active",
            whoami("not_active").bearer(&new_token("mat")),
            401,
        ),
        (
            "limit_exceeded",
            whoami("limit_exceeded").bearer(&new_token("mat")),
            429,
        ),
        (
            "unrecognized",
            Request::get("/_synapse/mas?unrecognized"),
            404,
        ),
        (
            "not_server_admin",
            Request::get("/_synapse/admin/x?not_server_admin").bearer(&alice),
            403,
        ),
        (
            "too_many_forged",
            many_spellings(whoami("too_many_forged"), 17),
            431,
        ),
    ] {
        match status {
            503 => edge.mas.fault(Fault::close()),
            _ => edge.mas.clear_faults(),
        }
        assert_eq!(edge.send(&request).await.status, status, "{name}");
        let details = match name {
            "via_upstream" => name.to_owned(),
            reason => format!("matrix_edge_auth_{reason}"),
        };
        let line = edge.envoy.wait_for_log(&format!("?{name} ")).await;
        assert!(line.ends_with(&format!(" details={details}")), "{line}");
    }
}

/// Envoy makes 200 of every local reply to gRPC, and puts the body into a header, before any filter runs.
#[tokio::test]
async fn grpc_does_not_turn_a_refusal_into_success() {
    let edge = Edge::start(json!({})).await;
    let unknown = new_token("mat");
    for content_type in [
        "application/grpc",
        "application/grpc+proto",
        "application/grpc-web",
        "Application/gRPC",
    ] {
        let whoami = || Request::post(WHOAMI, content_type, "xxxxx");
        assert_refused(&edge.send(&whoami()).await, 401, "M_MISSING_TOKEN");
        // Once held, and once from the cache.
        for _ in 0..2 {
            let response = edge.send(&whoami().bearer(&unknown)).await;
            assert_refused(&response, 401, "M_UNKNOWN_TOKEN");
        }
        edge.mas.fault(Fault::close());
        let response = edge.send(&whoami().bearer(&new_token("mat"))).await;
        assert_refused(&response, 503, "M_UNKNOWN");
        edge.mas.clear_faults();
        edge.pass(whoami().bearer(&edge.alice())).await;
    }
    edge.assert_alive().await;
}

/// The error is in the body or, for what Envoy takes for gRPC, in `grpc-message`.
#[track_caller]
fn assert_refused(response: &Response, status: u16, errcode: &str) {
    assert_eq!(response.status, status, "{response:?}");
    let error = response
        .header("grpc-message")
        .unwrap_or_else(|| response.text());
    assert!(
        error.contains(&format!("\"errcode\":\"{errcode}\"")),
        "{response:?}"
    );
}

fn log_details(config: &mut Value) {
    let format = "accessed %REQ(:PATH)% details=%RESPONSE_CODE_DETAILS%\n";
    bootstrap::http_manager(config)["access_log"] = json!([{
        "name": "envoy.access_loggers.stdout",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.access_loggers.stream.v3.StdoutAccessLog",
            "log_format": {"text_format_source": {"inline_string": format}},
        },
    }]);
}
