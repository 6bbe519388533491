//! The module in resources of Kubernetes, and what other resources say of the Envoys that it runs in.

use std::collections::HashSet;

use super::{
    Deployment, Envoy, Host, Use,
    envoy::{clusters, plugins, use_of},
    module::{Encoded, Environment, Variable, is_configuration, is_name, read},
    pods::containers,
    services::Service,
};
use crate::yaml::Value;

/// Kinds of Kubernetes whose names other programs give to resources of their own, in which the same words mean something else: a
/// NetworkPolicy of Calico has no `podSelector`.
const COPIED: [&str; 3] = ["Ingress", "NetworkPolicy", "Service"];

/// The resources of all files, and the services of Docker Compose.
pub struct Resources<'t> {
    all: Vec<Value<'t>>,
    /// Services of Docker Compose.
    pub services: Vec<Service<'t>>,
}

impl<'t> Resources<'t> {
    /// Sorts documents.
    pub(super) fn of(roots: &[Value<'t>]) -> Self {
        let is_resource =
            |root: &&Value<'t>| root.get("apiVersion").is_some() && !is_foreign(**root);
        Self {
            all: roots.iter().filter(is_resource).copied().collect(),
            services: Service::all(roots),
        }
    }

    /// All resources of a kind.
    pub fn kind(&self, kind: &str) -> impl Iterator<Item = Value<'t>> {
        let is_it = move |one: &&Value<'t>| one.text_at(&["kind"]) == Some(kind);
        self.all.iter().filter(is_it).copied()
    }

    /// The patches of Istio's EnvoyFilters to one sort of thing (`applyTo`).
    pub fn patches(&self, target: &'static str) -> impl Iterator<Item = Value<'t>> {
        self.kind("EnvoyFilter")
            .flat_map(|filter| filter.list(&["spec", "configPatches"]))
            .filter(move |patch| patch.text_at(&["applyTo"]) == Some(target))
    }

    /// The bootstraps that EnvoyProxies give.
    pub fn bootstraps(&self) -> impl Iterator<Item = Value<'t>> {
        self.kind("EnvoyProxy")
            .filter_map(|proxy| proxy.at(&["spec", "bootstrap", "value"])?.embedded()?.ok())
    }

    /// The ConfigMap or Secret that a value of an Envoy's configuration stands in.
    pub fn holder(&self, deployment: &Deployment<'t>, value: Value<'t>) -> Option<Value<'t>> {
        let (_, document) = deployment.documents.iter().find(|(tree, document)| {
            std::ptr::eq(*tree, value.tree) && document.values.contains(&value.id)
        })?;
        let holds = |holder: &Value<'t>| {
            let keys = ["data", "binaryData", "stringData"];
            let data = keys.into_iter().filter_map(|key| holder.get(key));
            let mut texts = data.flat_map(Value::members);
            let is_it = |root: Value<'t>| root.id == document.root;
            std::ptr::eq(holder.tree, value.tree)
                && texts.any(|(_, text)| text.embedded().and_then(Result::ok).is_some_and(is_it))
        };
        let mut holders = self.kind("ConfigMap").chain(self.kind("Secret"));
        holders.find(holds)
    }

    /// The port that a NetworkPolicy or a Service names, as a number.
    pub fn port(&self, port: Value<'t>) -> Option<u64> {
        let text = port.text()?;
        text.parse().ok().or_else(|| {
            let containers = self.all.iter().flat_map(|one| {
                let pod = one.at(&["spec", "template", "spec"]).or(one.get("spec"));
                pod.into_iter().flat_map(containers)
            });
            containers
                .flat_map(|container| container.list(&["ports"]))
                .find(|one| one.text_at(&["name"]) == Some(text))?
                .number_at(&["containerPort"])
        })
    }
}

/// Whether a resource has the kind of one of Kubernetes, and is of another program by its group.
fn is_foreign(resource: Value<'_>) -> bool {
    let is_copied = |kind: &str| COPIED.contains(&kind);
    let version = resource.text_at(&["apiVersion"]);
    let group = version.and_then(|version| Some(version.split_once('/')?.0));
    resource.text_at(&["kind"]).is_some_and(is_copied)
        && group.is_some_and(|group| group.contains('.') && !group.ends_with("k8s.io"))
}

/// The resources of a document: its own, or the items of a list.
pub fn unlisted(root: Value<'_>) -> Vec<Value<'_>> {
    match root.text_at(&["kind"]) {
        Some("List") => root.list(&["items"]).collect(),
        _ => vec![root],
    }
}

/// Adds the uses in resources, and the Envoys that they run in.
pub(super) fn find_uses<'t>(deployment: &mut Deployment<'t>, roots: &[Value<'t>]) {
    find_istio_uses(deployment);
    find_envoy_gateway_uses(deployment, roots);
}

/// Adds the uses in WasmPlugins and EnvoyFilters. All of these are taken to be of one gateway.
fn find_istio_uses(deployment: &mut Deployment<'_>) {
    let number = deployment.envoys.len();
    let mut found = Vec::new();
    for plugin in deployment.resources.kind("WasmPlugin") {
        found.extend(wasm_plugin(plugin, number));
    }
    for (tree, document) in &deployment.documents {
        let root = tree.value(document.root);
        let is_filter = |one: &Value<'_>| one.text_at(&["kind"]) == Some("EnvoyFilter");
        if !document.is_embedded && unlisted(root).iter().any(is_filter) {
            let of_filter = |plugin| use_of(Host::EnvoyFilter, number, plugin, None);
            let mut own: Vec<_> = plugins(root, document).filter_map(of_filter).collect();
            for one in &mut own {
                one.resource = unlisted(root).into_iter().filter(is_filter).find(|filter| {
                    let place = one.plugin.map(Value::place).unwrap_or_default();
                    filter.place().contains(&place)
                });
            }
            found.append(&mut own);
        }
    }
    if !found.is_empty() {
        let patches = deployment.resources.patches("CLUSTER");
        let clusters = patches
            .filter_map(|patch| patch.at(&["patch", "value"]))
            .collect();
        deployment.envoys.push(Envoy {
            bootstrap: None,
            roots: Vec::new(),
            ports: HashSet::new(),
            clusters,
            is_complete: false,
            has_listeners: true,
        });
    }
    deployment.uses.append(&mut found);
}

/// Adds the uses in policies of Envoy Gateway. All of these are taken to be of one gateway.
fn find_envoy_gateway_uses<'t>(deployment: &mut Deployment<'t>, roots: &[Value<'t>]) {
    let number = deployment.envoys.len();
    let before = deployment.uses.len();
    for policy in roots {
        if policy.text_at(&["kind"]) == Some("EnvoyExtensionPolicy") {
            let of_policy = |wasm| {
                let mut one = extension(wasm, number)?;
                one.resource = Some(*policy);
                Some(one)
            };
            let wasm = policy.list(&["spec", "wasm"]);
            deployment.uses.extend(wasm.filter_map(of_policy));
        }
    }
    if deployment.uses.len() > before {
        let resources = &deployment.resources;
        let (added, is_read) = added_clusters(resources);
        let bootstraps = resources.bootstraps().flat_map(clusters);
        let clusters = bootstraps.chain(added).collect();
        deployment.envoys.push(Envoy {
            bootstrap: None,
            roots: Vec::new(),
            ports: HashSet::new(),
            clusters,
            has_listeners: true,
            is_complete: is_read && deployment.resources.bootstraps().next().is_some(),
        });
    }
}

/// The clusters that EnvoyPatchPolicies add, and whether each can be read: a patch may also take one from elsewhere, or change its
/// name.
fn added_clusters<'t>(resources: &Resources<'t>) -> (Vec<Value<'t>>, bool) {
    let patches = resources
        .kind("EnvoyPatchPolicy")
        .flat_map(|policy| policy.list(&["spec", "jsonPatches"]));
    let of_clusters = patches.filter(|patch| {
        let kind = patch.text_at(&["type"]).unwrap_or_default();
        kind.ends_with(".Cluster")
    });
    let mut found = Vec::new();
    let mut is_read = true;
    for patch in of_clusters {
        let path = patch.text_at(&["operation", "path"]).unwrap_or_default();
        let is_whole = matches!(path, "" | "/");
        let value = patch.at(&["operation", "value"]);
        match value.filter(|value| is_whole && value.get("name").is_some()) {
            Some(cluster) => found.push(cluster),
            None => is_read &= !is_whole && !path.starts_with("/name"),
        }
    }
    (found, is_read)
}

fn wasm_plugin<'t>(resource: Value<'t>, envoy: usize) -> Option<Use<'t>> {
    let spec = resource.get("spec")?;
    let configuration = spec.get("pluginConfig");
    let is_own = configuration.is_some_and(is_configuration)
        || spec.text_at(&["url"]).is_some_and(is_name)
        || resource.text_at(&["metadata", "name"]).is_some_and(is_name);
    if !is_own {
        return None;
    }
    let encoded = Encoded::of(configuration, spec);
    let environment = variables(spec);
    let host = Host::WasmPlugin;
    let mut one = read(host, envoy, Some(spec), encoded, Some(&environment));
    one.resource = Some(resource);
    Some(one)
}

/// The variables of a WasmPlugin's VM.
pub fn variables(spec: Value<'_>) -> Environment {
    let variable = |one: Value<'_>| {
        let name = one.text_at(&["name"])?.to_owned();
        let is_of_host = one.text_at(&["valueFrom"]) == Some("HOST");
        let value = one.text_at(&["value"]).filter(|_| !is_of_host);
        Some((name, Variable::of(value)))
    };
    spec.list(&["vmConfig", "env"])
        .filter_map(variable)
        .collect()
}

fn extension(wasm: Value<'_>, envoy: usize) -> Option<Use<'_>> {
    let configuration = wasm.get("config");
    let is_own = configuration.is_some_and(is_configuration)
        || wasm.text_at(&["name"]).is_some_and(is_name)
        || wasm.text_at(&["code", "image", "url"]).is_some_and(is_name);
    if !is_own {
        return None;
    }
    let encoded = Encoded::of(configuration, wasm);
    let keys = wasm.list(&["env", "hostKeys"]);
    let environment = keys
        .filter_map(|key| Some((key.text()?.to_owned(), Variable::Unseen)))
        .collect();
    let host = Host::EnvoyGateway;
    Some(read(host, envoy, Some(wasm), encoded, Some(&environment)))
}
