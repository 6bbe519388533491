//! Which virtual hosts of a connection manager are the homeserver's, and which are MAS's.
//!
//! The non-obvious rule: another service may have a host there, too, such as a web client or a website at the `server_name`. A host is
//! the homeserver's by its name, by a path of Matrix, or by a cluster: that of such a host, or that of the provisioning role. If
//! nothing says which host it is, and they lead to different servers, none is looked at, and a note says so.

use std::collections::HashSet;

use matrix_edge_auth::config::{Config, Role};

use super::{
    Deployment,
    homeserver::{Lead, Names, are_own},
    route_lists::routes_of,
    routes::{
        PRIVATE, WAITING, candidates, destinations, is_disabled, sampled, tables, targets,
        virtual_hosts,
    },
};
use crate::{check::deployment::Use, yaml::Value};

/// Paths that MAS serves on the homeserver's host.
const LOGINS: [&str; 2] = ["/_matrix/client/v3/login", "/_matrix/client/v3/logout"];

/// A path that MAS serves on its own host.
const REVOCATION: &str = "/oauth2/revoke";

/// Requests that end a session, which MAS serves: on the homeserver's host, and on its own.
const ENDS: [&str; 2] = [LOGINS[1], REVOCATION];

/// A path that neither serves, and a web client might.
const OTHER: &str = "/a/page/of/another/service";

/// The paths that are asked about here.
pub(super) const ASKED: [&str; 4] = [LOGINS[0], LOGINS[1], REVOCATION, OTHER];

/// The virtual hosts of the homeserver, without those that the module is turned off for.
pub(super) fn hosts<'t>(deployment: &Deployment<'t>, one: &Use<'t>) -> Vec<Value<'t>> {
    let is_on = |host| one.entry.is_none_or(|entry| !is_disabled(entry, host));
    hosts_among(deployment, one, is_on).unwrap_or_default()
}

/// The virtual hosts of the homeserver. The module may be turned off for them.
pub(super) fn all_hosts<'t>(deployment: &Deployment<'t>, one: &Use<'t>) -> Vec<Value<'t>> {
    hosts_among(deployment, one, |_| true).unwrap_or_default()
}

/// One of the virtual hosts, if nothing says which of them is the homeserver's.
pub(super) fn unknown_host<'t>(deployment: &Deployment<'t>, one: &Use<'t>) -> Option<Value<'t>> {
    hosts_among(deployment, one, |_| true).err()
}

/// The virtual hosts of MAS: those of its name, and those that send `POST /oauth2/revoke` where logins of the homeserver go.
pub(super) fn hosts_of_mas<'t>(deployment: &Deployment<'t>, one: &Use<'t>) -> Vec<Value<'t>> {
    let Some(entry) = one.entry else {
        return Vec::new();
    };
    let own = all_hosts(deployment, one);
    let logins = clusters_of_logins(&own);
    let own: HashSet<_> = own.iter().map(|host| host.id).collect();
    let is_it = |host: &Value<'t>| {
        let routes = candidates(*host, REVOCATION);
        let mut names = routes.into_iter().flat_map(destinations);
        is_named_mas(*host, one.config()) || names.any(|name| logins.contains(name))
    };
    virtual_hosts(entry.manager)
        .filter(|host| !own.contains(&host.id))
        .filter(is_it)
        .collect()
}

/// Whether a virtual host has the name of MAS.
fn is_named_mas(host: Value<'_>, config: Option<&Config>) -> bool {
    let authority = config.map(|config| config.introspection.authority.as_str());
    let mut domains = host.list(&["domains"]).filter_map(Value::text);
    domains.any(|domain| Some(domain) == authority)
}

/// The virtual hosts of the homeserver among those that count. An error is one of those that nothing tells apart.
fn hosts_among<'t>(
    deployment: &Deployment<'t>,
    one: &Use<'t>,
    counts: impl Fn(Value<'t>) -> bool,
) -> Result<Vec<Value<'t>>, Value<'t>> {
    let Some(entry) = one.entry else {
        return Ok(Vec::new());
    };
    let hosts: Vec<Value<'t>> = virtual_hosts(entry.manager)
        .filter(|host| !is_named_mas(*host, one.config()) && counts(*host))
        .collect();
    let names = Names::of_use(one);
    let provisioned: HashSet<&str> = deployment
        .peers(one)
        .filter(|peer| peer.is(Role::Provisioning))
        .filter_map(|peer| peer.entry)
        .flat_map(|entry| tables(entry.manager))
        .flat_map(targets)
        .map(|(name, _)| name)
        .collect();
    let lead = |host: &Value<'t>| {
        let servers: Vec<&str> = waiting_clusters(*host).collect();
        let is_provisioned = servers.iter().any(|name| provisioned.contains(name));
        Lead {
            names_path: is_provisioned || routes_of(*host).any(names_matrix),
            owner: names.owner(host.list(&["domains"]).filter_map(Value::text)),
            servers,
        }
    };
    let leads: Vec<_> = hosts.iter().map(lead).collect();
    match (are_own(&leads), hosts.first()) {
        (None, Some(host)) => Err(*host),
        (own, _) => {
            let own = own.unwrap_or_default();
            let with_own = hosts.into_iter().zip(own);
            Ok(with_own
                .filter_map(|(host, is_own)| is_own.then_some(host))
                .collect())
        }
    }
}

/// Whether a route names a path of Matrix.
fn names_matrix(route: Value<'_>) -> bool {
    let rule = route.get("match");
    let keys = ["prefix", "path", "path_separated_prefix"];
    let paths = keys.into_iter().filter_map(|key| rule?.text_at(&[key]));
    let regex = rule.and_then(|rule| rule.text_at(&["safe_regex", "regex"]));
    let mut texts = paths.chain(regex);
    texts.any(|text| text.contains("/_matrix") || text.contains("/_synapse"))
}

/// The clusters that requests for news may go to.
fn waiting_clusters<'t>(host: Value<'t>) -> impl Iterator<Item = &'t str> {
    let routes = WAITING
        .into_iter()
        .flat_map(move |path| candidates(host, path));
    routes.flat_map(destinations)
}

/// The clusters that a virtual host of the homeserver sends requests of clients to that need a token. The admin API may have no
/// route of its own, and then goes where all else goes.
fn private_clusters<'t>(host: Value<'t>) -> HashSet<&'t str> {
    let mut paths = PRIVATE.to_vec();
    paths.retain(|path| path.starts_with("/_matrix/"));
    let routes = sampled(host, &paths).into_iter();
    routes.flat_map(destinations).collect()
}

/// The clusters that virtual hosts of the homeserver send logins to, and nothing that needs a token: they are MAS's.
pub(super) fn clusters_of_logins<'t>(hosts: &[Value<'t>]) -> HashSet<&'t str> {
    let mut found = HashSet::new();
    for host in hosts.iter().copied() {
        let private = private_clusters(host);
        let logins = LOGINS.into_iter().flat_map(|path| candidates(host, path));
        let names = logins.flat_map(destinations);
        found.extend(names.filter(|name| !private.contains(name)));
    }
    found
}

/// The routes to MAS that a request which ends a session may take, each with its virtual host. On the homeserver's host a route is
/// one to MAS if its cluster gets logins, or if it is for no other service's paths, and none that needs a token goes there.
pub(super) fn ends<'t>(deployment: &Deployment<'t>, one: &Use<'t>) -> Vec<(Value<'t>, Value<'t>)> {
    if one.config().is_none() {
        return Vec::new();
    }
    let own = all_hosts(deployment, one);
    let logins = clusters_of_logins(&own);
    let mut found: Vec<(Value<'t>, Value<'t>)> = Vec::new();
    for host in hosts_of_mas(deployment, one) {
        let routes = ENDS.into_iter().flat_map(|path| candidates(host, path));
        found.extend(routes.map(|route| (host, route)));
    }
    for host in own {
        let private = private_clusters(host);
        let others: HashSet<_> = candidates(host, OTHER).iter().map(|it| it.id).collect();
        let is_of_mas = |route: &Value<'t>| {
            let names: Vec<&str> = destinations(*route).collect();
            let gets_logins = names.iter().any(|name| logins.contains(name));
            let is_private = names.iter().any(|name| private.contains(name));
            !names.is_empty()
                && !private.is_empty()
                && !is_private
                && (gets_logins || !others.contains(&route.id))
        };
        let routes = ENDS.into_iter().flat_map(|path| candidates(host, path));
        found.extend(routes.filter(is_of_mas).map(|route| (host, route)));
    }
    found
}

/// The clusters that lead to MAS: for the module's own calls, and for clients.
pub(super) fn clusters_of_mas<'t>(deployment: &Deployment<'t>, one: &Use<'t>) -> Vec<&'t str> {
    let path = ["introspection", "cluster"];
    let asked = one.configuration.and_then(|it| it.text_at(&path));
    let actions = ends(deployment, one)
        .into_iter()
        .filter_map(|(_, route)| route.get("route"));
    let clients = actions.flat_map(targets).map(|(name, _)| name);
    clients.chain(asked).collect()
}
