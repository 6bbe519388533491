//! A secret that stands in the configuration is shown by `/config_dump` of the admin interface, and by whatever keeps the
//! file.

use super::{Deployment, Found, Rule, Severity};

/// The rule.
pub const RULE: Rule = Rule {
    name: "visible-secret",
    severity: Severity::Warning,
    about: "The secret for MAS stands in the configuration itself.",
    check,
};

fn check<'t>(deployment: &Deployment<'t>, found: &mut Found<'t>) {
    for one in &deployment.uses {
        if one.config().is_some_and(|config| config.has_visible_secret) {
            found.add(
                one.key(&["introspection", "credential"]),
                "the secret for MAS stands here, and `/config_dump` of Envoy's admin interface shows it",
                "write `credential: { bearer: { env: MAS_SECRET } }`, or let Envoy add it: `{ injected: true }`",
            );
        }
    }
}
