//! The resolver without any role: a waiter is a number, and MAS is this file.

mod answer_order;
mod hints;
mod lag;
mod leases;
mod shares;
mod void_answers;

use std::{rc::Rc, time::Duration};

use serde_json::json;

use super::{call::CALL_GRACE, workers::Acquisition, *};
use crate::{
    config,
    host::{Runtime as _, fake::FakeHost},
    mas::provisioning::Voiding,
    metrics::IntrospectionOutcome,
    token::AccessToken,
};

const ROOT: RootId = RootId(1);
const GATEWAY: Admission = Admission {
    pool: PoolId {
        group: 0,
        endpoint: 0,
    },
    overflow: Overflow::Wait,
};
const HOMESERVER: Admission = Admission {
    pool: PoolId {
        group: 1,
        endpoint: 0,
    },
    overflow: Overflow::Refuse,
};
const TOKENS: [&str; 4] = ["token-a", "token-b", "token-c", "token-d"];
const OVERLOADED: Metric = Metric::Introspection(IntrospectionOutcome::Overloaded);

/// A request from one address.
struct Client(&'static str);

impl Origin for Client {
    fn trace(&self) -> Vec<(&'static str, String)> {
        Vec::new()
    }

    fn client_address(&self) -> Option<Vec<u8>> {
        Some(self.0.as_bytes().to_vec())
    }
}

/// How a question has ended.
#[derive(Debug, PartialEq, Eq)]
enum End {
    Active(Provenance),
    Inactive,
    None(NoVerdict),
}

impl From<&Found> for End {
    fn from(found: &Found) -> Self {
        match &found.verdict {
            Verdict::Active(_) => Self::Active(found.provenance),
            Verdict::Inactive(_) => Self::Inactive,
            Verdict::None(why) => Self::None(*why),
        }
    }
}

/// The same gateway for several workers. Each has its own, as it does in truth. An "inactive" holds for ten seconds.
fn each_with_its_own<const N: usize>() -> [Rc<Upstream>; N] {
    let settings = json!({"cache": {"negative_ttl": "10s"}});
    [(); N].map(|()| upstream(&settings, GATEWAY))
}

fn upstream(overrides: &serde_json::Value, admission: Admission) -> Rc<Upstream> {
    let mut config = json!({
        "server_name": "example.org",
        "introspection": {"cluster": "mas", "credential": {"injected": true}, "timeout": "5s"},
        "cache": {"ttl": "10s", "negative_ttl": "1s"},
    });
    merge(&mut config, overrides);
    let config = config::parse(config.to_string().as_bytes(), &|_| None).unwrap();
    let is_gateway = config.role == config::Role::Gateway;
    let reader = Consumer {
        admission,
        keeps_answers: config.role == config::Role::Introspection,
        kept_inactive: if is_gateway {
            config.cache.local_entries
        } else {
            0
        },
    };
    Rc::new(Upstream::new(&config, reader))
}

fn merge(into: &mut serde_json::Value, from: &serde_json::Value) {
    match (into, from) {
        (serde_json::Value::Object(into), serde_json::Value::Object(from)) => {
            for (key, value) in from {
                let entry = into.entry(key.clone());
                merge(entry.or_insert(serde_json::Value::Null), value);
            }
        }
        (into, from) => *into = from.clone(),
    }
}

/// One worker.
struct Worker {
    host: Rc<FakeHost>,
    resolver: Resolver<u32>,
    next_stream: u32,
    ended: std::collections::BTreeMap<u32, End>,
    /// Those whose answers a worker may keep for itself.
    cached: std::collections::BTreeSet<u32>,
}

impl Worker {
    fn new(host: &Rc<FakeHost>) -> Self {
        let mut worker = Self {
            host: Rc::clone(host),
            resolver: Resolver::default(),
            next_stream: 0,
            ended: std::collections::BTreeMap::new(),
            cached: std::collections::BTreeSet::new(),
        };
        worker.call_back(|cb, resolver| resolver.start(cb));
        worker
    }

    /// Runs one callback, and takes out what it has resolved.
    fn call_back<T>(
        &mut self,
        f: impl FnOnce(&Callback<'_, FakeHost>, &mut Resolver<u32>) -> T,
    ) -> T {
        let host = Rc::clone(&self.host);
        let cb = Callback::new(&*host, ROOT);
        let result = f(&cb, &mut self.resolver);
        while let Some(Resolution { found, waiters }) = self.resolver.poll() {
            for (_, waiting) in waiters {
                let end = End::from(&found);
                let before = self.ended.insert(waiting.waiter, end);
                assert!(before.is_none(), "a request is resolved once");
                if found.may_be_kept {
                    self.cached.insert(waiting.waiter);
                }
            }
        }
        result
    }

    /// Asks as a request does. Returns its number; [`Self::end`] tells how it ended.
    fn ask(&mut self, upstream: &Rc<Upstream>, token: &'static str, client: &Client) -> u32 {
        self.next_stream += 1;
        let stream = self.next_stream;
        let found = self.call_back(|cb, resolver| {
            let token = AccessToken::new(token.as_bytes()).unwrap();
            let query = Query {
                upstream,
                digest: TokenDigest::of(token.as_bytes()),
                token: &token,
                origin: client,
            };
            resolver
                .lookup(cb, &query)
                .or_else(|| resolver.resolve(cb, &query, Some(StreamId(stream)), stream))
        });
        if let Some(found) = found {
            self.ended.insert(stream, End::from(&found));
        }
        stream
    }

    fn end(&self, request: u32) -> Option<&End> {
        self.ended.get(&request)
    }

    /// MAS answers the oldest call.
    fn answer(&mut self, status: u16, body: &str) {
        let call = self.host.take_oldest_call();
        let response = IntrospectionResponse::json(status, body);
        self.call_back(|cb, resolver| resolver.on_call_response(cb, call, response));
    }

    /// Envoy ends the oldest call without a response.
    fn reset(&mut self) {
        let call = self.host.take_oldest_call();
        let response = IntrospectionResponse {
            status: None,
            content_type: None,
            lifetime: None,
            body: None,
        };
        self.call_back(|cb, resolver| resolver.on_call_response(cb, call, response));
    }

    /// Another worker says that the answer about `token` is in the shared cache.
    fn hint(&mut self, upstream: &Upstream, token: &str) {
        const QUEUE: QueueId = QueueId(1);
        let hint = Hint::LookAgain(upstream.question(&TokenDigest::of(token.as_bytes())));
        self.host.enqueue(QUEUE, &hint.encode());
        self.call_back(|cb, resolver| resolver.on_queue(cb, QUEUE));
    }

    fn pass(&mut self, millis: u64) {
        self.host.advance(Duration::from_millis(millis));
        self.call_back(|cb, resolver| resolver.on_tick(cb));
    }

    /// Time passes while the worker comes to its ticks.
    fn tick_for(&mut self, millis: u64) {
        (0..millis / 250).for_each(|_| self.pass(250));
    }

    fn calls(&self) -> usize {
        self.host.calls.borrow().len()
    }
}

const ACTIVE: &str = r#"{"active":true,"username":"alice"}"#;
const INACTIVE: &str = r#"{"active":false}"#;
const ALICE: Client = Client("192.0.2.1");
const BOB: Client = Client("192.0.2.2");
const CAROL: Client = Client("192.0.2.3");

/// MAS tells this worker of a user.
fn tell(worker: &mut Worker, upstream: &Upstream, user: &str, what: &Voiding) {
    let user = UserKey::of(user);
    worker.call_back(|cb, resolver| {
        let what = Invalidation::User(&user, what);
        resolver.invalidate(cb, &upstream.cache, what, InvalidationReason::ProvisionUser);
    });
}

/// Workers that can tell each other something.
fn seated<const N: usize>(host: &Rc<FakeHost>) -> [Worker; N] {
    let mut workers = [(); N].map(|()| Worker::new(host));
    host.advance(Duration::from_secs(100));
    for worker in &mut workers {
        worker.pass(0);
    }
    workers
}

/// Reads what the worker of this seat was told.
fn read_hints(worker: &mut Worker, seat: u32) {
    worker.call_back(|cb, resolver| resolver.on_queue(cb, QueueId(seat)));
}

/// The token ends, or the homeserver refuses it.
fn end(worker: &mut Worker, upstream: &Upstream, token: &str, event: Event) {
    let digest = TokenDigest::of(token.as_bytes());
    worker.call_back(|cb, resolver| {
        let what = match event {
            Event::End => Invalidation::Token(&digest),
            Event::Refusal => Invalidation::Refusal(&digest),
        };
        resolver.invalidate(cb, &upstream.cache, what, InvalidationReason::Logout);
    });
}

#[test]
fn one_call_resolves_every_request_for_a_token() {
    let mut worker = Worker::new(&Rc::default());
    let upstream = upstream(&json!({}), GATEWAY);
    let requests: Vec<_> = (0..10)
        .map(|_| worker.ask(&upstream, TOKENS[0], &ALICE))
        .collect();
    assert_eq!((worker.calls(), worker.ended.len()), (1, 0));
    worker.answer(200, ACTIVE);
    for request in requests {
        let expected = End::Active(Provenance::Introspected);
        assert_eq!(worker.end(request), Some(&expected));
    }
    let next = worker.ask(&upstream, TOKENS[0], &ALICE);
    assert_eq!(worker.end(next), Some(&End::Active(Provenance::Shared)));
    assert_eq!(worker.calls(), 0);
}

#[test]
fn a_request_that_ends_takes_nothing_from_the_others() {
    let mut worker = Worker::new(&Rc::default());
    let upstream = upstream(&json!({}), GATEWAY);
    let first = worker.ask(&upstream, TOKENS[0], &ALICE);
    let second = worker.ask(&upstream, TOKENS[0], &ALICE);
    worker.resolver.cancel(StreamId(first));
    worker.answer(200, INACTIVE);
    assert_eq!(worker.end(first), None);
    assert_eq!(worker.end(second), Some(&End::Inactive));
}

#[test]
fn two_questions_about_one_token_are_two() {
    let mut worker = Worker::new(&Rc::default());
    let one = upstream(&json!({}), GATEWAY);
    let other = upstream(
        &json!({"introspection": {"authority": "other.example.org"}}),
        GATEWAY,
    );
    let first = worker.ask(&one, TOKENS[0], &ALICE);
    let second = worker.ask(&other, TOKENS[0], &ALICE);
    assert_eq!(worker.calls(), 2);
    worker.answer(200, ACTIVE);
    assert!(worker.end(first).is_some() && worker.end(second).is_none());
    worker.answer(200, INACTIVE);
    assert_eq!(worker.end(second), Some(&End::Inactive));
}

/// Every reason for no verdict, and the requests that it ends: stale where that is allowed, none elsewhere.
#[test]
fn every_way_to_no_verdict_is_one_way() {
    type Fault = fn(&mut Worker);
    let faults: [(&str, Fault); 5] = [
        ("no call can be made", |_| {}),
        ("MAS fails", |worker| worker.answer(500, "")),
        ("not an answer", |worker| worker.answer(200, "nonsense")),
        ("the answer is lost", |worker| worker.tick_for(5_500)),
        ("calls hang", |worker| {
            worker.tick_for(1_000);
        }),
    ];
    for (name, fault) in faults {
        for stale in ["0s", "10m"] {
            let mut worker = Worker::new(&Rc::default());
            let overrides = json!({
                "cache": {"stale_if_error": stale, "refresh_ahead": false},
                "introspection": {"max_in_flight": 1},
            });
            let upstream = upstream(&overrides, GATEWAY);
            for token in [TOKENS[0], TOKENS[2]] {
                worker.ask(&upstream, token, &ALICE);
                worker.answer(200, ACTIVE);
            }
            worker.pass(10_000);
            let is_unreachable = name == "no call can be made";
            worker.host.is_unreachable.set(is_unreachable);
            if name == "calls hang" {
                // The one call about an unknown token, and the one more about a known one.
                for token in [TOKENS[1], TOKENS[2]] {
                    worker.ask(&upstream, token, &ALICE);
                }
            }
            let request = worker.ask(&upstream, TOKENS[0], &ALICE);
            fault(&mut worker);
            let end = worker.end(request);
            if stale == "0s" {
                assert!(matches!(end, Some(End::None(_))), "{name}: {end:?}");
            } else {
                assert_eq!(end, Some(&End::Active(Provenance::Stale)), "{name}");
            }
        }
    }
}

/// MAS calls the first token active, and fails when that answer is past its time.
fn fail_past_the_ttl(worker: &mut Worker, upstream: &Rc<Upstream>) {
    worker.ask(upstream, TOKENS[0], &ALICE);
    worker.answer(200, ACTIVE);
    worker.pass(10_000);
    worker.ask(upstream, TOKENS[0], &ALICE);
    worker.answer(500, "");
}

#[test]
fn a_stale_answer_serves_at_once_with_one_retry_a_second() {
    let host = Rc::<FakeHost>::default();
    let (mut one, mut two) = (Worker::new(&host), Worker::new(&host));
    let overrides = json!({"cache": {"stale_if_error": "10m", "refresh_ahead": false}});
    let upstream = upstream(&overrides, GATEWAY);
    fail_past_the_ttl(&mut one, &upstream);
    for worker in [&mut one, &mut two] {
        for _ in 0..10 {
            let request = worker.ask(&upstream, TOKENS[0], &ALICE);
            assert_eq!(worker.end(request), Some(&End::Active(Provenance::Stale)));
        }
    }
    assert_eq!(one.calls(), 0, "no worker tries again within a second");
    one.pass(1_000);
    for worker in [&mut one, &mut two] {
        for _ in 0..10 {
            let request = worker.ask(&upstream, TOKENS[0], &ALICE);
            assert_eq!(worker.end(request), Some(&End::Active(Provenance::Stale)));
        }
    }
    assert_eq!(one.calls(), 1, "one retry in the background");
    one.answer(200, ACTIVE);
    let request = one.ask(&upstream, TOKENS[0], &ALICE);
    assert_eq!(one.end(request), Some(&End::Active(Provenance::Shared)));
}

/// Of a token without an answer that could serve, nothing is remembered: anyone can invent such tokens in an outage.
#[test]
fn a_failure_is_remembered_only_where_a_stale_answer_serves() {
    for (token, is_remembered) in [(TOKENS[0], true), (TOKENS[1], false)] {
        let mut worker = Worker::new(&Rc::default());
        let overrides = json!({"cache": {"stale_if_error": "10m", "refresh_ahead": false}});
        let upstream = upstream(&overrides, GATEWAY);
        worker.ask(&upstream, TOKENS[0], &ALICE);
        worker.answer(200, ACTIVE);
        worker.pass(10_000);
        worker.ask(&upstream, token, &ALICE);
        worker.answer(500, "");
        let question = upstream.own_question(&TokenDigest::of(token.as_bytes()));
        let failed_at = worker.resolver.failures.failed_at(&question);
        assert_eq!(failed_at.is_some(), is_remembered, "{token}");
    }
}

#[test]
fn a_failure_is_forgotten_with_a_tick() {
    let mut worker = Worker::new(&Rc::default());
    let overrides = json!({"cache": {"stale_if_error": "10m", "refresh_ahead": false}});
    let upstream = upstream(&overrides, GATEWAY);
    fail_past_the_ttl(&mut worker, &upstream);
    for (millis, left) in [(119_999, 1), (1, 0)] {
        worker.pass(millis);
        assert_eq!(worker.resolver.failures.len(), left);
    }
}

#[test]
fn a_call_that_went_with_its_root_is_made_again() {
    let mut worker = Worker::new(&Rc::default());
    let upstream = upstream(&json!({}), GATEWAY);
    let request = worker.ask(&upstream, TOKENS[0], &ALICE);
    worker.resolver.on_root_end(ROOT);
    worker.host.calls.borrow_mut().clear();
    worker.pass(250);
    assert_eq!(worker.calls(), 1);
    worker.answer(200, ACTIVE);
    assert!(worker.end(request).is_some());
}

/// Envoy ends the calls of a cluster that it replaces one by one, and finds no cluster for others until the last has ended.
#[test]
fn a_call_that_ends_without_a_response_starts_no_other_before_the_next_tick() {
    let mut worker = Worker::new(&Rc::default());
    let upstream = upstream(&json!({"introspection": {"max_in_flight": 1}}), GATEWAY);
    let calls = worker.ask(&upstream, TOKENS[0], &ALICE);
    let waits = worker.ask(&upstream, TOKENS[1], &ALICE);
    worker.reset();
    assert_eq!(worker.end(calls), Some(&End::None(NoVerdict::Reset)));
    assert_eq!((worker.calls(), worker.end(waits)), (0, None));
    worker.pass(250);
    worker.answer(200, ACTIVE);
    assert!(worker.end(waits).is_some());
}

/// What was sent to the worker of this seat.
fn heard(host: &FakeHost, seat: u32) -> impl Iterator<Item = Hint> {
    std::iter::from_fn(move || host.dequeue(QueueId(seat)))
        .map(|message| Hint::decode(&message).expect("a hint"))
}
