//! The budget of a client counts distinct tokens that turned out to be inactive, and nothing else. What one client
//! has under way is bounded by its share of the calls.

use std::{ops::Range, rc::Rc, time::Duration};

use matrix_edge_auth::{host::StreamId, worker::Plugin};
use serde_json::{Value, json};

use crate::{
    ALICE, INACTIVE, WHOAMI, active, alice,
    attack::invented,
    not_active,
    simulated::{Cluster, Fate, Process, Request, SimulatedWorker, gateway, plugin},
    unable,
};

const OFFICE: &str = "192.0.2.1";

/// A request of the client at `source` with an invented token.
fn ask(number: u32, source: &str) -> Request {
    Request::get(WHOAMI)
        .bearer(&invented(number))
        .source(source)
}

/// A budget of so many tokens, and these settings.
fn budget(per_source: u32, mut overrides: Value) -> Value {
    overrides["unknown_token_budget"] = json!({"per_source": per_source, "window": "1h"});
    overrides
}

/// Brings so many dead tokens, one after the other.
fn spend(worker: &mut SimulatedWorker, gateway: &Rc<Plugin>, source: &str, tokens: Range<u32>) {
    for number in tokens {
        let stream = worker.request(gateway, ask(number, source));
        worker.answer_only_call(INACTIVE);
        assert_eq!(worker.fate(stream).status(), Some(401));
    }
}

#[test]
fn an_outage_of_mas_costs_nothing() {
    let process = Process::new();
    let mut worker = SimulatedWorker::new(&process);
    let gateway = gateway(1, budget(3, json!({})));
    for undeliverable in [false, true] {
        process.advance(Duration::from_secs(1));
        worker.faults().dispatch.set(undeliverable);
        for number in 0..5 {
            let stream = worker.request(&gateway, ask(number, OFFICE));
            if let [call] = &worker.calls()[..] {
                worker.answer(call.id, 500, "{}");
            }
            assert_eq!(worker.fate(stream), unable());
        }
    }
    worker.faults().dispatch.set(false);
    for number in 0..5 {
        let stream = worker.request(&gateway, ask(number, OFFICE));
        worker.answer_only_call(&active("alice"));
        assert_eq!(worker.fate(stream), alice());
    }
}

#[test]
fn good_tokens_at_once_cost_nothing() {
    let mut cluster = Cluster::new(2);
    let gateway = gateway(1, budget(5, json!({})));
    let streams: Vec<Vec<StreamId>> = (0..20)
        .map(|number| cluster.request_each(&gateway, &ask(number, OFFICE)))
        .collect();
    assert_eq!(cluster.calls().len(), 20);
    cluster.answer_all(&active("alice"));
    cluster.deliver_all();
    for streams in streams {
        assert_eq!(cluster.fates(&streams), vec![alice(); 2]);
    }
}

#[test]
fn one_dead_token_keeps_its_401_and_is_one_token() {
    for negative_ttl in ["0s", "1s"] {
        let mut cluster = Cluster::new(2);
        let settings = json!({"cache": {"negative_ttl": negative_ttl}});
        let gateway = gateway(1, budget(3, settings));
        for _ in 0..20 {
            let streams = cluster.request_each(&gateway, &ask(0, OFFICE));
            // What is not kept is asked for by each worker.
            for _ in 0..2 {
                cluster.answer_all(INACTIVE);
                cluster.deliver_all();
            }
            for fate in cluster.fates(&streams) {
                assert_eq!(fate.status(), Some(401));
            }
            cluster.skip(Duration::from_secs(2));
        }
        // Two more, on another worker, are the budget.
        spend(&mut cluster[1], &gateway, OFFICE, 1..3);
        assert_eq!(
            cluster[0].send(&gateway, ask(3, OFFICE)).status(),
            Some(429)
        );
        // Each of the three is still told that it is dead.
        cluster.skip(Duration::from_secs(2));
        spend(&mut cluster[0], &gateway, OFFICE, 0..3);
    }
}

#[test]
fn a_share_of_the_calls_is_no_budget() {
    let process = Process::new();
    let mut worker = SimulatedWorker::new(&process);
    let settings = json!({"introspection": {"max_in_flight": 64, "timeout": "1m"}});
    let gateway = gateway(1, budget(100, settings));
    let streams: Vec<StreamId> = (0..52)
        .map(|number| worker.request(&gateway, ask(number, OFFICE)))
        .collect();
    assert_eq!(worker.calls().len(), 48, "three quarters");
    // Another client is asked about at once.
    worker.request(&gateway, ask(100, "192.0.2.2"));
    assert_eq!(worker.calls().len(), 49);
    for _ in 0..4 {
        process.advance(Duration::from_millis(250));
        worker.tick();
    }
    let fates: Vec<Fate> = streams.iter().map(|stream| worker.fate(*stream)).collect();
    assert_eq!(fates[..48], vec![Fate::Held; 48]);
    assert_eq!(fates[48..], vec![unable(); 4]);
}

#[test]
fn addresses_of_one_network_are_one_client() {
    for (one, other) in [
        ("2001:db8:1:2::1", "2001:db8:1:2:ffff::9"),
        ("::ffff:198.51.100.9", "198.51.100.9"),
    ] {
        let process = Process::new();
        let mut worker = SimulatedWorker::new(&process);
        let gateway = gateway(1, budget(2, json!({})));
        spend(&mut worker, &gateway, one, 0..1);
        spend(&mut worker, &gateway, other, 1..2);
        for source in [one, other] {
            assert_eq!(worker.send(&gateway, ask(2, source)).status(), Some(429));
        }
        for source in ["2001:db8:1:3::1", "::ffff:198.51.100.10"] {
            assert_eq!(worker.send(&gateway, ask(2, source)), Fate::Held);
        }
    }
}

#[test]
fn a_source_over_its_budget_is_limited_and_others_are_not() {
    let mut cluster = Cluster::new(2);
    let budget = json!({"unknown_token_budget": {"per_source": 50, "window": "10s"}});
    let gateway = gateway(1, budget);
    for number in 0..50 {
        let worker = &mut cluster[number as usize % 2];
        worker.request(&gateway, ask(number, OFFICE));
        worker.answer_only_call(INACTIVE);
    }
    cluster.process.advance(Duration::from_secs(4));
    for worker in &mut cluster.workers {
        worker.tick();
        let fate = worker.send(&gateway, ask(100, OFFICE));
        let Fate::Replied(429, body) = fate else {
            panic!("{fate:?}")
        };
        let expected =
            r#"{"errcode":"M_LIMIT_EXCEEDED","error":"Too Many Requests","retry_after_ms":6000}"#;
        assert_eq!(body, expected);
        assert!(worker.calls().is_empty());
        // What is known is not counted, and other sources are untouched.
        assert_eq!(worker.send(&gateway, ask(1, OFFICE)).status(), Some(401));
    }
    let other = ask(101, "192.0.2.2");
    assert_eq!(cluster[0].send(&gateway, other), Fate::Held);
    cluster.process.advance(Duration::from_secs(6));
    cluster[1].tick();
    assert_eq!(
        cluster[1].send(&gateway, ask(102, OFFICE)),
        Fate::Held,
        "a new window"
    );
}

#[test]
fn active_tokens_are_not_charged() {
    let process = Process::new();
    let mut worker = SimulatedWorker::new(&process);
    let budget = json!({"unknown_token_budget": {"per_source": 1, "window": "1h"}});
    let gateway = gateway(1, budget);
    for number in 0..100 {
        let stream = worker.request(&gateway, ask(number, OFFICE));
        worker.answer_only_call(&active("alice"));
        assert_eq!(worker.fate(stream), alice());
    }
}

#[test]
fn an_active_token_that_two_workers_want_is_charged_to_nobody() {
    let budget = json!({"unknown_token_budget": {"per_source": 2, "window": "1h"}});
    let gateway = gateway(1, budget);
    let mut cluster = Cluster::new(2);
    for number in 0..10 {
        let request = ask(number, OFFICE);
        let streams = cluster.request_each(&gateway, &request);
        cluster[0].answer_only_call(&active("alice"));
        cluster.deliver_all();
        assert_eq!(cluster.fates(&streams), vec![alice(); 2]);
    }
}

/// What MAS tells of a user has it asked about the user's live sessions, too. That is no reason to refuse them where somebody else
/// has spent the budget of their address. One that has ended is asked about once.
#[test]
fn a_live_session_is_not_refused_when_mas_has_told_of_its_user() {
    let secret = json!({"introspection": {"credential": {"bearer": {"value": "secret"}}}});
    let gateway = gateway(1, budget(2, secret.clone()));
    let provisioning = plugin(2, "provisioning", secret);
    let process = Process::new();
    let mut worker = SimulatedWorker::new(&process);
    let session = || Request::get(WHOAMI).bearer(ALICE).source(OFFICE);
    worker.request(&gateway, session());
    worker.answer_only_call(&active("alice"));
    spend(&mut worker, &gateway, OFFICE, 0..2);
    assert_eq!(worker.send(&gateway, ask(2, OFFICE)).status(), Some(429));
    for answer in [active("alice"), INACTIVE.to_owned()] {
        let told = Request::new("POST", "/_synapse/mas/reactivate_user")
            .header("content-type", "application/json")
            .bearer("secret")
            .body(r#"{"localpart":"alice"}"#);
        let told = worker.request(&provisioning, told);
        worker.response(told, 200);
        process.advance(Duration::from_millis(1));
        let asked = worker.request(&gateway, session());
        assert_eq!(worker.fate(asked), Fate::Held);
        worker.answer_only_call(&answer);
        let expected = match answer.as_str() {
            INACTIVE => not_active(),
            _ => alice(),
        };
        assert_eq!(worker.fate(asked), expected);
    }
}

/// A question that waits for a free call finds another worker's answer only when its turn comes. Late ticks do not shorten its
/// wait, so that can be later than a lease holds.
#[test]
fn a_window_begins_when_the_client_is_told() {
    const LATE_TICK: Duration = Duration::from_millis(475);
    let process = Process::new();
    let [mut first, mut busy] = [(); 2].map(|()| SimulatedWorker::new(&process));
    let settings = json!({
        "introspection": {"max_in_flight": 1, "timeout": "1m"},
        "unknown_token_budget": {"per_source": 1, "window": "5s"},
    });
    let gateway = gateway(1, settings);
    busy.request(&gateway, ask(1, "192.0.2.2"));
    busy.tick();
    process.advance(Duration::from_millis(1));
    let in_line = busy.request(&gateway, ask(2, OFFICE));
    first.request(&gateway, ask(2, "192.0.2.3"));
    first.answer_only_call(INACTIVE);
    process.advance(LATE_TICK - Duration::from_millis(1));
    busy.tick();
    for _ in 0..2 {
        process.advance(LATE_TICK);
        busy.tick();
    }
    process.advance(Duration::from_millis(400));
    assert_eq!(busy.fate(in_line), Fate::Held);
    busy.answer_only_call(INACTIVE);
    assert_eq!(busy.fate(in_line).status(), Some(401));

    process.advance(Duration::from_millis(4_999));
    let refused = first.request(&gateway, ask(3, OFFICE));
    assert_eq!(first.fate(refused).status(), Some(429));
    process.advance(Duration::from_millis(1));
    let asked = first.request(&gateway, ask(3, OFFICE));
    assert_eq!(first.fate(asked), Fate::Held);
}

#[test]
fn the_state_of_budgets_is_bounded() {
    let process = Process::new();
    let mut worker = SimulatedWorker::new(&process);
    let budget = json!({
        "unknown_token_budget": {"per_source": 1, "window": "1h"},
        "cache": {"negative_ttl": "0s"},
    });
    let gateway = gateway(1, budget);
    for number in 0..10_000_u32 {
        let source = std::net::Ipv4Addr::from(number).to_string();
        let stream = worker.request(&gateway, ask(number % 10, &source));
        worker.answer_only_call(INACTIVE);
        worker.hang_up(stream);
    }
    let (counts, leases, rest) = (4_096, 20, 3);
    assert!(
        process.keys() <= counts + leases + rest,
        "{} keys",
        process.keys()
    );
}
