//! The module's reader and the schema, each as a function of a configuration.

use std::sync::LazyLock;

use jsonschema::Validator;
use matrix_edge_auth::config;
use serde_json::{Value, json};

/// Returns the smallest configuration.
pub fn minimal() -> Value {
    json!({
        "server_name": "example.org",
        "introspection": {"cluster": "mas", "credential": {"bearer": {"env": "MAS_SECRET"}}},
    })
}

/// Reads a configuration as the module does. Every environment variable holds a secret here: whether one exists is
/// beyond a schema.
pub fn read(configuration: &Value) -> Result<(), String> {
    let bytes = configuration.to_string();
    config::parse(bytes.as_bytes(), &|_| Some("secret".to_owned()))
        .map(|_| ())
        .map_err(|error| error.to_string())
}

/// Returns the schema that the module's table makes.
pub fn schema() -> &'static Validator {
    static SCHEMA: LazyLock<Validator> = LazyLock::new(|| {
        let schema: Value = serde_json::from_str(&config::schema()).unwrap();
        jsonschema::draft202012::meta::validate(&schema).unwrap();
        jsonschema::draft202012::new(&schema).unwrap()
    });
    &SCHEMA
}
