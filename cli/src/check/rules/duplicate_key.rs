//! Envoy silently keeps the last of two equal keys. Two equal keys are an accident of a template, and can turn enforcement
//! off. Other programs refuse such a file, or take one of the two.

use std::collections::HashSet;

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
    let of_envoy: HashSet<_> = deployment
        .documents_of_envoy()
        .map(|(tree, document)| tree.value(document.root).key())
        .collect();
    for (tree, document) in &deployment.documents {
        let is_envoys = of_envoy.contains(&tree.value(document.root).key());
        let message = if is_envoys {
            "this key is given twice in one mapping: Envoy keeps the last and tells nobody"
        } else {
            "this key is given twice in one mapping: what reads the file takes one of the two, or refuses it"
        };
        for place in &document.repeated {
            let spot = Spot {
                tree,
                place: place.clone(),
            };
            found.add(spot, message, "remove one of the two");
        }
    }
}
