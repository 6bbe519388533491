//! Where something stands in a file.
//!
//! The non-obvious rule: what a text holds in base64, or with escapes, has no bytes of its own in the file. Its place is that of the
//! whole text, and with it goes a place in the text, so that two faults there are two.

use std::ops::Range;

use super::Id;

/// Bytes of a file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Place {
    /// The first of them.
    pub start: usize,
    /// The one behind the last.
    pub end: usize,
    /// Where it stands in a text, if the file has that text in another form.
    pub inner: Option<Inner>,
}

/// Bytes of a text that the file has in another form.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Inner {
    /// The text.
    pub text: Id,
    /// Its bytes.
    pub bytes: Range<usize>,
}

impl Place {
    /// Whether another place of the same file is within this one.
    pub fn contains(&self, other: &Self) -> bool {
        let holds = |whole: &Range<usize>, part: &Range<usize>| {
            whole.start <= part.start && part.end <= whole.end
        };
        match (&self.inner, &other.inner) {
            (Some(own), Some(other)) if own.text == other.text => holds(&own.bytes, &other.bytes),
            (Some(_), _) => false,
            (None, _) => holds(&(self.start..self.end), &(other.start..other.end)),
        }
    }
}

impl From<Range<usize>> for Place {
    fn from(bytes: Range<usize>) -> Self {
        Self {
            start: bytes.start,
            end: bytes.end,
            inner: None,
        }
    }
}

/// How a text that is read stands in the file.
pub(super) enum Origin {
    /// It is the file.
    File,
    /// Its lines are parts of lines of the file: where each begins in the text, and where in the file.
    Lines(Vec<(usize, usize)>),
    /// The file has it in another form, as this value, which begins here.
    Encoded(Id, usize),
}

impl Origin {
    /// Where bytes of the text stand.
    pub fn place(&self, bytes: Range<usize>) -> Place {
        match self {
            Self::File => bytes.into(),
            Self::Lines(lines) => {
                let start = in_file(lines, bytes.start);
                let end = in_file(lines, bytes.end);
                (start..end.max(start)).into()
            }
            Self::Encoded(text, start) => Place {
                start: *start,
                end: *start,
                inner: Some(Inner { text: *text, bytes }),
            },
        }
    }
}

/// Where a byte of a text stands in the file.
fn in_file(lines: &[(usize, usize)], byte: usize) -> usize {
    let at = lines.partition_point(|(start, _)| *start <= byte);
    let line = at.checked_sub(1).and_then(|at| lines.get(at));
    line.map_or(0, |(start, origin)| origin + byte - start)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encoded(text: Id, bytes: Range<usize>) -> Place {
        Origin::Encoded(text, 7).place(bytes)
    }

    #[test]
    fn a_place_contains_what_stands_in_it() {
        let whole = Place::from(5..20);
        assert!(whole.contains(&(5..20).into()));
        assert!(whole.contains(&(6..9).into()));
        assert!(!whole.contains(&(4..9).into()));
        assert!(!whole.contains(&(19..21).into()));
        assert!(whole.contains(&encoded(1, 100..200)));
        assert!(encoded(1, 100..200).contains(&encoded(1, 150..151)));
        assert!(!encoded(1, 100..200).contains(&encoded(1, 90..151)));
        assert!(!encoded(1, 100..200).contains(&encoded(2, 150..151)));
        assert!(!encoded(1, 100..200).contains(&(7..7).into()));
    }

    #[test]
    fn a_byte_of_a_line_has_its_place_in_the_file() {
        let origin = Origin::Lines(vec![(0, 10), (4, 30)]);
        assert_eq!(origin.place(1..5), (11..31).into());
        assert_eq!(origin.place(4..4), (30..30).into());
    }
}
