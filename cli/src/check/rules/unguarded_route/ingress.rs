//! In Kubernetes an Ingress, an HTTPRoute, or an IngressRoute of Traefik, from before the module may still lead to the
//! homeserver's Service.
//!
//! The non-obvious rule: it is told by the address. Envoy's clusters name the Service by a host of the cluster, and routes by its
//! name. While a gateway of these files is in shadow mode, the rollout has not ended, and a note tells of such a resource.

use matrix_edge_auth::{
    config::Mode,
    matrix::endpoint::{AuthRequirement, Method, classify},
};

use super::{Deployment, Found, Spot, servers::Servers};
use crate::{
    check::{
        deployment::{Host, Route, Use},
        rules::routes::{PRIVATE, before_servers},
    },
    yaml::Value,
};

const HELP: &str = "lead it to the Service of Envoy, or to paths without tokens alone, such as `/_matrix/federation` and \
                    `/_matrix/key`";

pub(super) fn check<'t>(deployment: &Deployment<'t>, found: &mut Found<'t>) {
    let gateways: Vec<_> = before_servers(deployment).collect();
    if gateways.is_empty() {
        return;
    }
    let is_shadow = |one: &&Use<'_>| {
        one.config()
            .is_some_and(|config| config.mode == Mode::Shadow)
    };
    let is_enforced = !gateways.iter().any(is_shadow);
    let servers = Servers::of(deployment, &gateways);
    for lead in leads(deployment, &gateways) {
        if !servers.have(lead.resource, lead.service, lead.port) {
            continue;
        }
        let spot = Spot::key(lead.service, "name");
        let message = format!(
            "this {} leads to the homeserver past the module: requests that need a token reach the server unverified, and with \
             the identity headers that a client wrote",
            lead.resource.text_at(&["kind"]).unwrap_or_default()
        );
        if is_enforced {
            found.add(spot, message, HELP);
        } else {
            found.note(spot, message, HELP);
        }
    }
}

/// A Service that a resource leads requests to that need a token.
struct Lead<'t> {
    resource: Value<'t>,
    /// What names the Service.
    service: Value<'t>,
    port: Option<u64>,
}

fn leads<'t>(deployment: &Deployment<'t>, gateways: &[&Use<'t>]) -> Vec<Lead<'t>> {
    let resources = &deployment.resources;
    let mut leads: Vec<_> = resources.kind("Ingress").flat_map(of_ingress).collect();
    leads.extend(resources.kind("IngressRoute").flat_map(of_ingress_route));
    // With Envoy Gateway the policies of routes tell.
    if gateways.iter().all(|one| one.host == Host::Envoy) {
        let routes = resources.kind("HTTPRoute");
        leads.extend(
            routes
                .filter(|route| Route::of(*route).is_at_gateway())
                .flat_map(of_http_route),
        );
    }
    leads
}

fn of_ingress<'t>(ingress: Value<'t>) -> impl Iterator<Item = Lead<'t>> {
    let rules = ingress.list(&["spec", "rules"]);
    let paths = rules.flat_map(|rule| rule.list(&["http", "paths"]));
    let of_paths = paths
        .filter(|path| is_private(path.text_at(&["path"]).unwrap_or("/")))
        .filter_map(|path| path.at(&["backend", "service"]));
    let default = ingress.at(&["spec", "defaultBackend", "service"]);
    of_paths.chain(default).map(move |service| Lead {
        resource: ingress,
        service,
        port: service.number_at(&["port", "number"]),
    })
}

fn of_http_route<'t>(route: Value<'t>) -> impl Iterator<Item = Lead<'t>> {
    let is_for_private = |rule: &Value<'_>| {
        let matches = rule.list(&["matches"]);
        let mut paths = matches
            .map(|one| one.text_at(&["path", "value"]).unwrap_or("/"))
            .peekable();
        paths.peek().is_none() || paths.any(is_private)
    };
    let rules = route.list(&["spec", "rules"]).filter(is_for_private);
    let backends = rules.flat_map(|rule| rule.list(&["backendRefs"]));
    backends.map(move |service| Lead {
        resource: route,
        service,
        port: service.number_at(&["port"]),
    })
}

fn of_ingress_route<'t>(route: Value<'t>) -> impl Iterator<Item = Lead<'t>> {
    let is_for_private = |one: &Value<'_>| {
        let mut paths = paths_of_matcher(one.text_at(&["match"]).unwrap_or_default()).peekable();
        paths.peek().is_none() || paths.any(is_private)
    };
    let routes = route.list(&["spec", "routes"]).filter(is_for_private);
    let services = routes.flat_map(|one| one.list(&["services"]));
    services.map(move |service| Lead {
        resource: route,
        service,
        port: service.number_at(&["port"]),
    })
}

/// The paths that a matcher of Traefik takes, as in ``Host(`example.org`) && PathPrefix(`/_matrix`)``. What it refuses, behind
/// `!`, is not among them.
fn paths_of_matcher(matcher: &str) -> impl Iterator<Item = &str> {
    ["PathPrefix(", "Path(", "PathRegexp("]
        .into_iter()
        .flat_map(|call| {
            let mut parts = matcher.split(call);
            let mut before = parts.next().unwrap_or_default();
            parts.filter_map(move |arguments| {
                let is_refused = std::mem::replace(&mut before, arguments).ends_with('!');
                let arguments = arguments.split(')').next().unwrap_or_default();
                (!is_refused).then_some(arguments)
            })
        })
        .flat_map(|arguments| arguments.split(','))
        .map(|path| path.trim_matches([' ', '`', '"', '\'']))
}

/// Whether a path, or what begins with it, is for requests that need a token. Of a regular expression its beginning tells.
fn is_private(path: &str) -> bool {
    let path = path.trim_start_matches('^');
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
