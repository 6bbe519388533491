//! Answers that are renewed before they end, and answers that serve past their end while MAS is down.

use std::time::Duration;

use serde_json::json;

use crate::{
    ALICE, INACTIVE, active, alice, not_active,
    simulated::{Cluster, Fate, gateway},
    unable, whoami,
};

fn expiring(expires_in: u64) -> String {
    active("alice").replace('{', &format!("{{\"expires_in\":{expires_in},"))
}

#[test]
fn a_token_in_use_never_waits_after_the_first_request() {
    let mut cluster = Cluster::new(4);
    let gateway = gateway(1, json!({"cache": {"ttl": "100s"}}));
    cluster[0].request(&gateway, whoami(ALICE));
    cluster[0].answer_only_call(&active("alice"));
    for second in 0..300 {
        let fates = cluster.send_each(&gateway, &whoami(ALICE));
        assert_eq!(fates, vec![alice(); 4], "after {second} s");
        cluster.run_for(Duration::from_secs(1), &active("alice"));
    }
    let calls = cluster.metric("matrix_edge_auth_introspections_total.outcome=active");
    println!("{calls} calls in three TTLs, used by four workers");
    // At 0 s, and then one for each TTL, 6 s before its end.
    assert_eq!(calls, 1 + 3);
    assert_eq!(cluster.metric("matrix_edge_auth_refreshes_total"), 3);
    assert_eq!(
        cluster.metric("matrix_edge_auth_requests_total.verdict=active.source=mas"),
        1
    );
}

/// Both keep grants in the same worker.
#[test]
fn each_of_two_listeners_renews_as_it_is_told_to() {
    let renewing = gateway(1, json!({"cache": {"ttl": "100s"}}));
    let waiting = gateway(2, json!({"cache": {"ttl": "100s", "refresh_ahead": false}}));
    for (keeper, other, calls) in [(&renewing, &waiting, 0), (&waiting, &renewing, 1)] {
        let mut cluster = Cluster::new(1);
        cluster[0].request(keeper, whoami(ALICE));
        cluster[0].answer_only_call(&active("alice"));
        // The worker keeps the answer.
        assert_eq!(cluster[0].send(keeper, whoami(ALICE)), alice());
        cluster.run_for(Duration::from_secs(96), INACTIVE);
        assert_eq!(cluster[0].send(other, whoami(ALICE)), alice());
        assert_eq!(cluster[0].calls().len(), calls);
    }
}

#[test]
fn a_token_out_of_use_is_not_asked_about_again() {
    let mut cluster = Cluster::new(1);
    let gateway = gateway(1, json!({"cache": {"ttl": "100s"}}));
    cluster[0].request(&gateway, whoami(ALICE));
    cluster[0].answer_only_call(&active("alice"));
    cluster.run_for(Duration::from_secs(400), &active("alice"));
    assert_eq!(cluster.metric("matrix_edge_auth_introspections_total"), 1);
}

#[test]
fn a_renewal_that_was_refused_to_another_worker_is_not_tried_again() {
    let mut cluster = Cluster::new(2);
    let gateway = gateway(1, json!({"cache": {"ttl": "100s"}}));
    cluster[0].request(&gateway, whoami(ALICE));
    cluster[0].answer_only_call(&active("alice"));
    cluster[1].request(&gateway, whoami(ALICE));
    cluster.run_for(Duration::from_secs(95), INACTIVE);
    cluster[0].request(&gateway, whoami(ALICE));
    cluster[0].answer_only_call(INACTIVE);
    // The hint has not arrived.
    cluster[1].request(&gateway, whoami(ALICE));
    assert!(cluster[1].calls().is_empty());
    assert_eq!(cluster[1].send(&gateway, whoami(ALICE)), not_active());
}

#[test]
fn a_token_that_ends_with_its_answer_is_not_renewed() {
    let mut cluster = Cluster::new(1);
    let gateway = gateway(1, json!({"cache": {"ttl": "100s"}}));
    cluster[0].request(&gateway, whoami(ALICE));
    cluster[0].answer_only_call(&expiring(60));
    for _ in 0..59 {
        assert_eq!(cluster[0].send(&gateway, whoami(ALICE)), alice());
        cluster.run_for(Duration::from_secs(1), INACTIVE);
    }
    assert_eq!(cluster.metric("matrix_edge_auth_introspections_total"), 1);
}

#[test]
fn a_renewal_that_says_inactive_reaches_every_worker_within_a_second() {
    for hints_arrive in [true, false] {
        let mut cluster = Cluster::new(4);
        let gateway = gateway(1, json!({"cache": {"ttl": "100s"}}));
        cluster[0].request(&gateway, whoami(ALICE));
        cluster[0].answer_only_call(&active("alice"));
        cluster.run_for(Duration::from_secs(95), "");
        let fates = cluster.send_each(&gateway, &whoami(ALICE));
        assert_eq!(fates, vec![alice(); 4]);
        cluster[0].answer_only_call(INACTIVE);
        if hints_arrive {
            cluster.deliver_all();
        } else {
            cluster.drop_hints();
            cluster.skip(Duration::from_millis(250));
        }
        let fates = cluster.send_each(&gateway, &whoami(ALICE));
        assert_eq!(fates, vec![not_active(); 4]);
    }
}

#[test]
fn an_answer_serves_past_its_end_while_mas_is_down() {
    let mut cluster = Cluster::new(1);
    let config = json!({"cache": {"ttl": "100s", "stale_if_error": "30s", "refresh_ahead": false}});
    let gateway = gateway(1, config);
    cluster[0].request(&gateway, whoami(ALICE));
    cluster[0].answer_only_call(&active("alice"));
    cluster.run_for(Duration::from_secs(101), "");
    // The first request finds out that MAS is down.
    let first = cluster[0].request(&gateway, whoami(ALICE));
    assert_eq!(cluster[0].fate(first), Fate::Held);
    cluster[0].answer_only_call("no verdict");
    assert_eq!(cluster[0].fate(first), alice());
    // The others are served at once, with one retry under way at a time.
    for _ in 0..28 {
        for _ in 0..10 {
            assert_eq!(cluster[0].send(&gateway, whoami(ALICE)), alice());
        }
        assert!(cluster[0].calls().len() <= 1);
        cluster.run_for(Duration::from_secs(1), "no verdict");
    }
    let served = cluster.metric("matrix_edge_auth_requests_total.verdict=active.source=stale");
    assert_eq!(served, 1 + 280);
    let asked = cluster.metric("matrix_edge_auth_introspections_total.outcome=malformed");
    assert!((10..=29).contains(&asked), "{asked} retries in 28 s");
    // The limit.
    cluster.run_for(Duration::from_secs(2), "no verdict");
    let late = cluster[0].request(&gateway, whoami(ALICE));
    cluster[0].answer_only_call("no verdict");
    assert_eq!(cluster[0].fate(late), unable());
}

#[test]
fn nobody_waits_for_a_retry_that_hangs() {
    let mut cluster = Cluster::new(1);
    let config = json!({
        "cache": {"ttl": "10s", "stale_if_error": "1h", "refresh_ahead": false},
        "introspection": {"timeout": "60s"},
    });
    let gateway = gateway(1, config);
    cluster[0].request(&gateway, whoami(ALICE));
    cluster[0].answer_only_call(&active("alice"));
    cluster.run_for(Duration::from_secs(11), "");
    cluster[0].request(&gateway, whoami(ALICE));
    cluster[0].answer_only_call("no verdict");
    for second in 0..600 {
        assert_eq!(
            cluster[0].send(&gateway, whoami(ALICE)),
            alice(),
            "after {second} s"
        );
        assert!(cluster[0].calls().len() <= 1, "one retry at a time");
        cluster.skip(Duration::from_secs(1));
    }
}

#[test]
fn nothing_serves_past_the_expiry_or_after_inactive() {
    let config = json!({"cache": {"ttl": "20s", "stale_if_error": "1h", "refresh_ahead": false}});
    let mut cluster = Cluster::new(1);
    let [gateway, another] = [1, 2].map(|root| gateway(root, config.clone()));
    cluster[0].request(&gateway, whoami(ALICE));
    cluster[0].answer_only_call(&expiring(40));
    cluster.run_for(Duration::from_secs(30), "");
    let stale = cluster[0].request(&gateway, whoami(ALICE));
    cluster[0].answer_only_call("no verdict");
    assert_eq!(cluster[0].fate(stale), alice());
    cluster.run_for(Duration::from_secs(10), "");
    let expired = cluster[0].request(&gateway, whoami(ALICE));
    cluster[0].answer_only_call("no verdict");
    assert_eq!(
        cluster[0].fate(expired),
        unable(),
        "the expiry has passed, or nearly"
    );

    let mut cluster = Cluster::new(1);
    let gateway = another;
    cluster[0].request(&gateway, whoami(ALICE));
    cluster[0].answer_only_call(&active("alice"));
    cluster.run_for(Duration::from_secs(30), "");
    cluster[0].request(&gateway, whoami(ALICE));
    cluster[0].answer_only_call(INACTIVE);
    cluster.run_for(Duration::from_secs(30), "");
    let revoked = cluster[0].request(&gateway, whoami(ALICE));
    cluster[0].answer_only_call("no verdict");
    assert_eq!(cluster[0].fate(revoked), unable(), "last seen inactive");
}

#[test]
fn an_answer_that_ends_with_its_token_is_not_renewed_by_every_worker() {
    let mut cluster = Cluster::new(2);
    let gateway = gateway(1, json!({"cache": {"ttl": "100s"}}));
    cluster[0].request(&gateway, whoami(ALICE));
    cluster[0].answer_only_call(&expiring(150));
    // Both hold the answer, and both copies are due for renewal.
    assert_eq!(cluster[1].send(&gateway, whoami(ALICE)), alice());
    cluster.run_for(Duration::from_secs(95), "");
    assert_eq!(cluster[0].send(&gateway, whoami(ALICE)), alice());
    cluster[0].answer_only_call(&expiring(55));
    assert_eq!(cluster[1].send(&gateway, whoami(ALICE)), alice());
    assert!(cluster[1].calls().is_empty(), "it has been renewed");
}

/// The lease of the failed call tells the other workers for a second. Where it cannot be written, the worker knows it by itself.
#[test]
fn a_renewal_that_failed_is_tried_again_after_a_second_and_not_before() {
    for leases_fail in [false, true] {
        let mut cluster = Cluster::new(1);
        let gateway = gateway(1, json!({"cache": {"ttl": "100s"}}));
        cluster[0].request(&gateway, whoami(ALICE));
        cluster[0].answer_only_call(&active("alice"));
        cluster.run_for(Duration::from_secs(95), "");
        if leases_fail {
            cluster[0].faults().shared_data.set(Some("-auth.l"));
        }
        for second in 0..3 {
            for _ in 0..10 {
                assert_eq!(cluster[0].send(&gateway, whoami(ALICE)), alice());
                cluster.answer_all("no verdict");
            }
            let asked = cluster.metric("matrix_edge_auth_introspections_total.outcome=malformed");
            assert_eq!(asked, second + 1, "leases fail: {leases_fail}");
            cluster.run_for(Duration::from_secs(1), "no verdict");
        }
    }
}
