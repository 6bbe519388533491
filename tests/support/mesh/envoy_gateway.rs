//! What Envoy Gateway 1.7 or later makes of its resources and those of the Gateway API.
//!
//! Paths are those of the repository envoyproxy/gateway. Left out: TLS, HTTP/3 and tracing. Each section of
//! the `Gateway` has a listener of its own here; Envoy Gateway makes filter chains of one listener, told apart by the
//! host name of TLS. Routes are in the listener; Envoy Gateway delivers them apart (RDS).

use std::path::Path;

use serde_json::{Value, json};

use super::{
    Upstreams, elements, header_to_set, knows,
    manifests::{of_kind, the},
    merge, on_loopback, socket_address, text,
};

/// What Envoy Gateway calls the filter that holds bodies.
const BUFFER: &str = "envoy.filters.http.buffer";

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
    merge(&mut config, &overload_manager(resources));
    merge(&mut config, &bootstrap(resources));
    on_loopback(&mut config, upstreams);
    config
}

/// What `EnvoyProxy` merges into the bootstrap (internal/xds/bootstrap, `ApplyBootstrapConfig`).
pub fn bootstrap(resources: &[Value]) -> Value {
    let proxy = the(resources, "EnvoyProxy");
    knows(
        &proxy["spec"],
        &[
            "provider",
            "bootstrap",
            "filterOrder",
            "telemetry",
            "logging",
        ],
    );
    // Options of the process (internal/infrastructure/common/proxy_args.go).
    knows(&proxy["spec"]["logging"], &["level"]);
    assert_eq!(proxy["spec"]["bootstrap"]["type"], "Merge");
    let value = text(&proxy["spec"]["bootstrap"]["value"]);
    serde_saphyr::from_str(value).expect("the bootstrap is YAML")
}

/// What Envoy Gateway says of overload by itself (internal/xds/bootstrap/bootstrap.yaml.tpl): the heap is four fifths of the
/// container's memory (internal/infrastructure/kubernetes/proxy/resource.go, `calculateMaxHeapSizeBytes`).
fn overload_manager(resources: &[Value]) -> Value {
    let kubernetes = &the(resources, "EnvoyProxy")["spec"]["provider"]["kubernetes"];
    let limits = &kubernetes["envoyDeployment"]["container"]["resources"]["limits"];
    let memory = bytes(&limits["memory"]).expect("without it there is no limit of the heap");
    let trigger = |name: &str, value: f64| {
        json!({
            "name": format!("envoy.overload_actions.{name}"),
            "triggers": [{"name": "envoy.resource_monitors.fixed_heap", "threshold": {"value": value}}],
        })
    };
    json!({"overload_manager": {
        "refresh_interval": "0.25s",
        "resource_monitors": [{
            "name": "envoy.resource_monitors.fixed_heap",
            "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.resource_monitors.fixed_heap.v3.FixedHeapConfig",
                "max_heap_size_bytes": memory / 5 * 4,
            },
        }],
        "actions": [trigger("shrink_heap", 0.95), trigger("stop_accepting_requests", 0.98)],
    }})
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
        "access_log": access_logs(resources),
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

/// internal/xds/translator/accesslog.go. What it logs of connections for which no filter chain is found is left out.
fn access_logs(resources: &[Value]) -> Vec<Value> {
    let telemetry = &the(resources, "EnvoyProxy")["spec"]["telemetry"];
    knows(telemetry, &["accessLog"]);
    knows(&telemetry["accessLog"], &["settings"]);
    let mut logs = Vec::new();
    for setting in elements(&telemetry["accessLog"]["settings"]) {
        knows(setting, &["format", "sinks"]);
        assert_eq!(setting["format"]["type"], "JSON");
        for sink in elements(&setting["sinks"]) {
            assert_eq!(sink["type"], "File");
            logs.push(json!({
                "name": "envoy.access_loggers.file",
                "typed_config": {
                    "@type": "type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog",
                    "path": sink["file"]["path"],
                    "log_format": {"json_format": setting["format"]["json"]},
                },
            }));
        }
    }
    logs
}

/// A quantity of Kubernetes, as far as it is a number of KiB, MiB or GiB.
fn bytes(quantity: &Value) -> Option<u64> {
    let text = quantity.as_str()?;
    let (number, unit) = [("Ki", 1 << 10), ("Mi", 1 << 20), ("Gi", 1 << 30)]
        .into_iter()
        .find_map(|(suffix, unit)| Some((text.strip_suffix(suffix)?, unit)))
        .unwrap_or_else(|| panic!("there is no rule for {text}"));
    Some(number.parse::<u64>().expect("a number") * unit)
}

/// The modules that a policy of the section brings, what holds bodies (internal/xds/translator/request_buffer.go), and the
/// router. All but the last are off until a route turns them on (internal/xds/translator/wasm.go). What holds bodies comes
/// before the modules unless `filterOrder` says otherwise (httpfilters.go).
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
    let holds = |route: &&Value| {
        let section_of = |parent: &Value| parent["sectionName"] == section;
        let is_bound = elements(&route["spec"]["parentRefs"])
            .iter()
            .any(section_of);
        is_bound && body_limit(resources, route).is_some()
    };
    if of_kind(resources, "HTTPRoute").iter().any(holds) {
        let order = &the(resources, "EnvoyProxy")["spec"]["filterOrder"];
        let after = json!([{"name": BUFFER, "after": "envoy.filters.http.wasm"}]);
        assert_eq!(*order, after, "there is no rule for another order");
        filters.push(json!({
            "name": BUFFER,
            "disabled": true,
            "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.filters.http.buffer.v3.Buffer",
                "max_request_bytes": 1,
            },
        }));
    }
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

/// The `BackendTrafficPolicy` of a route, or of the gateway. That of the route counts alone.
fn backend_policy<'a>(resources: &'a [Value], route: &Value) -> &'a Value {
    let policies = of_kind(resources, "BackendTrafficPolicy");
    let of = |kind: &str, name: &Value| {
        policies.iter().copied().find(|policy| {
            let known = ["targetRefs", "circuitBreaker", "requestBuffer"];
            knows(&policy["spec"], &known);
            let mut targets = elements(&policy["spec"]["targetRefs"]).iter();
            targets.any(|target| {
                knows(target, &["group", "kind", "name"]);
                target["kind"] == kind && target["name"] == *name
            })
        })
    };
    of("HTTPRoute", &route["metadata"]["name"])
        .or_else(|| of("Gateway", &route["spec"]["parentRefs"][0]["name"]))
        .expect("a policy of the gateway")
}

/// How much of a body is held of a route's requests, if they are held.
fn body_limit(resources: &[Value], route: &Value) -> Option<u64> {
    let buffer = &backend_policy(resources, route)["spec"]["requestBuffer"];
    knows(buffer, &["limit"]);
    bytes(&buffer["limit"])
}

/// A virtual host for the hosts of an `HTTPRoute` of the section; those with the same hosts share it
/// (internal/xds/translator/translator.go). Exact paths come first, and then the longest (internal/gatewayapi/sort.go).
fn virtual_hosts(resources: &[Value], section: &str) -> Vec<Value> {
    let mut hosts: Vec<(&Value, Vec<(&Value, Value)>)> = Vec::new();
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
                let mut action = action(resources, section, rule, &cluster_name(route, index));
                if let Some(limit) = body_limit(resources, route) {
                    action["typed_per_filter_config"][BUFFER] = json!({
                        "@type": "type.googleapis.com/envoy.extensions.filters.http.buffer.v3.BufferPerRoute",
                        "buffer": {"max_request_bytes": limit},
                    });
                }
                routes.push((&found["path"], action));
            }
        }
        let hostnames = &route["spec"]["hostnames"];
        match hosts.iter_mut().find(|(names, _)| *names == hostnames) {
            Some((_, known)) => known.extend(routes),
            None => hosts.push((hostnames, routes)),
        }
    }
    hosts
        .into_iter()
        .map(|(hostnames, mut routes)| {
            routes.sort_by_key(|(path, _)| {
                let is_exact = path["type"] == "Exact";
                std::cmp::Reverse((is_exact, text(&path["value"]).len()))
            });
            json!({
                "name": hostnames[0],
                "domains": hostnames,
                "routes": routes.into_iter().map(|(path, mut action)| {
                    action["match"] = path_match(path);
                    action
                }).collect::<Vec<_>>(),
            })
        })
        .collect()
}

/// internal/xds/translator/route.go, `buildXdsRouteMatch`.
fn path_match(path: &Value) -> Value {
    match (text(&path["type"]), text(&path["value"])) {
        ("Exact", exact) => json!({"path": exact}),
        ("PathPrefix", "/") => json!({"prefix": "/"}),
        ("PathPrefix", prefix) => json!({"path_separated_prefix": prefix.trim_end_matches('/')}),
        (kind, _) => panic!("{kind}"),
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

/// A cluster for each rule, with the limits of its `BackendTrafficPolicy`.
fn clusters(resources: &[Value], upstreams: Upstreams) -> Vec<Value> {
    let mut clusters = Vec::new();
    for route in of_kind(resources, "HTTPRoute") {
        let limits = &backend_policy(resources, route)["spec"]["circuitBreaker"];
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
