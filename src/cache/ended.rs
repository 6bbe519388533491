//! Which tokens have ended lately, and which the homeserver has refused: what tells an answer that was on its way at the
//! time.
//!
//! An end (a logout, a revocation) or a refusal is noted before the answer is removed or doubted. A worker knows how many
//! events there were before it asks MAS, and reads after it has stored the answer what has come since: if one is about its
//! token, the answer may be from before, and does not stay, or stays doubted.
//!
//! The non-obvious rule: no time is involved. The events are numbered, so the result is right however late the answer is read,
//! and however long the worker that asked did nothing: it has nothing to renew meanwhile. Their number is
//! read once in a quarter of a second, or after a hint: one that is out of date costs a call for a token that ended a moment
//! before.
//!
//! There is a fixed number of histories, which tokens share. Each names only its last events. If more have come, each of
//! its tokens may be among those that it does not name. Anyone can end invented tokens, and so fill histories: that voids no
//! answer that is kept, and costs one more call only where more events than a history names come while MAS is asked, or in the
//! quarter of a second before.

use std::cell::Cell;

use crate::{
    clock::Instant,
    host::{NotWritten, Store, update},
    shared_data::{
        key_space::KeySpace,
        look::Look,
        name::{self, Space},
    },
    token::TokenDigest,
};

/// Histories in all.
const HISTORIES: u32 = 16_384;

/// Events that a history holds. It names one less, since the oldest tells how far back it reaches. Some thousand ended tokens a
/// second come to less than one a second in each history.
const NAMED: usize = 16;

/// What happens to a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// Its session ends.
    End,
    /// The homeserver refuses it.
    Refusal,
}

/// How many events there were.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Point(u64);

/// The last events of the tokens that share it, in the order of their numbers. Each has its number in its upper half, and in
/// the lower one half of the token's digest, whose last bit tells which event it was.
#[derive(Debug, Default)]
struct History(Vec<u128>);

/// What a history names an event.
fn event_name(token: &TokenDigest, event: Event) -> u64 {
    let TokenDigest([.., a, b, c, d, e, f, g, h]) = *token;
    let token = u64::from_le_bytes([a, b, c, d, e, f, g, h]);
    match event {
        Event::End => token | 1,
        Event::Refusal => token & !1,
    }
}

impl History {
    fn add(&mut self, number: u64, name: u64) {
        let event = u128::from(number) << 64 | u128::from(name);
        // A later one may have been written first.
        let at = self.0.partition_point(|other| *other < event);
        self.0.insert(at, event);
        if self.0.len() > NAMED {
            self.0.remove(0);
        }
    }

    /// Returns what has happened to a token since `earlier`. An end counts for more than a refusal, and an event that is not
    /// named any more counts as an end: its number is lower than that of any other.
    fn since(&self, Point(earlier): Point, token: &TokenDigest) -> Option<Event> {
        let came = |event: &u128| (event >> 64) as u64 > earlier;
        if self.0.len() >= NAMED && self.0.first().is_some_and(came) {
            return Some(Event::End);
        }
        let named = |event: &Event| {
            let is_it = |one: &u128| came(one) && *one as u64 == event_name(token, *event);
            self.0.iter().any(is_it)
        };
        [Event::End, Event::Refusal].into_iter().find(named)
    }

    fn encode(&self) -> Vec<u8> {
        self.0
            .iter()
            .flat_map(|event| event.to_le_bytes())
            .collect()
    }

    fn decode(bytes: &[u8]) -> Self {
        let (events, _) = bytes.as_chunks();
        Self(events.iter().copied().map(u128::from_le_bytes).collect())
    }
}

fn number(bytes: &[u8]) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.try_into().ok()?))
}

/// The histories, as any worker sees them.
#[derive(Debug)]
pub struct EndedTokens {
    keys: KeySpace,
    /// The number of events, as far as this worker knows.
    known: Cell<Point>,
    /// The last look at it.
    look: Look,
}

impl Default for EndedTokens {
    fn default() -> Self {
        Self {
            keys: KeySpace::new(Space::Histories, HISTORIES),
            known: Cell::default(),
            look: Look::default(),
        }
    }
}

impl EndedTokens {
    /// Returns the present point, or one of the last quarter of a second.
    pub fn point(&self, store: &impl Store, now: Instant) -> Point {
        if !self.look.is_recent(now) {
            if let Some(events) = store.read(name::EVENTS) {
                self.know(number(&events.value).unwrap_or_default());
            }
            self.look.note(now);
        }
        self.known.get()
    }

    /// Returns what has happened to the token since that point.
    pub fn since(&self, store: &impl Store, token: &TokenDigest, earlier: Point) -> Option<Event> {
        let stored = store.read(self.keys.key(store, &token.0).as_bytes())?;
        let event = History::decode(&stored.value).since(earlier, token)?;
        // MAS is asked again, which must not go by the same point.
        self.look_again();
        Some(event)
    }

    /// Lets the next question go by the present number of events.
    pub fn look_again(&self) {
        self.look.forget();
    }

    /// Notes an event.
    pub fn add(
        &self,
        store: &impl Store,
        token: &TokenDigest,
        event: Event,
    ) -> Result<(), NotWritten> {
        let mut events = 0;
        update(store, name::EVENTS, &mut |stored| {
            events = stored
                .and_then(number)
                .unwrap_or_default()
                .saturating_add(1);
            events.to_le_bytes().to_vec()
        })?;
        self.know(events);
        let key = self.keys.key(store, &token.0);
        update(store, key.as_bytes(), &mut |stored| {
            let mut history = stored.map_or_else(History::default, History::decode);
            history.add(events, event_name(token, event));
            history.encode()
        })
    }

    fn know(&self, events: u64) {
        self.known.set(self.known.get().max(Point(events)));
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
            keys: KeySpace::new(Space::Histories, 1),
            ..EndedTokens::default()
        }
    }

    /// The present point, by a worker that has not looked.
    fn present(store: &MemoryStore) -> Point {
        crowded().point(store, Instant::default())
    }

    #[test]
    fn each_event_is_told_of_its_token_to_every_worker() {
        let store = MemoryStore::default();
        let [one, two] = [crowded(), crowded()];
        let first = present(&store);
        for event in EVENTS {
            for _ in 0..3 {
                let before = present(&store);
                two.add(&store, &token(1), event).unwrap();
                assert_eq!(one.since(&store, &token(1), before), Some(event));
                assert_eq!(one.since(&store, &token(2), before), None, "another's");
            }
        }
        let since = |earlier| one.since(&store, &token(1), earlier);
        assert_eq!(since(first), Some(Event::End), "it counts for more");
        assert_eq!(since(present(&store)), None);
    }

    #[test]
    fn a_look_serves_a_quarter_of_a_second_and_never_hides_an_event() {
        let at = |millis: u64| Instant::from_millis(1_000 + millis);
        let store = MemoryStore::default();
        let [one, two] = [crowded(), crowded()];
        let add = |ended: &EndedTokens| ended.add(&store, &token(1), Event::End).unwrap();
        let first = one.point(&store, at(0));
        add(&two);
        assert_eq!(one.point(&store, at(249)), first);
        assert_eq!(one.point(&store, at(250)), present(&store));
        add(&two);
        let earlier = one.point(&store, at(499));
        assert_ne!(earlier, present(&store));
        assert_eq!(one.since(&store, &token(1), earlier), Some(Event::End));
        let later = one.point(&store, at(499));
        assert_eq!(later, present(&store), "that was told");
        assert_eq!(one.since(&store, &token(1), later), None);
        add(&one);
        assert_eq!(one.point(&store, at(500)), present(&store), "its own");
        add(&two);
        assert_eq!(
            one.point(&store, at(400)),
            present(&store),
            "the clock went back"
        );
    }

    #[test]
    fn an_event_counts_however_many_come_after_it() {
        for event in EVENTS {
            for others in 0..3 * NAMED {
                let (store, ended) = (MemoryStore::default(), crowded());
                for number in 0..u32::try_from(others).unwrap() {
                    ended.add(&store, &token(100 + number), Event::End).unwrap();
                }
                let before = present(&store);
                ended.add(&store, &token(1), event).unwrap();
                for number in 0..u32::try_from(others).unwrap() {
                    ended.add(&store, &token(200 + number), Event::End).unwrap();
                }
                let told = ended.since(&store, &token(1), before);
                // One that is not named any more counts as an end.
                let is_named = others < NAMED - 1;
                let expected = if is_named { event } else { Event::End };
                assert_eq!(told, Some(expected), "{others}");
                let other = ended.since(&store, &token(2), before);
                assert_eq!(other.is_none(), is_named, "{others}");
            }
        }
    }

    #[test]
    fn an_event_is_told_whatever_stood_there_before() {
        for damaged in [
            &b""[..],
            b"1234567",
            &[0; 16],
            &[1; 17],
            &[1; 16 * (NAMED + 2)],
        ] {
            let (store, ended) = (MemoryStore::default(), crowded());
            ended.add(&store, &token(1), Event::Refusal).unwrap();
            store.damage(|value| {
                // Their number stays. Any seed will do.
                if value.len() != 8 {
                    *value = damaged.to_vec();
                }
            });
            let before = present(&store);
            ended.add(&store, &token(1), Event::Refusal).unwrap();
            let told = ended.since(&store, &token(1), before);
            assert!(told.is_some(), "{damaged:?}");
        }
    }

    /// The event with the lowest number comes into the history late, as that of a busy worker.
    #[test]
    fn an_event_that_is_written_late_hides_none() {
        let last = 3 * u32::try_from(NAMED).unwrap();
        for late in 0..last {
            let mut numbers: Vec<u32> = (2..=last).collect();
            numbers.insert(usize::try_from(late).unwrap(), 1);
            let mut history = History::default();
            for number in numbers {
                history.add(number.into(), event_name(&token(number), Event::End));
            }
            for number in 1..=last {
                let told = history.since(Point(u64::from(number) - 1), &token(number));
                assert_eq!(told, Some(Event::End), "{number}, with the first at {late}");
            }
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
                    let before = present(&store);
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
            keys: KeySpace::new(Space::Histories, 4),
            ..EndedTokens::default()
        };
        for number in 0..1_000 {
            ended.add(&store, &token(number), Event::End).unwrap();
        }
        assert_eq!(store.len(), 4 + 2, "the histories, their number, the seed");
    }
}
