//! Callers that MAS has answered.
//!
//! Where Envoy injects the credential, the module knows no secret to compare a caller's with. So MAS judges a
//! caller's own request first, and its 200 counts for a while.

use std::{collections::BTreeMap, time::Duration};

use crate::{clock::Instant, token::TokenDigest};

/// How long MAS's acceptance of a credential counts.
const ACCEPTED: Duration = Duration::from_secs(300);

/// Credentials that are remembered as accepted.
const MAX_CALLERS: usize = 64;

/// A caller: the digest of its `authorization`. `Debug` shows nothing of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct CallerKey(TokenDigest);

impl CallerKey {
    /// Returns the key of a caller with this `authorization`.
    pub fn of(authorization: &[u8]) -> Self {
        Self(TokenDigest::of(authorization))
    }
}

/// The callers, and until when each counts.
#[derive(Debug, Default)]
pub struct AcceptedCallers(BTreeMap<CallerKey, Instant>);

impl AcceptedCallers {
    /// Returns whether MAS has lately accepted the caller.
    pub fn contains(&self, caller: &CallerKey, now: Instant) -> bool {
        self.0.get(caller).is_some_and(|until| now < *until)
    }

    /// Notes with which status MAS has answered a caller.
    pub fn note(&mut self, caller: CallerKey, status: Option<u16>, now: Instant) {
        self.0.retain(|_, until| now < *until);
        match status {
            Some(200) if self.0.len() < MAX_CALLERS => {
                self.0.insert(caller, now + ACCEPTED);
            }
            Some(400..500) => {
                self.0.remove(&caller);
            }
            _ => {}
        }
    }
}
