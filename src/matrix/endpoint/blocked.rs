//! The paths that are never served to the public, in any disguise.
//!
//! Synapse finds these resources by decoding each segment once; a proxy in between may decode more
//! often, merge slashes, or resolve dots. So a path is blocked if any number of decodings may lead there.

use std::borrow::Cow;

use crate::form::percent::escape;

/// Resources of Synapse under `/_synapse`: MAS's own door (shared secret), the workers' (often
/// without any secret), and the numbers.
const BLOCKED: [&[u8]; 3] = [b"mas", b"metrics", b"replication"];

/// Decodings that are followed. Nothing honest is encoded even twice, so a path that is still not
/// plain after this many is blocked.
const MAX_DECODINGS: usize = 8;

/// Whether `path`, which has no query, leads to a blocked resource.
pub(super) fn is_blocked(path: &[u8]) -> bool {
    if stays_in_matrix(path) {
        return false;
    }
    let mut decoded: Vec<u8>;
    let mut path = path;
    for _ in 0..MAX_DECODINGS {
        if names_blocked(path) {
            return true;
        }
        if !path.contains(&b'%') {
            return false;
        }
        let next = decode(path);
        if next == path {
            return false;
        }
        decoded = next;
        path = &decoded;
    }
    true
}

/// The quick answer for nearly every request: the first segment is `_matrix`, and no decoding makes
/// a `..` that could leave it. Encoded percent signs and dots, and bad escapes, go the long way.
fn stays_in_matrix(path: &[u8]) -> bool {
    let Some(mut rest) = path.strip_prefix(b"/_matrix/") else {
        return false;
    };
    loop {
        rest = match rest {
            [] => return true,
            [b'.', b'.', ..] => return false,
            [b'%', ..] => match escape(rest) {
                None | Some((b'%' | b'.', _)) => return false,
                Some((_, rest)) => rest,
            },
            [_, rest @ ..] => rest,
        };
    }
}

/// Whether `path` may lead to a blocked resource. Servers read empty segments, parameters and backslashes
/// differently, so where dots are resolved cannot be told: a path with `..` that names `_synapse`
/// anywhere is blocked, wherever it would lead.
fn names_blocked(path: &[u8]) -> bool {
    if !names(path).any(is_synapse) {
        return false;
    }
    // RFC 9112, section 3.2.2, absolute form: `http:` and an authority come before the path.
    let absolute_form = names(path).next().is_some_and(|name| name.ends_with(b":"));
    names(path).any(|name| *name == *b"..")
        || leads_to_blocked(names(path))
        || (absolute_form && leads_to_blocked(names(path).skip(2)))
}

/// The segments that count, decoded to the end, without path parameters and an encoded query or fragment, which
/// do not change which resource it is. Servers that split before they decode see no separators in these.
fn names(path: &[u8]) -> impl Iterator<Item = Cow<'_, [u8]>> {
    path.split(|byte| b"/\\".contains(byte))
        .map(|segment| {
            segment
                .split(|byte| b";?#".contains(byte))
                .next()
                .unwrap_or_default()
        })
        .map(plain)
        .filter(|name| !matches!(&**name, b"" | b"."))
}

fn leads_to_blocked<'a>(mut names: impl Iterator<Item = Cow<'a, [u8]>>) -> bool {
    names.next().is_some_and(is_synapse)
        && names.next().is_some_and(|name| {
            BLOCKED
                .iter()
                .any(|blocked| name.eq_ignore_ascii_case(blocked))
        })
}

/// A segment decoded to the end, whatever that makes of it.
fn plain(segment: &[u8]) -> Cow<'_, [u8]> {
    let mut name = Cow::Borrowed(segment);
    for _ in 0..MAX_DECODINGS {
        if !name.contains(&b'%') {
            break;
        }
        name = Cow::Owned(decode(&name));
    }
    name
}

fn is_synapse(name: Cow<'_, [u8]>) -> bool {
    name.eq_ignore_ascii_case(b"_synapse")
}

fn decode(path: &[u8]) -> Vec<u8> {
    let mut decoded = Vec::with_capacity(path.len());
    let mut rest = path;
    while let [first, tail @ ..] = rest {
        let (byte, tail) = escape(rest).unwrap_or((*first, tail));
        decoded.push(byte);
        rest = tail;
    }
    decoded
}
