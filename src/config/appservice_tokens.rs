//! The tokens of application services, by their SHA-256: Matrix specification, "Application Service API", "Authorization".
//!
//! The non-obvious rule: such a token may have any form, so every token is looked for. Where none is configured, and only
//! there, that costs no digest.

use alloc::vec::Vec;
use core::fmt;

use sha2::{Digest as _, Sha256};

use crate::hashes::order;

/// Known tokens of application services. `Debug` shows how many: a digest without a salt may be of a token that can be guessed.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct AppserviceTokens {
    /// Sorted.
    digests: Vec<[u8; 32]>,
    fingerprint: u64,
}

impl fmt::Debug for AppserviceTokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AppserviceTokens({})", self.digests.len())
    }
}

impl AppserviceTokens {
    /// The name of a token in the configuration: its SHA-256.
    pub fn digest(token: &[u8]) -> [u8; 32] {
        Sha256::digest(token).0
    }

    /// Adds the token of this digest. They are sorted as they come: a sort of the whole list would be much code.
    pub fn insert(&mut self, digest: [u8; 32]) {
        if let Err(at) = self.find(&digest) {
            let [a, b, c, d, e, f, g, h, ..] = digest;
            self.fingerprint ^= u64::from_le_bytes([a, b, c, d, e, f, g, h]);
            self.digests.insert(at, digest);
        }
    }

    /// Returns whether `token` is one of them.
    pub fn contains(&self, token: &[u8]) -> bool {
        !self.is_empty() && self.find(&Self::digest(token)).is_ok()
    }

    /// Returns where a digest is, or would be.
    #[inline(never)]
    fn find(&self, digest: &[u8; 32]) -> Result<usize, usize> {
        let order = |other: &[u8; 32]| order::compare(other, digest);
        self.digests.binary_search_by(order)
    }

    /// Returns whether there are none.
    pub fn is_empty(&self) -> bool {
        self.digests.is_empty()
    }

    /// Names the list: other tokens have another one. Without tokens it is 0.
    pub fn fingerprint(&self) -> u64 {
        self.fingerprint
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(tokens: &[&str]) -> AppserviceTokens {
        let mut all = AppserviceTokens::default();
        for token in tokens {
            all.insert(AppserviceTokens::digest(token.as_bytes()));
        }
        all
    }

    #[test]
    fn each_token_is_known_and_no_other() {
        for tokens in [&[][..], &["a"], &["b", "a"], &["c", "a", "b", "a"]] {
            let all = of(tokens);
            assert_eq!(all.is_empty(), tokens.is_empty());
            for token in ["a", "b", "c", ""] {
                assert_eq!(all.contains(token.as_bytes()), tokens.contains(&token));
            }
        }
    }

    #[test]
    fn the_fingerprint_is_that_of_the_tokens_in_any_order() {
        let fingerprint = |tokens: &[&str]| of(tokens).fingerprint();
        assert_eq!(fingerprint(&[]), 0);
        assert_eq!(fingerprint(&["a", "b"]), fingerprint(&["b", "a", "b"]));
        let all: std::collections::BTreeSet<u64> = [&[][..], &["a"], &["b"], &["a", "b"]]
            .map(fingerprint)
            .into();
        assert_eq!(all.len(), 4);
    }
}
