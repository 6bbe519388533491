//! Single-flight inside one worker: requests that need the same answer wait for one introspection.
//!
//! A flight is answered by a call of this worker, or by another worker that holds the lease.
//!
//! A flight belongs to the worker, not to the request that caused it, so a client that hangs up takes
//! nothing away from the others. A request that has gone on already can wait as well, for a verdict to count.
//! Everything is bounded: flights by configuration, waiting requests by the constants below. A flight whose
//! answer never comes ends at its deadline.

use alloc::{boxed::Box, vec::Vec};

use super::{
    call::CallContext,
    clients::{
        ClientKey,
        line::Place,
        load::{Load, PoolId, Slot},
        share::Shares,
    },
    resolution::{WaiterId, Waiting},
    workers::lease::Leased,
};
use crate::{
    cache::{question::QuestionKey, token_events::Point},
    clock::Instant,
    host::{CallId, RootId, StreamId},
    maps::sorted::SortedMap,
    mas::introspection::ConnectionFault,
};

/// Requests that may wait for one token.
pub const MAX_WAITERS_PER_FLIGHT: usize = 2_048;
/// Requests that may wait in one worker. One client has no more than its share of these places.
pub const MAX_WAITERS: usize = 16_384;

/// Flights that a worker which no hint reaches looks at in each tick, at the most: each costs several readings. Where more wait for
/// other workers, each comes in its turn.
const MAX_LOOKS: usize = 256;

/// Where the answer to a flight comes from.
///
/// | state | event | what follows |
/// |---|---|---|
/// | none yet | the lease is this worker's; another's; no call is free | Calling; AwaitingPeer; InLine, or no verdict |
/// | Calling | an answer that holds | resolved |
/// | Calling | an answer that news of a user voids | Calling once more, then resolved or no verdict |
/// | Calling | the token has ended or was refused meanwhile, or a later answer is stored | resumes |
/// | Calling | the connection failed | Calling once more, as often as configured; then as with an error |
/// | Calling | an error, or the deadline | a stale answer, or no verdict |
/// | Calling | its root ends | Orphaned, and the next tick resumes it |
/// | AwaitingPeer | a hint to look again, or `check_at` | resumes |
/// | AwaitingPeer | the hint of a failure | no verdict for those it is meant for, and the others resume |
/// | InLine | a call is free, or the cache has the answer | resumes |
/// | InLine | its time is over | from the cache, or no verdict |
/// | InLine | another question has taken its place | Displaced |
/// | Displaced | a request asks the same | begins anew, for all who wait; without a place in line, it waits with them |
/// | Displaced | the cache has the answer | resumes |
/// | Displaced | the next tick | from the cache, or no verdict |
///
/// To resume is to read the cache again. Without an answer there the flight is Calling, AwaitingPeer or InLine once more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// From a call of this worker, which goes when its root goes.
    Calling(ActiveCall),
    /// From another worker, by way of the shared cache.
    AwaitingPeer {
        /// When to look for it, unless a hint comes first.
        check_at: Instant,
    },
    /// From nowhere yet: the question waits in line for a free call.
    InLine {
        /// Its place in the line.
        place: Place,
        /// How many calls of the pool may be under way when its own is made, itself included.
        cap: usize,
    },
    /// From nowhere: another question has taken its place in line. The next tick ends it.
    Displaced,
    /// From nowhere: the call was cancelled with its root context; another root must repeat it.
    Orphaned,
}

/// A call of this worker that is under way, or is to be repeated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ActiveCall {
    /// Envoy's number of it.
    pub id: CallId,
    /// The root context that it belongs to.
    pub root: RootId,
    /// What it counts against.
    pub slot: Slot,
    /// Whether this worker holds the lease, so that other workers wait for it.
    pub leased: Leased,
    /// When it was acquired, or renewed last.
    pub leased_at: Instant,
    /// How often it may still be repeated if its connection fails.
    pub retries: u32,
    /// What has happened to its connection, while it waits for the tick that repeats it.
    pub failed: Option<ConnectionFault>,
    /// The point of all histories at which MAS was asked, or one before.
    pub point: Point,
}

/// Why a tick looks at a flight.
#[derive(Clone, Copy, Debug)]
pub enum Ready {
    /// It is answered elsewhere, and the answer may be there by now.
    Due(Instant),
    /// Its deadline has passed, or it has lost its place in line.
    Expired(Instant),
    /// Its call is gone.
    Orphaned,
    /// Its call is to be repeated.
    Failed,
}

impl Ready {
    fn holds<W>(self, flight: &Flight<W>) -> bool {
        match self {
            Self::Due(now) => {
                matches!(flight.state, State::AwaitingPeer { check_at } if check_at <= now)
            }
            Self::Expired(now) => match flight.state {
                // Who waits for another worker looks again when the lease ends, and calls then.
                State::AwaitingPeer { .. } => false,
                State::Displaced => true,
                State::Calling(_) | State::InLine { .. } | State::Orphaned => {
                    flight.deadline <= now
                }
            },
            Self::Orphaned => flight.state == State::Orphaned,
            Self::Failed => match flight.state {
                State::Calling(call) => call.failed.is_some(),
                _ => false,
            },
        }
    }
}

/// An introspection on its way: its call, and the requests that wait for its answer. `W` is what each needs to go on.
#[derive(Debug)]
pub struct Flight<W> {
    /// Since when its answer is on its way. [`State::Calling`]: the moment before MAS was asked, for the first time if the call is
    /// repeated. [`State::AwaitingPeer`]: that of the last look for the answer. In the other states nothing is on its way, and it is
    /// that of the state before, or of the flight's beginning.
    pub since: Instant,
    /// When an answer is no longer expected. That of another worker is expected until its lease ends.
    pub deadline: Instant,
    /// What was asked.
    pub call: CallContext,
    /// Who waits.
    pub waiters: SortedMap<WaiterId, Waiting<W>>,
    /// Whether a request has joined what it began with: another request, which may have left since, or a renewal. Their clients
    /// may differ.
    pub is_joined: bool,
    /// Whether another worker has told that it waits for the answer to this worker's call.
    pub is_wanted: bool,
    /// Where the answer comes from.
    pub state: State,
}

impl<W> Flight<W> {
    /// Returns a flight for a call that is still to be made. It has no waiter yet, and is orphaned until one of the methods below
    /// says where its answer comes from.
    // Inlined like `CallContext::new`, so that a flight is put together once and not handed on in parts.
    #[inline(always)]
    pub fn new(call: CallContext, now: Instant) -> Box<Self> {
        Box::new(Self {
            since: now,
            deadline: call.deadline(now),
            call,
            waiters: SortedMap::new(),
            is_joined: false,
            is_wanted: false,
            state: State::Orphaned,
        })
    }

    /// Returns whether this worker holds the lease on the question.
    pub fn leased(&self) -> Leased {
        match self.state {
            State::Calling(call) => call.leased,
            _ => Leased::No,
        }
    }

    /// Lets the lease be released in any case, since it was acquired anew.
    pub fn keep_until_released(&mut self) {
        if let State::Calling(call) = &mut self.state {
            call.leased = Leased::UntilReleased;
        }
    }

    /// Waits for the answer to a call that was made at this moment.
    pub fn await_call(&mut self, call: ActiveCall, now: Instant) {
        self.state = State::Calling(call);
        self.begin_wait(now);
    }

    /// Waits for the answer of another worker, and looks for it then, unless a hint comes first.
    pub fn await_peer(&mut self, check_at: Instant, now: Instant) {
        self.state = State::AwaitingPeer { check_at };
        self.begin_wait(now);
    }

    fn begin_wait(&mut self, now: Instant) {
        self.since = now;
        self.deadline = self.call.deadline(now);
    }

    /// Waits in line for a free call.
    pub fn await_turn(&mut self, place: Place, cap: usize, until: Instant) {
        self.state = State::InLine { place, cap };
        self.deadline = until;
    }

    /// Takes over the requests that wait with another flight of the same question. Those who have lost a place in line have waited
    /// in it, so their time is not begun anew in line. Nor is it forgotten for whom MAS was asked a second time.
    pub fn take_over(&mut self, queued: Self) {
        if let (State::InLine { .. }, State::Displaced) = (self.state, queued.state) {
            self.deadline = self.deadline.min(queued.deadline);
        }
        self.waiters = queued.waiters;
        self.call.is_repeated |= queued.call.is_repeated;
        self.is_joined = true;
    }

    /// Returns whether no request waits and no call of this worker will bring an answer.
    fn is_abandoned(&self) -> bool {
        self.waiters.is_empty() && !matches!(self.state, State::Calling(_))
    }
}

/// No room for another request to wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Full;

/// The flights of one worker. Each has a place of its own in memory, since it is handed on as a whole.
#[derive(Debug)]
pub struct Flights<W> {
    flights: SortedMap<QuestionKey, Box<Flight<W>>>,
    calls: SortedMap<CallId, QuestionKey>,
    waiters: SortedMap<WaiterId, QuestionKey>,
    load: Load,
    /// The places of the waiting requests.
    places: Shares,
    /// The last question that [`Self::awaited`] has returned.
    looked_up_to: Option<QuestionKey>,
}

impl<W> Default for Flights<W> {
    fn default() -> Self {
        Self {
            flights: SortedMap::new(),
            calls: SortedMap::new(),
            waiters: SortedMap::new(),
            load: Load::default(),
            places: Shares::default(),
            looked_up_to: None,
        }
    }
}

impl<W> Flights<W> {
    /// Returns the calls under way, by what they count against.
    pub fn load(&self) -> &Load {
        &self.load
    }

    /// Returns whether so many requests wait that a further one needs to tell its client.
    pub fn counts_clients(&self) -> bool {
        self.places.counts_clients(MAX_WAITERS)
    }

    /// Returns whether another request of `client` may wait.
    pub fn has_room(&self, client: Option<&ClientKey>) -> bool {
        self.places.admits(client, MAX_WAITERS)
    }

    /// Returns the flight of a question.
    pub fn get(&self, key: &QuestionKey) -> Option<&Flight<W>> {
        self.flights.get(key).map(|flight| &**flight)
    }

    /// Returns the flight of a question that waits in line, or has lost its place there.
    pub fn queued(&self, key: &QuestionKey) -> Option<&Flight<W>> {
        let flight = self.flights.get(key)?;
        matches!(flight.state, State::InLine { .. } | State::Displaced).then_some(flight)
    }

    /// Returns whether the question has lost its place in line.
    pub fn is_displaced(&self, key: &QuestionKey) -> bool {
        let flight = self.flights.get(key);
        flight.is_some_and(|flight| matches!(flight.state, State::Displaced))
    }

    /// Returns in which pool's line the question waits, if it does.
    pub fn pool_in_line(&self, key: &QuestionKey) -> Option<PoolId> {
        match self.flights.get(key)?.state {
            State::InLine { place, .. } => Some(place.pool),
            _ => None,
        }
    }

    /// Whether the answer to `key` is on its way.
    pub fn contains(&self, key: &QuestionKey) -> bool {
        self.flights.contains_key(key)
    }

    /// Notes that another worker waits for the answer to this worker's call. `false`: there is no call.
    pub fn note_wanted(&mut self, key: &QuestionKey) -> bool {
        match self.flights.get_mut(key) {
            Some(flight) if matches!(flight.state, State::Calling(_)) => {
                flight.is_wanted = true;
                true
            }
            _ => false,
        }
    }

    /// Notes that the answer to `key` is on its way.
    pub fn insert(&mut self, key: QuestionKey, flight: Box<Flight<W>>) {
        if let State::Calling(call) = &flight.state {
            self.calls.insert(call.id, key);
            self.load.add(&call.slot);
        }
        for (id, waiter) in flight.waiters.iter() {
            self.waiters.insert(*id, key);
            self.places.add(waiter.client.as_ref());
        }
        self.flights.insert(key, flight);
    }

    /// Returns the cap that the question, which waits in line, is subject to.
    pub fn cap_in_line(&self, key: &QuestionKey) -> Option<usize> {
        match self.flights.get(key)?.state {
            State::InLine { cap, .. } => Some(cap),
            _ => None,
        }
    }

    /// Lets `id` wait for the answer to `key`, which must be on its way.
    pub fn join(&mut self, key: QuestionKey, id: WaiterId, waiter: Waiting<W>) -> Result<(), Full> {
        let flight = self.flights.get_mut(&key).ok_or(Full)?;
        let has_room = self.places.admits(waiter.client.as_ref(), MAX_WAITERS);
        if !has_room || flight.waiters.len() >= MAX_WAITERS_PER_FLIGHT {
            return Err(Full);
        }
        self.places.add(waiter.client.as_ref());
        flight.waiters.insert(id, waiter);
        flight.is_joined = true;
        self.waiters.insert(id, key);
        Ok(())
    }

    /// Forgets the held request of a stream that has ended. A call goes on without it: its answer will be kept.
    /// Returns a flight that has ended with it.
    pub fn forget(&mut self, stream: StreamId) -> Option<Box<Flight<W>>> {
        let id = WaiterId::Held(stream);
        let key = self.waiters.remove(&id)?;
        let flight = self.flights.get_mut(&key)?;
        if let Some(waiter) = flight.waiters.remove(&id) {
            self.places.remove(waiter.client.as_ref());
        }
        if flight.is_abandoned() {
            self.flights.remove(&key)
        } else {
            None
        }
    }

    /// Ends the flight that `call` answers; `None` if it was given up before.
    pub fn complete(&mut self, call: CallId) -> Option<(QuestionKey, Box<Flight<W>>)> {
        let key = self.calls.remove(&call)?;
        Some((key, self.end(&key)?))
    }

    /// Takes out a flight that is answered elsewhere, if `key` is.
    pub fn take_awaiting(&mut self, key: &QuestionKey) -> Option<Box<Flight<W>>> {
        let State::AwaitingPeer { .. } = self.flights.get(key)?.state else {
            return None;
        };
        self.end(key)
    }

    /// Takes out a flight that waits in line, or has lost its place there, if `key` does.
    pub fn take_queued(&mut self, key: &QuestionKey) -> Option<Box<Flight<W>>> {
        self.queued(key)?;
        self.end(key)
    }

    /// Notes that another question has taken the place of this one in its line.
    pub fn displace(&mut self, key: &QuestionKey) {
        if let Some(flight) = self.flights.get_mut(key)
            && let State::InLine { .. } = flight.state
        {
            flight.state = State::Displaced;
        }
    }

    /// Returns the flights, to change what they wait for.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut Flight<W>> {
        self.flights.iter_mut().map(|(_, flight)| &mut **flight)
    }

    /// Returns the questions that are answered elsewhere, `MAX_LOOKS` of them at the most: those behind the last ones, and then
    /// the first again.
    pub fn awaited(&mut self) -> Vec<QuestionKey> {
        let (mut looks, mut first) = (Vec::new(), Vec::new());
        for (key, flight) in self.flights.iter() {
            let State::AwaitingPeer { .. } = flight.state else {
                continue;
            };
            let is_behind = self.looked_up_to.is_none_or(|last| last < *key);
            let part = if is_behind { &mut looks } else { &mut first };
            if part.len() < MAX_LOOKS {
                part.push(*key);
            }
        }
        looks.append(&mut first);
        looks.truncate(MAX_LOOKS);
        self.looked_up_to = looks.last().copied();
        looks
    }

    /// Lets the lease of every call be released in any case.
    pub fn keep_all_until_released(&mut self) {
        self.iter_mut()
            .filter(|flight| flight.leased() == Leased::UntilExpiry)
            .for_each(Flight::keep_until_released);
    }

    /// Returns the questions of the flights that are to be looked at for this reason.
    pub fn ready(&self, why: Ready) -> Vec<QuestionKey> {
        let ready = self.flights.iter().filter(|(_, flight)| why.holds(flight));
        ready.map(|(key, _)| *key).collect()
    }

    /// Takes out a flight that is still to be looked at for this reason.
    pub fn take_ready(&mut self, key: &QuestionKey, why: Ready) -> Option<Box<Flight<W>>> {
        self.flights.get(key).filter(|flight| why.holds(flight))?;
        self.end(key)
    }

    /// Returns the questions whose lease of this worker was acquired at that moment or before, and notes that each is renewed now.
    pub fn renew_leases(&mut self, since: Instant, now: Instant) -> Vec<QuestionKey> {
        let is_due = |flight: &mut Flight<W>| match &mut flight.state {
            State::Calling(call) if call.leased != Leased::No && call.leased_at <= since => {
                call.leased_at = now;
                true
            }
            _ => false,
        };
        let flights = self.flights.iter_mut();
        flights
            .filter_map(|(key, flight)| is_due(flight).then_some(*key))
            .collect()
    }

    /// Takes out the waiters that are `chosen`, by question. The calls go on: their answers will be kept. A question for which
    /// no request waits any more leaves its line: `leave_line` is called with its place.
    pub fn drain_waiters(
        &mut self,
        chosen: impl Fn(&Waiting<W>) -> bool,
        mut leave_line: impl FnMut(Place),
    ) -> Vec<(QuestionKey, SortedMap<WaiterId, Waiting<W>>)> {
        let mut taken = Vec::new();
        for (key, flight) in self.flights.iter_mut() {
            if !flight.waiters.values().any(&chosen) {
                continue;
            }
            let leave = flight.waiters.take(&chosen);
            for (id, waiter) in leave.iter() {
                self.waiters.remove(id);
                self.places.remove(waiter.client.as_ref());
            }
            taken.push((*key, leave));
        }
        self.flights.retain(|_, flight| {
            let is_abandoned = flight.is_abandoned();
            if is_abandoned && let State::InLine { place, .. } = flight.state {
                leave_line(place);
            }
            !is_abandoned
        });
        taken
    }

    /// Notes that `root` has gone, and its calls with it: Envoy will not deliver their answers.
    pub fn on_root_end(&mut self, gone: RootId) {
        for (_, flight) in self.flights.iter_mut() {
            if let State::Calling(call) = flight.state
                && call.root == gone
            {
                self.calls.remove(&call.id);
                self.load.remove(&call.slot);
                flight.state = State::Orphaned;
            }
        }
        self.flights.retain(|_, flight| !flight.is_abandoned());
    }

    /// Takes out a flight, and all that was counted for it.
    fn end(&mut self, key: &QuestionKey) -> Option<Box<Flight<W>>> {
        let flight = self.flights.remove(key)?;
        if let State::Calling(call) = &flight.state {
            self.calls.remove(&call.id);
            self.load.remove(&call.slot);
        }
        for (id, waiter) in flight.waiters.iter() {
            self.waiters.remove(id);
            self.places.remove(waiter.client.as_ref());
        }
        Some(flight)
    }
}

#[cfg(test)]
mod tests;
