//! Without the provisioning role the edge hears of a session's end only from a logout or a revocation that passes it. What an
//! administrator ends, or MAS itself, is served until `cache.ttl`: so that stays short.

use matrix_edge_auth::config::Role;

use super::{Deployment, Found, Rule, Severity};
use crate::check::deployment::{Host, Use};

/// The rule.
pub const RULE: Rule = Rule {
    name: "long-ttl",
    severity: Severity::Warning,
    about: "`cache.ttl` is long, and no provisioning role hears of sessions that end.",
    check,
};

/// The default of `cache.ttl`, in seconds, and what Synapse's own cache has.
const USUAL_SECONDS: u64 = 120;

fn check<'t>(deployment: &Deployment<'t>, found: &mut Found<'t>) {
    for one in &deployment.uses {
        let ttl = one.config().map_or(0, |config| config.cache.ttl.as_secs());
        let hears = |other: &Use<'_>| other.is(Role::Provisioning);
        let is_told = deployment.peers(one).any(hears);
        if ttl > USUAL_SECONDS && !is_told && is_whole(deployment, one) {
            found.add(
                one.key(&["cache", "ttl"]),
                format!("nothing here hears of a session that MAS ends, and its answer serves for up to {ttl} s"),
                "write `ttl: 120s`, or add a listener with `role: provisioning` that MAS's `matrix.endpoint` leads to",
            );
        }
    }
}

/// Whether a listener with the provisioning role would have been seen.
fn is_whole(deployment: &Deployment<'_>, one: &Use<'_>) -> bool {
    match one.host {
        Host::Nobody => false,
        Host::Envoy => deployment
            .envoys
            .get(one.envoy)
            .is_some_and(|envoy| envoy.bootstrap.is_some()),
        Host::EnvoyGateway | Host::EnvoyFilter | Host::WasmPlugin => true,
    }
}
