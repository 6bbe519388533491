//! `envoy/envoy-gateway/` as Envoy Gateway makes Envoy configuration of it.

use serde_json::{Value, json};
use stand_in::mas::Session;

use super::{
    deployed::{Deployed, PATHS, set_everywhere},
    edge::new_token,
};
use crate::support::{
    envoy::module,
    http::Request,
    mesh::{Upstreams, elements, envoy_gateway, manifests, text},
};

pub const MATRIX: &str = "matrix";

fn resources() -> Vec<Value> {
    ["gateway", "policies", "routes"]
        .iter()
        .flat_map(|name| manifests::file(&format!("envoy/envoy-gateway/{name}.yaml")))
        .collect()
}

pub async fn start(resources: &[Value]) -> Deployed {
    Deployed::start(|upstreams, _| envoy_gateway::configuration(resources, &module(), upstreams))
        .await
}

pub fn enforcing() -> Vec<Value> {
    let mut resources = resources();
    let policy = manifests::the_mut(&mut resources, "EnvoyExtensionPolicy");
    set_everywhere(policy, "mode", "enforce");
    resources
}

#[tokio::test]
async fn it_begins_in_shadow_mode() {
    let deployed = start(&resources()).await;
    deployed.assert_shadows(MATRIX).await;
    deployed.assert_annotates_in_time(MATRIX).await;
    deployed.assert_untroubled();
}

#[tokio::test]
async fn it_enforces() {
    let deployed = start(&enforcing()).await;
    deployed.assert_annotates(MATRIX).await;
    deployed.assert_enforces(MATRIX).await;
    deployed.assert_logs(MATRIX).await;
    deployed.assert_keeps(MATRIX, &PATHS).await;
    deployed.assert_tells_the_true_address(MATRIX).await;
    deployed.assert_login_is_of_mas(MATRIX).await;
    deployed.assert_hides(MATRIX).await;
    let clusters = ["matrix/rule/3", "media/rule/0"];
    let clusters = clusters.map(|rule| format!("httproute/matrix/{rule}"));
    let [homeserver, media] = clusters.each_ref();
    deployed
        .assert_holds_bodies(MATRIX, [homeserver, media])
        .await;
    deployed.assert_untroubled();
}

/// Both listeners of the policy share one VM, so the gateway hears of what passes to MAS.
#[tokio::test]
async fn a_token_that_is_revoked_at_mas_ends_at_the_homeserver() {
    let deployed = start(&enforcing()).await;
    let token = new_token("mct");
    deployed
        .mas
        .insert(&token, Session::compat("alice", "PHONE"));
    let whoami = Request::get(super::edge::WHOAMI).bearer(&token);
    deployed.pass(MATRIX, &whoami).await;
    let logout =
        Request::post("/_matrix/client/v3/logout", "application/json", "{}").bearer(&token);
    assert_eq!(deployed.send(MATRIX, &logout).await.status, 200);
    while deployed.send(MATRIX, &whoami).await.status == 200 {}
    assert_eq!(deployed.send(MATRIX, &whoami).await.status, 401);
}

/// Calls have tokens of their own.
#[tokio::test]
async fn matrix_rtc_is_left_alone() {
    let deployed = start(&enforcing()).await;
    let request = Request::get("/rtc")
        .header("Host", "rtc.example.org")
        .bearer(&new_token("mat"));
    assert_eq!(deployed.send("rtc", &request).await.status, 200);
    assert_eq!(deployed.other.count(), 1);
    assert_eq!(deployed.mas.total_calls(), 0);
}

/// Why the `ClientTrafficPolicy` is there.
#[tokio::test]
async fn the_defaults_would_redirect_key_backups_to_other_paths() {
    let mut resources = resources();
    resources.retain(|resource| resource["kind"] != "ClientTrafficPolicy");
    let deployed = start(&resources).await;
    let request =
        Request::get("/_matrix/client/v3/room_keys/keys/%21r/a%2Fb").bearer(&deployed.alice());
    let response = deployed.send(MATRIX, &request).await;
    assert_eq!(response.status, 307, "{response:?}");
}

/// A /sync waits for longer than Envoy's default of 15 s for a route, and something must end what waits for ever.
#[test]
fn no_request_is_cut_and_none_waits_for_ever() {
    let nowhere = ([127, 0, 0, 1], 9).into();
    let upstreams = Upstreams {
        homeserver: nowhere,
        mas: nowhere,
        other: nowhere,
    };
    let path = "module.wasm".as_ref();
    let config = envoy_gateway::configuration(&resources(), path, upstreams);
    for listener in elements(&config["static_resources"]["listeners"]) {
        let manager = &listener["filter_chains"][0]["filters"][0]["typed_config"];
        let has_module = listener["name"] != "rtc";
        assert_eq!(!manager["stream_idle_timeout"].is_null(), has_module);
        for host in elements(&manager["route_config"]["virtual_hosts"]) {
            for route in elements(&host["routes"]) {
                assert_eq!(route["route"]["timeout"], "0s", "{route}");
                let header = &route["request_headers_to_add"][0]["header"]["key"];
                assert_eq!(header, "X-Forwarded-For", "{route}");
                assert_eq!(
                    route["route"]["idle_timeout"].is_null(),
                    has_module,
                    "{route}"
                );
                let modules = route["typed_per_filter_config"].as_object();
                assert_eq!(
                    modules.map(serde_json::Map::is_empty),
                    Some(!has_module),
                    "{route}"
                );
            }
        }
    }
}

#[test]
fn the_bootstrap_has_the_projects_labels_and_the_secret() {
    let resources = resources();
    let shipped = manifests::document("envoy/stats_tags.yaml");
    let bootstrap = envoy_gateway::bootstrap(&resources);
    assert_eq!(bootstrap["stats_config"], shipped["stats_config"]);
    let proxy = manifests::the(&resources, "EnvoyProxy");
    let environment =
        &proxy["spec"]["provider"]["kubernetes"]["envoyDeployment"]["container"]["env"];
    let policy = manifests::the(&resources, "EnvoyExtensionPolicy");
    assert_eq!(
        policy["spec"]["wasm"][0]["env"]["hostKeys"],
        json!([environment[0]["name"]])
    );
    let asked = text(&policy["spec"]["wasm"][0]["config"]["introspection"]["cluster"]);
    assert_eq!(bootstrap["static_resources"]["clusters"][0]["name"], asked);
}
