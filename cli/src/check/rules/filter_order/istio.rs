//! When Istio asks an AuthorizationPolicy: with `action: CUSTOM` before every WasmPlugin, and else behind those of the phases
//! AUTHN and AUTHZ.
//!
//! The non-obvious rule: a WasmPlugin without `phase` stands behind all of Istio's own checks.

use super::{Deployment, Found, Sort, Spot, headers, naming};
use crate::{
    check::{
        deployment::{Host, Use, typed},
        rules::routes::before_servers,
    },
    yaml::Value,
};

pub(super) fn check<'t>(deployment: &Deployment<'t>, found: &mut Found<'t>) {
    for one in before_servers(deployment) {
        if matches!(one.host, Host::WasmPlugin | Host::EnvoyFilter) {
            check_use(deployment, one, found);
        }
    }
}

fn check_use<'t>(deployment: &Deployment<'t>, one: &Use<'t>, found: &mut Found<'t>) {
    let headers = headers(one);
    let place = place(deployment, one);
    for policy in deployment.policies(one, "AuthorizationPolicy") {
        let action = policy.text_at(&["spec", "action"]);
        let is_custom = action == Some("CUSTOM");
        let is_early = if is_custom {
            place != Place::First
        } else {
            place == Place::Last
        };
        let rules = policy.at(&["spec", "rules"]);
        let Some(rules) = rules.filter(|_| is_early && action != Some("AUDIT")) else {
            continue;
        };
        for (value, header) in naming(rules, &headers, Sort::Other) {
            found.add(
                Spot::value(value),
                format!(
                    "this policy is asked before the module, and decides by the `{header}` that a client wrote: the module takes \
                     it out, and writes its own, only behind the policy"
                ),
                help(one, is_custom),
            );
        }
    }
}

const fn help<'t>(one: &Use<'t>, is_custom: bool) -> &'static str {
    match (one.host, is_custom) {
        (Host::WasmPlugin, false) => "write `phase: AUTHN` in the WasmPlugin",
        (Host::WasmPlugin, true) => {
            "leave the header out of policies with `action: CUSTOM`, which Istio asks before each WasmPlugin, or insert the module \
             by an EnvoyFilter with `operation: INSERT_FIRST`"
        }
        _ => "write `operation: INSERT_FIRST` in the patch that inserts the module",
    }
}

/// Where the module stands.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(in crate::check::rules) enum Place {
    /// Before all others.
    First,
    /// Between policies that ask somebody else and Istio's own, or that cannot be told.
    Between,
    /// Behind all policies.
    Last,
}

pub(in crate::check::rules) fn place<'t>(deployment: &Deployment<'t>, one: &Use<'t>) -> Place {
    let Some(plugin) = one.plugin else {
        return Place::Between;
    };
    if one.host == Host::WasmPlugin {
        return match plugin.text_at(&["phase"]) {
            Some("AUTHN" | "AUTHZ") => Place::Between,
            _ => Place::Last,
        };
    }
    let names: Vec<&str> = deployment
        .patches(one, "EXTENSION_CONFIG")
        .filter_map(|patch| patch.at(&["patch", "value"]))
        .filter(|value| is_plugin(*value, plugin))
        .filter_map(|value| value.text_at(&["name"]))
        .collect();
    let inserted = deployment.patches(one, "HTTP_FILTER").filter(|patch| {
        patch.at(&["patch", "value"]).is_some_and(|value| {
            let name = value.text_at(&["name"]);
            is_plugin(value, plugin) || name.is_some_and(|name| names.contains(&name))
        })
    });
    let places: Vec<Place> = inserted.map(place_of).collect();
    let last = places.iter().find(|place| **place == Place::Last);
    let other = places.iter().find(|place| **place == Place::Between);
    match (last.or(other), places.is_empty()) {
        (Some(place), _) => *place,
        (None, true) => Place::Between,
        (None, false) => Place::First,
    }
}

/// Where a patch inserts a filter.
pub(in crate::check::rules) fn place_of(patch: Value<'_>) -> Place {
    let path = [
        "match",
        "listener",
        "filterChain",
        "filter",
        "subFilter",
        "name",
    ];
    let beside = patch.text_at(&path);
    match (patch.text_at(&["patch", "operation"]), beside) {
        (Some("INSERT_FIRST"), _) | (Some("INSERT_BEFORE"), None) => Place::First,
        (Some("ADD"), _) | (Some("INSERT_AFTER"), None) => Place::Last,
        (Some("INSERT_BEFORE"), Some("envoy.filters.http.router")) => Place::Last,
        _ => Place::Between,
    }
}

fn is_plugin(value: Value<'_>, plugin: Value<'_>) -> bool {
    let config = value.get("typed_config").and_then(typed);
    let own = config.and_then(|(_, config)| config.get("config"));
    own.is_some_and(|own| own.key() == plugin.key())
}
