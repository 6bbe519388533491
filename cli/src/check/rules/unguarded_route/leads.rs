//! What leads to a Service past a gateway: an Ingress, and routes of the Gateway API, of Traefik and of Istio.

use super::{
    Deployment, Spot,
    path::PathRule,
    servers::{destinations, is_in_use, labels},
    traefik::takes_private,
};
use crate::{
    check::deployment::{Host, Route, Use, namespace},
    yaml::Value,
};

/// A Service that a resource leads requests to that need a token.
pub(super) struct Lead<'t> {
    /// The resource.
    pub resource: Value<'t>,
    /// Where it names the Service.
    pub spot: Spot<'t>,
    /// The name of the Service.
    pub name: &'t str,
    /// The namespace of the Service, if that is known.
    pub namespace: Option<&'t str>,
    /// The port of the Service: a number, or its name.
    pub port: Option<Value<'t>>,
}

impl<'t> Lead<'t> {
    /// By a reference of Kubernetes.
    fn of(resource: Value<'t>, service: Value<'t>, port: Option<Value<'t>>) -> Self {
        let named = service.text_at(&["namespace"]);
        Self {
            resource,
            spot: Spot::key(service, "name"),
            name: service.text_at(&["name"]).unwrap_or_default(),
            namespace: named.or(namespace::of(resource)),
            port,
        }
    }

    /// By a destination of Istio, which names a host. A host without dots is a Service of the same namespace.
    fn of_destination(resource: Value<'t>, destination: Value<'t>) -> Self {
        let (name, named) = labels(destination.text_at(&["host"]).unwrap_or_default());
        Self {
            resource,
            spot: Spot::key(destination, "host"),
            name,
            namespace: named.or(namespace::of(resource)),
            port: destination.at(&["port", "number"]),
        }
    }
}

/// All of them that no rule for the module's own gateway looks at.
pub(super) fn leads<'t>(deployment: &Deployment<'t>, gateways: &[&Use<'t>]) -> Vec<Lead<'t>> {
    let resources = &deployment.resources;
    let mut leads: Vec<_> = resources.kind("Ingress").flat_map(of_ingress).collect();
    leads.extend(resources.kind("IngressRoute").flat_map(of_ingress_route));
    leads.extend(resources.kind("IngressRouteTCP").flat_map(of_bytes));
    let of_istio: Vec<_> = resources
        .kind("VirtualService")
        .filter(is_at_gateway_of_istio)
        .collect();
    leads.extend(of_istio.iter().copied().flat_map(of_bytes_of_istio));
    // What stands before the module, or not, is told by the policies of Envoy Gateway, and by where Istio inserts the module.
    if gateways.iter().all(|one| one.host == Host::Envoy) {
        let is_at_gateway = |route: &Value<'t>| Route::of(*route).is_at_gateway();
        let routes = resources.kind("HTTPRoute").filter(is_at_gateway);
        leads.extend(routes.flat_map(of_http_route));
        for kind in ["TCPRoute", "TLSRoute"] {
            let routes = resources.kind(kind).filter(is_at_gateway);
            leads.extend(routes.flat_map(of_bytes));
        }
        leads.extend(of_istio.into_iter().flat_map(of_virtual_service));
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
    of_paths.chain(default).map(move |service| {
        let port = service.get("port");
        let number = port.and_then(|port| port.get("number"));
        let port = number.or_else(|| port?.get("name"));
        Lead::of(ingress, service, port)
    })
}

fn of_http_route<'t>(route: Value<'t>) -> impl Iterator<Item = Lead<'t>> {
    let is_for_private = move |rule: &Value<'_>| {
        let mut matches = rule.list(&["matches"]).peekable();
        matches.peek().is_none() || matches.any(|one| PathRule::of_match(one).is_private())
    };
    let rules = route.list(&["spec", "rules"]).filter(is_for_private);
    let backends = rules.flat_map(|rule| {
        let filters = rule.list(&["filters"]);
        let mirrored = filters.filter_map(|filter| filter.at(&["requestMirror", "backendRef"]));
        rule.list(&["backendRefs"]).chain(mirrored)
    });
    backends
        .filter(is_in_use)
        .map(move |service| Lead::of(route, service, service.get("port")))
}

/// The routes of bytes, whose requests nobody looks at.
fn of_bytes<'t>(route: Value<'t>) -> impl Iterator<Item = Lead<'t>> {
    let rules = route.list(&["spec", "rules"]);
    let backends = rules.flat_map(|rule| rule.list(&["backendRefs"]));
    let routes = route.list(&["spec", "routes"]);
    let services = routes.flat_map(|one| one.list(&["services"]));
    backends
        .chain(services)
        .map(move |service| Lead::of(route, service, service.get("port")))
}

fn of_ingress_route<'t>(route: Value<'t>) -> impl Iterator<Item = Lead<'t>> {
    let is_for_private =
        |one: &Value<'_>| takes_private(one.text_at(&["match"]).unwrap_or_default());
    let routes = route.list(&["spec", "routes"]).filter(is_for_private);
    let services = routes.flat_map(|one| one.list(&["services"]));
    services
        .filter(is_in_use)
        .map(move |service| Lead::of(route, service, service.get("port")))
}

/// The destinations of the requests that a VirtualService looks at.
fn of_virtual_service<'t>(service: Value<'t>) -> impl Iterator<Item = Lead<'t>> {
    let is_private = |one: Value<'_>| {
        let uri = |key: &str| one.text_at(&["uri", key]);
        let exact = uri("exact").map(PathRule::Exact);
        let prefix = uri("prefix").map(PathRule::Prefix);
        let regex = uri("regex").map(PathRule::Regex);
        let rule = exact.or(prefix).or(regex);
        rule.is_none_or(PathRule::is_private)
    };
    let is_for_private = move |route: &Value<'_>| {
        let mut matches = route.list(&["match"]).peekable();
        matches.peek().is_none() || matches.any(is_private)
    };
    let routes = service.list(&["spec", "http"]).filter(is_for_private);
    let destinations = routes.flat_map(|route| {
        let copies = route.list(&["mirrors"]);
        let copies = copies.filter_map(|copy| copy.get("destination"));
        destinations(route).chain(route.get("mirror")).chain(copies)
    });
    destinations.map(move |destination| Lead::of_destination(service, destination))
}

/// The destinations of the bytes that a VirtualService hands on.
fn of_bytes_of_istio<'t>(service: Value<'t>) -> impl Iterator<Item = Lead<'t>> {
    ["tls", "tcp"]
        .into_iter()
        .flat_map(move |key| service.list(&["spec", key]))
        .flat_map(destinations)
        .map(move |destination| Lead::of_destination(service, destination))
}

/// Whether a VirtualService is for requests from outside: it names another gateway than the proxies of all pods.
fn is_at_gateway_of_istio(service: &Value<'_>) -> bool {
    let mut gateways = service.list(&["spec", "gateways"]).filter_map(Value::text);
    gateways.any(|gateway| gateway != "mesh")
}
