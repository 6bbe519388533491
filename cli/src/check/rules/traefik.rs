//! Matchers of Traefik's routes, as in ``Host(`example.org`) && (PathPrefix(`/_matrix`) || !Method(`GET`))``.
//!
//! The non-obvious rule: only paths are understood. Whatever else a matcher asks for, or refuses by `!`, some request fulfils.

use super::path_rule::PathRule;
use crate::{check::pattern::Extent, yaml::Value};

/// How deep brackets may lie in each other. A matcher with more of them may take any path.
const MAX_DEPTH: usize = 64;

/// Whether the matcher of a route may take a request that needs a token.
pub(super) fn takes_private<'m>(route: Value<'m>, matcher: &'m str) -> bool {
    let mut reader = Reader {
        route,
        rest: matcher,
    };
    reader.any_of(0).unwrap_or(true)
}

/// What is left of a matcher. `None`: it cannot be read.
struct Reader<'m> {
    route: Value<'m>,
    rest: &'m str,
}

impl<'m> Reader<'m> {
    /// Alternatives.
    fn any_of(&mut self, depth: usize) -> Option<bool> {
        let mut takes = self.all_of(depth)?;
        while self.skips("||") {
            takes |= self.all_of(depth)?;
        }
        Some(takes)
    }

    fn all_of(&mut self, depth: usize) -> Option<bool> {
        let mut takes = self.one(depth)?;
        while self.skips("&&") {
            takes &= self.one(depth)?;
        }
        Some(takes)
    }

    fn one(&mut self, depth: usize) -> Option<bool> {
        if depth > MAX_DEPTH {
            return None;
        }
        if self.skips("!") {
            self.one(depth + 1)?;
            return Some(true);
        }
        if self.skips("(") {
            let takes = self.any_of(depth + 1)?;
            return self.skips(")").then_some(takes);
        }
        let (name, rest) = self.rest.trim_start().split_once('(')?;
        self.rest = rest;
        let mut takes = false;
        loop {
            let path = self.quoted()?;
            takes |= match name {
                "Path" => PathRule::Exact(path).is_private(),
                "PathPrefix" => PathRule::Prefix(path).is_private(),
                "PathRegexp" => {
                    let rule = PathRule::Regex(self.route, path, Extent::Anywhere);
                    rule.is_private() || rule.is_unread()
                }
                // Requests for OPTIONS need no token.
                "Method" => !path.eq_ignore_ascii_case("OPTIONS"),
                _ => true,
            };
            if !self.skips(",") {
                break;
            }
        }
        self.skips(")").then_some(takes)
    }

    /// A text in quotes.
    fn quoted(&mut self) -> Option<&'m str> {
        let rest = self.rest.trim_start();
        let quote = rest.chars().next().filter(|it| "`\"'".contains(*it))?;
        let (text, rest) = rest.get(1..)?.split_once(quote)?;
        self.rest = rest;
        Some(text)
    }

    fn skips(&mut self, text: &str) -> bool {
        let rest = self.rest.trim_start().strip_prefix(text);
        self.rest = rest.unwrap_or(self.rest);
        rest.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::yaml::Tree;

    #[test]
    fn a_matcher_takes_what_one_of_its_alternatives_takes() {
        let tree = Tree::read("test".to_owned(), "a".to_owned()).unwrap();
        let route = tree.value(0);
        for (matcher, expected) in [
            ("Host(`a`)", true),
            ("PathPrefix(`/_matrix`)", true),
            ("PathPrefix(`/_matrix/federation`)", false),
            ("Path(`/_matrix`)", false),
            ("Path('/a', \"/_matrix/client/v3/sync\")", true),
            ("PathPrefix(`/a`)&&PathPrefix(`/_matrix`)", false),
            (
                "(Host(`a`) && Method(`GET`)) || PathPrefix(`/_matrix/federation`)",
                true,
            ),
            (
                "PathPrefix(`/_matrix/federation`) && (Method(`GET`) || Method(`PUT`))",
                false,
            ),
            (
                "PathPrefix(`/_matrix/federation`) && !PathPrefix(`/_matrix/client`)",
                false,
            ),
            ("!PathPrefix(`/_matrix/federation`)", true),
            ("!(PathPrefix(`/_matrix/federation`))", true),
            ("PathRegexp(`^/_matrix/federation/v[12]/`)", false),
            ("PathRegexp(`^/_matrix/(client|media)/`)", true),
            ("PathRegexp(`^/_matrix/(federation|key)/`)", false),
            ("PathRegexp(`/sync$`)", true),
            // What cannot be read.
            ("PathRegexp(`^/_matrix/(federation`)", true),
            ("PathPrefix(`/_matrix/federation`", true),
            ("Host(a)", true),
            ("", true),
        ] {
            assert_eq!(takes_private(route, matcher), expected, "{matcher}");
        }
        let deep = "(".repeat(100_000) + "PathPrefix(`/a`)" + &")".repeat(100_000);
        assert!(takes_private(route, &deep));
    }
}
