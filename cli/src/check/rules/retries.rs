//! MAS closes kept-alive connections that were idle, and a call that goes out just then fails. One repetition heals that:
//! the module's own, or that of a retry policy of the cluster.

use super::{Deployment, Found, Rule, Severity};
use crate::check::deployment::protocols;

/// The rule.
pub const RULE: Rule = Rule {
    name: "retries",
    severity: Severity::Warning,
    about: "A call that meets a connection which MAS is closing is not repeated.",
    check,
};

fn check<'t>(deployment: &Deployment<'t>, found: &mut Found<'t>) {
    for one in &deployment.uses {
        let Some(asked) = one.config().map(|config| &config.introspection) else {
            continue;
        };
        let repeats =
            |cluster| protocols(cluster).any(|options| options.get("retry_policy").is_some());
        if asked.retries == 0 && !deployment.cluster(one, &asked.cluster).is_some_and(repeats) {
            found.add(
                one.key(&["introspection", "retries"]),
                "a call that goes out as MAS closes the connection fails, and its request gets 503",
                "leave `retries` out: the default is 1",
            );
        }
    }
}
