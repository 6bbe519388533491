//! On Istio an EnvoyFilter may turn the module off for routes and virtual hosts, or take it out of the gateway.
//!
//! The non-obvious rule: the filter has the name of what inserts it. Istio makes that of a WasmPlugin out of its namespace and its
//! name, with a beginning that differs from version to version.

use super::{Deployment, Found, OPEN, Spot, envoy::OFF_HELP};
use crate::{
    check::{
        deployment::{Host, Use, VirtualService, typed},
        rules::homeserver::{Names, Owner},
    },
    yaml::Value,
};

const KEY: &str = "typed_per_filter_config";

/// Where patches change what is said of filters.
const PLACES: [&str; 3] = ["HTTP_ROUTE", "ROUTE_CONFIGURATION", "VIRTUAL_HOST"];

pub(super) fn check<'t>(deployment: &Deployment<'t>, found: &mut Found<'t>) {
    let names = Names::of(deployment);
    for one in deployment.gateways() {
        if !matches!(one.host, Host::WasmPlugin | Host::EnvoyFilter) {
            continue;
        }
        for place in PLACES {
            for patch in deployment.patches(one, place) {
                check_patch(deployment, one, &names, patch, found);
            }
        }
        for patch in deployment.patches(one, "HTTP_FILTER") {
            check_filter(deployment, one, patch, found);
        }
    }
}

/// Tells of a patch that turns the module off for routes.
fn check_patch<'t>(
    deployment: &Deployment<'t>,
    one: &Use<'t>,
    names: &Names<'t>,
    patch: Value<'t>,
    found: &mut Found<'t>,
) {
    let Some(value) = patch.at(&["patch", "value"]) else {
        return;
    };
    let mut filters = value.get(KEY).into_iter().flat_map(Value::members);
    let is_off = filters.any(|(name, filter)| {
        filter.boolean_at(&["disabled"]) == Some(true) && is_its(deployment, one, name)
    });
    if !is_off {
        return;
    }
    match tokens(deployment, names, patch) {
        Some(true) => found.add(
            Spot::key(value, KEY),
            "the module is turned off here for requests that need a token: they reach the server unverified, and with the identity \
             headers that a client wrote",
            OFF_HELP,
        ),
        Some(false) => {}
        None => found.note(
            Spot::key(value, KEY),
            "the module is turned off here: whether requests that need a token come this way is not in these files",
            "give `check` the VirtualService of this host and this route as well",
        ),
    }
}

/// Whether requests that need a token may come by the routes that a patch is for. `None` if the files do not tell.
fn tokens(deployment: &Deployment<'_>, names: &Names<'_>, patch: Value<'_>) -> Option<bool> {
    let host = patch.at(&["match", "routeConfiguration", "vhost"]);
    let name = host.and_then(|host| host.text_at(&["name"]));
    let domain = name.map(|name| name.rsplit_once(':').map_or(name, |(domain, _)| domain));
    let owner = names.owner(domain.into_iter());
    if owner == Owner::Mas {
        return Some(false);
    }
    let mut routes = Vec::new();
    let mut knows_matrix = false;
    let wanted = host.and_then(|host| host.text_at(&["route", "name"]));
    let services = deployment.resources.virtual_services();
    for route in services.iter().flat_map(VirtualService::routes) {
        let paths: Vec<&str> = route.paths().collect();
        knows_matrix |= paths.iter().any(|path| path.contains("/_matrix"));
        if wanted.is_some() && route.value.text_at(&["name"]) == wanted {
            routes.push(paths);
        }
    }
    match wanted {
        Some(_) if routes.is_empty() => None,
        Some(_) => {
            let is_open = |path: &&str| OPEN.iter().any(|open| path.starts_with(open));
            Some(
                routes
                    .iter()
                    .any(|paths| paths.is_empty() || !paths.iter().all(is_open)),
            )
        }
        // Of several hosts the patches for those of Matrix alone are looked at.
        None if name.is_none() || knows_matrix || owner != Owner::Unknown => Some(true),
        None => None,
    }
}

/// Tells of a patch that takes the module out, or turns it off for all requests.
fn check_filter<'t>(
    deployment: &Deployment<'t>,
    one: &Use<'t>,
    patch: Value<'t>,
    found: &mut Found<'t>,
) {
    let matched = [
        "match",
        "listener",
        "filterChain",
        "filter",
        "subFilter",
        "name",
    ];
    let operation = patch.text_at(&["patch", "operation"]);
    let of_filter = |path: &[&str]| {
        let name = patch.text_at(path);
        name.is_some_and(|name| is_its(deployment, one, name))
    };
    let Some(what) = patch.get("patch") else {
        return;
    };
    if matches!(operation, Some("REMOVE" | "REPLACE")) && of_filter(&matched) {
        let spot = Spot::key(what, "operation");
        if patch.at(&["match", "listener", "portNumber"]).is_some() {
            found.note(
                spot,
                "this takes the module out on one port: whether Matrix is served there is not in these files",
                "take the patch out, unless that port leads to no homeserver",
            );
        } else {
            found.add(
                spot,
                "this takes the module out of the gateway: requests reach the homeserver unverified, and with the identity headers \
                 that a client wrote",
                "take the patch out; for a way back leave the module in shadow mode",
            );
        }
    }
    let value = ["patch", "value", "name"];
    if patch.boolean_at(&["patch", "value", "disabled"]) == Some(true)
        && (of_filter(&value) || of_filter(&matched))
    {
        found.note(
            Spot::key(what, "value"),
            "the module is turned off here: its listener is as it was without it, and leaves a client's own identity headers in",
            "take out `disabled: true` beside the filter's name",
        );
    }
}

/// Whether the filter of this name is the module's, of this use.
fn is_its<'t>(deployment: &Deployment<'t>, one: &Use<'t>, name: &str) -> bool {
    match (one.host, one.resource, one.plugin) {
        (Host::WasmPlugin, Some(resource), _) => {
            let text = |key| resource.text_at(&["metadata", key]);
            let own = name.rsplit('/').next().unwrap_or(name);
            let (namespace, own) = own.split_once('.').unwrap_or(("", own));
            text("name") == Some(own) && text("namespace").is_none_or(|it| it == namespace)
        }
        (Host::EnvoyFilter, _, Some(plugin)) => {
            let inserts = ["EXTENSION_CONFIG", "HTTP_FILTER"].into_iter();
            let mut values = inserts
                .flat_map(|target| deployment.patches(one, target))
                .filter_map(|patch| patch.at(&["patch", "value"]));
            values.any(|value| {
                let config = value.get("typed_config").and_then(typed);
                let own = config.and_then(|(_, config)| config.get("config"));
                value.text_at(&["name"]) == Some(name)
                    && own.is_some_and(|own| own.key() == plugin.key())
            })
        }
        _ => false,
    }
}
