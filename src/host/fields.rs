//! The fields of a head or of trailers, as the host hands them over: all of them in one reading.
//!
//! To read all fields costs about as much as to read two single ones, since what is dear is to cross from the VM to the
//! host. The form is that of the ABI (proxy-wasm 0.2.1, `proxy_get_header_map_pairs`): the number of fields, the
//! sizes of every name and value, then each name and value with a closing zero byte; numbers are 32-bit,
//! little-endian.
//!
//! The non-obvious rule: names and values may hold any byte, and the sizes are not believed. What does not add up
//! to the last byte is no head at all, so no request is decided by half of one.

use alloc::vec::Vec;
use core::{ops::Range, slice};

use super::status;
use crate::text::{scan::is_equal, work};

const NUMBER: usize = size_of::<u32>();

/// Fields in the order in which the host holds them. `Debug` is not there, since values hold tokens.
#[derive(Default)]
pub struct Fields {
    bytes: Vec<u8>,
    name_lengths: Lengths,
}

/// A set of lengths of names, modulo 64. A field whose length is not in a set has none of its names, which is seen without a
/// look at the name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lengths(u64);

impl Lengths {
    /// Returns the set of these lengths.
    pub fn of(lengths: impl Iterator<Item = usize>) -> Self {
        let mut set = Self::default();
        lengths.for_each(|length| set.insert(length));
        set
    }

    /// Adds a length.
    #[inline]
    fn insert(&mut self, length: usize) {
        self.0 |= 1 << (length % 64);
    }

    /// Returns whether a length is in the set.
    #[inline]
    fn has(self, length: usize) -> bool {
        self.0 & (1 << (length % 64)) != 0
    }

    /// Returns whether a length is in both sets.
    #[inline]
    pub fn meet(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }
}

/// Where a field stands in the buffer, if its sizes are true. No sum of so many 32-bit numbers is too large for 64 bits, so
/// it is enough to look at the end whether all of them fit.
#[derive(Clone, Copy)]
pub(super) struct Place {
    start: u64,
    name: u32,
    value: u32,
}

impl Place {
    /// Returns the length of the name.
    #[inline]
    pub fn name_length(self) -> usize {
        self.name as usize
    }

    /// Returns where the name stands.
    #[inline]
    pub fn name(self) -> Span {
        Span::of(self.start, self.name)
    }

    /// Returns where the value stands: behind the name and its zero byte.
    #[inline]
    pub fn value(self) -> Span {
        Span::of(self.start + u64::from(self.name) + 1, self.value)
    }
}

/// Where a text stands in the buffer. None begins at 0, where the number of fields is.
#[derive(Clone, Copy, Default)]
pub(super) struct Span {
    start: u32,
    end: u32,
}

impl Span {
    /// Only a place behind the end of any buffer loses bits here, and fields that lie there are refused as not whole.
    #[inline]
    fn of(start: u64, length: u32) -> Self {
        Self {
            start: start as u32,
            end: (start + u64::from(length)) as u32,
        }
    }

    /// Returns whether there is a text, which may be empty.
    #[inline]
    pub fn is_set(self) -> bool {
        self.start != 0
    }

    /// Takes a text, unless there is one.
    #[inline]
    pub fn set_first(&mut self, span: Self) {
        if !self.is_set() {
            *self = span;
        }
    }

    #[inline]
    pub fn range(self) -> Range<usize> {
        self.start as usize..self.end as usize
    }
}

impl Fields {
    /// Takes the serialized form, which stays the only buffer. `None`: it is not whole, or longer than it says.
    pub fn parse(bytes: Vec<u8>) -> Option<Self> {
        Self::parse_with(bytes, |_, _| {})
    }

    /// The same, and shows each field on the way: the buffer, and the place in it, which may not be true yet.
    #[inline]
    pub(super) fn parse_with(bytes: Vec<u8>, mut show: impl FnMut(&[u8], Place)) -> Option<Self> {
        // Envoy hands over nothing at all in place of an empty map.
        if bytes.is_empty() {
            return Some(Self::default());
        }
        let mut places = Places::of(&bytes)?;
        let mut name_lengths = Lengths::default();
        for place in &mut places {
            name_lengths.insert(place.name_length());
            show(&bytes, place);
        }
        let is_whole = usize::try_from(places.start) == Ok(bytes.len());
        is_whole.then_some(Self {
            bytes,
            name_lengths,
        })
    }

    /// Returns these fields, as a host would hand them over.
    pub fn of<'a>(fields: impl Iterator<Item = (&'a str, &'a [u8])> + Clone) -> Self {
        Self::parse(serialize(fields)).unwrap_or_default()
    }

    pub(super) fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }

    /// Returns every name and value.
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.places()
            .map(|place| (self.slice(place.name()), self.slice(place.value())))
    }

    /// Returns every name.
    pub fn names(&self) -> impl Iterator<Item = &[u8]> {
        self.places().map(|place| self.slice(place.name()))
    }

    /// Returns the lengths of all names.
    pub fn name_lengths(&self) -> Lengths {
        self.name_lengths
    }

    /// Returns the first value of a field, whose name is in lower case as the host writes all names.
    pub fn first(&self, name: &str) -> Option<&[u8]> {
        // Many that are asked for are absent.
        if !self.name_lengths.has(name.len()) {
            return None;
        }
        let is_it = |place: &Place| {
            place.name_length() == name.len() && is_equal(self.slice(place.name()), name.as_bytes())
        };
        let place = self.places().find(is_it)?;
        Some(self.slice(place.value()))
    }

    /// Returns the status of a response (`:status`).
    pub fn status(&self) -> Option<u16> {
        status::parse(self.first(":status")?)
    }

    fn places(&self) -> Places<'_> {
        Places::of(&self.bytes).unwrap_or_default()
    }

    #[inline]
    pub(super) fn slice(&self, span: Span) -> &[u8] {
        self.bytes.get(span.range()).unwrap_or_default()
    }
}

/// Goes through the places of fields.
#[derive(Default)]
struct Places<'b> {
    /// The sizes of the names and values that are left.
    sizes: slice::Iter<'b, [u8; 2 * NUMBER]>,
    /// Where the next name begins.
    start: u64,
}

impl<'b> Places<'b> {
    /// `None`: not even the sizes are whole.
    #[inline]
    fn of(bytes: &'b [u8]) -> Option<Self> {
        let (count, rest) = bytes.split_first_chunk()?;
        let count = u32::from_le_bytes(*count);
        let (sizes, _) = rest.as_chunks();
        Some(Self {
            sizes: sizes.get(..usize::try_from(count).ok()?)?.iter(),
            start: (NUMBER as u64) + u64::from(count) * (2 * NUMBER as u64),
        })
    }
}

impl Iterator for Places<'_> {
    type Item = Place;

    #[inline]
    fn next(&mut self) -> Option<Place> {
        work::note(2 * NUMBER);
        let sizes = u64::from_le_bytes(*self.sizes.next()?);
        let (name, value) = (sizes as u32, (sizes >> 32) as u32);
        let start = self.start;
        // A zero byte follows the name, and another one the value.
        self.start += u64::from(name) + u64::from(value) + 2;
        Some(Place { start, name, value })
    }
}

/// Writes fields in the form of the ABI.
pub(crate) fn serialize<'a>(fields: impl Iterator<Item = (&'a str, &'a [u8])> + Clone) -> Vec<u8> {
    extended(&[0; NUMBER], fields)
}

/// Returns serialized fields with more of them behind.
pub fn extended<'a>(
    serialized: &[u8],
    more: impl Iterator<Item = (&'a str, &'a [u8])> + Clone,
) -> Vec<u8> {
    let number = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
    let (count, sizes, texts) = parts(serialized).unwrap_or_default();
    let (mut further, mut length) = (0, serialized.len());
    for (name, value) in more.clone() {
        further += 1;
        length += 2 * NUMBER + name.len() + value.len() + 2;
    }
    // Of the right size at once: what grows is copied, and asks for room, again and again.
    let mut bytes = Vec::with_capacity(length);
    bytes.extend_from_slice(&count.saturating_add(further).to_le_bytes());
    bytes.extend_from_slice(sizes);
    for (name, value) in more.clone() {
        let sizes = u64::from(number(value.len())) << 32 | u64::from(number(name.len()));
        bytes.extend_from_slice(&sizes.to_le_bytes());
    }
    bytes.extend_from_slice(texts);
    for (name, value) in more {
        for text in [name.as_bytes(), value] {
            bytes.extend_from_slice(text);
            bytes.push(0);
        }
    }
    bytes
}

/// Returns the number of serialized fields, their sizes and their texts.
fn parts(serialized: &[u8]) -> Option<(u32, &[u8], &[u8])> {
    let (count, rest) = serialized.split_first_chunk()?;
    let count = u32::from_le_bytes(*count);
    let (sizes, texts) = rest.split_at_checked(count as usize * 2 * NUMBER)?;
    Some((count, sizes, texts))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TWO: &[u8] = b"\x02\0\0\0\x01\0\0\0\x03\0\0\0\x02\0\0\0\0\0\0\0a\0b\0c\0dd\0\0";

    fn parsed(bytes: &[u8]) -> Option<Vec<(Vec<u8>, Vec<u8>)>> {
        let fields = Fields::parse(bytes.to_vec())?;
        let owned = |(name, value): (&[u8], &[u8])| (name.to_vec(), value.to_vec());
        Some(fields.iter().map(owned).collect())
    }

    #[test]
    fn names_and_values_may_hold_any_byte() {
        let expected = vec![
            (b"a".to_vec(), b"b\0c".to_vec()),
            (b"dd".to_vec(), Vec::new()),
        ];
        assert_eq!(parsed(TWO), Some(expected));
        assert_eq!(parsed(b""), Some(Vec::new()));
        assert_eq!(parsed(b"\0\0\0\0"), Some(Vec::new()));
    }

    #[test]
    fn fields_that_follow_serialized_ones_are_fields() {
        let (one, two) = (("a", &b"b\0c"[..]), ("dd", &b""[..]));
        let first = serialize([one].into_iter());
        assert_eq!(extended(&first, [two].into_iter()), TWO);
        assert_eq!(extended(TWO, [].into_iter()), TWO);
        assert_eq!(serialize([one, two].into_iter()), TWO);
        assert_eq!(extended(b"?", [one, two].into_iter()), TWO);
    }

    #[test]
    fn what_does_not_add_up_is_nothing() {
        for length in 1..TWO.len() {
            assert_eq!(parsed(&TWO[..length]), None, "the first {length} bytes");
        }
        assert_eq!(parsed(&[TWO, b"\0"].concat()), None, "one byte too many");
        for at in 0..5 * NUMBER {
            for byte in [0x05, 0x7f, 0x80, 0xff] {
                let mut bytes = TWO.to_vec();
                bytes[at] = byte;
                assert_eq!(parsed(&bytes), None, "byte {at} is {byte:#x}");
            }
        }
        assert_eq!(parsed(&[0xff; 64]), None);
    }

    #[test]
    fn the_first_of_several_values_is_found() {
        let fields = [("a", &b"1"[..]), ("b", b"2"), ("a", b"3"), ("c", b"")];
        let fields = Fields::of(fields.into_iter());
        assert_eq!(fields.first("a"), Some(&b"1"[..]));
        assert_eq!(fields.first("c"), Some(&b""[..]));
        assert_eq!(fields.first("A"), None);
        assert_eq!(fields.first("d"), None);
    }

    /// Each field costs at least ten bytes.
    #[test]
    fn every_field_is_looked_at_once() {
        let read = |bytes: &[u8]| {
            let fields: Vec<&[u8]> = vec![b""; bytes.len() / 10];
            let written = serialize(fields.iter().map(|value| ("", *value)));
            assert!(written.len() <= bytes.len() + NUMBER);
            let fields = Fields::parse(written).unwrap();
            assert_eq!(fields.iter().count(), bytes.len() / 10);
            assert_eq!(fields.first("x"), None);
        };
        work::assert_linear("the fields", 3, read, b"x");
    }

    #[cfg(not(target_arch = "wasm32"))]
    proptest::proptest! {
        #[test]
        fn what_is_written_comes_back(fields: Vec<(String, Vec<u8>)>) {
            let written = serialize(fields.iter().map(|(name, value)| (&**name, &**value)));
            let expected = fields.into_iter().map(|(name, value)| (name.into_bytes(), value));
            proptest::prop_assert_eq!(parsed(&written), Some(expected.collect()));
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes: Vec<u8>) {
            let _ = parsed(&bytes);
        }
    }
}
