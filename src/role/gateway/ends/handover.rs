//! Ends that a VM leaves to another one, in shared data, which outlives it.
//!
//! An update of the module or of its `vm_config` makes a new VM, and the old one goes with its last configuration. What waited
//! there for a tick would go as well. So it is left, and any worker takes it over: at its next tick, or with the first request of a
//! configuration, which comes before the first tick.
//!
//! The non-obvious rule: it acts before it is taken. So no worker can find the list empty while an answer is still to end. Of
//! several workers that find it at once each lets it act, and the one that takes it lets it act again later.
//!
//! All of it has one key, whose name would change with the format.

use alloc::vec::Vec;

use super::ended_by::EndedBy;
use crate::{
    clock::Instant,
    host::{If, NotWritten, Store, Versioned, update},
    mas::user::UserKey,
    shared_data::name,
    token::TokenDigest,
};

/// The hash of a token or a user, and a little-endian number: the last moment in milliseconds, times 16, and what it is.
type Record = [u8; 24];

/// Flags of an end, in the lowest bits of the number. Without any of them it is the logout of a token's session.
const OF_USER: u64 = 1;
const ENDS_OWNER: u64 = 2;
const REVOKED: u64 = 4;
const REMOVED_ANSWER: u64 = 8;

/// Whose answers end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EndSubject {
    /// One token's.
    Token(TokenDigest),
    /// All active ones about a user. No logout makes a token active, so what is known of inactive ones holds on.
    User(UserKey),
}

/// An end that is handed over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HandedOverEnd {
    /// Whose answers end.
    pub subject: EndSubject,
    /// By what they end.
    pub by: EndedBy,
    /// If set, all answers about the token's user end as well.
    pub ends_owner: bool,
    /// It removed an answer.
    pub removed_answer: bool,
    /// The moment before which it acts again and again.
    pub repeat_until: Instant,
}

impl HandedOverEnd {
    fn decode(record: &Record) -> Option<Self> {
        let (hash, number) = record.split_first_chunk()?;
        let number = u64::from_le_bytes(number.try_into().ok()?);
        let has = |flag| number & flag != 0;
        Some(Self {
            subject: if has(OF_USER) {
                EndSubject::User(UserKey(*hash))
            } else {
                EndSubject::Token(TokenDigest(*hash))
            },
            by: if has(REVOKED) {
                EndedBy::Revocation
            } else {
                EndedBy::Logout
            },
            ends_owner: has(ENDS_OWNER),
            removed_answer: has(REMOVED_ANSWER),
            repeat_until: Instant::from_millis(number >> 4),
        })
    }
}

/// Ends that this VM leaves to others.
#[derive(Debug, Default)]
pub struct Outgoing(Vec<u8>);

impl Outgoing {
    /// Adds one more.
    pub fn add(&mut self, end: &HandedOverEnd) {
        let (hash, mut number) = match end.subject {
            EndSubject::Token(TokenDigest(hash)) => (hash, 0),
            EndSubject::User(UserKey(hash)) => (hash, OF_USER),
        };
        if end.ends_owner {
            number |= ENDS_OWNER;
        }
        match end.by {
            EndedBy::Logout => {}
            EndedBy::Revocation => number |= REVOKED,
        }
        if end.removed_answer {
            number |= REMOVED_ANSWER;
        }
        number |= end.repeat_until.as_millis() << 4;
        self.0.extend_from_slice(&hash);
        self.0.extend_from_slice(&number.to_le_bytes());
    }

    /// Leaves them to other VMs, beside what is left already. The last ones are lost where there are more than `max` in all.
    pub fn leave(&self, store: &impl Store, max: usize) -> Result<(), NotWritten> {
        update(store, name::ENDS, &mut |stored| {
            let stored = stored.unwrap_or_default();
            let room = (max * size_of::<Record>()).saturating_sub(stored.len());
            [stored, self.0.get(..room).unwrap_or(&self.0)].concat()
        })
    }
}

/// The ends that other VMs have left.
pub struct Incoming(Versioned);

impl Incoming {
    /// Looks for it. `None`: there is nothing.
    pub fn find(store: &impl Store) -> Option<Self> {
        let left = store.read(name::ENDS)?;
        (!left.value.is_empty()).then_some(Self(left))
    }

    /// Which of all that was ever left this is.
    pub fn number(&self) -> u32 {
        self.0.cas
    }

    /// Returns the ends.
    pub fn ends(&self) -> impl Iterator<Item = HandedOverEnd> {
        let (records, _) = self.0.value.as_chunks();
        records.iter().filter_map(HandedOverEnd::decode)
    }

    /// Takes it, so that no other worker can. An error: another worker was first, another VM has left more, or shared data
    /// cannot be written.
    pub fn take(&self, store: &impl Store) -> Result<(), NotWritten> {
        store.write(name::ENDS, &[], If::Unchanged(self.number()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::memory::MemoryStore;

    const HASH: [u8; 16] = *b"0123456789abcdef";

    fn end(number: u64) -> HandedOverEnd {
        HandedOverEnd {
            subject: EndSubject::Token(TokenDigest(HASH)),
            by: EndedBy::Logout,
            ends_owner: false,
            removed_answer: true,
            repeat_until: Instant::from_millis(number),
        }
    }

    fn ends(numbers: std::ops::Range<u64>) -> Vec<HandedOverEnd> {
        numbers.map(end).collect()
    }

    fn leave_all(store: &MemoryStore, ends: &[HandedOverEnd]) {
        let mut outgoing = Outgoing::default();
        ends.iter().for_each(|end| outgoing.add(end));
        outgoing.leave(store, 100).unwrap();
    }

    /// Takes all of it.
    fn take(store: &MemoryStore) -> Vec<HandedOverEnd> {
        let left = Incoming::find(store).filter(|left| left.take(store).is_ok());
        left.map(|left| left.ends().collect()).unwrap_or_default()
    }

    #[test]
    fn every_kind_is_taken_once_as_it_was_left() {
        let store = MemoryStore::default();
        let mut all = Vec::new();
        for subject in [
            EndSubject::Token(TokenDigest(HASH)),
            EndSubject::User(UserKey(HASH)),
        ] {
            for by in [EndedBy::Logout, EndedBy::Revocation] {
                for (ends_owner, removed_answer) in
                    [(false, false), (false, true), (true, false), (true, true)]
                {
                    for until in [0, 1, u64::MAX >> 4] {
                        all.push(HandedOverEnd {
                            subject,
                            by,
                            ends_owner,
                            removed_answer,
                            repeat_until: Instant::from_millis(until),
                        });
                    }
                }
            }
        }
        assert_eq!(take(&store), []);
        let (first, second) = all.split_at(7);
        leave_all(&store, first);
        leave_all(&store, second);
        assert_eq!(take(&store), all);
        assert_eq!(take(&store), []);
        leave_all(&store, first);
        assert_eq!(take(&store), first);
    }

    /// Another version may read it.
    #[test]
    fn what_is_left_has_the_form_that_it_always_had() {
        let store = MemoryStore::default();
        let left = |subject, by, ends_owner, removed_answer| {
            leave_all(
                &store,
                &[HandedOverEnd {
                    subject,
                    by,
                    ends_owner,
                    removed_answer,
                    repeat_until: Instant::from_millis(0x1234),
                }],
            );
            let value = Incoming::find(&store).unwrap().0.value;
            take(&store);
            let (hash, number) = value.split_at(HASH.len());
            assert_eq!(hash, HASH);
            u64::from_le_bytes(number.try_into().unwrap())
        };
        let (token, user) = (
            EndSubject::Token(TokenDigest(HASH)),
            EndSubject::User(UserKey(HASH)),
        );
        let (logout, revocation) = (EndedBy::Logout, EndedBy::Revocation);
        assert_eq!(left(token, logout, false, false), 0x1_2340);
        assert_eq!(left(user, logout, false, false), 0x1_2341);
        assert_eq!(left(token, logout, true, false), 0x1_2342);
        assert_eq!(left(token, revocation, false, false), 0x1_2344);
        assert_eq!(left(token, logout, false, true), 0x1_2348);
        assert_eq!(left(user, revocation, true, true), 0x1_234f);
    }

    #[test]
    fn what_is_left_is_bounded_and_the_first_stay() {
        let store = MemoryStore::default();
        leave_all(&store, &ends(0..99));
        leave_all(&store, &ends(100..200));
        assert_eq!(
            take(&store),
            ends(0..99)
                .into_iter()
                .chain([end(100)])
                .collect::<Vec<_>>()
        );
        leave_all(&store, &ends(0..1));
        assert_eq!(take(&store), ends(0..1));
    }

    #[test]
    fn who_writes_first_has_all_of_it() {
        let store = MemoryStore::default();
        leave_all(&store, &ends(0..3));
        *store.interfere.borrow_mut() = Some(Box::new(|store: &MemoryStore| {
            assert_eq!(take(store), ends(0..3));
        }));
        assert_eq!(take(&store), []);

        *store.interfere.borrow_mut() = Some(Box::new(|store: &MemoryStore| {
            leave_all(store, &ends(0..1));
        }));
        leave_all(&store, &ends(1..2));
        assert_eq!(take(&store), ends(0..2));
    }

    #[test]
    fn what_is_damaged_ends_nothing_that_was_not_left() {
        let store = MemoryStore::default();
        leave_all(&store, &ends(0..2));
        store.damage(|value| value.truncate(size_of::<Record>() + 7));
        assert_eq!(take(&store), ends(0..1));
    }
}
