//! The test harness itself; only an internal listener has the module.

use serde_json::{Value, json};
use stand_in::{
    homeserver::Homeserver,
    mas::{Mas, Options},
};

use super::edge::plugin;
use crate::support::{
    envoy::{Envoy, bootstrap},
    http::{self, Connection, Request},
};

#[tokio::test]
async fn requests_pass_an_envoy_without_the_module() {
    let homeserver = Homeserver::start_local().await.unwrap();
    let envoy = Envoy::builder().homeserver(homeserver.addr()).start().await;
    let mut connection = Connection::open(envoy.addr()).await;
    for body in [
        Request::post("/a?b=c", "text/plain", "hello"),
        Request::new("POST", "/a?b=c").chunked("hello"),
    ] {
        let response = connection.request(&body).await;
        assert_eq!(
            (response.status, &response.json()["body_bytes"]),
            (200, &5.into()),
            "{response:?}"
        );
    }
    assert_eq!(homeserver.count(), 2);
    assert!(envoy.is_alive());
    let stats = envoy.stats().await;
    let answered = stats.find(
        "envoy_cluster_upstream_rq_total",
        &[("envoy_cluster_name", "homeserver")],
    );
    assert_eq!(answered, Some(2.0), "{stats:?}");
    assert_eq!(envoy.stat("cluster.homeserver.upstream_rq_total").await, 2);
}

#[tokio::test]
async fn an_envoy_that_refuses_its_configuration_says_why() {
    let refused = Envoy::builder()
        .bootstrap(|config| config["nonsense"] = 1.into())
        .try_start()
        .await;
    let log = refused.err().expect("Envoy refuses unknown fields").log;
    assert!(log.contains("nonsense"), "{log}");
}

#[tokio::test]
async fn a_listener_is_replaced_or_kept() {
    let homeserver = Homeserver::start_local().await.unwrap();
    let envoy = Envoy::builder()
        .concurrency(2)
        .homeserver(homeserver.addr())
        .dynamic_listeners()
        .start()
        .await;
    let refused = envoy
        .update_listener(|listener| {
            bootstrap::http_manager_of(listener)["stat_prefix"] = "".into();
        })
        .await
        .unwrap_err();
    assert!(refused.contains("StatPrefix"), "{refused}");
    assert_eq!(
        http::send(envoy.addr(), &Request::get("/")).await.status,
        200
    );
    envoy
        .update_listener(|listener| {
            let manager = bootstrap::http_manager_of(listener);
            let route = &mut manager["route_config"]["virtual_hosts"][0]["routes"][0];
            *route = json!({"match": {"prefix": "/"}, "direct_response": {"status": 418}});
        })
        .await
        .unwrap();
    for _ in 0..10 {
        assert_eq!(
            http::send(envoy.addr(), &Request::get("/")).await.status,
            418
        );
    }
}

#[tokio::test]
async fn an_internal_listener_has_a_cluster_of_its_own_and_outlives_updates_of_the_first() {
    let homeserver = Homeserver::start_local().await.unwrap();
    let mas = Mas::start(Options::default()).await.unwrap();
    let envoy = Envoy::builder()
        .homeserver(homeserver.addr())
        .mas(mas.addr())
        .internal_listener("internal", plugin(json!({})), "mas")
        .dynamic_listeners()
        .start()
        .await;
    let health = Request::get("/health");
    for round in 1..3 {
        let response = http::send(envoy.addr(), &health).await;
        assert!(response.json()["headers"].is_object(), "{response:?}");
        let response = http::send(envoy.listener("internal"), &health).await;
        assert_eq!((response.status, response.text()), (200, "ok"));
        assert_eq!(homeserver.count(), round);
        for name in ["gateway", "internal"] {
            let requests = format!("http.{name}.downstream_rq_total");
            assert_eq!(envoy.stat(&requests).await, round, "{name}");
        }
        let update = |listener: &mut Value| {
            listener["per_connection_buffer_limit_bytes"] = (round * 65_536).into();
        };
        envoy.update_listener(update).await.unwrap();
    }
}
