//! A worker that is too busy to read MAS's answers for a while.
//!
//! The non-obvious rule: that time says nothing of MAS, so what waits is given it back, within limits.

use core::time::Duration;

use super::{TICK, in_line::LINE_TIMEOUT, start::max_hold};
use crate::{
    clock::Instant,
    resolver::{
        flight::{Flight, State},
        state::Resolver,
    },
};

/// A worker that comes to no tick for so long has so much else to do that MAS's answers wait in its sockets.
const BUSY: Duration = Duration::from_secs(1);

/// The most that the time in which the worker is busy lengthens a wait by.
const MAX_LAG: Duration = Duration::from_secs(30);

impl<W> Resolver<W> {
    /// Gives all that waits the time back by which this tick is late. A worker that has a thousand requests
    /// to read at once comes to nothing else for a while, and MAS's answers wait in its sockets: that time says
    /// nothing of MAS. Nothing ends before they are read.
    ///
    /// Each wait has an end all the same: a question in line waits no longer than if it had just come, and everything
    /// else no more than [`MAX_LAG`] longer.
    pub(in crate::resolver) fn forgive_lag(&mut self, now: Instant) {
        let lag = self.lag(now);
        self.ticked_at = Some(now);
        if lag.is_zero() {
            return;
        }
        for flight in self.flights.iter_mut() {
            match flight.state {
                State::InLine { .. } => {
                    flight.deadline = (flight.deadline + lag).min(now + LINE_TIMEOUT);
                }
                _ => {
                    let latest = flight.call.deadline(flight.since) + MAX_LAG;
                    postpone(&mut flight.deadline, lag, latest);
                }
            }
            for (_, waiting) in flight.waiters.iter_mut() {
                let latest = waiting.since + max_hold(&waiting.upstream) + MAX_LAG;
                postpone(&mut waiting.give_up_at, lag, latest);
            }
        }
    }

    /// Returns how late the next tick is.
    pub(super) fn lag(&self, now: Instant) -> Duration {
        let since = self.ticked_at.unwrap_or(now);
        now.since(since).saturating_sub(TICK)
    }

    /// Returns whether Envoy took a call for timed out of which this worker was busy for half the time. MAS may have
    /// answered, and Envoy had no time to read it: so MAS is asked again, once.
    pub(in crate::resolver) fn is_excused(&self, flight: &Flight<W>, now: Instant) -> bool {
        let forgiven = flight.deadline.since(flight.call.deadline(flight.since));
        let timeout = flight.call.upstream.settings.timeout;
        !flight.call.is_excused && forgiven + self.lag(now) >= timeout / 2
    }
}

/// Lets a wait end so much later, but no later than `latest`.
fn postpone(end: &mut Instant, by: Duration, latest: Instant) {
    if by >= BUSY {
        *end = latest.min(*end + by).max(*end);
    }
}
