//! Invalidates the workers' local caches with epoch counters in shared data.
//!
//! Shared data has no way to say which keys changed. So an invalidation bumps a counter there, and every
//! worker reads the counters at each tick: an answer that it keeps from before one of its counters was bumped
//! is looked up again before its next use. There are 256 counters for tokens and as many for users, by the
//! first byte of the digest, so that one invalidation makes a worker look up few of its answers again.
//!
//! A user's counter is raised to the present time at the least. So if an answer was asked for later than the counter says, no
//! record of the user can void it, and the record, which lies in shared data, is not read.

use alloc::{vec, vec::Vec};

use crate::{
    clock::Instant,
    host::{NotWritten, Store, Unreadable, update},
    mas::user::UserKey,
    shared_data::name,
    token::TokenDigest,
};

const TOKENS: usize = 256;
const USERS: usize = 256;

/// The counters, as of the last reading.
#[derive(Debug)]
pub struct Epochs {
    counters: Vec<u32>,
    /// The version of the value that they were read from.
    cas: Option<u32>,
}

/// The counters that an answer was read under.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stamp {
    token: u32,
    user: u32,
}

/// What an invalidation is about.
#[derive(Clone, Copy, Debug)]
pub enum Subject<'a> {
    /// One token.
    Token(&'a TokenDigest),
    /// All tokens of a user.
    User(&'a UserKey),
}

impl Subject<'_> {
    fn index(self) -> usize {
        match self {
            Self::Token(TokenDigest([first, ..])) => usize::from(*first),
            Self::User(UserKey([first, ..])) => TOKENS + usize::from(*first),
        }
    }
}

impl Default for Epochs {
    fn default() -> Self {
        Self {
            counters: vec![0; TOKENS + USERS],
            cas: None,
        }
    }
}

impl Epochs {
    /// The counters for a token and the user that it belongs to.
    pub fn stamp(&self, digest: &TokenDigest, user: Option<&UserKey>) -> Stamp {
        Stamp {
            token: self.counter(Subject::Token(digest)),
            user: user.map_or(0, |user| self.counter(Subject::User(user))),
        }
    }

    /// Reads the counters again.
    pub fn read(&mut self, store: &impl Store) -> Result<(), Unreadable> {
        if let Some(stored) = store.try_read(name::EPOCHS)?
            && self.cas != Some(stored.cas)
        {
            *self = Self::decode(&stored.value);
            self.cas = Some(stored.cas);
        }
        Ok(())
    }

    /// Returns whether nothing was told of the user, up to the last reading, since this moment.
    pub fn is_silent_since(&self, user: &UserKey, moment: Instant) -> bool {
        self.counter(Subject::User(user)) < coarse(moment)
    }

    /// Raises the counter for `subject`, for all workers, at the moment `now`.
    pub fn bump(
        &mut self,
        store: &impl Store,
        subject: Subject<'_>,
        now: Instant,
    ) -> Result<(), NotWritten> {
        let least = match subject {
            Subject::Token(_) => 0,
            Subject::User(_) => coarse(now),
        };
        update(store, name::EPOCHS, &mut |stored| {
            *self = stored.map_or_else(Self::default, Self::decode);
            if let Some(counter) = self.counters.get_mut(subject.index()) {
                *counter = counter.wrapping_add(1).max(least);
            }
            self.encode()
        })
    }

    /// Raises the counters for all tokens, for all workers.
    pub fn raise_for_all_tokens(store: &impl Store) -> Result<(), NotWritten> {
        update(store, name::EPOCHS, &mut |stored| {
            let mut epochs = stored.map_or_else(Self::default, Self::decode);
            for counter in epochs.counters.iter_mut().take(TOKENS) {
                *counter = counter.wrapping_add(1);
            }
            epochs.encode()
        })
    }

    fn counter(&self, subject: Subject<'_>) -> u32 {
        self.counters
            .get(subject.index())
            .copied()
            .unwrap_or_default()
    }

    fn decode(bytes: &[u8]) -> Self {
        let mut counters: Vec<u32> = bytes
            .chunks_exact(4)
            .filter_map(|bytes| Some(u32::from_le_bytes(bytes.try_into().ok()?)))
            .collect();
        counters.resize(TOKENS + USERS, 0);
        Self {
            counters,
            cas: None,
        }
    }

    fn encode(&self) -> Vec<u8> {
        self.counters
            .iter()
            .flat_map(|counter| counter.to_le_bytes())
            .collect()
    }
}

/// Returns a moment in units of 1,024 milliseconds, of which 32 bits count for a century.
fn coarse(moment: Instant) -> u32 {
    (moment.as_millis() >> 10) as u32
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::memory::MemoryStore;

    const NOW: Instant = Instant::from_millis(0);
    const TOKEN: TokenDigest = TokenDigest([7; 16]);
    const USER: UserKey = UserKey([7; 16]);

    #[test]
    fn a_raised_number_is_seen_by_all_and_touches_few() {
        for subject in [Subject::Token(&TOKEN), Subject::User(&USER)] {
            let store = MemoryStore::default();
            let (mut one, mut two) = (Epochs::default(), Epochs::default());
            for raised in 1..=3 {
                one.bump(&store, subject, NOW).unwrap();
                two.read(&store).unwrap();
                assert_eq!(
                    [one.counter(subject), two.counter(subject)],
                    [raised, raised]
                );
            }
            assert_eq!(
                two.counters.iter().filter(|counter| **counter != 0).count(),
                1
            );
            assert_eq!(store.len(), 1);
        }
    }

    #[test]
    fn a_stamp_changes_with_the_token_and_with_its_user() {
        let store = MemoryStore::default();
        let mut epochs = Epochs::default();
        let stamps = |epochs: &Epochs| [None, Some(&USER)].map(|user| epochs.stamp(&TOKEN, user));
        let before = stamps(&epochs);
        epochs.bump(&store, Subject::User(&USER), NOW).unwrap();
        let user_raised = stamps(&epochs);
        assert_eq!(user_raised[0], before[0]);
        assert_ne!(user_raised[1], before[1]);
        epochs.bump(&store, Subject::Token(&TOKEN), NOW).unwrap();
        assert_ne!(stamps(&epochs)[0], user_raised[0]);
        assert_ne!(stamps(&epochs)[1], user_raised[1]);
    }

    #[test]
    fn an_answer_from_before_a_users_last_end_or_soon_after_needs_the_record() {
        let store = MemoryStore::default();
        let (mut one, mut two) = (Epochs::default(), Epochs::default());
        let at = |seconds: u64| Instant::from_millis(seconds * 1_000);
        let is_silent = |epochs: &Epochs, seconds| epochs.is_silent_since(&USER, at(seconds));
        assert!(is_silent(&one, 100) && !is_silent(&one, 0));
        one.bump(&store, Subject::User(&USER), at(100)).unwrap();
        assert!(is_silent(&two, 100), "not yet read");
        two.read(&store).unwrap();
        for epochs in [&one, &two] {
            assert!(!is_silent(epochs, 99) && !is_silent(epochs, 100) && is_silent(epochs, 102));
        }
        // Many ends at once are counted each, which takes the counter ahead of the clock.
        for _ in 0..10 {
            let before = one.stamp(&TOKEN, Some(&USER));
            one.bump(&store, Subject::User(&USER), at(100)).unwrap();
            assert_ne!(one.stamp(&TOKEN, Some(&USER)), before);
        }
        assert!(!is_silent(&one, 105) && is_silent(&one, 120));
        // A clock that stands behind takes nothing back.
        one.bump(&store, Subject::User(&USER), at(50)).unwrap();
        assert!(!is_silent(&one, 105));
        one.bump(&store, Subject::Token(&TOKEN), at(500)).unwrap();
        assert!(is_silent(&one, 120), "of a token, not of the user");
        assert!(
            one.is_silent_since(&UserKey([8; 16]), at(2)),
            "of another user"
        );
    }

    #[test]
    fn a_race_loses_no_number() {
        let store = MemoryStore::default();
        let mut epochs = Epochs::default();
        *store.interfere.borrow_mut() = Some(Box::new(|store: &MemoryStore| {
            Epochs::default()
                .bump(store, Subject::Token(&TokenDigest([1; 16])), NOW)
                .unwrap();
        }));
        let other = TokenDigest([2; 16]);
        epochs.bump(&store, Subject::Token(&other), NOW).unwrap();
        let of = |first| epochs.counter(Subject::Token(&TokenDigest([first; 16])));
        assert_eq!([of(1), of(2)], [1, 1]);
    }

    #[test]
    fn what_cannot_be_read_changes_nothing() {
        let store = MemoryStore::default();
        let mut epochs = Epochs::default();
        epochs.bump(&store, Subject::Token(&TOKEN), NOW).unwrap();
        store.is_unreadable.set(true);
        assert_eq!(epochs.read(&store), Err(Unreadable));
        assert_eq!(epochs.counter(Subject::Token(&TOKEN)), 1);
    }

    #[test]
    fn a_value_of_another_length_is_read_as_far_as_it_goes() {
        let mut epochs = Epochs::decode(&[1, 0, 0, 0, 9]);
        assert_eq!(epochs.counter(Subject::Token(&TokenDigest([0; 16]))), 1);
        assert_eq!(epochs.counter(Subject::Token(&TokenDigest([255; 16]))), 0);
        epochs.read(&MemoryStore::default()).unwrap();
        assert_eq!(epochs.encode().len(), (TOKENS + USERS) * 4);
    }
}
