//! `envoy/kubernetes/overlays/fleet`: pods with names, which are the members that the configuration names.

use serde_json::{Value, json};

use super::{
    kubernetes::{OVERLAYS, folder, named},
    tools::kustomize,
};
use crate::support::{
    envoy::{read, yaml},
    mesh::{
        elements,
        manifests::{document, of_kind, the},
        text,
    },
};

/// The name of the overlay.
pub const OVERLAY: &str = "fleet";

/// What the overlay's configuration has in place of what stands in `envoy/fleet/envoy.yaml`.
const REPLACED: [(&str, &str); 6] = [
    ("/etc/envoy/matrix-edge-auth.wasm", "/module/plugin.wasm"),
    ("xff_num_trusted_hops: 0", "xff_num_trusted_hops: 1"),
    // Of the memory that a pod has.
    (
        "max_heap_size_bytes: 1073741824",
        "max_heap_size_bytes: 536870912",
    ),
    // Network policies say who may connect.
    (
        "address_prefix: 10.0.0.0, prefix_len: 24",
        "address_prefix: 0.0.0.0, prefix_len: 0",
    ),
    (
        "address: synapse,",
        "address: synapse.matrix.svc.cluster.local,",
    ),
    ("address: mas,", "address: mas.matrix.svc.cluster.local,"),
];

/// The name of a pod in the cluster.
fn pod(number: usize) -> String {
    format!("matrix-edge-auth-{number}.matrix-edge-auth-members.matrix.svc.cluster.local")
}

#[test]
fn the_pods_run_what_is_tested_as_a_fleet() {
    let mut expected = read("envoy/fleet/envoy.yaml");
    for (here, there) in REPLACED {
        assert!(expected.contains(here), "{here}");
        expected = expected.replace(here, there);
    }
    for member in 1..=3 {
        let name = format!("address: edge-{member},");
        assert_eq!(
            expected.matches(&name).count(),
            2,
            "as the tier and for ends"
        );
        expected = expected.replace(&name, &format!("address: {},", pod(member - 1)));
    }
    let resources = kustomize(&folder(OVERLAY));
    let [map] = of_kind(&resources, "ConfigMap")[..] else {
        panic!("one configuration");
    };
    let gateway = "role: gateway\n";
    let (_, after) = expected.split_once(gateway).expect("a gateway");
    assert_eq!(after.matches("mode: shadow").count(), 1);
    assert!(!expected.contains("mode: enforce"));
    let is_same = yaml(text(&map["data"]["envoy.yaml"])) == yaml(&expected);
    assert!(
        is_same,
        "it differs from envoy/fleet/envoy.yaml in more than addresses"
    );
    // And read it.
    let volumes = &the(&resources, "StatefulSet")["spec"]["template"]["spec"]["volumes"];
    let name = &map["metadata"]["name"];
    assert!(
        elements(volumes)
            .iter()
            .any(|volume| volume["configMap"]["name"] == *name)
    );
}

#[test]
fn each_pod_has_the_name_that_the_configuration_mirrors_to() {
    let resources = kustomize(&folder(OVERLAY));
    let set = the(&resources, "StatefulSet");
    let [name, namespace] = ["name", "namespace"].map(|key| text(&set["metadata"][key]));
    let service = text(&set["spec"]["serviceName"]);
    let replicas = set["spec"]["replicas"].as_u64().expect("a number");
    let names: Vec<String> = (0..replicas)
        .map(|pod| format!("{name}-{pod}.{service}.{namespace}.svc.cluster.local"))
        .collect();
    assert_eq!(names, [0, 1, 2].map(pod));

    let headless = named(&resources, "Service", service);
    assert_eq!(headless["metadata"]["namespace"], namespace);
    assert_eq!(headless["spec"]["clusterIP"], "None");
    assert_eq!(headless["spec"]["publishNotReadyAddresses"], true);
    let labels = &set["spec"]["template"]["metadata"]["labels"];
    assert_eq!(headless["spec"]["selector"], *labels);

    // The number of members is fixed, and nothing is left that would run others.
    for kind in ["Deployment", "HorizontalPodAutoscaler"] {
        assert!(of_kind(&resources, kind).is_empty(), "{kind}");
    }
}

/// `kubectl apply` leaves the pods of the overlay that was there before: they keep answers of which no member tells them the end.
#[test]
fn no_pod_of_another_overlay_is_led_to_and_none_leads_to_a_member() {
    let fleet = kustomize(&folder(OVERLAY));
    let selected = |resources: &[Value]| -> Vec<Value> {
        let services = of_kind(resources, "Service").into_iter();
        let budgets = of_kind(resources, "PodDisruptionBudget").into_iter();
        let policies = of_kind(resources, "NetworkPolicy").into_iter();
        services
            .map(|service| service["spec"]["selector"].clone())
            .chain(budgets.map(|budget| budget["spec"]["selector"]["matchLabels"].clone()))
            .chain(policies.map(|policy| policy["spec"]["podSelector"]["matchLabels"].clone()))
            .collect()
    };
    let set = the(&fleet, "StatefulSet");
    let members = &set["spec"]["template"]["metadata"]["labels"];
    assert_eq!(set["spec"]["selector"]["matchLabels"], *members);
    let spread = &set["spec"]["template"]["spec"]["topologySpreadConstraints"][0];
    assert_eq!(spread["labelSelector"]["matchLabels"], *members);
    let of_fleet = selected(&fleet);
    assert_eq!(of_fleet.len(), 4 + 1 + 5);
    assert!(of_fleet.iter().all(|selector| selector == members));
    for overlay in OVERLAYS {
        let other = kustomize(&folder(overlay));
        let pods = &the(&other, "Deployment")["spec"]["template"]["metadata"]["labels"];
        let of_other = selected(&other);
        assert_eq!(of_other.len(), 3 + 1 + 4);
        assert!(of_other.iter().all(|selector| selector == pods));
        // Each label of one is missing in the other, or different there.
        let labels = members.as_object().expect("labels");
        assert!(labels.iter().any(|(name, value)| pods[name] != *value));
        let labels = pods.as_object().expect("labels");
        assert!(labels.iter().any(|(name, value)| members[name] != *value));
    }
}

#[test]
fn every_port_is_a_listener_and_only_members_reach_those_for_members() {
    let resources = kustomize(&folder(OVERLAY));
    let config = document("envoy/kubernetes/overlays/fleet/envoy.yaml");
    let container = &the(&resources, "StatefulSet")["spec"]["template"]["spec"]["containers"][0];
    let mut open = Vec::new();
    for listener in elements(&config["static_resources"]["listeners"]) {
        let address = &listener["address"]["socket_address"];
        if address["address"] == "0.0.0.0" {
            let name = match text(&listener["name"]) {
                "gateway" => "enforce",
                name => name,
            };
            open.push(json!({"name": name, "containerPort": address["port_value"]}));
        } else {
            assert_eq!(address["address"], "127.0.0.1");
        }
    }
    assert_eq!(container["ports"], Value::from(open.clone()));
    let is_open = |port: &Value| open.iter().any(|open| open["name"] == *port);
    for service in of_kind(&resources, "Service") {
        for port in elements(&service["spec"]["ports"]) {
            assert!(is_open(&port["targetPort"]), "{port}");
        }
    }
    let own = json!({"app.kubernetes.io/name": "matrix-edge-auth-fleet"});
    let mut callers = Vec::new();
    for policy in of_kind(&resources, "NetworkPolicy") {
        assert_eq!(policy["spec"]["podSelector"]["matchLabels"], own);
        assert_eq!(policy["metadata"]["namespace"], "matrix");
        for rule in elements(&policy["spec"]["ingress"]) {
            for port in elements(&rule["ports"]) {
                assert!(is_open(&port["port"]), "{port}");
                callers.push((text(&port["port"]).to_owned(), rule["from"].clone()));
            }
        }
    }
    let members = json!([{"podSelector": {"matchLabels": own}}]);
    for port in ["tier", "ends"] {
        let from: Vec<&Value> = callers
            .iter()
            .filter(|(of, _)| of == port)
            .map(|(_, from)| from)
            .collect();
        assert_eq!(from, [&members], "{port}");
    }
}
