//! Whether a rule for paths is for requests that need a token.

use matrix_edge_auth::matrix::endpoint::{AuthRequirement, Method, classify};

use crate::check::rules::routes::PRIVATE;

/// A rule for paths.
#[derive(Clone, Copy, Debug)]
pub(super) enum PathRule<'t> {
    /// For one path.
    Exact(&'t str),
    /// For paths that begin so.
    Prefix(&'t str),
    /// For paths of an expression. Its beginning tells, up to the first character that is none of a path.
    Regex(&'t str),
}

impl PathRule<'_> {
    /// Whether one of its paths, as far as that can be told, needs a token.
    pub fn is_private(self) -> bool {
        match self {
            Self::Exact(path) => needs_token(path),
            Self::Prefix(prefix) => begins_private(prefix),
            Self::Regex(regex) => begins_private(&beginning(regex)),
        }
    }
}

fn begins_private(beginning: &str) -> bool {
    PRIVATE.iter().any(|path| path.starts_with(beginning)) || needs_token(beginning)
}

fn needs_token(path: &str) -> bool {
    [Method::Get, Method::Post].into_iter().any(|method| {
        matches!(
            classify(path.as_bytes(), method),
            AuthRequirement::Admin | AuthRequirement::Blocked | AuthRequirement::Required
        )
    })
}

/// What every text of an expression begins with.
fn beginning(regex: &str) -> String {
    let mut found = String::new();
    let mut rest = regex.trim_start_matches('^').chars();
    while let Some(c) = rest.next() {
        match c {
            // Behind it only letters and digits mean something else than themselves.
            '\\' => match rest.next() {
                Some(escaped) if !escaped.is_ascii_alphanumeric() => found.push(escaped),
                _ => break,
            },
            // The last character may be absent.
            '?' | '*' | '{' => {
                found.pop();
                break;
            }
            // There may be another beginning.
            '|' => return String::new(),
            '(' | ')' | '[' | ']' | '}' | '.' | '+' | '$' => break,
            _ => found.push(c),
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_beginning_of_an_expression_is_a_path() {
        for (regex, expected) in [
            ("^/_matrix/client/", "/_matrix/client/"),
            (r"/\.well-known/matrix", "/.well-known/matrix"),
            ("/a/(b|c)", "/a/"),
            ("/a/b?c", "/a/"),
            ("/ab*", "/a"),
            ("/ab{0,1}", "/a"),
            ("/ab+", "/ab"),
            (r"/a\d", "/a"),
            ("/a.b", "/a"),
            ("/a|/b", ""),
        ] {
            assert_eq!(beginning(regex), expected, "{regex}");
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
