//! One entry of the shared cache, as bytes: a record of a [bucket](super::bucket).
//!
//! An entry that does not decode to its last byte is a miss. A change of this format is a new
//! [`FORMAT_VERSION`](super::bucket::FORMAT_VERSION).
//!
//! ```text
//! offset  bytes  what
//!      0      1  flags: 1 = a user is known
//!      1      8  configuration fingerprint          all numbers little-endian
//!      9     32  SHA-256 of the token
//!     41     16  user, see `revocation::UserKey`; zero if none is known
//!     57      8  used at, milliseconds
//!     65      8  asked at, milliseconds
//!     73      8  answered at, milliseconds
//!     81      8  kept until, milliseconds
//!     89     ..  MAS's answer: JSON, as it wrote it
//! ```

use std::time::Duration;

use super::question::QuestionKey;
use crate::{
    clock::Instant,
    mas::{introspection::Answer, user::UserKey},
    token::TokenDigest,
};

/// Largest entry, in bytes. A larger answer is not kept; MAS's are a few hundred bytes.
pub const MAX_ENTRY_BYTES: usize = 2048;

/// MAS rounds `expires_in` to the nearest second, so a token may live half a second longer than it says.
const EXPIRY_ROUNDING: Duration = Duration::from_secs(1);

const USER_KNOWN: u8 = 1;

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
    /// The moment after MAS had answered.
    pub answered_at: Instant,
    /// Until when the entry is of use to any reader. That is the end of the writer's TTL, or of the token if that
    /// comes first; or a later moment that the entry said which stood here before, see
    /// [`super::table::Table::put`].
    pub kept_until: Instant,
    /// What MAS said.
    pub answer: Answer,
}

impl Entry {
    /// The entry as bytes; `None` if it is larger than [`MAX_ENTRY_BYTES`].
    pub fn encode(&self) -> Option<Vec<u8>> {
        let body = self.answer.body();
        let length = EntryHead::BYTES + body.len();
        if length > MAX_ENTRY_BYTES {
            return None;
        }
        let mut bytes = Vec::with_capacity(length);
        let flags = if self.user.is_some() { USER_KNOWN } else { 0 };
        bytes.push(flags);
        bytes.extend_from_slice(&self.fingerprint.to_le_bytes());
        bytes.extend_from_slice(&self.digest.0);
        bytes.extend_from_slice(&self.user.map_or([0; 16], |user| user.0));
        for moment in [
            self.used_at,
            self.asked_at,
            self.answered_at,
            self.kept_until,
        ] {
            bytes.extend_from_slice(&moment.as_millis().to_le_bytes());
        }
        bytes.extend_from_slice(body);
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
            kept_until: head.kept_until,
            answer: Answer::parse(bytes.get(EntryHead::BYTES..)?.to_vec()).ok()?,
        })
    }

    /// Returns the question that this answers.
    pub fn question(&self) -> QuestionKey {
        QuestionKey {
            digest: self.digest,
            fingerprint: self.fingerprint,
        }
    }

    /// The earliest moment at which the token may expire, if it ever does. MAS counted `expires_in` at
    /// some moment between question and answer.
    pub fn earliest_expiry(&self) -> Option<Instant> {
        self.lifetime().map(|lifetime| self.asked_at + lifetime)
    }

    /// The moment from which the token has certainly expired, if it ever does.
    pub fn latest_expiry(&self) -> Option<Instant> {
        self.lifetime()
            .map(|lifetime| self.answered_at + lifetime + EXPIRY_ROUNDING)
    }

    fn lifetime(&self) -> Option<Duration> {
        match &self.answer {
            Answer::Active(answer) => answer.expires_in.map(lifetime),
            Answer::Inactive(_) => None,
        }
    }
}

/// `expires_in` as a duration. A negative one is a token that has ended.
pub fn lifetime(expires_in: i64) -> Duration {
    Duration::from_secs(u64::try_from(expires_in).unwrap_or(0))
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
    /// Until when the entry is of use to any reader.
    pub kept_until: Instant,
    asked_at: Instant,
    answered_at: Instant,
}

impl EntryHead {
    const BYTES: usize = 89;

    /// Returns whether the entry answers this question.
    pub fn answers(&self, key: &QuestionKey) -> bool {
        self.digest == key.digest && self.fingerprint == key.fingerprint
    }

    /// Reads the fixed part; `None` if these bytes are no entry of this format.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let mut reader = Reader(bytes);
        let [flags] = reader.take()?;
        if flags & !USER_KNOWN != 0 {
            return None;
        }
        let fingerprint = u64::from_le_bytes(reader.take()?);
        let digest = TokenDigest(reader.take()?);
        let user = UserKey(reader.take()?);
        let mut moment = || Some(Instant::from_millis(u64::from_le_bytes(reader.take()?)));
        Some(Self {
            digest,
            fingerprint,
            user: (flags & USER_KNOWN != 0).then_some(user),
            used_at: moment()?,
            asked_at: moment()?,
            answered_at: moment()?,
            kept_until: moment()?,
        })
    }
}

/// Writes the time of use into an encoded entry.
pub fn set_used_at(bytes: &mut [u8], used_at: Instant) {
    set_moment(bytes, 57, used_at);
}

/// Writes the end of use into an encoded entry.
pub fn set_kept_until(bytes: &mut [u8], kept_until: Instant) {
    set_moment(bytes, 81, kept_until);
}

fn set_moment(bytes: &mut [u8], offset: usize, moment: Instant) {
    let rest = bytes.get_mut(offset..);
    if let Some(field) = rest.and_then(|rest| rest.first_chunk_mut()) {
        *field = moment.as_millis().to_le_bytes();
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
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

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
            answered_at: Instant::from_millis(400),
            kept_until: Instant::from_millis(1_000),
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
        for entry in [active(), of_nobody, entry(r#"{"active":false}"#)] {
            let bytes = entry.encode().unwrap();
            assert_eq!(Entry::decode(&bytes), Some(entry));
        }
    }

    #[test]
    fn an_expiry_is_earliest_from_the_question_and_certain_from_the_answer() {
        let entry = active();
        assert_eq!(entry.earliest_expiry(), Some(Instant::from_millis(2_100)));
        assert_eq!(entry.latest_expiry(), Some(Instant::from_millis(3_400)));
        let lasting = self::entry(r#"{"active":true}"#);
        assert_eq!(
            (lasting.earliest_expiry(), lasting.latest_expiry()),
            (None, None)
        );
    }

    #[test]
    fn the_time_and_the_end_of_use_can_be_written_in_place() {
        let mut bytes = active().encode().unwrap();
        set_used_at(&mut bytes, Instant::from_millis(777));
        set_kept_until(&mut bytes, Instant::from_millis(888));
        let used = Entry {
            used_at: Instant::from_millis(777),
            kept_until: Instant::from_millis(888),
            ..active()
        };
        assert_eq!(Entry::decode(&bytes), Some(used));
        set_used_at(&mut [0; 43], Instant::from_millis(777));
        set_kept_until(&mut [0; 43], Instant::from_millis(888));
    }

    #[test]
    fn an_unknown_flag_is_a_miss() {
        let mut bytes = active().encode().unwrap();
        for flags in (0..=u8::MAX).filter(|flags| *flags > USER_KNOWN) {
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
    fn an_oversized_entry_is_not_encoded() {
        let with_scope = |length: usize| {
            let scope = "x".repeat(length);
            entry(&format!(r#"{{"active":true,"scope":"{scope}"}}"#)).encode()
        };
        let overhead = with_scope(0).unwrap().len();
        assert_eq!(
            with_scope(MAX_ENTRY_BYTES - overhead).unwrap().len(),
            MAX_ENTRY_BYTES
        );
        assert_eq!(with_scope(MAX_ENTRY_BYTES - overhead + 1), None);
        assert_eq!(with_scope(100_000), None);
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
