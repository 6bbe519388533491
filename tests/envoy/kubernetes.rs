//! `envoy/kubernetes/base/envoy.yaml` as it is shipped, but for its addresses. `tests/manifests` looks at the manifests.

use serde_json::{Value, json};

use super::{
    deployed::{Deployed, PATHS, REDUNDANT_PATHS, set_everywhere},
    edge::{WHOAMI, assert_is_matrix_error},
    production_overload::Pressure,
};
use crate::support::{
    envoy::module,
    http::{self, Connection, Request},
    mesh::{self, manifests},
};

pub async fn start() -> Deployed {
    start_with(|_| {}).await
}

async fn start_with(edit: impl FnOnce(&mut Value)) -> Deployed {
    Deployed::start(|upstreams, _| {
        let mut config = manifests::document("envoy/kubernetes/base/envoy.yaml");
        set_everywhere(&mut config, "filename", &module().display().to_string());
        mesh::on_loopback(&mut config, upstreams);
        // The admin interface is on a port that Envoy chooses.
        for cluster in mesh::each(&mut config["static_resources"]["clusters"]) {
            if cluster["name"] == "admin" {
                let address = &mut cluster["load_assignment"]["endpoints"][0]["lb_endpoints"][0]["endpoint"]["address"];
                address["socket_address"] = json!({"address": "127.0.0.1", "port_value": upstreams.other.port()});
            }
        }
        edit(&mut config);
        config
    })
    .await
}

#[tokio::test]
async fn it_shadows_and_enforces_beside_each_other() {
    let deployed = start().await;
    deployed.assert_shadows("shadow").await;
    deployed.assert_enforces("enforce").await;
    deployed.assert_logs("enforce").await;
    deployed.assert_annotates_in_time("shadow").await;
    deployed.assert_annotates("enforce").await;
    for listener in ["shadow", "enforce"] {
        deployed.assert_keeps(listener, &PATHS).await;
        deployed.assert_keeps(listener, &REDUNDANT_PATHS).await;
        deployed.assert_login_is_of_mas(listener).await;
        deployed.assert_waits_for_whole_requests(listener).await;
        deployed
            .assert_holds_bodies(listener, ["homeserver", "homeserver-media"])
            .await;
    }
    deployed.assert_untroubled();
}

/// In no mode, and in no spelling: only what is public has a route.
#[tokio::test]
async fn what_is_not_for_the_public_has_no_route() {
    let deployed = start().await;
    for listener in ["enforce", "shadow"] {
        let before = deployed.homeserver.count();
        for path in [
            "/_synapse/admin/v1/users",
            "/_synapse/mas/query_user",
            "/_synapse/replication/x",
            "/_synapse/metrics",
            "/%5Fsynapse/admin/v1/users",
            "/_synapse%2Fadmin/v1/users",
            "//_synapse/admin/v1/users",
            "/health",
            "/",
        ] {
            let request = Request::get(path).bearer(&deployed.alice());
            let response = deployed.send(listener, &request).await;
            // The module is asked first, and alice is no administrator.
            let errcode = match response.status {
                403 if listener == "enforce" && path.contains("admin") => "M_FORBIDDEN",
                status => {
                    assert_eq!(status, 404, "{listener} {path}");
                    "M_UNRECOGNIZED"
                }
            };
            assert_is_matrix_error(&response, errcode);
        }
        assert_eq!(deployed.homeserver.count(), before);
        let before = deployed.mas.total_calls();
        for path in [
            "/api/admin",
            "/api/admin/v1/users",
            "/health",
            "/metrics",
            "/connection-info",
        ] {
            let request = Request::get(path).header("Host", "auth.example.org");
            let response = deployed.send(listener, &request).await;
            assert_eq!(response.status, 404, "{listener} {path}");
            assert_is_matrix_error(&response, "M_UNRECOGNIZED");
        }
        assert_eq!(deployed.mas.total_calls(), before);
        for path in [
            "/.well-known/matrix/client",
            "/_matrix/client/versions",
            "/_synapse/client/oidc/callback",
        ] {
            deployed.pass(listener, &Request::get(path)).await;
        }
    }
}

#[tokio::test]
async fn what_envoy_answers_by_itself_is_for_matrix_clients() {
    let deployed = start_with(|config| {
        for cluster in mesh::each(&mut config["static_resources"]["clusters"]) {
            if cluster["name"] == "homeserver-media" {
                cluster["load_assignment"]["endpoints"] = json!([]);
            }
        }
    })
    .await;
    deployed.assert_answers_as_synapse("enforce").await;
    for listener in ["enforce", "shadow"] {
        let media = Request::get("/_matrix/client/v1/media/config").bearer(&deployed.alice());
        let response = deployed.send(listener, &media).await;
        assert_eq!(response.status, 503, "{response:?}");
        assert_is_matrix_error(&response, "M_UNKNOWN");
    }
}

#[tokio::test]
async fn all_roles_share_one_cache() {
    let deployed = start().await;
    deployed
        .assert_roles_share("enforce", ["introspection", "provisioning"])
        .await;
    deployed.assert_untroubled();
}

#[tokio::test]
async fn only_health_and_metrics_of_the_admin_interface_are_open() {
    let deployed = start().await;
    let get = async |path| deployed.send("health", &Request::get(path)).await.status;
    assert_eq!(get("/live").await, 200);
    assert_eq!(deployed.other.count(), 0);
    for path in ["/ready", "/stats/prometheus"] {
        assert_eq!(get(path).await, 200, "{path}");
    }
    assert_eq!(deployed.other.count(), 2);
    for path in [
        "/config_dump",
        "/quitquitquit",
        "/ready/../config_dump",
        "/stats",
    ] {
        assert_eq!(get(path).await, 404, "{path}");
    }
    assert_eq!(deployed.other.count(), 2);
}

/// All pods are short of memory at once when they are attacked. One that is ended, or that no connection is led to, serves
/// nobody.
#[tokio::test]
async fn a_pod_that_is_short_of_memory_is_neither_ended_nor_taken_out_of_the_service() {
    let pressure = Pressure::new();
    let deployed = start_with(|config| pressure.trigger(config)).await;
    let whoami = Request::get(WHOAMI).bearer(&deployed.alice());
    let mut connected = Connection::open(deployed.envoy.listener("enforce")).await;
    assert_eq!(connected.request(&whoami).await.status, 200);
    pressure.set(&deployed.envoy, 91).await;
    for listener in ["enforce", "shadow"] {
        let addr = deployed.envoy.listener(listener);
        assert!(http::try_send(addr, &whoami).await.is_none(), "{listener}");
    }
    assert_eq!(connected.request(&whoami).await.status, 200);
    pressure.set(&deployed.envoy, 100).await;
    deployed
        .envoy
        .wait_for_stat(
            "overload.envoy.overload_actions.stop_accepting_requests.active",
            |active| active == 1,
        )
        .await;
    assert_eq!(connected.request(&whoami).await.status, 503);
    for path in ["/live", "/ready", "/stats/prometheus"] {
        let response = deployed.send("health", &Request::get(path)).await;
        assert_eq!(response.status, 200, "{path}");
    }
}

#[test]
fn the_labels_are_those_of_the_project() {
    let shipped = manifests::document("envoy/stats_tags.yaml");
    let config: Value = manifests::document("envoy/kubernetes/base/envoy.yaml");
    assert_eq!(config["stats_config"], shipped["stats_config"]);
}
