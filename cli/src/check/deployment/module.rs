//! One use of the module: whether a plugin is this module, which role it has, and whether the module takes its
//! configuration.

use std::{borrow::Cow, collections::HashMap, sync::LazyLock};

use matrix_edge_auth::config::{self, Config, Role};

use super::{Host, Refusal, Spot, Use};
use crate::yaml::{Place, Reader, Value};

/// The value that the module reads for a variable whose own value cannot be seen.
const UNSEEN: &str = "unseen";

/// Keys of a configuration that no other plugin has.
const OWN_KEYS: [&str; 4] = [
    "introspection",
    "unknown_token_budget",
    "unrecognized_tokens",
    "appservice_tokens",
];

/// Whether a configuration is one of this module.
pub(super) fn is_configuration(value: Value<'_>) -> bool {
    let has_role = matches!(
        value.text_at(&["role"]),
        Some("gateway" | "introspection" | "provisioning")
    );
    value.get("introspection").is_some_and(Value::is_mapping)
        || has_role && value.get("server_name").is_some()
        || OWN_KEYS
            .iter()
            .filter(|key| value.get(key).is_some())
            .count()
            >= 2
        || has_keys(value)
}

/// The keys of a configuration.
static KEYS: LazyLock<Vec<String>> = LazyLock::new(|| {
    let schema: serde_json::Value = serde_json::from_str(&config::schema()).unwrap_or_default();
    let keys = schema.get("properties").and_then(|keys| keys.as_object());
    keys.map(|keys| keys.keys().cloned().collect())
        .unwrap_or_default()
});

/// Whether a mapping has a `server_name`, and otherwise keys of a configuration. One key may be mistyped. Synapse's own
/// configuration has a `server_name`, too.
fn has_keys(value: Value<'_>) -> bool {
    let Some(name) = value.entry("server_name") else {
        return false;
    };
    let others = value.members().filter(|(_, other)| other.id != name.id);
    let is_known = |(key, _): &(&str, Value<'_>)| KEYS.iter().any(|known| known == key);
    let (known, unknown): (Vec<_>, Vec<_>) = others.partition(is_known);
    unknown.len() <= 1 && known.len() + unknown.len() >= 1
}

/// Whether the name of a plugin, or the place of its code, names this module.
pub(super) fn is_name(text: &str) -> bool {
    let text = text.to_ascii_lowercase().replace('_', "-");
    text.contains("matrix-edge-auth")
}

/// Where a plugin has its configuration, and how it is encoded.
pub(super) enum Encoded<'t> {
    /// As an object.
    Object(Value<'t>),
    /// As a text, which the module reads itself. Findings point into the object that the text holds.
    Text(Value<'t>, Cow<'t, str>),
    /// As something that cannot be read.
    Broken(Refusal<'t>),
}

impl<'t> Encoded<'t> {
    /// The configuration in a value: an object, or a text that holds one. If there is no value, the refusal points at the
    /// plugin.
    pub fn of(value: Option<Value<'t>>, plugin: Value<'t>) -> Self {
        let Some(value) = value else {
            return Self::Broken(Refusal {
                spot: Spot::first_key(plugin, &["name", "pluginName", "url"]),
                message: "the plugin has no configuration".to_owned(),
            });
        };
        match value.embedded() {
            Some(Ok(object)) => Self::Text(object, value.embedded_text().unwrap_or_default()),
            Some(Err(error)) => Self::Broken(Refusal {
                spot: Spot {
                    tree: value.tree,
                    place: error.place.clone(),
                },
                message: error.message.clone(),
            }),
            None => Self::Object(value),
        }
    }
}

/// The variables that a plugin is given.
pub type Environment = HashMap<String, Variable>;

/// The value of a variable.
#[derive(Clone, PartialEq, Eq)]
pub enum Variable {
    /// The files give the value.
    Seen(String),
    /// Only the environment that Envoy starts in has the value.
    Unseen,
}

impl Variable {
    /// A variable with this value, if the files give one.
    pub fn of(value: Option<&str>) -> Self {
        value.map_or(Self::Unseen, |value| Self::Seen(value.to_owned()))
    }
}

/// Reads a use. Without `environment` every variable is taken to be there.
pub(super) fn read<'t>(
    host: Host,
    envoy: usize,
    plugin: Option<Value<'t>>,
    encoded: Encoded<'t>,
    environment: Option<&Environment>,
) -> Use<'t> {
    let (configuration, config) = match encoded {
        Encoded::Object(object) => {
            let is_kubernetes = matches!(
                host,
                Host::EnvoyFilter | Host::EnvoyGateway | Host::WasmPlugin
            );
            let reader = if is_kubernetes || object.tree.name.ends_with(".json") {
                Reader::Json
            } else {
                Reader::Envoy
            };
            (Some(object), of_object(object, reader, environment))
        }
        Encoded::Text(object, text) => (Some(object), parse(object, text.as_bytes(), environment)),
        Encoded::Broken(refusal) => (None, Err(refusal)),
    };
    let role = configuration.and_then(|value| match value.text_at(&["role"]) {
        None | Some("gateway") => Some(Role::Gateway),
        Some("introspection") => Some(Role::Introspection),
        Some("provisioning") => Some(Role::Provisioning),
        Some(_) => None,
    });
    Use {
        host,
        envoy,
        homeserver: None,
        plugin,
        configuration,
        role,
        config,
        entry: None,
        resource: None,
    }
}

/// Lets the module read an object as its configuration, in the JSON that Envoy or Kubernetes makes of the object.
fn of_object<'t>(
    object: Value<'t>,
    reader: Reader,
    environment: Option<&Environment>,
) -> Result<Config, Refusal<'t>> {
    match object.json(reader) {
        Some(json) => parse(object, json.to_string().as_bytes(), environment),
        None => Err(Refusal {
            spot: Spot::value(object),
            message: "the configuration is too large".to_owned(),
        }),
    }
}

/// Lets the module read its configuration.
fn parse<'t>(
    object: Value<'t>,
    json: &[u8],
    environment: Option<&Environment>,
) -> Result<Config, Refusal<'t>> {
    let variable = |name: &str| {
        let variable = match environment {
            Some(variables) => variables.get(name)?,
            None => &Variable::Unseen,
        };
        Some(match variable {
            Variable::Seen(value) => value.clone(),
            Variable::Unseen => UNSEEN.to_owned(),
        })
    };
    config::parse(json, &variable).map_err(|error| {
        let message = error.to_string();
        let spot = Spot {
            tree: object.tree,
            place: place_of(object, &message),
        };
        Refusal { spot, message }
    })
}

/// The place of the key that a refusal begins with, such as `endpoints[1].auth: takes ...`. If the key is missing, it is
/// the place of the mapping that should have the key.
fn place_of(object: Value<'_>, message: &str) -> Place {
    let path = message.split(": ").next().unwrap_or_default();
    let mut value = object;
    let mut place = object.place();
    place.end = place.start;
    for step in path.split('.') {
        let (key, indices) = step.split_once('[').unwrap_or((step, ""));
        let Some(member) = value.get(key) else {
            break;
        };
        place = value.key_place(key).unwrap_or(place);
        value = member;
        for index in indices.split('[') {
            let index = index.trim_end_matches(']').parse::<usize>().ok();
            if let Some(item) = index.and_then(|index| value.items().nth(index)) {
                value = item;
                place = item.place();
            }
        }
    }
    place
}
