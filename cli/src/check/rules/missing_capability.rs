//! A function that the list of `capability_restriction_config` lacks does nothing, and nothing says so: without
//! `proxy_http_call` MAS is never asked, and without `proxy_on_queue_ready` no worker hears which sessions end.

use std::sync::LazyLock;

use super::{Deployment, Found, Rule, Severity, Spot, capabilities::allowed};
use crate::yaml::{Tree, Value};

/// The rule.
pub const RULE: Rule = Rule {
    name: "missing-capability",
    severity: Severity::Error,
    may_point_at_secret: false,
    about: "The module may not call a function that it needs, or Envoy none of the module's.",
    check,
};

/// The configuration that operators copy. Its list has every function that the module imports or exports.
const SHIPPED: &str = include_str!("../../../../envoy/local/envoy.yaml");

/// The functions that the module needs.
static NEEDED: LazyLock<Vec<String>> = LazyLock::new(|| {
    let tree = Tree::read("envoy/local/envoy.yaml".to_owned(), SHIPPED.to_owned());
    let first = |tree: Tree| -> Vec<String> {
        let values = tree.documents.iter().flat_map(|it| it.values.clone());
        let lists = values.filter_map(|id| tree.value(id).get("allowed_capabilities"));
        let mut names = lists.map(|list| list.members().map(|(name, _)| name.to_owned()).collect());
        names.next().unwrap_or_default()
    };
    tree.map(first).unwrap_or_default()
});

fn check<'t>(deployment: &Deployment<'t>, found: &mut Found<'t>) {
    for one in deployment.uses.iter().filter(|one| one.is_envoys()) {
        for list in one.plugin.into_iter().flat_map(allowed) {
            let missing = missing(list);
            if !missing.is_empty() {
                found.add(
                    spot(list),
                    format!("the module needs these functions, and may not have them: {}", missing.join(", ")),
                    "copy `capability_restriction_config` from envoy/local/envoy.yaml of the module's version; before Envoy 1.40 \
                     it counts from the next start on, or with another `vm_config.configuration` in all plugins of this `vm_id`",
                );
            }
        }
    }
}

/// The functions that the module needs and a list lacks. An empty list allows everything, and is left to the rule
/// `capabilities`.
pub(super) fn missing(list: Value<'_>) -> Vec<&'static str> {
    if list.members().next().is_none() {
        return Vec::new();
    }
    let is_missing = |name: &&String| list.entry(name).is_none();
    let missing = NEEDED.iter().filter(is_missing);
    missing.map(String::as_str).collect()
}

fn spot(list: Value<'_>) -> Spot<'_> {
    let first = list.members().next().map(|(name, _)| name);
    Spot::key(list, first.unwrap_or_default())
}
