//! The three roles of the module, one for each place in the traffic that it can take.
//!
//! A role says what a request needs, what a resolution makes of it, and what is learned from what passes.
//! Decisions are pure data and stand in files of their own (`gateway/policy.rs`, `introspection/request.rs`).
//! A role asks the [resolver](crate::resolver) and never calls MAS itself.

mod announcement;
pub mod body;
pub mod exchange;
pub mod gateway;
mod head;
pub mod introspection;
mod origin;
pub mod plugin;
pub mod provisioning;
pub mod series;

use crate::host::Streams;

/// Returns the status of the selected stream's response.
fn response_status(host: &impl Streams) -> Option<u16> {
    status(&host.response_header(":status").ok().flatten()?)
}

/// Reads a status, which is three digits (RFC 9110, section 15).
pub(crate) fn status(text: &[u8]) -> Option<u16> {
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
        assert_eq!(status(b"200"), Some(200));
        assert_eq!(status(b"999"), Some(999));
        for text in ["", "20", "2000", "2x0", "+20", " 20", "-20"] {
            assert_eq!(status(text.as_bytes()), None, "{text}");
        }
    }
}
