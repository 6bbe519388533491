//! How much clients may cause: their budgets of inactive tokens, and the lines for free calls.

use alloc::vec::Vec;

use super::{
    call::CallContext,
    clients::{
        ClientKey,
        budget::{Budget, Inactive, Spent},
        line::{Line, LineFull, Place, Turn},
        load::{Load, PoolId, Slot},
    },
    resolution::Query,
    upstream::Upstream,
};
use crate::{
    cache::question::QuestionKey,
    clock::millis,
    host::{Backend, Callback},
    maps::sorted::SortedMap,
    mas::introspection::NoVerdict,
};

/// The limits, as one worker keeps them.
#[derive(Debug, Default)]
pub struct Limits {
    budget: Budget,
    lines: SortedMap<PoolId, PoolLine>,
}

/// What waits for a call of one pool.
#[derive(Debug, Default)]
struct PoolLine {
    /// Questions about tokens that MAS lately called active. They come first, and users take turns with them.
    known: Line,
    line: Line,
    /// The largest cap of its questions: several configurations may share a pool.
    largest_cap: usize,
}

impl PoolLine {
    /// Puts a call's question into one of the lines. Returns its place, and the questions that had to leave for it.
    #[inline(never)]
    fn push(&mut self, call: &CallContext) -> Result<(Place, Vec<QuestionKey>), LineFull> {
        let upstream = &call.upstream;
        let (key, is_known) = (upstream.question(call.digest()), call.owner.is_some());
        self.largest_cap = upstream.settings.max_in_flight.max(self.largest_cap);
        let line = self.of(is_known);
        let (ticket, displaced) = line.push(key, call.in_turn(), call.bytes())?;
        let place = Place {
            pool: upstream.admission.pool,
            is_known,
            ticket,
        };
        Ok((place, displaced))
    }

    fn of(&mut self, is_known: bool) -> &mut Line {
        if is_known {
            &mut self.known
        } else {
            &mut self.line
        }
    }
}

impl Limits {
    /// Returns the client of a request, if its budget or its share matters: knowing it is a host call.
    pub fn client(load: &Load, query: &Query<'_>) -> Option<ClientKey> {
        let Upstream {
            settings,
            admission,
            budget,
            ..
        } = &**query.upstream;
        if budget.is_none() && !load.counts_clients(admission.pool, settings.max_in_flight) {
            return None;
        }
        query.client()
    }

    /// Returns whether the client's budget allows a call. It allows each that is about a known token.
    pub fn check_budget<H: Backend>(
        &self,
        cb: &Callback<'_, H>,
        call: &CallContext,
    ) -> Result<(), NoVerdict> {
        let upstream = &call.upstream;
        let (Some(limit), Some(client), false) =
            (&upstream.budget, &call.client, call.owner.is_some())
        else {
            return Ok(());
        };
        let budget = client.budget(upstream.admission.pool.endpoint, limit);
        let now = cb.now();
        self.budget
            .check(cb.host, &budget, call.digest(), limit, now)
            .map_err(|Spent { until }| NoVerdict::OverBudget {
                retry_after_ms: millis(until.since(now)),
            })
    }

    /// Charges the client of a call for a token that MAS called inactive. One that was known costs nothing, but is
    /// remembered.
    pub fn charge_inactive<H: Backend>(&self, cb: &Callback<'_, H>, call: &CallContext) {
        if let (Some(client), Some(limit)) = (&call.client, &call.upstream.budget) {
            let budget = client.budget(call.upstream.admission.pool.endpoint, limit);
            let token = Inactive {
                token: call.digest(),
                was_known: call.owner.is_some(),
            };
            self.budget.charge(cb.host, &budget, token, limit, cb.now());
        }
    }

    /// Puts a call's question into the line of its pool. Returns its place, and the questions that had to leave
    /// for it.
    pub fn enter_line(
        &mut self,
        call: &CallContext,
    ) -> Result<(Place, Vec<QuestionKey>), LineFull> {
        let pool = call.upstream.admission.pool;
        self.lines.update(pool, |lines| lines.push(call))
    }

    /// Takes the next question out of a pool's line, if `turn` says so of what its call would count against.
    pub fn next_in_line(
        &mut self,
        pool: PoolId,
        turn: impl Fn(&Slot, &QuestionKey) -> Turn,
    ) -> Option<QuestionKey> {
        let lines = self.lines.get_mut(&pool)?;
        [true, false].into_iter().find_map(|is_known| {
            lines.of(is_known).pop(|client, key| {
                let slot = Slot {
                    pool,
                    client,
                    is_known,
                };
                turn(&slot, key)
            })
        })
    }

    /// Takes a question out of its line.
    pub fn leave_line(&mut self, place: Place) {
        if let Some(lines) = self.lines.get_mut(&place.pool) {
            lines.of(place.is_known).remove(place.ticket);
        }
    }

    /// Returns the largest cap of the questions in a pool's line.
    pub fn largest_cap(&self, pool: PoolId) -> usize {
        self.lines.get(&pool).map_or(0, |line| line.largest_cap)
    }

    /// Returns whether no question waits.
    pub fn have_no_lines(&self) -> bool {
        self.lines.is_empty()
    }

    /// Forgets the lines in which no question waits.
    pub fn drop_empty_lines(&mut self) {
        self.lines
            .retain(|_, lines| !lines.known.is_empty() || !lines.line.is_empty());
    }

    /// Returns the pools that have a line.
    pub fn pools(&self) -> Vec<PoolId> {
        self.lines.keys().copied().collect()
    }
}
