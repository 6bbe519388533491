//! The manifests below `envoy/`, and what a mesh makes of them.
//!
//! A mesh's control plane turns custom resources into an Envoy configuration. [`istio`] and [`envoy_gateway`] do the same
//! with the shipped ones, as far as these use it, so that a real Envoy can run the result. Each rule names where it stands
//! in the source of the control plane. What a rule does not know fails the test, so nothing of a manifest is passed over.

pub mod envoy_gateway;
pub mod istio;
pub mod manifests;

use std::net::SocketAddr;

use serde_json::{Value, json};

/// The addresses behind the hosts that the manifests name.
#[derive(Clone, Copy)]
pub struct Upstreams {
    /// The homeserver.
    pub homeserver: SocketAddr,
    /// MAS.
    pub mas: SocketAddr,
    /// All others: the services of MatrixRTC, which no test asks.
    pub other: SocketAddr,
}

impl Upstreams {
    /// The address of the service called `host`, with or without its namespace.
    pub fn of(&self, host: &str) -> SocketAddr {
        match host.split('.').next() {
            Some("synapse") => self.homeserver,
            Some("mas") => self.mas,
            _ => self.other,
        }
    }
}

/// Where the parts of a bootstrap configuration are on this machine: listeners on free ports of loopback, DNS names
/// replaced by `upstreams`, the admin interface on a free port.
pub fn on_loopback(config: &mut Value, upstreams: Upstreams) {
    let admin = &mut config["admin"]["address"]["socket_address"];
    *admin = json!({"address": "127.0.0.1", "port_value": 0});
    for listener in each(&mut config["static_resources"]["listeners"]) {
        listener["address"]["socket_address"] = json!({"address": "127.0.0.1", "port_value": 0});
    }
    for cluster in each(&mut config["static_resources"]["clusters"]) {
        if cluster["type"] != "STRICT_DNS" {
            continue;
        }
        cluster["type"] = "STATIC".into();
        for locality in each(&mut cluster["load_assignment"]["endpoints"]) {
            for endpoint in each(&mut locality["lb_endpoints"]) {
                let address = &mut endpoint["endpoint"]["address"]["socket_address"];
                let upstream = upstreams.of(address["address"].as_str().unwrap_or_default());
                *address = socket_address(upstream);
            }
        }
    }
}

/// The elements of a list; none if it is absent.
pub fn each(list: &mut Value) -> impl Iterator<Item = &mut Value> {
    list.as_array_mut().into_iter().flatten()
}

/// The elements of a list; none if it is absent.
pub fn elements(list: &Value) -> &[Value] {
    list.as_array().map_or(&[], Vec::as_slice)
}

/// A text that must be there.
#[track_caller]
pub fn text(value: &Value) -> &str {
    value
        .as_str()
        .unwrap_or_else(|| panic!("not a text: {value}"))
}

fn socket_address(addr: SocketAddr) -> Value {
    json!({"address": addr.ip().to_string(), "port_value": addr.port()})
}

/// A header that a route gives to each request, in the place of those that came.
fn header_to_set(name: &str, value: &Value) -> Value {
    json!({
        "header": {"key": name, "value": value},
        "append_action": "OVERWRITE_IF_EXISTS_OR_ADD",
    })
}

/// Puts `patch` over `value` as protobuf merges messages: lists are appended, messages merged, all else is replaced.
fn merge(value: &mut Value, patch: &Value) {
    match (value, patch) {
        (Value::Object(value), Value::Object(patch)) => {
            for (key, patch) in patch {
                merge(value.entry(key.clone()).or_insert(Value::Null), patch);
            }
        }
        (Value::Array(value), Value::Array(patch)) => value.extend(patch.iter().cloned()),
        (value, patch) => *value = patch.clone(),
    }
}

/// Fails if an object has other keys than `known`: then a rule is missing here.
#[track_caller]
fn knows(value: &Value, known: &[&str]) {
    for key in value.as_object().into_iter().flat_map(|map| map.keys()) {
        assert!(
            known.contains(&key.as_str()),
            "the translator has no rule for {key} in {value}"
        );
    }
}
