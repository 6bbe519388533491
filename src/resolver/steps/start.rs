//! How a question begins: with a call of this worker or of another one, in line for a free call, or not at all.

use alloc::{boxed::Box, rc::Rc};
use core::time::Duration;

use super::{
    counting::{count_outcome, overloaded},
    in_line::LINE_TIMEOUT,
};
use crate::{
    cache::{ActiveEntry, Cached},
    host::{Backend, Callback, NotSent, StreamId},
    mas::introspection::NoVerdict,
    metrics::Metric,
    resolver::{
        call::{CALL_GRACE, CallContext},
        clients::{ClientKey, load::Slot},
        flight::{ActiveCall, Flight},
        limits::Limits,
        resolution::{Query, WaiterId, Waiting},
        state::Resolver,
        upstream::{Overflow, Upstream},
        workers::{
            Acquisition,
            lease::{LEASE, Leased},
        },
    },
};

/// Longest token that MAS is asked about, in bytes. One of MAS has some hundred at the most, and a macaroon less than 1 KiB.
/// Each question holds its token while it waits, in every worker to which a client brings it.
pub const MAX_TOKEN_BYTES: usize = 4 * 1024;

/// How a question begins.
pub(in crate::resolver) enum Start<W> {
    /// Not at all: the shared cache has the answer by now.
    Hit(Cached),
    /// Not at all: another worker's call has just failed, and this stale answer serves.
    Stale(Box<ActiveEntry>),
    /// With a flight.
    Flight(Box<Flight<W>>),
}

impl<W> Resolver<W> {
    /// Names a request that is to wait.
    pub(in crate::resolver) fn waiter_id(&mut self, stream: Option<StreamId>) -> WaiterId {
        match stream {
            Some(stream) => WaiterId::Held(stream),
            None => {
                self.passed += 1;
                WaiterId::Passed(self.passed)
            }
        }
    }

    /// Returns a request as it begins to wait.
    pub(in crate::resolver) fn waiting<H: Backend>(
        &self,
        cb: &Callback<'_, H>,
        query: &Query<'_>,
        waiter: W,
    ) -> Waiting<W> {
        let now = cb.now();
        let counts_clients = self.flights.counts_clients();
        Waiting {
            upstream: Rc::clone(query.upstream),
            since: now,
            give_up_at: now + max_hold(query.upstream),
            client: counts_clients.then(|| query.client()).flatten(),
            waiter,
        }
    }

    /// Begins with a question that no flight of this worker answers, for a request in the place of `placed`.
    pub(in crate::resolver) fn begin<H: Backend>(
        &mut self,
        cb: &Callback<'_, H>,
        query: &Query<'_>,
        placed: Option<ClientKey>,
    ) -> Result<Start<W>, NoVerdict> {
        if query.token.as_bytes().len() > MAX_TOKEN_BYTES {
            return Err(NoVerdict::TokenTooLong);
        }
        let upstream = query.upstream;
        let has_room = self.flights.has_room(placed.as_ref());
        let client = placed.or_else(|| Limits::client(self.flights.load(), query));
        let slot = Slot {
            pool: upstream.admission.pool,
            client,
            is_known: false,
        };
        let matters = client.is_some() || !has_room || !self.admits(upstream, &slot);
        let owner = matters
            .then(|| upstream.cache.known_owner(cb.host, &query.digest, cb.now()))
            .flatten();
        // There is always room for the first request with a known token: nobody can invent one.
        if !has_room && owner.is_none() {
            return Err(overloaded(cb));
        }
        let mut flight = Flight::new(CallContext::new(query, client, owner), cb.now());
        let call = &mut flight.call;
        self.limits.check_budget(cb, call)?;
        if !self.admits(upstream, &call.slot()) {
            return match upstream.admission.overflow {
                Overflow::Wait => {
                    self.enter_line(cb, &mut flight, cb.now() + LINE_TIMEOUT)?;
                    Ok(Start::Flight(flight))
                }
                Overflow::Refuse => Err(overloaded(cb)),
            };
        }
        let key = query.key();
        match self.workers.acquire(cb, upstream, &key) {
            Acquisition::Hit(cached) => Ok(Start::Hit(cached)),
            Acquisition::Failed(Some(entry)) => Ok(Start::Stale(entry)),
            Acquisition::Failed(None) => Err(NoVerdict::Elsewhere),
            Acquisition::Peer { check_at } => {
                cb.host.count(Metric::LeaseWait);
                // It counts if this worker comes to make the call, when many may be under way.
                call.client = call.client.or_else(|| query.client());
                flight.await_peer(check_at, cb.now());
                Ok(Start::Flight(flight))
            }
            Acquisition::Mine { leased } => match self.call(cb, call, leased) {
                Ok(call) => {
                    flight.await_call(call, cb.now());
                    Ok(Start::Flight(flight))
                }
                Err(why) => {
                    self.release_failed(cb, upstream, key);
                    Err(why)
                }
            },
        }
    }

    /// Makes the call.
    pub(super) fn call<H: Backend>(
        &self,
        cb: &Callback<'_, H>,
        call: &CallContext,
        leased: Leased,
    ) -> Result<ActiveCall, NoVerdict> {
        let point = self.workers.point(cb);
        let settings = &call.upstream.settings;
        match call.send(cb.host, cb.root, settings.timeout) {
            Ok(id) => Ok(ActiveCall {
                id,
                root: cb.root,
                slot: call.slot(),
                leased,
                leased_at: cb.now(),
                retries: settings.own_retries(),
                failed: None,
                point,
            }),
            Err(not_sent) => {
                let why = match not_sent {
                    NotSent::UnknownCluster => NoVerdict::UnknownCluster,
                    NotSent::Refused => NoVerdict::Undeliverable,
                };
                count_outcome(cb, why.outcome());
                Err(why)
            }
        }
    }
}

/// Returns the longest that a request is held, however often its question is asked again: one call, the lease
/// of a worker that vanished, and one more call.
pub(super) fn max_hold(upstream: &Upstream) -> Duration {
    let call = upstream.settings.timeout + CALL_GRACE;
    call + LEASE + call
}
