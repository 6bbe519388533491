//! What the workers of one process agree on: who calls MAS about a question, and which answers no longer hold.
//!
//! A lease in shared data decides who calls, hints tell the others, and epochs void what they keep for
//! themselves. All of it only saves time: a worker that hears nothing reads the epochs at its next tick, and looks for an answer
//! when the lease ends.

pub mod lease;
pub mod membership;

use std::time::Duration;

use self::{
    lease::{Acquired, Claim, LEASE, Leased, Leases, Otherwise, Tombstone},
    membership::{Hint, Membership},
};
use super::upstream::Upstream;
use crate::{
    cache::{
        ActiveEntry, Cached,
        ended::{EndedTokens, Event, Point},
        epoch::{Epochs, Stamp, Subject},
        question::QuestionKey,
    },
    clock::Instant,
    host::{Backend, Callback, RootId},
    mas::user::UserKey,
    metrics::{InvalidationReason, Metric},
    token::TokenDigest,
};

/// How many tombstones are followed before MAS is called without a lease.
const MAX_RECHECKS: usize = 4;

/// How long the epochs count without being read again: a session that has ended is refused within a second.
const EPOCHS_HOLD: Duration = Duration::from_millis(750);

/// This worker among the others.
#[derive(Debug, Default)]
pub struct Workers {
    leases: Leases,
    ended: EndedTokens,
    membership: Membership,
    epochs: Epochs,
    /// When the epochs were read last: at a tick, after a hint, or for a hit.
    epochs_read_at: Instant,
}

/// Which worker calls MAS about a question.
pub enum Acquisition {
    /// None: the shared cache has the answer by now.
    Hit(Cached),
    /// Another worker, which holds the lease until then.
    Peer {
        /// When to read the cache again, unless a hint comes first.
        check_at: Instant,
    },
    /// None for a while: a call has just failed. A stale answer serves, or there is no verdict.
    Failed(Option<Box<ActiveEntry>>),
    /// This one.
    Mine {
        /// Whether it holds the lease.
        leased: Leased,
    },
}

impl Workers {
    /// Shows the other workers that this one lives, and reads what they have voided.
    pub fn attend<H: Backend>(&mut self, cb: &Callback<'_, H>) {
        self.read_epochs(cb);
        self.membership.heartbeat(cb.host, cb.root, cb.now());
    }

    /// Reads what other workers have voided.
    pub fn read_epochs<H: Backend>(&mut self, cb: &Callback<'_, H>) {
        self.epochs.read(cb.host);
        self.epochs_read_at = cb.now();
        self.ended.look_again();
    }

    /// Reads what other workers have voided, if the last reading is so long ago that a session may have ended for more than
    /// a second. A worker that is busy without a pause comes to no tick.
    pub fn refresh_epochs<H: Backend>(&mut self, cb: &Callback<'_, H>, now: Instant) {
        if now.since(self.epochs_read_at) >= EPOCHS_HOLD {
            self.read_epochs(cb);
        }
    }

    /// Returns whether hints may not have reached this worker since this was last asked.
    pub fn has_missed_hints(&mut self) -> bool {
        self.membership.has_missed_hints()
    }

    /// Returns whether other workers can tell this one that they wait.
    pub fn can_be_told(&self) -> bool {
        self.membership.has_seat()
    }

    /// Notes that a root context has ended.
    pub fn on_root_end(&mut self, root: RootId) {
        self.membership.on_root_end(root);
    }

    /// Acquires the lease on a question. Call only after a cache miss at the callback's moment: a tombstone
    /// then shows a later store, and the cache is read again.
    pub fn acquire<H: Backend>(
        &mut self,
        cb: &Callback<'_, H>,
        upstream: &Upstream,
        key: &QuestionKey,
    ) -> Acquisition {
        self.acquire_for(cb, upstream, key, Otherwise::Wait, &|_| true)
    }

    /// The same for who does not wait for another worker, and passes over an entry that is not `useful`.
    pub fn acquire_unless<H: Backend>(
        &mut self,
        cb: &Callback<'_, H>,
        upstream: &Upstream,
        key: &QuestionKey,
        useful: &dyn Fn(&Cached) -> bool,
    ) -> Acquisition {
        self.acquire_for(cb, upstream, key, Otherwise::Leave, useful)
    }

    #[inline(never)]
    fn acquire_for<H: Backend>(
        &mut self,
        cb: &Callback<'_, H>,
        upstream: &Upstream,
        key: &QuestionKey,
        otherwise: Otherwise,
        useful: &dyn Fn(&Cached) -> bool,
    ) -> Acquisition {
        let now = cb.now();
        let mut claim = Claim {
            key,
            holder: self.membership.worker_id(cb.host),
            now,
            // The worker that stored an answer read the clock first and released the lease later: at most the
            // time that a lease holds.
            cache_read_at: now.minus(LEASE),
            otherwise,
        };
        for _ in 0..MAX_RECHECKS {
            let acquired = self.leases.claim(cb.host, &claim);
            self.tell_holder(cb, key, &acquired);
            match acquired {
                Acquired::Mine => {
                    let leased = self.loosely();
                    return Acquisition::Mine { leased };
                }
                Acquired::MineAmongMany => {
                    let leased = Leased::Tightly;
                    return Acquisition::Mine { leased };
                }
                Acquired::BucketFull => break,
                Acquired::Held { until, .. } => {
                    return Acquisition::Peer { check_at: until };
                }
                Acquired::Tombstone(stored_at) => {
                    let cached = upstream.cache.lookup(cb.host, &key.digest, now);
                    match cached.filter(useful) {
                        Some(cached) => return Acquisition::Hit(cached),
                        None => claim.cache_read_at = stored_at,
                    }
                }
                Acquired::Failed => {
                    let stale = upstream.cache.lookup_stale(cb.host, &key.digest, now);
                    return Acquisition::Failed(stale);
                }
            }
        }
        Acquisition::Mine { leased: Leased::No }
    }

    /// A lease may be left to run out if another worker that waits for it can tell this one so.
    fn loosely(&self) -> Leased {
        if self.can_be_told() {
            Leased::Loosely
        } else {
            Leased::Tightly
        }
    }

    /// Releases the lease and hints the other workers if one of them waits for it.
    pub fn release<H: Backend>(
        &mut self,
        cb: &Callback<'_, H>,
        key: QuestionKey,
        hint: Hint,
        tombstone: Option<Tombstone>,
    ) {
        let worker = self.membership.worker_id(cb.host);
        if self.leases.release(cb.host, &key, worker, tombstone) {
            self.membership.broadcast(cb.host, hint, cb.now());
        }
    }

    /// Holds the lease for longer.
    pub fn renew<H: Backend>(&mut self, cb: &Callback<'_, H>, key: &QuestionKey) {
        let now = cb.now();
        let claim = Claim {
            key,
            holder: self.membership.worker_id(cb.host),
            now,
            cache_read_at: now,
            otherwise: Otherwise::Leave,
        };
        self.leases.claim(cb.host, &claim);
    }

    /// Tells the holder of a lease that a worker waits. Only the first worker that waits does so.
    fn tell_holder<H: Backend>(
        &mut self,
        cb: &Callback<'_, H>,
        key: &QuestionKey,
        acquired: &Acquired,
    ) {
        if let Acquired::Held {
            untold: Some(holder),
            ..
        } = acquired
        {
            let hint = Hint::Wanted(*key);
            self.membership.tell(cb.host, *holder, hint, cb.now());
        }
    }

    /// Returns the present point of all histories, nearly: see [`crate::cache::ended`].
    pub fn point<H: Backend>(&self, cb: &Callback<'_, H>) -> Point {
        self.ended.point(cb.host, cb.now())
    }

    /// Returns what has happened to the token since that point.
    pub fn event_since<H: Backend>(
        &self,
        cb: &Callback<'_, H>,
        token: &TokenDigest,
        earlier: Point,
    ) -> Option<Event> {
        self.ended.since(cb.host, token, earlier)
    }

    /// Notes that the token has ended or was refused, for the workers that ask about it.
    pub fn note_event<H: Backend>(&self, cb: &Callback<'_, H>, token: &TokenDigest, event: Event) {
        if let Err(error) = self.ended.add(cb.host, token, event) {
            error.log("an answer on its way may outlive a session");
        }
    }

    /// Tells all workers that answers no longer hold. The epoch is raised only after the shared entry is gone:
    /// a worker that sees the new epoch reads the cache again and must not find the old entry.
    pub fn announce<H: Backend>(
        &mut self,
        cb: &Callback<'_, H>,
        subject: Subject<'_>,
        reason: InvalidationReason,
    ) {
        self.raise(cb, subject);
        self.membership
            .broadcast(cb.host, Hint::Invalidated, cb.now());
        cb.host.count(Metric::Invalidated(reason));
    }

    /// Makes all workers compare what they keep of an evicted answer with the shared cache, at their next tick.
    /// An invalidation finds only what the shared cache holds.
    pub fn void_evicted<H: Backend>(&mut self, cb: &Callback<'_, H>, token: &TokenDigest) {
        self.raise(cb, Subject::Token(token));
    }

    fn raise<H: Backend>(&mut self, cb: &Callback<'_, H>, subject: Subject<'_>) {
        if let Err(error) = self.epochs.bump(cb.host, subject, cb.now()) {
            error.log("what has ended may be served until its time is over");
        }
    }

    /// Returns the epoch counters, as of the last reading.
    pub fn epochs(&self) -> &Epochs {
        &self.epochs
    }

    /// Returns the epoch counters of a token and its user, as of the last reading.
    pub fn stamp(&self, token: &TokenDigest, user: Option<&UserKey>) -> Stamp {
        self.epochs.stamp(token, user)
    }
}

#[cfg(test)]
mod tests {
    use super::{membership::Word, *};
    use crate::{
        cache::{Introspected, table::Fate},
        config,
        host::{QueueId, Runtime as _, fake::FakeHost},
        mas::introspection::Answer,
        resolver::{Admission, Overflow, PoolId, Reader},
    };
    use serde_json::json;

    const ROOT: RootId = RootId(1);
    const TTL: Duration = Duration::from_secs(10);

    fn callback(host: &FakeHost) -> Callback<'_, FakeHost> {
        Callback::new(host, ROOT)
    }

    /// Workers that have taken their seats, in order.
    fn joined<const N: usize>(host: &FakeHost) -> [Workers; N] {
        std::array::from_fn(|_| {
            let mut worker = Workers::default();
            worker.attend(&callback(host));
            worker
        })
    }

    fn upstream(stale_if_error: &str) -> Upstream {
        let config = json!({
            "server_name": "example.org",
            "introspection": {"cluster": "mas", "credential": {"injected": true}},
            "cache": {"ttl": "10s", "stale_if_error": stale_if_error},
        });
        let config = config::parse(config.to_string().as_bytes(), &|_| None).unwrap();
        let reader = Reader {
            admission: Admission {
                pool: PoolId {
                    group: 0,
                    endpoint: 0,
                },
                overflow: Overflow::Wait,
            },
            keeps_answers: false,
            kept_inactive: 0,
        };
        Upstream::new(&config, reader)
    }

    fn token() -> TokenDigest {
        TokenDigest::of(b"token")
    }

    /// MAS has called the token active, and its answer is in the shared cache.
    fn store_active(host: &FakeHost, upstream: &Upstream) {
        let answer = Answer::parse(br#"{"active":true,"username":"alice"}"#.to_vec()).unwrap();
        let lifetime = answer.lifetime(None);
        let introspected = Introspected::new(token(), host.now(), host.now(), answer, lifetime);
        let outcome = upstream.cache.store(host, &introspected);
        assert_eq!(outcome.fate, Fate::Stored);
    }

    fn acquire(worker: &mut Workers, host: &FakeHost, upstream: &Upstream) -> Acquisition {
        let key = upstream.question(&token());
        worker.acquire(&callback(host), upstream, &key)
    }

    /// Takes the lease and releases it with this tombstone.
    fn ask(worker: &mut Workers, host: &FakeHost, upstream: &Upstream, tombstone: Tombstone) {
        let lease = acquire(worker, host, upstream);
        assert!(matches!(
            lease,
            Acquisition::Mine {
                leased: Leased::Loosely
            }
        ));
        let key = upstream.question(&token());
        worker.release(&callback(host), key, Hint::LookAgain(key), Some(tombstone));
    }

    /// Takes out what the worker of this seat was told.
    fn told(host: &FakeHost, seat: u32) -> Vec<Option<Hint>> {
        // Queues are numbered as they are registered, which is in the order of the seats.
        std::iter::from_fn(|| host.dequeue(QueueId(seat + 1)))
            .map(|message| Hint::decode(&message))
            .collect()
    }

    #[test]
    fn one_worker_holds_the_lease_and_the_others_look_again_at_its_end() {
        let (host, upstream) = (FakeHost::default(), upstream("0s"));
        let [mut one, mut two] = joined(&host);
        let mine = acquire(&mut one, &host, &upstream);
        assert!(matches!(
            mine,
            Acquisition::Mine {
                leased: Leased::Loosely
            }
        ));
        let peer = acquire(&mut two, &host, &upstream);
        assert!(matches!(peer, Acquisition::Peer { check_at } if check_at == host.now() + LEASE));
        host.advance(LEASE / 2);
        one.renew(&callback(&host), &upstream.question(&token()));
        host.advance(LEASE / 2);
        let still = acquire(&mut two, &host, &upstream);
        assert!(matches!(still, Acquisition::Peer { .. }), "renewed");
        host.advance(LEASE / 2);
        let mine = acquire(&mut two, &host, &upstream);
        assert!(
            matches!(
                mine,
                Acquisition::Mine {
                    leased: Leased::Loosely
                }
            ),
            "ended"
        );
    }

    #[test]
    fn a_tombstone_leads_to_the_answer() {
        let (host, upstream) = (FakeHost::default(), upstream("0s"));
        let [mut one, mut two] = joined(&host);
        store_active(&host, &upstream);
        ask(&mut one, &host, &upstream, Tombstone::Stored(host.now()));
        let hit = acquire(&mut two, &host, &upstream);
        assert!(matches!(hit, Acquisition::Hit(Cached::Active(_))));
    }

    #[test]
    fn a_tombstone_without_an_answer_that_is_useful_leaves_the_call_to_this_worker() {
        let (host, upstream) = (FakeHost::default(), upstream("0s"));
        let [mut one, mut two, mut three] = joined(&host);
        ask(&mut one, &host, &upstream, Tombstone::Stored(host.now()));
        // No answer is there. The tombstone stays for the next worker.
        ask(&mut two, &host, &upstream, Tombstone::Stored(host.now()));
        store_active(&host, &upstream);
        let key = upstream.question(&token());
        let mine = three.acquire_unless(&callback(&host), &upstream, &key, &|_| false);
        assert!(matches!(
            mine,
            Acquisition::Mine {
                leased: Leased::Loosely
            }
        ));
    }

    #[test]
    fn answers_that_keep_coming_are_followed_a_few_times() {
        let (host, upstream) = (FakeHost::default(), upstream("0s"));
        let [mut one, mut two] = joined(&host);
        store_active(&host, &upstream);
        ask(&mut one, &host, &upstream, Tombstone::Stored(host.now()));
        let key = upstream.question(&token());
        let rivals = Leases::default();
        let followed = std::cell::Cell::new(0);
        let mine = two.acquire_unless(&callback(&host), &upstream, &key, &|_| {
            followed.set(followed.get() + 1);
            let later = host.now() + Duration::from_millis(followed.get());
            let rival = 1;
            rivals.acquire(&host, &key, rival, later, later);
            rivals.release(&host, &key, rival, Some(Tombstone::Stored(later)));
            false
        });
        assert!(matches!(mine, Acquisition::Mine { leased: Leased::No }));
        assert_eq!(followed.get(), MAX_RECHECKS as u64);
    }

    #[test]
    fn a_failure_keeps_every_worker_from_calling_for_a_second() {
        for (stale_if_error, serves) in [("10m", true), ("0s", false)] {
            let (host, upstream) = (FakeHost::default(), upstream(stale_if_error));
            let [mut one, mut two] = joined(&host);
            store_active(&host, &upstream);
            host.advance(TTL);
            ask(&mut one, &host, &upstream, Tombstone::Failed(host.now()));
            for worker in [&mut one, &mut two] {
                match acquire(worker, &host, &upstream) {
                    Acquisition::Failed(stale) => assert_eq!(stale.is_some(), serves),
                    _ => panic!("a call has just failed"),
                }
            }
            host.advance(LEASE);
            let later = acquire(&mut two, &host, &upstream);
            assert!(matches!(
                later,
                Acquisition::Mine {
                    leased: Leased::Loosely
                }
            ));
        }
    }

    #[test]
    fn a_full_bucket_costs_the_lease_and_not_the_call() {
        let (host, upstream) = (FakeHost::default(), upstream("0s"));
        let [mut one, mut two] = joined(&host);
        // There are 16,384 leases, and a bucket gets one in 2,048.
        for number in 0..80_000_u32 {
            let key = upstream.question(&TokenDigest::of(&number.to_le_bytes()));
            one.acquire(&callback(&host), &upstream, &key);
        }
        let key = upstream.question(&token());
        let mine = two.acquire(&callback(&host), &upstream, &key);
        assert!(matches!(mine, Acquisition::Mine { leased: Leased::No }));
    }

    #[test]
    fn a_release_tells_the_others_only_if_one_of_them_waits() {
        let (host, upstream) = (FakeHost::default(), upstream("0s"));
        let [mut one, mut two] = joined(&host);
        ask(&mut one, &host, &upstream, Tombstone::Failed(host.now()));
        assert_eq!(told(&host, 1), []);

        host.advance(LEASE);
        acquire(&mut one, &host, &upstream);
        let peer = acquire(&mut two, &host, &upstream);
        assert!(matches!(peer, Acquisition::Peer { .. }));
        let key = upstream.question(&token());
        let word = Word {
            before: host.now(),
            at: host.now(),
        };
        let failed = Hint::Failed(key, word);
        one.release(&callback(&host), key, failed, None);
        assert_eq!(told(&host, 1), [Some(failed)]);
        let wanted = [Some(Hint::Wanted(key))];
        assert_eq!(told(&host, 0), wanted, "what the other one told");
    }

    #[test]
    fn an_announcement_voids_the_stamps_of_all_workers() {
        let host = FakeHost::default();
        let [mut one, mut two] = joined(&host);
        let user = UserKey::of("alice");
        let stamp = |worker: &Workers| worker.stamp(&token(), Some(&user));
        for (subject, reason) in [
            (Subject::Token(&token()), InvalidationReason::Logout),
            (Subject::User(&user), InvalidationReason::SyncDevices),
        ] {
            let before = stamp(&two);
            assert_eq!(stamp(&one), before);
            one.announce(&callback(&host), subject, reason);
            assert_ne!(stamp(&one), before, "at once");
            assert_eq!(stamp(&two), before, "it has not looked yet");
            assert_eq!(told(&host, 1), [Some(Hint::Invalidated)]);
            two.read_epochs(&callback(&host));
            assert_eq!(stamp(&two), stamp(&one));
            assert_eq!(host.metric(Metric::Invalidated(reason)), 1);
        }
    }

    #[test]
    fn an_eviction_voids_stamps_at_the_next_tick() {
        let host = FakeHost::default();
        let [mut one, mut two] = joined(&host);
        let before = two.stamp(&token(), None);
        one.void_evicted(&callback(&host), &token());
        assert_eq!(told(&host, 1), []);
        two.attend(&callback(&host));
        assert_ne!(two.stamp(&token(), None), before);
    }
}
