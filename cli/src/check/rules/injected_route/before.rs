//! A request may also get the credential before it comes to a cluster: from a filter of the listener, or from a route.
//!
//! The non-obvious rule: a route may add an `Authorization` header for another service, or write there what a client sent. So at a
//! gateway only routes to MAS count, and values of Envoy's own. At the listeners for Synapse and for MAS nobody gets a credential
//! that he does not have.

use std::collections::HashSet;

use matrix_edge_auth::config::Role;

use super::{Deployment, Found, HEADER, Spot, is_injector};
use crate::{
    check::{
        deployment::settings,
        rules::{
            endpoints::with_same,
            hosts::clusters_of_mas,
            route_lists::routes_of,
            routes::{managers_of, tables, targets},
        },
    },
    yaml::Value,
};

const HELP: &str = "let the module send the credential (`introspection.credential`), or write the `credential_injector` into the \
                    cluster that `introspection.cluster` names, and no route to it";

/// Tells of filters and routes of an Envoy that give the credential to requests of others.
pub(super) fn check<'t>(deployment: &Deployment<'t>, number: usize, found: &mut Found<'t>) {
    let Some(envoy) = deployment.envoys.get(number) else {
        return;
    };
    let own = deployment.uses.iter().filter(|one| one.envoy == number);
    let mas: HashSet<&str> = own
        .flat_map(|one| clusters_of_mas(deployment, one))
        .collect();
    let mas: HashSet<&str> = with_same(&envoy.clusters, &mas)
        .into_iter()
        .chain(mas.iter().copied())
        .collect();
    for (manager, one) in managers_of(deployment, number) {
        let role = one.and_then(|one| one.role);
        let hosts = tables(manager).flat_map(|table| {
            let hosts = table.list(&["virtual_hosts"]);
            hosts.map(move |host| (table, host))
        });
        let is_internal = matches!(role, Some(Role::Introspection | Role::Provisioning));
        let leads_to_mas = |route: &Value<'t>| {
            let action = route.get("route");
            let mut names = action.into_iter().flat_map(targets);
            is_internal || names.any(|(name, _)| mas.contains(name))
        };
        let mut places_to_mas = Vec::new();
        for (table, host) in hosts {
            for route in routes_of(host).filter(leads_to_mas) {
                places_to_mas.extend([table, host, route]);
                places_to_mas.extend(route.list(&["route", "weighted_clusters", "clusters"]));
            }
        }
        if !is_internal && places_to_mas.is_empty() {
            continue;
        }
        let mut seen = HashSet::new();
        places_to_mas.retain(|place| seen.insert(place.key()));
        let added = places_to_mas
            .iter()
            .flat_map(|place| place.list(&["request_headers_to_add"]));
        let filters = manager.list(&["http_filters"]);
        let mutated = filters
            .filter(|filter| filter.boolean_at(&["disabled"]) != Some(true))
            .filter_map(settings)
            .flat_map(|config| config.list(&["mutations", "request_mutations"]))
            .filter_map(|mutation| mutation.get("append"));
        let keys = added.chain(mutated).filter_map(credential);
        for spot in keys
            .map(Spot::value)
            .chain(injectors(manager, &places_to_mas))
        {
            found.add(spot, message(role), HELP);
        }
    }
}

const fn message(role: Option<Role>) -> &'static str {
    match role {
        Some(Role::Introspection) => {
            "every request of this listener gets a credential here: MAS accepts each, also of a caller without a secret"
        }
        Some(Role::Provisioning) => {
            "every request of this listener gets a credential here: the homeserver takes each for one of MAS, also of a caller \
             without a secret"
        }
        _ => {
            "requests of clients to MAS get a credential here: with that for the module's own calls a client can ask whose any \
             token is"
        }
    }
}

/// The name of the header, if something that is added is a credential of Envoy's own.
fn credential(added: Value<'_>) -> Option<Value<'_>> {
    let header = added.get("header")?;
    let value = header.text_at(&["value"]).unwrap_or_default();
    let is_of_client = ["%req", "%cookie", "%query"]
        .iter()
        .any(|command| value.to_ascii_lowercase().contains(command));
    let key = header.get("key")?;
    let is_it = key.text()?.eq_ignore_ascii_case(HEADER);
    (is_it && !is_of_client).then_some(key)
}

/// The credential injectors of a listener that requests by these places pass: those that are on, and the places that turn one on.
fn injectors<'t>(manager: Value<'t>, places: &[Value<'t>]) -> Vec<Spot<'t>> {
    let mut found = Vec::new();
    let filters = manager.list(&["http_filters"]);
    for filter in filters.filter(|filter| is_injector(*filter)) {
        if filter.boolean_at(&["disabled"]) != Some(true) {
            found.push(Spot::first_key(filter, &["name"]));
            continue;
        }
        let name = filter.text_at(&["name"]).unwrap_or_default();
        let key = "typed_per_filter_config";
        let turning = places.iter().filter(|place| {
            let own = place.get(key).and_then(|own| own.entry(name));
            own.is_some_and(|own| own.boolean_at(&["disabled"]) != Some(true))
        });
        found.extend(turning.map(|place| Spot::key(*place, key)));
    }
    found
}
