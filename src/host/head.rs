//! The head of a request: every field that decides something, found in one pass over one reading.

use std::{mem, ops::Range};

use super::fields::Fields;
use crate::{form::scan::position, matrix::credential::Authorization};

/// The head of a request. `Debug` is not there, since it holds the token.
#[derive(Default)]
pub struct RequestHead {
    fields: Fields,
    method: Option<Range<usize>>,
    target: Option<Range<usize>>,
    /// Where the query begins, in the target.
    query: Option<usize>,
    authorization: Authorizations,
}

/// Where the `authorization` fields have their first value.
#[derive(Default)]
enum Authorizations {
    /// There is none.
    #[default]
    None,
    /// There is one field.
    One(Range<usize>),
    /// There are more.
    Several(Range<usize>),
}

impl Authorizations {
    /// Takes in a further field, which has its value there.
    fn add(&mut self, value: Range<usize>) {
        *self = match mem::take(self) {
            Self::None => Self::One(value),
            Self::One(first) | Self::Several(first) => Self::Several(first),
        };
    }
}

impl RequestHead {
    /// Finds what decides in the fields of a request, which are serialized as [`Fields::parse`] takes them. `None`: they
    /// are not whole.
    #[inline]
    pub fn parse(bytes: Vec<u8>) -> Option<Self> {
        let mut head = Self::default();
        let fields = Fields::parse_with(bytes, |bytes, field| {
            let is = |name: &[u8]| bytes.get(field.name()) == Some(name);
            // Nearly always the lengths tell.
            let found = match field.name_length() {
                5 if is(b":path") => &mut head.target,
                7 if is(b":method") => &mut head.method,
                13 if is(b"authorization") => return head.authorization.add(field.value()),
                _ => return,
            };
            found.get_or_insert(field.value());
        })?;
        let mut head = Self { fields, ..head };
        head.query = position(head.target(), b'?');
        Some(head)
    }

    /// Finds what decides in fields that have been read.
    pub fn new(fields: Fields) -> Self {
        Self::parse(fields.into_bytes()).unwrap_or_default()
    }

    /// Returns `:method`.
    pub fn method(&self) -> &[u8] {
        self.value(self.method.as_ref()).unwrap_or_default()
    }

    /// Returns the raw `:path`, with query.
    #[inline]
    pub fn target(&self) -> &[u8] {
        self.value(self.target.as_ref()).unwrap_or_default()
    }

    /// Returns the target without the query.
    pub fn path(&self) -> &[u8] {
        let target = self.target();
        let path = self.query.and_then(|mark| target.get(..mark));
        path.unwrap_or(target)
    }

    /// Returns the query, without the `?` before it.
    pub fn query(&self) -> Option<&[u8]> {
        self.target().get(self.query?.checked_add(1)?..)
    }

    /// Returns `content-type`; the first, if there are several.
    pub fn content_type(&self) -> Option<&[u8]> {
        self.first("content-type")
    }

    /// Returns the `authorization` fields. Where Envoy joins them with commas they are one.
    pub fn authorization(&self) -> Authorization<'_> {
        let value = |range: &Range<usize>| self.fields.slice(range.clone());
        match &self.authorization {
            Authorizations::None => Authorization::None,
            Authorizations::One(range) => Authorization::One(value(range)),
            Authorizations::Several(range) => Authorization::Several {
                first: value(range),
            },
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

    fn value(&self, range: Option<&Range<usize>>) -> Option<&[u8]> {
        range.map(|range| self.fields.slice(range.clone()))
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
