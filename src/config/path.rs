//! Where something stands in a configuration, as a log line names it: `introspection.timeout`, `endpoints[1].auth`.

use alloc::string::String;
use core::fmt;

/// A place in a configuration that is being read. It is displayed as `a.b[1].c`.
pub(super) enum Path<'p> {
    /// The whole.
    Root,
    /// A member of the object at a path.
    Key(&'p Path<'p>, &'p str),
    /// An item of the list at a path.
    Item(&'p Path<'p>, usize),
}

impl fmt::Display for Path<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Root => Ok(()),
            Self::Key(Self::Root, key) => f.write_str(key),
            Self::Key(parent, key) => write!(f, "{parent}.{key}"),
            Self::Item(parent, index) => write!(f, "{parent}[{index}]"),
        }
    }
}

/// A key as it may stand in a log line: short, and on one line.
pub(super) fn printable(key: &str) -> String {
    key.chars()
        .take(64)
        .map(|c| if c.is_control() { '?' } else { c })
        .collect()
}
