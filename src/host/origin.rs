//! Who made a response, by what Envoy says of it: its `ResponseCodeDetails`, as `%RESPONSE_CODE_DETAILS%` of an access log has
//! them.
//!
//! The non-obvious rule: Envoy answers in the place of a server for many reasons, and only some of them leave open whether the
//! server has carried the request out. A reason that is not listed counts as one after which it has not.

/// Who made a response.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ResponseOrigin {
    /// The server behind Envoy.
    #[default]
    Upstream,
    /// Envoy: the server had the request, and its answer did not come.
    Lost,
    /// Envoy, for any other reason.
    Envoy,
}

/// Of a response that came from upstream.
const UPSTREAM: &[u8] = b"via_upstream";

/// Of one that a limit of time ended: of the route, of one try, of silence, or of the whole stream.
const TIMEOUTS: [&[u8]; 6] = [
    b"response_timeout",
    b"upstream_per_try_timeout",
    b"upstream_per_try_idle_timeout",
    b"upstream_max_stream_duration_reached",
    b"stream_idle_timeout",
    b"max_duration_timeout",
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
        let reset = details.strip_prefix(RESET);
        let is_unread = |kind: &[u8]| {
            let has = |name: &&[u8]| kind.windows(name.len()).any(|part| part == *name);
            UNREAD.iter().any(has)
        };
        if details == UPSTREAM {
            Self::Upstream
        } else if TIMEOUTS.contains(&details) || reset.is_some_and(|kind| !is_unread(kind)) {
            Self::Lost
        } else {
            Self::Envoy
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_envoy_says_of_a_response_tells_who_made_it() {
        for (details, expected) in [
            ("via_upstream", ResponseOrigin::Upstream),
            ("response_timeout", ResponseOrigin::Lost),
            ("upstream_per_try_timeout", ResponseOrigin::Lost),
            ("upstream_per_try_idle_timeout", ResponseOrigin::Lost),
            ("upstream_max_stream_duration_reached", ResponseOrigin::Lost),
            ("stream_idle_timeout", ResponseOrigin::Lost),
            ("max_duration_timeout", ResponseOrigin::Lost),
            (
                "upstream_reset_before_response_started{connection_termination}",
                ResponseOrigin::Lost,
            ),
            (
                "upstream_reset_before_response_started{protocol_error|x}",
                ResponseOrigin::Lost,
            ),
            (
                "upstream_reset_before_response_started{remote_connection_failure|refused}",
                ResponseOrigin::Envoy,
            ),
            (
                "upstream_reset_before_response_started{connection_timeout}",
                ResponseOrigin::Envoy,
            ),
            (
                "upstream_reset_before_response_started{remote_refused_stream_reset}",
                ResponseOrigin::Envoy,
            ),
            (
                "upstream_reset_before_response_started{overflow}",
                ResponseOrigin::Envoy,
            ),
            ("no_healthy_upstream", ResponseOrigin::Envoy),
            ("cluster_not_found", ResponseOrigin::Envoy),
            ("matrix_edge_auth_not_active", ResponseOrigin::Envoy),
            ("request_header_timeout", ResponseOrigin::Envoy),
            ("response_timeout ", ResponseOrigin::Envoy),
            ("", ResponseOrigin::Envoy),
        ] {
            let found = ResponseOrigin::of_details(details.as_bytes());
            assert_eq!(found, expected, "{details}");
        }
    }
}
