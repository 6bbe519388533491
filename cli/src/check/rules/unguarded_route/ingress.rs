//! In Kubernetes an Ingress, or an HTTPRoute, from before the module may still lead to the homeserver's Service.
//!
//! The non-obvious rule: it is told by the address. Envoy's clusters name the Service by a host of the cluster, and routes by its
//! name. While a gateway of these files is in shadow mode, the rollout has not ended, and a note tells of such an Ingress.

use std::collections::{HashMap, HashSet};

use matrix_edge_auth::{
    config::Mode,
    matrix::endpoint::{AuthRequirement, Method, classify},
};

use super::{Deployment, Found, Spot};
use crate::{
    check::{
        deployment::{Host, Route, Use, namespace},
        rules::routes::{PRIVATE, before_servers, routes_of_guarded_hosts, targets},
    },
    yaml::Value,
};

const MESSAGE: &str = "this Ingress leads to the homeserver past the module: requests that need a token reach the server \
                       unverified, and with the identity headers that a client wrote";
const MESSAGE_OF_ROUTE: &str = "this HTTPRoute leads to the homeserver past the module: requests that need a token reach the \
                                server unverified, and with the identity headers that a client wrote";
const HELP: &str = "lead it to the Service of Envoy, or to paths without tokens alone, such as `/_matrix/federation` and \
                    `/_matrix/key`";

/// A port of a Service, in a namespace if that is named.
type Address<'t> = (Option<&'t str>, Option<u64>);

pub(super) fn check<'t>(deployment: &Deployment<'t>, found: &mut Found<'t>) {
    let resources = &deployment.resources;
    let ingresses: Vec<_> = resources.kind("Ingress").collect();
    let gateways: Vec<_> = before_servers(deployment).collect();
    // With Envoy Gateway the policies of routes tell.
    let is_apart = !gateways.iter().any(|one| one.host != Host::Envoy);
    let routes = resources
        .kind("HTTPRoute")
        .filter(|route| is_apart && Route::of(*route).is_at_gateway());
    let routes: Vec<_> = routes.collect();
    if ingresses.is_empty() && routes.is_empty() || gateways.is_empty() {
        return;
    }
    let is_shadow = |one: &&Use<'_>| {
        one.config()
            .is_some_and(|config| config.mode == Mode::Shadow)
    };
    let is_enforced = !gateways.iter().any(is_shadow);
    let servers = servers(deployment, &gateways);
    let mut tell = |backend: Value<'t>, message: &str| {
        let spot = Spot::key(backend, "name");
        if is_enforced {
            found.add(spot, message, HELP);
        } else {
            found.note(spot, message, HELP);
        }
    };
    for ingress in ingresses {
        for (path, backend) in backends(ingress) {
            let port = backend.number_at(&["port", "number"]);
            if is_private(path) && leads_to(&servers, ingress, backend, port) {
                tell(backend, MESSAGE);
            }
        }
    }
    for route in routes {
        for rule in route.list(&["spec", "rules"]) {
            let matches = rule.list(&["matches"]);
            let mut paths = matches
                .map(|one| one.text_at(&["path", "value"]).unwrap_or("/"))
                .peekable();
            if paths.peek().is_some() && !paths.any(is_private) {
                continue;
            }
            for backend in rule.list(&["backendRefs"]) {
                if leads_to(&servers, route, backend, backend.number_at(&["port"])) {
                    tell(backend, MESSAGE_OF_ROUTE);
                }
            }
        }
    }
}

/// The Services of the homeserver, by name: those that guarded routes lead requests to that need a token.
fn servers<'t>(
    deployment: &Deployment<'t>,
    gateways: &[&Use<'t>],
) -> HashMap<&'t str, Vec<Address<'t>>> {
    let mut servers: HashMap<&str, Vec<Address<'_>>> = HashMap::new();
    for one in gateways.iter().filter(|one| one.host == Host::Envoy) {
        if one.entry.is_none_or(|entry| entry.is_off) {
            continue;
        }
        let routes = routes_of_guarded_hosts(one, &PRIVATE);
        let actions = routes.iter().filter_map(|route| route.get("route"));
        let names: HashSet<_> = actions.flat_map(targets).map(|(name, _)| name).collect();
        for socket in names
            .into_iter()
            .filter_map(|name| deployment.cluster(one, name))
            .flat_map(sockets)
        {
            let host = socket.text_at(&["address"]).unwrap_or_default();
            let mut labels = host.split('.');
            let own = servers
                .entry(labels.next().unwrap_or_default())
                .or_default();
            own.push((labels.next(), socket.number_at(&["port_value"])));
        }
    }
    if gateways.iter().any(|one| one.host == Host::EnvoyGateway) {
        for route in deployment.resources.kind("HTTPRoute") {
            let rules = route.list(&["spec", "rules"]);
            for backend in rules
                .filter(|rule| is_of_homeserver(*rule))
                .flat_map(|rule| rule.list(&["backendRefs"]))
            {
                let Some(name) = backend.text_at(&["name"]) else {
                    continue;
                };
                let named = backend.text_at(&["namespace"]);
                let address = (named.or(namespace::of(route)), backend.number_at(&["port"]));
                servers.entry(name).or_default().push(address);
            }
        }
    }
    servers
}

/// The addresses of a cluster.
fn sockets<'t>(cluster: Value<'t>) -> impl Iterator<Item = Value<'t>> {
    cluster
        .list(&["load_assignment", "endpoints"])
        .flat_map(|locality| locality.list(&["lb_endpoints"]))
        .filter_map(|endpoint| endpoint.at(&["endpoint", "address", "socket_address"]))
}

/// Whether a rule of a route is for the homeserver, as far as a prefix tells. Some paths below are MAS's, such as `logout`.
fn is_of_homeserver(rule: Value<'_>) -> bool {
    let mut matches = rule.list(&["matches"]);
    matches.any(|one| {
        let path = one.text_at(&["path", "value"]).unwrap_or_default();
        path.starts_with("/_matrix")
            && one.text_at(&["path", "type"]) != Some("RegularExpression")
            && PRIVATE.iter().any(|private| private.starts_with(path))
    })
}

/// The paths of an Ingress, each with the Service that it leads to.
fn backends<'t>(ingress: Value<'t>) -> impl Iterator<Item = (&'t str, Value<'t>)> {
    let rules = ingress.list(&["spec", "rules"]);
    let paths = rules.flat_map(|rule| rule.list(&["http", "paths"]));
    let of_paths = paths.filter_map(|path| {
        let service = path.at(&["backend", "service"])?;
        Some((path.text_at(&["path"]).unwrap_or("/"), service))
    });
    let default = ingress.at(&["spec", "defaultBackend", "service"]);
    of_paths.chain(default.map(|service| ("/", service)))
}

fn leads_to(
    servers: &HashMap<&str, Vec<Address<'_>>>,
    resource: Value<'_>,
    service: Value<'_>,
    number: Option<u64>,
) -> bool {
    let namespace = service.text_at(&["namespace"]);
    let namespace = namespace.or(namespace::of(resource));
    let name = service.text_at(&["name"]).unwrap_or_default();
    let mut addresses = servers.get(name).into_iter().flatten();
    addresses.any(|(own, port)| {
        namespace::may_be_same(*own, namespace)
            && (number.is_none() || port.is_none() || number == *port)
    })
}

/// Whether a path, or what begins with it, is for requests that need a token. Of a regular expression its beginning tells.
fn is_private(path: &str) -> bool {
    let is_special = |c: char| "()[]{}.*?+$^|\\".contains(c);
    let literal = path.split(is_special).next().unwrap_or_default();
    let needs_token = |method| {
        matches!(
            classify(literal.as_bytes(), method),
            AuthRequirement::Admin | AuthRequirement::Blocked | AuthRequirement::Required
        )
    };
    PRIVATE.iter().any(|one| one.starts_with(literal))
        || [Method::Get, Method::Post].into_iter().any(needs_token)
}
