use std::collections::BTreeMap;

use matrix_edge_auth::matrix::endpoint::{
    AuthRequirement::{
        self, Admin, Appservice, Blocked, Foreign, MasOwned, None as Nothing, Optional, Required,
    },
    Endpoints, Method, classify,
};

/// Rows that the edge treats otherwise: method, path, the edge's answer, and why.
const DIFFERENCES: [(&str, &str, AuthRequirement, &str); 7] = [
    (
        "GET",
        "/",
        Nothing,
        "Synapse has this path as well; both answer anyone",
    ),
    (
        "GET",
        "/health",
        Nothing,
        "Synapse has this path as well; both answer anyone",
    ),
    (
        "GET",
        "/_matrix/client/r0/profile/{user_id}/{field}",
        Optional,
        "only in ruma: Synapse has no such r0 path, and in v3 it refuses a bad token",
    ),
    ("POST", "/_matrix/client/r0/account/3pid", Nothing, GONE),
    (
        "POST",
        "/_matrix/client/unstable/account/3pid",
        Nothing,
        GONE,
    ),
    ("POST", "/_matrix/client/v3/account/3pid", Nothing, GONE),
    (
        "GET",
        "/_synapse/admin/v1/whois/{user_id}",
        Required,
        "Synapse lets anyone ask about themselves",
    ),
];
const GONE: &str = "the spec requires a token; under MAS Synapse answers 404 before it looks at it";

#[test]
fn every_route_has_its_requirement() {
    let mut differences: BTreeMap<_, _> = DIFFERENCES
        .iter()
        .map(|(method, path, found, _)| ((*method, *path), *found))
        .collect();
    let mut wrong = Vec::new();
    for row in super::rows(include_str!("routes.tsv")) {
        let (methods, path, auth, served_by, note) = (row[0], row[1], row[2], row[3], row[8]);
        if path == "*" {
            continue;
        }
        let expected = expected(path, auth, served_by, note);
        let found = found(methods, path);
        match differences.remove(&(methods, path)) {
            // The row of the other server agrees.
            Some(difference) if found == [expected] => {
                differences.insert((methods, path), difference);
            }
            Some(difference) if found == [difference] => {}
            None if found == [expected] => {}
            _ => wrong.push(format!(
                "{methods} {path}: {expected:?} expected, {found:?} found"
            )),
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(differences.is_empty(), "no differences: {differences:?}");
}

#[test]
fn head_is_like_get_and_a_pre_flight_needs_no_token() {
    let mut heads = 0;
    for row in super::rows(include_str!("routes.tsv")) {
        let (methods, path) = (row[0], row[1]);
        for path in samples(path) {
            let under = |method| classify(path.as_bytes(), method);
            if methods == "GET" {
                assert_eq!(under(Method::Head), under(Method::Get), "{path}");
                heads += 1;
            }
            let class = Endpoints::default().classify_path(path.as_bytes().into(), Method::Options);
            let is_blocked = under(Method::Get) == Blocked;
            assert_eq!(class.requirement == Blocked, is_blocked, "{path}");
            let ignores_token =
                |method| Endpoints::default().ignores_token(path.as_bytes(), method, class.served);
            assert!(ignores_token(Method::Options), "{path}");
        }
    }
    assert!(heads > 100, "{heads}");
}

/// `mas_routes.tsv`: the routes of MAS 1.22, by the resource of a listener that has them.
#[test]
fn no_route_of_mas_is_judged_here() {
    let below_auth = Endpoints::default().with_introspection_at("/auth/oauth2/introspect");
    // The homeserver has these as well, or nobody but the operator asks for them.
    let shared = ["/", "/health", "/metrics"];
    let mut wrong = Vec::new();
    for row in super::rows(include_str!("mas_routes.tsv")) {
        let (methods, path) = (row[0], row[1]);
        for sample in samples(path) {
            for method in ["GET", "POST", "PUT", "DELETE", "OPTIONS"] {
                let method = Method::from_bytes(method.as_bytes());
                let at_root = classify(sample.as_bytes(), method);
                let expected = if shared.contains(&path) {
                    Nothing
                } else {
                    MasOwned
                };
                let below = format!("/auth{sample}");
                let below_prefix = below_auth.classify(below.as_bytes(), method);
                if (at_root, below_prefix) != (expected, MasOwned) {
                    wrong.push(format!(
                        "{methods} {path}: {at_root:?}, below a prefix {below_prefix:?}"
                    ));
                }
            }
        }
    }
    wrong.dedup();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// What a row asks of the edge.
fn expected(path: &str, auth: &str, served_by: &str, note: &str) -> AuthRequirement {
    match (auth, served_by) {
        ("shared-secret", _) => Blocked,
        ("none", "synapse") if note.contains("block at the edge") => Blocked,
        (_, "mas" | "mas-host") => MasOwned,
        ("appservice", _) => Appservice,
        // hs_token: towards appservices; other: identity servers.
        ("foreign-token" | "hs_token" | "other", _) => Foreign,
        ("none" | "federation", _) => Nothing,
        ("optional", _) => Optional,
        ("required", _) if path.starts_with("/_synapse/admin/") => Admin,
        ("required", _) => Required,
        _ => panic!("{path}: unknown requirement {auth}"),
    }
}

/// The answers for every method and every sample of the path, each once.
fn found(methods: &str, path: &str) -> Vec<AuthRequirement> {
    let methods = match methods {
        "*" => "GET,POST,PUT,DELETE",
        methods => methods,
    };
    let mut found = Vec::new();
    for path in samples(path) {
        for method in methods.split(',') {
            let requirement = classify(path.as_bytes(), Method::from_bytes(method.as_bytes()));
            if !found.contains(&requirement) {
                found.push(requirement);
            }
        }
    }
    found
}

/// Paths of this pattern. A parameter is one segment, the last `{path}` and `{rest}` any number.
fn samples(pattern: &str) -> Vec<String> {
    let fillings = if pattern.ends_with("/{rest}") || pattern.ends_with("/{path}") {
        ["x", "x/y", "x/y/"]
    } else if pattern.ends_with("{rest}") {
        ["", "/x", "/x/y"]
    } else {
        ["x", "%21a%3Ab.example.org", "!a;b=1:[::1]:8448"]
    };
    fillings.map(|filling| fill(pattern, filling)).into()
}

fn fill(pattern: &str, filling: &str) -> String {
    let mut parts = pattern.split('{');
    let mut path = parts.next().unwrap().to_owned();
    for part in parts {
        let (_, rest) = part.split_once('}').unwrap();
        path.push_str(filling);
        path.push_str(rest);
    }
    path
}
