//! Callers that MAS has answered.
//!
//! Where Envoy injects the credential, the module knows no secret to compare a caller's with. So MAS judges a
//! caller's own request first, and its 200 counts for a while.
//!
//! The non-obvious rule: it counts for that MAS only. One worker may stand before two, and what the one accepts says
//! nothing to the other.

use std::time::Duration;

use crate::{clock::Instant, resolver::Upstream, sorted::SortedMap, token::TokenDigest};

/// How long MAS's acceptance of a credential counts.
const ACCEPTED: Duration = Duration::from_secs(300);

/// Credentials that are remembered as accepted.
const MAX_CALLERS: usize = 64;

/// A caller, and the MAS that judges it. `Debug` shows nothing of the caller's secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct CallerKey {
    /// The digest of the caller's `authorization`.
    authorization: TokenDigest,
    /// Names the MAS, see [`crate::config::Config::fingerprint`].
    fingerprint: u64,
}

impl CallerKey {
    /// Returns the key of a caller with this `authorization` for the MAS that `upstream` asks.
    pub fn of(upstream: &Upstream, authorization: &[u8]) -> Self {
        Self {
            authorization: TokenDigest::of(authorization),
            fingerprint: upstream.fingerprint(),
        }
    }
}

/// The callers, and until when each counts.
#[derive(Debug, Default)]
pub struct AcceptedCallers(SortedMap<CallerKey, Instant>);

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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        config,
        resolver::{Admission, Overflow, PoolId},
    };

    const NOW: Instant = Instant::from_millis(1_000_000);

    fn upstream(cluster: &str) -> Upstream {
        let text = format!(
            r#"{{"role":"introspection","introspection":{{"cluster":"{cluster}","credential":{{"injected":true}}}}}}"#
        );
        let config = config::parse(text.as_bytes(), &|_| None).unwrap();
        let admission = Admission {
            pool: PoolId {
                group: 0,
                endpoint: 0,
            },
            overflow: Overflow::Refuse,
        };
        Upstream::new(&config, admission)
    }

    #[test]
    fn acceptance_counts_for_a_while_and_ends_with_a_refusal() {
        let caller = CallerKey::of(&upstream("a"), b"Bearer s");
        let mut callers = AcceptedCallers::default();
        for status in [None, Some(201), Some(302), Some(401), Some(500)] {
            callers.note(caller, status, NOW);
            assert!(!callers.contains(&caller, NOW), "{status:?}");
        }
        callers.note(caller, Some(200), NOW);
        callers.note(caller, Some(500), NOW);
        assert!(callers.contains(&caller, NOW + ACCEPTED / 2));
        assert!(!callers.contains(&caller, NOW + ACCEPTED));
        callers.note(caller, Some(401), NOW);
        assert!(!callers.contains(&caller, NOW));
    }

    #[test]
    fn what_one_mas_accepts_or_refuses_says_nothing_to_another() {
        let [a, b] = ["a", "b"].map(|mas| CallerKey::of(&upstream(mas), b"Bearer s"));
        let mut callers = AcceptedCallers::default();
        callers.note(a, Some(200), NOW);
        assert!(callers.contains(&a, NOW) && !callers.contains(&b, NOW));
        callers.note(b, Some(401), NOW);
        assert!(callers.contains(&a, NOW));
    }

    #[test]
    fn callers_are_bounded() {
        let mut callers = AcceptedCallers::default();
        let upstream = upstream("a");
        let of = |number: usize| CallerKey::of(&upstream, &number.to_le_bytes());
        for number in 0..MAX_CALLERS + 10 {
            callers.note(of(number), Some(200), NOW);
        }
        assert_eq!(callers.0.len(), MAX_CALLERS);
        assert!(callers.contains(&of(0), NOW));
    }
}
