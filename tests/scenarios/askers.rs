//! Listeners that ask the same MAS, each in a way of its own: with another secret, for longer, or more often. A call that fails for
//! one of them decides nothing for the others, and an answer serves all.

use std::{rc::Rc, time::Duration};

use matrix_edge_auth::{host::RootId, resolver::RETRY_TICK, worker::Plugin};
use serde_json::{Value, json};

use crate::{
    ALICE, BOB, CONNECTION_CLOSED, INACTIVE, active, alice,
    simulated::{Call, Cluster, Fate, Process, Request, SimulatedWorker, gateway},
    unable, whoami,
};

const SECOND: Duration = Duration::from_secs(1);
const CALLS: &str = "matrix_edge_auth_introspections_total";

/// One that MAS knows.
fn good() -> Rc<Plugin> {
    gateway(1, json!({}))
}

/// One that MAS refuses.
fn bad(mode: &str) -> Rc<Plugin> {
    let secret = json!({"credential": {"bearer": {"value": "of before"}}});
    gateway(2, json!({"mode": mode, "introspection": secret}))
}

/// The only call under way, by its secret.
fn only_call(worker: &SimulatedWorker, secret: &str) -> Call {
    let [call] = &worker.calls()[..] else {
        panic!("one call: {:?}", worker.calls());
    };
    let authorization = ("authorization".to_owned(), format!("Bearer {secret}"));
    assert!(call.headers.contains(&authorization), "{call:?}");
    call.clone()
}

/// MAS answers the only call as it answers this secret.
fn refuse(worker: &mut SimulatedWorker) {
    let call = only_call(worker, "of before");
    worker.answer(call.id, 401, "");
}

fn accept(worker: &mut SimulatedWorker) {
    let call = only_call(worker, "secret");
    worker.answer(call.id, 200, &active("alice"));
}

/// The call of the one is under way when requests come to the other.
#[test]
fn a_refused_secret_fails_no_request_of_another_listener() {
    for mode in ["enforce", "shadow"] {
        let (good, bad) = (good(), bad(mode));
        let mut worker = SimulatedWorker::new(&Process::new());
        let refused = worker.request(&bad, whoami(ALICE));
        let waiting = [(); 3].map(|()| worker.request(&good, whoami(ALICE)));
        refuse(&mut worker);
        if mode == "enforce" {
            assert_eq!(worker.fate(refused), unable());
        }
        for stream in waiting {
            assert_eq!(worker.fate(stream), Fate::Held, "{mode}");
        }
        // One for all of them.
        accept(&mut worker);
        for stream in waiting {
            assert_eq!(worker.fate(stream), alice(), "{mode}");
        }
        // The answer serves both.
        let served = worker.request(&bad, whoami(ALICE));
        assert_ne!(worker.fate(served), Fate::Held);
        assert_ne!(worker.fate(served), unable());
        assert_eq!(worker.process.metric(CALLS), 2);
    }
}

#[test]
fn a_request_of_a_refused_listener_has_the_answer_that_another_one_is_given() {
    let (good, bad) = (good(), bad("enforce"));
    let mut worker = SimulatedWorker::new(&Process::new());
    let streams = [&good, &bad].map(|plugin| worker.request(plugin, whoami(ALICE)));
    accept(&mut worker);
    for stream in streams {
        assert_eq!(worker.fate(stream), alice());
    }
}

/// The second in which nobody asks again is of those who ask alike, in every worker.
#[test]
fn after_a_refused_secret_another_listener_asks_at_once() {
    let (good, bad) = (good(), bad("enforce"));
    for asking in [0, 1] {
        let mut cluster = Cluster::new(2);
        cluster.seat_all(&good);
        cluster.seat_all(&bad);
        cluster[0].request(&bad, whoami(ALICE));
        refuse(&mut cluster[0]);
        cluster.deliver_all();
        let again = cluster[asking].request(&bad, whoami(ALICE));
        assert_eq!(cluster[asking].fate(again), unable(), "it waits its second");
        let stream = cluster[asking].request(&good, whoami(ALICE));
        accept(&mut cluster[asking]);
        assert_eq!(cluster[asking].fate(stream), alice());
    }
}

/// One worker asks, and requests of both listeners wait for it in another.
#[test]
fn a_refused_secret_fails_no_request_of_another_listener_that_waits_elsewhere() {
    let (good, bad) = (good(), bad("enforce"));
    let mut cluster = Cluster::new(2);
    cluster.seat_all(&good);
    cluster.seat_all(&bad);
    cluster[0].request(&bad, whoami(ALICE));
    let refused = cluster[1].request(&bad, whoami(ALICE));
    let waiting = cluster[1].request(&good, whoami(ALICE));
    cluster.deliver_all();
    cluster.skip(SECOND / 10);
    refuse(&mut cluster[0]);
    cluster.deliver_all();
    assert_eq!(cluster[1].fate(refused), unable());
    assert_eq!(cluster[1].fate(waiting), Fate::Held);
    accept(&mut cluster[1]);
    assert_eq!(cluster[1].fate(waiting), alice());
}

/// A stale answer serves at once where MAS fails, and not where it fails for another listener alone.
#[test]
fn a_refused_secret_keeps_no_ended_session_for_another_listener() {
    let stale = |introspection: Value| {
        let cache = json!({"ttl": "60s", "stale_if_error": "10m"});
        json!({"cache": cache, "introspection": introspection})
    };
    let good = gateway(1, stale(json!({})));
    let secret = json!({"credential": {"bearer": {"value": "of before"}}});
    let bad = gateway(2, stale(secret));
    let mut worker = SimulatedWorker::new(&Process::new());
    worker.request(&good, whoami(ALICE));
    accept(&mut worker);
    worker.process.advance(61 * SECOND);
    let refused = worker.request(&bad, whoami(ALICE));
    refuse(&mut worker);
    assert_eq!(worker.fate(refused), alice(), "its own stale answer");
    let asking = worker.request(&good, whoami(ALICE));
    assert_eq!(worker.fate(asking), Fate::Held);
    let call = only_call(&worker, "secret");
    worker.answer(call.id, 200, INACTIVE);
    assert_eq!(worker.fate(asking), crate::not_active());
}

#[test]
fn one_that_repeats_no_call_fails_none_that_does() {
    let once = gateway(1, json!({"introspection": {"retries": 0}}));
    let twice = gateway(2, json!({"introspection": {"retries": 1}}));
    let mut worker = SimulatedWorker::new(&Process::new());
    let failed = worker.request(&once, whoami(ALICE));
    let waiting = worker.request(&twice, whoami(ALICE));
    for _ in 0..2 {
        assert_eq!(worker.fate(waiting), Fate::Held);
        let call = only_call(&worker, "secret");
        worker.answer(call.id, 503, CONNECTION_CLOSED);
        assert_eq!(worker.fate(failed), unable());
        worker.process.advance(RETRY_TICK);
        worker.tick();
    }
    accept(&mut worker);
    assert_eq!(worker.fate(waiting), alice());
}

#[test]
fn one_that_waits_briefly_fails_none_that_waits_longer() {
    let brief = gateway(1, json!({"introspection": {"timeout": "1s"}}));
    let patient = gateway(2, json!({"introspection": {"timeout": "5s"}}));
    let mut worker = SimulatedWorker::new(&Process::new());
    let failed = worker.request(&brief, whoami(ALICE));
    let waiting = worker.request(&patient, whoami(ALICE));
    // Envoy ends the call.
    worker.tick_for(SECOND);
    assert_eq!(worker.fate(failed), unable());
    assert_eq!(only_call(&worker, "secret").timeout, 5 * SECOND);
    accept(&mut worker);
    assert_eq!(worker.fate(waiting), alice());
}

/// While MAS is down, each way of asking makes one call a second about a token, whatever the number of requests and workers.
#[test]
fn each_way_of_asking_makes_one_call_a_second_while_mas_is_down() {
    let listeners = [good(), bad("enforce")];
    let mut cluster = Cluster::new(3);
    listeners
        .iter()
        .for_each(|listener| cluster.seat_all(listener));
    const SECONDS: u64 = 20;
    for _ in 0..4 * SECONDS {
        let requests: Vec<_> = listeners
            .iter()
            .map(|listener| cluster.request_each(listener, &whoami(ALICE)))
            .collect();
        // What waits for another listener's call makes its own, and so on.
        for _ in 0..8 {
            for worker in &mut cluster.workers {
                for call in worker.calls() {
                    worker.answer(call.id, 500, "");
                }
            }
            cluster.deliver_all();
        }
        for streams in requests {
            assert_eq!(cluster.fates(&streams), [(); 3].map(|()| unable()));
        }
        cluster.skip(SECOND / 4);
    }
    let calls = cluster.metric(CALLS);
    assert!((SECONDS..=2 * SECONDS + 2).contains(&calls), "{calls}");
}

/// The name of a way of asking is no name of an answer.
#[test]
fn a_new_secret_keeps_what_is_cached() {
    let (before, after) = (bad("enforce"), good());
    let mut worker = SimulatedWorker::new(&Process::new());
    worker.request(&before, whoami(ALICE));
    let call = only_call(&worker, "of before");
    worker.answer(call.id, 200, &active("alice"));
    let request: Request = whoami(ALICE);
    assert_eq!(worker.send(&after, request), alice());
}

/// The listener's update comes while MAS refuses what it asked with until then.
#[test]
fn a_listener_that_is_given_the_new_secret_is_held_off_by_nothing_of_before() {
    let (before, after) = (bad("enforce"), good());
    let bob = Fate::forwarded_as("@bob:example.org");
    let mut cluster = Cluster::new(2);
    cluster.seat_all(&before);
    cluster[0].request(&before, whoami(BOB));
    let call = only_call(&cluster[0], "of before");
    cluster[0].answer(call.id, 200, &active("bob"));
    cluster[0].request(&before, whoami(ALICE));
    refuse(&mut cluster[0]);
    cluster.seat_all(&after);
    for worker in &mut cluster.workers {
        worker.drop_root(RootId(2));
        assert_eq!(worker.send(&after, whoami(BOB)), bob, "it is cached");
    }
    for asking in [1, 0] {
        let stream = cluster[asking].request(&after, whoami(ALICE));
        if asking == 1 {
            accept(&mut cluster[asking]);
        }
        assert_eq!(cluster[asking].fate(stream), alice());
    }
}

/// What makes a listener another one is how it asks.
#[test]
fn listeners_that_ask_alike_share_a_failure() {
    let (one, two) = (good(), gateway(2, json!({"cache": {"ttl": "30s"}})));
    let mut cluster = Cluster::new(2);
    cluster.seat_all(&one);
    cluster.seat_all(&two);
    cluster[0].request(&one, whoami(ALICE));
    let joined = cluster[0].request(&two, whoami(ALICE));
    let elsewhere = cluster[1].request(&two, whoami(ALICE));
    cluster.deliver_all();
    cluster.skip(SECOND / 10);
    let call = only_call(&cluster[0], "secret");
    cluster[0].answer(call.id, 500, "");
    cluster.deliver_all();
    assert_eq!(cluster[0].fate(joined), unable());
    assert_eq!(cluster[1].fate(elsewhere), unable());
    for worker in &mut cluster.workers {
        assert_eq!(worker.send(&two, whoami(ALICE)), unable());
    }
    assert!(cluster.calls().is_empty());
}

/// They are asked about one after another, each in its own way and once for all of its requests.
#[test]
fn three_listeners_that_ask_otherwise_have_a_call_each() {
    let secrets = ["of long ago", "of before", "secret"];
    let listeners: Vec<_> = (1..)
        .zip(secrets)
        .map(|(root, secret)| {
            let credential = json!({"bearer": {"value": secret}});
            gateway(root, json!({"introspection": {"credential": credential}}))
        })
        .collect();
    let mut cluster = Cluster::new(2);
    listeners
        .iter()
        .for_each(|listener| cluster.seat_all(listener));
    let streams: Vec<_> = listeners
        .iter()
        .flat_map(|listener| [(); 2].map(|()| listener))
        .map(|listener| cluster.request_each(listener, &whoami(ALICE)))
        .collect();
    cluster.deliver_all();
    for secret in secrets {
        cluster.skip(SECOND / 10);
        cluster.deliver_all();
        let [call] = &cluster.calls()[..] else {
            panic!("one call: {:?}", cluster.calls());
        };
        let own = ("authorization".to_owned(), format!("Bearer {secret}"));
        assert!(call.headers.contains(&own), "{secret}: {call:?}");
        let asking = usize::from(cluster[0].calls().is_empty());
        if secret == "secret" {
            cluster[asking].answer(call.id, 200, &active("alice"));
        } else {
            cluster[asking].answer(call.id, 401, "");
        }
        cluster.deliver_all();
    }
    for (number, streams) in streams.iter().enumerate() {
        let fate = if number < 4 { unable() } else { alice() };
        assert_eq!(cluster.fates(streams), vec![fate; 2], "{number}");
    }
    assert_eq!(cluster.metric(CALLS), 3);
}

/// One listener asks for less long, less often or with another secret, and fails in one worker. The other one waits in another
/// worker, which a hint reaches or none does, or comes when the call has failed.
#[test]
fn no_way_of_asking_decides_for_another_one_in_another_worker() {
    let secret = json!({"credential": {"bearer": {"value": "of before"}}});
    let ways = [
        (json!({"introspection": {"retries": 0}}), CONNECTION_CLOSED),
        (json!({"introspection": {"timeout": "1s"}}), "timeout"),
        (json!({"introspection": secret}), "refused"),
        (
            json!({"introspection": secret, "mode": "shadow"}),
            "refused",
        ),
    ];
    for (settings, failure) in ways {
        for (waits, hints_arrive) in [(true, true), (true, false), (false, true)] {
            let case = format!("{settings}: {waits}, {hints_arrive}");
            let (poor, good) = (gateway(2, settings.clone()), good());
            let mut cluster = Cluster::new(2);
            cluster.seat_all(&good);
            cluster.seat_all(&poor);
            cluster[0].request(&poor, whoami(ALICE));
            let waiting = waits.then(|| cluster[1].request(&good, whoami(ALICE)));
            cluster.deliver_all();
            cluster.skip(SECOND / 10);
            let call = cluster[0].calls().remove(0);
            match failure {
                CONNECTION_CLOSED => cluster[0].answer(call.id, 503, CONNECTION_CLOSED),
                "timeout" => cluster[0].answer(call.id, 504, "upstream request timeout"),
                _ => cluster[0].answer(call.id, 401, ""),
            }
            assert!(cluster[0].calls().is_empty(), "{case}");
            if hints_arrive {
                cluster.deliver_all();
            } else {
                cluster.drop_hints();
                cluster.tick_for(SECOND + SECOND / 4);
            }
            let stream = waiting.unwrap_or_else(|| cluster[1].request(&good, whoami(ALICE)));
            assert_eq!(cluster[1].fate(stream), Fate::Held, "{case}");
            accept(&mut cluster[1]);
            assert_eq!(cluster[1].fate(stream), alice(), "{case}");
        }
    }
}

/// A renewal holds up nobody, but who comes after the end of the answer waits for it.
#[test]
fn a_renewal_that_is_refused_fails_no_request_of_another_listener() {
    let cached = |secret| {
        let introspection = json!({"credential": {"bearer": {"value": secret}}});
        json!({"cache": {"ttl": "100s"}, "introspection": introspection})
    };
    let (good, bad) = (
        gateway(1, cached("secret")),
        gateway(2, cached("of before")),
    );
    let mut worker = SimulatedWorker::new(&Process::new());
    worker.request(&good, whoami(ALICE));
    accept(&mut worker);
    worker.process.advance(97 * SECOND);
    worker.tick();
    assert_eq!(worker.send(&bad, whoami(ALICE)), alice());
    only_call(&worker, "of before");
    worker.tick_for(4 * SECOND);
    let waiting = worker.request(&good, whoami(ALICE));
    refuse(&mut worker);
    assert_eq!(worker.fate(waiting), Fate::Held);
    accept(&mut worker);
    assert_eq!(worker.fate(waiting), alice());
}

/// That no call is made for a client's sake says nothing of how it would have been made. Who waits with it is told so at once.
#[test]
fn a_question_that_its_client_has_no_budget_for_is_asked_in_no_way() {
    let crowded = |root, secret| {
        let credential = json!({"bearer": {"value": secret}});
        let settings = json!({
            "introspection": {"max_in_flight": 1, "credential": credential},
            "unknown_token_budget": {"per_source": 1, "window": "1h"},
        });
        gateway(root, settings)
    };
    let (one, two) = (crowded(1, "secret"), crowded(2, "of before"));
    let mut worker = SimulatedWorker::new(&Process::new());
    worker.request(&one, whoami(BOB).source("192.0.2.1"));
    let streams = [
        worker.request(&one, whoami(ALICE).source("192.0.2.1")),
        worker.request(&two, whoami(ALICE).source("192.0.2.2")),
    ];
    // It takes the budget of the client whose next question waits in line.
    worker.answer_only_call(INACTIVE);
    for stream in streams {
        assert_eq!(worker.fate(stream).status(), Some(503));
    }
    assert!(worker.calls().is_empty());
}
