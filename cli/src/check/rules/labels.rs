//! A Wasm module can only name a metric, so labels are made of names by `stats_tags` of the bootstrap. Without them no alert and
//! no panel finds anything, and nothing else fails. A `stats_matcher` may leave the metrics out altogether.
//!
//! The non-obvious rule: only a bootstrap by which metrics leave is looked at, that is, one with an admin interface or a sink.
//! Istio's and Envoy Gateway's bootstraps are not in files.

use std::sync::LazyLock;

use super::{Deployment, Found, Rule, Severity, Spot, routes::is_match_at_a_cost};
use crate::yaml::{Tree, Value};

/// The rule.
pub const RULE: Rule = Rule {
    name: "labels",
    severity: Severity::Warning,
    about: "The bootstrap makes no labels of the metrics' names, or leaves them out, so no alert finds them.",
    check,
};

/// What operators copy.
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
            && leaves_out(matcher)
        {
            found.add(
                Spot::first_key(matcher, &["reject_all", "exclusion_list", "inclusion_list"]),
                "this leaves out the module's metrics: no alert and no panel finds any",
                "let names pass that begin with `wasmcustom.`",
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

/// One of the module's names, as Envoy compares it: before labels are made of it.
const NAME: &str = "wasmcustom.matrix_edge_auth_requests_total.verdict=active.source=mas";

/// Whether a list of names that count leaves the module's out.
fn leaves_out(matcher: Value<'_>) -> bool {
    let has_it = |list: Value<'_>| list.list(&["patterns"]).any(is_match);
    matcher.boolean_at(&["reject_all"]) == Some(true)
        || matcher.get("exclusion_list").is_some_and(has_it)
        || matcher
            .get("inclusion_list")
            .is_some_and(|list| !has_it(list))
}

/// Whether a pattern of Envoy's is for the name.
fn is_match(pattern: Value<'_>) -> bool {
    let ignores_case = pattern.boolean_at(&["ignore_case"]) == Some(true);
    let of = |key| {
        let text = pattern.text_at(&[key]);
        text.map(|text| match ignores_case {
            true => text.to_ascii_lowercase(),
            false => text.to_owned(),
        })
    };
    let regex = pattern.text_at(&["safe_regex", "regex"]);
    of("exact").is_some_and(|text| text == NAME)
        || of("prefix").is_some_and(|text| NAME.starts_with(&text))
        || of("suffix").is_some_and(|text| NAME.ends_with(&text))
        || of("contains").is_some_and(|text| NAME.contains(&text))
        || regex.is_some_and(|regex| is_match_at_a_cost(pattern, regex, NAME))
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
