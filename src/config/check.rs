//! Holds a configuration against the table of keys, and refuses it with one line that names the key.
//!
//! `serde`'s derived errors name neither the path nor the accepted values, and may quote the value, which can be a
//! secret in the wrong place. No line here repeats a value.
//!
//! The non-obvious rule: a missing key is told only if nothing else is wrong. A misspelled key leaves two faults,
//! and what helps is the one that names `sever_name`, not the one that misses `server_name`.

use alloc::{borrow::ToOwned, format, string::String, string::ToString};

use serde_json::{Map, Value};

use super::{
    ConfigError, Role,
    key::{Head, List, Object, Presence, Row, listed},
    members::Members,
    nearest::nearest,
    path::{Path, printable},
    table::{CONFIGURATION, ROLE},
};

/// Checks the whole configuration, as far as the table of keys can tell.
pub(super) fn check(value: &Value) -> Result<(), ConfigError> {
    let Value::Object(members) = value else {
        let object = CONFIGURATION.takes;
        return Err(ConfigError(format!("the configuration takes {object}")));
    };
    let mut check = Check {
        needs_server_name: Members::of(value).choice(&ROLE) != Role::Introspection,
        missing: None,
    };
    check.members(members, &Path::Root, &CONFIGURATION)?;
    check.missing.map_or(Ok(()), Err)
}

/// Refuses the value at a path, and says what it takes instead.
pub(super) fn takes(path: &Path<'_>, what: &str) -> ConfigError {
    ConfigError(format!("{path}: takes {what}"))
}

struct Check {
    /// Whether the role needs the homeserver's name.
    needs_server_name: bool,
    /// The refusal for the first missing key.
    missing: Option<ConfigError>,
}

impl Check {
    fn members(
        &mut self,
        members: &Map<String, Value>,
        path: &Path<'_>,
        object: &Object,
    ) -> Result<(), ConfigError> {
        let is_known = |key: &str| object.rows.iter().any(|row| row.head().name == key);
        if let Some(unknown) = members.keys().find(|key| !is_known(key)) {
            return Err(not_a_key(unknown, path, object));
        }
        self.alternatives(members, path, object)?;
        for row in object.rows {
            let Head { name, presence, .. } = row.head();
            let path = Path::Key(path, name);
            match members.get(*name) {
                Some(Value::Null) if *presence == Presence::Nullable => {}
                Some(value) => self.value(value, &path, row)?,
                None if self.needs(*presence) => {
                    self.lacks(&format!("{path}: is required and takes {row}"));
                }
                None => {}
            }
        }
        Ok(())
    }

    /// Checks that exactly one of the alternatives is there, if the object has any.
    fn alternatives(
        &mut self,
        members: &Map<String, Value>,
        path: &Path<'_>,
        object: &Object,
    ) -> Result<(), ConfigError> {
        let mut alternatives = object
            .rows
            .iter()
            .filter(|row| row.head().presence == Presence::OneOf)
            .map(|row| members.contains_key(row.head().name))
            .peekable();
        if alternatives.peek().is_none() {
            return Ok(());
        }
        match alternatives.filter(|is_given| *is_given).count() {
            0 => self.lacks(&takes(path, object.takes).0),
            1 => {}
            _ => return Err(takes(path, object.takes)),
        }
        Ok(())
    }

    fn value(&mut self, value: &Value, path: &Path<'_>, row: &Row) -> Result<(), ConfigError> {
        let is_accepted = match row {
            Row::Object(key) => match value {
                Value::Object(members) => return self.members(members, path, key.takes),
                _ => false,
            },
            Row::List(key) => match value {
                Value::Array(items) if key.takes.may_be_empty || !items.is_empty() => {
                    return self.items(items, path, &key.takes);
                }
                _ => false,
            },
            Row::Boolean(_) => value.is_boolean(),
            Row::True(_) => *value == Value::Bool(true),
            Row::Number(key) => key.takes.read(value).is_some(),
            Row::Duration(key) => key.takes.read(value).is_some(),
            Row::Choice(key) => value.as_str().is_some_and(|text| key.takes.contains(&text)),
            Row::Text(key) => value.as_str().is_some_and(key.takes.form.accept),
        };
        if is_accepted {
            Ok(())
        } else {
            Err(takes(path, &row.to_string()))
        }
    }

    fn items(&mut self, items: &[Value], path: &Path<'_>, list: &List) -> Result<(), ConfigError> {
        for (index, item) in items.iter().enumerate() {
            self.value(item, &Path::Item(path, index), &list.item)?;
        }
        Ok(())
    }

    fn needs(&self, presence: Presence) -> bool {
        match presence {
            Presence::Required => true,
            Presence::RequiredByRole => self.needs_server_name,
            Presence::Optional | Presence::Nullable | Presence::OneOf => false,
        }
    }

    fn lacks(&mut self, refusal: &str) {
        self.missing
            .get_or_insert_with(|| ConfigError(refusal.to_owned()));
    }
}

fn not_a_key(unknown: &str, path: &Path<'_>, object: &Object) -> ConfigError {
    if object.may_hide_secret {
        return takes(path, object.takes);
    }
    let names = || object.rows.iter().map(|row| row.head().name);
    let shown = printable(unknown);
    let here = nearest(&shown, names()).map(str::to_owned);
    let advice = match here.or_else(|| elsewhere(&shown, &Path::Root, &CONFIGURATION)) {
        Some(meant) => format!("did you mean {meant}?"),
        None => format!("the keys are {}", listed(&mut names())),
    };
    ConfigError(format!(
        "{}: is not a key here; {advice}",
        Path::Key(path, &shown)
    ))
}

/// Returns the path of the first key of this name, in an object at a path or below it.
fn elsewhere(name: &str, path: &Path<'_>, object: &Object) -> Option<String> {
    object.rows.iter().find_map(|row| {
        let path = Path::Key(path, row.head().name);
        if row.head().name == name {
            return Some(path.to_string());
        }
        match row {
            Row::Object(key) => elsewhere(name, &path, key.takes),
            _ => None,
        }
    })
}
