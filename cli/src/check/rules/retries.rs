//! MAS closes kept-alive connections that were idle, and a call that goes out just then fails. One repetition heals that:
//! the module's own, or that of a retry policy of the cluster.
//!
//! A client's request to MAS may be repeated only if it did not arrive. MAS carries a logout out once, and answers the second one
//! with 401.

use super::{Deployment, Found, Rule, Severity, Spot, routes::ends};
use crate::{check::deployment::protocols, yaml::Value};

/// The rule.
pub const RULE: Rule = Rule {
    name: "retries",
    severity: Severity::Warning,
    about: "A call that meets a connection which MAS is closing is not repeated, or a logout that reached MAS is.",
    check,
};

/// Conditions under which Envoy repeats also what has arrived.
const ALSO_ARRIVED: [&str; 3] = ["5xx", "gateway-error", "reset"];

fn check<'t>(deployment: &Deployment<'t>, found: &mut Found<'t>) {
    check_calls(deployment, found);
    for one in deployment.gateways() {
        for (host, route) in ends(one) {
            let own = route.at(&["route", "retry_policy"]);
            if let Some(policy) = own.or(host.get("retry_policy")) {
                check_logout(policy, found);
            }
        }
    }
}

/// Tells of a policy that repeats a logout which MAS may have carried out.
fn check_logout<'t>(policy: Value<'t>, found: &mut Found<'t>) {
    let key = "retry_on";
    let conditions = policy.text_at(&[key]).unwrap_or_default();
    let is_off = policy.number_at(&["num_retries"]) == Some(0);
    let mut conditions = conditions.split(',').map(str::trim);
    if let Some(condition) = conditions.find(|it| !is_off && ALSO_ARRIVED.contains(it)) {
        found.add(
            Spot::key(policy, key),
            format!(
                "with `{condition}` a logout may be sent to MAS twice, and MAS answers the second one with 401: the user's other \
                 sessions then end here only as MAS tells of them, or with `cache.ttl`"
            ),
            "repeat only what did not arrive: write `retry_on: connect-failure,refused-stream`",
        );
    }
}

/// Whether a cluster has a retry policy of its own, which holds for each of its requests.
pub(super) fn repeats(cluster: Value<'_>) -> bool {
    protocols(cluster).any(|options| options.get("retry_policy").is_some())
}

/// Tells of each use whose calls are not repeated.
fn check_calls<'t>(deployment: &Deployment<'t>, found: &mut Found<'t>) {
    for one in &deployment.uses {
        let Some(asked) = one.config().map(|config| &config.introspection) else {
            continue;
        };
        let cluster = deployment.cluster(one, &asked.cluster);
        if asked.retries == 0 && !cluster.is_some_and(repeats) {
            found.add(
                one.key(&["introspection", "retries"]),
                "a call that goes out as MAS closes the connection fails, and its request gets 503",
                "leave `retries` out: the default is 1",
            );
        }
    }
}
