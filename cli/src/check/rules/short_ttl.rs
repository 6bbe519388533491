//! The age of an answer counts from its question. An answer that takes longer than `cache.ttl` is too old as it comes: it
//! serves the requests that wait for it, and others for half a second. So a slow MAS is asked most.

use matrix_edge_auth::config::Role;

use super::{Deployment, Found, Rule, Severity};

/// The rule.
pub const RULE: Rule = Rule {
    name: "short-ttl",
    severity: Severity::Warning,
    may_point_at_secret: false,
    about: "`cache.ttl` is shorter than MAS may take for an answer.",
    check,
};

fn check<'t>(deployment: &Deployment<'t>, found: &mut Found<'t>) {
    for one in &deployment.uses {
        let Some(config) = one.config().filter(|_| !one.is(Role::Provisioning)) else {
            continue;
        };
        let (ttl, timeout) = (config.cache.ttl, config.introspection.timeout);
        if ttl < timeout {
            let seconds = timeout.as_millis().div_ceil(1000);
            found.add(
                one.key(&["cache", "ttl"]),
                format!(
                    "while MAS takes longer than {} s for an answer, and it may take {} s, only who waits for an answer, or comes \
                     half a second after it, has any use of it: it is too old as it comes",
                    ttl.as_secs_f64(),
                    timeout.as_secs_f64(),
                ),
                format!("write `ttl: {seconds}s` or more, or a shorter `introspection.timeout`"),
            );
        }
    }
}
