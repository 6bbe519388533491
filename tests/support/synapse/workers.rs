//! A real Synapse of several processes: the main process and workers, with PostgreSQL and Redis.
//! Everything but the client API is on unix sockets in one directory, which goes with the processes.

use std::{
    env,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::{Value, json};
use tempfile::TempDir;

use super::{Synapse, configuration, process::Process};

/// Generic workers, which serve the client API beside the main process.
const WORKERS: [&str; 2] = ["worker1", "worker2"];

const SERVICES: &str = include_str!("services.py");
/// Both PostgreSQL and Redis log it once.
const READY: &str = "ready to accept connections";

/// PostgreSQL and Redis on unix sockets. They end when the value is dropped.
pub struct Services {
    // Dropped before its folder.
    _process: Process,
    home: TempDir,
}

impl Services {
    /// Starts both.
    ///
    /// # Panics
    ///
    /// If one does not start.
    pub async fn start() -> Self {
        // The system's directory: its path is short enough for sockets, and PostgreSQL's user can go there.
        let home = temp_dir(env::temp_dir(), "synapse-");
        let mut to_come = 2;
        let (process, ()) = Process::start(SERVICES, &[home.path().as_ref()], move |line| {
            to_come -= usize::from(line.contains(READY));
            (to_come == 0).then_some(())
        })
        .await;
        Self {
            _process: process,
            home,
        }
    }

    /// What psql prints, without decoration, that works in this database as the server's own user.
    ///
    /// # Panics
    ///
    /// If psql fails.
    pub fn psql(&self, database: &str, arguments: &[&str]) -> String {
        let output = Command::new("psql")
            .args(["--no-psqlrc", "--set", "ON_ERROR_STOP=1"])
            .args(["--no-align", "--tuples-only", "--username", "synapse"])
            .arg("--host")
            .arg(self.home.path().join("postgres"))
            .args(["--dbname", database])
            .args(arguments)
            .output()
            .expect("psql, which comes with PostgreSQL");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{said}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }
}

/// A running Synapse with workers.
pub struct Deployment {
    /// The main process, where accounts are made.
    pub main: Synapse,
    /// The generic workers.
    pub workers: [Synapse; WORKERS.len()],
    /// Dropped after those that use them.
    pub services: Services,
}

impl Deployment {
    /// Starts all processes; see [`Synapse::start`].
    ///
    /// # Panics
    ///
    /// If one does not start.
    pub async fn start(server_name: &str, mas: SocketAddr, secret: &str) -> Self {
        let services = Services::start().await;
        let home = services.home.path();
        let configure = |name: &str| {
            let own = temp_dir(home, name);
            let mut settings = configuration::new(own.path(), server_name, mas, secret);
            share_state(&mut settings, home);
            (own, settings)
        };
        let (own, mut settings) = configure("main");
        add_replication(&mut settings, home);
        // It makes the tables, so the workers come later.
        let main = Synapse::run(own, &settings, secret).await;
        let [one, two] = WORKERS.map(|name| {
            let (own, mut settings) = configure(name);
            make_worker(&mut settings, name);
            async move { Synapse::run(own, &settings, secret).await }
        });
        let (one, two) = tokio::join!(one, two);
        Self {
            main,
            workers: [one, two],
            services,
        }
    }

    /// Where the client API is served: by the main process first, then by the workers.
    pub fn addrs(&self) -> [SocketAddr; 1 + WORKERS.len()] {
        let [one, two] = &self.workers;
        [&self.main, one, two].map(Synapse::addr)
    }
}

fn temp_dir(within: impl AsRef<Path>, prefix: &str) -> TempDir {
    tempfile::Builder::new()
        .prefix(prefix)
        .tempdir_in(within)
        .expect("a directory for Synapse")
}

/// What every process needs to find the others.
fn share_state(settings: &mut Value, home: &Path) {
    settings["database"] = json!({
        "name": "psycopg2",
        "args": {
            // The one that is there from the start, in the encoding and locale that Synapse wants.
            "dbname": "postgres",
            "user": "synapse",
            "host": home.join("postgres"),
            "cp_min": 1,
            "cp_max": 5,
        },
    });
    settings["redis"] = json!({"enabled": true, "path": home.join("redis.sock")});
    settings["instance_map"] = json!({"main": {"path": replication_socket(home)}});
    settings["worker_replication_secret"] = "replication_secret".into();
}

/// Where the workers reach the main process.
fn add_replication(settings: &mut Value, home: &Path) {
    let replication = json!({
        "type": "http",
        "path": replication_socket(home),
        "resources": [{"names": ["replication"]}],
    });
    settings["listeners"] = json!([configuration::client_listener(), replication]);
}

fn make_worker(settings: &mut Value, name: &str) {
    settings["worker_app"] = "synapse.app.generic_worker".into();
    settings["worker_name"] = name.into();
    settings["worker_listeners"] = settings["listeners"].clone();
    settings["worker_log_config"] = settings["log_config"].clone();
}

fn replication_socket(home: &Path) -> PathBuf {
    home.join("main.sock")
}
