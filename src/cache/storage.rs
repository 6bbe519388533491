//! How the shared cache is written: an answer is stored, withdrawn, removed or doubted.

use alloc::vec::Vec;

use super::{
    Introspected, SharedCache,
    entry::Entry,
    table::{Fate, Removed, Settled, Table, Written},
};
use crate::{host::Store, mas::introspection::Answer, metrics::Evicted, token::TokenDigest};

/// What storing an answer changed.
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
    /// Writes what MAS said.
    ///
    /// An active answer ends at the earliest moment at which its token may end; the expiry proves the token
    /// inactive only from the latest. In between, MAS is asked.
    ///
    /// The order matters: an answer is written to its own table first, and the other table is looked into second. So
    /// of two workers that store answers of both kinds at once, one sees the other's answer, and the earlier one goes.
    pub fn store(&self, store: &impl Store, introspected: &Introspected) -> StoreOutcome {
        let mut entry = self.entry(introspected);
        let mut written = self.write(store, introspected, &entry);
        let Settled {
            removed,
            is_superseded,
        } = self.settle_other(store, introspected);
        let mut invalidated = !introspected.is_active() && !removed.is_empty();
        let owner = removed.iter().find_map(|removed| removed.user);
        if invalidated && owner.is_some() && written.fate == Fate::Stored {
            entry.user = owner;
            written = self.write_again(store, &entry, written);
        }
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

    /// Writes an answer to the table of its kind.
    // Inlined like the next two, so that storing an answer takes no more instructions than in one piece.
    #[inline(always)]
    fn write(&self, store: &impl Store, introspected: &Introspected, entry: &Entry) -> Written {
        let now = introspected.answered_at;
        let is_fresh = now < entry.useful_until;
        if !is_fresh && introspected.is_active() {
            return Written::default();
        }
        let (own, _) = self.own_and_other(&introspected.answer);
        let mut written = own.put(store, entry, now);
        // An "inactive" that does not hold serves nobody. An earlier "active" that comes later finds it, and does not serve
        // either.
        if !is_fresh && written.fate != Fate::Stored {
            written.fate = Fate::NotWritten;
        }
        written
    }

    /// Takes earlier answers to the question out of the table of the other kind. Those of another MAS stay: it may know the token.
    ///
    /// An active answer that is the only one is spared the look: it comes first in [`Self::lookup`].
    #[inline(always)]
    fn settle_other(&self, store: &impl Store, introspected: &Introspected) -> Settled {
        let (_, other) = self.own_and_other(&introspected.answer);
        if introspected.is_active() && nobody_else_asked(introspected, other) {
            return Settled::default();
        }
        let (asked_at, now) = (introspected.asked_at, introspected.answered_at);
        let key = self.question(&introspected.digest);
        other.settle(store, &key, asked_at, now)
    }

    /// Writes an "inactive" once more, with the user whose token it was when it was active: the owner decides which event can make
    /// the token active again. Until the owner is written, an event about any user does.
    fn write_again(&self, store: &impl Store, entry: &Entry, before: Written) -> Written {
        let mut written = self.negative.put(store, entry, entry.answered_at);
        written.evicted.extend(before.evicted);
        written
    }

    /// Returns the table for answers of this kind, and that for answers of the other kind.
    #[inline(always)]
    fn own_and_other(&self, answer: &Answer) -> (&Table, &Table) {
        match answer {
            Answer::Active(_) => (&self.active, &self.negative),
            Answer::Inactive(_) => (&self.negative, &self.active),
        }
    }

    /// Takes the answer out again. Returns whether it was there.
    pub fn withdraw(&self, store: &impl Store, introspected: &Introspected) -> bool {
        let (own, _) = self.own_and_other(&introspected.answer);
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
    /// again, and they serve only where it gives no answer. Returns whether there is one.
    pub fn doubt(&self, store: &impl Store, digest: &TokenDigest) -> bool {
        self.active.doubt(store, digest)
    }
}

/// Returns whether this worker looked for an answer of the other kind, found none, and no other worker has asked since.
fn nobody_else_asked(introspected: &Introspected, other: &Table) -> bool {
    introspected.is_exclusive
        && other.take_miss(&introspected.digest) >= Some(introspected.asked_at)
        && other.has_one_size(introspected.answered_at)
}
