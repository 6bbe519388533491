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
//! `lookup.rs` reads the cache and `storage.rs` writes it. `freshness.rs` says until when an answer holds, and this file what
//! voids it.

use alloc::boxed::Box;

mod cached;
pub mod entry;
pub mod epoch;
pub mod expiry;
mod freshness;
pub mod inactive;
mod introspected;
mod lookup;
pub mod question;
pub mod sizes;
mod storage;
pub mod table;
pub mod token_events;
pub mod token_secret;
pub mod voiding;

pub use self::{
    cached::{ActiveEntry, Audience, Awaited, Cached, Owner},
    introspected::Introspected,
    storage::StoreOutcome,
};
use self::{
    entry::Entry,
    epoch::Epochs,
    expiry::Expiry,
    freshness::Freshness,
    inactive::{KeptMark, LocalInactive},
    question::QuestionKey,
    table::Table,
    voiding::Voidings,
};
use crate::{
    clock::Instant,
    config,
    host::Store,
    mas::{
        introspection::{ActiveAnswer, Answer},
        user::UserKey,
    },
    shared_data::name::Space,
    token::TokenDigest,
};

/// The two tables, as one worker sees them.
#[derive(Debug)]
pub struct SharedCache {
    active: Table,
    negative: Table,
    voidings: Voidings,
    freshness: Freshness,
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
            voidings: Voidings::default(),
            freshness: Freshness::new(settings),
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

    /// Returns whether MAS has voided this active answer. The user's record is read unless the epochs show that it cannot say so.
    /// An answer without a user is void as soon as MAS has told of any user who may be back.
    fn is_active_void(
        &self,
        store: &impl Store,
        user: Option<&UserKey>,
        answer: &ActiveAnswer,
        asked_at: Instant,
        epochs: Option<&Epochs>,
    ) -> bool {
        let Some(user) = user else {
            return self.voidings.voids_unowned(store, asked_at);
        };
        !epochs.is_some_and(|epochs| epochs.is_silent_since(user, asked_at))
            && self.voidings.voids_active(store, user, answer, asked_at)
    }

    /// What this cache makes of an entry.
    fn view(&self, entry: Entry) -> Cached {
        let fresh_until = self.freshness.fresh_until(&entry);
        let refresh_at = self.freshness.refresh_at(&entry);
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
    pub fn view_for(&self, introspected: &Introspected, reader: &Self) -> Cached {
        match &introspected.answer {
            Answer::Inactive(answer) => Cached::Inactive(answer.clone()),
            Answer::Active(_) => reader.view(self.entry(introspected)),
        }
    }

    /// Whether what MAS told the homeserver since the question was sent voids the answer. With `epochs`, what it told of the user
    /// of an active token counts as of their last reading.
    pub fn is_voided(
        &self,
        store: &impl Store,
        introspected: &Introspected,
        epochs: Option<&Epochs>,
    ) -> bool {
        match &introspected.answer {
            Answer::Active(answer) => self.is_active_void(
                store,
                introspected.user.as_ref(),
                answer,
                introspected.asked_at,
                epochs,
            ),
            Answer::Inactive(_) => self
                .voidings
                .voids_inactive(store, None, introspected.asked_at),
        }
    }

    /// Returns what MAS has told of users, by which answers are void.
    pub fn voidings(&self) -> &Voidings {
        &self.voidings
    }

    fn entry(&self, introspected: &Introspected) -> Entry {
        let expiry = introspected
            .lifetime
            .map(|told| Expiry::new(told, introspected.asked_at, introspected.answered_at));
        let end = self.freshness.end_by_ttl(
            &introspected.answer,
            introspected.asked_at,
            introspected.answered_at,
        );
        Entry {
            digest: introspected.digest,
            fingerprint: self.fingerprint,
            user: introspected.user,
            used_at: introspected.answered_at,
            asked_at: introspected.asked_at,
            answered_at: introspected.answered_at,
            useful_until: expiry.map_or(end, |expiry| end.min(expiry.earliest)),
            expiry,
            is_doubted: false,
            answer: introspected.answer.clone(),
        }
    }

    /// Returns the name of who was asked, see [`config::Config::fingerprint`].
    pub fn fingerprint(&self) -> u64 {
        self.fingerprint
    }

    /// Returns the name of the question whose token this is.
    pub fn question(&self, digest: &TokenDigest) -> QuestionKey {
        QuestionKey {
            digest: *digest,
            fingerprint: self.fingerprint,
        }
    }
}

#[cfg(test)]
mod tests;
