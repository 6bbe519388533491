//! `docs/runbook.md`: what stops all rejections on Kubernetes and in meshes, takes the module out, and keeps answers for longer.
//! Each command is run by kubectl, before a stand-in for a cluster that has the resources as they enforce.

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

/// A section of the page.
fn section(title: &str) -> String {
    let page = std::fs::read_to_string(repository().join("docs/runbook.md")).expect("the page");
    let (_, section) = page
        .split_once(&format!("\n## {title}\n"))
        .expect("a section");
    section.split("\n## ").next().unwrap_or_default().to_owned()
}

/// The commands of a section that have this word, each in one line.
fn commands(title: &str, word: &str) -> Vec<String> {
    let section = section(title);
    let quoted = section.split('`').skip(1).step_by(2);
    let commands = quoted.filter(|text| text.starts_with("kubectl ") && text.contains(word));
    commands
        .map(|text| text.split_whitespace().collect::<Vec<_>>().join(" "))
        .collect()
}

/// Every resource, and those that run the module, in this mode.
fn site(wanted: &str) -> (Vec<Value>, Vec<Value>) {
    let mut known = resources();
    let mut running = Vec::new();
    for resource in &mut known {
        let mode = MODES.iter().find(|(kind, _)| resource["kind"] == *kind);
        let Some(mode) = mode.and_then(|(_, path)| resource.pointer_mut(path)) else {
            continue;
        };
        *mode = json!(wanted);
        running.push(resource.clone());
    }
    assert_eq!(running.len(), MODES.len());
    (known, running)
}

/// Runs a patch. Returns what it is about, before and after.
fn patched(command: &str, known: &[Value], running: &[Value]) -> (Value, Value) {
    // The API server refuses kubectl's default, a strategic merge, for custom resources.
    assert!(command.contains(" --type "), "{command}");
    let cluster = Cluster::start(known, running);
    run(command, &kubectl(&cluster), &checkout());
    let sent = cluster.patches();
    let [(path, sent)] = &sent[..] else {
        panic!("{command}: {sent:?}");
    };
    let before = running.iter().find(|it| cluster::path(it) == *path);
    let before = before.unwrap_or_else(|| panic!("{command}: {path}"));
    let mut after = before.clone();
    patch(&mut after, sent);
    (before.clone(), after)
}

/// Carries out a patch, as the API server would: a list of replacements and additions, or members to merge.
fn patch(object: &mut Value, patch: &Value) {
    match patch {
        Value::Array(steps) => {
            for step in steps {
                let path = text(&step["path"]);
                if step["op"] == "add" {
                    let (parent, name) = path.rsplit_once('/').expect("a path");
                    let parent = object.pointer_mut(parent).and_then(Value::as_object_mut);
                    let parent = parent.unwrap_or_else(|| panic!("no {path}"));
                    parent.insert(name.to_owned(), step["value"].clone());
                } else {
                    assert_eq!(step["op"], "replace", "{step}");
                    let place = object.pointer_mut(path);
                    *place.unwrap_or_else(|| panic!("no {path}")) = step["value"].clone();
                }
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
    let (known, enforcing) = site("enforce");
    let patches = commands("Stop all rejections", " patch ");
    assert_eq!(patches.len(), MODES.len());
    let mut seen = Vec::new();
    for command in patches {
        let (before, mut after) = patched(&command, &known, &enforcing);
        let (kind, mode) = MODES
            .iter()
            .find(|(kind, _)| before["kind"] == *kind)
            .expect("one of the kinds");
        assert_eq!(after.pointer(mode), Some(&json!("shadow")), "{command}");
        *after.pointer_mut(mode).expect("it is there") = json!("enforce");
        assert_eq!(after, before, "{command} changes more");
        seen.push(*kind);
    }
    seen.sort_unstable();
    assert_eq!(seen, MODES.map(|(kind, _)| kind));
}

/// In the configuration of each role that asks MAS, and nowhere else.
#[test]
fn each_patch_keeps_answers_for_longer_and_changes_nothing_else() {
    let (known, running) = site("enforce");
    let patches = commands("MatrixEdgeAuthNoVerdict", " patch ");
    assert_eq!(patches.len(), MODES.len());
    let mut seen = Vec::new();
    for command in patches {
        let (before, after) = patched(&command, &known, &running);
        let mut expected = before.clone();
        let roles = ask(&mut expected);
        assert_eq!(after, expected, "{command}");
        seen.push((text(&before["kind"]).to_owned(), roles));
    }
    seen.sort();
    let expected = MODES.map(|(kind, _)| kind.to_owned());
    let roles = [1, 2, 1];
    assert_eq!(seen, expected.into_iter().zip(roles).collect::<Vec<_>>());
}

/// Lets the cache of each role that asks MAS serve for an hour while MAS is down. Returns how many there are.
fn ask(value: &mut Value) -> usize {
    match value {
        Value::Object(map) => {
            let is_one = map.get("role").is_some_and(|role| role != "provisioning");
            if let Some(cache) = map.get_mut("cache").filter(|_| is_one) {
                cache["stale_if_error"] = json!("1h");
            }
            usize::from(is_one) + map.values_mut().map(ask).sum::<usize>()
        }
        Value::Array(list) => list.iter_mut().map(ask).sum(),
        _ => 0,
    }
}

/// What the page deletes is what runs the module, and all else stays.
#[test]
fn each_deletion_takes_the_module_out_and_nothing_else() {
    let (known, running) = site("shadow");
    let deletions = commands("Take the module out", " delete ");
    assert_eq!(deletions.len(), MODES.len());
    let mut gone = Vec::new();
    for command in deletions {
        let cluster = Cluster::start(&known, &running);
        let before = cluster.objects();
        run(&command, &kubectl(&cluster), &checkout());
        let after = cluster.objects();
        let missing: Vec<&String> = before
            .keys()
            .filter(|path| !after.contains_key(*path))
            .collect();
        let [path] = missing[..] else {
            panic!("{command}: {missing:?}");
        };
        assert_eq!(after.len() + 1, before.len(), "{command}");
        gone.push(path.clone());
    }
    gone.sort();
    let mut expected: Vec<String> = running.iter().map(cluster::path).collect();
    expected.sort();
    assert_eq!(gone, expected);
}

/// The others are on the pages of the folders, whose test runs them.
#[test]
fn the_others_are_on_the_pages_of_the_folders() {
    let mut others = commands("Stop all rejections", "");
    others.retain(|command| !command.contains(" patch "));
    assert!(others.len() >= 3, "{others:?}");
    for command in others {
        let pages = super::folder_pages::pages();
        assert!(
            pages.values().flatten().any(|known| *known == command),
            "{command}"
        );
    }
}
