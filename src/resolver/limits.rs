//! How much clients may cause: their budgets of unknown tokens, and the lines for free calls.

use super::{
    budget::{Budget, Spent},
    call::CallContext,
    client::ClientKey,
    line::{Line, LineFull, Ticket, Turn},
    load::{Load, PoolId},
    resolution::Query,
    upstream::Upstream,
};
use crate::{
    cache::{Cached, question::QuestionKey},
    clock::millis,
    host::{Backend, Callback},
    mas::introspection::NoVerdict,
    sorted::SortedMap,
    token::TokenDigest,
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
    line: Line,
    /// The largest cap of its questions: several configurations may share a pool.
    largest_cap: usize,
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

    /// Returns whether the client's budget allows a question about `token`.
    pub fn check_budget<H: Backend>(
        &self,
        cb: &Callback<'_, H>,
        upstream: &Upstream,
        token: &TokenDigest,
        client: Option<&ClientKey>,
    ) -> Result<(), NoVerdict> {
        let (Some(limit), Some(client)) = (&upstream.budget, client) else {
            return Ok(());
        };
        let client = client.budget(upstream.admission.pool.endpoint, limit);
        let now = cb.now();
        self.budget
            .check(cb.host, &client, token, limit, now)
            .map_err(|Spent { until }| NoVerdict::OverBudget {
                retry_after_ms: millis(until.since(now)).unsigned_abs(),
            })
    }

    /// Charges the client of a call for a token that MAS called inactive.
    pub fn charge<H: Backend>(&self, cb: &Callback<'_, H>, call: &CallContext, cached: &Cached) {
        if let (Cached::Inactive(_), Some(client), Some(limit)) =
            (cached, &call.client, &call.upstream.budget)
        {
            let client = client.budget(call.upstream.admission.pool.endpoint, limit);
            self.budget
                .charge(cb.host, &client, call.digest(), limit, cb.now());
        }
    }

    /// Puts a call's question into the line of its pool. Returns its place, and the questions that had to leave
    /// for it.
    pub fn enter_line(
        &mut self,
        call: &CallContext,
    ) -> Result<(Ticket, Vec<QuestionKey>), LineFull> {
        let key = call.upstream.question(call.digest());
        let pool = call.upstream.admission.pool;
        self.lines.update(pool, |PoolLine { line, largest_cap }| {
            *largest_cap = call.upstream.settings.max_in_flight.max(*largest_cap);
            line.push(key, call.client, call.bytes())
        })
    }

    /// Takes the next question out of a pool's line, if `turn` says so.
    pub fn next_in_line(
        &mut self,
        pool: PoolId,
        turn: impl Fn(Option<ClientKey>, &QuestionKey) -> Turn,
    ) -> Option<QuestionKey> {
        self.lines.get_mut(&pool)?.line.pop(turn)
    }

    /// Takes a question out of a pool's line.
    pub fn leave_line(&mut self, pool: PoolId, ticket: Ticket) {
        if let Some(PoolLine { line, .. }) = self.lines.get_mut(&pool) {
            line.remove(ticket);
        }
    }

    /// Returns the largest cap of the questions in a pool's line.
    pub fn largest_cap(&self, pool: PoolId) -> usize {
        self.lines.get(&pool).map_or(0, |line| line.largest_cap)
    }

    /// Forgets the lines in which no question waits.
    pub fn drop_empty_lines(&mut self) {
        self.lines.retain(|_, waiting| !waiting.line.is_empty());
    }

    /// Returns the pools that have a line.
    pub fn pools(&self) -> Vec<PoolId> {
        self.lines.keys().copied().collect()
    }
}
