//! Rewrites of paths in the routes that Istio and Envoy Gateway make Envoy's out of.
//!
//! The non-obvious rule: the host of Matrix may have other routes, of a web client or of MAS, whose paths may change. So a route
//! counts only if a path may take it that is signed, or that the module looks at.

use super::{Found, SIGNED, Spot};
use crate::{
    check::{
        deployment::{Deployment, Route, VirtualRoute},
        rules::{routes::is_noted_match, virtual_routes::taken},
    },
    yaml::Value,
};

/// In the paths of Matrix, as routes name them.
const OWN: &str = "/_matrix";

/// Tells of the routes of VirtualServices of gateways that rewrite the homeserver's paths.
pub(super) fn check_virtual_services<'t>(deployment: &Deployment<'t>, found: &mut Found<'t>) {
    for service in deployment.resources.virtual_services() {
        let names_matrix = |route: VirtualRoute<'t>| route.paths().any(|text| text.contains(OWN));
        if !service.routes().any(names_matrix) {
            continue;
        }
        for one in SIGNED.into_iter().flat_map(|path| taken(&service, path)) {
            // What asks for something else than the path may be for another host.
            let is_by_path =
                |it: &Value<'t>| it.get("uri").is_some() || !service.asks_for_more(*it);
            if !one.matches.is_empty() && !one.matches.iter().any(is_by_path) {
                continue;
            }
            let rewrite = one.route.value.get("rewrite");
            for key in ["uri", "uriRegexRewrite"] {
                let Some(rewrite) = rewrite.filter(|it| it.get(key).is_some()) else {
                    continue;
                };
                let is_kept = |uri: Value<'_>| {
                    let prefix = uri.text_at(&["prefix"]).or(uri.text_at(&["exact"]));
                    prefix.is_some() && prefix == rewrite.text_at(&[key])
                };
                let mut uris = one.route.uris().peekable();
                if uris.peek().is_none() || !uris.all(is_kept) {
                    tell(Spot::key(rewrite, key), key, found);
                }
            }
        }
    }
}

/// Tells of the HTTPRoutes of Gateways that rewrite the homeserver's paths.
pub(super) fn check_http_routes<'t>(deployment: &Deployment<'t>, found: &mut Found<'t>) {
    for route in deployment.resources.kind("HTTPRoute") {
        if !Route::of(route).is_at_gateway() {
            continue;
        }
        for rule in route.list(&["spec", "rules"]) {
            let paths: Vec<_> = rule
                .list(&["matches"])
                .filter_map(|one| one.get("path"))
                .filter(|path| is_signed(*path))
                .collect();
            if paths.is_empty() {
                continue;
            }
            let rewrites = rule
                .list(&["filters"])
                .filter_map(|filter| filter.at(&["urlRewrite", "path"]));
            for rewrite in rewrites {
                let prefix = rewrite.text_at(&["replacePrefixMatch"]);
                let prefix = prefix.map(|prefix| prefix.trim_end_matches('/'));
                let is_kept = |path: &Value<'_>| {
                    let own = path.text_at(&["value"]);
                    prefix.is_some() && own.map(|own| own.trim_end_matches('/')) == prefix
                };
                if !paths.iter().all(is_kept) {
                    let keys = ["replacePrefixMatch", "replaceFullPath", "type"];
                    tell(Spot::first_key(rewrite, &keys), "urlRewrite", found);
                }
            }
        }
    }
}

fn tell<'t>(spot: Spot<'t>, key: &str, found: &mut Found<'t>) {
    found.add(
        spot,
        format!(
            "`{key}` changes paths: a federation request whose path changes fails its signature"
        ),
        format!("leave `{key}` out: the homeserver's paths are the clients'"),
    );
}

/// Whether a match of an HTTPRoute names paths of Matrix, and a signed one among them.
fn is_signed(path: Value<'_>) -> bool {
    let value = path.text_at(&["value"]).unwrap_or_default();
    let is_within = |signed: &str| {
        let rest = signed.strip_prefix(value.trim_end_matches('/'));
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    value.contains(OWN)
        && match path.text_at(&["type"]) {
            Some("Exact") => SIGNED.contains(&value),
            Some("RegularExpression") => {
                let mut signed = SIGNED.into_iter();
                signed.any(|it| is_noted_match(path, value, it))
            }
            _ => SIGNED.into_iter().any(is_within),
        }
}
