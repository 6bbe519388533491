//! The module in Envoy's own configuration: bootstraps, listeners by themselves, single filters.
//!
//! A filter in a listener is found by the structure, since rules look at its connection manager; aliases may put one
//! filter into several. Every other filter is found wherever it stands.

use std::collections::HashSet;

use super::{
    Deployment, Entry, Envoy, Host, Use,
    module::{Encoded, Environment, Variable, is_configuration, is_name, read},
};
use crate::yaml::{Document, Id, Tree, Value};

/// Steps that each use costs. Aliases can make many uses of a few lines.
const STEPS_OF_USE: usize = 5_000;

const WASM: &str = "envoy.extensions.filters.http.wasm.v3.Wasm";
/// A filter that a matcher is asked before.
pub const WRAPPER: &str = "envoy.extensions.common.matching.v3.ExtensionWithMatcher";
const MANAGER: &str =
    "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager";
const TCP_PROXY: &str = "envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy";

/// Adds the uses of a document, and the Envoy that they run in. Listeners in a file that a bootstrap names are in its Envoy.
pub(super) fn find_uses<'t>(
    deployment: &mut Deployment<'t>,
    root: Value<'t>,
    document: &'t Document,
) {
    let number = deployment.envoys.len();
    let files = files_of(deployment, root, "lds_config");
    let mut found = if is_configuration(root) && !is_bootstrap(root) {
        let encoded = Encoded::Object(root);
        vec![read(Host::Nobody, number, None, encoded, None)]
    } else {
        std::iter::once((root, document))
            .chain(files.iter().copied())
            .flat_map(|(root, document)| uses(number, root, document))
            .collect()
    };
    if !found.is_empty() {
        let envoy = envoy(deployment, root, &files);
        deployment.envoys.push(envoy);
        deployment.uses.append(&mut found);
    }
}

/// The uses of one document.
fn uses<'t>(number: usize, root: Value<'t>, document: &'t Document) -> Vec<Use<'t>> {
    let mut found = Vec::new();
    let mut seen = HashSet::new();
    for (plugin, entry) in entries(root) {
        seen.insert(plugin.id);
        found.extend(use_of(Host::Envoy, number, plugin, Some(entry)));
    }
    for plugin in plugins(root, document).filter(|plugin| !seen.contains(&plugin.id)) {
        found.extend(use_of(Host::Envoy, number, plugin, None));
    }
    found
}

/// The Envoy of a document and of the files of listeners that the document names.
fn envoy<'t>(
    deployment: &Deployment<'t>,
    root: Value<'t>,
    files: &[(Value<'t>, &'t Document)],
) -> Envoy<'t> {
    let bootstrap = Some(root).filter(|root| is_bootstrap(*root));
    let others = files.iter().map(|(root, _)| *root);
    let roots: Vec<Value<'t>> = std::iter::once(root).chain(others).collect();
    let port =
        |listener: Value<'t>| listener.number_at(&["address", "socket_address", "port_value"]);
    let ports = roots.iter().copied().flat_map(listeners).filter_map(port);
    let dynamic = files_of(deployment, root, "cds_config");
    let of_files = dynamic
        .iter()
        .flat_map(|(root, _)| root.list(&["resources"]));
    let comes = |key| root.at(&["dynamic_resources", key]).is_some();
    Envoy {
        bootstrap,
        ports: ports.collect(),
        clusters: clusters(root).into_iter().chain(of_files).collect(),
        is_complete: bootstrap.is_some() && (!comes("cds_config") || !dynamic.is_empty()),
        has_listeners: bootstrap.is_some() && (!comes("lds_config") || !files.is_empty()),
        roots,
    }
}

/// The documents of listeners that bootstraps name. Their listeners are in the Envoy of the bootstrap.
pub(super) fn named_files(deployment: &Deployment<'_>) -> HashSet<(*const Tree, Id)> {
    let documents = deployment.documents.iter();
    let roots = documents.map(|(tree, document)| tree.value(document.root));
    roots
        .filter(|root| is_bootstrap(*root))
        .flat_map(|root| files_of(deployment, root, "lds_config"))
        .map(|(root, _)| root.key())
        .collect()
}

fn is_bootstrap(root: Value<'_>) -> bool {
    root.get("static_resources").is_some()
}

/// The Wasm plugins of a document, wherever they stand.
pub(super) fn plugins<'t>(
    root: Value<'t>,
    document: &'t Document,
) -> impl Iterator<Item = Value<'t>> {
    let tree = root.tree;
    document
        .values
        .clone()
        .map(move |id: Id| tree.value(id))
        .filter_map(plugin_of)
}

/// The use of the module that a plugin is; `None` if the plugin is another module.
pub(super) fn use_of<'t>(
    host: Host,
    envoy: usize,
    plugin: Value<'t>,
    entry: Option<Entry<'t>>,
) -> Option<Use<'t>> {
    let encoded = Encoded::of(plugin.at(&["configuration", "value"]), plugin);
    let is_own = match &encoded {
        Encoded::Object(object) | Encoded::Text(object, _) => is_configuration(*object),
        Encoded::Broken(_) => false,
    };
    let names = [
        plugin.text_at(&["name"]),
        plugin.text_at(&["root_id"]),
        plugin.text_at(&["vm_config", "vm_id"]),
        plugin.text_at(&["vm_config", "code", "local", "filename"]),
        plugin.text_at(&["vm_config", "code", "remote", "http_uri", "uri"]),
    ];
    if !is_own && !names.into_iter().flatten().any(is_name) {
        return None;
    }
    plugin.tree.spend(STEPS_OF_USE).then_some(())?;
    let environment = plugin.get("vm_config").map(environment);
    let mut one = read(host, envoy, Some(plugin), encoded, environment.as_ref());
    one.entry = entry;
    Some(one)
}

/// The variables that `environment_variables` gives a VM.
pub fn environment(vm: Value<'_>) -> Environment {
    let of_host = vm
        .list(&["environment_variables", "host_env_keys"])
        .filter_map(|key| Some((key.text()?.to_owned(), Variable::Unseen)));
    let given = vm
        .at(&["environment_variables", "key_values"])
        .into_iter()
        .flat_map(Value::members)
        .map(|(key, value)| (key.to_owned(), Variable::of(value.text())));
    of_host.chain(given).collect()
}

/// A filter of a listener, and where its requests come in.
#[derive(Clone, Copy)]
pub struct NetworkFilter<'t> {
    /// The listener.
    pub listener: Value<'t>,
    /// The filter chain.
    pub chain: Value<'t>,
    /// The name of its type.
    pub kind: &'t str,
    /// Its configuration.
    pub config: Value<'t>,
}

/// The filters of all listeners of a bootstrap.
pub fn network_filters<'t>(root: Value<'t>) -> impl Iterator<Item = NetworkFilter<'t>> {
    listeners(root).flat_map(|listener| {
        let default = listener.get("default_filter_chain");
        let chains = listener.list(&["filter_chains"]).chain(default);
        chains.flat_map(move |chain| {
            chain.list(&["filters"]).filter_map(move |filter| {
                let (kind, config) = typed(filter.get("typed_config")?)?;
                Some(NetworkFilter {
                    listener,
                    chain,
                    kind,
                    config,
                })
            })
        })
    })
}

impl NetworkFilter<'_> {
    /// Whether it is an HTTP connection manager.
    pub fn is_manager(&self) -> bool {
        self.kind == MANAGER
    }

    /// Whether it hands bytes on as they come in.
    pub fn is_tcp_proxy(&self) -> bool {
        self.kind == TCP_PROXY
    }
}

/// The HTTP connection managers of a bootstrap.
pub fn managers<'t>(root: Value<'t>) -> impl Iterator<Item = Value<'t>> {
    network_filters(root)
        .filter(NetworkFilter::is_manager)
        .map(|filter| filter.config)
}

/// The HTTP filters of all connection managers that are plugins, and where their requests come in.
fn entries<'t>(root: Value<'t>) -> impl Iterator<Item = (Value<'t>, Entry<'t>)> {
    network_filters(root)
        .filter(NetworkFilter::is_manager)
        .flat_map(|network| {
            let filters = network.config.list(&["http_filters"]);
            filters.filter_map(move |filter| {
                let plugin = plugin_of_filter(filter)?;
                let entry = Entry {
                    listener: Some(network.listener),
                    chain: Some(network.chain),
                    manager: network.config,
                    filter_name: filter.text_at(&["name"]).unwrap_or_default(),
                    is_off: filter.boolean_at(&["disabled"]) == Some(true),
                };
                Some((plugin, entry))
            })
        })
}

/// The listeners of a bootstrap, of a file of resources, or the document itself.
fn listeners<'t>(root: Value<'t>) -> impl Iterator<Item = Value<'t>> {
    let itself = root.get("filter_chains").map(|_| root);
    root.list(&["static_resources", "listeners"])
        .chain(root.list(&["resources"]))
        .chain(itself)
}

/// The documents of the file that a bootstrap has its clusters or listeners from, if the file was given.
fn files_of<'t>(
    deployment: &Deployment<'t>,
    root: Value<'t>,
    key: &str,
) -> Vec<(Value<'t>, &'t Document)> {
    let source = root.at(&["dynamic_resources", key]);
    let path = source.and_then(|source| {
        source
            .text_at(&["path_config_source", "path"])
            .or(source.text_at(&["path"]))
    });
    let name = |path: &'t str| path.rsplit('/').next();
    let Some(path) = path else {
        return Vec::new();
    };
    let documents = deployment.documents.iter();
    let own = documents.filter(|(tree, document)| {
        name(&tree.name) == name(path)
            && !document.is_embedded
            && tree.value(document.root).key() != root.key()
    });
    own.map(|(tree, document)| (tree.value(document.root), *document))
        .collect()
}

/// The clusters of a bootstrap.
pub(super) fn clusters<'t>(root: Value<'t>) -> Vec<Value<'t>> {
    root.list(&["static_resources", "clusters"]).collect()
}

/// The plugin in a filter's configuration.
fn plugin_of(config: Value<'_>) -> Option<Value<'_>> {
    let (kind, config) = typed(config)?;
    config.get("config").filter(|_| kind == WASM)
}

/// The plugin of an HTTP filter, also where a matcher is asked before it.
pub fn plugin_of_filter(filter: Value<'_>) -> Option<Value<'_>> {
    let config = filter.get("typed_config")?;
    match typed(config)? {
        (WRAPPER, own) => plugin_of(own.at(&["extension_config", "typed_config"])?),
        _ => plugin_of(config),
    }
}

/// The name of an extension's type, and the extension's configuration. Istio writes both into a `TypedStruct`.
pub fn typed(config: Value<'_>) -> Option<(&str, Value<'_>)> {
    let name = |key| {
        let url = config.text_at(&[key])?;
        url.rsplit('/').next()
    };
    match name("@type")? {
        "udpa.type.v1.TypedStruct" | "xds.type.v3.TypedStruct" => {
            let value = config.get("value").unwrap_or(config);
            Some((name("type_url")?, value))
        }
        kind => Some((kind, config)),
    }
}

/// The configuration of a filter or another extension, without its type.
pub fn settings(extension: Value<'_>) -> Option<Value<'_>> {
    let config = extension.get("typed_config")?;
    Some(typed(config).map_or(config, |(_, config)| config))
}

/// A cluster's options for HTTP to its servers.
pub fn protocols<'t>(cluster: Value<'t>) -> impl Iterator<Item = Value<'t>> {
    let options = cluster.get("typed_extension_protocol_options");
    let options = options.into_iter().flat_map(Value::members);
    options.map(|(_, options)| typed(options).map_or(options, |(_, options)| options))
}
