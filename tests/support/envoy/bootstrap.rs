//! Envoy's bootstrap configuration, in JSON: listeners with the module and the router, static clusters.

use std::{net::SocketAddr, path::Path};

use serde_json::{Value, json};

/// The name of the first listener.
pub const GATEWAY: &str = "gateway";

/// The key of the module's `PluginConfig` that says which functions it may use.
pub const CAPABILITIES: &str = "capability_restriction_config";

/// A configuration of these listeners and clusters.
pub(super) fn new(listeners: Vec<Value>, clusters: Vec<Value>) -> Value {
    json!({
        "admin": {"address": loopback(0)},
        // Histograms show what they held at the flush before: every question flushes, not only every 5 s.
        "stats_flush_on_admin": true,
        "static_resources": {"listeners": listeners, "clusters": clusters},
    })
}

/// A listener on a free port that sends everything through `filter` to `cluster`.
pub(super) fn new_listener(name: &str, filter: Option<Value>, cluster: &str) -> Value {
    let mut filters: Vec<Value> = filter.into_iter().collect();
    filters.push(json!({
        "name": "envoy.filters.http.router",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router",
        },
    }));
    let http_manager = json!({
        "name": "envoy.filters.network.http_connection_manager",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
            "stat_prefix": name,
            "use_remote_address": true,
            "http_filters": filters,
            "route_config": {
                "virtual_hosts": [{
                    "name": "matrix",
                    "domains": ["*"],
                    // No timeout: requests are held on purpose here, and the tests have limits of their own.
                    "routes": [{"match": {"prefix": "/"}, "route": {"cluster": cluster, "timeout": "0s"}}],
                }],
            },
        },
    });
    json!({
        "name": name,
        // All have the same address in the configuration.
        "stat_prefix": name,
        "address": loopback(0),
        "filter_chains": [{"filters": [http_manager]}],
    })
}

/// The module as an HTTP filter of a listener. All listeners have one VM. `environment` names the variables
/// that it may read, `capabilities` the functions that it may use.
pub(super) fn wasm_filter(
    module: &Path,
    listener: &str,
    plugin: &Value,
    environment: &[&str],
    capabilities: &Value,
) -> Value {
    let name = match listener {
        GATEWAY => "matrix-edge-auth".to_owned(),
        _ => format!("matrix-edge-auth-{listener}"),
    };
    let mut filter = json!({
        "name": "envoy.filters.http.wasm",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.http.wasm.v3.Wasm",
            "config": {
                "name": name,
                "root_id": listener,
                "failure_policy": "FAIL_RELOAD",
                (CAPABILITIES): capabilities,
                "vm_config": {
                    "vm_id": "matrix-edge-auth",
                    "runtime": "envoy.wasm.runtime.v8",
                    "code": {"local": {"filename": module}},
                    "environment_variables": {"host_env_keys": environment},
                },
                "configuration": {
                    "@type": "type.googleapis.com/google.protobuf.StringValue",
                    "value": plugin.to_string(),
                },
            },
        },
    });
    // This role reads the form before it lets the headers go.
    if plugin["role"] == "introspection" {
        filter["typed_config"]["config"]["allow_on_headers_stop_iteration"] = true.into();
    }
    filter
}

/// A cluster of one host.
pub fn static_cluster(name: &str, addr: SocketAddr) -> Value {
    json!({
        "name": name,
        "type": "STATIC",
        "connect_timeout": "30s",
        "load_assignment": {
            "cluster_name": name,
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": {"socket_address": {
                "address": addr.ip().to_string(),
                "port_value": addr.port(),
            }}}}]}],
        },
    })
}

/// An address as Envoy takes it.
pub fn address(addr: SocketAddr) -> Value {
    json!({"socket_address": {"address": addr.ip().to_string(), "port_value": addr.port()}})
}

fn loopback(port: u16) -> Value {
    json!({"socket_address": {"address": "127.0.0.1", "port_value": port}})
}

/// All listeners, in order.
pub fn listeners(config: &mut Value) -> &mut Vec<Value> {
    found(config, "/static_resources/listeners")
        .as_array_mut()
        .expect("listeners is a list")
}

/// The first listener.
pub fn listener(config: &mut Value) -> &mut Value {
    found(config, "/static_resources/listeners/0")
}

/// The first listener's HTTP connection manager.
pub fn http_manager(config: &mut Value) -> &mut Value {
    http_manager_of(listener(config))
}

/// The HTTP connection manager of a listener.
pub fn http_manager_of(listener: &mut Value) -> &mut Value {
    found(listener, "/filter_chains/0/filters/0/typed_config")
}

/// The HTTP filters of a connection manager. The module is the first, the router the last.
pub fn http_filters(http_manager: &mut Value) -> &mut Vec<Value> {
    found(http_manager, "/http_filters")
        .as_array_mut()
        .expect("http_filters is a list")
}

/// The module's `PluginConfig`.
pub fn plugin(http_manager: &mut Value) -> &mut Value {
    found(&mut http_filters(http_manager)[0], "/typed_config/config")
}

/// Replaces the module's own configuration.
pub fn configure(http_manager: &mut Value, configuration: &Value) {
    plugin(http_manager)["configuration"]["value"] = configuration.to_string().into();
}

/// The clusters.
pub fn clusters(config: &mut Value) -> &mut Vec<Value> {
    found(config, "/static_resources/clusters")
        .as_array_mut()
        .expect("clusters is a list")
}

/// A cluster by its name.
pub fn cluster<'a>(config: &'a mut Value, name: &str) -> &'a mut Value {
    clusters(config)
        .iter_mut()
        .find(|cluster| cluster["name"] == name)
        .unwrap_or_else(|| panic!("there is no cluster {name}"))
}

/// Points every endpoint of a cluster to `addr`.
pub fn move_cluster(cluster: &mut Value, addr: SocketAddr) {
    let endpoints = found(cluster, "/load_assignment/endpoints/0/lb_endpoints");
    for endpoint in endpoints.as_array_mut().expect("lb_endpoints is a list") {
        move_endpoint(endpoint, addr);
    }
}

/// Points an endpoint to `addr`.
pub fn move_endpoint(endpoint: &mut Value, addr: SocketAddr) {
    endpoint["endpoint"]["address"] = address(addr);
}

/// Lets a listener listen on a free port of loopback.
pub fn move_listener(listener: &mut Value) {
    listener["address"] = loopback(0);
}

/// Takes the listeners out of `config`, which then reads them from the file `path`; returns them as the
/// resources that belong there.
pub(super) fn move_listeners_to(config: &mut Value, path: &Path) -> Value {
    let mut listeners = found(config, "/static_resources/listeners").take();
    for listener in listeners.as_array_mut().expect("listeners is a list") {
        listener["@type"] = "type.googleapis.com/envoy.config.listener.v3.Listener".into();
    }
    config["static_resources"]["listeners"] = json!([]);
    config["dynamic_resources"]["lds_config"] = file_source(path);
    config["node"] = node();
    listeners
}

/// Takes the endpoints out of the cluster `name`, which then reads them from the file `path`; returns the endpoints'
/// resource that belongs there.
pub(super) fn move_endpoints_to(config: &mut Value, name: &str, path: &Path) -> Value {
    let cluster = cluster(config, name);
    let mut endpoints = found(cluster, "/load_assignment").take();
    endpoints["@type"] =
        "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment".into();
    if let Some(cluster) = cluster.as_object_mut() {
        cluster.remove("load_assignment");
    }
    cluster["type"] = "EDS".into();
    cluster["eds_cluster_config"]["eds_config"] = file_source(path);
    config["node"] = node();
    endpoints
}

/// A source of resources in a file that is replaced by moving another into place.
fn file_source(path: &Path) -> Value {
    json!({
        "resource_api_version": "V3",
        "path_config_source": {"path": path, "watched_directory": {"path": path.parent()}},
    })
}

/// What Envoy calls itself where it asks for resources.
fn node() -> Value {
    json!({"id": "test", "cluster": "test"})
}

fn found<'a>(value: &'a mut Value, pointer: &str) -> &'a mut Value {
    value
        .pointer_mut(pointer)
        .unwrap_or_else(|| panic!("the configuration has no {pointer}"))
}
