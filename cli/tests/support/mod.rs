//! Running the program.

#![allow(
    dead_code,
    reason = "shared by several test programs, each of which uses a part"
)]

use std::{
    fs,
    io::Write as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

/// What a run left.
pub struct Output {
    /// The exit code.
    pub code: i32,
    /// What it printed.
    pub stdout: String,
    /// What it complained of.
    pub stderr: String,
}

/// Runs the program in the repository's root, with this on standard input.
pub fn program(arguments: &[&str], input: impl AsRef<[u8]>) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_matrix-edge-auth"))
        .args(arguments)
        .current_dir(repository())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program starts");
    let mut stdin = child.stdin.take().expect("is piped");
    // A program that reads nothing may have ended before.
    let _ = stdin.write_all(input.as_ref());
    drop(stdin);
    let output = child.wait_with_output().expect("the program ends");
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("UTF-8");
    Output {
        code: output.status.code().expect("no signal ends it"),
        stdout: text(&output.stdout),
        stderr: text(&output.stderr),
    }
}

/// The repository's root.
pub fn repository() -> PathBuf {
    let parent = Path::new(env!("CARGO_MANIFEST_DIR")).parent();
    parent.expect("cli/ is in the repository").to_owned()
}

/// A file of `tests/rules` whose plugins may call the functions that the module needs, where it says that they may call one.
pub fn with_needed(text: &str) -> String {
    const FEW: &str = "{ proxy_log: {} }";
    text.replace(FEW, &needed())
}

/// The functions that the module needs, in one line.
fn needed() -> String {
    let path = repository().join("envoy/local/envoy.yaml");
    let text = fs::read_to_string(path).expect("a file");
    let (_, rest) = text.split_once("allowed_capabilities: {").expect("a list");
    let mut depth = 1;
    let end = rest.find(|c| {
        depth += i32::from(c == '{') - i32::from(c == '}');
        depth == 0
    });
    let (list, _) = rest.split_at(end.expect("an end"));
    format!(
        "{{ {} }}",
        list.split_whitespace().collect::<Vec<_>>().join(" ")
    )
}
