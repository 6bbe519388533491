//! Shadow mode: no request waits, and each verdict is counted when it comes.

use std::time::Duration;

use matrix_edge_auth::{host::RootId, resolver::flight::MAX_WAITERS_PER_FLIGHT};
use serde_json::json;
use stand_in::mas::token;

use crate::{
    ALICE, BOB, INACTIVE, WHOAMI, active, alice,
    simulated::{Cluster, Fate, Process, Request, SimulatedWorker, gateway, take_log},
    unable, whoami,
};

const WOULD_REJECT: &str = "matrix_edge_auth_would_reject_total";
const REQUESTS: &str = "matrix_edge_auth_requests_total";

/// Returns how many requests `enforce` would have rejected for this reason.
fn would_reject(process: &Process, reason: &str) -> u64 {
    process.metric(&format!("{WOULD_REJECT}.reason={reason}"))
}

fn passes() -> Fate {
    Fate::forwarded_unannotated()
}

#[test]
fn no_request_waits_and_each_verdict_is_counted_once() {
    let process = Process::new();
    let mut worker = SimulatedWorker::new(&process);
    let gateway = gateway(1, json!({"mode": "shadow", "filter_state": true}));
    for token in [ALICE, BOB] {
        for _ in 0..50 {
            assert_eq!(worker.send(&gateway, whoami(token)), passes());
        }
    }
    assert_eq!(worker.calls().len(), 2, "one call for each token");
    assert_eq!(process.metric(REQUESTS), 0, "nothing is decided yet");
    let [first, second] = [0, 1].map(|call| worker.calls()[call].id);
    worker.answer(first, 200, INACTIVE);
    assert_eq!(would_reject(&process, "not_active"), 50);
    worker.answer(second, 500, "");
    assert_eq!(would_reject(&process, "introspection_failed"), 50);
    assert_eq!(process.metric(WOULD_REJECT), 100);
    assert_eq!(process.metric(REQUESTS), 100);
    assert_eq!(process.metric("matrix_edge_auth_rejections_total"), 0);
    assert_eq!(process.metric("matrix_edge_auth_held_duration"), 0);
    let touched = ["reply", "resume"].map(|call| worker.host_calls().get(call).copied());
    assert_eq!(touched, [None; 2], "the requests had gone on");
}

#[test]
fn a_verdict_is_counted_if_the_stream_has_ended() {
    let process = Process::new();
    let mut worker = SimulatedWorker::new(&process);
    let gateway = gateway(1, json!({"mode": "shadow"}));
    let streams = [(); 10].map(|()| worker.request(&gateway, whoami(ALICE)));
    for stream in streams.into_iter().skip(5) {
        worker.response(stream, 401);
        worker.hang_up(stream);
    }
    worker.answer_only_call(INACTIVE);
    assert_eq!(would_reject(&process, "not_active"), 10);
    assert_eq!(process.metric(REQUESTS), 10);
}

/// Otherwise a client that may choose the name of its request could forge lines.
#[test]
fn a_verdict_that_comes_late_is_logged_under_a_name_of_envoys_form() {
    const ID: &str = "1b0c6f64-7a0f-9d0f-b0a5-2c7d2f1f7c11";
    let line = format!("shadow: request {ID} would have been rejected: not_active");
    for (id, settings, has_ended, logged) in [
        (ID, json!({"filter_state": true}), true, vec![line]),
        (ID, json!({"filter_state": true}), false, vec![]),
        (ID, json!({}), true, vec![]),
        (&ID[1..], json!({"filter_state": true}), true, vec![]),
        (
            "1b0c6f64 7a0f-9d0f-b0a5-2c7d2f1f7c11",
            json!({"filter_state": true}),
            true,
            vec![],
        ),
        (
            "1b0c6f64\n7a0f-9d0f-b0a5-2c7d2f1f7c11",
            json!({"filter_state": true}),
            true,
            vec![],
        ),
    ] {
        let mut worker = SimulatedWorker::new(&Process::new());
        let mut settings = settings;
        settings["mode"] = "shadow".into();
        let request = whoami(ALICE).header("x-request-id", id);
        take_log();
        let stream = worker.request(&gateway(1, settings), request);
        if has_ended {
            worker.response(stream, 200);
            worker.hang_up(stream);
        }
        worker.answer(worker.calls()[0].id, 200, INACTIVE);
        let lines: Vec<_> = take_log().into_iter().map(|(_, line)| line).collect();
        let lines: Vec<_> = lines
            .into_iter()
            .filter(|line| line.starts_with("shadow"))
            .collect();
        assert_eq!(lines, logged, "{id}");
    }
}

#[test]
fn an_active_token_is_annotated_once_it_is_known() {
    let process = Process::new();
    let mut worker = SimulatedWorker::new(&process);
    let gateway = gateway(1, json!({"mode": "shadow"}));
    assert_eq!(worker.send(&gateway, whoami(ALICE)), passes());
    let admin = Request::get("/_synapse/admin/v2/users").bearer(ALICE);
    assert_eq!(worker.send(&gateway, admin), passes());
    worker.answer_only_call(&active("alice"));
    assert_eq!(would_reject(&process, "not_server_admin"), 1);
    assert_eq!(process.metric(WOULD_REJECT), 1);
    assert_eq!(worker.send(&gateway, whoami(ALICE)), alice());
    assert!(worker.calls().is_empty());
}

#[test]
fn an_answer_that_never_comes_is_counted() {
    let process = Process::new();
    let mut worker = SimulatedWorker::new(&process);
    let gateway = gateway(1, json!({"mode": "shadow"}));
    worker.send(&gateway, whoami(ALICE));
    worker.drop_call(worker.calls()[0].id);
    worker.tick_for(Duration::from_millis(5_500));
    assert_eq!(would_reject(&process, "introspection_failed"), 1);
}

/// A question that waits in line, and one that another worker asks.
#[test]
fn a_question_that_is_not_asked_at_once_is_counted() {
    let gateway = gateway(
        1,
        json!({"mode": "shadow", "introspection": {"max_in_flight": 1}}),
    );
    let mut cluster = Cluster::new(2);
    cluster.seat_all(&gateway);
    for token in [ALICE, BOB] {
        assert_eq!(cluster[0].send(&gateway, whoami(token)), passes());
    }
    assert_eq!(cluster[1].send(&gateway, whoami(ALICE)), passes());
    assert_eq!(cluster.calls().len(), 1);
    cluster[0].answer_only_call(INACTIVE);
    cluster.deliver_all();
    cluster[0].answer_only_call(INACTIVE);
    assert_eq!(would_reject(&cluster.process, "not_active"), 3);
}

#[test]
fn what_waits_is_bounded_and_the_rest_is_counted_at_once() {
    let process = Process::new();
    let mut worker = SimulatedWorker::new(&process);
    let gateway = gateway(1, json!({"mode": "shadow"}));
    for _ in 0..MAX_WAITERS_PER_FLIGHT + 10 {
        let stream = worker.request(&gateway, whoami(ALICE));
        assert_eq!(worker.fate(stream), passes());
        worker.hang_up(stream);
    }
    assert_eq!(would_reject(&process, "introspection_failed"), 10);
    worker.answer_only_call(INACTIVE);
    let counted = would_reject(&process, "not_active");
    assert_eq!(counted, MAX_WAITERS_PER_FLIGHT as u64);
}

#[test]
fn a_held_request_and_one_in_shadow_share_a_call() {
    let process = Process::new();
    let mut worker = SimulatedWorker::new(&process);
    let shadow = gateway(1, json!({"mode": "shadow"}));
    let enforce = gateway(2, json!({}));
    assert_eq!(worker.send(&shadow, whoami(ALICE)), passes());
    let held = worker.request(&enforce, whoami(ALICE));
    assert_eq!(worker.fate(held), Fate::Held);
    worker.answer_only_call("nonsense");
    assert_eq!(worker.fate(held), unable());
    assert_eq!(would_reject(&process, "introspection_failed"), 1);
}

#[test]
fn a_verdict_is_counted_if_the_configuration_has_gone() {
    let process = Process::new();
    let mut worker = SimulatedWorker::new(&process);
    let (old, new) = (
        gateway(1, json!({"mode": "shadow"})),
        gateway(2, json!({"mode": "shadow"})),
    );
    worker.send(&new, whoami(BOB));
    worker.answer_only_call(INACTIVE);
    let gone = worker.request(&old, whoami(ALICE));
    worker.hang_up(gone);
    worker.drop_root(RootId(1));
    assert!(worker.calls().is_empty(), "its calls went with it");
    worker.tick();
    worker.answer_only_call(INACTIVE);
    assert_eq!(would_reject(&process, "not_active"), 2);
}

#[test]
fn a_logout_voids_the_answer_that_is_on_its_way() {
    let process = Process::new();
    let mut worker = SimulatedWorker::new(&process);
    let gateway = gateway(1, json!({"mode": "shadow"}));
    worker.send(&gateway, whoami(ALICE));
    let logout = Request::new("POST", "/_matrix/client/v3/logout").bearer(ALICE);
    let logout = worker.request(&gateway, logout);
    worker.response(logout, 200);
    worker.answer_only_call(&active("alice"));
    assert_eq!(process.metric(REQUESTS), 1, "the logout itself");
    worker.answer_only_call(INACTIVE);
    assert_eq!(would_reject(&process, "not_active"), 1);
    assert_eq!(worker.send(&gateway, whoami(ALICE)), passes());
}

#[test]
fn a_refusal_is_learned_from_once_the_verdict_is_known() {
    let mut worker = SimulatedWorker::new(&Process::new());
    let gateway = gateway(1, json!({"mode": "shadow"}));
    let stream = worker.request(&gateway, whoami(ALICE));
    worker.answer_only_call(&active("alice"));
    worker.response(stream, 401);
    assert_eq!(worker.send(&gateway, whoami(ALICE)), passes());
    assert_eq!(worker.calls().len(), 1, "MAS is asked again");
}

/// The homeserver may have refused a token in the body, which is not read.
#[test]
fn a_refusal_is_not_learned_from_where_the_body_may_have_another_token() {
    let target = format!("/_matrix/client/v3/keys/query?access_token={ALICE}");
    for (content_type, is_learned) in [("application/json", true), ("=?utf-8?q?any?=", false)] {
        for waits in [true, false] {
            let mut worker = SimulatedWorker::new(&Process::new());
            let gateway = gateway(1, json!({"mode": "shadow"}));
            if !waits {
                worker.send(&gateway, whoami(ALICE));
                worker.answer_only_call(&active("alice"));
            }
            let request = Request::new("POST", &target).header("content-type", content_type);
            let stream = worker.request(&gateway, request);
            if waits {
                worker.answer_only_call(&active("alice"));
            }
            worker.response(stream, 401);
            worker.send(&gateway, whoami(ALICE));
            let asks_again = worker.calls().len() == 1;
            assert_eq!(asks_again, is_learned, "{content_type}, {waits}");
        }
    }
}

/// The verdict comes before the homeserver's answer or after it, or the client has hung up by then.
#[test]
fn what_the_homeserver_answered_is_counted_with_the_reason_whichever_comes_first() {
    let process = Process::new();
    let mut worker = SimulatedWorker::new(&process);
    let gateway = gateway(1, json!({"mode": "shadow", "filter_state": true}));
    let counted = |answer: &str, reason: &str| {
        let name = "matrix_edge_auth_would_reject_answers_total";
        process.metric(&format!("{name}.answer={answer}.reason={reason}"))
    };
    let would_reject = || process.metric("matrix_edge_auth_would_reject_total");

    // The verdict is first.
    let stream = worker.request(&gateway, whoami(BOB));
    let pending = worker.seen_by_homeserver(stream).filter_state;
    assert_eq!(pending["matrix_verdict"], b"pending");
    worker.answer_only_call(INACTIVE);
    let told = worker.seen_by_homeserver(stream).filter_state;
    assert_eq!(told["matrix_verdict"], b"inactive");
    assert_eq!(told["matrix_verdict_source"], b"mas");
    assert_eq!(told["matrix_would_reject"], b"not_active");
    assert_eq!((would_reject(), counted("4xx", "not_active")), (1, 0));
    worker.response(stream, 401);
    assert_eq!(counted("4xx", "not_active"), 1);
    worker.hang_up(stream);

    // The homeserver is first; and the client has gone as well when the verdict comes.
    for (number, is_gone) in [(1, false), (2, true)] {
        let stream = worker.request(&gateway, whoami(&token("mat", &number.to_string())));
        worker.response(stream, 200);
        if is_gone {
            worker.hang_up(stream);
        }
        worker.answer_only_call(INACTIVE);
        assert_eq!(counted("2xx", "not_active"), number, "gone: {is_gone}");
    }

    // No verdict is needed; Envoy answers in place of the homeserver; the client hangs up.
    let reason = "missing_token";
    for (status, answer) in [(200, "2xx"), (302, "3xx"), (404, "4xx"), (500, "5xx")] {
        let stream = worker.request(&gateway, Request::get(WHOAMI));
        let told = worker.seen_by_homeserver(stream).filter_state;
        assert_eq!(told["matrix_would_reject"], b"missing_token");
        worker.response(stream, status);
        worker.hang_up(stream);
        assert_eq!(counted(answer, reason), 1, "{status}");
    }
    let stream = worker.request(&gateway, Request::get(WHOAMI));
    worker.local_response(stream, 503);
    let stream = worker.request(&gateway, Request::get(WHOAMI));
    worker.hang_up(stream);
    assert_eq!((counted("5xx", reason), counted("none", reason)), (1, 2));

    // The client hangs up before the homeserver answers, and the verdict comes last.
    let stream = worker.request(&gateway, whoami(ALICE));
    worker.hang_up(stream);
    worker.answer_only_call(INACTIVE);
    assert_eq!(counted("none", "not_active"), 1);

    let answers = process.metric("matrix_edge_auth_would_reject_answers_total");
    assert_eq!(answers, would_reject(), "each is counted once");
}

/// A request that `enforce` lets pass is counted with no answer, whenever its verdict comes.
#[test]
fn what_enforce_lets_pass_is_counted_with_no_answer() {
    let process = Process::new();
    let mut worker = SimulatedWorker::new(&process);
    let gateway = gateway(1, json!({"mode": "shadow"}));
    for (token, status) in [(ALICE, 200), (BOB, 401)] {
        let early = worker.request(&gateway, whoami(token));
        worker.response(early, status);
        worker.answer_only_call(&active("alice"));
        worker.hang_up(early);
        let hit = worker.request(&gateway, whoami(token));
        worker.response(hit, status);
        worker.hang_up(hit);
    }
    assert_eq!(process.metric("matrix_edge_auth_would_reject"), 0);
}
