//! `docs/configuration.schema.json` and `docs/configuration.md` are up to date, and their examples are taken.

use std::{collections::BTreeMap, fs, path::PathBuf};

use matrix_edge_auth::config;
use serde_json::Value;

use super::reader::{minimal, read, schema};

const BEGIN: &str = "<!-- generated: ";
const END: &str = "<!-- end of generated -->";

fn path(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("docs")
        .join(name)
}

fn page() -> String {
    fs::read_to_string(path("configuration.md")).unwrap()
}

/// Compares a file with what it must be, or writes it if `WRITE_DOCS` is set.
fn hold(name: &str, wanted: &str) {
    let path = path(name);
    if std::env::var_os("WRITE_DOCS").is_some() {
        fs::write(path, wanted).unwrap();
        return;
    }
    let found = fs::read_to_string(path).unwrap_or_default();
    assert!(
        found == wanted,
        "docs/{name} is not what the table of keys says; run: make docs"
    );
}

#[test]
fn the_schema_in_docs_is_the_tables() {
    hold("configuration.schema.json", &config::schema());
}

#[test]
fn the_reference_in_docs_is_the_tables() {
    let mut tables: BTreeMap<String, String> = config::reference()
        .into_iter()
        .map(|reference| (reference.path, reference.table))
        .collect();
    let mut wanted = String::new();
    let page = page();
    let mut rest = page.as_str();
    while let Some((before, after)) = rest.split_once(BEGIN) {
        let (path, after) = after.split_once(" -->").unwrap();
        let (_, after) = after.split_once(END).unwrap();
        let key = if path == "(whole)" { "" } else { path };
        let table = tables
            .remove(key)
            .unwrap_or_else(|| panic!("there is no object {path}"));
        wanted += &format!("{before}{BEGIN}{path} -->\n\n{table}\n{END}");
        rest = after;
    }
    wanted += rest;
    assert!(tables.is_empty(), "docs/configuration.md lacks {tables:?}");
    hold("configuration.md", &wanted);
}

#[test]
fn every_link_in_the_reference_leads_to_a_heading() {
    let page = page();
    let anchors: Vec<String> = page
        .lines()
        .filter_map(|line| line.strip_prefix("## "))
        .map(|heading| {
            let kept = heading
                .chars()
                .filter(|c| c.is_ascii_alphanumeric() || "_- ".contains(*c));
            kept.collect::<String>().to_lowercase().replace(' ', "-")
        })
        .collect();
    let links: Vec<&str> = page
        .split("](#")
        .skip(1)
        .map(|after| after.split_once(')').unwrap().0)
        .collect();
    assert!(links.len() >= 8, "{links:?}");
    for link in links {
        assert!(anchors.iter().any(|anchor| anchor == link), "#{link}");
    }
}

#[test]
fn every_example_in_the_reference_is_taken() {
    let page = page();
    let mut count = 0;
    for block in page.split("```yaml\n").skip(1) {
        let (example, _) = block.split_once("```").unwrap();
        let example: Value = serde_saphyr::from_str(example).unwrap();
        // An example shows some keys; the others are those of the smallest configuration.
        let mut whole = minimal();
        let members = whole.as_object_mut().unwrap();
        members.extend(example.as_object().unwrap().clone());
        assert_eq!(read(&whole), Ok(()), "{whole}");
        assert!(schema().is_valid(&whole), "{whole}");
        count += 1;
    }
    assert_eq!(count, 8);
}

/// Configurations from which the fuzzer starts and which are wrong. Each breaks a rule that only the reader knows, or both.
const WRONG: [&str; 4] = [
    "authority-with-scheme.json",
    "header-of-envoy.json",
    "header-of-others.json",
    "secret-with-scheme.json",
];

/// Configurations from which the fuzzer starts.
#[test]
fn configurations_of_the_repository_are_taken_by_both() {
    let seeds = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fuzz/seeds/configuration");
    let mut count = 0;
    for seed in fs::read_dir(seeds).unwrap() {
        let path = seed.unwrap().path();
        if path
            .extension()
            .is_some_and(|extension| extension == "json")
        {
            let json: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
            if WRONG.iter().any(|name| path.ends_with(name)) {
                assert!(read(&json).is_err(), "{}", path.display());
                continue;
            }
            assert_eq!(read(&json), Ok(()), "{}", path.display());
            assert!(schema().is_valid(&json), "{}", path.display());
            count += 1;
        }
    }
    assert!(count >= 3, "{count}");
}
