//! The members of an introspection response, as either reader takes them in one after the other: [`super::plain`] and
//! [`super::any`].

use alloc::{string::String, vec::Vec};

use crate::text::percent::hex_digit;

/// Texts in [`Members`].
pub const TEXTS: usize = 4;

/// What the edge uses of a response.
#[derive(Debug, PartialEq, Eq)]
pub struct Members<'a> {
    /// Whether the token is active.
    pub active: bool,
    /// `username`, `device_id`, `client_id` and `scope`, as they stand between their quotes.
    pub texts: [Option<Text<'a>>; TEXTS],
    /// `expires_in`, and its digits.
    pub expires_in: Option<(i64, &'a [u8])>,
}

/// A string as it is written, without its quotes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Text<'a> {
    /// The bytes between the quotes.
    pub written: &'a [u8],
    /// Whether one of them begins an escape.
    pub has_escape: bool,
}

/// A value, of which no more is kept than a member can be made of.
#[derive(Clone, Copy)]
pub(super) enum Value<'a> {
    Null,
    Boolean(bool),
    Integer(&'a [u8]),
    Text(Text<'a>),
    /// A number with a fraction or an exponent, a list or an object.
    Other,
}

impl<'a> Value<'a> {
    fn boolean(self) -> Option<bool> {
        match self {
            Self::Boolean(value) => Some(value),
            _ => None,
        }
    }

    /// `null` is none.
    fn text(self) -> Option<Option<Text<'a>>> {
        match self {
            Self::Null => Some(None),
            // What cannot be read is no text, whether it is needed or not.
            Self::Text(text) if !text.has_escape || text.read().is_some() => Some(Some(text)),
            _ => None,
        }
    }

    /// `null` is none. Minus zero is a floating-point number.
    fn integer(self) -> Option<Option<(i64, &'a [u8])>> {
        match self {
            Self::Null => Some(None),
            Self::Integer(b"-0") => None,
            Self::Integer(digits) => Some(Some((seconds(digits)?, digits))),
            _ => None,
        }
    }
}

/// Reads a whole number.
fn seconds(text: &[u8]) -> Option<i64> {
    /// What is longer is too large, and what is not has no more than 64 bits.
    const MAX_DIGITS: usize = 19;
    let (is_negative, digits) = match text {
        [b'-', digits @ ..] => (true, digits),
        digits => (false, digits),
    };
    if digits.len() > MAX_DIGITS {
        return None;
    }
    let add = |number: u64, digit: &u8| number * 10 + u64::from(digit & 0xf);
    let number = digits.iter().fold(0, add);
    if is_negative {
        0_i64.checked_sub_unsigned(number)
    } else {
        i64::try_from(number).ok()
    }
}

/// The members that were found so far. `None` within is that the member is `null`.
#[derive(Default)]
pub(super) struct FoundMembers<'a> {
    active: Option<bool>,
    texts: [Option<Option<Text<'a>>>; TEXTS],
    expires_in: Option<Option<(i64, &'a [u8])>>,
}

impl<'a> FoundMembers<'a> {
    /// Takes in a member. `None`: it was there before, or is not what it has to be.
    // What a member is made of stays at hand then.
    #[inline(always)]
    pub(super) fn take(&mut self, name: &[u8], value: Value<'a>) -> Option<()> {
        let text = match name {
            b"username" => 0,
            b"device_id" => 1,
            b"client_id" => 2,
            b"scope" => 3,
            b"active" => return first(&mut self.active, value.boolean()?),
            b"expires_in" => return first(&mut self.expires_in, value.integer()?),
            _ => TEXTS,
        };
        match self.texts.get_mut(text) {
            Some(member) => first(member, value.text()?),
            None => Some(()),
        }
    }

    /// Returns all of them. `None`: the one is missing that must be there.
    pub(super) fn members(self) -> Option<Members<'a>> {
        Some(Members {
            active: self.active?,
            texts: self.texts.map(Option::flatten),
            expires_in: self.expires_in.flatten(),
        })
    }
}

/// Takes in a member. `None`: it was there before.
fn first<T>(member: &mut Option<T>, value: T) -> Option<()> {
    member.replace(value).is_none().then_some(())
}

impl Text<'_> {
    /// Returns what the string reads. `None`: it has half a character, in the form of one surrogate.
    #[cold]
    pub fn read(self) -> Option<String> {
        let mut text = Vec::with_capacity(self.written.len());
        let mut rest = self.written;
        while let Some((byte, after)) = rest.split_first() {
            rest = after;
            if *byte != b'\\' {
                text.push(*byte);
                continue;
            }
            let (kind, after) = rest.split_first()?;
            rest = after;
            let byte = match kind {
                b'b' => 0x8,
                b'f' => 0xc,
                b'n' => b'\n',
                b'r' => b'\r',
                b't' => b'\t',
                b'u' => {
                    let (character, after) = character(rest)?;
                    rest = after;
                    text.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes());
                    continue;
                }
                // It stands for itself: a quote, a backslash.
                other => *other,
            };
            text.push(byte);
        }
        String::from_utf8(text).ok()
    }
}

/// Reads the character that four hexadecimal digits stand for, or two times four. Returns what follows, too.
fn character(digits: &[u8]) -> Option<(char, &[u8])> {
    let (unit, rest) = code_unit(digits)?;
    let Some(high) = unit.checked_sub(0xd800).filter(|high| *high < 0x400) else {
        return Some((char::from_u32(unit)?, rest));
    };
    let (low, rest) = code_unit(rest.strip_prefix(b"\\u")?)?;
    let low = low.checked_sub(0xdc00).filter(|low| *low < 0x400)?;
    Some((char::from_u32(0x1_0000 + (high << 10 | low))?, rest))
}

fn code_unit(text: &[u8]) -> Option<(u32, &[u8])> {
    let (digits, rest) = text.split_at_checked(4)?;
    Some((number_of(digits)?, rest))
}

/// Returns the number that hexadecimal digits stand for.
pub(super) fn number_of(digits: &[u8]) -> Option<u32> {
    let add = |number, digit: &u8| Some(number << 4 | u32::from(hex_digit(*digit)?));
    digits.iter().try_fold(0, add)
}
