//! A policy of Envoy Gateway is for a Gateway, one of its listeners, an HTTPRoute, or one of its rules. The nearest policy
//! replaces those that are further away. Where the nearest policy has no module, or there is no policy, requests pass by
//! the module.

mod attachments;

use std::collections::{HashMap, HashSet};

use self::attachments::{Attachments, Target};
use super::{Deployment, Found, OPEN, Spot};
use crate::{
    check::deployment::{Host, Resources, namespace},
    yaml::Value,
};

/// Routes that a policy may be for.
const ROUTES: [&str; 2] = ["HTTPRoute", "GRPCRoute"];

/// Routes of bytes, which no policy with HTTP filters is for.
const OF_BYTES: [&str; 2] = ["TCPRoute", "TLSRoute"];

pub(super) fn check<'t>(deployment: &Deployment<'t>, found: &mut Found<'t>) {
    let own: HashSet<_> = deployment
        .gateways()
        .filter(|one| one.host == Host::EnvoyGateway)
        .filter_map(|one| one.resource)
        .map(Value::key)
        .collect();
    if own.is_empty() {
        return;
    }
    let resources = &deployment.resources;
    let has_module = |policy: Value<'t>| own.contains(&policy.key());
    let coverage = Coverage {
        attachments: Attachments::of(resources.kind("EnvoyExtensionPolicy"), has_module),
        gateways: gateways(resources),
    };
    let mut servers = Servers::default();
    let mut unguarded = Vec::new();
    for route in routes(resources, ROUTES) {
        for rule in route.value.list(&["spec", "rules"]) {
            let is_guarded = coverage.is_guarded(&route, rule);
            let is_matrix = is_of_homeserver(rule);
            if is_guarded || (is_matrix && coverage.is_concerned(&route)) {
                servers.add(&route, rule, is_matrix);
            }
            if !is_guarded && !is_open(rule) {
                unguarded.push(Unguarded {
                    namespace: route.target.namespace,
                    rule,
                    may_be_matrix: may_be_matrix(rule),
                    help: HELP,
                });
            }
        }
    }
    for route in routes(resources, OF_BYTES) {
        let rules = route.value.list(&["spec", "rules"]);
        unguarded.extend(rules.map(|rule| Unguarded {
            namespace: route.target.namespace,
            rule,
            may_be_matrix: false,
            help: HELP_WITH_BYTES,
        }));
    }
    for one in unguarded {
        for backend in backends(one.rule).chain(mirrors(one.rule)) {
            if servers.have(one.namespace, backend, one.may_be_matrix) {
                found.add(
                    Spot::key(backend, "name"),
                    "this route passes by the module, whose policy is for others alone: its requests reach the server unverified, \
                     and with the identity headers that a client wrote",
                    one.help,
                );
            }
        }
    }
}

const HELP: &str = "let the policy's `targetRefs` name the Gateway, or each listener and this route as well; a second policy for \
                    this route replaces the one of its Gateway";
const HELP_WITH_BYTES: &str =
    "lead to this server by HTTPRoutes alone: no policy looks into what such a route hands on";

/// The Gateways in the files.
fn gateways<'t>(resources: &Resources<'t>) -> Gateways<'t> {
    let mut found = Gateways::new();
    for gateway in resources.kind("Gateway") {
        let target = Target::of(gateway);
        let named = found.entry(target.name).or_default();
        named.push((target, gateway));
    }
    found
}

/// The routes of these kinds that may be at a Gateway.
fn routes<'t>(
    resources: &Resources<'t>,
    kinds: [&'static str; 2],
) -> impl Iterator<Item = Route<'t>> {
    let routes = kinds.into_iter().flat_map(|kind| resources.kind(kind));
    routes.map(Route::of).filter(Route::is_at_gateway)
}

/// A rule of a route that passes by the module.
struct Unguarded<'t> {
    namespace: Option<&'t str>,
    rule: Value<'t>,
    may_be_matrix: bool,
    help: &'static str,
}

/// The policies and Gateways that decide whether the module is at a route.
struct Coverage<'t> {
    attachments: Attachments<'t>,
    gateways: Gateways<'t>,
}

/// Gateways, by their names.
type Gateways<'t> = HashMap<&'t str, Vec<(Target<'t>, Value<'t>)>>;

/// A route, and the parents that it is attached to.
struct Route<'t> {
    target: Target<'t>,
    value: Value<'t>,
    /// Whether it names parents.
    has_parents: bool,
    /// The Gateways among them.
    gateways: Vec<Parent<'t>>,
}

/// A Gateway, or one of its listeners.
struct Parent<'t> {
    namespace: Option<&'t str>,
    name: &'t str,
    section: Option<&'t str>,
}

impl<'t> Route<'t> {
    fn of(value: Value<'t>) -> Self {
        let target = Target::of(value);
        let parents: Vec<Value<'t>> = value.list(&["spec", "parentRefs"]).collect();
        let is_gateway = |it: &&Value<'t>| matches!(it.text_at(&["kind"]), Some("Gateway") | None);
        let gateways = parents.iter().filter(is_gateway).filter_map(|parent| {
            Some(Parent {
                namespace: parent.text_at(&["namespace"]).or(target.namespace),
                name: parent.text_at(&["name"])?,
                section: parent.text_at(&["sectionName"]),
            })
        });
        Self {
            gateways: gateways.collect(),
            has_parents: !parents.is_empty(),
            target,
            value,
        }
    }

    /// Whether it may be at a Gateway, and not only at a Service of a mesh.
    fn is_at_gateway(&self) -> bool {
        !self.has_parents || !self.gateways.is_empty()
    }
}

impl<'t> Coverage<'t> {
    /// Whether the policies nearest to a rule have the module, at every listener that the rule's route may be at.
    fn is_guarded(&self, route: &Route<'t>, rule: Value<'t>) -> bool {
        let all = &self.attachments;
        let of_rule = rule
            .text_at(&["name"])
            .and_then(|name| all.decided(&route.target, Some(name)));
        if let Some(has_module) = of_rule.or_else(|| all.decided(&route.target, None)) {
            return has_module;
        }
        if route.gateways.is_empty() {
            return all.have_module_at_gateway();
        }
        let mut parents = route.gateways.iter();
        parents.all(|parent| self.is_guarded_at(route, parent))
    }

    fn is_guarded_at(&self, route: &Route<'t>, parent: &Parent<'t>) -> bool {
        let mut named = self.gateways.get(parent.name).into_iter().flatten();
        let known =
            named.find(|(target, _)| namespace::may_be_same(target.namespace, parent.namespace));
        let unseen = Target::unseen(parent.namespace, parent.name);
        let gateway = known.map_or(&unseen, |(target, _)| target);
        let all = &self.attachments;
        let at = |listener: &str| {
            let of_listener = all.decided(gateway, Some(listener));
            of_listener.or_else(|| all.decided(gateway, None)) == Some(true)
        };
        match (parent.section, known) {
            (Some(listener), _) => at(listener),
            (None, Some((_, gateway))) => listeners(*gateway, route.value).all(at),
            // The listeners of a Gateway that is not in the files are not known.
            (None, None) => all.decided_anywhere(gateway) == Some(true),
        }
    }

    /// Whether a route, or a Gateway that it is at, is of the same namespace as a policy with the module.
    fn is_concerned(&self, route: &Route<'t>) -> bool {
        let of_gateways = route.gateways.iter().map(|gateway| gateway.namespace);
        let mut namespaces = of_gateways.chain([route.target.namespace]);
        namespaces.any(|namespace| self.attachments.have_module_in(namespace))
    }
}

/// The listeners of a Gateway that a route is at if it names none of them: those that take HTTP for one of the route's
/// hosts.
fn listeners<'t>(gateway: Value<'t>, route: Value<'t>) -> impl Iterator<Item = &'t str> {
    let hosts: Vec<&str> = route
        .list(&["spec", "hostnames"])
        .filter_map(Value::text)
        .collect();
    gateway
        .list(&["spec", "listeners"])
        .filter(|one| matches!(one.text_at(&["protocol"]), Some("HTTP" | "HTTPS") | None))
        .filter(move |one| {
            let own = one.text_at(&["hostname"]);
            own.is_none_or(|own| {
                hosts.is_empty() || hosts.iter().any(|host| meet(own, host) || meet(host, own))
            })
        })
        .filter_map(|one| one.text_at(&["name"]))
}

/// Whether a pattern, such as `*.example.org`, is for a host.
fn meet(pattern: &str, host: &str) -> bool {
    pattern == host
        || pattern
            .strip_prefix('*')
            .is_some_and(|end| host.ends_with(end))
}

/// The homeserver's servers: those that routes for its paths lead to, or, without any, those that the module is before.
#[derive(Default)]
struct Servers<'t> {
    known: HashMap<(&'t str, &'t str), Vec<Server<'t>>>,
    has_matrix: bool,
}

struct Server<'t> {
    namespace: Option<&'t str>,
    port: Option<u64>,
    is_of_matrix: bool,
}

impl<'t> Servers<'t> {
    fn add(&mut self, route: &Route<'t>, rule: Value<'t>, is_of_matrix: bool) {
        self.has_matrix |= is_of_matrix;
        for backend in backends(rule) {
            if let Some(key) = key(backend) {
                self.known.entry(key).or_default().push(Server {
                    namespace: backend.text_at(&["namespace"]).or(route.target.namespace),
                    port: backend.number_at(&["port"]),
                    is_of_matrix,
                });
            }
        }
    }

    /// Whether a backend is one of these servers. Another port may be for something else, such as metrics, unless the route
    /// may be for the homeserver's paths.
    fn have(&self, namespace: Option<&str>, backend: Value<'t>, may_be_matrix: bool) -> bool {
        let namespace = backend.text_at(&["namespace"]).or(namespace);
        let port = backend.number_at(&["port"]);
        let known = key(backend).and_then(|key| self.known.get(&key));
        known.into_iter().flatten().any(|server| {
            let is_port =
                may_be_matrix || port.is_none() || server.port.is_none_or(|it| Some(it) == port);
            is_port
                && namespace::may_be_same(server.namespace, namespace)
                && (server.is_of_matrix || !self.has_matrix)
        })
    }
}

/// The kind of a backend, and its name.
fn key<'t>(backend: Value<'t>) -> Option<(&'t str, &'t str)> {
    let kind = backend.text_at(&["kind"]).unwrap_or("Service");
    Some((kind, backend.text_at(&["name"])?))
}

/// The paths that a rule is for.
fn paths<'t>(rule: Value<'t>) -> impl Iterator<Item = &'t str> {
    let matches = rule.list(&["matches"]);
    matches.filter_map(|one| one.text_at(&["path", "value"]))
}

fn is_of_homeserver(rule: Value<'_>) -> bool {
    paths(rule).any(|path| path.contains("/_matrix") || path.contains("/_synapse"))
}

/// Whether requests for the homeserver's paths may take a rule.
fn may_be_matrix(rule: Value<'_>) -> bool {
    let mut paths = paths(rule).peekable();
    paths.peek().is_none() || is_of_homeserver(rule) || paths.any(|path| path == "/")
}

/// Whether a rule is for requests without a token alone.
fn is_open(rule: Value<'_>) -> bool {
    let mut paths = paths(rule).peekable();
    let is_it = |path: &str| OPEN.iter().any(|open| path.starts_with(open));
    paths.peek().is_some() && paths.all(is_it)
}

/// The servers that a rule leads to.
fn backends<'t>(rule: Value<'t>) -> impl Iterator<Item = Value<'t>> {
    rule.list(&["backendRefs"])
}

/// The servers that a rule sends copies to.
fn mirrors<'t>(rule: Value<'t>) -> impl Iterator<Item = Value<'t>> {
    let of_backends = backends(rule).flat_map(|backend| backend.list(&["filters"]));
    rule.list(&["filters"])
        .chain(of_backends)
        .filter_map(|filter| filter.at(&["requestMirror", "backendRef"]))
}
