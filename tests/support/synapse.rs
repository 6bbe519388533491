//! A real Synapse for tests: on a free port, with its state in memory, delegating its accounts to a
//! MAS.
//!
//! The process ends with its [`Synapse`], and also with the test process, however that ends: it
//! watches a pipe that only the test process holds open.

use std::{
    env, fs,
    io::{BufRead, BufReader},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command, Stdio},
    thread,
    time::Duration,
};

use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{sync::oneshot, time::timeout};

use super::http;

/// The version that the recorded vectors and exchanges were taken from.
pub const VERSION: &str = "1.163.2";
/// `as_token` of the bridge.
pub const AS_TOKEN: &str = "as_secret_token";

/// Longer than a start takes on a slow machine under load.
const START_LIMIT: Duration = Duration::from_secs(120);
/// The log line that tells the port.
const LISTENING: &str = "Synapse now listening on TCP port ";

/// Runs Synapse until standard input ends, or a signal ends it, and leaves no files behind.
const PROGRAM: &str = r#"
import atexit, os, runpy, shutil, sys, threading

home = sys.argv[1]

def remove_home():
    shutil.rmtree(home, ignore_errors=True)

def end_with_parent():
    sys.stdin.buffer.read()
    remove_home()
    os._exit(0)

atexit.register(remove_home)
threading.Thread(target=end_with_parent, daemon=True).start()
sys.argv = ["synapse", "--config-path", os.path.join(home, "homeserver.json")]
runpy.run_module("synapse.app.homeserver", run_name="__main__")
"#;

/// A running Synapse.
pub struct Synapse {
    addr: SocketAddr,
    secret: String,
    child: Child,
    _lifeline: ChildStdin,
    _home: TempDir,
}

impl Synapse {
    /// Starts Synapse as `server_name`, with its accounts in the MAS at `mas`, which shares
    /// `secret` with it, and with one appservice: `@bridgebot` and the users `@bridge_...`.
    ///
    /// # Panics
    ///
    /// If it does not start.
    pub async fn start(server_name: &str, mas: SocketAddr, secret: &str) -> Self {
        let home = tempfile::Builder::new()
            .prefix("synapse-")
            .tempdir_in(env!("CARGO_TARGET_TMPDIR"))
            .expect("a directory for Synapse");
        write_configuration(home.path(), server_name, mas, secret);
        let python = python();
        let mut child = Command::new(&python)
            .args(["-c", PROGRAM])
            .arg(home.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("{}: {error}", python.display()));
        let lifeline = child.stdin.take().expect("a pipe");
        let log = child.stderr.take().expect("a pipe");
        let (port, listening) = oneshot::channel();
        thread::spawn(move || read_log(BufReader::new(log), port));
        let mut synapse = Self {
            addr: SocketAddr::from(([127, 0, 0, 1], 0)),
            secret: secret.to_owned(),
            child,
            _lifeline: lifeline,
            _home: home,
        };
        let started = timeout(START_LIMIT, listening)
            .await
            .expect("Synapse starts in time")
            .expect("an outcome");
        let port = started.unwrap_or_else(|log| {
            panic!("Synapse does not start with {}:\n{log}", python.display())
        });
        synapse.addr.set_port(port);
        synapse
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

impl Drop for Synapse {
    fn drop(&mut self) {
        // Both fail only if it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The interpreter that has Synapse installed.
fn python() -> PathBuf {
    match env::var_os("SYNAPSE_PYTHON") {
        Some(python) => python.into(),
        None => {
            let python = Path::new(env!("CARGO_MANIFEST_DIR")).join(".venv/bin/python");
            assert!(
                python.exists(),
                "no Synapse: {} does not exist. Run `make setup`, or set SYNAPSE_PYTHON to a \
                 Python that has matrix-synapse=={VERSION}.",
                python.display(),
            );
            python
        }
    }
}

/// Sends the port when the log tells it, or the log if it ends before. Reads on to the end: a full
/// pipe stops Synapse.
fn read_log(log: impl BufRead, port: oneshot::Sender<Result<u16, String>>) {
    let mut port = Some(port);
    let mut before = String::new();
    for line in log.lines().map_while(Result::ok) {
        if port.is_none() {
            continue;
        }
        if let Some((_, number)) = line.split_once(LISTENING) {
            // Whoever waited may have given up.
            let _ = port
                .take()
                .map(|port| port.send(number.trim().parse().map_err(|_| line.clone())));
        }
        before.push_str(&line);
        before.push('\n');
    }
    let _ = port.map(|port| port.send(Err(before)));
}

/// Writes the configuration, which is JSON where Synapse takes YAML: every JSON text is one.
fn write_configuration(home: &Path, server_name: &str, mas: SocketAddr, secret: &str) {
    let write = |name: &str, content: String| {
        let path = home.join(name);
        fs::write(&path, content).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        path
    };
    let signing_key = write("signing.key", format!("ed25519 test {}\n", "A".repeat(43)));
    let bridge = json!({
        "id": "bridge",
        "url": null,
        "as_token": AS_TOKEN,
        "hs_token": "hs_secret_token",
        "sender_localpart": "bridgebot",
        "rate_limited": false,
        "namespaces": {"users": [{"exclusive": true, "regex": "@bridge_.*"}]},
    });
    let bridge = write("bridge.json", bridge.to_string());
    let log = json!({
        "version": 1,
        "disable_existing_loggers": false,
        "handlers": {"stderr": {"class": "logging.StreamHandler"}},
        "loggers": {"synapse.app": {"level": "INFO"}},
        "root": {"level": "WARNING", "handlers": ["stderr"]},
    });
    let log = write("log.json", log.to_string());
    let homeserver = json!({
        "server_name": server_name,
        "public_baseurl": format!("http://{server_name}/"),
        "report_stats": false,
        "listeners": [{
            "type": "http",
            "port": 0,
            "bind_addresses": ["127.0.0.1"],
            "resources": [{"names": ["client"]}],
        }],
        "database": {"name": "sqlite3", "args": {"database": ":memory:"}},
        "log_config": log,
        "media_store_path": home.join("media"),
        "signing_key_path": signing_key,
        "trusted_key_servers": [],
        "app_service_config_files": [bridge],
        "password_config": {"enabled": false},
        "matrix_authentication_service": {
            "enabled": true,
            "endpoint": format!("http://{mas}/"),
            "secret": secret,
        },
    });
    write("homeserver.json", homeserver.to_string());
}
