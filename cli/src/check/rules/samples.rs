//! Paths that need a token, one for each endpoint that a route may be for.
//!
//! The non-obvious rule: a regular expression tells nothing of its paths but by those that it matches. So there is a path for each
//! line of the module's table that needs a token, under each version of the API, and more for what the table has one line for:
//! the endpoints of Synapse's documentation of workers, and the parts of its admin API.

use std::{collections::HashSet, sync::LazyLock};

use matrix_edge_auth::matrix::endpoint::patterns_with_token;

use super::routes::WAITING;

/// The paths.
pub(super) static SAMPLES: LazyLock<Vec<&'static str>> = LazyLock::new(|| {
    let mut seen = HashSet::new();
    let of_table = OF_TABLE.iter().map(String::as_str);
    let all = WAITING.into_iter().chain(KNOWN).chain(of_table);
    all.filter(|path| seen.insert(*path)).collect()
});

/// A path or two for each pattern of the table, under each version.
static OF_TABLE: LazyLock<Vec<String>> = LazyLock::new(|| {
    let patterns = patterns_with_token();
    patterns
        .iter()
        .flat_map(|pattern| of_pattern(pattern))
        .collect()
});

/// The versions of the API, and those of endpoints that have one alone.
const VERSIONS: [&str; 5] = ["v3", "r0", "api/v1", "unstable", "v1"];
const VERSION: &str = "{version}";
const OF_V1: [&str; 3] = ["/login/get_token", "/media/**", "/mutual_rooms/**"];

/// The paths for a pattern. One for all below a segment is for the segment, and for what is below it in the first version.
fn of_pattern(pattern: &str) -> Vec<String> {
    let is_of_v1 = OF_V1
        .iter()
        .any(|end| pattern.strip_prefix("/_matrix/client/{version}") == Some(end));
    let versions: &[&str] = match (is_of_v1, pattern.contains(VERSION)) {
        (true, _) => &["v1"],
        (_, true) => &VERSIONS,
        _ => &[""],
    };
    let filled = |pattern: &str, version: &str| {
        let path = pattern.replace(VERSION, version);
        path.replace("{}", "a").replace("{+}", "a")
    };
    let (whole, is_above) = match pattern.strip_suffix("/**") {
        Some(whole) => (whole, true),
        None => (pattern, false),
    };
    let below = versions.first().filter(|_| is_above);
    let below = below.map(|version| filled(&format!("{whole}/a"), version));
    let own = versions.iter().map(|version| filled(whole, version));
    own.chain(below).collect()
}

/// Paths of endpoints that the table does not tell apart, or that are named as clients name them.
const KNOWN: [&str; 95] = [
    "/_matrix/client/api/v1/initialSync",
    "/_matrix/client/api/v1/rooms/!a:example.org/send/m.room.message",
    "/_matrix/client/r0/rooms/!a:example.org/send/m.room.message/1",
    "/_matrix/client/r0/sync",
    "/_matrix/client/unstable/org.matrix.msc3814.v1/dehydrated_device",
    "/_matrix/client/unstable/org.matrix.msc4140/delayed_events",
    "/_matrix/client/v1/media/config",
    "/_matrix/client/v1/media/download/example.org/a",
    "/_matrix/client/v1/media/preview_url",
    "/_matrix/client/v1/media/thumbnail/example.org/a",
    "/_matrix/client/v1/rooms/!a:example.org/hierarchy",
    "/_matrix/client/v1/rooms/!a:example.org/relations/$1",
    "/_matrix/client/v1/rooms/!a:example.org/threads",
    "/_matrix/client/v1/rooms/!a:example.org/timestamp_to_event",
    "/_matrix/client/v3/account/3pid",
    "/_matrix/client/v3/account/whoami",
    "/_matrix/client/v3/admin/whois/@a:example.org",
    "/_matrix/client/v3/capabilities",
    "/_matrix/client/v3/createRoom",
    "/_matrix/client/v3/delete_devices",
    "/_matrix/client/v3/devices",
    "/_matrix/client/v3/devices/A",
    "/_matrix/client/v3/directory/list/room/!a:example.org",
    "/_matrix/client/v3/directory/room/%23a%3Aexample.org",
    "/_matrix/client/v3/events",
    "/_matrix/client/v3/initialSync",
    "/_matrix/client/v3/join/!a:example.org",
    "/_matrix/client/v3/joined_rooms",
    "/_matrix/client/v3/keys/changes",
    "/_matrix/client/v3/keys/claim",
    "/_matrix/client/v3/keys/device_signing/upload",
    "/_matrix/client/v3/keys/query",
    "/_matrix/client/v3/keys/signatures/upload",
    "/_matrix/client/v3/keys/upload",
    "/_matrix/client/v3/knock/!a:example.org",
    "/_matrix/client/v3/notifications",
    "/_matrix/client/v3/presence/@a:example.org/status",
    "/_matrix/client/v3/profile/@a:example.org/displayname",
    "/_matrix/client/v3/pushers",
    "/_matrix/client/v3/pushrules/",
    "/_matrix/client/v3/room_keys/keys",
    "/_matrix/client/v3/room_keys/version",
    "/_matrix/client/v3/rooms/!a:example.org/aliases",
    "/_matrix/client/v3/rooms/!a:example.org/context/$1",
    "/_matrix/client/v3/rooms/!a:example.org/event/$1",
    "/_matrix/client/v3/rooms/!a:example.org/initialSync",
    "/_matrix/client/v3/rooms/!a:example.org/invite",
    "/_matrix/client/v3/rooms/!a:example.org/join",
    "/_matrix/client/v3/rooms/!a:example.org/joined_members",
    "/_matrix/client/v3/rooms/!a:example.org/leave",
    "/_matrix/client/v3/rooms/!a:example.org/members",
    "/_matrix/client/v3/rooms/!a:example.org/messages",
    "/_matrix/client/v3/rooms/!a:example.org/read_markers",
    "/_matrix/client/v3/rooms/!a:example.org/receipt/m.read/$1",
    "/_matrix/client/v3/rooms/!a:example.org/redact/$1/1",
    "/_matrix/client/v3/rooms/!a:example.org/report/$1",
    "/_matrix/client/v3/rooms/!a:example.org/send/m.room.message/1",
    "/_matrix/client/v3/rooms/!a:example.org/state",
    "/_matrix/client/v3/rooms/!a:example.org/state/m.room.name",
    "/_matrix/client/v3/rooms/!a:example.org/typing/@a:example.org",
    "/_matrix/client/v3/rooms/!a:example.org/upgrade",
    "/_matrix/client/v3/search",
    "/_matrix/client/v3/sendToDevice/m.room.encrypted/1",
    "/_matrix/client/v3/thirdparty/protocols",
    "/_matrix/client/v3/user/@a:example.org/account_data/m.direct",
    "/_matrix/client/v3/user/@a:example.org/filter",
    "/_matrix/client/v3/user/@a:example.org/rooms/!a:example.org/tags",
    "/_matrix/client/v3/user_directory/search",
    "/_matrix/client/v3/voip/turnServer",
    "/_matrix/media/r0/upload",
    "/_matrix/media/v1/create",
    "/_matrix/media/v3/config",
    "/_matrix/media/v3/preview_url",
    "/_matrix/media/v3/upload",
    "/_synapse/admin/v1/account_validity/validity",
    "/_synapse/admin/v1/background_updates/status",
    "/_synapse/admin/v1/deactivate/@a:example.org",
    "/_synapse/admin/v1/event_reports",
    "/_synapse/admin/v1/federation/destinations",
    "/_synapse/admin/v1/join/!a:example.org",
    "/_synapse/admin/v1/media/example.org/a",
    "/_synapse/admin/v1/purge_history/!a:example.org",
    "/_synapse/admin/v1/registration_tokens",
    "/_synapse/admin/v1/reset_password/@a:example.org",
    "/_synapse/admin/v1/rooms",
    "/_synapse/admin/v1/rooms/!a:example.org/members",
    "/_synapse/admin/v1/send_server_notice",
    "/_synapse/admin/v1/statistics/users/media",
    "/_synapse/admin/v1/suspend/@a:example.org",
    "/_synapse/admin/v1/user/@a:example.org/media",
    "/_synapse/admin/v1/users/@a:example.org/admin",
    "/_synapse/admin/v1/whois/@a:example.org",
    "/_synapse/admin/v2/rooms/!a:example.org",
    "/_synapse/admin/v2/users",
    "/_synapse/admin/v2/users/@a:example.org",
];

#[cfg(test)]
mod tests {
    use matrix_edge_auth::matrix::endpoint::{Decider, Endpoints, Method};

    use super::*;
    use crate::check::rules::{routes::PRIVATE, tokens::needs_token};

    #[test]
    fn every_sample_needs_a_token() {
        for path in SAMPLES.iter() {
            assert!(needs_token(path), "{path}");
        }
    }

    #[test]
    fn each_sample_is_there_once() {
        let all: HashSet<&str> = SAMPLES.iter().copied().collect();
        assert_eq!(all.len(), SAMPLES.len());
        for path in PRIVATE {
            assert!(all.contains(path), "{path}");
        }
    }

    /// The table itself says which line decides about a sample.
    #[test]
    fn each_line_that_needs_a_token_has_a_sample() {
        let endpoints = Endpoints::default();
        let decider = |path: &str, method| endpoints.explain(path.as_bytes(), method).decider;
        let methods = [Method::Get, Method::Post, Method::Put, Method::Delete];
        let deciders: Vec<Decider> = SAMPLES
            .iter()
            .flat_map(|path| methods.map(|method| decider(path, method)))
            .collect();
        for pattern in patterns_with_token() {
            let is_it = |decider: &Decider| match decider {
                Decider::Line { family, path } => {
                    pattern.contains(family.unwrap_or_default()) && pattern.ends_with(path)
                }
                Decider::Family { name } => pattern.ends_with(&format!("/{name}/**")),
                _ => false,
            };
            assert!(deciders.iter().any(is_it), "{pattern}");
        }
    }
}
