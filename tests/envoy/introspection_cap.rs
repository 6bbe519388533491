//! The introspection role has calls of its own: a public flood does not cut the homeserver off from MAS.

use std::time::Duration;

use serde_json::json;
use stand_in::mas::Fault;

use super::{
    edge::{WHOAMI, new_token},
    introspection_role::{NAME, answers, assert_active, introspect, start},
};
use crate::support::http::{self, Request};

/// A public flood does not cut the homeserver off from MAS.
#[tokio::test]
async fn the_homeserver_is_asked_about_at_once_beside_a_flood_of_clients() {
    const INVENTED: usize = 400;
    // Three quarters of the calls, since all come from one address.
    const SHARE: u64 = 192;
    let edge = start(json!({})).await;
    edge.mas.fault(Fault::delay(Duration::from_millis(1_500)));
    let mut clients = tokio::task::JoinSet::new();
    let hold = edge.mas.hold();
    for _ in 0..INVENTED {
        let (addr, token) = (edge.envoy.addr(), new_token("mat"));
        let request = Request::get(WHOAMI).bearer(&token);
        clients.spawn(async move { http::send(addr, &request).await });
    }
    edge.wait_for_calls(SHARE).await;
    let queued = "matrix_edge_auth_line_waits_total";
    edge.wait_for_metric(queued, &[], (INVENTED as u64 - SHARE) as f64)
        .await;
    let (addr, request) = (edge.envoy.listener(NAME), introspect(&edge.alice()));
    let asked = tokio::spawn(async move { http::send(addr, &request).await });
    edge.wait_for_calls(SHARE + 1).await;
    hold.release();
    assert_active(&asked.await.expect("a response"), "alice");
    for response in clients.join_all().await {
        assert!([401, 503].contains(&response.status), "{response:?}");
    }
    edge.assert_alive().await;
}

#[tokio::test]
async fn over_its_own_cap_the_homeserver_asks_mas_itself() {
    const CAP: u64 = 2;
    let edge = start(json!({"introspection": {"max_in_flight": CAP}})).await;
    let hold = edge.mas.hold();
    let mut waiting = Vec::new();
    for asked in 1..=CAP + 1 {
        let (addr, request) = (edge.envoy.listener(NAME), introspect(&edge.alice()));
        waiting.push(tokio::spawn(
            async move { http::send(addr, &request).await },
        ));
        edge.wait_for_calls(asked).await;
    }
    assert_eq!(answers(&edge, "not_asked", "offline").await, 1.0);
    hold.release();
    for response in waiting {
        assert_active(&response.await.expect("a response"), "alice");
    }
}
