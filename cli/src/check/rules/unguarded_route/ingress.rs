//! In Kubernetes an Ingress, a route of the Gateway API or one of Traefik, from before the module may still lead to the
//! homeserver's Service.
//!
//! The non-obvious rule: it is told by the address. Envoy's clusters name the Service by a host of the cluster, and routes by its
//! name. While a gateway of these files is in shadow mode, the rollout has not ended, and a note tells of such a resource.

use std::collections::HashSet;

use matrix_edge_auth::config::Mode;

use super::{Deployment, Found, Spot, path::PathRule, servers::Servers, traefik::takes_private};
use crate::{
    check::{
        deployment::{Host, Resources, Route, Use},
        rules::routes::before_servers,
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
    let is_enforced = !is_rollout(&deployment.resources, &gateways);
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
    /// The port of the Service: a number, or its name.
    port: Option<Value<'t>>,
}

fn leads<'t>(deployment: &Deployment<'t>, gateways: &[&Use<'t>]) -> Vec<Lead<'t>> {
    let resources = &deployment.resources;
    let mut leads: Vec<_> = resources.kind("Ingress").flat_map(of_ingress).collect();
    leads.extend(resources.kind("IngressRoute").flat_map(of_ingress_route));
    leads.extend(resources.kind("IngressRouteTCP").flat_map(of_bytes));
    // With Envoy Gateway the policies of routes tell.
    if gateways.iter().all(|one| one.host == Host::Envoy) {
        let is_at_gateway = |route: &Value<'t>| Route::of(*route).is_at_gateway();
        let routes = resources.kind("HTTPRoute").filter(is_at_gateway);
        leads.extend(routes.flat_map(of_http_route));
        for kind in ["TCPRoute", "TLSRoute"] {
            let routes = resources.kind(kind).filter(is_at_gateway);
            leads.extend(routes.flat_map(of_bytes));
        }
    }
    leads
}

fn of_ingress<'t>(ingress: Value<'t>) -> impl Iterator<Item = Lead<'t>> {
    let is_for_private = |one: &Value<'_>| {
        let path = one.text_at(&["path"]).unwrap_or("/");
        let rule = match one.text_at(&["pathType"]) {
            Some("Exact") => PathRule::Exact(path),
            Some("Prefix") => PathRule::Prefix(path),
            // The controller decides, and may take it for an expression.
            _ => PathRule::Regex(path),
        };
        rule.is_private()
    };
    let rules = ingress.list(&["spec", "rules"]);
    let paths = rules.flat_map(|rule| rule.list(&["http", "paths"]));
    let of_paths = paths
        .filter(is_for_private)
        .filter_map(|path| path.at(&["backend", "service"]));
    let default = ingress.at(&["spec", "defaultBackend", "service"]);
    of_paths.chain(default).map(move |service| Lead {
        resource: ingress,
        service,
        port: service
            .at(&["port", "number"])
            .or_else(|| service.at(&["port", "name"])),
    })
}

fn of_http_route<'t>(route: Value<'t>) -> impl Iterator<Item = Lead<'t>> {
    let is_private = |one: Value<'_>| {
        let path = one.text_at(&["path", "value"]).unwrap_or("/");
        let rule = match one.text_at(&["path", "type"]) {
            Some("Exact") => PathRule::Exact(path),
            Some("RegularExpression") => PathRule::Regex(path),
            _ => PathRule::Prefix(path),
        };
        rule.is_private()
    };
    let is_for_private = move |rule: &Value<'_>| {
        let mut matches = rule.list(&["matches"]).peekable();
        matches.peek().is_none() || matches.any(is_private)
    };
    let rules = route.list(&["spec", "rules"]).filter(is_for_private);
    let backends = rules.flat_map(|rule| {
        let filters = rule.list(&["filters"]);
        let mirrored = filters.filter_map(|filter| filter.at(&["requestMirror", "backendRef"]));
        rule.list(&["backendRefs"]).chain(mirrored)
    });
    backends.filter(is_in_use).map(move |service| Lead {
        resource: route,
        service,
        port: service.get("port"),
    })
}

/// The routes of bytes, whose requests nobody looks at.
fn of_bytes<'t>(route: Value<'t>) -> impl Iterator<Item = Lead<'t>> {
    let rules = route.list(&["spec", "rules"]);
    let backends = rules.flat_map(|rule| rule.list(&["backendRefs"]));
    let routes = route.list(&["spec", "routes"]);
    let services = routes.flat_map(|one| one.list(&["services"]));
    backends.chain(services).map(move |service| Lead {
        resource: route,
        service,
        port: service.get("port"),
    })
}

fn of_ingress_route<'t>(route: Value<'t>) -> impl Iterator<Item = Lead<'t>> {
    let is_for_private =
        |one: &Value<'_>| takes_private(one.text_at(&["match"]).unwrap_or_default());
    let routes = route.list(&["spec", "routes"]).filter(is_for_private);
    let services = routes.flat_map(|one| one.list(&["services"]));
    services.filter(is_in_use).map(move |service| Lead {
        resource: route,
        service,
        port: service.get("port"),
    })
}

/// Whether some requests go there.
fn is_in_use(service: &Value<'_>) -> bool {
    service.number_at(&["weight"]) != Some(0)
}

/// Whether requests still come to a gateway in shadow mode. A gateway that no Service leads to waits for its turn, if Services lead
/// to others.
fn is_rollout(resources: &Resources<'_>, gateways: &[&Use<'_>]) -> bool {
    let ports = resources
        .kind("Service")
        .flat_map(|service| service.list(&["spec", "ports"]))
        .filter_map(|port| resources.port(port.get("targetPort").or_else(|| port.get("port"))?));
    let ports: HashSet<u64> = ports.collect();
    let is_led_to = |one: &&&Use<'_>| {
        let listener = one.entry.and_then(|entry| entry.listener);
        let port =
            listener.and_then(|it| it.number_at(&["address", "socket_address", "port_value"]));
        port.is_some_and(|port| ports.contains(&port))
    };
    let is_shadow = |one: &&&Use<'_>| {
        one.config()
            .is_some_and(|config| config.mode == Mode::Shadow)
    };
    if gateways.iter().any(|one| is_led_to(&one)) {
        gateways.iter().filter(is_led_to).any(|one| is_shadow(&one))
    } else {
        gateways.iter().any(|one| is_shadow(&one))
    }
}
