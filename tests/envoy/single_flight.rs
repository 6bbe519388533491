//! Requests on one worker that need the same answer wait for one introspection, whoever of them leaves.

use serde_json::json;
use stand_in::mas::Hold;

use super::edge::{Edge, WHOAMI, assert_no_verdict, assert_not_active, new_token};
use crate::support::http::{Connection, Request};

#[tokio::test]
async fn two_hundred_requests_with_one_cold_token_make_one_call() {
    let edge = Edge::start(json!({})).await;
    let token = edge.alice();
    let hold = edge.mas.hold();
    let waiting = edge.spawn_many(&Request::get(WHOAMI).bearer(&token), 200);
    edge.wait_for_coalesced(199).await;
    hold.release();
    for response in waiting.join_all().await {
        assert_eq!(response.status, 200, "{response:?}");
    }
    assert_eq!(edge.mas.calls(&token), 1);
    assert!(
        edge.homeserver
            .requests()
            .iter()
            .all(|seen| seen.header("x-matrix-user-id") == Some(b"@alice:example.org"))
    );
    assert_eq!(edge.homeserver.count(), 200);
}

#[tokio::test]
async fn all_who_wait_for_an_inactive_token_get_the_401() {
    let edge = Edge::start(json!({})).await;
    let token = new_token("mat");
    let hold = edge.mas.hold();
    let waiting = edge.spawn_many(&Request::get(WHOAMI).bearer(&token), 50);
    edge.wait_for_coalesced(49).await;
    hold.release();
    waiting.join_all().await.iter().for_each(assert_not_active);
    assert_eq!(edge.mas.calls(&token), 1);
    assert!(!edge.homeserver.first_byte_seen());
}

#[tokio::test]
async fn the_client_that_caused_the_call_may_leave() {
    let edge = Edge::start(json!({})).await;
    let token = edge.alice();
    let (leader, hold) = held_request(&edge, &token).await;
    let waiting = edge.spawn_many(&Request::get(WHOAMI).bearer(&token), 20);
    edge.wait_for_coalesced(20).await;
    leave(&edge, leader).await;
    hold.release();
    for response in waiting.join_all().await {
        assert_eq!(response.status, 200, "{response:?}");
    }
    assert_eq!(edge.mas.calls(&token), 1);
    assert_eq!(edge.homeserver.count(), 20);
    edge.assert_alive().await;
}

#[tokio::test]
async fn an_answer_that_nobody_waits_for_any_more_is_kept() {
    let edge = Edge::start(json!({})).await;
    let token = edge.alice();
    let (only, hold) = held_request(&edge, &token).await;
    leave(&edge, only).await;
    hold.release();
    let name = "matrix_edge_auth_introspections_total";
    edge.wait_for_metric(name, &[("outcome", "active")], 1.0)
        .await;
    assert_eq!(edge.whoami(&token).await.status, 200);
    assert_eq!(edge.mas.calls(&token), 1);
    edge.assert_alive().await;
}

/// Each answer goes to those who asked for it.
#[tokio::test]
async fn tokens_do_not_share_a_flight() {
    let edge = Edge::start(json!({})).await;
    let users: Vec<(String, String)> = (0..30)
        .map(|n| format!("user{n}"))
        .map(|user| (edge.active(&user, "X"), format!("@{user}:example.org")))
        .collect();
    let hold = edge.mas.hold();
    let waiting: Vec<_> = users
        .iter()
        .map(|(token, _)| edge.spawn(&Request::get(WHOAMI).bearer(token)))
        .collect();
    edge.wait_for_calls(30).await;
    hold.release();
    for (response, (_, user_id)) in waiting.into_iter().zip(&users) {
        let response = response.await.expect("a response").json();
        assert_eq!(response["headers"]["x-matrix-user-id"][0], **user_id);
    }
    assert_eq!(edge.mas.total_calls(), 30);
}

#[tokio::test]
async fn calls_in_flight_are_limited_and_the_rest_waits_for_a_moment() {
    let edge = Edge::start(json!({"introspection": {"max_in_flight": 4}})).await;
    let tokens: Vec<String> = (0..4).map(|_| edge.alice()).collect();
    let known = edge.alice();
    edge.whoami(&known).await;
    let hold = edge.mas.hold();
    let mut waiting = Vec::new();
    for token in &tokens {
        waiting.push(edge.spawn(&Request::get(WHOAMI).bearer(token)));
    }
    edge.wait_for_calls(5).await;
    let late = edge.alice();
    let request = Request::get(WHOAMI).bearer(&late);
    for response in edge.spawn_many(&request, 10).join_all().await {
        assert_no_verdict(&response);
    }
    assert_eq!(
        edge.whoami(&known).await.status,
        200,
        "a cached token needs no call"
    );
    waiting.push(edge.spawn(&Request::get(WHOAMI).bearer(&tokens[0])));
    edge.wait_for_coalesced(10).await;
    hold.release();
    for response in waiting {
        assert_eq!(response.await.expect("a response").status, 200);
    }
    assert_eq!(edge.mas.calls(&late), 0);
    assert_eq!(edge.introspections("overloaded").await, 1.0);
    assert_eq!(edge.whoami(&late).await.status, 200);
}

/// Sends a request that causes an introspection, which is held.
async fn held_request(edge: &Edge, token: &str) -> (Connection, Hold) {
    let hold = edge.mas.hold();
    let mut connection = Connection::open(edge.envoy.addr()).await;
    let request = Request::get(WHOAMI).bearer(token);
    connection.send(&request.to_bytes()).await;
    edge.wait_for_calls(1).await;
    (connection, hold)
}

/// Hangs up, and returns once Envoy has noticed.
async fn leave(edge: &Edge, connection: Connection) {
    drop(connection);
    let name = "http.gateway.downstream_cx_destroy_remote_active_rq";
    edge.envoy.wait_for_stat(name, |n| n == 1).await;
}
