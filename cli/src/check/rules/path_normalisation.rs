//! Paths must reach Synapse as they were sent: federation signs them, and an event id or room alias may hold `%2F`.

mod rewrites;

use std::collections::{BTreeMap, HashSet};

use super::{
    Deployment, Found, Rule, Severity, Spot,
    routes::{SIGNED, before_servers, routes_of_guarded_hosts, tables, targets},
};
use crate::{
    check::deployment::{Envoy, Host, Use},
    yaml::Value,
};

/// The rule.
pub const RULE: Rule = Rule {
    name: "path-normalisation",
    severity: Severity::Error,
    may_point_at_secret: false,
    about: "Envoy rewrites paths, which breaks signatures of federation, key backup and room aliases.",
    check,
};

const ESCAPED: &str = "path_with_escaped_slashes_action";
const KEPT: &str = "KEEP_UNCHANGED";
/// The actions, in the order of their numbers.
const ACTIONS: &[&str] = &[
    DEFAULT,
    KEPT,
    "REJECT_REQUEST",
    "UNESCAPE_AND_REDIRECT",
    "UNESCAPE_AND_FORWARD",
];
const DEFAULT: &str = "IMPLEMENTATION_SPECIFIC_DEFAULT";

fn check<'t>(deployment: &Deployment<'t>, found: &mut Found<'t>) {
    let mut clusters: BTreeMap<usize, HashSet<&str>> = BTreeMap::new();
    let has_istio = |one: &Use<'t>| matches!(one.host, Host::WasmPlugin | Host::EnvoyFilter);
    let has_istio = before_servers(deployment).any(has_istio);
    let is_settled = has_istio && is_settled_by_mesh(deployment, found);
    if has_istio {
        rewrites::check_virtual_services(deployment, found);
    }
    if has_istio || before_servers(deployment).any(|one| one.host == Host::EnvoyGateway) {
        rewrites::check_http_routes(deployment, found);
    }
    for one in before_servers(deployment) {
        match (one.host, one.entry) {
            (Host::Envoy, Some(entry)) => {
                check_manager(entry.manager, found);
                let own = clusters.entry(one.envoy).or_default();
                for route in routes_of_guarded_hosts(deployment, one, &SIGNED) {
                    check_rewriting(route, found);
                    let targets = route.get("route").map(targets).unwrap_or_default();
                    own.extend(targets.into_iter().map(|(name, _)| name));
                }
                if let Some(bootstrap) =
                    deployment.envoys.get(one.envoy).and_then(|it| it.bootstrap)
                {
                    check_runtime(bootstrap, entry.manager, found);
                }
            }
            (Host::WasmPlugin | Host::EnvoyFilter, _) => {
                // One right patch does not make up for a wrong one, since all are merged.
                for manager in deployment.merged_managers(one) {
                    check_manager(manager, found);
                }
                if !is_settled {
                    check_istio(one, found);
                }
            }
            (Host::EnvoyGateway, _) => check_envoy_gateway(deployment, one, found),
            _ => {}
        }
    }
    for (number, clusters) in clusters {
        if let Some(envoy) = deployment.envoys.get(number) {
            check_neighbours(envoy, &clusters, found);
        }
    }
}

/// Whether the mesh keeps paths, or it has been told that it does not. No patch can set `normalize_path` or `merge_slashes` back,
/// since protobuf merges no `false`.
fn is_settled_by_mesh<'t>(deployment: &Deployment<'t>, found: &mut Found<'t>) -> bool {
    let mut is_settled = false;
    for told in deployment.path_normalizations() {
        is_settled |= told.way == "NONE";
        if told.way.ends_with("MERGE_SLASHES") {
            is_settled = true;
            found.add(
                told.spot,
                format!(
                    "`{}` has all gateways of Istio merge slashes, which no EnvoyFilter turns off: a federation request whose path \
                     changes fails its signature",
                    told.way
                ),
                "write `pathNormalization: { normalization: NONE }`",
            );
        }
    }
    is_settled
}

/// Tells of a gateway of a mesh that does not keep paths.
fn check_istio<'t>(one: &Use<'t>, found: &mut Found<'t>) {
    found.add(
        one.spot(),
        "Istio's gateways rewrite paths (`normalize_path`), and no `pathNormalization` of these files turns it off; an EnvoyFilter \
         cannot, since Istio merges no `false`: a federation request whose path changes fails its signature",
        "give envoy/istio/mesh.yaml to Istio's chart; if you do, give it to `check` together with this file",
    );
}

/// Tells of a gateway for which no ClientTrafficPolicy keeps paths.
fn check_envoy_gateway<'t>(deployment: &Deployment<'t>, one: &Use<'t>, found: &mut Found<'t>) {
    let is_kept = deployment.has_policy(one, |policy| {
        policy.text_at(&["spec", "path", "escapedSlashesAction"]) == Some("KeepUnchanged")
            && policy.boolean_at(&["spec", "path", "disableMergeSlashes"]) == Some(true)
    });
    if !is_kept {
        found.add(
            one.spot(),
            "Envoy Gateway answers a path with `%2F` by a redirect to another path and merges slashes, and no \
             ClientTrafficPolicy of these files says otherwise: key backup and room aliases break",
            "apply a ClientTrafficPolicy with `path: { escapedSlashesAction: KeepUnchanged, disableMergeSlashes: true }`; if you \
             do, give it to `check` together with this file",
        );
    }
}

/// Tells of a route that rewrites paths.
fn check_rewriting<'t>(route: Value<'t>, found: &mut Found<'t>) {
    let Some(action) = route.get("route") else {
        return;
    };
    for key in ["prefix_rewrite", "regex_rewrite", "path_rewrite_policy"] {
        // A prefix that is replaced by itself changes no path.
        let is_same = action
            .text_at(&[key])
            .is_some_and(|prefix| route.text_at(&["match", "prefix"]) == Some(prefix));
        if action.get(key).is_some() && !is_same {
            found.add(
                Spot::key(action, key),
                format!("`{key}` changes paths: a federation request whose path changes fails its signature"),
                format!("leave `{key}` out: the homeserver's paths are the clients'"),
            );
        }
    }
}

/// Tells of a runtime key that has Envoy change or refuse paths. A key counts only where the connection manager has no
/// such field, or one that leaves the choice to Envoy.
fn check_runtime<'t>(bootstrap: Value<'t>, manager: Value<'t>, found: &mut Found<'t>) {
    const SPACE: &str = "http_connection_manager";
    for layer in bootstrap.list(&["layered_runtime", "layers"]) {
        let Some(layer) = layer.get("static_layer") else {
            continue;
        };
        for key in ["normalize_path", ESCAPED] {
            let is_said = match key {
                ESCAPED => escaped_slashes(manager).is_some_and(|action| action != DEFAULT),
                _ => manager.get(key).is_some(),
            };
            let name = format!("{SPACE}.{key}");
            let nested = layer
                .entry(SPACE)
                .filter(|space| space.entry(key).is_some());
            let (place, name) = match nested {
                Some(space) => (space, key),
                None => (layer, name.as_str()),
            };
            let value = place.entry(name).filter(|_| !is_said);
            let number = value.and_then(|value| value.scalar()?.whole_number());
            // Action 1 is `KEEP_UNCHANGED`.
            let is_harmless = match number {
                Some(0) | None => true,
                Some(1) => key != "normalize_path",
                Some(_) => false,
            };
            if !is_harmless {
                found.add(
                    Spot::key(place, name),
                    format!("this runtime key has Envoy change or refuse paths, since no `{key}` of the connection manager says otherwise"),
                    format!("leave the runtime key out, and write `{key}` in the connection manager"),
                );
            }
        }
    }
}

/// Looks at all connection managers that lead to the same servers, also at one without the module, such as one for
/// federation.
fn check_neighbours<'t>(envoy: &Envoy<'t>, clusters: &HashSet<&str>, found: &mut Found<'t>) {
    for other in envoy.managers() {
        let mut names = tables(other).flat_map(targets).map(|(name, _)| name);
        if names.any(|name| clusters.contains(name)) {
            check_manager(other, found);
        }
    }
}

/// Tells of a connection manager that changes or refuses paths.
fn check_manager<'t>(manager: Value<'t>, found: &mut Found<'t>) {
    for key in ["normalize_path", "merge_slashes"] {
        if manager.boolean_at(&[key]) == Some(true) {
            found.add(
                Spot::key(manager, key),
                format!("`{key}` changes paths: a federation request whose path changes fails its signature, and Synapse \
                         sees another path than the client sent"),
                format!("write `{key}: false`"),
            );
        }
    }
    if escaped_slashes(manager).is_some_and(|action| action != KEPT && action != DEFAULT) {
        found.add(
            Spot::key(manager, ESCAPED),
            "a path with `%2F` is changed or refused: key backup, room aliases and event ids may hold one",
            format!("write `{ESCAPED}: {KEPT}`"),
        );
    }
}

/// What a connection manager says of paths with escaped slashes.
fn escaped_slashes<'t>(manager: Value<'t>) -> Option<&'t str> {
    manager.name_at(&[ESCAPED], ACTIONS)
}
