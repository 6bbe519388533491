//! What a worker knows of its questions.

use alloc::collections::VecDeque;

use super::{
    clients::load::Slot,
    failure::FailureLog,
    flight::Flights,
    limits::Limits,
    reports::{Reports, long_answer::LongAnswers},
    resolution::{Found, Provenance, Resolution, Verdict, WaiterId, Waiting},
    upstream::Upstream,
    workers::Workers,
};
use crate::{
    cache::token_secret::SharedTokenSecret, clock::Instant, maps::sorted::SortedMap,
    token::TokenDigest,
};

/// Requests that wait.
pub(super) type Waiters<W> = SortedMap<WaiterId, Waiting<W>>;

/// The questions of one worker. `W` is what a waiting request needs to go on.
#[derive(Debug)]
pub struct Resolver<W> {
    pub(super) flights: Flights<W>,
    pub(super) workers: Workers,
    pub(super) token_secret: SharedTokenSecret,
    pub(super) limits: Limits,
    pub(super) failures: FailureLog,
    pub(super) long_answers: LongAnswers,
    pub(super) reports: Reports,
    /// When this worker last looked at deadlines.
    pub(super) ticked_at: Option<Instant>,
    /// When this worker last looked for answers of which no hint may have told.
    pub(super) looked_at: Option<Instant>,
    /// From when on a tick repeats the calls whose connection failed, if there are any.
    pub(super) retry_at: Option<Instant>,
    /// How many requests have gone on before their question was resolved: the number of the next.
    pub(super) passed: u64,
    pub(super) resolutions: VecDeque<Resolution<W>>,
}

impl<W> Default for Resolver<W> {
    fn default() -> Self {
        Self {
            flights: Flights::default(),
            workers: Workers::default(),
            token_secret: SharedTokenSecret::default(),
            limits: Limits::default(),
            failures: FailureLog::default(),
            long_answers: LongAnswers::default(),
            reports: Reports::default(),
            ticked_at: None,
            looked_at: None,
            retry_at: None,
            passed: 0,
            resolutions: VecDeque::new(),
        }
    }
}

impl<W> Resolver<W> {
    pub(super) fn admits(&self, upstream: &Upstream, slot: &Slot) -> bool {
        let cap = upstream.settings.max_in_flight;
        self.flights.load().admits(slot, cap)
    }

    pub(super) fn found(
        &self,
        digest: TokenDigest,
        verdict: Verdict,
        provenance: Provenance,
    ) -> Found {
        let user = match &verdict {
            Verdict::Active(entry) => entry.user,
            Verdict::Inactive(_) | Verdict::None(_) => None,
        };
        Found {
            digest,
            stamp: self.workers.stamp(&digest, user.as_ref()),
            verdict,
            provenance,
            may_be_kept: provenance == Provenance::Shared,
        }
    }
}
