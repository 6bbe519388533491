//! Which rules of HTTPRoutes requests that wait for news may take, at each host.
//!
//! The non-obvious rule: at one host the rule with the longest path wins, in whatever route it stands. One that asks for more than
//! the path leaves requests to the next.

use std::collections::{HashMap, HashSet};

use super::{
    Deployment,
    homeserver::{Lead, Names, are_own},
    routes::{WAITING, is_noted_match},
};
use crate::{
    check::deployment::{Route, namespace},
    yaml::Value,
};

/// A rule, and its route.
#[derive(Clone, Copy)]
pub(super) struct HttpRule<'t> {
    /// The route.
    pub route: Value<'t>,
    /// The rule.
    pub rule: Value<'t>,
}

/// Where rules compete: a host, a parent, and the path. One route may name a listener of the parent, and another one none.
type Place<'t> = (Option<&'t str>, Option<&'t str>, &'static str);

/// A rule that a path may take.
#[derive(Clone, Copy)]
struct Candidate<'t> {
    of: HttpRule<'t>,
    /// How many letters of the path it names.
    length: usize,
    /// Whether it asks for more than the path.
    is_conditional: bool,
    /// Whether it names no path of Matrix.
    is_general: bool,
}

/// The rules to the homeserver that requests for news may take. An error is one of those that nothing tells apart.
pub(super) fn waiting<'t>(deployment: &Deployment<'t>) -> Result<Vec<HttpRule<'t>>, HttpRule<'t>> {
    let mut places: HashMap<Place<'t>, Vec<Candidate<'t>>> = HashMap::new();
    let mut order = Vec::new();
    for value in deployment.resources.kind("HTTPRoute") {
        let route = Route::of(value);
        if !route.is_at_gateway() {
            continue;
        }
        let own = places_of(&route);
        for rule in value.list(&["spec", "rules"]) {
            for path in WAITING {
                for candidate in candidates(HttpRule { route: value, rule }, path) {
                    for (host, parent) in &own {
                        if !value.tree.spend(1) {
                            return Ok(Vec::new());
                        }
                        let place = (*host, *parent, path);
                        let at = places.entry(place).or_insert_with(|| {
                            order.push(place);
                            Vec::new()
                        });
                        at.push(candidate);
                    }
                }
            }
        }
    }
    let taken: Vec<(Option<&str>, Candidate<'t>)> = order
        .into_iter()
        .filter_map(|place| Some((place.0, places.remove(&place)?)))
        .flat_map(|(host, all)| taken(all).into_iter().map(move |one| (host, one)))
        .filter(|(_, one)| backends(one.of.rule).next().is_some())
        .collect();
    of_homeserver(deployment, &taken)
}

/// The hosts and parents of a route, in all combinations.
fn places_of<'t>(route: &Route<'t>) -> Vec<(Option<&'t str>, Option<&'t str>)> {
    let hosts: Vec<Option<&str>> = match route.hosts() {
        hosts if hosts.is_empty() => vec![None],
        hosts => hosts.into_iter().map(Some).collect(),
    };
    let parents: Vec<Option<&str>> = match route.parents.as_slice() {
        [] => vec![None],
        parents => parents.iter().map(|parent| Some(parent.name)).collect(),
    };
    let tree = route.value.tree;
    let pairs = hosts.iter().flat_map(|host| {
        let own = parents.iter().take_while(|_| tree.spend(1));
        own.map(|parent| (*host, *parent))
    });
    pairs.collect()
}

/// How a rule's matches take a path.
fn candidates<'t>(of: HttpRule<'t>, path: &'static str) -> Vec<Candidate<'t>> {
    let matches: Vec<Value<'t>> = of.rule.list(&["matches"]).collect();
    if matches.is_empty() {
        return vec![Candidate {
            of,
            length: 1,
            is_conditional: false,
            is_general: true,
        }];
    }
    let candidate = |one: Value<'t>| {
        let value = one.text_at(&["path", "value"]).unwrap_or("/");
        let is_match = match one.text_at(&["path", "type"]) {
            Some("Exact") => path == value,
            Some("RegularExpression") => is_noted_match(one.get("path")?, value, path),
            _ => is_below(path, value),
        };
        is_match.then(|| Candidate {
            of,
            length: value.len().min(path.len()),
            is_conditional: ["headers", "method", "queryParams"]
                .into_iter()
                .any(|key| one.get(key).is_some()),
            is_general: !value.contains("_matrix"),
        })
    };
    matches.into_iter().filter_map(candidate).collect()
}

/// Whether a path is a prefix of whole segments, or below it.
fn is_below(path: &str, prefix: &str) -> bool {
    let rest = path.strip_prefix(prefix.trim_end_matches('/'));
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// The rules that requests may take: those with the longest path, and the next ones as long as these ask for more than the path.
fn taken(mut all: Vec<Candidate<'_>>) -> Vec<Candidate<'_>> {
    all.sort_by_key(|one| std::cmp::Reverse(one.length));
    let certain = all.iter().find(|one| !one.is_conditional);
    let least = certain.map_or(0, |one| one.length);
    all.retain(|one| one.length >= least);
    all
}

/// The rules of the homeserver.
fn of_homeserver<'t>(
    deployment: &Deployment<'t>,
    taken: &[(Option<&'t str>, Candidate<'t>)],
) -> Result<Vec<HttpRule<'t>>, HttpRule<'t>> {
    let names = Names::of(deployment);
    let lead = |(host, one): &(Option<&'t str>, Candidate<'t>)| Lead {
        names_path: !one.is_general,
        owner: names.owner(host.iter().copied()),
        servers: servers(one.of).collect(),
    };
    let leads: Vec<_> = taken.iter().map(lead).collect();
    let own = match (are_own(&leads), taken.first()) {
        (None, Some((_, one))) => return Err(one.of),
        (own, _) => own.unwrap_or_default(),
    };
    let mut seen = HashSet::new();
    let own = std::iter::zip(taken, own)
        .filter(|(_, is_own)| *is_own)
        .map(|((_, one), _)| one.of)
        .filter(|one| seen.insert(one.rule.key()));
    Ok(own.collect())
}

/// The kind of a backend, its namespace and its name.
type Server<'t> = (&'t str, Option<&'t str>, &'t str);

fn servers<'t>(one: HttpRule<'t>) -> impl Iterator<Item = Server<'t>> {
    let own = namespace::of(one.route);
    backends(one.rule).filter_map(move |backend| {
        let kind = backend.text_at(&["kind"]).unwrap_or("Service");
        let namespace = backend.text_at(&["namespace"]).or(own);
        Some((kind, namespace, backend.text_at(&["name"])?))
    })
}

fn backends<'t>(rule: Value<'t>) -> impl Iterator<Item = Value<'t>> {
    rule.list(&["backendRefs"])
}
