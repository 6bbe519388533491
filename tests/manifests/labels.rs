//! `envoy/istio/prometheus.yaml` makes of a metric's flat name what `envoy/stats_tags.yaml` makes of it: for every series that
//! the module has.

use std::{cell::RefCell, collections::BTreeSet};

use matrix_edge_auth::{
    config,
    host::Metrics,
    metrics::{Kind, Metric},
    role::series,
};
use serde_json::{Value, json};

use super::tools::python;
use crate::support::mesh::manifests;

/// Collects series by what the module calls them, a histogram's by those that Envoy makes of it.
#[derive(Default)]
struct Names(RefCell<BTreeSet<String>>);

impl Metrics for Names {
    fn define(&self, metric: Metric) {
        let ends: &[&str] = match metric.kind() {
            Kind::Counter => &[""],
            Kind::Histogram => &["_bucket", "_count", "_sum"],
        };
        let names = ends.iter().map(|end| metric.name() + end);
        self.0.borrow_mut().extend(names);
    }

    fn record(&self, _metric: Metric, _value: u64) {}
}

/// The names of all series, such as `matrix_edge_auth_requests_total.verdict=active.source=local`.
fn names() -> BTreeSet<String> {
    let names = Names::default();
    for role in ["gateway", "introspection", "provisioning"] {
        let json = format!(
            r#"{{"role":"{role}","mode":"shadow","server_name":"example.org","introspection":{{"cluster":"mas","credential":{{"injected":true}}}}}}"#
        );
        let config = config::parse(json.as_bytes(), &|_| None).expect("a configuration");
        series::define(&names, &config);
    }
    names.0.into_inner()
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
