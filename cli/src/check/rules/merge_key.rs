//! Envoy knows aliases, but not merge keys: `no such field: '<<'`. kubectl and Docker Compose know both, so the rule is only
//! for files that Envoy itself reads.

use super::{Deployment, Found, Rule, Severity, Spot};

/// The rule.
pub const RULE: Rule = Rule {
    name: "merge-key",
    severity: Severity::Error,
    may_point_at_secret: false,
    about: "Envoy refuses a file with YAML merge keys.",
    check,
};

fn check<'t>(deployment: &Deployment<'t>, found: &mut Found<'t>) {
    for (tree, document) in deployment.documents_of_envoy() {
        for place in &document.merges {
            let spot = Spot {
                tree,
                place: place.clone(),
            };
            found.add(
                spot,
                "Envoy does not know merge keys, and refuses the file for an unknown field `<<`",
                "write the keys out, or use an alias for the whole value",
            );
        }
    }
}
