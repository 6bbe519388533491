//! `envoy/compose/compose.yaml` is what docker-compose takes; where there is none it is not looked at, and the output of the
//! layer says so. Continuous integration has one, and fails without it. `envoy/compose/mas.yaml` has no key that MAS does not know, and it ignores those.

use std::{collections::BTreeMap, env, process::Command};

use serde_json::Value;

use super::tools::missing;
use crate::support::{
    envoy::{read, repository, yaml},
    mesh::manifests::document,
};

#[test]
fn docker_compose_takes_it() {
    let Some(compose) = env::var_os("DOCKER_COMPOSE") else {
        return missing("docker-compose (DOCKER_COMPOSE)");
    };
    let config = |more: &[&str]| {
        Command::new(&compose)
            .arg("--file")
            .arg(repository().join("envoy/compose/compose.yaml"))
            .args(more)
            .args(["config", "--quiet"])
            .output()
            .expect("docker-compose")
    };
    let output = config(&[]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");

    // A check that finds nothing might look at nothing.
    let dir = tempfile::tempdir().expect("a temporary directory");
    let wrong = dir.path().join("wrong.yaml");
    let text = r#"{"services": {"envoy": {"imagge": "x"}}}"#;
    std::fs::write(&wrong, text).expect("a directory that can be written");
    let output = config(&["--file", &wrong.display().to_string()]);
    assert!(!output.status.success());
    assert!(String::from_utf8_lossy(&output.stderr).contains("imagge"));
}

/// The keys that MAS knows: see the file.
fn keys_of_mas() -> BTreeMap<String, String> {
    let text = read("tests/manifests/mas_keys.txt");
    let rows = text.lines().filter(|line| !line.starts_with('#'));
    rows.map(|row| {
        let (key, kind) = row.split_once(' ').expect("a key and what it holds");
        (key.to_owned(), kind.trim_start().to_owned())
    })
    .collect()
}

/// What MAS would not take, or not see, of the value at `key`.
fn unknown_to_mas(known: &BTreeMap<String, String>, key: &str, value: &Value) -> Vec<String> {
    match value {
        Value::Object(members) => members
            .iter()
            .flat_map(|(name, value)| {
                let dot = if key.is_empty() { "" } else { "." };
                unknown_to_mas(known, &format!("{key}{dot}{name}"), value)
            })
            .collect(),
        Value::Array(elements) => elements
            .iter()
            .flat_map(|element| unknown_to_mas(known, &format!("{key}[]"), element))
            .collect(),
        value => {
            let is_right = known.get(key).is_some_and(|kind| match &**kind {
                "string" => value.is_string(),
                "boolean" => value.is_boolean(),
                "number" => value.is_number(),
                words => words
                    .strip_prefix("one of ")
                    .is_some_and(|words| words.split(' ').any(|word| *value == word)),
            });
            (!is_right)
                .then(|| format!("{key}: {value}"))
                .into_iter()
                .collect()
        }
    }
}

#[test]
fn mas_knows_every_key_of_its_configuration() {
    let known = keys_of_mas();
    let written = read("envoy/compose/mas.yaml");
    let unknown = |text: &str| unknown_to_mas(&known, "", &yaml(text));
    assert_eq!(unknown(&written), [""; 0]);
    // What MAS cannot do without. All else has a default.
    let mas = document("envoy/compose/mas.yaml");
    for needed in [
        "/http/public_base",
        "/database/uri",
        "/matrix/secret_file",
        "/secrets/encryption_file",
        "/secrets/keys/0/key_file",
    ] {
        assert!(mas.pointer(needed).is_some(), "{needed}");
    }
    // A check that finds nothing might look at nothing.
    for (right, wrong, found) in [
        (
            "secret_file:",
            "secret_path:",
            r#"matrix.secret_path: "/secrets/shared""#,
        ),
        (
            "    - key_file:",
            "    - keyfile:",
            r#"secrets.keys[].keyfile: "/secrets/mas.pem""#,
        ),
        (
            "name: compat",
            "name: compatibility",
            r#"http.listeners[].resources[].name: "compatibility""#,
        ),
        (
            "enabled: true",
            "enabled: 'true'",
            r#"passwords.enabled: "true""#,
        ),
        ("\nemail:", "\nemails:", r#"emails.transport: "blackhole""#),
    ] {
        assert!(written.contains(right), "{right}");
        assert_eq!(unknown(&written.replacen(right, wrong, 1)), [found]);
    }
}
