//! A call whose connection failed is made again: most often MAS closed a kept-alive connection just as the call went out.
//!
//! Envoy could do this, but lets no more than three calls of a cluster be repeated at a time unless its circuit breaker says
//! otherwise, and when MAS restarts all calls under way fail at once. What MAS has begun to answer is not asked again, whatever
//! its status.
//!
//! The non-obvious rule: the next tick repeats the call, and comes after a millisecond. MAS has closed its other connections as
//! well then, and Envoy learns of each in its turn. A call that is repeated at once may go out on the next closed one.

use crate::{
    host::{Backend, Callback},
    mas::introspection::NoVerdict,
    resolver::{
        flight::{Flight, Ready, State},
        state::Resolver,
        steps::counting::{count_outcome, note_duration},
    },
};

impl<W> Resolver<W> {
    /// Returns whether the flight's call is repeated with the next tick, since its connection failed.
    pub(in crate::resolver) fn is_to_be_repeated(
        &mut self,
        flight: &mut Flight<W>,
        why: NoVerdict,
    ) -> bool {
        let State::Calling(call) = &mut flight.state else {
            return false;
        };
        if call.retries == 0 || !why.is_of_connection() {
            return false;
        }
        call.failed = Some(why);
        self.has_retries = true;
        true
    }

    /// Repeats the calls whose connection failed.
    pub(super) fn retry<H: Backend>(&mut self, cb: &Callback<'_, H>) {
        if !std::mem::take(&mut self.has_retries) {
            return;
        }
        for key in self.flights.ready(Ready::Failed) {
            let Some(mut flight) = self.flights.take_ready(&key, Ready::Failed) else {
                continue;
            };
            match call_again(cb, &mut flight) {
                None => self.flights.insert(key, flight),
                Some(why) => {
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
fn call_again<H: Backend, W>(cb: &Callback<'_, H>, flight: &mut Flight<W>) -> Option<NoVerdict> {
    let State::Calling(call) = &mut flight.state else {
        return None;
    };
    let why = call.failed.take();
    let took = cb.now().since(flight.since);
    let left = flight.call.upstream.settings.timeout.saturating_sub(took);
    // Envoy takes a timeout of zero for none.
    if left.is_zero() {
        return why;
    }
    let Ok(id) = flight.call.send(cb.host, cb.root, left) else {
        return why;
    };
    call.id = id;
    call.root = cb.root;
    call.retries = call.retries.saturating_sub(1);
    None
}
