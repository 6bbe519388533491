//! Who made a response, by what Envoy says of it: its `ResponseCodeDetails`, as `%RESPONSE_CODE_DETAILS%` of an access log has
//! them.
//!
//! The non-obvious rule: Envoy answers in the place of a server for many reasons, and most of them leave open whether the server has
//! carried the request out. It may have the head while the client breaks its body off, or have answered with a status of 1xx and no
//! other. So the reasons are listed after which the server has not had the request, and any other counts as one after which it may.

/// Who made a response.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ResponseOrigin {
    /// The server behind Envoy.
    #[default]
    Upstream,
    /// Envoy: the server may have had the request, and its answer did not come.
    Lost,
    /// Envoy: the server has not had the request.
    Unsent,
}

/// Of a response that came from upstream.
const UPSTREAM: &[u8] = b"via_upstream";

/// Of one that Envoy gives without asking a server: there is none, the route has an answer, or a limiter refuses the head.
const UNSENT: [&[u8]; 6] = [
    b"no_healthy_upstream",
    b"cluster_not_found",
    b"route_not_found",
    b"direct_response",
    b"request_rate_limited",
    b"local_rate_limited",
];

/// Of one that a reset ended, before the kind of the reset.
const RESET: &[u8] = b"upstream_reset_before_response_started{";

/// What the kinds of resets have in their names after which nothing of the request was read upstream.
const UNREAD: [&[u8]; 5] = [
    b"connection_failure",
    b"connection_timeout",
    b"connect_error",
    b"refused_stream",
    b"overflow",
];

impl ResponseOrigin {
    /// Reads Envoy's details of a response.
    pub fn of_details(details: &[u8]) -> Self {
        if details == UPSTREAM {
            Self::Upstream
        } else if UNSENT.contains(&details) || details.strip_prefix(RESET).is_some_and(is_unread) {
            Self::Unsent
        } else {
            Self::Lost
        }
    }
}

/// Returns whether nothing was read upstream before a reset of this kind. What the transport says of it may follow.
fn is_unread(kind: &[u8]) -> bool {
    let name = kind.split(|byte| *byte == b'|').next().unwrap_or_default();
    let has = |part: &&[u8]| name.windows(part.len()).any(|window| window == *part);
    UNREAD.iter().any(has)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_envoy_says_of_a_response_tells_who_made_it() {
        let reset = |kind: &str| format!("upstream_reset_before_response_started{{{kind}}}");
        for (details, expected) in [
            ("via_upstream".to_owned(), ResponseOrigin::Upstream),
            ("no_healthy_upstream".to_owned(), ResponseOrigin::Unsent),
            ("cluster_not_found".to_owned(), ResponseOrigin::Unsent),
            ("route_not_found".to_owned(), ResponseOrigin::Unsent),
            ("direct_response".to_owned(), ResponseOrigin::Unsent),
            ("request_rate_limited".to_owned(), ResponseOrigin::Unsent),
            ("local_rate_limited".to_owned(), ResponseOrigin::Unsent),
            (
                reset("remote_connection_failure|refused"),
                ResponseOrigin::Unsent,
            ),
            (reset("connection_timeout"), ResponseOrigin::Unsent),
            (reset("remote_refused_stream_reset"), ResponseOrigin::Unsent),
            (reset("overflow"), ResponseOrigin::Unsent),
            (reset("connection_termination"), ResponseOrigin::Lost),
            (
                reset("connection_termination|buffer overflow"),
                ResponseOrigin::Lost,
            ),
            (reset("protocol_error|x"), ResponseOrigin::Lost),
        ] {
            let found = ResponseOrigin::of_details(details.as_bytes());
            assert_eq!(found, expected, "{details}");
        }
    }

    #[test]
    fn a_reason_that_is_not_listed_leaves_open_whether_the_server_had_the_request() {
        for details in [
            "response_timeout",
            "upstream_per_try_timeout",
            "stream_idle_timeout",
            "request_overall_timeout",
            // After a status of 1xx.
            "upstream_reset_after_response_started{connection_termination}",
            "upstream_reset_after_response_started{remote_connection_failure}",
            // The client's body or its trailers.
            "http1.codec_error",
            "request_payload_too_large",
            "matrix_edge_auth_not_active",
            "via_upstream ",
            "",
        ] {
            let found = ResponseOrigin::of_details(details.as_bytes());
            assert_eq!(found, ResponseOrigin::Lost, "{details}");
        }
    }
}
