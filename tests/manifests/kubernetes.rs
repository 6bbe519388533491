//! `envoy/kubernetes/`: what the overlays change, and that every name leads where it should.

use std::path::PathBuf;

use serde_json::{Value, json};

use super::tools::kustomize;
use crate::support::{
    envoy::repository,
    mesh::{
        elements,
        manifests::{of_kind, the},
        text,
    },
};

/// The overlays, which are called as the modes of the module.
pub const OVERLAYS: [&str; 2] = ["shadow", "enforce"];

/// The labels of the edge's own pods.
const OWN: (&str, &str) = ("app.kubernetes.io/name", "matrix-edge-auth");

/// The folder of an overlay.
pub fn folder(overlay: &str) -> PathBuf {
    repository().join("envoy/kubernetes/overlays").join(overlay)
}

/// The overlay `shadow` with the component that the README tells of.
pub fn with_image_volume() -> Vec<Value> {
    let dir = tempfile::tempdir_in(repository().join("target")).expect("a temporary directory");
    let kustomization = json!({
        "resources": ["../../envoy/kubernetes/overlays/shadow"],
        "components": ["../../envoy/kubernetes/components/image-volume"],
    });
    let path = dir.path().join("kustomization.yaml");
    std::fs::write(path, kustomization.to_string()).expect("a directory that can be written");
    kustomize(dir.path())
}

/// The resource of this kind and name.
pub fn named<'a>(resources: &'a [Value], kind: &str, name: &str) -> &'a Value {
    of_kind(resources, kind)
        .into_iter()
        .find(|resource| resource["metadata"]["name"] == name)
        .unwrap_or_else(|| panic!("there is no {kind} {name}"))
}

/// The Envoy configuration that the pods of the Deployment read.
fn envoy(resources: &[Value]) -> Value {
    let volumes = elements(&the(resources, "Deployment")["spec"]["template"]["spec"]["volumes"]);
    let name = volumes
        .iter()
        .find_map(|volume| volume["configMap"]["name"].as_str())
        .expect("a volume of a ConfigMap");
    let map = named(resources, "ConfigMap", name);
    serde_saphyr::from_str(text(&map["data"]["envoy.yaml"])).expect("the configuration is YAML")
}

/// The plugin configuration of the listener that a Service leads to.
fn plugin(resources: &[Value], service: &str) -> Value {
    let service = named(resources, "Service", service);
    let container = &the(resources, "Deployment")["spec"]["template"]["spec"]["containers"][0];
    let port = elements(&container["ports"])
        .iter()
        .find(|port| port["name"] == service["spec"]["ports"][0]["targetPort"])
        .unwrap_or_else(|| panic!("no port is called as in {service}"));
    let envoy = envoy(resources);
    let listener = elements(&envoy["static_resources"]["listeners"])
        .iter()
        .find(|listener| {
            listener["address"]["socket_address"]["port_value"] == port["containerPort"]
        })
        .unwrap_or_else(|| panic!("no listener has the port {port}"));
    assert_eq!(listener["address"]["socket_address"]["address"], "0.0.0.0");
    let manager = &listener["filter_chains"][0]["filters"][0]["typed_config"];
    manager["http_filters"][0]["typed_config"]["config"]["configuration"]["value"].clone()
}

#[test]
fn each_service_leads_to_its_role_and_the_overlays_choose_the_mode() {
    for overlay in OVERLAYS {
        let resources = kustomize(&folder(overlay));
        let gateway = plugin(&resources, "matrix-edge-auth");
        assert_eq!(gateway["role"], "gateway");
        assert_eq!(gateway["mode"], overlay);
        for role in ["introspection", "provisioning"] {
            let internal = plugin(&resources, &format!("matrix-edge-auth-{role}"));
            assert_eq!(internal["role"], role);
            // Else they share no answers.
            assert_eq!(internal["introspection"], gateway["introspection"]);
        }
    }
}

/// What it scales must be there: Kubernetes takes an autoscaler of nothing, which then scales nothing.
#[test]
fn the_autoscaler_scales_the_deployment() {
    for overlay in OVERLAYS {
        let resources = kustomize(&folder(overlay));
        let deployment = the(&resources, "Deployment");
        let autoscaler = &the(&resources, "HorizontalPodAutoscaler")["spec"];
        let target = json!({
            "apiVersion": deployment["apiVersion"],
            "kind": deployment["kind"],
            "name": deployment["metadata"]["name"],
        });
        assert_eq!(autoscaler["scaleTargetRef"], target, "{overlay}");
        // A number of its own would undo the autoscaler's at each `kubectl apply`.
        assert!(deployment["spec"]["replicas"].is_null(), "{overlay}");
        // A part of the CPU time that a pod asks for can be told only if it asks for some.
        let requests = &deployment["spec"]["template"]["spec"]["containers"][0]["resources"];
        assert!(requests["requests"]["cpu"].is_string(), "{overlay}");
    }
}

#[test]
fn the_overlays_differ_in_one_line() {
    let [mut shadow, enforce] = OVERLAYS.map(|overlay| kustomize(&folder(overlay)));
    for resource in &mut shadow {
        if resource["kind"] == "Service" && resource["metadata"]["name"] == "matrix-edge-auth" {
            assert_eq!(resource["spec"]["ports"][0]["targetPort"], "shadow");
            resource["spec"]["ports"][0]["targetPort"] = "enforce".into();
        }
    }
    assert_eq!(shadow, enforce);
}

/// A selector that matches too much cuts others off: an empty one of a NetworkPolicy is every pod of the namespace.
#[test]
fn every_selector_selects_the_edge_and_the_policies_name_their_callers() {
    let resources = kustomize(&folder("enforce"));
    let own = json!({OWN.0: OWN.1});
    let labels = &the(&resources, "Deployment")["spec"]["template"]["metadata"]["labels"];
    assert_eq!(*labels, own);
    for kind in ["Deployment", "PodDisruptionBudget"] {
        assert_eq!(
            the(&resources, kind)["spec"]["selector"]["matchLabels"],
            own
        );
    }
    for service in of_kind(&resources, "Service") {
        assert_eq!(service["spec"]["selector"], own);
    }
    let mut open = Vec::new();
    for policy in of_kind(&resources, "NetworkPolicy") {
        assert_eq!(policy["spec"]["podSelector"]["matchLabels"], own);
        assert_eq!(policy["spec"]["policyTypes"], json!(["Ingress"]));
        for rule in elements(&policy["spec"]["ingress"]) {
            let [from] = elements(&rule["from"]) else {
                panic!("one caller: {rule}");
            };
            for port in elements(&rule["ports"]) {
                open.push((text(&port["port"]), from));
            }
        }
    }
    open.sort_by_key(|(port, _)| *port);
    let ports: Vec<&str> = open.iter().map(|(port, _)| *port).collect();
    assert_eq!(
        ports,
        [
            "enforce",
            "health",
            "introspection",
            "provisioning",
            "shadow"
        ]
    );
    for (port, label) in [
        ("introspection", "synapse"),
        ("provisioning", "matrix-authentication-service"),
    ] {
        let from = open.iter().find(|(found, _)| *found == port);
        let caller = json!({"podSelector": {"matchLabels": {OWN.0: label}}});
        assert_eq!(
            from.map(|(_, from)| (*from).clone()),
            Some(caller),
            "{port}"
        );
    }
}

#[test]
fn the_probes_ask_what_the_health_listener_serves() {
    let resources = kustomize(&folder("enforce"));
    let envoy = envoy(&resources);
    let health = elements(&envoy["static_resources"]["listeners"])
        .iter()
        .find(|listener| listener["name"] == "health")
        .expect("a listener for health");
    let manager = &health["filter_chains"][0]["filters"][0]["typed_config"];
    let served: Vec<&Value> = elements(&manager["route_config"]["virtual_hosts"][0]["routes"])
        .iter()
        .map(|route| &route["match"]["path"])
        .collect();
    let template = &the(&resources, "Deployment")["spec"]["template"];
    let container = &template["spec"]["containers"][0];
    for probe in ["readinessProbe", "livenessProbe", "startupProbe"] {
        assert_eq!(container[probe]["httpGet"]["port"], "health");
        assert!(
            served.contains(&&container[probe]["httpGet"]["path"]),
            "{probe}"
        );
    }
    let annotations = &template["metadata"]["annotations"];
    assert!(served.contains(&&annotations["prometheus.io/path"]));
    let port = &health["address"]["socket_address"]["port_value"];
    assert_eq!(annotations["prometheus.io/port"], port.to_string());
    // The admin interface itself is not open.
    assert_eq!(
        envoy["admin"]["address"]["socket_address"]["address"],
        "127.0.0.1"
    );
}

/// A pod is led to no longer, and then has time for what is under way: Envoy ends as soon as it is told to.
#[test]
fn a_pod_that_ends_has_its_time_for_what_is_under_way() {
    let resources = kustomize(&folder("enforce"));
    let pod = &the(&resources, "Deployment")["spec"]["template"]["spec"];
    let grace = pod["terminationGracePeriodSeconds"].as_u64();
    let sleep = &pod["containers"][0]["lifecycle"]["preStop"]["sleep"]["seconds"];
    let (grace, sleep) = grace.zip(sleep.as_u64()).expect("two numbers");
    assert!(sleep >= 45 && grace >= sleep + 5, "{sleep} of {grace}");
}

/// A tag that moves would bring another program into the cluster.
#[test]
fn every_image_has_a_version() {
    let resources = kustomize(&folder("enforce"));
    let pod = &the(&resources, "Deployment")["spec"]["template"]["spec"];
    for container in elements(&pod["initContainers"])
        .iter()
        .chain(elements(&pod["containers"]))
    {
        let image = text(&container["image"]);
        let tag = image
            .split('@')
            .next()
            .and_then(|name| name.rsplit(':').next());
        let is_version = tag.is_some_and(|tag| tag.contains(|c: char| c.is_ascii_digit()));
        assert!(is_version, "{image}");
    }
}

#[test]
fn the_image_volume_takes_the_place_of_the_init_container() {
    let resources = with_image_volume();
    let pod = &the(&resources, "Deployment")["spec"]["template"]["spec"];
    assert!(elements(&pod["initContainers"]).is_empty());
    let volumes: Vec<&Value> = elements(&pod["volumes"])
        .iter()
        .filter(|volume| volume["name"] == "module")
        .collect();
    let [module] = volumes[..] else {
        panic!("one volume: {volumes:?}");
    };
    assert!(module["emptyDir"].is_null());
    let base = kustomize(&folder("shadow"));
    let copied = &the(&base, "Deployment")["spec"]["template"]["spec"]["initContainers"][0];
    assert_eq!(module["image"]["reference"], copied["env"][0]["value"]);
}
