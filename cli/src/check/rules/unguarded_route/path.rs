//! Whether a rule for paths is for requests that need a token.
//!
//! The non-obvious rule: what is not known to need a token may still need one. So a rule is for requests that need one, for requests
//! that need none, or neither is known of it.

use matrix_edge_auth::matrix::endpoint::{
    AuthRequirement::{self, None as Nothing, Optional, Unknown},
    Method, classify,
};

use crate::{check::rules::samples::SAMPLES, yaml::Value};

/// A rule for paths.
#[derive(Clone, Copy, Debug)]
pub(super) enum PathRule<'t> {
    /// For one path.
    Exact(&'t str),
    /// For paths that begin so.
    Prefix(&'t str),
    /// For paths of an expression. The beginnings of its alternatives tell.
    Regex(&'t str),
}

impl<'t> PathRule<'t> {
    /// That of a match of the Gateway API. Without a path it is for all paths.
    pub fn of_match(one: Value<'t>) -> Self {
        let path = one.text_at(&["path", "value"]).unwrap_or("/");
        match one.text_at(&["path", "type"]) {
            Some("Exact") => Self::Exact(path),
            Some("RegularExpression") => Self::Regex(path),
            _ => Self::Prefix(path),
        }
    }

    /// Whether one of its paths, as far as that can be told, needs a token.
    pub fn is_private(self) -> bool {
        match self {
            Self::Exact(path) => needs_token(path),
            Self::Prefix(prefix) => begins_private(prefix),
            Self::Regex(regex) => beginnings(regex).iter().any(|it| begins_private(it)),
        }
    }

    /// Whether all of its paths are known to need no token.
    pub fn is_open(self) -> bool {
        match self {
            Self::Exact(path) => is_open_at(path),
            Self::Prefix(prefix) => is_open_below(prefix),
            Self::Regex(regex) => beginnings(regex).iter().all(|it| is_open_below(it)),
        }
    }
}

fn begins_private(beginning: &str) -> bool {
    SAMPLES.iter().any(|path| path.starts_with(beginning)) || needs_token(beginning)
}

fn needs_token(path: &str) -> bool {
    needs(path).iter().any(|need| {
        matches!(
            need,
            AuthRequirement::Admin | AuthRequirement::Blocked | AuthRequirement::Required
        )
    })
}

/// What the homeserver needs at a path, by the method.
fn needs(path: &str) -> [AuthRequirement; 4] {
    [Method::Get, Method::Post, Method::Put, Method::Delete]
        .map(|method| classify(path.as_bytes(), method))
}

/// Whether a token may be left out.
const fn is_without_token(need: &AuthRequirement) -> bool {
    matches!(need, Nothing | Optional | Unknown)
}

/// Whether the homeserver is known to need no token at a path, whatever the method.
fn is_open_at(path: &str) -> bool {
    let needs = needs(path);
    needs.iter().all(is_without_token) && needs.iter().any(|need| *need != Unknown)
}

/// The same of all paths that begin so.
fn is_open_below(path: &str) -> bool {
    let is_private = SAMPLES.iter().any(|one| one.starts_with(path));
    let mut below = ["a", "/a", "/a/a"].iter();
    is_open_at(path)
        && !is_private
        && below.all(|rest| needs(&format!("{path}{rest}")).iter().all(is_without_token))
}

/// What the paths of a regular expression begin with: one beginning for each of its alternatives. A dot counts as the dot that
/// it is meant for as a rule.
fn beginnings(regex: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut literal = String::new();
    let (mut is_literal, mut is_class, mut depth) = (true, false, 0_usize);
    let mut chars = regex.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => match chars.next() {
                Some(escaped) if is_literal && escaped.is_ascii_punctuation() => {
                    literal.push(escaped);
                }
                _ => is_literal = false,
            },
            ']' => (is_class, is_literal) = (false, false),
            _ if is_class => {}
            '[' => (is_class, is_literal) = (true, false),
            '(' => (depth, is_literal) = (depth + 1, false),
            ')' => (depth, is_literal) = (depth.saturating_sub(1), false),
            '|' if depth == 0 => {
                found.push(std::mem::take(&mut literal));
                is_literal = true;
            }
            '*' | '+' | '?' | '{' => {
                // The character before may be another one, or none.
                if is_literal {
                    literal.pop();
                }
                is_literal = false;
            }
            '^' if literal.is_empty() => {}
            '$' | '^' => is_literal = false,
            _ if is_literal => literal.push(c),
            _ => {}
        }
    }
    found.push(literal);
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_alternative_of_an_expression_begins_with_a_path() {
        for (regex, expected) in [
            ("^/_matrix/client/", &["/_matrix/client/"][..]),
            (r"/\.well-known/matrix", &["/.well-known/matrix"]),
            ("/.well-known/matrix", &["/.well-known/matrix"]),
            ("/a/(b|c)", &["/a/"]),
            ("/a/[b|c]", &["/a/"]),
            ("/a/b?c", &["/a/"]),
            ("/ab*", &["/a"]),
            ("/ab{0,1}", &["/a"]),
            ("/.*", &["/"]),
            (r"/a\d", &["/a"]),
            ("/a$|^/b", &["/a", "/b"]),
            ("", &[""]),
        ] {
            assert_eq!(beginnings(regex), expected, "{regex}");
        }
    }

    #[test]
    fn a_path_is_taken_as_it_is_written() {
        for (rule, expected) in [
            (PathRule::Exact("/_matrix/client/v3/sync"), true),
            (PathRule::Exact("/_matrix/client/versions"), false),
            (PathRule::Exact("/_matrix"), false),
            (PathRule::Exact("/"), false),
            (PathRule::Prefix("/"), true),
            (PathRule::Prefix("/_matrix"), true),
            (PathRule::Prefix("/.well-known/matrix"), false),
            (PathRule::Prefix("/_matrix/federation"), false),
            (PathRule::Prefix("/_matrix/client/v3/rooms"), true),
            (
                PathRule::Regex(r"/\.well-known/matrix/(client|server)"),
                false,
            ),
            (PathRule::Regex("/_matrix/.*"), true),
        ] {
            assert_eq!(rule.is_private(), expected, "{rule:?}");
        }
    }
}
