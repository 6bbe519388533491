//! MAS or Envoy fails: what no verdict leads to, and the bounds on what waits.

use std::{rc::Rc, time::Duration};

use matrix_edge_auth::{
    host::StreamId,
    mas::introspection::{IntrospectionResponse, MAX_RESPONSE_BYTES},
    resolver::flight::MAX_WAITERS_PER_FLIGHT,
    worker::Plugin,
};
use serde_json::json;

use crate::{
    ALICE, BOB, INACTIVE, active, alice,
    introspection_role::{introspect, passed_on},
    not_active,
    simulated::{Cluster, Fate, Process, Request, SimulatedWorker, gateway, plugin},
    unable, whoami,
};

#[test]
fn a_question_over_the_cap_waits_for_a_free_call() {
    let process = Process::new();
    let mut worker = SimulatedWorker::new(&process);
    let gateway = gateway(1, json!({"introspection": {"max_in_flight": 1}}));
    let first = worker.request(&gateway, whoami(ALICE));
    let second = worker.request(&gateway, whoami(BOB));
    assert_eq!(worker.fate(second), Fate::Held);
    worker.answer_only_call(&active("alice"));
    assert_eq!(worker.fate(first), alice());
    assert_eq!(worker.fate(second), Fate::Held);
    worker.answer_only_call(&active("bob"));
    assert_eq!(worker.fate(second), Fate::forwarded_as("@bob:example.org"));
}

#[test]
fn a_question_waits_for_a_free_call_for_a_second_at_the_most() {
    let process = Process::new();
    let mut worker = SimulatedWorker::new(&process);
    let gateway = gateway(1, json!({"introspection": {"max_in_flight": 1}}));
    let first = worker.request(&gateway, whoami(ALICE));
    let second = worker.request(&gateway, whoami(BOB));
    for _ in 0..2 {
        process.advance(Duration::from_millis(250));
        worker.tick();
        assert_eq!(worker.fate(second), Fate::Held);
    }
    for _ in 0..2 {
        process.advance(Duration::from_millis(250));
        worker.tick();
    }
    assert_eq!(worker.fate(second), unable());
    assert_eq!(worker.fate(first), Fate::Held);
    assert_eq!(worker.calls().len(), 1);
}

#[test]
fn waiting_requests_are_bounded() {
    let process = Process::new();
    let mut worker = SimulatedWorker::new(&process);
    let gateway = gateway(1, json!({}));
    for _ in 0..MAX_WAITERS_PER_FLIGHT {
        assert_eq!(worker.send(&gateway, whoami(ALICE)), Fate::Held);
    }
    assert_eq!(worker.send(&gateway, whoami(ALICE)), unable());
    assert_eq!(worker.calls().len(), 1);
}

/// The simulated host allows no callback to end a thousand holds, since a real VM does not survive it.
#[test]
fn as_many_as_may_wait_are_answered() {
    let process = Process::new();
    let mut worker = SimulatedWorker::new(&process);
    let gateway = gateway(1, json!({}));
    let streams: Vec<_> = (0..MAX_WAITERS_PER_FLIGHT)
        .map(|_| worker.request(&gateway, whoami(ALICE)))
        .collect();
    worker.answer_only_call(INACTIVE);
    for stream in streams {
        assert_eq!(worker.fate(stream), not_active());
    }
}

/// Each question that waits holds its token, in every worker to which a client brings it.
#[test]
fn a_token_that_is_longer_than_any_of_mas_is_not_asked_about() {
    let token = |length: usize| format!("syt_{}", "x".repeat(length - 4));
    for (pass, expected) in [
        ("reject", unable()),
        ("pass", Fate::forwarded_unannotated()),
    ] {
        let process = Process::new();
        let mut worker = SimulatedWorker::new(&process);
        let gateway = gateway(1, json!({"on_introspection_failure": pass}));
        let introspection = plugin(2, "introspection", json!({}));
        for length in [4_097, 55_000] {
            assert_eq!(worker.send(&gateway, whoami(&token(length))), expected);
            // MAS itself answers the homeserver.
            let fate = worker.send(&introspection, introspect(&token(length)));
            assert_eq!(fate, passed_on());
        }
        assert!(worker.calls().is_empty());
        assert_eq!(process.metric("matrix_edge_auth_introspections_total"), 0);
        let stream = worker.request(&gateway, whoami(&token(4_096)));
        worker.answer_only_call(INACTIVE);
        assert_eq!(worker.fate(stream), not_active());
    }
}

/// A request with Alice's token has got no verdict, and the next one asks again.
fn assert_no_verdict_is_kept(
    worker: &mut SimulatedWorker,
    gateway: &Rc<Plugin>,
    request: StreamId,
) {
    assert_eq!(worker.fate(request), unable());
    assert_eq!(worker.send(gateway, whoami(ALICE)), Fate::Held);
}

#[test]
fn a_lost_answer_ends_in_503_at_the_deadline() {
    let process = Process::new();
    let mut worker = SimulatedWorker::new(&process);
    let gateway = gateway(1, json!({"introspection": {"timeout": "2s"}}));
    let stream = worker.request(&gateway, whoami(ALICE));
    worker.drop_call(worker.calls()[0].id);
    worker.tick_for(Duration::from_millis(2_499));
    assert_eq!(worker.fate(stream), Fate::Held);
    worker.tick_for(Duration::from_millis(1));
    assert_no_verdict_is_kept(&mut worker, &gateway, stream);
}

#[test]
fn a_call_that_times_out_is_no_verdict() {
    let process = Process::new();
    let mut worker = SimulatedWorker::new(&process);
    let gateway = gateway(1, json!({}));
    let stream = worker.request(&gateway, whoami(ALICE));
    worker.tick_for(Duration::from_secs(5));
    assert_no_verdict_is_kept(&mut worker, &gateway, stream);
}

#[test]
fn every_fault_is_no_verdict_and_nothing_is_kept() {
    let oversized = vec![b' '; MAX_RESPONSE_BYTES + 1];
    let json_type: Option<&[u8]> = Some(b"application/json");
    let answered = |status, body: Option<&'static [u8]>| IntrospectionResponse {
        status,
        content_type: json_type,
        lifetime: None,
        body: body.map(Into::into),
    };
    let inactive = Some(INACTIVE.as_bytes());
    let faults = [
        answered(None, None),
        answered(Some(500), inactive),
        answered(Some(401), inactive),
        answered(Some(404), inactive),
        answered(Some(302), inactive),
        answered(Some(429), inactive),
        answered(Some(504), Some(b"upstream request timeout")),
        answered(Some(200), None),
        IntrospectionResponse {
            body: Some(oversized.into()),
            ..answered(Some(200), None)
        },
        answered(Some(200), Some(b"")),
        answered(Some(200), Some(b"{}")),
        answered(Some(200), Some(br#"{"active":"#)),
        answered(Some(200), Some(br#"{"active":"false"}"#)),
        answered(Some(200), Some(br#"{"active":null}"#)),
        IntrospectionResponse {
            status: Some(200),
            content_type: Some(b"text/html"),
            lifetime: None,
            body: inactive.map(Into::into),
        },
        IntrospectionResponse {
            status: Some(200),
            content_type: None,
            lifetime: None,
            body: inactive.map(Into::into),
        },
    ];
    for (pass, expected) in [
        ("reject", unable()),
        ("pass", Fate::forwarded_unannotated()),
    ] {
        let process = Process::new();
        let mut worker = SimulatedWorker::new(&process);
        let gateway = gateway(1, json!({"on_introspection_failure": pass}));
        for fault in &faults {
            let stream = worker.request(&gateway, whoami(ALICE));
            worker.respond(worker.calls()[0].id, fault.clone());
            assert_eq!(worker.fate(stream), expected);
            worker.tick_for(Duration::from_secs(1));
        }
        worker.faults().dispatch.set(true);
        assert_eq!(worker.send(&gateway, whoami(ALICE)), expected);
        worker.faults().dispatch.set(false);
        let stream = worker.request(&gateway, whoami(ALICE));
        worker.answer_only_call(&active("alice"));
        assert_eq!(worker.fate(stream), alice());
    }
}

#[test]
fn a_request_whose_headers_cannot_be_read_or_changed_goes_nowhere() {
    let mut worker = SimulatedWorker::new(&Process::new());
    let gateway = gateway(1, json!({"on_introspection_failure": "pass"}));
    let spoofed = || whoami(ALICE).header("x-matrix-user-id", "@admin:example.org");
    worker.faults().get_header.set(true);
    assert_eq!(worker.send(&gateway, spoofed()).status(), Some(500));
    worker.faults().get_header.set(false);
    worker.faults().set_header.set(true);
    assert_eq!(worker.send(&gateway, spoofed()).status(), Some(500));
    let stream = worker.request(&gateway, whoami(ALICE));
    worker.answer_only_call(&active("alice"));
    assert_eq!(worker.fate(stream).status(), Some(500));
}

/// The token ends while MAS is asked, and its answer is from before.
#[test]
fn an_answer_is_not_kept_where_it_cannot_be_read_whether_the_token_has_ended() {
    for unreadable in [None, Some("edge-auth.h")] {
        let gateway = gateway(1, json!({}));
        let mut cluster = Cluster::new(2);
        cluster.seat_all(&gateway);
        cluster[0].request(&gateway, whoami(ALICE));
        cluster.process.advance(Duration::from_millis(300));
        let logout = Request::new("POST", "/_matrix/client/v3/logout").bearer(ALICE);
        let stream = cluster[1].request(&gateway, logout);
        cluster[1].response(stream, 200);
        cluster.deliver_all();
        cluster[0].faults().shared_data.set(unreadable);
        cluster[0].answer_only_call(&active("alice"));
        cluster[0].faults().shared_data.set(None);
        cluster.answer_all(INACTIVE);
        let streams = cluster.request_each(&gateway, &whoami(ALICE));
        cluster.answer_all(INACTIVE);
        cluster.deliver_all();
        assert_eq!(cluster.fates(&streams), [not_active(), not_active()]);
    }
}

/// Another worker has found out that the token is not active, and this one asks since it cannot read so. MAS says otherwise by now.
#[test]
fn an_answer_that_could_not_be_read_is_superseded_all_the_same() {
    let gateway = gateway(1, json!({}));
    let mut cluster = Cluster::new(2);
    cluster.seat_all(&gateway);
    // That one keeps it for itself.
    for _ in 0..3 {
        cluster[1].request(&gateway, whoami(ALICE));
        cluster.answer_all(INACTIVE);
    }
    // Its lease runs out.
    cluster.tick_for(Duration::from_millis(1_500));
    // This one looks at the sizes of the tables.
    cluster[0].request(&gateway, whoami(BOB));
    cluster.answer_all(&active("bob"));
    cluster.process.advance(Duration::from_millis(100));
    cluster[0].faults().shared_data.set(Some("edge-auth.n"));
    let asked = cluster[0].request(&gateway, whoami(ALICE));
    cluster[0].faults().shared_data.set(None);
    cluster.answer_all(&active("alice"));
    assert_eq!(cluster[0].fate(asked), alice());
    cluster.tick_for(Duration::from_secs(1));
    assert_eq!(
        cluster.send_each(&gateway, &whoami(ALICE)),
        [alice(), alice()]
    );
}

/// Envoy refuses a worker one reading. The others after it go by what there is.
#[test]
fn what_is_refused_once_is_read_again() {
    for (unreadable, by) in [("edge-auth.a.sizes", 0), ("edge-auth.epoch", 1)] {
        let gateway = gateway(1, json!({}));
        let mut cluster = Cluster::new(2);
        cluster.seat_all(&gateway);
        for _ in 0..2 {
            let streams = cluster.request_each(&gateway, &whoami(ALICE));
            cluster.answer_all(&active("alice"));
            cluster.deliver_all();
            assert_eq!(cluster.fates(&streams), [alice(), alice()]);
            let logout = Request::new("POST", "/_matrix/client/v3/logout").bearer(ALICE);
            let stream = cluster[0].request(&gateway, logout);
            cluster[by].faults().shared_data.set(Some(unreadable));
            cluster[0].response(stream, 200);
            cluster.deliver_all();
            cluster[by].faults().shared_data.set(None);
            cluster.tick_for(Duration::from_secs(1));
            let streams = cluster.request_each(&gateway, &whoami(ALICE));
            cluster.answer_all(INACTIVE);
            cluster.deliver_all();
            assert_eq!(
                cluster.fates(&streams),
                [not_active(), not_active()],
                "{unreadable}"
            );
            cluster.tick_for(Duration::from_secs(120));
        }
    }
}
