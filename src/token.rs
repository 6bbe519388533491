//! An access token and its digest.
//!
//! The non-obvious rule: the token itself is a secret that only the question to MAS carries. Everywhere
//! else a token is known by its hash under a secret of the process, and the `Debug` output of neither shows anything. So no
//! client can look for two tokens with one name, and who reads the name learns nothing of the token.

use alloc::borrow::Cow;
use core::{cmp::Ordering, fmt};

use crate::{
    hashes::sip_hash::{self, SipHasher},
    text::scan::has_control,
};

/// An access token: ASCII, not empty. `Debug` does not show it.
#[derive(Clone, PartialEq, Eq)]
pub struct AccessToken<'a>(Cow<'a, [u8]>);

impl<'a> AccessToken<'a> {
    /// `None` if the token is empty or has bytes outside ASCII.
    #[inline]
    pub fn new(token: impl Into<Cow<'a, [u8]>>) -> Option<Self> {
        let token = token.into();
        (!token.is_empty() && is_ascii(&token)).then_some(Self(token))
    }

    /// The token.
    pub fn as_str(&self) -> &str {
        // ASCII is UTF-8.
        str::from_utf8(&self.0).unwrap_or_default()
    }

    /// The token.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The token, free of the request that it came in.
    pub fn into_owned(self) -> AccessToken<'static> {
        AccessToken(Cow::Owned(self.0.into_owned()))
    }

    /// Whether there is a control byte in it. MAS fails on some of them, so such a token is never
    /// sent.
    pub fn has_control_bytes(&self) -> bool {
        has_control(self.as_bytes())
    }
}

/// Returns whether every byte of `text` is ASCII. Eight bytes at a time: the standard library takes as many as an address
/// has, which are four in the module.
fn is_ascii(text: &[u8]) -> bool {
    const TOP_BITS: u64 = u64::from_le_bytes([0x80; 8]);
    let (words, rest) = text.as_chunks();
    let join = |all, word: &[u8; 8]| all | u64::from_le_bytes(*word);
    words.iter().fold(0, join) & TOP_BITS == 0 && rest.is_ascii()
}

impl fmt::Debug for AccessToken<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AccessToken(..)")
    }
}

/// A secret under which tokens are named. `Debug` shows nothing of it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct TokenSecret(pub(crate) sip_hash::Key);

impl TokenSecret {
    /// No secret, for those who keep nothing by the names of tokens.
    pub const NONE: Self = Self([0; 2]);

    /// The secret of these random numbers.
    pub fn new(random: [u64; 2]) -> Self {
        Self(random)
    }

    /// Returns the name of `token`.
    pub fn digest(self, token: &[u8]) -> TokenDigest {
        TokenDigest(sip_hash::hash(self.0, token))
    }

    /// Names a token that comes in pieces.
    pub fn hasher(self) -> TokenHasher {
        TokenHasher(SipHasher::new(self.0))
    }
}

impl fmt::Debug for TokenSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TokenSecret(..)")
    }
}

/// The hash of a token under a [`TokenSecret`]. `Debug` shows nothing of it.
#[derive(Clone, Copy)]
pub struct TokenDigest(pub [u8; TokenDigest::BYTES]);

impl TokenDigest {
    /// Length of a digest.
    pub const BYTES: usize = 16;

    /// The digest as words. They are compared in place of bytes, which the C library of the module's target compares one by
    /// one. Any order of the words will do.
    #[inline]
    fn words(&self) -> [u64; 2] {
        let mut words = [0; 2];
        for (word, bytes) in words.iter_mut().zip(self.0.as_chunks().0) {
            *word = u64::from_le_bytes(*bytes);
        }
        words
    }
}

impl PartialEq for TokenDigest {
    #[inline]
    fn eq(&self, other: &Self) -> bool {
        self.words() == other.words()
    }
}

impl Eq for TokenDigest {}

impl PartialOrd for TokenDigest {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for TokenDigest {
    #[inline]
    fn cmp(&self, other: &Self) -> Ordering {
        self.words().cmp(&other.words())
    }
}

#[cfg(test)]
impl AccessToken<'_> {
    /// Whether it is a part of what it was read from.
    pub fn is_borrowed(&self) -> bool {
        matches!(self.0, Cow::Borrowed(_))
    }
}

#[cfg(test)]
impl TokenDigest {
    /// The digest of `token` under no secret.
    pub fn of(token: &[u8]) -> Self {
        TokenSecret::NONE.digest(token)
    }
}

/// The digest of a token that comes in pieces. `Debug` shows nothing of it.
#[derive(Clone)]
pub struct TokenHasher(SipHasher);

impl TokenHasher {
    /// Adds a piece of the token.
    pub fn push(&mut self, piece: &[u8]) {
        self.0.push(piece);
    }

    /// Returns the digest of all pieces.
    pub fn finish(self) -> TokenDigest {
        TokenDigest(self.0.finish())
    }
}

impl fmt::Debug for TokenHasher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TokenHasher(..)")
    }
}

impl fmt::Debug for TokenDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TokenDigest(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_byte_that_is_not_ascii_is_found_wherever_it_stands() {
        for length in 1..40 {
            let mut text = vec![0x7f; length];
            assert!(AccessToken::new(text.clone()).is_some());
            for at in 0..length {
                text[at] = 0x80;
                assert!(AccessToken::new(text.clone()).is_none(), "{at} of {length}");
                text[at] = 0;
            }
        }
    }
}
