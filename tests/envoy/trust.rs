//! Several configurations over one `vm_id`: tables of another size after an update, and two MAS.

use std::time::Duration;

use serde_json::{Value, json};
use stand_in::mas::{Mas, Options, Session, introspection_body};

use super::{
    edge::{Edge, WHOAMI, assert_not_active, new_token, plugin},
    introspection::{SecretFile, inject_credential, start_with_injected},
    introspection_role::{self, NAME, assert_active, comparable, headers, introspect, secret},
    sessions::{compat, logout, route_to_mas},
};
use crate::support::{
    envoy::bootstrap,
    http::{self, Connection, Request},
    product_time::Moment,
};

/// As long as an ended session may be served.
const LIMIT: Duration = Duration::from_secs(1);

fn sized(slots: u32) -> Value {
    json!({"cache": {"slots": slots, "negative_slots": slots}})
}

async fn resize(edge: &Edge, slots: u32) {
    edge.envoy
        .update_listener(|listener| {
            let manager = bootstrap::http_manager_of(listener);
            bootstrap::configure(manager, &plugin(sized(slots)));
        })
        .await
        .expect("an update");
}

/// Checks that a token whose session has ended is rejected, at the latest from a second on.
async fn assert_ended(connection: &mut Connection, token: &str, ended: Moment) {
    let request = Request::get(WHOAMI).bearer(token);
    loop {
        let sent = Moment::now();
        let response = connection.request(&request).await;
        if response.status == 401 {
            assert_not_active(&response);
            return;
        }
        assert_eq!(response.status, 200, "{response:?}");
        assert!(sent.since(ended) <= LIMIT, "it is served after a second");
    }
}

/// `cache.slots` is changed and changed back by LDS, as an operator does who rolls an update back. A session that
/// ends meanwhile is gone for the connections of all three configurations.
#[tokio::test]
async fn a_session_that_ends_between_two_updates_of_the_size_stays_ended() {
    for (before, between) in [(65_536, 64), (64, 65_536)] {
        let edge = Edge::start_with(sized(before), Options::default(), |builder| {
            builder
                .dynamic_listeners()
                // Envoy keeps the connections of a listener that was replaced for so long.
                .option("--drain-time-s", "3600")
                .bootstrap(route_to_mas)
        })
        .await;
        let token = compat(&edge, "alice");
        let whoami = Request::get(WHOAMI).bearer(&token);
        let mut old = Connection::open(edge.envoy.addr()).await;
        assert_eq!(old.request(&whoami).await.status, 200);
        resize(&edge, between).await;
        let mut new = Connection::open(edge.envoy.addr()).await;
        assert_eq!(new.request(&whoami).await.status, 200);
        assert_eq!(new.request(&logout("v3", &token)).await.status, 200);
        let ended = Moment::now();
        assert_ended(&mut new, &token, ended).await;
        assert_ended(&mut old, &token, ended).await;
        resize(&edge, before).await;
        let mut rolled_back = Connection::open(edge.envoy.addr()).await;
        assert_ended(&mut rolled_back, &token, ended).await;
        edge.assert_alive().await;
    }
}

#[tokio::test]
async fn an_update_to_a_shorter_ttl_counts_for_an_answer_that_is_held() {
    let edge = Edge::start_with(json!({}), Options::default(), |builder| {
        builder.dynamic_listeners()
    })
    .await;
    let token = edge.alice();
    assert_eq!(edge.whoami(&token).await.status, 200);
    edge.mas.revoke(&token);
    edge.envoy
        .update_listener(|listener| {
            let manager = bootstrap::http_manager_of(listener);
            let short = json!({"cache": {"ttl": "1s"}});
            bootstrap::configure(manager, &plugin(short));
        })
        .await
        .expect("an update");
    let mut connection = Connection::open(edge.envoy.addr()).await;
    assert_ended(&mut connection, &token, Moment::now()).await;
}

/// The name of the other MAS: its clusters and its listener.
const OTHER: &str = "other-mas";

/// Two listeners of the introspection role, each before a MAS of its own, with a credential that Envoy injects. Who
/// knows the secret of the one is a stranger to the other.
#[tokio::test]
async fn a_caller_whom_one_mas_answered_is_judged_by_the_other() {
    let other_secret = "Bearer of-the-other";
    let options = Options {
        secret: "of-the-other".to_owned(),
        ..Options::default()
    };
    let other = Mas::start(options).await.expect("a free port");
    let other_addr = other.addr();
    let other_file = SecretFile::new(other_secret);
    let sds = other_file.sds();
    let injected = |cluster: &str| {
        introspection_role::plugin(
            json!({"introspection": {"cluster": cluster, "credential": {"injected": true}}}),
        )
    };
    let (edge, _secret) = start_with_injected(Options::default(), &secret(), |builder| {
        builder
            .internal_listener(NAME, injected("mas"), "mas-without-credential")
            .internal_listener(OTHER, injected(OTHER), "other-without-credential")
            .bootstrap(move |config| {
                let mut own = bootstrap::cluster(config, "mas").clone();
                own["name"] = "mas-without-credential".into();
                let others = [OTHER, "other-without-credential"]
                    .map(|name| bootstrap::static_cluster(name, other_addr));
                bootstrap::clusters(config).push(own);
                bootstrap::clusters(config).extend(others);
                inject_credential(config, OTHER, &sds);
            })
    })
    .await;
    let [token, cold] = [new_token("mat"), new_token("mat")];
    for mas in [&edge.mas, &other] {
        mas.insert(&token, Session::access("alice", "PHONE"));
        mas.insert(&cold, Session::access("alice", "TABLET"));
    }
    // Each MAS answers its own homeserver, and its listener keeps the answer.
    let own = introspect(&token);
    let theirs = headers(other_secret).body(introspection_body(&token));
    for (name, request) in [(NAME, &own), (OTHER, &theirs)] {
        let addr = edge.envoy.listener(name);
        for _ in 0..3 {
            assert_active(&http::send(addr, request).await, "alice");
        }
    }
    let (calls, other_calls) = (edge.mas.total_calls(), other.total_calls());
    // What the one homeserver knows counts for nothing at the other's.
    let cold_own = introspect(&cold);
    for request in [&own, &cold_own] {
        let direct = http::send(other_addr, request).await;
        let answered = http::send(edge.envoy.listener(OTHER), request).await;
        assert_eq!(comparable(&answered), comparable(&direct));
        assert_eq!(answered.status, 401, "{answered:?}");
    }
    assert_active(&http::send(edge.envoy.listener(NAME), &own).await, "alice");
    assert_active(
        &http::send(edge.envoy.listener(OTHER), &theirs).await,
        "alice",
    );
    assert_eq!(edge.mas.total_calls(), calls, "answered from the cache");
    assert_eq!(other.total_calls() - other_calls, 4, "asked by strangers");
    edge.assert_alive().await;
}
