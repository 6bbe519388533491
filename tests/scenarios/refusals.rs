//! A homeserver's 401 to a token that is active as far as the edge knows. It is no word of MAS: MAS is asked, and where it
//! gives no answer, the one that is there serves on.

use std::{rc::Rc, time::Duration};

use matrix_edge_auth::worker::Plugin;
use serde_json::json;

use crate::{
    ALICE, INACTIVE, active, alice,
    introspection_role::{answered, introspect},
    not_active,
    simulated::{Cluster, Fate, Request, gateway, plugin},
    unable, whoami,
};

const WORKERS: usize = 3;

const SECOND: Duration = Duration::from_secs(1);

/// How long an answer holds, in seconds.
const TTL: u32 = 60;

/// Workers that all hold alice's token in their local caches.
fn warmed(gateway: &Rc<Plugin>) -> Cluster {
    let mut cluster = Cluster::new(WORKERS);
    cluster.seat_all(gateway);
    cluster[0].request(gateway, whoami(ALICE));
    cluster.answer_all(&active("alice"));
    let fates = cluster.send_each(gateway, &whoami(ALICE));
    assert_eq!(fates, [(); WORKERS].map(|()| alice()));
    cluster
}

/// The homeserver refuses a request that went on as alice, for example since it asks for interactive authentication.
fn refuse(cluster: &mut Cluster, gateway: &Rc<Plugin>) {
    let stream = cluster[1].request(gateway, whoami(ALICE));
    assert_eq!(cluster[1].fate(stream), alice());
    cluster[1].response(stream, 401);
    cluster.deliver_all();
}

/// Envoy has a 401 of its own, as of a filter behind this one, and it says nothing of the token.
#[test]
fn a_401_that_is_not_the_homeservers_is_not_learned_from() {
    let gateway = gateway(1, json!({}));
    let mut cluster = warmed(&gateway);
    let stream = cluster[1].request(&gateway, whoami(ALICE));
    cluster[1].local_response(stream, 401);
    cluster.deliver_all();
    let fates = cluster.send_each(&gateway, &whoami(ALICE));
    assert_eq!(fates, [(); WORKERS].map(|()| alice()));
    assert_eq!(cluster.metric("matrix_edge_auth_invalidations_total"), 0);
}

/// MAS answers every call with 500.
fn fail_all(cluster: &mut Cluster) {
    for worker in &mut cluster.workers {
        for call in worker.calls() {
            worker.answer(call.id, 500, "");
        }
    }
    cluster.deliver_all();
}

fn configs(stale: u32) -> serde_json::Value {
    json!({"cache": {"ttl": format!("{TTL}s"), "stale_if_error": format!("{stale}s")}})
}

#[test]
fn a_refused_token_works_on_while_mas_is_down_until_its_answer_ends() {
    for stale in [0, 30] {
        let gateway = gateway(1, configs(stale));
        let introspection = plugin(2, "introspection", configs(stale));
        let mut cluster = warmed(&gateway);
        refuse(&mut cluster, &gateway);
        let before = cluster.metric("matrix_edge_auth_introspections_total");
        // Sent in each second. The answer was asked for at the beginning of the first.
        for second in 0..TTL + stale + 5 {
            let clients = cluster.request_each(&gateway, &whoami(ALICE));
            let synapse = cluster[2].request(&introspection, introspect(ALICE));
            fail_all(&mut cluster);
            cluster.skip(SECOND);
            fail_all(&mut cluster);
            let fates = cluster.fates(&clients);
            if second < TTL + stale {
                assert_eq!(fates, [(); WORKERS].map(|()| alice()), "{second}");
                let expected = answered(&active("alice"));
                assert_eq!(cluster[2].fate(synapse), expected, "{second}");
            } else {
                assert_eq!(fates, [(); WORKERS].map(|()| unable()), "{second}");
            }
        }
        let calls = cluster.metric("matrix_edge_auth_introspections_total") - before;
        let seconds = u64::from(TTL + stale + 5);
        println!("{calls} calls in {seconds} s");
        assert!(calls >= seconds / 2 && calls <= seconds + 1, "one a second");
    }
}

#[test]
fn one_new_answer_of_mas_ends_the_doubt_in_every_worker() {
    let gateway = gateway(1, configs(0));
    let mut cluster = warmed(&gateway);
    let refusals = || "matrix_edge_auth_invalidations_total.reason=homeserver";
    refuse(&mut cluster, &gateway);
    assert_eq!(cluster.metric(refusals()), 1);
    let streams = cluster.request_each(&gateway, &whoami(ALICE));
    assert_eq!(cluster.fates(&streams), [(); WORKERS].map(|()| Fate::Held));
    assert_eq!(cluster.calls().len(), 1, "MAS is asked once");
    cluster.answer_all(&active("alice"));
    cluster.deliver_all();
    assert_eq!(cluster.fates(&streams), [(); WORKERS].map(|()| alice()));
    // For the rest of ten seconds this worker does not listen to a further refusal.
    refuse(&mut cluster, &gateway);
    let fates = cluster.send_each(&gateway, &whoami(ALICE));
    assert_eq!(fates, [(); WORKERS].map(|()| alice()));
    assert!(cluster.calls().is_empty());
    assert_eq!(cluster.metric(refusals()), 1);
}

#[test]
fn a_doubted_answer_does_not_outlive_mas_word_or_the_end_of_the_session() {
    for logs_out in [false, true] {
        let gateway = gateway(1, configs(600));
        let mut cluster = warmed(&gateway);
        refuse(&mut cluster, &gateway);
        let expected = if logs_out {
            let logout = Request::new("POST", "/_matrix/client/v3/logout").bearer(ALICE);
            let stream = cluster[0].request(&gateway, logout);
            cluster[0].response(stream, 200);
            unable()
        } else {
            cluster[0].request(&gateway, whoami(ALICE));
            cluster.answer_all(INACTIVE);
            not_active()
        };
        cluster.deliver_all();
        cluster.skip(SECOND);
        let streams = cluster.request_each(&gateway, &whoami(ALICE));
        fail_all(&mut cluster);
        cluster.skip(SECOND);
        let fates = cluster.fates(&streams);
        assert_eq!(fates, [(); WORKERS].map(|()| expected.clone()));
    }
}

/// A failure from before the answer says nothing of MAS now: the request waits for its word.
#[test]
fn after_an_outage_a_doubted_answer_does_not_serve_before_mas_is_asked() {
    // MAS's answers end with their token, before the TTL.
    let short = json!({
        "active": true, "scope": "urn:matrix:client:api:*", "username": "alice", "expires_in": 20,
    });
    let gateway = gateway(1, json!({"cache": {"ttl": "60s", "stale_if_error": "10m"}}));
    let mut cluster = warmed(&gateway);
    cluster.skip(60 * SECOND);
    cluster[1].request(&gateway, whoami(ALICE));
    fail_all(&mut cluster);
    // MAS is well again, and another worker than the one that saw the failure asks it.
    cluster.skip(SECOND);
    cluster[0].request(&gateway, whoami(ALICE));
    cluster.answer_all(&short.to_string());
    cluster.deliver_all();
    refuse(&mut cluster, &gateway);
    let stream = cluster[1].request(&gateway, whoami(ALICE));
    assert_eq!(cluster[1].fate(stream), Fate::Held);
    // The worker that asked last gives its lease back.
    cluster.deliver_all();
    cluster[1].answer_only_call(INACTIVE);
    assert_eq!(cluster[1].fate(stream), not_active());
}

/// The listener that sees the logout need not be the one that keeps the answer: their tables may differ in size, and so may how
/// they ask MAS.
#[test]
fn mas_refuses_at_a_logout_what_another_listener_keeps() {
    for other in [
        json!({"cache": {"slots": 4_096}}),
        json!({"introspection": {"credential": {"injected": true}}}),
        json!({"introspection": {"cluster": "mas-2"}}),
    ] {
        let keeper = gateway(1, json!({}));
        let mut cluster = warmed(&keeper);
        let logout = Request::new("POST", "/_matrix/client/v3/logout").bearer(ALICE);
        let stream = cluster[0].request(&gateway(2, other.clone()), logout);
        cluster[0].response(stream, 401);
        cluster.deliver_all();
        cluster.skip(SECOND);
        let fates = cluster.send_each(&keeper, &whoami(ALICE));
        assert_eq!(fates, [(); WORKERS].map(|()| Fate::Held), "{other}");
    }
}

/// No cache knows the token yet, and the answer on its way may be from before.
#[test]
fn an_answer_on_its_way_as_mas_refuses_at_a_logout_does_not_stay() {
    let gateway = gateway(1, json!({}));
    let mut cluster = Cluster::new(WORKERS);
    cluster.seat_all(&gateway);
    let waiting = cluster[1].request(&gateway, whoami(ALICE));
    let logout = Request::new("POST", "/_matrix/client/v3/logout").bearer(ALICE);
    let stream = cluster[0].request(&gateway, logout);
    cluster[0].response(stream, 401);
    cluster.deliver_all();
    cluster.process.advance(SECOND / 10);
    cluster[1].answer_only_call(&active("alice"));
    assert_eq!(cluster[1].fate(waiting), Fate::Held);
    cluster[1].answer_only_call(INACTIVE);
    assert_eq!(cluster[1].fate(waiting), not_active());
}

/// A client can log out again and again with an OAuth token, which MAS lets live. It does so while MAS is asked each time.
#[test]
fn logouts_that_mas_refuses_cost_few_questions() {
    let gateway = gateway(1, json!({}));
    let mut cluster = Cluster::new(WORKERS);
    cluster.seat_all(&gateway);
    for _ in 0..50 {
        cluster[1].request(&gateway, whoami(ALICE));
        let logout = Request::new("POST", "/_matrix/client/v3/logout").bearer(ALICE);
        let stream = cluster[0].request(&gateway, logout);
        cluster[0].response(stream, 401);
        cluster.deliver_all();
        cluster.process.advance(SECOND / 25);
        cluster.answer_all(&active("alice"));
        cluster.deliver_all();
    }
    let questions = cluster.metric("matrix_edge_auth_introspections_total");
    assert!(questions <= 4, "{questions}");
}
