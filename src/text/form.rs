//! `application/x-www-form-urlencoded`, as Synapse writes it and as both Synapse and MAS read it.
//!
//! The non-obvious rule: a bad escape stands for itself. What separates the pairs is not decided here,
//! because the two differ: MAS splits at `&`, Synapse at `;` as well.

use alloc::vec::Vec;

pub mod parser;

use super::{percent::escape, plain_bytes::PlainBytes, work};

/// The media type.
pub const FORM: &str = "application/x-www-form-urlencoded";

/// Appends `value`, with the unreserved set of RFC 3986 kept: the bytes that Synapse sends.
pub fn encode(value: &[u8], out: &mut Vec<u8>) {
    UNRESERVED.encode(value, b"+", out);
}

static UNRESERVED: PlainBytes = PlainBytes::visible_but(b"!\"#$%&'()*+,/:;<=>?@[\\]^`{|}");

/// The bytes that an encoded name or value stands for.
pub struct Decoded<'a>(pub &'a [u8]);

impl Iterator for Decoded<'_> {
    type Item = u8;

    fn next(&mut self) -> Option<u8> {
        work::note(1);
        let (byte, rest) = match self.0 {
            [b'+', rest @ ..] => (b' ', rest),
            [byte, rest @ ..] => escape(self.0).unwrap_or((*byte, rest)),
            [] => return None,
        };
        self.0 = rest;
        Some(byte)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encoded(value: &[u8]) -> String {
        let mut out = Vec::new();
        encode(value, &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn exactly_the_unreserved_bytes_stay() {
        for byte in 0..=u8::MAX {
            let expected = match byte {
                b' ' => "+".to_owned(),
                b'-' | b'.' | b'_' | b'~' => char::from(byte).to_string(),
                _ if byte.is_ascii_alphanumeric() => char::from(byte).to_string(),
                _ => format!("%{byte:02X}"),
            };
            assert_eq!(encoded(&[byte]), expected);
        }
    }

    #[test]
    fn values_are_encoded_as_synapse_does() {
        assert_eq!(encoded(b"alice+/=~.-_"), "alice%2B%2F%3D~.-_");
        assert_eq!(
            encoded(b"a b\n%00&token_type_hint=x"),
            "a+b%0A%2500%26token_type_hint%3Dx"
        );
    }
}
