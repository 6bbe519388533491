//! What was learned lately from what passes, so that it costs MAS few questions.

use alloc::rc::Rc;
use core::time::Duration;

use super::ends::SessionEnds;
use crate::{
    cache::question::QuestionKey,
    clock::Instant,
    host::{Callback, Host, Store},
    maps::sorted::SortedMap,
    metrics::InvalidationReason,
    resolver::{Invalidation, Resolver},
    role::plugin::Plugin,
    token::TokenDigest,
};

/// A token that the homeserver refuses again and again, while MAS calls it active, costs one call in this time
/// and worker: Synapse keeps an answer of "inactive" for two minutes.
const REFUSAL_COOLDOWN: Duration = Duration::from_secs(10);

/// Refused tokens that are remembered.
const MAX_REFUSED_TOKENS: usize = 4_096;

/// Sessions that have ended, and tokens that were refused.
#[derive(Debug, Default)]
pub struct Learned {
    refused: RefusedTokens,
    pub(super) ends: SessionEnds,
}

impl Learned {
    /// Doubts what is kept of a token that was refused, unless it was lately.
    pub fn doubt<H: Host, W>(
        &mut self,
        cb: &Callback<'_, H>,
        resolver: &mut Resolver<W>,
        plugin: &Plugin,
        token: &TokenDigest,
        reason: InvalidationReason,
    ) {
        let upstream = &plugin.upstream;
        let question = upstream.question(token);
        if !self.refused.admits(&question, cb.now()) {
            return;
        }
        let what = Invalidation::Refusal(token);
        let doubted = resolver.invalidate(cb, &upstream.cache, what, reason);
        // Anyone can log an invented token out. That doubts nothing, and is forgotten.
        if doubted.is_some() || reason == InvalidationReason::Homeserver {
            self.refused.note(question, cb.now());
        }
    }

    /// Ends what waits, and forgets what is too old to matter.
    pub fn on_tick<H: Host, W>(&mut self, cb: &Callback<'_, H>, resolver: &mut Resolver<W>) {
        self.refused.expire(cb.now());
        self.ends.on_tick(cb, resolver);
    }

    /// Takes over the ends that other VMs have left.
    pub fn take_over<H: Host, W>(
        &mut self,
        cb: &Callback<'_, H>,
        resolver: &mut Resolver<W>,
        plugin: &Rc<Plugin>,
    ) {
        self.ends.take_over(cb, resolver, plugin);
    }

    /// Leaves the ends that wait to another VM.
    pub fn leave(&self, store: &impl Store) {
        self.ends.leave(store);
    }
}

/// Tokens that the homeserver or MAS refused lately, each with the MAS that is asked about it. Until the given moment a
/// further refusal asks that MAS nothing.
#[derive(Debug, Default)]
struct RefusedTokens(SortedMap<QuestionKey, Instant>);

impl RefusedTokens {
    /// Forgets what is too old to matter.
    fn expire(&mut self, now: Instant) {
        self.0.retain(|_, until| now < *until);
    }

    /// Returns whether a refusal is the first of the token for a while, and there is room for it.
    fn admits(&self, question: &QuestionKey, now: Instant) -> bool {
        let is_cooling_down = self.0.get(question).is_some_and(|until| now < *until);
        !is_cooling_down && self.0.len() < MAX_REFUSED_TOKENS
    }

    /// Notes a refusal.
    fn note(&mut self, question: QuestionKey, now: Instant) {
        self.0.insert(question, now + REFUSAL_COOLDOWN);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::{RootId, Runtime as _, fake::FakeHost};

    const NOW: Instant = Instant::from_millis(1_000_000);

    fn question(number: usize) -> QuestionKey {
        QuestionKey {
            digest: TokenDigest::of(&number.to_le_bytes()),
            fingerprint: 1,
        }
    }

    /// Notes a refusal that is admitted.
    fn admit(refused: &mut RefusedTokens, number: usize, now: Instant) -> bool {
        let is_admitted = refused.admits(&question(number), now);
        if is_admitted {
            refused.note(question(number), now);
        }
        is_admitted
    }

    #[test]
    fn a_token_is_refused_anew_after_ten_seconds_and_not_before() {
        let mut refused = RefusedTokens::default();
        let moments = [0, 9_999, 10_000, 10_001, 20_000];
        let admitted =
            moments.map(|millis| admit(&mut refused, 1, NOW + Duration::from_millis(millis)));
        assert_eq!(admitted, [true, false, true, false, true]);
    }

    #[test]
    fn refused_tokens_are_bounded_and_forgotten_with_a_tick() {
        let host = FakeHost::default();
        let mut resolver = Resolver::<u32>::default();
        let mut learned = Learned::default();
        let fill = |learned: &mut Learned, now| {
            let numbers = 0..MAX_REFUSED_TOKENS + 10;
            numbers
                .filter(|number| admit(&mut learned.refused, *number, now))
                .count()
        };
        assert_eq!(fill(&mut learned, host.now()), MAX_REFUSED_TOKENS);
        for (wait, room) in [(9_999, 0), (1, MAX_REFUSED_TOKENS)] {
            host.advance(Duration::from_millis(wait));
            learned.on_tick(&Callback::new(&host, RootId(1)), &mut resolver);
            assert_eq!(fill(&mut learned, host.now()), room);
        }
    }
}
