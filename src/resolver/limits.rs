//! How much clients may cause: their budgets of inactive tokens, and the lines for free calls.

use super::{
    call::CallContext,
    clients::{
        ClientKey,
        budget::{Budget, Inactive, Spent},
        line::{Line, LineFull, LineId, Place, Turn},
        load::{Load, MAX_KNOWN, Slot},
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
    lines: SortedMap<LineId, Line>,
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
        let (Some(limit), Some(client), None) = (&call.budget, &call.client, call.owner) else {
            return Ok(());
        };
        let budget = client.budget(call.upstream.admission.pool.endpoint, limit);
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
        if let (Some(client), Some(limit)) = (&call.client, &call.budget) {
            let budget = client.budget(call.upstream.admission.pool.endpoint, limit);
            let token = Inactive {
                token: call.digest(),
                was_known: call.owner.is_some(),
            };
            self.budget.charge(cb.host, &budget, token, limit, cb.now());
        }
    }

    /// Puts a call's question into a line of its pool: into that of known tokens, unless its user has many there. Returns its
    /// place, and the questions that had to leave for it.
    #[inline(never)]
    pub fn enter_line(
        &mut self,
        call: &CallContext,
    ) -> Result<(Place, Vec<QuestionKey>), LineFull> {
        let upstream = &call.upstream;
        let mut slot = call.slot(call.owner.is_some());
        let mut line = LineId {
            pool: upstream.admission.pool,
            is_unproven: !slot.is_known,
            cap: upstream.settings.max_in_flight,
        };
        let known = self.lines.get(&line).filter(|_| slot.is_known);
        if known.is_some_and(|known| known.questions(slot.client) >= MAX_KNOWN) {
            line.is_unproven = true;
            slot = call.slot(false);
        }
        let key = upstream.question(call.digest());
        let (ticket, displaced) = self
            .lines
            .update(line, |waiting| waiting.push(key, slot.client, call.bytes()))?;
        Ok((Place { line, ticket }, displaced))
    }

    /// Takes the next question out of a line, if a call is free for it.
    pub fn next_in_line(&mut self, line: LineId, load: &Load) -> Option<QuestionKey> {
        self.lines.get_mut(&line)?.pop(|client| {
            let slot = Slot {
                pool: line.pool,
                client,
                is_known: !line.is_unproven,
            };
            if load.admits(&slot, line.cap) {
                Turn::Call
            } else if load.is_full(&slot, line.cap) {
                Turn::Stop
            } else {
                Turn::Pass
            }
        })
    }

    /// Takes a question out of its line.
    pub fn leave_line(&mut self, place: Place) {
        if let Some(line) = self.lines.get_mut(&place.line) {
            line.remove(place.ticket);
        }
    }

    /// Returns whether no question waits.
    pub fn have_no_lines(&self) -> bool {
        self.lines.is_empty()
    }

    /// Forgets the lines in which no question waits.
    pub fn drop_empty_lines(&mut self) {
        self.lines.retain(|_, line| !line.is_empty());
    }

    /// Returns the lines, of each pool those of known tokens first.
    pub fn lines(&self) -> Vec<LineId> {
        self.lines.keys().copied().collect()
    }
}
