//! `mode: shadow`: everything passes at once, and what `enforce` would have rejected is counted.

use serde_json::{Value, json};
use stand_in::{
    homeserver::Homeserver,
    mas::{Fault, Mas, Options, Session},
};

use super::edge::{Edge, NOBODY, WHOAMI, identity, new_token, plugin};
use tokio::{io::AsyncWriteExt, net::TcpListener};

use crate::support::{
    envoy::{Envoy, bootstrap},
    http::{self, Request, within_limit},
};

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
        wait_for_would_reject(&edge, reason, before + 1.0).await;
    }
    let stats = edge.envoy.stats().await;
    assert_eq!(stats.sum("matrix_edge_auth_rejections_total", &[]), 0.0);
}

#[tokio::test]
async fn shadow_mode_annotates_and_caches_as_usual() {
    let edge = Edge::start(json!({"mode": "shadow"})).await;
    let token = edge.alice();
    let request = Request::get(WHOAMI).bearer(&token);
    // No request waits for the answer to the first.
    assert_eq!(identity(&edge.pass(request.clone()).await), NOBODY);
    let active = [("verdict", "active"), ("source", "mas")];
    edge.wait_for_metric("matrix_edge_auth_requests_total", &active, 1.0)
        .await;
    for _ in 0..2 {
        let seen = edge.pass(request.clone()).await;
        assert_eq!(identity(&seen), [["@alice:example.org"], ["PHONE"]]);
    }
    assert_eq!(edge.mas.total_calls(), 1);
    let stats = edge.envoy.stats().await;
    assert_eq!(stats.sum("matrix_edge_auth_would_reject_total", &[]), 0.0);
}

/// MAS answers nothing until every client has its answer from the homeserver. Their streams have ended by then, and
/// each verdict is counted all the same.
#[tokio::test]
async fn no_request_waits_while_mas_hangs() {
    const REQUESTS: usize = 100;
    let edge = Edge::start(json!({"mode": "shadow"})).await;
    let hold = edge.mas.hold();
    let (inactive, alice) = (new_token("mat"), edge.alice());
    let mut asked = tokio::task::JoinSet::new();
    for number in 0..REQUESTS {
        let token = match number % 4 {
            0 => new_token("mat"),
            1 => alice.clone(),
            _ => inactive.clone(),
        };
        let request = Request::get(WHOAMI)
            .bearer(&token)
            .header("x-matrix-user-id", "@admin:example.org")
            .header("x-matrix-device-id", "SPOOFED");
        asked.spawn(edge.spawn(&request));
    }
    while let Some(response) = within_limit("an answer of the homeserver", asked.join_next()).await
    {
        assert_eq!(response.unwrap().unwrap().status, 200);
    }
    let seen = edge.homeserver.requests();
    assert_eq!(seen.len(), REQUESTS);
    assert!(seen.iter().all(|seen| identity(seen) == NOBODY));
    let counted = edge.envoy.stats().await;
    assert_eq!(counted.sum("matrix_edge_auth_requests_total", &[]), 0.0);

    hold.release();
    let requests = "matrix_edge_auth_requests_total";
    edge.wait_for_metric(requests, &[], REQUESTS as f64).await;
    for (verdict, number) in [("active", 0.25), ("inactive", 0.75)] {
        edge.wait_for_metric(requests, &[("verdict", verdict)], number * REQUESTS as f64)
            .await;
    }
    wait_for_would_reject(&edge, "not_active", 0.75 * REQUESTS as f64).await;
    let tokens = REQUESTS as u64 / 4 + 2;
    assert_eq!(edge.mas.total_calls(), tokens, "one call for each token");
}

/// The status comes from the homeserver, or there is none: it breaks off, is not there, or its client hangs up.
#[tokio::test]
async fn what_the_homeserver_answered_is_counted_with_the_reason() {
    let edge = Edge::start_with(
        json!({"mode": "shadow", "filter_state": true}),
        Options::default(),
        |envoy| envoy.bootstrap(log_what_enforce_would_do),
    )
    .await;
    let bad = new_token("mat");
    let reason = ("reason", "not_active");
    // The first is decided after the homeserver has answered.
    let hold = edge.mas.hold();
    edge.pass(Request::get(WHOAMI).bearer(&bad)).await;
    let line = edge.envoy.wait_for_log("would do 200").await;
    assert!(line.contains("pending - -"), "{line}");
    hold.release();
    wait_for_answers(&edge, "2xx", reason, 1.0).await;
    for (status, answer) in [(401, "4xx"), (302, "3xx"), (502, "5xx")] {
        edge.homeserver.respond(WHOAMI, status, "{}");
        edge.whoami(&bad).await;
        wait_for_answers(&edge, answer, reason, 1.0).await;
        let line = edge.envoy.wait_for_log(&format!("would do {status}")).await;
        assert!(line.contains("inactive shared not_active"), "{line}");
    }
    // Envoy answers in place of the homeserver.
    edge.homeserver.stop().await;
    assert_eq!(
        http::send(edge.envoy.addr(), &Request::get(WHOAMI).bearer(&bad))
            .await
            .status,
        503
    );
    let stats = edge.envoy.stats().await;
    let answers = "matrix_edge_auth_would_reject_answers_total";
    assert_eq!(
        stats.find(answers, &[("answer", "none"), reason]),
        Some(1.0)
    );
    assert_eq!(stats.sum(answers, &[]), 5.0);
    assert_eq!(stats.sum("matrix_edge_auth_would_reject_total", &[]), 5.0);
}

/// The verdict comes while the homeserver still works. One client waits for it, another hangs up.
#[tokio::test]
async fn a_stream_that_still_waits_is_told_of_its_verdict() {
    let homeserver = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mas = Mas::start(Options::default()).await.unwrap();
    let envoy = Envoy::builder()
        .plugin(plugin(json!({"mode": "shadow", "filter_state": true})))
        .homeserver(homeserver.local_addr().unwrap())
        .mas(mas.addr())
        .bootstrap(log_what_enforce_would_do);
    let edge = Edge {
        mas,
        homeserver: Homeserver::start_local().await.unwrap(),
        envoy: envoy.start().await,
    };
    let reason = ("reason", "not_active");
    let patient = edge.spawn(&Request::get(WHOAMI).bearer(&new_token("mat")));
    wait_for_would_reject(&edge, "not_active", 1.0).await;
    let (mut upstream, _) = within_limit("a connection", homeserver.accept())
        .await
        .unwrap();
    let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
    upstream.write_all(answer).await.unwrap();
    assert_eq!(patient.await.unwrap().status, 200);
    wait_for_answers(&edge, "2xx", reason, 1.0).await;
    edge.envoy
        .wait_for_log("would do 200 inactive mas not_active")
        .await;

    let hasty = edge.spawn(&Request::get(WHOAMI).bearer(&new_token("mat")));
    wait_for_would_reject(&edge, "not_active", 2.0).await;
    hasty.abort();
    wait_for_answers(&edge, "none", reason, 1.0).await;
    edge.envoy
        .wait_for_log("would do 0 inactive mas not_active")
        .await;
}

/// A client that hangs up at once, and MAS that never answers.
#[tokio::test]
async fn a_call_that_times_out_is_counted_for_a_stream_that_has_ended() {
    let edge = Edge::start(json!({"mode": "shadow", "introspection": {"timeout": "200ms"}})).await;
    let _hold = edge.mas.hold();
    let alice = edge.alice();
    for _ in 0..3 {
        edge.pass(Request::get(WHOAMI).bearer(&alice)).await;
    }
    wait_for_would_reject(&edge, "introspection_failed", 3.0).await;
}

/// The line of the access log is written by then, and has the same name for the request.
#[tokio::test]
async fn a_verdict_that_comes_after_the_request_has_ended_stands_in_the_log() {
    let edge = Edge::start(json!({"mode": "shadow", "filter_state": true})).await;
    let hold = edge.mas.hold();
    let seen = edge
        .pass(Request::get(WHOAMI).bearer(&new_token("mat")))
        .await;
    let id = seen.header("x-request-id").expect("Envoy gives it a name");
    let id = str::from_utf8(id).expect("a UUID");
    let line = format!("shadow: request {id} would have been rejected: not_active");
    edge.wait_for_calls(1).await;
    hold.release();
    edge.envoy.wait_for_log(&line).await;
}

/// What ends sessions is seen in shadow mode too.
#[tokio::test]
async fn a_logout_ends_what_is_on_its_way_and_what_is_known() {
    let edge = Edge::start(json!({"mode": "shadow"})).await;
    let alice = edge.alice();
    let hold = edge.mas.hold();
    edge.pass(Request::get(WHOAMI).bearer(&alice)).await;
    edge.wait_for_calls(1).await;
    edge.pass(Request::new("POST", "/_matrix/client/v3/logout").bearer(&alice))
        .await;
    hold.release();
    // The answer that was on its way is not kept: MAS is asked once more.
    edge.wait_for_calls(2).await;
    let active = [("verdict", "active")];
    edge.wait_for_metric("matrix_edge_auth_requests_total", &active, 1.0)
        .await;
    let path = "/_matrix/client/v3/logout";
    edge.pass(Request::new("POST", path).bearer(&alice)).await;
    let reason = [("reason", "logout")];
    edge.wait_for_metric("matrix_edge_auth_invalidations_total", &reason, 1.0)
        .await;
    edge.pass(Request::get(WHOAMI).bearer(&alice)).await;
    edge.wait_for_calls(3).await;
}

async fn wait_for_would_reject(edge: &Edge, reason: &str, number: f64) {
    let labels = [("reason", reason)];
    edge.wait_for_metric("matrix_edge_auth_would_reject_total", &labels, number)
        .await;
}

async fn would_reject(edge: &Edge, reason: &str) -> f64 {
    let stats = edge.envoy.stats().await;
    stats.sum("matrix_edge_auth_would_reject_total", &[("reason", reason)])
}

async fn wait_for_answers(edge: &Edge, answer: &str, reason: (&str, &str), number: f64) {
    let labels = [("answer", answer), reason];
    edge.wait_for_metric(
        "matrix_edge_auth_would_reject_answers_total",
        &labels,
        number,
    )
    .await;
}

fn log_what_enforce_would_do(config: &mut Value) {
    let states = [
        "matrix_verdict",
        "matrix_verdict_source",
        "matrix_would_reject",
    ];
    let states = states.map(|name| format!("%FILTER_STATE(wasm.{name}:PLAIN)%"));
    let format = format!("would do %RESPONSE_CODE% {}\n", states.join(" "));
    bootstrap::http_manager(config)["access_log"] = json!([{
        "name": "envoy.access_loggers.stdout",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.access_loggers.stream.v3.StdoutAccessLog",
            "log_format": {"text_format_source": {"inline_string": format}},
        },
    }]);
}
