//! A real Synapse for tests: on a free port, with its state in memory, delegating its accounts to a
//! MAS. [`workers`] has one of several processes.
//!
//! Every process ends with its [`Synapse`], and also with the test process: see [`process`].

mod configuration;
pub mod process;
pub mod workers;

use std::{net::SocketAddr, path::PathBuf};

use serde_json::{Value, json};
use tempfile::TempDir;

use self::process::Process;
use super::http;

/// The version that the recorded vectors and exchanges were taken from.
pub const VERSION: &str = "1.163.2";
/// `as_token` of the bridge.
pub const AS_TOKEN: &str = "as_secret_token";

/// The module of the main process.
const MAIN: &str = "synapse.app.homeserver";
/// The log line that tells the port.
const LISTENING: &str = "Synapse now listening on TCP port ";

/// Runs a module of Synapse with the configuration in a directory until standard input ends, or a
/// signal ends it, and leaves no files behind.
const PROGRAM: &str = r#"
import atexit, os, runpy, shutil, sys, threading

home, module = sys.argv[1:]
# Where modules of Synapse are, if there are any.
sys.path.insert(0, home)

def remove_home():
    shutil.rmtree(home, ignore_errors=True)

def end_with_parent():
    os.read(0, 1)
    remove_home()
    os._exit(0)

atexit.register(remove_home)
threading.Thread(target=end_with_parent, daemon=True).start()
sys.argv = ["synapse", "--config-path", os.path.join(home, "homeserver.json")]
runpy.run_module(module, run_name="__main__")
"#;

/// A module of Synapse that tells in each response what Synapse took the request for.
const WITNESS: &str = include_str!("synapse/witness.py");

/// A running process of Synapse.
pub struct Synapse {
    addr: SocketAddr,
    secret: String,
    // Dropped before what it uses.
    _process: Process,
    home: TempDir,
}

impl Synapse {
    /// Starts Synapse as `server_name`, with its accounts in the MAS at `mas`, which shares
    /// `secret` with it, and with one appservice: `@bridgebot` and the users `@bridge_...`.
    ///
    /// # Panics
    ///
    /// If it does not start.
    pub async fn start(server_name: &str, mas: SocketAddr, secret: &str) -> Self {
        Self::start_with(server_name, mas, secret, json!({})).await
    }

    /// The same, with the members of `more` added to its configuration. `{"modules": [{"module": "witness.Witness"}]}`
    /// makes it tell in each response what it took the request for: see `synapse/witness.py`.
    pub async fn start_with(server_name: &str, mas: SocketAddr, secret: &str, more: Value) -> Self {
        let home = tempfile::Builder::new()
            .prefix("synapse-")
            .tempdir_in(env!("CARGO_TARGET_TMPDIR"))
            .expect("a directory for Synapse");
        configuration::write(home.path(), "witness.py", WITNESS);
        let mut settings = configuration::new(home.path(), server_name, mas, secret);
        for (key, value) in more.as_object().into_iter().flatten() {
            settings[key] = value.clone();
        }
        Self::run(home, &settings, secret).await
    }

    /// Starts the process that these settings are for, the main one or a worker.
    async fn run(home: TempDir, settings: &Value, secret: &str) -> Self {
        configuration::save(home.path(), settings);
        let module = settings["worker_app"].as_str().unwrap_or(MAIN);
        let arguments = [home.path().as_ref(), module.as_ref()];
        let (process, port) = Process::start(PROGRAM, &arguments, |line| {
            let (_, port) = line.split_once(LISTENING)?;
            port.trim().parse().ok()
        })
        .await;
        Self {
            addr: SocketAddr::from(([127, 0, 0, 1], port)),
            secret: secret.to_owned(),
            _process: process,
            home,
        }
    }

    /// The file that it was started with.
    pub fn configuration_file(&self) -> PathBuf {
        configuration::file(self.home.path())
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Makes an account, as MAS does.
    pub async fn provision_user(&self, localpart: &str) {
        self.provision("provision_user", json!({"localpart": localpart}))
            .await;
    }

    /// Makes a device, as MAS does.
    pub async fn upsert_device(&self, localpart: &str, device_id: &str) {
        self.provision(
            "upsert_device",
            json!({"localpart": localpart, "device_id": device_id}),
        )
        .await;
    }

    /// Makes an account, as the bridge does.
    pub async fn register_bridge_user(&self, localpart: &str) {
        let registration = json!({
            "type": "m.login.application_service",
            "username": localpart,
            "inhibit_login": true,
        });
        self.post("/_matrix/client/v3/register", AS_TOKEN, registration)
            .await;
    }

    async fn provision(&self, endpoint: &str, body: Value) {
        self.post(&format!("/_synapse/mas/{endpoint}"), &self.secret, body)
            .await;
    }

    async fn post(&self, path: &str, token: &str, body: Value) {
        let request = http::Request::post(path, "application/json", body.to_string()).bearer(token);
        let response = http::send(self.addr, &request).await;
        assert!(
            (200..300).contains(&response.status),
            "{path}: {response:?}"
        );
    }
}
