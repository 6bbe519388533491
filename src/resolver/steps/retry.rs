//! A call whose connection failed is made again: most often MAS closed a kept-alive connection just as the call went out.
//!
//! Envoy could do this, but lets no more than three calls of a cluster be repeated at a time unless its circuit breaker says
//! otherwise, and when MAS closes its connections all calls under way fail at once. What MAS has begun to answer is not asked
//! again, whatever its status.
//!
//! The non-obvious rule: the call waits a little. MAS closes its other connections as well, one after another, and Envoy learns of
//! each in its turn. A call that is repeated at once goes out on the next one that closes.

use core::time::Duration;

use crate::{
    host::{Backend, Callback},
    mas::introspection::NoVerdict,
    metrics::Metric,
    resolver::{
        call::CALL_GRACE,
        flight::{Flight, Ready, State},
        state::Resolver,
        steps::counting::{count_outcome, note_duration},
    },
};

/// How soon the tick comes that repeats calls. Envoy, too, waits so long at the most before it repeats a call.
pub const RETRY_TICK: Duration = Duration::from_millis(25);

/// How long the first of those calls waits at the least. The tick of another root may come before, and a timer a moment early.
const RETRY_DELAY: Duration = Duration::from_millis(20);

impl<W> Resolver<W> {
    /// Returns whether the flight's call is to be repeated, since its connection failed.
    pub(in crate::resolver) fn is_to_be_repeated<H: Backend>(
        &mut self,
        cb: &Callback<'_, H>,
        flight: &mut Flight<W>,
        why: NoVerdict,
    ) -> bool {
        let State::Calling(call) = &mut flight.state else {
            return false;
        };
        if call.retries == 0 {
            return false;
        }
        call.failed = why.lost_connection();
        if call.failed.is_some() {
            self.retry_at.get_or_insert(cb.now() + RETRY_DELAY);
        }
        call.failed.is_some()
    }

    /// Repeats the calls whose connection failed, if it is time to.
    pub(super) fn retry<H: Backend>(&mut self, cb: &Callback<'_, H>) {
        let now = cb.now();
        if self.retry_at.take_if(|at| *at <= now).is_none() {
            return;
        }
        for key in self.flights.ready(Ready::Failed) {
            let Some(mut flight) = self.flights.take_ready(&key, Ready::Failed) else {
                continue;
            };
            match call_again(cb, &mut flight) {
                Ok(()) => {
                    cb.host.count(Metric::Retry);
                    self.flights.insert(key, flight);
                }
                Err(why) => {
                    note_duration(cb, &flight);
                    count_outcome(cb, why.outcome());
                    self.fail(cb, key, flight, why);
                }
            }
        }
    }
}

/// Makes the flight's call again, in what is left of the time for it. If none is left, or Envoy refuses the call, returns why the
/// one before has failed.
fn call_again<H: Backend, W>(
    cb: &Callback<'_, H>,
    flight: &mut Flight<W>,
) -> Result<(), NoVerdict> {
    let left = flight.deadline.since(cb.now()).saturating_sub(CALL_GRACE);
    let State::Calling(call) = &mut flight.state else {
        return Err(NoVerdict::Lost);
    };
    let why = call
        .failed
        .take()
        .map_or(NoVerdict::Lost, NoVerdict::Unreachable);
    // Envoy takes a timeout of zero for none.
    if left.is_zero() {
        return Err(why);
    }
    let sent = flight.call.send(cb.host, cb.root, left);
    call.id = sent.map_err(|_| why)?;
    call.root = cb.root;
    call.retries = call.retries.saturating_sub(1);
    Ok(())
}
