//! The shared cache: what MAS said of a token, for every worker of one Envoy process.
//!
//! An entry is identified by the [digest](TokenDigest) of the token and by who was asked; the token itself is never stored.
//! Active and inactive answers live in two tables, so that a flood of invented tokens cannot evict one live session.
//!
//! The non-obvious rule: an entry may have been written under another configuration. It never holds longer than the
//! reader's own `ttl` or `negative_ttl`, counted from before the question.
//!
//! Answers may come in another order than their questions were sent, since a worker may be busy for seconds. Of two
//! answers to one question the one that was asked for later stays.
//!
//! `lookup.rs` reads the cache and `storage.rs` writes it. This file has what both need: until when an answer holds, and what
//! voids it.

mod cached;
pub mod entry;
pub mod epoch;
pub mod expiry;
pub mod inactive;
mod introspected;
mod lookup;
pub mod question;
pub mod revocation;
pub mod sizes;
mod storage;
pub mod table;
pub mod token_events;
pub mod token_secret;

use std::time::Duration;

pub use self::{
    cached::{ActiveEntry, Audience, Awaited, Cached},
    introspected::Introspected,
    storage::StoreOutcome,
};
use self::{
    entry::Entry,
    epoch::Epochs,
    expiry::Expiry,
    inactive::{KeptMark, LocalInactive},
    question::QuestionKey,
    revocation::Revocations,
    table::Table,
};
use crate::{
    clock::Instant,
    config,
    host::Store,
    mas::{
        introspection::{ActiveAnswer, Answer},
        user::UserKey,
    },
    shared_data::{last_read, name::Space},
    token::TokenDigest,
};

/// A fresh answer is renewed this long before it ends, or a tenth of its life if that is less: long enough
/// for a slow MAS, short enough to ask once per TTL.
const REFRESH_AHEAD: Duration = Duration::from_secs(6);

/// How long an answer serves after it has come, at the least. An inactive one serves only those who waited for it. It is two
/// ticks: a hint comes at once, and a worker that may have missed one looks at its next tick.
const HANDED_OVER_WITHIN: Duration = last_read::MAX_AGE.saturating_mul(2);

/// The two tables, as one worker sees them.
#[derive(Debug)]
pub struct SharedCache {
    active: Table,
    negative: Table,
    revocations: Revocations,
    ttl: Duration,
    negative_ttl: Duration,
    stale_if_error: Duration,
    refresh_ahead: bool,
    fingerprint: u64,
    local_inactive: LocalInactive,
    kept_mark: KeptMark,
}

impl SharedCache {
    /// The cache that `settings` describe. `fingerprint` names who was asked, see
    /// [`config::Config::fingerprint`].
    pub fn new(settings: &config::Cache, fingerprint: u64) -> Self {
        Self {
            active: Table::new(Space::Active, settings.slots),
            negative: Table::new(Space::Negative, settings.negative_slots),
            revocations: Revocations::default(),
            ttl: settings.ttl,
            negative_ttl: settings.negative_ttl,
            stale_if_error: settings.stale_if_error,
            refresh_ahead: settings.refresh_ahead,
            fingerprint,
            local_inactive: LocalInactive::new(0),
            kept_mark: KeptMark::default(),
        }
    }

    /// The same cache, where this worker remembers the inactive tokens that come again: `number` of them at the most. It only
    /// remembers *that* they are inactive, so this is for readers that do not need MAS's own bytes.
    pub fn keeping_inactive(self, number: usize) -> Self {
        Self {
            local_inactive: LocalInactive::new(number),
            ..self
        }
    }

    /// Whether MAS has told of the user that this answer is void. The record is read unless the epochs say that it cannot tell.
    /// An answer that names no user is void as soon as MAS has told of any user.
    fn is_void(
        &self,
        store: &impl Store,
        user: Option<&UserKey>,
        answer: &ActiveAnswer,
        asked_at: Instant,
        epochs: Option<&Epochs>,
    ) -> bool {
        let Some(user) = user else {
            return self.revocations.revokes_unowned(store, asked_at);
        };
        !epochs.is_some_and(|epochs| epochs.is_past(user, asked_at))
            && self
                .revocations
                .revokes_active(store, user, answer, asked_at)
    }

    fn cached(&self, entry: Entry) -> Cached {
        let fresh_until = self.fresh_until(&entry);
        let refresh_at = self.refresh_at(&entry);
        match entry.answer {
            Answer::Active(answer) => Cached::Active(Box::new(ActiveEntry {
                digest: entry.digest,
                answer,
                user: entry.user,
                expiry: entry.expiry,
                asked_at: entry.asked_at,
                fresh_until,
                refresh_at,
            })),
            Answer::Inactive(answer) => Cached::Inactive(answer),
        }
    }

    /// An answer that has just come and was given to this cache, as `reader` knows it from then on.
    pub fn as_cached(&self, asked: &Introspected, reader: &Self) -> Cached {
        match &asked.answer {
            Answer::Inactive(answer) => Cached::Inactive(answer.clone()),
            Answer::Active(_) => reader.cached(self.entry(asked)),
        }
    }

    /// Whether what MAS told the homeserver since the question was sent voids the answer. With `epochs`, what it told of the user
    /// of an active token counts as of their last reading.
    pub fn is_revoked(
        &self,
        store: &impl Store,
        asked: &Introspected,
        epochs: Option<&Epochs>,
    ) -> bool {
        match &asked.answer {
            Answer::Active(answer) => {
                self.is_void(store, asked.user.as_ref(), answer, asked.asked_at, epochs)
            }
            Answer::Inactive(_) => self
                .revocations
                .revokes_inactive(store, None, asked.asked_at),
        }
    }

    /// What MAS tells about its users voids answers about them.
    pub fn revocations(&self) -> &Revocations {
        &self.revocations
    }

    fn entry(&self, asked: &Introspected) -> Entry {
        let expiry = asked
            .lifetime
            .map(|told| Expiry::new(told, asked.asked_at, asked.answered_at));
        let end = self.own_end(&asked.answer, asked.asked_at, asked.answered_at);
        Entry {
            digest: asked.digest,
            fingerprint: self.fingerprint,
            user: asked.user,
            used_at: asked.answered_at,
            asked_at: asked.asked_at,
            answered_at: asked.answered_at,
            useful_until: expiry.map_or(end, |expiry| end.min(expiry.earliest)),
            expiry,
            is_doubted: false,
            answer: asked.answer.clone(),
        }
    }

    /// Returns the end of an answer for a reader with these settings, also if another configuration wrote it.
    fn fresh_until(&self, entry: &Entry) -> Instant {
        let own_end = self.own_end(&entry.answer, entry.asked_at, entry.answered_at);
        let end = entry
            .expiry
            .map_or(own_end, |expiry| expiry.earliest.min(own_end));
        end.min(entry.useful_until)
    }

    /// Returns the end of an answer by this TTL, which counts from the question. A request that waited in another worker reads an
    /// active answer a moment after it has come. So that one holds until then, however long MAS took.
    fn own_end(&self, answer: &Answer, asked_at: Instant, answered_at: Instant) -> Instant {
        match answer {
            Answer::Active(_) => (asked_at + self.ttl).max(answered_at + HANDED_OVER_WITHIN),
            Answer::Inactive(_) => asked_at + self.negative_ttl,
        }
    }

    fn refresh_at(&self, entry: &Entry) -> Option<Instant> {
        let fresh_until = self.fresh_until(entry);
        let outlives = entry
            .expiry
            .is_none_or(|expiry| expiry.earliest > fresh_until);
        // Another configuration may have given it a shorter life.
        let life = fresh_until.since(entry.asked_at).min(self.ttl);
        (self.refresh_ahead && outlives).then(|| fresh_until.minus(REFRESH_AHEAD.min(life / 10)))
    }

    fn question(&self, digest: &TokenDigest) -> QuestionKey {
        QuestionKey {
            digest: *digest,
            fingerprint: self.fingerprint,
        }
    }
}

#[cfg(test)]
mod tests;
