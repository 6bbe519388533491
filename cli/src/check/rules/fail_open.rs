//! A VM that has failed lets every request pass, and so does an Envoy that may start without the filter.

use super::{Deployment, Found, Rule, Severity, Spot};
use crate::{
    check::deployment::{FAILURE_POLICIES, Host, Use, plugin_of_filter},
    yaml::Value,
};

/// The rule.
pub const RULE: Rule = Rule {
    name: "fail-open",
    severity: Severity::Error,
    may_point_at_secret: false,
    about: "When the VM fails, every request passes unverified and with forged identity headers.",
    check,
};

const MESSAGE: &str = "once the VM has failed, every request passes: unverified, and with the identity headers that its client \
                       wrote";

fn check<'t>(deployment: &Deployment<'t>, found: &mut Found<'t>) {
    for one in &deployment.uses {
        let Some(plugin) = one.plugin else {
            continue;
        };
        if let Some(filter) = optional(one, plugin) {
            found.add(
                Spot::key(filter, "is_optional"),
                "an Envoy that does not know the filter starts without it, and every request passes: unverified, and with the \
                 identity headers that its client wrote",
                "take out `is_optional: true`",
            );
        }
        let (key, is_open, help) = match one.host {
            Host::WasmPlugin => (
                "failStrategy",
                plugin.text_at(&["failStrategy"]) == Some("FAIL_OPEN"),
                "write `failStrategy: FAIL_RELOAD`",
            ),
            Host::EnvoyGateway => (
                "failOpen",
                plugin.boolean_at(&["failOpen"]) == Some(true),
                "write `failOpen: false`",
            ),
            Host::Envoy | Host::EnvoyFilter | Host::Nobody => {
                let by_policy =
                    plugin.name_at(&["failure_policy"], FAILURE_POLICIES) == Some("FAIL_OPEN");
                let by_flag = plugin.boolean_at(&["fail_open"]) == Some(true);
                (
                    if by_policy {
                        "failure_policy"
                    } else {
                        "fail_open"
                    },
                    by_policy || by_flag,
                    "write `failure_policy: FAIL_RELOAD`, and no `fail_open`",
                )
            }
        };
        if is_open {
            found.add(Spot::key(plugin, key), MESSAGE, help);
        }
    }
}

/// The filter of a plugin, if Envoy may leave it out.
fn optional<'t>(one: &Use<'t>, plugin: Value<'t>) -> Option<Value<'t>> {
    let mut filters = one.entry?.manager.list(&["http_filters"]);
    filters.find(|filter| {
        let is_own = plugin_of_filter(*filter).is_some_and(|it| it.key() == plugin.key());
        is_own && filter.boolean_at(&["is_optional"]) == Some(true)
    })
}
