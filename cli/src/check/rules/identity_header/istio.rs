//! On Istio a VirtualService may write headers, and so may an EnvoyFilter and a RequestAuthentication.
//!
//! The non-obvious rule: a RequestAuthentication writes before the module if the module stands last. What an EnvoyFilter inserts as
//! the first filter always does.

use super::{Deployment, Found, Spot, tell, tell_at};
use crate::{
    check::{
        deployment::{Host, Use, settings},
        rules::{
            filter_order::{
                headers,
                istio::{Place, place, place_of},
            },
            routes::before_servers,
            written::{by_filter, by_place, is_of_module, named},
        },
    },
    yaml::Value,
};

/// Where patches change what is said of routes.
const PLACES: [&str; 3] = ["HTTP_ROUTE", "ROUTE_CONFIGURATION", "VIRTUAL_HOST"];

pub(super) fn check<'t>(deployment: &Deployment<'t>, found: &mut Found<'t>) {
    for one in before_servers(deployment) {
        if matches!(one.host, Host::WasmPlugin | Host::EnvoyFilter) {
            let headers = headers(one);
            check_virtual_services(deployment, &headers, found);
            check_patches(deployment, one, &headers, found);
            if place(deployment, one) != Place::Last {
                check_claims(deployment, one, &headers, found);
            }
        }
    }
}

/// Tells of VirtualServices of gateways.
fn check_virtual_services<'t>(
    deployment: &Deployment<'t>,
    headers: &[String],
    found: &mut Found<'t>,
) {
    for service in deployment.resources.kind("VirtualService") {
        let mut gateways = service.list(&["spec", "gateways"]).peekable();
        let is_mesh = |gateway: Value<'t>| gateway.text() == Some("mesh");
        if gateways.peek().is_some() && gateways.all(is_mesh) {
            continue;
        }
        for rule in service.list(&["spec", "http"]) {
            for place in rule.list(&["route"]).chain([rule]) {
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
