//! What a scalar stands for, as Envoy reads it.
//!
//! The non-obvious rule: Envoy reads YAML by yaml-cpp, which knows more words for true and false than YAML 1.2 does. A
//! scalar in quotes is always text.

use serde_json::{Number, Value};

/// A scalar.
#[derive(Clone, Debug)]
pub struct Scalar {
    /// Its text, without quotes and escapes.
    pub text: String,
    /// Whether it stands without quotes and without a tag, so that it may be more than text.
    pub is_plain: bool,
    /// Whether it is a literal block (`|`), whose lines stand in the file as they are.
    pub is_literal: bool,
}

impl Scalar {
    /// What it says, if it is a boolean.
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

    /// Whether it is null.
    pub fn is_null(&self) -> bool {
        self.is_plain && matches!(self.text.as_str(), "" | "~" | "null" | "Null" | "NULL")
    }

    /// The scalar as JSON.
    pub fn json(&self) -> Value {
        if self.is_null() {
            return Value::Null;
        }
        if let Some(boolean) = self.boolean() {
            return boolean.into();
        }
        self.number()
            .map_or_else(|| self.text.as_str().into(), Value::Number)
    }

    fn number(&self) -> Option<Number> {
        let text = self.is_plain.then_some(self.text.as_str())?;
        if !text.starts_with(|c: char| c.is_ascii_digit() || matches!(c, '-' | '+' | '.')) {
            return None;
        }
        if let Ok(number) = text.parse::<i64>() {
            return Some(number.into());
        }
        let number = text
            .parse::<f64>()
            .ok()
            .filter(|number| number.is_finite())?;
        Number::from_f64(number)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn scalar(text: &str, is_plain: bool) -> Value {
        Scalar {
            text: text.to_owned(),
            is_plain,
            is_literal: false,
        }
        .json()
    }

    #[test]
    fn plain_scalars_are_what_envoy_takes_them_for() {
        for (text, expected) in [
            ("true", json!(true)),
            ("yes", json!(true)),
            ("Off", json!(false)),
            ("", json!(null)),
            ("~", json!(null)),
            ("256", json!(256)),
            ("-1", json!(-1)),
            ("0.5", json!(0.5)),
            ("120s", json!("120s")),
            ("1.2.3", json!("1.2.3")),
            ("infinity", json!("infinity")),
            ("tRUE", json!("tRUE")),
        ] {
            assert_eq!(scalar(text, true), expected, "{text}");
            assert_eq!(scalar(text, false), json!(text), "{text}");
        }
    }
}
