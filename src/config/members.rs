//! Reading the values of an object by the rows of the table.
//!
//! It comes after `check`, so every value that is there is of its kind; what is absent has its default.

use alloc::{borrow::ToOwned, string::String, vec::Vec};
use core::time::Duration;

use serde_json::{Map, Value};

use super::key::{Choice, Count, DurationRange, Key, List, Object, Words};

/// The members of an object. An absent object has none, so all its keys have their defaults.
#[derive(Clone, Copy)]
pub(super) struct Members<'a>(Option<&'a Map<String, Value>>);

impl<'a> Members<'a> {
    /// Returns the members of an object; none of any other value.
    pub fn of(value: &'a Value) -> Self {
        Self(value.as_object())
    }

    /// Returns the value of a key; `None` if absent. JSON `null` counts as present.
    pub fn value<K>(self, key: &Key<K>) -> Option<&'a Value> {
        self.0?.get(key.head.name)
    }

    pub fn boolean(self, key: &Key<bool>) -> bool {
        self.value(key)
            .and_then(Value::as_bool)
            .unwrap_or(key.takes)
    }

    pub fn number(self, key: &Key<Count>) -> u32 {
        self.value(key)
            .and_then(|value| key.takes.read(value))
            .unwrap_or(key.takes.default)
    }

    pub fn duration(self, key: &Key<DurationRange>) -> Duration {
        let millis = self
            .value(key)
            .and_then(|value| key.takes.read(value))
            .unwrap_or(key.takes.default);
        Duration::from_millis(millis.into())
    }

    pub fn choice<T: Copy>(self, choice: &Choice<T>) -> T {
        choice.read(self.value(&choice.key))
    }

    /// Returns the string, else the default; `None` of `null`, and where there is no default.
    pub fn text(self, key: &Key<Words>) -> Option<&'a str> {
        match self.value(key) {
            Some(value) => value.as_str(),
            None => key.takes.default,
        }
    }

    /// Returns the string, else the default; empty where there is neither.
    pub fn string(self, key: &Key<Words>) -> String {
        self.text(key).unwrap_or_default().to_owned()
    }

    /// Returns the members of the object at a key; none if it is absent.
    pub fn object(self, key: &Key<&'static Object>) -> Self {
        Self(self.value(key).and_then(Value::as_object))
    }

    /// Returns the members of the object at a key; `None` if it is absent or `null`.
    pub fn present(self, key: &Key<&'static Object>) -> Option<Self> {
        Some(self.object(key)).filter(|members| members.0.is_some())
    }

    /// Returns the items of the list at a key; none if it is absent.
    pub fn list(self, key: &Key<List>) -> &'a [Value] {
        let items = self.value(key).and_then(Value::as_array);
        items.map(Vec::as_slice).unwrap_or_default()
    }
}
