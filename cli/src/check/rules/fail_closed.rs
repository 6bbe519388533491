//! A VM that has failed stays failed. Envoy's default is FAIL_CLOSED: the Envoy worker answers 503 until Envoy is restarted or
//! its configuration changes. FAIL_RELOAD starts a new VM after about a second.
//!
//! An EnvoyExtensionPolicy cannot set a failure policy, so the rule passes it over.

use super::{Deployment, Found, Rule, Severity, Spot};
use crate::check::deployment::{FAILURE_POLICIES, Host};

/// The rule.
pub const RULE: Rule = Rule {
    name: "fail-closed",
    severity: Severity::Error,
    may_point_at_secret: false,
    about: "When the VM fails, its Envoy worker answers 503 until Envoy is restarted.",
    check,
};

fn check<'t>(deployment: &Deployment<'t>, found: &mut Found<'t>) {
    for one in &deployment.uses {
        let Some(plugin) = one.plugin else {
            continue;
        };
        let (key, value, closed, default) = match one.host {
            Host::WasmPlugin => (
                "failStrategy",
                plugin.text_at(&["failStrategy"]),
                "FAIL_CLOSE",
                "url",
            ),
            Host::Envoy | Host::EnvoyFilter => (
                "failure_policy",
                plugin.name_at(&["failure_policy"], FAILURE_POLICIES),
                "FAIL_CLOSED",
                "name",
            ),
            Host::EnvoyGateway | Host::Nobody => continue,
        };
        let is_open = plugin.boolean_at(&["fail_open"]) == Some(true);
        let message = match value {
            Some(value) if value == closed || value == "UNSPECIFIED" && !is_open => {
                format!(
                    "with {closed} an Envoy worker whose VM has failed once answers 503 until Envoy is restarted"
                )
            }
            None if !is_open => format!(
                "without `{key}` an Envoy worker whose VM has failed once answers 503 until Envoy is restarted: the default is \
                 {closed}"
            ),
            _ => continue,
        };
        let spot = Spot::first_key(plugin, &[key, default]);
        let help = format!("write `{key}: FAIL_RELOAD`: a new VM is started about a second later");
        found.add(spot, message, help);
    }
}
