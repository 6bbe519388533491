//! The commands of the pages below `envoy/` that start Envoy, or ask it something. `support/folder_pages.rs` has the list.
//!
//! The non-obvious rule: a command that starts Envoy is run as it stands, on the folder as it stands, and only checks the
//! configuration: the listeners of the folder have fixed ports. That the folder's Envoy serves is what the tests of the
//! folder show.

use std::{
    collections::BTreeSet,
    fs,
    os::unix::fs::PermissionsExt as _,
    path::PathBuf,
    process::{Command, Stdio},
};

use stand_in::mas::{DEFAULT_SECRET, Session};
use tokio::io::AsyncBufReadExt as _;

use super::{
    compose,
    edge::{WHOAMI, identity, new_token},
    pages::outcome,
    rollout_guide,
};
use crate::support::{
    envoy::{module, repository, shipped_at},
    folder_pages::{Runner, commands_of},
    http::{self, within_limit},
    mesh::{manifests, text},
};

/// The pages whose commands this file runs. Each has a test below.
const PAGES: [&str; 7] = [
    "docs/deploy.md",
    "envoy/compose/README.md",
    "envoy/fleet/README.md",
    "envoy/local/README.md",
    "envoy/production/README.md",
    "envoy/rate-limit/README.md",
    "envoy/sync-workers/README.md",
];

/// The commands of a page that are run here.
fn commands(page: &str) -> Vec<&'static str> {
    let all = commands_of(Runner::Envoy).filter(|command| command.page == page);
    let found: Vec<&str> = all.map(|command| command.text).collect();
    assert!(!found.is_empty(), "{page}");
    found
}

#[test]
fn every_page_has_its_test() {
    let pages: BTreeSet<&str> = commands_of(Runner::Envoy)
        .map(|command| command.page)
        .collect();
    assert_eq!(pages, BTreeSet::from(PAGES));
}

/// The Envoy that the tests run.
fn binary() -> PathBuf {
    let chosen = std::env::var_os("ENVOY");
    chosen.map_or_else(|| repository().join(".venv/bin/envoy"), PathBuf::from)
}

/// Runs a command that starts Envoy, in a copy of `envoy/`. Returns what Envoy says of the configuration, or why it fails.
async fn validate(
    command: &str,
    folder: &str,
    edit: impl Fn(&str) -> String,
) -> Result<String, String> {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let mut folders = vec![PathBuf::from("envoy")];
    while let Some(folder) = folders.pop() {
        fs::create_dir(dir.path().join(&folder)).expect("a new directory");
        for entry in fs::read_dir(repository().join(&folder)).expect("a folder") {
            let path = folder.join(entry.expect("an entry").file_name());
            let from = repository().join(&path);
            if from.is_dir() {
                folders.push(path);
            } else if path
                .extension()
                .is_some_and(|extension| extension == "yaml")
            {
                let text = fs::read_to_string(from).expect("a file");
                let text = text.replace(
                    "/etc/envoy/matrix-edge-auth.wasm",
                    &module().display().to_string(),
                );
                fs::write(dir.path().join(path), edit(&text)).expect("a file of our own");
            }
        }
    }
    fs::create_dir(dir.path().join("dist")).expect("a new directory");
    let built = dir.path().join("dist/matrix-edge-auth.wasm");
    fs::copy(module(), built).expect("a file of our own");
    let binary = binary();
    // func-e fetches an Envoy, and passes what follows `run` on to it.
    let functions = format!(
        "envoy() {{ '{}' \"$@\" --mode validate 2>&1; }}; func-e() {{ [ \"$1\" = run ] && shift && envoy \"$@\"; }}",
        binary.display()
    );
    let command = command.replace("MAS_SECRET=...", &format!("MAS_SECRET={DEFAULT_SECRET}"));
    let mut bash = Command::new("bash");
    bash.args(["-c", &format!("{functions}; {command}")])
        .env("MAS_SECRET", "")
        .current_dir(dir.path().join(folder));
    outcome(bash).await
}

/// Checks that every command of a page starts an Envoy, and that one with a wrong configuration would not start.
async fn assert_starts(page: &str, folder: &str) {
    for command in commands(page) {
        let said = validate(command, folder, str::to_owned).await;
        assert!(
            said.as_ref().is_ok_and(|said| said.ends_with(" OK")),
            "{command}: {said:?}"
        );
        let wrong = validate(command, folder, |text| {
            text.replace("server_name:", "server_nam:")
        })
        .await;
        assert!(
            wrong
                .as_ref()
                .is_err_and(|said| said.contains("server_nam:")),
            "{command}: {wrong:?}"
        );
    }
}

#[tokio::test]
async fn the_folders_of_the_overview_start() {
    assert_starts("docs/deploy.md", "").await;
}

#[tokio::test]
async fn the_file_for_one_machine_starts() {
    assert_starts("envoy/local/README.md", "").await;
}

/// `docs/operations.md`: a stricter level hides the module's lines, but for refusals, unless the reader asks for them. Envoy heeds
/// the levels of components only where it serves.
#[tokio::test]
async fn a_stricter_level_hides_the_modules_lines_unless_they_are_asked_for() {
    const START: &str = "MAS_SECRET=... envoy -c envoy/local/envoy.yaml";
    const LINE: &str = "role gateway, mode enforce, server_name example.org";
    for (options, shows) in [("", true), ("--log-level error", false)] {
        let command = format!("{START} {options}");
        let said = validate(&command, "", str::to_owned).await;
        let said = said.expect("the shipped file is right");
        assert_eq!(said.contains(LINE), shows, "{command}: {said}");
        let wrong = |text: &str| text.replace("server_name:", "server_nam:");
        let refused = validate(&command, "", wrong).await;
        let refused = refused.expect_err("a key that nobody knows");
        assert!(
            refused.contains("configuration refused: server_nam:"),
            "{command}: {refused}"
        );
    }

    let page = fs::read_to_string(repository().join("docs/operations.md")).expect("the page");
    let mut quoted = page.split('`');
    let option = quoted.find_map(|text| text.strip_prefix("--component-log-level "));
    assert_shows("error", option.expect("the page says how"), LINE).await;

    // Both meshes start Envoy with `warning`, and their folders say what else.
    let patch = manifests::document("envoy/istio/gateway-deployment.yaml");
    let annotations = &patch["spec"]["template"]["metadata"]["annotations"];
    let levels = text(&annotations["sidecar.istio.io/componentLogLevel"]);
    assert_shows("warning", levels, LINE).await;
    let resources = manifests::file("envoy/envoy-gateway/gateway.yaml");
    let levels = &manifests::the(&resources, "EnvoyProxy")["spec"]["logging"]["level"];
    let mut levels = levels.as_object().expect("levels").clone();
    let default = levels.remove("default").expect("a default");
    let components: Vec<String> = levels
        .iter()
        .map(|(component, level)| format!("{component}:{}", text(level)))
        .collect();
    assert_shows(text(&default), &components.join(","), LINE).await;
}

/// Starts the Envoy of one machine with these levels, and waits for a line of its log.
async fn assert_shows(level: &str, components: &str, wanted: &str) {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let file = dir.path().join("envoy.json");
    let shipped = shipped_at("envoy/local/envoy.yaml", &[]);
    fs::write(&file, shipped.to_string()).expect("a file of our own");
    let mut envoy = tokio::process::Command::new(binary());
    envoy
        .arg("-c")
        .arg(&file)
        .args(["--disable-hot-restart", "--concurrency", "1"])
        .args(["--log-level", level])
        .args(["--component-log-level", components])
        .env("MAS_SECRET", DEFAULT_SECRET)
        .stdin(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    let mut envoy = envoy.spawn().expect("Envoy starts");
    let log = envoy.stderr.take().expect("it is piped");
    let mut lines = tokio::io::BufReader::new(log).lines();
    within_limit("the module's line", async {
        while let Some(line) = lines.next_line().await.expect("text") {
            if line.contains(wanted) {
                return;
            }
        }
        panic!("Envoy ended before: {components}");
    })
    .await;
}

/// Its page says to run it beside the file.
#[tokio::test]
async fn a_member_of_the_fleet_starts() {
    assert_starts("envoy/fleet/README.md", "envoy/fleet").await;
}

#[tokio::test]
async fn the_rate_limits_start() {
    assert_starts("envoy/rate-limit/README.md", "").await;
}

#[tokio::test]
async fn the_sync_workers_start() {
    assert_starts("envoy/sync-workers/README.md", "").await;
}

/// Runs the commands that put the folder in its place, with an empty folder for that place: as the page has them, before there is
/// a module, and again. The secret is closed all the time, and what the reader has changed stays.
fn put(commands: &[&str]) {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let place = dir.path().join("envoy");
    let run = |module: &str| {
        let commands = commands
            .join("\n")
            .replace("/etc/envoy", &place.display().to_string())
            .replace("dist/matrix-edge-auth.wasm", module);
        let done = Command::new("bash")
            .args(["-c", &format!("umask 022\n{commands}")])
            .current_dir(repository())
            .output();
        done.expect("bash starts").status.success()
    };
    assert!(!run("dist/nothing-was-built.wasm"), "there is no module");
    let secret = fs::metadata(place.join("mas-secret.yaml")).expect("the first command's");
    assert_eq!(secret.permissions().mode() & 0o777, 0o600);
    fs::remove_dir_all(&place).expect("a folder of our own");
    let module = module().display().to_string();
    assert!(run(&module), "{commands:?}");
    for name in ["mas-secret.yaml", "envoy.yaml"] {
        fs::write(place.join(name), "changed").expect("a file of our own");
    }
    // Some versions of cp say by their status that a file was there.
    let _ = run(&module);
    for name in ["mas-secret.yaml", "envoy.yaml"] {
        let text = fs::read_to_string(place.join(name)).expect("it is there");
        assert_eq!(text, "changed", "{name}");
    }
    let mode = |name: &str| {
        let metadata = fs::metadata(place.join(name));
        let metadata = metadata.unwrap_or_else(|error| panic!("{name}: {error}"));
        metadata.permissions().mode() & 0o777
    };
    assert_eq!(mode("tls"), 0o755);
    assert_eq!(mode("mas-secret.yaml"), 0o600);
    assert_eq!(mode("deliver") & 0o111, 0o111, "it is a program");
    for name in ["matrix-edge-auth.wasm", "envoy.yaml", "certificate.yaml"] {
        assert_eq!(mode(name) & 0o444, 0o444, "{name}");
    }
}

/// The unit starts what the page starts, as long as systemd allows as many files as the configuration needs. Where there is a
/// systemd, it says whether it understands the unit.
#[test]
fn systemd_runs_production_as_its_page_does() {
    const UNIT: &str = "envoy/production/envoy.service";
    let unit = fs::read_to_string(repository().join(UNIT)).expect("the unit");
    let value = |text: &str, key: &str| -> String {
        let mut lines = text.lines();
        let found = lines.find_map(|line| line.trim().strip_prefix(key));
        found
            .unwrap_or_else(|| panic!("there is no {key}"))
            .to_owned()
    };
    let page = commands("envoy/production/README.md");
    let page = page.iter().find(|command| command.starts_with("envoy "));
    let (page, _) = page
        .and_then(|command| command.split_once(" --parent-shutdown-time-s"))
        .expect("the page starts Envoy");
    let start = value(&unit, "ExecStart=");
    assert_eq!(start, format!("{page} --disable-hot-restart"));
    let production = fs::read_to_string(repository().join("envoy/production/envoy.yaml"));
    let connections = value(
        &production.expect("a file"),
        "max_active_downstream_connections: ",
    );
    let connections: u32 = connections.parse().expect("a number");
    let files: u32 = value(&unit, "LimitNOFILE=").parse().expect("a number");
    assert!(files >= 2 * connections, "{files} for {connections}");

    let options = start.trim_start_matches("envoy ");
    let dir = tempfile::tempdir().expect("a temporary directory");
    let here = dir.path().join("envoy.service");
    let in_place = unit.replace(&start, &format!("{} {options}", binary().display()));
    fs::write(&here, in_place).expect("a file of our own");
    match Command::new("systemd-analyze")
        .arg("verify")
        .arg(&here)
        .output()
    {
        Ok(output) => {
            let said = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success() && said.is_empty(), "{said}");
        }
        Err(error) => eprintln!("nothing verifies the unit: {error}"),
    }
}

/// In the order of the page: put, one process of Synapse, deliver, start, ask. `production.rs` has what the first does.
#[tokio::test]
async fn production_can_be_installed_as_its_page_says() {
    let mut site = rollout_guide::Site::start().await;
    let mut puts = Vec::new();
    for command in commands("envoy/production/README.md") {
        match command.split_whitespace().next() {
            Some("mkdir") => puts.push(command),
            Some("cp") => {
                puts.push(command);
                put(&puts);
            }
            Some("sed" | "/etc/envoy/deliver") => site.run(command, "").await,
            Some("envoy") => {
                site.run(&format!("{command} --mode validate"), "").await;
                site.restart().await;
            }
            Some("curl") => site.run(command, "200").await,
            _ => panic!("nothing is done about {command}"),
        }
    }
}

/// A login, and a request with the token that it gives.
#[tokio::test]
async fn a_user_of_compose_logs_in_and_is_told_to_the_homeserver() {
    let deployed = compose::start().await;
    let token = new_token("mct");
    deployed
        .mas
        .insert(&token, Session::compat("alice", "PHONE"));
    let gateway = deployed.envoy.listener(compose::GATEWAY);
    let curl = async |command: &str| {
        let connect = format!("--silent --connect-to localhost:10000:{gateway}");
        let command = command.replacen("curl", &format!("curl {connect}"), 1);
        let mut bash = Command::new("bash");
        bash.args(["-c", &command]);
        outcome(bash).await.expect("an answer")
    };
    let [login, whoami] = commands("envoy/compose/README.md")[..] else {
        panic!("two commands");
    };
    // The stand-in for MAS has no login. It answers through Envoy what it answers by itself, and the homeserver sees nothing.
    let form = login.split('\'').nth(1).expect("a body");
    let direct = http::Request::post("/_matrix/client/v3/login", "application/json", form);
    let direct = http::send(deployed.mas.addr(), &direct).await;
    assert_eq!(curl(login).await, direct.text().trim_end());
    assert_eq!(deployed.homeserver.count(), 0);
    serde_json::from_str::<serde_json::Value>(form).expect("the body is JSON");

    curl(&whoami.replace("mct_...", &token)).await;
    let seen = deployed.homeserver.requests();
    assert_eq!(seen[0].path(), WHOAMI);
    assert_eq!(
        identity(&seen[0]),
        [["@alice:example.localhost"], ["PHONE"]]
    );
    // Its page: "a token with another last letter ends at Envoy".
    let mut other = token.clone();
    let last = other.pop().expect("a letter");
    other.push(if last == 'a' { 'b' } else { 'a' });
    let refused = curl(&whoami.replace("mct_...", &other)).await;
    assert!(refused.contains("M_UNKNOWN_TOKEN"), "{refused}");
    assert_eq!(deployed.homeserver.count(), 1);
}
