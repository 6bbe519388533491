//! The buckets that were last looked into, and had no answer to the question.
//!
//! MAS is asked then, and its answer is written to the bucket as it was read. If the bucket has changed since, nothing is written
//! and it is read again. So a bucket that is out of date costs a call and does no harm.

use alloc::collections::VecDeque;
use core::cell::RefCell;

use crate::{clock::Instant, shared_data::bucket::Bucket, token::TokenDigest};

/// Buckets without an answer that are remembered at the most, and the longest of them, in bytes.
pub const MAX_MISSES: usize = 32;
pub const MAX_MISS_BYTES: usize = 1024;

/// The last looks that found no answer, oldest first.
#[derive(Debug, Default)]
pub struct Misses(RefCell<VecDeque<Miss>>);

/// A look for a token that found no answer.
#[derive(Debug)]
pub struct Miss {
    token: TokenDigest,
    /// When it was.
    pub at: Instant,
    /// The bucket, as it was read.
    pub bucket: Bucket,
}

impl Misses {
    /// Remembers such a look.
    pub fn remember(&self, token: TokenDigest, at: Instant, bucket: Bucket) {
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

    /// Takes out the last look for this token that found no answer.
    pub fn take(&self, token: &TokenDigest) -> Option<Miss> {
        let mut misses = self.0.try_borrow_mut().ok()?;
        let at = misses.iter().rposition(|miss| miss.token == *token)?;
        misses.remove(at)
    }
}

#[cfg(test)]
impl Misses {
    /// How many looks are remembered.
    pub fn len(&self) -> usize {
        self.0.borrow().len()
    }
}
