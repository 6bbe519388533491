//! `envoy/compose/compose.yaml` is what docker-compose takes. Where there is none it is not looked at, and the output of
//! the layer says so.

use std::{env, process::Command};

use crate::support::envoy::repository;

#[test]
fn docker_compose_takes_it() {
    let Some(compose) = env::var_os("DOCKER_COMPOSE") else {
        return;
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
