//! What one client does to others, and one configuration to others in the same workers.

use std::time::Duration;

use serde_json::json;

use crate::{
    ALICE, INACTIVE, WHOAMI, active,
    attack::invented,
    introspection_role::{introspect, passed_on},
    simulated::{Fate, Process, Request, SimulatedWorker, gateway, plugin},
    whoami,
};

const TICK: Duration = Duration::from_millis(250);

/// A request of the client at `source` with an invented token.
fn ask(number: u32, source: &str) -> Request {
    Request::get(WHOAMI)
        .bearer(&invented(number))
        .source(source)
}

/// What waits in line is asked about only while the budget allows it.
#[test]
fn a_budget_counts_for_what_waits_in_line() {
    let process = Process::new();
    let mut worker = SimulatedWorker::new(&process);
    let gateway = gateway(
        1,
        json!({
            "introspection": {"max_in_flight": 8},
            "unknown_token_budget": {"per_source": 5, "window": "1h"},
        }),
    );
    for number in 0..100 {
        worker.request(&gateway, ask(number, "192.0.2.1"));
    }
    let mut asked = 0;
    while !worker.calls().is_empty() {
        asked += worker.calls().len();
        worker.answer_all(INACTIVE);
    }
    // The budget, and what was under way when it was spent.
    assert!(asked <= 5 + 8, "{asked} calls");
}

/// An office has more dead tokens than a count remembers, and each is tried again and again.
#[test]
fn many_dead_tokens_are_charged_once_each() {
    let process = Process::new();
    let mut worker = SimulatedWorker::new(&process);
    let settings = json!({
        "unknown_token_budget": {"per_source": 100, "window": "1h"},
        "cache": {"negative_ttl": "0s"},
    });
    let gateway = gateway(1, settings);
    for round in 0..4 {
        for number in 0..70 {
            let stream = worker.request(&gateway, ask(number, "192.0.2.1"));
            if !worker.calls().is_empty() {
                worker.answer_only_call(INACTIVE);
            }
            assert_eq!(
                worker.fate(stream).status(),
                Some(401),
                "round {round}, token {number}"
            );
        }
    }
}

/// Two configurations count in windows of their own.
#[test]
fn a_budget_holds_no_longer_than_the_window_of_its_configuration() {
    let process = Process::new();
    let mut worker = SimulatedWorker::new(&process);
    let long = gateway(
        1,
        json!({"unknown_token_budget": {"per_source": 1000, "window": "1h"}}),
    );
    let short = gateway(
        2,
        json!({"unknown_token_budget": {"per_source": 3, "window": "10s"}}),
    );
    for number in 0..5 {
        worker.request(&long, ask(number, "192.0.2.1"));
        worker.answer_only_call(INACTIVE);
    }
    process.advance(Duration::from_secs(11));
    worker.tick();
    assert_eq!(worker.send(&short, ask(100, "192.0.2.1")), Fate::Held);
}

/// What one MAS does not know costs nothing before the other.
#[test]
fn tokens_that_one_mas_does_not_know_are_not_charged_before_another() {
    let process = Process::new();
    let mut worker = SimulatedWorker::new(&process);
    let before = |root, cluster: &str| {
        let budget = json!({"per_source": 3, "window": "1h"});
        gateway(
            root,
            json!({"introspection": {"cluster": cluster}, "unknown_token_budget": budget}),
        )
    };
    let (one, two) = (before(1, "one"), before(2, "two"));
    for number in 0..3 {
        worker.request(&one, ask(number, "192.0.2.1"));
        worker.answer_only_call(INACTIVE);
    }
    let fate = worker.send(&two, whoami(ALICE).source("192.0.2.1"));
    assert_eq!(fate, Fate::Held);
}

/// One client sends as many requests as may wait, with a few tokens.
#[test]
fn the_room_to_wait_is_not_one_clients() {
    let process = Process::new();
    let mut worker = SimulatedWorker::new(&process);
    let gateway = gateway(1, json!({}));
    let mut held = 0;
    for _ in 0..2_048 {
        for number in 0..9 {
            let fate = worker.send(&gateway, ask(number, "203.0.113.1"));
            held += usize::from(fate == Fate::Held);
        }
    }
    assert_eq!(held, 16_384 / 4 * 3);
    let other = worker.send(&gateway, whoami(ALICE).source("192.0.2.1"));
    assert_eq!(other, Fate::Held);
    // The places are free again with the answers.
    worker.answer_all(INACTIVE);
    let again = worker.send(&gateway, ask(100, "203.0.113.1"));
    assert_eq!(again, Fate::Held);
}

/// Two gateways before two MAS: one MAS hangs.
#[test]
fn a_mas_that_hangs_takes_no_call_from_another() {
    let process = Process::new();
    let mut worker = SimulatedWorker::new(&process);
    let before = |root, cluster: &str| {
        gateway(
            root,
            json!({"introspection": {"cluster": cluster, "max_in_flight": 8, "timeout": "1m"}}),
        )
    };
    let (one, two) = (before(1, "one"), before(2, "two"));
    for number in 0..8 {
        worker.request(&one, ask(number, &format!("192.0.2.{number}")));
    }
    assert_eq!(worker.calls().len(), 8);
    worker.request(&two, whoami(ALICE).source("198.51.100.1"));
    assert_eq!(worker.calls().len(), 9);
}

/// Two listeners with caps of their own: what waits for the small one does not stop the large one.
#[test]
fn a_small_cap_does_not_stop_the_line_of_a_large_one() {
    let process = Process::new();
    let mut worker = SimulatedWorker::new(&process);
    let capped = |root, cap: u32| {
        gateway(
            root,
            json!({"introspection": {"max_in_flight": cap, "timeout": "1m"}}),
        )
    };
    let (small, large) = (capped(1, 4), capped(2, 64));
    for number in 0..64 {
        worker.request(&large, ask(number, &format!("192.0.2.{number}")));
    }
    assert_eq!(worker.calls().len(), 64);
    // Which of the two comes first is a matter of their addresses.
    for number in 0..16 {
        worker.request(&small, ask(100 + number, &format!("198.51.100.{number}")));
    }
    let waiting: Vec<_> = (0..16)
        .map(|number| worker.request(&large, ask(200 + number, &format!("203.0.113.{number}"))))
        .collect();
    // Half of the calls end: there is room for 32 more under the large cap.
    for call in worker.calls().into_iter().take(32) {
        worker.answer(call.id, 200, &active("alice"));
    }
    for _ in 0..4 {
        process.advance(TICK);
        worker.tick();
    }
    let held = waiting
        .iter()
        .filter(|stream| worker.fate(**stream) == Fate::Held)
        .count();
    assert_eq!(held, 16, "all have calls under way");
}

/// The homeserver's role has no free call either.
#[test]
fn the_homeserver_does_not_wait_in_the_gateways_line() {
    let process = Process::new();
    let mut worker = SimulatedWorker::new(&process);
    let settings = json!({"introspection": {"max_in_flight": 1, "timeout": "1m"}});
    let (gateway, role) = (
        gateway(1, settings.clone()),
        plugin(2, "introspection", settings),
    );
    worker.request(&gateway, ask(1, "192.0.2.9"));
    worker.request(&role, introspect(&invented(2)));
    worker.request(&gateway, whoami(ALICE));
    let alone = worker.request(&role, introspect(&invented(3)));
    assert_eq!(worker.fate(alone), passed_on());
    let home = worker.request(&role, introspect(ALICE));
    assert_eq!(worker.fate(home), passed_on());
}

/// The paths without the prefix stay MAS's, also where the prefix is a path of the homeserver.
#[test]
fn a_logout_is_seen_whatever_the_prefix_of_mas_is() {
    for prefix in ["/_matrix/client/v3", "/_matrix/client", "/_matrix"] {
        let mut worker = SimulatedWorker::new(&Process::new());
        let path = format!("{prefix}/oauth2/introspect");
        let gateway = gateway(1, json!({"introspection": {"path": path}}));
        worker.request(&gateway, whoami(ALICE));
        worker.answer_only_call(&active("alice"));
        let logout = Request::new("POST", "/_matrix/client/v3/logout").bearer(ALICE);
        let stream = worker.request(&gateway, logout);
        worker.response(stream, 200);
        let fate = worker.send(&gateway, whoami(ALICE));
        assert_eq!(fate, Fate::Held, "{prefix}");
    }
}
