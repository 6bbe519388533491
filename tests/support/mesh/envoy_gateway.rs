//! What Envoy Gateway 1.7 or later makes of its resources and those of the Gateway API.
//!
//! Paths are those of the repository envoyproxy/gateway. Left out: TLS, HTTP/3, access logs and tracing. Each section of
//! the `Gateway` has a listener of its own here; Envoy Gateway makes filter chains of one listener, told apart by the
//! host name of TLS. Routes are in the listener; Envoy Gateway delivers them apart (RDS).

use std::path::Path;

use serde_json::{Value, json};

use super::{
    Upstreams, elements, header_to_set, knows,
    manifests::{of_kind, the},
    merge, on_loopback, socket_address, text,
};

/// The bootstrap configuration of the Envoys of the only `Gateway` among these resources. Listeners are called as the
/// sections.
pub fn configuration(resources: &[Value], module: &Path, upstreams: Upstreams) -> Value {
    let gateway = the(resources, "Gateway");
    knows(
        &gateway["spec"],
        &["gatewayClassName", "infrastructure", "listeners"],
    );
    let sections = elements(&gateway["spec"]["listeners"]);
    let mut config = json!({
        "node": {"id": "envoy", "cluster": "matrix"},
        "static_resources": {
            "listeners": sections.iter().map(|section| listener(resources, section, module)).collect::<Vec<_>>(),
            "clusters": clusters(resources, upstreams),
        },
    });
    merge(&mut config, &bootstrap(resources));
    on_loopback(&mut config, upstreams);
    config
}

/// What `EnvoyProxy` merges into the bootstrap (internal/xds/bootstrap, `ApplyBootstrapConfig`).
pub fn bootstrap(resources: &[Value]) -> Value {
    let proxy = the(resources, "EnvoyProxy");
    knows(&proxy["spec"], &["provider", "bootstrap"]);
    assert_eq!(proxy["spec"]["bootstrap"]["type"], "Merge");
    let value = text(&proxy["spec"]["bootstrap"]["value"]);
    serde_saphyr::from_str(value).expect("the bootstrap is YAML")
}

/// internal/xds/translator/listener.go. Without a policy a listener may hold 32 KiB of a connection.
fn listener(resources: &[Value], section: &Value, module: &Path) -> Value {
    let name = text(&section["name"]);
    let policy = policy(resources, "ClientTrafficPolicy", name).unwrap_or(&Value::Null);
    let connection = &policy["spec"]["connection"];
    knows(connection, &["bufferLimit"]);
    json!({
        "name": name,
        "stat_prefix": name,
        "address": {"socket_address": {"address": "127.0.0.1", "port_value": 0}},
        "per_connection_buffer_limit_bytes": bytes(&connection["bufferLimit"]).unwrap_or(32_768),
        "filter_chains": [{"filters": [{
            "name": "envoy.filters.network.http_connection_manager",
            "typed_config": manager(resources, name, module),
        }]}],
    })
}

/// internal/xds/translator/listener.go, `addHCMToXDSListener`; the defaults are those of internal/gatewayapi/listener.go
/// and clienttrafficpolicy.go.
fn manager(resources: &[Value], section: &str, module: &Path) -> Value {
    let policy = policy(resources, "ClientTrafficPolicy", section).unwrap_or(&Value::Null);
    knows(
        &policy["spec"],
        &[
            "targetRefs",
            "connection",
            "http2",
            "path",
            "headers",
            "timeout",
        ],
    );
    let path = &policy["spec"]["path"];
    knows(path, &["escapedSlashesAction", "disableMergeSlashes"]);
    let escaped = match path["escapedSlashesAction"].as_str() {
        Some("KeepUnchanged") => "KEEP_UNCHANGED",
        Some("RejectRequest") => "REJECT_REQUEST",
        Some("UnescapeAndForward") => "UNESCAPE_AND_FORWARD",
        _ => "UNESCAPE_AND_REDIRECT",
    };
    let headers = &policy["spec"]["headers"];
    knows(headers, &["withUnderscoresAction"]);
    let underscores = match headers["withUnderscoresAction"].as_str() {
        Some("Allow") => "ALLOW",
        Some("DropHeader") => "DROP_HEADER",
        _ => "REJECT_REQUEST",
    };
    let http2 = &policy["spec"]["http2"];
    knows(
        http2,
        &[
            "maxConcurrentStreams",
            "initialStreamWindowSize",
            "initialConnectionWindowSize",
        ],
    );
    let mut manager = json!({
        "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "codec_type": "AUTO",
        "stat_prefix": "https",
        "use_remote_address": true,
        "server_header_transformation": "PASS_THROUGH",
        "http2_protocol_options": {
            "max_concurrent_streams": http2["maxConcurrentStreams"].as_u64().unwrap_or(100),
            "initial_stream_window_size": bytes(&http2["initialStreamWindowSize"]).unwrap_or(65_536),
            "initial_connection_window_size": bytes(&http2["initialConnectionWindowSize"]).unwrap_or(1_048_576),
        },
        "normalize_path": true,
        "merge_slashes": path["disableMergeSlashes"] != true,
        "path_with_escaped_slashes_action": escaped,
        "common_http_protocol_options": {"headers_with_underscores_action": underscores},
        "http_filters": filters(resources, section, module),
        "route_config": {"name": section, "virtual_hosts": virtual_hosts(resources, section)},
    });
    let timeout = &policy["spec"]["timeout"]["http"];
    knows(
        timeout,
        &["requestHeadersReceivedTimeout", "streamIdleTimeout"],
    );
    for (from, to) in [
        ("requestHeadersReceivedTimeout", "request_headers_timeout"),
        ("streamIdleTimeout", "stream_idle_timeout"),
    ] {
        if !timeout[from].is_null() {
            manager[to] = timeout[from].clone();
        }
    }
    manager
}

/// A quantity of Kubernetes, as far as it is a number of KiB or MiB.
fn bytes(quantity: &Value) -> Option<u64> {
    let text = quantity.as_str()?;
    let (number, unit) = text
        .strip_suffix("Ki")
        .map(|number| (number, 1024))
        .or_else(|| text.strip_suffix("Mi").map(|number| (number, 1024 * 1024)))
        .unwrap_or_else(|| panic!("there is no rule for {text}"));
    Some(number.parse::<u64>().expect("a number") * unit)
}

/// The modules that a policy of the section brings, and the router. All are off until a route turns them on
/// (internal/xds/translator/wasm.go).
fn filters(resources: &[Value], section: &str, module: &Path) -> Vec<Value> {
    let mut filters: Vec<Value> = extensions(resources, section)
        .into_iter()
        .map(|(name, wasm)| {
            json!({
                "name": filter_name(&name),
                "disabled": true,
                "typed_config": {
                    "@type": "type.googleapis.com/envoy.extensions.filters.http.wasm.v3.Wasm",
                    "config": plugin(&name, wasm, module),
                },
            })
        })
        .collect();
    filters.push(json!({
        "name": "envoy.filters.http.router",
        "typed_config": {"@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"},
    }));
    filters
}

/// internal/xds/translator/wasm.go, `wasmConfig`: `vm_id` is the policy's own, and `failure_policy` is never set. The
/// controller fetches the image and serves the module to Envoy, which is a file here.
fn plugin(name: &str, wasm: &Value, module: &Path) -> Value {
    knows(wasm, &["name", "code", "failOpen", "env", "config"]);
    json!({
        "name": wasm["name"],
        "fail_open": wasm["failOpen"] == true,
        "configuration": {
            "@type": "type.googleapis.com/google.protobuf.StringValue",
            "value": wasm["config"].to_string(),
        },
        "vm_config": {
            "vm_id": name,
            "runtime": "envoy.wasm.runtime.v8",
            "code": {"local": {"filename": module}},
            "environment_variables": {"host_env_keys": wasm["env"]["hostKeys"]},
        },
    })
}

/// The modules of the policy for a section, with their names (internal/gatewayapi/envoyextensionpolicy.go).
fn extensions<'a>(resources: &'a [Value], section: &str) -> Vec<(String, &'a Value)> {
    let Some(policy) = policy(resources, "EnvoyExtensionPolicy", section) else {
        return Vec::new();
    };
    knows(&policy["spec"], &["targetRefs", "wasm"]);
    let (namespace, name) = (
        text(&policy["metadata"]["namespace"]),
        text(&policy["metadata"]["name"]),
    );
    elements(&policy["spec"]["wasm"])
        .iter()
        .enumerate()
        .map(|(index, wasm)| {
            let name = format!("envoyextensionpolicy/{namespace}/{name}/wasm/{index}");
            (name, wasm)
        })
        .collect()
}

fn filter_name(extension: &str) -> String {
    format!("envoy.filters.http.wasm/{extension}")
}

/// The policy of this kind for a section of the gateway, or for all of it.
fn policy<'a>(resources: &'a [Value], kind: &str, section: &str) -> Option<&'a Value> {
    let found = of_kind(resources, kind);
    let of = |wanted: Option<&str>| {
        found.iter().copied().find(|policy| {
            elements(&policy["spec"]["targetRefs"])
                .iter()
                .any(|target| {
                    target["kind"] == "Gateway" && target["sectionName"].as_str() == wanted
                })
        })
    };
    of(Some(section)).or_else(|| of(None))
}

/// A virtual host for each `HTTPRoute` of the section. The longest path comes first (internal/gatewayapi/sort.go).
fn virtual_hosts(resources: &[Value], section: &str) -> Vec<Value> {
    let mut hosts = Vec::new();
    for route in of_kind(resources, "HTTPRoute") {
        knows(&route["spec"], &["parentRefs", "hostnames", "rules"]);
        let is_bound = elements(&route["spec"]["parentRefs"])
            .iter()
            .any(|parent| parent["sectionName"] == section);
        if !is_bound {
            continue;
        }
        let mut routes = Vec::new();
        for (index, rule) in elements(&route["spec"]["rules"]).iter().enumerate() {
            knows(rule, &["matches", "filters", "backendRefs", "timeouts"]);
            for found in elements(&rule["matches"]) {
                knows(found, &["path"]);
                assert_eq!(found["path"]["type"], "PathPrefix");
                let prefix = text(&found["path"]["value"]);
                let action = action(resources, section, rule, &cluster_name(route, index));
                routes.push((prefix, action));
            }
        }
        routes.sort_by_key(|(prefix, _)| std::cmp::Reverse(prefix.len()));
        hosts.push(json!({
            "name": route["metadata"]["name"],
            "domains": route["spec"]["hostnames"],
            "routes": routes.into_iter().map(|(prefix, mut action)| {
                action["match"] = path_match(prefix);
                action
            }).collect::<Vec<_>>(),
        }));
    }
    hosts
}

/// internal/xds/translator/route.go, `buildXdsRouteMatch`.
fn path_match(prefix: &str) -> Value {
    match prefix {
        "/" => json!({"prefix": "/"}),
        _ => json!({"path_separated_prefix": prefix.trim_end_matches('/')}),
    }
}

/// internal/xds/translator/route.go, `buildXdsRoute`. Without a timeout Envoy's own of 15 s counts. With a timeout of 0 the
/// idle timeout of the route is 0 as well, unless a policy sets the one of streams.
fn action(resources: &[Value], section: &str, rule: &Value, cluster: &str) -> Value {
    let mut route = json!({"cluster": cluster, "upgrade_configs": [{"upgrade_type": "websocket"}]});
    let timeout = &rule["timeouts"]["request"];
    if !timeout.is_null() {
        route["timeout"] = timeout.clone();
    }
    let policy = policy(resources, "ClientTrafficPolicy", section).unwrap_or(&Value::Null);
    if timeout == "0s" && policy["spec"]["timeout"]["http"]["streamIdleTimeout"].is_null() {
        route["idle_timeout"] = "0s".into();
    }
    let enabled: serde_json::Map<String, Value> = extensions(resources, section)
        .into_iter()
        .map(|(name, _)| {
            let on = json!({"@type": "type.googleapis.com/envoy.config.route.v3.FilterConfig", "config": {}});
            (filter_name(&name), on)
        })
        .collect();
    let headers: Vec<Value> = elements(&rule["filters"])
        .iter()
        .flat_map(headers)
        .collect();
    json!({
        "route": route,
        "typed_per_filter_config": enabled,
        "request_headers_to_add": headers,
    })
}

/// internal/gatewayapi/filters.go, `processRequestHeaderModifierFilter`. A value may hold Envoy's command operators
/// (internal/gatewayapi/envoyformatvalidator).
fn headers(filter: &Value) -> Vec<Value> {
    knows(filter, &["type", "requestHeaderModifier"]);
    assert_eq!(filter["type"], "RequestHeaderModifier");
    let modifier = &filter["requestHeaderModifier"];
    knows(modifier, &["set"]);
    elements(&modifier["set"])
        .iter()
        .map(|header| header_to_set(text(&header["name"]), &header["value"]))
        .collect()
}

/// internal/gatewayapi/helpers.go, `irRouteDestinationName`.
fn cluster_name(route: &Value, rule: usize) -> String {
    let (namespace, name) = (
        text(&route["metadata"]["namespace"]),
        text(&route["metadata"]["name"]),
    );
    format!("httproute/{namespace}/{name}/rule/{rule}")
}

/// A cluster for each rule, with the limits of the `BackendTrafficPolicy`.
fn clusters(resources: &[Value], upstreams: Upstreams) -> Vec<Value> {
    let limits = &the(resources, "BackendTrafficPolicy")["spec"];
    knows(limits, &["targetRefs", "circuitBreaker"]);
    let limits = &limits["circuitBreaker"];
    let mut clusters = Vec::new();
    for route in of_kind(resources, "HTTPRoute") {
        for (index, rule) in elements(&route["spec"]["rules"]).iter().enumerate() {
            let name = cluster_name(route, index);
            let [backend] = elements(&rule["backendRefs"]) else {
                panic!("one backend: {rule}");
            };
            let upstream = upstreams.of(text(&backend["name"]));
            clusters.push(json!({
                "name": name,
                "type": "STATIC",
                "connect_timeout": "10s",
                "circuit_breakers": {"thresholds": [{
                    "max_connections": limits["maxConnections"],
                    "max_pending_requests": limits["maxPendingRequests"],
                    "max_requests": limits["maxParallelRequests"],
                }]},
                "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": [{"endpoint": {
                    "address": {"socket_address": socket_address(upstream)},
                }}]}]},
            }));
        }
    }
    clusters
}
