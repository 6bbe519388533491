//! The module refuses its configuration: its own words, at the key that they name.

use super::{Deployment, Found, Rule, Severity, Spot};

/// The rule.
pub const RULE: Rule = Rule {
    name: "configuration",
    severity: Severity::Error,
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
}
