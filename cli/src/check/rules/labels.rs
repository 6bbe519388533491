//! A Wasm module can only name a metric, so `stats_tags` of the bootstrap make labels of the names. Without labels no alert
//! and no panel finds anything, and nothing else fails. A `stats_matcher` may leave out all of the metrics, or some.
//!
//! The non-obvious rule: the rule looks only at a bootstrap by which metrics leave, that is, one with an admin interface or
//! a sink. Istio's and Envoy Gateway's bootstraps are not in files.

use std::sync::LazyLock;

use matrix_edge_auth::metrics::Metric;

use super::{Deployment, Found, Rule, Severity, Spot, string_matcher::StringMatcher};
use crate::yaml::{Tree, Value};

/// The rule.
pub const RULE: Rule = Rule {
    name: "labels",
    severity: Severity::Warning,
    may_point_at_secret: false,
    about: "The bootstrap makes no labels of the metrics' names, or leaves them out, so no alert finds them.",
    check,
};

/// The configuration that operators copy.
const SHIPPED: &str = include_str!("../../../../envoy/stats_tags.yaml");

/// The labels that the module's names have.
static LABELS: LazyLock<Vec<String>> = LazyLock::new(|| {
    let tree = Tree::read("envoy/stats_tags.yaml".to_owned(), SHIPPED.to_owned());
    let names = |tree: Tree| -> Vec<String> {
        let roots = tree
            .documents
            .iter()
            .map(|document| tree.value(document.root));
        roots
            .flat_map(tags)
            .filter_map(name)
            .map(str::to_owned)
            .collect()
    };
    tree.map(names).unwrap_or_default()
});

fn check<'t>(deployment: &Deployment<'t>, found: &mut Found<'t>) {
    let bootstraps = deployment.envoys.iter().filter_map(|envoy| envoy.bootstrap);
    for root in bootstraps.filter(|root| {
        ["admin", "stats_sinks"]
            .iter()
            .any(|key| root.get(key).is_some())
    }) {
        if let Some(matcher) = root.at(&["stats_config", "stats_matcher"])
            && let [first, others @ ..] = left_out(matcher).as_slice()
        {
            let more = match others.len() {
                0 => String::new(),
                count => format!(" and {count} more of the module's {}", NAMES.len()),
            };
            found.add(
                Spot::first_key(matcher, &["reject_all", "exclusion_list", "inclusion_list"]),
                format!(
                    "this leaves out `{first}`{more}: no alert and no panel finds what is left out"
                ),
                "let all names pass that begin with `wasmcustom.`",
            );
        }
        let made: Vec<Value<'_>> = tags(root).collect();
        let is_missing = |label: &&String| !made.iter().any(|tag| makes(*tag, label));
        let missing: Vec<&str> = LABELS
            .iter()
            .filter(is_missing)
            .map(String::as_str)
            .collect();
        if !missing.is_empty() {
            found.add(
                Spot::first_key(root, &["stats_config", "admin", "stats_sinks"]),
                format!(
                    "no alert and no panel finds what has these labels: {}",
                    missing.join(", ")
                ),
                "copy `stats_config` of envoy/stats_tags.yaml, of the module's version",
            );
        }
    }
}

/// The names of the module's metrics, as Envoy compares them: before labels are made of them.
static NAMES: LazyLock<Vec<String>> = LazyLock::new(|| {
    let name = |metric: Metric| format!("wasmcustom.{}", metric.name());
    Metric::all().into_iter().map(name).collect()
});

/// The names of the module's metrics that a `stats_matcher` leaves out.
fn left_out(matcher: Value<'_>) -> Vec<&'static str> {
    let rejects_all = matcher.boolean_at(&["reject_all"]) == Some(true);
    let excluded = matched(matcher.get("exclusion_list"), |them| {
        them.contains(&Some(true))
    });
    let included = matched(matcher.get("inclusion_list"), |them| {
        // An extension may match.
        them.iter().any(|it| *it != Some(false))
    });
    NAMES
        .iter()
        .enumerate()
        .filter(|(number, _)| {
            let of = |list: &Option<Vec<bool>>| list.as_ref()?.get(*number).copied();
            rejects_all || of(&excluded) == Some(true) || of(&included) == Some(false)
        })
        .map(|(_, name)| name.as_str())
        .collect()
}

/// Whether the patterns of a list, if there is a list, say something (`holds`) of each name in `NAMES`.
fn matched(list: Option<Value<'_>>, holds: impl Fn(&[Option<bool>]) -> bool) -> Option<Vec<bool>> {
    let patterns: Vec<_> = list?.list(&["patterns"]).map(StringMatcher::of).collect();
    let is_it = |name: &String| {
        let them: Vec<_> = patterns.iter().map(|it| it.matches(name)).collect();
        holds(&them)
    };
    Some(NAMES.iter().map(is_it).collect())
}

fn tags(root: Value<'_>) -> impl Iterator<Item = Value<'_>> {
    root.list(&["stats_config", "stats_tags"])
}

fn name(tag: Value<'_>) -> Option<&str> {
    tag.text_at(&["tag_name"])
}

/// Whether an entry makes this label of the module's names.
fn makes(tag: Value<'_>, label: &str) -> bool {
    let takes = |regex: &str| regex.contains(&format!(r"\.{label}="));
    name(tag) == Some(label) && tag.text_at(&["regex"]).is_some_and(takes)
}
