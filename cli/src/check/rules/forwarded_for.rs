//! Synapse believes the first address in `X-Forwarded-For`. A client may write an address there, and Envoy adds the true
//! one at the end.
//!
//! Several parts of Envoy may change the header: early mutations, then filters, then the route, its virtual host and the
//! route configuration. The last of them to set or remove the header decides. The value that it sets must be Envoy's own: a
//! copy of another header is the client's again. Other services than the homeserver and MAS may believe what they like.

use std::collections::HashSet;

use super::{
    Deployment, Found, Rule, Severity, Spot,
    hosts::{all_hosts, hosts_of_mas},
    route_lists::routes_of,
    routes::{before_servers, tables},
};
use crate::{
    check::deployment::{Host, settings},
    yaml::{Id, Value},
};

/// The rule.
pub const RULE: Rule = Rule {
    name: "forwarded-for",
    severity: Severity::Warning,
    may_point_at_secret: false,
    about: "Synapse takes the client's address from a header that the client can write.",
    check,
};

const HEADER: &str = "x-forwarded-for";

fn check<'t>(deployment: &Deployment<'t>, found: &mut Found<'t>) {
    for one in before_servers(deployment).filter(|one| one.host == Host::Envoy) {
        let Some(entry) = one.entry else {
            continue;
        };
        let before = after_filters(entry.manager);
        let own = all_hosts(deployment, one).into_iter();
        let hosts: HashSet<_> = own
            .chain(hosts_of_mas(deployment, one))
            .map(|host| host.id)
            .collect();
        for routes in tables(entry.manager) {
            check_table(routes, &hosts, before, found);
        }
    }
}

/// Tells of the routes of these hosts of a table that leave the first address to the client.
fn check_table<'t>(routes: Value<'t>, hosts: &HashSet<Id>, before: Origin, found: &mut Found<'t>) {
    let nearest_is_last = routes.boolean_at(&["most_specific_header_mutations_wins"]) == Some(true);
    let mut believed = Vec::new();
    let mut count = 0;
    let own = routes.list(&["virtual_hosts"]);
    for host in own.filter(|host| hosts.contains(&host.id)) {
        for route in routes_of(host) {
            if route.get("route").is_none() {
                continue;
            }
            count += 1;
            let mut levels = [route, host, routes];
            if nearest_is_last {
                levels.reverse();
            }
            if levels.into_iter().fold(before, after_level) == Origin::Client {
                believed.push(route);
            }
        }
    }
    let (message, help) = (
        "Synapse believes the first address in `X-Forwarded-For`, which any client can write",
        "write `request_headers_to_add: [{ header: { key: x-forwarded-for, value: \
         \"%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%\" }, append_action: OVERWRITE_IF_EXISTS_OR_ADD }]` in the route \
         configuration",
    );
    if believed.len() == count && count > 0 {
        let keys = ["request_headers_to_add", "name", "virtual_hosts"];
        found.add(Spot::first_key(routes, &keys), message, help);
    } else {
        for route in believed {
            let keys = ["request_headers_to_add", "match"];
            found.add(Spot::first_key(route, &keys), message, help);
        }
    }
}

/// Who wrote the first address in the header.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Origin {
    Client,
    Envoy,
}

/// What early mutations and filters make of the header.
fn after_filters(manager: Value<'_>) -> Origin {
    // Envoy adds the true address between the two.
    let early = manager.list(&["early_header_mutation_extensions"]);
    let early = early
        .filter_map(settings)
        .flat_map(|one| one.list(&["mutations"]));
    let filters = manager
        .list(&["http_filters"])
        .filter(|filter| filter.boolean_at(&["disabled"]) != Some(true));
    let of_filters = filters
        .filter_map(settings)
        .flat_map(|one| one.list(&["mutations", "request_mutations"]));
    early
        .chain(of_filters)
        .fold(Origin::Client, |origin, mutation| {
            let is_removed = mutation.text_at(&["remove"]).is_some_and(is_forwarded_for);
            match mutation.get("append") {
                _ if is_removed => Origin::Envoy,
                Some(append) => after_addition(origin, append),
                None => origin,
            }
        })
}

/// What a route, a virtual host or the route configuration makes of the header. Envoy removes before it adds.
fn after_level(origin: Origin, level: Value<'_>) -> Origin {
    let mut removed = level.list(&["request_headers_to_remove"]);
    let is_removed = removed.any(|name| name.text().is_some_and(is_forwarded_for));
    let origin = if is_removed { Origin::Envoy } else { origin };
    let added = level.list(&["request_headers_to_add"]);
    added.fold(origin, after_addition)
}

/// The actions, in the order of their numbers.
const ACTIONS: &[&str] = &[
    "APPEND_IF_EXISTS_OR_ADD",
    "ADD_IF_ABSENT",
    "OVERWRITE_IF_EXISTS_OR_ADD",
    "OVERWRITE_IF_EXISTS",
];

fn after_addition(origin: Origin, one: Value<'_>) -> Origin {
    if !one
        .text_at(&["header", "key"])
        .is_some_and(is_forwarded_for)
    {
        return origin;
    }
    let value = one.text_at(&["header", "value"]).unwrap_or_default();
    let overwrites = match one.name_at(&["append_action"], ACTIONS) {
        Some(action) => action.starts_with("OVERWRITE"),
        None => one.boolean_at(&["append"]) == Some(false),
    };
    match (overwrites, is_of_client(value)) {
        (true, false) => Origin::Envoy,
        (_, true) => Origin::Client,
        (false, false) => origin,
    }
}

/// Whether a value is copied from a header of the request, which a client may write.
fn is_of_client(value: &str) -> bool {
    value.to_ascii_lowercase().contains("%req")
}

fn is_forwarded_for(name: &str) -> bool {
    name.eq_ignore_ascii_case(HEADER)
}
