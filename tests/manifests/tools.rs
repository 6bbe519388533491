//! The programs that the tests run.

use std::{
    env,
    io::Write,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use serde_json::Value;

use crate::support::envoy::repository;

/// What kustomize builds of a folder of the repository.
pub fn kustomize(folder: &Path) -> Vec<Value> {
    let kubectl = env::var_os("KUBECTL").unwrap_or_else(|| "kubectl".into());
    let output = Command::new(kubectl)
        .arg("kustomize")
        .arg(folder)
        .output()
        .expect("kubectl; run `make setup`, or set KUBECTL");
    serde_saphyr::from_multiple(&succeeded(&output)).expect("kustomize writes YAML")
}

/// The output of a script of this folder, which gets `input`.
pub fn python(script: &str, arguments: &[&str], input: &str) -> String {
    let own = repository().join(".venv/bin/python");
    let python = env::var_os("PYTHON").map_or(own, PathBuf::from);
    let mut child = Command::new(python)
        .arg("-B")
        .arg(repository().join("tests/manifests").join(script))
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the Python of .venv; run `make setup`");
    child
        .stdin
        .take()
        .expect("is piped")
        .write_all(input.as_bytes())
        .expect("the script reads its input");
    succeeded(&child.wait_with_output().expect("the script runs"))
}

/// Says that a test looks at less than it might, since this part is not on the machine. Continuous integration has every part, so
/// there the test fails.
pub fn missing(part: &str) {
    let said = format!("{part}: not here, so this test looks at less than it might");
    let is_integration = env::var_os("CI").is_some_and(|value| value == "true");
    assert!(!is_integration, "{said}");
    eprintln!("{said}");
}

fn succeeded(output: &Output) -> String {
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}
