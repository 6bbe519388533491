//! docs/cli.md is true: every command in it is run, and prints what stands there.
//!
//! `UPDATE_DOCUMENTATION=1 cargo test -p matrix-edge-auth-cli --test documentation` writes the outputs anew.

mod support;

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use self::support::repository;

const PAGE: &str = "docs/cli.md";
const BLOCK: &str = "```console\n$ ";

/// Runs a command of the page in the repository's root.
fn output(command: &str) -> String {
    let program = Path::new(env!("CARGO_BIN_EXE_matrix-edge-auth"));
    let folder = program.parent().expect("it is in a folder");
    let others = env::var_os("PATH").unwrap_or_default();
    let path = env::join_paths(
        [folder.to_owned()]
            .into_iter()
            .chain(env::split_paths(&others)),
    );
    let output = Command::new("bash")
        .args(["-c", command])
        .current_dir(repository())
        .env("PATH", path.expect("names of folders"))
        .output()
        .expect("bash starts");
    assert_eq!(String::from_utf8_lossy(&output.stderr), "", "{command}");
    String::from_utf8(output.stdout).expect("UTF-8")
}

/// The command as it is run; `None` if what it needs is not on this machine. The layer `manifests` knows a kubectl that is
/// recent enough.
fn runnable(command: &str) -> Option<String> {
    match command.strip_prefix("kubectl ") {
        None => Some(command.to_owned()),
        Some(rest) => {
            let kubectl = env::var("KUBECTL").ok()?;
            Some(format!("'{kubectl}' {rest}"))
        }
    }
}

/// The page with the outputs of its commands.
fn rewritten(page: &str) -> String {
    let mut parts = page.split(BLOCK);
    let mut text = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let (command, rest) = part.split_once('\n').expect("a command ends its line");
        let (written, rest) = match rest.strip_prefix("```\n") {
            Some(rest) => ("", rest),
            None => rest.split_once("\n```\n").expect("a block ends"),
        };
        let output = match runnable(command) {
            Some(command) => output(&command),
            None => format!("{written}\n"),
        };
        text += &format!("{BLOCK}{command}\n{}\n```\n{rest}", output.trim_end());
    }
    text
}

#[test]
fn every_command_prints_what_the_page_says() {
    fs::create_dir_all(repository().join("target")).expect("target/");
    let path: PathBuf = repository().join(PAGE);
    let page = fs::read_to_string(&path).expect(PAGE);
    let expected = rewritten(&page);
    if env::var_os("UPDATE_DOCUMENTATION").is_some() {
        fs::write(&path, &expected).expect(PAGE);
    }
    let page = fs::read_to_string(&path).expect(PAGE);
    assert!(
        page.matches(BLOCK).count() >= 8,
        "the page has its commands"
    );
    for (written, expected) in page.lines().zip(expected.lines()) {
        assert_eq!(written, expected);
    }
    assert_eq!(page, expected);
}

/// The other commands of that page are run beside an Envoy, by `tests/envoy/rollout_guide.rs`.
#[test]
fn the_check_of_the_rollout_guide_prints_what_it_says() {
    let page = fs::read_to_string(repository().join("docs/rollout.md")).expect("the page");
    let mut lines = page.lines();
    let commands: Vec<(&str, &str)> = std::iter::from_fn(|| {
        let command = lines.find_map(|line| line.strip_prefix("$ matrix-edge-auth "))?;
        Some((command, lines.next().unwrap_or_default()))
    })
    .collect();
    assert_eq!(commands.len(), 1);
    for (command, wanted) in commands {
        let command = command.replace("/etc/envoy/", "envoy/production/");
        assert_eq!(
            output(&format!("matrix-edge-auth {command}")).trim_end(),
            wanted
        );
    }
}
