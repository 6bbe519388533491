//! Sessions that end while the gateway looks on: logouts, revocations, and tokens that the homeserver refuses.

use std::{cell::RefCell, rc::Rc, time::Duration};

use matrix_edge_auth::{host::StreamId, worker::Plugin};
use serde_json::{Value, json};

use crate::{
    ALICE, BOB, INACTIVE, active, alice, not_active,
    simulated::{Cluster, Fate, Process, Request, SimulatedWorker, gateway},
    unable, whoami,
};

fn logout(path: &str, token: &str) -> Request {
    Request::new("POST", path).bearer(token)
}

fn revocation(token: &str) -> Request {
    Request::new("POST", "/oauth2/revoke")
        .header("content-type", "application/x-www-form-urlencoded")
        .header("authorization", "Basic eDp5")
        .body(format!("token_type_hint=access_token&token={token}"))
}

/// Workers that all hold alice's token in their local caches.
fn warmed(workers: usize) -> Cluster {
    let gateway = gateway(1, json!({}));
    let mut cluster = Cluster::new(workers);
    cluster.seat_all(&gateway);
    cluster[0].request(&gateway, whoami(ALICE));
    cluster[0].answer_only_call(&active("alice"));
    let fates = cluster.send_each(&gateway, &whoami(ALICE));
    assert_eq!(fates, vec![alice(); workers]);
    cluster
}

#[test]
fn a_session_that_ends_is_forgotten_by_every_worker() {
    for request in [
        logout("/_matrix/client/v3/logout", ALICE),
        logout("/_matrix/client/anything/logout", ALICE),
        logout("/_matrix/client/r0/logout/all", ALICE),
        revocation(ALICE),
    ] {
        let gateway = gateway(1, json!({}));
        let mut cluster = warmed(3);
        let stream = cluster[1].request(&gateway, request.clone());
        assert_eq!(cluster[1].fate(stream), Fate::forwarded_unannotated());
        let fates = cluster.send_each(&gateway, &whoami(ALICE));
        assert_eq!(fates, vec![alice(); 3], "not yet");
        cluster[1].response(stream, 200);
        cluster.deliver_all();
        let fates = cluster.send_each(&gateway, &whoami(ALICE));
        assert_eq!(fates, vec![Fate::Held; 3]);
        assert_eq!(cluster.calls().len(), 1, "{request:?}");
    }
}

/// What tells a mass logout from a flood of invented tokens: MAS called those that ended active before.
#[test]
fn a_token_is_counted_once_if_mas_calls_it_inactive_and_called_it_active_before() {
    const COUNTED: &str = "matrix_edge_auth_invalidations_total.reason=introspection";
    for seconds in [121, 1_000] {
        let gateway = gateway(1, json!({}));
        let mut cluster = warmed(3);
        cluster.skip(Duration::from_secs(seconds));
        for token in [ALICE, BOB] {
            let stream = cluster[0].request(&gateway, whoami(token));
            cluster[0].answer_only_call(INACTIVE);
            assert_eq!(cluster[0].fate(stream), not_active());
            cluster.deliver_all();
            let fates = cluster.send_each(&gateway, &whoami(token));
            assert_eq!(fates, vec![not_active(); 3]);
            // BOB's was never active.
            assert_eq!(cluster.metric(COUNTED), 1);
        }
    }
}

/// The longest that a worker without a pause serves hits of an ended session: its own cache counts for three quarters of a second.
const HITS_WITHOUT_A_PAUSE: u64 = 75;

/// Sends one hit each 10 ms to a worker that comes to no tick and reads no hint. Returns how many are served.
fn served_without_a_pause(worker: &mut SimulatedWorker, process: &Process) -> u64 {
    let gateway = gateway(1, json!({}));
    let mut served = 0;
    while served < 10 * HITS_WITHOUT_A_PAUSE {
        process.advance(Duration::from_millis(10));
        if worker.send(&gateway, whoami(ALICE)) != alice() {
            break;
        }
        served += 1;
    }
    served
}

#[test]
fn a_session_that_ends_is_forgotten_by_a_worker_that_comes_to_no_tick() {
    let gateway = gateway(1, json!({}));
    let mut cluster = warmed(2);
    let process = Rc::clone(&cluster.process);
    let stream = cluster[1].request(&gateway, logout("/_matrix/client/v3/logout", ALICE));
    cluster[1].response(stream, 200);
    let served = served_without_a_pause(&mut cluster[0], &process);
    assert!(served <= HITS_WITHOUT_A_PAUSE, "{served}");
}

#[test]
fn a_token_that_expires_is_not_served_by_a_worker_that_comes_to_no_tick() {
    let gateway = gateway(1, json!({}));
    let process = Process::new();
    let mut worker = SimulatedWorker::new(&process);
    worker.request(&gateway, whoami(ALICE));
    let body = active("alice").replace('{', "{\"expires_in\":3,");
    worker.answer_only_call(&body);
    let served = served_without_a_pause(&mut worker, &process);
    assert!((100..=300).contains(&served), "{served}");
}

/// MAS may have ended the session, and its answer finds nobody.
#[test]
fn an_end_without_an_answer_is_forgotten_by_every_worker() {
    for request in [
        logout("/_matrix/client/v3/logout", ALICE),
        logout("/_matrix/client/r0/logout/all", ALICE),
        revocation(ALICE),
    ] {
        for is_lost_by_mas in [false, true] {
            let gateway = gateway(1, json!({}));
            let mut cluster = warmed(3);
            let stream = cluster[1].request(&gateway, request.clone());
            if is_lost_by_mas {
                cluster[1].lost_response(stream, 503);
            }
            cluster[1].hang_up(stream);
            cluster.deliver_all();
            cluster.skip(Duration::from_millis(500));
            let fates = cluster.send_each(&gateway, &whoami(ALICE));
            assert_eq!(fates, vec![Fate::Held; 3], "{request:?}");
            // It is no word that the token is inactive.
            cluster.answer_all(&active("alice"));
            cluster.deliver_all();
            let fates = cluster.send_each(&gateway, &whoami(ALICE));
            assert_eq!(fates, vec![alice(); 3]);
        }
    }
}

/// What ends a session is MAS's to judge, and the edge hears of it.
#[test]
fn no_rule_of_an_endpoint_hides_an_end() {
    for auth in ["none", "foreign", "optional", "required", "admin"] {
        let rules = json!({"endpoints": [{"prefix": "/", "auth": auth}]});
        for request in [
            logout("/_matrix/client/v3/logout", ALICE),
            logout("/_matrix/client/v3/logout/all", ALICE),
            revocation(ALICE),
        ] {
            let mut cluster = warmed(2);
            let stream = cluster[0].request(&gateway(2, rules.clone()), request.clone());
            assert_eq!(cluster[0].fate(stream), Fate::forwarded_unannotated());
            cluster[0].response(stream, 200);
            cluster.deliver_all();
            let fates = cluster.send_each(&gateway(1, json!({})), &whoami(ALICE));
            assert_eq!(fates, [Fate::Held, Fate::Held], "{auth}: {request:?}");
        }
    }
}

/// MAS would take such a path for a logout, and another server for anything.
#[test]
fn a_logout_that_may_lead_elsewhere_is_refused_with_a_dead_token_and_heard_with_a_live_one() {
    let rules = json!({"endpoints": [{"prefix": "/_matrix/client/v3/x", "auth": "required"}]});
    for overrides in [json!({}), rules] {
        let gateway = gateway(1, overrides);
        for path in [
            "/_matrix/client/..%2F..%2F_matrix%2Fclient%2Fv3%2Fx/logout",
            "/_matrix/client/../logout",
            "/_matrix/client/v3%2Fx/logout",
            "/_matrix/client/..%2Fv3/logout/all",
        ] {
            let mut cluster = warmed(2);
            let dead = cluster[0].request(&gateway, logout(path, BOB));
            assert_eq!(cluster[0].fate(dead), Fate::Held, "{path}");
            cluster[0].answer_only_call(INACTIVE);
            assert_eq!(cluster[0].fate(dead), not_active(), "{path}");
            let stream = cluster[0].request(&gateway, logout(path, ALICE));
            assert_eq!(cluster[0].fate(stream), alice(), "{path}");
            cluster[0].response(stream, 200);
            cluster.deliver_all();
            let fates = cluster.send_each(&gateway, &whoami(ALICE));
            assert_eq!(fates, [Fate::Held, Fate::Held], "{path}");
        }
    }
}

/// All of the user's sessions end, also where the request was held first.
#[test]
fn all_sessions_end_with_a_logout_of_all_that_may_lead_elsewhere() {
    let gateway = gateway(1, json!({}));
    let mut cluster = warmed(1);
    let path = "/_matrix/client/..%2Fv3/logout/all";
    let held = cluster[0].request(&gateway, logout(path, BOB));
    assert_eq!(cluster[0].fate(held), Fate::Held);
    // Another session of hers.
    cluster[0].answer_only_call(&active("alice"));
    assert_eq!(cluster[0].fate(held), alice());
    cluster[0].response(held, 200);
    for token in [ALICE, BOB] {
        assert_eq!(cluster[0].send(&gateway, whoami(token)), Fate::Held);
    }
}

/// Nothing of the request has reached MAS.
#[test]
fn an_end_that_mas_cannot_have_read_ends_nothing() {
    let gateway = gateway(1, json!({}));
    let mut cluster = warmed(1);
    let stream = cluster[0].request(&gateway, revocation(ALICE));
    cluster[0].local_response(stream, 503);
    cluster[0].hang_up(stream);
    assert_eq!(cluster.send_each(&gateway, &whoami(ALICE)), [alice()]);
}

/// Whoever hangs up with nothing under way ends nothing: after an answer, while the request is held, in a form whose token
/// has not come.
#[test]
fn a_client_that_hangs_up_ends_nothing_that_it_did_not_ask_for() {
    let gateway = gateway(1, json!({}));
    let mut cluster = warmed(2);
    for status in [400, 403] {
        let refused = cluster[0].request(&gateway, logout("/_matrix/client/v3/logout", ALICE));
        cluster[0].response(refused, status);
        cluster[0].hang_up(refused);
    }
    let served = cluster[0].request(&gateway, whoami(ALICE));
    cluster[0].hang_up(served);
    let held = cluster[0].request(&gateway, logout("/_matrix/client/v3/logout/all", BOB));
    assert_eq!(cluster[0].fate(held), Fate::Held);
    cluster[0].hang_up(held);
    let without = Request::new("POST", "/oauth2/revoke")
        .header("content-type", "application/x-www-form-urlencoded")
        .body("token_type_hint=access_token");
    let without = cluster[0].request(&gateway, without);
    cluster[0].hang_up(without);
    cluster.deliver_all();
    let fates = cluster.send_each(&gateway, &whoami(ALICE));
    assert_eq!(fates, vec![alice(); 2]);
    assert_eq!(cluster.metric("matrix_edge_auth_invalidations_total"), 0);
}

/// MAS ends a session when it has the head of a logout. It has all of a body when it has as many bytes as the head says, and Envoy
/// may not have seen the end by then.
#[test]
fn a_request_of_which_envoy_has_not_seen_the_end_may_have_ended_a_session() {
    let gateway = gateway(1, json!({}));
    let form = format!("client_id=x&token={ALICE}");
    for (request, body) in [
        (logout("/_matrix/client/v3/logout", ALICE), ""),
        (logout("/_matrix/client/v3/logout", ALICE), "{}"),
        (logout("/_matrix/client/v3/logout/all", ALICE), "{}"),
        (revocation(ALICE), form.as_str()),
    ] {
        for answer in [None, Some(200), Some(503)] {
            let mut cluster = warmed(2);
            let stream = cluster[0].request_headers(&gateway, request.clone(), false);
            if !body.is_empty() {
                cluster[0].request_body(stream, body.as_bytes(), false);
            }
            match answer {
                None => {}
                Some(503) => cluster[0].lost_response(stream, 503),
                Some(status) => cluster[0].response(stream, status),
            }
            cluster[0].hang_up(stream);
            cluster.deliver_all();
            let fates = cluster.send_each(&gateway, &whoami(ALICE));
            assert_eq!(fates, vec![Fate::Held; 2], "{request:?} {answer:?}");
        }
    }
}

/// The client gets 431, and MAS has had the request before its trailers came.
#[test]
fn a_logout_with_trailers_that_are_refused_may_have_ended_a_session() {
    let gateway = gateway(1, json!({}));
    let form = format!("client_id=x&token={ALICE}");
    let spellings: Vec<String> = (0..17_u32)
        .map(|number| {
            let separator = |place: u32| ['-', '_', '.', '+', '!'][(number / place % 5) as usize];
            format!("x{}matrix{}user-id", separator(1), separator(5))
        })
        .collect();
    let forged: Vec<_> = spellings
        .iter()
        .map(|name| (&**name, "@eve:example.org"))
        .collect();
    for (request, body) in [
        (logout("/_matrix/client/v3/logout", ALICE), "{}"),
        (revocation(ALICE), form.as_str()),
    ] {
        let mut cluster = warmed(2);
        let stream = cluster[0].request_headers(&gateway, request.clone(), false);
        cluster[0].request_body(stream, body.as_bytes(), false);
        cluster[0].request_trailers(stream, &forged);
        assert_eq!(cluster[0].fate(stream).status(), Some(431));
        cluster[0].hang_up(stream);
        cluster.deliver_all();
        let fates = cluster.send_each(&gateway, &whoami(ALICE));
        assert_eq!(fates, vec![Fate::Held; 2], "{request:?}");
    }
}

/// Each beginning of a logout may be all that MAS needs, so each is heard. Those between two ticks are one.
#[test]
fn a_client_that_begins_one_logout_after_the_other_costs_few_calls() {
    const TICKS: usize = 40;
    let gateway = gateway(1, json!({}));
    let mut cluster = warmed(1);
    let mut calls = 0;
    for _ in 0..TICKS {
        for _ in 0..10 {
            let request = logout("/_matrix/client/v3/logout", ALICE);
            let stream = cluster[0].request_headers(&gateway, request, false);
            cluster[0].hang_up(stream);
            cluster[0].request(&gateway, whoami(ALICE));
            calls += cluster[0].calls().len();
            cluster[0].answer_all(&active("alice"));
        }
        cluster.tick_for(Duration::from_millis(250));
    }
    assert!((10..=TICKS + 1).contains(&calls), "{calls}");
}

/// No logout makes a token active.
#[test]
fn logout_all_leaves_what_is_known_of_inactive_tokens() {
    let gateway = gateway(1, json!({}));
    let mut cluster = warmed(1);
    cluster[0].request(&gateway, whoami(BOB));
    cluster[0].answer_only_call(INACTIVE);
    let stream = cluster[0].request(&gateway, logout("/_matrix/client/v3/logout/all", ALICE));
    cluster[0].response(stream, 200);
    assert_eq!(cluster[0].send(&gateway, whoami(BOB)), not_active());
    assert_eq!(cluster[0].send(&gateway, whoami(ALICE)), Fate::Held);
}

#[test]
fn a_mas_below_a_path_ends_sessions_there() {
    let revocation = || {
        Request::new("POST", "/auth/oauth2/revoke")
            .header("content-type", "application/x-www-form-urlencoded")
            .body(format!("token={ALICE}"))
    };
    for request in [
        revocation(),
        logout("/auth/_matrix/client/v3/logout", ALICE),
        logout("/auth/_matrix/client/v3/logout/all", ALICE),
        // The compat routes on the homeserver's own paths stay.
        logout("/_matrix/client/v3/logout", ALICE),
    ] {
        // A plugin lives in one process.
        let below = json!({"introspection": {"path": "/auth/oauth2/introspect"}});
        let gateway = gateway(1, below);
        let mut worker = SimulatedWorker::new(&Process::new());
        worker.request(&gateway, whoami(ALICE));
        worker.answer_only_call(&active("alice"));
        let stream = worker.request(&gateway, request.clone());
        assert_eq!(worker.fate(stream), Fate::forwarded_unannotated());
        assert_eq!(worker.send(&gateway, whoami(ALICE)), alice(), "not yet");
        worker.response(stream, 200);
        assert_eq!(
            worker.send(&gateway, whoami(ALICE)),
            Fate::Held,
            "{request:?}"
        );
    }
}

#[test]
fn what_mas_refuses_to_end_stays() {
    for request in [
        logout("/_matrix/client/v3/logout", ALICE),
        revocation(ALICE),
    ] {
        let gateway = gateway(1, json!({}));
        let mut cluster = warmed(1);
        for status in [400, 403, 404, 429] {
            let stream = cluster[0].request(&gateway, request.clone());
            cluster[0].response(stream, status);
        }
        let stream = cluster[0].request(&gateway, request);
        cluster[0].local_response(stream, 401);
        // The client of a revocation has no right to it.
        let stream = cluster[0].request(&gateway, revocation(ALICE));
        cluster[0].response(stream, 401);
        assert_eq!(cluster[0].send(&gateway, whoami(ALICE)), alice());
        assert_eq!(cluster.metric("matrix_edge_auth_invalidations_total"), 0);
    }
}

/// Envoy has sent the logout twice, and the first has ended the session, or it has ended elsewhere. MAS says the same of an
/// OAuth token, whose session lives on.
#[test]
fn a_token_that_mas_does_not_know_at_its_logout_is_asked_about_once_in_a_while() {
    let gateway = gateway(1, json!({}));
    for path in ["logout", "logout/all"] {
        let path = format!("/_matrix/client/v3/{path}");
        let mut cluster = warmed(2);
        cluster[0].request(&gateway, whoami(BOB));
        cluster[0].answer_only_call(&active("alice"));
        cluster.tick_for(Duration::from_secs(1));
        // While MAS gives no answer, the old one serves.
        for (waits, is_heeded, status) in [(0, true, 200), (2, false, 200), (9, true, 500)] {
            cluster.tick_for(Duration::from_secs(waits));
            let stream = cluster[0].request(&gateway, logout(&path, ALICE));
            cluster[0].response(stream, 401);
            cluster.deliver_all();
            cluster.process.advance(Duration::from_millis(1));
            for (token, is_doubted) in [(ALICE, is_heeded), (BOB, false)] {
                let streams = cluster.request_each(&gateway, &whoami(token));
                let expected = if is_doubted { Fate::Held } else { alice() };
                let fates = cluster.fates(&streams);
                assert_eq!(fates, [expected.clone(), expected], "{path} {token}");
                for call in cluster[0].calls() {
                    cluster[0].answer(call.id, status, &active("alice"));
                }
                cluster.deliver_all();
                assert_eq!(cluster.fates(&streams), [alice(), alice()], "{path}");
            }
        }
    }
}

/// Anyone can log them out, and no refusal of a live token is missed for it.
#[test]
fn logouts_of_invented_tokens_that_mas_does_not_know_are_forgotten() {
    let gateway = gateway(1, json!({}));
    let mut cluster = warmed(1);
    for number in 0..5_000 {
        let invented = format!("syt_{number}");
        let stream = cluster[0].request(&gateway, logout("/_matrix/client/v3/logout", &invented));
        cluster[0].response(stream, 401);
        cluster[0].hang_up(stream);
    }
    assert_eq!(cluster.metric("matrix_edge_auth_invalidations_total"), 0);
    let stream = cluster[0].request(&gateway, logout("/_matrix/client/v3/logout", ALICE));
    cluster[0].response(stream, 401);
    assert_eq!(cluster[0].send(&gateway, whoami(ALICE)), Fate::Held);
}

#[test]
fn logout_all_ends_what_is_known_of_the_user() {
    let gateway = gateway(1, json!({}));
    let mut cluster = warmed(2);
    cluster[0].request(&gateway, whoami(BOB));
    cluster[0].answer_only_call(&active("alice"));
    let stream = cluster[1].request(&gateway, logout("/_matrix/client/v3/logout/all", ALICE));
    cluster[1].response(stream, 200);
    cluster.deliver_all();
    // The user's other token.
    assert_eq!(cluster[0].send(&gateway, whoami(BOB)), Fate::Held);
}

/// Workers that hold bob's token, which is alice's, and know nothing of the other one of hers.
fn warmed_with_another(settings: Value) -> (Cluster, Rc<Plugin>) {
    let gateway = gateway(1, settings);
    let mut cluster = Cluster::new(2);
    cluster.seat_all(&gateway);
    cluster[0].request(&gateway, whoami(BOB));
    cluster[0].answer_only_call(&active("alice"));
    let fates = cluster.send_each(&gateway, &whoami(BOB));
    assert_eq!(fates, vec![alice(); 2]);
    (cluster, gateway)
}

fn logout_all(token: &str) -> Request {
    logout("/_matrix/client/v3/logout/all", token)
}

#[test]
fn logout_all_by_a_token_that_the_edge_does_not_hold_ends_what_is_known_of_the_user() {
    let (mut cluster, gateway) = warmed_with_another(json!({}));
    let stream = cluster[1].request(&gateway, logout_all(ALICE));
    assert_eq!(cluster[1].fate(stream), Fate::Held, "MAS says whose it is");
    cluster[1].answer_only_call(&active("alice"));
    assert_eq!(cluster[1].fate(stream), Fate::forwarded_unannotated());
    let fates = cluster.send_each(&gateway, &whoami(BOB));
    assert_eq!(fates, vec![alice(); 2], "not before MAS has agreed");
    cluster.process.advance(Duration::from_millis(1));
    cluster[1].response(stream, 200);
    cluster.deliver_all();
    for token in [ALICE, BOB] {
        let fates = cluster.send_each(&gateway, &whoami(token));
        assert_eq!(fates, vec![Fate::Held; 2]);
        cluster.answer_all(INACTIVE);
        cluster.deliver_all();
    }
}

#[test]
fn logout_all_remembers_the_user_while_the_answer_is_pushed_out() {
    // One bucket, and more tokens than it holds.
    let (mut cluster, gateway) = warmed_with_another(json!({"cache": {"slots": 1}}));
    let stream = cluster[0].request(&gateway, logout_all(BOB));
    assert_eq!(cluster[0].fate(stream), Fate::forwarded_unannotated());
    for number in 0..16 {
        cluster[0].request(&gateway, whoami(&syt(number)));
        cluster[0].answer_only_call(&active("carol"));
    }
    cluster[0].request(&gateway, whoami(ALICE));
    cluster[0].answer_only_call(&active("alice"));
    assert_eq!(cluster[0].send(&gateway, whoami(ALICE)), alice());
    cluster.process.advance(Duration::from_millis(1));
    cluster[0].response(stream, 200);
    assert_eq!(cluster[0].send(&gateway, whoami(ALICE)), Fate::Held);
}

fn syt(number: usize) -> String {
    format!("syt_Y2Fyb2w_{number:020}_abcdef")
}

#[test]
fn logout_all_goes_on_whatever_is_found_out_of_its_token() {
    let answers = [
        (200, INACTIVE),
        (200, "{}"),
        (500, "oops"),
        (401, r#"{"error":"access_denied"}"#),
    ];
    for (status, body) in answers {
        let (mut cluster, gateway) = warmed_with_another(json!({}));
        let stream = cluster[0].request(&gateway, logout_all(ALICE));
        let call = cluster[0].calls()[0].id;
        cluster[0].answer(call, status, body);
        let fate = cluster[0].fate(stream);
        assert_eq!(fate, Fate::forwarded_unannotated(), "{status} {body}");
        cluster[0].response(stream, 401);
        let fates = cluster.send_each(&gateway, &whoami(BOB));
        assert_eq!(fates, vec![alice(); 2]);
    }
    // MAS never answers.
    let (mut cluster, gateway) = warmed_with_another(json!({}));
    let stream = cluster[0].request(&gateway, logout_all(ALICE));
    cluster.tick_for(Duration::from_secs(12));
    assert_eq!(cluster[0].fate(stream), Fate::forwarded_unannotated());
    // Or cannot be asked.
    let (mut cluster, gateway) = warmed_with_another(json!({}));
    cluster[0].faults().dispatch.set(true);
    let fate = cluster[0].send(&gateway, logout_all(ALICE));
    assert_eq!(fate, Fate::forwarded_unannotated());
    assert_eq!(cluster.metric("matrix_edge_auth_rejections_total"), 0);
}

#[test]
fn logout_all_is_held_for_a_second_over_the_cap_and_not_over_the_budget() {
    let settings = json!({
        "introspection": {"max_in_flight": 1},
        "unknown_token_budget": {"per_source": 1, "window": "1m"},
    });
    let (mut cluster, gateway) = warmed_with_another(settings);
    let request = |number| logout_all(&syt(number)).source("192.0.2.1");
    let first = cluster[0].request(&gateway, request(1));
    assert_eq!(cluster[0].fate(first), Fate::Held);
    // Over the cap it waits for a free call, as others do.
    let second = cluster[0].request(&gateway, request(2));
    assert_eq!(cluster[0].fate(second), Fate::Held);
    cluster.tick_for(Duration::from_secs(1));
    assert_eq!(cluster[0].fate(second), Fate::forwarded_unannotated());
    cluster[0].answer_only_call(INACTIVE);
    assert_eq!(cluster[0].fate(first), Fate::forwarded_unannotated());
    // Over the budget.
    let fate = cluster[0].send(&gateway, request(3));
    assert_eq!(fate, Fate::forwarded_unannotated());
    assert!(cluster.calls().is_empty());
}

#[test]
fn logout_all_asks_mas_nothing_that_is_known_without() {
    let settings = json!({"unrecognized_tokens": "introspect"});
    let (mut cluster, gateway) = warmed_with_another(settings);
    let asked = cluster.metric("matrix_edge_auth_introspections_total");
    for token in [
        // A refresh token, a wrong checksum, no token of MAS's.
        "mcr_rKLpMDpKTc9ZNOpbba26jQeWi5zK87_6rQ2B1",
        "mct_qGh7iRXFLAjieIGwtXLPByYRJfDhd1_Gkhxxx",
        "an-appservice-token",
    ] {
        let fate = cluster[0].send(&gateway, logout_all(token));
        assert_eq!(fate, Fate::forwarded_unannotated(), "{token}");
    }
    for request in [
        // Nothing that MAS takes for a logout.
        Request::new("GET", "/_matrix/client/v3/logout/all").bearer(ALICE),
        Request::new("POST", "/_matrix/client/v3/logout/all"),
        Request::new(
            "POST",
            &format!("/_matrix/client/v3/logout/all?access_token={ALICE}"),
        ),
        // Ends a session of its own.
        logout("/_matrix/client/v3/logout", ALICE),
    ] {
        let fate = cluster[0].send(&gateway, request);
        assert_eq!(fate, Fate::forwarded_unannotated());
    }
    // Held by the cache.
    let fate = cluster[0].send(&gateway, logout_all(BOB));
    assert_eq!(fate, Fate::forwarded_unannotated());
    assert!(cluster.calls().is_empty());
    let now = cluster.metric("matrix_edge_auth_introspections_total");
    assert_eq!(now, asked);
}

#[test]
fn logout_all_is_not_held_in_shadow_mode() {
    let (mut cluster, gateway) = warmed_with_another(json!({"mode": "shadow"}));
    let fate = cluster[0].send(&gateway, logout_all(ALICE));
    assert_eq!(fate, Fate::forwarded_unannotated());
    assert!(cluster.calls().is_empty());
    // What is known of the user ends if the token is known.
    let stream = cluster[0].request(&gateway, logout_all(BOB));
    cluster[0].response(stream, 200);
    cluster.deliver_all();
    let fate = cluster[1].send(&gateway, whoami(BOB));
    assert_eq!(fate, Fate::forwarded_unannotated());
    // The worker that asked last gives its lease back.
    cluster.deliver_all();
    assert_eq!(cluster.calls().len(), 1, "asked again");
}

#[test]
fn logout_all_joins_the_question_that_is_under_way() {
    let (mut cluster, gateway) = warmed_with_another(json!({}));
    let client = cluster[0].request(&gateway, whoami(ALICE));
    let here = cluster[0].request(&gateway, logout_all(ALICE));
    let there = cluster[1].request(&gateway, logout_all(ALICE));
    assert_eq!(cluster.calls().len(), 1);
    cluster[0].answer_only_call(&active("alice"));
    cluster.deliver_all();
    assert_eq!(cluster[0].fate(client), alice());
    for (worker, stream) in [(0, here), (1, there)] {
        let fate = cluster[worker].fate(stream);
        assert_eq!(fate, Fate::forwarded_unannotated());
    }
    cluster.process.advance(Duration::from_millis(1));
    cluster[1].response(there, 200);
    cluster.deliver_all();
    assert_eq!(cluster[0].send(&gateway, whoami(BOB)), Fate::Held);
}

#[test]
fn an_answer_that_was_on_its_way_when_the_session_ended_is_asked_for_again() {
    for request in [
        logout("/_matrix/client/v3/logout", ALICE),
        revocation(ALICE),
    ] {
        let gateway = gateway(1, json!({}));
        let mut cluster = Cluster::new(2);
        let waiting = cluster[0].request(&gateway, whoami(ALICE));
        let end = cluster[1].request(&gateway, request);
        cluster[1].response(end, 200);
        cluster[0].answer_only_call(&active("alice"));
        assert_eq!(cluster[0].fate(waiting), Fate::Held);
        cluster[0].answer_only_call(INACTIVE);
        assert_eq!(cluster[0].fate(waiting), not_active());
        assert_eq!(cluster[1].send(&gateway, whoami(ALICE)), not_active());
    }
}

#[test]
fn an_answer_that_is_kept_amid_a_logout_serves_nobody() {
    // Before each access of the logout to shared data.
    for access in 0..8 {
        let process = Process::new();
        let gateway = gateway(1, json!({}));
        let asking = Rc::new(RefCell::new(SimulatedWorker::new(&process)));
        let mut ending = SimulatedWorker::new(&process);
        asking.borrow_mut().request(&gateway, whoami(ALICE));
        let end = ending.request(&gateway, logout("/_matrix/client/v3/logout", ALICE));
        process.interfere(access, {
            let asking = Rc::clone(&asking);
            move || asking.borrow_mut().answer_all(&active("alice"))
        });
        ending.response(end, 200);
        process.run_interference();
        let mut asking = asking.borrow_mut();
        asking.tick();
        asking.answer_all(INACTIVE);
        for worker in [&mut *asking, &mut ending] {
            let fate = worker.send(&gateway, whoami(ALICE));
            assert_ne!(fate, alice(), "access {access}");
        }
    }
}

/// Two workers that knew alice's token, whose answer has ended. She has logged out through the first, which also asks
/// MAS about her.
struct Ending {
    process: Rc<Process>,
    gateway: Rc<Plugin>,
    first: Rc<RefCell<SimulatedWorker>>,
    second: SimulatedWorker,
    logout: StreamId,
}

impl Ending {
    fn new() -> Self {
        let process = Process::new();
        let cache = json!({"ttl": "3s", "stale_if_error": "10m", "refresh_ahead": false});
        let gateway = gateway(1, json!({"cache": cache}));
        let mut first = SimulatedWorker::new(&process);
        let mut second = SimulatedWorker::new(&process);
        first.request(&gateway, whoami(ALICE));
        first.answer_only_call(&active("alice"));
        assert_eq!(second.send(&gateway, whoami(ALICE)), alice());
        process.advance(Duration::from_secs(4));
        first.tick();
        second.tick();
        let logout = first.request(&gateway, logout("/_matrix/client/v3/logout", ALICE));
        first.request(&gateway, whoami(ALICE));
        Self {
            process,
            gateway,
            first: Rc::new(RefCell::new(first)),
            second,
            logout,
        }
    }

    /// MAS fails, a stale answer serves, and the logout takes effect before this access of the second worker.
    fn fail_and_end_before(&self, access: usize) {
        let (first, logout) = (Rc::clone(&self.first), self.logout);
        let call = first.borrow().calls()[0].id;
        first.borrow_mut().answer(call, 500, "");
        self.process
            .interfere(access, move || first.borrow_mut().response(logout, 200));
    }

    fn pass_a_tick(&mut self) {
        self.process.advance(Duration::from_millis(250));
        self.first.borrow_mut().tick();
        self.second.tick();
    }
}

/// While the stale answer is there it serves, and once it is gone there is no verdict: MAS has just failed, and is asked
/// again a second later.
#[test]
fn a_session_that_ends_amid_a_request_is_asked_about_at_the_next_try() {
    let mut fates = Vec::new();
    for access in 0..24 {
        let mut ending = Ending::new();
        ending.fail_and_end_before(access);
        let fate = ending.second.send(&ending.gateway, whoami(ALICE));
        assert!(
            fate == alice() || fate == unable(),
            "access {access}: {fate:?}"
        );
        assert!(ending.second.calls().is_empty(), "access {access}");
        if fate == unable() {
            ending.process.advance(Duration::from_secs(1));
            ending.second.tick();
            let stream = ending.second.request(&ending.gateway, whoami(ALICE));
            ending.second.answer_only_call(INACTIVE);
            assert_eq!(ending.second.fate(stream), not_active(), "access {access}");
        }
        fates.push(fate);
    }
    assert!(fates.contains(&alice()) && fates.contains(&unable()));
}

/// The same where a request has waited for the other worker's call, together with one of a configuration without
/// stale answers.
#[test]
fn a_session_that_ends_amid_a_tick_is_asked_about_at_the_next_try() {
    let mut fates = Vec::new();
    for access in 0..24 {
        let mut ending = Ending::new();
        let strict = gateway(2, json!({"cache": {"ttl": "3s", "stale_if_error": "0s"}}));
        let serves_stale = Rc::clone(&ending.gateway);
        let [waits, asks] =
            [serves_stale, strict].map(|it| ending.second.request(&it, whoami(ALICE)));
        (0..3).for_each(|_| ending.pass_a_tick());
        ending.fail_and_end_before(access);
        ending.second.drop_hints();
        assert!(ending.second.calls().is_empty());
        ending.process.advance(Duration::from_millis(500));
        ending.second.tick();
        assert!(ending.second.calls().is_empty(), "access {access}");
        assert_eq!(ending.second.fate(asks), unable(), "access {access}");
        let fate = ending.second.fate(waits);
        assert!(
            fate == alice() || fate == unable(),
            "access {access}: {fate:?}"
        );
        fates.push(fate);
    }
    assert!(fates.contains(&alice()) && fates.contains(&unable()));
}

#[test]
fn who_waits_for_another_worker_waits_while_that_one_asks_again() {
    let gateway = gateway(1, json!({"introspection": {"timeout": "2s"}}));
    let mut cluster = Cluster::new(2);
    cluster[0].request(&gateway, whoami(ALICE));
    let waiting = cluster[1].request(&gateway, whoami(ALICE));
    cluster.tick_for(Duration::from_millis(1_750));
    let end = cluster[1].request(&gateway, revocation(ALICE));
    cluster[1].response(end, 200);
    cluster[0].answer_only_call(&active("alice"));
    cluster.tick_for(Duration::from_millis(1_750));
    assert_eq!(cluster[1].fate(waiting), Fate::Held);
    cluster[0].answer_only_call(INACTIVE);
    cluster.deliver_all();
    assert_eq!(cluster[1].fate(waiting), not_active());
}

#[test]
fn naming_tokens_that_nobody_knows_ends_nothing() {
    let gateway = gateway(1, json!({}));
    let mut cluster = warmed(1);
    for number in 0..1_000 {
        let stream = cluster[0].request(&gateway, revocation(&format!("mat_{number}")));
        cluster[0].response(stream, 200);
    }
    assert_eq!(cluster.metric("matrix_edge_auth_invalidations_total"), 0);
    let local = "matrix_edge_auth_requests_total.verdict=active.source=local";
    let before = cluster.metric(local);
    assert_eq!(cluster[0].send(&gateway, whoami(ALICE)), alice());
    assert_eq!(cluster.metric(local), before + 1);
}

#[test]
fn a_revocation_in_pieces_is_read_and_one_that_is_too_long_is_not() {
    for (padding, expected) in [(10, Fate::Held), (7_500, Fate::Held), (8_192, alice())] {
        let gateway = gateway(1, json!({}));
        let mut cluster = warmed(1);
        let request = Request::new("POST", "/oauth2/revoke");
        let stream = cluster[0].request_headers(&gateway, request, false);
        let form = format!("x={}&token={ALICE}", "y".repeat(padding));
        for piece in form.as_bytes().chunks(1_000) {
            cluster[0].request_body(stream, piece, false);
        }
        cluster[0].request_body(stream, b"", true);
        cluster[0].response(stream, 200);
        assert_eq!(cluster[0].send(&gateway, whoami(ALICE)), expected);
    }
}

#[test]
fn a_token_that_the_homeserver_refuses_is_asked_about_again() {
    let gateway = gateway(1, json!({}));
    let mut cluster = warmed(2);
    let refused = cluster[0].request(&gateway, whoami(ALICE));
    cluster[0].response(refused, 401);
    cluster.deliver_all();
    let waiting = cluster[1].request(&gateway, whoami(ALICE));
    assert_eq!(
        cluster[1].fate(waiting),
        Fate::Held,
        "forgotten, not inactive"
    );
    // The worker that asked last gives its lease back.
    cluster.deliver_all();
    cluster[1].answer_only_call(&active("alice"));
    assert_eq!(cluster[1].fate(waiting), alice());
    assert_eq!(cluster[0].send(&gateway, whoami(ALICE)), alice());
}

#[test]
fn only_a_401_to_an_annotated_request_is_a_refusal() {
    let gateway = gateway(1, json!({}));
    let mut cluster = warmed(1);
    for (status, request) in [
        (200, whoami(ALICE)),
        (302, whoami(ALICE)),
        (400, whoami(ALICE)),
        (403, whoami(ALICE)),
        (404, whoami(ALICE)),
        (500, whoami(ALICE)),
        // Annotated with nobody: the token is not looked at, or nobody can know it.
        (401, Request::get("/_matrix/client/v3/login").bearer(ALICE)),
        (401, whoami("an-appservice-token")),
        (401, Request::get("/_matrix/client/versions")),
        // Annotated, but perhaps another service's.
        (401, Request::get("/tickets/open").bearer(ALICE)),
        (401, Request::get("/tickets/../open").bearer(ALICE)),
    ] {
        let stream = cluster[0].request(&gateway, request);
        cluster[0].response(stream, status);
        assert_eq!(cluster[0].send(&gateway, whoami(ALICE)), alice());
    }
    assert_eq!(cluster.metric("matrix_edge_auth_invalidations_total"), 0);
}

#[test]
fn a_homeserver_that_keeps_refusing_an_active_token_costs_few_calls() {
    let gateway = gateway(1, json!({}));
    let mut cluster = warmed(1);
    let before = cluster.metric("matrix_edge_auth_introspections_total");
    for _ in 0..300 {
        let stream = cluster[0].request(&gateway, whoami(ALICE));
        cluster.answer_all(&active("alice"));
        cluster[0].response(stream, 401);
        cluster.skip(Duration::from_millis(100));
    }
    let calls = cluster.metric("matrix_edge_auth_introspections_total") - before;
    println!("{calls} calls in 30 s");
    assert!((2..=4).contains(&calls), "{calls}");
}

#[test]
fn a_user_who_is_gone_takes_a_waiting_answer_along() {
    // See `provisioning` for what MAS says; here only that the gateway's flights mind it.
    let process = Process::new();
    let gateway = gateway(1, json!({}));
    let provisioning = crate::simulated::plugin(2, "provisioning", json!({}));
    let mut worker = SimulatedWorker::new(&process);
    let waiting = worker.request(&gateway, whoami(ALICE));
    let told = worker.request(
        &provisioning,
        Request::new("POST", "/_synapse/mas/delete_user")
            .bearer("secret")
            .body(r#"{"localpart":"alice","erase":false}"#),
    );
    assert_eq!(worker.fate(told), Fate::forwarded_unannotated());
    worker.answer_only_call(&active("alice"));
    assert_eq!(worker.fate(waiting), Fate::Held);
    worker.answer_only_call(INACTIVE);
    assert_eq!(worker.fate(waiting), not_active());
}

/// A worker is busy for seconds while it asks, so its lease runs out. Meanwhile the session ends, or begins, elsewhere.
fn asked_by_a_busy_worker() -> (Cluster, Rc<Plugin>, StreamId) {
    let gateway = gateway(1, json!({}));
    let mut cluster = Cluster::new(2);
    cluster.seat_all(&gateway);
    let held = cluster[0].request(&gateway, whoami(ALICE));
    assert_eq!(cluster[0].fate(held), Fate::Held);
    cluster.process.advance(Duration::from_secs(3));
    cluster[1].tick();
    (cluster, gateway, held)
}

#[test]
fn a_logout_counts_for_an_answer_that_waits_in_a_busy_worker() {
    for request in [
        logout("/_matrix/client/v3/logout", ALICE),
        revocation(ALICE),
    ] {
        let (mut cluster, gateway, held) = asked_by_a_busy_worker();
        let stream = cluster[1].request(&gateway, request);
        cluster[1].response(stream, 200);
        cluster[0].answer_only_call(&active("alice"));
        assert_eq!(cluster[0].fate(held), Fate::Held, "asked again");
        cluster[0].answer_only_call(INACTIVE);
        assert_eq!(cluster[0].fate(held), not_active());
        cluster.deliver_all();
        assert_eq!(
            cluster.send_each(&gateway, &whoami(ALICE)),
            vec![not_active(); 2]
        );
    }
}

/// Each answer is from before another end.
#[test]
fn a_token_that_ends_again_and_again_is_never_served() {
    let (mut cluster, gateway, held) = asked_by_a_busy_worker();
    for _ in 0..5 {
        let stream = cluster[1].request(&gateway, revocation(ALICE));
        cluster[1].response(stream, 200);
        assert_eq!(cluster[0].fate(held), Fate::Held);
        cluster[0].answer_only_call(&active("alice"));
        // Ends that come closer wait for a tick.
        cluster.process.advance(Duration::from_secs(1));
    }
    cluster[0].answer_only_call(INACTIVE);
    assert_eq!(cluster[0].fate(held), not_active());
}

#[test]
fn an_answer_to_an_earlier_question_ends_with_the_later_answer() {
    for (earlier, later, expected) in [
        (active("alice"), INACTIVE.to_owned(), not_active()),
        (INACTIVE.to_owned(), active("alice"), alice()),
    ] {
        let (mut cluster, gateway, held) = asked_by_a_busy_worker();
        let second = cluster[1].request(&gateway, whoami(ALICE));
        cluster[1].answer_only_call(&later);
        assert_eq!(cluster[1].fate(second), expected);
        cluster[0].answer_only_call(&earlier);
        assert_eq!(cluster[0].fate(held), expected, "without a third call");
        cluster.deliver_all();
        assert_eq!(
            cluster.send_each(&gateway, &whoami(ALICE)),
            vec![expected; 2]
        );
        assert_eq!(cluster.calls().len(), 0);
    }
}

/// An answer pushes out another one, and is pushed out itself before the worker keeps it for itself. The logout finds none
/// in the shared cache, and must end that worker's all the same.
#[test]
fn an_answer_that_is_pushed_out_as_it_is_kept_ends_with_its_session() {
    const CAROL: &str = "syt_carol_x_0";
    for access in 0..24 {
        let process = Process::new();
        let gateway = gateway(1, json!({"cache": {"slots": 1}}));
        let mut keeping = SimulatedWorker::new(&process);
        let pushing = Rc::new(RefCell::new(SimulatedWorker::new(&process)));
        keeping.request(&gateway, whoami(BOB));
        keeping.answer_only_call(&active("bob"));
        pushing.borrow_mut().request(&gateway, whoami(CAROL));
        keeping.request(&gateway, whoami(ALICE));
        process.interfere(access, {
            let pushing = Rc::clone(&pushing);
            move || pushing.borrow_mut().answer_only_call(&active("carol"))
        });
        keeping.answer_only_call(&active("alice"));
        process.run_interference();
        let mut ending = pushing.borrow_mut();
        let stream = ending.request(&gateway, logout("/_matrix/client/v3/logout", ALICE));
        ending.response(stream, 200);
        process.advance(Duration::from_secs(1));
        keeping.tick();
        let fate = keeping.send(&gateway, whoami(ALICE));
        assert_ne!(fate, alice(), "access {access}");
    }
}

/// After a pause a worker comes to its sockets before its timers, and to hints not at all.
#[test]
fn a_worker_that_has_stood_still_serves_no_session_that_has_ended_meanwhile() {
    for by_expiry in [false, true] {
        let gateway = gateway(1, json!({}));
        let mut cluster = Cluster::new(2);
        cluster.seat_all(&gateway);
        cluster[0].request(&gateway, whoami(ALICE));
        let expires_in = if by_expiry { 3 } else { 300 };
        let answer = active("alice").replace('{', &format!("{{\"expires_in\":{expires_in},"));
        cluster[0].answer_only_call(&answer);
        for fate in cluster.send_each(&gateway, &whoami(ALICE)) {
            assert_eq!(fate, alice());
        }
        if !by_expiry {
            let request = logout("/_matrix/client/v3/logout", ALICE);
            let stream = cluster[1].request(&gateway, request);
            cluster[1].response(stream, 200);
        }
        cluster.process.advance(Duration::from_secs(10));
        assert_ne!(
            cluster[0].send(&gateway, whoami(ALICE)),
            alice(),
            "{by_expiry}"
        );
    }
}

/// MAS may have said anything, as where Envoy does not show who has answered.
#[test]
fn a_logout_whose_answer_cannot_be_read_may_have_ended_the_session() {
    let gateway = gateway(1, json!({}));
    for request in [
        logout("/_matrix/client/v3/logout", ALICE),
        revocation(ALICE),
    ] {
        let mut cluster = warmed(1);
        let stream = cluster[0].request(&gateway, request);
        cluster[0].faults().get_header.set(true);
        cluster[0].response(stream, 200);
        cluster[0].hang_up(stream);
        cluster[0].faults().get_header.set(false);
        assert_eq!(cluster[0].send(&gateway, whoami(ALICE)), Fate::Held);
    }
}
