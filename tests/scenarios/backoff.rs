//! A token that no cache knows, and a MAS that fails: all workers together ask once a second, and the requests in between
//! get what stands in for a verdict at once.

use std::{rc::Rc, time::Duration};

use matrix_edge_auth::worker::Plugin;
use serde_json::{Value, json};

use crate::{
    ALICE, BOB, active, alice,
    attack::invented,
    introspection_role::{answered, introspect, passed_on},
    simulated::{Call, Cluster, Fate, gateway, plugin},
    unable, whoami,
};

const WORKERS: usize = 4;
const SECOND: Duration = Duration::from_secs(1);
const MILLISECOND: Duration = Duration::from_millis(1);

/// Workers that know each other.
fn cluster(gateway: &Rc<Plugin>) -> Cluster {
    let mut cluster = Cluster::new(WORKERS);
    cluster.seat_all(gateway);
    cluster
}

/// The only call of all workers, and which of them made it.
fn only_call(cluster: &Cluster) -> (usize, Call) {
    let calls = (0..WORKERS).flat_map(|at| cluster[at].calls().into_iter().map(move |it| (at, it)));
    let [call] = &calls.collect::<Vec<_>>()[..] else {
        panic!("one call");
    };
    call.clone()
}

/// A request on each worker, whose call gets this response of MAS or Envoy.
fn fail(cluster: &mut Cluster, gateway: &Rc<Plugin>, status: u16, body: &str) {
    for worker in 0..WORKERS {
        cluster[worker].request(gateway, whoami(ALICE));
    }
    let (worker, call) = only_call(cluster);
    cluster[worker].answer(call.id, status, body);
    cluster.deliver_all();
}

/// Requests of a herd, again and again for ten seconds, on all workers.
#[test]
fn a_cold_herd_makes_one_call_a_second_while_mas_is_dead() {
    const STEP: Duration = Duration::from_millis(25);
    let gateway = gateway(1, json!({}));
    let mut cluster = cluster(&gateway);
    let (mut calls, mut replies) = (Vec::new(), 0);
    for step in 0..400 {
        for worker in 0..WORKERS {
            let streams = [(); 5].map(|()| cluster[worker].request(&gateway, whoami(ALICE)));
            // A connection that is refused fails at once.
            for call in cluster[worker].calls() {
                calls.push(STEP * step);
                cluster[worker].answer(call.id, 503, "");
            }
            for stream in streams {
                assert_eq!(
                    cluster[worker].fate(stream),
                    unable(),
                    "at {:?}",
                    STEP * step
                );
                assert_eq!(
                    cluster[worker]
                        .reply_header(stream, "retry-after")
                        .as_deref(),
                    Some("1")
                );
                replies += 1;
            }
        }
        cluster.deliver_all();
        cluster.process.advance(STEP);
        for worker in 0..WORKERS {
            if step % 10 == 0 {
                cluster[worker].tick();
            }
        }
    }
    assert_eq!(replies, 400 * WORKERS * 5);
    let seconds: Vec<_> = (0..10).map(|second| SECOND * second).collect();
    assert_eq!(calls, seconds, "one call a second");
}

#[test]
fn the_first_request_after_the_second_finds_out_that_mas_is_back() {
    let gateway = gateway(1, json!({}));
    let mut cluster = cluster(&gateway);
    fail(&mut cluster, &gateway, 503, "");
    cluster.process.advance(SECOND - MILLISECOND);
    let fates = cluster.send_each(&gateway, &whoami(ALICE));
    assert_eq!(fates, vec![unable(); WORKERS]);
    // Another token is another question.
    let other = cluster[0].request(&gateway, whoami(BOB));
    cluster[0].answer_only_call(&active("bob"));
    assert_eq!(
        cluster[0].fate(other),
        Fate::forwarded_as("@bob:example.org")
    );
    cluster.process.advance(MILLISECOND);
    let streams = cluster.request_each(&gateway, &whoami(ALICE));
    let (worker, call) = only_call(&cluster);
    cluster[worker].answer(call.id, 200, &active("alice"));
    cluster.deliver_all();
    for (worker, stream) in streams.into_iter().enumerate() {
        assert_eq!(cluster[worker].fate(stream), alice());
    }
}

/// A call that hung for its whole time has used up the second, so the next request asks at once.
#[test]
fn a_call_that_took_longer_than_a_second_holds_nobody_off() {
    for is_lost in [false, true] {
        let gateway = gateway(1, json!({"introspection": {"timeout": "2s"}}));
        let mut cluster = cluster(&gateway);
        let stream = cluster[0].request(&gateway, whoami(ALICE));
        if is_lost {
            let (worker, call) = only_call(&cluster);
            cluster[worker].drop_call(call.id);
        }
        for _ in 0..10 {
            cluster.skip(Duration::from_millis(250));
        }
        assert_eq!(cluster[0].fate(stream), unable(), "the lost one: {is_lost}");
        let stream = cluster[0].request(&gateway, whoami(ALICE));
        cluster[0].answer_only_call(&active("alice"));
        assert_eq!(cluster[0].fate(stream), alice());
    }
}

/// What Envoy itself holds back costs MAS nothing and says nothing of the next call.
#[test]
fn a_call_that_never_left_envoy_holds_nobody_off() {
    const OVERFLOW: &str =
        "upstream connect error or disconnect/reset before headers. reset reason: overflow";
    let gateway = gateway(1, json!({}));
    for body in ["no healthy upstream", OVERFLOW] {
        let mut cluster = cluster(&gateway);
        fail(&mut cluster, &gateway, 503, body);
        let stream = cluster[1].request(&gateway, whoami(ALICE));
        cluster[1].answer_only_call(&active("alice"));
        assert_eq!(cluster[1].fate(stream), alice(), "{body}");
    }
    let mut cluster = cluster(&gateway);
    cluster[0].faults().dispatch.set(true);
    assert_eq!(cluster[0].send(&gateway, whoami(ALICE)), unable());
    cluster[0].faults().dispatch.set(false);
    let stream = cluster[0].request(&gateway, whoami(ALICE));
    cluster[0].answer_only_call(&active("alice"));
    assert_eq!(cluster[0].fate(stream), alice());
}

#[test]
fn each_role_and_configuration_does_in_between_what_it_does_without_a_verdict() {
    let homeserver = |overrides: Value| plugin(2, "introspection", overrides);
    let gateway = gateway(1, json!({}));
    let passes = json!({"on_introspection_failure": "pass"});
    let unavailable = r#"{"error":"temporarily_unavailable","error_description":"Unable to introspect the token"}"#;
    let anonymous = Fate::forwarded_unannotated;
    let mut cluster = cluster(&gateway);
    fail(&mut cluster, &gateway, 500, "");
    for (plugin, request, expected) in [
        (
            crate::simulated::gateway(3, passes.clone()),
            whoami(ALICE),
            anonymous(),
        ),
        (
            crate::simulated::gateway(4, json!({"mode": "shadow"})),
            whoami(ALICE),
            anonymous(),
        ),
        (
            homeserver(json!({})),
            introspect(ALICE),
            Fate::Replied(503, unavailable.into()),
        ),
        (homeserver(passes), introspect(ALICE), passed_on()),
    ] {
        assert_eq!(cluster[1].send(&plugin, request), expected);
        assert!(cluster[1].calls().is_empty());
    }
    cluster.process.advance(SECOND);
    let stream = cluster[1].request(&homeserver(json!({})), introspect(ALICE));
    cluster[1].answer_only_call(&active("alice"));
    assert_eq!(cluster[1].fate(stream), answered(&active("alice")));
}

/// A question that waited in line behind the call that fails is not asked either.
#[test]
fn a_question_in_line_learns_of_the_failure() {
    let gateway = gateway(1, json!({"introspection": {"max_in_flight": 1}}));
    let mut cluster = cluster(&gateway);
    // Worker 1 has its hands full, so its question about alice waits in line.
    cluster[1].request(&gateway, whoami(BOB));
    let waits = cluster[1].request(&gateway, whoami(ALICE));
    cluster[0].request(&gateway, whoami(ALICE));
    let call = cluster[0].calls()[0].id;
    cluster[0].answer(call, 500, "");
    cluster[1].answer_only_call(&active("bob"));
    assert_eq!(cluster[1].fate(waits), unable());
    assert!(cluster[1].calls().is_empty());
}

/// Whatever tokens clients bring, what is remembered of failures lies in the buckets of the leases, whose number is fixed.
#[test]
fn failures_about_many_tokens_take_no_more_room_than_their_leases() {
    let gateway = gateway(1, json!({"introspection": {"max_in_flight": 64}}));
    let mut cluster = cluster(&gateway);
    let mut sizes = Vec::new();
    for round in 0..4 {
        for number in 0..8_000 {
            let token = invented(round * 8_000 + number);
            cluster[0].request(&gateway, whoami(&token));
            let call = cluster[0].calls()[0].id;
            cluster[0].answer(call, 500, "");
        }
        sizes.push(cluster.process.shared_bytes());
    }
    println!("shared data after each 8,000 failures: {sizes:?} bytes");
    // 16,384 leases of 57 bytes and their length, in buckets of eight with a byte for the version; the rest is small.
    let most = 16_384 * 59 + 2_048 + 4_096;
    assert!(sizes.iter().all(|size| *size < most), "{sizes:?}");
}
