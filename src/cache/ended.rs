//! Which tokens have ended lately, and which the homeserver has refused: what tells an answer that was on its way at the
//! time.
//!
//! An end (a logout, a revocation) or a refusal is noted before the answer is removed or doubted. A worker reads how many
//! events there were before it asks MAS, and after it has stored the answer what has come since: if one is about its
//! token, the answer may be from before, and does not stay, or stays doubted.
//!
//! The non-obvious rule: no time is involved. The events are counted, so it is told right however late the answer is read,
//! and however long the worker that asked did nothing, for they are nothing that the worker has to keep up.
//!
//! There is a fixed number of histories, which tokens share, and each names its last events only. When more have come than
//! it names, any token of it may be among them. Anyone can end invented tokens, and so fill histories: that voids no
//! answer that is kept, and costs one more call only where more events than a history names come while MAS is asked.

use super::key_space::KeySpace;
use crate::{
    host::{If, NotWritten, Store},
    token::TokenDigest,
};

/// Histories in all.
const NUMBER: u32 = 16_384;

/// Events that a history names. Some thousand ended tokens a second come to less than one a second in each history.
const NAMED: usize = 15;

/// How often an event is written again after another worker wrote first.
const WRITE_ATTEMPTS: usize = 64;

/// What happens to a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// Its session ends.
    End,
    /// The homeserver refuses it.
    Refusal,
}

/// How many events a history had.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Point(u64);

/// The events of the tokens that share it.
#[derive(Debug, Default)]
struct History {
    events: u64,
    /// The last ones, the newest at the end: half of the token's digest each, whose last bit tells which event it was.
    named: Vec<u64>,
}

/// What a history names an event.
fn name(token: &TokenDigest, event: Event) -> u64 {
    let TokenDigest([.., a, b, c, d, e, f, g, h]) = *token;
    let token = u64::from_le_bytes([a, b, c, d, e, f, g, h]);
    match event {
        Event::End => token | 1,
        Event::Refusal => token & !1,
    }
}

impl History {
    fn add(&mut self, event: u64) {
        self.events = self.events.wrapping_add(1);
        if self.named.len() >= NAMED {
            self.named.remove(0);
        }
        self.named.push(event);
    }

    /// Returns what has happened to a token since `earlier`. An end counts for more than a refusal.
    fn since(&self, earlier: Point, token: &TokenDigest) -> Option<Event> {
        let came = usize::try_from(self.events.wrapping_sub(earlier.0)).unwrap_or(usize::MAX);
        let Some(before) = self.named.len().checked_sub(came) else {
            return Some(Event::End);
        };
        [Event::End, Event::Refusal].into_iter().find(|event| {
            self.named
                .iter()
                .skip(before)
                .any(|one| *one == name(token, *event))
        })
    }

    fn encode(&self) -> Vec<u8> {
        let numbers = std::iter::once(&self.events).chain(&self.named);
        numbers.flat_map(|number| number.to_le_bytes()).collect()
    }

    /// Bytes of another format are no history.
    fn decode(bytes: &[u8]) -> Self {
        let (numbers, rest) = bytes.as_chunks();
        match numbers {
            [events, named @ ..] if rest.is_empty() && named.len() <= NAMED => Self {
                events: u64::from_le_bytes(*events),
                named: named.iter().copied().map(u64::from_le_bytes).collect(),
            },
            _ => Self::default(),
        }
    }
}

/// The histories, as any worker sees them.
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
    /// Returns the present point of the token's history.
    pub fn now(&self, store: &impl Store, token: &TokenDigest) -> Point {
        Point(self.history(store, token).events)
    }

    /// Returns what has happened to the token since that point.
    pub fn since(&self, store: &impl Store, token: &TokenDigest, earlier: Point) -> Option<Event> {
        self.history(store, token).since(earlier, token)
    }

    /// Notes an event.
    pub fn add(
        &self,
        store: &impl Store,
        token: &TokenDigest,
        event: Event,
    ) -> Result<(), NotWritten> {
        let key = self.keys.key(store, &token.0);
        let mut outcome = Err(NotWritten::Changed);
        for _ in 0..WRITE_ATTEMPTS {
            let stored = store.read(key.as_bytes());
            let mut history = stored
                .as_ref()
                .map_or_else(History::default, |stored| History::decode(&stored.value));
            history.add(name(token, event));
            let condition = stored.map_or(If::Absent, |stored| If::Unchanged(stored.cas));
            outcome = store.write(key.as_bytes(), &history.encode(), condition);
            if outcome != Err(NotWritten::Changed) {
                break;
            }
        }
        outcome
    }

    fn history(&self, store: &impl Store, token: &TokenDigest) -> History {
        let stored = store.read(self.keys.key(store, &token.0).as_bytes());
        stored.map_or_else(History::default, |stored| History::decode(&stored.value))
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

    /// All tokens share one history.
    fn crowded() -> EndedTokens {
        EndedTokens {
            keys: KeySpace::new("e", 1),
        }
    }

    #[test]
    fn each_event_is_told_of_its_token_to_every_worker() {
        let store = MemoryStore::default();
        let [one, two] = [crowded(), crowded()];
        let first = one.now(&store, &token(1));
        for event in EVENTS {
            for _ in 0..3 {
                let before = one.now(&store, &token(1));
                two.add(&store, &token(1), event).unwrap();
                assert_eq!(one.since(&store, &token(1), before), Some(event));
                assert_eq!(one.since(&store, &token(2), before), None, "another's");
            }
        }
        let since = |earlier| one.since(&store, &token(1), earlier);
        assert_eq!(since(first), Some(Event::End), "it counts for more");
        assert_eq!(since(one.now(&store, &token(1))), None);
    }

    #[test]
    fn an_event_counts_however_many_come_after_it() {
        for event in EVENTS {
            for others in 0..3 * NAMED {
                let (store, ended) = (MemoryStore::default(), crowded());
                for number in 0..u32::try_from(others).unwrap() {
                    ended.add(&store, &token(100 + number), Event::End).unwrap();
                }
                let before = ended.now(&store, &token(1));
                ended.add(&store, &token(1), event).unwrap();
                for number in 0..u32::try_from(others).unwrap() {
                    ended.add(&store, &token(200 + number), Event::End).unwrap();
                }
                let told = ended.since(&store, &token(1), before);
                // One that is not named any more counts as an end.
                let expected = if others < NAMED { event } else { Event::End };
                assert_eq!(told, Some(expected), "{others}");
                let is_named = others < NAMED;
                let other = ended.since(&store, &token(2), before);
                assert_eq!(other.is_none(), is_named, "{others}");
            }
        }
    }

    #[test]
    fn a_history_that_is_damaged_counts_as_an_end() {
        for damaged in [
            &b""[..],
            b"1234567",
            &[0; 8],
            &[0; 9],
            &[1; 8 * (NAMED + 2)],
        ] {
            let (store, ended) = (MemoryStore::default(), crowded());
            for _ in 0..2 {
                ended.add(&store, &token(1), Event::Refusal).unwrap();
            }
            let before = ended.now(&store, &token(1));
            store.damage(|value| {
                // The seed has 16 bytes, and stays.
                if value.len() == 24 {
                    *value = damaged.to_vec();
                }
            });
            let told = ended.since(&store, &token(1), before);
            assert_eq!(told, Some(Event::End), "{damaged:?}");
            ended.add(&store, &token(1), Event::Refusal).unwrap();
            assert!(ended.since(&store, &token(1), before).is_some());
        }
    }

    #[test]
    fn an_event_that_loses_a_race_is_told_all_the_same() {
        for event in EVENTS {
            for other in EVENTS {
                for has_ended_before in [false, true] {
                    let (store, ended) = (MemoryStore::default(), crowded());
                    if has_ended_before {
                        ended.add(&store, &token(1), Event::End).unwrap();
                    }
                    let before = ended.now(&store, &token(1));
                    *store.interfere.borrow_mut() = Some(Box::new(move |store: &MemoryStore| {
                        crowded().add(store, &token(2), other).unwrap();
                    }));
                    ended.add(&store, &token(1), event).unwrap();
                    for (number, event) in [(1, event), (2, other)] {
                        let told = ended.since(&store, &token(number), before);
                        assert_eq!(told, Some(event), "{event:?} and {other:?}");
                    }
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
        assert_eq!(store.len(), 4 + 1, "the histories, the seed");
    }
}
