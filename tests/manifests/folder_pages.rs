//! The commands of the pages below `envoy/` that speak to Kubernetes or Docker. `support/folder_pages.rs` has the list.
//!
//! kubectl is run with each command as it stands, before a stand-in for a cluster that keeps what arrives. docker-compose
//! needs a Docker that runs, which a test cannot ask for: it reads the file, and its help has the options that stand there.

use std::{collections::BTreeMap, env, fs, os::unix::fs::symlink, process::Command};

use serde_json::{Value, json};
use tempfile::TempDir;

use super::{
    cluster::{self, Cluster},
    kubernetes::{OVERLAYS, folder},
    tools::{kustomize, missing},
};
use crate::support::{
    envoy::repository,
    folder_pages::{Runner, commands_of},
    mesh::{elements, manifests, text},
};

/// The ingress gateway, as far as Istio's own charts and this project's patch agree on it.
fn ingress_gateway() -> Value {
    json!({
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "istio-ingressgateway", "namespace": "istio-ingress"},
        "spec": {"template": {
            "metadata": {"labels": {"istio": "ingressgateway"}},
            "spec": {"containers": [
                {"name": "istio-proxy", "image": "auto", "env": [{"name": "POD_NAME", "value": "x"}]},
            ]},
        }},
    })
}

/// Every resource below `envoy/`, as it stands and as kustomize builds it.
pub fn resources() -> Vec<Value> {
    let mut found: Vec<Value> = OVERLAYS
        .iter()
        .chain([&super::fleet::OVERLAY])
        .flat_map(|overlay| kustomize(&folder(overlay)))
        .collect();
    for folder in ["envoy/envoy-gateway", "envoy/istio"] {
        for entry in fs::read_dir(repository().join(folder)).expect("a folder") {
            let name = entry.expect("an entry").file_name();
            let path = format!("{folder}/{}", name.display());
            if path.ends_with(".yaml") {
                found.extend(manifests::file(&path));
            }
        }
    }
    found.retain(|resource| resource["kind"].is_string());
    found
}

/// The reader's folder, which has a checkout.
pub fn checkout() -> TempDir {
    let dir = tempfile::tempdir().expect("a temporary directory");
    symlink(repository().join("envoy"), dir.path().join("envoy")).expect("a link of our own");
    dir
}

/// Runs a command in a folder. Fails with what it says.
pub fn run(command: &str, functions: &str, dir: &TempDir) -> String {
    let output = Command::new("bash")
        .args(["-c", &format!("{functions}\n{command}")])
        .env("HOME", dir.path())
        .env("KUBECONFIG", "/dev/null")
        .env("MAS_SECRET", "a-secret")
        .current_dir(dir.path())
        .output()
        .expect("bash starts");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command}: {said}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// kubectl before a cluster. What it would ask the cluster to check, `schemas.rs` checks. A secret is sent as JSON, which the
/// stand-in reads, and not as protobuf.
pub fn kubectl(cluster: &Cluster) -> String {
    let program = env::var("KUBECTL").unwrap_or_else(|_| "kubectl".to_owned());
    let server = cluster.url();
    format!(
        r#"set -o pipefail
own() {{ command '{program}' --server {server} "$@"; }}
kubectl() {{
  case " $* " in
    *' apply '*) own "$@" --validate=false ;;
    *' create '*) own "$@" --dry-run=client -o json | own create --validate=false -f - ;;
    *) own "$@" ;;
  esac
}}"#
    )
}

/// The commands of each page, in its order.
pub fn pages() -> BTreeMap<&'static str, Vec<&'static str>> {
    let mut pages: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for command in commands_of(Runner::Manifests) {
        pages.entry(command.page).or_default().push(command.text);
    }
    pages
}

/// What a command is to leave in the cluster.
fn expected(command: &str) -> Vec<Value> {
    let words: Vec<&str> = command.split_whitespace().collect();
    let mut found = Vec::new();
    for pair in words.windows(2) {
        match *pair {
            ["-k", folder] => found.extend(kustomize(&repository().join(folder))),
            ["-f", file] => found.extend(manifests::file(file)),
            _ => {}
        }
    }
    found
}

/// All `secretKeyRef` in a value.
fn secrets(value: &Value, found: &mut Vec<(String, String)>) {
    match value {
        Value::Object(map) => {
            let reference = &map.get("secretKeyRef").cloned().unwrap_or_default();
            if reference.is_object() {
                let of = |key: &str| text(&reference[key]).to_owned();
                found.push((of("name"), of("key")));
            }
            map.values().for_each(|value| secrets(value, found));
        }
        Value::Array(list) => list.iter().for_each(|value| secrets(value, found)),
        _ => {}
    }
}

#[test]
fn kubectl_takes_every_command() {
    let known = resources();
    let mut commands = 0;
    for (page, on_page) in pages() {
        let cluster = Cluster::start(&known, &[ingress_gateway()]);
        let dir = checkout();
        let mut readers = Vec::new();
        for command in on_page {
            if !command.contains("kubectl ") {
                continue;
            }
            commands += 1;
            let before = cluster.objects();
            run(command, &kubectl(&cluster), &dir);
            let kept = cluster.objects();
            assert_eq!(
                command.contains(" delete "),
                kept.len() < before.len(),
                "{command}"
            );
            for resource in expected(command) {
                let path = cluster::path(&resource);
                let found = kept
                    .get(&path)
                    .unwrap_or_else(|| panic!("{command}: {path}"));
                assert_eq!(found["spec"], resource["spec"], "{command}: {path}");
                secrets_of(&resource, &mut readers);
            }
        }
        for (path, patch) in cluster.patches() {
            assert_eq!(path, cluster::path(&ingress_gateway()), "{page}");
            let mut found = Vec::new();
            secrets(&patch, &mut found);
            readers.extend(
                found
                    .into_iter()
                    .map(|one| ("istio-ingress".to_owned(), one)),
            );
        }
        // Who reads the secret finds it where the page has put it.
        let kept = cluster.objects();
        for (namespace, (name, key)) in &readers {
            let made = kept.get(&format!("/api/v1/namespaces/{namespace}/secrets/{name}"));
            // The page of the fleet leads to that of Kubernetes, which makes the secret.
            if page != "envoy/fleet/README.md" {
                let made = made.unwrap_or_else(|| panic!("{page}: no {namespace}/{name}"));
                // In base 64, without an end of line, which no credential has.
                assert_eq!(made["data"][key], "YS1zZWNyZXQ=", "{page}: {key}");
            }
        }
        assert!(!readers.is_empty() || page.contains("compose"), "{page}");
    }
    assert!(commands >= 11, "{commands} commands");
}

/// The secrets that a resource reads, with the namespace of the pods that do. Those of an EnvoyProxy run in Envoy Gateway's own,
/// without Gateway Namespace Mode: <https://gateway.envoyproxy.io/docs/tasks/operations/gateway-namespace-mode/>.
fn secrets_of(resource: &Value, readers: &mut Vec<(String, (String, String))>) {
    let mut found = Vec::new();
    secrets(resource, &mut found);
    let namespace = match text(&resource["kind"]) {
        "EnvoyProxy" => "envoy-gateway-system",
        _ => text(&resource["metadata"]["namespace"]),
    };
    readers.extend(found.into_iter().map(|one| (namespace.to_owned(), one)));
}

/// The certificates of the listeners come from Secrets that the reader makes: the page of the folder names each.
#[test]
fn the_pages_of_the_meshes_name_the_secrets_of_their_certificates() {
    for (folder, count) in [("envoy/istio", 1), ("envoy/envoy-gateway", 3)] {
        let page = fs::read_to_string(repository().join(folder).join("README.md"));
        let page = page.expect("a page");
        let mut names = Vec::new();
        for entry in fs::read_dir(repository().join(folder)).expect("a folder") {
            let name = entry.expect("an entry").file_name();
            let path = format!("{folder}/{}", name.display());
            if path.ends_with(".yaml") {
                for resource in manifests::file(&path) {
                    certificates(&resource, &mut names);
                }
            }
        }
        names.sort();
        names.dedup();
        assert_eq!(names.len(), count, "{folder}: {names:?}");
        for name in names {
            assert!(page.contains(&format!("`{name}`")), "{folder}: {name}");
        }
    }
}

/// Collects the names of the Secrets with certificates, as both kinds of Gateway have them.
fn certificates(value: &Value, found: &mut Vec<String>) {
    match value {
        Value::Object(map) => {
            if let Some(name) = map.get("credentialName") {
                found.push(text(name).to_owned());
            }
            let references = map.get("certificateRefs").into_iter().flat_map(elements);
            found.extend(references.map(|one| text(&one["name"]).to_owned()));
            map.values().for_each(|value| certificates(value, found));
        }
        Value::Array(list) => list.iter().for_each(|value| certificates(value, found)),
        _ => {}
    }
}

/// The patch does to the Deployment what it should, by kubectl's own rules for lists.
#[test]
fn the_patch_of_the_ingress_gateway_adds_to_what_is_there() {
    let command = commands_of(Runner::Manifests)
        .map(|command| command.text)
        .find(|text| text.contains(" patch "))
        .expect("a patch");
    assert!(command.starts_with("kubectl "), "{command}");
    let dir = checkout();
    let path = dir.path().join("deployment.json");
    fs::write(&path, ingress_gateway().to_string()).expect("a file of our own");
    let local = command.replace(
        "patch deployment istio-ingressgateway",
        "patch --local -f deployment.json -o json",
    );
    assert_ne!(local, command);
    let program = env::var("KUBECTL").unwrap_or_else(|_| "kubectl".to_owned());
    let printed = run(
        &local,
        &format!("kubectl() {{ '{program}' \"$@\"; }}"),
        &dir,
    );
    let patched: Value = serde_json::from_str(&printed).expect("kubectl prints JSON");
    let template = &patched["spec"]["template"];
    let [container] = elements(&template["spec"]["containers"]) else {
        panic!("one container: {template}");
    };
    assert_eq!(container["image"], "auto");
    let names: Vec<&str> = elements(&container["env"])
        .iter()
        .map(|variable| text(&variable["name"]))
        .collect();
    assert!(
        names.contains(&"MAS_SECRET") && names.contains(&"POD_NAME"),
        "{names:?}"
    );
    // Istio starts Envoy with `warning`.
    let level = &template["metadata"]["annotations"]["sidecar.istio.io/componentLogLevel"];
    assert_eq!(*level, "misc:error,wasm:info");
    // The ConfigMap that it names is the one that the page applies before.
    let bootstrap =
        text(&template["metadata"]["annotations"]["sidecar.istio.io/bootstrapOverride"]);
    let labels = manifests::document("envoy/istio/labels.yaml");
    assert_eq!(labels["metadata"]["name"], bootstrap);
    assert_eq!(labels["metadata"]["namespace"], "istio-ingress");
}

/// Where there is no docker-compose the output of the layer says so, and continuous integration fails.
#[test]
fn docker_compose_has_every_option_and_service() {
    let Some(compose) = env::var_os("DOCKER_COMPOSE") else {
        return missing("docker-compose (DOCKER_COMPOSE)");
    };
    let known = manifests::document("envoy/compose/compose.yaml");
    let mut commands = 0;
    for command in pages()
        .remove("envoy/compose/README.md")
        .unwrap_or_default()
    {
        // What goes before is carried out, in the place of the reader.
        let (before, command) = command.split_once(" && ").unwrap_or(("true", command));
        let words: Vec<&str> = command.split_whitespace().collect();
        let ["docker", "compose", subcommand, arguments @ ..] = &words[..] else {
            panic!("nothing is done about {command}");
        };
        commands += 1;
        let help = Command::new(&compose)
            .args([subcommand, "--help"])
            .output()
            .expect("docker-compose");
        assert!(help.status.success(), "{command}");
        let help = String::from_utf8_lossy(&help.stdout).into_owned();
        let service = arguments.iter().position(|word| !word.starts_with('-'));
        let (options, rest) = arguments.split_at(service.unwrap_or(arguments.len()));
        for option in options {
            assert!(help.contains(option), "{command}: {option}");
        }
        if let Some(service) = rest.first() {
            assert!(known["services"][*service].is_object(), "{command}");
        }
        let config = format!("{before} && {} config --quiet", compose.display());
        let dir = checkout();
        if before != "true" {
            run(&config, ":", &dir);
        }
    }
    assert_eq!(commands, 4);
}
