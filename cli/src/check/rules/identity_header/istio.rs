//! On Istio a VirtualService may write headers, and so may an EnvoyFilter and a RequestAuthentication.
//!
//! The non-obvious rule: a RequestAuthentication writes before the module if the module stands last. What an EnvoyFilter inserts as
//! the first filter always does.

use super::{Deployment, Found, Spot, is_of_matrix, tell, tell_at};
use crate::{
    check::{
        deployment::{Host, Use, namespace, settings},
        rules::{
            filter_order::{
                headers,
                istio::{Place, place, place_of},
            },
            leads::destinations,
            routes::before_servers,
            servers::{Servers, labels},
            written::{by_filter, by_place, is_of_module, named},
        },
    },
    yaml::Value,
};

/// Where patches change what is said of routes.
const PLACES: [&str; 3] = ["HTTP_ROUTE", "ROUTE_CONFIGURATION", "VIRTUAL_HOST"];

pub(super) fn check<'t>(deployment: &Deployment<'t>, found: &mut Found<'t>) {
    let gateways: Vec<_> = before_servers(deployment).collect();
    let servers = Servers::of(deployment, &gateways);
    for one in gateways {
        if matches!(one.host, Host::WasmPlugin | Host::EnvoyFilter) {
            let headers = headers(one);
            check_virtual_services(deployment, &servers, &headers, found);
            check_patches(deployment, one, &headers, found);
            if place(deployment, one) != Place::Last {
                check_claims(deployment, one, &headers, found);
            }
        }
    }
}

/// Tells of VirtualServices of gateways, where they lead to the homeserver.
fn check_virtual_services<'t>(
    deployment: &Deployment<'t>,
    servers: &Servers<'t>,
    headers: &[String],
    found: &mut Found<'t>,
) {
    for service in deployment.resources.virtual_services() {
        for route in service.routes() {
            let names_matrix = route.paths().any(is_of_matrix);
            let parts = route.value.list(&["route"]);
            for place in parts.chain([route.value]) {
                let single = place.get("destination");
                let all = destinations(route.value);
                let mut leading = single.into_iter().chain(all.filter(|_| single.is_none()));
                let is_homeservers = |destination: Value<'t>| {
                    let host = destination.text_at(&["host"]).unwrap_or_default();
                    let (name, named) = labels(host);
                    let namespace = named.or(namespace::of(service.value));
                    servers.have(name, namespace, destination.at(&["port", "number"]))
                };
                if !names_matrix && !servers.are_unknown() && !leading.any(is_homeservers) {
                    continue;
                }
                check_written(place, headers, found);
            }
        }
    }
}

/// Tells of the headers that a route, or a part of it, writes.
fn check_written<'t>(place: Value<'t>, headers: &[String], found: &mut Found<'t>) {
    for key in ["set", "add"] {
        let Some(written) = place.at(&["headers", "request", key]) else {
            continue;
        };
        for (name, value) in written.members() {
            let is_it = |header: &&String| header.eq_ignore_ascii_case(name);
            let value = value.text().unwrap_or_default();
            let header = headers.iter().find(is_it);
            if let Some(header) = header.filter(|it| !is_of_module(value, it)) {
                tell_at(Spot::key(written, name), header, found);
            }
        }
    }
}

/// Tells of patches of EnvoyFilters.
fn check_patches<'t>(
    deployment: &Deployment<'t>,
    one: &Use<'t>,
    headers: &[String],
    found: &mut Found<'t>,
) {
    for patch in deployment.patches(one, "HTTP_FILTER") {
        let config = patch.at(&["patch", "value"]).and_then(settings);
        if let Some(config) = config.filter(|_| place_of(patch) != Place::First) {
            tell(by_filter(config, headers), found);
        }
    }
    for target in PLACES {
        for patch in deployment.patches(one, target) {
            if let Some(value) = patch.at(&["patch", "value"]) {
                tell(by_place(value, headers), found);
            }
        }
    }
}

/// Tells of claims of tokens that become headers.
fn check_claims<'t>(
    deployment: &Deployment<'t>,
    one: &Use<'t>,
    headers: &[String],
    found: &mut Found<'t>,
) {
    for policy in deployment.policies(one, "RequestAuthentication") {
        for rule in policy.list(&["spec", "jwtRules"]) {
            let claims = rule.list(&["outputClaimToHeaders"]);
            let of_claims = claims.filter_map(|claim| claim.get("header"));
            for name in of_claims.chain(rule.get("outputPayloadToHeader")) {
                let header = named(name, headers);
                tell(header.map(|it| (name, it)).into_iter().collect(), found);
            }
        }
    }
}
