//! Single-flight inside one worker: requests that need the same answer wait for one introspection.
//!
//! A flight is answered by a call of this worker, or by another worker that holds the lease.
//!
//! A flight belongs to the worker, not to the request that caused it, so a client that hangs up takes
//! nothing away from the others. A request that has gone on already can wait as well, for a verdict to count.
//! Everything is bounded: flights by configuration, waiting requests by the constants below. A flight whose
//! answer never comes ends at its deadline.

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
    cache::{ended::Point, question::QuestionKey},
    clock::Instant,
    host::{CallId, RootId, StreamId},
    maps::sorted::SortedMap,
};

/// Requests that may wait for one token.
pub const MAX_WAITERS_PER_FLIGHT: usize = 2_048;
/// Requests that may wait in one worker. One client has no more than its share of these places.
pub const MAX_WAITERS: usize = 16_384;

/// Flights that a worker which no hint reaches looks at in each tick, at the most: each costs several readings.
const MAX_LOOKS: usize = 256;

/// Where the answer to a flight comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// From a call of this worker, which goes when its root goes.
    Calling {
        /// The call.
        call: CallId,
        /// The root context that it belongs to.
        root: RootId,
        /// What it counts against.
        slot: Slot,
        /// Whether this worker holds the lease, so that other workers wait for it.
        leased: Leased,
        /// When it was acquired, or renewed last.
        leased_at: Instant,
        /// The point of all histories at which MAS was asked, or one before.
        point: Point,
    },
    /// From another worker, by way of the shared cache.
    AwaitingPeer {
        /// When to look for it, unless a hint comes first.
        check_at: Instant,
    },
    /// From nowhere yet: the question waits in line for a free call.
    Queued {
        /// Its place in the line.
        place: Place,
        /// How many calls of the pool may be under way when its own is made, itself included.
        cap: usize,
    },
    /// From nowhere: the call was cancelled with its root context; another root must repeat it.
    Orphaned,
}

/// Why a tick looks at a flight.
#[derive(Clone, Copy, Debug)]
pub enum Ready {
    /// It is answered elsewhere, and the answer may be there by now.
    Due(Instant),
    /// Its deadline has passed.
    Expired(Instant),
    /// Its call is gone.
    Orphaned,
}

impl Ready {
    fn holds<W>(self, flight: &Flight<W>) -> bool {
        match self {
            Self::Due(now) => {
                matches!(flight.state, State::AwaitingPeer { check_at } if check_at <= now)
            }
            Self::Expired(now) => flight.deadline <= now,
            Self::Orphaned => flight.state == State::Orphaned,
        }
    }
}

/// An introspection on its way: its call, and the requests that wait for its answer. `W` is what each needs to go on.
#[derive(Debug)]
pub struct Flight<W> {
    /// Since when its answer is on its way: the moment before MAS was asked, or that of the last look for an answer of another
    /// worker.
    pub since: Instant,
    /// When an answer is no longer expected.
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
    /// Returns a flight for a call that is still to be made. It has no waiter yet, and counts as orphaned until the caller says
    /// where its answer comes from.
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
            State::Calling { leased, .. } => leased,
            _ => Leased::No,
        }
    }

    /// Lets the lease be released in any case, since it was acquired anew.
    pub fn hold_tightly(&mut self) {
        if let State::Calling { leased, .. } = &mut self.state {
            *leased = Leased::Tightly;
        }
    }

    /// Returns whether no request waits and no call of this worker will bring an answer.
    fn is_abandoned(&self) -> bool {
        self.waiters.is_empty() && !matches!(self.state, State::Calling { .. })
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
}

impl<W> Default for Flights<W> {
    fn default() -> Self {
        Self {
            flights: SortedMap::new(),
            calls: SortedMap::new(),
            waiters: SortedMap::new(),
            load: Load::default(),
            places: Shares::default(),
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

    /// Returns the flight of a question that waits in line.
    pub fn queued(&self, key: &QuestionKey) -> Option<&Flight<W>> {
        let flight = self.flights.get(key)?;
        matches!(flight.state, State::Queued { .. }).then_some(flight)
    }

    /// Returns in which pool's line the question waits, if it does.
    pub fn queued_in(&self, key: &QuestionKey) -> Option<PoolId> {
        match self.flights.get(key)?.state {
            State::Queued { place, .. } => Some(place.pool),
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
            Some(flight) if matches!(flight.state, State::Calling { .. }) => {
                flight.is_wanted = true;
                true
            }
            _ => false,
        }
    }

    /// Notes that the answer to `key` is on its way.
    pub fn insert(&mut self, key: QuestionKey, flight: Box<Flight<W>>) {
        if let State::Calling { call, slot, .. } = flight.state {
            self.calls.insert(call, key);
            self.load.add(&slot);
        }
        for (id, waiter) in flight.waiters.iter() {
            self.waiters.insert(*id, key);
            self.places.add(waiter.client.as_ref());
        }
        self.flights.insert(key, flight);
    }

    /// Returns the cap that the question, which waits in line, is subject to.
    pub fn queued_cap(&self, key: &QuestionKey) -> Option<usize> {
        match self.flights.get(key)?.state {
            State::Queued { cap, .. } => Some(cap),
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
        self.end(key)
    }

    /// Takes out a flight that is answered elsewhere, if `key` is.
    pub fn take_awaiting(&mut self, key: &QuestionKey) -> Option<Box<Flight<W>>> {
        let State::AwaitingPeer { .. } = self.flights.get(key)?.state else {
            return None;
        };
        Some(self.end(*key)?.1)
    }

    /// Takes out a flight that waits in line, if `key` does.
    pub fn take_queued(&mut self, key: &QuestionKey) -> Option<Box<Flight<W>>> {
        self.queued_in(key)?;
        Some(self.end(*key)?.1)
    }

    /// Lets a flight that waits in line end at its next look: its question has left the line.
    pub fn expire_queued(&mut self, key: &QuestionKey) {
        if self.queued_in(key).is_some()
            && let Some(flight) = self.flights.get_mut(key)
        {
            flight.deadline = Instant::default();
        }
    }

    /// Returns the flights, to change what they wait for.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut Flight<W>> {
        self.flights.iter_mut().map(|(_, flight)| &mut **flight)
    }

    /// Returns the questions that are answered elsewhere, 256 of them at the most.
    pub fn awaited(&self) -> Vec<QuestionKey> {
        let is_awaited = |flight: &Flight<W>| matches!(flight.state, State::AwaitingPeer { .. });
        let awaited = self.flights.iter().filter(|(_, flight)| is_awaited(flight));
        awaited.take(MAX_LOOKS).map(|(key, _)| *key).collect()
    }

    /// Lets the lease of every call be released in any case.
    pub fn hold_all_tightly(&mut self) {
        self.iter_mut()
            .filter(|flight| flight.leased() == Leased::Loosely)
            .for_each(Flight::hold_tightly);
    }

    /// Returns the questions of the flights that are to be looked at for this reason.
    pub fn ready(&self, why: Ready) -> Vec<QuestionKey> {
        let ready = self.flights.iter().filter(|(_, flight)| why.holds(flight));
        ready.map(|(key, _)| *key).collect()
    }

    /// Takes out a flight that is still to be looked at for this reason.
    pub fn take_ready(&mut self, key: &QuestionKey, why: Ready) -> Option<Box<Flight<W>>> {
        self.flights.get(key).filter(|flight| why.holds(flight))?;
        Some(self.end(*key)?.1)
    }

    /// Returns the questions whose lease of this worker was acquired at that moment or before, and notes that each is renewed now.
    pub fn renew_leases(&mut self, since: Instant, now: Instant) -> Vec<QuestionKey> {
        let is_due = |flight: &mut Flight<W>| match &mut flight.state {
            State::Calling {
                leased, leased_at, ..
            } if *leased != Leased::No && *leased_at <= since => {
                *leased_at = now;
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
            if is_abandoned && let State::Queued { place, .. } = flight.state {
                leave_line(place);
            }
            !is_abandoned
        });
        taken
    }

    /// Notes that `root` has gone, and its calls with it: Envoy will not deliver their answers.
    pub fn on_root_end(&mut self, gone: RootId) {
        for (_, flight) in self.flights.iter_mut() {
            match flight.state {
                State::Calling {
                    call, root, slot, ..
                } if root == gone => {
                    self.calls.remove(&call);
                    self.load.remove(&slot);
                    flight.state = State::Orphaned;
                }
                _ => {}
            }
        }
        self.flights.retain(|_, flight| !flight.is_abandoned());
    }

    fn end(&mut self, key: QuestionKey) -> Option<(QuestionKey, Box<Flight<W>>)> {
        let flight = self.flights.remove(&key)?;
        if let State::Calling { call, slot, .. } = flight.state {
            self.calls.remove(&call);
            self.load.remove(&slot);
        }
        for (id, waiter) in flight.waiters.iter() {
            self.waiters.remove(id);
            self.places.remove(waiter.client.as_ref());
        }
        Some((key, flight))
    }
}

#[cfg(test)]
mod tests {
    use std::rc::Rc;

    use super::*;
    use crate::{
        config,
        resolver::{Admission, Origin, Overflow, Query, Reader, Upstream, clients::line::Line},
        token::{AccessToken, TokenDigest},
    };

    const CONFIGURATION: &str = r#"{"server_name": "a.b", "introspection": {"cluster": "mas", "credential": {"injected": true}}}"#;

    const ROOT: RootId = RootId(1);
    const SLOT: Slot = Slot {
        pool: PoolId {
            group: 0,
            endpoint: 0,
        },
        client: None,
        is_known: false,
    };
    const DEADLINE: Instant = Instant::from_millis(5_500);

    fn held(stream: u32) -> WaiterId {
        WaiterId::Held(StreamId(stream))
    }

    fn key(token: &[u8]) -> QuestionKey {
        QuestionKey {
            digest: TokenDigest::of(token),
            fingerprint: 7,
        }
    }

    /// A request that tells nothing of its client.
    struct Nobody;

    impl Origin for Nobody {
        fn trace(&self) -> Vec<(&'static str, String)> {
            Vec::new()
        }

        fn client_address(&self) -> Option<Vec<u8>> {
            None
        }
    }

    thread_local! {
        static UPSTREAM: Rc<Upstream> = {
            let config = config::parse(CONFIGURATION.as_bytes(), &|_| None).unwrap();
            let reader = Reader {
            admission: Admission {
                pool: SLOT.pool,
                overflow: Overflow::Wait,
            },
            keeps_answers: false,
            kept_inactive: 0,
            };
            Rc::new(Upstream::new(&config, reader))
        };
    }

    fn upstream() -> Rc<Upstream> {
        UPSTREAM.with(Rc::clone)
    }

    /// A request that waits, which is a number.
    fn request(waiter: u32, client: Option<ClientKey>) -> Waiting<u32> {
        Waiting {
            since: Instant::default(),
            give_up_at: DEADLINE,
            upstream: upstream(),
            client,
            waiter,
        }
    }

    fn numbers(flight: &Flight<u32>) -> Vec<u32> {
        flight
            .waiters
            .values()
            .map(|waiting| waiting.waiter)
            .collect()
    }

    fn flight(root: RootId, call: u32) -> Box<Flight<u32>> {
        let token = AccessToken::new("a token".as_bytes()).unwrap();
        let query = Query {
            upstream: &upstream(),
            token: &token,
            digest: TokenDigest::of(token.as_bytes()),
            origin: &Nobody,
        };
        let context = CallContext::new(&query, None, false);
        let mut flight = Flight::new(context, Instant::default());
        flight.deadline = DEADLINE;
        flight.state = State::Calling {
            call: CallId(call),
            root,
            slot: SLOT,
            leased: Leased::No,
            leased_at: Instant::default(),
            point: Point::default(),
        };
        flight
    }

    fn asked(call: u32) -> State {
        State::Calling {
            call: CallId(call),
            root: RootId(2),
            slot: SLOT,
            leased: Leased::No,
            leased_at: Instant::default(),
            point: Point::default(),
        }
    }

    fn flights(tokens: &[&[u8]]) -> Flights<u32> {
        let mut flights = Flights::default();
        for (call, token) in (100..).zip(tokens) {
            flights.insert(key(token), flight(ROOT, call));
        }
        flights
    }

    #[test]
    fn one_call_answers_all_who_wait() {
        let mut flights = flights(&[b"a", b"b"]);
        for stream in 0..200 {
            flights
                .join(key(b"a"), held(stream), request(stream, None))
                .unwrap();
        }
        flights
            .join(key(b"b"), held(999), request(999, None))
            .unwrap();
        let (landed, flight) = flights.complete(CallId(100)).unwrap();
        assert_eq!(landed, key(b"a"));
        assert_eq!(numbers(&flight), (0..200).collect::<Vec<_>>());
        assert!(flights.complete(CallId(100)).is_none());
        assert_eq!((flights.calls.len(), flights.load.total(SLOT.pool)), (1, 1));
    }

    #[test]
    fn a_client_that_hangs_up_leaves_the_flight_to_the_others() {
        let mut flights = flights(&[b"a"]);
        flights.join(key(b"a"), held(1), request(1, None)).unwrap();
        flights.join(key(b"a"), held(2), request(2, None)).unwrap();
        flights.forget(StreamId(1));
        flights.forget(StreamId(1));
        let (_, flight) = flights.complete(CallId(100)).unwrap();
        assert_eq!(
            flight.waiters.keys().copied().collect::<Vec<_>>(),
            [held(2)]
        );
    }

    #[test]
    fn a_request_that_has_gone_on_waits_whatever_becomes_of_its_stream() {
        let mut flights = flights(&[b"a"]);
        flights.join(key(b"a"), held(1), request(1, None)).unwrap();
        flights
            .join(key(b"a"), WaiterId::Passed(1), request(2, None))
            .unwrap();
        flights.on_root_end(ROOT);
        assert!(flights.forget(StreamId(1)).is_none());
        let flight = flights.take_ready(&key(b"a"), Ready::Orphaned).unwrap();
        assert_eq!(numbers(&flight), [2]);
        assert!(flights.waiters.is_empty());
    }

    #[test]
    fn waiting_is_bounded_per_token_and_in_all() {
        let tokens: Vec<Vec<u8>> = (0..20).map(|n| vec![n]).collect();
        let mut flights = flights(&tokens.iter().map(Vec::as_slice).collect::<Vec<_>>());
        let mut stream = 0;
        let mut waiting = 0;
        for token in &tokens {
            for _ in 0..=MAX_WAITERS_PER_FLIGHT {
                stream += 1;
                waiting += usize::from(
                    flights
                        .join(key(token), held(stream), request(0, None))
                        .is_ok(),
                );
            }
            assert!(waiting <= MAX_WAITERS);
        }
        assert_eq!(waiting, MAX_WAITERS);
        assert_eq!(
            flights.complete(CallId(100)).unwrap().1.waiters.len(),
            MAX_WAITERS_PER_FLIGHT
        );
        assert_eq!(
            flights.join(key(&tokens[19]), held(0), request(0, None)),
            Ok(())
        );
    }

    #[test]
    fn every_way_out_gives_the_place_back() {
        let client = ClientKey([1; 32]);
        let mut flights = flights(&[b"a", b"b", b"c"]);
        for (stream, token) in [(1, b"a"), (2, b"a"), (3, b"b"), (4, b"c")] {
            flights
                .join(key(token), held(stream), request(0, Some(client)))
                .unwrap();
        }
        flights.forget(StreamId(1));
        flights.forget(StreamId(1));
        let (question, flight) = flights.complete(CallId(101)).unwrap();
        flights.insert(question, flight);
        assert_eq!(flights.places.total(), 3);
        let taken_out = flights.drain_waiters(|_| true, |_| {});
        assert_eq!((taken_out.len(), &flights.places), (3, &Shares::default()));
        flights
            .join(key(b"a"), held(5), request(0, Some(client)))
            .unwrap();
        flights.complete(CallId(100)).unwrap();
        assert_eq!(flights.places, Shares::default());
    }

    /// Its place would belong to the next flight of its question, which would end when the place is displaced.
    #[test]
    fn a_question_that_is_given_up_leaves_its_line() {
        let line = |token: &[u8]| {
            let mut line = Line::default();
            let (ticket, _) = line.push(key(token), None, 1).unwrap();
            (
                line,
                Place {
                    pool: SLOT.pool,
                    is_known: false,
                    ticket,
                },
            )
        };
        let ((mut line_a, place_a), (_, place_b)) = (line(b"a"), line(b"b"));
        let mut flights = flights(&[b"a", b"b", b"c"]);
        for (stream, token, waiter) in [(1, b"a", 1), (2, b"b", 1), (3, b"b", 2), (4, b"c", 1)] {
            flights
                .join(key(token), held(stream), request(waiter, None))
                .unwrap();
        }
        for (token, place) in [(b"a", place_a), (b"b", place_b)] {
            let (question, mut flight) = flights.end(key(token)).unwrap();
            flight.state = State::Queued { place, cap: 1 };
            flights.insert(question, flight);
        }
        let mut left = Vec::new();
        let drained =
            flights.drain_waiters(|waiting| waiting.waiter == 1, |place| left.push(place));
        assert_eq!((drained.len(), left), (3, vec![place_a]));
        assert!(!flights.contains(&key(b"a")) && flights.contains(&key(b"b")));
        line_a.remove(place_a.ticket);
        assert!(line_a.is_empty());
    }

    #[test]
    fn a_lost_answer_ends_at_the_deadline() {
        let mut flights = flights(&[b"a"]);
        flights.join(key(b"a"), held(1), request(1, None)).unwrap();
        let early = Ready::Expired(Instant::from_millis(5_499));
        assert!(flights.ready(early).is_empty() && flights.take_ready(&key(b"a"), early).is_none());
        let late = Ready::Expired(DEADLINE);
        assert_eq!(flights.ready(late), [key(b"a")]);
        let flight = flights.take_ready(&key(b"a"), late).unwrap();
        assert_eq!(flight.waiters.len(), 1);
        assert!(flights.complete(CallId(100)).is_none());
        assert_eq!((flights.calls.len(), flights.load.total(SLOT.pool)), (0, 0));
    }

    #[test]
    fn the_calls_of_a_root_go_with_it() {
        let mut flights = flights(&[b"a"]);
        flights.insert(key(b"b"), flight(RootId(2), 7));
        flights.join(key(b"a"), held(1), request(1, None)).unwrap();
        assert!(flights.ready(Ready::Orphaned).is_empty());
        flights.on_root_end(ROOT);
        assert_eq!(flights.calls.len(), 1);
        let orphan = key(b"a");
        assert_eq!(flights.ready(Ready::Orphaned), [orphan]);
        let flight = flights.take_ready(&orphan, Ready::Orphaned).unwrap();
        assert!(flights.ready(Ready::Orphaned).is_empty());
        flights.insert(
            orphan,
            Box::new(Flight {
                state: asked(8),
                ..*flight
            }),
        );
        flights.forget(StreamId(1));
        assert!(flights.complete(CallId(8)).unwrap().1.waiters.is_empty());
    }

    #[test]
    fn without_a_call_and_without_waiters_there_is_no_flight() {
        let mut flights = flights(&[b"a", b"b"]);
        flights.join(key(b"a"), held(1), request(1, None)).unwrap();
        flights.on_root_end(ROOT);
        assert!(flights.contains(&key(b"a")) && !flights.contains(&key(b"b")));
        flights.forget(StreamId(1));
        assert!(!flights.contains(&key(b"a")));
    }

    #[test]
    fn those_who_have_waited_too_long_can_be_taken_out() {
        let mut flights = flights(&[b"a"]);
        for stream in 0..10 {
            flights
                .join(key(b"a"), held(stream), request(stream, None))
                .unwrap();
        }
        let drained = flights.drain_waiters(|waiting| waiting.waiter % 2 == 0, |_| {});
        let [(question, waiters)] = drained.as_slice() else {
            panic!("one question");
        };
        assert_eq!((*question, waiters.len()), (key(b"a"), 5));
        assert!(
            flights
                .drain_waiters(|waiting| waiting.waiter % 2 == 0, |_| {})
                .is_empty()
        );
        assert_eq!(flights.complete(CallId(100)).unwrap().1.waiters.len(), 5);
    }

    #[test]
    fn the_call_of_another_root_stays() {
        let mut flights = flights(&[]);
        flights.insert(key(b"b"), flight(RootId(2), 7));
        flights.on_root_end(ROOT);
        assert!(flights.complete(CallId(100)).is_none());
        assert!(flights.complete(CallId(7)).is_some());
    }
}
