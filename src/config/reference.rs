//! The reference of the configuration: a Markdown table of each object's keys, made from the table of keys.

use core::fmt::Write as _;

use serde_json::Value;

use super::{
    key::{Object, Presence, Row, written},
    schema::default,
    table,
};

/// The keys of one object.
pub struct Reference {
    /// Where the object stands: `cache`, `endpoints[]`; empty for the whole configuration.
    pub path: String,
    /// A Markdown table with a row for each key.
    pub table: String,
}

/// Returns the reference of every object, in the order of the table. An object that stands in two places comes once.
pub fn reference() -> Vec<Reference> {
    let mut objects = Vec::new();
    collect(&table::CONFIGURATION, String::new(), &mut objects);
    let tables = objects.iter();
    tables
        .map(|(path, object)| Reference {
            table: table(object, &objects),
            path: path.clone(),
        })
        .collect()
}

type Objects = Vec<(String, &'static Object)>;

fn collect(object: &'static Object, path: String, objects: &mut Objects) {
    if objects
        .iter()
        .any(|(_, known)| core::ptr::eq(*known, object))
    {
        return;
    }
    objects.push((path.clone(), object));
    for row in object.rows {
        let path = below(&path, row.head().name);
        match row {
            Row::Object(key) => collect(key.takes, path, objects),
            Row::List(key) => {
                if let Row::Object(key) = key.takes.item {
                    collect(key.takes, path + "[]", objects);
                }
            }
            _ => {}
        }
    }
}

fn below(path: &str, name: &str) -> String {
    match path {
        "" => name.to_owned(),
        _ => format!("{path}.{name}"),
    }
}

fn table(object: &Object, objects: &Objects) -> String {
    let mut table = "| key | takes | default | meaning |\n|---|---|---|---|\n".to_owned();
    for row in object.rows {
        let head = row.head();
        let takes = takes(row, objects).replace('|', r"\|");
        let absent = absent(row);
        // Writing to a string cannot fail.
        let _ = writeln!(
            table,
            "| `{}` | {takes} | {absent} | {} |",
            head.name, head.sentence
        );
    }
    table
}

fn takes(row: &Row, objects: &Objects) -> String {
    match row {
        Row::Boolean(_) => "`true` or `false`".to_owned(),
        Row::True(_) => "`true`".to_owned(),
        Row::Number(key) => format!("`{}` to `{}`", key.takes.from, key.takes.to),
        Row::Duration(key) => format!(
            "`{}` to `{}`",
            written(key.takes.from),
            written(key.takes.to)
        ),
        Row::Choice(key) => {
            let names = key.takes.iter().map(|name| format!("`{name}`"));
            names.collect::<Vec<_>>().join(", ")
        }
        Row::Object(key) => link("an object", key.takes, objects),
        Row::List(key) => match key.takes.item {
            Row::Object(item) => link("a list of objects", item.takes, objects),
            _ => key.takes.takes.to_owned(),
        },
        Row::Text(key) => key.takes.form.takes.to_owned(),
    }
}

/// Links to the heading that names the place of an object, as GitHub makes its anchor.
fn link(text: &str, object: &'static Object, objects: &Objects) -> String {
    let path = objects
        .iter()
        .find(|(_, known)| core::ptr::eq(*known, object))
        .map_or("", |(path, _)| path);
    let is_kept = |c: &char| c.is_ascii_alphanumeric() || "_-".contains(*c);
    let anchor: String = path.chars().filter(is_kept).collect();
    format!("[{text}](#{anchor})")
}

/// Returns what the column for the default says.
fn absent(row: &Row) -> String {
    match (row.head().presence, default(row)) {
        (Presence::Required, _) => "required".to_owned(),
        (Presence::RequiredByRole, _) => "required, save for the role `introspection`".to_owned(),
        (Presence::OneOf, _) => "exactly one of these".to_owned(),
        (_, Some(Value::String(text))) => format!("`{text}`"),
        (_, Some(value)) => format!("`{value}`"),
        (_, None) => match row {
            Row::Object(_) => "those of its keys".to_owned(),
            _ => "–".to_owned(),
        },
    }
}
