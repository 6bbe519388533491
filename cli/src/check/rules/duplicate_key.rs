//! Envoy silently keeps the last of two equal keys. Two equal keys are an accident of a template, and can turn enforcement
//! off.

use super::{Deployment, Found, Rule, Severity, Spot};

/// The rule.
pub const RULE: Rule = Rule {
    name: "duplicate-key",
    severity: Severity::Error,
    may_point_at_secret: true,
    about: "A key stands twice in one mapping, and only the last counts.",
    check,
};

fn check<'t>(deployment: &Deployment<'t>, found: &mut Found<'t>) {
    for (tree, document) in &deployment.documents {
        for place in &document.repeated {
            let spot = Spot {
                tree,
                place: place.clone(),
            };
            found.add(
                spot,
                "this key is given twice in one mapping: Envoy keeps the last and tells nobody",
                "remove one of the two",
            );
        }
    }
}
