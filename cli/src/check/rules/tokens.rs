//! Whether requests for a path, or for paths of a kind, need a token.
//!
//! The non-obvious rule: what is not known to need a token may still need one. So of some paths one is known to need one, of others
//! all are known to need none, and of the rest neither is known.

use matrix_edge_auth::matrix::endpoint::{
    AuthRequirement::{self, Admin, Blocked, None as Nothing, Optional, Required, Unknown},
    Method, classify,
};

use super::{
    routes::{is_noted_match, is_read},
    samples::SAMPLES,
};
use crate::{
    check::pattern::{self, Extent},
    yaml::Value,
};

/// What is known of paths.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tokens {
    /// One of them needs a token, or is never public.
    Needed,
    /// None of them needs one.
    Unneeded,
    /// Neither is known.
    Unknown,
}

/// Whether requests for a path need a token, or never come from the public, with some method.
pub(super) fn needs_token(path: &str) -> bool {
    of_path(path) == Tokens::Needed
}

/// Whether a path that begins so is known to need a token.
pub(super) fn begins_private(beginning: &str) -> bool {
    below(beginning) == Tokens::Needed
}

/// What is known of one path.
pub(super) fn of_path(path: &str) -> Tokens {
    let needs = needs(path);
    of_needs(&needs, &needs)
}

/// What is known of all paths that begin so.
pub(super) fn below(beginning: &str) -> Tokens {
    if SAMPLES.iter().any(|path| path.starts_with(beginning)) {
        return Tokens::Needed;
    }
    let further = ["", "a", "/a", "a/a", "/a/a"].map(|rest| needs(&format!("{beginning}{rest}")));
    of_needs(&needs(beginning), further.as_flattened())
}

/// What is known of a path that may be in any case.
pub(super) fn of_path_in_any_case(path: &str) -> Tokens {
    let is_it = |known: &&str| known.eq_ignore_ascii_case(path);
    in_any_case(path, SAMPLES.iter().any(is_it), of_path)
}

/// What is known of all paths that begin so in any case.
pub(super) fn below_in_any_case(beginning: &str) -> Tokens {
    let is_below = |known: &&str| rest_behind(known, beginning, true).is_some();
    in_any_case(beginning, SAMPLES.iter().any(is_below), below)
}

/// The paths that are known have small letters as a rule.
fn in_any_case(path: &str, is_known: bool, tokens: impl Fn(&str) -> Tokens) -> Tokens {
    if is_known || tokens(path) == Tokens::Needed {
        Tokens::Needed
    } else {
        tokens(&path.to_ascii_lowercase())
    }
}

/// What follows the beginning of a path, if it begins so.
pub(super) fn rest_behind<'p>(
    path: &'p str,
    beginning: &str,
    ignores_case: bool,
) -> Option<&'p str> {
    let (start, rest) = path.split_at_checked(beginning.len())?;
    let is_it = start == beginning || ignores_case && start.eq_ignore_ascii_case(beginning);
    is_it.then_some(rest)
}

/// What is known of paths with these needs. That none needs a token is known if one of them has its place in the table.
fn of_needs(own: &[AuthRequirement], all: &[AuthRequirement]) -> Tokens {
    let is_needed = |need: &AuthRequirement| matches!(need, Admin | Blocked | Required);
    let is_unneeded = |need: &AuthRequirement| matches!(need, Nothing | Optional | Unknown);
    if all.iter().any(is_needed) {
        Tokens::Needed
    } else if all.iter().all(is_unneeded) && own.iter().any(|need| *need != Unknown) {
        Tokens::Unneeded
    } else {
        Tokens::Unknown
    }
}

/// What the homeserver needs at a path, by the method.
fn needs(path: &str) -> [AuthRequirement; 4] {
    [Method::Get, Method::Post, Method::Put, Method::Delete]
        .map(|method| classify(path.as_bytes(), method))
}

/// Whether a regular expression, which stands in `place`, can be tried.
pub(super) fn can_be_tried(place: Value<'_>, regex: &str, extent: Extent) -> bool {
    if extent == Extent::Whole {
        is_read(place, regex)
    } else {
        pattern::compiled_for(place, regex, extent).is_some()
    }
}

/// What is known of the paths of a regular expression, which stands in `place`: by the known paths that it matches, and by some that
/// are made from it.
pub(super) fn of_regex(place: Value<'_>, regex: &str, extent: Extent) -> Tokens {
    let mut known = SAMPLES.iter().copied();
    let is_needed = if extent == Extent::Whole {
        is_read(place, regex).then(|| known.any(|path| is_noted_match(place, regex, path)))
    } else {
        let compiled = pattern::compiled_for(place, regex, extent);
        compiled.map(|compiled| known.any(|path| compiled.is_match(path.as_bytes())))
    };
    match is_needed {
        None => return Tokens::Unknown,
        Some(true) => return Tokens::Needed,
        Some(false) => {}
    }
    let made = pattern::examples(place, regex);
    let of_made = |path: &String| match extent {
        Extent::Whole => of_path(path),
        Extent::Beginning | Extent::Anywhere => below(path),
    };
    if made.iter().any(|path| of_made(path) == Tokens::Needed) {
        Tokens::Needed
    } else if !made.is_empty() && made.iter().all(|path| of_made(path) == Tokens::Unneeded) {
        Tokens::Unneeded
    } else {
        Tokens::Unknown
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::yaml::Tree;

    #[test]
    fn every_method_counts() {
        for path in [
            "/_matrix/client/v3/profile/@a:example.org/displayname",
            "/_matrix/client/v3/publicRooms",
            "/_matrix/client/v3/directory/room/a",
            "/_matrix/client/v3/directory/list/appservice/a/b",
            "/_synapse/mas/provision_user",
        ] {
            assert_eq!(of_path(path), Tokens::Needed, "{path}");
        }
        for path in [
            "/health",
            "/_matrix/client/versions",
            "/_matrix/key/v2/server",
        ] {
            assert_eq!(of_path(path), Tokens::Unneeded, "{path}");
        }
        for path in ["/other", "/_matrix/client/v3/login", "/_matrix"] {
            assert_eq!(of_path(path), Tokens::Unknown, "{path}");
        }
    }

    #[test]
    fn what_begins_so_is_looked_at() {
        for path in [
            "/",
            "/_matrix",
            "/_matrix/client/r0/profile/",
            "/_matrix/client/v1/login/",
            "/_matrix/client/v3/profile/@b:example.org",
            "/_synapse/client/",
        ] {
            assert_eq!(below(path), Tokens::Needed, "{path}");
        }
        for path in [
            "/_matrix/federation",
            "/.well-known/matrix",
            "/_matrix/key/",
        ] {
            assert_eq!(below(path), Tokens::Unneeded, "{path}");
        }
        for path in ["/other", "/_matrix/client/v3/login"] {
            assert_eq!(below(path), Tokens::Unknown, "{path}");
        }
    }

    #[test]
    fn an_expression_is_for_what_it_matches() {
        let text = "[0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16]";
        let tree = Tree::read("test".to_owned(), text.to_owned()).unwrap();
        for (number, (regex, extent, expected)) in [
            (
                "/_matrix/(federation|key)/.*",
                Extent::Whole,
                Tokens::Unneeded,
            ),
            (
                "/_matrix/(federation|key)/",
                Extent::Beginning,
                Tokens::Unneeded,
            ),
            (
                "^/_matrix/(federation|key)/",
                Extent::Anywhere,
                Tokens::Unneeded,
            ),
            (
                "/_matrix/(federation|client)/.*",
                Extent::Whole,
                Tokens::Needed,
            ),
            (
                "/_matrix/(client|federation)",
                Extent::Beginning,
                Tokens::Needed,
            ),
            (
                "/_matrix/(client|federation)",
                Extent::Whole,
                Tokens::Unknown,
            ),
            ("/sync", Extent::Anywhere, Tokens::Needed),
            ("/sync", Extent::Beginning, Tokens::Unknown),
            // Not among the known paths.
            (
                "/_synapse/admin/v1/(new|newer)/[0-9]+",
                Extent::Whole,
                Tokens::Needed,
            ),
            (
                "/_matrix/client/v9/rooms/[^/]+/new",
                Extent::Whole,
                Tokens::Needed,
            ),
            (
                "/_synapse/(metrics|replication)(/.*)?",
                Extent::Whole,
                Tokens::Needed,
            ),
            ("/(other|health)", Extent::Whole, Tokens::Unknown),
            ("(", Extent::Whole, Tokens::Unknown),
        ]
        .into_iter()
        .enumerate()
        {
            // What is noted of one expression is of no other.
            let found = of_regex(tree.value(number), regex, extent);
            assert_eq!(found, expected, "{regex} {extent:?}");
        }
    }
}
