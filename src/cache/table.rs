//! A table of a fixed number of answers in the store.
//!
//! A record is an answer to one question: about one token, given by one MAS. Two questions about one token have a
//! record each.
//!
//! Which answer of a full bucket is given up when all are live is decided by when each was last *used*, so
//! the table keeps what an ideal least-recently-used cache would keep, nearly.
//!
//! Another version of the module may have written a bucket in another format, while an update takes its time. This version
//! cannot tell what is in it. So a removal empties such a bucket. A worker that writes over one makes all workers look up again
//! what they keep of active answers: an answer that was in it has no entry any more by which its end would be told.
//!
//! The non-obvious rule: a removal or a doubt goes over every size that the table was ever used with in this process, see
//! [`super::sizes`]. Only the bucket of the table's own size is looked into for an answer, so a hit pays nothing
//! for that.

use std::{
    cell::{Cell, OnceCell, RefCell},
    collections::VecDeque,
    time::Duration,
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

/// Records that stay in a bucket beside a new one, as a rule.
const STAYING: usize = 7;

/// Buckets without an answer that are remembered at the most, and the longest of them, in bytes.
const MAX_MISSES: usize = 32;
const MAX_MISS_BYTES: usize = 1024;

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

/// The buckets that were last looked into in vain, each for the answer that MAS is asked for then: it is written to the bucket
/// as it was read. If that has changed since, nothing is written and the bucket is read again. So a bucket that is out of
/// date costs a call and does no harm.
#[derive(Debug, Default)]
struct Misses(RefCell<VecDeque<Miss>>);

/// A look for a token in vain.
#[derive(Debug)]
struct Miss {
    token: TokenDigest,
    at: Instant,
    bucket: Bucket,
}

impl Misses {
    fn remember(&self, token: TokenDigest, at: Instant, bucket: Bucket) {
        let Ok(mut misses) = self.0.try_borrow_mut() else {
            return;
        };
        if bucket.bytes() > MAX_MISS_BYTES {
            return;
        }
        // One request looks for its token several times, most often one look after the other.
        if misses.back().is_some_and(|last| last.token == token) {
            misses.pop_back();
        }
        if misses.len() >= MAX_MISSES {
            misses.pop_front();
        }
        misses.push_back(Miss { token, at, bucket });
    }

    /// Returns the last look for this token in vain.
    fn take(&self, token: &TokenDigest) -> Option<Miss> {
        let mut misses = self.0.try_borrow_mut().ok()?;
        let at = misses.iter().rposition(|miss| miss.token == *token)?;
        misses.remove(at)
    }
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
        let mut bucket = self.buckets(store)?.read(store, &key.digest.0);
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
    pub fn keep(&self, store: &impl Store, key: &QuestionKey) -> Option<Entry> {
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

    /// Takes the last look for an answer in vain, and returns its moment. There was none in the table at that time.
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
    /// that is put in their place is not doubted. Returns whether one of them was not doubted before.
    pub fn doubt(&self, store: &impl Store, digest: &TokenDigest) -> bool {
        let mut is_new = false;
        self.sizes.for_each(store, |number| {
            is_new |= doubt_in(&self.configured.resized(number), store, digest);
        });
        is_new
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
            let bucket = buckets.read(store, &digest.0);
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
            error.log("an answer that has ended may be used for as long as it holds");
            Vec::new()
        })
    }

    /// Notes that a bucket was written over. If it was of another format, workers may keep what was in it: they look it up again.
    fn note_replaced(&self, store: &impl Store, bucket: &Bucket) {
        if self.space == Space::Active
            && bucket.is_foreign()
            && let Err(error) = Epochs::raise_for_all_tokens(store)
        {
            error.log("an answer that has ended may be used for as long as it holds");
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

/// What stands in a bucket to which an entry is to be written.
struct Neighbourhood<'b> {
    /// Until when the new entry is of use: at least as long as the one before it was to be.
    useful_until: Instant,
    /// A worker keeps the one before for itself.
    is_kept: bool,
    /// The other records. Those that are given up first come first.
    neighbours: Vec<Neighbour<'b>>,
}

/// A record beside the new one.
struct Neighbour<'b> {
    order: EvictionOrder,
    token: TokenDigest,
    /// A worker keeps it for itself.
    is_kept: bool,
    record: &'b [u8],
}

impl<'b> Neighbourhood<'b> {
    /// Reads the records. `None`: one of them answers the same question, and was asked for later.
    fn of(bucket: &'b Bucket, entry: &Entry, key: &QuestionKey, now: Instant) -> Option<Self> {
        let number = if bucket.bytes() == 0 { 0 } else { STAYING };
        let mut found = Self {
            useful_until: entry.useful_until,
            is_kept: false,
            neighbours: Vec::with_capacity(number),
        };
        for record in bucket.records() {
            let Some(head) = EntryHead::decode(record) else {
                continue;
            };
            if !head.answers(key) {
                let order = EvictionOrder::of(&head, now);
                let neighbours = &mut found.neighbours;
                let at = neighbours.partition_point(|other| other.order <= order);
                let neighbour = Neighbour {
                    order,
                    token: head.digest,
                    is_kept: head.is_kept,
                    record,
                };
                neighbours.insert(at, neighbour);
                continue;
            }
            if head.asked_at > entry.asked_at {
                return None;
            }
            found.useful_until = found.useful_until.max(head.useful_until);
            found.is_kept = head.is_kept;
        }
        Some(found)
    }
}

/// Returns whether a record is the answer to this question.
fn answers(record: &[u8], key: &QuestionKey) -> bool {
    EntryHead::of(record, &key.digest).is_some_and(|head| head.answers(key))
}

/// Returns how many of these records, the first ones, must go so that `capacity` of them are left at the most, and
/// they have no more than `bytes`. That is more than one where some are long, or where a larger table was configured
/// before.
fn surplus(
    lengths: impl ExactSizeIterator<Item = usize> + Clone,
    capacity: usize,
    bytes: usize,
) -> usize {
    let mut left = lengths.len();
    let mut total: usize = lengths.clone().sum();
    let too_many = lengths.take_while(|length| {
        let is_surplus = left > capacity || total > bytes;
        left = left.saturating_sub(1);
        total = total.saturating_sub(*length);
        is_surplus
    });
    too_many.count()
}

/// Marks the records about the token in one bucket as doubted. Returns whether there was one that was not.
fn doubt_in(buckets: &Buckets, store: &impl Store, digest: &TokenDigest) -> bool {
    let doubted = until_written(|| {
        let mut bucket = buckets.read(store, &digest.0);
        let is_meant =
            |record: &[u8]| EntryHead::of(record, digest).is_some_and(|head| !head.is_doubted);
        let mut has_changed = false;
        while let Some(record) = bucket.find_mut(is_meant) {
            set_doubted(record);
            has_changed = true;
        }
        if has_changed {
            bucket.save(store)?;
        }
        Ok(has_changed)
    });
    doubted.unwrap_or_else(|error| {
        error.log("an answer that the homeserver has refused may be used for as long as it holds");
        false
    })
}

/// The order of eviction, smallest first: expired entries by their expiry, then live ones by their last use.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum EvictionOrder {
    /// Of no use to any reader, since then.
    Expired(Instant),
    /// Still of use, and used at that moment.
    Live(Instant),
}

impl EvictionOrder {
    fn evicted(self) -> Evicted {
        match self {
            Self::Expired(_) => Evicted::Expired,
            Self::Live(_) => Evicted::Live,
        }
    }

    fn of(head: &EntryHead, now: Instant) -> Self {
        if head.useful_until <= now {
            Self::Expired(head.useful_until)
        } else {
            Self::Live(head.used_at)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        host::{If, memory::MemoryStore},
        mas::introspection::{Answer, InactiveAnswer},
    };

    const NOW: Instant = Instant::from_millis(1_000_000);

    fn after(seconds: u64) -> Instant {
        NOW + Duration::from_secs(seconds)
    }

    fn entry(token: &[u8], fresh_for: u64) -> Entry {
        Entry {
            digest: TokenDigest::of(token),
            fingerprint: 1,
            user: None,
            used_at: NOW,
            asked_at: NOW,
            answered_at: NOW,
            useful_until: NOW + Duration::from_secs(fresh_for),
            expiry: None,
            is_doubted: false,
            answer: Answer::Inactive(InactiveAnswer::default()),
        }
    }

    fn key(token: &[u8]) -> QuestionKey {
        entry(token, 0).question()
    }

    fn registered(store: &MemoryStore) -> Vec<u32> {
        let mut numbers = Vec::new();
        Sizes::new(Space::Active).for_each(store, |number| numbers.push(number));
        numbers
    }

    fn holds(table: &Table, store: &MemoryStore, token: &[u8]) -> bool {
        table.find(store, &key(token), NOW).is_some()
    }

    #[test]
    fn an_answer_is_written_beside_what_came_since_its_bucket_was_looked_into() {
        for others in [0, 1, MAX_MISSES - 1, MAX_MISSES, 3 * MAX_MISSES] {
            let (store, [table, other]) = (
                MemoryStore::default(),
                [0; 2].map(|_| Table::new(Space::Active, 8)),
            );
            let is_there = |token: &[u8]| table.find(&store, &key(token), NOW).is_some();
            assert!(!is_there(b"first") && !is_there(b"mine"));
            for number in 0..others {
                assert!(!is_there(&number.to_le_bytes()));
            }
            assert_eq!(
                other.put(&store, &entry(b"theirs", 60), NOW).fate,
                Fate::Stored
            );
            for token in [&b"first"[..], b"mine"] {
                assert_eq!(table.put(&store, &entry(token, 60), NOW).fate, Fate::Stored);
            }
            for token in [&b"first"[..], b"mine", b"theirs"] {
                assert!(is_there(token), "after {others} others");
            }
        }
    }

    #[test]
    fn of_a_token_that_is_looked_for_again_and_again_one_bucket_is_remembered() {
        let (store, table) = (MemoryStore::default(), Table::new(Space::Active, 8));
        let look = |token: &[u8]| assert!(table.find(&store, &key(token), NOW).is_none());
        for number in 1..MAX_MISSES {
            look(&number.to_le_bytes());
        }
        (0..MAX_MISSES).for_each(|_| look(b"again"));
        assert_eq!(table.misses.0.borrow().len(), MAX_MISSES);
        assert!(
            table
                .misses
                .take(&key(&1_usize.to_le_bytes()).digest)
                .is_some()
        );
        assert!(table.misses.take(&key(b"again").digest).is_some());
        assert!(table.misses.take(&key(b"again").digest).is_none());
    }

    #[test]
    fn a_few_short_buckets_are_remembered() {
        let (store, table) = (MemoryStore::default(), Table::new(Space::Active, 8));
        let look = |token: &[u8]| assert!(table.find(&store, &key(token), NOW).is_none());
        let remembered = || table.misses.0.borrow().len();
        for number in 0..3 * MAX_MISSES {
            look(&number.to_le_bytes());
            assert_eq!(remembered(), MAX_MISSES.min(number + 1));
        }
        let body = format!(
            r#"{{"active":true,"username":"{}"}}"#,
            "x".repeat(MAX_MISS_BYTES)
        );
        let long = Entry {
            answer: Answer::parse(body.into()).unwrap(),
            ..entry(b"long", 60)
        };
        table.put(&store, &long, NOW);
        look(b"beside it");
        assert!(table.misses.take(&key(b"beside it").digest).is_none());
        assert!(
            table
                .misses
                .take(&key(&(3 * MAX_MISSES - 1).to_le_bytes()).digest)
                .is_some()
        );
        assert_eq!(remembered(), MAX_MISSES - 1, "each is taken once");
    }

    #[test]
    fn a_full_table_keeps_working_and_never_grows() {
        let (store, table) = (MemoryStore::default(), Table::new(Space::Active, 128));
        for n in 0..10_000_u32 {
            let token = n.to_le_bytes();
            table.put(&store, &entry(&token, u64::from(n)), NOW);
            assert!(
                holds(&table, &store, &token),
                "the latest entry is always found"
            );
        }
        // All buckets, the seed, the register of sizes and its mark.
        assert_eq!(store.len(), 128 / 8 + 3);
    }

    #[test]
    fn most_of_the_table_is_filled_before_anything_live_is_lost() {
        let (store, table) = (MemoryStore::default(), Table::new(Space::Active, 1024));
        for n in 0..512_u32 {
            table.put(&store, &entry(&n.to_le_bytes(), 100), NOW);
        }
        let kept = (0..512_u32)
            .filter(|n| holds(&table, &store, &n.to_le_bytes()))
            .count();
        assert!(kept >= 504, "{kept} of 512");
    }

    #[test]
    fn what_has_ended_gives_way_before_what_is_live() {
        let (store, table) = (MemoryStore::default(), Table::new(Space::Active, 2));
        table.put(&store, &entry(b"live", 100), NOW);
        assert_eq!(table.put(&store, &entry(b"ended", 0), NOW).evicted, []);
        assert_eq!(
            table.put(&store, &entry(b"new", 50), NOW).evicted,
            [(Evicted::Expired, TokenDigest::of(b"ended"))]
        );
        assert!(holds(&table, &store, b"live") && !holds(&table, &store, b"ended"));
    }

    #[test]
    fn what_was_not_used_for_longer_gives_way_to_what_was() {
        let (store, table) = (MemoryStore::default(), Table::new(Space::Active, 2));
        table.put(&store, &entry(b"old", 100), NOW);
        table.put(&store, &entry(b"new", 100), NOW);
        assert!(table.find(&store, &key(b"old"), after(1)).is_some());
        let late = Entry {
            used_at: after(2),
            ..entry(b"late", 100)
        };
        assert_eq!(
            table.put(&store, &late, after(2)).evicted,
            [(Evicted::Live, TokenDigest::of(b"new"))]
        );
        assert!(holds(&table, &store, b"old") && !holds(&table, &store, b"new"));
    }

    #[test]
    fn a_question_has_one_entry() {
        let (store, table) = (MemoryStore::default(), Table::new(Space::Active, 1024));
        for fresh_for in [1, 2, 3] {
            table.put(&store, &entry(b"token", fresh_for), NOW);
        }
        assert_eq!(store.len(), 4);
        let found = table.find(&store, &key(b"token"), NOW).unwrap();
        assert_eq!(found.useful_until, NOW + Duration::from_secs(3));
        table.settle(&store, &key(b"token"), NOW, NOW);
        assert!(!holds(&table, &store, b"token"));
    }

    #[test]
    fn a_table_that_is_configured_smaller_tells_all_that_it_gives_up() {
        let store = MemoryStore::default();
        let tokens = [b"a", b"b", b"c", b"d"];
        for token in tokens {
            Table::new(Space::Active, 4).put(&store, &entry(token, 100), NOW);
        }
        let mut evicted = Table::new(Space::Active, 1)
            .put(&store, &entry(b"new", 100), NOW)
            .evicted;
        evicted.sort();
        let mut all = tokens.map(|token| (Evicted::Live, TokenDigest::of(token)));
        all.sort();
        assert_eq!(evicted, all);
    }

    #[test]
    fn long_answers_leave_room_for_fewer() {
        let (store, table) = (MemoryStore::default(), Table::new(Space::Active, 8));
        let long = |token: &[u8]| Entry {
            answer: Answer::parse(
                format!(r#"{{"active":true,"scope":"{}"}}"#, "x".repeat(7_970)).into(),
            )
            .unwrap(),
            ..entry(token, 100)
        };
        for token in [b"a", b"b", b"c", b"d"] {
            table.put(&store, &entry(token, 100), NOW);
        }
        assert_eq!(table.put(&store, &long(b"e"), after(1)).evicted, []);
        // They were not used for longest.
        let evicted = table.put(&store, &long(b"f"), after(2)).evicted;
        assert_eq!(evicted.len(), 3);
        assert_eq!(table.put(&store, &long(b"g"), after(3)).evicted.len(), 2);
        assert!(holds(&table, &store, b"g") && !holds(&table, &store, b"a"));
        for value in store.values() {
            assert!(value.len() <= MAX_BUCKET_BYTES + 100, "{}", value.len());
        }
    }

    #[test]
    fn only_what_must_go_goes() {
        let surplus =
            |lengths: &[usize], capacity, bytes| surplus(lengths.iter().copied(), capacity, bytes);
        assert_eq!(surplus(&[], 7, 100), 0);
        assert_eq!(surplus(&[10; 7], 7, 70), 0);
        assert_eq!(surplus(&[10; 7], 7, 69), 1);
        assert_eq!(surplus(&[10; 8], 7, 1_000), 1);
        assert_eq!(surplus(&[10; 8], 0, 1_000), 8);
        assert_eq!(surplus(&[1, 50, 50, 1], 7, 60), 2);
        assert_eq!(surplus(&[50], 7, 0), 1);
    }

    #[test]
    fn removing_a_token_leaves_its_neighbours() {
        let (store, table) = (MemoryStore::default(), Table::new(Space::Active, 2));
        table.put(&store, &entry(b"one", 100), NOW);
        table.put(&store, &entry(b"two", 100), NOW);
        table.remove_token(&store, &TokenDigest::of(b"three"));
        assert!(holds(&table, &store, b"one") && holds(&table, &store, b"two"));
    }

    #[test]
    fn an_interfering_write_is_not_overwritten_blindly() {
        let (store, table) = (MemoryStore::default(), Table::new(Space::Active, 1));
        table.put(&store, &entry(b"seed", 0), NOW);
        *store.interfere.borrow_mut() = Some(Box::new(|store: &MemoryStore| {
            Table::new(Space::Active, 1).put(store, &entry(b"other", 100), NOW);
        }));
        table.put(&store, &entry(b"mine", 100), NOW);
        assert!(holds(&table, &store, b"mine"), "a lost race is tried again");
        *store.interfere.borrow_mut() = Some(Box::new(|store: &MemoryStore| {
            Table::new(Space::Active, 1).put(store, &entry(b"other", 100), NOW);
        }));
        table.remove_token(&store, &TokenDigest::of(b"mine"));
        assert!(
            holds(&table, &store, b"other"),
            "only the entry that was read is removed"
        );
    }

    #[test]
    fn workers_agree_on_the_seed_and_processes_do_not() {
        let (one, two) = (
            Table::new(Space::Active, 1 << 20),
            Table::new(Space::Active, 1 << 20),
        );
        let store = MemoryStore::default();
        one.put(&store, &entry(b"token", 100), NOW);
        assert!(holds(&two, &store, b"token"));
        assert_eq!(one.configured.seed(&store), two.configured.seed(&store));
        let elsewhere = MemoryStore::default();
        elsewhere.write(b"other", b"", If::Absent).unwrap();
        let three = Table::new(Space::Active, 1 << 20);
        three.put(&elsewhere, &entry(b"token", 100), NOW);
        assert_ne!(
            one.configured.seed(&store),
            three.configured.seed(&elsewhere)
        );
    }

    #[test]
    fn a_doubt_is_noted_once_in_every_answer_about_a_token_until_a_new_one_comes() {
        let store = MemoryStore::default();
        let (table, small) = (Table::new(Space::Active, 64), Table::new(Space::Active, 8));
        let of = |fingerprint| Entry {
            fingerprint,
            ..entry(b"token", 100)
        };
        let doubted = |table: &Table, fingerprint| {
            let found = table.find(&store, &of(fingerprint).question(), NOW);
            found.expect("it stays").is_doubted
        };
        let digest = TokenDigest::of(b"token");
        assert!(!table.doubt(&store, &digest), "there is none");
        for fingerprint in [1, 2] {
            table.put(&store, &of(fingerprint), NOW);
        }
        small.put(&store, &of(3), NOW);
        small.put(&store, &entry(b"other", 100), NOW);
        // Another worker writes in between.
        *store.interfere.borrow_mut() = Some(Box::new(|store: &MemoryStore| {
            Table::new(Space::Active, 64).put(store, &entry(b"third", 100), NOW);
        }));
        assert!(table.doubt(&store, &digest));
        assert!(!small.doubt(&store, &digest), "nothing new");
        let all = [(&table, 1), (&table, 2), (&small, 3)];
        assert!(all.iter().all(|(table, number)| doubted(table, *number)));
        let other = small.find(&store, &key(b"other"), NOW).unwrap();
        assert!(!other.is_doubted);
        table.put(&store, &of(1), NOW);
        assert!(!doubted(&table, 1) && doubted(&table, 2));
        assert!(table.doubt(&store, &digest));
    }

    #[test]
    fn two_questions_about_one_token_have_a_record_each() {
        let (store, table) = (MemoryStore::default(), Table::new(Space::Active, 8));
        let of = |fingerprint, fresh_for| Entry {
            fingerprint,
            ..entry(b"token", fresh_for)
        };
        for fingerprint in [1, 2, 3, 1] {
            let written = table.put(&store, &of(fingerprint, 100), NOW);
            assert_eq!(written, Fate::Stored.into());
        }
        let answered = || {
            let of = [1, 2, 3].map(|fingerprint| of(fingerprint, 0).question());
            of.map(|key| table.find(&store, &key, NOW).is_some())
        };
        assert_eq!(answered(), [true; 3]);
        let removed = table.settle(&store, &of(2, 0).question(), NOW, NOW).removed;
        let one = |fingerprint| Removed {
            fingerprint,
            user: None,
        };
        assert_eq!(removed, [one(2)]);
        assert_eq!(answered(), [true, false, true]);
        let removed = table.remove_token(&store, &TokenDigest::of(b"token"));
        assert_eq!(removed, [one(3), one(1)]);
        assert_eq!(answered(), [false; 3]);
        assert_eq!(table.remove_token(&store, &TokenDigest::of(b"token")), []);
    }

    #[test]
    fn a_look_in_vain_settles_what_was_asked_no_later_under_one_size() {
        let (store, key) = (MemoryStore::default(), key(b"token"));
        let table = Table::new(Space::Active, 8);
        let looks = |at| assert!(table.find(&store, &key, at).is_none());
        let was_missed = |since| table.take_miss(&key.digest) >= Some(since);
        let is_settled = |since| was_missed(since) && table.has_one_size(after(2));
        looks(after(1));
        assert!(!is_settled(after(1)), "the sizes were not looked at");
        table.settle(&store, &key, NOW, after(2));
        looks(after(1));
        assert!(is_settled(after(1)));
        assert!(!is_settled(after(1)), "it counts once");
        looks(after(1));
        assert!(!is_settled(after(2)), "from before");
        looks(after(2));
        assert!(is_settled(after(1)));
        table.put(&store, &entry(b"token", 100), NOW);
        assert!(table.find(&store, &key, after(2)).is_some());
        assert!(!is_settled(after(1)), "not in vain");
        table.remove_token(&store, &key.digest);
        Table::new(Space::Active, 128).find(&store, &key, NOW);
        table.settle(&store, &key, NOW, after(3));
        table.find(&store, &key, after(3));
        assert!(was_missed(after(3)));
        assert!(!table.has_one_size(after(3)), "two sizes");
    }

    #[test]
    fn a_later_answer_stays_and_is_told_of_under_every_size() {
        let store = MemoryStore::default();
        let [one, two] = [8, 128].map(|slots| Table::new(Space::Active, slots));
        let key = key(b"token");
        for (own, asked_at, is_superseded, stays) in [
            (&one, Instant::default(), false, false),
            (&two, NOW, false, false),
            (&one, after(1), true, true),
            (&two, after(1), true, true),
        ] {
            let entry = Entry {
                asked_at,
                ..entry(b"token", 100)
            };
            own.put(&store, &entry, NOW);
            for table in [&one, &two] {
                let settled = table.settle(&store, &key, NOW, NOW);
                assert_eq!(settled.is_superseded, is_superseded);
                assert!(settled.removed.len() <= usize::from(!stays));
            }
            assert_eq!(holds(own, &store, b"token"), stays);
        }
    }

    #[test]
    fn an_entry_is_kept_for_as_long_as_the_one_before_it_would_have_been() {
        let (store, table) = (MemoryStore::default(), Table::new(Space::Active, 1));
        let put = |token: &[u8], fingerprint, fresh_for, at| {
            let entry = Entry {
                fingerprint,
                ..entry(token, fresh_for)
            };
            table.put(&store, &entry, at).evicted
        };
        assert_eq!(put(b"token", 1, 100, NOW), []);
        assert_eq!(put(b"token", 1, 10, NOW), []);
        let useful_until = table
            .find(&store, &key(b"token"), NOW)
            .unwrap()
            .useful_until;
        assert_eq!(useful_until, after(100));
        let live = (Evicted::Live, TokenDigest::of(b"token"));
        assert_eq!(put(b"token", 2, 10, after(20)), [live]);
        let useful_until = |fingerprint| {
            let key = QuestionKey {
                fingerprint,
                ..key(b"token")
            };
            Some(table.find(&store, &key, NOW)?.useful_until)
        };
        assert_eq!(useful_until(2), Some(after(10)), "of another question");
        assert_eq!(useful_until(1), None);
    }

    /// Numbers of slots that put most tokens into different buckets.
    const SIZES: [u32; 4] = [8, 64, 1_000, 65_536];

    #[test]
    fn a_removal_finds_what_was_written_under_any_size() {
        for written in SIZES {
            for removing in SIZES {
                let store = MemoryStore::default();
                let tables = SIZES.map(|slots| Table::new(Space::Active, slots));
                // All sizes are known before, as after some updates.
                for table in &tables {
                    assert!(!holds(table, &store, b"token"));
                }
                Table::new(Space::Active, written).put(&store, &entry(b"token", 100), NOW);
                let fresh = Table::new(Space::Active, removing);
                let removed = fresh.remove_token(&store, &TokenDigest::of(b"token"));
                assert_eq!(removed.len(), 1, "{written} {removing}");
                for table in &tables {
                    assert!(!holds(table, &store, b"token"));
                }
            }
        }
    }

    /// What is told of others, and counted, must have happened.
    #[test]
    fn a_removal_or_a_doubt_that_the_store_refuses_is_none() {
        let (store, table) = (MemoryStore::default(), Table::new(Space::Active, 8));
        let digest = TokenDigest::of(b"token");
        table.put(&store, &entry(b"token", 100), NOW);
        for fault in [&store.is_read_only, &store.is_unreadable] {
            fault.set(true);
            assert_eq!(table.remove_token(&store, &digest), []);
            assert!(!table.doubt(&store, &digest));
            fault.set(false);
            assert!(holds(&table, &store, b"token"));
        }
        assert!(table.doubt(&store, &digest));
        assert_eq!(table.remove_token(&store, &digest).len(), 1);
    }

    #[test]
    fn a_removal_and_a_doubt_outlast_many_writes_of_others() {
        fn write_before_each(store: &MemoryStore, left: u64) {
            if left == 0 {
                return;
            }
            *store.interfere.borrow_mut() = Some(Box::new(move |store: &MemoryStore| {
                let used_at = NOW + Duration::from_secs(left);
                let other = Entry {
                    used_at,
                    asked_at: used_at,
                    ..entry(b"other", 100)
                };
                Table::new(Space::Active, 8).put(store, &other, NOW);
                write_before_each(store, left - 1);
            }));
        }
        let (store, table) = (MemoryStore::default(), Table::new(Space::Active, 8));
        let digest = TokenDigest::of(b"token");
        table.put(&store, &entry(b"token", 100), NOW);
        write_before_each(&store, 40);
        assert!(table.doubt(&store, &digest));
        write_before_each(&store, 40);
        assert_eq!(table.remove_token(&store, &digest).len(), 1);
        assert!(!holds(&table, &store, b"token"));
    }

    #[test]
    fn a_table_is_registered_before_it_is_written() {
        let store = MemoryStore::default();
        Table::new(Space::Active, 8).put(&store, &entry(b"other", 100), NOW);
        // Whatever it writes first, a removal in between knows it.
        *store.interfere.borrow_mut() = Some(Box::new(|store: &MemoryStore| {
            assert_eq!(registered(store), [1]);
            assert!(!holds(&Table::new(Space::Active, 8), store, b"token"));
        }));
        let table = Table::new(Space::Active, 64);
        table.put(&store, &entry(b"token", 100), NOW);
        assert_eq!(registered(&store), [1, 8]);
        assert!(holds(&table, &store, b"token"));
    }

    #[test]
    fn without_room_in_the_register_a_table_takes_a_size_that_removals_know() {
        let store = MemoryStore::default();
        for number in 1..=64 {
            Table::new(Space::Active, 8 * number).find(&store, &key(b"other"), NOW);
        }
        let keys = store.len();
        let large = Table::new(Space::Active, 1 << 20);
        large.put(&store, &entry(b"token", 100), NOW);
        assert!(holds(&large, &store, b"token"));
        assert!(holds(&Table::new(Space::Active, 8 * 64), &store, b"token"));
        let removed = Table::new(Space::Active, 8).remove_token(&store, &TokenDigest::of(b"token"));
        assert_eq!(removed.len(), 1);
        assert!(!holds(&large, &store, b"token"));
        for number in 0..10_000_u32 {
            large.put(&store, &entry(&number.to_le_bytes(), 100), NOW);
        }
        assert!(store.len() <= keys + 64, "no more keys than registered");
    }
}
