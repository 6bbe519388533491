//! JSON, RFC 8259, that others send: read with serde and serde_json, but without the text of their errors.
//!
//! The non-obvious rule: an error says nothing but that there is one. serde's own errors repeat the value that they met,
//! which may be a secret. An error that can repeat any value also needs code that prints floating-point numbers, which is a
//! twentieth of the whole module. So `Plain` stands between serde_json and what reads a value: it asks serde_json only for what
//! it finds (`deserialize_any`), and an error on the way is `Malformed`. serde_json is told of none, since an error of its own
//! would have a text: for serde_json a visitor always succeeds, with a value or with the error.

use core::fmt;

use serde::{
    Deserialize, Deserializer,
    de::{self, DeserializeSeed, MapAccess, SeqAccess, Unexpected, Visitor},
};

/// Reads a value that is a JSON object, and nothing behind it. A reader derived with serde takes an array for the object
/// as well, and does not look at the encoding of what it skips.
pub fn read_object<'a, T: Deserialize<'a>>(body: &'a [u8]) -> Option<T> {
    let text = core::str::from_utf8(body).ok()?;
    if !text.trim_ascii_start().starts_with('{') {
        return None;
    }
    // From bytes, like all JSON here: with the reader of `str` the module would have most of serde_json twice.
    let mut json = serde_json::Deserializer::from_slice(body);
    let value = T::deserialize(Plain(&mut json)).ok()?;
    json.end().ok()?;
    Some(value)
}

/// Shows the visitor the value that `bytes` begin with. They need not be whole.
pub fn visit_beginning<'a, V: Visitor<'a>>(bytes: &'a [u8], visitor: V) -> Option<V::Value> {
    let mut json = serde_json::Deserializer::from_slice(bytes);
    Plain(&mut json).deserialize_any(visitor).ok()
}

/// The bytes are not JSON, or not what was to be read.
#[derive(Debug)]
struct Malformed;

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("malformed")
    }
}

impl core::error::Error for Malformed {}

impl de::Error for Malformed {
    fn custom<T: fmt::Display>(_: T) -> Self {
        Self
    }

    fn invalid_type(_: Unexpected<'_>, _: &dyn de::Expected) -> Self {
        Self
    }

    fn invalid_value(_: Unexpected<'_>, _: &dyn de::Expected) -> Self {
        Self
    }
}

/// What an error says to one's own side.
fn malformed(_: impl de::Error) -> Malformed {
    Malformed
}

/// A deserializer, a visitor, a seed or a list without the text of errors.
struct Plain<T>(T);

impl<'de, D: Deserializer<'de>> Deserializer<'de> for Plain<D> {
    type Error = Malformed;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Malformed> {
        self.0.deserialize_any(Plain(visitor)).map_err(malformed)?
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Malformed> {
        self.0
            .deserialize_option(Plain(visitor))
            .map_err(malformed)?
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Malformed> {
        self.0
            .deserialize_ignored_any(Plain(visitor))
            .map_err(malformed)?
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit unit_struct newtype_struct seq tuple
        tuple_struct map struct enum identifier
    }
}

impl<'de, V: Visitor<'de>> Visitor<'de> for Plain<V> {
    type Value = Result<V::Value, Malformed>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.expecting(f)
    }

    fn visit_bool<E: de::Error>(self, value: bool) -> Result<Self::Value, E> {
        Ok(self.0.visit_bool(value))
    }

    fn visit_i64<E: de::Error>(self, value: i64) -> Result<Self::Value, E> {
        Ok(self.0.visit_i64(value))
    }

    fn visit_u64<E: de::Error>(self, value: u64) -> Result<Self::Value, E> {
        Ok(self.0.visit_u64(value))
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<Self::Value, E> {
        Ok(self.0.visit_f64(value))
    }

    fn visit_str<E: de::Error>(self, value: &str) -> Result<Self::Value, E> {
        Ok(self.0.visit_str(value))
    }

    fn visit_borrowed_str<E: de::Error>(self, value: &'de str) -> Result<Self::Value, E> {
        Ok(self.0.visit_borrowed_str(value))
    }

    fn visit_none<E: de::Error>(self) -> Result<Self::Value, E> {
        Ok(self.0.visit_none())
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        Ok(self.0.visit_some(Plain(deserializer)))
    }

    fn visit_unit<E: de::Error>(self) -> Result<Self::Value, E> {
        Ok(self.0.visit_unit())
    }

    fn visit_newtype_struct<D: Deserializer<'de>>(
        self,
        deserializer: D,
    ) -> Result<Self::Value, D::Error> {
        Ok(self.0.visit_newtype_struct(Plain(deserializer)))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<Self::Value, A::Error> {
        Ok(self.0.visit_seq(Plain(list)))
    }

    fn visit_map<A: MapAccess<'de>>(self, object: A) -> Result<Self::Value, A::Error> {
        Ok(self.0.visit_map(Plain(object)))
    }
}

impl<'de, S: DeserializeSeed<'de>> DeserializeSeed<'de> for Plain<S> {
    type Value = Result<S::Value, Malformed>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        Ok(self.0.deserialize(Plain(deserializer)))
    }
}

impl<'de, A: SeqAccess<'de>> SeqAccess<'de> for Plain<A> {
    type Error = Malformed;

    fn next_element_seed<S: DeserializeSeed<'de>>(
        &mut self,
        seed: S,
    ) -> Result<Option<S::Value>, Malformed> {
        let element = self.0.next_element_seed(Plain(seed)).map_err(malformed)?;
        element.transpose()
    }
}

impl<'de, A: MapAccess<'de>> MapAccess<'de> for Plain<A> {
    type Error = Malformed;

    fn next_key_seed<S: DeserializeSeed<'de>>(
        &mut self,
        seed: S,
    ) -> Result<Option<S::Value>, Malformed> {
        let key = self.0.next_key_seed(Plain(seed)).map_err(malformed)?;
        key.transpose()
    }

    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, Malformed> {
        self.0.next_value_seed(Plain(seed)).map_err(malformed)?
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Deserialize, PartialEq)]
    struct Sample {
        flag: bool,
        text: Option<String>,
        number: Option<i64>,
        #[serde(default)]
        list: Vec<u8>,
    }

    /// What serde_json reads by itself, if it is an object.
    fn expected<'a, T: Deserialize<'a>>(body: &'a [u8]) -> Option<T> {
        let is_object = body.trim_ascii_start().starts_with(b"{");
        serde_json::from_slice(body).ok().filter(|_| is_object)
    }

    #[test]
    fn it_reads_what_serde_json_reads() {
        for body in [
            r#"{"flag":true}"#,
            r#" {"flag":false,"text":null,"number":null,"list":[]} "#,
            r#"{"flag":true,"text":"a\u00e9\ud83d\ude00","number":-5,"list":[1,255]}"#,
            r#"{"more":{"deep":[1,{"a":1.5e300}]},"flag":true}"#,
            r#"{"flag":true,"number":9223372036854775807}"#,
            // What is wrong.
            "",
            "{",
            "{}",
            "null",
            r#"[true,null,null,[]]"#,
            r#"{"flag":1}"#,
            r#"{"flag":"true"}"#,
            r#"{"flag":true,"flag":true}"#,
            r#"{"flag":true}}"#,
            r#"{"flag":true} x"#,
            r#"{"flag":true,"text":5}"#,
            r#"{"flag":true,"number":1.0}"#,
            r#"{"flag":true,"number":9223372036854775808}"#,
            r#"{"flag":true,"number":"5"}"#,
            r#"{"flag":true,"list":[256]}"#,
            r#"{"flag":true,"list":{}}"#,
            r#"{"flag":true,"list":[1,]}"#,
            r#"{"flag":true,"x":NaN}"#,
            r#"{"flag":true,"x":"\ud800"}"#,
        ] {
            let read: Option<Sample> = read_object(body.as_bytes());
            assert_eq!(read, expected(body.as_bytes()), "{body}");
        }
        assert!(read_object::<Sample>(b"{\"flag\":true,\"x\":\"\xff\"}").is_none());
    }

    #[test]
    fn depth_is_bounded() {
        let body = format!(
            "{{\"flag\":true,\"x\":{}1{}}}",
            "[".repeat(200),
            "]".repeat(200)
        );
        let read: Option<Sample> = read_object(body.as_bytes());
        assert_eq!(read, expected(body.as_bytes()));
    }
}
