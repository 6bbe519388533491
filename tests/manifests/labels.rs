//! `envoy/istio/prometheus.yaml` makes of a metric's flat name what `envoy/stats_tags.yaml` makes of it.

use serde_json::{Value, json};

use super::tools::python;
use crate::support::mesh::manifests;

/// A metric for every list of labels that the README names.
const METRICS: [(&str, &[(&str, &str)]); 10] = [
    (
        "requests_total",
        &[("verdict", "no_verdict"), ("source", "shared")],
    ),
    (
        "introspection_answers_total",
        &[("verdict", "not_asked"), ("source", "mas")],
    ),
    (
        "cache_lookups_total",
        &[("table", "negative"), ("result", "hit")],
    ),
    (
        "cache_evictions_total",
        &[("table", "local"), ("reason", "capacity")],
    ),
    ("invalidations_total", &[("reason", "delete_user")]),
    ("introspections_total", &[("outcome", "undeliverable")]),
    ("would_reject_total", &[("reason", "no_api_scope")]),
    (
        "would_reject_answers_total",
        &[("answer", "2xx"), ("reason", "no_api_scope")],
    ),
    ("provisioning_requests_total", &[("secret", "matching")]),
    ("coalesced_requests_total", &[]),
];

#[test]
fn relabelling_finds_the_labels() {
    let configuration = manifests::document("envoy/istio/prometheus.yaml").to_string();
    let (flat, labelled): (Vec<String>, Vec<Value>) = METRICS
        .iter()
        .map(|(name, labels)| {
            let name = format!("matrix_edge_auth_{name}");
            let mut flat = name.clone();
            let mut labelled = json!({"__name__": name});
            for (label, value) in *labels {
                flat = format!("{flat}_{label}_{value}");
                labelled[label] = json!(value);
            }
            (flat, labelled)
        })
        .unzip();
    let mut arguments = vec![configuration.as_str()];
    arguments.extend(flat.iter().map(String::as_str));
    let found: Vec<Value> = python("relabel.py", &arguments, "")
        .lines()
        .map(|line| serde_json::from_str(line).expect("a line of JSON"))
        .collect();
    assert_eq!(found, labelled);
}
