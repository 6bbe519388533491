//! `envoy/istio/prometheus.yaml` makes of a metric's flat name what `envoy/stats_tags.yaml` makes of it: for every series that
//! the module has.

use std::collections::BTreeSet;

use matrix_edge_auth::metrics::{Kind, Metric};
use serde_json::{Value, json};

use super::tools::python;
use crate::support::{mesh::manifests, series};

/// The names of all series, such as `matrix_edge_auth_requests_total.verdict=active.source=local`: a histogram's are those that
/// Envoy makes of it.
fn names() -> BTreeSet<String> {
    let names = |metric: Metric| {
        let ends: &[&str] = match metric.kind() {
            Kind::Counter => &[""],
            Kind::Histogram => &["_bucket", "_count", "_sum"],
        };
        ends.iter().map(move |end| metric.name() + end)
    };
    series::metrics().into_iter().flat_map(names).collect()
}

/// What Prometheus should make of such a name.
fn labelled(name: &str) -> Value {
    let mut parts = name.split('.');
    let mut labels = json!({"__name__": parts.next()});
    for part in parts {
        let (label, value) = part.split_once('=').expect("a label and its value");
        labels[label] = json!(value);
    }
    labels
}

#[test]
fn relabelling_finds_the_labels_of_every_series() {
    let configuration = manifests::document("envoy/istio/prometheus.yaml").to_string();
    let names = names();
    assert!(names.len() > 150, "{names:?}");
    // Envoy puts an underscore for whatever Prometheus allows in no name.
    let flat = names.iter().map(|name| name.replace(['.', '='], "_"));
    let arguments: Vec<String> = std::iter::once(configuration).chain(flat).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let found: Vec<Value> = python("relabel.py", &arguments, "")
        .lines()
        .map(|line| serde_json::from_str(line).expect("a line of JSON"))
        .collect();
    let expected: Vec<Value> = names.iter().map(|name| labelled(name)).collect();
    for (found, expected) in found.iter().zip(&expected) {
        assert_eq!(found, expected);
    }
    assert_eq!(found.len(), expected.len());
}
