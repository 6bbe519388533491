//! What a request costs in host calls, counted exactly on the simulated Envoy.
//!
//! A hit in the worker's own cache must make no call beyond one that reads the head, one for each identity header
//! that is written, and one for a metric. Its response costs one: the status tells whether the homeserver refused
//! the token. No other response costs any.

#![cfg(not(target_arch = "wasm32"))]

#[path = "support/simulated.rs"]
#[expect(dead_code, reason = "each test layer uses a part of it")]
mod simulated;

use std::{collections::BTreeMap, time::Duration};

use serde_json::json;

use self::simulated::{Fate, Process, Request, SimulatedWorker, gateway};

const TOKEN: &str = "mat_Z9zA8yB7xC6wD5vE4uF3tG2sH1rI0q_0lFrY1";
const FIRST: &str = "mat_4o334U5SdPgICgyEJVmoHl2Xz1D6Bu_dB9Le3";
const OTHER: &str = "mat_mavzfVABqZ5YsOOlB1f46RfHk7hp3I_0pfwQt";
const ENDED: &str = "syt_ended";
const UNKNOWN: &str = "mat_of_nobody";
const ACTIVE: &str =
    r#"{"active":true,"scope":"urn:matrix:client:api:*","username":"alice","device_id":"PHONE"}"#;

fn whoami(token: &str) -> Request {
    Request::get("/_matrix/client/v3/account/whoami").bearer(token)
}

/// The host calls that `act` makes.
fn count(
    worker: &mut SimulatedWorker,
    act: impl FnOnce(&mut SimulatedWorker),
) -> BTreeMap<String, u64> {
    let before = worker.host_calls();
    act(worker);
    let mut calls = worker.host_calls();
    for (call, number) in before {
        *calls.entry(call).or_default() -= number;
    }
    calls.retain(|_, number| *number > 0);
    calls
}

fn expected(calls: &[(&str, u64)]) -> BTreeMap<String, u64> {
    calls
        .iter()
        .map(|(call, number)| ((*call).to_owned(), *number))
        .collect()
}

/// All that is read of a request, and also what finds forged headers.
const READ: [(&str, u64); 1] = [("get head", 1)];

#[test]
fn the_host_calls_of_each_kind_of_request() {
    let process = Process::new();
    let mut worker = SimulatedWorker::new(&process);
    let gateway = gateway(1, json!({}));
    // The first request takes the worker's place among the others, the first question the secret by which places are
    // chosen, and the first answer of each kind the sizes of the other kind's table.
    for (token, answer) in [(FIRST, ACTIVE), (ENDED, r#"{"active":false}"#)] {
        worker.request(&gateway, whoami(token));
        worker.answer_only_call(answer);
    }

    let miss = count(&mut worker, |worker| {
        let stream = worker.request(&gateway, whoami(TOKEN));
        worker.answer_only_call(ACTIVE);
        assert!(matches!(
            worker.fate(stream),
            Fate::Forwarded {
                user_id: Some(_),
                ..
            }
        ));
    });
    let mut stream = None;
    let hit = count(&mut worker, |worker| {
        let hit = worker.request(&gateway, whoami(TOKEN));
        assert!(matches!(
            worker.fate(hit),
            Fate::Forwarded {
                user_id: Some(_),
                ..
            }
        ));
        stream = Some(hit);
    });
    let response = count(&mut worker, |worker| {
        worker.response(stream.expect("a hit"), 200);
    });
    let invented = count(&mut worker, |worker| {
        worker.request(&gateway, whoami(OTHER));
        worker.answer_only_call(r#"{"active":false}"#);
    });
    let first_negative_hit = count(&mut worker, |worker| {
        assert_eq!(worker.send(&gateway, whoami(OTHER)).status(), Some(401));
    });
    let negative_hit = count(&mut worker, |worker| {
        assert_eq!(worker.send(&gateway, whoami(OTHER)).status(), Some(401));
    });
    let offline_reject = count(&mut worker, |worker| {
        assert_eq!(worker.send(&gateway, whoami("mat_bad")).status(), Some(401));
    });
    let pass_through = count(&mut worker, |worker| {
        let request = Request::get("/_matrix/federation/v1/version");
        let stream = worker.request(&gateway, request);
        worker.response(stream, 200);
    });
    let logout = Request::new("POST", "/_matrix/client/v3/logout").bearer(UNKNOWN);
    let stream = worker.request(&gateway, logout);
    let forgotten = count(&mut worker, |worker| worker.response(stream, 200));
    // Last, since a further worker is one more to tell.
    let shared_gateway = simulated::gateway(2, json!({"cache": {"local_entries": 0}}));
    let mut other = SimulatedWorker::new(&process);
    other.request(&shared_gateway, whoami(TOKEN));
    let shared_hit = count(&mut other, |worker| {
        worker.request(&shared_gateway, whoami(TOKEN));
    });
    for (kind, calls) in [
        ("hit", &hit),
        ("hit in the shared cache", &shared_hit),
        ("the response to a hit", &response),
        ("first negative hit", &first_negative_hit),
        ("negative hit", &negative_hit),
        ("offline reject", &offline_reject),
        ("pass-through", &pass_through),
        ("miss, active", &miss),
        ("miss, inactive", &invented),
        ("the response to a logout of an unknown token", &forgotten),
    ] {
        println!("{kind}: {} host calls", calls.values().sum::<u64>());
        for (call, number) in calls {
            println!("    {number} {call}");
        }
    }

    let identity = [
        ("clock", 1),
        ("add x-matrix-user-id", 1),
        ("add x-matrix-device-id", 1),
        ("metric", 1),
    ];
    assert_eq!(hit, expected(&[&READ[..], &identity].concat()));
    // Its bucket. What MAS told of the user is known by the epochs.
    let mut found = expected(&[&READ[..], &identity, &[("read shared data", 1)]].concat());
    // The look is counted, too.
    found.insert("metric".to_owned(), 2);
    assert_eq!(shared_hit, found);
    assert_eq!(response, expected(&[("get response :status", 1)]));
    let rejection = [("metric", 2), ("reply", 1)];
    assert_eq!(offline_reject, expected(&[&READ[..], &rejection].concat()));
    assert_eq!(
        pass_through,
        expected(&[&READ[..], &[("metric", 1)]].concat())
    );
    // The moment, since a further end is to wait; the count of all ends, and those of its history, whether the table of active
    // answers has other sizes than were known, and its bucket.
    let search = [("get response :status", 1), ("read shared data", 4)];
    let raised = [("clock", 1), ("write shared data", 2)];
    assert_eq!(forgotten, expected(&[&search[..], &raised].concat()));
    // A bucket of each table, and since when answers of "inactive" count. Then the worker keeps it: the mark of what is
    // kept, and once more what it has just read, since that may have changed before.
    let lookup = [
        ("clock", 1),
        ("read shared data", 6),
        ("write shared data", 1),
        ("metric", 4),
        ("reply", 1),
    ];
    assert_eq!(first_negative_hit, expected(&[&READ[..], &lookup].concat()));
    // The mark.
    let kept = [
        ("clock", 1),
        ("read shared data", 1),
        ("metric", 2),
        ("reply", 1),
    ];
    assert_eq!(negative_hit, expected(&[&READ[..], &kept].concat()));
    // One reading of each table before the question, which the writing goes by, and of the lease; and, after the writing, whether
    // the token has ended. What MAS told of the user is known by the epochs. Which sizes the tables have, and how many tokens
    // have ended, was read less than a quarter of a second before.
    let question = [
        ("clock", 2),
        ("dispatch", 1),
        ("select", 1),
        ("read shared data", 4),
        ("write shared data", 2),
        ("metric", 6),
    ];
    let passes = [
        ("add x-matrix-user-id", 1),
        ("add x-matrix-device-id", 1),
        ("resume", 1),
    ];
    assert_eq!(miss, expected(&[&READ[..], &question, &passes].concat()));
    let mut rejected = expected(&[&READ[..], &question, &[("reply", 1)]].concat());
    // The reason is counted.
    rejected.insert("metric".to_owned(), 7);
    // That the token has ended means nothing to it, and its call was brief. The table of active answers is looked into once more,
    // after the writing.
    assert_eq!(invented, rejected);
}

/// Shadow mode costs a hit nothing more, and reads more of a response only where it would have rejected the request.
#[test]
fn shadow_mode_costs_a_hit_nothing() {
    let process = Process::new();
    let mut worker = SimulatedWorker::new(&process);
    let gateway = gateway(1, json!({"mode": "shadow"}));
    worker.request(&gateway, whoami(TOKEN));
    worker.answer_only_call(ACTIVE);
    let mut costs = |request: Request| {
        count(&mut worker, |worker| {
            let stream = worker.request(&gateway, request);
            worker.response(stream, 200);
            worker.hang_up(stream);
        })
    };
    let hit = [
        ("clock", 1),
        ("add x-matrix-user-id", 1),
        ("add x-matrix-device-id", 1),
        ("metric", 1),
        ("get response :status", 1),
    ];
    let request = whoami(TOKEN);
    assert_eq!(costs(request), expected(&[&READ[..], &hit].concat()));
    let would_reject = [
        ("metric", 3),
        ("get response :status", 1),
        ("response code details", 1),
    ];
    let request = Request::get("/_matrix/client/v3/account/whoami");
    let expected = expected(&[&READ[..], &would_reject].concat());
    assert_eq!(costs(request), expected);
}

#[test]
fn a_hit_costs_the_same_for_as_long_as_the_answer_holds() {
    // Until its end, or until it is renewed.
    for (refresh_ahead, seconds) in [(false, 120), (true, 114)] {
        let process = Process::new();
        let mut worker = SimulatedWorker::new(&process);
        let gateway = gateway(1, json!({"cache": {"refresh_ahead": refresh_ahead}}));
        worker.request(&gateway, whoami(TOKEN));
        worker.answer_only_call(ACTIVE);
        for quarters in 0..4 * seconds {
            let hit = count(&mut worker, |worker| {
                worker.request(&gateway, whoami(TOKEN));
            });
            assert_eq!(hit.values().sum::<u64>(), 5, "{quarters} ticks: {hit:?}");
            process.advance(Duration::from_millis(250));
            worker.tick();
        }
    }
}
