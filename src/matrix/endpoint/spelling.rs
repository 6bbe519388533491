//! Whether a path is another spelling of one that a rule of the configuration names.
//!
//! Who serves that path may decode it, merge its slashes, drop parameters, or know no difference between `A` and `a` or with
//! and without a slash at the end. So what a rule restricts is restricted in every spelling that such a server may take for it.
//!
//! The non-obvious rule: other spellings only restrict. A rule that opens paths opens these and no others.

use alloc::vec::Vec;

use super::reading::Readings;

/// The path of a rule, as segments.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Spelling {
    names: Vec<Vec<u8>>,
    extent: Extent,
}

/// What a path may have after the segments of a rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Extent {
    /// Nothing.
    Nothing,
    /// More segments.
    Segments,
    /// More of the last segment, and more segments.
    Anything,
}

impl Spelling {
    /// The spellings of one path.
    pub fn of_path(path: &str) -> Self {
        Self::new(path, Extent::Nothing)
    }

    /// The spellings of all paths that begin so.
    pub fn of_prefix(prefix: &str) -> Self {
        let extent = if prefix.ends_with('/') {
            Extent::Segments
        } else {
            Extent::Anything
        };
        Self::new(prefix, extent)
    }

    fn new(path: &str, extent: Extent) -> Self {
        let readings = Readings::of(path.as_bytes());
        let names = readings
            .as_ref()
            .and_then(|readings| readings.each().next());
        Self {
            names: names.into_iter().flatten().map(<[u8]>::to_vec).collect(),
            extent,
        }
    }

    /// How many segments of a path tell whether it is another spelling.
    pub fn looks_at(&self) -> usize {
        self.names.len().saturating_add(1)
    }

    /// Whether a path with these segments, of which there are at least as many as are looked at, is another spelling.
    pub fn matches(&self, names: &[&[u8]]) -> bool {
        let is_same = |(own, name): (&Vec<u8>, &&[u8])| own.eq_ignore_ascii_case(name);
        let begins_with = |(own, name): (&Vec<u8>, &&[u8])| {
            name.get(..own.len())
                .is_some_and(|start| own.eq_ignore_ascii_case(start))
        };
        let whole = match self.extent {
            Extent::Nothing => names.len(),
            Extent::Segments => self.names.len(),
            Extent::Anything => self.names.len().saturating_sub(1),
        };
        let pairs = || self.names.iter().zip(names);
        names.len() >= self.names.len()
            && (self.extent != Extent::Nothing || names.len() == self.names.len())
            && pairs().take(whole).all(is_same)
            && pairs().skip(whole).all(begins_with)
    }
}

/// The first segments of a path, as many as the spellings look at.
pub(super) fn first<'p>(
    names: impl Iterator<Item = &'p [u8]>,
    spellings: &[Spelling],
) -> Vec<&'p [u8]> {
    let longest = spellings.iter().map(Spelling::looks_at).max();
    names.take(longest.unwrap_or_default()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_spelling(of: &Spelling, path: &str) -> bool {
        let spelling = std::slice::from_ref(of);
        let readings = Readings::of(path.as_bytes()).unwrap();
        readings
            .each()
            .any(|names| spelling[0].matches(&first(names, spelling)))
    }

    #[test]
    fn a_prefix_is_found_however_it_is_written() {
        let of = Spelling::of_prefix("/internal/a/");
        for path in [
            "/internal/a/",
            "/internal/a/x/y",
            "/internal/a",
            "//internal///a/x",
            "/./internal/./a/x",
            "/%69nternal/a/x",
            "/%2569nternal%252fa/x",
            "/internal%2fa%2fx",
            "/internal;b=c/a;d/x",
            "/internal\\a\\x",
            "/INTERNAL/A/x",
            "internal/a",
        ] {
            assert!(is_spelling(&of, path), "{path}");
        }
        for path in [
            "/",
            "/internal",
            "/internal/",
            "/internal/ab",
            "/internals/a",
            "/x/internal/a",
            "/a/internal",
        ] {
            assert!(!is_spelling(&of, path), "{path}");
        }
    }

    #[test]
    fn a_prefix_may_end_within_a_segment_and_a_path_may_not() {
        let prefix = Spelling::of_prefix("/a%20b/metrics");
        for path in [
            "/a%20b/metrics",
            "/a b/Metrics-private/x",
            "/a%2520b/metrics/",
        ] {
            assert!(is_spelling(&prefix, path), "{path}");
        }
        assert!(!is_spelling(&prefix, "/a%20b/metric"));
        let exact = Spelling::of_path("/metrics-private");
        for path in [
            "/metrics-private",
            "/metrics-private/",
            "/metrics%2dprivate",
        ] {
            assert!(is_spelling(&exact, path), "{path}");
        }
        for path in [
            "/metrics-private/x",
            "/metrics-privat",
            "/metrics-privates",
            "/",
        ] {
            assert!(!is_spelling(&exact, path), "{path}");
        }
        for path in ["/", "/x", ""] {
            assert!(is_spelling(&Spelling::of_prefix("/"), path));
        }
    }
}
