//! A request that waited in a Wasm VM which has failed is never resumed. Only the idle timeout ends such a request.

use super::{
    Deployment, Found, Rule, Severity, Spot,
    hosts::hosts,
    route_lists::routes_of,
    routes::{before_servers, is_disabled},
};
use crate::{
    check::{
        deployment::{Entry, Host, Level, Route, Use},
        duration::duration,
    },
    yaml::Value,
};

/// The rule.
pub const RULE: Rule = Rule {
    name: "idle-timeout",
    severity: Severity::Warning,
    may_point_at_secret: false,
    about: "Nothing ends a request that waited in a VM which has failed.",
    check,
};

const MESSAGE: &str = "no idle timeout: a request that waited in a VM which has failed is never answered, and neither ends";
const KEY: &str = "stream_idle_timeout";

fn check<'t>(deployment: &Deployment<'t>, found: &mut Found<'t>) {
    for one in before_servers(deployment) {
        match (one.host, one.entry) {
            (Host::Envoy, Some(entry)) => check_envoy(deployment, one, entry, found),
            (Host::WasmPlugin | Host::EnvoyFilter, _) => check_istio(deployment, one, found),
            (Host::EnvoyGateway, _) => check_envoy_gateway(deployment, one, found),
            _ => {}
        }
    }
}

/// Tells of a connection manager, or a route, that turns the timeout off.
fn check_envoy<'t>(
    deployment: &Deployment<'t>,
    one: &Use<'t>,
    entry: Entry<'t>,
    found: &mut Found<'t>,
) {
    if is_zero(entry.manager, KEY) {
        let help = format!("write `{KEY}: 120s`: longer than clients let /sync wait");
        found.add(Spot::key(entry.manager, KEY), MESSAGE, help);
    }
    // Any request may wait for the answer about its token, whatever it asks for.
    let hosts = hosts(deployment, one);
    let routes = hosts.into_iter().flat_map(routes_of);
    for route in routes.filter(|route| !is_disabled(entry, *route)) {
        if let Some(action) = route.get("route").filter(|it| is_zero(*it, "idle_timeout")) {
            let help = "write `idle_timeout: 120s`, or leave it out";
            found.add(Spot::key(action, "idle_timeout"), MESSAGE, help);
        }
    }
}

/// Tells of a gateway for which no EnvoyFilter sets the timeout.
fn check_istio<'t>(deployment: &Deployment<'t>, one: &Use<'t>, found: &mut Found<'t>) {
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

/// Tells of a gateway for which neither a ClientTrafficPolicy nor BackendTrafficPolicies set the timeout: at the policies that turn
/// it off, or else at the gateway.
fn check_envoy_gateway<'t>(deployment: &Deployment<'t>, one: &Use<'t>, found: &mut Found<'t>) {
    let path = ["spec", "timeout", "http"];
    let key = "streamIdleTimeout";
    let is_set = |policy: Value<'t>| {
        let timeouts = policy.at(&path);
        timeouts.is_some_and(|it| it.get(key).is_some() && !is_zero(it, key))
    };
    if deployment.has_policy(one, is_set) || has_backend_policies(deployment, one) {
        return;
    }
    let policies = deployment.policies_for([one].into_iter()).into_iter();
    let timeouts = policies.filter_map(|policy| policy.at(&path));
    let zeros: Vec<_> = timeouts.filter(|it| is_zero(*it, key)).collect();
    for timeouts in &zeros {
        let help = format!("write `{key}: 120s`: longer than clients let /sync wait");
        found.add(Spot::key(*timeouts, key), MESSAGE, help);
    }
    if zeros.is_empty() {
        found.add(
            one.spot(),
            format!("`timeouts.request: 0s` of a route turns Envoy Gateway's idle timeout off, too: {MESSAGE}"),
            "apply a ClientTrafficPolicy with `timeout: { http: { streamIdleTimeout: 120s } }`; if you do, give it to `check` \
             together with this file",
        );
    }
}

/// Whether BackendTrafficPolicies set the timeout for each rule with the module. A rule with a limit of its own needs none.
fn has_backend_policies<'t>(deployment: &Deployment<'t>, one: &Use<'t>) -> bool {
    let api = &deployment.gateway_api;
    let Some(own) = one.resource.map(Value::key) else {
        return false;
    };
    let has_module = |chain: &[Level<'t>]| {
        let mut policies = chain.iter().flat_map(|level| api.extensions.at(level));
        policies.any(|policy| policy.key() == own)
    };
    let path = ["spec", "timeout", "http", "streamIdleTimeout"];
    let is_set = |chain: &[Level<'t>]| {
        let policies = api.backends.setting(chain, &path);
        let is_off = |policy: &Value<'t>| {
            let limit = policy.text_at(&path).and_then(duration);
            limit.is_none_or(|limit| limit.is_zero())
        };
        !policies.is_empty() && !policies.iter().any(is_off)
    };
    let mut count = 0;
    for value in deployment.resources.kind("HTTPRoute") {
        let route = Route::of(value);
        for rule in value.list(&["spec", "rules"]) {
            let limit = rule.text_at(&["timeouts", "request"]).and_then(duration);
            if limit.is_some_and(|limit| !limit.is_zero()) {
                continue;
            }
            let chains = api.chains(&route, rule);
            let own = chains.iter().filter(|chain| has_module(chain));
            for chain in own {
                if !is_set(chain) {
                    return false;
                }
                count += 1;
            }
        }
    }
    count > 0
}

fn is_zero(value: Value<'_>, key: &str) -> bool {
    let limit = value.text_at(&[key]).and_then(duration);
    limit.is_some_and(|limit| limit.is_zero())
}
