//! Who waits for which call, and what ends with what.

use std::{collections::BTreeSet, rc::Rc};

use super::*;
use crate::{
    config,
    resolver::{Admission, Consumer, Origin, Overflow, Query, Upstream, clients::line::Line},
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
        let reader = Consumer {
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
    let context = CallContext::new(&query, None, None);
    let mut flight = Flight::new(context, Instant::default());
    flight.deadline = DEADLINE;
    flight.state = State::Calling(ActiveCall {
        id: CallId(call),
        root,
        slot: SLOT,
        leased: Leased::No,
        leased_at: Instant::default(),
        retries: 0,
        failed: None,
        point: Point::default(),
    });
    flight
}

fn asked(call: u32) -> State {
    State::Calling(ActiveCall {
        id: CallId(call),
        root: RootId(2),
        slot: SLOT,
        leased: Leased::No,
        leased_at: Instant::default(),
        retries: 0,
        failed: None,
        point: Point::default(),
    })
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
        let mut flight = flights.end(&key(token)).unwrap();
        flight.await_turn(place, 1, DEADLINE);
        flights.insert(key(token), flight);
    }
    let mut left = Vec::new();
    let drained = flights.drain_waiters(|waiting| waiting.waiter == 1, |place| left.push(place));
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

/// None of the first ones need have an answer.
#[test]
fn of_many_questions_that_are_answered_elsewhere_each_comes_in_its_turn() {
    for number in [0, 10, MAX_LOOKS, 2 * MAX_LOOKS, 2 * MAX_LOOKS + 100] {
        let mut flights = flights(&[b"asked"]);
        for question in 0..number {
            let mut flight = flight(ROOT, 0);
            flight.await_peer(DEADLINE, Instant::default());
            flights.insert(key(&question.to_le_bytes()), flight);
        }
        for _ in 0..2 {
            let mut seen = BTreeSet::new();
            for _ in 0..number.div_ceil(MAX_LOOKS) {
                let looks = flights.awaited();
                let different: BTreeSet<_> = looks.iter().copied().collect();
                let expected = [number.min(MAX_LOOKS); 2];
                assert_eq!([looks.len(), different.len()], expected, "{number}");
                seen.extend(different);
            }
            assert_eq!(seen.len(), number);
        }
        flights.flights = SortedMap::new();
        assert!(flights.awaited().is_empty());
    }
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
