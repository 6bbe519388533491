//! The reader and the schema accept the same configurations, save for the rules in [`BEYOND_A_SCHEMA`].

use std::collections::BTreeSet;

use jsonschema::Validator;
use proptest::{prelude::*, sample::Index};
use serde_json::{Value, json};

use super::{
    every_key,
    reader::{minimal, read, schema},
    values::{texts, values},
};

/// What the reader refuses and a schema cannot tell, by the beginning of the refusal. Two rules more cannot show here:
/// a value in memory has no key twice, and every environment variable of these tests holds a secret.
const BEYOND_A_SCHEMA: [&str; 1] =
    ["identity_headers: takes header names that differ from each other"];

/// Whether both accept a configuration. An error is a disagreement, in words.
fn verdict(schema: &Validator, configuration: &Value) -> Result<bool, String> {
    let read = read(configuration);
    let fault = schema.validate(configuration).err();
    match (read, fault) {
        (Ok(()), None) => Ok(true),
        (Err(_), Some(_)) => Ok(false),
        (Err(refusal), None) if BEYOND_A_SCHEMA.iter().any(|it| refusal.starts_with(it)) => {
            Ok(false)
        }
        (Err(refusal), None) => Err(format!(
            "only the reader refuses {configuration}\n  {refusal}"
        )),
        (Ok(()), Some(fault)) => Err(format!(
            "only the schema refuses {configuration}\n  {}: {fault}",
            fault.instance_path()
        )),
    }
}

/// Configurations in which every key of the table stands, and every alternative.
fn whole() -> Vec<Value> {
    let mut introspection = minimal();
    introspection["role"] = json!("introspection");
    introspection["introspection"]["credential"] = json!({"injected": true});
    let mut provisioning = minimal();
    provisioning["role"] = json!("provisioning");
    provisioning["introspection"]["credential"] = json!({"bearer": {"value": "s"}});
    let mut client = minimal();
    client["introspection"]["credential"] =
        json!({"basic": {"client_id": "id", "client_secret": {"env": "MAS_SECRET"}}});
    vec![
        every_key::gateway(),
        introspection,
        provisioning,
        client,
        minimal(),
    ]
}

/// Every place in a value, the whole included, as JSON pointers.
fn places(value: &Value) -> Vec<String> {
    fn collect(value: &Value, at: &str, places: &mut Vec<String>) {
        places.push(at.to_owned());
        match value {
            Value::Object(members) => {
                for (key, member) in members {
                    let key = key.replace('~', "~0").replace('/', "~1");
                    collect(member, &format!("{at}/{key}"), places);
                }
            }
            Value::Array(items) => {
                for (index, item) in items.iter().enumerate() {
                    collect(item, &format!("{at}/{index}"), places);
                }
            }
            _ => {}
        }
    }
    let mut places = Vec::new();
    collect(value, "", &mut places);
    places
}

/// Does something with each key of the schema: its path, in which an item of a list has the name 0, and what is said of it.
fn each_key(schema: &Value, path: &str, act: &mut impl FnMut(&str, &Value)) {
    for (key, value) in schema["properties"].as_object().into_iter().flatten() {
        let path = format!("{path}/{key}");
        act(&path, value);
        each_key(value, &path, act);
    }
    if schema["items"].is_object() {
        each_key(&schema["items"], &format!("{path}/0"), act);
    }
}

/// A key that is in none of the configurations that are changed is compared by nothing.
#[test]
fn every_key_of_the_table_is_in_what_is_changed() {
    let known = |configurations: &[Value]| -> BTreeSet<String> {
        let places = configurations.iter().flat_map(places);
        // Each item of a list has keys of its own.
        let first = places.map(|place| {
            let parts = place.split('/');
            let parts = parts.map(|part| part.parse::<u32>().map_or(part, |_| "0"));
            parts.collect::<Vec<_>>().join("/")
        });
        first.collect()
    };
    let (all, gateway) = (known(&whole()), known(&[every_key::gateway()]));
    let schema: Value = serde_json::from_str(&matrix_edge_auth::config::schema()).unwrap();
    let (mut keys, mut defaults) = (0, 0);
    each_key(&schema, "", &mut |path, said| {
        keys += 1;
        assert!(all.contains(path), "{path} is in no configuration");
        // The gateway has one way to prove who asks.
        let is_alternative = path.starts_with("/introspection/credential/");
        assert!(is_alternative || gateway.contains(path), "{path}");
        if let Some(default) = said.get("default") {
            defaults += 1;
            // The role decides which keys there are.
            let value = every_key::gateway().pointer(path).cloned();
            assert!(path == "/role" || value.as_ref() != Some(default), "{path}");
        }
    });
    assert!(
        keys > 40 && defaults > 15,
        "{keys} keys, {defaults} defaults"
    );
}

#[test]
fn every_value_in_every_place() {
    let values = values();
    let mut seen = BTreeSet::new();
    let (mut accepted, mut refused) = (0, 0);
    for whole in whole() {
        assert_eq!(verdict(schema(), &whole), Ok(true));
        for place in places(&whole) {
            if !seen.insert(place.clone()) {
                continue;
            }
            for value in &values {
                let mut changed = whole.clone();
                *changed.pointer_mut(&place).unwrap() = value.clone();
                match verdict(schema(), &changed).unwrap_or_else(|fault| panic!("{fault}")) {
                    true => accepted += 1,
                    false => refused += 1,
                }
            }
        }
    }
    // Most values fit nowhere, and each place takes some.
    assert!(accepted > 1_000 && refused > 10_000, "{accepted} {refused}");
}

#[test]
fn every_key_absent_unknown_or_under_another_name() {
    let mut names: Vec<String> = Vec::new();
    for whole in whole() {
        for place in places(&whole) {
            let Some((parent, key)) = place.rsplit_once('/') else {
                continue;
            };
            names.push(key.to_owned());
            let mut without = whole.clone();
            if let Some(members) = without.pointer_mut(parent).unwrap().as_object_mut() {
                members.remove(key);
            }
            verdict(schema(), &without).unwrap_or_else(|fault| panic!("{fault}"));
        }
    }
    names.extend(["", "s3cret", "a\nb", "$schema", "__proto__"].map(str::to_owned));
    let mut accepted = 0;
    for whole in whole() {
        for place in places(&whole) {
            for name in &names {
                let mut more = whole.clone();
                let Some(members) = more.pointer_mut(&place).unwrap().as_object_mut() else {
                    break;
                };
                members.entry(name.clone()).or_insert(json!("/"));
                let verdict = verdict(schema(), &more);
                accepted += u32::from(verdict.unwrap_or_else(|fault| panic!("{fault}")));
            }
        }
    }
    assert!(accepted > 100, "{accepted}");
}

/// One change of a configuration.
#[derive(Clone, Debug)]
enum Change {
    Replace(Index, Value),
    Remove(Index),
    Add(Index, String, Value),
    /// Another character at a place of a string, or one more, or one less.
    Edit(Index, Index, Option<char>, bool),
}

fn change() -> impl Strategy<Value = Change> {
    let text = prop_oneof![
        "0{0,3}[0-9]{1,7}(ms|s|m|h|d)",
        r"\[([0-9a-f]{0,5}:){0,8}(:?[0-9a-f]{0,4}|[0-9]{1,3}(\.[0-9]{1,3}){3})\](:[0-9]{0,6})?",
        r"[a-z0-9_.-]{0,12}(:[0-9]{0,6})?",
        "x-[a-z-]{0,6}(forwarded|envoy|host|mas)?-?[a-z]{0,3}",
        "(bearer|Basic|BeArEr)? ?[ -~]{0,8}",
        "/[!-~]{0,12}",
        "[0-9a-f]{63,65}",
        any::<String>(),
        prop::sample::select(texts()),
    ];
    let value = prop_oneof![
        4 => text.prop_map(Value::from),
        1 => any::<f64>().prop_map(|number| json!(number)),
        1 => any::<u32>().prop_map(Value::from),
        2 => prop::sample::select(values()),
    ];
    let at = any::<Index>;
    prop_oneof![
        (at(), value.clone()).prop_map(|(at, value)| Change::Replace(at, value)),
        at().prop_map(Change::Remove),
        (at(), "[a-z_]{1,8}", value).prop_map(|(at, key, value)| Change::Add(at, key, value)),
        (
            at(),
            at(),
            proptest::option::of(any::<char>()),
            any::<bool>()
        )
            .prop_map(|(at, place, new, removes)| Change::Edit(at, place, new, removes)),
    ]
}

fn apply(configuration: &mut Value, change: Change) {
    let places = places(configuration);
    match change {
        Change::Replace(at, value) => {
            *configuration
                .pointer_mut(at.get::<String>(&places))
                .unwrap() = value;
        }
        Change::Remove(at) => {
            let Some((parent, key)) = at.get::<String>(&places).rsplit_once('/') else {
                return;
            };
            match configuration.pointer_mut(parent).unwrap() {
                Value::Object(members) => drop(members.remove(key)),
                Value::Array(items) => drop(items.remove(key.parse().unwrap())),
                _ => {}
            }
        }
        Change::Add(at, key, value) => match configuration
            .pointer_mut(at.get::<String>(&places))
            .unwrap()
        {
            Value::Object(members) => drop(members.insert(key, value)),
            Value::Array(items) => items.push(value),
            _ => {}
        },
        Change::Edit(at, place, new, removes) => {
            let texts: Vec<&String> = places
                .iter()
                .filter(|place| configuration.pointer(place).unwrap().is_string())
                .collect();
            if texts.is_empty() {
                return;
            }
            let text = configuration
                .pointer_mut(at.get::<&String>(&texts))
                .unwrap();
            let mut characters: Vec<char> = text.as_str().unwrap().chars().collect();
            let place = place.index(characters.len() + 1);
            let end = (place + usize::from(removes)).min(characters.len());
            characters.splice(place..end, new);
            *text = Value::String(characters.into_iter().collect());
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3_000))]

    #[test]
    fn mutated_configurations(whole in prop::sample::select(whole()), changes in prop::collection::vec(change(), 1..5)) {
        let mut changed = whole;
        for change in changes {
            apply(&mut changed, change);
        }
        if let Err(fault) = verdict(schema(), &changed) {
            prop_assert!(false, "{}", fault);
        }
    }
}
