//! `envoy/istio/` as Istio makes Envoy configuration of it.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::sleep;

use super::{
    deployed::{Deployed, PATHS, REDUNDANT_PATHS, set_everywhere},
    edge::{WHOAMI, assert_is_matrix_error, new_token},
    introspection_role::introspect,
};
use crate::support::{
    envoy::module,
    http::{Connection, Request, within_limit},
    mesh::{elements, istio, manifests},
};

pub const GATEWAY: &str = "0.0.0.0_8443";
const INTERNAL: [&str; 2] = ["0.0.0.0_10001", "0.0.0.0_10002"];

/// What makes a gateway with the WasmPlugin that enforces.
pub fn enforcing() -> Vec<Value> {
    let mut resources = files(&["mesh", "wasmplugin", "connection", "routes"]);
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
    let deployed = start(files(&["mesh", "wasmplugin", "connection", "routes"])).await;
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
        deployed.assert_logs(&gateway).await;
        deployed.assert_keeps(&gateway, &PATHS).await;
        deployed.assert_keeps(&gateway, &REDUNDANT_PATHS).await;
        deployed.assert_tells_the_true_address(&gateway).await;
        deployed.assert_login_is_of_mas(&gateway).await;
        deployed.assert_hides(&gateway).await;
        deployed.assert_answers_as_synapse(&gateway).await;
        let nowhere = deployed.send(&gateway, &Request::get("/")).await;
        assert_eq!(nowhere.status, 404, "{nowhere:?}");
        assert_is_matrix_error(&nowhere, "M_UNRECOGNIZED");
        let synapse = "outbound|8008||synapse.matrix.svc.cluster.local";
        deployed
            .assert_holds_bodies(&gateway, [synapse, synapse])
            .await;
        deployed.assert_untroubled();
    }
}

/// `docs/runbook.md`: how soon a change of the plugin counts. Nothing is asked about again.
#[tokio::test]
async fn a_change_of_mode_counts_for_the_next_request_of_an_open_connection() {
    let resources = files(&["envoyfilter", "connection", "routes", "internal", "mesh"]);
    for (resources, extension) in [
        (
            files(&["mesh", "wasmplugin", "connection", "routes"]),
            "istio-ingress.matrix-edge-auth",
        ),
        (resources, "matrix-edge-auth-gateway"),
    ] {
        let deployed = start(resources).await;
        let mut open = Connection::open(deployed.envoy.listener(GATEWAY)).await;
        let invented = Request::get(WHOAMI).bearer(&new_token("mat"));
        assert_eq!(open.request(&invented).await.status, 200, "{extension}");
        within_limit("a call", deployed.mas.wait_for_calls(1)).await;
        for (from, to, status) in [("shadow", "enforce", 401), ("enforce", "shadow", 200)] {
            istio::change_mode(extension, from, to, deployed.dir.path());
            within_limit(to, async {
                while open.request(&invented).await.status != status {
                    sleep(Duration::from_millis(20)).await;
                }
            })
            .await;
        }
        assert_eq!(deployed.mas.total_calls(), 1, "{extension}");
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
    let deployed = start(files(&["mesh", "wasmplugin", "connection", "routes"])).await;
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
    let mut resources = files(&["envoyfilter", "connection", "routes", "internal", "mesh"]);
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
        deployed.assert_logs(&gateway).await;
        deployed.assert_keeps(&gateway, &PATHS).await;
        deployed.assert_roles_share(&gateway, INTERNAL).await;
        deployed.assert_untroubled();
    }
}

/// The answers that the introspection role keeps are not for those whom a policy of the operator's refuses.
#[tokio::test]
async fn a_policy_is_asked_before_the_internal_roles_answer() {
    let policy = json!({
        "apiVersion": "security.istio.io/v1",
        "kind": "AuthorizationPolicy",
        "metadata": {"name": "internal", "namespace": "istio-ingress"},
        "spec": {
            "selector": {"matchLabels": {"istio": "ingressgateway"}},
            "action": "DENY",
            "rules": [{
                "from": [{"source": {"notIpBlocks": ["192.0.2.0/24"]}}],
                "to": [{"operation": {"ports": ["10001", "10002"]}}],
            }],
        },
    });
    // Istio applies EnvoyFilters in the order in which they were made.
    for names in [["envoyfilter", "connection"], ["connection", "envoyfilter"]] {
        let mut resources = files(&names);
        resources.extend(files(&["routes", "internal"]));
        for resource in &mut resources {
            set_everywhere(resource, "mode", "enforce");
        }
        let open = start(resources.clone()).await;
        open.assert_roles_share(GATEWAY, INTERNAL).await;
        resources.push(policy.clone());
        let closed = start(resources).await;
        let token = closed.alice();
        let whoami = Request::get(WHOAMI).bearer(&token);
        closed.pass(GATEWAY, &whoami).await;
        let before = closed.homeserver.count();
        for listener in INTERNAL {
            let refused = closed.send(listener, &introspect(&token)).await;
            assert_eq!(refused.status, 403, "{listener}: {refused:?}");
        }
        assert_eq!(closed.homeserver.count(), before);
        closed.assert_untroubled();
    }
}

#[tokio::test]
async fn without_the_module_nothing_passes() {
    let resources = files(&["envoyfilter", "connection", "routes", "internal", "mesh"]);
    let deployed = Deployed::start(|upstreams, dir| {
        let port = |port| if port == 443 { 8443 } else { port };
        let config = istio::configuration(&resources, port, &module(), upstreams, dir);
        for role in ["gateway", "introspection", "provisioning"] {
            istio::cannot_fetch(&format!("matrix-edge-auth-{role}"), dir);
        }
        config
    })
    .await;
    for listener in [GATEWAY].into_iter().chain(INTERNAL) {
        let request = Request::get(WHOAMI).bearer(&deployed.alice());
        let refused = deployed.send(listener, &request).await;
        assert_eq!(refused.status, 403, "{listener}: {refused:?}");
    }
    assert_eq!(deployed.homeserver.count(), 0);
}

/// Sidecars speak plain text to a gateway, so what is told apart by certificates would refuse Synapse and MAS as well.
#[test]
fn the_internal_ports_are_for_the_pods_of_synapse_and_mas_and_no_public_one_is_closed() {
    let resources = files(&["routes", "internal"]);
    let policy = &manifests::the(&resources, "NetworkPolicy")["spec"];
    assert_eq!(policy["policyTypes"], json!(["Ingress"]));
    let rules = |port: u64| -> Vec<&Value> {
        let is_open = |rule: &&Value| {
            let ports = elements(&rule["ports"]);
            assert!(!ports.is_empty(), "{rule} opens every port");
            ports
                .iter()
                .any(|open| open["protocol"] == "TCP" && open["port"] == port)
        };
        elements(&policy["ingress"])
            .iter()
            .filter(is_open)
            .collect()
    };
    let pods = |name: &str| {
        json!([{
            "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "matrix"}},
            "podSelector": {"matchLabels": {"app.kubernetes.io/name": name}},
        }])
    };
    for gateway in manifests::of_kind(&resources, "Gateway") {
        let selected = &gateway["spec"]["selector"];
        assert_eq!(policy["podSelector"]["matchLabels"], *selected);
        for server in elements(&gateway["spec"]["servers"]) {
            let port = server["port"]["number"].as_u64().expect("a port");
            let [rule] = rules(port)[..] else {
                panic!("one rule for {port}");
            };
            let expected = match port {
                10001 => pods("synapse"),
                10002 => pods("matrix-authentication-service"),
                _ => Value::Null,
            };
            assert_eq!(rule["from"], expected, "{port}");
        }
    }
    // Those of a container that istioctl installed, of probes, and of Istio's own metrics.
    for port in [80, 8080, 8443, 15020, 15021, 15090] {
        let [rule] = rules(port)[..] else {
            panic!("one rule for {port}");
        };
        assert!(rule["from"].is_null(), "{port}");
    }
    for service in manifests::of_kind(&resources, "Service") {
        let selected = &service["spec"]["selector"];
        assert_eq!(policy["podSelector"]["matchLabels"], *selected);
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

/// What federation signs. An EnvoyFilter cannot keep paths, since Istio merges no `false`.
#[tokio::test]
async fn paths_reach_the_homeserver_as_they_were_sent_if_the_mesh_keeps_them() {
    let path = "/_matrix/federation/v1/query/directory?room_alias=%23a%3Aexample.org";
    let encoded = "/_matrix/federation/v1/%76ersion/%7E/..%2F%41";
    for (names, arrives) in [
        (&["mesh", "wasmplugin", "connection", "routes"][..], encoded),
        (
            &["wasmplugin", "connection", "routes"],
            "/_matrix/federation/v1/version/~/..%2FA",
        ),
    ] {
        let deployed = start(files(names)).await;
        let seen = deployed.pass(GATEWAY, &Request::get(encoded)).await;
        assert_eq!(seen.target, arrives);
        let seen = deployed.pass(GATEWAY, &Request::get(path)).await;
        assert_eq!(seen.target, path);
    }
}
