//! `docs/runbook.md` is true: each command that it gives shows something, beside an Envoy that has seen what the command
//! looks for. Which alert leads to which section is in the layer `ops`.

use std::{fs, path::Path, process::Command};

use serde_json::{Value, json};
use stand_in::mas::{DEFAULT_SECRET, Fault, Options};

use super::{
    capabilities,
    edge::{Edge, WHOAMI, new_token, plugin},
    introspection::start_with_injected,
    pages::outcome,
    production,
};
use crate::support::{
    envoy::{read, yaml},
    http::{Request, within_limit},
};

const PAGE: &str = "docs/runbook.md";

/// Those that need what no test beside a single Envoy has, and what shows that they are right.
const ELSEWHERE: &[(&str, &str)] = &[
    (
        "grep -A8 -E 'RuntimeError|wasm log.*panic at|Function: proxy_' envoy.log",
        "tests/chaos/trap.rs",
    ),
    (
        "grep 'introspection.credential differs' envoy.log",
        "tests/envoy/provisioning.rs",
    ),
    (
        "grep -E 'configuration refused|failed to load' envoy.log | tail -3",
        "tests/envoy/configuration.rs",
    ),
    (
        "curl -s $ADMIN/stats | grep -E 'lds.update_(failure|rejected)'",
        "tests/envoy/rollout_guide.rs, with the third step",
    ),
    (MISSING_LABEL, "below"),
];

/// What prints the name of a metric with the value of a label in it.
const MISSING_LABEL: &str = "curl -s $ADMIN/stats/prometheus | grep -m1 -oE \
     '^matrix_edge_auth_.+_total_(verdict|source|table|result|outcome|answer|reason|secret)_[^ ]*'";

/// The commands of the page: what stands between back quotes and begins with a program.
fn commands(page: &str) -> Vec<String> {
    let quoted = page.split('`').skip(1).step_by(2);
    let commands = quoted.filter(|text| text.starts_with("curl ") || text.starts_with("grep "));
    commands.map(|text| text.replace("\\|", "|")).collect()
}

/// What a command prints in a folder that has the logs.
async fn output(command: &str, folder: &Path, edge: &Edge) -> String {
    let command = command
        .replace("https://MAS/", &format!("http://{}/", edge.mas.addr()))
        .replace("REASON", "not_active")
        .replace("ADDRESS", "127.0.0.1")
        // This Envoy has one cluster for MAS.
        .replace("cluster.mas-introspection.", "cluster.mas.")
        .replace("^mas-introspection::", "^mas::");
    let mut bash = Command::new("bash");
    bash.args(["-c", &command])
        .env("ADMIN", format!("http://{}", edge.envoy.admin()))
        .current_dir(folder);
    let shown = outcome(bash).await.unwrap_or_default();
    // A count of nothing shows nothing.
    let is_count = command.contains("grep -c");
    if is_count && shown.trim() == "0" {
        String::new()
    } else {
        shown
    }
}

/// The access log of the gateway in production in this mode, to which so many inactive tokens came that a line has this text.
async fn access_log(mode: &'static str, text: &str) -> String {
    let site = production::Site::start_with(1, move |config, _| set_mode(config, mode)).await;
    let whoami = |token: &str| Request::get(WHOAMI).bearer(token);
    site.send("gateway", &whoami(&site.token)).await;
    let invented = whoami(&new_token("mat"));
    within_limit("a line of the access log", async {
        // In shadow mode the first request goes on before its verdict is known.
        while !site.envoy.log().contains(text) {
            site.send("gateway", &invented).await;
            // Only another token costs an address more of its budget.
            if mode == "enforce" {
                site.send("gateway", &whoami(&new_token("mat"))).await;
            }
        }
    })
    .await;
    site.envoy.log()
}

/// Sets the mode of every gateway in a configuration.
fn set_mode(value: &mut Value, mode: &str) {
    match value {
        Value::Object(members) => {
            if members.get("role").is_some_and(|role| role == "gateway") {
                members.insert("mode".to_owned(), mode.into());
            }
            members.values_mut().for_each(|value| set_mode(value, mode));
        }
        Value::Array(items) => items.iter_mut().for_each(|value| set_mode(value, mode)),
        _ => {}
    }
}

/// Without an entry of `envoy/stats_tags.yaml` Envoy leaves the label and its value in the name.
#[test]
fn a_label_that_is_missing_shows_in_a_name() {
    assert!(
        commands(&read(PAGE))
            .iter()
            .any(|command| command == MISSING_LABEL)
    );
    let (_, search) = MISSING_LABEL.split_once("| ").expect("a pipe");
    let is_found = |metric: &str| {
        let command = format!("echo '{metric} 1' | {search}");
        let shown = Command::new("bash").args(["-c", &command]).output();
        !shown.expect("bash").stdout.is_empty()
    };
    let tags: Value = yaml(&read("envoy/stats_tags.yaml"));
    let tags = tags["stats_config"]["stats_tags"]
        .as_array()
        .expect("a list")
        .clone();
    assert_eq!(tags.len(), 8);
    for tag in tags {
        let label = tag["tag_name"].as_str().expect("a name");
        assert!(
            is_found(&format!("matrix_edge_auth_requests_total_{label}_active")),
            "{label}"
        );
        let labelled = format!(r#"matrix_edge_auth_requests_total{{{label}="active"}}"#);
        assert!(!is_found(&labelled), "{label}");
    }
    assert!(!is_found("matrix_edge_auth_lease_waits_total{}"));
}

/// Figures of the clients' cluster look healthy whatever becomes of the module's calls.
#[test]
fn the_commands_look_at_the_cluster_of_the_modules_own_calls() {
    let cluster = "mas-introspection";
    for file in ["envoy/local/envoy.yaml", "envoy/production/envoy.yaml"] {
        assert!(
            read(file).contains(&format!("cluster: {cluster}")),
            "{file}"
        );
    }
    let commands = commands(&read(PAGE));
    let named: Vec<&str> = commands
        .iter()
        .flat_map(|command| {
            let of_stats = command.split("cluster.").skip(1);
            let of_clusters = command.split("'^").skip(1);
            let of_clusters = of_clusters
                .filter_map(|rest| rest.split_once("::"))
                .map(|(name, _)| name);
            of_stats
                .filter_map(|rest| rest.split('.').next())
                .chain(of_clusters)
        })
        .collect();
    assert!(named.len() > 8, "{named:?}");
    assert!(named.iter().all(|name| *name == cluster), "{named:?}");
}

#[tokio::test]
async fn every_command_of_the_runbook_shows_what_it_looks_for() {
    let secret = format!("Bearer {DEFAULT_SECRET}");
    let provisioning = plugin(json!({"role": "provisioning"}));
    let introspection = plugin(json!({"role": "introspection"}));
    let (edge, _secret) = start_with_injected(Options::default(), &secret, |builder| {
        builder
            .internal_listener("introspection", introspection, "mas")
            .internal_listener("provisioning", provisioning, "homeserver")
    })
    .await;
    assert_eq!(edge.whoami(&edge.alice()).await.status, 200);
    edge.mas.fault(Fault::status(401, "{}").times(1));
    assert_eq!(edge.whoami(&new_token("mat")).await.status, 503);
    edge.envoy.wait_for_log("MAS answered 401").await;
    // With keys that the page has the reader look for.
    let lost = Edge::start(json!({
        "introspection": {"cluster": "nowhere", "max_in_flight": 40},
        "query_token": "reject",
    }))
    .await;
    assert_eq!(lost.whoami(&new_token("mat")).await.status, 503);
    lost.envoy.wait_for_log("knows no cluster").await;
    let denied = capabilities::start_without("proxy_get_header_map_pairs").await;
    assert_eq!(denied.whoami(&denied.alice()).await.status, 500);
    denied
        .envoy
        .wait_for_log("refused a header operation")
        .await;

    let folder = tempfile::tempdir().expect("a temporary directory");
    let logs = edge.envoy.log() + &lost.envoy.log() + &denied.envoy.log();
    fs::write(folder.path().join("envoy.log"), logs).expect("our own folder");
    let spent = access_log("enforce", "matrix_edge_auth_limit_exceeded").await;
    let access = spent + &access_log("shadow", r#""would_reject":"not_active""#).await;
    fs::write(folder.path().join("access.log"), access).expect("our own folder");

    // The files of a question to MAS, as the page gives them.
    let page = read(PAGE);
    let mut given = page.split("\n```\n").skip(1).step_by(2);
    for name in ["mas-header", "mas-form"] {
        let text = given.next().expect("what the file holds");
        let text = text
            .replace("SECRET", DEFAULT_SECRET)
            .replace("TOKEN", &edge.alice());
        fs::write(folder.path().join(name), text).expect("our own folder");
    }
    let commands = commands(&page);
    assert!(commands.len() > 20, "{commands:?}");
    for command in commands
        .iter()
        .filter(|command| command.contains("mas-form"))
    {
        let answer = output(command, folder.path(), &edge).await;
        assert!(answer.contains(r#""active":true"#), "{command}: {answer}");
    }
    let mut silent = Vec::new();
    for command in &commands {
        let is_elsewhere = ELSEWHERE.iter().any(|(elsewhere, _)| command == elsewhere);
        // Either of the two may have what it looks for.
        if !is_elsewhere
            && output(command, folder.path(), &edge).await.is_empty()
            && output(command, folder.path(), &lost).await.is_empty()
        {
            silent.push(command);
        }
    }
    assert!(silent.is_empty(), "these show nothing: {silent:#?}");
}
