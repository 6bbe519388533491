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

use alloc::vec::Vec;
use core::cell::Cell;

use crate::{
    clock::Instant,
    host::{NotWritten, Store, Unreadable, update},
    shared_data::{
        key_space::KeySpace,
        last_read::LastRead,
        name::{self, Space},
    },
    token::TokenDigest,
};

/// Histories in all.
const HISTORIES: u32 = 16_384;

/// Events that a history holds. It names one less, since the oldest tells how far back it reaches. Some thousand ended tokens a
/// second come to less than one a second in each history.
const NAMED: usize = 16;

/// What happens to a token. Of two events the lower one counts for more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
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

/// Returns what happened to the token, if a history names an event of it so.
fn event_of(name: u64, token: &TokenDigest) -> Option<Event> {
    let is_of_token = (name ^ event_name(token, Event::End)) >> 1 == 0;
    let event = if name & 1 == 1 {
        Event::End
    } else {
        Event::Refusal
    };
    is_of_token.then_some(event)
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

    /// Returns what has happened to a token since `earlier`: of several events the one that counts for most. An event that is not
    /// named any more counts as an end: its number is lower than that of any other.
    fn since(&self, Point(earlier): Point, token: &TokenDigest) -> Option<Event> {
        let came = |event: &u128| (event >> 64) as u64 > earlier;
        if self.0.len() >= NAMED && self.0.first().is_some_and(came) {
            return Some(Event::End);
        }
        let later = self.0.iter().filter(|event| came(event));
        later
            .filter_map(|event| event_of(*event as u64, token))
            .min()
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
pub struct TokenEvents {
    keys: KeySpace,
    /// The number of events, as far as this worker knows.
    known: Cell<Point>,
    /// The last reading of it.
    last_read: LastRead,
}

impl Default for TokenEvents {
    fn default() -> Self {
        Self {
            keys: KeySpace::new(Space::Histories, HISTORIES),
            known: Cell::default(),
            last_read: LastRead::default(),
        }
    }
}

impl TokenEvents {
    /// Returns the present point, or one of the last quarter of a second.
    pub fn point(&self, store: &impl Store, now: Instant) -> Point {
        if !self.last_read.is_recent(now) {
            if let Some(events) = store.read(name::EVENTS) {
                self.know(number(&events.value).unwrap_or_default());
            }
            self.last_read.note(now);
        }
        self.known.get()
    }

    /// Returns what has happened to the token since that point.
    pub fn since(
        &self,
        store: &impl Store,
        token: &TokenDigest,
        earlier: Point,
    ) -> Result<Option<Event>, Unreadable> {
        let stored = store.try_read(self.keys.key(store, &token.0).as_bytes())?;
        let event = stored.and_then(|stored| History::decode(&stored.value).since(earlier, token));
        if event.is_some() {
            // MAS is asked again, which must not go by the same point.
            self.forget_last_read();
        }
        Ok(event)
    }

    /// Lets the next question go by the present number of events.
    pub fn forget_last_read(&self) {
        self.last_read.forget();
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
mod tests;
