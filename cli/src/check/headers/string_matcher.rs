//! Envoy's `StringMatcher`: whether it takes a name.

use regex::bytes::Regex;

use crate::{check::pattern::compiled_at_a_cost, yaml::Value};

/// A matcher of names without capitals.
pub enum StringMatcher {
    Exact(String),
    Prefix(String),
    Suffix(String),
    Contained(String),
    /// For whole names. An expression that cannot be read is for no name.
    Regex(Option<Regex>),
    /// An extension of Envoy. Its matches are not known.
    Unknown,
}

impl StringMatcher {
    /// Reads one.
    pub fn of(pattern: Value<'_>) -> Self {
        Self::read(pattern, pattern.boolean_at(&["ignore_case"]) == Some(true))
    }

    /// Reads one for names that are written in any case.
    pub fn of_headers(pattern: Value<'_>) -> Self {
        Self::read(pattern, true)
    }

    fn read(pattern: Value<'_>, ignores_case: bool) -> Self {
        if let Some(regex) = pattern.text_at(&["safe_regex", "regex"]) {
            return Self::Regex(compiled_at_a_cost(pattern, regex));
        }
        let text = |key| {
            let text = pattern.text_at(&[key])?;
            // The names have no capitals.
            Some(if ignores_case {
                text.to_ascii_lowercase()
            } else {
                text.to_owned()
            })
        };
        text("exact")
            .map(Self::Exact)
            .or_else(|| text("prefix").map(Self::Prefix))
            .or_else(|| text("suffix").map(Self::Suffix))
            .or_else(|| text("contains").map(Self::Contained))
            .unwrap_or(Self::Unknown)
    }

    /// Whether a name matches; `None` if that cannot be known.
    pub fn matches(&self, name: &str) -> Option<bool> {
        Some(match self {
            Self::Exact(text) => name == text,
            Self::Prefix(text) => name.starts_with(text),
            Self::Suffix(text) => name.ends_with(text),
            Self::Contained(text) => name.contains(text),
            Self::Regex(regex) => {
                let regex = regex.as_ref();
                regex.is_some_and(|regex| regex.is_match(name.as_bytes()))
            }
            Self::Unknown => return None,
        })
    }
}
