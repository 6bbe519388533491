//! The head of a request: every field that decides something, found in one pass over one reading.

use alloc::vec::Vec;

use super::fields::{Fields, Span};
use crate::{
    matrix::{credential::Authorization, endpoint::Path},
    text::scan::{first_of, position},
};

/// The head of a request. `Debug` is not there, since it holds the token.
#[derive(Default)]
pub struct RequestHead {
    fields: Fields,
    method: Span,
    target: Span,
    /// How long the target is without its query.
    path_length: usize,
    /// How many bytes of the path come before the first that may have to be decoded, and the first two dots.
    plain_length: usize,
    /// The value of the first `authorization` field.
    authorization: Span,
    /// There is more than one `authorization` field.
    has_further_authorization: bool,
}

impl RequestHead {
    /// Finds what decides in the fields of a request, which are serialized as [`Fields::parse`] takes them. `None`: they
    /// are not whole.
    #[inline]
    pub fn parse(bytes: Vec<u8>) -> Option<Self> {
        let mut method = Span::default();
        let mut target = Span::default();
        let mut authorization = Span::default();
        let mut has_further_authorization = false;
        let fields = Fields::parse_with(bytes, |bytes, field| {
            let is = |name: &[u8]| bytes.get(field.name().range()) == Some(name);
            // Nearly always the lengths tell.
            match field.name_length() {
                5 if is(b":path") => target.set_first(field.value()),
                7 if is(b":method") => method.set_first(field.value()),
                13 if is(b"authorization") => {
                    has_further_authorization = authorization.is_set();
                    authorization.set_first(field.value());
                }
                _ => {}
            }
        })?;
        let text = fields.slice(target);
        let plain_length = plain_length(text);
        let rest = text.get(plain_length..).unwrap_or_default();
        let path_length = position(rest, b'?').map_or(text.len(), |at| plain_length + at);
        Some(Self {
            path_length,
            plain_length,
            fields,
            method,
            target,
            authorization,
            has_further_authorization,
        })
    }

    /// Finds what decides in fields that have been read.
    pub fn new(fields: Fields) -> Self {
        Self::parse(fields.into_bytes()).unwrap_or_default()
    }

    /// Returns `:method`.
    pub fn method(&self) -> &[u8] {
        self.fields.slice(self.method)
    }

    /// Returns the raw `:path`, with query.
    #[inline]
    pub fn target(&self) -> &[u8] {
        self.fields.slice(self.target)
    }

    /// Returns the target without the query.
    pub fn path(&self) -> &[u8] {
        self.target().get(..self.path_length).unwrap_or_default()
    }

    /// Returns the same with what is known of it.
    #[inline]
    pub fn scanned_path(&self) -> Path<'_> {
        Path {
            text: self.path(),
            plain_length: self.plain_length,
        }
    }

    /// Returns the query, without the `?` before it.
    pub fn query(&self) -> Option<&[u8]> {
        self.target().get(self.path_length.checked_add(1)?..)
    }

    /// Returns `content-type`; the first, if there are several.
    pub fn content_type(&self) -> Option<&[u8]> {
        self.first("content-type")
    }

    /// Returns the `authorization` fields. Where Envoy joins them with commas they are one.
    pub fn authorization(&self) -> Authorization<'_> {
        let first = self.fields.slice(self.authorization);
        match (self.authorization.is_set(), self.has_further_authorization) {
            (false, _) => Authorization::None,
            (true, false) => Authorization::One(first),
            (true, true) => Authorization::Several { first },
        }
    }

    /// Returns the first value of any field, whose name is in lower case.
    pub fn first(&self, name: &str) -> Option<&[u8]> {
        self.fields.first(name)
    }

    /// Returns every field.
    pub fn fields(&self) -> &Fields {
        &self.fields
    }
}

/// Returns how long the path of a target is, up to the first `%`, the first `..` or a dot at its end.
#[inline]
fn plain_length(target: &[u8]) -> usize {
    let mut start = 0;
    loop {
        let rest = target.get(start..).unwrap_or_default();
        let Some(at) = first_of(rest, [b'?', b'.', b'%']) else {
            return target.len();
        };
        match rest.get(at..) {
            // Names of servers have dots.
            Some([b'.', next, ..]) if *next != b'.' => start += at + 1,
            _ => return start + at,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(fields: &[(&str, &str)]) -> RequestHead {
        let fields = fields.iter().map(|(name, value)| (*name, value.as_bytes()));
        RequestHead::new(Fields::of(fields))
    }

    #[test]
    fn what_decides_is_found_wherever_it_stands() {
        let head = head(&[
            ("x", "1"),
            ("content-type", "text/plain"),
            (":path", "/a?b"),
            ("content-type", "text/html"),
            ("authorization", ""),
            (":method", "PUT"),
        ]);
        assert_eq!(head.method(), b"PUT");
        assert_eq!(head.target(), b"/a?b");
        assert_eq!(head.content_type(), Some(&b"text/plain"[..]));
        assert_eq!(head.authorization(), Authorization::One(b""));
        assert_eq!(head.first("x"), Some(&b"1"[..]));
    }

    #[test]
    fn the_query_begins_at_the_first_question_mark() {
        for (target, path, query) in [
            ("/a", "/a", None),
            ("?b", "", Some("b")),
            ("/a?", "/a", Some("")),
            ("/a?b?c", "/a", Some("b?c")),
            ("?", "", Some("")),
            ("", "", None),
        ] {
            let head = head(&[(":path", target)]);
            assert_eq!(head.path(), path.as_bytes(), "{target}");
            assert_eq!(head.query(), query.map(str::as_bytes), "{target}");
        }
    }

    #[test]
    fn a_path_is_plain_up_to_what_may_have_to_be_decoded_or_resolved() {
        for (target, plain) in [
            ("/a/example.org/b", 16),
            ("/a/example.org/b?c=%2e..", 16),
            ("/a.b/..", 5),
            ("/a.b%2e", 4),
            ("/a.%2e", 3),
            ("/a.", 2),
            ("/a.?b", 3),
            ("..", 0),
            ("", 0),
        ] {
            let head = head(&[(":path", target)]);
            assert_eq!(head.scanned_path().plain_length, plain, "{target}");
        }
    }

    #[test]
    fn several_authorizations_are_told_from_one() {
        for (values, expected) in [
            (&[][..], Authorization::None),
            (&["a,b"], Authorization::One(b"a,b")),
            (&["a", "b"], Authorization::Several { first: b"a" }),
            (&["", ""], Authorization::Several { first: b"" }),
        ] {
            let fields: Vec<_> = values.iter().map(|v| ("authorization", *v)).collect();
            assert_eq!(head(&fields).authorization(), expected, "{values:?}");
        }
    }

    #[test]
    fn a_head_without_them_has_none() {
        let head = head(&[]);
        assert_eq!((head.method(), head.target()), (&b""[..], &b""[..]));
        assert_eq!(head.content_type(), None);
        assert_eq!(head.first("x"), None);
    }
}
