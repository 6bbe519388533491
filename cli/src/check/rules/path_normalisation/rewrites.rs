//! Rewrites of paths in the routes that Istio and Envoy Gateway make Envoy's out of.
//!
//! The non-obvious rule: the host of Matrix may have other routes, of a web client or of MAS, whose paths may change. So a route
//! counts only if a path may take it that is signed, or that the module looks at.

use super::{Found, SIGNED, Spot};
use crate::{
    check::{deployment::Deployment, pattern::compiled_at_a_cost},
    yaml::Value,
};

/// In the paths of Matrix, as routes name them.
const OWN: &str = "/_matrix";

/// Tells of the routes of VirtualServices of gateways that rewrite the homeserver's paths.
pub(super) fn check_virtual_services<'t>(deployment: &Deployment<'t>, found: &mut Found<'t>) {
    for service in deployment.resources.kind("VirtualService") {
        let rules = || service.list(&["spec", "http"]);
        let uris = rules().flat_map(uris);
        let mut texts = uris
            .flat_map(Value::members)
            .filter_map(|(_, text)| text.text());
        if !texts.any(|text| text.contains(OWN)) {
            continue;
        }
        for rule in SIGNED.into_iter().filter_map(|path| taken(rules(), path)) {
            for key in ["uri", "uriRegexRewrite"] {
                let Some(rewrite) = rule.get("rewrite").filter(|it| it.get(key).is_some()) else {
                    continue;
                };
                let is_kept = |uri: Value<'_>| {
                    let prefix = uri.text_at(&["prefix"]).or(uri.text_at(&["exact"]));
                    prefix.is_some() && prefix == rewrite.text_at(&[key])
                };
                let mut uris = self::uris(rule).peekable();
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
        let mut parents = route.list(&["spec", "parentRefs"]).peekable();
        let is_of_mesh = |parent: Value<'_>| parent.text_at(&["kind"]) == Some("Service");
        if parents.peek().is_some() && parents.all(is_of_mesh) {
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

/// The route of a VirtualService that a path takes: the first whose `uri` matches. One that asks for more than that is passed over.
fn taken<'t>(mut rules: impl Iterator<Item = Value<'t>>, path: &'static str) -> Option<Value<'t>> {
    rules.find(|rule| {
        let mut matches = rule.list(&["match"]).peekable();
        let is_met = |one: Value<'_>| match one.get("uri") {
            Some(uri) => is_match(uri, path),
            None => one.members().all(|(key, _)| key == "name"),
        };
        matches.peek().is_none() || matches.any(is_met)
    })
}

fn is_match(uri: Value<'_>, path: &'static str) -> bool {
    if let Some(prefix) = uri.text_at(&["prefix"]) {
        path.starts_with(prefix)
    } else if let Some(exact) = uri.text_at(&["exact"]) {
        path == exact
    } else if let Some(regex) = uri.text_at(&["regex"]) {
        uri.tree.noted(uri.id, path).unwrap_or_else(|| {
            let regex = compiled_at_a_cost(uri, regex);
            for other in SIGNED {
                let answer = regex.as_ref();
                let answer = answer.is_some_and(|it| it.is_match(other.as_bytes()));
                uri.tree.note(uri.id, other, answer);
            }
            regex.is_some_and(|it| it.is_match(path.as_bytes()))
        })
    } else {
        false
    }
}

/// The matches of a route by path.
fn uris<'t>(rule: Value<'t>) -> impl Iterator<Item = Value<'t>> {
    let matches = rule.list(&["match"]);
    matches.filter_map(|one| one.get("uri"))
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
            Some("RegularExpression") => compiled_at_a_cost(path, value)
                .is_some_and(|regex| SIGNED.iter().any(|it| regex.is_match(it.as_bytes()))),
            _ => SIGNED.into_iter().any(is_within),
        }
}
