//! Without the provisioning role the edge hears of a session's end only from a logout or a revocation that passes it. A
//! session that an administrator ends, or MAS itself, is served until `cache.ttl`, which should therefore stay short.
//!
//! Whether the provisioning role is absent is known only in a whole bootstrap whose listeners do not come from elsewhere.

use std::time::Duration;

use matrix_edge_auth::config::Role;

use super::{Deployment, Found, Rule, Severity, Spot};
use crate::check::deployment::{Host, Use};

/// The rule.
pub const RULE: Rule = Rule {
    name: "long-ttl",
    severity: Severity::Warning,
    about: "`cache.ttl` is long, and no provisioning role hears of sessions that end.",
    check,
};

/// The default of `cache.ttl`, and what Synapse's own cache has.
const USUAL: Duration = Duration::from_secs(120);

fn check<'t>(deployment: &Deployment<'t>, found: &mut Found<'t>) {
    for one in &deployment.uses {
        let ttl = one.config().map_or(USUAL, |config| config.cache.ttl);
        let hears = |other: &Use<'_>| other.is(Role::Provisioning);
        let is_told = deployment.peers(one).any(hears);
        if ttl <= USUAL || is_told {
            continue;
        }
        let seconds = ttl.as_secs();
        let envoy = deployment.envoys.get(one.envoy);
        let bootstrap = envoy.and_then(|envoy| envoy.bootstrap);
        let dynamic = bootstrap.and_then(|root| root.get("dynamic_resources"));
        let dynamic = dynamic.filter(|_| envoy.is_some_and(|envoy| !envoy.has_listeners));
        let key = "lds_config";
        if let Some(dynamic) = dynamic {
            found.note(
                Spot::key(dynamic, key),
                format!(
                    "more listeners come from elsewhere: whether one of them hears of a session that MAS ends is not in these \
                     files, and an answer serves for up to {seconds} s"
                ),
                "give `check` the file that they come from as well, or one that has all listeners",
            );
        } else if one.host != Host::Nobody && (one.host != Host::Envoy || bootstrap.is_some()) {
            found.add(
                one.key(&["cache", "ttl"]),
                format!("nothing here hears of a session that MAS ends, and its answer serves for up to {seconds} s"),
                "write `ttl: 120s`, or add a listener with `role: provisioning` that MAS's `matrix.endpoint` leads to",
            );
        }
    }
}
