//! Paths that are never public, in every spelling.

use super::{super::reading::MAX_DEPTH, *};
use crate::text::{percent::Unwrapped, work};

/// One look in which a byte is decoded, with what it may be the last digit of, and one for each depth.
const LOOKS: usize = 3 + MAX_DEPTH as usize + 1;

#[test]
fn a_path_is_decoded_once_however_deep() {
    for prefix in [
        "/",
        "/_synapse/x/",
        "/a:x%",
        "/_matrix/",
        "/_matrix/%25/",
        "/_synapse%25252f/",
    ] {
        for input in [
            "/",
            "x/",
            "%25",
            "25",
            "%2f",
            "%252f%2f/",
            "%25252525252f_synapse/;x%3f/",
            "%5c..;",
            "%",
            "_synapse/",
            "http:/",
        ] {
            for suffix in ["", "/y/_synapse/x"] {
                let read = |middle: &[u8]| {
                    is_blocked(&[prefix.as_bytes(), middle, suffix.as_bytes()].concat());
                };
                // Where the first bytes decide, there is nothing to count.
                let read = |middle: &[u8]| {
                    work::note(1);
                    read(middle);
                };
                work::assert_linear(prefix, LOOKS, read, input.as_bytes());
            }
        }
    }
}

/// What the test above bounds is all that is looked at: each byte is counted where names are read, once for each depth.
#[test]
fn what_is_looked_at_is_counted() {
    let plain = ["/x".repeat(500), "/y/_synapse/x".to_owned()].concat();
    for (path, depths) in [(plain.clone(), 1), (format!("{plain}%2541"), 3)] {
        let counted = |path: &str| work::count(|| is_blocked(path.as_bytes()));
        let decoding = work::count(|| Unwrapped::of(path.as_bytes(), MAX_DEPTH));
        let names = counted(&path) - decoding;
        assert!(names >= depths * plain.len(), "{names} of {path}");
    }
}

/// 58 KiB that took 40 ms of a worker when each round was decoded by itself.
#[test]
fn a_path_that_is_encoded_beyond_reason_is_not_decoded() {
    let path = ["/a:x%", &"25".repeat(28_900), "/y/_synapse/x"].concat();
    let mut is_found = false;
    let steps = work::count(|| is_found = is_blocked(path.as_bytes()));
    assert!(is_found);
    assert!(steps < 64, "{steps} steps");
}

/// A path that leads to a blocked resource, whatever of it is encoded in addition.
#[test]
fn a_nul_ends_a_name_however_it_is_written() {
    for nul in ["\0", "%00", "%2500", "\0\0", "%00\0", "\0%00"] {
        for path in ["/_synapse/{nul};%2fx/mas", "/_synapse{nul}x/mas{nul}y"] {
            let path = path.replace("{nul}", nul);
            assert!(is_blocked(path.as_bytes()), "{}", path.escape_debug());
        }
    }
}

#[cfg(not(target_arch = "wasm32"))]
mod properties {
    use proptest::prelude::*;

    use super::*;

    /// The same, spelt out: every round of decoding for itself.
    fn reference(path: &[u8]) -> bool {
        let mut path = path.to_vec();
        let may_have_authority = matches!(*to_the_end(&path), [b'/' | b'\\', b'/' | b'\\', ..]);
        for _ in 0..=MAX_DEPTH {
            let names: Vec<Vec<u8>> = path
                .split(|byte| b"/\\".contains(byte))
                .map(|segment| {
                    segment
                        .split(|byte| b";?#\0".contains(byte))
                        .next()
                        .unwrap()
                })
                .map(to_the_end)
                .map(|name| name.split(|byte| *byte == 0).next().unwrap().to_vec())
                .filter(|name| !matches!(&**name, b"" | b"."))
                .map(|name| name.to_ascii_lowercase())
                .collect();
            let is_start = |names: &[Vec<u8>]| {
                let [first, second, ..] = names else {
                    return false;
                };
                first == SYNAPSE && BLOCKED.contains(&&**second)
            };
            let is_absolute = names.first().is_some_and(|name| name.ends_with(b":"));
            let has = |wanted: &[u8]| names.iter().any(|name| name == wanted);
            if has(SYNAPSE) && has(b"..")
                || is_start(&names)
                || may_have_authority && is_start(names.get(1..).unwrap_or_default())
                || is_absolute && is_start(names.get(2..).unwrap_or_default())
            {
                return true;
            }
            let next = decode(&path);
            if next == path {
                return false;
            }
            path = next;
        }
        true
    }

    fn to_the_end(name: &[u8]) -> Vec<u8> {
        let mut name = name.to_vec();
        while decode(&name) != name {
            name = decode(&name);
        }
        name
    }

    fn decode(path: &[u8]) -> Vec<u8> {
        let mut decoded = Vec::new();
        let mut rest = path;
        while let [first, tail @ ..] = rest {
            let (byte, tail) = escape(rest).unwrap_or((*first, tail));
            decoded.push(byte);
            rest = tail;
        }
        decoded
    }

    /// Paths of the pieces that servers disagree about, with some bytes encoded once or more often.
    fn path() -> impl Strategy<Value = Vec<u8>> {
        let piece = prop::sample::select(vec![
            "_synapse",
            "mas",
            "metrics",
            "x",
            ".",
            "..",
            "/",
            "/",
            "\\",
            ";",
            "?",
            "#",
            "%00",
            "http:",
            "%",
            "25",
            "%2",
            "%2f",
            "%252f",
            "%25252e",
            "%2525253b",
            "%5f",
            "MAS",
            "%5csynapse",
            "/x/_synapse/",
        ]);
        let piece = (
            piece,
            prop::collection::vec(any::<prop::sample::Index>(), 0..3),
        );
        let pieces = prop::collection::vec(piece, 0..10);
        pieces.prop_map(|pieces| {
            let mut path = b"/".to_vec();
            for (piece, encoded) in pieces {
                let mut piece = piece.as_bytes().to_vec();
                for index in encoded {
                    let at = index.index(piece.len());
                    let escape = format!("%{:02x}", piece[at]);
                    piece.splice(at..=at, escape.into_bytes());
                }
                path.extend(piece);
            }
            path
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(5_000))]

        #[test]
        fn one_pass_finds_what_all_rounds_find(path in path()) {
            let expected = !stays_in_matrix(path.as_slice().into()) && reference(&path);
            prop_assert_eq!(is_blocked(&path), expected, "{}", path.escape_ascii());
        }
    }
}
