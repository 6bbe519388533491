//! Replies, byte for byte as the recorded Synapse gives them.

use std::collections::BTreeSet;

use super::*;
use serde::Deserialize;

/// An exchange with a real Synapse 1.163.2.
#[derive(Deserialize)]
struct Exchange {
    name: String,
    request: String,
    status: String,
    response_headers: Vec<String>,
    response_body: String,
}

impl Exchange {
    /// Status, and the body out of its one chunk. `None`: Synapse never answered.
    fn error(&self) -> Option<(u16, &str)> {
        let status = self.status.split(' ').nth(1)?.parse().unwrap();
        let body = self.response_body.lines().nth(1).unwrap_or("");
        (status >= 400).then_some((status, body))
    }

    fn header(&self, name: &str) -> Option<&str> {
        self.response_headers.iter().find_map(|field| {
            let (field_name, value) = field.split_once(": ")?;
            field_name.eq_ignore_ascii_case(name).then_some(value)
        })
    }
}

const RECORDED: [Rejection; 13] = [
    Rejection::IntrospectionFailed,
    Rejection::InvalidHeader,
    Rejection::InvalidUsername,
    Rejection::Internal,
    Rejection::MissingToken,
    Rejection::Mixed,
    Rejection::MultipleDevices,
    Rejection::NoApiScope,
    Rejection::NotActive,
    Rejection::NotAscii,
    Rejection::NotServerAdmin,
    Rejection::SeveralAuthorizations,
    Rejection::Unrecognized,
];

/// Exchanges whose error comes from an endpoint of Synapse, and never from the edge.
const SYNAPSE_ALONE: [&str; 21] = [
    "admin-users-admin-token",
    "admin-users-compat-admin-token",
    "fault-active-nouser-whoami",
    "keysquery-token-in-form-body",
    "keysquery-token-in-multipart-body",
    "masdown-auth_metadata-wellformed",
    "media-dl-authed-valid",
    "media-dl-authed-valid-query",
    "media-dl-legacy-basic",
    "media-dl-legacy-garbage",
    "media-dl-legacy-inactive",
    "media-dl-legacy-lowercase",
    "media-dl-legacy-no-token",
    "media-dl-legacy-valid",
    "media-dl-legacy-valid-query",
    "media-thumb-authed-valid",
    "media-thumb-authed-valid-query",
    "synapse-mas-endpoint-user-token",
    "synapse-register-POST",
    "whoami-POST-method",
    "whoami-absolute-form",
];

#[test]
fn replies_are_the_recorded_ones() {
    let mut seen = BTreeSet::new();
    let mut unmatched = BTreeSet::new();
    for line in include_str!("../../../tests/wire/synapse.jsonl").lines() {
        let exchange: Exchange = serde_json::from_str(line).unwrap();
        let Some((status, body)) = exchange.error() else {
            continue;
        };
        let target = exchange.request.split(' ').nth(1).unwrap().as_bytes();
        let is_head = exchange.request.starts_with("HEAD ");
        let same = |rejection: &&Rejection| {
            let reply = rejection.reply(Cors::of(target));
            reply.status == status
                && (is_head || reply.body == body.as_bytes())
                && reply.headers.iter().all(|(name, value)| {
                    // Synapse does not say when to come back; the edge does.
                    let value = match *name {
                        RETRY_AFTER => return true,
                        EXPOSE_HEADERS if status == 503 => value.strip_suffix(", Retry-After"),
                        _ => Some(&**value),
                    };
                    value.is_some() && exchange.header(name) == value
                })
        };
        match RECORDED.iter().find(same) {
            Some(rejection) => drop(seen.insert(rejection.reason())),
            None => drop(unmatched.insert(exchange.name)),
        }
    }
    assert_eq!(unmatched, SYNAPSE_ALONE.map(str::to_owned).into());
    // Internal and NotAscii read the same, so one of them is never found.
    assert_eq!(seen.len(), RECORDED.len() - 1, "{seen:?}");
}

#[test]
fn every_header_that_synapse_sends_is_there() {
    let reply = Rejection::MissingToken.reply(Cors::Standard);
    let line = include_str!("../../../tests/wire/synapse.jsonl")
        .lines()
        .find(|line| line.contains(r#""name": "whoami-HEAD-no-token""#))
        .unwrap();
    let exchange: Exchange = serde_json::from_str(line).unwrap();
    let names: BTreeSet<String> = exchange
        .response_headers
        .iter()
        .map(|field| field.split(':').next().unwrap().to_ascii_lowercase())
        // Of the server itself, and of the connection.
        .filter(|name| !["server", "date", "transfer-encoding"].contains(&name.as_str()))
        .collect();
    assert_eq!(
        names,
        reply
            .headers
            .iter()
            .map(|(name, _)| (*name).to_owned())
            .collect()
    );
}

#[test]
fn rendezvous_paths_have_their_own_cors_headers() {
    let allowed = |target: &str| {
        let reply = Rejection::MissingToken.reply(Cors::of(target.as_bytes()));
        let header = |name| {
            let (_, value) = reply
                .headers
                .iter()
                .find(|header| header.0 == name)
                .unwrap();
            value.to_string()
        };
        (
            header("access-control-allow-headers"),
            header("access-control-expose-headers"),
        )
    };
    let own = (
        "Content-Type, If-Match, If-None-Match".to_owned(),
        "Synapse-Trace-Id, Server, ETag".to_owned(),
    );
    let unstable = "/_matrix/client/unstable/org.matrix.msc4108/rendezvous";
    assert_eq!(allowed(unstable), own);
    assert_eq!(allowed(&format!("{unstable}?access_token=x")), own);
    assert_eq!(allowed("/_synapse/client/rendezvous/abc"), own);
    for other in [
        &format!("{unstable}/x"),
        "/x?/_synapse/client/rendezvous",
        "/",
        "",
    ] {
        assert_ne!(allowed(other), own, "{other}");
    }
}

#[test]
fn a_limit_is_given_in_milliseconds_and_in_whole_seconds() {
    let reply = Rejection::LimitExceeded {
        retry_after_ms: 1001,
    }
    .reply(Cors::Standard);
    let body =
        r#"{"errcode":"M_LIMIT_EXCEEDED","error":"Too Many Requests","retry_after_ms":1001}"#;
    assert_eq!((reply.status, &*reply.body), (429, body.as_bytes()));
    assert_eq!(reply.headers.last(), Some(&(RETRY_AFTER, "2".into())));
    let exposed = (
        EXPOSE_HEADERS,
        "Synapse-Trace-Id, Server, Retry-After".into(),
    );
    assert!(reply.headers.contains(&exposed), "{:?}", reply.headers);
}

#[test]
fn reasons_tell_rejections_apart() {
    let others = [
        Rejection::InvalidDevice,
        Rejection::LimitExceeded { retry_after_ms: 0 },
        Rejection::TooManyForged,
    ];
    let reasons: BTreeSet<_> = RECORDED
        .iter()
        .chain(&others)
        .map(Rejection::reason)
        .collect();
    assert_eq!(reasons.len(), RECORDED.len() + others.len());
    assert!(reasons.iter().eq(RejectionReason::ALL));
}
