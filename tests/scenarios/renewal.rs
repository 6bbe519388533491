//! Answers that are renewed before they end, and answers that serve past their end while MAS is down.

use std::time::Duration;

use serde_json::json;

use crate::{
    ALICE, INACTIVE, active, not_active,
    simulated::{Fate, Process, SimulatedWorker, gateway},
    unable, whoami,
};

fn alice() -> Fate {
    Fate::forwarded_as("@alice:example.org")
}

fn expiring(expires_in: u64) -> String {
    active("alice").replace('{', &format!("{{\"expires_in\":{expires_in},"))
}

/// Time passes as in a healthy event loop, and MAS answers what it is asked with `body`.
fn pass(process: &Process, workers: &mut [SimulatedWorker], seconds: u64, body: &str) {
    for _ in 0..seconds * 4 {
        process.advance(Duration::from_millis(250));
        for worker in &mut *workers {
            worker.tick();
            for call in worker.calls() {
                worker.answer(call.id, 200, body);
            }
        }
        for worker in &mut *workers {
            while worker.deliver() {}
        }
    }
}

#[test]
fn a_token_in_use_never_waits_after_the_first_request() {
    let process = Process::new();
    let mut workers: Vec<_> = (0..4).map(|_| SimulatedWorker::new(&process)).collect();
    let gateway = gateway(1, json!({"cache": {"ttl": "100s"}}));
    workers[0].request(&gateway, whoami(ALICE));
    workers[0].answer_the_call(&active("alice"));
    for second in 0..300 {
        for worker in &mut workers {
            assert_eq!(
                worker.fate_of(&gateway, whoami(ALICE)),
                alice(),
                "after {second} s"
            );
        }
        pass(&process, &mut workers, 1, &active("alice"));
    }
    let calls = process.metric("matrix_edge_auth_introspections_total.outcome=active");
    println!("{calls} calls in three TTLs, used by four workers");
    // At 0 s, and then one for each TTL, 6 s before its end.
    assert_eq!(calls, 1 + 3);
    assert_eq!(process.metric("matrix_edge_auth_refreshes_total"), 3);
    assert_eq!(
        process.metric("matrix_edge_auth_requests_total.verdict=active.source=mas"),
        1
    );
}

#[test]
fn a_token_out_of_use_is_not_asked_about_again() {
    let process = Process::new();
    let mut workers = [SimulatedWorker::new(&process)];
    let gateway = gateway(1, json!({"cache": {"ttl": "100s"}}));
    workers[0].request(&gateway, whoami(ALICE));
    workers[0].answer_the_call(&active("alice"));
    pass(&process, &mut workers, 400, &active("alice"));
    assert_eq!(process.metric("matrix_edge_auth_introspections_total"), 1);
}

#[test]
fn a_renewal_that_was_refused_to_another_worker_is_not_tried_again() {
    let process = Process::new();
    let mut workers: Vec<_> = (0..2).map(|_| SimulatedWorker::new(&process)).collect();
    let gateway = gateway(1, json!({"cache": {"ttl": "100s"}}));
    workers[0].request(&gateway, whoami(ALICE));
    workers[0].answer_the_call(&active("alice"));
    workers[1].request(&gateway, whoami(ALICE));
    pass(&process, &mut workers, 95, INACTIVE);
    workers[0].request(&gateway, whoami(ALICE));
    workers[0].answer_the_call(INACTIVE);
    // The hint has not arrived.
    workers[1].request(&gateway, whoami(ALICE));
    assert!(workers[1].calls().is_empty());
    assert_eq!(workers[1].fate_of(&gateway, whoami(ALICE)), not_active());
}

#[test]
fn a_token_that_ends_with_its_answer_is_not_renewed() {
    let process = Process::new();
    let mut workers = [SimulatedWorker::new(&process)];
    let gateway = gateway(1, json!({"cache": {"ttl": "100s"}}));
    workers[0].request(&gateway, whoami(ALICE));
    workers[0].answer_the_call(&expiring(60));
    for _ in 0..59 {
        assert_eq!(workers[0].fate_of(&gateway, whoami(ALICE)), alice());
        pass(&process, &mut workers, 1, INACTIVE);
    }
    assert_eq!(process.metric("matrix_edge_auth_introspections_total"), 1);
}

#[test]
fn a_renewal_that_says_inactive_reaches_every_worker_within_a_second() {
    for hints_arrive in [true, false] {
        let process = Process::new();
        let mut workers: Vec<_> = (0..4).map(|_| SimulatedWorker::new(&process)).collect();
        let gateway = gateway(1, json!({"cache": {"ttl": "100s"}}));
        workers[0].request(&gateway, whoami(ALICE));
        workers[0].answer_the_call(&active("alice"));
        pass(&process, &mut workers, 95, "");
        for worker in &mut workers {
            assert_eq!(worker.fate_of(&gateway, whoami(ALICE)), alice());
        }
        workers[0].answer_the_call(INACTIVE);
        if hints_arrive {
            for worker in &mut workers {
                while worker.deliver() {}
            }
        } else {
            workers.iter_mut().for_each(SimulatedWorker::lose_hints);
            process.advance(Duration::from_millis(250));
            workers.iter_mut().for_each(SimulatedWorker::tick);
        }
        for worker in &mut workers {
            assert_eq!(worker.fate_of(&gateway, whoami(ALICE)), not_active());
        }
    }
}

#[test]
fn an_answer_serves_past_its_end_while_mas_is_down() {
    let process = Process::new();
    let mut workers = [SimulatedWorker::new(&process)];
    let config = json!({"cache": {"ttl": "100s", "stale_if_error": "30s", "refresh_ahead": false}});
    let gateway = gateway(1, config);
    workers[0].request(&gateway, whoami(ALICE));
    workers[0].answer_the_call(&active("alice"));
    pass(&process, &mut workers, 101, "");
    // The first request finds out that MAS is down.
    let first = workers[0].request(&gateway, whoami(ALICE));
    assert_eq!(workers[0].fate(first), Fate::Held);
    workers[0].answer_the_call("no verdict");
    assert_eq!(workers[0].fate(first), alice());
    // The others are served at once, with one retry under way at a time.
    for _ in 0..28 {
        for _ in 0..10 {
            assert_eq!(workers[0].fate_of(&gateway, whoami(ALICE)), alice());
        }
        assert!(workers[0].calls().len() <= 1);
        pass(&process, &mut workers, 1, "no verdict");
    }
    let served = process.metric("matrix_edge_auth_requests_total.verdict=active.source=stale");
    assert_eq!(served, 1 + 280);
    let asked = process.metric("matrix_edge_auth_introspections_total.outcome=malformed");
    assert!((10..=29).contains(&asked), "{asked} retries in 28 s");
    // The limit.
    pass(&process, &mut workers, 2, "no verdict");
    let late = workers[0].request(&gateway, whoami(ALICE));
    workers[0].answer_the_call("no verdict");
    assert_eq!(workers[0].fate(late), unable());
}

#[test]
fn nobody_waits_for_a_retry_that_hangs() {
    let process = Process::new();
    let mut workers = [SimulatedWorker::new(&process)];
    let config = json!({
        "cache": {"ttl": "10s", "stale_if_error": "1h", "refresh_ahead": false},
        "introspection": {"timeout": "60s"},
    });
    let gateway = gateway(1, config);
    workers[0].request(&gateway, whoami(ALICE));
    workers[0].answer_the_call(&active("alice"));
    pass(&process, &mut workers, 11, "");
    workers[0].request(&gateway, whoami(ALICE));
    workers[0].answer_the_call("no verdict");
    for second in 0..600 {
        assert_eq!(
            workers[0].fate_of(&gateway, whoami(ALICE)),
            alice(),
            "after {second} s"
        );
        assert!(workers[0].calls().len() <= 1, "one retry at a time");
        process.advance(Duration::from_secs(1));
        workers[0].tick();
    }
}

#[test]
fn nothing_serves_past_the_expiry_or_after_inactive() {
    let config = json!({"cache": {"ttl": "20s", "stale_if_error": "1h", "refresh_ahead": false}});
    let process = Process::new();
    let mut workers = [SimulatedWorker::new(&process)];
    let gateway = gateway(1, config);
    workers[0].request(&gateway, whoami(ALICE));
    workers[0].answer_the_call(&expiring(40));
    pass(&process, &mut workers, 30, "");
    let stale = workers[0].request(&gateway, whoami(ALICE));
    workers[0].answer_the_call("no verdict");
    assert_eq!(workers[0].fate(stale), alice());
    pass(&process, &mut workers, 10, "");
    let expired = workers[0].request(&gateway, whoami(ALICE));
    workers[0].answer_the_call("no verdict");
    assert_eq!(
        workers[0].fate(expired),
        unable(),
        "the expiry has passed, or nearly"
    );

    let process = Process::new();
    let mut workers = [SimulatedWorker::new(&process)];
    workers[0].request(&gateway, whoami(ALICE));
    workers[0].answer_the_call(&active("alice"));
    pass(&process, &mut workers, 30, "");
    workers[0].request(&gateway, whoami(ALICE));
    workers[0].answer_the_call(INACTIVE);
    pass(&process, &mut workers, 30, "");
    let revoked = workers[0].request(&gateway, whoami(ALICE));
    workers[0].answer_the_call("no verdict");
    assert_eq!(workers[0].fate(revoked), unable(), "last seen inactive");
}

#[test]
fn an_answer_that_ends_with_its_token_is_not_renewed_by_every_worker() {
    let process = Process::new();
    let mut workers = [
        SimulatedWorker::new(&process),
        SimulatedWorker::new(&process),
    ];
    let gateway = gateway(1, json!({"cache": {"ttl": "100s"}}));
    workers[0].request(&gateway, whoami(ALICE));
    workers[0].answer_the_call(&expiring(150));
    // Both hold the answer, and both copies are due for renewal.
    assert_eq!(workers[1].fate_of(&gateway, whoami(ALICE)), alice());
    pass(&process, &mut workers, 95, "");
    assert_eq!(workers[0].fate_of(&gateway, whoami(ALICE)), alice());
    workers[0].answer_the_call(&expiring(55));
    assert_eq!(workers[1].fate_of(&gateway, whoami(ALICE)), alice());
    assert!(workers[1].calls().is_empty(), "it has been renewed");
}
