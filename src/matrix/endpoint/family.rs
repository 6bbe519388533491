//! Families of the endpoint table: how they are written, and how a path finds its own.

use super::{
    line::Line,
    method::Method,
    requirement::AuthRequirement::{self, Required, Unknown},
};
use crate::text::scan::{is_equal, position};

/// Endpoints whose paths begin with the same segment.
pub(super) struct Family {
    /// The segment.
    pub(super) name: &'static str,
    /// How the segment begins.
    key: u64,
    /// The methods that Synapse serves on any of its paths. It refuses all others (405) before it
    /// looks at a token.
    pub(super) methods: &'static [Method],
    pub(super) lines: &'static [Line],
    /// What every other path of the family needs.
    pub(super) otherwise: AuthRequirement,
}

/// A family whose paths all need the same.
pub(super) const fn all(
    name: &'static str,
    methods: &'static [Method],
    requirement: AuthRequirement,
) -> Family {
    Family {
        name,
        key: key(name.as_bytes()),
        methods,
        lines: &[],
        otherwise: requirement,
    }
}

pub(super) const fn required(name: &'static str, methods: &'static [Method]) -> Family {
    all(name, methods, Required)
}

/// The same, but for these.
pub(super) const fn required_but(
    name: &'static str,
    methods: &'static [Method],
    lines: &'static [Line],
) -> Family {
    with_lines(required(name, methods), lines)
}

/// A family with different needs. A path that is not listed is unknown.
pub(super) const fn listed(
    name: &'static str,
    methods: &'static [Method],
    lines: &'static [Line],
) -> Family {
    with_lines(all(name, methods, Unknown), lines)
}

/// A family with these lines. The compiler refuses one whose methods are not those of its lines: a request with another method
/// passes without a look at its token, as the homeserver refuses it, and so the line would not count.
const fn with_lines(family: Family, lines: &'static [Line]) -> Family {
    assert!(
        cover(family.methods, lines),
        "a line is for a method that its family does not list"
    );
    Family { lines, ..family }
}

/// Whether every line is for one of these methods, or for any.
const fn cover(methods: &[Method], mut lines: &[Line]) -> bool {
    while let [line, rest @ ..] = lines {
        if let Some(method) = line.method
            && !contains(methods, method)
        {
            return false;
        }
        lines = rest;
    }
    true
}

const fn contains(mut methods: &[Method], method: Method) -> bool {
    while let [first, rest @ ..] = methods {
        if *first as u8 == method as u8 {
            return true;
        }
        methods = rest;
    }
    false
}

/// So many families are looked at one after the other: a search by halves takes longer.
const FEW: usize = 8;

/// The family that the first segment of `path` names.
#[inline]
pub(super) fn find<'a>(families: &'a [Family], path: &[u8]) -> Option<&'a Family> {
    let end = position(path, b'/').unwrap_or(path.len());
    let name = path.get(..end)?;
    let key = match path.first_chunk() {
        // What follows the name is no part of it.
        Some(word) if end < word.len() => u64::from_be_bytes(*word) & !(u64::MAX >> (8 * end)),
        Some(word) => u64::from_be_bytes(*word),
        None => key(name),
    };
    let is_it = |family: &&Family| family.key == key && is_equal(family.name.as_bytes(), name);
    if families.len() <= FEW {
        return families.iter().find(is_it);
    }
    let first = families.partition_point(|family| family.key < key);
    let alike = families.get(first..)?.iter();
    alike.take_while(|family| family.key == key).find(is_it)
}

/// How a name begins: its first eight bytes, as a number that has the order of names.
const fn key(name: &[u8]) -> u64 {
    let mut rest = name;
    let mut key = 0;
    let mut bytes = 0;
    while bytes < size_of::<u64>() {
        key <<= 8;
        if let [first, tail @ ..] = rest {
            key |= *first as u64;
            rest = tail;
        }
        bytes += 1;
    }
    key
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::matrix::endpoint::{
        line::{any, get, post},
        method::Method::{Get, Post},
    };

    #[test]
    fn a_line_for_a_method_that_its_family_does_not_list_is_found() {
        let lines = [
            any("a", Required),
            get("a/b", Required),
            post("a/c", Required),
        ];
        assert!(cover(&[Get, Post], &lines));
        assert!(!cover(&[Post], &lines));
        assert!(!cover(&[Get], &lines));
        assert!(cover(&[Get], &lines[..2]));
        assert!(cover(&[], &lines[..1]));
    }
}
