//! The paths that are never served to the public, in any disguise.
//!
//! Synapse finds these resources by decoding each segment once; a proxy in between may decode more
//! often, merge slashes, or resolve dots. So a path is blocked if any number of decodings, with or
//! without its dot segments, leads there.

use crate::matrix::percent::escape;

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

/// Whether `path` is at a blocked resource, or passes through one on its way: `/_synapse/mas/..` is
/// still `mas` to a server that does not resolve dots.
fn names_blocked(path: &[u8]) -> bool {
    let mut depth = 0_usize;
    let mut in_synapse = false;
    let mut skip_authority = false;
    for segment in path.split(|byte| b"/\\".contains(byte)) {
        // Path parameters, and an encoded query or fragment, do not change which resource it is.
        let name = segment
            .split(|byte| b";?#".contains(byte))
            .next()
            .unwrap_or_default();
        match name {
            b"" | b"." => {}
            b".." => depth = depth.saturating_sub(1),
            _ if skip_authority => skip_authority = false,
            // RFC 9112, section 3.2.2, absolute form: `http:` and an authority come before the
            // path.
            [.., b':'] if depth == 0 => skip_authority = true,
            _ => {
                if depth == 0 {
                    in_synapse = name.eq_ignore_ascii_case(b"_synapse");
                } else if depth == 1
                    && in_synapse
                    && BLOCKED
                        .iter()
                        .any(|blocked| name.eq_ignore_ascii_case(blocked))
                {
                    return true;
                }
                depth += 1;
            }
        }
    }
    false
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
