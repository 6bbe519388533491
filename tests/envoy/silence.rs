//! MAS gives no verdicts: the log names what to look at, in one line of all workers.

use serde_json::{Value, json};
use stand_in::mas::{DEFAULT_SECRET, Fault, Options};

use super::{
    edge::{Edge, WHOAMI, assert_no_verdict, closed_port, new_token, plugin},
    workers::connections,
};
use crate::support::{envoy::bootstrap, http::Request, product_time::Stalls};

const WRONG_CLUSTER: &str = "wrong";
const TOLD: &str = "no verdict on tokens from cluster";
const AGAIN: &str = "MAS answers again, at cluster mas (auth.example.org/oauth2/introspect)";

/// Starts the edge with all workers, and with these further clusters.
async fn start(changes: Value, clusters: Vec<Value>) -> Edge {
    Edge::start_with(changes, Options::default(), |builder| {
        builder
            .balanced()
            .dynamic_listeners()
            .bootstrap(|config| bootstrap::clusters(config).extend(clusters))
    })
    .await
}

/// Asks through every worker, and returns the one line that all of them have written.
async fn only_line(edge: &Edge) -> String {
    let mut tokens = Vec::new();
    let stalls = Stalls::measure();
    for mut connection in connections(edge, 1).await {
        for _ in 0..3 {
            let token = new_token("mat");
            let request = Request::get(WHOAMI).bearer(&token);
            assert_no_verdict(&connection.request(&request).await);
            tokens.push(token);
        }
    }
    let line = edge.envoy.wait_for_log(TOLD).await;
    let log = edge.envoy.log();
    let mut told: Vec<&str> = log.lines().filter(|line| line.contains(TOLD)).collect();
    if stalls.are_there() {
        // The time of the call may be over by far before Envoy comes to say so.
        told.retain(|line| !line.contains("Envoy delivered no answer"));
    }
    assert_eq!(told.len(), 1, "{log}");
    for secret in tokens.iter().map(String::as_str).chain([DEFAULT_SECRET]) {
        assert!(!log.contains(secret), "{log}");
    }
    assert!(line.contains("[warning]"), "{line}");
    line
}

/// Configures the edge anew, as it should have been, and waits until the log says that MAS answers.
async fn mend(edge: &Edge, says: &str) {
    edge.envoy
        .update_listener(|listener| {
            let manager = bootstrap::http_manager_of(listener);
            bootstrap::configure(manager, &plugin(json!({})));
        })
        .await
        .expect("a good configuration");
    assert_eq!(edge.whoami(&edge.alice()).await.status, 200);
    let line = edge.envoy.wait_for_log(says).await;
    assert!(line.contains("[info]"), "{line}");
}

const FIRST: &str = "MAS answers, at cluster mas (auth.example.org/oauth2/introspect)";

#[tokio::test]
async fn a_cluster_that_envoy_does_not_know() {
    let edge = start(json!({"introspection": {"cluster": WRONG_CLUSTER}}), vec![]).await;
    let line = only_line(&edge).await;
    for part in [
        "Envoy knows no cluster",
        "introspection.cluster",
        "cluster wrong (",
    ] {
        assert!(line.contains(part), "{line}");
    }
    mend(&edge, FIRST).await;
    edge.assert_alive().await;
}

#[tokio::test]
async fn a_cluster_without_a_host() {
    let cluster = json!({
        "name": WRONG_CLUSTER,
        "type": "STATIC",
        "load_assignment": {"cluster_name": WRONG_CLUSTER, "endpoints": []},
    });
    let changes = json!({"introspection": {"cluster": WRONG_CLUSTER}});
    let edge = start(changes, vec![cluster]).await;
    let line = only_line(&edge).await;
    assert!(
        line.contains("whether a host of the cluster is healthy"),
        "{line}"
    );
}

#[tokio::test]
async fn a_mas_that_is_not_there() {
    let (_socket, addr) = closed_port();
    let changes = json!({"introspection": {"cluster": WRONG_CLUSTER}});
    let edge = start(
        changes,
        vec![bootstrap::static_cluster(WRONG_CLUSTER, addr)],
    )
    .await;
    let line = only_line(&edge).await;
    assert!(
        line.contains("no connection came about; see whether MAS runs"),
        "{line}"
    );
}

/// The cluster speaks TLS, and MAS does not. Envoy does not say that this is why there is no connection.
#[tokio::test]
async fn a_mas_without_tls() {
    let mas = stand_in::mas::Mas::start(Options::default())
        .await
        .expect("a free port");
    let mut cluster = bootstrap::static_cluster(WRONG_CLUSTER, mas.addr());
    cluster["transport_socket"] = json!({
        "name": "envoy.transport_sockets.tls",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext",
        },
    });
    let changes = json!({"introspection": {"cluster": WRONG_CLUSTER}});
    let edge = start(changes, vec![cluster]).await;
    let line = only_line(&edge).await;
    assert!(line.contains("the cluster's TLS settings"), "{line}");
}

#[tokio::test]
async fn a_secret_that_mas_does_not_take() {
    let edge = start(json!({}), vec![]).await;
    edge.mas.set_secret("another");
    let line = only_line(&edge).await;
    for part in ["MAS answered 401", "introspection.credential"] {
        assert!(line.contains(part), "{line}");
    }
    edge.mas.set_secret(DEFAULT_SECRET);
    assert_eq!(edge.whoami(&edge.alice()).await.status, 200);
    edge.envoy.wait_for_log(AGAIN).await;
}

#[tokio::test]
async fn a_path_that_mas_does_not_have() {
    let edge = start(
        json!({"introspection": {"path": "/oauth2/nothing"}}),
        vec![],
    )
    .await;
    let line = only_line(&edge).await;
    for part in ["MAS answered 404", "introspection.path", "/oauth2/nothing"] {
        assert!(line.contains(part), "{line}");
    }
    mend(&edge, FIRST).await;
}

#[tokio::test]
async fn answers_of_another_server() {
    for (fault, told) in [
        (
            Fault::redirect("https://other.example.org/evil"),
            vec!["MAS answered 30", "introspection.authority"],
        ),
        (Fault::html(), vec!["not JSON", "introspection.authority"]),
        (
            Fault::status(500, "evil"),
            vec!["MAS answered 500", "MAS's log"],
        ),
        (Fault::garbage(), vec!["not HTTP"]),
        (Fault::close(), vec!["the connection was closed"]),
        (Fault::reset_mid_body(), vec!["broke off"]),
        (Fault::oversized(65 * 1024), vec!["too long"]),
    ] {
        let edge = start(json!({"introspection": {"retries": 0}}), vec![]).await;
        edge.mas.fault(fault);
        let line = only_line(&edge).await;
        for part in told {
            assert!(line.contains(part), "{part:?} in {line}");
        }
        assert!(!line.contains("evil"), "{line}");
        edge.mas.clear_faults();
        mend(&edge, AGAIN).await;
        edge.assert_alive().await;
    }
}

#[tokio::test]
async fn a_mas_that_hangs_is_told_of_with_the_timeout() {
    let edge = start(json!({"introspection": {"timeout": "250ms"}}), vec![]).await;
    edge.mas.fault(Fault::hang());
    let line = only_line(&edge).await;
    assert!(
        line.contains("no answer within introspection.timeout (250ms)"),
        "{line}"
    );
    edge.mas.clear_faults();
    mend(&edge, AGAIN).await;
}

/// Also in shadow mode, where nobody notices anything.
#[tokio::test]
async fn shadow_mode_is_not_silent_either() {
    let edge = start(json!({"mode": "shadow"}), vec![]).await;
    edge.mas.set_secret("another");
    edge.pass(Request::get(WHOAMI).bearer(&edge.alice())).await;
    let line = edge.envoy.wait_for_log(TOLD).await;
    assert!(line.contains("MAS answered 401"), "{line}");
}
