//! The Services of the homeserver in Kubernetes: those that guarded routes lead requests to that need a token.
//!
//! The non-obvious rule: a Service may have further names. Another Service selects the same pods, or is of type ExternalName and
//! names the first, and what leads to it leads to the homeserver.

use std::collections::{HashMap, HashSet};

use super::{
    Deployment,
    leads::destinations,
    routes::{PRIVATE, routes_of_guarded_hosts, targets},
};
use crate::{
    check::deployment::{Host, Pod, Resources, Route, Use, VirtualRoute, has_labels, namespace},
    yaml::Value,
};

/// A port of a Service, in a namespace if that is named.
type Address<'t> = (Option<&'t str>, Option<u64>);

/// The Services, by name.
#[derive(Default)]
pub(super) struct Servers<'t> {
    addresses: HashMap<&'t str, Vec<Address<'t>>>,
    ports: Ports<'t>,
}

/// The names of the ports of all Services.
#[derive(Default)]
struct Ports<'t>(HashMap<(&'t str, &'t str), Vec<Address<'t>>>);

impl<'t> Ports<'t> {
    fn of(resources: &Resources<'t>) -> Self {
        let mut ports = Self::default();
        for service in resources.kind("Service") {
            let Some(name) = service.text_at(&["metadata", "name"]) else {
                continue;
            };
            for port in service.list(&["spec", "ports"]) {
                if let Some(of) = port.text_at(&["name"]) {
                    let address = (namespace::of(service), port.number_at(&["port"]));
                    ports.0.entry((name, of)).or_default().push(address);
                }
            }
        }
        ports
    }

    /// The number of a port.
    fn number(&self, service: &str, namespace: Option<&str>, name: &str) -> Option<u64> {
        let mut ports = self.0.get(&(service, name))?.iter();
        ports
            .find(|(of, _)| namespace::may_be_same(*of, namespace))?
            .1
    }
}

impl<'t> Servers<'t> {
    /// Those of these gateways.
    pub fn of(deployment: &Deployment<'t>, gateways: &[&Use<'t>]) -> Self {
        let mut servers = Self {
            ports: Ports::of(&deployment.resources),
            ..Self::default()
        };
        for one in gateways.iter().filter(|one| one.host == Host::Envoy) {
            servers.add_clusters(deployment, one);
        }
        let is_istios = |one: &&Use<'_>| matches!(one.host, Host::WasmPlugin | Host::EnvoyFilter);
        let is_at_istio = gateways.iter().any(is_istios);
        if is_at_istio || gateways.iter().any(|one| one.host == Host::EnvoyGateway) {
            servers.add_backends(&deployment.resources);
        }
        if is_at_istio {
            servers.add_destinations(&deployment.resources);
        }
        servers.add_further_names(&deployment.resources);
        servers
    }

    /// Whether none is known.
    pub fn are_unknown(&self) -> bool {
        self.addresses.is_empty()
    }

    /// Whether a Service is one of them, at this port if that is known: a number, or its name.
    pub fn have(&self, name: &str, namespace: Option<&str>, port: Option<Value<'_>>) -> bool {
        let port = port.and_then(|port| {
            let number = port.scalar()?.whole_number();
            number.or_else(|| self.ports.number(name, namespace, port.text()?))
        });
        self.have_address(name, (namespace, port))
    }

    fn have_address(&self, name: &str, (namespace, port): Address<'_>) -> bool {
        let mut own = self.addresses.get(name).into_iter().flatten();
        own.any(|(of, own)| {
            namespace::may_be_same(*of, namespace)
                && (port.is_none() || own.is_none() || port == *own)
        })
    }

    fn add(&mut self, name: &'t str, address: Address<'t>) {
        self.addresses.entry(name).or_default().push(address);
    }

    /// The Services that the clusters of an Envoy name, each by a host of Kubernetes.
    fn add_clusters(&mut self, deployment: &Deployment<'t>, one: &Use<'t>) {
        if one.entry.is_none_or(|entry| entry.is_off) {
            return;
        }
        let routes = routes_of_guarded_hosts(deployment, one, &PRIVATE);
        let actions = routes.iter().filter_map(|route| route.get("route"));
        let names: HashSet<_> = actions.flat_map(targets).map(|(name, _)| name).collect();
        let clusters = names.into_iter();
        for socket in clusters
            .filter_map(|name| deployment.cluster(one, name))
            .flat_map(sockets)
        {
            let (name, namespace) = labels(socket.text_at(&["address"]).unwrap_or_default());
            self.add(name, (namespace, socket.number_at(&["port_value"])));
        }
    }

    /// The Services that routes of the Gateway API name.
    fn add_backends(&mut self, resources: &Resources<'t>) {
        let routes = resources.kind("HTTPRoute");
        for route in routes.filter(|route| Route::of(*route).is_at_gateway()) {
            let path = |one: Value<'t>| match one.text_at(&["path", "type"]) {
                Some("RegularExpression") => None,
                _ => one.text_at(&["path", "value"]),
            };
            let of_homeserver = |rule: &Value<'t>| {
                let mut paths = rule.list(&["matches"]).filter_map(path);
                paths.any(is_of_homeserver)
            };
            let rules = route.list(&["spec", "rules"]).filter(of_homeserver);
            for backend in rules.flat_map(|rule| rule.list(&["backendRefs"])) {
                let Some(name) = backend.text_at(&["name"]) else {
                    continue;
                };
                let named = backend.text_at(&["namespace"]);
                let namespace = named.or(namespace::of(route));
                self.add(name, (namespace, backend.number_at(&["port"])));
            }
        }
    }

    /// The Services that routes of Istio name, by hosts.
    fn add_destinations(&mut self, resources: &Resources<'t>) {
        for service in resources.virtual_services() {
            let of_homeserver = |one: &VirtualRoute<'t>| {
                let mut uris = one.uris().filter_map(|uri| uri.text_at(&["prefix"]));
                uris.any(is_of_homeserver)
            };
            let routes = service.routes().filter(of_homeserver);
            for destination in routes.flat_map(|route| destinations(route.value)) {
                let (name, named) = labels(destination.text_at(&["host"]).unwrap_or_default());
                let namespace = named.or(namespace::of(service.value));
                self.add(
                    name,
                    (namespace, destination.number_at(&["port", "number"])),
                );
            }
        }
    }

    /// Other Services that lead to the same pods.
    fn add_further_names(&mut self, resources: &Resources<'t>) {
        let services: Vec<_> = resources.kind("Service").collect();
        let target = |port: &Value<'t>| target(resources, *port);
        let mut further = Vec::new();
        for own in &services {
            let ports = own.list(&["spec", "ports"]);
            let ports = ports.filter(|port| self.have_port(*own, *port));
            let targets: Vec<_> = ports.map(|port| target(&port)).collect();
            // Few Services are of the homeserver, and only their pods are looked at.
            if targets.is_empty() {
                continue;
            }
            let Some(pods) = Pods::of(resources, *own) else {
                continue;
            };
            let others = services.iter().filter(|other| pods.are_of(**other));
            for other in others {
                let ports = other.list(&["spec", "ports"]);
                let same = ports.filter(|port| targets.contains(&target(port)));
                further.extend(same.map(|port| (*other, port.number_at(&["port"]))));
            }
        }
        for (service, port) in further {
            self.add_service(service, port);
        }
        for service in services {
            let Some((name, namespace)) = other_name(service) else {
                continue;
            };
            let addresses = self.addresses.get(name).cloned().unwrap_or_default();
            for (of, port) in addresses {
                if namespace::may_be_same(of, namespace) {
                    self.add_service(service, port);
                }
            }
        }
    }

    fn have_port(&self, service: Value<'_>, port: Value<'_>) -> bool {
        let name = service.text_at(&["metadata", "name"]).unwrap_or_default();
        self.have_address(name, (namespace::of(service), port.number_at(&["port"])))
    }

    fn add_service(&mut self, service: Value<'t>, port: Option<u64>) {
        if let Some(name) = service.text_at(&["metadata", "name"]) {
            self.add(name, (namespace::of(service), port));
        }
    }
}

/// The name and the namespace of a Service whose host this is.
pub(super) fn labels(host: &str) -> (&str, Option<&str>) {
    let mut labels = host.split('.');
    (labels.next().unwrap_or_default(), labels.next())
}

/// The name and the namespace of the Service that a Service of type ExternalName leads to.
pub(super) fn other_name(service: Value<'_>) -> Option<(&str, Option<&str>)> {
    service.text_at(&["spec", "externalName"]).map(labels)
}

/// The addresses of a cluster.
fn sockets<'t>(cluster: Value<'t>) -> impl Iterator<Item = Value<'t>> {
    cluster
        .list(&["load_assignment", "endpoints"])
        .flat_map(|locality| locality.list(&["lb_endpoints"]))
        .filter_map(|endpoint| endpoint.at(&["endpoint", "address", "socket_address"]))
}

/// Whether a prefix, in a route of the Gateway API or of Istio, is one of the homeserver's paths. Some paths below are MAS's, such
/// as `logout`.
fn is_of_homeserver(prefix: &str) -> bool {
    prefix.starts_with("/_matrix") && PRIVATE.iter().any(|path| path.starts_with(prefix))
}

/// Whether some requests go there.
pub(super) fn is_in_use(service: &Value<'_>) -> bool {
    service.number_at(&["weight"]) != Some(0)
}

/// The port of the pods that a port of a Service leads to: its number, or its name where no pod is there to say more.
fn target<'t>(resources: &Resources<'t>, port: Value<'t>) -> Option<(Option<u64>, &'t str)> {
    let target = port.get("targetPort").or_else(|| port.get("port"))?;
    let number = resources.port(target);
    let name = number.is_none().then(|| target.text()).flatten();
    Some((number, name.unwrap_or_default()))
}

/// The pods of a Service.
struct Pods<'t> {
    service: Value<'t>,
    selector: Value<'t>,
    selected: Vec<Pod<'t>>,
}

impl<'t> Pods<'t> {
    /// `None`: it selects none.
    fn of(resources: &Resources<'t>, service: Value<'t>) -> Option<Self> {
        let selector = selector(service)?;
        let is_selected = |pod: &Pod<'t>| {
            namespace::may_be_same(pod.namespace, namespace::of(service))
                && has_labels(selector, pod.labels)
        };
        Some(Self {
            service,
            selector,
            selected: resources.pods().filter(is_selected).collect(),
        })
    }

    /// Whether another Service selects one of them, or else wants the same labels.
    fn are_of(&self, other: Value<'t>) -> bool {
        let wants_the_same = |selector: Value<'t>| {
            has_labels(selector, Some(self.selector)) && has_labels(self.selector, Some(selector))
        };
        self.service.key() != other.key()
            && namespace::may_be_shared(self.service, other)
            && selector(other).is_some_and(|selector| {
                let mut pods = self.selected.iter();
                wants_the_same(selector) || pods.any(|pod| has_labels(selector, pod.labels))
            })
    }
}

/// What the pods of a Service are selected by. An empty selector selects none.
fn selector(service: Value<'_>) -> Option<Value<'_>> {
    let selector = service.at(&["spec", "selector"])?;
    selector.members().next().map(|_| selector)
}
