//! Envoy Gateway has a limit of an HTTPRoute, or else that of the nearest BackendTrafficPolicy, or else Envoy's default.
//!
//! The non-obvious rule: `backendRequest` of a rule without `retry` is the limit of the whole, too.

use super::{DEFAULT, Deployment, Found, Remedy, Spot, check_limit, note_unknown};
use crate::{
    check::{
        deployment::{GatewayApi, Host, Route},
        rules::{
            http_rules::{HttpRule, waiting},
            routes::before_servers,
        },
    },
    yaml::Value,
};

/// Where policies have their limits.
const TIMEOUTS: [&str; 3] = ["spec", "timeout", "http"];

/// Tells of HTTPRoutes and policies.
pub(super) fn check<'t>(deployment: &Deployment<'t>, found: &mut Found<'t>) {
    let gateways = before_servers(deployment).filter(|one| one.host == Host::EnvoyGateway);
    for policy in deployment.policies_for(gateways) {
        let path = [&TIMEOUTS[..], &["streamIdleTimeout"]].concat();
        check_limit(policy, &path, Remedy::IDLE, found);
    }
    match waiting(deployment) {
        Ok(rules) => rules
            .into_iter()
            .for_each(|one| check_rule(&deployment.gateway_api, one, found)),
        Err(unknown) => note_unknown(Some(unknown.rule), found),
    }
}

/// Tells of what HTTPRoutes set, where nothing else has a limit.
pub(super) fn check_set<'t>(deployment: &Deployment<'t>, found: &mut Found<'t>) {
    match waiting(deployment) {
        Ok(rules) => rules
            .into_iter()
            .for_each(|one| check_timeouts(one.rule, found)),
        Err(unknown) => note_unknown(Some(unknown.rule), found),
    }
}

fn check_timeouts<'t>(rule: Value<'t>, found: &mut Found<'t>) {
    for key in ["request", "backendRequest"] {
        check_limit(rule, &["timeouts", key], Remedy::TurnOff, found);
    }
}

fn check_rule<'t>(api: &GatewayApi<'t>, one: HttpRule<'t>, found: &mut Found<'t>) {
    let rule = one.rule;
    check_timeouts(rule, found);
    let is_set = |key| rule.at(&["timeouts", key]).is_some();
    let has_own = is_set("request") || is_set("backendRequest") && rule.get("retry").is_none();
    let route = Route::of(one.route);
    for chain in api.chains(&route, rule) {
        let limit = |path: &[&str], remedy, found: &mut Found<'t>| {
            let policies = api.backends.setting(&chain, path);
            for policy in &policies {
                check_limit(*policy, path, remedy, found);
            }
            !policies.is_empty()
        };
        let timeout = |key| [&TIMEOUTS[..], &[key]].concat();
        limit(&timeout("maxStreamDuration"), Remedy::TurnOff, found);
        limit(&timeout("streamIdleTimeout"), Remedy::IDLE, found);
        let of_try = ["spec", "retry", "perRetry", "timeout"];
        limit(&of_try, Remedy::LeaveOut, found);
        if !has_own && !limit(&timeout("requestTimeout"), Remedy::TurnOff, found) {
            found.add(
                Spot::first_key(rule, &["timeouts", "matches", "backendRefs"]),
                DEFAULT,
                "write `timeouts: { request: 0s }` in this rule",
            );
        }
    }
}
