//! `Connection: Upgrade, X-Matrix-User-Id` asks the next hop to drop the header. Envoy takes such a `Connection` header only
//! where upgrades are allowed.

use super::{
    Deployment, Found, Rule, Severity, Spot,
    hosts::hosts,
    route_lists::routes_of,
    routes::{before_servers, is_disabled},
};
use crate::{check::deployment::Host, yaml::Value};

/// The rule.
pub const RULE: Rule = Rule {
    name: "upgrades",
    severity: Severity::Warning,
    may_point_at_secret: false,
    about: "Where upgrades are allowed, a client may have the next hop drop the identity headers.",
    check,
};

const MESSAGE: &str = "where upgrades are allowed, `Connection: Upgrade, X-Matrix-User-Id` of a client asks the next hop to drop \
                       the header";
/// Where a connection manager or a route says which upgrades it allows.
pub(super) const KEY: &str = "upgrade_configs";

fn check<'t>(deployment: &Deployment<'t>, found: &mut Found<'t>) {
    for one in before_servers(deployment) {
        match (one.host, one.entry) {
            (Host::Envoy, Some(entry)) => {
                let help = "allow upgrades only on routes that the module is turned off for, or read the filter state \
                            (`filter_state: true`) instead of the header";
                let hosts = hosts(deployment, one);
                let routes = hosts.into_iter().flat_map(routes_of);
                let actions: Vec<_> = routes
                    .filter(|route| !is_disabled(entry, *route))
                    .filter_map(|route| route.get("route"))
                    .collect();
                let types: Vec<_> = allowed(entry.manager).collect();
                let refuse_all =
                    |action: &Value<'t>| types.iter().all(|one| refuses(*action, *one));
                let is_of_use = actions.is_empty() || !actions.iter().all(refuse_all);
                if !types.is_empty() && is_of_use {
                    found.add(Spot::key(entry.manager, KEY), MESSAGE, help);
                }
                for action in actions {
                    if allowed(action).next().is_some() {
                        found.add(Spot::key(action, KEY), MESSAGE, help);
                    }
                }
            }
            (Host::WasmPlugin | Host::EnvoyFilter, _) => {
                let mut routes = deployment.patches(one, "HTTP_ROUTE");
                let is_off = |patch: Value<'_>| {
                    let configs = ["patch", "value", "route", KEY];
                    patch
                        .list(&configs)
                        .any(|one| one.boolean_at(&["enabled"]) == Some(false))
                };
                if !routes.any(is_off) {
                    found.add(
                        one.spot(),
                        format!("Istio allows WebSockets on every route, and no EnvoyFilter of these files turns them off: \
                                 {MESSAGE}"),
                        "apply envoy/istio/connection.yaml as well; if you do, give it to `check` together with this file",
                    );
                }
            }
            _ => {}
        }
    }
}

/// The upgrades that a connection manager or a route allows.
fn allowed<'t>(value: Value<'t>) -> impl Iterator<Item = Value<'t>> {
    value.list(&[KEY]).filter(is_allowed)
}

/// Whether an upgrade is allowed.
pub(super) fn is_allowed(upgrade: &Value<'_>) -> bool {
    upgrade.boolean_at(&["enabled"]) != Some(false)
}

/// Whether two upgrades are of one type.
pub(super) fn is_same(one: Value<'_>, other: Value<'_>) -> bool {
    let name = |one: Value<'_>| one.text_at(&["upgrade_type"]).map(str::to_ascii_lowercase);
    name(one) == name(other)
}

/// Whether a route refuses an upgrade that its connection manager allows.
fn refuses(action: Value<'_>, upgrade: Value<'_>) -> bool {
    action
        .list(&[KEY])
        .any(|one| !is_allowed(&one) && is_same(one, upgrade))
}
