//! What one worker tells another: that it is worth reading shared data now. A hint may be lost, late or repeated.
//!
//! The non-obvious rule: two versions of the module may share a queue, while an update takes its time. So a kind whose form
//! changes takes a new number, and an unknown number is no hint.

use alloc::{vec, vec::Vec};

use crate::{cache::question::QuestionKey, clock::Instant, mas::introspection::Asker};

/// The first byte of each kind.
const LOOK_AGAIN: u8 = 1;
const INVALIDATED: u8 = 3;
const WANTED: u8 = 4;
const OUTDATED: u8 = 9;
const FAILED: u8 = 10;

/// What one worker tells the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hint {
    /// The answer to this question is in the shared cache, or the sender does not ask MAS for it any more. A worker with
    /// requests that wait for it looks into the cache again.
    LookAgain(QuestionKey),
    /// This question got no verdict as this one asked it.
    Failed(QuestionKey, Asker, Notice),
    /// This question got no verdict, whoever asked it: MAS has voided the answers while they were on their way.
    Outdated(QuestionKey, Notice),
    /// A worker waits for the answer to this question, whose lease the receiver has.
    Wanted(QuestionKey),
    /// Answers no longer hold: a number was raised, see [`crate::cache::epoch`].
    Invalidated,
}

/// For whom it is meant that a question got no verdict.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Notice {
    /// The requests that had come before this moment.
    pub waiting_before: Instant,
    /// When it was sent. A worker that has looked since goes by what it found.
    pub sent_at: Instant,
}

impl Hint {
    /// Returns the message.
    pub fn encode(self) -> Vec<u8> {
        let (kind, asker, key, notice) = match self {
            Self::LookAgain(key) => (LOOK_AGAIN, None, Some(key), None),
            Self::Invalidated => (INVALIDATED, None, None, None),
            Self::Wanted(key) => (WANTED, None, Some(key), None),
            Self::Failed(key, asker, notice) => (FAILED, Some(asker), Some(key), Some(notice)),
            Self::Outdated(key, notice) => (OUTDATED, None, Some(key), Some(notice)),
        };
        let mut bytes = vec![kind];
        if let Some(Asker(asker)) = asker {
            bytes.extend_from_slice(&asker.to_le_bytes());
        }
        if let Some(key) = key {
            bytes.extend_from_slice(&key.to_bytes());
        }
        if let Some(notice) = notice {
            for moment in [notice.waiting_before, notice.sent_at] {
                bytes.extend_from_slice(&moment.to_le_bytes());
            }
        }
        bytes
    }

    /// Reads a hint; `None` for one of another version of this module.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let (kind, rest) = bytes.split_first()?;
        let moment = |bytes: &[u8; 8]| Instant::from_le_bytes(*bytes);
        let with_notice = |rest: &[u8]| {
            let (rest, sent_at) = rest.split_last_chunk()?;
            let (key, waiting_before) = rest.split_last_chunk()?;
            let notice = Notice {
                waiting_before: moment(waiting_before),
                sent_at: moment(sent_at),
            };
            Some((QuestionKey::from_bytes(key)?, notice))
        };
        match *kind {
            LOOK_AGAIN => QuestionKey::from_bytes(rest).map(Self::LookAgain),
            INVALIDATED => Some(Self::Invalidated),
            WANTED => QuestionKey::from_bytes(rest).map(Self::Wanted),
            FAILED => {
                let (asker, rest) = rest.split_first_chunk()?;
                let (key, notice) = with_notice(rest)?;
                let asker = Asker(u16::from_le_bytes(*asker));
                Some(Self::Failed(key, asker, notice))
            }
            OUTDATED => with_notice(rest).map(|(key, notice)| Self::Outdated(key, notice)),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::iter;

    use super::*;
    use crate::token::TokenDigest;

    const NOW: Instant = Instant::from_millis(1_790_000_000_000);
    const NOTICE: Notice = Notice {
        waiting_before: Instant::from_millis(1_789_999_999_000),
        sent_at: NOW,
    };

    fn question() -> QuestionKey {
        QuestionKey {
            digest: TokenDigest::of(b"token"),
            fingerprint: 1,
        }
    }

    /// Returns the hint that the test below comes to after this one. The compiler asks for a new one.
    fn next(hint: Hint) -> Option<Hint> {
        match hint {
            Hint::LookAgain(key) => Some(Hint::Failed(key, Asker(0x1234), NOTICE)),
            Hint::Failed(key, _, notice) => Some(Hint::Outdated(key, notice)),
            Hint::Outdated(key, _) => Some(Hint::Wanted(key)),
            Hint::Wanted(_) => Some(Hint::Invalidated),
            Hint::Invalidated => None,
        }
    }

    #[test]
    fn every_hint_is_read_as_it_was_written() {
        let first = Hint::LookAgain(question());
        for hint in iter::successors(Some(first), |hint| next(*hint)) {
            assert_eq!(Hint::decode(&hint.encode()), Some(hint));
        }
    }

    #[test]
    fn a_hint_of_another_version_is_none() {
        let stored = Hint::LookAgain(question()).encode();
        let failed = Hint::Failed(question(), Asker(0x1234), NOTICE).encode();
        let longer = [&*stored, &[0]].concat();
        for bytes in [
            &[][..],
            &[0],
            &[1],
            &[2],
            &[4],
            &[255; 1 + QuestionKey::BYTES],
            &stored[..stored.len() - 1],
            &failed[..failed.len() - 1],
            &longer,
        ] {
            assert_eq!(Hint::decode(bytes), None, "{bytes:?}");
        }
    }
}
