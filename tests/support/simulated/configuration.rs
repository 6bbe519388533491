//! Configurations of the roles.

use std::rc::Rc;

use matrix_edge_auth::{config, host::RootId, worker::Plugin};

/// The gateway role, with these keys put over the required ones.
pub fn gateway(root: u32, overrides: serde_json::Value) -> Rc<Plugin> {
    plugin(root, "gateway", overrides)
}

/// A role, with these keys put over the required ones.
pub fn plugin(root: u32, role: &str, overrides: serde_json::Value) -> Rc<Plugin> {
    let mut json = serde_json::json!({
        "role": role,
        "server_name": "example.org",
        "introspection": {"cluster": "mas", "credential": {"bearer": {"value": "secret"}}},
    });
    merge(&mut json, overrides);
    let config =
        config::parse(json.to_string().as_bytes(), &|_| None).expect("valid configuration");
    Rc::new(Plugin::new(RootId(root), config))
}

fn merge(into: &mut serde_json::Value, from: serde_json::Value) {
    match (into, from) {
        (serde_json::Value::Object(into), serde_json::Value::Object(from)) => {
            for (key, value) in from {
                let into = into.entry(&key).or_insert(serde_json::Value::Null);
                // Of the kinds of credential there is one.
                if key == "credential" {
                    *into = value;
                } else {
                    merge(into, value);
                }
            }
        }
        (into, from) => *into = from,
    }
}
