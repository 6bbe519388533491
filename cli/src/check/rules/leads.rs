//! What leads to a Service from outside: an Ingress, and routes of the Gateway API, of Traefik and of Istio.

use std::collections::HashMap;

use super::{
    Deployment, Spot,
    path_rule::PathRule,
    servers::{is_in_use, labels, other_name},
    traefik::takes_private,
    virtual_routes::ignores_case,
};
use crate::{
    check::{
        deployment::{Route, VirtualRoute, namespace},
        pattern::Extent,
    },
    yaml::Value,
};

/// A Service that a resource leads requests to.
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
    /// Whether requests that need a token may come this way.
    pub is_private: bool,
    /// Whether the way has an expression that cannot be tried, so that it may be for such requests.
    pub is_unread: bool,
    /// Whether these are copies, whose answers nobody gets.
    pub is_copy: bool,
    /// Whether it is a route that may be at a gateway which has the module.
    pub may_be_guarded: bool,
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
            is_private: true,
            is_unread: false,
            is_copy: false,
            may_be_guarded: false,
        }
    }

    /// By a destination of Istio, which names a host. A host without dots is a Service of the same namespace.
    fn of_destination(resource: Value<'t>, destination: Value<'t>) -> Self {
        let (name, named) = labels(destination.text_at(&["host"]).unwrap_or_default());
        Self {
            spot: Spot::key(destination, "host"),
            name,
            namespace: named.or(namespace::of(resource)),
            ..Self::of(resource, destination, destination.at(&["port", "number"]))
        }
    }

    fn only_if_private(self, is_private: bool) -> Self {
        Self { is_private, ..self }
    }

    fn unread(self, is_unread: bool) -> Self {
        Self { is_unread, ..self }
    }

    fn at_gateway(self) -> Self {
        Self {
            may_be_guarded: true,
            ..self
        }
    }

    /// The same to what a Service of type ExternalName names. A port of that Service is one of the other by its number.
    fn by(&self, alias: Value<'t>) -> Option<Self> {
        let (name, namespace) = other_name(alias)?;
        let mut ports = alias.list(&["spec", "ports"]);
        let own = self.port.and_then(Value::text);
        let named = ports.find(|port| own.is_some() && port.text_at(&["name"]) == own);
        Some(Self {
            spot: self.spot.clone(),
            name,
            namespace,
            port: named.and_then(|port| port.get("port")).or(self.port),
            ..*self
        })
    }

    fn copying(self) -> Self {
        Self {
            is_copy: true,
            ..self
        }
    }
}

/// All of them.
pub(super) fn leads<'t>(deployment: &Deployment<'t>) -> Vec<Lead<'t>> {
    let resources = &deployment.resources;
    let mut leads: Vec<_> = resources.kind("Ingress").flat_map(of_ingress).collect();
    leads.extend(resources.kind("IngressRoute").flat_map(of_ingress_route));
    leads.extend(resources.kind("IngressRouteTCP").flat_map(of_bytes));
    for service in resources.virtual_services() {
        let bytes = service.routes_of_bytes();
        leads.extend(bytes.flat_map(|route| of_virtual_route(service.value, &route, false)));
        let routes = service.routes();
        let of_routes = routes.flat_map(|route| of_virtual_route(service.value, &route, true));
        leads.extend(of_routes.map(Lead::at_gateway));
    }
    let at_gateway = |kind| {
        let routes = resources.kind(kind);
        routes.filter(|route: &Value<'t>| Route::of(*route).is_at_gateway())
    };
    for kind in ["HTTPRoute", "GRPCRoute"] {
        let of_routes = at_gateway(kind).flat_map(of_http_route);
        leads.extend(of_routes.map(Lead::at_gateway));
    }
    for kind in ["TCPRoute", "TLSRoute"] {
        let of_routes = at_gateway(kind).flat_map(of_bytes);
        leads.extend(of_routes.map(Lead::at_gateway));
    }
    leads
}

/// All of them, and where they lead by Services of type ExternalName.
pub(super) fn leads_by_all_names<'t>(deployment: &Deployment<'t>) -> Vec<Lead<'t>> {
    let mut aliases: HashMap<&str, Vec<Value<'t>>> = HashMap::new();
    let services = deployment.resources.kind("Service");
    for service in services.filter(|service| other_name(*service).is_some()) {
        let name = service.text_at(&["metadata", "name"]).unwrap_or_default();
        aliases.entry(name).or_default().push(service);
    }
    let mut leads = leads(deployment);
    let mut further = Vec::new();
    for lead in &leads {
        let own = aliases.get(lead.name).into_iter().flatten();
        let own = own
            .filter(|alias| namespace::may_be_same(namespace::of(**alias), lead.namespace))
            .take_while(|alias| alias.tree.spend(1));
        further.extend(own.filter_map(|alias| lead.by(*alias)));
    }
    leads.extend(further);
    leads
}

fn of_ingress<'t>(ingress: Value<'t>) -> impl Iterator<Item = Lead<'t>> {
    let is_private = |one: Value<'t>| {
        let path = one.text_at(&["path"]).unwrap_or("/");
        let rule = match one.text_at(&["pathType"]) {
            Some("Exact") => PathRule::Exact(path),
            Some("Prefix") => PathRule::Prefix(path),
            // The controller decides, and may take it for an expression.
            _ => PathRule::PrefixOrRegex(one, path),
        };
        rule.is_private()
    };
    let rules = ingress.list(&["spec", "rules"]);
    let paths = rules.flat_map(|rule| rule.list(&["http", "paths"]));
    let of_paths = paths.filter_map(move |path| {
        let service = path.at(&["backend", "service"])?;
        Some((service, is_private(path)))
    });
    let default = ingress.at(&["spec", "defaultBackend", "service"]);
    of_paths
        .chain(default.map(|service| (service, true)))
        .map(move |(service, is_private)| {
            let port = service.get("port");
            let number = port.and_then(|port| port.get("number"));
            let port = number.or_else(|| port?.get("name"));
            Lead::of(ingress, service, port).only_if_private(is_private)
        })
}

fn of_http_route<'t>(route: Value<'t>) -> impl Iterator<Item = Lead<'t>> {
    // Methods of gRPC are none of the homeserver's.
    let may_be_private = route.text_at(&["kind"]) == Some("HTTPRoute");
    let rules = route.list(&["spec", "rules"]);
    rules.flat_map(move |rule| {
        let mut matches = rule.list(&["matches"]).peekable();
        let is_private = may_be_private
            && (matches.peek().is_none()
                || matches.any(|one| PathRule::of_match(one).is_private()));
        let mut matches = rule.list(&["matches"]);
        let is_unread =
            may_be_private && !is_private && matches.any(|one| PathRule::of_match(one).is_unread());
        let filters = rule.list(&["filters"]);
        let copies = filters.filter_map(|filter| filter.at(&["requestMirror", "backendRef"]));
        let own = rule.list(&["backendRefs"]).map(|service| (service, false));
        own.chain(copies.map(|service| (service, true)))
            .filter(|(service, _)| is_in_use(service))
            .map(move |(service, is_copy)| {
                let lead = Lead::of(route, service, service.get("port"));
                let lead = lead.only_if_private(is_private).unread(is_unread);
                if is_copy { lead.copying() } else { lead }
            })
    })
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

fn of_ingress_route<'t>(resource: Value<'t>) -> impl Iterator<Item = Lead<'t>> {
    let routes = resource.list(&["spec", "routes"]);
    routes.flat_map(move |route| {
        let matcher = route.text_at(&["match"]).unwrap_or_default();
        let is_private = takes_private(route, matcher);
        let services = route.list(&["services"]).filter(is_in_use);
        services.map(move |service| {
            Lead::of(resource, service, service.get("port")).only_if_private(is_private)
        })
    })
}

/// The destinations of a route of a VirtualService: of requests, or of bytes.
fn of_virtual_route<'t>(
    service: Value<'t>,
    route: &VirtualRoute<'t>,
    is_http: bool,
) -> Vec<Lead<'t>> {
    let rule = |one: &Value<'t>| {
        if one.text_at(&["method", "exact"]) == Some("OPTIONS") {
            return Some(PathRule::Options);
        }
        let uri = |key: &str| one.text_at(&["uri", key]);
        let (exact, prefix) = (uri("exact"), uri("prefix"));
        let (exact, prefix) = if ignores_case(*one) {
            let exact = exact.map(PathRule::ExactInAnyCase);
            (exact, prefix.map(PathRule::PrefixInAnyCase))
        } else {
            (exact.map(PathRule::Exact), prefix.map(PathRule::Prefix))
        };
        let place = one.get("uri").unwrap_or(*one);
        let regex = uri("regex").map(|it| PathRule::Regex(place, it, Extent::Whole));
        exact.or(prefix).or(regex)
    };
    // A rewrite puts its text in place of the prefix or of the whole path.
    let rewrite = route.value.text_at(&["rewrite", "uri"]);
    let makes_private = |one: &Value<'t>| {
        let has = |key: &str| one.at(&["uri", key]).is_some();
        rewrite.is_some_and(|text| {
            has("prefix") && PathRule::Prefix(text).is_private()
                || has("exact") && PathRule::Exact(text).is_private()
        })
    };
    let mut matches = route.matches.iter();
    let is_private = !is_http
        || route.matches.is_empty()
        || matches.any(|one| rule(one).is_none_or(PathRule::is_private) || makes_private(one));
    let mut rules = route.matches.iter().filter_map(rule);
    let is_unread = !is_private && rules.any(PathRule::is_unread);
    let lead = |destination: Value<'t>| {
        Lead::of_destination(service, destination)
            .only_if_private(is_private)
            .unread(is_unread)
    };
    let copies = route.value.list(&["mirrors"]);
    let copies = copies.filter_map(|copy| copy.get("destination"));
    let copies = route.value.get("mirror").into_iter().chain(copies);
    destinations(route.value)
        .map(lead)
        .chain(copies.map(|copy| lead(copy).copying()))
        .collect()
}

/// Where a route of a VirtualService leads.
pub(super) fn destinations<'t>(route: Value<'t>) -> impl Iterator<Item = Value<'t>> {
    let parts = route.list(&["route"]).filter(is_in_use);
    parts.filter_map(|part| part.get("destination"))
}
