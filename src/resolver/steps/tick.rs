//! What a worker does four times a second: it looks at deadlines, leases and epochs, on behalf of the callback's root.
//!
//! The non-obvious rule: a worker ticks for each of its roots, and at times for each millisecond. So what is to be done four times
//! a second goes by the clock and not by the ticks.

use alloc::rc::Rc;

use super::{
    TICK,
    counting::{count_outcome, note_duration},
    resumption::read_cache_again,
};
use crate::{
    host::{Backend, Callback},
    mas::introspection::NoVerdict,
    resolver::{
        flight::{Ready, State},
        state::Resolver,
    },
};

impl<W> Resolver<W> {
    /// Looks at all that waits.
    pub fn on_tick<H: Backend>(&mut self, cb: &Callback<'_, H>) {
        let now = cb.now();
        self.workers.check_in(cb);
        self.look_for_awaited(cb);
        self.forgive_lag(now);
        // A root that has ended left its calls free. Nobody is refused for want of one.
        self.call_from_line(cb);
        self.give_up_waiting(cb);
        self.retry(cb);
        // Before any of them ends: another worker may be calling for it once more.
        self.resume_ready(cb, Ready::Due(now));
        self.end_expired(cb);
        self.resume_ready(cb, Ready::Orphaned);
        self.call_from_line(cb);
        self.renew_leases(cb);
        self.failures.expire(now);
    }

    /// Looks for the answers of other workers if no hint may have told of them. Who finds none waits on, until the lease ends.
    /// Others may have told this worker in vain that they wait, so its leases are released with the calls.
    fn look_for_awaited<H: Backend>(&mut self, cb: &Callback<'_, H>) {
        let now = cb.now();
        // Ticks come more often than that where there are several roots, and where one is hurried.
        let is_early = self.looked_at.is_some_and(|at| now.since(at) < TICK / 2);
        if is_early || !self.workers.has_missed_hints() {
            return;
        }
        self.looked_at = Some(now);
        self.flights.keep_all_until_released();
        for key in self.flights.awaited() {
            let Some(mut flight) = self.flights.take_awaiting(&key) else {
                continue;
            };
            if let Some((_, waiting)) = flight.waiters.first() {
                flight.call.upstream = Rc::clone(&waiting.upstream);
            }
            match read_cache_again(cb, &key, &flight) {
                Some(awaited) => self.hand_out(cb, key, flight, awaited),
                None => self.flights.insert(key, flight),
            }
        }
    }

    /// Ends the waiting of the requests whose time is over. The calls go on, and their answers will be kept.
    fn give_up_waiting<H: Backend>(&mut self, cb: &Callback<'_, H>) {
        let now = cb.now();
        let limits = &mut self.limits;
        let timed_out = self.flights.drain_waiters(
            |waiting| waiting.give_up_at <= now,
            |place| limits.leave_line(place),
        );
        for (key, waiters) in timed_out {
            self.resolve_without_verdict(cb, &key.digest, waiters, NoVerdict::Lost);
        }
    }

    /// Ends the flights whose answer is no longer expected.
    fn end_expired<H: Backend>(&mut self, cb: &Callback<'_, H>) {
        let expired = Ready::Expired(cb.now());
        for key in self.flights.ready(expired) {
            let Some(flight) = self.flights.take_ready(&key, expired) else {
                continue;
            };
            match flight.state {
                State::Calling(_) => {
                    note_duration(cb, &flight);
                    count_outcome(cb, NoVerdict::Lost.outcome());
                    self.fail(cb, key, flight, NoVerdict::Lost);
                }
                State::InLine { place, .. } => {
                    self.limits.leave_line(place);
                    self.end_wait_in_line(cb, key, flight);
                }
                State::Displaced => self.end_wait_in_line(cb, key, flight),
                State::AwaitingPeer { .. } | State::Orphaned => {
                    self.fail(cb, key, flight, NoVerdict::Lost);
                }
            }
        }
    }

    fn resume_ready<H: Backend>(&mut self, cb: &Callback<'_, H>, why: Ready) {
        for key in self.flights.ready(why) {
            if let Some(flight) = self.flights.take_ready(&key, why) {
                self.resume(cb, key, flight);
            }
        }
    }

    /// Renews the leases, each four times a second: a lease outlasts two ticks that come late.
    fn renew_leases<H: Backend>(&mut self, cb: &Callback<'_, H>) {
        let now = cb.now();
        for key in self.flights.renew_leases(now.minus(TICK), now) {
            self.workers.renew(cb, &key);
        }
    }
}
