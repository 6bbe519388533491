//! The module refuses its configuration. The finding has the module's own words, at the key that they name.

use super::{Deployment, Found, Rule, Severity, Spot};
use crate::{check::deployment::managers, yaml::Value};

/// The rule.
pub const RULE: Rule = Rule {
    name: "configuration",
    severity: Severity::Error,
    may_point_at_secret: true,
    about: "The module refuses its configuration, and Envoy does not start or keeps the old one.",
    check,
};

fn check<'t>(deployment: &Deployment<'t>, found: &mut Found<'t>) {
    for one in &deployment.uses {
        if let Err(refusal) = &one.config {
            found.add(
                Spot {
                    tree: refusal.spot.tree,
                    place: refusal.spot.place.clone(),
                },
                refusal.message.clone(),
                "these are the module's own words, and Envoy would log them; docs/configuration.md has every key",
            );
        }
    }
    check_unclear(deployment, found);
    // A plugin that comes from elsewhere may be this module.
    for (tree, document) in &deployment.documents {
        let filters = managers(tree.value(document.root))
            .flat_map(|manager| manager.list(&["http_filters"]))
            .filter_map(|filter| filter.get("config_discovery"));
        for discovery in filters.filter(|it| is_of_plugin(*it)) {
            found.note(
                Spot::first_key(discovery, &["config_source", "type_urls"]),
                "this plugin comes from elsewhere (ECDS): if it is the module, neither it nor its listener is looked at",
                "write it into the listener (`typed_config`) for `check`: a file of filters is looked at alone",
            );
        }
    }
}

/// Notes texts of ConfigMaps and Secrets that may be Envoy's configuration, and are no YAML.
fn check_unclear<'t>(deployment: &Deployment<'t>, found: &mut Found<'t>) {
    for (tree, _) in &deployment.documents {
        for text in tree.unclear() {
            let spot = Spot {
                tree,
                place: text.place.clone(),
            };
            found.note(
                spot,
                format!(
                    "this text has words of Envoy's configuration, and is not looked at: {}",
                    text.message
                ),
                "if it is a script or a manual, all is well; if Envoy reads it, mend it, or give `check` what comes out of it",
            );
        }
    }
}

fn is_of_plugin(discovery: Value<'_>) -> bool {
    let mut types = discovery.list(&["type_urls"]).filter_map(Value::text);
    types.any(|name| name.ends_with(".wasm.v3.Wasm"))
}
