//! No verdict: every way in which an introspection can fail gives a 503 or, by configuration, a pass without
//! an identity. Never a 401, never a cached answer, never a dead VM.
//!
//! The ways are those that Envoy has been seen to have: a call that it does not take, a call that ends
//! without a response, a response of its own in place of MAS's, and whatever MAS or someone posing as it sends.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use stand_in::mas::{Fault, Options};

use super::edge::{
    Edge, INTROSPECTIONS, NOBODY, WHOAMI, assert_no_verdict, assert_not_active, closed_port,
    identity, new_token, plugin,
};
use crate::support::{envoy::bootstrap, http::Request};

/// Envoy answers such a call with 503.
#[tokio::test]
async fn a_refused_connection() {
    let (_socket, addr) = closed_port();
    asking_the_wrong_cluster("unreachable", move |clusters| {
        clusters.push(bootstrap::static_cluster(WRONG_CLUSTER, addr));
    })
    .await;
}

#[tokio::test]
async fn a_connection_closed_before_the_response() {
    fails_and_recovers_without_retries(Fault::close(), "unreachable").await;
}

#[tokio::test]
async fn a_connection_reset_before_the_response() {
    fails_and_recovers_without_retries(Fault::reset(), "unreachable").await;
}

/// Envoy answers such a call with 502.
#[tokio::test]
async fn bytes_that_are_not_http() {
    fails_and_recovers_without_retries(Fault::garbage(), "unreachable").await;
}

/// Envoy tells of such a call without headers.
#[tokio::test]
async fn a_reset_in_the_middle_of_the_body() {
    fails_and_recovers(Fault::reset_mid_body(), "reset").await;
}

#[tokio::test]
async fn a_body_that_ends_early() {
    fails_and_recovers(Fault::truncated(), "reset").await;
}

/// Over the module's own limit.
#[tokio::test]
async fn an_oversized_body() {
    fails_and_recovers(Fault::oversized(65 * 1024), "oversized").await;
}

/// Over Envoy's limit: it tells of such a call without headers.
#[tokio::test]
async fn a_body_over_envoys_limit() {
    fails_and_recovers(Fault::oversized(40 << 20), "reset").await;
}

/// Envoy answers such a call with 504.
#[tokio::test]
async fn a_timeout() {
    // Long enough that a call reaches MAS also on a machine that stalls.
    let edge = Edge::start(json!({"introspection": {"timeout": "3s"}})).await;
    assert_fails_and_recovers(&edge, Fault::hang(), "timeout").await;
}

/// Envoy does not take such a call.
#[tokio::test]
async fn an_unknown_cluster() {
    asking_the_wrong_cluster("undeliverable", |_| {}).await;
}

/// Envoy does not take such a call.
#[tokio::test]
async fn a_cluster_without_hosts() {
    asking_the_wrong_cluster("undeliverable", |clusters| {
        clusters.push(json!({
            "name": WRONG_CLUSTER,
            "type": "STATIC",
            "load_assignment": {"cluster_name": WRONG_CLUSTER, "endpoints": []},
        }));
    })
    .await;
}

/// Envoy does not take a call beyond the limit. Those within it are unharmed.
#[tokio::test]
async fn an_open_circuit_breaker() {
    let edge = Edge::start_with(json!({}), Options::default(), |builder| {
        builder.bootstrap(|config| {
            bootstrap::cluster(config, "mas")["circuit_breakers"] =
                json!({"thresholds": [{"max_connections": 1, "max_pending_requests": 1}]});
        })
    })
    .await;
    let [first, second, third] = [edge.alice(), edge.alice(), edge.alice()];
    let hold = edge.mas.hold();
    let first = edge.spawn(&Request::get(WHOAMI).bearer(&first));
    edge.wait_for_calls(1).await;
    let second = edge.spawn(&Request::get(WHOAMI).bearer(&second));
    edge.envoy
        .wait_for_stat("cluster.mas.upstream_rq_pending_active", |n| n == 1)
        .await;
    assert_no_verdict(&edge.whoami(&third).await);
    hold.release();
    for within_the_limit in [first, second] {
        assert_eq!(within_the_limit.await.expect("a response").status, 200);
    }
    assert_eq!(
        edge.envoy
            .stat("cluster.mas.upstream_rq_pending_overflow")
            .await,
        1
    );
    assert_eq!(edge.introspections("undeliverable").await, 1.0);
    assert_eq!(edge.mas.calls(&third), 0);
    assert_eq!(edge.whoami(&third).await.status, 200);
    edge.assert_alive().await;
}

/// What MAS, or someone in its place, may answer instead of a verdict, and what the module calls it.
pub fn answers() -> Vec<(&'static str, Fault)> {
    let inactive = r#"{"active":false}"#;
    let statuses = [201, 400, 401, 403, 404, 405, 418, 500, 502, 503, 504]
        .map(|status| Fault::status(status, inactive));
    let other_statuses = [
        Fault::status(204, ""),
        Fault::redirect("http://127.0.0.1:1/login"),
        Fault::too_many_requests(),
    ];
    let bodies = [
        "",
        "null",
        "false",
        "[]",
        "\"\"",
        "{",
        "{\"active\":",
        "\u{0}",
    ]
    .map(|body| Fault::status(200, body));
    let not_booleans =
        ["\"false\"", "\"true\"", "null", "0", "1", "[]", "{}"].map(Fault::active_literal);
    let not_json = [
        "text/html",
        "text/plain",
        "application/jsonp",
        "application/jwt",
        "",
    ]
    .map(Fault::content_type);
    let other_bodies = [
        Fault::html(),
        Fault::empty_object(),
        Fault::missing_active(),
        Fault::duplicate_active(),
        Fault::invalid_json(),
    ];
    let status = statuses.into_iter().chain(other_statuses);
    let malformed = bodies
        .into_iter()
        .chain(not_booleans)
        .chain(not_json)
        .chain(other_bodies);
    status
        .map(|fault| ("status", fault))
        .chain(malformed.map(|fault| ("malformed", fault)))
        .collect()
}

#[tokio::test]
async fn answers_that_are_no_verdict() {
    let edge = Edge::start(json!({})).await;
    let mut failed = BTreeMap::new();
    let mut asked = Vec::new();
    for (outcome, fault) in answers() {
        println!("{outcome}: {fault:?}");
        let failed = failed.entry(outcome).or_insert(0.0);
        asked.push(assert_fails(&edge, fault, outcome, *failed).await);
        *failed += 4.0;
        assert_eq!(edge.whoami(&edge.alice()).await.status, 200);
    }
    for tokens in asked {
        tokens.assert_recover(&edge).await;
    }
    for (outcome, failed) in failed {
        assert_eq!(edge.introspections(outcome).await, failed, "{outcome}");
    }
    edge.assert_alive().await;
}

#[tokio::test]
async fn a_failure_passes_without_an_identity_if_so_configured() {
    let edge = Edge::start(
        json!({"on_introspection_failure": "pass", "introspection": {"timeout": "1s"}}),
    )
    .await;
    let below_http = [
        Fault::close(),
        Fault::reset(),
        Fault::reset_mid_body(),
        Fault::truncated(),
        Fault::garbage(),
        Fault::hang(),
        Fault::oversized(65 * 1024),
    ];
    let faults = answers()
        .into_iter()
        .map(|(_, fault)| fault)
        .chain(below_http);
    for fault in faults {
        println!("{fault:?}");
        edge.mas.fault(fault);
        let token = edge.alice();
        let seen = edge.pass(spoofing(&token)).await;
        assert_eq!(identity(&seen), NOBODY);
        edge.mas.clear_faults();
        let seen = edge.pass(spoofing(&edge.alice())).await;
        assert_eq!(identity(&seen), [["@alice:example.org"], ["PHONE"]]);
    }
    edge.assert_alive().await;
}

#[tokio::test]
async fn a_call_that_is_not_taken_passes_without_an_identity_if_so_configured() {
    let changes =
        json!({"on_introspection_failure": "pass", "introspection": {"cluster": "nowhere"}});
    let edge = Edge::start(changes).await;
    let seen = edge.pass(spoofing(&edge.alice())).await;
    assert_eq!(identity(&seen), NOBODY);
    assert_eq!(edge.mas.total_calls(), 0);
}

/// A verdict that was reached before MAS failed stays good for its time.
#[tokio::test]
async fn what_is_cached_outlives_a_failing_mas() {
    let edge = Edge::start(json!({})).await;
    let [active, inactive] = [edge.alice(), new_token("mat")];
    assert_eq!(edge.whoami(&active).await.status, 200);
    assert_not_active(&edge.whoami(&inactive).await);
    edge.mas.fault(Fault::close());
    assert_eq!(edge.whoami(&active).await.status, 200);
    assert_not_active(&edge.whoami(&inactive).await);
    assert_no_verdict(&edge.whoami(&edge.alice()).await);
}

/// Everyone who waits for a call learns that it failed.
#[tokio::test]
async fn all_who_wait_get_the_503() {
    let edge = Edge::start(json!({})).await;
    let token = edge.alice();
    edge.mas.fault(Fault::reset_mid_body().times(1));
    let hold = edge.mas.hold();
    let waiting = edge.spawn_many(&Request::get(WHOAMI).bearer(&token), 20);
    edge.wait_for_coalesced(19).await;
    hold.release();
    waiting.join_all().await.iter().for_each(assert_no_verdict);
    assert_eq!(edge.mas.calls(&token), 1);
    let whoami = Request::get(WHOAMI).bearer(&token);
    assert_eq!(edge.send_until_verdict(&whoami).await.status, 200);
    assert_eq!(edge.mas.calls(&token), 2);
}

/// With an Envoy of its own, so that a dead VM is this fault's doing.
async fn fails_and_recovers(fault: Fault, outcome: &str) {
    assert_fails_and_recovers(&Edge::start(json!({})).await, fault, outcome).await;
}

/// Like [`fails_and_recovers`], for a fault that Envoy would repeat the call for (`retries.rs`), so that each try is
/// one call.
async fn fails_and_recovers_without_retries(fault: Fault, outcome: &str) {
    let edge = Edge::start(json!({"introspection": {"retries": 0}})).await;
    assert_fails_and_recovers(&edge, fault, outcome).await;
}

/// Under `fault` there is no verdict; and after it, there is. The edge is new.
async fn assert_fails_and_recovers(edge: &Edge, fault: Fault, outcome: &str) {
    let tokens = assert_fails(edge, fault, outcome, 0.0).await;
    tokens.assert_recover(edge).await;
    assert_eq!(edge.introspections(outcome).await, 4.0, "{outcome}");
    edge.assert_alive().await;
}

/// Tokens that MAS has been asked about once, in vain.
struct Asked {
    active: [String; 2],
    inactive: [String; 2],
}

/// Under `fault` neither active nor inactive tokens get a verdict. The module counts each failed call under `outcome`, and has
/// counted so many before.
async fn assert_fails(edge: &Edge, fault: Fault, outcome: &str, before: f64) -> Asked {
    let asked = Asked {
        active: [(); 2].map(|()| edge.alice()),
        inactive: [(); 2].map(|()| new_token("mat")),
    };
    let forwarded = edge.homeserver.count();
    edge.mas.fault(fault);
    for token in asked.tokens() {
        assert_no_verdict(&edge.whoami(token).await);
        assert_eq!(edge.mas.calls(token), 1);
    }
    edge.wait_for_metric(INTROSPECTIONS, &[("outcome", outcome)], before + 4.0)
        .await;
    assert_eq!(
        edge.homeserver.count(),
        forwarded,
        "nothing reached the homeserver"
    );
    edge.mas.clear_faults();
    asked
}

impl Asked {
    fn tokens(&self) -> impl Iterator<Item = &String> {
        self.active.iter().chain(&self.inactive)
    }

    /// Each token gets its own verdict with one more call.
    async fn assert_recover(&self, edge: &Edge) {
        let whoami = |token: &String| Request::get(WHOAMI).bearer(token);
        for token in &self.active {
            assert_eq!(edge.send_until_verdict(&whoami(token)).await.status, 200);
        }
        for token in &self.inactive {
            assert_not_active(&edge.send_until_verdict(&whoami(token)).await);
        }
        assert!(self.tokens().all(|token| edge.mas.calls(token) == 2));
    }
}

const WRONG_CLUSTER: &str = "wrong";

/// Asks through the cluster that `add` makes, and then, by an update, through the right one. The module counts
/// what it asks of the wrong one under `outcome`.
async fn asking_the_wrong_cluster(
    outcome: &str,
    add: impl FnOnce(&mut Vec<Value>) + Send + 'static,
) {
    let changes = json!({"introspection": {"cluster": WRONG_CLUSTER}});
    let edge = Edge::start_with(changes, Options::default(), |builder| {
        builder
            .bootstrap(|config| add(bootstrap::clusters(config)))
            .dynamic_listeners()
    })
    .await;
    let token = edge.alice();
    for token in [&token, &new_token("mat"), &edge.alice()] {
        assert_no_verdict(&edge.whoami(token).await);
    }
    assert_eq!(edge.introspections(outcome).await, 3.0);
    assert_eq!(edge.mas.total_calls(), 0);
    assert!(!edge.homeserver.first_byte_seen());
    edge.envoy
        .update_listener(|listener| {
            let manager = bootstrap::http_manager_of(listener);
            bootstrap::configure(manager, &plugin(json!({})));
        })
        .await
        .expect("a good configuration");
    assert_eq!(edge.whoami(&token).await.status, 200);
    edge.assert_alive().await;
}

/// With an identity that the client made up.
fn spoofing(token: &str) -> Request {
    Request::get(WHOAMI)
        .bearer(token)
        .header("X-Matrix-User-Id", "@admin:example.org")
        .header("X-Matrix-Device-Id", "SPOOFED")
}
