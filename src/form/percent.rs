//! Percent-encoding, RFC 3986 section 2.1.

use std::borrow::Cow;

/// The byte that the escape at the start of `text` stands for, and the text after it. `None` if
/// there is no well-formed escape.
pub(crate) fn escape(text: &[u8]) -> Option<(u8, &[u8])> {
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

/// Returns the number that a hexadecimal digit stands for.
pub(crate) const fn hex_digit(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        b'A'..=b'F' => Some(digit - b'A' + 10),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

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
