//! Every rule on files that have its trap, and on files that have none.
//!
//! `tests/rules/RULE/bad*.yaml` have the trap, and `good*.yaml` are clean. In a bad file a comment marks what is found: the
//! caret stands below the first character, and the rule's name follows. Where no comment can stand, `# at LINE:COLUMN RULE`
//! says the same. Two faults at one place have two marks.
//!
//! Where a file says that a plugin may call `proxy_log` alone, the test gives it the functions of envoy/local/envoy.yaml:
//! the list is long, and the module's.

mod support;

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use serde_json::Value;

use self::support::{program, with_needed};

/// Line, column and rule.
type Place = (u64, u64, String);

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/rules")
}

fn rules() -> BTreeSet<String> {
    let list = program(&["check", "--rules"], "");
    assert_eq!(list.code, 0);
    let name = |line: &str| line.split_whitespace().next().map(str::to_owned);
    list.stdout.lines().filter_map(name).collect()
}

/// The files of a rule whose names begin so.
fn files(rule: &str, kind: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder().join(rule)).expect("each rule has a folder");
    let mut files: Vec<PathBuf> = entries
        .map(|entry| entry.expect("a file").path())
        .filter(|path| {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            name.starts_with(kind)
        })
        .collect();
    files.sort();
    files
}

/// What the comments of a file say, in order.
fn marked(text: &str) -> Vec<Place> {
    let mut found = Vec::new();
    let mut line = 0;
    for (index, content) in text.lines().enumerate() {
        let comment = content.trim_start().strip_prefix('#').unwrap_or_default();
        if let Some(rule) = comment.trim_start().strip_prefix("^ ") {
            let column = content.find('^').expect("a caret") as u64 + 1;
            found.push((line, column, rule.to_owned()));
        } else if let Some(place) = comment.strip_prefix(" at ") {
            let (place, rule) = place.split_once(' ').expect("a place and a rule");
            let (line, column) = place.split_once(':').expect("a line and a column");
            let number = |text: &str| text.parse().expect("a number");
            found.push((number(line), number(column), rule.to_owned()));
        } else {
            line = index as u64 + 1;
        }
    }
    found.sort();
    found
}

/// What the program finds in a file whose plugins may call what they need, in order. It says nothing twice.
fn found(file: &Path) -> (i32, Vec<Place>) {
    let folder = tempfile::tempdir().expect("a folder");
    let copy = folder.path().join(file.file_name().expect("a name"));
    let text = fs::read_to_string(file).expect("a file");
    fs::write(&copy, with_needed(&text)).expect("a copy");
    let file = copy.to_str().expect("a name in UTF-8");
    let output = program(&["check", "--format", "json", file], "");
    let report: Value = serde_json::from_str(&output.stdout).expect("JSON");
    assert_eq!(report["unreadable"], Value::Array(Vec::new()), "{file}");
    let place = |finding: &Value| {
        assert_eq!(finding["file"], file);
        for text in ["message", "help", "severity"] {
            let text = finding[text].as_str().expect("a text");
            assert!(!text.is_empty(), "{file}");
        }
        let number = |key: &str| finding[key].as_u64().expect("a number");
        let rule = finding["rule"].as_str().expect("a name").to_owned();
        (number("line"), number("column"), rule)
    };
    let findings = report["findings"].as_array().expect("a list");
    let mut told: Vec<String> = findings.iter().map(Value::to_string).collect();
    told.sort();
    told.dedup();
    assert_eq!(told.len(), findings.len(), "{file}: {}", output.stdout);
    let mut places: Vec<Place> = findings.iter().map(place).collect();
    places.sort();
    (output.code, places)
}

#[test]
fn every_rule_has_a_bad_and_a_good_file() {
    for rule in rules() {
        assert!(!files(&rule, "bad").is_empty(), "{rule}");
        assert!(!files(&rule, "good").is_empty(), "{rule}");
    }
    let folders = fs::read_dir(folder()).expect("the folder of the rules");
    let names = folders.map(|it| {
        it.expect("a folder")
            .file_name()
            .to_string_lossy()
            .into_owned()
    });
    assert_eq!(names.collect::<BTreeSet<_>>(), rules());
}

#[test]
fn each_trap_is_found_at_its_line_and_column_and_nothing_else_is() {
    for rule in rules() {
        for file in files(&rule, "bad") {
            let text = fs::read_to_string(&file).expect("a file");
            let expected = marked(&text);
            let is_own = |place: &Place| place.2 == rule;
            assert!(
                expected.iter().any(is_own),
                "{} marks nothing",
                file.display()
            );
            let (code, found) = found(&file);
            assert_eq!(found, expected, "{}", file.display());
            assert_eq!(code, 1, "{}", file.display());
        }
    }
}

#[test]
fn good_files_are_clean() {
    for rule in rules() {
        for file in files(&rule, "good") {
            let (code, found) = found(&file);
            assert_eq!(found, Vec::new(), "{}", file.display());
            assert_eq!(code, 0, "{}", file.display());
        }
    }
}
