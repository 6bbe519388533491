//! One entry of the shared cache, as bytes.
//!
//! Shared data survives a configuration update and a new module binary, so an old and a new version may
//! read each other's entries. The first byte is the format version; an entry of another version, or one
//! that does not decode to its last byte, is a miss.
//!
//! ```text
//! offset  bytes  what
//!      0      1  format version
//!      1      1  flags: 1 = active, 2 = expires, 4 = ends
//!      2      8  configuration fingerprint          all numbers little-endian
//!     10     32  SHA-256 of the token
//!     42      8  used at, milliseconds
//!     50      8  fresh until, milliseconds
//!     58      8  expires at, milliseconds; 0 without an end
//!     66      8  ended at, milliseconds; 0 without an end
//!     74     ..  active: username, device_id, client_id, scope, each as
//!                u16 length (0xffff = absent) and UTF-8
//! ```

use super::TokenDigest;
use crate::{clock::Instant, mas::introspection::ActiveToken};

/// The format that this module writes, and the only one it reads.
pub const FORMAT_VERSION: u8 = 1;

/// Largest entry, in bytes. A larger answer is not kept; MAS's are a few hundred bytes.
pub const MAX_ENTRY_BYTES: usize = 2048;

const ACTIVE: u8 = 1;
const EXPIRES: u8 = 2;
const ENDS: u8 = 4;
const ABSENT: u16 = u16::MAX;

/// What MAS said of a token, and until when that counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Which token.
    pub digest: TokenDigest,
    /// Who was asked; see [`crate::config::Config::fingerprint`].
    pub fingerprint: u64,
    /// End of the cache's own TTL, or of the token if that comes first.
    pub fresh_until: Instant,
    /// The earliest moment at which the token may expire, if it ever does.
    pub expires_at: Option<Instant>,
    /// The moment from which the token has certainly expired, if it ever does.
    pub ended_at: Option<Instant>,
    /// When a request last used the entry, to the second.
    pub used_at: Instant,
    /// What MAS said.
    pub answer: Answer,
}

/// What MAS said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// `active: true`.
    Active(ActiveToken),
    /// `active: false`.
    Inactive,
}

impl Entry {
    /// The entry as bytes; `None` if it is larger than [`MAX_ENTRY_BYTES`].
    pub fn encode(&self) -> Option<Vec<u8>> {
        let mut bytes = Vec::with_capacity(256);
        let mut flags = 0;
        for (flag, is_set) in [
            (ACTIVE, matches!(self.answer, Answer::Active(_))),
            (EXPIRES, self.expires_at.is_some()),
            (ENDS, self.ended_at.is_some()),
        ] {
            flags |= if is_set { flag } else { 0 };
        }
        bytes.extend_from_slice(&[FORMAT_VERSION, flags]);
        bytes.extend_from_slice(&self.fingerprint.to_le_bytes());
        bytes.extend_from_slice(&self.digest.0);
        for moment in [
            self.used_at,
            self.fresh_until,
            self.expires_at.unwrap_or_default(),
            self.ended_at.unwrap_or_default(),
        ] {
            bytes.extend_from_slice(&moment.as_millis().to_le_bytes());
        }
        if let Answer::Active(token) = &self.answer {
            let ActiveToken {
                username,
                device_id,
                client_id,
                scope,
            } = token;
            for member in [
                username.as_deref(),
                device_id.as_deref(),
                client_id.as_deref(),
                Some(scope),
            ] {
                let text = member.unwrap_or_default();
                let length = u16::try_from(text.len())
                    .ok()
                    .filter(|length| *length != ABSENT)?;
                let length = if member.is_some() { length } else { ABSENT };
                bytes.extend_from_slice(&length.to_le_bytes());
                bytes.extend_from_slice(text.as_bytes());
            }
        }
        (bytes.len() <= MAX_ENTRY_BYTES).then_some(bytes)
    }

    /// Reads an entry back; `None` if these bytes are anything else.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let head = EntryHead::decode(bytes)?;
        let mut reader = Reader(bytes.get(EntryHead::BYTES..)?);
        let answer = if head.active {
            Answer::Active(ActiveToken {
                username: reader.text()?,
                device_id: reader.text()?,
                client_id: reader.text()?,
                scope: reader.text()??,
            })
        } else {
            Answer::Inactive
        };
        reader.0.is_empty().then_some(Self {
            digest: head.digest,
            fingerprint: head.fingerprint,
            fresh_until: head.fresh_until,
            expires_at: head.expires_at,
            ended_at: head.ended_at,
            used_at: head.used_at,
            answer,
        })
    }
}

/// The fixed part of an entry: enough to know whose it is and when it ends.
pub struct EntryHead {
    /// Which token.
    pub digest: TokenDigest,
    /// Who was asked.
    pub fingerprint: u64,
    /// End of the cache's own TTL.
    pub fresh_until: Instant,
    /// When a request last used the entry.
    pub used_at: Instant,
    expires_at: Option<Instant>,
    ended_at: Option<Instant>,
    active: bool,
}

impl EntryHead {
    const BYTES: usize = 74;

    /// Reads the fixed part; `None` if these bytes are no entry of this format.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let mut reader = Reader(bytes);
        let [version, flags] = reader.take()?;
        if version != FORMAT_VERSION || flags & !(ACTIVE | EXPIRES | ENDS) != 0 {
            return None;
        }
        let fingerprint = u64::from_le_bytes(reader.take()?);
        let digest = TokenDigest(reader.take()?);
        let mut moment = || Some(Instant::from_millis(u64::from_le_bytes(reader.take()?)));
        let (used_at, fresh_until, expires_at, ended_at) =
            (moment()?, moment()?, moment()?, moment()?);
        Some(Self {
            digest,
            fingerprint,
            fresh_until,
            used_at,
            expires_at: (flags & EXPIRES != 0).then_some(expires_at),
            ended_at: (flags & ENDS != 0).then_some(ended_at),
            active: flags & ACTIVE != 0,
        })
    }
}

/// Writes the time of use into an encoded entry.
pub fn set_used_at(bytes: &mut [u8], used_at: Instant) {
    const OFFSET: usize = 42;
    if let Some(field) = bytes
        .get_mut(OFFSET..)
        .and_then(|rest| rest.first_chunk_mut())
    {
        *field = used_at.as_millis().to_le_bytes();
    }
}

struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (taken, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*taken)
    }

    /// `None`: malformed. `Some(None)`: absent.
    #[expect(
        clippy::option_option,
        reason = "malformed and absent are different things"
    )]
    fn text(&mut self) -> Option<Option<String>> {
        let length = u16::from_le_bytes(self.take()?);
        if length == ABSENT {
            return Some(None);
        }
        let (text, rest) = self.0.split_at_checked(usize::from(length))?;
        self.0 = rest;
        Some(Some(String::from_utf8(text.to_vec()).ok()?))
    }
}

#[cfg(test)]
mod tests {
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;

    fn entry(answer: Answer) -> Entry {
        Entry {
            digest: TokenDigest::of(b"token"),
            fingerprint: 0x0123_4567_89ab_cdef,
            fresh_until: Instant::from_millis(1_000),
            expires_at: Some(Instant::from_millis(2_000)),
            ended_at: Some(Instant::from_millis(3_000)),
            used_at: Instant::from_millis(500),
            answer,
        }
    }

    fn active() -> Entry {
        entry(Answer::Active(ActiveToken {
            username: Some("alice".into()),
            device_id: None,
            client_id: Some(String::new()),
            scope: "urn:matrix:client:api:* é".into(),
        }))
    }

    #[test]
    fn entries_come_back_as_they_were() {
        let lasting = Entry {
            expires_at: None,
            ended_at: None,
            ..active()
        };
        for entry in [active(), lasting, entry(Answer::Inactive)] {
            let bytes = entry.encode().unwrap();
            assert_eq!(Entry::decode(&bytes), Some(entry));
        }
    }

    #[test]
    fn the_time_of_use_can_be_written_in_place() {
        let mut bytes = active().encode().unwrap();
        set_used_at(&mut bytes, Instant::from_millis(777));
        let used = Entry {
            used_at: Instant::from_millis(777),
            ..active()
        };
        assert_eq!(Entry::decode(&bytes), Some(used));
        set_used_at(&mut [0; 43], Instant::from_millis(777));
    }

    #[test]
    fn another_format_version_is_a_miss() {
        let mut bytes = active().encode().unwrap();
        for version in (0..=u8::MAX).filter(|version| *version != FORMAT_VERSION) {
            bytes[0] = version;
            assert_eq!(Entry::decode(&bytes), None);
        }
    }

    #[test]
    fn every_truncation_and_extension_is_a_miss() {
        for entry in [active(), entry(Answer::Inactive)] {
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
            let token = ActiveToken {
                scope: "x".repeat(length),
                ..ActiveToken::default()
            };
            entry(Answer::Active(token)).encode()
        };
        let overhead = with_scope(0).unwrap().len();
        assert_eq!(
            with_scope(MAX_ENTRY_BYTES - overhead).unwrap().len(),
            MAX_ENTRY_BYTES
        );
        assert_eq!(with_scope(MAX_ENTRY_BYTES - overhead + 1), None);
        assert_eq!(with_scope(usize::from(u16::MAX)), None);
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
