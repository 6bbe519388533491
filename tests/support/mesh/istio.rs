//! What Istio 1.29 or later makes of its resources for an ingress gateway.
//!
//! Paths are those of the repository istio/istio. Left out: TLS, tracing, statistics, locality, and all that does not
//! change what becomes of a request. Routes are in the listener here; Istio delivers them apart (RDS).

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::{
    Upstreams, elements, header_to_set, knows,
    manifests::{of_kind, the},
    merge, socket_address, text,
};

const WASM: &str = "type.googleapis.com/envoy.extensions.filters.http.wasm.v3.Wasm";
const RBAC: &str = "type.googleapis.com/envoy.extensions.filters.http.rbac.v3.RBAC";

/// The bootstrap configuration of a gateway with these resources. `port` gives the port of the container for a port of the
/// Service. Extension configurations are written into `dir`, as files that Envoy reads as it reads xDS.
pub fn configuration(
    resources: &[Value],
    port: impl Fn(u64) -> u64,
    module: &Path,
    upstreams: Upstreams,
    dir: &Path,
) -> Value {
    let mut listeners = listeners(resources, port);
    authorization_policies(resources, &mut listeners);
    let mut extensions = wasm_plugins(resources, &mut listeners);
    for filter in of_kind(resources, "EnvoyFilter") {
        for patch in elements(&filter["spec"]["configPatches"]) {
            apply(patch, &mut listeners, &mut extensions);
        }
    }
    for extension in &mut extensions {
        fetch(extension, module);
    }
    for listener in &mut listeners {
        for filter in elements_mut(&mut listener.manager["http_filters"]) {
            discover(filter, &extensions, dir);
        }
    }
    json!({
        "node": {"id": "router", "cluster": "istio-ingressgateway"},
        "admin": {"address": {"socket_address": {"address": "127.0.0.1", "port_value": 0}}},
        "static_resources": {
            "listeners": listeners.into_iter().map(Listener::finish).collect::<Vec<_>>(),
            "clusters": clusters(resources, upstreams),
        },
    })
}

/// A listener that is being built.
struct Listener {
    /// The port that the `Gateway` names.
    port: u64,
    /// The port of the container.
    bind: u64,
    is_https: bool,
    manager: Value,
    /// What patches say of the listener itself.
    merged: Value,
}

impl Listener {
    /// A WasmPlugin counts the port of the `Gateway` for HTTPS and the container's for HTTP: the first comes from
    /// `server.Port`, the second from the merged servers (pilot/pkg/networking/core/gateway.go,
    /// `buildGatewayTCPBasedFilterChains`).
    fn port_of_plugins(&self) -> u64 {
        if self.is_https { self.port } else { self.bind }
    }

    fn finish(self) -> Value {
        let mut listener = json!({
            "name": format!("0.0.0.0_{}", self.bind),
            "address": {"socket_address": {"address": "127.0.0.1", "port_value": 0}},
            "stat_prefix": format!("0.0.0.0_{}", self.bind),
            "filter_chains": [{"filters": [{
                "name": "envoy.filters.network.http_connection_manager",
                "typed_config": self.manager,
            }]}],
        });
        merge(&mut listener, &self.merged);
        listener
    }
}

fn listeners(resources: &[Value], port: impl Fn(u64) -> u64) -> Vec<Listener> {
    let mut listeners = Vec::new();
    for gateway in of_kind(resources, "Gateway") {
        assert_eq!(gateway["apiVersion"], "networking.istio.io/v1");
        knows(&gateway["spec"], &["selector", "servers"]);
        for server in elements(&gateway["spec"]["servers"]) {
            knows(server, &["port", "tls", "hosts"]);
            let number = server["port"]["number"].as_u64().expect("a port");
            listeners.push(Listener {
                port: number,
                bind: port(number),
                is_https: server["port"]["protocol"] == "HTTPS",
                manager: manager(
                    virtual_hosts(resources, gateway, server, number),
                    !keeps_paths(resources),
                ),
                merged: json!({}),
            });
        }
    }
    listeners
}

/// pilot/pkg/networking/core/listener_builder.go, `buildHTTPConnectionManager`, and gateway.go for what a gateway adds.
/// `normalize_path` is that of the mesh's `pathNormalization`.
fn manager(virtual_hosts: Vec<Value>, normalizes: bool) -> Value {
    json!({
        "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "codec_type": "AUTO",
        "stat_prefix": "outbound",
        "server_name": "istio-envoy",
        "use_remote_address": true,
        "forward_client_cert_details": "SANITIZE_SET",
        "set_current_client_cert_details": {"subject": true, "cert": true, "dns": true, "uri": true},
        "normalize_path": normalizes,
        "path_with_escaped_slashes_action": "KEEP_UNCHANGED",
        "stream_idle_timeout": "0s",
        "upgrade_configs": [{"upgrade_type": "websocket"}],
        "http_filters": [
            filter("envoy.filters.http.grpc_stats", "grpc_stats.v3.FilterConfig"),
            filter("envoy.filters.http.fault", "fault.v3.HTTPFault"),
            filter("envoy.filters.http.cors", "cors.v3.Cors"),
            filter("envoy.filters.http.router", "router.v3.Router"),
        ],
        "route_config": {"name": "routes", "virtual_hosts": virtual_hosts},
    })
}

/// Whether the values of Istio's chart have gateways leave paths as they are.
fn keeps_paths(resources: &[Value]) -> bool {
    let normalization = "/meshConfig/pathNormalization/normalization";
    let mut told = resources
        .iter()
        .filter_map(|one| one.pointer(normalization));
    told.any(|it| it == "NONE")
}

fn filter(name: &str, config: &str) -> Value {
    json!({
        "name": name,
        "typed_config": {"@type": format!("type.googleapis.com/envoy.extensions.filters.http.{config}")},
    })
}

/// pilot/pkg/networking/core/gateway.go, `buildGatewayHTTPRouteConfig`: a virtual host for each host, called host:port.
fn virtual_hosts(resources: &[Value], gateway: &Value, server: &Value, port: u64) -> Vec<Value> {
    let mut found = Vec::new();
    for service in of_kind(resources, "VirtualService") {
        knows(&service["spec"], &["gateways", "hosts", "http"]);
        let is_bound = elements(&service["spec"]["gateways"])
            .contains(&gateway["metadata"]["name"])
            && service["metadata"]["namespace"] == gateway["metadata"]["namespace"];
        for host in elements(&service["spec"]["hosts"]) {
            if !is_bound || !elements(&server["hosts"]).contains(host) {
                continue;
            }
            let host = text(host);
            let domains = match host {
                "*" => vec![host.to_owned()],
                _ => vec![host.to_owned(), format!("{host}:*")],
            };
            found.push(json!({
                "name": format!("{host}:{port}"),
                "domains": domains,
                "include_request_attempt_count": true,
                "routes": elements(&service["spec"]["http"]).iter().flat_map(routes).collect::<Vec<_>>(),
            }));
        }
    }
    found
}

/// pilot/pkg/networking/core/route/route.go, `translateRoute`: a route for each match. Without `timeout` there is none;
/// without `retries` there is Istio's default (route/retry/retry.go), which `attempts: 0` turns off. A header that is `set`
/// may hold Envoy's command operators: it is handed on as it is (`translateAppendHeaders`).
fn routes(http: &Value) -> Vec<Value> {
    let known = ["name", "match", "route", "timeout", "retries", "headers"];
    knows(http, &known);
    knows(&http["headers"], &["request"]);
    knows(&http["headers"]["request"], &["set"]);
    let set = http["headers"]["request"]["set"].as_object();
    let headers: Vec<Value> = set
        .into_iter()
        .flatten()
        .map(|(name, value)| header_to_set(name, value))
        .collect();
    let matches = match elements(&http["match"]) {
        [] => vec![json!({"prefix": "/"})],
        all => all
            .iter()
            .map(|found| {
                knows(found, &["uri"]);
                knows(&found["uri"], &["prefix", "regex"]);
                match &found["uri"]["regex"] {
                    Value::Null => json!({"prefix": found["uri"]["prefix"]}),
                    regex => json!({"safe_regex": {"regex": regex}}),
                }
            })
            .collect(),
    };
    let [destination] = elements(&http["route"]) else {
        panic!("one destination: {http}");
    };
    let mut route = json!({
        "cluster": cluster_name(&destination["destination"]),
        "timeout": http.get("timeout").unwrap_or(&json!("0s")),
    });
    if http["retries"]["attempts"] != 0 {
        route["retry_policy"] = json!({
            "retry_on": "connect-failure,refused-stream,unavailable,cancelled,retriable-status-codes",
            "num_retries": 2,
            "retriable_status_codes": [503],
        });
    }
    matches
        .into_iter()
        .map(|found| {
            json!({
                "name": http["name"],
                "match": found,
                "route": route,
                "request_headers_to_add": headers,
            })
        })
        .collect()
}

/// pilot/pkg/model/push_context.go, `BuildSubsetKey`.
fn cluster_name(destination: &Value) -> String {
    knows(destination, &["host", "port"]);
    let port = &destination["port"]["number"];
    format!("outbound|{port}||{}", text(&destination["host"]))
}

/// A cluster for every destination that a route names. Istio's have no limits (circuit breakers of 2^32 - 1,
/// pilot/pkg/networking/core/cluster_builder.go, `getDefaultCircuitBreakerThresholds`).
fn clusters(resources: &[Value], upstreams: Upstreams) -> Vec<Value> {
    let mut names = Vec::new();
    let mut clusters = Vec::new();
    for service in of_kind(resources, "VirtualService") {
        for http in elements(&service["spec"]["http"]) {
            let destination = &http["route"][0]["destination"];
            let name = cluster_name(destination);
            if names.contains(&name) {
                continue;
            }
            clusters.push(json!({
                "name": name,
                "type": "STATIC",
                "connect_timeout": "10s",
                "circuit_breakers": {"thresholds": [{
                    "max_connections": u32::MAX,
                    "max_pending_requests": u32::MAX,
                    "max_requests": u32::MAX,
                    "max_retries": u32::MAX,
                }]},
                "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": [{"endpoint": {
                    "address": {"socket_address": socket_address(upstreams.of(text(&destination["host"])))},
                }}]}]},
            }));
            names.push(name);
        }
    }
    clusters
}

/// Puts the rules of the policies into the listeners, before all that is there (listener_builder.go, `buildHTTPFilters`).
///
/// pilot/pkg/security/authz/model/generator.go: a namespace, a principal and a service account are read from the certificate
/// of the mesh's own TLS, which no listener here has. A rule about one of these would hold for everyone or for nobody, so
/// only addresses are known here.
fn authorization_policies(resources: &[Value], listeners: &mut [Listener]) {
    for policy in of_kind(resources, "AuthorizationPolicy") {
        let spec = &policy["spec"];
        knows(spec, &["selector", "action", "rules"]);
        assert_eq!(spec["action"], "DENY");
        for (index, rule) in elements(&spec["rules"]).iter().enumerate() {
            knows(rule, &["from", "to"]);
            let [from] = elements(&rule["from"]) else {
                panic!("one source: {rule}");
            };
            knows(&from["source"], &["notIpBlocks"]);
            let blocks = elements(&from["source"]["notIpBlocks"])
                .iter()
                .map(|block| {
                    let (address, length) = text(block).split_once('/').expect("a network");
                    let length: u32 = length.parse().expect("a number");
                    json!({"direct_remote_ip": {"address_prefix": address, "prefix_len": length}})
                });
            let elsewhere = json!({"not_id": {"or_ids": {"ids": blocks.collect::<Vec<_>>()}}});
            let [to] = elements(&rule["to"]) else {
                panic!("one operation: {rule}");
            };
            knows(&to["operation"], &["ports"]);
            for listener in &mut *listeners {
                let is_meant = elements(&to["operation"]["ports"])
                    .iter()
                    .any(|port| text(port) == listener.bind.to_string());
                if is_meant {
                    let name = format!("rule-{index}");
                    let rules = json!({"permissions": [{"any": true}], "principals": [elsewhere]});
                    insert_first(
                        &mut listener.manager,
                        &json!({
                            "name": "envoy.filters.http.rbac",
                            "typed_config": {
                                "@type": RBAC,
                                "rules": {"action": "DENY", "policies": {name: rules}},
                            },
                        }),
                    );
                }
            }
        }
    }
}

/// What the agent sends in the place of a module that it cannot fetch: rules that refuse everything (pkg/wasm/convert.go,
/// `createHTTPDefaultFilter`).
pub fn cannot_fetch(extension: &str, dir: &Path) {
    let refusal = json!({
        "@type": "type.googleapis.com/envoy.config.core.v3.TypedExtensionConfig",
        "name": extension,
        "typed_config": {"@type": RBAC, "rules": {}, "rules_stat_prefix": "wasm-default-deny"},
    });
    deliver(extension, &refusal, dir);
}

/// What Istio delivers when the resource of this extension has another mode. Envoy reads a file that is moved to its place.
pub fn change_mode(extension: &str, from: &str, to: &str, dir: &Path) {
    let path = dir.join(format!("{extension}.json"));
    let before = std::fs::read_to_string(&path).expect("it was delivered");
    let after = before.replace(from, to);
    assert_ne!(before, after, "{extension} has no mode {from}");
    let next = dir.join("next.json");
    std::fs::write(&next, after).expect("a directory that can be written");
    std::fs::rename(next, path).expect("the same directory");
}

/// Puts the plugins into the listeners, and returns their extension configurations.
///
/// pilot/pkg/model/extensions.go: the name is NAMESPACE.NAME, the configuration JSON in a `StringValue`; there is no
/// `vm_id`, no restriction of capabilities and no `allow_on_headers_stop_iteration`. Those of the phase AUTHN come first
/// (listener_builder.go).
fn wasm_plugins(resources: &[Value], listeners: &mut [Listener]) -> Vec<Value> {
    let mut extensions = Vec::new();
    for plugin in of_kind(resources, "WasmPlugin") {
        let spec = &plugin["spec"];
        let known = [
            "selector",
            "url",
            "sha256",
            "imagePullPolicy",
            "failStrategy",
            "phase",
            "match",
            "vmConfig",
            "pluginConfig",
        ];
        knows(spec, &known);
        assert_eq!(spec["phase"], "AUTHN");
        let namespace = text(&plugin["metadata"]["namespace"]);
        let name = format!("{namespace}.{}", text(&plugin["metadata"]["name"]));
        for listener in &mut *listeners {
            let is_meant = elements(&spec["match"]).iter().any(|found| {
                knows(found, &["ports"]);
                elements(&found["ports"])
                    .iter()
                    .any(|port| port["number"] == listener.port_of_plugins())
            });
            if is_meant {
                insert_first(
                    &mut listener.manager,
                    &json!({
                        "name": name,
                        "config_discovery": {"config_source": {"ads": {}}, "type_urls": [WASM, RBAC]},
                    }),
                );
            }
        }
        extensions.push(extension(&name, spec));
    }
    extensions
}

fn extension(name: &str, spec: &Value) -> Value {
    let mut inline = json!({"ISTIO_META_WASM_PLUGIN_RESOURCE_VERSION": "1"});
    if let Some(policy) = spec["imagePullPolicy"].as_str() {
        inline["ISTIO_META_WASM_IMAGE_PULL_POLICY"] = policy.into();
    }
    let mut host = Vec::new();
    for variable in elements(&spec["vmConfig"]["env"]) {
        match text(&variable["valueFrom"]) {
            "HOST" => host.push(&variable["name"]),
            _ => inline[text(&variable["name"])] = variable["value"].clone(),
        }
    }
    // pilot/pkg/model/extensions.go, the strategies of WasmPlugin; FAIL_CLOSE is the default.
    let failure_policy = match spec["failStrategy"].as_str() {
        Some("FAIL_RELOAD") => "FAIL_RELOAD",
        Some("FAIL_OPEN") => "FAIL_OPEN",
        _ => "FAIL_CLOSED",
    };
    json!({
        "name": name,
        "typed_config": {
            "@type": WASM,
            "config": {
                "name": name,
                "failure_policy": failure_policy,
                "configuration": {
                    "@type": "type.googleapis.com/google.protobuf.StringValue",
                    "value": spec["pluginConfig"].to_string(),
                },
                "vm_config": {
                    "runtime": "envoy.wasm.runtime.v8",
                    "code": {"remote": {
                        "http_uri": {"uri": spec["url"], "timeout": "30s", "cluster": "_"},
                        "sha256": spec["sha256"],
                    }},
                    "environment_variables": {"key_values": inline, "host_env_keys": host},
                },
            },
        },
    })
}

/// One patch of an `EnvoyFilter` (pilot/pkg/networking/core/envoyfilter).
fn apply(patch: &Value, listeners: &mut [Listener], extensions: &mut Vec<Value>) {
    assert_eq!(patch["match"]["context"], "GATEWAY");
    knows(
        &patch["match"],
        &["context", "listener", "routeConfiguration"],
    );
    let value = &patch["patch"]["value"];
    let wanted = &patch["match"]["listener"];
    knows(wanted, &["portNumber", "filterChain"]);
    let what = (text(&patch["applyTo"]), text(&patch["patch"]["operation"]));
    match what {
        // extension_config_patch.go
        ("EXTENSION_CONFIG", "ADD") => extensions.push(value.clone()),
        // route_patch.go, by the name of the virtual host.
        ("HTTP_ROUTE", "MERGE") => {
            let host = &patch["match"]["routeConfiguration"]["vhost"];
            knows(&host["route"], &["name", "action"]);
            assert_eq!(host["route"]["action"], "ROUTE");
            let name = &host["route"]["name"];
            let mut merged = 0;
            for listener in listeners {
                for found in elements_mut(&mut listener.manager["route_config"]["virtual_hosts"]) {
                    if found["name"] == host["name"] {
                        elements_mut(&mut found["routes"])
                            .filter(|route| name.is_null() || route["name"] == *name)
                            .for_each(|route| {
                                merge(route, value);
                                merged += 1;
                            });
                    }
                }
            }
            assert_ne!(merged, 0, "no route is called {host}");
        }
        // listener_patch.go.
        ("LISTENER", "MERGE") => {
            assert!(wanted.is_null());
            for listener in listeners {
                merge(&mut listener.merged, value);
            }
        }
        // listener_patch.go, by the port that the container listens on.
        (of @ ("HTTP_FILTER" | "NETWORK_FILTER"), operation) => {
            let manager = "envoy.filters.network.http_connection_manager";
            let mut chain = json!({"filter": {"name": manager}});
            if operation == "INSERT_BEFORE" {
                chain["filter"]["subFilter"] = json!({"name": "envoy.filters.http.router"});
            }
            assert_eq!(wanted["filterChain"], chain);
            for listener in listeners {
                if !wanted["portNumber"].is_null() && wanted["portNumber"] != listener.bind {
                    continue;
                }
                match (of, operation) {
                    ("HTTP_FILTER", "INSERT_FIRST") => insert_first(&mut listener.manager, value),
                    // Before the last filter, which is the router.
                    ("HTTP_FILTER", "INSERT_BEFORE") => {
                        let filters = listener.manager["http_filters"].as_array_mut();
                        let filters = filters.expect("a list");
                        filters.insert(filters.len().saturating_sub(1), value.clone());
                    }
                    ("NETWORK_FILTER", "MERGE") => {
                        merge(&mut listener.manager, &value["typed_config"]);
                    }
                    _ => panic!("there is no rule for {what:?}"),
                }
            }
        }
        _ => panic!("there is no rule for {what:?}"),
    }
}

fn insert_first(manager: &mut Value, filter: &Value) {
    let filters = manager["http_filters"].as_array_mut();
    filters.expect("a list").insert(0, filter.clone());
}

/// The agent beside Envoy fetches the module and names its file instead (pkg/wasm/convert.go).
fn fetch(extension: &mut Value, module: &Path) {
    let code = &mut extension["typed_config"]["config"]["vm_config"]["code"];
    assert!(
        text(&code["remote"]["http_uri"]["uri"]).starts_with("oci://"),
        "{code}"
    );
    *code = json!({"local": {"filename": module}});
}

/// A filter whose configuration comes by xDS gets it from a file: one for each, as each is a subscription of its own.
fn discover(filter: &mut Value, extensions: &[Value], dir: &Path) {
    if filter["config_discovery"].is_null() {
        return;
    }
    let name = text(&filter["name"]);
    let extension = extensions
        .iter()
        .find(|extension| extension["name"] == name)
        .unwrap_or_else(|| panic!("there is no extension {name}"));
    let mut resource = extension.clone();
    resource["@type"] = "type.googleapis.com/envoy.config.core.v3.TypedExtensionConfig".into();
    let path = deliver(name, &resource, dir);
    filter["config_discovery"]["config_source"] =
        json!({"resource_api_version": "V3", "path_config_source": {"path": path}});
}

/// Writes what Envoy is told of an extension, where it reads it.
fn deliver(name: &str, resource: &Value, dir: &Path) -> PathBuf {
    let path = dir.join(format!("{name}.json"));
    let response = json!({"version_info": "1", "resources": [resource]});
    std::fs::write(&path, response.to_string()).expect("a directory that can be written");
    path
}

fn elements_mut(list: &mut Value) -> impl Iterator<Item = &mut Value> {
    super::each(list)
}

/// What the ConfigMap of `bootstrapOverride` adds, which Envoy gets by `--config-yaml` (pkg/envoy/proxy.go).
pub fn bootstrap(resources: &[Value]) -> Value {
    let map = the(resources, "ConfigMap");
    let bootstrap = text(&map["data"]["custom_bootstrap.json"]);
    let bootstrap: Value = serde_json::from_str(bootstrap).expect("the override is JSON");
    let known = ["stats_config", "layered_runtime", "overload_manager"];
    knows(&bootstrap, &known);
    bootstrap
}
