//! How often tokens have ended, and how often the homeserver has refused them: what tells an answer that was on its way at
//! the time.
//!
//! An end (a logout, a revocation) or a refusal raises its count of the token, before the answer is removed or doubted. A
//! worker reads the counts before it asks MAS, and again after it has stored the answer: if one has changed, the answer
//! may be from before, and does not stay, or stays doubted.
//!
//! The non-obvious rule: no time is involved. The counts are right however late the answer is read, and however long
//! the worker that asked did nothing, for they are nothing that the worker has to keep up.
//!
//! There is a fixed number of counts, which tokens share. Anyone can end an invented token, and so raise any count:
//! that voids no answer that is kept, and costs one more call only if another token of the same count is being asked
//! about.

use super::key_space::KeySpace;
use crate::{
    host::{If, NotWritten, Store},
    token::TokenDigest,
};

/// Pairs of counts in all.
const NUMBER: u32 = 16_384;

/// How often a count is raised again after another worker wrote first.
const WRITE_ATTEMPTS: usize = 64;

/// What happens to a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// Its session ends.
    End,
    /// The homeserver refuses it.
    Refusal,
}

/// How often each has happened, modulo 2^32.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Events {
    ends: u32,
    refusals: u32,
}

impl Events {
    /// Returns what has happened since `earlier`. An end counts for more than a refusal.
    pub fn since(self, earlier: Self) -> Option<Event> {
        if self.ends != earlier.ends {
            Some(Event::End)
        } else if self.refusals != earlier.refusals {
            Some(Event::Refusal)
        } else {
            None
        }
    }

    fn count(&mut self, event: Event) -> &mut u32 {
        match event {
            Event::End => &mut self.ends,
            Event::Refusal => &mut self.refusals,
        }
    }

    fn encode(self) -> [u8; 8] {
        (u64::from(self.refusals) << 32 | u64::from(self.ends)).to_le_bytes()
    }

    /// Bytes of another format count as none.
    fn decode(bytes: &[u8]) -> Self {
        let both = bytes.try_into().map_or(0, u64::from_le_bytes);
        Self {
            ends: both as u32,
            refusals: (both >> 32) as u32,
        }
    }
}

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
    /// Returns what has happened so far to tokens with this one's counts.
    pub fn events(&self, store: &impl Store, token: &TokenDigest) -> Events {
        let stored = store.read(&self.keys.key(store, &token.0));
        stored.map_or_else(Events::default, |stored| Events::decode(&stored.value))
    }

    /// Notes an event. If another worker raises the same count in between, that is enough: it came later than this event.
    pub fn add(
        &self,
        store: &impl Store,
        token: &TokenDigest,
        event: Event,
    ) -> Result<(), NotWritten> {
        let key = self.keys.key(store, &token.0);
        let mut before = None;
        let mut outcome = Err(NotWritten::Changed);
        for _ in 0..WRITE_ATTEMPTS {
            let stored = store.read(&key);
            let mut events = stored
                .as_ref()
                .map_or_else(Events::default, |stored| Events::decode(&stored.value));
            let count = events.count(event);
            if *before.get_or_insert(*count) != *count {
                return Ok(());
            }
            *count = count.wrapping_add(1);
            let condition = stored.map_or(If::Absent, |stored| If::Unchanged(stored.cas));
            outcome = store.write(&key, &events.encode(), condition);
            if outcome != Err(NotWritten::Changed) {
                break;
            }
        }
        outcome
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::memory::MemoryStore;

    const EVENTS: [Event; 2] = [Event::End, Event::Refusal];

    fn token(number: u32) -> TokenDigest {
        TokenDigest::of(&number.to_le_bytes())
    }

    #[test]
    fn each_event_changes_the_count_of_its_token_for_every_worker() {
        let store = MemoryStore::default();
        let [one, two] = [EndedTokens::default(), EndedTokens::default()];
        let first = one.events(&store, &token(1));
        for event in EVENTS {
            for _ in 0..3 {
                let before = one.events(&store, &token(1));
                two.add(&store, &token(1), event).unwrap();
                assert_eq!(one.events(&store, &token(1)).since(before), Some(event));
            }
        }
        let now = one.events(&store, &token(1));
        assert_eq!((now.ends, now.refusals), (3, 3));
        assert_eq!(now.since(first), Some(Event::End), "it counts for more");
        assert_eq!(now.since(now), None);
        assert_eq!(one.events(&store, &token(2)), first, "another's");
    }

    #[test]
    fn an_event_that_loses_a_race_is_seen_all_the_same() {
        for event in EVENTS {
            for other in EVENTS {
                for has_ended_before in [false, true] {
                    let (store, ended) = (MemoryStore::default(), EndedTokens::default());
                    if has_ended_before {
                        ended.add(&store, &token(1), Event::End).unwrap();
                    }
                    let mut before = ended.events(&store, &token(1));
                    *store.interfere.borrow_mut() = Some(Box::new(move |store: &MemoryStore| {
                        let ended = EndedTokens::default();
                        ended.add(store, &token(1), other).unwrap();
                    }));
                    ended.add(&store, &token(1), event).unwrap();
                    let mut now = ended.events(&store, &token(1));
                    assert_ne!(
                        now.count(event),
                        before.count(event),
                        "{event:?} and {other:?}"
                    );
                }
            }
        }
    }

    #[test]
    fn no_number_of_tokens_takes_more_than_the_fixed_number_of_keys() {
        let store = MemoryStore::default();
        let ended = EndedTokens {
            keys: KeySpace::new("e", 4),
        };
        for number in 0..1_000 {
            ended.add(&store, &token(number), Event::End).unwrap();
        }
        assert_eq!(store.len(), 4 + 1, "the counts, the seed");
    }
}
