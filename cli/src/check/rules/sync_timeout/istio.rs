//! Istio sets no limit by itself, but hands on those of VirtualServices, HTTPRoutes and EnvoyFilters.
//!
//! The non-obvious rule: of a VirtualService's routes the first that matches counts, and one without a match is for every path. What
//! is for the proxies of pods alone is for no client.

use super::{Deployment, Found, Remedy, check_limit, note_unknown};
use crate::{
    check::rules::{
        homeserver::{Lead, Names, are_own},
        routes::WAITING,
        virtual_routes::taken,
    },
    yaml::Value,
};

/// Tells of VirtualServices. One without a timeout is no fault.
pub(super) fn check<'t>(deployment: &Deployment<'t>, found: &mut Found<'t>) {
    let names = Names::of(deployment);
    let mut routes = Vec::new();
    let mut leads = Vec::new();
    for service in deployment.resources.virtual_services() {
        let owner = names.owner(service.hosts());
        for one in WAITING.into_iter().flat_map(|path| taken(&service, path)) {
            let route = one.route.value;
            routes.push(route);
            leads.push(Lead {
                names_path: one.matches.into_iter().any(names_matrix),
                owner,
                servers: servers(route).collect(),
            });
        }
    }
    let Some(own) = are_own(&leads) else {
        note_unknown(routes.first().copied(), found);
        return;
    };
    let own = std::iter::zip(routes, own).filter(|(_, is_own)| *is_own);
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
