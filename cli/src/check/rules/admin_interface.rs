//! Envoy's admin interface asks nobody who they are. It shows the configuration, changes it, and ends Envoy. Its metrics tell how
//! many users there are, when they are there, and how the servers behind are doing.
//!
//! The non-obvious rule: a gateway is for clients, whatever address it has in these files. The address of the interface may be
//! loopback, and a listener may lead there all the same. What leads to `/ready` alone tells nothing.

use std::collections::HashSet;

use super::{
    Deployment, Found, Rule, Severity, Spot,
    bare_listener::{entry_of, has_guard},
    endpoints::is_loopback,
    internal_address::{is_exposed, is_open_to_others},
    route_lists::routes_of,
    routes::{headers_of, targets, virtual_hosts},
};
use crate::{check::deployment::Envoy, yaml::Value};

/// The rule.
pub const RULE: Rule = Rule {
    name: "admin-interface",
    severity: Severity::Warning,
    may_point_at_secret: false,
    about: "Envoy's admin interface, or its metrics, can be reached from outside.",
    check,
};

const WHOLE: &str = "whoever reaches this listener reaches Envoy's admin interface: it shows the configuration, changes it, and \
                     ends Envoy";
const METRICS: &str = "whoever reaches this listener reads Envoy's metrics: how many users there are, and how the servers \
                       are doing";
const HELP: &str = "give the listener an address of its caller's network, or let only its callers in by `filter_chain_match: { \
                    source_prefix_ranges: .. }`, or give `check` together with this file what closes the port";

fn check<'t>(deployment: &Deployment<'t>, found: &mut Found<'t>) {
    for envoy in &deployment.envoys {
        let address = envoy.bootstrap.and_then(|it| it.at(&["admin", "address"]));
        let Some(address) = address else {
            continue;
        };
        if let Some(socket) = address.get("socket_address")
            && is_open_to_others(deployment, socket)
        {
            found.add(
                Spot::key(socket, "address"),
                "whoever reaches this address reaches Envoy's admin interface: it shows the configuration, changes it, and ends \
                 Envoy",
                "write `address: 127.0.0.1`, and lead Prometheus to `/stats/prometheus` alone, by a listener of its own",
            );
        }
        let clusters = leading_to(envoy, address);
        if !clusters.is_empty() {
            check_listeners(deployment, envoy, &clusters, found);
        }
    }
}

/// Tells of each exposed listener that leads to one of these clusters.
fn check_listeners<'t>(
    deployment: &Deployment<'t>,
    envoy: &Envoy<'t>,
    clusters: &HashSet<&str>,
    found: &mut Found<'t>,
) {
    for filter in envoy.network_filters() {
        let leading = if filter.is_tcp_proxy() {
            let targets = targets(filter.config).into_iter();
            let own = targets.filter(|(name, _)| clusters.contains(name));
            own.map(|(_, spot)| (spot, WHOLE)).collect()
        } else if filter.is_manager() && !has_guard(filter.config) {
            routes(filter.config, clusters)
        } else {
            continue;
        };
        let mut gateways = deployment.gateways().filter_map(|one| one.entry);
        let is_of_clients = gateways.any(|entry| entry.manager.key() == filter.config.key());
        if !leading.is_empty() && (is_of_clients || is_exposed(deployment, entry_of(filter))) {
            for (spot, message) in leading {
                found.add(spot, message, HELP);
            }
        }
    }
}

/// The clusters that have the admin interface among their servers.
fn leading_to<'t>(envoy: &Envoy<'t>, admin: Value<'t>) -> HashSet<&'t str> {
    let port = admin.number_at(&["socket_address", "port_value"]);
    let pipe = admin.text_at(&["pipe", "path"]);
    let is_it = |address: Value<'t>| {
        let own = address.get("socket_address");
        let host = own
            .and_then(|it| it.text_at(&["address"]))
            .unwrap_or_default();
        let is_port = port.is_some() && own.and_then(|it| it.number_at(&["port_value"])) == port;
        is_loopback(host) && is_port || pipe.is_some() && address.text_at(&["pipe", "path"]) == pipe
    };
    let leads = |cluster: &&Value<'t>| {
        let mut addresses = cluster
            .list(&["load_assignment", "endpoints"])
            .flat_map(|locality| locality.list(&["lb_endpoints"]))
            .filter_map(|endpoint| endpoint.at(&["endpoint", "address"]));
        addresses.any(is_it)
    };
    let clusters = envoy.clusters.iter().filter(leads);
    clusters
        .filter_map(|cluster| cluster.text_at(&["name"]))
        .collect()
}

/// The routes of a connection manager that lead to one of these clusters, and what a caller has of it. Where a header names the
/// cluster, it may name each of them.
fn routes<'t>(manager: Value<'t>, clusters: &HashSet<&str>) -> Vec<(Spot<'t>, &'static str)> {
    let routes = virtual_hosts(manager).flat_map(routes_of);
    routes
        .filter_map(|route| {
            let message = harm(route)?;
            let action = route.get("route")?;
            let mut targets = targets(action).into_iter();
            let by_name = targets.find(|(name, _)| clusters.contains(name));
            let by_header = || headers_of(action).into_iter().next();
            let spot = by_name.map(|(_, spot)| spot).or_else(by_header)?;
            Some((spot, message))
        })
        .collect()
}

/// What a caller has of a route to the admin interface; nothing of one that leads to `/ready`, or that asks for a header.
fn harm(route: Value<'_>) -> Option<&'static str> {
    let rule = route.get("match")?;
    let exact = rule.text_at(&["path"]);
    let asked = route
        .text_at(&["route", "prefix_rewrite"])
        .or(exact)
        .or(rule.text_at(&["prefix"]))
        .unwrap_or_default();
    if rule.list(&["headers"]).next().is_some() || exact.is_some() && asked == "/ready" {
        None
    } else if asked.starts_with("/stats") {
        Some(METRICS)
    } else {
        Some(WHOLE)
    }
}
