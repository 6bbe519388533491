//! Least power: an operator can tell Envoy which functions a module may call, and Envoy lets the module call no other.
//!
//! Neither a WasmPlugin nor an EnvoyExtensionPolicy can have this list, so the rule passes them over.

use super::{Deployment, Found, Rule, Severity, Spot};
use crate::yaml::Value;

/// The rule.
pub const RULE: Rule = Rule {
    name: "capabilities",
    severity: Severity::Warning,
    may_point_at_secret: false,
    about: "The module may call every function that Envoy offers.",
    check,
};

pub(super) const KEY: &str = "capability_restriction_config";

fn check<'t>(deployment: &Deployment<'t>, found: &mut Found<'t>) {
    for one in deployment.uses.iter().filter(|one| one.is_envoys()) {
        let Some(plugin) = one.plugin else {
            continue;
        };
        let is_said = |list: Value<'_>| list.members().next().is_some();
        if !allowed(plugin).any(is_said) {
            found.add(
                Spot::first_key(plugin, &[KEY, "name", "vm_config"]),
                "the module may call every function that Envoy offers, and needs few",
                format!("copy `{KEY}` from envoy/local/envoy.yaml of the module's version"),
            );
        }
    }
}

/// The lists of the functions that a plugin may call.
pub(super) fn allowed<'t>(plugin: Value<'t>) -> impl Iterator<Item = Value<'t>> {
    let places = [Some(plugin), plugin.get("vm_config")];
    places
        .into_iter()
        .flatten()
        .filter_map(|place| place.at(&[KEY, "allowed_capabilities"]))
}
