//! The Gateway API: at which listeners of Gateways and ListenerSets a route is, and at which levels Envoy Gateway's policies may be
//! for it there.
//!
//! The non-obvious rule: a policy for a Gateway as a whole is for the listeners of its ListenerSets, too; one for a listener by its
//! name is for the Gateway's own listener alone.

use std::collections::{HashMap, HashSet};

use super::{
    Resources,
    attachments::{Attachments, Level, Target, kind, targets},
    namespace,
};
use crate::yaml::Value;

/// What listeners are in: Gateways, and sets of listeners that others than the owner of the Gateway add to it.
const PARENTS: [&str; 3] = [GATEWAY, "ListenerSet", "XListenerSet"];
const GATEWAY: &str = "Gateway";

/// Levels at which policies may be for one place, the nearest first.
pub type Chain<'t> = Vec<Level<'t>>;

/// Gateways, routes and policies.
#[derive(Default)]
pub struct GatewayApi<'t> {
    /// The EnvoyExtensionPolicies.
    pub extensions: Attachments<'t>,
    /// The ClientTrafficPolicies.
    pub clients: Attachments<'t>,
    /// The BackendTrafficPolicies.
    pub backends: Attachments<'t>,
    /// Gateways and sets of listeners, by their names.
    parents: HashMap<&'t str, Vec<(Target<'t>, Value<'t>)>>,
    /// Routes, by kind and name.
    routes: HashMap<(&'t str, &'t str), Vec<Value<'t>>>,
    /// The listeners, by what they are in, with a route for paths of Matrix.
    of_matrix: HashSet<(*const crate::yaml::Tree, usize, &'t str)>,
}

/// A route, and the parents that it is attached to.
pub struct Route<'t> {
    /// The route, as a target of policies.
    pub target: Target<'t>,
    /// The resource.
    pub value: Value<'t>,
    /// Gateways, and sets of listeners.
    pub parents: Vec<Parent<'t>>,
    /// Whether it names parents of any kind.
    has_parents: bool,
}

/// A Gateway or a set of listeners, or one listener.
pub struct Parent<'t> {
    /// The kind.
    pub kind: &'t str,
    /// The namespace.
    pub namespace: Option<&'t str>,
    /// The name.
    pub name: &'t str,
    /// The listener's name.
    pub section: Option<&'t str>,
}

impl<'t> Parent<'t> {
    fn of(reference: Value<'t>, namespace: Option<&'t str>) -> Option<Self> {
        Some(Self {
            kind: PARENTS.into_iter().find(|it| *it == kind(reference))?,
            namespace: reference.text_at(&["namespace"]).or(namespace),
            name: reference.text_at(&["name"])?,
            section: reference.text_at(&["sectionName"]),
        })
    }
}

impl<'t> Route<'t> {
    /// Reads a route.
    pub fn of(value: Value<'t>) -> Self {
        let target = Target::of(value);
        let references: Vec<Value<'t>> = value.list(&["spec", "parentRefs"]).collect();
        let parents = references.iter();
        Self {
            parents: parents
                .filter_map(|it| Parent::of(*it, target.namespace))
                .collect(),
            has_parents: !references.is_empty(),
            target,
            value,
        }
    }

    /// Whether it may be at a Gateway, and not only at a Service of a mesh.
    pub fn is_at_gateway(&self) -> bool {
        !self.has_parents || !self.parents.is_empty()
    }

    /// The hosts that it is for; none if it is for all.
    pub fn hosts(&self) -> Vec<&'t str> {
        let hosts = self.value.list(&["spec", "hostnames"]);
        hosts.filter_map(Value::text).collect()
    }
}

impl<'t> GatewayApi<'t> {
    /// Reads the resources.
    pub(super) fn of(resources: &Resources<'t>) -> Self {
        let policies = |kind| Attachments::of(resources.kind(kind));
        let mut all = Self {
            extensions: policies("EnvoyExtensionPolicy"),
            clients: policies("ClientTrafficPolicy"),
            backends: policies("BackendTrafficPolicy"),
            ..Self::default()
        };
        for parent in PARENTS.into_iter().flat_map(|kind| resources.kind(kind)) {
            let target = Target::of(parent);
            let named = all.parents.entry(target.name).or_default();
            named.push((target, parent));
        }
        for kind in ["HTTPRoute", "GRPCRoute"] {
            for route in resources.kind(kind) {
                let name = route.text_at(&["metadata", "name"]).unwrap_or_default();
                all.routes.entry((kind, name)).or_default().push(route);
                all.add_matrix(route);
            }
        }
        all
    }

    /// Notes the listeners of a route for paths of Matrix.
    fn add_matrix(&mut self, route: Value<'t>) {
        let rules = route.list(&["spec", "rules"]);
        let mut matches = rules.flat_map(|rule| rule.list(&["matches"]));
        let is_it = |one: Value<'t>| {
            let path = one.text_at(&["path", "value"]);
            path.is_some_and(|path| path.contains("/_matrix"))
        };
        if !matches.any(is_it) {
            return;
        }
        let route = Route::of(route);
        let mut found = Vec::new();
        for parent in &route.parents {
            let Some((_, value)) = self.known(parent) else {
                continue;
            };
            let (tree, id) = value.key();
            let names = parent.section.into_iter();
            let hosts = route.hosts();
            let others = listeners(value)
                .filter(|one| parent.section.is_none() && takes_hosts(*one, &hosts));
            let others = others.filter_map(|one| one.text_at(&["name"]));
            found.extend(names.chain(others).map(|name| (tree, id, name)));
        }
        self.of_matrix.extend(found);
    }

    /// What levels policies may be at for a rule of a route, for each listener that the route may be at.
    pub fn chains(&self, route: &Route<'t>, rule: Value<'t>) -> Vec<Chain<'t>> {
        let name = rule.text_at(&["name"]);
        let of_rule = name.map(|name| Level::Section(route.target.clone(), name));
        let near: Chain<'t> = of_rule
            .into_iter()
            .chain([Level::Whole(route.target.clone())])
            .collect();
        let at = self.listener_chains(route);
        at.into_iter()
            .map(|far| near.iter().cloned().chain(far).collect())
            .collect()
    }

    /// What levels policies may be at for each listener that a route may be at.
    fn listener_chains(&self, route: &Route<'t>) -> Vec<Chain<'t>> {
        if route.parents.is_empty() {
            return vec![vec![Level::AnyGateway]];
        }
        let hosts = route.hosts();
        let parents = route.parents.iter();
        let at = parents
            .flat_map(|parent| self.chains_at(parent, |listener, _| takes_hosts(listener, &hosts)));
        at.collect()
    }

    /// What levels policies may be at for each listener that an EnvoyExtensionPolicy is for. Of a Gateway as a whole these are
    /// the listeners with Matrix, if any has it by the files. None if nothing is known of them.
    pub fn chains_of(&self, policy: Value<'t>) -> Vec<Chain<'t>> {
        let namespace = namespace::of(policy);
        let mut found = Vec::new();
        for target in targets(policy) {
            if let Some(parent) = Parent::of(target, namespace) {
                let is_matrix = |listener: Value<'t>, whole: Value<'t>| {
                    let (tree, id) = whole.key();
                    let name = listener.text_at(&["name"]);
                    name.is_some_and(|name| self.of_matrix.contains(&(tree, id, name)))
                };
                let own = self.chains_at(&parent, is_matrix);
                let own = if own.is_empty() {
                    self.chains_at(&parent, |_, _| true)
                } else {
                    own
                };
                found.extend(own);
            } else {
                let key = (kind(target), target.text_at(&["name"]).unwrap_or_default());
                let routes = self.routes.get(&key).into_iter().flatten();
                let own = routes
                    .filter(|route| namespace::may_be_same(namespace::of(**route), namespace));
                found.extend(own.flat_map(|route| self.listener_chains(&Route::of(*route))));
            }
        }
        found
    }

    /// What levels policies may be at for each of the listeners of a parent that count: of those that take HTTP.
    fn chains_at(
        &self,
        parent: &Parent<'t>,
        counts: impl Fn(Value<'t>, Value<'t>) -> bool,
    ) -> Vec<Chain<'t>> {
        let known = self.known(parent);
        let target = known.map_or_else(
            || Target::unseen(parent.kind, parent.namespace, parent.name),
            |(target, _)| target.clone(),
        );
        let gateway = self.gateway_of(parent, known.map(|(_, value)| value));
        let at = |listener| -> Chain<'t> {
            let near = [
                Level::Section(target.clone(), listener),
                Level::Whole(target.clone()),
            ];
            near.into_iter().chain(gateway.clone()).collect()
        };
        match (parent.section, known) {
            (Some(listener), _) => vec![at(listener)],
            (None, Some((_, value))) => listeners(value)
                .filter(|one| counts(*one, value))
                .filter_map(|one| one.text_at(&["name"]))
                .map(at)
                .collect(),
            // The listeners of what is not in the files are not known.
            (None, None) => {
                let near = [Level::Anywhere(target.clone())];
                vec![near.into_iter().chain(gateway.clone()).collect()]
            }
        }
    }

    /// The Gateway that a set of listeners is added to, as a whole.
    fn gateway_of(&self, parent: &Parent<'t>, known: Option<Value<'t>>) -> Option<Level<'t>> {
        if parent.kind == GATEWAY {
            return None;
        }
        let reference = known.and_then(|value| value.at(&["spec", "parentRef"]));
        let gateway = reference.and_then(|it| Parent::of(it, parent.namespace));
        Some(gateway.map_or(Level::AnyWholeGateway, |gateway| {
            let seen = self.known(&gateway).map(|(target, _)| target.clone());
            Level::Whole(
                seen.unwrap_or_else(|| Target::unseen(GATEWAY, gateway.namespace, gateway.name)),
            )
        }))
    }

    fn known(&self, parent: &Parent<'t>) -> Option<(&Target<'t>, Value<'t>)> {
        let mut named = self.parents.get(parent.name).into_iter().flatten();
        let found = named.find(|(target, _)| {
            target.kind == parent.kind && namespace::may_be_same(target.namespace, parent.namespace)
        });
        found.map(|(target, value)| (target, *value))
    }
}

/// The listeners that take HTTP.
fn listeners<'t>(whole: Value<'t>) -> impl Iterator<Item = Value<'t>> {
    whole
        .list(&["spec", "listeners"])
        .filter(|one| matches!(one.text_at(&["protocol"]), Some("HTTP" | "HTTPS") | None))
}

/// Whether a listener takes requests for one of these hosts.
fn takes_hosts(listener: Value<'_>, hosts: &[&str]) -> bool {
    let own = listener.text_at(&["hostname"]);
    own.is_none_or(|own| {
        hosts.is_empty() || hosts.iter().any(|host| meet(own, host) || meet(host, own))
    })
}

/// Whether a pattern, such as `*.example.org`, is for a host.
fn meet(pattern: &str, host: &str) -> bool {
    pattern == host
        || pattern
            .strip_prefix('*')
            .is_some_and(|end| host.ends_with(end))
}
