//! Paths that need a token, one for each endpoint that a route may be for.
//!
//! The non-obvious rule: a regular expression tells nothing of its paths but by those that it matches. So there is a path for each
//! expression of Synapse's documentation of workers, for each part of its admin API, and for each older version of the API.

use super::routes::WAITING;

/// The paths.
pub(super) const SAMPLES: [&str; 82] = [
    WAITING[0],
    WAITING[1],
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
    "/_synapse/admin/v1/event_reports",
    "/_synapse/admin/v1/federation/destinations",
    "/_synapse/admin/v1/media/example.org/a",
    "/_synapse/admin/v1/purge_history/!a:example.org",
    "/_synapse/admin/v1/registration_tokens",
    "/_synapse/admin/v1/rooms",
    "/_synapse/admin/v1/server_notices",
    "/_synapse/admin/v2/rooms/!a:example.org",
    "/_synapse/admin/v2/users/@a:example.org",
];

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use matrix_edge_auth::matrix::endpoint::{AuthRequirement, Method, classify};

    use super::*;
    use crate::check::rules::routes::PRIVATE;

    #[test]
    fn every_sample_needs_a_token() {
        for path in SAMPLES {
            let is_it = |method: &str| {
                let method = Method::from_bytes(method.as_bytes());
                let requirement = classify(path.as_bytes(), method);
                matches!(
                    requirement,
                    AuthRequirement::Admin | AuthRequirement::Required
                )
            };
            assert!(["GET", "POST"].into_iter().any(is_it), "{path}");
        }
    }

    #[test]
    fn each_sample_is_there_once() {
        let all: HashSet<&str> = SAMPLES.into_iter().collect();
        assert_eq!(all.len(), SAMPLES.len());
        for path in PRIVATE {
            assert!(all.contains(path), "{path}");
        }
    }
}
