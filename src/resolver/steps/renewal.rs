//! Answers that are renewed in the background while they serve, and stale ones that serve while MAS fails.

use crate::{
    cache::{Cached, Owner},
    host::{Backend, Callback},
    metrics::Metric,
    resolver::{
        call::CallContext,
        clients::load::Slot,
        flight::Flight,
        resolution::{Found, Provenance, Query, Verdict},
        state::Resolver,
        workers::Acquisition,
    },
};

impl<W> Resolver<W> {
    /// Renews an answer in the background while it is served. Returns the new one if another worker has renewed it.
    pub fn refresh<H: Backend>(
        &mut self,
        cb: &Callback<'_, H>,
        query: &Query<'_>,
    ) -> Option<Found> {
        let now = cb.now();
        let key = query.key();
        let own = query.upstream.own_question(&query.digest);
        let slot = Slot {
            pool: query.upstream.admission.pool,
            client: None,
            is_known: true,
        };
        if self.flights.contains(&key)
            || self.failures.is_backing_off(&own, now)
            || !self.admits(query.upstream, &slot)
        {
            return None;
        }
        if let Some(renewed) = self.lookup_renewal(cb, query) {
            return Some(renewed);
        }
        self.failures.note_attempt(own, now);
        let is_fresh = |cached: &Cached| !cached.is_due(now);
        let leased = match self
            .workers
            .acquire_without_waiting(cb, query.upstream, &key, &is_fresh)
        {
            Acquisition::Hit(cached) => {
                return Some(self.found(query.digest, cached.into(), Provenance::Shared));
            }
            Acquisition::Peer { .. } | Acquisition::Failed(_) => return None,
            Acquisition::Mine { leased } => leased,
        };
        cb.host.count(Metric::Refresh);
        let call = CallContext::new(query, None, Some(Owner(None)));
        match self.call(cb, &call, leased) {
            Ok(active) => {
                let mut flight = Flight::new(call, now);
                flight.await_call(active, now);
                self.flights.insert(key, flight);
            }
            Err(why) => {
                self.stand_in(cb, query.upstream, &query.digest, why);
                self.release_failed(cb, query.upstream, key);
            }
        }
        None
    }

    /// Returns a stale answer at once if MAS has lately failed to renew it. Starts one retry in the background
    /// at the most.
    pub(in crate::resolver) fn lookup_stale<H: Backend>(
        &mut self,
        cb: &Callback<'_, H>,
        query: &Query<'_>,
    ) -> Option<Found> {
        let (upstream, now) = (query.upstream, cb.now());
        let own = upstream.own_question(&query.digest);
        let failed_at = self.failures.failing_since(&own, now)?;
        let entry = upstream.cache.lookup_stale(cb.host, &query.digest, now)?;
        // A failure from before this answer was asked for says nothing of MAS now.
        if failed_at < entry.asked_at {
            return None;
        }
        self.refresh(cb, query);
        let verdict = Verdict::Active(entry);
        Some(self.found(query.digest, verdict, Provenance::Stale))
    }

    /// Returns an answer that needs no renewal, if another worker has stored one.
    fn lookup_renewal<H: Backend>(&self, cb: &Callback<'_, H>, query: &Query<'_>) -> Option<Found> {
        let now = cb.now();
        let cached = query.upstream.cache.lookup(cb.host, &query.digest, now)?;
        (!cached.is_due(now)).then(|| self.found(query.digest, cached.into(), Provenance::Shared))
    }
}
