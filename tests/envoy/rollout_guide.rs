//! `docs/rollout.md` is true: its commands are run from top to bottom, on `envoy/production/` with other addresses, and what
//! is to be configured elsewhere is what the files say that other tests run.
//!
//! `matrix-edge-auth check` is run by the tests of that program.

use std::{
    fs,
    net::SocketAddr,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::{Value, json};
use stand_in::{
    SeenRequest,
    homeserver::Homeserver,
    mas::{DEFAULT_SECRET, Mas, Options, Session},
};
use tempfile::TempDir;

use super::{
    edge::{NOBODY, WHOAMI, identity, new_token},
    introspection_role::{assert_active, introspect},
    pages::{blocks, outcome, steps},
    tls,
};
use crate::support::{
    envoy::{Envoy, bootstrap, module, read, repository, yaml},
    http::{self, within_limit},
    switch::Switch,
};

const PAGE: &str = "docs/rollout.md";

/// How the page starts Envoy, and how it starts the next one.
const START: &str =
    "envoy -c /etc/envoy/run/bootstrap.yaml --drain-time-s 60 --parent-shutdown-time-s 90";
const NEXT: &str = "--restart-epoch 1";

/// What turns a filter off.
const OFF: &str = "disabled: true";

/// How the gateway's mode becomes `shadow`.
const TO_SHADOW: &str = "mode: enforce/mode: shadow/";

/// Whose the token of the page is.
const ALICE: [&[&str]; 2] = [&["@alice:example.org"], &["PHONE"]];

/// Where the shipped listeners are. Each of them gets a free port.
const ADDRESSES: [&str; 5] = [
    r#"address: "::", port_value: 443, ipv4_compat: true"#,
    r#"address: "::", port_value: 8448, ipv4_compat: true"#,
    "address: 127.0.0.1, port_value: 10001",
    "address: 127.0.0.1, port_value: 10002",
    "address: 127.0.0.1, port_value: 8081",
];

/// What the page is carried out on.
pub struct Site {
    /// In the place of `/etc/envoy`.
    dir: TempDir,
    mas: Mas,
    homeserver: Homeserver,
    /// Leads to the admin interface of the Envoy that runs.
    admin: Switch,
    token: String,
    running: Running,
}

/// An Envoy, and the way to it for clients without TLS.
struct Running {
    envoy: Envoy,
    is_delivered: bool,
}

impl Site {
    /// An Envoy without the module runs, and the folder is at its place.
    pub async fn start() -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let tls = dir.path().join("tls");
        fs::create_dir(&tls).expect("a new directory");
        let names = ["matrix.example.org", "auth.example.org"];
        tls::make_certificate(&tls, &names);
        for name in ["envoy.yaml", "certificate.yaml", "mas-secret.yaml"] {
            let mut text = read(&format!("envoy/production/{name}"))
                .replace("/etc/envoy/", &in_place(dir.path(), "/etc/envoy/"))
                .replace("change-me", DEFAULT_SECRET);
            for address in ADDRESSES {
                let is_there = text.contains(address) || name != "envoy.yaml";
                assert!(is_there, "{address} is no longer in the folder");
                text = text.replace(address, "address: 127.0.0.1, port_value: 0");
            }
            fs::write(dir.path().join(name), text).expect("a file of our own");
        }
        let deliver = repository().join("envoy/production/deliver");
        fs::copy(deliver, dir.path().join("deliver")).expect("a file of our own");
        fs::copy(module(), dir.path().join("matrix-edge-auth.wasm")).expect("a file of our own");
        let binary = std::env::var_os("ENVOY")
            .map_or_else(|| repository().join(".venv/bin/envoy"), PathBuf::from);
        fs::create_dir(dir.path().join("bin")).expect("a new directory");
        symlink(binary, dir.path().join("bin/envoy")).expect("a file of our own");

        let mas = Mas::start(Options::default()).await.expect("a free port");
        let homeserver = Homeserver::start_local().await.expect("a free port");
        let whoami = json!({"user_id": "@alice:example.org"}).to_string();
        homeserver.respond(WHOAMI, 200, whoami);
        let key = json!({"server_name": "example.org"}).to_string();
        homeserver.respond("/_matrix/key/v2/server", 200, key);
        let token = new_token("mat");
        mas.insert(&token, Session::access("alice", "PHONE"));
        let admin = Switch::start(mas.addr()).await;
        let mut before = yaml(&fs::read_to_string(dir.path().join("envoy.yaml")).expect("ours"));
        remove_module(&mut before);
        let upstreams = [mas.addr(), homeserver.addr(), admin.addr()];
        let envoy = run(before, upstreams).await;
        let site = Self {
            dir,
            mas,
            homeserver,
            admin,
            token,
            running: Running {
                envoy,
                is_delivered: false,
            },
        };
        site.lead_clients();
        site
    }

    /// Starts the Envoy that the page starts.
    pub async fn restart(&mut self) {
        let written = fs::read_to_string(self.dir.path().join("run/bootstrap.yaml"));
        let config = yaml(&written.expect("`deliver` wrote it"));
        let upstreams = [self.mas.addr(), self.homeserver.addr(), self.admin.addr()];
        self.running = Running {
            envoy: run(config, upstreams).await,
            is_delivered: true,
        };
        self.lead_clients();
    }

    /// curl reads where each address leads to.
    fn lead_clients(&self) {
        let envoy = &self.running.envoy;
        self.admin.lead_to(envoy.admin());
        let lead = |from: &str, to: SocketAddr| format!("connect-to = \"{from}:{to}\"\n");
        let mut text = format!("cacert = {}/tls/fullchain.pem\n", self.dir.path().display());
        text += &lead("matrix.example.org:443", envoy.listener("gateway"));
        text += &lead("auth.example.org:443", envoy.listener("gateway"));
        text += &lead("127.0.0.1:8081", envoy.listener("operations"));
        text += &lead("localhost:8081", envoy.listener("operations"));
        text += &lead("127.0.0.1:9901", envoy.admin());
        fs::write(self.dir.path().join(".curlrc"), text).expect("a file of our own");
    }

    /// What a command prints, or what it says when it fails.
    async fn output(&self, command: &str) -> Result<String, String> {
        let folders = format!(
            "{}:{}",
            self.dir.path().join("bin").display(),
            std::env::var("PATH").unwrap_or_default()
        );
        let mut bash = Command::new("bash");
        bash.args(["-c", &format!("set -o pipefail; {command}")])
            .current_dir(self.dir.path())
            .env("PATH", folders)
            .env("CURL_HOME", self.dir.path())
            .env("MAS_SECRET", DEFAULT_SECRET)
            .env("TOKEN", &self.token);
        outcome(bash).await
    }

    /// Runs a command. What it is to print may take a moment to come.
    pub async fn run(&self, command: &str, wanted: &str) {
        let command = in_place(self.dir.path(), command).replace(
            "dist/matrix-edge-auth.wasm",
            &module().display().to_string(),
        );
        const TAKEN: &str = "listener_manager.lds.update_success";
        let envoy = &self.running.envoy;
        let taken = envoy.stat(TAKEN).await;
        if wanted.is_empty() {
            let output = self.output(&command).await;
            assert!(output.is_ok(), "{command}: {output:?}");
        } else {
            within_limit(&format!("{command} to print {wanted}"), async {
                let mut before = Ok(String::new());
                loop {
                    let output = self.output(&command).await;
                    if output.as_deref() == Ok(wanted) {
                        return;
                    }
                    if output != before {
                        eprintln!("{command}: {output:?}");
                        before = output;
                    }
                }
            })
            .await;
        }
        if command.ends_with("/deliver") && self.running.is_delivered {
            envoy.wait_for_stat(TAKEN, |now| now > taken).await;
        }
        if command.starts_with("sed ") {
            self.assert_changes_once(&command).await;
        }
    }

    /// Gives a command that changes the folder's file again, as somebody in a hurry does: nothing more changes.
    async fn assert_changes_once(&self, command: &str) {
        let (change, _) = command.split_once(" && ").unwrap_or((command, ""));
        let file = self.dir.path().join("envoy.yaml");
        let text = || fs::read_to_string(&file).expect("it is there");
        let before = text();
        let output = self.output(change).await;
        assert!(output.is_ok(), "{change}: {output:?}");
        let is_same = text() == before;
        assert!(is_same, "{change} changes more when it is given again");
    }

    /// MAS tells the homeserver something, by whatever way.
    async fn tell(&self) {
        self.mas.delete_device("alice", "OTHER");
        self.mas.wait_until_provisioned().await;
    }

    /// The ways back of step 5, and forward again: MAS and Synapse reach each other without Envoy, which goes on.
    async fn go_back_from_the_internal_listeners(&self) {
        let heard = async || {
            let stats = self.running.envoy.stats().await;
            let requests = stats.sum("matrix_edge_auth_provisioning_requests_total", &[]);
            (requests, self.told())
        };
        let (by_envoy, at_homeserver) = heard().await;
        self.mas.set_homeserver(self.homeserver.addr());
        self.tell().await;
        assert_eq!(heard().await, (by_envoy, at_homeserver + 1));
        let directly =
            introspect(&self.token).header("Authorization", format!("Bearer {DEFAULT_SECRET}"));
        assert_active(&http::send(self.mas.addr(), &directly).await, "alice");
        self.ask_until(|seen| identity(seen) == ALICE).await;

        self.mas
            .set_homeserver(self.running.envoy.listener("provisioning"));
        self.tell().await;
        assert_eq!(self.told(), at_homeserver + 2);
        let envoy = &self.running.envoy;
        within_limit("the provisioning role to count", async {
            while heard().await.0 <= by_envoy {}
        })
        .await;
        assert!(!envoy.log().contains("RuntimeError"), "see the log");
    }

    /// How often MAS has told the homeserver something.
    fn told(&self) -> usize {
        let seen = self.homeserver.requests();
        let told = seen
            .iter()
            .filter(|seen| seen.path().starts_with("/_synapse/mas/"));
        told.count()
    }

    /// Asks, as the page does, until the homeserver sees such a request. Envoy's workers take a change one after the other.
    async fn ask_until(&self, wanted: impl Fn(&SeenRequest) -> bool) {
        const ASK: &str = r#"curl -s -f -H "Authorization: Bearer $TOKEN" https://matrix.example.org/_matrix/client/v3/account/whoami"#;
        within_limit("the homeserver to see it", async {
            loop {
                let output = self.output(ASK).await;
                assert!(output.is_ok(), "{output:?}");
                let seen = self.homeserver.requests();
                let last = seen.iter().rfind(|seen| seen.path() == WHOAMI);
                if last.is_some_and(&wanted) {
                    return;
                }
            }
        })
        .await;
    }

    /// Changes the folder's file.
    fn edit(&self, from: &str, to: &str) {
        let path = self.dir.path().join("envoy.yaml");
        let text = fs::read_to_string(&path).expect("it is there");
        assert!(text.contains(from), "{from}");
        fs::write(&path, text.replace(from, to)).expect("a file of our own");
    }

    /// The modes in the folder's file, by their roles.
    fn modes(&self) -> Vec<(String, String)> {
        let text = fs::read_to_string(self.dir.path().join("envoy.yaml")).expect("it is there");
        let mut found = Vec::new();
        collect_modes(&yaml(&text), &mut found);
        found.sort();
        found
    }

    /// What a block of commands has led to, beside what its commands print.
    async fn check(&self, block: &str) {
        let calls = self.mas.calls(&self.token);
        let is_shadow = block.contains(TO_SHADOW);
        if is_shadow || block.contains("mode: enforce") {
            // An introspection role in shadow mode would answer nothing.
            let gateway = if is_shadow { "shadow" } else { "enforce" };
            let expected = [("gateway", gateway), ("introspection", "enforce")];
            let expected = expected.map(|(role, mode)| (role.to_owned(), mode.to_owned()));
            assert_eq!(self.modes(), expected, "{block}");
        }
        if block.contains(OFF) {
            self.ask_until(|seen| identity(seen) == NOBODY).await;
        } else if block.contains("envoy.filters.http.wasm") {
            self.ask_until(|seen| identity(seen) == ALICE).await;
        }
        assert_eq!(self.mas.calls(&self.token), calls, "the cache stays");
    }

    /// Does what the page asks the reader to configure.
    async fn configure(&self, wanted: &Value) {
        let (key, value) = wanted
            .as_object()
            .and_then(|map| map.iter().next())
            .expect("a key");
        let envoy = &self.running.envoy;
        match key.as_str() {
            "hash_policy" => {
                let shipped = read("envoy/production/envoy.yaml");
                let policy = read(PAGE);
                let line = policy
                    .lines()
                    .find(|line| line.contains("header_name"))
                    .expect("one");
                let line = line.trim();
                assert!(shipped.contains(line), "{line}");
                // Back, and forward again. What comes after it in the list is for requests without the header.
                let comment = "# the policy of before";
                for (from, to) in [(line, comment), (comment, line)] {
                    self.edit(from, to);
                    self.run("/etc/envoy/deliver", "").await;
                    self.ask_until(|seen| identity(seen) == ALICE).await;
                }
            }
            "identity_headers" => {
                assert_eq!(*wanted, super::rollout::without_headers());
            }
            "matrix" => {
                let mas = yaml(&read("envoy/compose/mas.yaml"));
                assert_eq!(mas["matrix"]["endpoint"], value["endpoint"]);
                self.mas.set_homeserver(envoy.listener("provisioning"));
                self.tell().await;
            }
            "matrix_authentication_service" => {
                let synapse = yaml(&read("envoy/compose/homeserver.yaml"));
                assert_eq!(synapse[key]["endpoint"], value["endpoint"]);
                let question = introspect(&self.token);
                let answer = http::send(envoy.listener("introspection"), &question).await;
                assert_active(&answer, "alice");
                self.go_back_from_the_internal_listeners().await;
            }
            other => panic!("nothing is done about {other}"),
        }
    }
}

/// A text of the page or of the folder, with this directory for the one that it names.
fn in_place(dir: &Path, text: &str) -> String {
    text.replace("/etc/envoy/", &format!("{}/", dir.display()))
}

/// Collects the roles in a configuration that have a `mode`, with their modes.
fn collect_modes(value: &Value, found: &mut Vec<(String, String)>) {
    match value {
        Value::Object(map) => {
            if let (Some(role), Some(mode)) = (map.get("role"), map.get("mode")) {
                let text = |value: &Value| value.as_str().expect("a word").to_owned();
                found.push((text(role), text(mode)));
            }
            map.values().for_each(|value| collect_modes(value, found));
        }
        Value::Array(list) => list.iter().for_each(|item| collect_modes(item, found)),
        _ => {}
    }
}

/// Takes the module out of a configuration, and its switches out of the routes.
fn remove_module(value: &mut Value) {
    const MODULE: &str = "envoy.filters.http.wasm";
    match value {
        Value::Object(map) => {
            map.remove(MODULE);
            map.values_mut().for_each(remove_module);
        }
        Value::Array(list) => {
            list.retain(|item| item["name"] != MODULE);
            list.iter_mut().for_each(remove_module);
        }
        _ => {}
    }
}

/// Starts an Envoy of the folder, before MAS, the homeserver, and what leads to its own admin interface.
async fn run(mut config: Value, [mas, homeserver, admin]: [SocketAddr; 3]) -> Envoy {
    // The harness brings the same ones.
    config["stats_config"].take();
    config["admin"]["address"]["socket_address"]["port_value"] = 0.into();
    for cluster in bootstrap::clusters(&mut config) {
        let addr = match cluster["name"].as_str() {
            Some("mas" | "mas-for-synapse" | "mas-introspection") => mas,
            Some("admin") => admin,
            _ => homeserver,
        };
        bootstrap::move_cluster(cluster, addr);
    }
    let envoy = Envoy::builder().concurrency(2);
    envoy.bootstrap(move |whole| *whole = config).start().await
}

#[tokio::test]
async fn the_rollout_guide_can_be_followed() {
    let mut site = Site::start().await;
    let mut starts = 0;
    let mut without_module = 0;
    for block in blocks(&read(PAGE)) {
        without_module += usize::from(block.text.contains(OFF));
        match &*block.language {
            "console" => {
                for step in steps(&block.text) {
                    if !step.command.starts_with("matrix-edge-auth ") {
                        site.run(&step.command, &step.output).await;
                    }
                }
                site.check(&block.text).await;
            }
            "yaml" => site.configure(&yaml(&block.text)).await,
            "sh" if block.text == START => {
                site.restart().await;
                starts += 1;
            }
            // `rollout.rs` runs a hot restart. Here Envoy says that it knows the options.
            "sh" if block.text == format!("{START} {NEXT}") => {
                site.run(&format!("{} --mode validate", block.text), "")
                    .await;
                let version = site.output("envoy --hot-restart-version 2>&1").await;
                assert!(version.is_ok_and(|version| !version.is_empty()));
                starts += 1;
            }
            _ => panic!("nothing is done about\n{}", block.text),
        }
    }
    assert_eq!((starts, without_module), (2, 1));
    let envoy = &site.running.envoy;
    assert_eq!(envoy.stat("listener_manager.lds.update_rejected").await, 0);
    assert!(!envoy.log().contains("RuntimeError"), "see the log");
}

/// What the runbook has an operator do while MAS is down: each role keeps answers for longer, and Envoy goes on.
#[tokio::test]
async fn answers_are_kept_for_longer_without_a_restart_as_the_runbook_says() {
    const COMMAND: &str = "sed -i 's/stale_if_error: 10m/stale_if_error: 1h/' /etc/envoy/envoy.yaml && /etc/envoy/deliver";
    let runbook = read("docs/runbook.md");
    let runbook: Vec<&str> = runbook.split_whitespace().collect();
    assert!(runbook.join(" ").contains(COMMAND), "the page says how");
    let mut site = Site::start().await;
    site.run("/etc/envoy/deliver", "").await;
    site.restart().await;
    // It waits until Envoy has taken the listeners.
    site.run(COMMAND, "").await;
    let envoy = &site.running.envoy;
    assert_eq!(envoy.stat("listener_manager.lds.update_rejected").await, 0);
    let written = fs::read_to_string(site.dir.path().join("run/listeners.yaml"));
    let written = yaml(&written.expect("`deliver` wrote it")).to_string();
    let roles = written.matches(r#""stale_if_error":"1h""#).count();
    assert_eq!((roles, written.matches("stale_if_error").count()), (3, 3));
}

/// `deliver` keeps what Envoy would refuse from Envoy, and says what it cannot deliver.
#[tokio::test]
async fn deliver_refuses_what_envoy_refuses() {
    let site = Site::start().await;
    let deliver = in_place(site.dir.path(), "/etc/envoy/deliver");
    assert_eq!(
        site.output(&format!("{deliver} 2>&1")).await.as_deref(),
        Ok("configuration 'envoy.yaml' OK")
    );
    let written =
        || fs::read_to_string(site.dir.path().join("run/listeners.yaml")).expect("it is there");
    let before = written();
    site.edit("mode: enforce", "mode: shadw");
    let refused = site.output(&deliver).await.expect_err("a refusal");
    assert!(refused.contains("configuration refused: mode"), "{refused}");
    assert_eq!(written(), before);
    site.edit("mode: shadw", "mode: shadow");
    site.edit("max_requests: 640", "max_requests: 641");
    let said = site
        .output(&format!("{deliver} 2>&1"))
        .await
        .expect("a success");
    assert!(said.contains("the next start of Envoy"), "{said}");
    assert_ne!(written(), before);
    // What the clusters take from a listener is gone when the file is split.
    let before = written();
    let file = site.dir.path().join("envoy.yaml");
    let text = fs::read_to_string(&file).expect("it is there");
    let (listeners, clusters) = text.split_once("\n  clusters:").expect("both are there");
    let name = "per_connection_buffer_limit_bytes: ";
    let defined = listeners.replacen(name, &format!("{name}&limit "), 1);
    let (before_it, value) = clusters.split_once(name).expect("a limit");
    let (_, after_it) = value.split_once('\n').expect("a line");
    let used = format!("{before_it}{name}*limit\n{after_it}");
    fs::write(&file, format!("{defined}\n  clusters:{used}")).expect("a file of our own");
    let refused = site.output(&deliver).await.expect_err("a refusal");
    assert!(refused.contains("an anchor of the listeners"), "{refused}");
    assert_eq!(written(), before);
}
