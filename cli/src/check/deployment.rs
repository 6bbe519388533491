//! What the files say together: every use of the module, the Envoy that it runs in, and what Kubernetes is told.
//!
//! The non-obvious rule: files are looked at together, because one file may say what another leaves open. Istio's
//! EnvoyFilter for the connection manager is not in the file of the WasmPlugin, and a NetworkPolicy closes what an Envoy in
//! a pod opens.

mod attachments;
mod documents;
mod envoy;
mod gateway_api;
mod image;
mod interpolation;
mod kubernetes;
mod mesh;
mod module;
pub mod namespace;
mod pods;
mod replicas;
mod scope;
mod services;
mod virtual_service;

use std::collections::HashSet;

use matrix_edge_auth::config::{Config, Role};

use self::envoy::network_filters;
pub use self::{
    attachments::Level,
    envoy::{
        NetworkFilter, WRAPPER, environment, managers, plugin_of_filter, protocols, settings, typed,
    },
    gateway_api::{Chain, GatewayApi, Route},
    interpolation::with_defaults,
    kubernetes::{Resources, unlisted, variables},
    module::Environment,
    pods::{Pod, has_labels},
    replicas::Multiplier,
    services::Service,
    virtual_service::{VirtualRoute, VirtualService},
};
use super::finding::Spot;
use crate::yaml::{Document, Tree, Value};

/// All that is known of the files.
pub struct Deployment<'t> {
    /// Every use of the module.
    pub uses: Vec<Use<'t>>,
    /// The Envoys that they run in.
    pub envoys: Vec<Envoy<'t>>,
    /// The resources of Kubernetes, and what Docker Compose publishes.
    pub resources: Resources<'t>,
    /// Gateways, routes and policies of the Gateway API among these.
    pub gateway_api: GatewayApi<'t>,
    /// The documents, with their files.
    pub documents: Vec<(&'t Tree, &'t Document)>,
}

/// One use of the module.
pub struct Use<'t> {
    /// Who writes the Envoy configuration out of this.
    pub host: Host,
    /// The number of the Envoy that it runs in.
    pub envoy: usize,
    /// The `server_name` of the homeserver that it is for, if that can be told.
    pub homeserver: Option<&'t str>,
    /// The plugin: Envoy's `PluginConfig`, a WasmPlugin's `spec`, or one of a policy's `wasm`. A configuration alone has
    /// none.
    pub plugin: Option<Value<'t>>,
    /// The module's configuration, if it can be seen.
    pub configuration: Option<Value<'t>>,
    /// The role, also of a configuration that the module refuses. `None` if that cannot be told.
    pub role: Option<Role>,
    /// The configuration as the module reads it, or why the module refuses it.
    pub config: Result<Config, Refusal<'t>>,
    /// Where requests come in, if that can be seen.
    pub entry: Option<Entry<'t>>,
    /// The resource of Kubernetes that it is in.
    pub resource: Option<Value<'t>>,
}

/// Why the module refuses a configuration, and where.
pub struct Refusal<'t> {
    /// Where.
    pub spot: Spot<'t>,
    /// The module's own words.
    pub message: String,
}

/// Who writes the Envoy configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Host {
    /// The user: a bootstrap, a listener, a filter.
    Envoy,
    /// Envoy Gateway, out of an EnvoyExtensionPolicy.
    EnvoyGateway,
    /// Istio's agent, out of an EnvoyFilter: the plugin is Envoy's own.
    EnvoyFilter,
    /// Nobody yet: a configuration of the module alone.
    Nobody,
    /// Istio, out of a WasmPlugin.
    WasmPlugin,
}

/// What Envoy does when a VM has failed, in the order of the numbers.
pub const FAILURE_POLICIES: &[&str] = &["UNSPECIFIED", "FAIL_RELOAD", "FAIL_CLOSED", "FAIL_OPEN"];

/// Where requests come in.
#[derive(Clone, Copy)]
pub struct Entry<'t> {
    /// The listener, if the filter chain is in one.
    pub listener: Option<Value<'t>>,
    /// The filter chain.
    pub chain: Option<Value<'t>>,
    /// The HTTP connection manager.
    pub manager: Value<'t>,
    /// The name of the filter in the list of HTTP filters.
    pub filter_name: &'t str,
    /// Whether the filter is turned off in that list: it is off for all requests, unless a route, or what the route is in, turns
    /// it on.
    pub is_off: bool,
}

/// One Envoy.
pub struct Envoy<'t> {
    /// Its bootstrap, if that is in the files.
    pub bootstrap: Option<Value<'t>>,
    /// The documents that have its listeners: its bootstrap and the file that the bootstrap names, or a file of listeners
    /// alone.
    pub roots: Vec<Value<'t>>,
    /// The ports of its listeners.
    pub ports: HashSet<u64>,
    /// Its clusters.
    pub clusters: Vec<Value<'t>>,
    /// Whether all clusters are in the files: none comes by CDS from elsewhere.
    pub is_complete: bool,
    /// Whether all listeners are in the files: none comes by LDS from elsewhere.
    pub has_listeners: bool,
}

impl<'t> Envoy<'t> {
    /// The filters of its listeners.
    pub fn network_filters(&self) -> impl Iterator<Item = NetworkFilter<'t>> {
        self.roots.iter().copied().flat_map(network_filters)
    }

    /// The HTTP connection managers of its listeners.
    pub fn managers(&self) -> impl Iterator<Item = Value<'t>> {
        self.roots.iter().copied().flat_map(managers)
    }
}

impl<'t> Deployment<'t> {
    /// Looks at all files together.
    pub fn of(trees: &'t [Tree]) -> Self {
        let documents: Vec<_> = trees
            .iter()
            .flat_map(|tree| tree.documents.iter().map(move |document| (tree, document)))
            .collect();
        let roots: Vec<Value<'t>> = documents
            .iter()
            .filter(|(_, document)| !document.is_embedded)
            .flat_map(|(tree, document)| unlisted(tree.value(document.root)))
            .collect();
        let resources = Resources::of(&roots);
        let mut deployment = Self {
            uses: Vec::new(),
            envoys: Vec::new(),
            gateway_api: GatewayApi::of(&resources),
            resources,
            documents,
        };
        kubernetes::find_uses(&mut deployment, &roots);
        let named = envoy::named_files(&deployment);
        for (tree, document) in deployment.documents.clone() {
            let root = tree.value(document.root);
            let is_named = named.contains(&root.key());
            if root.get("apiVersion").is_none() && !is_named {
                envoy::find_uses(&mut deployment, root, document);
            }
        }
        let homeservers: Vec<_> = deployment
            .uses
            .iter()
            .map(|one| deployment.homeserver(one))
            .collect();
        for (one, homeserver) in deployment.uses.iter_mut().zip(homeservers) {
            one.homeserver = homeserver;
        }
        deployment
    }

    /// The other uses in the same Envoy.
    pub fn others<'d>(&'d self, one: &'d Use<'t>) -> impl Iterator<Item = &'d Use<'t>> {
        self.uses
            .iter()
            .filter(move |other| other.envoy == one.envoy && !std::ptr::eq(*other, one))
    }

    /// The uses in the same Envoy for the same homeserver, this one among them. Two homeservers may share an Envoy, and share
    /// nothing else.
    pub fn peers<'d>(&'d self, one: &'d Use<'t>) -> impl Iterator<Item = &'d Use<'t>> {
        self.uses
            .iter()
            .filter(move |other| other.envoy == one.envoy && other.homeserver == one.homeserver)
    }

    /// The `server_name` of the homeserver that a use is for. An introspection role need not name it. The role then takes
    /// the name from the other uses in its Envoy: from all of them, from those that ask the same MAS, or from those with
    /// the same `vm_id`, whichever agree first.
    fn homeserver(&self, one: &Use<'t>) -> Option<&'t str> {
        let name = |one: &Use<'t>| one.configuration?.text_at(&["server_name"]);
        let asked = |one: &Use<'t>| {
            let asked = one.configuration?.get("introspection")?;
            Some((asked.text_at(&["cluster"])?, asked.text_at(&["authority"])))
        };
        let id = |one: &Use<'t>| one.vm()?.text_at(&["vm_id"]);
        let only_name = |is_it: &dyn Fn(&Use<'t>) -> bool| {
            let others = self.others(one).filter(|other| is_it(other));
            let mut names = others.filter_map(name);
            let first = names.next()?;
            names.all(|other| other == first).then_some(first)
        };
        name(one)
            .or_else(|| only_name(&|_| true))
            .or_else(|| only_name(&|other| asked(one).is_some() && asked(other) == asked(one)))
            .or_else(|| only_name(&|other| id(one).is_some() && id(other) == id(one)))
    }

    /// The uses with a role before clients.
    pub fn gateways(&self) -> impl Iterator<Item = &Use<'t>> {
        self.uses.iter().filter(|one| one.is(Role::Gateway))
    }

    /// The cluster of this name in the Envoy of a use.
    pub fn cluster(&self, one: &Use<'_>, name: &str) -> Option<Value<'t>> {
        let envoy = self.envoys.get(one.envoy)?;
        let is_it = |cluster: &&Value<'t>| cluster.text_at(&["name"]) == Some(name);
        envoy.clusters.iter().find(is_it).copied()
    }
}

impl<'t> Use<'t> {
    /// Where to point at for the use as a whole.
    pub fn spot(&self) -> Option<Spot<'t>> {
        self.plugin.or(self.configuration).map(|value| {
            let names = [
                "name",
                "pluginName",
                "failStrategy",
                "url",
                "configuration",
                "role",
                "introspection",
            ];
            Spot::first_key(value, &names)
        })
    }

    /// Where to point at for a key of the configuration, or for what holds it.
    pub fn key(&self, path: &[&str]) -> Option<Spot<'t>> {
        let mut value = self.configuration?;
        let mut spot = None;
        for key in path {
            match value.get(key) {
                Some(member) => {
                    spot = Some(Spot::key(value, key));
                    value = member;
                }
                None => break,
            }
        }
        spot.or_else(|| self.spot())
    }

    /// The configuration, if the module takes it.
    pub fn config(&self) -> Option<&Config> {
        self.config.as_ref().ok()
    }

    /// Whether it has this role.
    pub fn is(&self, role: Role) -> bool {
        self.role == Some(role)
    }

    /// Envoy's `vm_config`.
    pub fn vm(&self) -> Option<Value<'t>> {
        self.plugin?.get("vm_config")
    }

    /// Whether Envoy's own plugin configuration can be seen.
    pub fn is_envoys(&self) -> bool {
        matches!(self.host, Host::Envoy | Host::EnvoyFilter) && self.plugin.is_some()
    }
}
