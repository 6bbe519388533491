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
    Family {
        lines,
        ..required(name, methods)
    }
}

/// A family with different needs. A path that is not listed is unknown.
pub(super) const fn listed(
    name: &'static str,
    methods: &'static [Method],
    lines: &'static [Line],
) -> Family {
    Family {
        lines,
        ..all(name, methods, Unknown)
    }
}

/// So many families are looked at one after the other: a search by halves takes longer.
const FEW: usize = 8;

/// The family that the first segment of `path` names.
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
