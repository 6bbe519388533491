//! Which routes a path may take, as Envoy and the Gateway API choose them.

use std::{collections::HashSet, time::Duration};

use regex::bytes::Regex;

use super::{
    endpoints::is_loopback,
    hosts::{ASKED, all_hosts, clusters_of_logins, hosts},
    matcher::keeps_private,
    route_lists::{RouteList, route_lists, routes_of},
    samples::SAMPLES,
    tokens::{needs_token, rest_behind},
};
use crate::{
    check::{
        deployment::{Deployment, Entry, Envoy, Use},
        finding::Spot,
        pattern::{compiled_at_a_cost, examples},
    },
    yaml::{Value, is_field},
};

/// Requests that wait for news: `/sync`, and its successor.
pub(super) const WAITING: [&str; 2] = [
    "/_matrix/client/v3/sync",
    "/_matrix/client/unstable/org.matrix.simplified_msc3575/sync",
];

/// Paths that are signed, or that the module looks at.
pub(super) const SIGNED: [&str; 3] = [
    "/_matrix/federation/v1/send/1",
    "/_matrix/client/v3/directory/room/%23a%3Aexample.org",
    WAITING[0],
];

/// Some paths that need a token, of each part of the homeserver that may have routes of its own.
pub(super) const PRIVATE: [&str; 9] = [
    WAITING[0],
    WAITING[1],
    "/_matrix/client/v3/account/whoami",
    "/_matrix/client/v3/createRoom",
    "/_matrix/client/v3/rooms/!a:example.org/messages",
    "/_matrix/client/v3/keys/query",
    "/_matrix/client/v1/media/download/example.org/a",
    "/_matrix/media/v3/upload",
    "/_synapse/admin/v1/rooms",
];

/// How long clients let `/sync` wait, as a rule. A shorter limit ends each `/sync` that has no news.
pub(super) const USUAL_WAIT: Duration = Duration::from_secs(30);

/// The gateways whose requests reach a server. A gateway whose routes all lead back to this Envoy, as in a fleet, is left
/// out: it only hears which sessions end, and no server believes its headers.
pub(super) fn before_servers<'d, 't>(
    deployment: &'d Deployment<'t>,
) -> impl Iterator<Item = &'d Use<'t>> {
    deployment.gateways().filter(|one| {
        let hosts = one.entry.into_iter().flat_map(|entry| {
            let hosts = virtual_hosts(entry.manager);
            hosts.flat_map(routes_of)
        });
        let mut clusters = hosts.flat_map(destinations).peekable();
        clusters.peek().is_none() || !clusters.all(|name| leads_back(deployment, one, name))
    })
}

/// The clusters that a route sends requests to, by name or by weight. Copies are left out.
pub(super) fn destinations<'t>(route: Value<'t>) -> impl Iterator<Item = &'t str> {
    let weighted = route.list(&["route", "weighted_clusters", "clusters"]);
    let names = weighted.filter_map(|one| one.text_at(&["name"]));
    route
        .text_at(&["route", "cluster"])
        .into_iter()
        .chain(names)
}

/// Whether all endpoints of a cluster are listeners of the Envoy of a use, on loopback.
pub(super) fn leads_back(deployment: &Deployment<'_>, one: &Use<'_>, name: &str) -> bool {
    let (Some(envoy), Some(cluster)) = (
        deployment.envoys.get(one.envoy),
        deployment.cluster(one, name),
    ) else {
        return false;
    };
    let mut endpoints = cluster
        .list(&["load_assignment", "endpoints"])
        .flat_map(|locality| locality.list(&["lb_endpoints"]))
        .filter_map(|endpoint| endpoint.at(&["endpoint", "address", "socket_address"]))
        .peekable();
    let is_own = |socket: Value<'_>| {
        let address = socket.text_at(&["address"]).unwrap_or_default();
        let port = socket.number_at(&["port_value"]);
        is_loopback(address) && port.is_some_and(|port| envoy.ports.contains(&port))
    };
    endpoints.peek().is_some() && endpoints.all(is_own)
}

/// The routes to the homeserver that requests for these paths may take, where the module is on for the virtual host and
/// for the route. Routes to MAS are left out.
pub(super) fn guarded_routes<'t>(
    deployment: &Deployment<'t>,
    one: &Use<'t>,
    paths: &[&'static str],
) -> Vec<Value<'t>> {
    let mut found = routes_of_guarded_hosts(deployment, one, paths);
    found.retain(|route| one.entry.is_none_or(|entry| !is_disabled(entry, *route)));
    found
}

/// The routes to the homeserver that requests for these paths may take, where the module is on for the virtual host. It
/// may be off for the route.
pub(super) fn routes_of_guarded_hosts<'t>(
    deployment: &Deployment<'t>,
    one: &Use<'t>,
    paths: &[&'static str],
) -> Vec<Value<'t>> {
    routes_among(&hosts(deployment, one), paths)
}

/// The routes to the homeserver that requests for these paths may take. The module may be off for the virtual host and
/// for the route.
pub(super) fn routes_of_all_hosts<'t>(
    deployment: &Deployment<'t>,
    one: &Use<'t>,
    paths: &[&'static str],
) -> Vec<Value<'t>> {
    routes_among(&all_hosts(deployment, one), paths)
}

/// The routes of virtual hosts that requests for these paths may take, without those to MAS.
fn routes_among<'t>(hosts: &[Value<'t>], paths: &[&'static str]) -> Vec<Value<'t>> {
    let of_mas = clusters_of_logins(hosts);
    let mut seen = HashSet::new();
    let all = hosts.iter().flat_map(|host| sampled(*host, paths));
    let mut found: Vec<Value<'t>> = all.filter(|route| seen.insert(route.id)).collect();
    found.retain(|route| {
        let mut names = destinations(*route).peekable();
        names.peek().is_none() || names.any(|name| !of_mas.contains(name))
    });
    found
}

/// All connection managers of an Envoy, each with its use of the module, if it has one.
pub(super) fn managers_of<'d, 't>(
    deployment: &'d Deployment<'t>,
    envoy: usize,
) -> Vec<(Value<'t>, Option<&'d Use<'t>>)> {
    let own = |one: &&Use<'t>| one.envoy == envoy;
    let with_module = deployment.uses.iter().filter(own);
    let mut found: Vec<(Value<'t>, Option<&'d Use<'t>>)> = with_module
        .filter_map(|one| Some((one.entry?.manager, Some(one))))
        .collect();
    let has_it: HashSet<_> = found.iter().map(|(manager, _)| manager.key()).collect();
    let all = deployment.envoys.get(envoy).into_iter();
    found.extend(
        all.flat_map(Envoy::managers)
            .filter(|manager| !has_it.contains(&manager.key()))
            .map(|manager| (manager, None)),
    );
    found
}

/// The tables of routes of a connection manager: its own, and those of its scopes.
pub(super) fn tables<'t>(manager: Value<'t>) -> impl Iterator<Item = Value<'t>> {
    let of_scopes = scopes(manager).filter_map(|scope| scope.get("route_configuration"));
    manager.get("route_config").into_iter().chain(of_scopes)
}

/// The scopes that a connection manager names itself. A request chooses one of them, as a rule by a header.
pub(super) fn scopes<'t>(manager: Value<'t>) -> impl Iterator<Item = Value<'t>> {
    manager.list(&[
        "scoped_routes",
        "scoped_route_configurations_list",
        "scoped_route_configurations",
    ])
}

/// The virtual hosts of all tables of routes of a connection manager.
pub(super) fn virtual_hosts<'t>(manager: Value<'t>) -> impl Iterator<Item = Value<'t>> {
    tables(manager).flat_map(|table| table.list(&["virtual_hosts"]))
}

/// The tables of routes of a connection manager, their virtual hosts, and the routes of these with their actions, and with the
/// clusters of these.
pub(super) fn places<'t>(manager: Value<'t>) -> impl Iterator<Item = Value<'t>> {
    tables(manager).flat_map(|table| {
        let hosts = table.list(&["virtual_hosts"]);
        let inner = hosts.flat_map(|host| {
            let routes = routes_of(host);
            let inner = routes.flat_map(|route| {
                let clusters = route.list(&["route", "weighted_clusters", "clusters"]);
                [route]
                    .into_iter()
                    .chain(route.get("route"))
                    .chain(clusters)
            });
            std::iter::once(host).chain(inner)
        });
        std::iter::once(table).chain(inner)
    })
}

/// The clusters that a table of routes, or a part of it, may lead to, and where that is said: by name, by weight, for a copy, by a
/// matcher, or by a plugin that chooses. Each kind of route says it with the same keys, at whatever depth.
pub(super) fn targets<'t>(table: Value<'t>) -> Vec<(&'t str, Spot<'t>)> {
    let mut found = Vec::new();
    for one in mappings(table) {
        found.extend(one.text_at(&["cluster"]).map(|name| (name, one, "cluster")));
        let weighted = one.list(&["weighted_clusters", "clusters"]);
        found.extend(weighted.filter_map(|one| Some((one.text_at(&["name"])?, one, "name"))));
    }
    let with_spot = |(name, value, key)| (name, Spot::key(value, key));
    found.into_iter().map(with_spot).collect()
}

/// The clusters that a table of routes, or a part of it, sends copies of requests to. `None` is one that a header names.
pub(super) fn mirrors<'t>(table: Value<'t>) -> impl Iterator<Item = Option<&'t str>> {
    mappings(table)
        .into_iter()
        .flat_map(|one| one.list(&["request_mirror_policies"]))
        .map(|policy| policy.text_at(&["cluster"]))
}

/// Where a table of routes lets a client's header name the cluster.
pub(super) fn headers_of<'t>(table: Value<'t>) -> Vec<Spot<'t>> {
    let key = "cluster_header";
    let naming = mappings(table)
        .into_iter()
        .filter(|one| one.get(key).is_some());
    naming.map(|one| Spot::key(one, key)).collect()
}

/// Keys below which a table of routes leads nowhere: what it says of filters, and keys of the user's own.
const ELSEWHERE: [&str; 4] = [
    "filter_metadata",
    "metadata",
    "metadata_match",
    "typed_per_filter_config",
];

/// All mappings in a table of routes, each once, however many aliases it has.
pub(super) fn mappings<'t>(table: Value<'t>) -> Vec<Value<'t>> {
    let is_elsewhere = |key: &str| ELSEWHERE.iter().any(|name| is_field(key, name));
    let mut found = table.within(is_elsewhere);
    found.retain(|value| value.is_mapping());
    found
}

/// Whether the module is turned off for a route or a virtual host.
pub(super) fn is_disabled(entry: Entry<'_>, place: Value<'_>) -> bool {
    switched(entry, place) == Some(false)
}

/// Whether a route, or what it is in, turns the module on or off. `None` if it says nothing of the module.
pub(super) fn switched(entry: Entry<'_>, place: Value<'_>) -> Option<bool> {
    let filter = place
        .get("typed_per_filter_config")?
        .entry(entry.filter_name)?;
    let is_kept = filter.get("xds_matcher").is_some_and(keeps_private);
    let is_off = is_kept || filter.boolean_at(&["disabled"]) == Some(true);
    // A filter that is off is turned on by any configuration, even by an empty one.
    (is_off || filter.get("config").is_some()).then_some(!is_off)
}

/// The routes that a request for a path may take: the first that matches by the path alone, and those before it that ask
/// for more than the path.
pub(super) fn candidates<'t>(host: Value<'t>, path: &'static str) -> Vec<Value<'t>> {
    sampled(host, &[path])
}

/// The routes that requests for these paths may take, each once, those of the first path first.
pub(super) fn sampled<'t>(host: Value<'t>, paths: &[&'static str]) -> Vec<Value<'t>> {
    // Files may have thousands of routes: each is read once for all paths.
    let lists: Vec<(RouteList<'t>, Vec<Choice<'t>>)> = route_lists(host)
        .into_iter()
        .map(|list| {
            let choices = list.routes.iter().filter_map(|route| Choice::of(*route));
            let choices = choices.collect();
            (list, choices)
        })
        .collect();
    let mut seen = HashSet::new();
    let mut found = Vec::new();
    for path in paths {
        for (list, choices) in &lists {
            if !list.takes(path) {
                continue;
            }
            for choice in choices {
                if !host.tree.spend(1) {
                    return found;
                }
                if !choice.takes(path) {
                    continue;
                }
                found.extend(seen.insert(choice.route.id).then_some(choice.route));
                if !choice.asks_for_more {
                    break;
                }
            }
        }
    }
    found
}

/// What a route asks for.
struct Choice<'t> {
    route: Value<'t>,
    path: Asked<'t>,
    /// Whether the path may be in any case. Expressions and templates have their own.
    ignores_case: bool,
    asks_for_more: bool,
}

/// What a route asks of the path.
enum Asked<'t> {
    Exact(&'t str),
    Prefix(&'t str),
    Segments(&'t str),
    Regex(Value<'t>, &'t str),
    Template(&'t str),
}

impl<'t> Choice<'t> {
    fn of(route: Value<'t>) -> Option<Self> {
        let rule = route.get("match")?;
        let text = |path: &[&str]| rule.text_at(path);
        let path = if let Some(prefix) = text(&["prefix"]) {
            Asked::Prefix(prefix)
        } else if let Some(exact) = text(&["path"]) {
            Asked::Exact(exact)
        } else if let Some(prefix) = text(&["path_separated_prefix"]) {
            Asked::Segments(prefix)
        } else if let Some(regex) = text(&["safe_regex", "regex"]) {
            Asked::Regex(rule, regex)
        } else {
            Asked::Template(template(rule)?)
        };
        let asks_for_more = rule.members().any(|(key, _)| {
            let of_path = [
                "prefix",
                "path",
                "path_separated_prefix",
                "path_match_policy",
                "safe_regex",
                "case_sensitive",
            ];
            !of_path.iter().any(|name| is_field(key, name))
        });
        Some(Self {
            route,
            path,
            ignores_case: ignores_case(rule),
            asks_for_more,
        })
    }

    fn takes(&self, path: &'static str) -> bool {
        match self.path {
            Asked::Exact(exact) => rest_behind(path, exact, self.ignores_case) == Some(""),
            Asked::Prefix(prefix) => rest_behind(path, prefix, self.ignores_case).is_some(),
            Asked::Segments(prefix) => {
                let rest = rest_behind(path, prefix, self.ignores_case);
                rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
            }
            Asked::Regex(rule, regex) => is_noted_match(rule, regex, path),
            Asked::Template(template) => is_of_template(template, path),
        }
    }
}

/// Whether the `match` of a route takes its path in any case.
pub(super) fn ignores_case(rule: Value<'_>) -> bool {
    rule.boolean_at(&["case_sensitive"]) == Some(false)
}

/// The template of the paths that a route is for.
pub(super) fn template(rule: Value<'_>) -> Option<&str> {
    rule.text_at(&["path_match_policy", "typed_config", "path_template"])
}

/// Whether a path is of a template: `*` and `{name}` are one segment, `**` and `{name=**}` any number of them.
fn is_of_template(template: &str, path: &str) -> bool {
    let pattern = nameless(template);
    let mut segments = path.split('/');
    for part in pattern.split('/') {
        if part.starts_with("**") {
            return true;
        }
        match segments.next() {
            Some(segment) if part == "*" || part == segment => {}
            _ => return false,
        }
    }
    segments.next().is_none()
}

/// A template without the names of its parts.
pub(super) fn nameless(template: &str) -> String {
    let mut parts = template.split('{');
    let mut found = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let (part, rest) = part.split_once('}').unwrap_or((part, ""));
        found.push_str(part.split_once('=').map_or("*", |(_, pattern)| pattern));
        found.push_str(rest);
    }
    found
}

/// Whether the regular expression of a route, which stands in `rule`, is for a path, one of those that rules ask about.
pub(super) fn is_noted_match(rule: Value<'_>, regex: &str, path: &'static str) -> bool {
    is_read(rule, regex) && rule.tree.noted(rule.id, path).is_some()
}

/// Whether the regular expression of a route, which stands in `rule`, can be read. It is compiled once, and what it matches is noted.
pub(super) fn is_read(rule: Value<'_>, regex: &str) -> bool {
    const QUESTION: &str = "can it be read?";
    rule.tree.noted(rule.id, QUESTION).unwrap_or_else(|| {
        let compiled = compiled_at_a_cost(rule, regex);
        for path in asked() {
            let is_match = |regex: &Regex| regex.is_match(path.as_bytes());
            if compiled.as_ref().is_some_and(is_match) {
                rule.tree.note(rule.id, path, true);
            }
        }
        rule.tree.note(rule.id, QUESTION, compiled.is_some());
        compiled.is_some()
    })
}

/// Whether the regular expression of a route, which stands in `rule`, is for none of the known paths, and for one that needs a token
/// all the same, or is never public: a path that is made from the expression.
pub(super) fn is_made_private(rule: Value<'_>, regex: &str) -> bool {
    const QUESTION: &str = "does a path that is made from it need a token?";
    rule.tree.noted(rule.id, QUESTION).unwrap_or_else(|| {
        let mut known = SAMPLES.iter();
        let answer = !known.any(|path| is_noted_match(rule, regex, path)) && {
            let mut made = examples(rule, regex).into_iter();
            made.any(|path| needs_token(&path))
        };
        rule.tree.note(rule.id, QUESTION, answer);
        answer
    })
}

/// All paths that rules ask about.
fn asked() -> impl Iterator<Item = &'static str> {
    let samples = SAMPLES.iter().copied();
    samples.chain(SIGNED).chain(ASKED)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_template_names_segments() {
        let path = "/_matrix/client/v3/sync";
        for (template, expected) in [
            ("/_matrix/client/{rest=**}", true),
            ("/_matrix/client/**", true),
            ("/_matrix/{api}/v3/{name=*}", true),
            ("/_matrix/*/*/sync", true),
            ("/{api=_matrix/client}/v3/sync", true),
            ("/_matrix/{api}/v3", false),
            ("/_matrix/{api}/v3/sync/{more}", false),
            ("/_matrix/federation/{rest=**}", false),
        ] {
            assert_eq!(is_of_template(template, path), expected, "{template}");
        }
    }

    #[test]
    fn what_is_private_needs_a_token() {
        for path in PRIVATE {
            assert!(needs_token(path), "{path}");
        }
    }
}
