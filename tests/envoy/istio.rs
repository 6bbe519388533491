//! `envoy/istio/` as Istio makes Envoy configuration of it.

use serde_json::Value;

use super::deployed::{Deployed, PATHS, REDUNDANT_PATHS, set_everywhere};
use crate::support::{
    envoy::module,
    http::Request,
    mesh::{istio, manifests},
};

pub const GATEWAY: &str = "0.0.0.0_8443";
const INTERNAL: [&str; 2] = ["0.0.0.0_10001", "0.0.0.0_10002"];

/// What makes a gateway with the WasmPlugin that enforces.
pub fn enforcing() -> Vec<Value> {
    let mut resources = files(&["wasmplugin", "connection", "routes"]);
    set_everywhere(
        manifests::the_mut(&mut resources, "WasmPlugin"),
        "mode",
        "enforce",
    );
    resources
}

fn files(names: &[&str]) -> Vec<Value> {
    names
        .iter()
        .flat_map(|name| manifests::file(&format!("envoy/istio/{name}.yaml")))
        .collect()
}

/// A gateway that `istioctl` installed: its container listens on 8443 where its Service has 443.
pub async fn start(resources: Vec<Value>) -> Deployed {
    start_at(resources, |port| if port == 443 { 8443 } else { port }).await
}

async fn start_at(resources: Vec<Value>, port: impl Fn(u64) -> u64) -> Deployed {
    Deployed::start(|upstreams, dir| {
        let mut config = istio::configuration(&resources, port, &module(), upstreams, dir);
        let labels = manifests::file("envoy/istio/labels.yaml");
        config["overload_manager"] = istio::bootstrap(&labels)["overload_manager"].clone();
        config
    })
    .await
}

#[tokio::test]
async fn the_wasm_plugin_begins_in_shadow_mode() {
    let deployed = start(files(&["wasmplugin", "connection", "routes"])).await;
    deployed.assert_shadows(GATEWAY).await;
    deployed.assert_annotates_in_time(GATEWAY).await;
    deployed.assert_untroubled();
}

#[tokio::test]
async fn the_wasm_plugin_enforces() {
    let resources = enforcing();
    // Both ways to install a gateway.
    for bind in [443, 8443] {
        let deployed = start_at(resources.clone(), |_| bind).await;
        let gateway = format!("0.0.0.0_{bind}");
        deployed.assert_annotates(&gateway).await;
        deployed.assert_enforces(&gateway).await;
        deployed.assert_keeps(&gateway, &PATHS).await;
        deployed.assert_keeps(&gateway, &REDUNDANT_PATHS).await;
        deployed.assert_tells_the_true_address(&gateway).await;
        deployed.assert_login_is_of_mas(&gateway).await;
        deployed.assert_hides(&gateway).await;
        let synapse = "outbound|8008||synapse.matrix.svc.cluster.local";
        deployed
            .assert_holds_bodies(&gateway, [synapse, synapse])
            .await;
        deployed.assert_untroubled();
    }
}

/// Why `connection.yaml` is there.
#[tokio::test]
async fn istios_defaults_would_rewrite_paths_and_let_underscores_and_upgrades_pass() {
    let deployed = start(files(&["wasmplugin", "routes"])).await;
    let request = Request::get("/_matrix/federation/v1/state/%41").bearer(&deployed.alice());
    let seen = deployed.pass(GATEWAY, &request).await;
    assert_eq!(seen.target, "/_matrix/federation/v1/state/A");
    let forged =
        Request::get("/_matrix/client/versions").header("x_matrix_user_id", "@admin:example.org");
    assert_eq!(deployed.send(GATEWAY, &forged).await.status, 200);
    let upgrade = upgrade(&deployed.alice());
    assert_ne!(deployed.send(GATEWAY, &upgrade).await.status, 403);
}

#[tokio::test]
async fn no_upgrade_takes_the_identity_away() {
    let deployed = start(files(&["wasmplugin", "connection", "routes"])).await;
    let upgrade = upgrade(&deployed.alice());
    assert_eq!(deployed.send(GATEWAY, &upgrade).await.status, 403);
    assert_eq!(deployed.homeserver.started(), 0);
}

fn upgrade(token: &str) -> Request {
    Request::get("/_matrix/client/v3/account/whoami")
        .bearer(token)
        .header("Connection", "Upgrade, X-Matrix-User-Id")
        .header("Upgrade", "websocket")
}

#[tokio::test]
async fn the_envoy_filter_serves_all_three_roles() {
    let mut resources = files(&["envoyfilter", "connection", "routes", "internal"]);
    set_everywhere(&mut resources[0], "mode", "enforce");
    for bind in [443, 8443] {
        let deployed = start_at(
            resources.clone(),
            |port| if port == 443 { bind } else { port },
        )
        .await;
        let gateway = format!("0.0.0.0_{bind}");
        deployed.assert_annotates(&gateway).await;
        deployed.assert_enforces(&gateway).await;
        deployed.assert_keeps(&gateway, &PATHS).await;
        deployed.assert_roles_share(&gateway, INTERNAL).await;
        deployed.assert_untroubled();
    }
}

#[test]
fn the_labels_are_those_of_the_project() {
    let shipped = manifests::document("envoy/stats_tags.yaml");
    let bootstrap = istio::bootstrap(&manifests::file("envoy/istio/labels.yaml"));
    assert_eq!(bootstrap["stats_config"], shipped["stats_config"]);
    let patch = manifests::document("envoy/istio/gateway-deployment.yaml");
    let annotations = &patch["spec"]["template"]["metadata"]["annotations"];
    assert_eq!(
        annotations["sidecar.istio.io/bootstrapOverride"],
        manifests::file("envoy/istio/labels.yaml")[0]["metadata"]["name"]
    );
}
