//! The configurations that the repository ships have no trap, and `check` tells every gap in them that is to be filled in.

mod support;

use std::{collections::BTreeSet, fs, path::Path};

use serde_json::Value;

use self::support::{Output, program, repository};

/// The folders of `envoy/`, each one deployment.
const FOLDERS: [&str; 9] = [
    "compose",
    "envoy-gateway",
    "fleet",
    "istio",
    "kubernetes/base",
    "local",
    "production",
    "rate-limit",
    "sync-workers",
];

/// The YAML files of a folder of `envoy/`.
fn files(folder: &str) -> Vec<String> {
    let path = repository().join("envoy").join(folder);
    let entries = fs::read_dir(&path).expect("a folder of envoy/");
    let name = |entry: fs::DirEntry| entry.path().to_str().expect("UTF-8").to_owned();
    let mut files: Vec<String> = entries
        .map(|entry| name(entry.expect("a file")))
        .filter(|name| name.ends_with(".yaml"))
        .collect();
    files.sort();
    files
}

fn check(files: &[String]) -> Output {
    run(&["check"], files)
}

fn run(command: &[&str], files: &[String]) -> Output {
    let mut arguments = command.to_vec();
    arguments.extend(files.iter().map(String::as_str));
    program(&arguments, "")
}

/// Copies of a folder's files, changed so.
fn changed(folder: &str, change: impl Fn(String) -> String) -> (tempfile::TempDir, Vec<String>) {
    let copies = tempfile::tempdir().expect("a folder");
    let mut names = Vec::new();
    for file in files(folder) {
        let text = change(fs::read_to_string(&file).expect("a file"));
        let copy = copies
            .path()
            .join(Path::new(&file).file_name().expect("a name"));
        fs::write(&copy, text).expect("a file of our own");
        names.push(copy.to_str().expect("UTF-8").to_owned());
    }
    (copies, names)
}

/// A place of a file: the file and the line.
type Place = (String, usize);

/// The lines of files that are no comments, and about which this holds.
fn lines(files: &[String], holds: impl Fn(&str) -> bool) -> BTreeSet<Place> {
    let mut found = BTreeSet::new();
    for file in files {
        let text = fs::read_to_string(file).expect("a file");
        for (index, line) in text.lines().enumerate() {
            let value = line.split("# ").next().unwrap_or_default();
            if holds(value) {
                found.insert((file.clone(), index + 1));
            }
        }
    }
    found
}

/// Where something is still to be filled in. Nothing else may be found.
fn placeholders(output: &Output) -> BTreeSet<Place> {
    let report: Value = serde_json::from_str(&output.stdout).expect("JSON");
    let findings = report["findings"].as_array().expect("a list").iter();
    let place = |finding: &Value| {
        assert_eq!(finding["rule"], "placeholder", "{finding}");
        let file = finding["file"].as_str().expect("a name").to_owned();
        let line = finding["line"].as_u64().expect("a number");
        (file, usize::try_from(line).expect("a small number"))
    };
    findings.map(place).collect()
}

/// As they are shipped they are templates. Where the hosts were filled in, each digest and each secret that was not is told.
#[test]
fn a_digest_or_secret_that_was_forgotten_is_told() {
    let is_gap = |line: &str| line.contains("change-me") || line.contains(&"0".repeat(64));
    let mut count = 0;
    for folder in FOLDERS {
        let (_copies, names) = changed(folder, |text| text.replace("example.org", "matrix.test"));
        let expected = lines(&names, is_gap);
        let output = run(&["check", "--format", "json"], &names);
        assert_eq!(placeholders(&output), expected, "{folder}");
        assert_eq!(output.code, i32::from(!expected.is_empty()), "{folder}");
        count += expected.len();
    }
    assert_eq!(
        count, 5,
        "production, kubernetes, istio twice, envoy-gateway"
    );
}

/// Of a configuration in which one host was replaced, every other is told.
#[test]
fn a_host_that_was_forgotten_is_told() {
    let (_copies, names) = changed("production", |text| {
        text.replace("change-me", "s3cret").replacen(
            "authority: auth.example.org",
            "authority: auth.matrix.test",
            1,
        )
    });
    let expected = lines(&names, |line| line.contains("example.org"));
    assert!(expected.len() > 8, "{expected:?}");
    let output = run(&["check", "--format", "json"], &names);
    assert_eq!(placeholders(&output), expected);
}

/// A template says how much is still to be filled in, and a deployment that is whole says nothing of it.
#[test]
fn what_is_to_be_filled_in_is_counted() {
    let shipped = check(&files("production"));
    assert_eq!(shipped.code, 0);
    let lines: Vec<&str> = shipped.stdout.lines().collect();
    assert_eq!(lines[0], "3 uses of the module, nothing found");
    assert!(
        lines[1].starts_with("still to be filled in: 1 secret, "),
        "{lines:?}"
    );
    let (_copies, names) = changed("production", |text| {
        text.replace("example.org", "matrix.test")
            .replace("change-me", "s3cret")
    });
    assert_eq!(
        check(&names).stdout,
        "3 uses of the module, nothing found\n"
    );
}

#[test]
fn each_folder_is_clean() {
    for folder in FOLDERS {
        let output = check(&files(folder));
        assert_eq!(output.code, 0, "{folder}:\n{}", output.stdout);
    }
}

/// Envoy opens the ports of the internal roles to its containers, and only the Compose file says that nobody else reaches
/// them. Alone it is not clean, and the finding says what to add.
#[test]
fn the_envoy_of_compose_is_clean_beside_what_publishes_its_ports() {
    let file = |name: &str| format!("{}/envoy/compose/{name}", repository().display());
    let alone = check(&[file("envoy.yaml")]);
    assert_eq!(alone.code, 1);
    assert_eq!(
        alone.stdout.matches("error[internal-address]").count(),
        2,
        "{}",
        alone.stdout
    );
    assert!(alone.stdout.contains("2 errors, 0 warnings"));
    assert!(
        alone
            .stdout
            .contains("a Compose file that does not publish it")
    );
    let both = check(&[file("envoy.yaml"), file("compose.yaml")]);
    assert_eq!(both.code, 0, "{}", both.stdout);
}

/// The overlay's own Envoy configuration takes the place of the base's.
#[test]
fn the_overlay_for_a_fleet_is_clean() {
    let mut all = files("kubernetes/base");
    all.retain(|file| !file.ends_with("envoy.yaml"));
    all.extend(files("kubernetes/overlays/fleet"));
    let output = check(&all);
    assert_eq!(output.code, 0, "{}", output.stdout);
}

/// The rollout guide: with one Envoy, or with a fleet. The pods of the base tell each other nothing.
#[test]
fn a_longer_ttl_is_for_one_envoy_or_for_a_fleet() {
    let longer = |text: String| text.replace("ttl: 120s", "ttl: 30m");
    for folder in ["compose", "fleet", "local", "production", "rate-limit"] {
        let (_copies, names) = changed(folder, longer);
        let output = check(&names);
        assert!(
            !output.stdout.contains("long-ttl"),
            "{folder}: {}",
            output.stdout
        );
    }

    let (_copies, base) = changed("kubernetes/base", longer);
    let output = check(&base);
    let expected = "warning[long-ttl]: the HorizontalPodAutoscaler lets several Envoys run";
    assert_eq!(output.code, 1, "{}", output.stdout);
    assert_eq!(
        output.stdout.matches(expected).count(),
        1,
        "{}",
        output.stdout
    );

    let without_envoy = base.iter().filter(|file| !file.ends_with("envoy.yaml"));
    let around: Vec<String> = without_envoy.cloned().collect();
    let (_copies, fleet) = changed("kubernetes/overlays/fleet", longer);
    let output = check(&[&*around, &fleet].concat());
    assert_eq!(output.code, 0, "{}", output.stdout);

    let (_copies, fleet) = changed("kubernetes/overlays/fleet", |text| {
        longer(text).replace(
            "timeout: 60s, request_mirror_policies: *every_member",
            "timeout: 60s",
        )
    });
    let output = check(&[&*around, &fleet].concat());
    assert_eq!(
        output.stdout.matches(expected).count(),
        1,
        "{}",
        output.stdout
    );
}

/// Deciding to enforce needs the reason beside the status, for each request; and whoever looks for the cause of a refusal needs
/// that. What a client chose cannot end a line of JSON. Of each manager with the module there is such a log: of each
/// bootstrap, and of the resources for a mesh, of which one makes the log and another the filter state.
#[test]
fn every_access_log_tells_what_the_edge_refused_and_what_enforce_would() {
    const FIELDS: [&str; 6] = [
        "details: \"%RESPONSE_CODE_DETAILS%\"",
        "path: \"%PATH(NQ)%\"",
        "status: \"%RESPONSE_CODE%\"",
        "user: \"%FILTER_STATE(wasm.matrix_user_id:PLAIN)%\"",
        "verdict: \"%FILTER_STATE(wasm.matrix_verdict:PLAIN)%\"",
        "would_reject: \"%FILTER_STATE(wasm.matrix_would_reject:PLAIN)%\"",
    ];
    let logs = |text: &str| {
        text.contains("stream.v3.StdoutAccessLog\n") || text.contains("    accessLog:\n")
    };
    let (mut bootstraps, mut meshes) = (0, 0);
    for folder in FOLDERS.into_iter().chain(["kubernetes/overlays/fleet"]) {
        for file in files(folder) {
            let text = fs::read_to_string(&file).expect("a file");
            let is_bootstrap = text.contains("filters.http.wasm.v3.Wasm\n")
                && text.contains("\nstatic_resources:\n");
            let is_plugin = ["WasmPlugin", "EnvoyExtensionPolicy"]
                .iter()
                .any(|kind| text.contains(&format!("\nkind: {kind}\n")));
            let is_mesh = is_plugin || file.ends_with("istio/envoyfilter.yaml");
            assert_eq!(
                text.contains("filter_state: true"),
                is_bootstrap || is_mesh,
                "{file}"
            );
            assert!(!is_bootstrap || logs(&text), "{file} has no access log");
            if logs(&text) {
                let json = ["json_format:\n", "type: JSON\n            json:\n"];
                assert!(json.iter().any(|json| text.contains(json)), "{file}");
                for wanted in FIELDS {
                    assert!(text.contains(wanted), "{file}: {wanted}");
                }
                bootstraps += usize::from(is_bootstrap);
                meshes += usize::from(!is_bootstrap);
            }
        }
    }
    assert_eq!(
        bootstraps, 9,
        "local, production, compose, fleet, kubernetes twice, rate-limit twice, sync-workers"
    );
    assert_eq!(meshes, 2, "istio, envoy-gateway");
}

#[test]
fn no_folder_is_left_out() {
    let is_listed = |folder: &Path| {
        let folder = folder
            .strip_prefix(repository().join("envoy"))
            .expect("it is below");
        FOLDERS
            .iter()
            .any(|listed| Path::new(listed).starts_with(folder))
    };
    for entry in fs::read_dir(repository().join("envoy")).expect("envoy/ is there") {
        let path = entry.expect("an entry").path();
        assert!(!path.is_dir() || is_listed(&path), "{}", path.display());
    }
}

/// The snippet that a newcomer copies is a whole filter, and the module takes it.
#[test]
fn the_snippets_of_the_readme_are_clean() {
    let readme = fs::read_to_string(repository().join("README.md")).expect("README.md");
    let blocks = readme.split("```yaml\n").skip(1);
    let snippets: Vec<&str> = blocks
        .filter_map(|block| block.split("```").next())
        .filter(|block| block.contains("introspection"))
        .collect();
    assert!(!snippets.is_empty(), "README.md has no configuration");
    for snippet in snippets {
        // For brevity it leaves the list of functions out, which the text above it tells of.
        let output = program(&["check", "--format", "json", "-"], snippet);
        let report: Value = serde_json::from_str(&output.stdout).expect("JSON");
        let rules = report["findings"].as_array().expect("a list").iter();
        let other = rules.filter(|finding| finding["rule"] != "capabilities");
        assert_eq!(other.count(), 0, "{}", output.stdout);
        assert_eq!(report["unreadable"], serde_json::json!([]));
    }
}
