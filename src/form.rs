//! `application/x-www-form-urlencoded`, as Synapse writes it and as both Synapse and MAS read it.
//!
//! The non-obvious rule: a bad escape stands for itself. What separates the pairs is not decided here,
//! because the two differ: MAS splits at `&`, Synapse at `;` as well.

pub mod parser;
pub(crate) mod percent;
pub(crate) mod scan;
pub(crate) mod steps;

use self::percent::escape;

/// The media type.
pub const FORM: &str = "application/x-www-form-urlencoded";

/// Appends `value`, with the unreserved set of RFC 3986 kept: the bytes that Synapse sends.
pub fn encode(value: &[u8], out: &mut Vec<u8>) {
    UNRESERVED.encode(value, b"+", out);
}

static UNRESERVED: PlainBytes = PlainBytes::visible_but(b"!\"#$%&'()*+,/:;<=>?@[\\]^`{|}");

/// The bytes that an encoding leaves as they are: some of visible ASCII. Every byte has its place, so
/// that no bound is looked at.
pub struct PlainBytes([bool; 256]);

impl PlainBytes {
    /// All but `others`.
    #[expect(clippy::indexing_slicing, reason = "evaluated by the compiler")]
    pub const fn visible_but(others: &[u8]) -> Self {
        let mut is_plain = [false; 256];
        let mut byte = b'!' as usize;
        while byte <= b'~' as usize {
            is_plain[byte] = true;
            byte += 1;
        }
        let mut at = 0;
        while at < others.len() {
            is_plain[others[at] as usize] = false;
            at += 1;
        }
        Self(is_plain)
    }

    /// Appends `value`, a space as `space`, and every other byte that is not one of these as `%XX`.
    pub fn encode(&self, value: &[u8], space: &[u8], out: &mut Vec<u8>) {
        let mut rest = value;
        // Nearly all of most values is plain, and is copied as a whole.
        while let Some(at) = self.first_other(rest) {
            let (plain, after) = rest.split_at_checked(at).unwrap_or_default();
            out.extend_from_slice(plain);
            match after.split_first() {
                Some((b' ', after)) => {
                    out.extend_from_slice(space);
                    rest = after;
                }
                Some((byte, after)) => {
                    out.extend_from_slice(&[b'%', upper_hex(byte >> 4), upper_hex(byte & 0x0f)]);
                    rest = after;
                }
                None => rest = after,
            }
        }
        out.extend_from_slice(rest);
    }

    /// Returns where the first byte stands that is not one of these. Four bytes at a time are looked at first.
    fn first_other(&self, text: &[u8]) -> Option<usize> {
        let mut passed = 0;
        for &[a, b, c, d] in text.as_chunks().0 {
            if !(self.contains(a) & self.contains(b) & self.contains(c) & self.contains(d)) {
                break;
            }
            passed += 4;
        }
        let rest = text.get(passed..)?;
        let at = rest.iter().position(|byte| !self.contains(*byte))?;
        Some(passed + at)
    }

    #[inline]
    fn contains(&self, byte: u8) -> bool {
        let Self(is_plain) = self;
        is_plain.get(usize::from(byte)).copied().unwrap_or_default()
    }
}

/// A number below 16 as an upper-case hex digit.
pub fn upper_hex(nibble: u8) -> u8 {
    if nibble < 10 {
        b'0' + nibble
    } else {
        b'A' + nibble - 10
    }
}

/// The bytes that an encoded name or value stands for.
pub struct Decoded<'a>(pub &'a [u8]);

impl Iterator for Decoded<'_> {
    type Item = u8;

    fn next(&mut self) -> Option<u8> {
        steps::note(1);
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
