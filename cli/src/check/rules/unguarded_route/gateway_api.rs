//! A policy of Envoy Gateway is for a Gateway, one of its listeners, an HTTPRoute, or one of its rules. The nearest policy
//! replaces those that are further away. Where the nearest policy has no module, or there is no policy, requests pass by
//! the module.

use std::collections::HashMap;

use super::{Deployment, Found, Spot};
use crate::{
    check::{
        deployment::{Chain, GatewayApi, Host, Level, Resources, Route, namespace},
        rules::path_rule::PathRule,
    },
    yaml::{Tree, Value},
};

/// Routes that a policy may be for.
const ROUTES: [&str; 2] = ["HTTPRoute", "GRPCRoute"];

/// Routes of bytes, which no policy with HTTP filters is for.
const OF_BYTES: [&str; 2] = ["TCPRoute", "TLSRoute"];

pub(super) fn check<'t>(deployment: &Deployment<'t>, found: &mut Found<'t>) {
    let own: HashMap<_, _> = deployment
        .gateways()
        .filter(|one| one.host == Host::EnvoyGateway)
        .filter_map(|one| one.resource)
        .map(|policy| (policy.key(), namespace::of(policy)))
        .collect();
    if own.is_empty() {
        return;
    }
    let resources = &deployment.resources;
    note_patches(resources, found);
    let coverage = Coverage {
        api: &deployment.gateway_api,
        own,
    };
    let mut servers = Servers::default();
    let mut unguarded = Vec::new();
    for route in routes(resources, ROUTES) {
        for rule in route.value.list(&["spec", "rules"]) {
            let is_guarded = coverage.is_guarded(&route, rule);
            for rival in coverage.rivals(&route, rule) {
                found.add(
                    Spot::first_key(rival, &["metadata", "kind"]),
                    RIVAL,
                    HELP_WITH_RIVAL,
                );
            }
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

/// Tells of patches that take filters out, or turn filters off for a route: of which ones is told by numbers, which are not in
/// these files.
fn note_patches<'t>(resources: &Resources<'t>, found: &mut Found<'t>) {
    let policies = resources.kind("EnvoyPatchPolicy");
    let patches = policies.flat_map(|policy| policy.list(&["spec", "jsonPatches"]));
    for operation in patches.filter_map(|patch| patch.get("operation")) {
        let paths = ["path", "jsonPath"].map(|key| operation.text_at(&[key]).unwrap_or_default());
        let is_in = |key: &str| paths.iter().any(|path| path.contains(key));
        let takes_out = matches!(
            operation.text_at(&["op"]),
            Some("remove" | "replace" | "move")
        );
        if is_in("typed_per_filter_config") || takes_out && is_in("http_filters") {
            found.note(
                Spot::first_key(operation, &["path", "jsonPath", "op"]),
                "this patch changes which filters there are for requests: whether the module stays before the homeserver is not in \
                 these files",
                "look at what the Gateway's Envoy has: `config_dump` of its admin interface shows the module among `http_filters`",
            );
        }
    }
}

const HELP: &str = "let the policy's `targetRefs` name the Gateway, or each listener and this route as well; a second policy for \
                    this route replaces the one of its Gateway";
const RIVAL: &str = "this policy and one with the module are for the same target: Envoy Gateway obeys the older one alone, and if that is \
                     this one, requests pass by the module";
const HELP_WITH_RIVAL: &str = "write both into one policy";
const HELP_WITH_BYTES: &str =
    "lead to this server by HTTPRoutes alone: no policy looks into what such a route hands on";

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

/// The policies that decide whether the module is at a route.
struct Coverage<'d, 't> {
    api: &'d GatewayApi<'t>,
    /// Those with the module.
    own: HashMap<(*const Tree, usize), Option<&'t str>>,
}

impl<'t> Coverage<'_, 't> {
    /// Whether the policies nearest to a rule have the module, at every listener that the rule's route may be at.
    fn is_guarded(&self, route: &Route<'t>, rule: Value<'t>) -> bool {
        let chains = self.api.chains(route, rule);
        chains.iter().all(|chain| self.is_decided(chain))
    }

    fn is_decided(&self, chain: &Chain<'t>) -> bool {
        let mut decisions = chain.iter().filter_map(|level| self.decided(level));
        decisions.next() == Some(true)
    }

    /// Whether a policy that is for exactly this has the module. `None` without such a policy.
    fn decided(&self, level: &Level<'t>) -> Option<bool> {
        let policies = self.api.extensions.at(level).into_iter();
        let has_module = |policy: Value<'t>| self.own.contains_key(&policy.key());
        policies
            .map(|policy| (has_module(policy), policy))
            .filter(|(has_module, policy)| *has_module || !is_added(*policy))
            .fold(None, |before, (has_module, _)| {
                Some(before == Some(true) || has_module)
            })
    }

    /// The policies without the module for what another policy has the module for.
    fn rivals(&self, route: &Route<'t>, rule: Value<'t>) -> Vec<Value<'t>> {
        let mut found = Vec::new();
        for level in self.api.chains(route, rule).iter().flatten() {
            // Of a target that is not known two policies may be for different ones.
            if let Level::Section(..) | Level::Whole(_) = level {
                let policies = self.api.extensions.at(level).into_iter();
                let (own, others): (Vec<_>, Vec<_>) =
                    policies.partition(|policy| self.own.contains_key(&policy.key()));
                if !own.is_empty() {
                    found.extend(others);
                }
            }
        }
        found
    }

    /// Whether a route, or a Gateway that it is at, is of the same namespace as a policy with the module.
    fn is_concerned(&self, route: &Route<'t>) -> bool {
        let of_parents = route.parents.iter().map(|parent| parent.namespace);
        let mut namespaces = of_parents.chain([route.target.namespace]);
        namespaces.any(|namespace| {
            let mut own = self.own.values();
            own.any(|own| namespace::may_be_same(*own, namespace))
        })
    }
}

/// Whether a policy is added to those further away. Either way of merging replaces each list that the policy has.
fn is_added(policy: Value<'_>) -> bool {
    let spec = policy.get("spec");
    let has = |key| spec.is_some_and(|spec| spec.get(key).is_some());
    has("mergeType") && !has("wasm")
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
    let mut matches = rule.list(&["matches"]).peekable();
    matches.peek().is_some() && matches.all(|one| PathRule::of_match(one).is_open())
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
