//! Which routes a path may take, as Envoy and the Gateway API choose them.

use std::{collections::HashSet, time::Duration};

use matrix_edge_auth::config::Config;

use super::{
    endpoints::is_loopback,
    matcher::keeps_private,
    route_lists::{RouteList, route_lists, routes_of},
    samples::SAMPLES,
};
use crate::{
    check::{
        deployment::{Deployment, Entry, Envoy, Use},
        finding::Spot,
        pattern::compiled_at_a_cost,
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

/// A path that MAS serves on the homeserver's host.
const LOGIN: &str = "/_matrix/client/v3/login";

/// Requests that end a session, which MAS serves: on the homeserver's host, and on its own.
const ENDS: [&str; 2] = ["/_matrix/client/v3/logout", "/oauth2/revoke"];

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
fn destinations<'t>(route: Value<'t>) -> impl Iterator<Item = &'t str> {
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
pub(super) fn guarded_routes<'t>(one: &Use<'t>, paths: &[&'static str]) -> Vec<Value<'t>> {
    let mut found = routes_of_guarded_hosts(one, paths);
    found.retain(|route| one.entry.is_none_or(|entry| !is_disabled(entry, *route)));
    found
}

/// The routes to the homeserver that requests for these paths may take, where the module is on for the virtual host. It
/// may be off for the route.
pub(super) fn routes_of_guarded_hosts<'t>(one: &Use<'t>, paths: &[&'static str]) -> Vec<Value<'t>> {
    let hosts = one.entry.map(|entry| hosts(entry, one.config()));
    routes_among(hosts.unwrap_or_default(), paths)
}

/// The routes to the homeserver that requests for these paths may take. The module may be off for the virtual host and
/// for the route.
pub(super) fn routes_of_all_hosts<'t>(one: &Use<'t>, paths: &[&'static str]) -> Vec<Value<'t>> {
    let hosts = one
        .entry
        .map(|entry| hosts_among(entry.manager, one.config(), |_| true));
    routes_among(hosts.unwrap_or_default(), paths)
}

/// The routes of virtual hosts that requests for these paths may take, without those to MAS. A cluster is MAS's if a
/// virtual host sends it logins and none of these paths.
fn routes_among<'t>(hosts: Vec<Value<'t>>, paths: &[&'static str]) -> Vec<Value<'t>> {
    let mut found: Vec<Value<'t>> = Vec::new();
    let mut seen = HashSet::new();
    let mut of_mas: HashSet<&str> = HashSet::new();
    for host in hosts {
        let own = sampled(host, paths);
        let clusters: HashSet<&str> = own.iter().copied().flat_map(destinations).collect();
        let logins = candidates(host, LOGIN);
        let elsewhere = logins.into_iter().flat_map(destinations);
        of_mas.extend(elsewhere.filter(|name| !clusters.contains(name)));
        found.extend(own.into_iter().filter(|route| seen.insert(route.id)));
    }
    found.retain(|route| {
        let mut names = destinations(*route).peekable();
        names.peek().is_none() || names.any(|name| !of_mas.contains(name))
    });
    found
}

/// The routes to MAS that a request which ends a session may take, each with its virtual host. On the homeserver's host these are
/// the routes that do not lead where `/sync` does.
pub(super) fn ends<'t>(one: &Use<'t>) -> Vec<(Value<'t>, Value<'t>)> {
    let Some((entry, config)) = one.entry.zip(one.config()) else {
        return Vec::new();
    };
    let authority = config.introspection.authority.as_str();
    let all = virtual_hosts(entry.manager);
    let of_mas = all.filter(|host| {
        let mut domains = host.list(&["domains"]);
        domains.any(|domain| domain.text() == Some(authority))
    });
    let mut found: Vec<(Value<'t>, Value<'t>)> = Vec::new();
    for host in of_mas {
        let own = ENDS.into_iter().flat_map(|path| candidates(host, path));
        found.extend(own.map(|route| (host, route)));
    }
    for host in hosts_among(entry.manager, Some(config), |_| true) {
        let waiting: HashSet<&str> = waiting_clusters(&host).collect();
        let leads_elsewhere = |route: &Value<'t>| {
            let mut names = destinations(*route).peekable();
            let is_seen = names.peek().is_some() && !waiting.is_empty();
            is_seen && !names.any(|name| waiting.contains(name))
        };
        let own = ENDS.into_iter().flat_map(|path| candidates(host, path));
        found.extend(own.filter(leads_elsewhere).map(|route| (host, route)));
    }
    found
}

/// The clusters that lead to MAS: for the module's own calls, and for clients.
pub(super) fn clusters_of_mas<'t>(one: &Use<'t>) -> Vec<&'t str> {
    let path = ["introspection", "cluster"];
    let asked = one.configuration.and_then(|it| it.text_at(&path));
    let actions = ends(one)
        .into_iter()
        .filter_map(|(_, route)| route.get("route"));
    let clients = actions.flat_map(targets).map(|(name, _)| name);
    clients.chain(asked).collect()
}

/// The virtual hosts of the homeserver, without those that the module is turned off for. The virtual host of MAS is left
/// out, and so is that of another service, such as a web client, unless its `/sync` leads where the homeserver's does.
pub(super) fn hosts<'t>(entry: Entry<'t>, config: Option<&Config>) -> Vec<Value<'t>> {
    hosts_among(entry.manager, config, |host| !is_disabled(entry, host))
}

fn hosts_among<'t>(
    manager: Value<'t>,
    config: Option<&Config>,
    counts: impl Fn(Value<'t>) -> bool,
) -> Vec<Value<'t>> {
    let authority = config.map(|config| config.introspection.authority.as_str());
    let name = config.map(|config| config.server_name.as_str());
    let all = virtual_hosts(manager);
    let candidates: Vec<Value<'t>> = all
        .filter(|host| {
            let mut domains = host.list(&["domains"]).filter_map(Value::text);
            !domains.any(|domain| Some(domain) == authority) && counts(*host)
        })
        .collect();
    let own = |host: &&Value<'t>| is_of_homeserver(**host, name);
    let clusters: HashSet<&str> = candidates
        .iter()
        .filter(own)
        .flat_map(waiting_clusters)
        .collect();
    if clusters.is_empty() {
        return candidates;
    }
    let is_it = |host: &Value<'t>| {
        is_of_homeserver(*host, name)
            || waiting_clusters(host).any(|cluster| clusters.contains(cluster))
    };
    candidates.into_iter().filter(is_it).collect()
}

/// Whether a virtual host is the homeserver's, by one of its domains or by a path of Matrix.
fn is_of_homeserver(host: Value<'_>, name: Option<&str>) -> bool {
    let mut domains = host.list(&["domains"]).filter_map(Value::text);
    let is_its = |domain: &str| domain.starts_with("matrix.") || Some(domain) == name;
    let has_path = |route: Value<'_>| {
        let rule = route.get("match");
        let keys = ["prefix", "path", "path_separated_prefix"];
        let paths = keys.into_iter().filter_map(|key| rule?.text_at(&[key]));
        let regex = rule.and_then(|rule| rule.text_at(&["safe_regex", "regex"]));
        let mut texts = paths.chain(regex);
        texts.any(|text| text.contains("/_matrix") || text.contains("/_synapse"))
    };
    domains.any(is_its) || routes_of(host).any(has_path)
}

/// The clusters that requests for news may go to.
fn waiting_clusters<'t>(host: &Value<'t>) -> impl Iterator<Item = &'t str> + use<'t> {
    let host = *host;
    let routes = WAITING
        .into_iter()
        .flat_map(move |path| candidates(host, path));
    routes.flat_map(destinations)
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
    of_lists(&route_lists(host), path)
}

/// The routes that requests for these paths may take, each once, those of the first path first.
pub(super) fn sampled<'t>(host: Value<'t>, paths: &[&'static str]) -> Vec<Value<'t>> {
    let lists = route_lists(host);
    let mut seen = HashSet::new();
    let all = paths.iter().flat_map(|path| of_lists(&lists, path));
    all.filter(|route| seen.insert(route.id)).collect()
}

fn of_lists<'t>(lists: &[RouteList<'t>], path: &'static str) -> Vec<Value<'t>> {
    let own = lists.iter().filter(|list| list.takes(path));
    own.flat_map(|list| taken(&list.routes, path)).collect()
}

/// The routes of one list that a request for a path may take.
fn taken<'t>(routes: &[Value<'t>], path: &'static str) -> Vec<Value<'t>> {
    let mut found = Vec::new();
    for route in routes.iter().copied() {
        let Some(rule) = route.get("match").filter(|rule| matches(*rule, path)) else {
            continue;
        };
        found.push(route);
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
        if !asks_for_more {
            break;
        }
    }
    found
}

fn matches(rule: Value<'_>, path: &'static str) -> bool {
    if let Some(prefix) = rule.text_at(&["prefix"]) {
        path.starts_with(prefix)
    } else if let Some(exact) = rule.text_at(&["path"]) {
        path == exact
    } else if let Some(prefix) = rule.text_at(&["path_separated_prefix"]) {
        let rest = path.strip_prefix(prefix);
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    } else if let Some(regex) = rule.text_at(&["safe_regex", "regex"]) {
        is_noted_match(rule, regex, path)
    } else if let Some(template) = template(rule) {
        is_of_template(template, path)
    } else {
        false
    }
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

/// Whether the regular expression of a route, which stands in `rule`, is for a path. The expression is compiled once, for all paths
/// that rules ask about.
pub(super) fn is_noted_match(rule: Value<'_>, regex: &str, path: &'static str) -> bool {
    rule.tree.noted(rule.id, path).unwrap_or_else(|| {
        let regex = compiled_at_a_cost(rule, regex);
        let answer = |path: &str| {
            let regex = regex.as_ref();
            regex.is_some_and(|regex| regex.is_match(path.as_bytes()))
        };
        for other in SAMPLES.into_iter().chain(SIGNED).chain(ENDS).chain([LOGIN]) {
            rule.tree.note(rule.id, other, answer(other));
        }
        answer(path)
    })
}

#[cfg(test)]
mod tests {
    use matrix_edge_auth::matrix::endpoint::{AuthRequirement, Method, classify};

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
            let needs = ["GET", "POST"].map(|method| {
                let method = Method::from_bytes(method.as_bytes());
                classify(path.as_bytes(), method)
            });
            let is_it = |it: &AuthRequirement| {
                matches!(it, AuthRequirement::Required | AuthRequirement::Admin)
            };
            assert!(needs.iter().any(is_it), "{path}: {needs:?}");
        }
    }
}
