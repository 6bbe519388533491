//! What the edge has cached of the tokens of the page, as far as it can be known from outside.
//!
//! The edge's shared data cannot be read out. What is known: when MAS answered about a token, what it said, how long the
//! configuration lets such an answer hold, when the token ends, and what MAS told the homeserver through the edge since. From these
//! follows what must be cached, unless the answer was pushed out, Envoy was started anew, or the question did not come
//! from the edge. That is why the page calls it an estimate.
//!
//! What a call of MAS ends is a rule of the module, in `src/mas/provisioning.rs` and `src/cache/voiding.rs`. Whose an
//! inactive token is the edge knows only if the token was active before. Of the others it drops all when a user may have
//! come back to life.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Cache, Member, millis};
use crate::mas::ProvisioningCall;

/// What MAS said of a token.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Said {
    Active,
    Inactive,
}

/// An answer that the edge has, or has had.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub(super) struct Cached {
    pub(super) said: Said,
    /// When MAS said so.
    at_ms: u64,
    /// Whether the edge has learnt whose the token is.
    #[serde(skip)]
    is_user_known: bool,
    /// Why it was dropped before its time.
    pub(super) ended: Option<&'static str>,
}

impl Cached {
    /// When the answer's time is over. `life_ms`: when the token ends, if it does.
    pub(super) fn until_ms(&self, cache: Cache, life_ms: Option<u64>) -> u64 {
        let held = match self.said {
            Said::Active => cache.ttl,
            Said::Inactive => cache.negative_ttl,
        };
        let until = self.at_ms + millis(held);
        match self.said {
            Said::Active => until.min(life_ms.unwrap_or(until)),
            Said::Inactive => until,
        }
    }
}

/// The last answer about each token: one for each member at the most.
#[derive(Debug, Default)]
pub(super) struct Estimate(BTreeMap<Member, Cached>);

impl Estimate {
    pub(super) fn of(&self, member: Member) -> Option<&Cached> {
        self.0.get(&member)
    }

    pub(super) fn answered(&mut self, member: Member, said: Said, at_ms: u64) {
        let before = self.0.get(&member);
        let cached = Cached {
            said,
            at_ms,
            is_user_known: said == Said::Active
                || before.is_some_and(|before| before.is_user_known),
            ended: None,
        };
        self.0.insert(member, cached);
    }

    /// The member has another token now.
    pub(super) fn forget(&mut self, member: Member) {
        self.0.remove(&member);
    }

    /// Its session has ended for this reason. What MAS tells the homeserver of it may come first.
    pub(super) fn end(&mut self, member: Member, reason: &'static str) {
        if let Some(cached) = self.0.get_mut(&member) {
            cached.ended = Some(reason);
        }
    }

    /// MAS has told the homeserver something, and it agreed.
    pub(super) fn told(&mut self, call: &ProvisioningCall) {
        let Ok(body) = serde_json::from_str::<Body>(&call.body) else {
            return;
        };
        let name = call.path.rsplit('/').next().unwrap_or_default();
        for (member, cached) in &mut self.0 {
            let is_own = member.user() == Some(&*body.localpart);
            let device = member.device();
            let ends = match (name, cached.said) {
                ("delete_user" | "provision_user" | "reactivate_user", Said::Inactive) => {
                    is_own || !cached.is_user_known
                }
                ("delete_user", Said::Active) => is_own,
                ("provision_user", Said::Active) => is_own && body.locked == Some(true),
                ("sync_devices", Said::Active) => {
                    is_own && !body.devices.iter().any(|left| Some(&**left) == device)
                }
                ("delete_device" | "upsert_device", Said::Active) => {
                    is_own && body.device_id.as_deref() == device
                }
                _ => false,
            };
            if ends {
                cached.ended.get_or_insert("MAS told the homeserver");
            }
        }
    }
}

#[derive(Deserialize)]
struct Body {
    localpart: String,
    device_id: Option<String>,
    locked: Option<bool>,
    #[serde(default)]
    devices: Vec<String>,
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use http::Method;
    use tokio::time::Instant;

    use super::*;

    const CACHE: Cache = Cache {
        ttl: Duration::from_secs(120),
        negative_ttl: Duration::from_secs(10),
        stale_if_error: Duration::ZERO,
    };

    fn told(estimate: &mut Estimate, path: &'static str, body: &str) {
        estimate.told(&ProvisioningCall {
            method: Method::POST,
            path,
            query: None,
            body: body.to_owned(),
            status: Some(200),
            sent: Instant::now(),
            ended: Instant::now(),
        });
    }

    fn ended(estimate: &Estimate, member: Member) -> bool {
        estimate
            .of(member)
            .is_none_or(|cached| cached.ended.is_some())
    }

    #[test]
    fn an_answer_holds_for_its_time_and_not_past_the_token() {
        let mut estimate = Estimate::default();
        estimate.answered(Member::Alice, Said::Active, 1_000);
        estimate.answered(Member::Unknown, Said::Inactive, 1_000);
        let until = |member, life| {
            estimate
                .of(member)
                .map(|cached| cached.until_ms(CACHE, life))
        };
        assert_eq!(until(Member::Alice, None), Some(121_000));
        assert_eq!(until(Member::Alice, Some(500_000)), Some(121_000));
        assert_eq!(until(Member::Alice, Some(50_000)), Some(50_000));
        assert_eq!(until(Member::Unknown, Some(0)), Some(11_000));
        assert_eq!(until(Member::Bob, None), None);
    }

    #[test]
    fn a_lock_ends_the_answers_of_its_user_only() {
        let mut estimate = Estimate::default();
        for member in [Member::Alice, Member::Bob] {
            estimate.answered(member, Said::Active, 1);
        }
        let path = "/_synapse/mas/provision_user";
        told(
            &mut estimate,
            path,
            r#"{"localpart":"alice","locked":false}"#,
        );
        assert!(!ended(&estimate, Member::Alice));
        told(
            &mut estimate,
            path,
            r#"{"localpart":"alice","locked":true}"#,
        );
        assert!(ended(&estimate, Member::Alice) && !ended(&estimate, Member::Bob));
        // A later answer counts anew, and an unlock ends what says inactive.
        estimate.answered(Member::Alice, Said::Inactive, 2);
        assert!(!ended(&estimate, Member::Alice));
        told(
            &mut estimate,
            path,
            r#"{"localpart":"alice","locked":false}"#,
        );
        assert!(ended(&estimate, Member::Alice));
    }

    #[test]
    fn an_unlock_ends_all_inactive_answers_about_tokens_whose_user_is_not_known() {
        let mut estimate = Estimate::default();
        estimate.answered(Member::Unknown, Said::Inactive, 1);
        estimate.answered(Member::Bob, Said::Active, 1);
        estimate.answered(Member::Bob, Said::Inactive, 2);
        let path = "/_synapse/mas/provision_user";
        told(
            &mut estimate,
            path,
            r#"{"localpart":"alice","locked":false}"#,
        );
        assert!(ended(&estimate, Member::Unknown) && !ended(&estimate, Member::Bob));
    }

    /// MAS tells the homeserver before the client has its answer, or after.
    #[test]
    fn a_logout_is_told_as_one_whatever_comes_first() {
        let sync = |estimate: &mut Estimate| {
            let path = "/_synapse/mas/sync_devices";
            told(estimate, path, r#"{"localpart":"bob","devices":[]}"#);
        };
        for is_mas_first in [true, false] {
            let mut estimate = Estimate::default();
            estimate.answered(Member::Bob, Said::Active, 1);
            if is_mas_first {
                sync(&mut estimate);
            }
            estimate.end(Member::Bob, "the client logged out");
            if !is_mas_first {
                sync(&mut estimate);
            }
            let bob = estimate.of(Member::Bob);
            assert_eq!(bob.and_then(|bob| bob.ended), Some("the client logged out"));
        }
    }

    #[test]
    fn devices_that_remain_keep_their_answers() {
        let mut estimate = Estimate::default();
        let path = "/_synapse/mas/sync_devices";
        estimate.answered(Member::Bob, Said::Active, 1);
        told(
            &mut estimate,
            path,
            r#"{"localpart":"bob","devices":["OLD CLIENT"]}"#,
        );
        assert!(!ended(&estimate, Member::Bob));
        told(&mut estimate, path, r#"{"localpart":"bob","devices":[]}"#);
        assert!(ended(&estimate, Member::Bob));
    }
}
