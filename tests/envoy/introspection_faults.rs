//! When MAS does not answer, nobody is told that a token is inactive: the homeserver gets an error that it does not
//! keep, or MAS's own answer. And nobody is left waiting.

use serde_json::{Value, json};
use stand_in::mas::Fault;

use super::{
    edge::{Edge, WHOAMI, new_token},
    faults::answers as no_verdicts,
    introspection_role::{
        INACTIVE, NAME, answers, ask, assert_active, assert_mas_answers, comparable, introspect,
        plugin, start, start_with,
    },
};
use crate::support::{
    envoy::bootstrap,
    http::{self, Connection, Response, within_limit},
};

#[tokio::test]
async fn answers_that_are_no_verdict() {
    let edge = start(json!({})).await;
    let faults = no_verdicts().into_iter().map(|(_, fault)| fault);
    assert_unavailable_and_recovers(&edge, faults).await;
}

#[tokio::test]
async fn connections_that_break() {
    let edge = start(json!({"introspection": {"retries": 0}})).await;
    assert_unavailable_and_recovers(&edge, below_http()).await;
}

#[tokio::test]
async fn a_timeout() {
    // Long enough that a call reaches MAS also on a machine that stalls.
    let edge = start(json!({"introspection": {"timeout": "3s"}})).await;
    assert_unavailable_and_recovers(&edge, [Fault::hang()]).await;
}

#[tokio::test]
async fn an_unknown_cluster() {
    let edge = start(json!({"introspection": {"cluster": "nowhere"}})).await;
    assert_unavailable(&ask(&edge, &introspect(&edge.alice())).await);
    assert_eq!(edge.introspections("undeliverable").await, 1.0);
}

/// The request goes on once the module's own call has failed.
#[tokio::test]
async fn mas_answers_itself_if_so_configured() {
    let edge = start(json!({
        "on_introspection_failure": "pass",
        // Without retries, so that a fault that hits once is the end of the module's call.
        "introspection": {"timeout": "3s", "retries": 0},
    }))
    .await;
    for (_, fault) in no_verdicts() {
        println!("{fault:?}");
        edge.mas.fault(fault);
        assert_mas_answers(&edge, &introspect(&edge.alice()), 2).await;
        edge.mas.clear_faults();
    }
    // What breaks once: the module's call.
    for fault in below_http().into_iter().chain([Fault::hang()]) {
        println!("{fault:?}");
        let token = edge.alice();
        edge.mas.fault(fault.clone().times(1));
        assert_active(&ask(&edge, &introspect(&token)).await, "alice");
        assert_eq!(edge.mas.calls(&token), 2);
        // What MAS said to the homeserver itself is not kept.
        assert_active(&ask(&edge, &introspect(&token)).await, "alice");
        assert_eq!(edge.mas.calls(&token), 3);
    }
    // Within a second of a call that failed the next request goes on without one. A slow machine may take longer.
    let passed = answers(&edge, "not_asked", "offline").await as usize;
    let least = no_verdicts().len() + below_http().len() + 1;
    assert!(
        (least..=least + below_http().len()).contains(&passed),
        "{passed}"
    );
    assert_eq!(answers(&edge, "no_verdict", "mas").await, 0.0);
    edge.assert_alive().await;
}

#[tokio::test]
async fn a_stale_answer_serves_the_homeserver() {
    let edge = start(json!({
        "cache": {"ttl": "1s", "stale_if_error": "1h", "refresh_ahead": false},
    }))
    .await;
    let token = edge.alice();
    assert_active(&ask(&edge, &introspect(&token)).await, "alice");
    edge.mas.fault(Fault::close());
    within_limit("the answer to be past its TTL", async {
        while answers(&edge, "active", "stale").await == 0.0 {
            let response = ask(&edge, &introspect(&token)).await;
            assert_active(&response, "alice");
            let left = response.json()["expires_in"].as_u64().expect("a number");
            assert!((200..=300).contains(&left), "{left}");
        }
    })
    .await;
    assert_unavailable(&ask(&edge, &introspect(&edge.alice())).await);
    edge.mas.clear_faults();
    edge.assert_alive().await;
}

/// The homeserver brings the tokens of all its users, so it has no budget: whatever it asks about is kept.
#[tokio::test]
async fn the_homeserver_has_no_budget() {
    let edge = start(json!({"unknown_token_budget": {"per_source": 2, "window": "1m"}})).await;
    for _ in 0..5 {
        let unknown = introspect(&new_token("mat"));
        assert_eq!(ask(&edge, &unknown).await.text(), INACTIVE);
        assert_eq!(ask(&edge, &unknown).await.text(), INACTIVE);
    }
    assert_eq!(answers(&edge, "not_asked", "offline").await, 0.0);
    assert_eq!(edge.mas.total_calls(), 5);
    assert_active(&ask(&edge, &introspect(&edge.alice())).await, "alice");
}

#[tokio::test]
async fn a_homeserver_that_hangs_up_harms_nobody() {
    let edge = start(json!({})).await;
    let token = edge.alice();
    let hold = edge.mas.hold();
    // One that caused the call, one that joined it, one whose form has not come.
    let mut leaving = Vec::new();
    let request = introspect(&token).to_bytes();
    for bytes in [&request[..], &request, &request[..request.len() - 10]] {
        let mut connection = Connection::open(edge.envoy.listener(NAME)).await;
        connection.send(bytes).await;
        leaving.push(connection);
        let active = leaving.len() as u64;
        edge.envoy
            .wait_for_stat("http.introspection.downstream_rq_active", |n| n == active)
            .await;
        edge.wait_for_calls(1).await;
    }
    let client = edge.spawn(&http::Request::get(WHOAMI).bearer(&token));
    edge.wait_for_coalesced(2).await;
    let mut staying = Connection::open(edge.envoy.listener(NAME)).await;
    staying.send(&request).await;
    edge.wait_for_coalesced(3).await;
    drop(leaving);
    let left = "http.introspection.downstream_cx_destroy_remote_active_rq";
    edge.envoy.wait_for_stat(left, |n| n == 3).await;
    hold.release();
    assert_active(&staying.response(false).await, "alice");
    assert_eq!(client.await.expect("a response").status, 200);
    assert_eq!(edge.mas.calls(&token), 1);
    edge.assert_alive().await;
}

/// MAS is slow while the listener's configuration changes: those of the old one and of the new one share its answer.
#[tokio::test]
async fn an_update_while_mas_is_slow_leaves_nobody_waiting() {
    let edge = start_with(json!({}), |builder| builder.dynamic_listeners()).await;
    let token = edge.alice();
    let hold = edge.mas.hold();
    let request = introspect(&token).to_bytes();
    let mut before = Connection::open(edge.envoy.listener(NAME)).await;
    before.send(&request).await;
    edge.wait_for_calls(1).await;
    // Its form comes after the update.
    let (first, second) = request.split_at(request.len() - 10);
    let mut halved = Connection::open(edge.envoy.listener(NAME)).await;
    halved.send(first).await;
    let active = "http.introspection.downstream_rq_active";
    edge.envoy.wait_for_stat(active, |n| n == 2).await;
    update(
        &edge,
        json!({"mode": "enforce", "cache": {"negative_ttl": "5s"}}),
    )
    .await;
    halved.send(second).await;
    let mut after = Connection::open(edge.envoy.listener(NAME)).await;
    after.send(&request).await;
    let client = edge.spawn(&http::Request::get(WHOAMI).bearer(&token));
    edge.envoy.wait_for_stat(active, |n| n == 3).await;
    edge.envoy
        .wait_for_stat("http.gateway.downstream_rq_active", |n| n == 1)
        .await;
    hold.release();
    for connection in [&mut before, &mut halved, &mut after] {
        assert_active(&connection.response(false).await, "alice");
    }
    assert_eq!(client.await.expect("a response").status, 200);
    let calls = edge.mas.calls(&token);
    assert!(
        calls <= 2,
        "{calls} calls, one of them for a form that took a second"
    );
    edge.assert_alive().await;
}

/// Envoy drops a call with the configuration that made it. The gateway's client, who waited for it, is not forgotten.
#[tokio::test]
async fn a_call_that_goes_with_its_configuration_is_made_again() {
    let edge = start_with(json!({}), |builder| {
        builder.dynamic_listeners().option("--drain-time-s", "1")
    })
    .await;
    let token = edge.alice();
    let hold = edge.mas.hold();
    let mut old = Connection::open(edge.envoy.listener(NAME)).await;
    old.send(&introspect(&token).to_bytes()).await;
    edge.wait_for_calls(1).await;
    let client = edge.spawn(&http::Request::get(WHOAMI).bearer(&token));
    edge.wait_for_coalesced(1).await;
    update(&edge, json!({"cache": {"negative_ttl": "5s"}})).await;
    let mut new = Connection::open(edge.envoy.listener(NAME)).await;
    new.send(&introspect(&token).to_bytes()).await;
    edge.wait_for_coalesced(2).await;
    edge.wait_for_calls(2).await;
    hold.release();
    assert_eq!(client.await.expect("a response").status, 200);
    assert_active(&new.response(false).await, "alice");
    assert_eq!(edge.mas.calls(&token), 2);
    edge.assert_alive().await;
}

/// In shadow mode the role only looks on.
#[tokio::test]
async fn shadow_mode_answers_nothing() {
    let edge = start_with(json!({}), |builder| builder.dynamic_listeners()).await;
    let token = edge.alice();
    assert_active(&ask(&edge, &introspect(&token)).await, "alice");
    update(&edge, json!({"mode": "shadow"})).await;
    for _ in 0..2 {
        assert_mas_answers(&edge, &introspect(&token), 1).await;
    }
}

/// Under each fault no token gets a verdict, and after it one that is new does. After all of them, each token gets its own verdict
/// with one more call, a second after the one that failed.
async fn assert_unavailable_and_recovers(edge: &Edge, faults: impl IntoIterator<Item = Fault>) {
    let (mut active, mut inactive) = (Vec::new(), Vec::new());
    for fault in faults {
        println!("{fault:?}");
        let tokens = [
            edge.alice(),
            edge.alice(),
            new_token("mat"),
            new_token("mat"),
        ];
        edge.mas.fault(fault);
        for token in &tokens {
            assert_unavailable(&ask(edge, &introspect(token)).await);
            assert_eq!(edge.mas.calls(token), 1);
        }
        edge.mas.clear_faults();
        assert_active(&ask(edge, &introspect(&edge.alice())).await, "alice");
        let [first, second, third, fourth] = tokens;
        active.extend([first, second]);
        inactive.extend([third, fourth]);
    }
    let failed = active.len() + inactive.len();
    assert_eq!(answers(edge, "no_verdict", "mas").await, failed as f64);
    for token in &active {
        assert_active(&ask_until_answered(edge, token).await, "alice");
    }
    for token in &inactive {
        assert_eq!(ask_until_answered(edge, token).await.text(), INACTIVE);
    }
    let mut tokens = active.iter().chain(&inactive);
    assert!(tokens.all(|token| edge.mas.calls(token) == 2));
    edge.assert_alive().await;
}

/// Asks until the module has an answer: after a call that failed MAS is left alone about a token for a second.
async fn ask_until_answered(edge: &Edge, token: &str) -> Response {
    within_limit("an answer", async {
        loop {
            let response = ask(edge, &introspect(token)).await;
            if response.status != 503 {
                break response;
            }
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    })
    .await
}

/// An error of RFC 6749, section 5.2, that says nothing of the token.
#[track_caller]
fn assert_unavailable(response: &Response) {
    assert_eq!(response.status, 503, "{response:?}");
    assert_eq!(response.json()["error"], "temporarily_unavailable");
    assert_eq!(response.json().get("active"), None);
    let expected = [
        ("content-type", "application/json"),
        (
            "vary",
            "origin, access-control-request-method, access-control-request-headers",
        ),
        ("access-control-allow-origin", "*"),
        ("retry-after", "1"),
        ("content-length", &response.body.len().to_string()),
    ];
    let expected = expected.map(|(name, value)| (name.to_owned(), value.as_bytes().to_vec()));
    assert_eq!(comparable(response).headers, expected);
}

/// What breaks below HTTP, or is too long.
fn below_http() -> [Fault; 6] {
    [
        Fault::close(),
        Fault::reset(),
        Fault::reset_mid_body(),
        Fault::truncated(),
        Fault::garbage(),
        Fault::oversized(65 * 1024),
    ]
}

async fn update(edge: &Edge, changes: Value) {
    edge.envoy
        .update_listener_called(NAME, |listener| {
            bootstrap::configure(bootstrap::http_manager_of(listener), &plugin(changes));
        })
        .await
        .expect("an update");
}
