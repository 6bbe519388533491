//! The JSON Schema of the configuration, draft 2020-12, made from the table of keys.
//!
//! The members stand in the order of the table. `serde_json` would sort them, or not, by a feature that any crate of
//! the build can turn on; so the schema is written by a type of its own.

use serde::{Serialize, Serializer};
use serde_json::Value;

use super::{
    key::{Choice, DurationRange, Object, Presence, Row, written},
    pattern, table,
};
use crate::config::Role;

/// Returns the JSON Schema of a plugin configuration, as text.
pub fn schema() -> String {
    let mut members = vec![
        member("$schema", "https://json-schema.org/draft/2020-12/schema"),
        member("title", "Plugin configuration of matrix-edge-auth"),
    ];
    members.extend(object(&table::CONFIGURATION));
    let text = serde_json::to_string_pretty(&Node::Object(members));
    // Nothing in it can fail to be written.
    text.unwrap_or_default() + "\n"
}

/// Returns what a key has where it is absent; `None` if it must be there, or if no one value says it.
pub(super) fn default(row: &Row) -> Option<Value> {
    match row.head().presence {
        Presence::Required | Presence::RequiredByRole | Presence::OneOf => return None,
        Presence::Optional | Presence::Nullable => {}
    }
    let is_nullable = row.head().presence == Presence::Nullable;
    match row {
        Row::Boolean(key) => Some(key.takes.into()),
        Row::Number(key) => Some(key.takes.default.into()),
        Row::Duration(key) => Some(written(key.takes.default).into()),
        Row::Choice(key) => key.takes.first().map(|name| (*name).into()),
        Row::Text(key) => match key.takes.default {
            Some(text) => Some(text.into()),
            None => is_nullable.then_some(Value::Null),
        },
        Row::Object(_) => is_nullable.then_some(Value::Null),
        Row::List(key) => key.takes.may_be_empty.then(|| Value::Array(Vec::new())),
        Row::True(_) => None,
    }
}

/// A part of the schema, with its members in order.
enum Node {
    Value(Value),
    List(Vec<Node>),
    Object(Vec<Member>),
}

type Member = (String, Node);

impl Serialize for Node {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Value(value) => value.serialize(serializer),
            Self::List(items) => serializer.collect_seq(items),
            Self::Object(members) => {
                serializer.collect_map(members.iter().map(|(name, node)| (name, node)))
            }
        }
    }
}

fn member(name: &str, value: impl Into<Value>) -> Member {
    (name.to_owned(), Node::Value(value.into()))
}

fn names(names: &[&str]) -> Node {
    Node::List(
        names
            .iter()
            .map(|name| Node::Value((*name).into()))
            .collect(),
    )
}

fn required(keys: &[&str]) -> Member {
    ("required".to_owned(), names(keys))
}

fn object(object: &Object) -> Vec<Member> {
    let with = |presence: Presence| {
        let rows = object.rows.iter().map(Row::head);
        let rows = rows.filter(move |head| head.presence == presence);
        rows.map(|head| head.name).collect::<Vec<_>>()
    };
    let properties = object.rows.iter();
    let properties = properties.map(|row| (row.head().name.to_owned(), key(row)));
    let mut members = vec![("properties".to_owned(), Node::Object(properties.collect()))];
    let always = with(Presence::Required);
    if !always.is_empty() {
        members.push(required(&always));
    }
    let alternatives = with(Presence::OneOf);
    if !alternatives.is_empty() {
        let one = |name: &&str| Node::Object(vec![required(&[name])]);
        members.push((
            "oneOf".to_owned(),
            Node::List(alternatives.iter().map(one).collect()),
        ));
    }
    let by_role = with(Presence::RequiredByRole);
    if !by_role.is_empty() {
        members.push(("if".to_owned(), Node::Object(needs_no_server())));
        members.push(("else".to_owned(), Node::Object(vec![required(&by_role)])));
    }
    members.push(member("additionalProperties", false));
    members.insert(0, member("type", "object"));
    members
}

/// Matches a configuration of the one role that does not know the homeserver.
fn needs_no_server() -> Vec<Member> {
    let Choice { key, .. } = &table::ROLE;
    let names = key.takes.iter();
    let name = names.copied().find(|name| {
        let role = table::ROLE.read(Some(&Value::from(*name)));
        role == Role::Introspection
    });
    let is_role = vec![member("const", name)];
    let properties = vec![(key.head.name.to_owned(), Node::Object(is_role))];
    vec![
        ("properties".to_owned(), Node::Object(properties)),
        required(&[key.head.name]),
    ]
}

fn key(row: &Row) -> Node {
    let head = row.head();
    let mut members = kind(row);
    if head.presence == Presence::Nullable {
        for (name, node) in &mut members {
            if let ("type", Node::Value(kind)) = (name.as_str(), &mut *node) {
                *node = Node::List(vec![Node::Value(kind.take()), Node::Value("null".into())]);
            }
        }
    }
    if let Some(default) = default(row) {
        members.push(member("default", default));
    }
    let range = match row {
        Row::Duration(key) => {
            let DurationRange { from, to, .. } = key.takes;
            format!(" From \"{}\" to \"{}\".", written(from), written(to))
        }
        _ => String::new(),
    };
    members.insert(
        0,
        member("description", format!("{}{range}", head.sentence)),
    );
    Node::Object(members)
}

fn kind(row: &Row) -> Vec<Member> {
    match row {
        Row::Boolean(_) => vec![member("type", "boolean")],
        Row::True(_) => vec![member("const", true)],
        Row::Number(key) => vec![
            member("type", "integer"),
            member("minimum", key.takes.from),
            member("maximum", key.takes.to),
        ],
        Row::Duration(key) => text(pattern::durations(key.takes), row),
        Row::Choice(key) => vec![("enum".to_owned(), names(key.takes))],
        Row::Text(key) => {
            let form = key.takes.form;
            let mut members = text((form.pattern)(), row);
            if let Some(length) = form.max_length {
                members.push(member("maxLength", length));
            }
            members
        }
        Row::Object(key) => object(key.takes),
        Row::List(list) => {
            let mut members = vec![
                member("type", "array"),
                ("items".to_owned(), key(&list.takes.item)),
            ];
            if !list.takes.may_be_empty {
                members.push(member("minItems", 1));
            }
            members
        }
    }
}

/// A string that matches a pattern. Editors show the message in place of the pattern.
fn text(pattern: String, row: &Row) -> Vec<Member> {
    vec![
        member("type", "string"),
        member("pattern", pattern),
        member("patternErrorMessage", format!("takes {row}")),
    ]
}
