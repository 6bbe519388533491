//! The built-in endpoint table. To add an endpoint, add a line.
//!
//! Sources: the servlets that Synapse 1.163.2 registers with `matrix_authentication_service`
//! enabled, each one asked with no token and with a bad one; the routes of MAS; the Matrix spec and
//! `ruma-client-api` for endpoints that Synapse does not have yet. The comparison with the Synapse
//! that is installed is a test: `tests/synapse/servlets.rs`.

#[cfg(not(target_arch = "wasm32"))]
use super::line::find_line;
use super::{
    Class, Served,
    family::{Family, all, find, listed, required, required_but},
    line::{Line, any, delete, get, post, put, requirement, resource},
    method::Method::{self, Delete, Get, Post, Put},
    requirement::AuthRequirement::{
        self, Admin, Appservice, Foreign, MasOwned, None as Nothing, Optional, Required, Unknown,
    },
};
use crate::text::scan::{after, position};

/// The methods that Synapse has handlers for. It refuses all others on every path.
const EVERY: &[Method] = &[Get, Post, Put, Delete];

/// What Synapse says of an empty segment where it wants an id: 400, before it looks at the token. Elsewhere it takes
/// an empty segment like any other.
const EMPTY_SEGMENT: AuthRequirement = Nothing;

/// `/_matrix/client/{version}/...` by the first segment after the version, in byte order. Versions
/// are not told apart: what exists under one of them needs the same under another.
const CLIENT: &[Family] = &[
    listed(
        "account",
        &[Get, Post],
        &[
            // Every client asks for it as it starts.
            any("account/whoami", Required),
            // Under MAS a 404 before any look at a token.
            post("account/3pid", Nothing),
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
        ],
    ),
    listed(
        "account_validity",
        &[Get, Post],
        &[
            // The renewal token in the query is the credential.
            any("account_validity/renew", Nothing),
            any("account_validity/send_mail", Required),
        ],
    ),
    required_but("admin", &[Get, Put], &[any("admin/whois/", EMPTY_SEGMENT)]),
    listed(
        "appservice",
        &[Post],
        &[post("appservice/{}/ping", Appservice)],
    ),
    // Pages for a browser, in the middle of user-interactive authentication.
    listed(
        "auth",
        &[Get, Post],
        &[any("auth/{}/fallback/web", Nothing)],
    ),
    listed("auth_metadata", &[Get], &[any("auth_metadata", Nothing)]),
    required("capabilities", &[Get]),
    required("createRoom", &[Post, Put]),
    required("delete_devices", &[Post]),
    required("devices", &[Get, Put, Delete]),
    listed(
        "directory",
        &[Get, Put, Delete],
        &[
            delete("directory/list/appservice/{}/{}", Required),
            put("directory/list/appservice/{}/{}", Appservice),
            get("directory/list/room/{}", Nothing),
            put("directory/list/room/{}", Required),
            get("directory/room/{}", Nothing),
            any("directory/room/", EMPTY_SEGMENT),
            put("directory/room/{}", Required),
            delete("directory/room/{}", Required),
        ],
    ),
    required("events", &[Get]),
    required("initialSync", &[Get]),
    required("join", &[Post, Put]),
    required("joined_rooms", &[Get]),
    required("keys", &[Get, Post]),
    required("knock", &[Post]),
    listed(
        "login",
        &[Get, Post],
        &[
            // Not of MAS.
            any("login/get_token", Required),
            any("login/**", MasOwned),
        ],
    ),
    all("logout", &[Post], MasOwned),
    required_but(
        "media",
        &[Get],
        &[
            any("media/download//**", EMPTY_SEGMENT),
            any("media/thumbnail//**", EMPTY_SEGMENT),
        ],
    ),
    required("mutual_rooms", &[Get]),
    required("notifications", &[Get]),
    listed(
        "password_policy",
        &[Get],
        &[any("password_policy", Nothing)],
    ),
    required("presence", &[Get, Put]),
    // The spec says none, but Synapse refuses a bad token, and can be told to require one
    // (`require_auth_for_profile_requests`).
    listed(
        "profile",
        &[Get, Put, Delete],
        &[
            get("profile/{}", Optional),
            get("profile/{}/{}", Optional),
            any("profile//{}", EMPTY_SEGMENT),
            put("profile/{}/{}", Required),
            delete("profile/{}/{}", Required),
        ],
    ),
    // Reading the list needs a token unless `allow_public_rooms_without_auth` is set.
    listed(
        "publicRooms",
        &[Get, Post],
        &[get("publicRooms", Optional), post("publicRooms", Required)],
    ),
    listed(
        "pushers",
        &[Get, Post],
        &[
            any("pushers", Required),
            // A link in mails: the query's access_token is a macaroon that deletes one pusher.
            any("pushers/remove", Foreign),
            any("pushers/set", Required),
        ],
    ),
    required("pushrules", &[Get, Put, Delete]),
    all("refresh", &[Post], MasOwned),
    listed(
        "register",
        &[Get, Post],
        &[
            // Under MAS only `m.login.application_service`.
            post("register", Appservice),
            any("register/available", Nothing),
            any("register/email/requestToken", Nothing),
            any("register/m.login.registration_token/validity", Nothing),
            any("register/msisdn/requestToken", Nothing),
        ],
    ),
    required("room_keys", EVERY),
    listed("room_summary", &[Get], &[get("room_summary/{}", Optional)]),
    required("rooms", &[Get, Post, Put]),
    required("search", &[Post]),
    required("sendToDevice", &[Put]),
    required("sync", &[Get, Post]),
    required("thirdparty", &[Get]),
    listed("tokenrefresh", &[Post], &[any("tokenrefresh", Nothing)]),
    required_but("user", EVERY, &[any("user//filter/**", EMPTY_SEGMENT)]),
    required("user_directory", &[Post]),
    required("users", &[Post]),
    required("voip", &[Get]),
];

/// `/_matrix/client/unstable/{feature}/...` by feature, in byte order; the paths are those after
/// it.
const UNSTABLE_FEATURES: &[Family] = &[
    listed(
        "fi.mau.msc2659",
        &[Post],
        &[post("appservice/{}/ping", Appservice)],
    ),
    listed(
        "im.nheko.summary",
        &[Get],
        &[
            get("rooms/{}/summary", Optional),
            get("summary/{}", Optional),
        ],
    ),
    listed(
        "io.element.msc4195",
        EVERY,
        &[
            any("rtc/livekit/delegate_delayed_leave", Required),
            any("rtc/livekit/get_token", Required),
        ],
    ),
    listed(
        "io.element.msc4306",
        &[Get, Put, Delete],
        &[
            any("rooms//thread/{}/subscription", EMPTY_SEGMENT),
            any("rooms/{}/thread//subscription", EMPTY_SEGMENT),
            any("rooms/**", Required),
        ],
    ),
    listed(
        "io.element.msc4308",
        &[Get],
        &[any("thread_subscriptions", Required)],
    ),
    // A client that knows the id may use the session. Creating one may need a token (`msc4388_mode`).
    listed(
        "io.element.msc4388",
        EVERY,
        &[
            get("rendezvous", Optional),
            post("rendezvous", Optional),
            any("rendezvous/{+}", Nothing),
        ],
    ),
    listed("io.element.msc4502", &[Get], &[any("rooms/**", Required)]),
    listed(
        "io.element.msc4512",
        &[Post],
        &[post("appservice/fed_proxy", Appservice)],
    ),
    listed(
        "org.continuwuity.msc4560.stripped_state",
        &[Post],
        &[post("{}", Optional)],
    ),
    listed(
        "org.matrix.msc1763",
        &[Get],
        &[any("retention/configuration", Required)],
    ),
    listed("org.matrix.msc2432", &[Get], &[any("rooms/**", Required)]),
    listed("org.matrix.msc2858", &[Get], &[any("login/**", MasOwned)]),
    listed("org.matrix.msc2918", &[Post], &[any("refresh", MasOwned)]),
    listed("org.matrix.msc2946", &[Get], &[any("rooms/**", Required)]),
    listed(
        "org.matrix.msc2965",
        &[Get],
        &[
            // Of earlier versions, and still used by some clients.
            any("auth_issuer", Nothing),
            any("auth_metadata", Nothing),
        ],
    ),
    listed("org.matrix.msc3030", &[Get], &[any("rooms/**", Required)]),
    listed(
        "org.matrix.msc3231",
        &[Get],
        &[any(
            "register/org.matrix.msc3231.login.registration_token/validity",
            Nothing,
        )],
    ),
    listed("org.matrix.msc3391", &[Delete], &[any("user/**", Required)]),
    listed(
        "org.matrix.msc3720",
        &[Post],
        &[any("account_status", Required)],
    ),
    listed(
        "org.matrix.msc3814.v1",
        EVERY,
        &[any("dehydrated_device/**", Required)],
    ),
    listed("org.matrix.msc3856", &[Get], &[any("rooms/**", Required)]),
    listed(
        "org.matrix.msc3882",
        &[Post],
        &[any("login/get_token", Required)],
    ),
    listed("org.matrix.msc3916", &[Get], &[any("media/**", Required)]),
    listed(
        "org.matrix.msc3983",
        &[Post],
        &[any("keys/claim", Required)],
    ),
    listed("org.matrix.msc4108", &[Post], &[any("rendezvous", Nothing)]),
    listed(
        "org.matrix.msc4140",
        &[Get, Post, Put],
        &[
            get("delayed_events", Required),
            get("delayed_events/{+}", Required),
            // A client that knows the id may act on the event, but a bad token is refused.
            post("delayed_events/{+}", Optional),
            post("delayed_events/{+}/{+}", Optional),
            any("rooms/**", Required),
        ],
    ),
    listed(
        "org.matrix.msc4143",
        &[Get],
        &[any("rtc/transports", Required)],
    ),
    listed("org.matrix.msc4151", &[Post], &[any("rooms/**", Required)]),
    listed("org.matrix.msc4260", &[Post], &[any("users/**", Required)]),
    listed(
        "org.matrix.msc4536",
        EVERY,
        &[any("profile/query", Required)],
    ),
    listed(
        "org.matrix.simplified_msc3575",
        &[Post],
        &[any("sync", Required)],
    ),
    listed(
        "uk.half-shot.msc2666",
        &[Get],
        &[any("user/mutual_rooms", Required)],
    ),
    listed(
        "uk.tcpip.msc4133",
        &[Get, Put, Delete],
        &[
            get("profile/{}/{}", Optional),
            any("profile//{}", EMPTY_SEGMENT),
            put("profile/{}/{}", Required),
            delete("profile/{}/{}", Required),
        ],
    ),
    listed(
        "uk.timedout.msc4323",
        &[Get, Put],
        &[any("admin/**", Required)],
    ),
    listed("xyz.amorgan.knock", &[Post], &[any("knock/{}", Required)]),
];

/// `/_matrix/media/{version}/...` by the first segment after the version, in byte order.
const MEDIA: &[Family] = &[
    required("config", &[Get]),
    required("create", &[Post]),
    // Media without authentication, until servers freeze it.
    all("download", &[Get], Nothing),
    required("preview_url", &[Get]),
    all("thumbnail", &[Get], Nothing),
    required("upload", &[Post, Put]),
];

/// `/_matrix/media/unstable/{feature}/...`, in byte order.
const UNSTABLE_MEDIA_FEATURES: &[Family] = &[listed(
    "fi.mau.msc2246",
    &[Post, Put],
    &[any("create", Required), any("upload/{}/{}", Required)],
)];

/// The one path of the client-server API that has no version.
const VERSIONS: &[u8] = b"/_matrix/client/versions";

/// What is below this raw prefix stands in [`MATRIX`], and all of it begins so when it is decoded.
const MATRIX_PREFIX: &[u8] = b"/_matrix/";

/// The rest of `/_matrix/`, by the whole path; the first match counts. What is asked for most stands first.
const MATRIX: &[Line] = &[
    // The query's access_token is an OpenID token; widgets and call services ask on the client's
    // port.
    any("/_matrix/federation/v1/openid/userinfo", Foreign),
    // Signed by the other homeserver (`X-Matrix`).
    any("/_matrix/federation/**", Nothing),
    any("/_matrix/client/versions", Optional),
    // Matrix APIs for others than clients.
    any("/_matrix/app/**", Foreign),
    // A page for a browser, with a signature of Synapse's in its query.
    resource("/_matrix/consent/**", Nothing),
    any("/_matrix/identity/**", Foreign),
    any("/_matrix/key/**", Nothing),
    any("/_matrix/push/**", Nothing),
    resource("/_matrix/static/**", Nothing),
];

/// Everything else, by the whole path; the first match counts.
const ELSEWHERE: &[Line] = &[
    resource("/", Nothing),
    resource("/health", Nothing),
    any("/metrics", Nothing),
    // Synapse.
    any("/_synapse/admin/v1/server_version", Nothing),
    // Anyone may ask about themselves.
    get("/_synapse/admin/v1/whois/", EMPTY_SEGMENT),
    get("/_synapse/admin/v1/whois/{}", Required),
    any("/_synapse/admin/**", Admin),
    resource("/_synapse/client/v1/config/federation_whitelist", Required),
    // The same macaroon as in `pushers/remove`, for one-click unsubscription (RFC 8058).
    resource("/_synapse/client/unsubscribe", Foreign),
    // Single sign-on pages and rendezvous sessions.
    resource("/_synapse/client/**", Nothing),
    // MAS.
    any("/.well-known/change-password", MasOwned),
    any("/.well-known/openid-configuration", MasOwned),
    any("/.well-known/webfinger", MasOwned),
    resource("/.well-known/**", Nothing),
    any("/account/**", MasOwned),
    any("/api/**", MasOwned),
    any("/assets/**", MasOwned),
    any("/authorize/**", MasOwned),
    any("/complete-compat-sso/**", MasOwned),
    any("/connection-info", MasOwned),
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
#[inline]
pub(super) fn classify(path: &[u8], method: Method) -> Class {
    match family(path) {
        Some((family, rest)) => Class {
            requirement: requirement(family.lines, rest, method).unwrap_or(family.otherwise),
            served: Served(Some(family.methods)),
        },
        None => {
            let elsewhere = || {
                if path.starts_with(MATRIX_PREFIX) {
                    return None;
                }
                // Also what begins with the prefix only when it is decoded.
                requirement(ELSEWHERE, path, method)
            };
            let of_matrix = federation(path).or_else(|| requirement(MATRIX, path, method));
            of_matrix.or_else(elsewhere).unwrap_or(Unknown).into()
        }
    }
}

/// What [`MATRIX`] says of the paths below `/_matrix/federation/`, without a look at its lines: other homeservers ask
/// for one of them in most of the requests that come without a token.
#[inline]
fn federation(path: &[u8]) -> Option<AuthRequirement> {
    match after(path, b"/_matrix/federation/")? {
        b"v1/openid/userinfo" => Some(Foreign),
        _ => Some(Nothing),
    }
}

/// Whether Synapse refuses `method` on `path` before it looks at a token (405). Families are told apart
/// here, and not their paths: another method of the same family is taken to be served.
pub(super) fn refuses(path: &[u8], method: Method) -> bool {
    let methods = match family(path) {
        Some((family, _)) => family.methods,
        None if path == VERSIONS => &[Get],
        None if path.starts_with(b"/_synapse/admin/") => EVERY,
        None => return false,
    };
    !methods.contains(&method.handler())
}

/// Which part of the table decides about `path`.
#[cfg(not(target_arch = "wasm32"))]
pub(super) enum Said {
    /// One line, in the family of this name, if it is in one.
    Line(Option<&'static str>, &'static Line),
    /// What a family says of the paths that it does not list.
    Family(&'static Family),
    /// Nothing does.
    Nothing,
}

/// Returns which part of the table decides, as [`classify`] asks it.
#[cfg(not(target_arch = "wasm32"))]
pub(super) fn said(path: &[u8], method: Method) -> Said {
    match family(path) {
        Some((family, rest)) => find_line(family.lines, rest, method)
            .map_or(Said::Family(family), |endpoint| {
                Said::Line(Some(family.name), endpoint)
            }),
        None => find_line(MATRIX, path, method)
            .or_else(|| find_line(ELSEWHERE, path, method))
            .map_or(Said::Nothing, |endpoint| Said::Line(None, endpoint)),
    }
}

/// The family of `path`, and the part of `path` that its endpoints are written for.
#[inline]
fn family(path: &[u8]) -> Option<(&'static Family, &[u8])> {
    // The letter behind the prefix tells nearly all paths apart.
    let (families, features, rest) = match path.get(MATRIX_PREFIX.len()) {
        Some(b'c') => {
            let rest = after(path, b"/_matrix/client/")?;
            (CLIENT, UNSTABLE_FEATURES, rest)
        }
        Some(b'm') => {
            let rest = after(path, b"/_matrix/media/")?;
            (MEDIA, UNSTABLE_MEDIA_FEATURES, rest)
        }
        _ => return None,
    };
    let rest = after_version(rest)?;
    match find(families, rest) {
        Some(family) => Some((family, rest)),
        None => find(features, rest).zip(after_segment(rest)),
    }
}

/// The path after its version: `r0`, `v1` and higher, `unstable`, and `api/v1` of long ago.
#[inline]
fn after_version(path: &[u8]) -> Option<&[u8]> {
    let path = match path {
        [b'a', ..] => after(path, b"api/")?,
        path => path,
    };
    match path {
        [b'r', b'0', b'/', rest @ ..] => Some(rest),
        [b'v', rest @ ..] => {
            let mut after_digits = rest;
            while let [b'0'..=b'9', more @ ..] = after_digits {
                after_digits = more;
            }
            let rest_of_path = after_digits.strip_prefix(b"/")?;
            (after_digits.len() < rest.len()).then_some(rest_of_path)
        }
        _ => after(path, b"unstable/"),
    }
}

fn after_segment(path: &[u8]) -> Option<&[u8]> {
    let slash = position(path, b'/')?;
    path.get(slash + 1..)
}

/// The paths for which a line, or what a family says of the others, is so. They are written as lines are, with `{version}` for a
/// version.
#[cfg(not(target_arch = "wasm32"))]
pub(super) fn patterns(is_it: fn(AuthRequirement) -> bool) -> Vec<String> {
    let mut found = Vec::new();
    let mut add = |start: &str, lines: &[Line]| {
        let own = lines.iter().filter(|line| is_it(line.requirement));
        found.extend(own.map(|line| format!("{start}{}", line.path)));
    };
    let mut wholes = Vec::new();
    for (root, families, is_of_features) in [
        ("/_matrix/client/{version}/", CLIENT, false),
        ("/_matrix/client/unstable/", UNSTABLE_FEATURES, true),
        ("/_matrix/media/{version}/", MEDIA, false),
        ("/_matrix/media/unstable/", UNSTABLE_MEDIA_FEATURES, true),
    ] {
        for family in families {
            let below = format!("{root}{}/", family.name);
            add(if is_of_features { &below } else { root }, family.lines);
            wholes.extend(is_it(family.otherwise).then(|| below + "**"));
        }
    }
    add("", MATRIX);
    add("", ELSEWHERE);
    found.extend(wholes);
    found
}

/// The names of all families.
#[cfg(all(test, not(target_arch = "wasm32")))]
pub(super) fn family_names() -> impl Iterator<Item = &'static str> {
    let all = [CLIENT, UNSTABLE_FEATURES, MEDIA, UNSTABLE_MEDIA_FEATURES];
    all.into_iter().flatten().map(|family| family.name)
}

#[cfg(test)]
mod tests {
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
            for line in family.lines {
                assert_eq!(line.path.split('/').next(), Some(family.name));
            }
        }
    }

    /// A path that the line is for.
    fn path(line: &Line) -> String {
        let path = line.path.replace("{}", "x").replace("{+}", "x");
        path.replace("**", "x/y")
    }

    #[test]
    fn federation_is_what_the_lines_say() {
        let of_lines = MATRIX.iter().map(path);
        let others = [
            "/_matrix/federation",
            "/_matrix/federation/",
            "/_matrix/federation//",
            "/_matrix/federation/v1/send/1",
            "/_matrix/federation/v1/openid/userinfo/",
            "/_matrix/federation/v1/openid",
            "/_matrix/federatio",
            "/_matrix/federations/v1/send/1",
        ];
        for path in of_lines.chain(others.map(str::to_owned)) {
            for method in [Get, Post, Put, Delete, Method::Other] {
                let of_lines = requirement(MATRIX, path.as_bytes(), method);
                let found = federation(path.as_bytes()).or(of_lines);
                assert_eq!(found, of_lines, "{method:?} {path}");
            }
        }
    }

    #[test]
    fn no_line_is_shadowed_by_one_before() {
        let lists = [CLIENT, UNSTABLE_FEATURES, MEDIA, UNSTABLE_MEDIA_FEATURES]
            .into_iter()
            .flatten()
            .map(|family| family.lines)
            .chain([MATRIX, ELSEWHERE]);
        for list in lists {
            for (index, line) in list.iter().enumerate() {
                let path = path(line);
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

    #[test]
    fn lines_of_no_family_stand_where_they_are_looked_for() {
        for (list, is_of_matrix) in [(MATRIX, true), (ELSEWHERE, false)] {
            for line in list {
                let path = path(line);
                let (path, is_found) = (path.as_bytes(), path.starts_with("/_matrix/"));
                assert_eq!(is_found, is_of_matrix, "{}", line.path);
                assert!(family(path).is_none(), "{} never counts", line.path);
            }
        }
    }
}
