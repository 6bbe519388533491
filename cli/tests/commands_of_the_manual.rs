//! Every command of the manual that stands outside of a block is known: a test runs it, or there is a reason why none does.
//!
//! Commands are what stands between back quotes or in an indented line and begins with a program. The blocks are in
//! `documentation.rs`, the pages below `envoy/` in `tests/support/folder_pages.rs`, and `inline_code.rs` sees that targets,
//! variables and tests that are named are there.

mod support;

#[path = "../../tests/support/folder_pages.rs"]
#[allow(
    dead_code,
    reason = "shared by several test programs, each of which uses a part"
)]
mod folder_pages;

use std::{collections::BTreeSet, fs, path::PathBuf, process::Command};

use self::support::{program, repository};

/// How a command begins. What else is indented is in `NO_COMMAND`.
const PROGRAMS: &[&str] = &[
    "SELECT",
    "cargo",
    "count",
    "curl",
    "date",
    "docker",
    "docker-compose",
    "envoy",
    "func-e",
    "git",
    "grep",
    "jq",
    "kubectl",
    "make",
    "mas-cli",
    "matrix-edge-auth",
    "openssl",
    "printf",
    "promtool",
    "psql",
    "rate",
    "python3",
    "sed",
    "sha256sum",
    "skopeo",
    "sum",
    "synctl",
    "systemctl",
    "up",
];

/// Indented lines that are no commands, by how they begin, and what shows that they are true.
const NO_COMMAND: &[(&str, &str, &str)] = &[
    (
        "docs/operations.md",
        "matrix-edge-auth 0.1.0: role gateway",
        "tests/envoy/metrics.rs",
    ),
    (
        "docs/operations.md",
        "shadow: request 1b0c6f64",
        "tests/envoy/shadow.rs",
    ),
];

/// Who carries a command out.
enum Runner {
    /// This test: it must succeed.
    Here,
    /// The file runs the command as it stands, and has this text of it.
    File(&'static str, &'static str),
    /// Nothing does, for this reason.
    Nothing(&'static str),
}

use Runner::{File, Here, Nothing};

/// Commands that no rule of `known` covers.
const COMMANDS: &[(&str, Runner)] = &[
    (
        "MATRIX_EDGE_AUTH_TOOLCHAIN=distribution make build",
        Nothing(
            "it builds a standard library for minutes; `make lint` runs the tests of scripts/lib/toolchain.sh",
        ),
    ),
    (
        "MAS_URL=https://auth.example.org HOMESERVER_URL=http://127.0.0.1:8008 SERVER_NAME=example.org MAS_SECRET=... make run",
        File("stand-in/src/bin/local/bootstrap.rs", "point_mas_at"),
    ),
    (
        "MAS_SECRET=... func-e run -c envoy/local/envoy.yaml",
        File(
            "tests/support/folder_pages.rs",
            "MAS_SECRET=... func-e run -c envoy/local/envoy.yaml",
        ),
    ),
    (
        "ENVOY=$(cat .tools/envoy) scripts/lib/stall.py target/debug/deps/envoy-... NAME",
        Nothing("it stops every process of a test for minutes"),
    ),
    (
        "SELECT * FROM pg_stat_activity WHERE state <> 'idle'",
        File("tests/workers/runbook.rs", "docs/runbook.md"),
    ),
    (
        "SELECT queue_name, status, count(*) FROM queue_jobs GROUP BY 1, 2",
        File("tests/workers/runbook.rs", "docs/runbook.md"),
    ),
    (
        "UPDATE_DOCUMENTATION=1 KUBECTL=kubectl cargo test -p matrix-edge-auth-cli --test documentation",
        File("cli/tests/documentation.rs", "UPDATE_DOCUMENTATION"),
    ),
    (
        "curl -X POST http://127.0.0.1:9901/healthcheck/fail",
        File("tests/envoy/production.rs", "/healthcheck/fail"),
    ),
    ("date", Here),
    (
        "envoy --mode validate -c FILE",
        File("README.md", "\n$ envoy --mode validate "),
    ),
    (
        "make build && python3 scripts/lib/capabilities.py --write",
        File("tests/envoy/capabilities.rs", "capabilities.py"),
    ),
    (
        "envoy --hot-restart-version",
        File(
            "tests/envoy/rollout_guide.rs",
            "envoy --hot-restart-version",
        ),
    ),
    (
        "kubectl -n NAMESPACE port-forward pod/NAME PORT",
        Nothing("the stand-in for a cluster has no pods that run"),
    ),
    (
        "kubectl -n envoy-gateway-system delete pod NAME",
        Nothing("the stand-in for a cluster has no pods that run"),
    ),
    (
        "kubectl -n matrix rollout undo deployment matrix-edge-auth",
        Nothing("the stand-in for a cluster keeps no versions of a Deployment"),
    ),
    (
        "mas-cli manage issue-compatibility-token USER --yes-i-want-to-grant-synapse-admin-privileges",
        Nothing(NO_MAS),
    ),
    ("mas-cli manage promote-admin USER", Nothing(NO_MAS)),
    (r#"printf %s "$AS_TOKEN" | sha256sum"#, Here),
    ("python3 scripts/lib/layers.py", Here),
    ("python3 scripts/lib/layers.py --files", Here),
    (
        "sed -i '/role: gateway/,/server_name:/s/mode: enforce/mode: shadow/' /etc/envoy/envoy.yaml && /etc/envoy/deliver",
        File(
            "docs/rollout.md",
            "$ sed -i '/role: gateway/,/server_name:/s/mode: enforce/mode: shadow/' /etc/envoy/envoy.yaml\n$ /etc/envoy/deliver\n",
        ),
    ),
    (
        "sed -i 's/stale_if_error: 10m/stale_if_error: 1h/' /etc/envoy/envoy.yaml && /etc/envoy/deliver",
        File("tests/envoy/rollout_guide.rs", "stale_if_error: 1h"),
    ),
    (
        "skopeo copy --preserve-digests oci:dist/oci:0.1.0 docker://registry.example.org/matrix-edge-auth:0.1.0",
        File("scripts/lib/oci_test.py", "--preserve-digests"),
    ),
    (
        "systemctl restart envoy",
        Nothing("it restarts a service of the machine, which the tests have not installed"),
    ),
];

/// Why no command of MAS's is run.
const NO_MAS: &str =
    "there is no MAS on the machine of the tests; `mas-cli manage --help` lists what it can";

/// Targets of make that continuous integration does not run, and what runs the same in its place.
const TARGETS: &[(&str, Runner)] = &[
    ("build", File("scripts/test", "\"$here/build\"")),
    ("chaos", File("scripts/test", "\"$here/chaos\" 60")),
    ("docs", File("tests/schema/documents.rs", "WRITE_DOCS")),
    (
        "fuzz",
        Nothing(
            "it takes a C++ compiler and minutes; `make lint` compiles its targets, and tests/fuzz_seeds.rs runs each from its \
             seeds",
        ),
    ),
    ("parity", File("tests/synapse/parity.rs", "2_000")),
    (
        "run",
        File("stand-in/tests/behaviour/local.rs", "CARGO_BIN_EXE_local"),
    ),
    ("setup", File("scripts/test", "\"$here/setup\"")),
    ("sim", File("tests/scenarios/random.rs", "SCENARIO_SEED")),
];

/// The pages, with their names.
fn pages() -> Vec<(String, String)> {
    let mut paths: Vec<PathBuf> = vec![
        repository().join("README.md"),
        repository().join("SECURITY.md"),
    ];
    for folder in ["docs", "docs/internals"] {
        let entries = fs::read_dir(repository().join(folder)).expect("a folder");
        paths.extend(entries.map(|entry| entry.expect("an entry").path()));
    }
    paths.retain(|path| path.extension().is_some_and(|ending| ending == "md"));
    paths.sort();
    let named = paths.into_iter().map(|path| {
        let name = path.strip_prefix(repository()).expect("it is below");
        let text = fs::read_to_string(&path).expect("a page");
        (name.display().to_string(), text)
    });
    named.collect()
}

/// The parts of a page that are in no block.
fn prose(page: &str) -> Vec<&str> {
    page.split("\n```").step_by(2).collect()
}

/// A command without the variables before it: `SEEDS=1`, `VARIANTS="a b"`, `ENVOY=$(cat file)`.
fn without_variables(mut command: &str) -> &str {
    loop {
        let Some((name, value)) = command.split_once('=') else {
            return command;
        };
        if name.is_empty() || !name.chars().all(|c| c.is_ascii_uppercase() || c == '_') {
            return command;
        }
        let end = match value.chars().next() {
            Some('"') => value
                .get(1..)
                .and_then(|rest| rest.find('"'))
                .map(|at| at + 2),
            Some('$') => value.find(')').map(|at| at + 1),
            _ => value.find(' '),
        };
        let Some(rest) = end.and_then(|end| value.get(end..)) else {
            return "";
        };
        command = rest.trim_start();
    }
}

/// Whether a text begins with a program, after variables for it.
fn is_command(text: &str) -> bool {
    let command = without_variables(text);
    let first = command.split([' ', '{', '(']).next().unwrap_or_default();
    let is_alone = !text.contains([' ', '{', '(']);
    PROGRAMS.contains(&first) && (!is_alone || text == "date")
        || first.starts_with("scripts/lib/") && !is_alone
}

/// The indented lines of a page, without the explanation that follows some. A line that is indented further goes on.
fn indented(page: &str) -> Vec<String> {
    let mut found: Vec<String> = Vec::new();
    for part in prose(page) {
        let mut before = "";
        for line in part.lines() {
            if let Some(text) = line.strip_prefix("    ") {
                let goes_on = text.starts_with(' ') && before.starts_with("    ");
                match found.last_mut().filter(|_| goes_on) {
                    Some(last) => {
                        last.push(' ');
                        last.push_str(text.trim());
                    }
                    None => found.push(text.split("  ").next().unwrap_or_default().to_owned()),
                }
            }
            before = line;
        }
    }
    found
}

/// What stands between back quotes, also over two lines.
fn quoted(page: &str) -> Vec<String> {
    let paragraphs = prose(page).into_iter().flat_map(|part| part.split("\n\n"));
    paragraphs
        .flat_map(|paragraph| {
            let quoted = paragraph.split('`').skip(1).step_by(2);
            quoted.map(|text| {
                text.split_whitespace()
                    .collect::<Vec<_>>()
                    .join(" ")
                    .replace("\\|", "|")
            })
        })
        .collect()
}

fn read(path: &str) -> String {
    fs::read_to_string(repository().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// Whether a rule says who runs the command: a test that takes all of a kind from the page.
fn known(page: &str, command: &str) -> bool {
    let words: Vec<&str> = without_variables(command).split(' ').collect();
    match words.as_slice() {
        // `tests/ops/live.rs` asks a Prometheus each expression of these two pages.
        [first, ..]
            if ["sum", "count", "rate", "up"]
                .iter()
                .any(|it| first.starts_with(it)) =>
        {
            ["docs/operations.md", "docs/runbook.md"].contains(&page)
                && read("tests/ops/live.rs").contains(page)
        }
        // `tests/envoy/runbook.rs` runs each of the runbook.
        ["curl" | "grep", ..] => page == "docs/runbook.md",
        ["make", target, ..] => {
            let ci = read(".ci/run");
            ci.contains(&format!("make {target}\n"))
                || ci.contains(&format!("make {target} "))
                || TARGETS.iter().any(|(name, _)| name == target)
        }
        // Each is a test itself, which `make test` or one of its layers runs.
        ["cargo", "test", ..] => true,
        ["cargo", "install", "--path", "cli"] => page == "docs/cli.md",
        ["cargo", "deny", ..] => read("scripts/lint").contains("deny"),
        // `documentation.rs` runs them.
        ["matrix-edge-auth", subcommand, ..] => {
            page == "docs/cli.md"
                || read("docs/cli.md").contains(&format!("matrix-edge-auth {subcommand}"))
        }
        // `tests/manifests/runbook.rs` runs each patch and each deletion of the runbook.
        ["kubectl", _, _, "patch" | "delete", ..] if page == "docs/runbook.md" => {
            read("tests/manifests/runbook.rs").contains(page)
        }
        ["kubectl", ..] => folder_pages::COMMANDS
            .iter()
            .any(|it| it.text == command && it.runner == folder_pages::Runner::Manifests),
        _ => false,
    }
}

#[test]
fn every_command_of_the_manual_is_run_or_has_a_reason() {
    let (mut seen, mut listed, mut targets) = (0, BTreeSet::new(), BTreeSet::new());
    let mut faults = Vec::new();
    for (name, page) in pages() {
        let mut commands = Vec::new();
        for line in indented(&page) {
            let is_none = NO_COMMAND
                .iter()
                .any(|(page, start, _)| *page == name && line.starts_with(start));
            if !is_none {
                assert!(is_command(&line), "{name}: is this a command? {line}");
                commands.push(line);
            }
        }
        commands.extend(quoted(&page).into_iter().filter(|text| is_command(text)));
        for command in commands {
            seen += 1;
            let mut words = without_variables(&command).split(' ');
            if words.next() == Some("make") {
                targets.extend(words.next().map(str::to_owned));
            }
            if COMMANDS.iter().any(|(text, _)| *text == command) {
                listed.insert(command);
            } else if !known(&name, &command) {
                faults.push(format!("{name}: nothing runs {command}"));
            }
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
    assert!(seen > 150, "{seen} commands");
    // The lists are as short as they can be.
    for (command, _) in COMMANDS {
        assert!(listed.contains(*command), "no page has {command}");
    }
    for (target, _) in TARGETS {
        assert!(targets.contains(*target), "no page has make {target}");
    }
}

#[test]
fn what_is_said_to_run_a_command_is_there() {
    for (command, runner) in COMMANDS.iter().chain(TARGETS) {
        match runner {
            File(path, text) => {
                assert!(read(path).contains(text), "{command}: {path} has no {text}")
            }
            Nothing(reason) => assert!(reason.len() > 20, "{command}"),
            Here => {}
        }
    }
    for (page, start, test) in NO_COMMAND {
        assert!(read(page).contains(start), "{page}: {start}");
        let words = start.split(':').next().unwrap_or_default();
        let words = words.split(" 0.1.0").next().unwrap_or_default();
        assert!(read(test).contains(words), "{test} says nothing of {words}");
    }
}

#[test]
fn what_is_quick_is_run_here() {
    for (command, runner) in COMMANDS {
        if !matches!(runner, Here) {
            continue;
        }
        let done = Command::new("bash")
            .args(["-c", command])
            .env("AS_TOKEN", "abc")
            .current_dir(repository())
            .output()
            .expect("bash starts");
        let said = String::from_utf8_lossy(&done.stdout);
        assert!(done.status.success(), "{command}: {said}");
        if command.contains("sha256sum") {
            let digest = said.split(' ').next().unwrap_or_default();
            let made = program(&["digest"], "abc\n").stdout;
            assert!(made.contains(digest), "{made}");
        }
    }
}

#[test]
fn commands_are_told_from_other_words() {
    for text in [
        "make lint",
        "SEEDS=3 make sim",
        "date",
        "up{job=\"...\"}",
        "scripts/lib/stall.py a",
    ] {
        assert!(is_command(text), "{text}");
    }
    for text in [
        "make",
        "LAYER=\"native core\"",
        "cache.ttl",
        "mode: shadow",
        "up",
        "SELECT",
    ] {
        assert!(!is_command(text), "{text}");
    }
    let page = "Run `make\nlint` and:\n\n    sum by (a)\n      / b\n    make sim     explains\n\n```\n    make x\n```\n";
    assert_eq!(indented(page), ["sum by (a) / b", "make sim"]);
    assert_eq!(quoted(page), ["make lint"]);
}
