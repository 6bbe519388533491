//! What a key of the configuration takes: its type, its range or choices, its default, and one sentence.
//!
//! The keys themselves are rows of `table`. `check` holds a configuration against the rows, and `keys` reads the
//! values by the same rows, so what is accepted, what is read and what is documented cannot differ.
//!
//! The non-obvious rule: the sentences are for people who read the schema and the reference. A module in Envoy has
//! no use for them, so on wasm the field does not exist.

use alloc::string::String;
use core::{fmt, time::Duration};

use serde_json::Value;

use crate::clock::{UNITS, duration_text};

/// One key, typed by what it takes.
pub(super) struct Key<K> {
    pub head: Head,
    pub takes: K,
}

/// What every key has, whatever it takes.
pub(super) struct Head {
    /// The name; an item of a list has none.
    pub name: &'static str,
    pub presence: Presence,
    #[cfg(not(target_arch = "wasm32"))]
    pub sentence: &'static str,
}

/// A key of any type, or an item of a list.
#[derive(Clone, Copy)]
pub(super) enum Row {
    /// With its default.
    Boolean(&'static Key<bool>),
    True(&'static Key<True>),
    Number(&'static Key<Count>),
    Duration(&'static Key<DurationRange>),
    Choice(&'static Key<Names>),
    Text(&'static Key<Words>),
    Object(&'static Key<&'static Object>),
    List(&'static Key<List>),
}

/// Whether a key must be given.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Presence {
    /// It may be absent.
    Optional,
    /// It may be absent, and `null` is a value of its own.
    Nullable,
    /// It must be there.
    Required,
    /// It must be there, unless the role is `introspection`, which has no use for it.
    RequiredByRole,
    /// Exactly one of the object's keys with this need must be there.
    OneOf,
}

/// The boolean `true`, and nothing else.
#[derive(Clone, Copy)]
pub(super) struct True;

/// A whole number. The default of a key that is required is never used.
#[derive(Clone, Copy)]
pub(super) struct Count {
    pub from: u32,
    pub to: u32,
    pub default: u32,
}

/// A duration in milliseconds. The default of a key that is required is never used.
#[derive(Clone, Copy)]
pub(super) struct DurationRange {
    pub from: u32,
    pub to: u32,
    pub default: u32,
}

/// The names of the alternatives that a key takes; the first is the default.
pub(super) type Names = &'static [&'static str];

/// A key that takes one of several alternatives, and what they mean, see [`choice!`]. The first name is that of the default, the
/// other names are those of the others, in order.
pub(super) struct Choice<T: 'static> {
    pub key: Key<Names>,
    pub default: T,
    pub others: &'static [T],
}

/// A string of some form, and its default.
#[derive(Clone, Copy)]
pub(super) struct Words {
    pub form: &'static TextForm,
    pub default: Option<&'static str>,
}

/// A form that strings must have.
pub(super) struct TextForm {
    /// Ends the sentence "the key takes ...".
    pub takes: &'static str,
    pub accept: fn(&str) -> bool,
    /// The same in a regular expression of ECMA-262, which a JSON Schema needs.
    #[cfg(not(target_arch = "wasm32"))]
    pub pattern: fn() -> String,
    /// Most characters.
    #[cfg(not(target_arch = "wasm32"))]
    pub max_length: Option<usize>,
}

/// An object with these keys and no others.
pub(super) struct Object {
    /// Ends the sentence "the key takes ...".
    pub takes: &'static str,
    pub rows: &'static [Row],
    /// Whether a key that is not known may be the secret itself: YAML reads `{ s3cret }` as an object whose only key
    /// is the secret. Then no refusal names it.
    pub may_hide_secret: bool,
}

/// A list of items of one kind.
#[derive(Clone, Copy)]
pub(super) struct List {
    /// Ends the sentence "the key takes ...".
    pub takes: &'static str,
    pub item: Row,
    pub may_be_empty: bool,
}

/// Describes a key.
pub(super) const fn key<K: Copy>(
    name: &'static str,
    presence: Presence,
    takes: K,
    sentence: &'static str,
) -> Key<K> {
    #[cfg(target_arch = "wasm32")]
    let _ = sentence;
    let head = Head {
        name,
        presence,
        #[cfg(not(target_arch = "wasm32"))]
        sentence,
    };
    Key { head, takes }
}

/// Describes a key that takes one of several alternatives: its name, its presence, each alternative with its meaning, and the
/// sentence. The first alternative is the default. Names and meanings stand in pairs, so that none is without the other.
macro_rules! choice {
    (
        $key:literal,
        $presence:expr,
        { $first:literal => $default:expr, $($name:literal => $value:expr,)* },
        $sentence:literal,
    ) => {
        Choice {
            key: key($key, $presence, &[$first, $($name),*], $sentence),
            default: $default,
            others: &[$($value),*],
        }
    };
}

pub(super) use choice;

impl Row {
    pub fn head(&self) -> &'static Head {
        match self {
            Self::Boolean(key) => &key.head,
            Self::True(key) => &key.head,
            Self::Number(key) => &key.head,
            Self::Duration(key) => &key.head,
            Self::Choice(key) => &key.head,
            Self::Text(key) => &key.head,
            Self::Object(key) => &key.head,
            Self::List(key) => &key.head,
        }
    }
}

impl Count {
    /// Reads a whole number in the range. Envoy hands a `Struct` over with every number as a double, so `256.0` is a
    /// whole number too.
    pub fn read(self, value: &Value) -> Option<u32> {
        let number = value.as_f64().filter(|number| number % 1.0 == 0.0)?;
        let is_in_range = f64::from(self.from) <= number && number <= f64::from(self.to);
        is_in_range.then_some(number as u32)
    }
}

impl DurationRange {
    /// Reads a duration in the range.
    pub fn read(self, value: &Value) -> Option<u32> {
        let millis = u32::try_from(parse_duration(value.as_str()?)?).ok()?;
        (self.from..=self.to).contains(&millis).then_some(millis)
    }
}

impl<T: Copy> Choice<T> {
    /// Reads the alternative of this name; the default of any other value.
    pub fn read(&self, value: Option<&Value>) -> T {
        let at = place(self.key.takes, value);
        let other = at.checked_sub(1).and_then(|at| self.others.get(at));
        other.copied().unwrap_or(self.default)
    }
}

/// Returns the place of the name among the alternatives; the first place if it is none of them.
fn place(names: Names, value: Option<&Value>) -> usize {
    let given = value.and_then(Value::as_str).unwrap_or_default();
    let place = names.iter().position(|name| *name == given);
    place.unwrap_or_default()
}

/// Ends the sentence "the key takes ...".
impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = match self {
            Self::Boolean(_) => "true or false",
            Self::True(_) => "true",
            Self::Number(key) => {
                let Count { from, to, .. } = key.takes;
                return write!(f, "a whole number from {from} to {to}");
            }
            Self::Duration(key) => {
                let (from, to) = (written(key.takes.from), written(key.takes.to));
                return write!(
                    f,
                    r#"a duration such as "500ms", "120s" or "2m", from "{from}" to "{to}""#
                );
            }
            Self::Choice(key) => {
                let names = listed(&mut key.takes.iter().copied());
                return write!(f, "one of {names}");
            }
            Self::Text(key) => key.takes.form.takes,
            Self::Object(key) => key.takes.takes,
            Self::List(key) => key.takes.takes,
        };
        f.write_str(text)
    }
}

/// Returns names with commas between them. `join` of the standard library is a kilobyte of code.
pub(super) fn listed(names: &mut dyn Iterator<Item = &str>) -> String {
    let mut list = String::new();
    for name in names {
        if !list.is_empty() {
            list.push_str(", ");
        }
        list.push_str(name);
    }
    list
}

/// Returns a number of milliseconds as a configuration has it.
pub(super) fn written(millis: u32) -> String {
    duration_text(Duration::from_millis(millis.into()))
}

/// Reads `500ms`, `120s`, `2m`, `1h`, a whole number and a unit, in milliseconds.
fn parse_duration(text: &str) -> Option<u64> {
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (number, unit) = text.split_at_checked(digits)?;
    let number: u64 = number.parse().ok()?;
    let (_, millis) = UNITS.iter().find(|(known, _)| *known == unit)?;
    number.checked_mul(u64::from(*millis))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_a_whole_number_and_a_unit() {
        for (text, millis) in [
            ("500ms", 500),
            ("0s", 0),
            ("120s", 120_000),
            ("2m", 120_000),
            ("1h", 3_600_000),
        ] {
            assert_eq!(parse_duration(text), Some(millis), "{text}");
        }
        let overflowing = format!("{}h", u64::MAX);
        for text in [
            "",
            "5",
            "s",
            "1.5s",
            "-1s",
            " 1s",
            "1 s",
            "1d",
            "1S",
            "+1s",
            &overflowing,
        ] {
            assert_eq!(parse_duration(text), None, "{text}");
        }
    }

    #[test]
    fn durations_are_written_as_they_are_read() {
        for written in ["0s", "1ms", "1500ms", "59s", "1m", "90s", "1h"] {
            let read = parse_duration(written).map(Duration::from_millis);
            assert_eq!(read.map(duration_text).as_deref(), Some(written));
        }
    }
}
