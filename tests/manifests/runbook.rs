//! `docs/runbook.md`: what stops all rejections on Kubernetes and in meshes. Each command is run by kubectl, before a stand-in
//! for a cluster that has the resources as they enforce.

use serde_json::{Value, json};

use super::{
    cluster::{self, Cluster},
    folder_pages::{checkout, kubectl, resources, run},
};
use crate::support::{envoy::repository, mesh::text};

/// Where each kind of resource has the gateway's mode.
const MODES: [(&str, &str); 3] = [
    ("EnvoyExtensionPolicy", "/spec/wasm/0/config/mode"),
    (
        "EnvoyFilter",
        "/spec/configPatches/0/patch/value/typed_config/config/configuration/value/mode",
    ),
    ("WasmPlugin", "/spec/pluginConfig/mode"),
];

/// The section of the page.
fn section() -> String {
    let page = std::fs::read_to_string(repository().join("docs/runbook.md")).expect("the page");
    let (_, section) = page
        .split_once("\n## Stop all rejections\n")
        .expect("a section");
    section.split("\n## ").next().unwrap_or_default().to_owned()
}

/// Carries out a patch, as the API server would: a list of replacements, or members to merge.
fn patch(object: &mut Value, patch: &Value) {
    match patch {
        Value::Array(steps) => {
            for step in steps {
                assert_eq!(step["op"], "replace", "{step}");
                let place = object.pointer_mut(text(&step["path"]));
                *place.unwrap_or_else(|| panic!("no {}", step["path"])) = step["value"].clone();
            }
        }
        Value::Object(members) => {
            for (name, member) in members {
                match member {
                    Value::Object(_) => self::patch(&mut object[name], member),
                    _ => object[name] = member.clone(),
                }
            }
        }
        _ => panic!("no patch: {patch}"),
    }
}

#[test]
fn each_patch_sets_the_mode_and_nothing_else() {
    let mut known = resources();
    let mut enforcing = Vec::new();
    for resource in &mut known {
        let mode = MODES.iter().find(|(kind, _)| resource["kind"] == *kind);
        let Some(mode) = mode.and_then(|(_, path)| resource.pointer_mut(path)) else {
            continue;
        };
        *mode = json!("enforce");
        enforcing.push(resource.clone());
    }
    assert_eq!(enforcing.len(), MODES.len());
    let dir = checkout();
    let section = section();
    let quoted = section.split('`').skip(1).step_by(2);
    let patches: Vec<&str> = quoted.filter(|text| text.contains(" patch ")).collect();
    assert_eq!(patches.len(), MODES.len());
    let mut seen = Vec::new();
    for command in patches {
        // The API server refuses kubectl's default, a strategic merge, for custom resources.
        assert!(command.contains(" --type "), "{command}");
        let cluster = Cluster::start(&known, &enforcing);
        run(command, &kubectl(&cluster), &dir);
        let sent = cluster.patches();
        let [(path, sent)] = &sent[..] else {
            panic!("{command}: {sent:?}");
        };
        let before = enforcing.iter().find(|it| cluster::path(it) == *path);
        let before = before.unwrap_or_else(|| panic!("{command}: {path}"));
        let mut after = before.clone();
        patch(&mut after, sent);
        let (kind, mode) = MODES
            .iter()
            .find(|(kind, _)| before["kind"] == *kind)
            .expect("one of the kinds");
        assert_eq!(after.pointer(mode), Some(&json!("shadow")), "{command}");
        *after.pointer_mut(mode).expect("it is there") = json!("enforce");
        assert_eq!(&after, before, "{command} changes more");
        seen.push(*kind);
    }
    seen.sort_unstable();
    assert_eq!(seen, MODES.map(|(kind, _)| kind));
}

/// The others are on the pages of the folders, whose test runs them.
#[test]
fn the_others_are_on_the_pages_of_the_folders() {
    let section = section();
    let quoted = section.split('`').skip(1).step_by(2);
    let others: Vec<&str> = quoted
        .filter(|text| text.starts_with("kubectl ") && !text.contains(" patch "))
        .collect();
    assert!(others.len() >= 3, "{others:?}");
    for command in others {
        let pages = super::folder_pages::pages();
        assert!(
            pages.values().flatten().any(|known| *known == command),
            "{command}"
        );
    }
}
