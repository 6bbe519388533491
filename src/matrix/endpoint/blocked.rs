//! The paths that are never served to the public, in any disguise.
//!
//! Synapse finds these resources by decoding each segment once; a proxy in between may decode more
//! often, merge slashes, or resolve dots. So a path is blocked if any number of decodings may lead there.
//! A path with a byte that was encoded more often than the readings follow is blocked.

use super::{
    path::Path,
    reading::{Readings, is_scheme},
};
use crate::text::{
    percent::escape,
    scan::{begins_with, first_of},
};

const SYNAPSE: &[u8] = b"_synapse";

/// Resources of Synapse under `/_synapse`: MAS's own door (shared secret), the workers' (often
/// without any secret), and the numbers.
const BLOCKED: [&[u8]; 3] = [b"mas", b"metrics", b"replication"];

/// Whether `path`, which has no query, leads to a blocked resource.
pub(super) fn is_blocked(path: &[u8]) -> bool {
    !stays_in_matrix(path.into()) && may_be_blocked(path)
}

/// The same for a path that may leave the Matrix API.
pub(super) fn may_be_blocked(path: &[u8]) -> bool {
    let Some(readings) = Readings::of(path) else {
        return true;
    };
    let is_mentioned = readings
        .bytes()
        .windows(SYNAPSE.len())
        .any(|window| window.eq_ignore_ascii_case(SYNAPSE));
    let first = usize::from(readings.may_have_authority());
    is_mentioned && readings.each().any(|names| leads_to_blocked(names, first))
}

/// The quick answer for nearly every request: the first segment is `_matrix`, and no decoding makes
/// a `..` that could leave it. Encoded percent signs and dots, and bad escapes, go the long way.
#[inline]
pub(super) fn stays_in_matrix(path: Path<'_>) -> bool {
    begins_with(path.text, b"/_matrix/")
        && (path.plain_length >= path.text.len() || leads_nowhere_else(path))
}

/// Whether no decoding makes a `..` of what is not plain in a path.
fn leads_nowhere_else(path: Path<'_>) -> bool {
    let mut rest = path.text.get(path.plain_length..).unwrap_or_default();
    while let Some(marked) = first_of(rest, [b'.', b'%']).and_then(|at| rest.get(at..)) {
        rest = match marked {
            [] => break,
            [b'.', b'.', ..] => return false,
            [b'%', ..] => match escape(marked) {
                None | Some((b'%' | b'.', _)) => return false,
                Some((_, rest)) => rest,
            },
            [_, rest @ ..] => rest,
        };
    }
    true
}

/// Whether a path with these names may lead to a blocked resource. Servers read empty segments, parameters and
/// backslashes differently, so where dots are resolved cannot be told: a path with `..` that names `_synapse`
/// anywhere is blocked, wherever it would lead. Up to `first` names may be an authority.
fn leads_to_blocked<'p>(names: impl Iterator<Item = &'p [u8]>, first: usize) -> bool {
    let mut is_absolute = false;
    let mut has_dots = false;
    let mut has_synapse = false;
    let mut follows_synapse = false;
    for (number, name) in names.enumerate() {
        if follows_synapse
            && BLOCKED
                .iter()
                .any(|blocked| name.eq_ignore_ascii_case(blocked))
        {
            return true;
        }
        is_absolute |= number == 0 && is_scheme(name);
        let is_first = number <= first || (is_absolute && number == 2);
        let is_synapse = name.eq_ignore_ascii_case(SYNAPSE);
        follows_synapse = is_first && is_synapse;
        has_synapse |= is_synapse;
        has_dots |= name == b"..";
    }
    has_synapse && has_dots
}

#[cfg(test)]
mod tests;
