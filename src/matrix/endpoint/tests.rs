//! The rules of the table, the overrides and the blocked paths, one by one.

use super::{
    AuthRequirement::{
        Admin, Appservice, Blocked, Dotted, Foreign, MasOwned, None as Nothing, Optional, Required,
        Unknown,
    },
    *,
};

fn under(method: Method, target: &str) -> AuthRequirement {
    classify(target.as_bytes(), method)
}

#[test]
fn most_paths_do_not_depend_on_the_method() {
    for (target, expected) in [
        ("/_matrix/client/v3/sync?since=s1", Required),
        ("/_matrix/client/v3/account/whoami", Required),
        (
            "/_matrix/client/v3/rooms/%21a%3Ab.example.org/send/m.room.message/1",
            Required,
        ),
        (
            "/_matrix/client/v1/media/download/example.org/abc",
            Required,
        ),
        ("/_matrix/client/api/v1/events", Required),
        (
            "/_matrix/client/unstable/org.matrix.simplified_msc3575/sync",
            Required,
        ),
        ("/_matrix/media/v3/upload", Required),
        ("/_matrix/media/v3/download/example.org/abc/x.png", Nothing),
        ("/_matrix/client/versions", Optional),
        ("/_matrix/client/v3/login/sso/redirect/idp", MasOwned),
        (
            "/_matrix/client/unstable/pushers/remove?access_token=x",
            Foreign,
        ),
        ("/_synapse/admin/v2/users", Admin),
        ("/_synapse/admin/v1/server_version", Nothing),
        (
            "/_matrix/client/unstable/org.matrix.msc2965/auth_issuer",
            Nothing,
        ),
        ("/_synapse/client/v1/config/federation_whitelist", Required),
        ("/_matrix/federation/v1/send/1", Nothing),
        (
            "/_matrix/federation/v1/openid/userinfo?access_token=x",
            Foreign,
        ),
        ("/oauth2/token", MasOwned),
        ("/", Nothing),
    ] {
        for method in [Method::Get, Method::Put, Method::Other] {
            assert_eq!(under(method, target), expected, "{method:?} {target}");
        }
    }
}

#[test]
fn the_method_counts_where_the_table_says_so() {
    let profile = "/_matrix/client/v3/profile/@a:b/displayname";
    assert_eq!(under(Method::Get, profile), Optional);
    assert_eq!(under(Method::Head, profile), Optional);
    assert_eq!(under(Method::Put, profile), Required);
    let list = "/_matrix/client/v3/directory/list/appservice/net/!a:b";
    assert_eq!(under(Method::Put, list), Appservice);
    assert_eq!(under(Method::Delete, list), Required);
    let alias = "/_matrix/client/v3/directory/room/%23a:b";
    assert_eq!(under(Method::Head, alias), Nothing);
    assert_eq!(under(Method::Other, alias), Unknown);
    // Synapse lets anyone ask about themselves, and knows who that is.
    let whois = "/_synapse/admin/v1/whois/@a:b";
    assert_eq!(under(Method::Get, whois), Required);
    assert_eq!(under(Method::Head, whois), Required);
    assert_eq!(under(Method::Put, whois), Admin);
}

#[test]
fn what_the_table_does_not_know_is_unknown() {
    for target in [
        "",
        "*",
        "/nope",
        "/_matrix",
        "/_matrix/client",
        "/_matrix/client/",
        "/_matrix/client/v3",
        "/_matrix/client/v3/",
        "/_matrix/client/v/sync",
        "/_matrix/client/vx/sync",
        "/_matrix/client/v3/future/thing",
        "/_matrix/client/v3/synchronise",
        "/_matrix/client/unstable/org.example.msc9999/rooms/x",
        "/_matrix/client/unstable/org.matrix.msc3916",
        "/_matrix/client/unstable/org.matrix.msc3916/other",
        // Anchored on the raw path: neither decoded, nor normalised, nor cut.
        "/_matrix/client/v3/%73ync",
        "/_matrix//client/v3/sync",
        "//_matrix/client/v3/sync",
        "/_MATRIX/client/v3/sync",
        "/_matrix/client/v3/account/whoami/",
        "/_matrix/client/v3/account/whoami%3Faccess_token=x",
        "/_matrix/client/v3/directory/list/",
        "/_synapse/client%2Funsubscribe",
        "/_synapse//client/unsubscribe",
        "/%255fsynapse/client/unsubscribe",
        "/_synapse/%61dmin/v2/users",
        "/_synapse/administrator",
    ] {
        assert_eq!(under(Method::Get, target), Unknown, "{target}");
    }
}

#[test]
fn overrides_come_first_and_in_order() {
    let rule = |path, methods, requirement| Rule {
        path,
        methods,
        requirement,
    };
    let exact = |path: &str| PathMatch::Exact(path.to_owned());
    let prefix = |path: &str| PathMatch::Prefix(path.to_owned());
    let overrides = Endpoints::new(vec![
        rule(
            exact("/_matrix/client/v3/publicRooms"),
            Some(vec![Method::Get]),
            Nothing,
        ),
        rule(prefix("/_matrix/client/v3/publicRooms"), None, Admin),
        rule(
            prefix("/bot/"),
            Some(vec![Method::Post, Method::Put]),
            Required,
        ),
    ]);
    for (method, target, expected) in [
        (
            Method::Get,
            "/_matrix/client/v3/publicRooms?limit=1",
            Nothing,
        ),
        (Method::Head, "/_matrix/client/v3/publicRooms", Nothing),
        (Method::Post, "/_matrix/client/v3/publicRooms", Admin),
        (Method::Get, "/_matrix/client/v3/publicRooms/x", Admin),
        (Method::Put, "/bot/x", Required),
        (Method::Get, "/bot/x", Unknown),
        (Method::Get, "/b%6ft/x", Unknown),
        (Method::Get, "/_matrix/client/v3/sync", Required),
    ] {
        let requirement = overrides.classify(target.as_bytes(), method);
        assert_eq!(requirement, expected, "{method:?} {target}");
    }
    assert_eq!(
        overrides.classify(b"/_matrix/client/v3/sync", Method::Other),
        Required
    );
}

#[test]
fn what_a_rule_restricts_is_restricted_in_every_spelling() {
    let rule = |path, methods, requirement| Rule {
        path,
        methods,
        requirement,
    };
    let exact = |path: &str| PathMatch::Exact(path.to_owned());
    let prefix = |path: &str| PathMatch::Prefix(path.to_owned());
    let endpoints = Endpoints::new(vec![
        rule(exact("/internal/health"), None, Nothing),
        rule(exact("/internal/whois"), None, Admin),
        rule(prefix("/internal/"), Some(vec![Method::Get]), Required),
        rule(exact("/metrics-private"), None, Admin),
        rule(prefix("/_matrix/client/unstable/org.example/"), None, Admin),
        rule(prefix("/_matrix/client/v3/directory/"), None, Nothing),
        rule(
            prefix("/_matrix/client/v3/"),
            Some(vec![Method::Put]),
            Required,
        ),
    ]);
    for (method, target, expected) in [
        // Plain paths go by the order of the rules.
        (Method::Get, "/internal/health", Nothing),
        (Method::Get, "/internal/whois", Admin),
        (Method::Get, "/internal/x", Required),
        (Method::Post, "/internal/x", Unknown),
        (Method::Get, "/other", Unknown),
        (
            Method::Put,
            "/_matrix/client/v3/directory/room/%23a%3Ab.c",
            Nothing,
        ),
        // So do other spellings.
        (Method::Get, "//internal//health", Required),
        (Method::Get, "/internal/HEALTH", Required),
        (Method::Get, "/internal//health", Required),
        (Method::Get, "/internal/WHOIS/", Admin),
        (Method::Get, "/%69nternal/x", Required),
        (Method::Get, "//internal/x", Required),
        (Method::Get, "/./internal/x", Required),
        // What a server may take for an authority.
        (Method::Get, "//host/internal/x", Required),
        (Method::Get, "/%5chost/internal/whois", Admin),
        (Method::Get, "//u@h:80/internal/x", Required),
        (Method::Get, "/http://h/internal/x", Required),
        (Method::Get, "//h:/internal/x", Required),
        (Method::Get, "/host/internal/x", Unknown),
        (Method::Get, "/internal%2fx", Required),
        (Method::Get, "/internal;a/x", Required),
        (Method::Get, "/metrics%2dprivate?x", Admin),
        (Method::Get, "/metrics-private/", Admin),
        (Method::Post, "/%69nternal/x", Unknown),
        (
            Method::Get,
            "/_matrix/client/unstable/org%2eexample/a",
            Admin,
        ),
        (
            Method::Get,
            "/_matrix/client//unstable/org.example/a",
            Admin,
        ),
        // Where dots lead cannot be told.
        (Method::Get, "/x/../internal/x", Admin),
        (Method::Get, "/internal/x/%2e%2e/health", Admin),
        (Method::Get, "/internal%2f..%2fx", Admin),
        // What the homeserver needs a token for, a rule that restricts something else does not open.
        (Method::Get, "/_matrix/client/v3/sync", Required),
    ] {
        let requirement = endpoints.classify(target.as_bytes(), method);
        assert_eq!(requirement, expected, "{method:?} {target}");
    }
    // Who serves another spelling is the operator's knowledge too.
    assert!(!endpoints.refuses(b"/_matrix/client//v3/x", Method::Put));
}

/// Rules that open paths are as narrow as they are written, and cost no second look.
#[test]
fn what_a_rule_opens_is_opened_in_its_own_spelling_alone() {
    let endpoints = Endpoints::new(vec![Rule {
        path: PathMatch::Prefix("/_matrix/client/v3/search".to_owned()),
        methods: None,
        requirement: Nothing,
    }]);
    assert!(endpoints.spellings.is_empty());
    let classified = |target: &[u8]| endpoints.classify(target, Method::Post);
    assert_eq!(classified(b"/_matrix/client/v3/search"), Nothing);
    assert_eq!(classified(b"/_matrix/client/v3//search"), Unknown);
    assert_eq!(classified(b"/_matrix/client/v3/%73earch"), Unknown);
}

#[test]
fn spellings_are_read_in_linear_time() {
    let endpoints = Endpoints::new(
        ["/internal/a/b/", "/x", "/x/x/x/x"]
            .map(|path| Rule {
                path: PathMatch::Prefix(path.to_owned()),
                methods: None,
                requirement: Required,
            })
            .into(),
    );
    // Blocked paths, dots and readings take a pass each.
    const LOOKS: usize = 3 * (3 + reading::MAX_DEPTH as usize + 1);
    for input in ["/", "x/", "%2f", "%252f", "%25", "25", "..;", "x", "\\"] {
        for suffix in ["", "/..", "/internal/a/b"] {
            let read = |middle: &[u8]| {
                crate::text::work::note(1);
                let path = [b"/".as_slice(), middle, suffix.as_bytes()].concat();
                let _ = endpoints.classify_path(path.as_slice().into(), Method::Get);
            };
            crate::text::work::assert_linear("/", LOOKS, read, input.as_bytes());
        }
    }
}

#[test]
fn a_method_that_no_path_of_a_family_has_is_refused_by_the_homeserver() {
    let rule = Rule {
        path: PathMatch::Prefix("/_matrix/client/v3/sync/".to_owned()),
        methods: Some(vec![Method::Delete]),
        requirement: Required,
    };
    let endpoints = Endpoints::new(vec![rule]);
    let refuses = |method, target: &str| endpoints.refuses(target.as_bytes(), method);
    let simplified = "/_matrix/client/unstable/org.matrix.simplified_msc3575/sync?pos=1";
    assert!(!refuses(Method::Post, simplified));
    for method in [
        Method::Get,
        Method::Head,
        Method::Put,
        Method::Delete,
        Method::Other,
    ] {
        assert!(refuses(method, simplified), "{method:?}");
    }
    for (method, target, expected) in [
        (Method::Get, "/_matrix/client/v3/sync", false),
        (Method::Head, "/_matrix/client/v3/sync", false),
        (Method::Put, "/_matrix/client/v3/sync", true),
        // Another spelling of what the rule restricts.
        (Method::Delete, "/_matrix/client/v3/sync", false),
        (Method::Get, "/_matrix/client/v3/createRoom", true),
        (Method::Get, "/_matrix/client/versions", false),
        (Method::Post, "/_matrix/client/versions", true),
        (Method::Get, "/_matrix/media/v3/create", true),
        (Method::Patch, "/_synapse/admin/v2/users", true),
        // The family has it, though this path has not: nothing is known of one alone.
        (Method::Put, "/_matrix/client/v3/rooms/!a:b/messages", false),
        // A rule names the path.
        (Method::Delete, "/_matrix/client/v3/sync/x", false),
        (Method::Patch, "/_matrix/client/v3/sync/x", false),
        // Whose methods are not known.
        (Method::Patch, "/_matrix/client/v3/future", false),
        (Method::Patch, "/nope", false),
    ] {
        assert_eq!(refuses(method, target), expected, "{method:?} {target}");
        let path = target.as_bytes();
        let served = endpoints.classify_path(path.into(), method).served;
        assert_eq!(served.refuses(method), None, "a rule may name {target}");
        let without_rules = Endpoints::default();
        let served = without_rules.classify_path(path.into(), method).served;
        let known = without_rules.refuses(path, method);
        assert_eq!(served.refuses(method).unwrap_or(known), known, "{target}");
    }
    let served = |target: &[u8]| {
        let class = Endpoints::default().classify_path(target.into(), Method::Get);
        class.served.refuses(Method::Delete)
    };
    assert_eq!(served(b"/_matrix/client/v3/sync"), Some(true));
    assert_eq!(served(b"/_matrix/client/v3/devices/D"), Some(false));
    assert_eq!(served(b"/_matrix/federation/v1/x"), None);
}

#[test]
fn everything_below_the_prefix_of_mas_is_of_mas() {
    let below = |introspection: &str| Endpoints::default().with_introspection_at(introspection);
    let auth = below("/auth/oauth2/introspect?x");
    let classified =
        |endpoints: &Endpoints, target: &str| endpoints.classify(target.as_bytes(), Method::Post);
    for target in [
        "/auth",
        "/auth/",
        "/auth?x",
        "/auth/oauth2/revoke",
        "/auth/oauth2/userinfo?x",
        "/auth/graphql",
        "/auth/api/admin/v1/users",
        "/auth/_matrix/client/v3/logout",
        "/auth/connection-info",
        // Without the prefix as well.
        "/oauth2/revoke",
        "/graphql",
        "/_matrix/client/v3/logout",
    ] {
        assert_eq!(classified(&auth, target), MasOwned, "{target}");
    }
    for (target, expected) in [
        ("/authentic/oauth2/revoke", Unknown),
        ("/x/auth/oauth2/revoke", Unknown),
        ("/%61uth/oauth2/revoke", Unknown),
        ("/_matrix/client/v3/rooms/x/join", Required),
        ("/auth/../_synapse/mas/x", Blocked),
        // It may lead elsewhere: looked at like any unknown path.
        ("/auth/../_matrix/client/v3/account/whoami", Dotted),
        ("/auth/%2e%2e/_matrix/client/v3/account/whoami", Dotted),
        ("/auth/%252e%252e/_matrix/client/v3/account/whoami", Dotted),
        ("/auth/x%2f..%2f../_matrix/client/v3/sync", Dotted),
        ("/auth/..;x/_matrix/client/v3/sync", Dotted),
        ("/auth/..\\_matrix/client/v3/sync", Dotted),
        ("/auth/oauth2/../oauth2/revoke", Dotted),
        ("/oauth2/../_matrix/client/v3/sync", Dotted),
        ("/_matrix/client/v3/login/../account/whoami", Dotted),
        ("/_matrix/client/v3/logout/%2e%2e/sync", Dotted),
        ("/_matrix/federation/../client/v3/account/whoami", Dotted),
        ("/_matrix/key/v2/%2e%2e/%2e%2e/client/v3/sync", Dotted),
        ("/_matrix/static/..%2f../client/v3/sync", Dotted),
        ("/.well-known/matrix/../../_matrix/client/v3/sync", Dotted),
        ("/_matrix/federation/v1/event/$a..b", Nothing),
        ("//host/_synapse/mas/x", Blocked),
        ("/%2fhost/_synapse/mas/x", Blocked),
        ("/auth/./oauth2/revoke", MasOwned),
        ("/auth/a..b", MasOwned),
    ] {
        assert_eq!(classified(&auth, target), expected, "{target}");
    }
    assert_eq!(
        auth.mas_target(b"/auth/oauth2/revoke?x"),
        b"/oauth2/revoke?x"
    );
    assert_eq!(auth.mas_target(b"/oauth2/revoke"), b"/oauth2/revoke");
    let (deep, root) = (below("/a/b/oauth2/introspect"), below("/oauth2/introspect"));
    assert_eq!(classified(&deep, "/a/b/oauth2/revoke"), MasOwned);
    assert_eq!(classified(&deep, "/a/oauth2/revoke"), Unknown);
    assert_eq!(classified(&root, "/x/oauth2/revoke"), Unknown);
    assert_eq!(classified(&below("/introspect"), "/x"), Unknown);
    // Where MAS has its home does not open what the homeserver serves.
    let matrix = below("/_matrix/oauth2/introspect");
    assert_eq!(classified(&matrix, "/_matrix/oauth2/revoke"), MasOwned);
    assert_eq!(classified(&matrix, "/_matrix/client/v3/search"), Required);
    let synapse = below("/_synapse/oauth2/introspect");
    assert_eq!(classified(&synapse, "/_synapse/mas/query_user"), Blocked);
    // A rule comes before it.
    let rule = Rule {
        path: PathMatch::Prefix("/auth/own".to_owned()),
        methods: None,
        requirement: Required,
    };
    let ruled = Endpoints::new(vec![rule]).with_introspection_at("/auth/oauth2/introspect");
    assert_eq!(classified(&ruled, "/auth/own/x"), Required);
}

#[test]
fn an_override_cannot_open_a_blocked_path() {
    let overrides = Endpoints::new(vec![Rule {
        path: PathMatch::Prefix("/".to_owned()),
        methods: None,
        requirement: Nothing,
    }]);
    assert_eq!(
        overrides.classify(b"/_synapse/mas/query_user", Method::Other),
        Blocked
    );
    assert_eq!(
        overrides.classify(b"/_synapse/client/x", Method::Other),
        Nothing
    );
}

#[test]
fn blocked_paths_are_found_in_disguise() {
    for target in [
        "/_synapse/mas",
        "/_synapse/mas?x",
        "/_synapse/mas/query_user?localpart=alice",
        "/_synapse/metrics",
        "/_synapse/replication/send/x",
        // Encoded once, or more often; a bad escape must not hide a good one.
        "/_synapse/%6das/query_user",
        "/%5fsynapse/mas/query_user",
        "/%5fsynapse/;%2fx/mas",
        "/_synapse%2Fmas",
        "/_synapse/%256das",
        "/_synapse/%25%36das",
        "/_synapse/%2525256das",
        "/_synapse/mas/%zz",
        // Readings of the next server: empty segments, parameters, backslashes and schemes before dots.
        "/_synapse//../mas/query_user",
        "/_synapse/;/../mas/query_user",
        "/x:/../_synapse/mas/x",
        "/_synapse/a%2fb/%2e%2e/mas/x",
        "/_synapse/a\\b/../mas",
        "/_synapse/a%5cb/%2e%2e/mas",
        // Other slashes, other case, more slashes.
        "/_synapse\\mas",
        "\\_synapse%5Cmas",
        "/_SYNAPSE/Mas",
        "//_synapse///mas",
        // Dots, resolved and not.
        "/./_synapse/./mas",
        "/_matrix/../_synapse/mas",
        "/_matrix/client/v3/%2e%2e/../../_synapse/mas",
        "/_matrix/client/..%2f..%2f_synapse/mas",
        "/_matrix/%2e%2e/_synapse/mas",
        "/_matrix/.%2E/_synapse/mas",
        "/_matrix/%252e%252e/_synapse/mas",
        "/_matrix/%%32e%%32e/_synapse/mas",
        "/_matrix/%2%65./%2e./_synapse/mas",
        "/_synapse/mas/../../x",
        "/_synapse/metrics/..",
        "/../../_synapse/mas",
        "/a%2Fb/../_synapse/mas",
        // Parameters, and what a decoded delimiter would cut off.
        "/_synapse;x=1/mas;y",
        "/..;/_synapse/mas",
        "/_synapse/mas%3Fx",
        "/_synapse/mas%23x",
        "/_synapse/mas#x",
        // Absolute form.
        "http://example.org/_synapse/mas/query_user",
        "HTTPS://example.org:8448//_synapse/mas",
        "http:%2F%2Fexample.org/_synapse/mas",
        "_synapse/mas",
    ] {
        assert_eq!(
            classify(target.as_bytes(), Method::Other),
            Blocked,
            "{target}"
        );
    }
}

#[test]
fn neighbours_of_blocked_paths_are_not_blocked() {
    for target in [
        "/_synapse",
        "/_synapse/",
        "/_synapse/masquerade",
        "/_synapse/client/mas",
        "/synapse/mas",
        "/x/_synapse/mas",
        "/_matrix/_synapse/mas",
        "/_matrix/client/v3/directory/room/%23_synapse%2Fmas%3Aexample.org",
        "/_matrix/client/v3/directory/room/%2523..%25",
        "/_matrix/client/v3/search?q=/_synapse/mas",
        "/nope?next=http://example.org/_synapse/mas",
        "/_synapse/%",
        "/_synapse/%zz",
        "http://_synapse/mas",
    ] {
        assert_ne!(under(Method::Get, target), Blocked, "{target}");
    }
}

#[test]
fn a_path_encoded_beyond_reason_is_blocked() {
    let nested = |depth: usize| format!("/x/%{}41", "25".repeat(depth));
    assert_eq!(classify(nested(6).as_bytes(), Method::Other), Unknown);
    assert_eq!(classify(nested(1000).as_bytes(), Method::Other), Blocked);
}

#[cfg(not(target_arch = "wasm32"))]
mod properties {
    use proptest::prelude::*;

    use super::*;

    /// How one character of a path is written: as it is, in the other case, or with escapes up to
    /// three deep.
    fn disguise(c: char, how: u8, depth: usize) -> String {
        let c = match how % 4 {
            0 => c.to_ascii_uppercase(),
            1 if c == '/' => '\\',
            _ => c,
        };
        let mut text = String::from(c);
        for _ in 0..depth {
            text = text.bytes().map(|byte| escape(byte, how)).collect();
        }
        text
    }

    fn escape(byte: u8, how: u8) -> String {
        if how & 0x10 == 0 {
            format!("%{byte:02x}")
        } else {
            format!("%{byte:02X}")
        }
    }

    prop_compose! {
        fn disguised()(
            prefix in prop::sample::select(vec![
                "", "/", "/.", "/x/..", "/_matrix/..", "/_matrix/client/../..", "/_synapse/..",
                "/;a/.;b", "/..", "http://example.org",
            ]),
            // A start like that of every honest path, or no plain byte at all.
            plain in prop::sample::select(vec!["/_matrix/".len(), 0]),
            inner in prop::sample::select(vec!["/", "//", "/./", "/y/../", ";p/", "/../_synapse/"]),
            resource in prop::sample::select(vec!["mas", "metrics", "replication"]),
            suffix in prop::sample::select(vec![
                "", "/", "/query_user", "/..", ";p", "/%", "?x=/y",
            ]),
            how in prop::collection::vec(
                (any::<u8>(), prop_oneof![4 => Just(0), 2 => Just(1), 1 => 2..=3_usize]),
                80,
            ),
        ) -> String {
            let path = format!("{prefix}/_synapse{inner}{resource}");
            let disguised: String = path
                .chars()
                .zip(how)
                .enumerate()
                .map(|(at, (c, (how, depth)))| {
                    if at < plain { c.into() } else { disguise(c, how, depth) }
                })
                .collect();
            disguised + suffix
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        #[test]
        fn no_disguise_opens_a_blocked_path(target in disguised()) {
            prop_assert_eq!(classify(target.as_bytes(), Method::Other), Blocked);
        }

        #[test]
        fn arbitrary_bytes_never_panic(target: Vec<u8>, method: Vec<u8>) {
            let _ = classify(&target, Method::from_bytes(&method));
        }

        #[test]
        fn arbitrary_paths_never_panic(
            target in r"(/_matrix/(client|media)/|/_synapse/|http:)?[a-z0-9./%;{}*?\\]{0,40}",
        ) {
            let _ = classify(target.as_bytes(), Method::Get);
        }
    }
}

/// Where dots lead other methods may be served, and a token may be looked at.
#[test]
fn no_path_with_dots_passes_for_its_method_or_for_an_application_service() {
    let endpoints = Endpoints::default();
    for (method, path) in [
        (
            Method::Delete,
            "/_matrix/client/v3/joined_rooms/../devices/ABC",
        ),
        (
            Method::Delete,
            "/_matrix/client/v3/joined_rooms/..%2fdevices%2fABC",
        ),
        (
            Method::Put,
            "/_matrix/client/v3/sync/..%2frooms%2f!r%2fsend%2fm%2f1",
        ),
        (
            Method::Post,
            "/_matrix/client/v1/appservice/..%2f..%2fv3%2frooms%2f!r%2fleave/ping",
        ),
    ] {
        let class = endpoints.classify_path(path.as_bytes().into(), method);
        assert!(!class.requirement.ignores_tokens(), "{path}: {class:?}");
        let ignores_token = endpoints.ignores_token(path.as_bytes(), method, class.served);
        assert!(!ignores_token, "{method:?} {path}");
        assert!(endpoints.ignores_token(path.as_bytes(), Method::Options, class.served));
    }
    let plain = b"/_matrix/client/v3/joined_rooms";
    let class = endpoints.classify_path(plain[..].into(), Method::Delete);
    assert!(endpoints.ignores_token(plain, Method::Delete, class.served));
}

/// Whatever stands in the place of a segment, and of a version.
#[cfg(not(target_arch = "wasm32"))]
#[test]
fn every_pattern_with_a_token_needs_one_with_some_method() {
    let patterns = patterns_with_token();
    for pattern in &patterns {
        let path = pattern
            .replace("{version}", "v3")
            .replace("{}", "a")
            .replace("{+}", "a")
            .replace("**", "a/b");
        let methods = [Method::Get, Method::Post, Method::Put, Method::Delete];
        let needs = methods.map(|method| classify(path.as_bytes(), method));
        let is_it = |it: &AuthRequirement| matches!(it, Admin | Required);
        assert!(needs.iter().any(is_it), "{pattern}: {needs:?}");
    }
    for pattern in [
        "/_matrix/client/{version}/account/whoami",
        "/_matrix/client/{version}/sync/**",
        "/_matrix/client/unstable/org.matrix.msc4143/rtc/transports",
        "/_matrix/media/{version}/upload/**",
        "/_synapse/admin/**",
    ] {
        assert!(patterns.iter().any(|one| one == pattern), "{pattern}");
    }
    assert!(!patterns.iter().any(|one| one.contains("federation/")));
}
