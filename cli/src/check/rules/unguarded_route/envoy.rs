//! In Envoy's own configuration a route may turn the module off, and a listener beside the gateway may have none.
//!
//! The non-obvious rule: both are often right. So a route counts only if a request that needs a token may take it, to a
//! server that the module is before elsewhere. A listener counts only if callers from outside of Envoy's own machine and
//! network reach it.

use std::collections::HashSet;

use super::{Deployment, Found, Spot, UNREAD, matcher, upgrades};
use crate::{
    check::{
        deployment::{Entry, Envoy, Host, Use},
        pattern::{Extent, compiled_for},
        rules::{
            bare_listener::{entry_of, has_guard},
            endpoints::with_same,
            hosts::clusters_of_mas,
            internal_address::is_exposed,
            route_lists::routes_of,
            routes::{
                PRIVATE, before_servers, headers_of, ignores_case, is_disabled, is_made_private,
                is_read, nameless, routes_of_all_hosts, sampled, switched, tables, targets,
                template, virtual_hosts,
            },
            samples::SAMPLES,
            tokens::{Tokens, begins_private, needs_token, of_path_in_any_case},
        },
    },
    yaml::Value,
};

const KEY: &str = "typed_per_filter_config";

pub(super) fn check<'t>(deployment: &Deployment<'t>, found: &mut Found<'t>) {
    for (number, envoy) in deployment.envoys.iter().enumerate() {
        let is_it = |one: &&Use<'t>| one.host == Host::Envoy && one.envoy == number;
        let gateways = before_servers(deployment).filter(is_it);
        let with_entry = gateways.filter_map(|one| Some((one, one.entry?)));
        let (off, on): (Vec<_>, Vec<_>) = with_entry.partition(|(_, entry)| is_off(*entry));
        for (one, _) in off {
            found.note(
                one.spot(),
                "the module is turned off here: its listener is as it was without it, and leaves a client's own identity headers \
                 in",
                "take out `disabled: true` beside the filter's name",
            );
        }
        let routes = on
            .iter()
            .flat_map(|(one, _)| routes_of_all_hosts(deployment, one, &SAMPLES));
        let mut servers: HashSet<&str> = routes
            .filter_map(|route| route.get("route"))
            .flat_map(targets)
            .map(|(name, _)| name)
            .collect();
        // One address may be the homeserver's and MAS's.
        let of_mas: HashSet<&str> = on
            .iter()
            .flat_map(|(one, _)| clusters_of_mas(deployment, one))
            .collect();
        let same = with_same(&envoy.clusters, &servers).into_iter();
        servers.extend(same.filter(|name| !of_mas.contains(name)));
        matcher::check(deployment, number, envoy, found);
        for (_, entry) in on {
            check_disabled_routes(entry, &servers, found);
            upgrades::check(deployment, entry, &servers, found);
        }
        check_neighbours(deployment, number, envoy, &servers, found);
    }
}

/// Whether a filter is turned off for all requests.
fn is_off(entry: Entry<'_>) -> bool {
    let mut places = tables(entry.manager).flat_map(|table| {
        let hosts = table.list(&["virtual_hosts"]);
        let inner = hosts.flat_map(|host| {
            let routes = routes_of(host);
            let inner = routes.flat_map(|route| std::iter::once(route).chain(weighted(route)));
            std::iter::once(host).chain(inner)
        });
        std::iter::once(table).chain(inner)
    });
    entry.is_off && !places.any(|place| switched(entry, place) == Some(true))
}

fn weighted<'t>(route: Value<'t>) -> impl Iterator<Item = Value<'t>> {
    route.list(&["route", "weighted_clusters", "clusters"])
}

/// The virtual hosts of a table of routes, each with its table.
fn with_hosts<'t>(table: Value<'t>) -> impl Iterator<Item = (Value<'t>, Value<'t>)> {
    let hosts = table.list(&["virtual_hosts"]);
    hosts.map(move |host| (table, host))
}

/// Tells of the routes to these servers that the module is turned off for.
fn check_disabled_routes<'t>(entry: Entry<'t>, servers: &HashSet<&str>, found: &mut Found<'t>) {
    for (table, host) in tables(entry.manager).flat_map(with_hosts) {
        for (rule, route, leading) in unread_routes(host) {
            let (_, is_on) = state(entry, [route, host, table]);
            let leads_there = |(name, _): &Target<'t>| leads_to(*name, servers);
            // A cluster that only this route leads to is not known as the homeserver's.
            let regex = rule.text_at(&["safe_regex", "regex"]);
            let names_matrix = regex.is_some_and(|regex| regex.contains("_matrix"));
            if !is_on && (names_matrix || leading.iter().any(leads_there)) {
                found.note(Spot::key(rule, "safe_regex"), UNREAD, OFF_HELP);
            }
        }
        for (route, leading) in private_routes(host) {
            let (place, is_on) = state(entry, [route, host, table]);
            let is_server = |name: &str| servers.contains(name);
            if !is_on {
                // A part of the route that turns the module on does not do so for the others.
                let own = weighted(route).filter(|one| switched(entry, *one) == Some(true));
                let on: HashSet<&str> = own.filter_map(|one| one.text_at(&["name"])).collect();
                let counts = |name: Option<&str>| name.is_none_or(|name| !on.contains(name));
                if leading
                    .iter()
                    .any(|(name, _)| leads_to(*name, servers) && counts(*name))
                {
                    let spot = place.map_or_else(
                        || Spot::first_key(route, &["route"]),
                        |place| Spot::key(place, KEY),
                    );
                    found.add(
                        spot,
                        off_message(place.is_some()),
                        off_help(place.is_some()),
                    );
                }
            }
            let of_clusters = weighted(route).filter(|cluster| {
                let name = cluster.text_at(&["name"]);
                is_disabled(entry, *cluster) && name.is_some_and(is_server)
            });
            for cluster in of_clusters {
                found.add(Spot::key(cluster, KEY), off_message(true), off_help(true));
            }
        }
    }
}

/// Where it is said whether the module is on for a route, and whether it is. Of the route, its virtual host and its table, the
/// first that says it counts, and else the list of filters.
fn state<'t>(entry: Entry<'t>, places: [Value<'t>; 3]) -> (Option<Value<'t>>, bool) {
    let mut places = places.into_iter();
    let saying = places.find_map(|place| Some((place, switched(entry, place)?)));
    saying.map_or((None, !entry.is_off), |(place, is_on)| (Some(place), is_on))
}

/// The routes to these servers that requests which need a token may take, where the module is on.
pub(super) fn guarded_actions<'t>(entry: Entry<'t>, servers: &HashSet<&str>) -> Vec<Value<'t>> {
    let mut found = Vec::new();
    for (table, host) in tables(entry.manager).flat_map(with_hosts) {
        for (route, leading) in private_routes(host) {
            let (_, is_on) = state(entry, [route, host, table]);
            if is_on && leading.iter().any(|(name, _)| leads_to(*name, servers)) {
                found.extend(route.get("route"));
            }
        }
    }
    found
}

fn off_message(is_said: bool) -> &'static str {
    if is_said {
        "the module is turned off here for requests that need a token: they reach the server unverified, and with the identity \
         headers that a client wrote"
    } else {
        "`disabled: true` beside the filter's name turns the module off, and nothing turns it on for this route: requests that \
         need a token reach the server unverified, and with the identity headers that a client wrote"
    }
}

fn off_help(is_said: bool) -> &'static str {
    if is_said {
        OFF_HELP
    } else {
        "take out `disabled: true` beside the filter's name, and turn the module off where no token comes, or turn it on for this \
         route, too"
    }
}

/// What to do where the module is turned off.
pub(super) const OFF_HELP: &str = "turn it off only for routes without tokens, such as `/_matrix/federation/` and `/_matrix/key/`, or lead them to another server";

const NEIGHBOUR_HELP: &str = "give the listener the module's gateway role, let it lead to paths without tokens alone, such as `/_matrix/federation/`, or \
     close it: by its address, or by what else closes a port, given to `check` as well";

/// Tells of the listeners without the module that lead to these servers.
fn check_neighbours<'t>(
    deployment: &Deployment<'t>,
    number: usize,
    envoy: &Envoy<'t>,
    servers: &HashSet<&str>,
    found: &mut Found<'t>,
) {
    let own = || deployment.uses.iter().filter(|one| one.envoy == number);
    let entries = own().filter_map(|one| one.entry).filter(|it| !is_off(*it));
    let with_module: HashSet<_> = entries.map(|entry| entry.manager.key()).collect();
    // Plugins inside of another filter.
    let inner = own().filter(|one| one.entry.is_none());
    let inner: Vec<_> = inner.filter_map(|one| one.plugin).collect();
    let has_inner = |manager: Value<'t>| {
        let whole = manager.place();
        let inner = inner
            .iter()
            .filter(|plugin| std::ptr::eq(plugin.tree, manager.tree));
        let mut places = inner.map(|plugin| plugin.place());
        places.any(|place| whole.contains(&place))
    };
    let filters = envoy.network_filters();
    for filter in filters.filter(|filter| !with_module.contains(&filter.config.key())) {
        let leading: Vec<Target<'t>> = if filter.is_tcp_proxy() {
            by_name(filter.config).collect()
        } else if filter.is_manager() && !has_guard(filter.config) && !has_inner(filter.config) {
            let routes = virtual_hosts(filter.config).flat_map(private_routes);
            routes.flat_map(|(_, leading)| leading).collect()
        } else {
            continue;
        };
        let mut leading = leading.into_iter();
        let Some((_, spot)) = leading.find(|(name, _)| leads_to(*name, servers)) else {
            let mut unread = virtual_hosts(filter.config).flat_map(unread_routes);
            let unread = unread.find(|(_, _, leading)| {
                let mut names = leading.iter().map(|(name, _)| *name);
                names.any(|name| leads_to(name, servers))
            });
            if let Some((rule, _, _)) = unread
                && is_exposed(deployment, entry_of(filter))
            {
                found.note(Spot::key(rule, "safe_regex"), UNREAD, NEIGHBOUR_HELP);
            }
            continue;
        };
        if is_exposed(deployment, entry_of(filter)) {
            found.add(
                spot,
                "this listener leads to the homeserver and has no module: requests that need a token reach the server unverified, \
                 and with the identity headers that a client wrote",
                NEIGHBOUR_HELP,
            );
        }
    }
}

/// Whether a cluster is one of these. One that a header names may be any.
fn leads_to(name: Option<&str>, servers: &HashSet<&str>) -> bool {
    name.map_or(!servers.is_empty(), |name| servers.contains(name))
}

/// The clusters that something leads to by their names.
fn by_name<'t>(action: Value<'t>) -> impl Iterator<Item = Target<'t>> {
    let targets = targets(action).into_iter();
    targets.map(|(name, spot)| (Some(name), spot))
}

/// A cluster that a route leads to, and where that is said. It has no name here if a header names it.
type Target<'t> = (Option<&'t str>, Spot<'t>);

/// The routes of a virtual host that may be taken by requests that need a token, and where these routes lead.
fn private_routes<'t>(host: Value<'t>) -> Vec<(Value<'t>, Vec<Target<'t>>)> {
    let sampled = sampled(host, &SAMPLES).into_iter();
    let sampled: HashSet<_> = sampled.map(|route| route.id).collect();
    routes_of(host)
        .filter(|route| !is_for_options(*route))
        .filter(|route| sampled.contains(&route.id) || is_private(*route))
        .filter_map(|route| Some((route, leading(route)?)))
        .collect()
}

/// Whether a route takes requests for OPTIONS alone, which need no token.
fn is_for_options(route: Value<'_>) -> bool {
    let mut headers = route.list(&["match", "headers"]);
    headers.any(|header| {
        let exact = header.text_at(&["string_match", "exact"]);
        header.text_at(&["name"]) == Some(":method")
            && exact.or(header.text_at(&["exact_match"])) == Some("OPTIONS")
            && header.boolean_at(&["invert_match"]) != Some(true)
    })
}

/// The clusters that a route leads to.
fn leading<'t>(route: Value<'t>) -> Option<Vec<Target<'t>>> {
    let action = route.get("route")?;
    let by_header = headers_of(action).into_iter().map(|spot| (None, spot));
    Some(by_name(action).chain(by_header).collect())
}

/// The routes of a virtual host with an expression that cannot be tried, each behind its `match`, and where they lead.
fn unread_routes<'t>(host: Value<'t>) -> Vec<(Value<'t>, Value<'t>, Vec<Target<'t>>)> {
    routes_of(host)
        .filter_map(|route| {
            let rule = route.get("match")?;
            let regex = rule.text_at(&["safe_regex", "regex"])?;
            // What is told of routes to private paths is no note.
            let is_it = !is_read(rule, regex)
                && !is_for_options(route)
                && !is_private(route)
                && !route.tree.is_exhausted();
            is_it.then(|| Some((rule, route, leading(route)?)))?
        })
        .collect()
}

/// Whether requests that need a token may take a route: by their own paths, by the paths that the route makes of them, or inside of
/// a tunnel.
fn is_private(route: Value<'_>) -> bool {
    let keys = ["path", "prefix", "path_separated_prefix"];
    let path = keys
        .into_iter()
        .find_map(|key| route.text_at(&["match", key]));
    let template = route.get("match").and_then(template);
    let of_template = template.map(|template| nameless(template).replace('*', "a"));
    let rule = route.get("match");
    let regex = rule.and_then(|rule| Some((rule, rule.text_at(&["safe_regex", "regex"])?)));
    let ignores_case = rule.is_some_and(ignores_case);
    path.is_some_and(|path| {
        needs_token(path) || ignores_case && of_path_in_any_case(path) == Tokens::Needed
    }) || regex.is_some_and(|(rule, regex)| is_made_private(rule, regex))
        || of_template.is_some_and(|path| needs_token(&path))
        || route.at(&["match", "connect_matcher"]).is_some()
        || makes_private(route)
}

/// Whether a route makes a path of others that is for requests that need a token. Of what is put together, the beginning tells.
fn makes_private(route: Value<'_>) -> bool {
    let text = |path: &[&str]| route.at(&["route"])?.text_at(path);
    let prefix = text(&["prefix_rewrite"]);
    if let Some(exact) = prefix.filter(|_| route.at(&["match", "path"]).is_some()) {
        return needs_token(exact);
    }
    let regex = text(&["regex_rewrite", "substitution"]);
    let template = text(&[
        "path_rewrite_policy",
        "typed_config",
        "path_template_rewrite",
    ]);
    let beginnings = regex.into_iter().chain(template).filter_map(|text| {
        let beginning = text.split(['\\', '{']).next()?;
        (beginning.len() > 1).then_some(beginning)
    });
    prefix.into_iter().chain(beginnings).any(begins_private) || strips_to_private(route)
}

/// Whether a route takes a part out of paths below its prefix, by an expression, so that one is left which needs a token.
fn strips_to_private(route: Value<'_>) -> bool {
    let mut prefixes = ["prefix", "path_separated_prefix"].into_iter();
    let prefix = prefixes.find_map(|key| route.text_at(&["match", key]));
    let rewrite = route.at(&["route", "regex_rewrite"]);
    let (Some(prefix), Some(rewrite)) = (prefix, rewrite) else {
        return false;
    };
    let text = |path: &[&str]| rewrite.text_at(path).unwrap_or_default();
    let Some(pattern) = compiled_for(rewrite, text(&["pattern", "regex"]), Extent::Anywhere) else {
        return false;
    };
    let substitution = replacement(text(&["substitution"]));
    PRIVATE.iter().any(|path| {
        let path = format!("{}{path}", prefix.trim_end_matches('/'));
        let made = pattern.replace_all(path.as_bytes(), substitution.as_slice());
        std::str::from_utf8(&made).is_ok_and(needs_token)
    })
}

/// What an expression puts in place of a match, in the words of this engine: `\1` of RE2 is `${1}` here.
fn replacement(substitution: &str) -> Vec<u8> {
    let mut found = String::new();
    let mut letters = substitution.chars();
    while let Some(letter) = letters.next() {
        match (letter, if letter == '\\' { letters.next() } else { None }) {
            (_, Some(group)) if group.is_ascii_digit() => {
                found.extend(["${", group.encode_utf8(&mut [0; 4]), "}"]);
            }
            (_, Some(other)) => found.push(other),
            ('$', None) => found.push_str("$$"),
            (_, None) => found.push(letter),
        }
    }
    found.into_bytes()
}
