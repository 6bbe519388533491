//! The shared cache: what MAS said of a token, for every worker of one Envoy process.
//!
//! Identity of an entry is the SHA-256 of the token; the token itself is never stored. Active and inactive
//! answers live in two tables, so that a flood of invented tokens cannot evict one live session.

pub mod bucket;
pub mod entry;
pub mod epoch;
pub mod expiry;
mod key_space;
pub mod local;
pub mod question;
pub mod revocation;
pub mod table;

use std::time::Duration;

use self::{
    entry::Entry,
    expiry::Expiry,
    revocation::Revocations,
    table::{Removed, Table},
};
use crate::{
    clock::Instant,
    config,
    host::Store,
    mas::{
        introspection::{ActiveAnswer, Answer, InactiveAnswer, Lifetime},
        user::UserKey,
    },
    metrics::{Evicted, Hit, Metric},
    token::TokenDigest,
};

/// What the cache knows of a token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cached {
    /// MAS said active, not long ago.
    Active(Box<ActiveEntry>),
    /// MAS said inactive, not long ago; or its expiry has passed since.
    Inactive(InactiveAnswer),
}

/// An active token, and until when that is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ActiveEntry {
    /// Which token.
    pub digest: TokenDigest,
    /// What MAS said.
    pub answer: ActiveAnswer,
    /// Whose token it is.
    pub user: Option<UserKey>,
    /// When the token ends; `None` if it does not.
    pub expiry: Option<Expiry>,
    /// End of the answer.
    pub fresh_until: Instant,
    /// From then on the answer is renewed in the background if it is used. `None` if that is turned off,
    /// or would gain nothing because the token itself ends with the answer.
    pub refresh_at: Option<Instant>,
}

/// An answer and the times of its call.
#[derive(Clone, Debug)]
pub struct Introspected {
    /// Which token.
    pub digest: TokenDigest,
    /// The moment before the request was sent.
    pub asked_at: Instant,
    /// The moment after the answer came.
    pub answered_at: Instant,
    /// What MAS said.
    pub answer: Answer,
    /// How much longer the token lives, as of some moment between the two: see [`Answer::lifetime`].
    pub lifetime: Option<Lifetime>,
}

impl Introspected {
    /// Whether MAS said that the token is active.
    pub fn is_active(&self) -> bool {
        matches!(self.answer, Answer::Active(_))
    }
}

/// What keeping an answer changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StoreOutcome {
    /// An active answer for this token was dropped: other workers may still hold it.
    pub invalidated: bool,
    /// The answer is in the shared cache.
    pub stored: bool,
    /// What had to make room for it.
    pub evicted: Vec<(Evicted, TokenDigest)>,
}

/// A fresh answer is renewed this long before it ends, or a tenth of its TTL if that is less: long enough
/// for a slow MAS, short enough to ask once per TTL.
const REFRESH_AHEAD: Duration = Duration::from_secs(6);

/// The two tables, as one worker sees them.
#[derive(Debug)]
pub struct SharedCache {
    active: Table,
    negative: Table,
    revocations: Revocations,
    ttl: Duration,
    negative_ttl: Duration,
    stale_if_error: Duration,
    refresh_ahead: bool,
    fingerprint: u64,
}

impl SharedCache {
    /// The cache that `settings` describe. `fingerprint` names who was asked, see
    /// [`config::Config::fingerprint`].
    pub fn new(settings: &config::Cache, fingerprint: u64) -> Self {
        Self {
            active: Table::new("a", settings.slots),
            negative: Table::new("n", settings.negative_slots),
            revocations: Revocations::default(),
            ttl: settings.ttl,
            negative_ttl: settings.negative_ttl,
            stale_if_error: settings.stale_if_error,
            refresh_ahead: settings.refresh_ahead,
            fingerprint,
        }
    }

    /// What is known of the token at `now`. `count` receives one metric for each table looked into.
    pub fn lookup(
        &self,
        store: &impl Store,
        digest: &TokenDigest,
        now: Instant,
        mut count: impl FnMut(Metric),
    ) -> Option<Cached> {
        use crate::metrics::Table::{Active, Negative};

        let active = self.lookup_active_table(store, digest, now);
        count(Metric::Lookup(Active, hit(active.is_some())));
        if active.is_some() {
            return active;
        }
        let inactive = self.lookup_negative_table(store, digest, now);
        count(Metric::Lookup(Negative, hit(inactive.is_some())));
        inactive.map(Cached::Inactive)
    }

    /// In the table of active answers: an active one, or one whose token has certainly ended since.
    fn lookup_active_table(
        &self,
        store: &impl Store,
        digest: &TokenDigest,
        now: Instant,
    ) -> Option<Cached> {
        let entry = self.active.find(store, digest, self.fingerprint, now)?;
        if entry.expiry.is_some_and(|expiry| expiry.has_passed(now)) {
            return Some(Cached::Inactive(InactiveAnswer::default()));
        }
        if now >= entry.fresh_until {
            return None;
        }
        self.known(store, entry).map(Cached::Active)
    }

    fn lookup_negative_table(
        &self,
        store: &impl Store,
        digest: &TokenDigest,
        now: Instant,
    ) -> Option<InactiveAnswer> {
        let entry = self.negative.find(store, digest, self.fingerprint, now)?;
        match entry.answer {
            Answer::Inactive(answer) if now < entry.fresh_until => {
                let user = entry.user.as_ref();
                let void = self
                    .revocations
                    .revokes_inactive(store, user, entry.asked_at);
                (!void).then_some(answer)
            }
            _ => None,
        }
    }

    /// An active answer past its time, for while MAS cannot be asked: within `stale_if_error`, and never
    /// past the token's own expiry.
    pub fn lookup_stale(
        &self,
        store: &impl Store,
        digest: &TokenDigest,
        now: Instant,
    ) -> Option<Box<ActiveEntry>> {
        if self.stale_if_error.is_zero() {
            return None;
        }
        let entry = self.active.find(store, digest, self.fingerprint, now)?;
        let holds = now < entry.fresh_until + self.stale_if_error
            && entry.expiry.is_none_or(|expiry| now < expiry.earliest);
        if holds {
            self.known(store, entry)
        } else {
            None
        }
    }

    /// The entry as what is known, if it is active and nothing has voided it.
    fn known(&self, store: &impl Store, entry: Entry) -> Option<Box<ActiveEntry>> {
        let asked_at = entry.asked_at;
        let Cached::Active(known) = self.cached(entry) else {
            return None;
        };
        let is_void = known.user.as_ref().is_some_and(|user| {
            self.revocations
                .revokes_active(store, user, &known.answer.token, asked_at)
        });
        (!is_void).then_some(known)
    }

    fn cached(&self, entry: Entry) -> Cached {
        let refresh_at = self.refresh_at(&entry);
        match entry.answer {
            Answer::Active(answer) => Cached::Active(Box::new(ActiveEntry {
                digest: entry.digest,
                answer,
                user: entry.user,
                expiry: entry.expiry,
                fresh_until: entry.fresh_until,
                refresh_at,
            })),
            Answer::Inactive(answer) => Cached::Inactive(answer),
        }
    }

    /// An answer that has just come, as what is known of its token.
    pub fn as_cached(&self, asked: &Introspected) -> Cached {
        self.cached(self.entry(asked))
    }

    /// Whether what MAS told the homeserver since the question was sent voids the answer.
    pub fn is_revoked(&self, store: &impl Store, asked: &Introspected) -> bool {
        match &asked.answer {
            Answer::Active(answer) => UserKey::of_token(&answer.token).is_some_and(|user| {
                self.revocations
                    .revokes_active(store, &user, &answer.token, asked.asked_at)
            }),
            Answer::Inactive(_) => self
                .revocations
                .revokes_inactive(store, None, asked.asked_at),
        }
    }

    /// Keeps what MAS said.
    ///
    /// An active answer ends at the earliest moment at which its token may end; the expiry proves the token
    /// inactive only from the latest. In between, MAS is asked.
    pub fn store(&self, store: &impl Store, asked: &Introspected) -> StoreOutcome {
        let (digest, now) = (asked.digest, asked.answered_at);
        let mut entry = self.entry(asked);
        let is_fresh = now < entry.fresh_until;
        let mut kept = StoreOutcome::default();
        match &asked.answer {
            Answer::Active(_) => {
                self.negative.remove(store, &digest);
                if is_fresh {
                    (kept.stored, kept.evicted) = self.active.put(store, &entry, now);
                }
            }
            Answer::Inactive(_) => {
                if let Some(removed) = self.active.remove(store, &digest) {
                    kept.invalidated = true;
                    entry.user = removed.user;
                }
                if is_fresh {
                    (kept.stored, kept.evicted) = self.negative.put(store, &entry, now);
                }
            }
        }
        kept
    }

    /// Drops the active answer about a token, if there is one; tells whose it was.
    pub fn remove_active(&self, store: &impl Store, digest: &TokenDigest) -> Option<Removed> {
        self.active.remove(store, digest)
    }

    /// What MAS tells about its users voids answers about them.
    pub fn revocations(&self) -> &Revocations {
        &self.revocations
    }

    fn entry(&self, asked: &Introspected) -> Entry {
        let (ttl, user) = match &asked.answer {
            Answer::Active(answer) => (self.ttl, UserKey::of_token(&answer.token)),
            Answer::Inactive(_) => (self.negative_ttl, None),
        };
        let expiry = asked
            .lifetime
            .map(|told| Expiry::new(told, asked.asked_at, asked.answered_at));
        let end = asked.asked_at + ttl;
        Entry {
            digest: asked.digest,
            fingerprint: self.fingerprint,
            user,
            used_at: asked.answered_at,
            asked_at: asked.asked_at,
            fresh_until: expiry.map_or(end, |expiry| end.min(expiry.earliest)),
            expiry,
            answer: asked.answer.clone(),
        }
    }

    fn refresh_at(&self, entry: &Entry) -> Option<Instant> {
        let outlives = entry
            .expiry
            .is_none_or(|expiry| expiry.earliest > entry.fresh_until);
        (self.refresh_ahead && outlives)
            .then(|| entry.fresh_until.minus(REFRESH_AHEAD.min(self.ttl / 10)))
    }
}

fn hit(found: bool) -> Hit {
    if found { Hit::Hit } else { Hit::Miss }
}

#[cfg(test)]
mod tests {
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;
    use crate::{host::memory::MemoryStore, mas::provisioning::Revocation};

    const FINGERPRINT: u64 = 42;

    fn cache() -> SharedCache {
        SharedCache::new(
            &config::Cache {
                ttl: Duration::from_secs(120),
                negative_ttl: Duration::from_secs(10),
                stale_if_error: Duration::ZERO,
                refresh_ahead: true,
                slots: 64,
                negative_slots: 64,
                local_entries: 0,
            },
            FINGERPRINT,
        )
    }

    fn seconds(seconds: f64) -> Instant {
        Instant::from_millis(1_000_000) + Duration::from_secs_f64(seconds)
    }

    fn active(expires_in: Option<i64>) -> Answer {
        let body = match expires_in {
            Some(seconds) => {
                format!(r#"{{"active":true,"username":"alice","expires_in":{seconds}}}"#)
            }
            None => r#"{"active":true,"username":"alice"}"#.to_owned(),
        };
        Answer::parse(body.into()).unwrap()
    }

    fn inactive() -> Answer {
        Answer::Inactive(InactiveAnswer::default())
    }

    fn is_alice(cached: Option<Cached>) -> bool {
        matches!(cached, Some(Cached::Active(known)) if known.answer.token.username.as_deref() == Some("alice"))
    }

    fn keep(
        cache: &SharedCache,
        store: &MemoryStore,
        asked_at: f64,
        answered_at: f64,
        answer: &Answer,
    ) {
        let asked = Introspected {
            digest: TokenDigest::of(b"token"),
            asked_at: seconds(asked_at),
            answered_at: seconds(answered_at),
            lifetime: answer.lifetime(None),
            answer: answer.clone(),
        };
        cache.store(store, &asked);
    }

    /// What the cache knows at each of `times` (in seconds) of a token asked about at 0 and answered at
    /// 0.2: `A`ctive, `I`nactive or `-`.
    fn life(answer: &Answer, times: &[f64]) -> String {
        let (store, cache, digest) = (MemoryStore::default(), cache(), TokenDigest::of(b"token"));
        keep(&cache, &store, 0.0, 0.2, answer);
        let known = |time: &f64| match cache.lookup(&store, &digest, seconds(*time), |_| {}) {
            Some(Cached::Inactive(_)) => 'I',
            None => '-',
            active => {
                assert!(is_alice(active));
                'A'
            }
        };
        times.iter().map(known).collect()
    }

    #[test]
    fn a_lasting_token_is_kept_for_the_ttl_from_before_it_was_asked_about() {
        assert_eq!(
            life(&active(None), &[0.2, 119.999, 120.0, 100_000.0]),
            "AA--"
        );
    }

    #[test]
    fn expires_in_larger_than_the_ttl_does_not_extend_it() {
        let times = [0.2, 119.999, 120.0, 299.999, 300.0, 301.199, 301.2];
        assert_eq!(life(&active(Some(300)), &times), "AA----I");
    }

    #[test]
    fn expires_in_smaller_than_the_ttl_ends_the_answer_to_the_second() {
        assert_eq!(
            life(&active(Some(30)), &[29.999, 30.0, 31.199, 31.2, 119.0]),
            "A--II"
        );
    }

    #[test]
    fn an_answer_with_no_time_left_is_not_kept() {
        for expires_in in [0, -1, i64::MIN] {
            assert_eq!(
                life(&active(Some(expires_in)), &[0.2, 1.0, 2.0]),
                "---",
                "{expires_in}"
            );
        }
    }

    #[test]
    fn an_answer_that_took_longer_than_its_life_is_not_kept() {
        let (store, cache, digest) = (MemoryStore::default(), cache(), TokenDigest::of(b"token"));
        keep(&cache, &store, 0.0, 3.0, &active(Some(2)));
        assert_eq!(cache.lookup(&store, &digest, seconds(3.0), |_| {}), None);
    }

    #[test]
    fn an_inactive_answer_is_kept_for_the_negative_ttl() {
        assert_eq!(life(&inactive(), &[0.2, 9.999, 10.0]), "II-");
    }

    #[test]
    fn a_later_answer_takes_the_place_of_an_earlier_one_of_the_other_kind() {
        let (store, cache, digest) = (MemoryStore::default(), cache(), TokenDigest::of(b"token"));
        let find = |at: f64| cache.lookup(&store, &digest, seconds(at), |_| {});
        keep(&cache, &store, 0.0, 0.0, &active(None));
        keep(&cache, &store, 1.0, 1.0, &inactive());
        assert!(matches!(find(1.0), Some(Cached::Inactive(_))));
        keep(&cache, &store, 2.0, 2.0, &active(None));
        assert!(is_alice(find(2.0)));
        assert_eq!(find(130.0), None);
    }

    #[test]
    fn a_revoked_user_has_no_answers_from_before() {
        let (store, cache, digest) = (MemoryStore::default(), cache(), TokenDigest::of(b"token"));
        let find = |at: f64| cache.lookup(&store, &digest, seconds(at), |_| {});
        let revoke = |at: f64, revocation| {
            let revocations = cache.revocations();
            revocations
                .add(&store, &UserKey::of("alice"), &revocation, seconds(at))
                .unwrap();
        };
        keep(&cache, &store, 0.0, 0.0, &active(None));
        revoke(1.0, Revocation::Inactive);
        assert!(is_alice(find(1.0)));
        revoke(2.0, Revocation::All);
        assert_eq!(find(2.0), None);
        keep(&cache, &store, 2.0, 3.0, &active(None));
        assert_eq!(find(3.0), None, "it was on its way at the time");
        keep(&cache, &store, 3.0, 3.0, &active(None));
        assert!(is_alice(find(3.0)));
        keep(&cache, &store, 4.0, 4.0, &inactive());
        assert!(matches!(find(4.0), Some(Cached::Inactive(_))));
        revoke(5.0, Revocation::AllExcept(Vec::new()));
        assert!(matches!(find(5.0), Some(Cached::Inactive(_))));
        revoke(6.0, Revocation::Inactive);
        assert_eq!(find(6.0), None, "the token may have come back to life");
    }

    #[test]
    fn answers_given_to_another_question_are_misses() {
        let (store, digest) = (MemoryStore::default(), TokenDigest::of(b"token"));
        keep(&cache(), &store, 0.0, 0.0, &active(None));
        let other = SharedCache {
            fingerprint: FINGERPRINT + 1,
            ..cache()
        };
        assert_eq!(other.lookup(&store, &digest, seconds(1.0), |_| {}), None);
        assert!(
            cache()
                .lookup(&store, &digest, seconds(1.0), |_| {})
                .is_some()
        );
    }

    #[test]
    fn entries_of_another_format_version_are_misses_and_give_way() {
        let (store, digest) = (MemoryStore::default(), TokenDigest::of(b"token"));
        keep(&cache(), &store, 0.0, 0.0, &active(None));
        store.damage(|value| {
            // The seed has 16 bytes and no version.
            if value.len() != 16 {
                *value.first_mut().unwrap() = bucket::FORMAT_VERSION + 1;
            }
        });
        assert_eq!(cache().lookup(&store, &digest, seconds(1.0), |_| {}), None);
        keep(&cache(), &store, 1.0, 1.0, &active(None));
        assert!(
            cache()
                .lookup(&store, &digest, seconds(1.0), |_| {})
                .is_some()
        );
    }

    #[test]
    fn a_flood_of_inactive_tokens_takes_nothing_from_the_active_ones() {
        let (store, cache) = (MemoryStore::default(), cache());
        let live: Vec<_> = (0..16_u8).map(|n| TokenDigest::of(&[b'l', n])).collect();
        let keep = |digest: TokenDigest, at: f64, answer: Answer| {
            let (asked_at, answered_at) = (seconds(at), seconds(at));
            let asked = Introspected {
                digest,
                asked_at,
                answered_at,
                lifetime: answer.lifetime(None),
                answer,
            };
            cache.store(&store, &asked);
        };
        for digest in &live {
            keep(*digest, 0.0, active(None));
        }
        let kept = |at| {
            let is_active = |digest: &&TokenDigest| {
                matches!(
                    cache.lookup(&store, digest, seconds(at), |_| {}),
                    Some(Cached::Active(_))
                )
            };
            live.iter().filter(is_active).count()
        };
        let before = kept(1.0);
        for n in 0..10_000_u32 {
            keep(TokenDigest::of(&n.to_le_bytes()), 1.0, inactive());
        }
        assert_eq!(kept(2.0), before);
        assert!(store.len() <= 64 + 64 + 1);
    }
}
