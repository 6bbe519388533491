//! The circuit breakers of MAS's clusters in every configuration that the repository ships let the module make all the calls
//! that it may. What Envoy refuses counts as a failure of MAS, while what is over `max_in_flight` waits its turn.

#![cfg(not(target_arch = "wasm32"))]

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use serde_json::Value;

/// Workers of an Envoy that the shipped limits are meant for.
const WORKERS: u64 = 8;

/// What Envoy allows where a cluster does not say.
const DEFAULT: u64 = 1_024;

/// Istio makes the clusters here, with limits that are as good as none.
const WITHOUT_CLUSTERS: [&str; 1] = ["istio"];

/// `introspection.max_in_flight` where a configuration does not say.
fn default_limit() -> u64 {
    let json = br#"{"role":"introspection","introspection":{"cluster":"mas","credential":{"injected":true}}}"#;
    let config = matrix_edge_auth::config::parse(json, &|_| None).expect("a configuration");
    config.introspection.max_in_flight as u64
}

/// What one folder says, all of its documents together.
#[derive(Default)]
struct Folder {
    /// The calls that a worker may make to a cluster, by the role that asks.
    calls: BTreeMap<String, BTreeMap<String, u64>>,
    clusters: Vec<Value>,
    text: String,
}

impl Folder {
    fn read(folder: &Path) -> Self {
        let mut read = Self::default();
        for entry in fs::read_dir(folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            if path.extension().is_some_and(|it| it == "yaml") {
                let text = fs::read_to_string(&path).expect("text");
                read.walk_text(&text);
                read.text.push_str(&text);
            }
        }
        read
    }

    fn walk_text(&mut self, text: &str) {
        for document in format!("\n{text}").split("\n---") {
            if let Ok(value) = serde_saphyr::from_str::<Value>(document) {
                self.walk(&value);
            }
        }
    }

    fn walk(&mut self, value: &Value) {
        match value {
            // A manifest that carries a part of Envoy's configuration.
            Value::String(text) if text.contains('\n') => self.walk_text(text),
            Value::Array(items) => items.iter().for_each(|item| self.walk(item)),
            Value::Object(object) => {
                self.note_module(value);
                if object.contains_key("load_assignment") {
                    self.clusters.push(value.clone());
                }
                object.values().for_each(|item| self.walk(item));
            }
            _ => {}
        }
    }

    /// Notes what a configuration of the module may ask.
    fn note_module(&mut self, value: &Value) {
        let role = value["role"].as_str().unwrap_or("gateway");
        let asked = &value["introspection"];
        if let Some(cluster) = asked["cluster"].as_str()
            && role != "provisioning"
        {
            let limit = asked["max_in_flight"]
                .as_u64()
                .unwrap_or_else(default_limit);
            // A quarter more about tokens that were active lately.
            let calls = limit + limit.div_ceil(4);
            let by_role = self.calls.entry(cluster.to_owned()).or_default();
            let most = by_role.entry(role.to_owned()).or_default();
            *most = calls.max(*most);
        }
    }
}

/// The folders of `envoy/` that have YAML, at any depth.
fn folders() -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut rest = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("envoy")];
    while let Some(folder) = rest.pop() {
        for entry in fs::read_dir(&folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                found.push(path.clone());
                rest.push(path);
            }
        }
    }
    found
}

#[test]
fn every_shipped_limit_lets_the_module_make_its_calls() {
    let mut compared = BTreeSet::new();
    for path in folders() {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let folder = Folder::read(&path);
        for (cluster, by_role) in &folder.calls {
            let found = folder.clusters.iter().filter(|it| it["name"] == **cluster);
            let mut number = 0;
            for found in found {
                number += 1;
                let needed: u64 = WORKERS * by_role.values().sum::<u64>();
                let limits = &found["circuit_breakers"]["thresholds"][0];
                for key in ["max_connections", "max_requests", "max_pending_requests"] {
                    // HTTP/2 carries many calls on one connection.
                    let is_http2 = found.to_string().contains("http2_protocol_options");
                    if key == "max_connections" && is_http2 {
                        continue;
                    }
                    let limit = limits[key].as_u64().unwrap_or(DEFAULT);
                    assert!(
                        limit >= needed,
                        "{}: {key} of {cluster} is {limit}, and {by_role:?} on {WORKERS} workers need {needed}",
                        path.display()
                    );
                }
                let each = by_role.values().max().expect("a role");
                let sum = format!("here {WORKERS} x {} x {each}", by_role.len());
                // Where each token has a member of its own, Envoy repeats the calls. Elsewhere the module does.
                let is_tier = cluster == "introspection-tier";
                assert!(
                    !is_tier || limits["max_retries"].as_u64() >= Some(256),
                    "{}: {cluster}",
                    path.display()
                );
                assert!(
                    is_tier || folder.text.contains(&sum),
                    "{}: the comment says something else than {sum:?}",
                    path.display()
                );
            }
            let is_exempt = WITHOUT_CLUSTERS.contains(&&*name);
            assert!(number > 0 || is_exempt, "{}: no {cluster}", path.display());
            compared.insert(path.clone());
        }
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("envoy");
    let names: Vec<_> = compared
        .iter()
        .map(|path| path.strip_prefix(&root).expect("below envoy/").display())
        .map(|path| path.to_string())
        .collect();
    assert_eq!(
        names,
        [
            "compose",
            "envoy-gateway",
            "fleet",
            "istio",
            "kubernetes/base",
            "kubernetes/overlays/fleet",
            "local",
            "production",
            "rate-limit",
            "sync-workers",
        ]
    );
}

/// Where a manifest says how many workers there are, there are no more.
#[test]
fn no_manifest_starts_more_workers() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("envoy/kubernetes/base/deployment.yaml");
    let text = fs::read_to_string(path).expect("text");
    let (_, rest) = text.split_once("--concurrency, \"").expect("workers");
    let workers: u64 = rest.split('"').next().unwrap().parse().expect("a number");
    assert!(workers <= WORKERS);
}
