//! What servers may read out of a path: its segments, after any number of decodings.
//!
//! One server compares raw bytes, the next decodes once, a proxy in between may decode again, merge slashes or resolve dots.
//! [`Readings`] gives the segments for each number of decodings, without what does not change which resource a path names.
//!
//! The non-obvious rule: the path is never decoded round by round, which would cost the length of the path for each round. One
//! pass decodes to the end and notes in which round each byte comes to light. Which segments a server sees after so many
//! rounds depends only on the separators that have come to light by then.

use crate::text::{percent::Unwrapped, scan::has_any, work};

/// Decodings that are followed. Nothing honest is encoded even twice.
pub(super) const MAX_DEPTH: u8 = 7;

/// A path, decoded to the end.
pub(super) struct Readings(Unwrapped);

impl Readings {
    /// Returns the readings of `path`, which has no query. `None`: a byte was encoded more often than [`MAX_DEPTH`].
    pub fn of(path: &[u8]) -> Option<Self> {
        Unwrapped::of(path, MAX_DEPTH).map(Self)
    }

    /// The bytes that any number of decodings may bring to light.
    pub fn bytes(&self) -> &[u8] {
        &self.0.bytes
    }

    /// Whether a segment is `..` in any reading.
    pub fn have_dots(&self) -> bool {
        has_two_dots(self.bytes()) && self.each().any(|mut names| names.any(|name| name == b".."))
    }

    /// Whether some server may take the first name for an authority and the rest for the path: RFC 3986, section 3.3, a path
    /// that begins with two slashes.
    pub fn may_have_authority(&self) -> bool {
        matches!(self.bytes(), [b'/' | b'\\', b'/' | b'\\', ..])
    }

    /// How many of the first names some server may take for a scheme and an authority, see RFC 9112, section 3.2.2.
    pub fn authority_ends(&self, names: &Names<'_>) -> impl Iterator<Item = usize> + use<> {
        let is_absolute = names.clone().next().is_some_and(is_scheme);
        let ends = [true, self.may_have_authority(), is_absolute];
        (0..).zip(ends).filter_map(|(end, may)| may.then_some(end))
    }

    /// The segments after each number of decodings that makes a difference, from none on.
    pub fn each(&self) -> impl Iterator<Item = Names<'_>> {
        let deepest = self.0.depths.iter().copied().max().unwrap_or_default();
        (0..=deepest).map(|depth| Names {
            path: &self.0,
            at: 0,
            depth,
        })
    }
}

/// Whether a name may be the scheme of an absolute form: `http:` and an authority come before the path.
pub(super) fn is_scheme(name: &[u8]) -> bool {
    name.ends_with(b":")
}

/// Whether [some server](Readings::have_dots) may see a segment `..` in `path`, which has no query. Where that leads cannot be
/// told: servers read empty segments, parameters and backslashes differently. No honest client sends one, since clients resolve
/// dots themselves.
pub(super) fn has_dots(path: &[u8]) -> bool {
    has_any(path, [b'.', b'%'])
        && (path.contains(&b'%') || has_two_dots(path))
        && Readings::of(path).is_none_or(|readings| readings.have_dots())
}

fn has_two_dots(path: &[u8]) -> bool {
    path.windows(2).any(|two| two == b"..")
}

/// The segments that count, of those that a server sees after `depth` decodings. Each is decoded to the end, without path
/// parameters and an encoded query, fragment or NUL, which do not change which resource it is. A server that splits before
/// it decodes does not take these for separators. A NUL ends a name however deep it is: a server that takes it for an end
/// does so once it has decoded the segment.
#[derive(Clone)]
pub(super) struct Names<'p> {
    path: &'p Unwrapped,
    at: usize,
    depth: u8,
}

impl<'p> Iterator for Names<'p> {
    type Item = &'p [u8];

    fn next(&mut self) -> Option<&'p [u8]> {
        loop {
            let bytes = self.path.bytes.get(self.at..)?;
            let depths = self.path.depths.get(self.at..)?;
            let seen = bytes.iter().zip(depths);
            let separators = |separators: &'static [u8]| {
                let depth = self.depth;
                move |(byte, at): (&u8, &u8)| *at <= depth && separators.contains(byte)
            };
            let end = seen.clone().position(separators(b"/\\"));
            let end = end.unwrap_or(bytes.len());
            let segment = bytes.get(..end)?;
            let ends = separators(b";?#");
            let cut = seen
                .take(end)
                .position(|(byte, depth)| *byte == 0 || ends((byte, depth)));
            let name = segment.get(..cut.unwrap_or(end))?;
            work::note(end + 1);
            self.at = self.at.saturating_add(end).saturating_add(1);
            if !matches!(name, b"" | b".") {
                return Some(name);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_number_of_decodings_has_its_segments() {
        let readings = Readings::of(b"/a%2fb/./;x/c;d/%252e%252e/e%00f").unwrap();
        let names: Vec<Vec<String>> = readings
            .each()
            .map(|names| names.map(|name| name.escape_ascii().to_string()).collect())
            .collect();
        let deep = ["a", "b", "c", "..", "e"];
        assert_eq!(names, [&["a/b", "c", "..", "e"][..], &deep, &deep]);
    }

    #[test]
    fn dots_are_found_in_every_disguise() {
        for path in [
            "..",
            "/..",
            "/a/../b",
            "/a/%2e%2E/b",
            "/a/.%2e",
            "/a/%252e./b",
            "/a%2f..%2fb",
            "/a%5c..%5cb",
            "/a\\..\\b",
            "/a/..;x/b",
            "/a/..%3bx/b",
            "/a/..%00/b",
            "/a/..%3f/b",
            "/%2525252525252525252e/",
        ] {
            assert!(has_dots(path.as_bytes()), "{path}");
        }
        for path in [
            "",
            "/",
            "/.",
            "/a.b/...",
            "/a..b/c",
            "/..a",
            "/a../b",
            "/%2e",
            "/a%2f.%2f.",
            "/%2e%2ea",
        ] {
            assert!(!has_dots(path.as_bytes()), "{path}");
        }
    }

    #[test]
    fn dots_are_looked_for_in_linear_time() {
        const LOOKS: usize = 3 + MAX_DEPTH as usize + 1;
        for input in ["/", "x/", "%2e", "%25", "25", "..x", "%252e%2f", "%", ";."] {
            for suffix in ["", "/..", "/%2e%2ex"] {
                let read = |middle: &[u8]| {
                    // Where the first bytes decide, there is nothing to count.
                    work::note(1);
                    has_dots(&[b"/auth/", middle, suffix.as_bytes()].concat());
                };
                work::assert_linear("/auth/", LOOKS, read, input.as_bytes());
            }
        }
    }
}
