//! Envoy's configuration is the same in every form that Envoy takes: as YAML, as JSON, and with a listener's only filter
//! chain as its default one.

mod support;

use std::{collections::BTreeMap, fs};

use serde_json::{Value, json};

use self::support::{program, repository};

/// Folders of the bootstraps that the repository ships.
const SHIPPED: [&str; 5] = ["fleet", "local", "production", "rate-limit", "sync-workers"];

fn yaml(name: &str) -> String {
    let path = repository().join(format!("envoy/{name}/envoy.yaml"));
    fs::read_to_string(path).expect("a file")
}

/// The bootstrap as a value, in which aliases are written out.
fn bootstrap(name: &str) -> Value {
    serde_saphyr::from_str(&yaml(name)).expect("YAML")
}

fn written(value: &Value) -> String {
    serde_json::to_string_pretty(value).expect("JSON")
}

/// Does something with each map in a value.
fn each_map(value: &mut Value, change: &mut impl FnMut(&mut serde_json::Map<String, Value>)) {
    match value {
        Value::Object(members) => {
            change(members);
            for member in members.values_mut() {
                each_map(member, change);
            }
        }
        Value::Array(items) => items.iter_mut().for_each(|item| each_map(item, change)),
        _ => {}
    }
}

/// The listeners, each with its only filter chain as its default one, which has no conditions.
fn with_default_chains(mut bootstrap: Value) -> Value {
    let listeners = bootstrap["static_resources"]["listeners"].as_array_mut();
    let mut moved = 0;
    for listener in listeners.expect("listeners") {
        let members = listener.as_object_mut().expect("a listener");
        let Some(Value::Array(mut chains)) = members.remove("filter_chains") else {
            panic!("a listener without filter chains");
        };
        if chains.len() > 1 || chains[0].get("filter_chain_match").is_some() {
            members.insert("filter_chains".to_owned(), Value::Array(chains));
            continue;
        }
        let chain = chains.remove(0);
        members.insert("default_filter_chain".to_owned(), chain);
        moved += 1;
    }
    assert!(moved > 0, "no listener has one chain");
    bootstrap
}

/// Two traps: one of the plugin, and one of the connection manager that it is in.
fn with_traps(mut bootstrap: Value) -> Value {
    each_map(&mut bootstrap, &mut |members| {
        if let Some(policy) = members.get_mut("failure_policy") {
            *policy = json!("FAIL_OPEN");
        }
        if members.contains_key("http_filters") {
            members.insert("normalize_path".to_owned(), json!(true));
        }
    });
    bootstrap
}

/// How often each rule finds something, and what stands where it does.
fn found(text: &str) -> (i32, BTreeMap<String, usize>, Vec<(String, String)>) {
    let output = program(&["check", "--format", "json", "-"], text);
    let report: Value = serde_json::from_str(&output.stdout).expect("JSON");
    assert_eq!(report["unreadable"], json!([]));
    let lines: Vec<&str> = text.lines().collect();
    let (mut rules, mut places) = (BTreeMap::new(), Vec::new());
    for finding in report["findings"].as_array().expect("a list") {
        let rule = finding["rule"].as_str().expect("a name").to_owned();
        let number = |key: &str| finding[key].as_u64().expect("a number") as usize - 1;
        let rest = lines[number("line")].chars().skip(number("column"));
        *rules.entry(rule.clone()).or_default() += 1;
        places.push((rule, rest.collect()));
    }
    (output.code, rules, places)
}

/// What is told of a bootstrap without a trap. Each use has its failure policy.
fn clean(bootstrap: &Value) -> (usize, String) {
    let number = bootstrap.to_string().matches(r#""failure_policy""#).count();
    let plural = if number == 1 { "" } else { "s" };
    let told = format!("{number} use{plural} of the module, nothing found");
    (number, told)
}

fn told(text: &str) -> String {
    let output = program(&["check", "-"], text);
    assert_eq!(output.code, 0, "{}", output.stdout);
    let first = output
        .stdout
        .lines()
        .find(|line| line.contains(" of the module, "));
    first.expect("how many").to_owned()
}

#[test]
fn a_bootstrap_in_json_is_looked_at_as_one_in_yaml() {
    for name in SHIPPED {
        let value = bootstrap(name);
        let (number, clean) = clean(&value);
        // Spread over lines, and all in one.
        for text in [yaml(name), written(&value), value.to_string()] {
            assert_eq!(told(&text), clean, "{name}");
        }
        let bad = with_traps(value);
        let (code, rules, places) = found(&written(&bad));
        assert_eq!((code, rules.get("fail-open")), (1, Some(&number)), "{name}");
        assert!(
            rules.contains_key("path-normalisation"),
            "{name}: {rules:?}"
        );
        for (rule, place) in places {
            let start = match &*rule {
                "fail-open" => r#""failure_policy": "FAIL_OPEN""#,
                "path-normalisation" => r#""normalize_path": true"#,
                other => panic!("{name}: {other} at {place}"),
            };
            assert!(place.starts_with(start), "{name}: {rule} at {place}");
        }
        let (code, in_one_line, _) = found(&bad.to_string());
        assert_eq!((code, &in_one_line), (1, &rules), "{name}");
    }
}

#[test]
fn a_filter_in_the_default_filter_chain_is_in_its_connection_manager() {
    for name in SHIPPED {
        let (_, clean) = clean(&bootstrap(name));
        let moved = with_default_chains(bootstrap(name));
        assert_eq!(told(&written(&moved)), clean, "{name}");
        let (_, expected, _) = found(&written(&with_traps(bootstrap(name))));
        let (code, rules, _) = found(&written(&with_traps(moved)));
        assert_eq!((code, &rules), (1, &expected), "{name}");
    }
}
