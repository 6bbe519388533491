//! How often tokens have ended: what tells an answer that was on its way at the time.
//!
//! An end (a logout, a revocation, a refusal) raises the count of the token, before its answer is removed. A worker
//! reads the count before it asks MAS, and again after it has stored the answer: if the count has changed, the answer
//! may be from before the end and does not stay.
//!
//! The non-obvious rule: no time is involved. The count is right however late the answer is read, and however long
//! the worker that asked did nothing, for it is nothing that the worker has to keep up.
//!
//! There is a fixed number of counts, which tokens share. Anyone can end an invented token, and so raise any count:
//! that voids no answer that is kept, and costs one more call only if another token of the same count is being asked
//! about.

use super::key_space::KeySpace;
use crate::{
    host::{If, NotWritten, Store},
    token::TokenDigest,
};

/// Counts in all.
const NUMBER: u32 = 16_384;

/// The counts, as any worker sees them.
#[derive(Debug)]
pub struct EndedTokens {
    keys: KeySpace,
}

impl Default for EndedTokens {
    fn default() -> Self {
        Self {
            keys: KeySpace::new("e", NUMBER),
        }
    }
}

impl EndedTokens {
    /// Returns how often tokens with this one's count have ended.
    pub fn count(&self, store: &impl Store, token: &TokenDigest) -> u64 {
        let stored = store.read(&self.keys.key(store, &token.0));
        stored.map_or(0, |stored| number(&stored.value))
    }

    /// Notes that the token has ended. If another worker raises the same count in between, that is enough: it came
    /// later than this end.
    pub fn add(&self, store: &impl Store, token: &TokenDigest) -> Result<(), NotWritten> {
        let key = self.keys.key(store, &token.0);
        let stored = store.read(&key);
        let count = stored.as_ref().map_or(0, |stored| number(&stored.value));
        let condition = stored.map_or(If::Absent, |stored| If::Unchanged(stored.cas));
        match store.write(&key, &count.wrapping_add(1).to_le_bytes(), condition) {
            Ok(()) | Err(NotWritten::Changed) => Ok(()),
            Err(refused) => Err(refused),
        }
    }
}

/// Bytes of another format count as none.
fn number(bytes: &[u8]) -> u64 {
    bytes.try_into().map_or(0, u64::from_le_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::memory::MemoryStore;

    fn token(number: u32) -> TokenDigest {
        TokenDigest::of(&number.to_le_bytes())
    }

    #[test]
    fn each_end_changes_the_count_of_its_token_for_every_worker() {
        let store = MemoryStore::default();
        let [one, two] = [EndedTokens::default(), EndedTokens::default()];
        let mut seen = vec![one.count(&store, &token(1))];
        for _ in 0..3 {
            two.add(&store, &token(1)).unwrap();
            let count = one.count(&store, &token(1));
            assert!(!seen.contains(&count));
            seen.push(count);
        }
        assert_eq!(one.count(&store, &token(2)), 0, "another's");
    }

    #[test]
    fn an_end_that_loses_a_race_is_seen_all_the_same() {
        for has_ended_before in [false, true] {
            let (store, ended) = (MemoryStore::default(), EndedTokens::default());
            if has_ended_before {
                ended.add(&store, &token(1)).unwrap();
            }
            let before = ended.count(&store, &token(1));
            *store.interfere.borrow_mut() = Some(Box::new(|store: &MemoryStore| {
                EndedTokens::default().add(store, &token(1)).unwrap();
            }));
            ended.add(&store, &token(1)).unwrap();
            assert_ne!(ended.count(&store, &token(1)), before);
        }
    }

    #[test]
    fn no_number_of_tokens_takes_more_than_the_fixed_number_of_keys() {
        let store = MemoryStore::default();
        let ended = EndedTokens {
            keys: KeySpace::new("e", 4),
        };
        for number in 0..1_000 {
            ended.add(&store, &token(number)).unwrap();
        }
        assert_eq!(store.len(), 4 + 1, "the counts, the seed");
    }
}
