//! The built-in endpoint table. To add an endpoint, add a line.
//!
//! Sources: the servlets that Synapse 1.163.2 registers with `matrix_authentication_service`
//! enabled, each one asked with no token and with a bad one; the routes of MAS; the Matrix spec and
//! `ruma-client-api` for endpoints that Synapse does not have yet.

use std::cell::LazyCell;

use super::{
    AuthRequirement::{
        self, Admin, Appservice, Foreign, MasOwned, None as Nothing, Optional, Required,
    },
    Method,
    family::{
        Endpoint, Family, all, any, delete, find, get, listed, post, put, required, requirement,
    },
};

/// `/_matrix/client/{version}/...` by the first segment after the version, in byte order. Versions
/// are not told apart: what exists under one of them needs the same under another.
const CLIENT: &[Family] = &[
    listed(
        "account",
        &[
            any("account/3pid", Required),
            any("account/3pid/add", Required),
            any("account/3pid/bind", Required),
            any("account/3pid/delete", Required),
            any("account/3pid/email/requestToken", Nothing),
            any("account/3pid/msisdn/requestToken", Nothing),
            any("account/3pid/unbind", Required),
            any("account/deactivate", Optional),
            any("account/password", Optional),
            any("account/password/email/requestToken", Nothing),
            any("account/password/msisdn/requestToken", Nothing),
            any("account/whoami", Required),
        ],
    ),
    listed(
        "account_validity",
        &[
            // The renewal token in the query is the credential.
            any("account_validity/renew", Nothing),
            any("account_validity/send_mail", Required),
        ],
    ),
    required("admin"),
    listed("appservice", &[post("appservice/{}/ping", Appservice)]),
    // Pages for a browser, in the middle of user-interactive authentication.
    listed("auth", &[any("auth/{}/fallback/web", Nothing)]),
    listed("auth_metadata", &[any("auth_metadata", Nothing)]),
    required("capabilities"),
    required("createRoom"),
    required("delete_devices"),
    required("devices"),
    listed(
        "directory",
        &[
            delete("directory/list/appservice/{}/{}", Required),
            put("directory/list/appservice/{}/{}", Appservice),
            get("directory/list/room/{}", Nothing),
            put("directory/list/room/{}", Required),
            get("directory/room/{}", Nothing),
            put("directory/room/{}", Required),
            delete("directory/room/{}", Required),
        ],
    ),
    required("events"),
    required("initialSync"),
    required("join"),
    required("joined_rooms"),
    required("keys"),
    required("knock"),
    listed(
        "login",
        &[
            // Not of MAS.
            any("login/get_token", Required),
            any("login/**", MasOwned),
        ],
    ),
    all("logout", MasOwned),
    required("media"),
    required("mutual_rooms"),
    required("notifications"),
    listed("password_policy", &[any("password_policy", Nothing)]),
    required("presence"),
    // The spec says none, but Synapse refuses a bad token, and can be told to require one
    // (`require_auth_for_profile_requests`).
    listed(
        "profile",
        &[
            get("profile/{}", Optional),
            get("profile/{}/{}", Optional),
            put("profile/{}/{}", Required),
            delete("profile/{}/{}", Required),
        ],
    ),
    // Reading the list needs a token unless `allow_public_rooms_without_auth` is set.
    listed(
        "publicRooms",
        &[get("publicRooms", Optional), post("publicRooms", Required)],
    ),
    listed(
        "pushers",
        &[
            any("pushers", Required),
            // A link in mails: the query's access_token is a macaroon that deletes one pusher.
            any("pushers/remove", Foreign),
            any("pushers/set", Required),
        ],
    ),
    required("pushrules"),
    all("refresh", MasOwned),
    listed(
        "register",
        &[
            // Under MAS only `m.login.application_service`.
            post("register", Appservice),
            any("register/available", Nothing),
            any("register/email/requestToken", Nothing),
            any("register/m.login.registration_token/validity", Nothing),
            any("register/msisdn/requestToken", Nothing),
        ],
    ),
    required("room_keys"),
    listed("room_summary", &[get("room_summary/{}", Optional)]),
    required("rooms"),
    required("search"),
    required("sendToDevice"),
    required("sync"),
    required("thirdparty"),
    listed("tokenrefresh", &[any("tokenrefresh", Nothing)]),
    required("user"),
    required("user_directory"),
    required("users"),
    required("voip"),
];

/// `/_matrix/client/unstable/{feature}/...` by feature, in byte order; the paths are those after
/// it.
const UNSTABLE_FEATURES: &[Family] = &[
    listed("fi.mau.msc2659", &[post("appservice/{}/ping", Appservice)]),
    listed(
        "im.nheko.summary",
        &[
            get("rooms/{}/summary", Optional),
            get("summary/{}", Optional),
        ],
    ),
    listed(
        "io.element.msc4195",
        &[
            any("rtc/livekit/delegate_delayed_leave", Required),
            any("rtc/livekit/get_token", Required),
        ],
    ),
    listed("io.element.msc4306", &[any("rooms/**", Required)]),
    listed(
        "io.element.msc4308",
        &[any("thread_subscriptions", Required)],
    ),
    // Whoever knows the id may use the session. Creating one may need a token (`msc4388_mode`).
    listed(
        "io.element.msc4388",
        &[
            get("rendezvous", Optional),
            post("rendezvous", Optional),
            any("rendezvous/{}", Nothing),
        ],
    ),
    listed("io.element.msc4502", &[any("rooms/**", Required)]),
    listed(
        "io.element.msc4512",
        &[post("appservice/fed_proxy", Appservice)],
    ),
    listed(
        "org.matrix.msc1763",
        &[any("retention/configuration", Required)],
    ),
    listed("org.matrix.msc2432", &[any("rooms/**", Required)]),
    listed("org.matrix.msc2858", &[any("login/**", MasOwned)]),
    listed("org.matrix.msc2918", &[any("refresh", MasOwned)]),
    listed("org.matrix.msc2946", &[any("rooms/**", Required)]),
    listed("org.matrix.msc2965", &[any("auth_metadata", Nothing)]),
    listed("org.matrix.msc3030", &[any("rooms/**", Required)]),
    listed(
        "org.matrix.msc3231",
        &[any(
            "register/org.matrix.msc3231.login.registration_token/validity",
            Nothing,
        )],
    ),
    listed("org.matrix.msc3391", &[any("user/**", Required)]),
    listed("org.matrix.msc3720", &[any("account_status", Required)]),
    listed(
        "org.matrix.msc3814.v1",
        &[any("dehydrated_device/**", Required)],
    ),
    listed("org.matrix.msc3856", &[any("rooms/**", Required)]),
    listed("org.matrix.msc3882", &[any("login/get_token", Required)]),
    listed("org.matrix.msc3916", &[any("media/**", Required)]),
    listed("org.matrix.msc3983", &[any("keys/claim", Required)]),
    listed("org.matrix.msc4108", &[any("rendezvous", Nothing)]),
    listed(
        "org.matrix.msc4140",
        &[
            get("delayed_events", Required),
            get("delayed_events/{}", Required),
            // Whoever knows the id may act on the event, but a bad token is refused.
            post("delayed_events/{}", Optional),
            post("delayed_events/{}/{}", Optional),
            any("rooms/**", Required),
        ],
    ),
    listed("org.matrix.msc4143", &[any("rtc/transports", Required)]),
    listed("org.matrix.msc4151", &[any("rooms/**", Required)]),
    listed("org.matrix.msc4260", &[any("users/**", Required)]),
    listed("org.matrix.msc4536", &[any("profile/query", Required)]),
    listed("org.matrix.simplified_msc3575", &[any("sync", Required)]),
    listed(
        "uk.half-shot.msc2666",
        &[any("user/mutual_rooms", Required)],
    ),
    listed(
        "uk.tcpip.msc4133",
        &[
            get("profile/{}/{}", Optional),
            put("profile/{}/{}", Required),
            delete("profile/{}/{}", Required),
        ],
    ),
    listed("uk.timedout.msc4323", &[any("admin/**", Required)]),
    listed("xyz.amorgan.knock", &[any("knock/{}", Required)]),
];

/// `/_matrix/media/{version}/...` by the first segment after the version, in byte order.
const MEDIA: &[Family] = &[
    required("config"),
    required("create"),
    // Media without authentication, until servers freeze it.
    all("download", Nothing),
    required("preview_url"),
    all("thumbnail", Nothing),
    required("upload"),
];

/// `/_matrix/media/unstable/{feature}/...`, in byte order.
const UNSTABLE_MEDIA_FEATURES: &[Family] = &[listed(
    "fi.mau.msc2246",
    &[any("create", Required), any("upload/{}/{}", Required)],
)];

/// Everything else, by the whole path; the first match counts.
const ELSEWHERE: &[Endpoint] = &[
    any("/", Nothing),
    any("/health", Nothing),
    // Synapse.
    any("/_synapse/admin/v1/server_version", Nothing),
    any("/_synapse/admin/**", Admin),
    any("/_synapse/client/federation_whitelist", Required),
    // The same macaroon as in `pushers/remove`, for one-click unsubscription (RFC 8058).
    any("/_synapse/client/unsubscribe", Foreign),
    // Single sign-on pages and rendezvous sessions.
    any("/_synapse/client/**", Nothing),
    // Matrix APIs for others than clients.
    any("/_matrix/app/**", Foreign),
    // The query's access_token is an OpenID token; widgets and call services ask on the client's
    // port.
    any("/_matrix/federation/v1/openid/userinfo", Foreign),
    // Signed by the other homeserver (`X-Matrix`).
    any("/_matrix/federation/**", Nothing),
    any("/_matrix/identity/**", Foreign),
    any("/_matrix/key/**", Nothing),
    any("/_matrix/push/**", Nothing),
    any("/_matrix/static/**", Nothing),
    // MAS.
    any("/.well-known/change-password", MasOwned),
    any("/.well-known/openid-configuration", MasOwned),
    any("/.well-known/webfinger", MasOwned),
    any("/.well-known/**", Nothing),
    any("/account/**", MasOwned),
    any("/api/**", MasOwned),
    any("/assets/**", MasOwned),
    any("/authorize/**", MasOwned),
    any("/complete-compat-sso/**", MasOwned),
    any("/consent/**", MasOwned),
    any("/device/**", MasOwned),
    any("/graphql/**", MasOwned),
    any("/link", MasOwned),
    any("/login", MasOwned),
    any("/logout", MasOwned),
    any("/oauth2/**", MasOwned),
    any("/recover/**", MasOwned),
    any("/register/**", MasOwned),
    any("/upstream/**", MasOwned),
];

/// What the table says of `path`.
pub(super) fn classify<F>(path: &[u8], method: &LazyCell<Method, F>) -> AuthRequirement
where
    F: FnOnce() -> Method,
{
    let (families, features, rest) = if let Some(rest) = path.strip_prefix(b"/_matrix/client/") {
        (CLIENT, UNSTABLE_FEATURES, rest)
    } else if let Some(rest) = path.strip_prefix(b"/_matrix/media/") {
        (MEDIA, UNSTABLE_MEDIA_FEATURES, rest)
    } else {
        return requirement(ELSEWHERE, path, method).unwrap_or(Optional);
    };
    // `/_matrix/client/versions` has no version, and is optional as well.
    let Some(rest) = after_version(rest) else {
        return Optional;
    };
    if let Some(family) = find(families, rest) {
        return requirement(family.endpoints, rest, method).unwrap_or(family.otherwise);
    }
    let feature = find(features, rest).zip(after_segment(rest));
    feature
        .and_then(|(feature, rest)| requirement(feature.endpoints, rest, method))
        .unwrap_or(Optional)
}

/// The path after its version: `r0`, `v1` and higher, `unstable`, and `api/v1` of long ago.
pub(in crate::matrix) fn after_version(path: &[u8]) -> Option<&[u8]> {
    let path = path.strip_prefix(b"api/").unwrap_or(path);
    match path {
        [b'r', b'0', b'/', rest @ ..] => Some(rest),
        [b'v', rest @ ..] => {
            let digits = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
            let rest = rest.get(digits..)?.strip_prefix(b"/")?;
            (digits > 0).then_some(rest)
        }
        _ => path.strip_prefix(b"unstable/"),
    }
}

fn after_segment(path: &[u8]) -> Option<&[u8]> {
    let slash = path.iter().position(|&byte| byte == b'/')?;
    path.get(slash + 1..)
}

#[cfg(test)]
mod tests {
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;

    #[test]
    fn families_are_in_byte_order() {
        for families in [CLIENT, UNSTABLE_FEATURES, MEDIA, UNSTABLE_MEDIA_FEATURES] {
            for pair in families.windows(2) {
                assert!(
                    pair[0].name < pair[1].name,
                    "{} before {}",
                    pair[0].name,
                    pair[1].name
                );
            }
        }
    }

    #[test]
    fn endpoints_of_a_family_begin_with_its_name() {
        for family in CLIENT.iter().chain(MEDIA) {
            for endpoint in family.endpoints {
                assert_eq!(endpoint.path.split('/').next(), Some(family.name));
            }
        }
    }

    #[test]
    fn no_line_is_shadowed_by_one_before() {
        let lists = [CLIENT, UNSTABLE_FEATURES, MEDIA, UNSTABLE_MEDIA_FEATURES]
            .into_iter()
            .flatten()
            .map(|family| family.endpoints)
            .chain([ELSEWHERE]);
        for list in lists {
            for (index, line) in list.iter().enumerate() {
                let path = line.path.replace("{}", "x").replace("**", "x/y");
                let first = list
                    .iter()
                    .position(|other| {
                        other.matches_path(path.as_bytes())
                            && (other.method.is_none() || other.method == line.method)
                    })
                    .unwrap();
                assert_eq!(first, index, "{} never counts", line.path);
            }
        }
    }
}
