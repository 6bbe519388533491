//! What kustomize makes of the shipped overlays has no trap. A trap inside of its ConfigMap is told at the line of the output.
//!
//! Needs kubectl: `make test LAYER=manifests` sees to it.

mod support;

use std::{env, process::Command};

use self::support::{program, repository};

fn kustomize(overlay: &str) -> String {
    let folder = repository().join("envoy/kubernetes/overlays").join(overlay);
    let kubectl = env::var_os("KUBECTL").unwrap_or_else(|| "kubectl".into());
    let output = Command::new(kubectl)
        .arg("kustomize")
        .arg(folder)
        .output()
        .expect("kubectl; run `make setup`, or set KUBECTL");
    assert!(output.status.success(), "{overlay}");
    String::from_utf8(output.stdout).expect("UTF-8")
}

#[test]
fn each_overlay_is_clean() {
    for overlay in ["enforce", "fleet", "shadow"] {
        let output = program(&["check", "-"], kustomize(overlay));
        assert_eq!(output.code, 0, "{overlay}:\n{}", output.stdout);
    }
}

#[test]
fn a_trap_in_the_config_map_is_told_at_its_line() {
    let text = kustomize("enforce");
    let broken = text.replacen(
        "failure_policy: FAIL_RELOAD",
        "failure_policy: FAIL_OPEN",
        1,
    );
    let (before, _) = broken
        .split_once("failure_policy: FAIL_OPEN")
        .expect("it is there");
    let line = before.matches('\n').count() + 1;
    let column = before.len() - before.rfind('\n').expect("a line before");
    let output = program(&["check", "-"], &broken);
    assert_eq!(output.code, 1);
    let place = format!("<standard input>:{line}:{column}\n");
    assert!(
        output.stdout.contains("error[fail-open]"),
        "{}",
        output.stdout
    );
    assert!(output.stdout.contains(&place), "{}", output.stdout);
}
