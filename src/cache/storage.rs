//! How the shared cache is written: an answer is kept, withdrawn, removed or doubted.

use super::{
    Introspected, SharedCache,
    table::{Fate, Removed, Settled, Written},
};
use crate::{host::Store, mas::introspection::Answer, metrics::Evicted, token::TokenDigest};

/// What keeping an answer changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StoreOutcome {
    /// An active answer for this token was dropped: other workers may still hold it.
    pub invalidated: bool,
    /// What became of the answer.
    pub fate: Fate,
    /// What had to make room for it.
    pub evicted: Vec<(Evicted, TokenDigest)>,
}

impl SharedCache {
    /// Keeps what MAS said.
    ///
    /// An active answer ends at the earliest moment at which its token may end; the expiry proves the token
    /// inactive only from the latest. In between, MAS is asked.
    ///
    /// The order matters: an answer is written to its own table first, and the other table is looked into second. So
    /// of two workers that store answers of both kinds at once, one sees the other's answer, and the earlier one goes. An active
    /// answer that is the only one is spared that look: it comes first in [`Self::lookup`].
    pub fn store(&self, store: &impl Store, introspected: &Introspected) -> StoreOutcome {
        let (key, now) = (
            self.question(&introspected.digest),
            introspected.answered_at,
        );
        let mut entry = self.entry(introspected);
        let is_fresh = now < entry.useful_until;
        let (own, other) = match &introspected.answer {
            Answer::Active(_) => (&self.active, &self.negative),
            Answer::Inactive(_) => (&self.negative, &self.active),
        };
        let mut written = Written::default();
        if is_fresh || !introspected.is_active() {
            written = own.put(store, &entry, now);
            // An "inactive" that does not hold serves nobody. An earlier "active" that comes later finds it, and does not serve
            // either.
            if !is_fresh && written.fate != Fate::Stored {
                written.fate = Fate::NotWritten;
            }
        }
        // This worker looked for an answer of the other kind, found none, and no other worker has asked since.
        let is_settled = introspected.is_exclusive
            && introspected.is_active()
            && other.take_miss(&key.digest) >= Some(introspected.asked_at)
            && other.has_one_size(now);
        // Another MAS may know the token: its answers stay.
        let Settled {
            removed,
            is_superseded,
        } = if is_settled {
            Settled::default()
        } else {
            other.settle(store, &key, introspected.asked_at, now)
        };
        // The owner decides which event can make the token active again. Until the owner is written, an event about any user
        // does.
        let user = removed.iter().find_map(|removed| removed.user);
        if !introspected.is_active() && user.is_some() && written.fate == Fate::Stored {
            entry.user = user;
            let Written { evicted, .. } = written;
            written = own.put(store, &entry, now);
            written.evicted.extend(evicted);
        }
        let mut invalidated = !introspected.is_active() && !removed.is_empty();
        if is_superseded {
            // Another worker may have read it in between.
            invalidated |= self.withdraw(store, introspected) && introspected.is_active();
            written.fate = Fate::Superseded;
        }
        StoreOutcome {
            invalidated,
            fate: written.fate,
            evicted: written.evicted,
        }
    }

    /// Takes the answer out again. Returns whether it was there.
    pub fn withdraw(&self, store: &impl Store, introspected: &Introspected) -> bool {
        let own = match &introspected.answer {
            Answer::Active(_) => &self.active,
            Answer::Inactive(_) => &self.negative,
        };
        let key = self.question(&introspected.digest);
        let settled = own.settle(store, &key, introspected.asked_at, introspected.answered_at);
        !settled.removed.is_empty()
    }

    /// Drops the active answers about a token, of every MAS and under every size of the table. `None`: there was
    /// none. Of two MAS that knew the token, the one that this configuration asks says whose it was.
    pub fn remove_active(&self, store: &impl Store, digest: &TokenDigest) -> Option<Removed> {
        let removed = self.active.remove_token(store, digest);
        let own = |removed: &&Removed| removed.fingerprint == self.fingerprint;
        removed.iter().find(own).or(removed.first()).copied()
    }

    /// Marks the active answers about a token as doubted, of every MAS and under every size of the table: MAS is asked
    /// again, and they serve only where it gives no answer. Returns whether one of them was not doubted before.
    pub fn doubt(&self, store: &impl Store, digest: &TokenDigest) -> bool {
        self.active.doubt(store, digest)
    }
}
