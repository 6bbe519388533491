//! Synapse's configuration, in JSON where it takes YAML: every JSON text is one.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
};

use serde_json::{Value, json};

use super::AS_TOKEN;

const FILE: &str = "homeserver.json";

/// A configuration for one process with its state in memory, and in `home` the files that it names.
pub fn new(home: &Path, server_name: &str, mas: SocketAddr, secret: &str) -> Value {
    let signing_key = format!("ed25519 test {}\n", "A".repeat(43));
    let bridge = json!({
        "id": "bridge",
        "url": null,
        "as_token": AS_TOKEN,
        "hs_token": "hs_secret_token",
        "sender_localpart": "bridgebot",
        "rate_limited": false,
        "namespaces": {"users": [{"exclusive": true, "regex": "@bridge_.*"}]},
    });
    let log = json!({
        "version": 1,
        "disable_existing_loggers": false,
        "handlers": {"stderr": {"class": "logging.StreamHandler"}},
        "loggers": {"synapse.app": {"level": "INFO"}},
        "root": {"level": "WARNING", "handlers": ["stderr"]},
    });
    json!({
        "server_name": server_name,
        "public_baseurl": format!("http://{server_name}/"),
        "report_stats": false,
        "listeners": [client_listener()],
        "database": {"name": "sqlite3", "args": {"database": ":memory:"}},
        "log_config": write(home, "log.json", &log.to_string()),
        "media_store_path": home.join("media"),
        "signing_key_path": write(home, "signing.key", &signing_key),
        "trusted_key_servers": [],
        "app_service_config_files": [write(home, "bridge.json", &bridge.to_string())],
        "password_config": {"enabled": false},
        "matrix_authentication_service": {
            "enabled": true,
            "endpoint": format!("http://{mas}/"),
            "secret": secret,
        },
    })
}

/// The client API on a free port.
pub fn client_listener() -> Value {
    json!({
        "type": "http",
        "port": 0,
        "bind_addresses": ["127.0.0.1"],
        "resources": [{"names": ["client"]}],
    })
}

/// Writes the configuration to where the program looks for it.
pub fn save(home: &Path, configuration: &Value) {
    write(home, FILE, &configuration.to_string());
}

/// Where the program looks for it.
pub fn file(home: &Path) -> PathBuf {
    home.join(FILE)
}

/// Writes a file that Synapse finds in `home`.
pub fn write(home: &Path, name: &str, content: &str) -> PathBuf {
    let path = home.join(name);
    fs::write(&path, content).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    path
}
