//! A cluster has limits, which all that goes there shares. Clients can fill them, with logins that do not end: then Envoy refuses
//! the module's own calls, or what the introspection role leaves to MAS, and both look as if MAS had failed.
//!
//! A cluster whose requests get the credential is the business of `injected-route`.

use std::collections::HashSet;

use matrix_edge_auth::config::Role;

use super::{
    Deployment, Found, Rule, Severity, Spot,
    injected_route::is_injecting,
    routes::{header_of, targets},
};
use crate::{check::deployment::Use, yaml::Value};

/// The rule.
pub const RULE: Rule = Rule {
    name: "shared-cluster",
    severity: Severity::Warning,
    about: "Clients can fill the limits of a cluster that the module's calls, or Synapse's, need.",
    check,
};

fn check<'t>(deployment: &Deployment<'t>, found: &mut Found<'t>) {
    for one in &deployment.uses {
        let others = deployment.others(one).chain([one]);
        let asked: HashSet<&str> = others
            .filter_map(|other| other.configuration)
            .filter_map(|configuration| configuration.text_at(&["introspection", "cluster"]))
            .collect();
        let of_clients: HashSet<&str> = deployment
            .others(one)
            .filter(|other| other.is(Role::Gateway))
            .flat_map(routed)
            .map(|(name, _)| name)
            .collect();
        for spot in actions(one).filter_map(header_of) {
            let is_injecting = asked
                .iter()
                .any(|name| deployment.cluster(one, name).is_some_and(is_injecting));
            if !is_injecting {
                found.add(
                    spot,
                    "a client's header names the cluster, and may name that of the module's own calls: what fills its limits keeps \
                     them from MAS",
                    "name the cluster in the route",
                );
            }
        }
        for (name, spot) in routed(one) {
            let is_injected = deployment.cluster(one, name).is_some_and(is_injecting);
            if asked.contains(name) && !is_injected {
                found.add(
                    spot,
                    "the module's own calls go to this cluster too: what fills its limits keeps them from MAS, and each unproven \
                     token gets 503",
                    "give MAS another cluster for this route, and let none lead to `introspection.cluster`",
                );
            } else if one.is(Role::Introspection) && of_clients.contains(name) {
                found.add(
                    spot,
                    "clients' requests go to this cluster too: when they fill its limits, Envoy refuses Synapse's",
                    "give this listener a cluster of its own, as `mas-for-synapse` in envoy/local/envoy.yaml",
                );
            }
        }
    }
}

/// The clusters that the routes of a listener lead to, and where that is said.
fn routed<'t>(one: &Use<'t>) -> impl Iterator<Item = (&'t str, Spot<'t>)> {
    actions(one).flat_map(targets)
}

/// What the routes of a listener do.
fn actions<'t>(one: &Use<'t>) -> impl Iterator<Item = Value<'t>> {
    let entry = one.entry.into_iter();
    let hosts = entry.flat_map(|entry| entry.manager.list(&["route_config", "virtual_hosts"]));
    hosts
        .flat_map(|host| host.list(&["routes"]))
        .filter_map(|route| route.get("route"))
}
