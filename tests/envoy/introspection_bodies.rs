//! However a request comes in: the introspection role answers it from its form, or lets it go on to MAS whole and
//! untouched.

use std::time::Duration;

use serde_json::json;
use sha2::{Digest, Sha256};
use stand_in::mas::introspection_body;
use tokio::time::Instant;

use super::{
    edge::{Edge, hex, new_token},
    http2::Http2,
    introspection_role::{
        INACTIVE, NAME, PATH, answers, ask, assert_active, assert_mas_answers, comparable, headers,
        introspect, secret, start, start_with,
    },
};
use crate::support::{
    envoy::{Envoy, bootstrap},
    http::{self, Connection, Request},
    product_time::{EARLY, Moment},
};

#[tokio::test]
async fn a_form_may_come_in_pieces() {
    let edge = start(json!({})).await;
    let token = edge.alice();
    for calls in [1, 1] {
        let mut connection = Connection::open(edge.envoy.listener(NAME)).await;
        let form = introspection_body(&token);
        let request = headers(&secret()).header("Content-Length", form.len().to_string());
        let mut sent = Sent::new(&edge).await;
        sent.send(&mut connection, &request.to_bytes()).await;
        for piece in form.chunks(16) {
            sent.send(&mut connection, piece).await;
        }
        assert_active(&connection.response(false).await, "alice");
        assert_eq!(edge.mas.calls(&token), calls);
    }
    edge.assert_alive().await;
}

#[tokio::test]
async fn the_body_may_wait_for_100_continue() {
    let edge = start(json!({})).await;
    let token = edge.alice();
    for _ in 0..2 {
        let body = introspection_body(&token);
        let request = headers(&secret())
            .header("Expect", "100-continue")
            .header("Content-Length", body.len().to_string());
        let mut connection = Connection::open(edge.envoy.listener(NAME)).await;
        let mut sent = Sent::new(&edge).await;
        sent.send(&mut connection, &request.to_bytes()).await;
        connection.send(&body).await;
        assert_active(&connection.response(false).await, "alice");
    }
    assert_eq!(edge.mas.calls(&token), 1);
}

/// A homeserver keeps its connections. No more than two requests are sent at once here: Envoy closes a connection with
/// more responses on it that it has not written yet.
#[tokio::test]
async fn requests_on_one_connection_are_answered_in_their_order() {
    let edge = start(json!({})).await;
    let [alice, bob] = [edge.alice(), edge.active("bob", "LAPTOP")];
    let requests = [
        (introspect(&alice), 200, "alice"),
        (introspect(&bob), 200, "bob"),
        (introspect(&new_token("mat")), 200, INACTIVE),
        (
            headers(&secret()).chunked(introspection_body(&alice)),
            200,
            "alice",
        ),
        (Request::get("/health"), 200, "ok"),
        (introspect(&new_token("mar")), 200, INACTIVE),
        (
            headers("Bearer wrong").body(introspection_body(&alice)),
            401,
            "access_denied",
        ),
    ];
    let mut kept = Connection::open(edge.envoy.listener(NAME)).await;
    // Each after each. To begin with none is known.
    for first in &requests {
        for second in &requests {
            let mut pipelined = Connection::open(edge.envoy.listener(NAME)).await;
            pipelined
                .send(&[first.0.to_bytes(), second.0.to_bytes()].concat())
                .await;
            for (request, status, text) in [first, second] {
                let responses = [pipelined.response(false).await, kept.request(request).await];
                for response in responses {
                    assert_eq!(response.status, *status, "{response:?}");
                    assert!(response.text().contains(text), "{response:?}");
                }
            }
        }
    }
    assert_eq!(edge.mas.calls(&bob), 1);
    edge.assert_alive().await;
}

/// By way of another Envoy, which speaks HTTP/2 to the listener.
#[tokio::test]
async fn http_2_is_served_too() {
    let edge = start_with(json!({}), |builder| {
        builder.bootstrap(|config| {
            let role = bootstrap::http_manager_of(&mut bootstrap::listeners(config)[1]);
            role["http2_protocol_options"] = json!({});
        })
    })
    .await;
    let front = Envoy::builder()
        .homeserver(edge.envoy.listener(NAME))
        .bootstrap(|config| {
            let trailers = json!({"enable_trailers": true});
            bootstrap::http_manager(config)["http_protocol_options"] = trailers;
            let http2 = json!({"explicit_http_config": {"http2_protocol_options": {}}});
            speak(config, "homeserver", http2);
        })
        .start()
        .await;
    let token = edge.alice();
    let exact = introspect(&token);
    for (request, calls) in [
        (exact.clone(), 1),
        (exact, 0),
        (headers(&secret()).chunked(introspection_body(&token)), 1),
        (
            headers(&secret())
                .chunked(introspection_body(&token))
                .trailer("X-A", "b"),
            1,
        ),
        (headers("Bearer wrong").body(introspection_body(&token)), 1),
        (headers(&secret()), 1),
        (headers(&secret()).chunked([b'x'; 100_000]), 1),
    ] {
        let before = edge.mas.total_calls();
        let response = http::send(front.addr(), &request).await;
        assert_eq!(edge.mas.total_calls() - before, calls, "{response:?}");
        let direct = http::send(edge.mas.addr(), &request).await;
        let [answer, expected] = [&response, &direct].map(comparable);
        assert_eq!(
            (answer.status, answer.body),
            (expected.status, expected.body)
        );
    }
    let spoken = edge
        .envoy
        .stat("http.introspection.downstream_cx_http2_total")
        .await;
    assert!(spoken > 0, "HTTP/2 was spoken");
    edge.assert_alive().await;
}

#[tokio::test]
async fn requests_without_a_form_are_for_mas() {
    let edge = start(json!({})).await;
    let known = introspection_body(&edge.alice());
    ask(&edge, &headers(&secret()).body(&known)).await;
    for request in [
        headers(&secret()),
        headers(&secret()).body(""),
        headers(&secret()).chunked(""),
        headers(&secret()).body("token="),
        headers(&secret())
            .header("Content-Encoding", "identity")
            .body(&known),
    ] {
        assert_mas_answers(&edge, &request, 1).await;
    }
    edge.assert_alive().await;
}

/// Over 64 KiB the form is not read: it goes on at once. So does a chunked form of any length.
#[tokio::test]
async fn a_long_form_passes_whole() {
    let edge = start(json!({})).await;
    for length in [65_536, 65_537, 100_000, 2_000_000, 3_000_000] {
        let body = form_of(length);
        let announced = headers(&secret()).body(&body);
        // The longest that is read: a token that nobody knows, of which the answer is then kept.
        if length <= 65_536 {
            assert_eq!(ask(&edge, &announced).await.text(), INACTIVE);
        } else {
            assert_mas_answers(&edge, &announced, 1).await;
        }
        assert_saw_form(&edge, &body);
        let chunked = headers(&secret()).chunked(&body);
        assert_mas_answers(&edge, &chunked, 1).await;
        assert_saw_form(&edge, &body);
    }
    edge.assert_alive().await;
}

/// Envoy answers a held request with 413 once more of its body has come than the listener may buffer. Here that is as
/// little as the role needs, and the beginning of the form comes by itself, so that the rest does not fit.
#[tokio::test]
async fn the_rest_of_a_form_never_is_too_much() {
    let edge = start_with(json!({}), |builder| {
        builder.bootstrap(|config| {
            let role = &mut bootstrap::listeners(config)[1];
            role["per_connection_buffer_limit_bytes"] = 65_536.into();
        })
    })
    .await;
    for length in [65_536, 65_537, 200_000] {
        let body = form_of(length);
        for request in [
            headers(&secret()).body(&body),
            headers(&secret()).chunked(&body),
        ] {
            let bytes = request.to_bytes();
            let (beginning, rest) = bytes.split_at(10_000);
            let mut connection = Connection::open(edge.envoy.listener(NAME)).await;
            let mut sent = Sent::new(&edge).await;
            sent.send(&mut connection, beginning).await;
            connection.send(rest).await;
            let response = connection.response(false).await;
            assert_eq!((response.status, response.text()), (200, INACTIVE));
            assert_saw_form(&edge, &body);
        }
    }
    edge.assert_alive().await;
}

/// Also of a token whose answer is kept. Envoy drops trailers unless it is told otherwise.
#[tokio::test]
async fn a_chunked_form_is_for_mas() {
    let edge = start(json!({})).await;
    let token = edge.alice();
    ask(&edge, &introspect(&token)).await;
    let chunked = headers(&secret()).chunked(introspection_body(&token));
    for request in [chunked.clone(), chunked.trailer("X-Checksum", "1234")] {
        for _ in 0..2 {
            assert_mas_answers(&edge, &request, 1).await;
            assert_saw_form(&edge, &introspection_body(&token));
        }
    }
    edge.assert_alive().await;
}

/// Trailers come in place of the body's end. A request whose length is known can have them in HTTP/2 only. It is answered like
/// any, from what Envoy holds of its form.
#[tokio::test]
async fn a_form_may_have_trailers() {
    let edge = start_with(json!({}), |builder| {
        builder.bootstrap(|config| {
            let role = bootstrap::http_manager_of(&mut bootstrap::listeners(config)[1]);
            let enabled = json!({"enable_trailers": true});
            role["http_protocol_options"] = enabled.clone();
            let http1 = json!({"explicit_http_config": {"http_protocol_options": enabled}});
            speak(config, "mas", http1);
        })
    })
    .await;
    let token = edge.alice();
    ask(&edge, &introspect(&token)).await;
    let form = introspection_body(&token);
    let chunked = headers(&secret())
        .chunked(&form)
        .trailer("X-Checksum", "1234");
    assert_mas_answers(&edge, &chunked, 1).await;
    let seen = edge.mas.requests().pop().expect("a request");
    assert_eq!(seen.body, form);
    assert_eq!(seen.trailers, [("x-checksum".to_owned(), "1234".into())]);

    let calls = edge.mas.total_calls();
    let length = form.len().to_string();
    let fields = [
        ("x-mas-supports-device-id", "1"),
        ("authorization", &secret()),
        ("content-type", "application/x-www-form-urlencoded"),
        ("content-length", &length),
    ];
    let mut http2 = Http2::open(edge.envoy.listener(NAME)).await;
    let checksum = [("x-checksum", "1234")];
    http2
        .post_with_trailers(PATH, &fields, &form, &checksum)
        .await;
    http2.answer_begins().await;
    assert_eq!(edge.mas.total_calls(), calls);
    let passed_on = answers(&edge, "not_asked", "offline").await;
    assert_eq!(passed_on, 0.0);
    edge.assert_alive().await;
}

/// Only a request of which nothing has come goes on after a second. Before 1.39 Envoy would lose the other half.
#[tokio::test]
async fn a_slow_form_is_waited_for() {
    let edge = start(json!({})).await;
    let token = edge.alice();
    ask(&edge, &introspect(&token)).await;
    let body = introspection_body(&token);
    let request = headers(&secret()).body(&body).to_bytes();
    let (first, second) = request.split_at(request.len() - 10);
    let mut slow = Connection::open(edge.envoy.listener(NAME)).await;
    slow.send(first).await;
    let (head, form) = request.split_at(request.len() - body.len());
    let mut silent = Connection::open(edge.envoy.listener(NAME)).await;
    silent.send(head).await;
    // The second of the one that came later is over.
    let name = "matrix_edge_auth_introspection_answers_total";
    edge.wait_for_metric(name, &[("verdict", "not_asked")], 1.0)
        .await;
    silent.send(form).await;
    assert_active(&silent.response(false).await, "alice");
    assert_eq!(edge.mas.calls(&token), 2, "by MAS itself");
    let seen = edge.mas.requests().pop().expect("a request");
    assert_eq!(seen.body, body);
    slow.send(second).await;
    assert_active(&slow.response(false).await, "alice");
    // On the same connections the next one is answered.
    for connection in [&mut slow, &mut silent] {
        assert_active(&connection.request(&introspect(&token)).await, "alice");
    }
    assert_eq!(edge.mas.calls(&token), 2, "out of the cache");
    edge.assert_alive().await;
}

/// The sender of the form is slow, and no setting is to blame.
#[tokio::test]
async fn a_form_that_comes_late_goes_to_mas_and_blames_no_setting() {
    let edge = start(json!({})).await;
    let token = edge.alice();
    let body = introspection_body(&token);
    let request = headers(&secret()).header("Content-Length", body.len().to_string());
    let mut connection = Connection::open(edge.envoy.listener(NAME)).await;
    connection.send(&request.to_bytes()).await;
    let name = "matrix_edge_auth_introspection_answers_total";
    edge.wait_for_metric(name, &[("verdict", "not_asked")], 1.0)
        .await;
    // What comes at once would be what Envoy had held back.
    tokio::time::sleep(Duration::from_millis(100)).await;
    connection.send(&body).await;
    assert_active(&connection.response(false).await, "alice");
    assert_eq!(edge.mas.calls(&token), 1);
    assert!(!edge.envoy.log().contains("no body came"), "see the log");
    edge.assert_alive().await;
}

/// Then Envoy shows no body while the headers are held.
#[tokio::test]
async fn without_the_setting_mas_answers_after_a_second_and_the_log_says_what_to_set() {
    let edge = start_with(json!({}), |builder| {
        builder.bootstrap(|config| {
            let role = bootstrap::http_manager_of(&mut bootstrap::listeners(config)[1]);
            let plugin = bootstrap::plugin(role).as_object_mut().expect("an object");
            plugin
                .remove("allow_on_headers_stop_iteration")
                .expect("it was set");
        })
    })
    .await;
    let token = edge.alice();
    for calls in 1..3 {
        let (before, by_product) = (Instant::now(), Moment::now());
        let response = ask(&edge, &introspect(&token)).await;
        let (took, of_product) = (before.elapsed(), by_product.elapsed());
        assert_active(&response, "alice");
        assert_eq!(edge.mas.calls(&token), calls);
        assert!(took >= Duration::from_secs(1) - EARLY, "{took:?}");
        assert!(of_product < Duration::from_secs(5), "{of_product:?}");
    }
    // All others are as fast as ever.
    for request in [
        headers("Bearer wrong").body(introspection_body(&token)),
        headers(&secret()).chunked(form_of(3_000_000)),
    ] {
        assert_mas_answers(&edge, &request, 1).await;
    }
    assert_eq!(answers(&edge, "not_asked", "offline").await, 2.0);
    let log = edge.envoy.log();
    let said = log.matches("set allow_on_headers_stop_iteration").count();
    assert_eq!(said, 1, "once: {log}");
    edge.assert_alive().await;
}

/// What was sent to the role's listener so far, piece by piece, each of which Envoy reads by itself.
struct Sent<'a> {
    edge: &'a Edge,
    bytes: u64,
}

impl<'a> Sent<'a> {
    const RECEIVED: &'static str = "http.introspection.downstream_cx_rx_bytes_total";

    async fn new(edge: &'a Edge) -> Self {
        let bytes = edge.envoy.stat(Self::RECEIVED).await;
        Self { edge, bytes }
    }

    /// Resolves when Envoy has read it.
    async fn send(&mut self, connection: &mut Connection, bytes: &[u8]) {
        connection.send(bytes).await;
        self.bytes += bytes.len() as u64;
        let received = self.bytes;
        self.edge
            .envoy
            .wait_for_stat(Self::RECEIVED, |n| n >= received)
            .await;
    }
}

/// Sets how Envoy speaks HTTP to a cluster.
fn speak(config: &mut serde_json::Value, cluster: &str, mut options: serde_json::Value) {
    options["@type"] =
        "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions".into();
    bootstrap::cluster(config, cluster)["typed_extension_protocol_options"] =
        json!({"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": options});
}

/// Checks that MAS has seen this form last.
#[track_caller]
fn assert_saw_form(edge: &Edge, form: &[u8]) {
    let seen = edge.mas.requests().pop().expect("a request");
    assert_eq!(seen.body_bytes, form.len() as u64);
    assert_eq!(seen.body_sha256, hex(&Sha256::digest(form)));
}

/// A form of this length, with a token of its own.
fn form_of(length: usize) -> Vec<u8> {
    let mut form = introspection_body("").to_vec();
    let token = vec![b'x'; length - form.len()];
    let at = "token=".len();
    form.splice(at..at, token);
    form
}
