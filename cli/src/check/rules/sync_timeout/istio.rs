//! Istio sets no limit by itself, but hands on those of VirtualServices, HTTPRoutes and EnvoyFilters.
//!
//! The non-obvious rule: of a VirtualService's routes the first that matches counts, and one without a match is for every path.

use super::{Deployment, Found, Remedy, check_limit};
use crate::{
    check::rules::{
        homeserver::{Lead, Names, are_own},
        routes::{WAITING, is_noted_match},
    },
    yaml::Value,
};

/// Tells of VirtualServices. One without a timeout is no fault.
pub(super) fn check<'t>(deployment: &Deployment<'t>, found: &mut Found<'t>) {
    let names = Names::of(deployment);
    let mut routes = Vec::new();
    let mut leads = Vec::new();
    for service in deployment.resources.kind("VirtualService") {
        let hosts = service.list(&["spec", "hosts"]).filter_map(Value::text);
        let owner = names.owner(hosts);
        let gateways: Vec<Value<'t>> = service.list(&["spec", "gateways"]).collect();
        let is_of_mesh = gateways.iter().all(|it| it.text() == Some("mesh"));
        for (route, names_path) in WAITING.into_iter().flat_map(|path| taken(service, path)) {
            // One for sidecars alone. Without a gateway it is for these, too, but for paths of Matrix one may have been forgotten.
            if is_of_mesh && (!gateways.is_empty() || !names_path) {
                continue;
            }
            routes.push(route);
            leads.push(Lead {
                names_path,
                owner,
                servers: servers(route).collect(),
            });
        }
    }
    let own = std::iter::zip(routes, are_own(&leads)).filter(|(_, is_own)| *is_own);
    for (route, _) in own {
        check_limit(route, &["timeout"], Remedy::TurnOff, found);
        check_limit(
            route,
            &["retries", "perTryTimeout"],
            Remedy::LeaveOut,
            found,
        );
    }
}

/// The routes of a VirtualService that a path may take: the first that matches by the path alone, and those before it that ask for
/// more than the path. Each is with whether it names a path of Matrix.
fn taken<'t>(service: Value<'t>, path: &'static str) -> Vec<(Value<'t>, bool)> {
    let mut found = Vec::new();
    for route in service.list(&["spec", "http"]) {
        let matches: Vec<Value<'t>> = route.list(&["match"]).collect();
        let own: Vec<Value<'t>> = matches
            .iter()
            .copied()
            .filter(|one| takes(*one, path))
            .collect();
        if own.is_empty() && !matches.is_empty() {
            continue;
        }
        found.push((route, own.iter().any(|one| names_matrix(*one))));
        let asks_for_more = |one: &Value<'t>| {
            let mut keys = one.members().map(|(key, _)| key);
            keys.any(|key| !matches!(key, "uri" | "name" | "ignoreUriCase" | "gateways" | "port"))
        };
        if own.is_empty() || !own.iter().all(asks_for_more) {
            break;
        }
    }
    found
}

/// Whether a match is for a path, whatever else it asks for.
fn takes(one: Value<'_>, path: &'static str) -> bool {
    let Some(uri) = one.get("uri") else {
        return true;
    };
    let text = |key| uri.text_at(&[key]);
    text("prefix").is_some_and(|it| path.starts_with(it))
        || text("exact") == Some(path)
        || text("regex").is_some_and(|it| is_noted_match(uri, it, path))
}

fn names_matrix(one: Value<'_>) -> bool {
    let uri = one.get("uri").into_iter().flat_map(Value::members);
    let mut texts = uri.filter_map(|(_, text)| text.text());
    texts.any(|text| text.contains("_matrix"))
}

/// The hosts of the servers that a route leads to.
fn servers<'t>(route: Value<'t>) -> impl Iterator<Item = &'t str> {
    let destinations = route.list(&["route"]);
    destinations.filter_map(|one| one.text_at(&["destination", "host"]))
}
