//! Uploads while a verdict is pending: they arrive whole or not at all, and nothing of them arrives early.

use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use stand_in::mas::{Fault, Options};

use super::{
    edge::{Edge, assert_no_verdict, assert_not_active, hex, new_token},
    http2::Http2,
};
use crate::support::{
    envoy::bootstrap,
    http::{Request, within_limit},
};

const UPLOAD: &str = "/_matrix/media/v3/upload";
const LARGE: usize = 20 << 20;
/// Less than Envoy buffers for a request.
const SMALL: usize = 300 << 10;

/// How many bytes have come from clients.
const RECEIVED: &str = "http.gateway.downstream_cx_rx_bytes_total";

/// Trailers of which all but one claim to be the edge's.
const FORGED: [(&str, &str); 4] = [
    ("x-matrix-user-id", "@admin:example.org"),
    ("x-checksum", "1234"),
    ("x-matrix-device-id", "FORGED"),
    ("x-matrix-user-id", "@other:example.org"),
];

#[derive(Clone, Copy, Debug)]
enum Framing {
    ContentLength,
    Chunked,
    ExpectContinue,
}

const FRAMINGS: [Framing; 3] = [
    Framing::ContentLength,
    Framing::Chunked,
    Framing::ExpectContinue,
];

#[tokio::test]
async fn a_large_upload_arrives_whole_after_an_active_verdict() {
    let body = noise(LARGE);
    for framing in FRAMINGS {
        let edge = Edge::start(json!({})).await;
        let hold = edge.mas.hold();
        let response = edge.spawn(&upload(&edge.alice(), &body, framing));
        edge.wait_for_calls(1).await;
        let paused = "http.gateway.downstream_flow_control_paused_reading_total";
        edge.envoy.wait_for_stat(paused, |n| n > 0).await;
        assert!(!edge.homeserver.first_byte_seen(), "{framing:?}");
        hold.release();
        assert_eq!(
            response.await.expect("a response").status,
            200,
            "{framing:?}"
        );
        assert_arrived(&edge, &body);
    }
}

#[tokio::test]
async fn a_large_upload_gets_a_clean_401_after_an_inactive_verdict() {
    let body = noise(LARGE);
    for framing in FRAMINGS {
        let edge = Edge::start(json!({})).await;
        let hold = edge.mas.hold();
        let response = edge.spawn(&upload(&new_token("mat"), &body, framing));
        edge.wait_for_calls(1).await;
        hold.release();
        assert_not_active(&response.await.expect("a response"));
        assert!(!edge.homeserver.first_byte_seen(), "{framing:?}");
        edge.assert_alive().await;
    }
}

#[tokio::test]
async fn a_large_upload_gets_a_clean_503_without_a_verdict() {
    let body = noise(LARGE);
    let edge = Edge::start(json!({})).await;
    edge.mas.fault(Fault::status(500, "").times(1));
    let hold = edge.mas.hold();
    let response = edge.spawn(&upload(&edge.alice(), &body, Framing::Chunked));
    edge.wait_for_calls(1).await;
    hold.release();
    assert_no_verdict(&response.await.expect("a response"));
    assert!(!edge.homeserver.first_byte_seen());
}

#[tokio::test]
async fn a_large_upload_with_a_cached_verdict_passes_or_not_at_once() {
    let body = noise(LARGE);
    let edge = Edge::start(json!({})).await;
    let [active, inactive] = [edge.alice(), new_token("mat")];
    edge.whoami(&active).await;
    edge.whoami(&inactive).await;
    for framing in FRAMINGS {
        let before = edge.homeserver.count();
        assert_eq!(
            edge.send(&upload(&active, &body, framing)).await.status,
            200
        );
        assert_not_active(&edge.send(&upload(&inactive, &body, framing)).await);
        assert_arrived(&edge, &body);
        assert_eq!(edge.homeserver.count(), before + 1);
    }
}

/// The setting makes Envoy deliver the body while the headers are held; a filter that let it through would
/// send both.
#[tokio::test]
async fn no_setting_lets_a_body_pass_before_the_verdict() {
    let body = noise(SMALL);
    for framing in FRAMINGS {
        let edge = Edge::start_with(json!({}), Options::default(), |builder| {
            builder.bootstrap(allow_on_headers_stop_iteration)
        })
        .await;
        for (token, active) in [(edge.alice(), true), (new_token("mat"), false)] {
            let (forwarded, calls) = (edge.homeserver.bytes_received(), edge.mas.total_calls());
            let received = "http.gateway.downstream_cx_rx_bytes_total";
            let before = edge.envoy.stat(received).await;
            let hold = edge.mas.hold();
            let response = edge.spawn(&upload(&token, &body, framing));
            edge.wait_for_calls(calls + 1).await;
            edge.envoy
                .wait_for_stat(received, |n| n >= before + SMALL as u64)
                .await;
            assert_eq!(edge.homeserver.bytes_received(), forwarded, "{framing:?}");
            hold.release();
            let response = response.await.expect("a response");
            if active {
                assert_eq!(response.status, 200, "{framing:?}: {response:?}");
                assert_arrived(&edge, &body);
            } else {
                assert_not_active(&response);
                assert_eq!(edge.homeserver.bytes_received(), forwarded, "{framing:?}");
            }
        }
        edge.assert_alive().await;
    }
}

/// With that setting Envoy must buffer what it delivers too early, and refuses what is too large for that. The
/// verdict then comes for a request that is answered.
#[tokio::test]
async fn with_that_setting_a_large_upload_is_refused_but_never_passed() {
    let body = noise(LARGE);
    let edge = Edge::start_with(json!({}), Options::default(), |builder| {
        builder.bootstrap(allow_on_headers_stop_iteration)
    })
    .await;
    let hold = edge.mas.hold();
    let response = edge
        .send(&upload(&edge.alice(), &body, Framing::ContentLength))
        .await;
    assert_eq!(response.status, 413, "{response:?}");
    hold.release();
    edge.wait_for_metric(
        "matrix_edge_auth_introspections_total",
        &[("outcome", "active")],
        1.0,
    )
    .await;
    assert!(!edge.homeserver.first_byte_seen());
    edge.assert_alive().await;
}

/// Trailers come by a callback of their own.
#[tokio::test]
async fn no_setting_lets_trailers_pass_before_the_verdict() {
    for body in ["", "body"] {
        let edge = Edge::start_with(json!({}), Options::default(), |builder| {
            builder
                .bootstrap(allow_on_headers_stop_iteration)
                .bootstrap(enable_trailers)
        })
        .await;
        let token = edge.alice();
        let request =
            upload(&token, body.as_bytes(), Framing::Chunked).trailer("X-Checksum", "1234");
        let received = "http.gateway.downstream_cx_rx_bytes_total";
        let hold = edge.mas.hold();
        let response = edge.spawn(&request);
        edge.wait_for_calls(1).await;
        let sent = request.to_bytes().len() as u64;
        edge.envoy.wait_for_stat(received, |n| n >= sent).await;
        assert!(!edge.homeserver.first_byte_seen());
        hold.release();
        assert_eq!(response.await.expect("a response").status, 200);
        assert_arrived(&edge, body.as_bytes());
        let trailers = [("x-checksum".to_owned(), "1234".into())];
        assert_eq!(edge.homeserver.requests()[0].trailers, trailers);
        edge.assert_alive().await;
    }
}

#[tokio::test]
async fn an_identity_in_trailers_is_removed() {
    let edge = Edge::start_with(json!({}), Options::default(), |builder| {
        builder.bootstrap(enable_trailers)
    })
    .await;
    for token in [edge.alice(), "an-appservice-token".to_owned()] {
        let request = upload(&token, b"body", Framing::Chunked)
            .trailer("X-Matrix-User-Id", "@admin:example.org")
            .trailer("X-Checksum", "1234")
            .trailer("x-matrix-device-id", "FORGED");
        assert_eq!(edge.send(&request).await.status, 200);
        let seen = edge.homeserver.requests();
        let trailers = [("x-checksum".to_owned(), "1234".into())];
        assert_eq!(seen.last().expect("a request").trailers, trailers);
    }
    edge.assert_alive().await;
}

/// With the setting the trailers come while the request is held, and never again.
#[tokio::test]
async fn an_identity_in_trailers_of_a_held_request_is_removed() {
    let edge = Edge::start_with(json!({}), Options::default(), |builder| {
        builder
            .bootstrap(allow_on_headers_stop_iteration)
            .bootstrap(enable_trailers)
    })
    .await;
    for is_http2 in [false, true] {
        for body in ["", "body"] {
            let before = edge.homeserver.count();
            let calls = edge.mas.total_calls();
            let bytes = edge.envoy.stat(RECEIVED).await;
            let hold = edge.mas.hold();
            let token = edge.alice();
            // Both stay open until the homeserver has answered.
            let (mut connection, mut response) = (None, None);
            let sent = if is_http2 {
                let bearer = format!("Bearer {token}");
                let mut http2 = Http2::open(edge.envoy.addr()).await;
                let fields = [("authorization", &*bearer), ("content-type", "image/png")];
                http2
                    .post_with_trailers(UPLOAD, &fields, body.as_bytes(), &FORGED)
                    .await;
                connection.insert(http2).sent()
            } else {
                let request = upload(&token, body.as_bytes(), Framing::Chunked);
                let request = FORGED.iter().fold(request, |request, (name, value)| {
                    request.trailer(name, value)
                });
                response = Some(edge.spawn(&request));
                request.to_bytes().len() as u64
            };
            edge.wait_for_calls(calls + 1).await;
            edge.envoy
                .wait_for_stat(RECEIVED, |n| n >= bytes + sent)
                .await;
            assert_eq!(edge.homeserver.started(), before, "it is held");
            hold.release();
            within_limit("the homeserver", edge.homeserver.wait_for(before + 1)).await;
            let seen = edge.homeserver.requests().pop().expect("a request");
            assert_eq!(
                seen.trailers,
                [("x-checksum".to_owned(), "1234".into())],
                "HTTP/2: {is_http2}, body: {body:?}"
            );
            assert_arrived(&edge, body.as_bytes());
            drop((connection, response));
        }
    }
    edge.assert_alive().await;
}

fn upload(token: &str, body: &[u8], framing: Framing) -> Request {
    let request = Request::new("POST", UPLOAD)
        .bearer(token)
        .header("Content-Type", "image/png");
    match framing {
        Framing::ContentLength => request.body(body),
        Framing::Chunked => request.chunked(body),
        Framing::ExpectContinue => request.header("Expect", "100-continue").body(body),
    }
}

#[track_caller]
fn assert_arrived(edge: &Edge, body: &[u8]) {
    let requests = edge.homeserver.requests();
    let seen = requests.last().expect("a request");
    assert_eq!(seen.body_bytes, body.len() as u64);
    assert_eq!(seen.body_sha256, hex(&Sha256::digest(body)));
}

fn allow_on_headers_stop_iteration(config: &mut Value) {
    bootstrap::plugin(bootstrap::http_manager(config))["allow_on_headers_stop_iteration"] =
        true.into();
}

/// Envoy otherwise drops the trailers of HTTP/1 requests.
fn enable_trailers(config: &mut Value) {
    let enabled = json!({"enable_trailers": true});
    bootstrap::http_manager(config)["http_protocol_options"] = enabled.clone();
    bootstrap::cluster(config, "homeserver")["typed_extension_protocol_options"] = json!({
        "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
            "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
            "explicit_http_config": {"http_protocol_options": enabled},
        },
    });
}

/// Bytes of which no part is like another.
pub fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut bytes = Vec::with_capacity(length);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}
