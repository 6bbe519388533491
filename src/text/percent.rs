//! Percent-encoding, RFC 3986 section 2.1.

use alloc::{borrow::Cow, vec::Vec};

use super::work;

/// The byte that the escape at the start of `text` stands for, and the text after it. `None` if
/// there is no well-formed escape.
pub(crate) fn escape(text: &[u8]) -> Option<(u8, &[u8])> {
    work::note(1);
    let [b'%', high, low, rest @ ..] = text else {
        return None;
    };
    Some((hex_digit(*high)? << 4 | hex_digit(*low)?, rest))
}

/// What `text` stands for once every escape is decoded, also those that only decoding makes. Takes one pass: an
/// escape is complete with its last digit, and gives way to its byte, which may be the last digit of another.
pub(crate) fn decode_to_the_end(text: &[u8]) -> Cow<'_, [u8]> {
    if !text.contains(&b'%') {
        return Cow::Borrowed(text);
    }
    let mut decoded = Vec::with_capacity(text.len());
    for &byte in text {
        decoded.push(byte);
        while let Some(at) = decoded.len().checked_sub(3)
            && let Some((byte, _)) = decoded.get(at..).and_then(escape)
        {
            decoded.truncate(at);
            decoded.push(byte);
        }
    }
    Cow::Owned(decoded)
}

/// What a text stands for once every escape is decoded, and how often each byte of that was encoded.
#[derive(Debug, Default)]
pub(crate) struct Unwrapped {
    /// The decoded bytes.
    pub bytes: Vec<u8>,
    /// For each of them, in how many rounds of decoding it comes to light.
    pub depths: Vec<u8>,
}

impl Unwrapped {
    /// Decodes `text` to the end, in one pass like [`decode_to_the_end`]. `None`, as soon as that is seen: a byte was
    /// encoded more than `max_depth` times.
    pub fn of(text: &[u8], max_depth: u8) -> Option<Self> {
        let mut unwrapped = Self::default();
        for &byte in text {
            unwrapped.bytes.push(byte);
            unwrapped.depths.push(0);
            while let Some((byte, depth)) = unwrapped.last_escape() {
                if depth > max_depth {
                    return None;
                }
                let at = unwrapped.bytes.len().saturating_sub(3);
                unwrapped.bytes.truncate(at);
                unwrapped.depths.truncate(at);
                unwrapped.bytes.push(byte);
                unwrapped.depths.push(depth);
            }
        }
        Some(unwrapped)
    }

    /// The byte that the escape at the end stands for, and its depth. All of an escape must have come to light before
    /// it can be decoded.
    fn last_escape(&self) -> Option<(u8, u8)> {
        let at = self.bytes.len().checked_sub(3)?;
        let (byte, _) = escape(self.bytes.get(at..)?)?;
        let depth = self.depths.get(at..)?.iter().max()?;
        Some((byte, depth.saturating_add(1)))
    }
}

/// Returns the number that a hexadecimal digit stands for.
pub(crate) const fn hex_digit(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        b'A'..=b'F' => Some(digit - b'A' + 10),
        _ => None,
    }
}

/// Returns a number below 16 as an upper-case hex digit.
pub fn upper_hex(nibble: u8) -> u8 {
    if nibble < 10 {
        b'0' + nibble
    } else {
        b'A' + nibble - 10
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_two_hexadecimal_digits_make_an_escape() {
        assert_eq!(escape(b"%5f_"), Some((b'_', b"_".as_slice())));
        assert_eq!(escape(b"%fF"), Some((0xff, b"".as_slice())));
        for text in ["", "%", "%4", "%zz", "%4g", "%%41", "x%41", "%+1"] {
            assert_eq!(escape(text.as_bytes()), None, "{text}");
        }
    }

    #[test]
    fn a_byte_is_as_deep_as_the_rounds_that_it_takes() {
        for (text, bytes, depths) in [
            ("", "", &[][..]),
            ("a%", "a%", &[0, 0]),
            ("a%41", "aA", &[0, 1]),
            ("%2541%2e", "A.", &[2, 1]),
            ("%%34%31", "A", &[2]),
            ("%%3%34%31", "A", &[3]),
        ] {
            let found = Unwrapped::of(text.as_bytes(), 9).unwrap();
            let bytes = bytes.as_bytes();
            assert_eq!((&*found.bytes, &*found.depths), (bytes, depths), "{text}");
        }
        let mut text = "/".to_owned();
        for depth in 1..5 {
            text = text.bytes().map(|byte| format!("%{byte:02x}")).collect();
            assert!(Unwrapped::of(text.as_bytes(), depth - 1).is_none());
            let found = Unwrapped::of(text.as_bytes(), depth).unwrap();
            assert_eq!((&*found.bytes, &*found.depths), (&b"/"[..], &[depth][..]));
        }
    }

    #[test]
    fn decoding_takes_one_pass_however_deep() {
        for input in [&b"%25"[..], b"%2525", b"25", b"%", b"%%34%31", b"a", b"%41"] {
            // As deep as the text is long: one percent sign before it.
            let deep = |text: &[u8]| [b"%", text].concat();
            work::assert_linear(
                "to the end",
                3,
                |text| drop(decode_to_the_end(&deep(text)).into_owned()),
                input,
            );
            work::assert_linear(
                "with depths",
                3,
                |text| drop(Unwrapped::of(&deep(text), u8::MAX - 1)),
                input,
            );
        }
        // Too deep is seen at once.
        let deep = [&b"%"[..], &b"25".repeat(30_000)].concat();
        assert!(work::count(|| Unwrapped::of(&deep, 7)) < 64);
    }

    #[test]
    fn nothing_stays_encoded_however_often_it_was() {
        let plain = "/a b%/é%2";
        let mut text = plain.to_owned();
        for _ in 0..5 {
            text = text.bytes().map(|byte| format!("%{byte:02x}")).collect();
            assert_eq!(&*decode_to_the_end(text.as_bytes()), plain.as_bytes());
        }
        for (text, plain) in [
            ("", ""),
            ("%", "%"),
            ("%4", "%4"),
            ("%zz%41", "%zzA"),
            ("%%34%31", "A"),
            ("%2525252541", "A"),
            ("%25%%32%3541", "%A"),
        ] {
            assert_eq!(
                &*decode_to_the_end(text.as_bytes()),
                plain.as_bytes(),
                "{text}"
            );
        }
    }
}
