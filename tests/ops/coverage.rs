//! Every metric of the module is drawn or watched, or it is listed here with the reason why not.

use std::collections::BTreeSet;

use matrix_edge_auth::metrics::{Kind, Metric};

use super::{dashboard::panels, rules::rules};
use crate::support::series;

/// Metrics that no panel and no rule uses, and why.
const UNUSED: [(&str, &str); 0] = [];

/// The names of all metrics of the module, as Prometheus has them.
fn metrics() -> BTreeSet<String> {
    let name = |metric: Metric| {
        let full = metric.name();
        let name = full.split('.').next().unwrap_or_default();
        let end = if metric.kind() == Kind::Histogram {
            "_bucket"
        } else {
            ""
        };
        format!("{name}{end}")
    };
    series::metrics().into_iter().map(name).collect()
}

#[test]
fn every_metric_is_used_or_listed() {
    let panels = panels();
    let targets = panels.iter().flat_map(|panel| &panel.targets);
    let mut expressions: Vec<String> = targets.map(|target| target.expression.clone()).collect();
    expressions.extend(rules().into_iter().map(|rule| rule.expression));
    let all = expressions.join("\n");
    let metrics = metrics();
    assert!(metrics.len() > 15, "{metrics:?}");
    for name in &metrics {
        let is_used = all.contains(&format!("{name}{{")) || all.contains(&format!("{name}["));
        let is_listed = UNUSED.iter().any(|(unused, _)| unused == name);
        assert!(
            is_used != is_listed,
            "{name}: used {is_used}, listed {is_listed}"
        );
    }
    // And none is asked for that does not exist.
    for part in all.split("matrix_edge_auth_").skip(1) {
        let name: String = part
            .chars()
            .take_while(|c| c.is_ascii_lowercase() || *c == '_')
            .collect();
        // The sum of a histogram's samples comes with its buckets.
        let name_of_buckets = name
            .strip_suffix("_sum")
            .map(|name| format!("{name}_bucket"));
        let full = format!(
            "matrix_edge_auth_{}",
            name_of_buckets.unwrap_or_else(|| name.clone())
        );
        let is_pattern = part[name.len()..].starts_with(['.', '+']);
        assert!(is_pattern || metrics.contains(&full), "{full}");
    }
}
