//! The status of a response: three digits (RFC 9110, section 15), as Envoy hands them over in `:status`.

/// Reads a status. `None`: it is not three digits.
pub fn parse(text: &[u8]) -> Option<u16> {
    let [hundreds, tens, ones] = *text else {
        return None;
    };
    let digit = |byte: u8| byte.is_ascii_digit().then(|| u16::from(byte - b'0'));
    Some(digit(hundreds)? * 100 + digit(tens)? * 10 + digit(ones)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_is_three_digits() {
        assert_eq!(parse(b"200"), Some(200));
        assert_eq!(parse(b"999"), Some(999));
        for text in ["", "20", "2000", "2x0", "+20", " 20", "-20"] {
            assert_eq!(parse(text.as_bytes()), None, "{text}");
        }
    }
}
