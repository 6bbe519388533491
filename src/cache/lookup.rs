//! How the shared cache is read: a fresh answer, one for those who waited for it, or a stale one.

use alloc::boxed::Box;

use super::{
    ActiveEntry, Audience, Awaited, Cached, Owner, SharedCache, entry::Entry, epoch::Epochs,
    freshness::HANDED_OVER_WITHIN, table::Table,
};
use crate::{
    clock::Instant,
    host::Store,
    mas::introspection::{Answer, InactiveAnswer},
    metrics::{self, LookupResult, Metric},
    token::TokenDigest,
};

impl SharedCache {
    /// What is known of the token at `now`.
    pub fn lookup(&self, store: &impl Store, digest: &TokenDigest, now: Instant) -> Option<Cached> {
        self.lookup_as_of(store, digest, now, None, |_| {})
    }

    /// The same, where what MAS told of a user counts as of the last reading of these epochs: a user's record is read only
    /// if it may say that the answer is void. `count` receives one metric for each table looked into. There is none where the
    /// worker keeps the token for itself.
    pub fn lookup_as_of(
        &self,
        store: &impl Store,
        digest: &TokenDigest,
        now: Instant,
        epochs: Option<&Epochs>,
        mut count: impl FnMut(Metric),
    ) -> Option<Cached> {
        if self
            .local_inactive
            .contains(store, &self.kept_mark, digest, now)
        {
            return Some(Cached::Inactive(InactiveAnswer::default()));
        }
        let active = self.lookup_active_table(store, digest, now, epochs);
        count(Metric::Lookup(
            metrics::CacheTable::Active,
            hit(active.is_some()),
        ));
        if active.is_some() {
            return active;
        }
        let inactive = self.lookup_negative_table(store, digest, now);
        count(Metric::Lookup(
            metrics::CacheTable::Negative,
            hit(inactive.is_some()),
        ));
        if inactive.is_some() && self.local_inactive.is_in_use() {
            self.keep_inactive(store, digest, now);
        }
        inactive.map(Cached::Inactive)
    }

    /// Returns an answer for requests that waited for another worker, though it serves no new request. `since`: when the first
    /// of them came.
    /// - If a request came before the question was sent, the answer serves it, even if MAS has told of users since.
    /// - An "inactive" that came after its time was over serves the requests that came before it. A new call would take as long.
    ///   It does so for half a second after it came, whatever `negative_ttl` is: nearly every worker looks for it by then.
    pub fn lookup_awaited(
        &self,
        store: &impl Store,
        digest: &TokenDigest,
        since: Instant,
        now: Instant,
    ) -> Option<Awaited> {
        let key = self.question(digest);
        let find = |table: &Table| {
            let entry = table.find(store, &key, now)?;
            let fresh_until = self.freshness.fresh_until(&entry);
            let is_late = now >= fresh_until && self.is_valid_inactive(store, &entry);
            let audience = if is_late {
                Audience::CameBeforeAnswer(entry.answered_at)
            } else {
                Audience::CameBeforeQuestion(entry.asked_at)
            };
            // `negative_ttl` may be over as the answer comes.
            let end = match entry.answer {
                Answer::Active(_) => fresh_until,
                Answer::Inactive(_) => fresh_until.max(entry.answered_at + HANDED_OVER_WITHIN),
            };
            let holds = audience.includes(since) && !entry.is_doubted && now < end;
            holds.then(|| Awaited {
                cached: self.view(entry),
                audience,
            })
        };
        find(&self.active).or_else(|| find(&self.negative))
    }

    /// Whether an entry says that its token is inactive, and nothing that MAS has told of users voids that.
    fn is_valid_inactive(&self, store: &impl Store, entry: &Entry) -> bool {
        let (user, asked_at) = (entry.user.as_ref(), entry.asked_at);
        matches!(entry.answer, Answer::Inactive(_))
            && !self.voidings.voids_inactive(store, user, asked_at)
    }

    /// In the table of active answers: an active one, or one whose token has certainly ended since.
    fn lookup_active_table(
        &self,
        store: &impl Store,
        digest: &TokenDigest,
        now: Instant,
        epochs: Option<&Epochs>,
    ) -> Option<Cached> {
        let entry = self.active.find(store, &self.question(digest), now)?;
        if entry.expiry.is_some_and(|expiry| expiry.has_passed(now)) {
            return Some(Cached::Expired);
        }
        if entry.is_doubted || now >= self.freshness.fresh_until(&entry) {
            return None;
        }
        self.if_valid(store, entry, epochs).map(Cached::Active)
    }

    fn lookup_negative_table(
        &self,
        store: &impl Store,
        digest: &TokenDigest,
        now: Instant,
    ) -> Option<InactiveAnswer> {
        let entry = self.negative.find(store, &self.question(digest), now)?;
        let is_good = self.is_inactive(store, &entry, now);
        match entry.answer {
            Answer::Inactive(answer) if is_good => Some(answer),
            _ => None,
        }
    }

    /// Whether an entry of the table of inactive answers still says that its token is inactive.
    fn is_inactive(&self, store: &impl Store, entry: &Entry, now: Instant) -> bool {
        now < self.freshness.fresh_until(entry) && self.is_valid_inactive(store, entry)
    }

    /// Keeps an inactive token for this worker. The order matters, see [`super::inactive`].
    fn keep_inactive(&self, store: &impl Store, digest: &TokenDigest, now: Instant) {
        let Ok(number) = self.kept_mark.read(store) else {
            return;
        };
        let Some(entry) = self
            .negative
            .find_and_mark_kept(store, &self.question(digest))
        else {
            return;
        };
        if self.is_inactive(store, &entry, now) {
            let until = self.freshness.fresh_until(&entry);
            self.local_inactive.insert(*digest, until, number);
        }
    }

    /// An active answer past its time, for while MAS cannot be asked: within `stale_if_error`, and never
    /// past the token's own expiry. Within its time a doubted one serves as well, whatever `stale_if_error` is: the
    /// homeserver's refusal is no word of MAS.
    pub fn lookup_stale(
        &self,
        store: &impl Store,
        digest: &TokenDigest,
        now: Instant,
    ) -> Option<Box<ActiveEntry>> {
        let entry = self.active.find(store, &self.question(digest), now)?;
        let holds = now < self.freshness.stale_until(&entry)
            && entry.expiry.is_none_or(|expiry| now < expiry.earliest);
        if holds {
            self.if_valid(store, entry, None)
        } else {
            None
        }
    }

    /// Returns whose the token is, if MAS has called it active and its own end has not passed since. The answer may be long past
    /// its time, or void by what MAS told of the user, which happens to live sessions, too: no client can invent such a
    /// token. One that has ended is known for one more question, whose answer takes the place of this one.
    pub fn known_owner(
        &self,
        store: &impl Store,
        digest: &TokenDigest,
        now: Instant,
    ) -> Option<Owner> {
        let entry = self.active.find(store, &self.question(digest), now)?;
        let has_ended = entry.expiry.is_some_and(|expiry| expiry.earliest <= now);
        (!has_ended).then_some(Owner(entry.user))
    }

    /// The entry, if it is active and nothing has voided it.
    fn if_valid(
        &self,
        store: &impl Store,
        entry: Entry,
        epochs: Option<&Epochs>,
    ) -> Option<Box<ActiveEntry>> {
        let asked_at = entry.asked_at;
        let Cached::Active(entry) = self.view(entry) else {
            return None;
        };
        let user = entry.user.as_ref();
        let is_void = self.is_active_void(store, user, &entry.answer, asked_at, epochs);
        (!is_void).then_some(entry)
    }
}

fn hit(found: bool) -> LookupResult {
    if found {
        LookupResult::Hit
    } else {
        LookupResult::Miss
    }
}
