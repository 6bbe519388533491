//! What Envoy may hold in memory for one connection and for one call of the module: its defaults are megabytes for each,
//! and anyone can cause many of both. And who may fill the clusters through which Synapse reaches MAS.

use std::{collections::BTreeSet, net::SocketAddr, path::Path};

use serde_json::{Value, json};
use stand_in::mas::{Fault, Options};

use super::edge::{Edge, WHOAMI, assert_no_verdict, new_token};
use crate::support::{
    envoy::{bootstrap, read, repository, shipped, yaml},
    http::{Request, within_limit},
    mesh::{Upstreams, elements, envoy_gateway, istio, manifests},
};

const MIB: u64 = 1024 * 1024;

/// The runtime key, and what it may be: more than the module reads of an answer, and not much more.
const ANSWER: &str = "http.async_response_buffer_limit";
const ANSWER_BYTES: [u64; 2] = [65 * 1024, 128 * 1024];

/// What the heads of all requests of one connection may take.
const HEADS_BYTES: u64 = MIB / 2;

/// The same where Envoy Gateway makes the listeners: before 1.9 it leaves heads at Envoy's 60 KiB.
const HEADS_BYTES_OF_ENVOY_GATEWAY: u64 = 2 * MIB;

/// The bootstrap configurations below `envoy/`, by their paths.
fn bootstraps() -> Vec<(String, Value)> {
    let mut found = Vec::new();
    visit(&repository().join("envoy"), &mut found);
    assert!(found.len() >= 9, "{} files", found.len());
    found
}

fn visit(folder: &Path, found: &mut Vec<(String, Value)>) {
    for entry in folder.read_dir().expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            visit(&path, found);
            continue;
        }
        let path = path.strip_prefix(repository()).expect("a path below it");
        let path = path.to_str().expect("a plain name");
        if !path.ends_with(".yaml") {
            continue;
        }
        let text = read(path);
        if text.lines().any(|line| line == "static_resources:") {
            found.push((path.to_owned(), yaml(&text)));
        }
    }
}

/// Returns what a bootstrap configuration says of the length of answers.
fn answer_limit(bootstrap: &Value) -> Option<u64> {
    let layers = bootstrap["layered_runtime"]["layers"].as_array()?;
    layers
        .iter()
        .find_map(|layer| layer["static_layer"][ANSWER].as_u64())
}

/// Returns the configurations of the listener's network filters, among them the HTTP connection manager's.
fn managers(listener: &Value) -> impl Iterator<Item = &Value> {
    let chains = listener["filter_chains"].as_array().into_iter().flatten();
    let filters = chains.flat_map(|chain| chain["filters"].as_array().into_iter().flatten());
    filters.map(|filter| &filter["typed_config"])
}

/// Returns whether a connection manager is for clients and leads their requests somewhere.
fn serves_clients(manager: &Value) -> bool {
    manager["use_remote_address"] == json!(true)
        && waiting(manager).any(|(route, _)| route["route"]["cluster"].is_string())
}

/// A page in a browser is told nothing of a reply without CORS headers, and takes it for a network that fails.
#[test]
fn every_shipped_gateway_answers_by_itself_as_synapse_would() {
    let mut gateways = 0;
    for (path, config) in bootstraps() {
        let listeners = config["static_resources"]["listeners"].as_array();
        for listener in listeners.into_iter().flatten() {
            for manager in managers(listener).filter(|manager| serves_clients(manager)) {
                gateways += 1;
                let mappers = manager["local_reply_config"]["mappers"].as_array();
                let mappers = mappers.unwrap_or_else(|| panic!("{path}: {}", listener["name"]));
                for wanted in ["request_payload_too_large", "response_flag_filter"] {
                    let has = |mapper: &&Value| {
                        let headers = mapper["headers_to_add"].to_string();
                        mapper["filter"].to_string().contains(wanted)
                            && headers.contains("access-control-allow-origin")
                    };
                    assert!(
                        mappers.iter().any(|mapper| has(&mapper)),
                        "{path}: {wanted}"
                    );
                }
            }
        }
    }
    assert!(gateways >= 9, "{gateways}");
}

/// Returns why the listener may hold more of a connection than is good.
fn fault_of(listener: &Value, manager: &Value, heads: u64) -> Option<String> {
    let buffered = listener["per_connection_buffer_limit_bytes"].as_u64();
    if buffered.is_none_or(|bytes| bytes > 64 * 1024) {
        return Some("per_connection_buffer_limit_bytes".to_owned());
    }
    let http2 = &manager["http2_protocol_options"];
    [
        ("initial_stream_window_size", 256 * 1024),
        ("initial_connection_window_size", MIB),
    ]
    .into_iter()
    .find(|(name, most)| http2[name].as_u64().is_none_or(|size| size > *most))
    .map(|(name, _)| name.to_owned())
    .or_else(|| fault_of_heads(manager, heads))
}

/// The same for the heads of its requests: HTTP/2 header compression lets a client cause them with next to nothing.
fn fault_of_heads(manager: &Value, most: u64) -> Option<String> {
    let streams = manager["http2_protocol_options"]["max_concurrent_streams"].as_u64();
    let head = manager["max_request_headers_kb"].as_u64();
    // As Envoy has them where nothing is said.
    let bytes = streams.unwrap_or(1024) * head.unwrap_or(60) * 1024;
    if bytes > most {
        return Some(format!("{streams:?} streams of {head:?} KiB"));
    }
    let number = manager["common_http_protocol_options"]["max_headers_count"].as_u64();
    (number.unwrap_or(100) > 100).then(|| "max_headers_count".to_owned())
}

#[test]
fn every_shipped_bootstrap_bounds_the_answers_of_mas() {
    let mut shipped = bootstraps();
    shipped.push((
        "envoy/istio/labels.yaml".to_owned(),
        istio::bootstrap(&manifests::file("envoy/istio/labels.yaml")),
    ));
    shipped.push((
        "envoy/envoy-gateway/gateway.yaml".to_owned(),
        envoy_gateway::bootstrap(&manifests::file("envoy/envoy-gateway/gateway.yaml")),
    ));
    let [least, most] = ANSWER_BYTES;
    for (path, bootstrap) in shipped {
        let limit = answer_limit(&bootstrap);
        let is_good = limit.is_some_and(|limit| (least..=most).contains(&limit));
        assert!(is_good, "{path}: {limit:?}");
    }
}

/// Otherwise a client that asks for a long answer and reads nothing of it makes Envoy hold a MiB of each.
#[test]
fn every_shipped_cluster_bounds_what_is_read_ahead_of_a_client() {
    const MOST: u64 = 64 * 1024;
    for (path, bootstrap) in bootstraps() {
        for cluster in elements(&bootstrap["static_resources"]["clusters"]) {
            let limit = cluster["per_connection_buffer_limit_bytes"].as_u64();
            let is_own = cluster["name"] == "admin";
            assert!(
                is_own || limit.is_some_and(|limit| limit <= MOST),
                "{path}: {}",
                cluster["name"]
            );
        }
    }
}

/// What the meshes make of their folders. Where the upstreams are is all one here.
fn meshes() -> [(&'static str, Value); 2] {
    let nowhere = SocketAddr::from(([127, 0, 0, 1], 1));
    let upstreams = Upstreams {
        homeserver: nowhere,
        mas: nowhere,
        other: nowhere,
    };
    let files = |folder: &str, names: &[&str]| -> Vec<Value> {
        let paths = names
            .iter()
            .map(|name| format!("envoy/{folder}/{name}.yaml"));
        paths.flat_map(|path| manifests::file(&path)).collect()
    };
    let dir = tempfile::tempdir().expect("a temporary directory");
    let of_istio = files("istio", &["mesh", "wasmplugin", "connection", "routes"]);
    let of_gateway = files("envoy-gateway", &["gateway", "policies", "routes"]);
    let port = |port| port;
    [
        (
            "envoy/istio",
            istio::configuration(&of_istio, port, Path::new("x"), upstreams, dir.path()),
        ),
        (
            "envoy/envoy-gateway",
            envoy_gateway::configuration(&of_gateway, Path::new("x"), upstreams),
        ),
    ]
}

#[test]
fn what_the_meshes_make_of_their_folders_bounds_what_a_connection_may_hold() {
    for (folder, mut config) in meshes() {
        let mut managers_of_clients = 0;
        for listener in bootstrap::listeners(&mut config) {
            // The services of MatrixRTC have one of their own, which the folder leaves to Envoy Gateway.
            if listener["name"] == "rtc" {
                continue;
            }
            for manager in managers(listener) {
                managers_of_clients += 1;
                let heads = match folder {
                    "envoy/envoy-gateway" => HEADS_BYTES_OF_ENVOY_GATEWAY,
                    _ => HEADS_BYTES,
                };
                let fault = fault_of(listener, manager, heads);
                assert_eq!(fault, None, "{folder}: {}", listener["name"]);
            }
        }
        assert!(managers_of_clients > 0, "{folder}");
    }
}

/// Clients reach the listeners that take their address for the true one.
#[test]
fn every_shipped_listener_for_clients_bounds_what_a_connection_may_hold() {
    let mut listeners = 0;
    for (path, mut config) in bootstraps() {
        for listener in bootstrap::listeners(&mut config) {
            for manager in managers(listener) {
                if manager["use_remote_address"] == json!(true) {
                    listeners += 1;
                    let fault = fault_of(listener, manager, HEADS_BYTES);
                    assert_eq!(fault, None, "{path}: {}", listener["name"]);
                }
            }
        }
    }
    assert!(listeners >= 11, "{listeners} listeners");
}

/// The routes of a connection manager, each with whether it waits until a request has ended.
fn waiting(manager: &Value) -> impl Iterator<Item = (&Value, bool)> {
    const BUFFER: &str = "envoy.filters.http.buffer";
    let is_off = |of: &Value| of["typed_per_filter_config"][BUFFER]["disabled"] == true;
    let has_filter = manager["http_filters"].as_array().is_some_and(|filters| {
        let mut filters = filters.iter();
        filters.any(|filter| filter["name"] == BUFFER && filter["disabled"] != true)
    });
    let hosts = manager["route_config"]["virtual_hosts"].as_array();
    hosts.into_iter().flatten().flat_map(move |host| {
        let routes = host["routes"].as_array().into_iter().flatten();
        routes.map(move |route| (route, has_filter && !is_off(host) && !is_off(route)))
    })
}

/// Clusters of media, whose requests are of any size, and of calls, which do not end. Nobody else shares their places.
const AS_IT_COMES: [&str; 3] = ["synapse-media", "homeserver-media", "livekit"];

/// `Deployed::assert_waits_for_whole_requests` shows what this is for.
#[test]
fn no_request_of_a_client_takes_a_place_before_it_has_ended() {
    let (mut routes, mut at_once) = (0, BTreeSet::new());
    for (path, mut config) in bootstraps() {
        for listener in bootstrap::listeners(&mut config) {
            for manager in managers(listener) {
                if manager["use_remote_address"] != json!(true) {
                    continue;
                }
                for (route, waits) in waiting(manager) {
                    let Some(cluster) = route["route"]["cluster"].as_str() else {
                        continue;
                    };
                    routes += 1;
                    if !waits {
                        at_once.insert(cluster.to_owned());
                        let is_expected = AS_IT_COMES.contains(&cluster);
                        assert!(is_expected, "{path}: {}", route["match"]);
                    }
                }
            }
        }
    }
    assert!(routes >= 80, "{routes} routes");
    assert_eq!(at_once.len(), AS_IT_COMES.len());
}

/// A connection may hold as much for minutes at the most, for as many bytes as it sends.
#[test]
fn no_shipped_route_holds_a_long_body_for_long() {
    const BUFFER: &str = "envoy.filters.http.buffer";
    let mut long = 0;
    for (path, mut config) in bootstraps() {
        for listener in bootstrap::listeners(&mut config) {
            for manager in managers(listener) {
                if !serves_clients(manager) {
                    continue;
                }
                let filters = manager["http_filters"].as_array().into_iter().flatten();
                let mut filters = filters.filter(|filter| filter["name"] == BUFFER);
                let bytes = |of: &Value| of["max_request_bytes"].as_u64();
                let filter = filters.next().map(|filter| &filter["typed_config"]);
                assert_eq!(filter.and_then(bytes), Some(MIB), "{path}");
                for (route, _) in waiting(manager) {
                    let own = bytes(&route["typed_per_filter_config"][BUFFER]["buffer"]);
                    if own.is_some_and(|own| own > MIB) {
                        long += 1;
                        let time = &route["route"]["max_stream_duration"]["max_stream_duration"];
                        assert_eq!(own, Some(200 * 65_536), "{path}: {}", route["match"]);
                        assert_eq!(*time, "300s", "{path}: {}", route["match"]);
                    }
                }
            }
        }
    }
    assert!(long >= 15, "{long} routes");
}

/// What Envoy gives up when its memory runs short, and from which part of it on: the same everywhere.
/// `production_overload.rs` shows what this is for.
#[test]
fn every_shipped_bootstrap_gives_up_memory_before_it_is_full() {
    let mut all = bootstraps();
    let of = |config: &Value, kind: &str| {
        let mut all = config["overload_manager"][kind].clone();
        for action in all.as_array_mut().into_iter().flatten() {
            let timers = &mut action["typed_config"]["timer_scale_factors"];
            if let Some(timers) = timers.as_array_mut() {
                // Only some have TLS.
                timers.retain(|timer| timer["timer"] != "TRANSPORT_SOCKET_CONNECT");
            }
        }
        all
    };
    let model = yaml(&read("envoy/production/envoy.yaml"));
    all.push((
        "envoy/istio/labels.yaml".to_owned(),
        istio::bootstrap(&manifests::file("envoy/istio/labels.yaml")),
    ));
    for (path, config) in &all {
        for kind in ["buffer_factory_config", "actions", "loadshed_points"] {
            assert!(!of(&model, kind).is_null());
            assert_eq!(of(config, kind), of(&model, kind), "{path}: {kind}");
        }
        let monitors = config["overload_manager"]["resource_monitors"].as_array();
        let mut monitors = monitors.into_iter().flatten();
        let heap = monitors.find(|monitor| monitor["name"] == "envoy.resource_monitors.fixed_heap");
        let bytes = heap.and_then(|heap| heap["typed_config"]["max_heap_size_bytes"].as_u64());
        assert!(bytes.is_some_and(|bytes| bytes >= 512 * MIB), "{path}");
        let listeners = config["static_resources"]["listeners"].as_array();
        for listener in listeners.into_iter().flatten() {
            let is_for_clients =
                managers(listener).any(|manager| manager["use_remote_address"] == json!(true));
            let bypasses = listener["bypass_overload_manager"] == json!(true);
            assert_eq!(bypasses, !is_for_clients, "{path}: {}", listener["name"]);
        }
    }
}

/// From an address that counts as internal Envoy takes timeouts, retries and more. None does, unless a file says so.
/// `envoy_headers.rs` sees that nothing else changes what these files do.
#[test]
fn no_shipped_listener_takes_an_address_for_internal() {
    for (path, config) in bootstraps() {
        let text = config.to_string();
        assert!(!text.contains("\"internal_address_config\""), "{path}");
    }
}

/// Envoy takes `x-envoy-fault-*` of a client for its operator's. One says how many requests are delayed.
#[test]
fn no_client_of_a_shipped_configuration_has_a_word_in_its_delays() {
    const DELAY: &str = "x-envoy-fault-delay-request";
    let mut delaying = 0;
    for (path, mut config) in bootstraps() {
        for listener in bootstrap::listeners(&mut config) {
            for manager in managers(listener) {
                let routes = &manager["route_config"];
                if routes.to_string().contains(&format!("\"key\":\"{DELAY}\"")) {
                    delaying += 1;
                    let removed = &routes["request_headers_to_remove"];
                    let expected = json!([format!("{DELAY}-percentage")]);
                    assert_eq!(*removed, expected, "{path}: {}", listener["name"]);
                }
            }
        }
    }
    assert_eq!(delaying, 4, "two listeners of each fleet");
}

/// The clusters to which the routes of a connection manager lead, mirrored requests included.
fn routed(manager: &Value) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    visit_clusters(&manager["route_config"], &mut found);
    found
}

fn visit_clusters(value: &Value, found: &mut BTreeSet<String>) {
    match value {
        Value::Array(items) => items.iter().for_each(|item| visit_clusters(item, found)),
        Value::Object(members) => {
            for (name, member) in members {
                match member.as_str() {
                    Some(cluster) if name == "cluster" => _ = found.insert(cluster.to_owned()),
                    _ => visit_clusters(member, found),
                }
            }
        }
        _ => {}
    }
}

fn is_introspection(manager: &Value) -> bool {
    let filters = manager["http_filters"].as_array().into_iter().flatten();
    let mut roles =
        filters.map(|filter| &filter["typed_config"]["config"]["configuration"]["value"]["role"]);
    roles.any(|role| role == "introspection")
}

/// Synapse's requests to MAS never wait for a place behind those of clients.
#[test]
fn no_shipped_listener_for_clients_shares_a_cluster_with_that_of_synapse() {
    let mut compared = 0;
    for (path, mut config) in bootstraps() {
        let (mut of_clients, mut of_synapse) = (BTreeSet::new(), BTreeSet::new());
        for listener in bootstrap::listeners(&mut config) {
            for manager in managers(listener) {
                if manager["use_remote_address"] == json!(true) {
                    of_clients.append(&mut routed(manager));
                } else if is_introspection(manager) {
                    of_synapse.append(&mut routed(manager));
                }
            }
        }
        let shared: Vec<_> = of_clients.intersection(&of_synapse).collect();
        assert!(shared.is_empty(), "{path}: {shared:?}");
        for cluster in &of_synapse {
            compared += 1;
            let limits =
                &bootstrap::cluster(&mut config, cluster)["circuit_breakers"]["thresholds"];
            for limit in ["max_connections", "max_requests", "max_pending_requests"] {
                assert!(limits[0][limit].is_u64(), "{path}: {limit} of {cluster}");
            }
            assert!(!of_clients.is_empty(), "{path}");
        }
    }
    assert!(compared >= 6, "{compared} clusters");
}

/// MAS, or who answers in its place, sends more than Envoy can hold, to many calls at once.
#[tokio::test]
async fn answers_without_an_end_do_not_fill_the_memory() {
    const CALLS: usize = 24;
    const ANSWER: usize = 24 << 20;
    let edge = Edge::start_with(json!({}), Options::default(), |builder| {
        builder.bootstrap(|config| config["layered_runtime"] = shipped()["layered_runtime"].clone())
    })
    .await;
    edge.mas.fault(Fault::oversized(ANSWER));
    let before = edge.envoy.resident_bytes();
    let requests: Vec<_> = (0..CALLS)
        .map(|_| edge.spawn(&Request::get(WHOAMI).bearer(&new_token("mat"))))
        .collect();
    let mut peak = before;
    within_limit("the answers to end", async {
        while !requests.iter().all(tokio::task::JoinHandle::is_finished) {
            peak = peak.max(edge.envoy.resident_bytes());
            tokio::task::yield_now().await;
        }
    })
    .await;
    for request in requests {
        assert_no_verdict(&request.await.expect("no panic"));
    }
    let grown = peak.saturating_sub(before) / MIB;
    println!("{CALLS} answers of {} MiB: {grown} MiB more", ANSWER >> 20);
    assert!(grown < 48, "{grown} MiB");
    assert!(edge.envoy.is_alive());
}
