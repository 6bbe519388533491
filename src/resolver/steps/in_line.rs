//! Questions that wait in line for a free call: how they come into it, and how they leave it without one.

use alloc::{boxed::Box, rc::Rc};
use core::time::Duration;

use super::{counting::overloaded, handing_out::next_group};
use crate::{
    cache::question::QuestionKey,
    clock::Instant,
    host::{Backend, Callback},
    mas::introspection::NoVerdict,
    metrics::Metric,
    resolver::{
        clients::{
            line::Turn,
            load::{PoolId, Slot},
        },
        flight::{Flight, MAX_WAITERS_PER_FLIGHT, State},
        resolution::Query,
        state::Resolver,
        upstream::Overflow,
    },
};

/// How long a question waits in line. It is looked at with each tick, so a request waits for a second at the
/// most, not counting what ticks are late.
pub(super) const LINE_TIMEOUT: Duration = Duration::from_millis(750);

impl<W> Resolver<W> {
    /// Puts the question of a flight into its pool's line, where it waits until then at the longest.
    pub(super) fn enter_line<H: Backend>(
        &mut self,
        cb: &Callback<'_, H>,
        flight: &mut Flight<W>,
        until: Instant,
    ) -> Result<(), NoVerdict> {
        let Ok((place, displaced)) = self.limits.enter_line(&flight.call) else {
            return Err(overloaded(cb));
        };
        cb.host.count(Metric::LineWait);
        // Their requests are answered with the next tick: this callback may answer its own only.
        for key in displaced {
            self.flights.displace(&key);
        }
        let cap = flight.call.upstream.settings.max_in_flight;
        flight.await_turn(place, cap, until);
        Ok(())
    }

    /// Takes the next question out of a pool's line, if a call for it is free.
    pub(super) fn next_in_line(&mut self, pool: PoolId) -> Option<QuestionKey> {
        let flights = &self.flights;
        let largest_cap = self.limits.largest_cap(pool);
        self.limits.next_in_line(pool, |slot, key| {
            let load = flights.load();
            match flights.cap_in_line(key) {
                // Its flight has ended.
                None => Turn::Call,
                Some(cap) if load.admits(slot, cap) => Turn::Call,
                Some(_) if load.is_full(slot, largest_cap) => Turn::Stop,
                Some(_) => Turn::Pass,
            }
        })
    }

    /// Ends a flight that has waited in line for too long, unless another worker has the answer by now.
    #[allow(clippy::boxed_local, reason = "flights are boxed everywhere")]
    pub(in crate::resolver) fn end_wait_in_line<H: Backend>(
        &mut self,
        cb: &Callback<'_, H>,
        key: QuestionKey,
        mut flight: Box<Flight<W>>,
    ) {
        let mut has_failed = false;
        while let Some(waiters) = next_group(&mut flight.waiters) {
            let Some((_, waiting)) = waiters.first() else {
                continue;
            };
            let cache = &Rc::clone(&waiting.upstream).cache;
            match cache.lookup(cb.host, &key.digest, cb.now()) {
                Some(cached) => self.resolve_waiters(&key.digest, waiters, cached, true),
                None => {
                    has_failed = true;
                    self.resolve_without_verdict(cb, &key.digest, waiters, NoVerdict::Overloaded);
                }
            }
        }
        if has_failed {
            overloaded(cb);
        }
    }

    /// Takes a flight out of its line if the shared cache has its answer by now. Otherwise it keeps its place.
    pub(in crate::resolver) fn take_answered<H: Backend>(
        &mut self,
        cb: &Callback<'_, H>,
        key: &QuestionKey,
    ) -> Option<Box<Flight<W>>> {
        let cache = &self.flights.queued(key)?.call.upstream.cache;
        cache.lookup(cb.host, &key.digest, cb.now())?;
        self.take_from_line(key)
    }

    /// Takes a flight out of its line, or one that has lost its place there.
    pub(in crate::resolver) fn take_from_line(
        &mut self,
        key: &QuestionKey,
    ) -> Option<Box<Flight<W>>> {
        let flight = self.flights.take_queued(key)?;
        if let State::InLine { place, .. } = flight.state {
            self.limits.leave_line(place);
        }
        Some(flight)
    }

    /// Returns whether a request that asks the same as others does not join them, but asks anew for all: they wait in the line of
    /// another pool, and its own has a call free; or their question has lost its place in line, and its own may find one.
    pub(in crate::resolver) fn can_overtake(&self, query: &Query<'_>, key: &QuestionKey) -> bool {
        let pool = query.upstream.admission.pool;
        self.flights
            .get(key)
            .is_some_and(|queued| match queued.state {
                State::InLine { place, .. } => {
                    let slot = Slot {
                        pool,
                        client: None,
                        is_known: queued.call.owner.is_some(),
                    };
                    place.pool != pool && self.admits(query.upstream, &slot)
                }
                State::Displaced => queued.waiters.len() < MAX_WAITERS_PER_FLIGHT,
                State::Calling(_) | State::AwaitingPeer { .. } | State::Orphaned => false,
            })
    }

    /// Returns whether a question waits in another pool's line, and this pool can neither wait nor call.
    pub(in crate::resolver) fn can_neither_wait_nor_call(
        &self,
        query: &Query<'_>,
        key: &QuestionKey,
    ) -> bool {
        let admission = query.upstream.admission;
        let queued_in = self.flights.pool_in_line(key);
        admission.overflow == Overflow::Refuse
            && queued_in.is_some_and(|queued_in| queued_in != admission.pool)
            && !self.can_overtake(query, key)
    }
}
