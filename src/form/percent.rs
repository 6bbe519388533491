//! Percent-encoding, RFC 3986 section 2.1.

/// The byte that the escape at the start of `text` stands for, and the text after it. `None` if
/// there is no well-formed escape.
pub(crate) fn escape(text: &[u8]) -> Option<(u8, &[u8])> {
    let [b'%', high, low, rest @ ..] = text else {
        return None;
    };
    Some((hex_digit(*high)? << 4 | hex_digit(*low)?, rest))
}

const fn hex_digit(digit: u8) -> Option<u8> {
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
}
