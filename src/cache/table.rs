//! A table of a fixed number of answers in the store.
//!
//! A record is an answer to one question: about one token, given by one MAS. Two questions about one token have a
//! record each.
//!
//! Another version of the module may have written a bucket in another format, while an update takes its time. This version
//! cannot tell what is in it. So a removal empties such a bucket. A worker that writes over one makes all workers look up again
//! what they keep of active answers: an answer that was in it has no entry any more by which its end would be told.
//!
//! The non-obvious rule: a removal or a doubt goes over every size that the table was ever used with in this process, see
//! [`super::sizes`]. Only the bucket of the table's own size is looked into for an answer, so a hit pays nothing
//! for that.

use alloc::vec::Vec;
use core::{
    cell::{Cell, OnceCell},
    time::Duration,
};

mod eviction;
mod misses;

use self::{
    eviction::{Neighbourhood, surplus},
    misses::Misses,
};
use super::{
    entry::{Entry, EntryHead, set_doubted, set_kept, set_used_at, set_useful_until},
    epoch::Epochs,
    inactive::KeptMark,
    question::QuestionKey,
    sizes::Sizes,
};
use crate::{
    clock::Instant,
    host::{Store, until_written},
    mas::user::UserKey,
    metrics::Evicted,
    shared_data::{
        bucket::{Bucket, Buckets},
        name::Space,
    },
    token::TokenDigest,
};

/// The most that a bucket holds, in bytes: 2 KiB for each of its eight records. Answers are shorter as a rule; where some
/// are longer, fewer have room.
const MAX_BUCKET_BYTES: usize = 16 * 1024;

/// An entry's time of use is written no more often than this.
const USE_RESOLUTION: Duration = Duration::from_secs(1);

/// A record that was taken out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Removed {
    /// Which MAS had answered, see [`crate::config::Config::fingerprint`].
    pub fingerprint: u64,
    /// Whose token it was.
    pub user: Option<UserKey>,
}

/// What a table held about a question whose answer has just come.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settled {
    /// The answers that were asked for no later. They are gone.
    pub removed: Vec<Removed>,
    /// There is one that was asked for later. It stays.
    pub is_superseded: bool,
}

/// What became of an answer that was to be written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Fate {
    /// It is in the table.
    Stored,
    /// It is not, because there is the answer to a later question.
    Superseded,
    /// It is not, because it is longer than [`MAX_ANSWER_BYTES`](super::entry::MAX_ANSWER_BYTES).
    TooLong,
    /// It is not: it has no time left, shared data takes none, or other workers wrote in between too often.
    #[default]
    NotWritten,
}

/// What writing an answer did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Written {
    /// What became of it.
    pub fate: Fate,
    /// What had to make room for it, and which token each was about.
    pub evicted: Vec<(Evicted, TokenDigest)>,
}

impl From<Fate> for Written {
    fn from(fate: Fate) -> Self {
        Self {
            fate,
            evicted: Vec::new(),
        }
    }
}

/// A table. Workers with the same space and size share it.
#[derive(Debug)]
pub struct Table {
    space: Space,
    sizes: Sizes,
    slots: u32,
    /// As configured. They are read and written only under a registered size.
    configured: Buckets,
    /// The buckets in use, once their number is registered.
    registered: OnceCell<Buckets>,
    /// Renewed before an entry goes that a worker keeps for itself.
    kept: KeptMark,
    misses: Misses,
}

impl Table {
    /// A table for `slots` answers of this space.
    pub fn new(space: Space, slots: u32) -> Self {
        Self {
            space,
            sizes: Sizes::new(space),
            slots,
            configured: Buckets::new(space, slots),
            registered: OnceCell::new(),
            kept: KeptMark::default(),
            misses: Misses::default(),
        }
    }

    /// Returns the answer to this question, fresh or not. Finding it is a use.
    pub fn find(&self, store: &impl Store, key: &QuestionKey, now: Instant) -> Option<Entry> {
        let mut bucket = self.buckets(store)?.try_read(store, &key.digest.0).ok()?;
        let Some(record) = bucket.find_mut(|record| answers(record, key)) else {
            self.misses.remember(key.digest, now, bucket);
            return None;
        };
        let entry = Entry::decode(record)?;
        if now.since(entry.used_at) >= USE_RESOLUTION {
            set_used_at(record, now);
            // If another worker wrote, this use is forgotten; the next one is not.
            let _ = bucket.save(store);
        }
        Some(entry)
    }

    /// Returns the answer to this question, and notes in it that this worker keeps it for itself. `None`: there is none, or
    /// another worker wrote in between.
    pub fn find_and_mark_kept(&self, store: &impl Store, key: &QuestionKey) -> Option<Entry> {
        let mut bucket = self.buckets(store)?.read(store, &key.digest.0);
        let record = bucket.find_mut(|record| answers(record, key))?;
        let entry = Entry::decode(record)?;
        set_kept(record);
        // Also if it was noted before: the write is what tells that nobody takes the entry out meanwhile.
        bucket.save(store).ok()?;
        Some(entry)
    }

    /// Writes the entry to its bucket, in place of any other answer to the question, unless that was asked for later. A
    /// full bucket gives up the answer that ended first, or else the one not used for longest. If other workers write in
    /// between many times, the entry is not written; the cost is one more introspection.
    ///
    /// The end of use never goes back: a configuration with a longer TTL may have written the answer before, and a
    /// worker may keep for itself what it made of that. While it does, the token has an entry here that an
    /// invalidation finds, or that counts as live when it is given up.
    pub fn put(&self, store: &impl Store, entry: &Entry, now: Instant) -> Written {
        let Some(mut bytes) = entry.encode() else {
            return Fate::TooLong.into();
        };
        let Some(buckets) = self.buckets(store) else {
            return Fate::NotWritten.into();
        };
        let key = entry.question();
        let mut missed = self.misses.take(&key.digest).map(|miss| miss.bucket);
        let written = until_written(|| {
            let bucket = missed
                .take()
                .unwrap_or_else(|| buckets.read(store, &key.digest.0));
            let Some(found) = Neighbourhood::of(&bucket, entry, &key, now) else {
                return Ok(Fate::Superseded.into());
            };
            set_useful_until(&mut bytes, found.useful_until);
            if found.is_kept {
                set_kept(&mut bytes);
            }
            let mut staying = found.neighbours;
            let surplus = surplus(
                staying.iter().map(|neighbour| neighbour.record.len()),
                buckets.capacity.saturating_sub(1),
                MAX_BUCKET_BYTES.saturating_sub(bytes.len()),
            );
            let mut voids_kept = bucket.is_foreign();
            let evicted = staying
                .drain(..surplus)
                .map(|going| {
                    let evicted = going.order.evicted();
                    voids_kept |= going.is_kept && evicted == Evicted::Live;
                    (evicted, going.token)
                })
                .collect();
            if voids_kept {
                self.kept.void(store)?;
            }
            let records = staying.iter().map(|neighbour| neighbour.record);
            bucket.replace(store, records.chain([&*bytes]))?;
            self.note_replaced(store, &bucket);
            Ok(Written {
                fate: Fate::Stored,
                evicted,
            })
        });
        written.unwrap_or(Fate::NotWritten.into())
    }

    /// Takes out the answers to this question that were asked for at that moment or before, under every size of the
    /// table, and tells whether there is a later one. A size that was registered a moment before `now` may be left out.
    pub fn settle(
        &self,
        store: &impl Store,
        key: &QuestionKey,
        asked_at: Instant,
        now: Instant,
    ) -> Settled {
        let mut settled = Settled::default();
        let is_superseded = Cell::new(false);
        self.sizes.for_each_known(store, now, |number| {
            let is_meant = |head: &EntryHead| {
                let is_later = head.asked_at > asked_at;
                let answers = head.answers(key);
                is_superseded.set(is_superseded.get() || answers && is_later);
                answers && !is_later
            };
            let meant = Meant::Those(&is_meant);
            let removed = self.remove_of_size(number, store, &key.digest, meant);
            settled.removed.extend(removed);
        });
        settled.is_superseded = is_superseded.get();
        settled
    }

    /// Takes out the last look for this token that found no answer, and returns when it was. The table had none then.
    pub fn take_miss(&self, token: &TokenDigest) -> Option<Instant> {
        self.misses.take(token).map(|miss| miss.at)
    }

    /// Returns whether this worker knows without a reading that the table has had one size.
    pub fn has_one_size(&self, now: Instant) -> bool {
        self.sizes.is_only_one(now)
    }

    /// Takes out all answers about this token, of every MAS, under every size of the table.
    pub fn remove_token(&self, store: &impl Store, digest: &TokenDigest) -> Vec<Removed> {
        let mut removed = Vec::new();
        self.sizes.for_each(store, |number| {
            removed.extend(self.remove_of_size(number, store, digest, Meant::All));
        });
        removed
    }

    /// Marks all answers about this token as doubted, of every MAS, under every size of the table. They stay, and an answer
    /// that is put in their place is not doubted. Returns whether there is one.
    pub fn doubt(&self, store: &impl Store, digest: &TokenDigest) -> bool {
        let mut is_found = false;
        self.sizes.for_each(store, |number| {
            is_found |= doubt_in(&self.configured.resized(number), store, digest);
        });
        is_found
    }

    /// Takes out the answers about this token that are meant, under one size of the table.
    fn remove_of_size(
        &self,
        number: u32,
        store: &impl Store,
        digest: &TokenDigest,
        meant: Meant<'_>,
    ) -> Vec<Removed> {
        match self.registered.get() {
            Some(buckets) if buckets.number() == number => {
                self.remove_from(buckets, store, digest, meant)
            }
            _ => self.remove_from(&self.configured.resized(number), store, digest, meant),
        }
    }

    /// Takes the records about this token that are meant out of one bucket.
    fn remove_from(
        &self,
        buckets: &Buckets,
        store: &impl Store,
        digest: &TokenDigest,
        meant: Meant<'_>,
    ) -> Vec<Removed> {
        let removed = until_written(|| {
            let bucket = buckets.try_read(store, &digest.0)?;
            let is_emptied = matches!(meant, Meant::All) && bucket.is_foreign();
            let meant =
                |record: &[u8]| EntryHead::of(record, digest).filter(|head| meant.includes(head));
            let mut voids_kept = is_emptied;
            let found: Vec<Removed> = bucket
                .records()
                .filter_map(meant)
                .map(|head| {
                    voids_kept |= head.is_kept;
                    Removed {
                        fingerprint: head.fingerprint,
                        user: head.user,
                    }
                })
                .collect();
            if found.is_empty() && !is_emptied {
                return Ok(found);
            }
            if voids_kept {
                self.kept.void(store)?;
            }
            let stay = bucket.records().filter(|record| meant(record).is_none());
            bucket.replace(store, stay)?;
            self.note_replaced(store, &bucket);
            Ok(found)
        });
        removed.unwrap_or_else(|error| {
            error.log("an answer that has ended may serve as long as it holds");
            Vec::new()
        })
    }

    /// Notes that a bucket was written over. If it was of another format, workers may keep what was in it: they look it up again.
    fn note_replaced(&self, store: &impl Store, bucket: &Bucket) {
        if self.space == Space::Active
            && bucket.is_foreign()
            && let Err(error) = Epochs::raise_for_all_tokens(store)
        {
            error.log("an answer that has ended may serve as long as it holds");
        }
    }

    /// Returns the buckets to use. `None`: their number could not be registered, so no removal would find what is
    /// written to them; they are neither read nor written.
    fn buckets(&self, store: &impl Store) -> Option<&Buckets> {
        if let Some(buckets) = self.registered.get() {
            return Some(buckets);
        }
        let wanted = Buckets::number_for(self.slots);
        let number = self.sizes.register(store, wanted)?;
        Some(
            self.registered
                .get_or_init(|| self.configured.resized(number)),
        )
    }
}

/// Which answers about a token a removal takes out. Its code is compiled once for all of them.
#[derive(Clone, Copy)]
enum Meant<'f> {
    /// All, and everything in a bucket of another format.
    All,
    /// Those of which this says so.
    Those(&'f dyn Fn(&EntryHead) -> bool),
}

impl Meant<'_> {
    fn includes(self, head: &EntryHead) -> bool {
        match self {
            Self::All => true,
            Self::Those(is_meant) => is_meant(head),
        }
    }
}

/// Returns whether a record is the answer to this question.
fn answers(record: &[u8], key: &QuestionKey) -> bool {
    EntryHead::of(record, &key.digest).is_some_and(|head| head.answers(key))
}

/// Marks the records about the token in one bucket as doubted. Returns whether there is one.
fn doubt_in(buckets: &Buckets, store: &impl Store, digest: &TokenDigest) -> bool {
    let is_found = Cell::new(false);
    let doubted = until_written(|| {
        let mut bucket = buckets.try_read(store, &digest.0)?;
        let is_meant = |record: &[u8]| {
            EntryHead::of(record, digest).is_some_and(|head| {
                is_found.set(true);
                !head.is_doubted
            })
        };
        let mut has_changed = false;
        while let Some(record) = bucket.find_mut(is_meant) {
            set_doubted(record);
            has_changed = true;
        }
        if has_changed {
            bucket.save(store)?;
        }
        Ok(is_found.get())
    });
    doubted.unwrap_or_else(|error| {
        error.log("an answer that the homeserver has refused may serve as long as it holds");
        false
    })
}

#[cfg(test)]
mod tests;
