//! A request that waited in a Wasm VM which has failed is never resumed. Only the idle timeout ends such a request.

use super::{
    Deployment, Found, Rule, Severity, Spot,
    routes::{before_servers, hosts, is_disabled},
};
use crate::{
    check::{deployment::Host, duration::duration},
    yaml::Value,
};

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
                // Any request may wait for the answer about its token, whatever it asks for.
                let hosts = hosts(entry, one.config());
                let routes = hosts.into_iter().flat_map(|host| host.list(&["routes"]));
                for route in routes.filter(|route| !is_disabled(entry, *route)) {
                    if let Some(action) =
                        route.get("route").filter(|it| is_zero(*it, "idle_timeout"))
                    {
                        let help = "write `idle_timeout: 120s`, or leave it out";
                        found.add(Spot::key(action, "idle_timeout"), MESSAGE, help);
                    }
                }
            }
            (Host::WasmPlugin | Host::EnvoyFilter, _) => {
                let mut managers = deployment.merged_managers(one);
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
                let path = ["spec", "timeout", "http"];
                let key = "streamIdleTimeout";
                let policies = deployment.resources.kind("ClientTrafficPolicy");
                let timeouts = policies.filter_map(|policy| policy.at(&path));
                let zeros: Vec<_> = timeouts.filter(|it| is_zero(*it, key)).collect();
                let is_set = |policy: Value<'t>| {
                    let timeouts = policy.at(&path);
                    timeouts.is_some_and(|it| it.get(key).is_some() && !is_zero(it, key))
                };
                if deployment.has_policy(one, is_set) {
                    continue;
                }
                for timeouts in &zeros {
                    let help = format!("write `{key}: 120s`: longer than clients let /sync wait");
                    found.add(Spot::key(*timeouts, key), MESSAGE, help);
                }
                if zeros.is_empty() {
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
