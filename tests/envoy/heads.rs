//! Heads of requests in odd forms: the internal listeners, more fields than anyone sends, one field several times.

use serde_json::{Value, json};
use stand_in::mas::Options;

use super::{
    edge::{Edge, NOBODY, WHOAMI, identity, values},
    introspection_role, provisioning,
};
use crate::support::{
    envoy::bootstrap,
    http::{self, Request},
    recorded,
};

/// More spellings of one name than are removed from a request.
pub fn many_spellings(request: Request, number: usize) -> Request {
    let separators = "-_.~!#$%&'*+^`|".chars();
    let pairs = separators
        .clone()
        .flat_map(move |a| separators.clone().map(move |b| (a, b)));
    pairs.take(number).fold(request, |request, (a, b)| {
        request.header(&format!("x-matrix{a}user{b}id"), "@admin:example.org")
    })
}

/// Envoy itself refuses more than 100 fields, and more than 60 KiB, unless it is told otherwise.
fn take_large_heads(config: &mut Value) {
    let manager = bootstrap::http_manager(config);
    manager["common_http_protocol_options"] = json!({"max_headers_count": 10_000});
    manager["max_request_headers_kb"] = 8_192.into();
}

/// Tells of each request as it goes on. The stand-in homeserver takes no more than a hundred fields.
fn log_identities(config: &mut Value) {
    let names = ["x-matrix-user-id", "x_matrix_user_id", "x-matrix_user_id"];
    let values = names.map(|name| format!("%REQ({name})%")).join(" ");
    let format = format!("accessed %REQ(:PATH)% {values}\n");
    bootstrap::http_manager(config)["access_log"] = json!([{
        "name": "envoy.access_loggers.stdout",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.access_loggers.stream.v3.StdoutAccessLog",
            "log_format": {"text_format_source": {"inline_string": format}},
        },
    }]);
}

/// Envoy hands over all fields at once, however many they are.
#[tokio::test]
async fn a_head_of_any_size_is_read_whole() {
    let edge = Edge::start_with(json!({}), Options::default(), |builder| {
        builder
            .bootstrap(take_large_heads)
            .bootstrap(log_identities)
    })
    .await;
    let token = edge.alice();
    for (fields, bytes) in [
        (1_020, 1),
        (1_025, 1),
        (9_000, 1),
        (1, 1 << 20),
        (1, 4 << 20),
    ] {
        let target = format!("{WHOAMI}?{fields}-{bytes}");
        let request = Request::get(&target)
            .header("X-Matrix-User-Id", "@admin:example.org")
            .header("X_Matrix_User_Id", "@admin:example.org");
        let request = (0..fields).fold(request, |request, number| {
            request.header(&format!("x{number}"), vec![b'x'; bytes])
        });
        let request = request
            .header("X-Matrix_User_Id", "@admin:example.org")
            .bearer(&token);
        edge.send(&request).await;
        let line = edge
            .envoy
            .wait_for_log(&format!("accessed {target} "))
            .await;
        assert!(line.ends_with(" @alice:example.org - -"), "{line}");
    }
    edge.assert_alive().await;
}

#[tokio::test]
async fn a_request_with_too_many_made_up_identities_is_refused() {
    let edge = Edge::start(json!({})).await;
    let token = edge.alice();
    let request = |number| many_spellings(Request::get(WHOAMI).bearer(&token), number);
    let seen = edge.pass(request(16)).await;
    assert_eq!(identity(&seen), [["@alice:example.org"], ["PHONE"]]);
    let response = edge.send(&request(17)).await;
    assert_eq!(response.status, 431, "{response:?}");
    assert_eq!(response.json()["errcode"], "M_TOO_LARGE");
    assert_eq!(response.header("access-control-allow-origin"), Some("*"));
    let grpc = request(17).header("Content-Type", "application/grpc");
    assert_eq!(edge.send(&grpc).await.status, 431);
    assert_eq!(edge.homeserver.count(), 1);
    edge.assert_alive().await;
}

/// Who reaches an internal listener is somebody too.
#[tokio::test]
async fn the_internal_listeners_let_no_identity_pass() {
    let edge = Edge::start_with(json!({}), Options::default(), |builder| {
        let introspection = introspection_role::plugin(json!({}));
        builder
            .internal_listener(introspection_role::NAME, introspection, "homeserver")
            .internal_listener(
                provisioning::LISTENER,
                provisioning::provisioning(),
                "homeserver",
            )
    })
    .await;
    for listener in [introspection_role::NAME, provisioning::LISTENER] {
        for request in [
            Request::get("/"),
            Request::post("/_synapse/mas/sync_devices", "application/json", "{}"),
            introspection_role::headers("Bearer x").chunked("token=x"),
        ] {
            let addr = edge.envoy.listener(listener);
            let response = http::send(addr, &many_spellings(request.clone(), 16)).await;
            assert_eq!(response.status, 200, "{listener}: {response:?}");
            let seen = edge.homeserver.requests().pop().expect("a request");
            assert_eq!(identity(&seen), NOBODY, "{listener}");
            let response = http::send(addr, &many_spellings(request, 17)).await;
            assert_eq!(response.status, 431, "{listener}: {response:?}");
            let grpc = many_spellings(Request::post("/", "application/grpc", "x"), 17);
            let response = http::send(addr, &grpc).await;
            assert_eq!(response.status, 431, "{listener}: {response:?}");
        }
    }
    edge.assert_alive().await;
}

/// Envoy joins the fields before any filter sees them, for the homeserver too: so this is what Synapse says to them.
#[tokio::test]
async fn several_authorization_fields_are_one_to_all() {
    let edge = Edge::start(json!({"unrecognized_tokens": "reject"})).await;
    let token = edge.alice();
    for values in [
        [format!("Bearer {token}"), format!("Bearer {token}")],
        [format!("Bearer {token}"), "Basic x".to_owned()],
    ] {
        let request = values.iter().fold(Request::get(WHOAMI), |request, value| {
            request.header("Authorization", value)
        });
        recorded::assert_is_synapses(&edge.send(&request).await, "whoami-basic", &[]);
    }
    assert!(!edge.homeserver.first_byte_seen());
    // Joined with nothing, the other is all there is.
    let request = Request::get(WHOAMI).header("Authorization", "");
    let seen = edge.pass(request.bearer(&token)).await;
    assert_eq!(identity(&seen), [["@alice:example.org"], ["PHONE"]]);
    assert_eq!(values(&seen, "authorization"), [format!("Bearer {token}")]);
    edge.assert_alive().await;
}
