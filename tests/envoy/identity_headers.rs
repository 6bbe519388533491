//! Identity headers and filter state: whatever the homeserver is told of an identity, this edge has said it.

use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use stand_in::mas::{Fault, Options};

use super::edge::{Edge, NOBODY, WHOAMI, assert_not_active, hex, identity, new_token, values};
use crate::support::{envoy::bootstrap, http::Request};

/// With identities that the client made up: in any case, repeated, next to each other, and with the separators that
/// some servers take for a hyphen.
fn spoof(request: Request) -> Request {
    [
        ("X-Matrix-User-Id", "@admin:example.org"),
        ("x-matrix-user-id", "@admin:example.org"),
        ("X-MATRIX-USER-ID", ""),
        ("x-Matrix-Device-Id", "SPOOFED"),
        ("X-Matrix-Device-ID", "SPOOFED,SPOOFED"),
        ("X_Matrix_User_Id", "@admin:example.org"),
        ("x-matrix_user-id", "@admin:example.org"),
        ("x_matrix_device_id", "SPOOFED"),
        ("x.matrix.user.id", "@admin:example.org"),
    ]
    .into_iter()
    .fold(request, |request, (name, value)| {
        request.header(name, value)
    })
}

#[tokio::test]
async fn a_spoofed_identity_is_replaced_by_the_true_one() {
    let edge = Edge::start(json!({})).await;
    let token = edge.alice();
    for source in ["introspected", "cached"] {
        let seen = edge.pass(spoof(Request::get(WHOAMI).bearer(&token))).await;
        assert_eq!(
            identity(&seen),
            [["@alice:example.org"], ["PHONE"]],
            "{source}"
        );
    }
}

#[tokio::test]
async fn a_spoofed_device_goes_when_the_token_has_none() {
    let edge = Edge::start(json!({})).await;
    let token = new_token("mat");
    let session = stand_in::mas::Session::access("alice", "PHONE").no_device();
    edge.mas.insert(&token, session);
    let seen = edge.pass(spoof(Request::get(WHOAMI).bearer(&token))).await;
    assert_eq!(identity(&seen), [vec!["@alice:example.org"], vec![]]);
}

#[tokio::test]
async fn a_spoofed_identity_is_removed_from_whatever_passes_unannotated() {
    let digest = hex(&Sha256::digest("as_token"));
    let edge = Edge::start(json!({
        "appservice_tokens": [digest],
        "on_introspection_failure": "pass",
        "endpoints": [{"prefix": "/open", "auth": "none"}, {"prefix": "/foreign", "auth": "foreign"}],
    }))
    .await;
    edge.mas.fault(Fault::status(500, ""));
    let form = "application/x-www-form-urlencoded";
    for (why, request) in [
        (
            "no token on an optional endpoint",
            Request::get("/_matrix/client/versions"),
        ),
        ("no token on an unknown path", Request::get("/unknown")),
        (
            "public endpoint",
            Request::get("/_matrix/client/v1/auth_metadata"),
        ),
        (
            "public endpoint with a token",
            Request::get("/.well-known/matrix/client").bearer(&edge.alice()),
        ),
        (
            "MAS's own endpoint",
            Request::post("/_matrix/client/v3/logout", "application/json", "{}"),
        ),
        (
            "appservice endpoint",
            Request::post("/_matrix/client/v3/register", "application/json", "{}"),
        ),
        (
            "foreign token",
            Request::get("/_synapse/client/unsubscribe?access_token=x"),
        ),
        (
            "federation",
            Request::get("/_matrix/federation/v1/event/x")
                .header("Authorization", "X-Matrix origin=a"),
        ),
        ("pre-flight", Request::new("OPTIONS", WHOAMI)),
        (
            "pre-flight with a token",
            Request::new("OPTIONS", WHOAMI).bearer(&edge.alice()),
        ),
        ("form body", Request::post(WHOAMI, form, "access_token=x")),
        ("appservice token", Request::get(WHOAMI).bearer("as_token")),
        (
            "unrecognised token",
            Request::get(WHOAMI).bearer("who_knows"),
        ),
        ("no verdict", Request::get(WHOAMI).bearer(&edge.alice())),
        ("open by configuration", Request::get("/open/x")),
        (
            "foreign by configuration",
            Request::get("/foreign/x?access_token=x"),
        ),
        ("HEAD", Request::new("HEAD", "/_matrix/client/versions")),
        ("method of one's own", Request::new("PURGE", "/unknown")),
    ] {
        let seen = edge.pass(spoof(request)).await;
        assert_eq!(identity(&seen), NOBODY, "{why}");
    }
}

#[tokio::test]
async fn a_spoofed_identity_is_removed_in_shadow_mode() {
    let edge = Edge::start(json!({"mode": "shadow"})).await;
    for request in [
        Request::get(WHOAMI),
        Request::get(WHOAMI).bearer(&new_token("mat")),
        Request::get(WHOAMI).bearer("mat_bad"),
        Request::get(WHOAMI).header("Authorization", "nonsense"),
    ] {
        let seen = edge.pass(spoof(request)).await;
        assert_eq!(identity(&seen), NOBODY);
    }
}

#[tokio::test]
async fn a_header_can_be_turned_off_and_is_still_removed() {
    let edge = Edge::start(json!({"identity_headers": {"device_id": null}})).await;
    let seen = edge
        .pass(spoof(Request::get(WHOAMI).bearer(&edge.alice())))
        .await;
    assert_eq!(identity(&seen), [vec!["@alice:example.org"], vec![]]);
}

#[tokio::test]
async fn headers_have_the_configured_names() {
    let edge = Edge::start(json!({"identity_headers": {
        "user_id": "x-user",
        "device_id": "x-device",
        "client_id": "x-client",
        "scope": "x-scope",
        "token_kind": "x-kind",
    }}))
    .await;
    let names = ["x-user", "x-device", "x-client", "x-scope", "x-kind"];
    let spoof_all = |request: Request| {
        names.iter().fold(spoof(request), |request, name| {
            request
                .header(name, "spoofed")
                .header(&name.replace('-', "_"), "spoofed")
        })
    };
    let (access, compat) = (new_token("mat"), new_token("mct"));
    edge.mas.insert(
        &access,
        stand_in::mas::Session::access("alice", "PHONE")
            .client_id("APP")
            .scope("urn:matrix:client:api:* urn:matrix:client:device:PHONE a;b"),
    );
    edge.mas
        .insert(&compat, stand_in::mas::Session::compat("bob", "OLD"));
    let seen = edge
        .pass(spoof_all(Request::get(WHOAMI).bearer(&access)))
        .await;
    assert_eq!(
        names.map(|name| values(&seen, name)),
        [
            ["@alice:example.org"],
            ["PHONE"],
            ["APP"],
            ["urn:matrix:client:api:*%20urn:matrix:client:device:PHONE%20a%3Bb"],
            ["access_token"]
        ]
    );
    assert_eq!(
        identity(&seen),
        NOBODY,
        "the default names are not the client's to use either"
    );
    let seen = edge
        .pass(spoof_all(Request::get(WHOAMI).bearer(&compat)))
        .await;
    assert_eq!(values(&seen, "x-client"), ["legacy"]);
    assert_eq!(values(&seen, "x-kind"), ["compat_access_token"]);
    let seen = edge.pass(spoof_all(Request::get("/unknown"))).await;
    assert!(names.iter().all(|name| values(&seen, name).is_empty()));
}

#[tokio::test]
async fn the_filter_state_is_in_the_access_log() {
    let edge = Edge::start_with(
        json!({"filter_state": true}),
        Options::default(),
        |builder| builder.bootstrap(log_filter_state),
    )
    .await;
    let token = edge.alice();
    for (target, source) in [
        ("/_matrix/client/v3/introspected", "mas"),
        ("/_matrix/client/v3/cached", "local"),
    ] {
        edge.pass(Request::get(target).bearer(&token)).await;
        let known = format!("user=@alice:example.org device=PHONE active from {source}");
        assert_eq!(logged(&edge, target).await, known);
    }
    edge.pass(spoof(Request::get("/unknown"))).await;
    let nobody = "user=- device=- not_asked from offline";
    assert_eq!(logged(&edge, "/unknown").await, nobody);

    // A refused request has a verdict and nobody's name.
    assert_not_active(&edge.whoami(&new_token("mat")).await);
    let refused = "user=- device=- inactive from mas";
    assert_eq!(logged(&edge, WHOAMI).await, refused);
}

#[tokio::test]
async fn there_is_no_filter_state_by_default() {
    let edge = Edge::start_with(json!({}), Options::default(), |builder| {
        builder.bootstrap(log_filter_state)
    })
    .await;
    edge.pass(Request::get(WHOAMI).bearer(&edge.alice())).await;
    assert_eq!(logged(&edge, WHOAMI).await, "user=- device=- - from -");
}

#[tokio::test]
async fn an_rbac_rule_can_use_the_filter_state() {
    let edge = Edge::start_with(
        json!({"filter_state": true}),
        Options::default(),
        |builder| builder.bootstrap(|config| allow_only(config, "@alice:example.org")),
    )
    .await;
    let [alice, bob] = [edge.alice(), edge.active("bob", "LAPTOP")];
    for source in ["introspected", "cached"] {
        edge.pass(Request::get(WHOAMI).bearer(&alice)).await;
        let response = edge.whoami(&bob).await;
        assert_eq!(response.status, 403, "{source}");
        assert_eq!(response.text(), "RBAC: access denied");
    }
    assert_eq!(
        edge.send(&spoof(Request::get("/unknown"))).await.status,
        403
    );
}

/// What [`log_filter_state`] logged of a request.
async fn logged(edge: &Edge, target: &str) -> String {
    let start = format!("accessed {target} ");
    let line = edge.envoy.wait_for_log(&start).await;
    line.split_once(&start)
        .expect("it is in there")
        .1
        .to_owned()
}

fn log_filter_state(config: &mut Value) {
    let user = "%FILTER_STATE(wasm.matrix_user_id:PLAIN)%";
    let device = "%FILTER_STATE(wasm.matrix_device_id:PLAIN)%";
    let verdict = "%FILTER_STATE(wasm.matrix_verdict:PLAIN)%";
    let source = "%FILTER_STATE(wasm.matrix_verdict_source:PLAIN)%";
    let format =
        format!("accessed %REQ(:PATH)% user={user} device={device} {verdict} from {source}\n");
    bootstrap::http_manager(config)["access_log"] = json!([{
        "name": "envoy.access_loggers.stdout",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.access_loggers.stream.v3.StdoutAccessLog",
            "log_format": {"text_format_source": {"inline_string": format}},
        },
    }]);
}

/// Puts an RBAC filter behind the module.
fn allow_only(config: &mut Value, user_id: &str) {
    let rbac = json!({
        "name": "envoy.filters.http.rbac",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.http.rbac.v3.RBAC",
            "rules": {"action": "ALLOW", "policies": {"one user": {
                "permissions": [{"any": true}],
                "principals": [{"filter_state": {
                    "key": "wasm.matrix_user_id",
                    "string_match": {"exact": user_id},
                }}],
            }}},
        },
    });
    bootstrap::http_filters(bootstrap::http_manager(config)).insert(1, rbac);
}
