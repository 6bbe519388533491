//! What chooses requests by their paths, in the resources of Kubernetes.

use super::tokens::{
    Tokens, below, below_in_any_case, can_be_tried, of_path, of_path_in_any_case, of_regex,
};
use crate::{check::pattern::Extent, yaml::Value};

/// A rule for paths.
#[derive(Clone, Copy)]
pub(super) enum PathRule<'t> {
    /// For one path.
    Exact(&'t str),
    /// For paths that begin so.
    Prefix(&'t str),
    /// For one path, in any case.
    ExactInAnyCase(&'t str),
    /// For paths that begin so, in any case.
    PrefixInAnyCase(&'t str),
    /// For paths of an expression, which stands in a value of a file.
    Regex(Value<'t>, &'t str, Extent),
    /// For requests for OPTIONS, which need no token.
    Options,
    /// For paths that begin so, or of an expression: who reads it decides. NGINX takes both in any case.
    PrefixOrRegex(Value<'t>, &'t str),
}

impl<'t> PathRule<'t> {
    /// That of a match of the Gateway API. Without a path it is for all paths.
    pub fn of_match(one: Value<'t>) -> Self {
        if one.text_at(&["method"]) == Some("OPTIONS") {
            return Self::Options;
        }
        let path = one.text_at(&["path", "value"]).unwrap_or("/");
        match one.text_at(&["path", "type"]) {
            Some("Exact") => Self::Exact(path),
            Some("RegularExpression") => {
                Self::Regex(one.get("path").unwrap_or(one), path, Extent::Whole)
            }
            _ => Self::Prefix(path),
        }
    }

    /// What is known of its paths.
    pub fn tokens(self) -> Tokens {
        match self {
            Self::Options => Tokens::Unneeded,
            Self::Exact(path) => of_path(path),
            Self::Prefix(prefix) => below(prefix),
            Self::ExactInAnyCase(path) => of_path_in_any_case(path),
            Self::PrefixInAnyCase(prefix) => below_in_any_case(prefix),
            Self::Regex(place, regex, extent) => of_regex(place, regex, extent),
            Self::PrefixOrRegex(place, path) => match below_in_any_case(path) {
                Tokens::Needed => Tokens::Needed,
                _ => of_regex(place, &format!("(?i){path}"), Extent::Beginning),
            },
        }
    }

    /// Whether it is an expression that cannot be tried.
    pub fn is_unread(self) -> bool {
        match self {
            Self::Regex(place, regex, extent) => !can_be_tried(place, regex, extent),
            _ => false,
        }
    }

    /// Whether one of its paths is known to need a token.
    pub fn is_private(self) -> bool {
        self.tokens() == Tokens::Needed
    }

    /// Whether all of its paths are known to need no token.
    pub fn is_open(self) -> bool {
        self.tokens() == Tokens::Unneeded
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::yaml::Tree;

    #[test]
    fn a_path_is_taken_as_it_is_written() {
        let tree = Tree::read("test".to_owned(), "[0, 1, 2]".to_owned()).unwrap();
        let regex = |place, regex| PathRule::Regex(tree.value(place), regex, Extent::Whole);
        let either = |path| PathRule::PrefixOrRegex(tree.value(0), path);
        for (number, (rule, expected)) in [
            (PathRule::Exact("/_matrix/client/v3/sync"), true),
            (PathRule::Exact("/_matrix/client/versions"), false),
            (PathRule::Exact("/_matrix"), false),
            (PathRule::Exact("/"), false),
            (PathRule::Prefix("/"), true),
            (PathRule::Prefix("/_matrix"), true),
            (PathRule::Prefix("/.well-known/matrix"), false),
            (PathRule::Prefix("/_matrix/federation"), false),
            (PathRule::Prefix("/_matrix/client/v3/rooms"), true),
            (regex(0, r"/\.well-known/matrix/(client|server)"), false),
            (regex(1, "/_matrix/.*"), true),
            (regex(2, "/_matrix/(federation|key)/.*"), false),
            (either("/_matrix/(federation|key)/.*"), false),
            (either("/_matrix/client"), true),
            (either("/_matrix/(client|federation)"), true),
            (either("/_MATRIX/client"), true),
            (either("/_MATRIX/(client|federation)/"), true),
            (either("/_MATRIX/(key|federation)/"), false),
            (PathRule::ExactInAnyCase("/_matrix/client/v3/SYNC"), true),
            (PathRule::ExactInAnyCase("/_SYNAPSE/admin/v1/new"), true),
            (PathRule::ExactInAnyCase("/_MATRIX"), false),
            (PathRule::PrefixInAnyCase("/_MATRIX/client/v3/Rooms"), true),
            (PathRule::PrefixInAnyCase("/_MATRIX/federation"), false),
        ]
        .into_iter()
        .enumerate()
        {
            assert_eq!(rule.is_private(), expected, "{number}");
        }
    }
}
