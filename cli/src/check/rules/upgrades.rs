//! `Connection: Upgrade, X-Matrix-User-Id` asks the next hop to drop the header. Envoy takes such a `Connection` header only
//! where upgrades are allowed.

use super::{
    Deployment, Found, Rule, Severity, Spot,
    route_lists::routes_of,
    routes::{before_servers, hosts, is_disabled},
};
use crate::{check::deployment::Host, yaml::Value};

/// The rule.
pub const RULE: Rule = Rule {
    name: "upgrades",
    severity: Severity::Warning,
    about: "Where upgrades are allowed, a client may have the next hop drop the identity headers.",
    check,
};

const MESSAGE: &str = "where upgrades are allowed, `Connection: Upgrade, X-Matrix-User-Id` of a client asks the next hop to drop \
                       the header";
const KEY: &str = "upgrade_configs";

fn check<'t>(deployment: &Deployment<'t>, found: &mut Found<'t>) {
    for one in before_servers(deployment) {
        match (one.host, one.entry) {
            (Host::Envoy, Some(entry)) => {
                let help = "allow upgrades only on routes that the module is turned off for, or read the filter state \
                            (`filter_state: true`) instead of the header";
                if is_allowed(entry.manager) {
                    found.add(Spot::key(entry.manager, KEY), MESSAGE, help);
                }
                for host in hosts(entry, one.config()) {
                    for route in routes_of(host) {
                        let action = route.get("route").filter(|_| !is_disabled(entry, route));
                        if let Some(action) = action.filter(|action| is_allowed(*action)) {
                            found.add(Spot::key(action, KEY), MESSAGE, help);
                        }
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

fn is_allowed(value: Value<'_>) -> bool {
    value
        .list(&[KEY])
        .any(|one| one.boolean_at(&["enabled"]) != Some(false))
}
