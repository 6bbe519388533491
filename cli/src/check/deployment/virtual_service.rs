//! VirtualServices of Istio: the gateways that one is for, its hosts, and its routes.
//!
//! The non-obvious rule: one that names no gateway is for the proxies of all pods (`mesh`), as is one that names `mesh` alone, and a
//! match may leave gateways out. A delegate names neither gateways nor hosts: it is for those of the one that names it.

use std::collections::HashSet;

use super::{Resources, namespace};
use crate::yaml::Value;

/// The name by which the proxies of all pods are meant.
const MESH: &str = "mesh";

/// A VirtualService.
pub struct VirtualService<'t> {
    /// The resource.
    pub value: Value<'t>,
    /// The gateways that it names, without the proxies of pods.
    gateways: Vec<&'t str>,
    /// Whether one that is for a gateway has it for a delegate.
    is_delegate: bool,
}

/// A route of a VirtualService, as requests at a gateway may take it.
pub struct VirtualRoute<'t> {
    /// The route.
    pub value: Value<'t>,
    /// Its matches that count at a gateway; without any it is for all requests.
    pub matches: Vec<Value<'t>>,
}

impl<'t> Resources<'t> {
    /// The VirtualServices that are for a gateway.
    pub fn virtual_services(&self) -> Vec<VirtualService<'t>> {
        let mut all: Vec<_> = self
            .kind("VirtualService")
            .map(VirtualService::of)
            .collect();
        let roots = all.iter().filter(|one| one.is_at_gateway());
        let delegates: HashSet<(&str, Option<&str>)> =
            roots.flat_map(VirtualService::delegates).collect();
        let is_named = |one: &VirtualService<'t>| {
            let name = one.value.text_at(&["metadata", "name"]);
            let own = namespace::of(one.value);
            name.is_some_and(|name| {
                let mut of_roots = delegates.iter();
                of_roots.any(|(other, of)| *other == name && namespace::may_be_same(*of, own))
            })
        };
        for one in &mut all {
            one.is_delegate = one.has_neither() && is_named(one);
        }
        all.retain(VirtualService::is_at_gateway);
        all
    }
}

impl<'t> VirtualService<'t> {
    fn of(value: Value<'t>) -> Self {
        let gateways = value.list(&["spec", "gateways"]).filter_map(Value::text);
        Self {
            value,
            gateways: gateways.filter(|gateway| *gateway != MESH).collect(),
            is_delegate: false,
        }
    }

    fn is_at_gateway(&self) -> bool {
        self.is_delegate || !self.gateways.is_empty()
    }

    /// Whether it names neither gateways nor hosts.
    fn has_neither(&self) -> bool {
        let mut named = ["gateways", "hosts"].into_iter();
        named.all(|key| self.value.list(&["spec", key]).next().is_none())
    }

    /// The names of its delegates, with their namespaces.
    fn delegates(&self) -> impl Iterator<Item = (&'t str, Option<&'t str>)> {
        let own = namespace::of(self.value);
        let routes = self.value.list(&["spec", "http"]);
        routes.filter_map(move |route| {
            let named = route.text_at(&["delegate", "namespace"]);
            Some((route.text_at(&["delegate", "name"])?, named.or(own)))
        })
    }

    /// Its hosts.
    pub fn hosts(&self) -> impl Iterator<Item = &'t str> + use<'t> {
        let hosts = self.value.list(&["spec", "hosts"]);
        hosts.filter_map(Value::text)
    }

    /// Its routes for HTTP that requests at a gateway may take.
    pub fn routes(&self) -> impl Iterator<Item = VirtualRoute<'t>> + use<'t> {
        routes(self.value, "http")
    }

    /// Its routes for bytes that connections at a gateway may take.
    pub fn routes_of_bytes(&self) -> impl Iterator<Item = VirtualRoute<'t>> + use<'t> {
        let value = self.value;
        ["tls", "tcp"]
            .into_iter()
            .flat_map(move |key| routes(value, key))
    }

    /// Whether a match of a route asks for more than the path: also for one of several gateways.
    pub fn asks_for_more(&self, one: Value<'t>) -> bool {
        one.members().any(|(key, value)| match key {
            "uri" | "name" | "ignoreUriCase" | "statPrefix" => false,
            "gateways" => {
                let named: Vec<_> = value.items().filter_map(Value::text).collect();
                !self.gateways.iter().all(|gateway| named.contains(gateway))
            }
            _ => true,
        })
    }
}

impl<'t> VirtualRoute<'t> {
    /// What it asks of paths.
    pub fn uris(&self) -> impl Iterator<Item = Value<'t>> {
        self.matches.iter().filter_map(|one| one.get("uri"))
    }

    /// The paths, beginnings of paths and expressions that it names.
    pub fn paths(&self) -> impl Iterator<Item = &'t str> {
        let members = self.uris().flat_map(Value::members);
        members.filter_map(|(_, text)| text.text())
    }
}

fn routes<'t>(
    service: Value<'t>,
    key: &'static str,
) -> impl Iterator<Item = VirtualRoute<'t>> + use<'t> {
    service.list(&["spec", key]).filter_map(|value| {
        let mut matches: Vec<_> = value.list(&["match"]).collect();
        let is_for_all = matches.is_empty();
        matches.retain(|one| {
            let mut named = one.list(&["gateways"]).filter_map(Value::text).peekable();
            named.peek().is_none() || named.any(|gateway| gateway != MESH)
        });
        (is_for_all || !matches.is_empty()).then_some(VirtualRoute { value, matches })
    })
}
