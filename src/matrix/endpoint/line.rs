//! Lines of the endpoint table: how they are written, and which paths they are for.

use super::{method::Method, requirement::AuthRequirement};
use crate::text::{
    percent::escape,
    scan::{begins_with, is_equal},
};

/// One line of the table.
pub(super) struct Line {
    /// `None` for every method.
    pub(super) method: Option<Method>,
    /// `{}` is one segment, `{+}` one that is not empty; a final `**` is any number.
    pub(super) path: &'static str,
    /// How many bytes of it come before the first segment in braces and the final `**`.
    literal: usize,
    form: Form,
    pub(super) requirement: AuthRequirement,
}

/// What a line has to be compared with. Most name one path, or all below one.
#[derive(Clone, Copy)]
enum Form {
    /// One path, as it is on the wire.
    Whole,
    /// Likewise, and with a `/**` behind it.
    Subtree,
    /// One segment after the other, as they are on the wire.
    Segments,
    /// One segment after the other, decoded.
    DecodedSegments,
}

/// How Synapse compares a segment of a path with the one that it serves.
#[derive(Clone, Copy)]
enum Comparison {
    /// As it is on the wire. So it does for every API, by regular expressions.
    Raw,
    /// With its escapes decoded once, and without empty segments at the beginning. So it finds what is no API, in a
    /// tree of resources: `//.well-%6bnown` is `/.well-known`.
    Decoded,
}

/// A line for every method.
pub(super) const fn any(path: &'static str, requirement: AuthRequirement) -> Line {
    Line {
        method: None,
        path,
        literal: literal(path),
        form: form(path),
        requirement,
    }
}

/// A resource of Synapse's tree, for every method.
pub(super) const fn resource(path: &'static str, requirement: AuthRequirement) -> Line {
    Line {
        form: Form::DecodedSegments,
        ..any(path, requirement)
    }
}

pub(super) const fn get(path: &'static str, requirement: AuthRequirement) -> Line {
    only(Method::Get, path, requirement)
}

pub(super) const fn post(path: &'static str, requirement: AuthRequirement) -> Line {
    only(Method::Post, path, requirement)
}

pub(super) const fn put(path: &'static str, requirement: AuthRequirement) -> Line {
    only(Method::Put, path, requirement)
}

pub(super) const fn delete(path: &'static str, requirement: AuthRequirement) -> Line {
    only(Method::Delete, path, requirement)
}

const fn only(method: Method, path: &'static str, requirement: AuthRequirement) -> Line {
    Line {
        method: Some(method),
        ..any(path, requirement)
    }
}

/// The form of a line that Synapse matches as it is on the wire.
const fn form(path: &str) -> Form {
    match path.len() - literal(path) {
        0 => Form::Whole,
        2 if matches!(path.as_bytes(), [.., b'/', b'*', b'*']) => Form::Subtree,
        _ => Form::Segments,
    }
}

const fn literal(path: &str) -> usize {
    let mut rest = path.as_bytes();
    while let [first, tail @ ..] = rest
        && !matches!(first, b'{' | b'*')
    {
        rest = tail;
    }
    path.len() - rest.len()
}

impl Line {
    /// Whether the line is for this path.
    #[inline]
    pub(super) fn matches_path(&self, path: &[u8]) -> bool {
        match self.form {
            Form::Whole => is_equal(path, self.path.as_bytes()),
            Form::Subtree => self.is_above(path),
            Form::Segments => self.is_like(path, Comparison::Raw),
            Form::DecodedSegments => self.is_like(path, Comparison::Decoded),
        }
    }

    /// Whether a line with `/**` at its end is for `path`. `/a/**` is also for `/a`.
    fn is_above(&self, path: &[u8]) -> bool {
        let start = self.path.as_bytes().get(..self.literal);
        let start = start.unwrap_or_default();
        if path.len() + 1 == start.len() {
            begins_with(start, path)
        } else {
            begins_with(path, start)
        }
    }

    fn is_like(&self, path: &[u8], comparison: Comparison) -> bool {
        self.may_match(path, comparison) && self.matches_segments(path, comparison)
    }

    /// The quick answer for nearly every line of the table: the path begins otherwise.
    fn may_match(&self, path: &[u8], comparison: Comparison) -> bool {
        let literal = self.path.as_bytes().iter().take(self.literal);
        let mut bytes = path.iter();
        for expected in literal {
            match bytes.next() {
                Some(byte) if byte == expected => {}
                // It may be encoded, or be a slash too many.
                Some(b'%' | b'/') => return matches!(comparison, Comparison::Decoded),
                // `/a/**` is also for `/a`.
                None => return *expected == b'/' && path.len() + 1 == self.literal,
                Some(_) => return false,
            }
        }
        true
    }

    fn matches_segments(&self, path: &[u8], comparison: Comparison) -> bool {
        let is_slash = |byte: &u8| *byte == b'/';
        let mut segments = comparison.path(path).split(is_slash);
        for expected in self.path.as_bytes().split(is_slash) {
            if expected == b"**" {
                return true;
            }
            let matches = segments.next().is_some_and(|segment| match expected {
                b"{}" => true,
                b"{+}" => !segment.is_empty(),
                _ => comparison.matches(segment, expected),
            });
            if !matches {
                return false;
            }
        }
        segments.next().is_none()
    }
}

impl Comparison {
    /// What counts of `path`.
    fn path(self, mut path: &[u8]) -> &[u8] {
        if matches!(self, Self::Decoded) {
            while let Some(rest) = path.strip_prefix(b"/")
                && rest.starts_with(b"/")
            {
                path = rest;
            }
        }
        path
    }

    fn matches(self, segment: &[u8], expected: &[u8]) -> bool {
        match self {
            Self::Raw => segment == expected,
            Self::Decoded => decodes_to(segment, expected),
        }
    }
}

/// Whether `segment` is `expected` when each of its escapes is decoded once. A bad one stands for itself.
fn decodes_to(segment: &[u8], expected: &[u8]) -> bool {
    let mut rest = segment;
    expected.iter().all(|&wanted| {
        let Some((first, tail)) = rest.split_first() else {
            return false;
        };
        let (byte, tail) = escape(rest).unwrap_or((*first, tail));
        rest = tail;
        byte == wanted
    }) && rest.is_empty()
}

/// What the first of `lines` that is for `path` and `method` needs.
pub(super) fn requirement(lines: &[Line], path: &[u8], method: Method) -> Option<AuthRequirement> {
    find_line(lines, path, method).map(|line| line.requirement)
}

/// The first of `lines` that is for `path` and `method`.
pub(super) fn find_line<'e>(lines: &'e [Line], path: &[u8], method: Method) -> Option<&'e Line> {
    lines.iter().find(|line| {
        line.matches_path(path)
            && line
                .method
                .is_none_or(|expected| expected == method.handler())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::matrix::endpoint::AuthRequirement::Required;

    #[test]
    fn patterns_match_whole_segments() {
        let matches = |pattern, path: &str| any(pattern, Required).matches_path(path.as_bytes());
        assert!(matches("a/{}", "a/b"));
        assert!(!matches("a/{}", "a"));
        assert!(matches("a/{}", "a/"));
        assert!(matches("a/{}/c", "a//c"));
        assert!(matches("a/{+}", "a/b"));
        assert!(!matches("a/{+}", "a/"));
        assert!(!matches("a/{}", "a/b/"));
        assert!(!matches("a/{}", "a/b/c"));
        assert!(!matches("a/b", "a/bc"));
        assert!(matches("/a/**", "/a"));
        assert!(matches("/a/**", "/a/"));
        assert!(matches("/a/**", "/a/b/c"));
        assert!(!matches("/a/**", "/ab"));
        assert!(!matches("a/bc", "a/b%63"));
    }

    #[test]
    fn resources_are_found_in_every_encoding() {
        let matches =
            |pattern, path: &str| resource(pattern, Required).matches_path(path.as_bytes());
        for path in [
            "/a/bc/d",
            "/%61/b%63/d",
            "/a/%62%63/",
            "/a/bc",
            "//a/bc",
            "////%61/bc",
        ] {
            assert!(matches("/a/bc/**", path), "{path}");
        }
        for path in [
            "/a/b%2563/d",
            "/a%2Fbc/d",
            "/a/bc%00",
            "/a/b%6/d",
            "/a/b%zz",
            "/%41/bc",
            "/a//bc",
            "/%2Fa/bc",
            "/a/b",
            "/a/bc%",
            "/a",
        ] {
            assert!(!matches("/a/bc/**", path), "{path}");
        }
    }
}
