//! What a scalar stands for, as its reader takes it.
//!
//! The non-obvious rule: Envoy reads YAML by yaml-cpp, which knows more words for true and false than YAML 1.2 does. A
//! scalar in quotes is text, unless it has a tag: Envoy then looks at its letters alone. Envoy takes a scalar for a number
//! if it is whole and has 32 bits, in decimal, hexadecimal (`0x10`) or octal (`010`). Every other number stays a text until
//! a field of protobuf wants a number. Kubernetes takes fractions and powers of ten too, and so does JSON.

use serde_json::{Number, Value};

/// What reads a file before the module does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reader {
    /// Envoy, from YAML.
    Envoy,
    /// Kubernetes; or Envoy, from JSON.
    Json,
}

/// A scalar.
#[derive(Clone, Debug)]
pub struct Scalar {
    /// Its text, without quotes and escapes.
    pub text: String,
    /// Whether it stands without quotes, or with a tag, so that it may be more than text.
    pub is_plain: bool,
    /// Whether it is a literal block (`|`), whose lines stand in the file as they are.
    pub is_literal: bool,
}

impl Scalar {
    /// The boolean that it is, if it is one.
    pub fn boolean(&self) -> Option<bool> {
        let word = self.is_plain.then_some(self.text.as_str())?;
        match word {
            "y" | "Y" | "yes" | "Yes" | "YES" | "true" | "True" | "TRUE" | "on" | "On" | "ON" => {
                Some(true)
            }
            "n" | "N" | "no" | "No" | "NO" | "false" | "False" | "FALSE" | "off" | "Off"
            | "OFF" => Some(false),
            _ => None,
        }
    }

    /// The boolean that it is to a field of protobuf, which takes a boolean in quotes as well.
    pub fn truth(&self) -> Option<bool> {
        self.boolean().or_else(|| self.text.parse().ok())
    }

    /// The whole number that it is to a field of protobuf, which takes a number in quotes, or with a power of ten, as well.
    pub fn whole_number(&self) -> Option<u64> {
        let whole = self.text.parse().ok();
        let read = || u64::try_from(integer(&self.text)?).ok();
        let rounded = || {
            let number: f64 = self.text.parse().ok()?;
            // Up to this limit an `f64` holds each whole number exactly.
            (number.fract() == 0.0 && (0.0..=9e15).contains(&number)).then_some(number as u64)
        };
        whole.or_else(read).or_else(rounded)
    }

    /// Whether it is null.
    pub fn is_null(&self) -> bool {
        self.is_plain && matches!(self.text.as_str(), "" | "~" | "null" | "Null" | "NULL")
    }

    /// The scalar as JSON.
    pub fn json(&self, reader: Reader) -> Value {
        if self.is_null() {
            return Value::Null;
        }
        if let Some(boolean) = self.boolean() {
            return boolean.into();
        }
        self.number(reader)
            .map_or_else(|| self.text.as_str().into(), Value::Number)
    }

    fn number(&self, reader: Reader) -> Option<Number> {
        let text = self.is_plain.then_some(self.text.as_str())?;
        if !text.starts_with(|c: char| c.is_ascii_digit() || matches!(c, '-' | '+' | '.')) {
            return None;
        }
        if reader == Reader::Envoy {
            return integer(text)
                .and_then(|number| i32::try_from(number).ok())
                .map(Number::from);
        }
        if let Some(number) = text.parse::<i64>().ok().or_else(|| integer(text)) {
            return Some(number.into());
        }
        let number = text
            .parse::<f64>()
            .ok()
            .filter(|number| number.is_finite())?;
        Number::from_f64(number)
    }
}

/// A whole number as yaml-cpp reads it: `0x` begins a hexadecimal one, and another `0` an octal one.
fn integer(text: &str) -> Option<i64> {
    let (sign, digits) = match text.strip_prefix('-') {
        Some(digits) => ("-", digits),
        None => ("", text.strip_prefix('+').unwrap_or(text)),
    };
    if !digits.starts_with(|c: char| c.is_ascii_digit()) {
        return None;
    }
    let hexadecimal = digits
        .strip_prefix("0x")
        .or_else(|| digits.strip_prefix("0X"));
    let (digits, radix) = match (hexadecimal, digits.strip_prefix('0')) {
        (Some(digits), _) => (digits, 16),
        (None, Some(rest)) if !rest.is_empty() => (rest, 8),
        _ => (digits, 10),
    };
    if digits.starts_with(['+', '-']) {
        return None;
    }
    i64::from_str_radix(&format!("{sign}{digits}"), radix).ok()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn scalar(text: &str, is_plain: bool, reader: Reader) -> Value {
        Scalar {
            text: text.to_owned(),
            is_plain,
            is_literal: false,
        }
        .json(reader)
    }

    #[test]
    fn plain_scalars_are_what_their_reader_takes_them_for() {
        for (text, envoy, kubernetes) in [
            ("true", json!(true), json!(true)),
            ("yes", json!(true), json!(true)),
            ("Off", json!(false), json!(false)),
            ("", json!(null), json!(null)),
            ("~", json!(null), json!(null)),
            ("256", json!(256), json!(256)),
            ("-1", json!(-1), json!(-1)),
            ("0x100", json!(256), json!(256)),
            ("-0x10", json!(-16), json!(-16)),
            ("0x-1", json!("0x-1"), json!("0x-1")),
            ("3000000000", json!("3000000000"), json!(3_000_000_000_u64)),
            ("0.5", json!("0.5"), json!(0.5)),
            ("65536.0", json!("65536.0"), json!(65536.0)),
            ("1e3", json!("1e3"), json!(1000.0)),
            ("120s", json!("120s"), json!("120s")),
            ("1.2.3", json!("1.2.3"), json!("1.2.3")),
            ("infinity", json!("infinity"), json!("infinity")),
            ("tRUE", json!("tRUE"), json!("tRUE")),
        ] {
            assert_eq!(scalar(text, true, Reader::Envoy), envoy, "{text}");
            assert_eq!(scalar(text, true, Reader::Json), kubernetes, "{text}");
            assert_eq!(scalar(text, false, Reader::Envoy), json!(text), "{text}");
        }
        assert_eq!(scalar("010", true, Reader::Envoy), json!(8));
        assert_eq!(scalar("08", true, Reader::Envoy), json!("08"));
    }
}
