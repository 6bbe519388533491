//! Which header names an identity may have.
//!
//! The module removes these headers from every request and sets them on some. So a name must mean nothing to
//! the client, to Envoy, or to any proxy and server behind: a client would miss `range` or `origin`, and a
//! user id in `x-envoy-retry-on` or `x-forwarded-for` would be taken for what it is not. All standard names
//! lack the `x-`; of those with it, the known ones are refused by the table below.
//!
//! A name has no underscore. Envoy can be told to drop such headers, and to some servers `x_user` is `x-user`.

#[cfg(not(target_arch = "wasm32"))]
use super::pattern::exactly;

/// Longest name.
pub(super) const MAX_BYTES: usize = 128;

/// Names that have a meaning, and for whom. One that ends in `-` stands for all that begin so.
const TAKEN: [(&str, &str); 47] = [
    ("x-accel-", "nginx acts on it"),
    ("x-akamai-", "Akamai writes it"),
    ("x-amz-", "AWS writes it"),
    ("x-amzn-", "AWS writes it"),
    ("x-appengine-", "Google Cloud writes it"),
    ("x-arr-", "IIS writes it"),
    ("x-azure-", "Azure writes it"),
    ("x-b3-", "it carries a Zipkin trace"),
    ("x-client-cert", "it carries a client certificate"),
    ("x-client-ip", "it carries the client's address"),
    ("x-client-trace-id", "Envoy acts on it"),
    ("x-cloud-trace-context", "it carries a Google Cloud trace"),
    ("x-cluster-client-ip", "it carries the client's address"),
    ("x-content-", "browsers act on it"),
    ("x-correlation-id", "it carries a trace"),
    ("x-csrf-token", "clients send it"),
    ("x-datadog-", "it carries a Datadog trace"),
    ("x-envoy-", "Envoy acts on it"),
    ("x-fastly-", "Fastly writes it"),
    (
        "x-forwarded",
        "proxies tell the client and its request by it",
    ),
    (
        "x-forwarded-",
        "proxies tell the client and its request by it",
    ),
    ("x-frame-options", "browsers act on it"),
    ("x-goog-", "Google Cloud writes it"),
    ("x-google-", "Google Cloud writes it"),
    ("x-host", "servers read it as the host"),
    ("x-http-", "servers read it as the method"),
    ("x-istio-", "Istio writes it"),
    ("x-mas-", "MAS acts on it"),
    ("x-method-override", "servers read it as the method"),
    ("x-middleware-", "Next.js acts on it"),
    ("x-ms-", "Azure writes it"),
    (
        "x-original-",
        "proxies tell the request before a rewrite by it",
    ),
    ("x-originating-ip", "it carries the client's address"),
    ("x-ot-", "it carries an OpenTracing trace"),
    ("x-proxy-", "proxies write it"),
    ("x-ratelimit-", "Envoy writes it"),
    ("x-real-ip", "it carries the client's address"),
    (
        "x-remote-",
        "servers read it as the client's address or user",
    ),
    (
        "x-request-id",
        "Envoy and servers tell requests apart by it",
    ),
    ("x-request-start", "it carries the time of the request"),
    ("x-requested-with", "browsers' scripts send it"),
    ("x-rewrite-", "servers read it as the path"),
    ("x-scheme", "servers read it as the scheme"),
    ("x-sendfile", "servers act on it"),
    ("x-ssl-", "it carries a client certificate"),
    ("x-true-client-ip", "it carries the client's address"),
    ("x-xsrf-token", "clients send it"),
];

/// Why a name that has the form cannot be used: it means something already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Taken {
    /// The name, or the beginning of all such names.
    pub name: &'static str,
    /// For whom.
    pub why: &'static str,
}

/// Returns whether a name is `x-` and lower-case letters, digits and hyphens.
pub(super) fn has_form(name: &str) -> bool {
    let is_allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    let has_own_part = name
        .strip_prefix("x-")
        .is_some_and(|rest| rest.bytes().any(|b| b != b'-'));
    has_own_part && name.len() <= MAX_BYTES && name.bytes().all(is_allowed)
}

/// Returns the row of the table that keeps an identity header from having this name; `None` if it is free.
pub(super) fn taken(name: &str) -> Option<Taken> {
    TAKEN
        .iter()
        .find(|(taken, _)| *taken == name || taken.ends_with('-') && name.starts_with(taken))
        .map(|&(name, why)| Taken { name, why })
}

/// Returns both rules as a regular expression, for the JSON Schema.
#[cfg(not(target_arch = "wasm32"))]
pub(super) fn pattern() -> String {
    let taken = TAKEN.map(|(name, _)| {
        let end = if name.ends_with('-') { "" } else { "$" };
        format!("{name}{end}")
    });
    let taken = taken.join("|");
    exactly(&format!("(?!{taken})x-[a-z0-9-]*[a-z0-9][a-z0-9-]*"))
}

/// Returns whether a lenient server may take the field name `name` for `expected`: whatever the case, and whatever the
/// separators.
#[inline]
pub(super) fn may_be(name: &[u8], expected: &str) -> bool {
    // Nearly always the lengths tell.
    name.len() == expected.len() && is_alike(name, expected)
}

fn is_alike(name: &[u8], expected: &str) -> bool {
    let plain = |byte: u8| {
        if byte.is_ascii_alphanumeric() {
            byte.to_ascii_lowercase()
        } else {
            b'-'
        }
    };
    name.is_ascii()
        && name
            .iter()
            .zip(expected.bytes())
            .all(|(found, expected)| plain(*found) == plain(expected))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_ones_own_are_usable() {
        for name in [
            "x-matrix-user-id",
            "x-matrix-device-id",
            "x-user",
            "x-client",
            "x-scope",
            "x-1",
            "x-hostess",
            "x-forward",
            "x-envoys",
            "x-original",
        ] {
            assert!(has_form(name) && taken(name).is_none(), "{name}");
        }
        assert!(has_form(&format!("x-{}", "a".repeat(126))));
    }

    #[test]
    fn a_name_begins_with_x_and_has_no_underscore() {
        let long = format!("x-{}", "a".repeat(127));
        for name in [
            "",
            "x",
            "x-",
            "x---",
            "user",
            "X-User",
            "x-User",
            "x_user",
            "x-user_id",
            "x-us er",
            "x-user\n",
            ":path",
            "authorization",
            "origin",
            "range",
            "content-encoding",
            "date",
            "keep-alive",
            "x-é",
            "x-a:b",
            "x-a,b",
            &long,
        ] {
            assert!(!has_form(name), "{name}");
        }
    }

    #[test]
    fn names_with_a_meaning_are_taken() {
        for name in [
            "x-forwarded-for",
            "x-forwarded-client-cert",
            "x-forwarded",
            "x-envoy-retry-on",
            "x-request-id",
            "x-real-ip",
            "x-b3-traceid",
            "x-ot-span-context",
            "x-http-method-override",
            "x-original-url",
            "x-original-forwarded-for",
            "x-rewrite-url",
            "x-mas-supports-device-id",
        ] {
            assert!(has_form(name) && taken(name).is_some(), "{name}");
        }
    }

    #[test]
    fn case_and_separators_make_no_other_name() {
        for name in [
            "x-matrix-user-id",
            "X-Matrix-User-Id",
            "x_matrix_user_id",
            "X_MATRIX-user_ID",
            "x.matrix-user~id",
        ] {
            assert!(may_be(name.as_bytes(), "x-matrix-user-id"), "{name}");
        }
        for name in [
            "",
            "x",
            "x-matrix-user-i",
            "x-matrix-user-id-",
            "-x-matrix-user-id",
            "x--matrix-user-id",
            "xmatrixuserid",
            "x-matrix-user-1d",
            "x\u{e9}matrix-user-id",
        ] {
            assert!(!may_be(name.as_bytes(), "x-matrix-user-id"), "{name}");
        }
        assert!(!may_be(b"x\xffuser", "x-user"));
    }

    #[test]
    fn the_table_is_sorted_and_each_row_can_be_met() {
        assert!(TAKEN.is_sorted());
        for (name, _) in TAKEN {
            let met = taken(&format!("{name}a")).or(taken(name));
            assert_eq!(met.map(|taken| taken.name), Some(name));
        }
    }
}
