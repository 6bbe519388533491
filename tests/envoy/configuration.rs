//! Configurations in a real Envoy: a bad one is refused whole, a new one takes over without a gap.

use std::net::SocketAddr;

use serde_json::{Value, json};
use stand_in::mas::{DEFAULT_SECRET, Options};

use super::edge::{Edge, WHOAMI, identity, plugin, values};
use crate::support::{
    envoy::{Envoy, bootstrap},
    http::{Connection, Request},
};

/// Configurations that are refused, and what the line in the log names.
fn bad() -> [(Value, &'static str); 6] {
    [
        (
            json!({"introspection": {"time_out": "5s"}}),
            "introspection.time_out",
        ),
        (json!({"cache": {"ttl": 120}}), "cache.ttl"),
        (
            json!({"introspection": {"credential": {"bearer": {"env": "NOT_SET"}}}}),
            "introspection.credential.bearer.env",
        ),
        (
            json!({"introspection": {"credential": {"bearer": {"value": format!("Bearer {DEFAULT_SECRET}")}}}}),
            "introspection.credential.bearer.value",
        ),
        (
            json!({"introspection": {"authority": "https://auth.example.org"}}),
            "introspection.authority",
        ),
        (
            json!({"identity_headers": {"user_id": "x-envoy-peer-metadata"}}),
            "identity_headers.user_id",
        ),
    ]
}

#[tokio::test]
async fn envoy_does_not_start_with_a_bad_configuration() {
    for (changes, key) in bad() {
        let nobody = SocketAddr::from(([127, 0, 0, 1], 9));
        let builder = Envoy::builder()
            .homeserver(nobody)
            .mas(nobody)
            .plugin(plugin(changes));
        let refused = builder.try_start().await;
        let log = refused.err().expect("a refusal").log;
        let lines: Vec<&str> = log
            .lines()
            .filter(|line| line.contains("configuration refused"))
            .collect();
        assert!(!lines.is_empty(), "{log}");
        for line in lines {
            assert!(line.contains(key), "{line}");
        }
        assert!(!log.contains(DEFAULT_SECRET));
    }
}

/// The way to try a configuration before it is used: `docs/configuration.md`.
#[tokio::test]
async fn envoy_in_validate_mode_says_what_it_would_refuse() {
    let validate = async |changes| {
        let nobody = SocketAddr::from(([127, 0, 0, 1], 9));
        let ended = Envoy::builder()
            .homeserver(nobody)
            .mas(nobody)
            .plugin(plugin(changes))
            .option("--mode", "validate")
            .try_start()
            .await;
        ended.err().expect("it ends when it has looked").log
    };
    let good = validate(json!({})).await;
    assert!(
        good.contains("' OK") && !good.contains("configuration refused"),
        "{good}"
    );
    let bad = validate(json!({"cache": {"tll": "120s"}})).await;
    let line = "cache.tll: is not a key here; did you mean ttl?";
    assert!(bad.contains(line), "{bad}");
}

#[tokio::test]
async fn a_bad_update_is_refused_while_the_old_configuration_serves() {
    let edge = start_dynamic(json!({})).await;
    let token = edge.alice();
    for (changes, key) in bad() {
        let logged = configure(&edge, changes).await.expect_err("a refusal");
        assert!(logged.contains(key), "{logged}");
        let seen = edge.pass(Request::get(WHOAMI).bearer(&token)).await;
        assert_eq!(identity(&seen), [["@alice:example.org"], ["PHONE"]]);
    }
    assert_eq!(edge.mas.calls(&token), 1, "the cache was not lost");
    edge.assert_alive().await;
}

#[tokio::test]
async fn a_good_update_takes_effect_and_keeps_the_cache() {
    let edge = start_dynamic(json!({})).await;
    let token = edge.alice();
    edge.pass(Request::get(WHOAMI).bearer(&token)).await;
    configure(&edge, json!({"identity_headers": {"user_id": "x-new"}}))
        .await
        .expect("an update");
    let seen = edge.pass(Request::get(WHOAMI).bearer(&token)).await;
    assert_eq!(values(&seen, "x-new"), ["@alice:example.org"]);
    assert!(values(&seen, "x-matrix-user-id").is_empty());
    assert_eq!(edge.mas.calls(&token), 1);
    edge.assert_alive().await;
}

/// The cache must not serve what another MAS has said.
#[tokio::test]
async fn an_update_to_another_mas_starts_with_an_empty_cache() {
    let edge = start_dynamic(json!({})).await;
    let token = edge.alice();
    edge.pass(Request::get(WHOAMI).bearer(&token)).await;
    let changes = json!({"introspection": {"authority": "other.example.org"}});
    configure(&edge, changes).await.expect("an update");
    edge.pass(Request::get(WHOAMI).bearer(&token)).await;
    assert_eq!(edge.mas.calls(&token), 2);
}

#[tokio::test]
async fn requests_that_wait_during_an_update_get_their_answer() {
    let edge = start_dynamic(json!({})).await;
    let token = edge.alice();
    let hold = edge.mas.hold();
    let before = edge.spawn_many(&Request::get(WHOAMI).bearer(&token), 5);
    edge.wait_for_coalesced(4).await;
    configure(&edge, json!({"identity_headers": {"user_id": "x-new"}}))
        .await
        .expect("an update");
    // One VM: those of the new configuration wait for the call of the old one.
    let after = edge.spawn_many(&Request::get(WHOAMI).bearer(&token), 5);
    edge.wait_for_coalesced(9).await;
    hold.release();
    for (header, waiting) in [("x-matrix-user-id", before), ("x-new", after)] {
        for response in waiting.join_all().await {
            assert_eq!(response.json()["headers"][header][0], "@alice:example.org");
        }
    }
    assert_eq!(edge.mas.calls(&token), 1);
    edge.assert_alive().await;
}

/// Envoy drops the calls of a configuration once it has drained. Who waited for one of them under the new
/// configuration is not forgotten.
#[tokio::test]
async fn a_call_of_the_old_configuration_is_made_again_when_it_has_gone() {
    let edge = Edge::start_with(json!({}), Options::default(), |builder| {
        builder.dynamic_listeners().option("--drain-time-s", "1")
    })
    .await;
    let token = edge.alice();
    let whoami = Request::get(WHOAMI).bearer(&token);
    let hold = edge.mas.hold();
    let mut old = Connection::open(edge.envoy.addr()).await;
    old.send(&whoami.to_bytes()).await;
    edge.wait_for_calls(1).await;
    configure(&edge, json!({"identity_headers": {"user_id": "x-new"}}))
        .await
        .expect("an update");
    let waiting = edge.spawn_many(&whoami, 5);
    edge.wait_for_coalesced(5).await;
    edge.wait_for_calls(2).await;
    hold.release();
    for response in waiting.join_all().await {
        assert_eq!(response.json()["headers"]["x-new"][0], "@alice:example.org");
    }
    assert_eq!(edge.mas.calls(&token), 2);
    edge.assert_alive().await;
}

#[tokio::test]
async fn a_configuration_can_be_a_struct() {
    let edge = Edge::start_with(json!({}), Options::default(), |builder| {
        builder.bootstrap(|config| {
            let plugin = bootstrap::plugin(bootstrap::http_manager(config));
            let text = plugin["configuration"]["value"]
                .as_str()
                .expect("the configuration");
            let own: Value = serde_json::from_str(text).expect("the configuration is JSON");
            plugin["configuration"] = json!({
                "@type": "type.googleapis.com/google.protobuf.Struct",
                "value": own,
            });
        })
    })
    .await;
    edge.pass(Request::get(WHOAMI).bearer(&edge.alice())).await;
}

/// Every worker loads the configuration of every listener, and one of them tells.
#[tokio::test]
async fn a_secret_in_the_configuration_is_told_of_once() {
    let internal = plugin(json!({"role": "introspection"}));
    let edge = Edge::start_with(json!({}), Options::default(), |builder| {
        builder
            .concurrency(2)
            .internal_listener("internal", internal, "mas")
            .dynamic_listeners()
    })
    .await;
    let line = edge.envoy.wait_for_log("/config_dump").await;
    assert!(line.contains("[warning]"), "{line}");
    configure(&edge, json!({"cache": {"ttl": "60s"}}))
        .await
        .expect("an update");
    let log = edge.envoy.log();
    assert_eq!(log.matches("/config_dump").count(), 1, "{log}");
    assert!(!log.contains(DEFAULT_SECRET));

    let hidden = json!({"introspection": {"cluster": "mas", "credential": {"bearer": {"env": "MAS_SECRET"}}}});
    let edge = Edge::start_with(hidden, Options::default(), |builder| {
        builder.env("MAS_SECRET", DEFAULT_SECRET)
    })
    .await;
    edge.assert_alive().await;
    assert!(!edge.envoy.log().contains("/config_dump"));
}

async fn start_dynamic(changes: Value) -> Edge {
    Edge::start_with(changes, Options::default(), |builder| {
        builder.dynamic_listeners()
    })
    .await
}

async fn configure(edge: &Edge, changes: Value) -> Result<(), String> {
    edge.envoy
        .update_listener(|listener| {
            let manager = bootstrap::http_manager_of(listener);
            bootstrap::configure(manager, &plugin(changes));
        })
        .await
}
