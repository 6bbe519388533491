//! Single-flight inside one worker: requests that need the same answer wait for one introspection.
//!
//! A flight is answered by a call of this worker, or by another worker that holds the lease.
//!
//! A flight belongs to the worker, not to the request that caused it, so a client that hangs up takes
//! nothing away from the others. Everything is bounded: flights by configuration, waiting requests by the
//! constants below. A flight whose answer never comes ends at its deadline.

use std::collections::BTreeMap;

use super::TokenDigest;
use crate::{
    clock::Instant,
    host::{CallId, RootId, StreamId},
};

/// Requests that may wait for one token.
pub const MAX_WAITERS_PER_FLIGHT: usize = 2_048;
/// Requests that may wait in one worker.
pub const MAX_WAITERS: usize = 16_384;

/// What is being asked: the token, and the [`crate::config::Config::fingerprint`] of who is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FlightKey {
    /// Which token.
    pub digest: TokenDigest,
    /// Who is asked.
    pub fingerprint: u64,
}

impl FlightKey {
    /// Length of [`Self::to_bytes`].
    pub const BYTES: usize = 40;

    /// The key as it stands in leases and hints.
    pub fn to_bytes(self) -> [u8; Self::BYTES] {
        let mut bytes = [0; Self::BYTES];
        let (digest, fingerprint) = bytes.split_at_mut(32);
        digest.copy_from_slice(&self.digest.0);
        fingerprint.copy_from_slice(&self.fingerprint.to_le_bytes());
        bytes
    }

    /// The key from [`Self::to_bytes`].
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (digest, fingerprint) = bytes.split_first_chunk()?;
        let fingerprint = u64::from_le_bytes(fingerprint.try_into().ok()?);
        Some(Self {
            digest: TokenDigest(*digest),
            fingerprint,
        })
    }
}

/// Where the answer to a flight comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// From a call of this worker, which goes when its root goes.
    Asked {
        /// The call.
        call: CallId,
        /// The root context that it belongs to.
        root: RootId,
        /// Whether other workers wait for it, under a lease of ours.
        leased: bool,
    },
    /// From another worker, by way of the shared cache.
    Elsewhere {
        /// When to look for it, unless a hint comes first.
        look_at: Instant,
    },
    /// From nowhere: the root of the call has gone.
    Orphaned,
}

/// An introspection on its way: the question `Q`, and the requests `W` that wait for its answer.
#[derive(Debug)]
pub struct Flight<Q, W> {
    /// The moment before the request was sent.
    pub asked_at: Instant,
    /// When an answer is no longer expected.
    pub deadline: Instant,
    /// What was asked.
    pub question: Q,
    /// Who waits.
    pub waiters: BTreeMap<StreamId, W>,
    /// Where the answer comes from.
    pub stage: Stage,
}

impl<Q, W> Flight<Q, W> {
    /// Nobody waits, and no call of ours will bring an answer.
    fn is_pointless(&self) -> bool {
        self.waiters.is_empty() && !matches!(self.stage, Stage::Asked { .. })
    }
}

/// No room for another request to wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Full;

/// The flights of one worker.
#[derive(Debug)]
pub struct Flights<Q, W> {
    flights: BTreeMap<FlightKey, Flight<Q, W>>,
    calls: BTreeMap<CallId, FlightKey>,
    streams: BTreeMap<StreamId, FlightKey>,
}

impl<Q, W> Default for Flights<Q, W> {
    fn default() -> Self {
        Self {
            flights: BTreeMap::new(),
            calls: BTreeMap::new(),
            streams: BTreeMap::new(),
        }
    }
}

impl<Q, W> Flights<Q, W> {
    /// How many calls of this worker are under way.
    pub fn calls(&self) -> usize {
        self.calls.len()
    }

    /// Whether the answer to `key` is on its way.
    pub fn contains(&self, key: &FlightKey) -> bool {
        self.flights.contains_key(key)
    }

    /// Notes that the answer to `key` is on its way.
    pub fn start(&mut self, key: FlightKey, flight: Flight<Q, W>) {
        if let Stage::Asked { call, .. } = flight.stage {
            self.calls.insert(call, key);
        }
        self.streams
            .extend(flight.waiters.keys().map(|stream| (*stream, key)));
        self.flights.insert(key, flight);
    }

    /// Lets `stream` wait for the answer to `key`, which must be on its way.
    pub fn join(&mut self, key: FlightKey, stream: StreamId, waiter: W) -> Result<(), Full> {
        let flight = self.flights.get_mut(&key).ok_or(Full)?;
        if self.streams.len() >= MAX_WAITERS || flight.waiters.len() >= MAX_WAITERS_PER_FLIGHT {
            return Err(Full);
        }
        flight.waiters.insert(stream, waiter);
        self.streams.insert(stream, key);
        Ok(())
    }

    /// Forgets a stream that has gone. A call goes on without it: its answer will be kept.
    pub fn forget(&mut self, stream: StreamId) {
        let Some(key) = self.streams.remove(&stream) else {
            return;
        };
        let Some(flight) = self.flights.get_mut(&key) else {
            return;
        };
        flight.waiters.remove(&stream);
        if flight.is_pointless() {
            self.flights.remove(&key);
        }
    }

    /// Ends the flight that `call` answers; `None` if it was given up before.
    pub fn land(&mut self, call: CallId) -> Option<(FlightKey, Flight<Q, W>)> {
        let key = self.calls.remove(&call)?;
        self.end(key)
    }

    /// Ends a flight whose deadline has passed.
    pub fn overdue(&mut self, now: Instant) -> Option<(FlightKey, Flight<Q, W>)> {
        let (key, _) = self
            .flights
            .iter()
            .find(|(_, flight)| flight.deadline <= now)?;
        self.end(*key)
    }

    /// Takes out a flight that is answered elsewhere, if `key` is.
    pub fn elsewhere(&mut self, key: &FlightKey) -> Option<Flight<Q, W>> {
        let Stage::Elsewhere { .. } = self.flights.get(key)?.stage else {
            return None;
        };
        Some(self.end(*key)?.1)
    }

    /// Takes out a flight that is answered elsewhere and should be looked at.
    pub fn to_look_at(&mut self, now: Instant) -> Option<(FlightKey, Flight<Q, W>)> {
        let (key, _) = self.flights.iter().find(
            |(_, flight)| matches!(flight.stage, Stage::Elsewhere { look_at } if look_at <= now),
        )?;
        self.end(*key)
    }

    /// The flights under a lease of ours, and when each was asked.
    pub fn leased(&self) -> impl Iterator<Item = (&FlightKey, Instant)> {
        self.flights
            .iter()
            .filter_map(|(key, flight)| match flight.stage {
                Stage::Asked { leased: true, .. } => Some((key, flight.asked_at)),
                _ => None,
            })
    }

    /// Takes out everyone who waits and is `chosen`. The calls go on: their answers will be kept.
    pub fn take_waiters(&mut self, chosen: impl Fn(&W) -> bool) -> BTreeMap<StreamId, W> {
        let mut taken = BTreeMap::new();
        for flight in self
            .flights
            .values_mut()
            .filter(|flight| flight.waiters.values().any(&chosen))
        {
            let (leave, stay) = std::mem::take(&mut flight.waiters)
                .into_iter()
                .partition::<BTreeMap<_, _>, _>(|(_, waiter)| chosen(waiter));
            flight.waiters = stay;
            taken.extend(leave);
        }
        for stream in taken.keys() {
            self.streams.remove(stream);
        }
        self.flights.retain(|_, flight| !flight.is_pointless());
        taken
    }

    /// Notes that `root` has gone, and its calls with it: Envoy will not deliver their answers. Returns how
    /// many there were.
    pub fn root_gone(&mut self, gone: RootId) -> usize {
        let before = self.calls.len();
        for flight in self.flights.values_mut() {
            match flight.stage {
                Stage::Asked { call, root, .. } if root == gone => {
                    self.calls.remove(&call);
                    flight.stage = Stage::Orphaned;
                }
                _ => {}
            }
        }
        self.flights.retain(|_, flight| !flight.is_pointless());
        before - self.calls.len()
    }

    /// Takes out a flight whose call is gone.
    pub fn orphan(&mut self) -> Option<(FlightKey, Flight<Q, W>)> {
        let (key, _) = self
            .flights
            .iter()
            .find(|(_, flight)| flight.stage == Stage::Orphaned)?;
        self.end(*key)
    }

    fn end(&mut self, key: FlightKey) -> Option<(FlightKey, Flight<Q, W>)> {
        let flight = self.flights.remove(&key)?;
        if let Stage::Asked { call, .. } = flight.stage {
            self.calls.remove(&call);
        }
        for stream in flight.waiters.keys() {
            self.streams.remove(stream);
        }
        Some((key, flight))
    }
}

#[cfg(test)]
mod tests {
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;

    const ROOT: RootId = RootId(1);
    const DEADLINE: Instant = Instant::from_millis(5_500);

    fn key(token: &[u8]) -> FlightKey {
        FlightKey {
            digest: TokenDigest::of(token),
            fingerprint: 7,
        }
    }

    fn flight(root: RootId, call: u32) -> Flight<(), u32> {
        Flight {
            asked_at: Instant::default(),
            deadline: DEADLINE,
            question: (),
            waiters: BTreeMap::new(),
            stage: Stage::Asked {
                call: CallId(call),
                root,
                leased: false,
            },
        }
    }

    fn asked(call: u32) -> Stage {
        Stage::Asked {
            call: CallId(call),
            root: RootId(2),
            leased: false,
        }
    }

    fn flights(tokens: &[&[u8]]) -> Flights<(), u32> {
        let mut flights = Flights::default();
        for (call, token) in (100..).zip(tokens) {
            flights.start(key(token), flight(ROOT, call));
        }
        flights
    }

    #[test]
    fn one_call_answers_all_who_wait() {
        let mut flights = flights(&[b"a", b"b"]);
        for stream in 0..200 {
            flights.join(key(b"a"), StreamId(stream), stream).unwrap();
        }
        flights.join(key(b"b"), StreamId(999), 999).unwrap();
        let (landed, flight) = flights.land(CallId(100)).unwrap();
        assert_eq!(landed, key(b"a"));
        assert_eq!(
            flight.waiters.into_values().collect::<Vec<_>>(),
            (0..200).collect::<Vec<_>>()
        );
        assert!(flights.land(CallId(100)).is_none());
        assert_eq!(flights.calls(), 1);
    }

    #[test]
    fn a_client_that_hangs_up_leaves_the_flight_to_the_others() {
        let mut flights = flights(&[b"a"]);
        flights.join(key(b"a"), StreamId(1), 1).unwrap();
        flights.join(key(b"a"), StreamId(2), 2).unwrap();
        flights.forget(StreamId(1));
        flights.forget(StreamId(1));
        let (_, flight) = flights.land(CallId(100)).unwrap();
        assert_eq!(
            flight.waiters.into_keys().collect::<Vec<_>>(),
            [StreamId(2)]
        );
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
                waiting += usize::from(flights.join(key(token), StreamId(stream), 0).is_ok());
            }
            assert!(waiting <= MAX_WAITERS);
        }
        assert_eq!(waiting, MAX_WAITERS);
        assert_eq!(
            flights.land(CallId(100)).unwrap().1.waiters.len(),
            MAX_WAITERS_PER_FLIGHT
        );
        assert_eq!(flights.join(key(&tokens[19]), StreamId(0), 0), Ok(()));
    }

    #[test]
    fn a_lost_answer_ends_at_the_deadline() {
        let mut flights = flights(&[b"a"]);
        flights.join(key(b"a"), StreamId(1), 1).unwrap();
        assert!(flights.overdue(Instant::from_millis(5_499)).is_none());
        assert_eq!(flights.overdue(DEADLINE).unwrap().1.waiters.len(), 1);
        assert!(flights.land(CallId(100)).is_none());
        assert_eq!(flights.calls(), 0);
    }

    #[test]
    fn the_calls_of_a_root_go_with_it() {
        let mut flights = flights(&[b"a"]);
        flights.start(key(b"b"), flight(RootId(2), 7));
        flights.join(key(b"a"), StreamId(1), 1).unwrap();
        assert!(flights.orphan().is_none());
        assert_eq!(flights.root_gone(ROOT), 1);
        let (orphan, flight) = flights.orphan().unwrap();
        assert_eq!(orphan, key(b"a"));
        assert!(flights.orphan().is_none());
        flights.start(
            orphan,
            Flight {
                stage: asked(8),
                ..flight
            },
        );
        flights.forget(StreamId(1));
        assert!(flights.land(CallId(8)).unwrap().1.waiters.is_empty());
    }

    #[test]
    fn without_a_call_and_without_waiters_there_is_no_flight() {
        let mut flights = flights(&[b"a", b"b"]);
        flights.join(key(b"a"), StreamId(1), 1).unwrap();
        flights.root_gone(ROOT);
        assert!(flights.contains(&key(b"a")) && !flights.contains(&key(b"b")));
        flights.forget(StreamId(1));
        assert!(!flights.contains(&key(b"a")));
    }

    #[test]
    fn those_who_have_waited_too_long_can_be_taken_out() {
        let mut flights = flights(&[b"a"]);
        for stream in 0..10 {
            flights.join(key(b"a"), StreamId(stream), stream).unwrap();
        }
        assert_eq!(flights.take_waiters(|waiter| waiter % 2 == 0).len(), 5);
        assert_eq!(flights.take_waiters(|waiter| waiter % 2 == 0).len(), 0);
        assert_eq!(flights.land(CallId(100)).unwrap().1.waiters.len(), 5);
    }

    #[test]
    fn the_call_of_another_root_stays() {
        let mut flights = flights(&[]);
        flights.start(key(b"b"), flight(RootId(2), 7));
        flights.root_gone(ROOT);
        assert!(flights.land(CallId(100)).is_none());
        assert!(flights.land(CallId(7)).is_some());
    }
}
