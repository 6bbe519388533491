//! The configurations that the repository ships have no trap.

mod support;

use std::{fs, path::Path};

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
    let mut arguments = vec!["check"];
    arguments.extend(files.iter().map(String::as_str));
    program(&arguments, "")
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
        // For brevity it leaves the list of functions out, which the text below it tells of.
        let output = program(&["check", "--format", "json", "-"], snippet);
        let report: serde_json::Value = serde_json::from_str(&output.stdout).expect("JSON");
        let rules = report["findings"].as_array().expect("a list").iter();
        let other = rules.filter(|finding| finding["rule"] != "capabilities");
        assert_eq!(other.count(), 0, "{}", output.stdout);
        assert_eq!(report["unreadable"], serde_json::json!([]));
    }
}
