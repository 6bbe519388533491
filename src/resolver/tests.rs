//! The resolver without any role: a waiter is a number, and MAS is this file.

mod several;

use std::{rc::Rc, time::Duration};

use serde_json::json;

use super::{call::CALL_GRACE, workers::Acquisition, *};
use crate::{
    config,
    host::{Runtime as _, fake::FakeHost},
    mas::provisioning::Revocation,
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

/// MAS tells this worker of a user.
fn tell(worker: &mut Worker, upstream: &Upstream, user: &str, what: &Revocation) {
    let user = UserKey::of(user);
    worker.call_back(|cb, resolver| {
        let what = Invalidation::User(&user, what);
        resolver.invalidate(cb, &upstream.cache, what, InvalidationReason::ProvisionUser);
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

#[test]
fn a_stale_answer_serves_at_once_with_one_retry_a_second() {
    let host = Rc::<FakeHost>::default();
    let (mut one, mut two) = (Worker::new(&host), Worker::new(&host));
    let overrides = json!({"cache": {"stale_if_error": "10m", "refresh_ahead": false}});
    let upstream = upstream(&overrides, GATEWAY);
    one.ask(&upstream, TOKENS[0], &ALICE);
    one.answer(200, ACTIVE);
    one.pass(10_000);
    one.ask(&upstream, TOKENS[0], &ALICE);
    one.answer(500, "");
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

#[test]
fn a_question_over_the_cap_waits_in_line() {
    let mut worker = Worker::new(&Rc::default());
    let upstream = upstream(&json!({"introspection": {"max_in_flight": 1}}), GATEWAY);
    let requests = TOKENS.map(|token| worker.ask(&upstream, token, &ALICE));
    for request in requests {
        assert_eq!(worker.calls(), 1, "never more than the cap");
        assert_eq!(worker.end(request), None);
        worker.answer(200, ACTIVE);
        assert!(worker.end(request).is_some());
    }
    assert_eq!(worker.calls(), 0);
}

#[test]
fn the_line_serves_clients_in_turn() {
    let mut worker = Worker::new(&Rc::default());
    let upstream = upstream(&json!({"introspection": {"max_in_flight": 1}}), GATEWAY);
    let [.., flood] =
        [TOKENS[0], TOKENS[1], TOKENS[2]].map(|token| worker.ask(&upstream, token, &ALICE));
    let other = worker.ask(&upstream, TOKENS[3], &BOB);
    worker.answer(200, ACTIVE);
    worker.answer(200, ACTIVE);
    worker.answer(200, ACTIVE);
    assert!(worker.end(other).is_some() && worker.end(flood).is_none());
}

#[test]
fn a_hint_without_an_answer_costs_no_place_in_line() {
    let mut worker = Worker::new(&Rc::default());
    let upstream = upstream(&json!({"introspection": {"max_in_flight": 1}}), GATEWAY);
    let [_, first, second] =
        [TOKENS[0], TOKENS[1], TOKENS[2]].map(|token| worker.ask(&upstream, token, &ALICE));
    worker.hint(&upstream, TOKENS[1]);
    worker.answer(200, ACTIVE);
    worker.answer(200, ACTIVE);
    assert!(worker.end(first).is_some() && worker.end(second).is_none());
}

#[test]
fn hints_without_an_answer_give_no_more_time() {
    let mut worker = Worker::new(&Rc::default());
    let upstream = upstream(&json!({"introspection": {"max_in_flight": 1}}), GATEWAY);
    let [_, waits] = [TOKENS[0], TOKENS[1]].map(|token| worker.ask(&upstream, token, &ALICE));
    for _ in 0..3 {
        assert_eq!(worker.end(waits), None);
        worker.hint(&upstream, TOKENS[1]);
        worker.pass(250);
    }
    assert_eq!(worker.end(waits), Some(&End::None(NoVerdict::Overloaded)));
}

#[test]
fn a_request_that_leaves_the_line_costs_no_call() {
    let mut worker = Worker::new(&Rc::default());
    let upstream = upstream(&json!({"introspection": {"max_in_flight": 1}}), GATEWAY);
    worker.ask(&upstream, TOKENS[0], &ALICE);
    let gone = worker.ask(&upstream, TOKENS[1], &ALICE);
    let stays = worker.ask(&upstream, TOKENS[2], &ALICE);
    worker.resolver.cancel(StreamId(gone));
    worker.answer(200, ACTIVE);
    worker.answer(200, ACTIVE);
    assert!(worker.end(stays).is_some());
    assert_eq!(worker.calls(), 0);
}

#[test]
fn another_pool_has_a_cap_of_its_own_and_does_not_wait_in_line() {
    let mut worker = Worker::new(&Rc::default());
    let settings = json!({"introspection": {"max_in_flight": 1}});
    let (gateway, homeserver) = (
        upstream(&settings, GATEWAY),
        upstream(&settings, HOMESERVER),
    );
    worker.ask(&gateway, TOKENS[0], &ALICE);
    let queued = worker.ask(&gateway, TOKENS[1], &ALICE);
    assert_eq!(worker.calls(), 1);
    // The same question, asked at once by a pool that has room.
    let overtaking = worker.ask(&homeserver, TOKENS[1], &BOB);
    assert_eq!(worker.calls(), 2);
    let refused = worker.ask(&homeserver, TOKENS[2], &BOB);
    assert_eq!(worker.end(refused), Some(&End::None(NoVerdict::Overloaded)));
    worker.answer(200, INACTIVE);
    worker.answer(200, ACTIVE);
    for request in [queued, overtaking] {
        assert_eq!(
            worker.end(request),
            Some(&End::Active(Provenance::Introspected))
        );
    }
    assert_eq!(worker.calls(), 0, "the question has left the line");
}

#[test]
fn the_budget_counts_what_mas_called_inactive() {
    let mut worker = Worker::new(&Rc::default());
    let budget = json!({"unknown_token_budget": {"per_source": 2, "window": "1m"}});
    let upstream = upstream(&budget, GATEWAY);
    for answer in [(500, ""), (200, ACTIVE)] {
        for token in TOKENS {
            worker.ask(&upstream, token, &ALICE);
            worker.answer(answer.0, answer.1);
        }
        worker.pass(11_000);
    }
    // Sessions that have ended cost nothing.
    for token in TOKENS {
        worker.ask(&upstream, token, &ALICE);
        worker.answer(200, INACTIVE);
    }
    worker.pass(1_000);
    const UNKNOWN: [&str; 3] = ["unknown-a", "unknown-b", "unknown-c"];
    for token in [UNKNOWN[0], UNKNOWN[1], UNKNOWN[0]] {
        worker.ask(&upstream, token, &ALICE);
        worker.answer(200, INACTIVE);
        worker.pass(1_000);
    }
    let over = worker.ask(&upstream, UNKNOWN[2], &ALICE);
    assert!(matches!(
        worker.end(over),
        Some(End::None(NoVerdict::OverBudget { .. }))
    ));
    for dead in [UNKNOWN[1], TOKENS[1]] {
        let dead = worker.ask(&upstream, dead, &ALICE);
        worker.answer(200, INACTIVE);
        assert_eq!(worker.end(dead), Some(&End::Inactive));
    }
    let other = worker.ask(&upstream, UNKNOWN[2], &BOB);
    assert_eq!(worker.end(other), None, "asked about");
}

/// Alice spends her budget while a question of hers waits in line, which Bob has joined. Who of them waits in the end
/// does not matter: he is not told that he has asked too much.
#[test]
fn a_client_is_not_told_of_the_budget_of_another() {
    for alice_waits in [true, false] {
        for bob_joins in [true, false] {
            let mut worker = Worker::new(&Rc::default());
            let limits = json!({
                "introspection": {"max_in_flight": 1},
                "unknown_token_budget": {"per_source": 1, "window": "1m"},
            });
            let upstream = upstream(&limits, GATEWAY);
            worker.ask(&upstream, TOKENS[0], &ALICE);
            let alice = worker.ask(&upstream, TOKENS[1], &ALICE);
            let bob = bob_joins.then(|| worker.ask(&upstream, TOKENS[1], &BOB));
            if !alice_waits {
                worker.resolver.cancel(StreamId(alice));
            }
            worker.answer(200, INACTIVE);
            let over_budget =
                |end: Option<&End>| matches!(end, Some(End::None(NoVerdict::OverBudget { .. })));
            assert_eq!(over_budget(worker.end(alice)), alice_waits && !bob_joins);
            if let Some(bob) = bob {
                let overloaded = End::None(NoVerdict::Overloaded);
                assert_eq!(worker.end(bob), Some(&overloaded), "{alice_waits}");
            }
            assert_eq!(worker.calls(), 0);
        }
    }
}

/// As before, for a question that another pool has taken over from the line, and that is put back there.
#[test]
fn a_client_is_not_told_of_the_budget_of_another_pools_client() {
    let mut worker = Worker::new(&Rc::default());
    let limits = |max_in_flight: u32| {
        json!({
            "introspection": {"max_in_flight": max_in_flight},
            "unknown_token_budget": {"per_source": 1, "window": "1m"},
        })
    };
    let gateway = upstream(&limits(1), GATEWAY);
    let homeserver = upstream(&limits(2), HOMESERVER);
    worker.ask(&gateway, TOKENS[0], &ALICE);
    let alice = worker.ask(&gateway, TOKENS[1], &ALICE);
    let [gone, _] = [TOKENS[1], TOKENS[2]].map(|token| worker.ask(&homeserver, token, &BOB));
    assert_eq!(worker.calls(), 3);
    worker.resolver.cancel(StreamId(gone));
    // Bob's second token is inactive, and the answer about his first comes too late.
    worker.host.calls.borrow_mut().rotate_left(2);
    worker.answer(200, INACTIVE);
    worker.host.calls.borrow_mut().rotate_left(1);
    worker.call_back(|cb, resolver| {
        let token = TokenDigest::of(TOKENS[1].as_bytes());
        let what = Invalidation::Token(&token);
        resolver.invalidate(cb, &gateway.cache, what, InvalidationReason::Logout)
    });
    worker.answer(200, ACTIVE);
    assert_eq!((worker.calls(), worker.end(alice)), (1, None), "in line");
    worker.answer(200, ACTIVE);
    let overloaded = End::None(NoVerdict::Overloaded);
    assert_eq!(worker.end(alice), Some(&overloaded));
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
        let question = upstream.question(&TokenDigest::of(token.as_bytes()));
        let failed_at = worker.resolver.failures.failed_at(&question);
        assert_eq!(failed_at.is_some(), is_remembered, "{token}");
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

/// The calls of the root are free again. The question has waited for long enough by the next tick, and is asked then.
#[test]
fn a_question_in_line_gets_the_call_of_a_root_that_has_ended() {
    let mut worker = Worker::new(&Rc::default());
    let upstream = upstream(&json!({"introspection": {"max_in_flight": 1}}), GATEWAY);
    let calls = worker.ask(&upstream, TOKENS[0], &ALICE);
    let waits = worker.ask(&upstream, TOKENS[1], &ALICE);
    worker.pass(250);
    worker.pass(250);
    worker.resolver.cancel(StreamId(calls));
    worker.resolver.on_root_end(ROOT);
    worker.host.calls.borrow_mut().clear();
    worker.pass(250);
    assert_eq!((worker.calls(), worker.end(waits)), (1, None));
    worker.answer(200, ACTIVE);
    assert!(worker.end(waits).is_some());
}

#[test]
fn another_worker_waits_for_the_lease_and_reads_the_answer() {
    let host = Rc::<FakeHost>::default();
    let (mut one, mut two) = (Worker::new(&host), Worker::new(&host));
    let upstream = upstream(&json!({}), GATEWAY);
    one.ask(&upstream, TOKENS[0], &ALICE);
    let waits = two.ask(&upstream, TOKENS[0], &ALICE);
    assert_eq!(one.calls(), 1);
    one.answer(200, ACTIVE);
    // The hint is lost: the lease has run out by then.
    two.pass(1_000);
    assert_eq!(two.end(waits), Some(&End::Active(Provenance::Introspected)));
    assert_eq!(two.calls(), 0);
}

#[test]
fn a_token_that_ends_while_it_is_asked_about_is_asked_about_again() {
    let mut worker = Worker::new(&Rc::default());
    let upstream = upstream(&json!({}), GATEWAY);
    let request = worker.ask(&upstream, TOKENS[0], &ALICE);
    let digest = TokenDigest::of(TOKENS[0].as_bytes());
    worker.call_back(|cb, resolver| {
        let what = Invalidation::Token(&digest);
        resolver.invalidate(cb, &upstream.cache, what, InvalidationReason::Logout)
    });
    worker.answer(200, ACTIVE);
    assert_eq!(worker.end(request), None);
    worker.answer(200, INACTIVE);
    assert_eq!(worker.end(request), Some(&End::Inactive));
}

/// Whether the answer is the old one or comes only after the refusal: it is doubted, and serves if MAS gives no other.
#[test]
fn a_token_that_is_refused_while_it_is_asked_about_is_asked_about_again() {
    for (second, expected) in [
        ((200, ACTIVE), End::Active(Provenance::Introspected)),
        ((200, INACTIVE), End::Inactive),
        ((500, ""), End::Active(Provenance::Stale)),
    ] {
        let mut worker = Worker::new(&Rc::default());
        let upstream = upstream(&json!({}), GATEWAY);
        let request = worker.ask(&upstream, TOKENS[0], &ALICE);
        let digest = TokenDigest::of(TOKENS[0].as_bytes());
        worker.call_back(|cb, resolver| {
            let what = Invalidation::Refusal(&digest);
            resolver.invalidate(cb, &upstream.cache, what, InvalidationReason::Homeserver)
        });
        worker.answer(200, ACTIVE);
        assert_eq!(worker.end(request), None);
        worker.answer(second.0, second.1);
        assert_eq!(worker.end(request), Some(&expected));
    }
}

/// Two MASs are asked about the token, and both still call it active. Neither answer is an end to the other question.
#[test]
fn two_questions_about_a_token_that_ends_are_each_asked_again_once() {
    let digest = TokenDigest::of(TOKENS[0].as_bytes());
    for what in [Invalidation::Token(&digest), Invalidation::Refusal(&digest)] {
        let mut worker = Worker::new(&Rc::default());
        let other = json!({"introspection": {"authority": "other.example.org"}});
        let upstreams = [json!({}), other].map(|role| upstream(&role, GATEWAY));
        let requests = upstreams.each_ref().map(|upstream| {
            worker.host.advance(Duration::from_millis(300));
            worker.ask(upstream, TOKENS[0], &ALICE)
        });
        worker.call_back(|cb, resolver| {
            let cache = &upstreams[0].cache;
            resolver.invalidate(cb, cache, what, InvalidationReason::Homeserver)
        });
        for _ in 0..4 {
            worker.host.advance(Duration::from_millis(300));
            worker.answer(200, ACTIVE);
        }
        assert_eq!(worker.calls(), 0);
        for request in requests {
            assert!(worker.end(request).is_some());
        }
    }
}

/// An unlocked user's answer of "inactive", from before that was told. It serves the request that caused a brief call, which was
/// sent before, but none that may have come after the word, and never a reader that keeps it.
#[test]
fn an_inactive_answer_from_before_its_user_is_back_serves_a_moment_at_the_most() {
    let gateway = upstream(&json!({}), GATEWAY);
    let homeserver = upstream(&json!({"role": "introspection"}), GATEWAY);
    for (first, second, millis, serves) in [
        (&gateway, None, 249, true),
        (&gateway, None, 250, false),
        (&homeserver, None, 249, false),
        (&gateway, Some(&gateway), 249, false),
        (&gateway, Some(&homeserver), 249, false),
    ] {
        let host = Rc::<FakeHost>::default();
        let (mut one, mut two) = (Worker::new(&host), Worker::new(&host));
        let mut requests = vec![one.ask(first, TOKENS[0], &ALICE)];
        host.advance(Duration::from_millis(millis));
        tell(&mut two, &gateway, "alice", &Revocation::Inactive);
        requests.extend(second.map(|from| one.ask(from, TOKENS[0], &ALICE)));
        assert_eq!(one.calls(), 1);
        one.answer(200, INACTIVE);
        for request in requests {
            let end = one.end(request);
            assert_eq!(
                end.is_some(),
                serves,
                "after {millis} ms, joined: {}",
                second.is_some()
            );
        }
        assert_eq!(one.calls(), usize::from(!serves), "it is asked again");
        for worker in [&mut one, &mut two] {
            let later = worker.ask(&gateway, TOKENS[0], &ALICE);
            assert_eq!(worker.end(later), None, "the answer is void");
        }
    }
}

/// MAS tells of somebody during each call. What it tells counts within a second, however long its calls take, and no question
/// costs more than two of them.
#[test]
fn a_void_answer_serves_after_one_more_call_only_if_that_was_quick() {
    for (millis, expected) in [
        (250, End::Inactive),
        (999, End::Inactive),
        (1_000, End::None(NoVerdict::Outdated)),
        (2_000, End::None(NoVerdict::Outdated)),
    ] {
        let host = Rc::<FakeHost>::default();
        let (mut one, mut two) = (Worker::new(&host), Worker::new(&host));
        let gateway = upstream(&json!({"cache": {"stale_if_error": "10m"}}), GATEWAY);
        let request = one.ask(&gateway, TOKENS[0], &ALICE);
        for call in 1..=2 {
            assert_eq!(one.calls(), 1, "call {call}");
            host.advance(Duration::from_millis(millis));
            tell(&mut two, &gateway, "bob", &Revocation::Inactive);
            one.answer(200, INACTIVE);
        }
        assert_eq!(one.end(request), Some(&expected), "calls of {millis} ms");
        assert_eq!(one.calls(), 0, "it is not asked again");
        let later = one.ask(&gateway, TOKENS[0], &ALICE);
        assert_eq!(one.end(later), None, "nothing was kept");
        one.answer(200, INACTIVE);
        assert_eq!(one.end(later), Some(&End::Inactive));
    }
}

/// A herd on a token costs no more than one request for it, on however many workers it comes.
#[test]
fn a_void_answer_serves_all_who_waited_for_it_on_every_worker() {
    for (body, expected, told, negative_ttl) in [
        (ACTIVE, End::Active(Provenance::Introspected), "alice", "1s"),
        (INACTIVE, End::Inactive, "bob", "1s"),
        (INACTIVE, End::Inactive, "bob", "100ms"),
        (INACTIVE, End::Inactive, "bob", "0s"),
    ] {
        for (millis, late) in [(250, 0), (900, 98), (900, 100), (999, 0)] {
            let host = Rc::<FakeHost>::default();
            let [mut one, mut two, mut three] = [(); 3].map(|()| Worker::new(&host));
            let [gateway, homeserver] = ["gateway", "introspection"].map(|role| {
                let cache = json!({"negative_ttl": negative_ttl});
                upstream(&json!({"role": role, "cache": cache}), GATEWAY)
            });
            host.advance(Duration::from_secs(100));
            for worker in [&mut one, &mut two, &mut three] {
                worker.pass(0);
            }
            let first = one.ask(&gateway, TOKENS[0], &ALICE);
            let second = two.ask(&gateway, TOKENS[0], &BOB);
            let third = three.ask(&homeserver, TOKENS[0], &BOB);
            for call in 1..=2 {
                assert_eq!(one.calls(), 1, "call {call} of {millis} ms");
                host.advance(Duration::from_millis(millis));
                tell(&mut three, &gateway, told, &Revocation::All);
                one.call_back(|cb, resolver| {
                    resolver.on_queue(cb, QueueId(1));
                    resolver.workers.read_epochs(cb);
                });
                one.answer(200, body);
                let is_told = heard(&host, 2).any(|hint| matches!(hint, Hint::LookAgain(_)));
                assert_eq!(is_told, call == 2, "the others wait for the second answer");
            }
            assert_eq!(one.end(first), Some(&expected));
            host.advance(Duration::from_millis(late));
            two.hint(&gateway, TOKENS[0]);
            three.hint(&gateway, TOKENS[0]);
            if millis + late >= 1_000 {
                assert_eq!([two.end(second), three.end(third)], [None; 2]);
                assert_eq!(host.calls.borrow().len(), 1, "it is asked again");
                continue;
            }
            let none = End::None(NoVerdict::Outdated);
            assert_eq!(two.end(second), Some(&expected), "calls of {millis} ms");
            assert_eq!(three.end(third), Some(&none), "a reader that keeps it");
            assert_eq!(host.calls.borrow().len(), 0, "it is not asked again");
            assert!(!one.cached.contains(&first), "nobody keeps it");
            assert!(!two.cached.contains(&second), "nobody keeps it");
            for worker in [&mut one, &mut two] {
                worker.call_back(|cb, resolver| resolver.workers.read_epochs(cb));
                let later = worker.ask(&gateway, TOKENS[0], &ALICE);
                assert_eq!(worker.end(later), None, "the answer is void");
            }
        }
    }
}

/// Every worker says the same of an answer that came too late to serve: no old one serves in its place, though MAS failed by no
/// word of it.
#[test]
fn a_late_void_answer_serves_nobody_on_any_worker() {
    let host = Rc::<FakeHost>::default();
    let (mut one, mut two) = (Worker::new(&host), Worker::new(&host));
    let cache = json!({"cache": {"stale_if_error": "10m", "refresh_ahead": false}});
    let gateway = upstream(&cache, GATEWAY);
    host.advance(Duration::from_secs(100));
    one.ask(&gateway, TOKENS[0], &ALICE);
    one.answer(200, ACTIVE);
    for worker in [&mut one, &mut two] {
        worker.tick_for(10_000);
    }
    let requests = [
        one.ask(&gateway, TOKENS[0], &ALICE),
        two.ask(&gateway, TOKENS[0], &BOB),
    ];
    for call in 1..=2 {
        assert_eq!(one.calls(), 1, "call {call}");
        one.tick_for(1_000);
        tell(&mut two, &gateway, "bob", &Revocation::Inactive);
        one.call_back(|cb, resolver| resolver.on_queue(cb, QueueId(1)));
        one.answer(200, INACTIVE);
    }
    two.call_back(|cb, resolver| resolver.on_queue(cb, QueueId(2)));
    let none = End::None(NoVerdict::Outdated);
    let ends = [one.end(requests[0]), two.end(requests[1])];
    assert_eq!(ends, [Some(&none); 2]);
}

/// Two calls take longer than one call and its grace where the timeout is short.
#[test]
fn who_waits_for_another_worker_waits_for_its_second_call() {
    let host = Rc::<FakeHost>::default();
    let (mut one, mut two) = (Worker::new(&host), Worker::new(&host));
    let gateway = upstream(&json!({"introspection": {"timeout": "600ms"}}), GATEWAY);
    host.advance(Duration::from_secs(100));
    for worker in [&mut one, &mut two] {
        worker.pass(0);
    }
    one.ask(&gateway, TOKENS[0], &ALICE);
    let waits = two.ask(&gateway, TOKENS[0], &BOB);
    one.tick_for(500);
    host.advance(Duration::from_millis(90));
    tell(&mut two, &gateway, "bob", &Revocation::Inactive);
    one.answer(200, INACTIVE);
    for _ in 0..2 {
        one.pass(255);
    }
    // Its lease and the first call with its grace have ended.
    two.pass(0);
    assert_eq!((two.end(waits), one.calls()), (None, 1));
    one.call_back(|cb, resolver| resolver.on_queue(cb, QueueId(1)));
    one.answer(200, INACTIVE);
    two.call_back(|cb, resolver| resolver.on_queue(cb, QueueId(2)));
    assert_eq!(two.end(waits), Some(&End::Inactive));
}

#[test]
fn who_comes_after_a_void_answer_waits_for_nobody() {
    let host = Rc::<FakeHost>::default();
    let (mut one, mut two) = (Worker::new(&host), Worker::new(&host));
    let gateway = upstream(&json!({}), GATEWAY);
    let request = one.ask(&gateway, TOKENS[0], &ALICE);
    for _ in 0..2 {
        host.advance(Duration::from_millis(300));
        tell(&mut two, &gateway, "bob", &Revocation::Inactive);
        one.answer(200, INACTIVE);
    }
    assert_eq!(one.end(request), Some(&End::Inactive));
    two.ask(&gateway, TOKENS[0], &BOB);
    assert_eq!(two.calls(), 1);
}

/// What was sent to the worker of this seat.
fn heard(host: &FakeHost, seat: u32) -> impl Iterator<Item = Hint> {
    std::iter::from_fn(move || host.dequeue(QueueId(seat)))
        .map(|message| Hint::decode(&message).expect("a hint"))
}

/// It has joined those whom the answer serves, but may have been told meanwhile.
#[test]
fn a_void_answer_serves_nobody_who_came_after_its_question() {
    let host = Rc::<FakeHost>::default();
    let (mut one, mut two) = (Worker::new(&host), Worker::new(&host));
    let gateway = upstream(&json!({}), GATEWAY);
    host.advance(Duration::from_secs(100));
    for worker in [&mut one, &mut two] {
        worker.pass(0);
    }
    one.ask(&gateway, TOKENS[0], &ALICE);
    let before = two.ask(&gateway, TOKENS[0], &BOB);
    let mut later = None;
    for _ in 0..2 {
        host.advance(Duration::from_millis(300));
        later.get_or_insert_with(|| two.ask(&gateway, TOKENS[0], &BOB));
        tell(&mut two, &gateway, "bob", &Revocation::Inactive);
        one.call_back(|cb, resolver| resolver.on_queue(cb, QueueId(1)));
        one.answer(200, INACTIVE);
    }
    let after = two.ask(&gateway, TOKENS[0], &BOB);
    two.hint(&gateway, TOKENS[0]);
    assert_eq!(two.end(before), Some(&End::Inactive));
    assert_eq!(
        [later, Some(after)].map(|request| two.end(request.unwrap())),
        [None; 2]
    );
    assert_eq!(two.calls(), 1, "MAS is asked for those who came later");
}

/// It asked after MAS was asked, so the answer is from before what it may have been told.
#[test]
fn a_void_answer_serves_nobody_on_another_worker_who_asked_later() {
    let host = Rc::<FakeHost>::default();
    let (mut one, mut two) = (Worker::new(&host), Worker::new(&host));
    let gateway = upstream(&json!({}), GATEWAY);
    // Each has its seat, so that hints reach it.
    one.pass(100_000);
    two.pass(0);
    one.ask(&gateway, TOKENS[0], &ALICE);
    host.advance(Duration::from_millis(10));
    one.answer(200, INACTIVE);
    tell(&mut two, &gateway, "alice", &Revocation::Inactive);
    host.advance(Duration::from_millis(1));
    let later = two.ask(&gateway, TOKENS[0], &ALICE);
    assert_eq!((two.end(later), two.calls()), (None, 0));
    // The other worker has left its lease to run out, and is told that it is waited for.
    for worker in [&mut one, &mut two] {
        worker.call_back(|cb, resolver| {
            (1..=2).for_each(|queue| resolver.on_queue(cb, QueueId(queue)))
        });
    }
    two.hint(&gateway, TOKENS[0]);
    assert_eq!((two.end(later), two.calls()), (None, 1));
}

/// The homeserver keeps what it is told for minutes, so after two such answers MAS is to tell it itself.
#[test]
fn a_void_answer_is_never_given_to_a_reader_that_keeps_it() {
    for (body, expected) in [
        (ACTIVE, End::Active(Provenance::Introspected)),
        (INACTIVE, End::Inactive),
    ] {
        let host = Rc::<FakeHost>::default();
        let (mut one, mut two) = (Worker::new(&host), Worker::new(&host));
        let roles = [json!({}), json!({"role": "introspection"})];
        let [gateway, homeserver] = roles.map(|role| upstream(&role, GATEWAY));
        let ask = |worker: &mut Worker| {
            [&gateway, &homeserver].map(|from| worker.ask(from, TOKENS[0], &ALICE))
        };
        let requests = ask(&mut one);
        for _ in 0..2 {
            assert_eq!(requests.map(|request| one.end(request)), [None; 2]);
            host.advance(Duration::from_millis(100));
            tell(&mut two, &gateway, "alice", &Revocation::All);
            one.answer(200, body);
        }
        let none = End::None(NoVerdict::Outdated);
        assert_eq!(
            requests.map(|request| one.end(request)),
            [Some(&expected), Some(&none)]
        );
        assert_eq!(one.calls(), 0, "it is not asked again");
        host.advance(Duration::from_millis(1));
        one.call_back(|cb, resolver| resolver.workers.read_epochs(cb));
        let later = ask(&mut one);
        host.advance(Duration::from_millis(100));
        one.answer(200, body);
        assert_eq!(later.map(|request| one.end(request)), [Some(&expected); 2]);
    }
}

/// An active user's answer from before the lock serves only for as long as a hit does: until the worker reads the epochs.
#[test]
fn an_active_answer_from_before_its_user_was_locked_serves_as_a_hit_does() {
    for is_heard in [false, true] {
        let host = Rc::<FakeHost>::default();
        let (mut one, mut two) = (Worker::new(&host), Worker::new(&host));
        let gateway = upstream(&json!({}), GATEWAY);
        host.advance(Duration::from_secs(100));
        one.tick_for(250);
        let request = one.ask(&gateway, TOKENS[0], &ALICE);
        host.advance(Duration::from_millis(if is_heard { 750 } else { 100 }));
        tell(&mut two, &gateway, "alice", &Revocation::All);
        one.answer(200, ACTIVE);
        assert_eq!(one.end(request).is_some(), !is_heard);
        assert_eq!(one.calls(), usize::from(is_heard), "it is asked again");
        one.tick_for(250);
        for worker in [&mut one, &mut two] {
            let later = worker.ask(&gateway, TOKENS[0], &ALICE);
            assert_eq!(worker.end(later), None, "the answer is void");
        }
    }
}

/// A worker that has too much to read comes to its next tick when a call should long have ended.
#[test]
fn an_answer_that_a_busy_worker_has_not_read_is_waited_for() {
    for (body, expected) in [
        (ACTIVE, End::Active(Provenance::Introspected)),
        (INACTIVE, End::Inactive),
    ] {
        let mut worker = Worker::new(&Rc::default());
        let overrides = json!({"cache": {"stale_if_error": "10m", "refresh_ahead": false}});
        let upstream = upstream(&overrides, GATEWAY);
        worker.ask(&upstream, TOKENS[0], &ALICE);
        worker.answer(200, ACTIVE);
        worker.tick_for(10_000);
        let request = worker.ask(&upstream, TOKENS[0], &ALICE);
        worker.pass(13_000);
        assert_eq!(worker.end(request), None);
        worker.answer(200, body);
        assert_eq!(worker.end(request), Some(&expected));
    }
}

/// Its tick is late all the same.
#[test]
fn a_configuration_that_comes_to_a_busy_worker_takes_no_time_from_what_waits() {
    let mut worker = Worker::new(&Rc::default());
    let upstream = upstream(&json!({}), GATEWAY);
    let request = worker.ask(&upstream, TOKENS[0], &ALICE);
    worker.host.advance(Duration::from_secs(13));
    worker.call_back(|cb, resolver| resolver.start(cb));
    worker.pass(0);
    assert_eq!(worker.end(request), None);
    worker.answer(200, ACTIVE);
    let expected = End::Active(Provenance::Introspected);
    assert_eq!(worker.end(request), Some(&expected));
}

#[test]
fn a_time_without_a_timer_is_no_lag() {
    let mut worker = Worker::new(&Rc::default());
    let upstream = upstream(&json!({}), GATEWAY);
    worker.call_back(|_, resolver| resolver.rest());
    worker.host.advance(Duration::from_secs(13));
    worker.call_back(|cb, resolver| resolver.start(cb));
    let request = worker.ask(&upstream, TOKENS[0], &ALICE);
    worker.tick_for(5_500);
    assert_eq!(worker.end(request), Some(&End::None(NoVerdict::Lost)));
}

/// Envoy's timer for the call may fire before the answer is read. MAS is asked again, and a second timeout counts.
#[test]
fn a_call_that_timed_out_while_the_worker_was_busy_is_made_again_once() {
    const TIMED_OUT: &str = "upstream request timeout";
    for is_ticked_first in [true, false] {
        for (second, expected) in [
            ((200, INACTIVE), End::Inactive),
            ((504, TIMED_OUT), End::Active(Provenance::Stale)),
        ] {
            let mut worker = Worker::new(&Rc::default());
            let overrides = json!({"cache": {"stale_if_error": "10m", "refresh_ahead": false}});
            let upstream = upstream(&overrides, GATEWAY);
            worker.ask(&upstream, TOKENS[0], &ALICE);
            worker.answer(200, ACTIVE);
            worker.tick_for(10_000);
            let request = worker.ask(&upstream, TOKENS[0], &ALICE);
            if is_ticked_first {
                worker.pass(13_000);
            } else {
                worker.host.advance(Duration::from_secs(13));
            }
            worker.answer(504, TIMED_OUT);
            assert_eq!((worker.calls(), worker.end(request)), (1, None));
            worker.pass(13_000);
            worker.answer(second.0, second.1);
            assert_eq!(worker.end(request), Some(&expected));
        }
    }
}

#[test]
fn a_call_that_timed_out_while_the_worker_had_time_is_not_made_again() {
    let mut worker = Worker::new(&Rc::default());
    let upstream = upstream(&json!({}), GATEWAY);
    let request = worker.ask(&upstream, TOKENS[0], &ALICE);
    // Late by less than half of the timeout.
    worker.pass(2_500);
    worker.tick_for(2_500);
    worker.answer(504, "upstream request timeout");
    let expected = End::None(NoVerdict::Timeout);
    assert_eq!((worker.calls(), worker.end(request)), (0, Some(&expected)));
}

/// Its answers never come either.
#[test]
fn a_worker_that_is_always_busy_ends_what_waits() {
    let mut worker = Worker::new(&Rc::default());
    let upstream = upstream(&json!({}), GATEWAY);
    let request = worker.ask(&upstream, TOKENS[0], &ALICE);
    // Each tick would take a quarter of a second off the wait.
    let between = Duration::from_millis(2_600);
    let ticks = (1..).find(|_| {
        worker.pass(2_600);
        worker.end(request).is_some()
    });
    let waited = between * ticks.unwrap();
    println!("waited for {waited:?}");
    let call = upstream.settings.timeout + CALL_GRACE;
    let longest = call + Duration::from_secs(30) + between;
    assert!(waited > 2 * call && waited <= longest);
}

#[test]
fn a_request_without_a_place_to_wait_counts_as_overloaded() {
    let host = Rc::new(FakeHost::default());
    let mut worker = Worker::new(&host);
    let gateway = upstream(&json!({}), GATEWAY);
    for _ in 0..flight::MAX_WAITERS_PER_FLIGHT {
        worker.ask(&gateway, TOKENS[0], &ALICE);
    }
    let joined = host.metric(Metric::Coalesced);
    let refused = worker.ask(&gateway, TOKENS[0], &ALICE);
    assert_eq!(worker.end(refused), Some(&End::None(NoVerdict::Overloaded)));
    assert_eq!(host.metric(Metric::Coalesced), joined, "it joined nothing");
    assert_eq!(host.metric(OVERLOADED), 1);
}

#[test]
fn a_question_without_a_place_to_wait_counts_as_overloaded() {
    let host = Rc::new(FakeHost::default());
    let mut worker = Worker::new(&host);
    let gateway = upstream(&json!({}), GATEWAY);
    for _ in 0..flight::MAX_WAITERS / flight::MAX_WAITERS_PER_FLIGHT {
        let token = Box::leak(format!("token {}", host.calls.borrow().len()).into_boxed_str());
        for client in 0..flight::MAX_WAITERS_PER_FLIGHT {
            let address = format!("10.0.{}.{}", client / 250, client % 250);
            worker.ask(&gateway, token, &Client(address.leak()));
        }
    }
    let before = host.metric(OVERLOADED);
    let refused = worker.ask(&gateway, "another", &Client("10.9.9.9"));
    assert_eq!(worker.end(refused), Some(&End::None(NoVerdict::Overloaded)));
    assert_eq!(host.metric(OVERLOADED), before + 1);
}
