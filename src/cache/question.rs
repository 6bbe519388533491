//! The name of a question: which token, and who is asked about it.
//!
//! The non-obvious rule: a token alone is not enough. Two configurations may ask two MAS about one token,
//! and an answer of the one says nothing to the other.

use crate::{mas::introspection::Asker, token::TokenDigest};

/// A question to MAS: the token, and the [`crate::config::Config::fingerprint`] of who is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct QuestionKey {
    /// Which token.
    pub digest: TokenDigest,
    /// Who is asked.
    pub fingerprint: u64,
}

impl QuestionKey {
    /// Length of [`Self::to_bytes`].
    pub const BYTES: usize = TokenDigest::BYTES + 8;

    /// The name of the same question as one who asks so puts it. It stands in no lease and no hint.
    pub fn put_by(self, Asker(asker): Asker) -> Self {
        Self {
            fingerprint: self.fingerprint ^ u64::from(asker),
            ..self
        }
    }

    /// The key as it stands in leases and hints.
    pub fn to_bytes(self) -> [u8; Self::BYTES] {
        let mut bytes = [0; Self::BYTES];
        let (digest, fingerprint) = bytes.split_at_mut(TokenDigest::BYTES);
        digest.copy_from_slice(&self.digest.0);
        fingerprint.copy_from_slice(&self.fingerprint.to_le_bytes());
        bytes
    }

    /// The key from [`Self::to_bytes`].
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (digest, fingerprint) = bytes.split_first_chunk()?;
        let fingerprint = u64::from_le_bytes(fingerprint.try_into().ok()?);
        Some(Self {
            digest: TokenDigest(*digest),
            fingerprint,
        })
    }
}
