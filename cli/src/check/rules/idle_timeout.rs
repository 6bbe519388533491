//! Requests that waited in a Wasm VM which has failed are never resumed. What ends them is the idle timeout.

use super::{
    Deployment, Found, Rule, Severity, Spot,
    routes::{WAITING, before_servers, duration, routes_of},
};
use crate::{check::deployment::Host, yaml::Value};

/// The rule.
pub const RULE: Rule = Rule {
    name: "idle-timeout",
    severity: Severity::Warning,
    about: "Nothing ends a request that waited in a VM which has failed.",
    check,
};

const MESSAGE: &str = "no idle timeout: a request that waited in a VM which has failed is never answered, and neither ends";
const KEY: &str = "stream_idle_timeout";

fn check<'t>(deployment: &Deployment<'t>, found: &mut Found<'t>) {
    for one in before_servers(deployment) {
        match (one.host, one.entry) {
            (Host::Envoy, Some(entry)) => {
                if is_zero(entry.manager, KEY) {
                    let help = format!("write `{KEY}: 120s`: longer than clients let /sync wait");
                    found.add(Spot::key(entry.manager, KEY), MESSAGE, help);
                }
                for route in routes_of(one, &WAITING) {
                    if let Some(action) =
                        route.get("route").filter(|it| is_zero(*it, "idle_timeout"))
                    {
                        let help = "write `idle_timeout: 120s`, or leave it out";
                        found.add(Spot::key(action, "idle_timeout"), MESSAGE, help);
                    }
                }
            }
            (Host::WasmPlugin | Host::EnvoyFilter, _) => {
                let mut managers = deployment.managers(one);
                let is_set = |it: Value<'_>| it.get(KEY).is_some() && !is_zero(it, KEY);
                if !managers.any(is_set) {
                    found.add(
                        one.spot(),
                        format!("Istio's gateways have {MESSAGE}"),
                        "apply envoy/istio/connection.yaml as well; if you do, give it to `check` together with this file",
                    );
                }
            }
            (Host::EnvoyGateway, _) => {
                let path = ["spec", "timeout", "http", "streamIdleTimeout"];
                if !deployment.has_policy(one, |policy| policy.at(&path).is_some()) {
                    found.add(
                        one.spot(),
                        format!("`timeouts.request: 0s` of a route turns Envoy Gateway's idle timeout off, too: {MESSAGE}"),
                        "apply a ClientTrafficPolicy with `timeout: { http: { streamIdleTimeout: 120s } }`; if you do, give it \
                         to `check` together with this file",
                    );
                }
            }
            _ => {}
        }
    }
}

fn is_zero(value: Value<'_>, key: &str) -> bool {
    let limit = value.text_at(&[key]).and_then(duration);
    limit.is_some_and(|limit| limit.is_zero())
}
