//! A form that is read as it comes, in pieces of any length, by a state of a few bytes.
//!
//! Nothing of the form is kept here. Where a piece ends makes no difference, not even in the middle of an escape: for
//! every split the parts are those of the whole form. Each byte is looked at once, or twice at the end of what turns
//! out to be no escape.

use crate::text::{
    percent::{escape, hex_digit},
    work,
};

/// What the bytes of a form stand for. It has no `Debug`, since they may be a token's.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Part<'a> {
    /// More of the name of the present pair, decoded.
    Name(&'a [u8]),
    /// More of the value of the present pair, decoded.
    Value(&'a [u8]),
    /// The present pair is complete. What has not come of its name or value is empty.
    End,
}

/// How far a form has been read.
///
/// Pairs are split as MAS splits them: at `&`, then at the first `=`. A piece between two `&` without `=` is a name
/// with an empty value, an empty piece is nothing.
#[derive(Debug, Default)]
pub struct FormParser {
    is_in_value: bool,
    /// The present pair has a byte.
    has_begun: bool,
    escape: Escape,
}

/// How much of an escape has come.
#[derive(Clone, Copy, Debug, Default)]
enum Escape {
    #[default]
    None,
    /// `%`
    Percent,
    /// `%` and this hexadecimal digit.
    High(u8),
}

impl FormParser {
    /// Reads the next piece, and gives its parts to `take`.
    pub fn read(&mut self, piece: &[u8], mut take: impl FnMut(Part<'_>)) {
        let mut rest = piece;
        while let Some((&byte, after)) = rest.split_first() {
            work::note(1);
            if self.continue_escape(byte, &mut take) {
                rest = after;
                continue;
            }
            let length = self.plain_length(rest);
            work::note(length);
            if let (Some(plain @ [_, ..]), Some(after)) = (rest.get(..length), rest.get(length..)) {
                self.has_begun = true;
                take(self.part(plain));
                rest = after;
                continue;
            }
            rest = after;
            match byte {
                b'&' => self.end_pair(&mut take),
                b'%' => {
                    self.has_begun = true;
                    self.escape = Escape::Percent;
                }
                b'+' => {
                    self.has_begun = true;
                    take(self.part(b" "));
                }
                // `=`, the only other byte that is not plain.
                _ => {
                    self.has_begun = true;
                    self.is_in_value = true;
                }
            }
        }
    }

    /// Notes that the form has ended, and gives its last parts to `take`.
    pub fn finish(mut self, mut take: impl FnMut(Part<'_>)) {
        self.end_pair(&mut take);
    }

    /// Takes in the next byte of an escape. `false`: there is none, or the byte does not belong to it, and what began
    /// stands for itself.
    fn continue_escape(&mut self, byte: u8, take: &mut impl FnMut(Part<'_>)) -> bool {
        match self.escape {
            Escape::None => return false,
            Escape::Percent if hex_digit(byte).is_some() => {
                self.escape = Escape::High(byte);
                return true;
            }
            Escape::High(high) => {
                if let Some((decoded, _)) = escape(&[b'%', high, byte]) {
                    self.escape = Escape::None;
                    take(self.part(&[decoded]));
                    return true;
                }
            }
            Escape::Percent => {}
        }
        self.end_escape(take);
        false
    }

    /// What has come of an escape stands for itself.
    fn end_escape(&mut self, take: &mut impl FnMut(Part<'_>)) {
        match core::mem::take(&mut self.escape) {
            Escape::None => {}
            Escape::Percent => take(self.part(b"%")),
            Escape::High(high) => take(self.part(&[b'%', high])),
        }
    }

    fn end_pair(&mut self, take: &mut impl FnMut(Part<'_>)) {
        self.end_escape(take);
        self.is_in_value = false;
        if core::mem::take(&mut self.has_begun) {
            take(Part::End);
        }
    }

    /// Returns how many bytes at the start of `rest` stand for themselves.
    fn plain_length(&self, rest: &[u8]) -> usize {
        let is_plain = |byte: &u8| match byte {
            b'&' | b'%' | b'+' => false,
            b'=' => self.is_in_value,
            _ => true,
        };
        let length = rest.iter().position(|byte| !is_plain(byte));
        let length = length.unwrap_or(rest.len());
        work::note(length);
        length
    }

    fn part<'a>(&self, bytes: &'a [u8]) -> Part<'a> {
        if self.is_in_value {
            Part::Value(bytes)
        } else {
            Part::Name(bytes)
        }
    }
}

/// A short text that comes in pieces: as much of it as takes to compare it with a shorter one.
#[derive(Clone, Copy, Debug, Default)]
pub struct ShortText {
    bytes: [u8; Self::CAPACITY],
    length: usize,
}

impl ShortText {
    const CAPACITY: usize = 16;

    /// Adds a piece.
    pub fn push(&mut self, piece: &[u8]) {
        let free = self.bytes.get_mut(self.length..).unwrap_or_default();
        for (to, from) in free.iter_mut().zip(piece) {
            *to = *from;
        }
        self.length = self.length.saturating_add(piece.len());
    }

    /// Returns whether this is `text`, which has 16 bytes at the most.
    pub fn is(&self, text: &[u8]) -> bool {
        self.bytes.get(..self.length) == Some(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Pair = (Vec<u8>, Vec<u8>);

    /// The pairs of a form that comes in these pieces.
    fn pairs<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> Vec<Pair> {
        let mut found = Vec::new();
        let mut pair = Pair::default();
        let mut take = |part: Part<'_>| match part {
            Part::Name(more) => pair.0.extend_from_slice(more),
            Part::Value(more) => pair.1.extend_from_slice(more),
            Part::End => found.push(std::mem::take(&mut pair)),
        };
        let mut parser = FormParser::default();
        for piece in pieces {
            parser.read(piece, &mut take);
        }
        parser.finish(take);
        found
    }

    const FORM: &[u8] = b"&a=1&&b&c=x=y&%64+=%zz+;e=2&=&%=%4&%%31=%4%31&x%3d%26=+";

    #[test]
    fn a_form_is_looked_at_once() {
        for input in ["&", "=", "a=b&", "%25", "%2525&=", "%", "+", "token=%41&"] {
            let whole = |form: &[u8]| assert!(pairs([form]).len() <= form.len());
            // Each piece may begin in an escape, which is looked for once more.
            work::assert_linear("a form", 3, whole, input.as_bytes());
            let bytes = |form: &[u8]| assert!(pairs(form.chunks(1)).len() <= form.len());
            work::assert_linear("a form in pieces", 3, bytes, input.as_bytes());
        }
    }

    #[test]
    fn pairs_are_split_at_ampersands_and_decoded() {
        let expected = [
            (&b"a"[..], &b"1"[..]),
            (b"b", b""),
            (b"c", b"x=y"),
            (b"d ", b"%zz ;e=2"),
            (b"", b""),
            (b"%", b"%4"),
            (b"%1", b"%41"),
            (b"x=&", b" "),
        ];
        let expected: Vec<_> = expected
            .iter()
            .map(|(name, value)| (name.to_vec(), value.to_vec()))
            .collect();
        assert_eq!(pairs([FORM]), expected);
        assert_eq!(pairs([]), []);
        assert_eq!(pairs([&b"&&"[..]]), []);
    }

    #[test]
    fn where_a_piece_ends_makes_no_difference() {
        let whole = pairs([FORM]);
        for first in 0..=FORM.len() {
            for second in first..=FORM.len() {
                let pieces = [&FORM[..first], &FORM[first..second], &FORM[second..]];
                assert_eq!(pairs(pieces), whole, "{first} {second}");
            }
        }
        assert_eq!(pairs(FORM.chunks(1)), whole);
    }

    #[test]
    fn a_form_is_looked_at_once_or_twice() {
        for input in [
            "&",
            "=",
            "a=b&",
            "%25",
            "%2525&=",
            "%",
            "%4",
            "+",
            "token=%41&",
        ] {
            for piece in [1, 7, usize::MAX] {
                let read = |form: &[u8]| assert!(pairs(form.chunks(piece)).len() <= form.len());
                work::assert_linear("a form", 4, read, input.as_bytes());
            }
        }
    }

    #[test]
    fn a_short_text_is_compared_in_whole() {
        let mut text = ShortText::default();
        assert!(text.is(b""));
        for piece in [&b"token_"[..], b"", b"type", b"_hint"] {
            text.push(piece);
        }
        assert!(text.is(b"token_type_hint"));
        assert!(!text.is(b"token_type_hin") && !text.is(b"token_type_hint2"));
        text.push(b"12");
        assert!(!text.is(b"token_type_hint1") && !text.is(b"token_type_hint12"));
        text.push(&[b'x'; 100]);
        assert!(!text.is(b"token_type_hint1"));
    }

    #[cfg(not(target_arch = "wasm32"))]
    mod properties {
        use proptest::prelude::*;

        use super::*;

        /// Forms of the bytes that matter.
        fn form() -> impl Strategy<Value = Vec<u8>> {
            let byte = prop_oneof![
                4 => prop::sample::select(b"%&=+4aFz%".to_vec()),
                1 => any::<u8>(),
            ];
            prop::collection::vec(byte, 0..80)
        }

        proptest! {
            #[test]
            fn every_split_gives_the_pairs_of_form_urlencoded(
                form in form(),
                cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..8),
            ) {
                let mut cuts: Vec<_> = cuts.iter().map(|cut| cut.index(form.len() + 1)).collect();
                cuts.extend([0, form.len()]);
                cuts.sort_unstable();
                let pieces = cuts.windows(2).map(|cut| &form[cut[0]..cut[1]]);
                let lossy: Vec<_> = pairs(pieces)
                    .iter()
                    .map(|(name, value)| {
                        let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
                        (text(name), text(value))
                    })
                    .collect();
                let expected: Vec<_> = form_urlencoded::parse(&form).into_owned().collect();
                prop_assert_eq!(lossy, expected);
            }

            #[test]
            fn what_is_encoded_comes_back(name: Vec<u8>, value: Vec<u8>) {
                let mut form = Vec::new();
                crate::text::form::encode(&name, &mut form);
                form.push(b'=');
                crate::text::form::encode(&value, &mut form);
                prop_assert_eq!(pairs([&*form]), vec![(name, value)]);
            }
        }
    }
}
