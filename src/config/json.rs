//! JSON, RFC 8259, in which no object has a name twice.
//!
//! The non-obvious rule: RFC 8259 (section 4) leaves open what a repeated name means, and `serde_json` keeps
//! the last value. In a configuration it is an accident of a template, and one that can turn enforcement off.

use alloc::{string::String, string::ToString, vec::Vec};
use core::{cell::Cell, fmt};

use serde::de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

use super::path::{Path, printable};

/// Why a text is no configuration.
#[derive(Debug)]
pub(super) enum Refusal {
    /// A key is given twice. This is its path.
    Repeated(String),
    /// It is no JSON.
    Syntax(serde_json::Error),
}

/// Reads one JSON text.
pub(super) fn decode(bytes: &[u8]) -> Result<Value, Refusal> {
    let mut json = serde_json::Deserializer::from_slice(bytes);
    let repeated = Cell::default();
    let reader = Reader {
        path: &Path::Root,
        repeated: &repeated,
    };
    let value = (&mut json).deserialize_any(reader);
    if let Some(path) = repeated.take() {
        return Err(Refusal::Repeated(path));
    }
    let value = value.map_err(Refusal::Syntax)?;
    json.end().map_err(Refusal::Syntax)?;
    Ok(value)
}

/// Reads the value at a path.
#[derive(Clone, Copy)]
struct Reader<'p> {
    path: &'p Path<'p>,
    /// The first key that was given twice. It is kept apart from serde_json's errors: to make such an error with a text of our own
    /// takes as much of the module as the rest of this reader.
    repeated: &'p Cell<Option<String>>,
}

impl Reader<'_> {
    fn note_repeated(self, path: &Path<'_>) {
        let first = self.repeated.take();
        self.repeated.set(first.or_else(|| Some(path.to_string())));
    }
}

impl<'de> DeserializeSeed<'de> for Reader<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Reader<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Value, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = list.next_element_seed(Reader {
            path: &Path::Item(self.path, items.len()),
            ..self
        })? {
            items.push(item);
        }
        Ok(Value::Array(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut object: A) -> Result<Value, A::Error> {
        let mut members = Map::new();
        while let Some(key) = object.next_key::<String>()? {
            let shown = printable(&key);
            let path = &Path::Key(self.path, &shown);
            let member = object.next_value_seed(Reader { path, ..self })?;
            if members.insert(key, member).is_some() {
                self.note_repeated(path);
            }
        }
        Ok(Value::Object(members))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn repeated(text: &str) -> Option<String> {
        match decode(text.as_bytes()) {
            Err(Refusal::Repeated(path)) => Some(path),
            _ => None,
        }
    }

    #[test]
    fn every_kind_of_value_is_read() {
        let text = r#" {"null": null, "yes": true, "count": 256, "less": -1, "half": 0.5, "text": "a\u00e9",
            "object": {"null": {}}, "list": ["ab", [], false]} "#;
        let expected: Value = serde_json::from_str(text).unwrap();
        assert_eq!(decode(text.as_bytes()).unwrap(), expected);
        assert_eq!(decode(b"{}").unwrap(), json!({}));
    }

    #[test]
    fn a_key_given_twice_is_named_with_its_path() {
        for (text, path) in [
            (r#"{"mode": 1, "mode": 1}"#, "mode"),
            (r#"{"a": {"b": {"c": 1, "d": 2, "c": 3}}}"#, "a.b.c"),
            (r#"{"a": [{}, {"b": 1, "b": 2}]}"#, "a[1].b"),
            (r#"[[], [{"b": 1, "b": 2}]]"#, "[1][0].b"),
            // One name in two spellings.
            (r#"{"mode": 1, "\u006dode": 2}"#, "mode"),
            (r#"{"": 1, "": 2}"#, ""),
            (r#"{"a\nb": 1, "a\nb": 2}"#, "a?b"),
        ] {
            assert_eq!(repeated(text).as_deref(), Some(path), "{text}");
        }
        // The same key in different objects is no repetition.
        assert!(decode(br#"{"a": {"b": 1}, "b": [{"b": 1}, {"b": 1}]}"#).is_ok());
    }

    fn is_syntax(text: &[u8]) -> bool {
        matches!(decode(text), Err(Refusal::Syntax(_)))
    }

    #[test]
    fn what_is_no_json_is_another_kind_of_error() {
        for text in [
            "",
            "{",
            "{} {}",
            "{\"a\": 1,}",
            "nul",
            "\u{feff}{}",
            "1e999",
        ] {
            assert!(is_syntax(text.as_bytes()), "{text}");
        }
        assert!(is_syntax(&b"[".repeat(100_000)));
    }

    #[cfg(not(target_arch = "wasm32"))]
    proptest::proptest! {
        #[test]
        fn without_repeated_keys_it_reads_what_serde_json_reads(bytes: Vec<u8>, text in "[\\[\\]{}:,\"a0\\\\ntrue.-]{0,24}") {
            for bytes in [bytes.as_slice(), text.as_bytes()] {
                match (decode(bytes), serde_json::from_slice::<Value>(bytes)) {
                    (Ok(ours), Ok(theirs)) => proptest::prop_assert_eq!(ours, theirs),
                    (Err(Refusal::Repeated(_)), _) => {}
                    (Err(Refusal::Syntax(_)), theirs) => proptest::prop_assert!(theirs.is_err()),
                    (Ok(_), Err(error)) => proptest::prop_assert!(false, "{}", error),
                }
            }
        }
    }
}
