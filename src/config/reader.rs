//! Reading a JSON object key by key, so that every error can name the full key and what it takes.
//!
//! `serde`'s derived errors name neither the path nor the accepted values, and may quote the value.

use std::time::Duration;

use serde_json::{Map, Value};

use super::{ConfigError, path::printable};
use crate::clock::duration_text;

/// An object of the configuration, and the path to it.
pub(super) struct Section<'a> {
    path: String,
    members: &'a Map<String, Value>,
    known: Vec<&'static str>,
}

/// A key that is present: where it is, and its value.
pub(super) struct Entry<'a> {
    path: String,
    value: &'a Value,
}

impl<'a> Section<'a> {
    pub fn root(value: &'a Value) -> Result<Self, ConfigError> {
        match value {
            Value::Object(members) => Ok(Self {
                path: String::new(),
                members,
                known: Vec::new(),
            }),
            _ => Err(ConfigError(
                "the configuration takes a JSON object".to_owned(),
            )),
        }
    }

    /// The key's entry; `None` if absent. JSON `null` counts as present.
    pub fn key(&mut self, key: &'static str) -> Option<Entry<'a>> {
        self.known.push(key);
        let value = self.members.get(key)?;
        Some(Entry {
            path: self.path_of(key),
            value,
        })
    }

    pub fn required(&mut self, key: &'static str, takes: &str) -> Result<Entry<'a>, ConfigError> {
        self.key(key).ok_or_else(|| self.is_required(key, takes))
    }

    /// The refusal of an object without this key.
    pub fn is_required(&self, key: &str, takes: &str) -> ConfigError {
        ConfigError(format!(
            "{}: is required and takes {takes}",
            self.path_of(key)
        ))
    }

    /// An error unless every member was asked for.
    pub fn finish(self) -> Result<(), ConfigError> {
        match self.unknown_key() {
            None => Ok(()),
            Some(unknown) => Err(ConfigError(format!(
                "{}: is not a key here; the keys are {}",
                self.path_of(&printable(unknown)),
                self.known.join(", ")
            ))),
        }
    }

    /// Like [`Self::finish`], with an error that does not repeat the unknown key. YAML reads `{ s3cret }` as an
    /// object whose only key is the secret.
    pub fn finish_unnamed(self, refusal: ConfigError) -> Result<(), ConfigError> {
        self.unknown_key().map_or(Ok(()), |_| Err(refusal))
    }

    fn unknown_key(&self) -> Option<&'a String> {
        let is_unknown = |key: &&String| !self.known.contains(&key.as_str());
        self.members.keys().find(is_unknown)
    }

    fn path_of(&self, key: &str) -> String {
        if self.path.is_empty() {
            key.to_owned()
        } else {
            format!("{}.{key}", self.path)
        }
    }
}

impl<'a> Entry<'a> {
    /// The refusal of this value. The value itself is not repeated: it may be a secret in the wrong place.
    pub fn takes(&self, takes: &str) -> ConfigError {
        ConfigError(format!("{}: takes {takes}", self.path))
    }

    pub fn is_null(&self) -> bool {
        self.value.is_null()
    }

    pub fn section(&self, takes: &str) -> Result<Section<'a>, ConfigError> {
        match self.value {
            Value::Object(members) => Ok(Section {
                path: self.path.clone(),
                members,
                known: Vec::new(),
            }),
            _ => Err(self.takes(takes)),
        }
    }

    pub fn items(&self, takes: &str) -> Result<Vec<Entry<'a>>, ConfigError> {
        let Value::Array(items) = self.value else {
            return Err(self.takes(takes));
        };
        let entry = |(index, value)| Entry {
            path: format!("{}[{index}]", self.path),
            value,
        };
        Ok(items.iter().enumerate().map(entry).collect())
    }

    /// A string that `accept` agrees with.
    pub fn string(
        &self,
        takes: &str,
        accept: impl FnOnce(&str) -> bool,
    ) -> Result<&'a str, ConfigError> {
        match self.value {
            Value::String(text) if accept(text) => Ok(text),
            _ => Err(self.takes(takes)),
        }
    }

    pub fn boolean(&self) -> Result<bool, ConfigError> {
        self.value
            .as_bool()
            .ok_or_else(|| self.takes("true or false"))
    }

    /// A whole number in `range`. Envoy hands a `Struct` over with every number as a double, so `256.0`
    /// is a whole number too.
    pub fn integer(&self, range: std::ops::RangeInclusive<u32>) -> Result<u32, ConfigError> {
        self.value
            .as_f64()
            .filter(|number| number.fract() == 0.0)
            .filter(|number| (f64::from(*range.start())..=f64::from(*range.end())).contains(number))
            .map(|number| number as u32)
            .ok_or_else(|| {
                self.takes(&format!(
                    "a whole number from {} to {}",
                    range.start(),
                    range.end()
                ))
            })
    }

    /// A duration in `range`.
    pub fn duration(
        &self,
        range: std::ops::RangeInclusive<Duration>,
    ) -> Result<Duration, ConfigError> {
        self.value
            .as_str()
            .and_then(parse_duration)
            .filter(|duration| range.contains(duration))
            .ok_or_else(|| {
                self.takes(&format!(
                    r#"a duration such as "500ms", "120s" or "2m", from "{}" to "{}""#,
                    duration_text(*range.start()),
                    duration_text(*range.end())
                ))
            })
    }

    /// One of the named alternatives.
    pub fn one_of<T: Copy>(&self, alternatives: &[(&str, T)]) -> Result<T, ConfigError> {
        let given = self.value.as_str();
        let found = alternatives.iter().find(|(name, _)| given == Some(*name));
        found.map(|(_, value)| *value).ok_or_else(|| {
            let names: Vec<&str> = alternatives.iter().map(|(name, _)| *name).collect();
            self.takes_one_of(&names)
        })
    }

    /// The refusal of a value that is none of the named alternatives.
    fn takes_one_of(&self, names: &[&str]) -> ConfigError {
        self.takes(&format!("one of {}", names.join(", ")))
    }
}

/// One of the named alternatives, or the default.
pub(super) fn choice<T: Copy>(
    entry: Option<Entry<'_>>,
    alternatives: &[(&str, T)],
    default: T,
) -> Result<T, ConfigError> {
    entry.map_or(Ok(default), |entry| entry.one_of(alternatives))
}

/// A boolean, or the default.
pub(super) fn boolean(entry: Option<Entry<'_>>, default: bool) -> Result<bool, ConfigError> {
    entry.map_or(Ok(default), |entry| entry.boolean())
}

/// A whole number in `range`, or the default.
pub(super) fn integer(
    entry: Option<Entry<'_>>,
    range: std::ops::RangeInclusive<u32>,
    default: u32,
) -> Result<u32, ConfigError> {
    entry.map_or(Ok(default), |entry| entry.integer(range))
}

/// `500ms`, `120s`, `2m`, `1h`: a whole number and a unit.
fn parse_duration(text: &str) -> Option<Duration> {
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (number, unit) = text.split_at_checked(digits)?;
    let number: u64 = number.parse().ok()?;
    let millis: u64 = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => return None,
    };
    Some(Duration::from_millis(number.checked_mul(millis)?))
}

#[cfg(test)]
mod tests {
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

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
            assert_eq!(
                parse_duration(text),
                Some(Duration::from_millis(millis)),
                "{text}"
            );
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
            assert_eq!(
                parse_duration(written).map(duration_text).as_deref(),
                Some(written)
            );
        }
    }
}
