//! Callers that MAS has answered.
//!
//! Where Envoy injects the credential, the module knows no secret to compare a caller's with. So MAS judges a
//! caller's own request first, and its 200 counts for a while.
//!
//! The non-obvious rules: it counts for that MAS only. One worker may stand before two, and what the one accepts says
//! nothing to the other. And it does not run out because MAS cannot answer: the cache is there for just that time. When
//! it has run out, one request is left to MAS, and only an answer ends the acceptance.

use core::time::Duration;

use crate::{
    clock::Instant,
    maps::sorted::SortedMap,
    resolver::Upstream,
    token::{TokenDigest, TokenSecret},
};

/// How long MAS's acceptance of a credential counts.
const ACCEPTED: Duration = Duration::from_secs(300);

/// How long the other requests of a caller are served while one is left to MAS: longer than Envoy waits for it.
const CHECK: Duration = Duration::from_secs(120);

/// How long an acceptance counts at the most, if MAS answers nothing any more. A credential may be withdrawn meanwhile.
const LONGEST: Duration = Duration::from_secs(3_600);

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
    /// Returns the key of a caller with this `authorization`, under `secret`, for the MAS that `upstream` asks.
    pub fn of(upstream: &Upstream, secret: TokenSecret, authorization: &[u8]) -> Self {
        Self {
            authorization: secret.digest(authorization),
            fingerprint: upstream.fingerprint(),
        }
    }
}

/// A caller that MAS has accepted.
#[derive(Clone, Copy, Debug)]
struct Acceptance {
    /// When MAS last accepted the caller.
    since: Instant,
    /// Until when it counts.
    until: Instant,
    /// It ran out once, and a request was left to MAS. The others are served meanwhile.
    is_checked: bool,
}

/// The callers that MAS has accepted.
#[derive(Debug, Default)]
pub struct AcceptedCallers(SortedMap<CallerKey, Acceptance>);

impl AcceptedCallers {
    /// Returns whether MAS has lately accepted the caller. Where that has run out, MAS is to judge this request, and the
    /// caller's others are served while it does.
    pub fn admits(&mut self, caller: &CallerKey, now: Instant) -> bool {
        let Some(acceptance) = self.0.get_mut(caller) else {
            return false;
        };
        if now < acceptance.until {
            return true;
        }
        if !acceptance.is_checked && now < acceptance.since + LONGEST {
            acceptance.is_checked = true;
            acceptance.until = (now + CHECK).min(acceptance.since + LONGEST);
        }
        false
    }

    /// Notes with which status MAS has answered a caller; `None`: Envoy has, in its place. That is no answer, and neither is
    /// one of 5xx or "too many requests", as of a proxy before MAS: a caller that was accepted stays so.
    pub fn note(&mut self, caller: CallerKey, status: Option<u16>, now: Instant) {
        self.0
            .retain(|_, acceptance| now < acceptance.since + LONGEST);
        let since = match (status, self.0.get(&caller)) {
            (Some(200), Some(_)) => now,
            (Some(200), None) if self.0.len() < MAX_CALLERS => now,
            (None | Some(408 | 429 | 500..600), Some(acceptance)) => acceptance.since,
            (Some(400..500), _) => {
                self.0.remove(&caller);
                return;
            }
            _ => return,
        };
        let acceptance = Acceptance {
            since,
            until: (now + ACCEPTED).min(since + LONGEST),
            is_checked: false,
        };
        self.0.insert(caller, acceptance);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::{
        config,
        resolver::{Admission, Consumer, Overflow, PoolId},
    };

    const NOW: Instant = Instant::from_millis(1_000_000);

    fn upstream(cluster: &str) -> Upstream {
        let config = config::tests::with(json!({
            "role": "introspection",
            "introspection": {"cluster": cluster},
        }));
        let reader = Consumer {
            admission: Admission {
                pool: PoolId {
                    group: 0,
                    endpoint: 0,
                },
                overflow: Overflow::Refuse,
            },
            keeps_answers: true,
            kept_inactive: 0,
        };
        Upstream::new(&config, reader)
    }

    #[test]
    fn acceptance_counts_for_a_while_and_ends_with_a_refusal() {
        let caller = CallerKey::of(&upstream("a"), TokenSecret::NONE, b"Bearer s");
        let mut callers = AcceptedCallers::default();
        for status in [None, Some(201), Some(302), Some(401), Some(500)] {
            callers.note(caller, status, NOW);
            assert!(!callers.admits(&caller, NOW), "{status:?}");
        }
        callers.note(caller, Some(200), NOW);
        assert!(callers.admits(&caller, NOW + ACCEPTED / 2));
        assert!(!callers.admits(&caller, NOW + ACCEPTED));
        callers.note(caller, Some(401), NOW + ACCEPTED);
        assert!(!callers.admits(&caller, NOW + ACCEPTED));
        assert!(!callers.admits(&caller, NOW + ACCEPTED));
    }

    #[test]
    fn while_one_request_is_left_to_mas_the_others_are_served() {
        let caller = CallerKey::of(&upstream("a"), TokenSecret::NONE, b"Bearer s");
        let mut callers = AcceptedCallers::default();
        callers.note(caller, Some(200), NOW);
        let then = NOW + ACCEPTED;
        assert!(!callers.admits(&caller, then));
        assert!(callers.admits(&caller, then));
        // Nothing came of it: a caller that gives up its requests is not served for ever.
        for _ in 0..2 {
            assert!(!callers.admits(&caller, then + CHECK));
        }
        callers.note(caller, Some(200), then + CHECK);
        assert!(callers.admits(&caller, then + CHECK));
    }

    #[test]
    fn an_acceptance_does_not_run_out_because_mas_gives_no_answer() {
        let caller = CallerKey::of(&upstream("a"), TokenSecret::NONE, b"Bearer s");
        let mut callers = AcceptedCallers::default();
        callers.note(caller, Some(200), NOW);
        let mut now = NOW;
        // An hour in all, without the last piece.
        let statuses = [Some(500), Some(503), Some(504), Some(429), Some(408), None];
        for status in statuses.into_iter().cycle().take(11) {
            now = now + ACCEPTED;
            assert!(!callers.admits(&caller, now), "MAS is asked");
            callers.note(caller, status, now);
            assert!(callers.admits(&caller, now + ACCEPTED / 2), "{status:?}");
        }
        now = now + ACCEPTED;
        assert_eq!(now, NOW + LONGEST);
        callers.note(caller, Some(503), now);
        for _ in 0..2 {
            assert!(!callers.admits(&caller, now));
        }
    }

    #[test]
    fn what_one_mas_accepts_or_refuses_says_nothing_to_another() {
        let [a, b] =
            ["a", "b"].map(|mas| CallerKey::of(&upstream(mas), TokenSecret::NONE, b"Bearer s"));
        let mut callers = AcceptedCallers::default();
        callers.note(a, Some(200), NOW);
        assert!(callers.admits(&a, NOW) && !callers.admits(&b, NOW));
        callers.note(b, Some(401), NOW);
        assert!(callers.admits(&a, NOW));
    }

    #[test]
    fn callers_are_bounded() {
        let mut callers = AcceptedCallers::default();
        let upstream = upstream("a");
        let of = |number: usize| CallerKey::of(&upstream, TokenSecret::NONE, &number.to_le_bytes());
        for number in 0..MAX_CALLERS + 10 {
            callers.note(of(number), Some(200), NOW);
        }
        assert_eq!(callers.0.len(), MAX_CALLERS);
        assert!(callers.admits(&of(0), NOW));
    }

    #[test]
    fn no_acceptance_outlives_an_hour() {
        let caller = CallerKey::of(&upstream("a"), TokenSecret::NONE, b"Bearer s");
        let mut callers = AcceptedCallers::default();
        callers.note(caller, Some(200), NOW);
        let last = NOW + LONGEST.checked_sub(Duration::from_secs(1)).unwrap();
        callers.note(caller, Some(503), last);
        assert!(callers.admits(&caller, last));
        assert!(!callers.admits(&caller, NOW + LONGEST));
    }

    #[test]
    fn no_acceptance_outlives_an_hour_while_a_request_is_left_to_mas() {
        let caller = CallerKey::of(&upstream("a"), TokenSecret::NONE, b"Bearer s");
        let mut callers = AcceptedCallers::default();
        callers.note(caller, Some(200), NOW);
        let last = NOW + LONGEST.checked_sub(Duration::from_secs(1)).unwrap();
        assert!(!callers.admits(&caller, last));
        assert!(callers.admits(&caller, last));
        assert!(!callers.admits(&caller, NOW + LONGEST));
    }

    #[test]
    fn callers_that_mas_has_not_accepted_for_an_hour_make_room() {
        let mut callers = AcceptedCallers::default();
        let upstream = upstream("a");
        let of = |number: usize| CallerKey::of(&upstream, TokenSecret::NONE, &number.to_le_bytes());
        for number in 0..MAX_CALLERS {
            callers.note(of(number), Some(200), NOW);
        }
        callers.note(of(MAX_CALLERS), Some(200), NOW + LONGEST);
        assert!(callers.admits(&of(MAX_CALLERS), NOW + LONGEST));
        assert_eq!(callers.0.len(), 1);
    }
}
