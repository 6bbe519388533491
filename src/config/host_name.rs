//! Names of hosts, with or without a port: `example.org`, `192.0.2.1:8008`, `[2001:db8::1]:8448`.
//!
//! The form is that of server names (Matrix spec, appendices, "Server Name"), and stricter in what can only be
//! a mistake: an empty label (`example..org`, and the final dot of a DNS name, which would end up in every user
//! id), an IPv6 address that is none, a port that is none.

use core::net::Ipv6Addr;

#[cfg(not(target_arch = "wasm32"))]
use super::pattern::{exactly, numbers};

/// Longest name, with its port.
pub(super) const MAX_BYTES: usize = 255;

/// Returns whether `text` can be a homeserver's `server_name`.
pub(super) fn is_server_name(text: &str) -> bool {
    is_host_and_port(text, "-")
}

/// Returns whether `text` can be the authority of a request. Host names inside a cluster may have underscores.
pub(super) fn is_authority(text: &str) -> bool {
    is_host_and_port(text, "-_")
}

/// A label consists of letters, digits and the characters of `others`.
fn is_host_and_port(text: &str, others: &str) -> bool {
    let in_label = |c: char| c.is_ascii_alphanumeric() || others.contains(c);
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => (host, Some(port)),
        _ => (text, None),
    };
    let is_host = match host.strip_prefix('[') {
        Some(ipv6) => ipv6
            .strip_suffix(']')
            .is_some_and(|ipv6| ipv6.parse::<Ipv6Addr>().is_ok()),
        None => host
            .split('.')
            .all(|label| !label.is_empty() && label.chars().all(in_label)),
    };
    is_host && port.is_none_or(is_port) && text.len() <= MAX_BYTES
}

fn is_port(text: &str) -> bool {
    let is_number = text.len() <= 5 && text.bytes().all(|b| b.is_ascii_digit());
    is_number && text.parse::<u16>().is_ok_and(|port| port > 0)
}

/// Returns the same rule as a regular expression, for the JSON Schema. A label consists of the characters `in_label`.
#[cfg(not(target_arch = "wasm32"))]
pub(super) fn pattern(in_label: &str) -> String {
    let label = format!("[{in_label}]+");
    let ipv6 = ipv6_pattern();
    let ports = numbers(1, u16::MAX.into()).join("|");
    // In at most five digits, with zeros before it or not.
    let port = format!("(?=[0-9]{{1,5}}$)0*({ports})");
    exactly(&format!(r"({label}(\.{label})*|\[({ipv6})\])(:{port})?"))
}

/// Returns the grammar `IPv6address` of RFC 3986, appendix A, as a regular expression.
#[cfg(not(target_arch = "wasm32"))]
fn ipv6_pattern() -> String {
    let h16 = "[0-9A-Fa-f]{1,4}";
    let byte = "(25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])";
    let ipv4 = format!(r"{byte}(\.{byte}){{3}}");
    // The last 32 bits, in either notation.
    let ls32 = format!("({h16}:{h16}|{ipv4})");
    let up_to = |groups: usize| match groups {
        0 => String::new(),
        _ => format!("(({h16}:){{0,{}}}{h16})?", groups - 1),
    };
    let mut alternatives = vec![format!("({h16}:){{6}}{ls32}")];
    for before in 0..=5 {
        let after = 5 - before;
        alternatives.push(format!("{}::({h16}:){{{after}}}{ls32}", up_to(before)));
    }
    alternatives.push(format!("{}::{h16}", up_to(6)));
    alternatives.push(format!("{}::", up_to(7)));
    alternatives.join("|")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_may_have_a_port() {
        for host in [
            "example.org",
            "Example.org",
            "localhost",
            "xn--bcher-kva.example",
            "192.0.2.1",
            "[2001:db8::1]",
            "[::ffff:192.0.2.1]",
        ] {
            for text in [
                host.to_owned(),
                format!("{host}:1"),
                format!("{host}:65535"),
            ] {
                assert!(is_server_name(&text) && is_authority(&text), "{text}");
            }
        }
        assert!(is_server_name(&"x".repeat(255)));
    }

    #[test]
    fn what_is_no_host_is_refused() {
        for text in [
            "",
            ".",
            "example..org",
            ".example.org",
            "example.org.",
            "example.org.:8448",
            "example.org:",
            "example.org:0",
            "example.org:65536",
            "example.org:084480",
            "example.org:+1",
            "example.org:http",
            "example.org:1:2",
            ":8448",
            "https://example.org",
            "https://example.org:8448",
            "//example.org",
            "example.org/",
            "example.org/path",
            "example.org?x",
            "example.org#x",
            "alice@example.org",
            "alice:secret@example.org:8448",
            "@alice:example.org",
            " example.org",
            "example.org ",
            "exam ple.org",
            "example.org\t",
            "example.org\n",
            "bücher.example",
            "2001:db8::1",
            "[]",
            "[::1",
            "::1]",
            "[:::]",
            "[fe80::1%eth0]",
            "[192.0.2.1]",
            "[::1]8448",
            "*.example.org",
            "a,b",
            "a|b",
        ] {
            assert!(!is_server_name(text) && !is_authority(text), "{text}");
        }
        assert!(!is_server_name(&"x".repeat(256)));
    }

    #[test]
    fn only_an_authority_may_have_underscores() {
        assert!(is_authority("mas_1:8080") && !is_server_name("mas_1:8080"));
    }
}
