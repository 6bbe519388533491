//! One entry of the shared cache, as bytes: a record of a [bucket](crate::shared_data::bucket).
//!
//! An entry that does not decode to its last byte is a miss. A change of this format is a new
//! [`FORMAT_VERSION`](crate::shared_data::name::FORMAT_VERSION).
//!
//! ```text
//! offset  bytes  what
//!      0      1  flags: 1 = a user is known, 2 = the token expires, 4 = the answer is doubted, 8 = a worker keeps it
//!      1      8  configuration fingerprint          all numbers little-endian
//!      9     16  digest of the token
//!     25     16  user, see `mas::user::UserKey`; zero if none is known
//!     41      8  used at, milliseconds
//!     49      8  asked at, milliseconds
//!     57      8  useful until, milliseconds
//!     65      8  earliest expiry, milliseconds; zero if the token does not expire
//!     73      8  latest expiry, the same
//!     81      8  answered at, milliseconds
//!     89     ..  MAS's answer, see `Answer::encode`
//! ```

use alloc::vec::Vec;

use super::{expiry::Expiry, question::QuestionKey};
use crate::{
    clock::Instant,
    mas::{introspection::Answer, user::UserKey},
    token::TokenDigest,
};

/// Longest answer that is kept, in bytes, with those texts that are kept once more without their escapes. MAS's have a few
/// hundred; a long scope can make one longer.
pub const MAX_ANSWER_BYTES: usize = 8 * 1024;

/// Where these fields stand.
const DIGEST_AT: usize = 9;
const USED_AT: usize = 41;
const USEFUL_UNTIL: usize = 57;

const USER_KNOWN: u8 = 1;
const EXPIRES: u8 = 2;
const DOUBTED: u8 = 4;
const KEPT: u8 = 8;

/// What MAS said of a token, and until when that counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Which token.
    pub digest: TokenDigest,
    /// Who was asked; see [`crate::config::Config::fingerprint`].
    pub fingerprint: u64,
    /// Whose token it is, or was when it was last active.
    pub user: Option<UserKey>,
    /// When a request last used the entry, to the second.
    pub used_at: Instant,
    /// The moment before MAS was asked.
    pub asked_at: Instant,
    /// When its answer came.
    pub answered_at: Instant,
    /// Until when the entry is of use to any reader. That is the end of the writer's TTL, or of the token if that
    /// comes first; or a later moment that the entry said which stood here before, see
    /// [`super::table::Table::put`].
    pub useful_until: Instant,
    /// When the token ends; `None` if it does not.
    pub expiry: Option<Expiry>,
    /// The homeserver has refused the token since: MAS is to be asked again, and the answer serves only where MAS gives
    /// none.
    pub is_doubted: bool,
    /// What MAS said.
    pub answer: Answer,
}

impl Entry {
    /// The entry as bytes; `None` if its answer is longer than [`MAX_ANSWER_BYTES`].
    pub fn encode(&self) -> Option<Vec<u8>> {
        let length = self.answer.text_bytes();
        if length > MAX_ANSWER_BYTES {
            return None;
        }
        let mut bytes = Vec::with_capacity(EntryHead::BYTES + 32 + length);
        let user_known = if self.user.is_some() { USER_KNOWN } else { 0 };
        let expires = if self.expiry.is_some() { EXPIRES } else { 0 };
        let doubted = if self.is_doubted { DOUBTED } else { 0 };
        let mut head = [0; EntryHead::BYTES];
        let mut writer = Writer(&mut head);
        writer.put([user_known | expires | doubted]);
        writer.put(self.fingerprint.to_le_bytes());
        writer.put(self.digest.0);
        writer.put(self.user.map_or([0; 16], |user| user.0));
        let (earliest, latest) = self
            .expiry
            .map_or_else(Default::default, |expiry| (expiry.earliest, expiry.latest));
        for moment in [
            self.used_at,
            self.asked_at,
            self.useful_until,
            earliest,
            latest,
            self.answered_at,
        ] {
            writer.put(moment.to_le_bytes());
        }
        bytes.extend_from_slice(&head);
        self.answer.encode(&mut bytes)?;
        Some(bytes)
    }

    /// Reads an entry back; `None` if these bytes are anything else.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let head = EntryHead::decode(bytes)?;
        Some(Self {
            digest: head.digest,
            fingerprint: head.fingerprint,
            user: head.user,
            used_at: head.used_at,
            asked_at: head.asked_at,
            answered_at: head.answered_at,
            useful_until: head.useful_until,
            expiry: head.expiry,
            is_doubted: head.is_doubted,
            answer: Answer::decode(bytes.get(EntryHead::BYTES..)?)?,
        })
    }

    /// Returns the question that this answers.
    pub fn question(&self) -> QuestionKey {
        QuestionKey {
            digest: self.digest,
            fingerprint: self.fingerprint,
        }
    }
}

/// The fixed part of an entry: enough to know whose it is and when it ends.
pub struct EntryHead {
    /// Which token.
    pub digest: TokenDigest,
    /// Who was asked.
    pub fingerprint: u64,
    /// Whose token it is.
    pub user: Option<UserKey>,
    /// When a request last used the entry.
    pub used_at: Instant,
    /// The moment before MAS was asked.
    pub asked_at: Instant,
    /// Until when the entry is of use to any reader.
    pub useful_until: Instant,
    /// Whether the homeserver has refused the token since.
    pub is_doubted: bool,
    /// Whether a worker may keep it for itself, see [`super::inactive`].
    pub is_kept: bool,
    expiry: Option<Expiry>,
    answered_at: Instant,
}

impl EntryHead {
    const BYTES: usize = 89;

    /// Returns whether the entry answers this question.
    pub fn answers(&self, key: &QuestionKey) -> bool {
        self.digest == key.digest && self.fingerprint == key.fingerprint
    }

    /// Reads the fixed part of an entry about this token. `None`: it is about another one. That is what most of a bucket are,
    /// and nothing else of them is read.
    #[inline]
    pub fn of(bytes: &[u8], token: &TokenDigest) -> Option<Self> {
        let digest = bytes.get(DIGEST_AT..).and_then(<[u8]>::first_chunk);
        if digest.copied().map(TokenDigest) != Some(*token) {
            return None;
        }
        Self::decode(bytes)
    }

    /// Reads the fixed part; `None` if these bytes are no entry of this format.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let mut reader = Reader(bytes);
        let [flags] = reader.take()?;
        if flags & !(USER_KNOWN | EXPIRES | DOUBTED | KEPT) != 0 {
            return None;
        }
        let fingerprint = u64::from_le_bytes(reader.take()?);
        let digest = TokenDigest(reader.take()?);
        let user = UserKey(reader.take()?);
        let mut moment = || Some(Instant::from_le_bytes(reader.take()?));
        let (used_at, asked_at, useful_until) = (moment()?, moment()?, moment()?);
        let (earliest, latest, answered_at) = (moment()?, moment()?, moment()?);
        Some(Self {
            digest,
            fingerprint,
            user: (flags & USER_KNOWN != 0).then_some(user),
            used_at,
            asked_at,
            useful_until,
            is_doubted: flags & DOUBTED != 0,
            is_kept: flags & KEPT != 0,
            expiry: (flags & EXPIRES != 0).then_some(Expiry { earliest, latest }),
            answered_at,
        })
    }
}

/// Writes the time of use into an encoded entry.
pub fn set_used_at(bytes: &mut [u8], used_at: Instant) {
    set_moment(bytes, USED_AT, used_at);
}

/// Notes in an encoded entry that its answer is doubted.
pub fn set_doubted(bytes: &mut [u8]) {
    if let Some(flags) = bytes.first_mut() {
        *flags |= DOUBTED;
    }
}

/// Notes in an encoded entry that a worker keeps it for itself.
pub fn set_kept(bytes: &mut [u8]) {
    if let Some(flags) = bytes.first_mut() {
        *flags |= KEPT;
    }
}

/// Writes the end of use into an encoded entry.
pub fn set_useful_until(bytes: &mut [u8], useful_until: Instant) {
    set_moment(bytes, USEFUL_UNTIL, useful_until);
}

fn set_moment(bytes: &mut [u8], offset: usize, moment: Instant) {
    let rest = bytes.get_mut(offset..);
    if let Some(field) = rest.and_then(|rest| rest.first_chunk_mut()) {
        *field = moment.to_le_bytes();
    }
}

/// Writes fields one behind the other. What does not fit is left out; [`EntryHead::BYTES`] fit.
struct Writer<'a>(&'a mut [u8]);

impl Writer<'_> {
    #[inline(always)]
    fn put<const N: usize>(&mut self, field: [u8; N]) {
        if let Some((place, rest)) = core::mem::take(&mut self.0).split_first_chunk_mut() {
            *place = field;
            self.0 = rest;
        }
    }
}

struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (taken, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*taken)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ACTIVE: &str =
        r#"{"active":true,"scope":"urn:matrix:client:api:* é","username":"alice","expires_in":2}"#;

    fn entry(body: &str) -> Entry {
        Entry {
            digest: TokenDigest::of(b"token"),
            fingerprint: 0x0123_4567_89ab_cdef,
            user: Some(UserKey::of("alice")),
            used_at: Instant::from_millis(500),
            asked_at: Instant::from_millis(100),
            answered_at: Instant::from_millis(150),
            useful_until: Instant::from_millis(1_000),
            expiry: Some(Expiry {
                earliest: Instant::from_millis(2_100),
                latest: Instant::from_millis(3_400),
            }),
            is_doubted: false,
            answer: Answer::parse(body.into()).unwrap(),
        }
    }

    fn active() -> Entry {
        entry(ACTIVE)
    }

    #[test]
    fn entries_come_back_as_they_were() {
        let of_nobody = Entry {
            user: None,
            ..active()
        };
        let lasting = Entry {
            expiry: None,
            ..entry(r#"{"active":true}"#)
        };
        let inactive = Entry {
            expiry: None,
            ..entry(r#"{"active":false}"#)
        };
        let doubted = Entry {
            is_doubted: true,
            ..active()
        };
        for entry in [active(), of_nobody, lasting, inactive, doubted] {
            let bytes = entry.encode().unwrap();
            assert_eq!(Entry::decode(&bytes), Some(entry));
        }
    }

    #[test]
    fn the_time_the_end_of_use_and_a_doubt_can_be_written_in_place() {
        let mut bytes = active().encode().unwrap();
        set_used_at(&mut bytes, Instant::from_millis(777));
        set_useful_until(&mut bytes, Instant::from_millis(888));
        for _ in 0..2 {
            set_doubted(&mut bytes);
        }
        let used = Entry {
            used_at: Instant::from_millis(777),
            useful_until: Instant::from_millis(888),
            is_doubted: true,
            ..active()
        };
        assert_eq!(Entry::decode(&bytes), Some(used));
        set_used_at(&mut [0; 43], Instant::from_millis(777));
        set_useful_until(&mut [0; 43], Instant::from_millis(888));
        set_doubted(&mut []);
    }

    #[test]
    fn that_a_worker_keeps_it_changes_nothing_else() {
        let bytes = active().encode().unwrap();
        let mut kept = bytes.clone();
        set_kept(&mut kept);
        let heads = [&bytes, &kept].map(|bytes| EntryHead::decode(bytes).unwrap());
        assert_eq!(heads.map(|head| head.is_kept), [false, true]);
        assert_eq!(Entry::decode(&kept), Some(active()));
        set_kept(&mut []);
    }

    #[test]
    fn an_unknown_flag_is_a_miss() {
        let mut bytes = active().encode().unwrap();
        let unknown = |flags: &u8| flags & !(USER_KNOWN | EXPIRES | DOUBTED | KEPT) != 0;
        for flags in (0..=u8::MAX).filter(unknown) {
            bytes[0] = flags;
            assert_eq!(Entry::decode(&bytes), None);
        }
    }

    #[test]
    fn every_truncation_and_extension_is_a_miss() {
        for entry in [active(), entry(r#"{"active":false}"#)] {
            let mut bytes = entry.encode().unwrap();
            for length in 0..bytes.len() {
                assert_eq!(Entry::decode(&bytes[..length]), None, "{length}");
            }
            bytes.push(0);
            assert_eq!(Entry::decode(&bytes), None);
        }
    }

    #[test]
    fn an_answer_that_is_too_long_is_not_encoded() {
        let with_answer = |length: usize| {
            let scope = "x".repeat(length - r#"{"active":true,"scope":""}"#.len());
            entry(&format!(r#"{{"active":true,"scope":"{scope}"}}"#)).encode()
        };
        let longest = with_answer(MAX_ANSWER_BYTES).unwrap();
        assert!(Entry::decode(&longest).is_some());
        assert_eq!(with_answer(MAX_ANSWER_BYTES + 1), None);
        assert_eq!(with_answer(100_000), None);
    }

    #[cfg(not(target_arch = "wasm32"))]
    proptest::proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes: Vec<u8>) {
            let _ = Entry::decode(&bytes);
        }

        #[test]
        fn a_damaged_entry_never_panics(at: proptest::sample::Index, byte: u8) {
            let mut bytes = active().encode().unwrap();
            let at = at.index(bytes.len());
            bytes[at] = byte;
            let _ = Entry::decode(&bytes);
        }
    }
}
