//! An active answer that says how much is left of the token's life, down to nothing.
//!
//! MAS rounds `expires_in` to the nearest second, so 0 is a token that lives for up to half a second more: it is active.
//! A number below 0 is one that has ended. Synapse takes both for ended, and says so itself.

use std::time::Duration;

use serde_json::json;

use crate::{
    ALICE, INACTIVE, active, alice,
    introspection_role::{answered, introspect},
    not_active,
    simulated::{Cluster, Fate, gateway, plugin},
    whoami,
};

const WORKERS: usize = 2;

/// An active answer with this `expires_in`.
fn left(seconds: i64) -> String {
    active("alice").replace('{', &format!("{{\"expires_in\":{seconds},"))
}

#[test]
fn a_token_in_its_last_half_second_passes_and_is_asked_about_each_time() {
    let mut cluster = Cluster::new(WORKERS);
    let gateway = gateway(1, json!({"cache": {"stale_if_error": "10m"}}));
    for round in 1..=3 {
        for worker in 0..WORKERS {
            // Requests at the same time share the call.
            let streams = [(); 3].map(|()| cluster[worker].request(&gateway, whoami(ALICE)));
            cluster[worker].answer_only_call(&left(0));
            let fates = streams.map(|stream| cluster[worker].fate(stream));
            assert_eq!(fates, [alice(), alice(), alice()], "round {round}");
        }
        cluster.deliver_all();
    }
    // Nothing is left of it to serve while MAS fails, and no answer but MAS's own makes it inactive.
    let stream = cluster[0].request(&gateway, whoami(ALICE));
    cluster[0].answer_only_call("no verdict");
    assert_eq!(cluster[0].fate(stream).status(), Some(503));
    cluster.skip(Duration::from_secs(1));
    let stream = cluster[0].request(&gateway, whoami(ALICE));
    cluster[0].answer_only_call(INACTIVE);
    assert_eq!(cluster[0].fate(stream), not_active());
}

#[test]
fn the_workers_that_wait_for_the_last_half_second_are_told_active() {
    let mut cluster = Cluster::new(WORKERS);
    let gateway = gateway(1, json!({}));
    let first = cluster[0].request(&gateway, whoami(ALICE));
    let second = cluster[1].request(&gateway, whoami(ALICE));
    cluster[0].answer_only_call(&left(0));
    cluster.deliver_all();
    assert_eq!(cluster[0].fate(first), alice());
    // The first worker's answer is not kept, so this one asks for itself.
    assert_eq!(cluster[1].fate(second), Fate::Held);
    cluster[1].answer_only_call(&left(0));
    assert_eq!(cluster[1].fate(second), alice());
}

#[test]
fn a_token_whose_end_has_passed_is_inactive_on_all_workers() {
    for seconds in [-1, i64::MIN] {
        let mut cluster = Cluster::new(WORKERS);
        let gateway = gateway(1, json!({}));
        let stream = cluster[0].request(&gateway, whoami(ALICE));
        cluster[0].answer_only_call(&left(seconds));
        assert_eq!(cluster[0].fate(stream), not_active());
        let fates = cluster.send_each(&gateway, &whoami(ALICE));
        assert_eq!(fates, vec![not_active(); WORKERS], "kept");
    }
}

#[test]
fn the_homeserver_is_told_what_mas_said() {
    let mut cluster = Cluster::new(WORKERS);
    let role = plugin(2, "introspection", json!({}));
    for _ in 0..2 {
        let stream = cluster[0].request(&role, introspect(ALICE));
        cluster[0].answer_only_call(&left(0));
        assert_eq!(cluster[0].fate(stream), answered(&left(0)), "0 stays 0");
    }
    let stream = cluster[0].request(&role, introspect(ALICE));
    cluster[0].answer_only_call(&left(-1));
    assert_eq!(cluster[0].fate(stream), answered(&left(-1)));
}
