//! Ends of sessions that come again and again, since MAS ends none of them: they cost few questions, and each has acted
//! within a tick.

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
    time::Duration,
};

use matrix_edge_auth::{host::StreamId, matrix::session_end::MAX_REVOCATION_BYTES, worker::Plugin};
use serde_json::json;

use crate::{
    ALICE, BOB, INACTIVE, active, alice,
    attack::invented,
    simulated::{Cluster, Fate, Request, SimulatedWorker, gateway},
    whoami,
};

const QUESTIONS: &str = "matrix_edge_auth_introspections_total";
const TICK: Duration = Duration::from_millis(250);

fn logout(path: &str, token: &str) -> Request {
    Request::new("POST", path).bearer(token)
}

fn revocation(token: &str) -> Request {
    Request::new("POST", "/oauth2/revoke").body(format!("token={token}"))
}

fn logout_all(token: &str) -> Request {
    logout("/_matrix/client/v3/logout/all", token)
}

/// Two workers that hold these tokens, all of which are alice's.
fn warmed(tokens: &[&str], settings: serde_json::Value) -> (Cluster, Rc<Plugin>) {
    let gateway = gateway(1, settings);
    let mut cluster = Cluster::new(2);
    cluster.seat_all(&gateway);
    for token in tokens {
        ask_everywhere(&mut cluster, &gateway, token);
    }
    (cluster, gateway)
}

/// The token is used in all workers, and MAS calls it active.
fn ask_everywhere(cluster: &mut Cluster, gateway: &Rc<Plugin>, token: &str) {
    let streams = cluster.request_each(gateway, &whoami(token));
    cluster.answer_all(&active("alice"));
    cluster.deliver_all();
    assert_eq!(cluster.fates(&streams), [alice(), alice()]);
}

/// MAS agrees, or the client hangs up after its whole request.
fn end(cluster: &mut Cluster, gateway: &Rc<Plugin>, request: &Request, hangs_up: bool) {
    let stream = cluster[0].request(gateway, request.clone());
    // The end of all sessions waits until it is known whose they are.
    cluster.answer_all(&active("alice"));
    assert_eq!(cluster[0].fate(stream), Fate::forwarded_unannotated());
    if hangs_up {
        cluster[0].hang_up(stream);
    } else {
        cluster[0].response(stream, 200);
    }
    cluster.deliver_all();
}

/// What becomes of a request on each worker, before MAS calls the token active.
fn assert_fates(cluster: &mut Cluster, gateway: &Rc<Plugin>, token: &str, fates: &[Fate]) {
    let streams = cluster.request_each(gateway, &whoami(token));
    assert_eq!(cluster.fates(&streams), fates, "{token}");
    cluster.answer_all(&active("alice"));
    cluster.deliver_all();
}

/// Nobody holds an answer about the token any longer.
fn assert_forgotten(cluster: &mut Cluster, gateway: &Rc<Plugin>, token: &str) {
    let fates = cluster.send_each(gateway, &whoami(token));
    assert_eq!(fates, [Fate::Held, Fate::Held]);
    cluster.answer_all(INACTIVE);
}

#[test]
fn a_session_that_ends_again_and_again_costs_one_question_a_tick() {
    for hangs_up in [false, true] {
        for request in [
            logout("/_matrix/client/v3/logout", ALICE),
            logout_all(ALICE),
            revocation(ALICE),
        ] {
            let (mut cluster, gateway) = warmed(&[ALICE], json!({}));
            let before = cluster.metric(QUESTIONS);
            for _ in 0..12 {
                for _ in 0..10 {
                    cluster.process.advance(TICK / 25);
                    end(&mut cluster, &gateway, &request, hangs_up);
                    cluster.process.advance(TICK / 25);
                    ask_everywhere(&mut cluster, &gateway, ALICE);
                }
                cluster.skip(TICK / 5);
                cluster.deliver_all();
            }
            let questions = cluster.metric(QUESTIONS) - before;
            assert!((12..=13).contains(&questions), "{request:?}: {questions}");
            // The last one has acted as well.
            assert_forgotten(&mut cluster, &gateway, ALICE);
        }
    }
}

/// MAS ends the session up to three seconds after its client has hung up, or after Envoy has lost the answer. Until then it calls
/// the token active.
#[test]
fn an_end_that_mas_does_not_confirm_acts_again() {
    type Answer = fn(&mut SimulatedWorker, StreamId);
    let answers: [Answer; 5] = [
        SimulatedWorker::hang_up,
        |worker, stream| worker.lost_response(stream, 503),
        // MAS cannot say whether it has written the end, or a proxy before it cannot.
        |worker, stream| worker.response(stream, 500),
        |worker, stream| worker.response(stream, 503),
        |worker, stream| worker.response(stream, 504),
    ];
    for answer in answers {
        for (request, others) in [
            (logout("/_matrix/client/v3/logout", ALICE), alice()),
            (logout_all(ALICE), Fate::Held),
            (revocation(ALICE), alice()),
        ] {
            let others = [others.clone(), others];
            let (mut cluster, gateway) = warmed(&[ALICE, BOB], json!({}));
            let stream = cluster[0].request(&gateway, request);
            cluster.answer_all(&active("alice"));
            answer(&mut cluster[0], stream);
            cluster.deliver_all();
            for _ in 0..4 {
                // What is asked in the millisecond of an end counts as asked before.
                cluster.process.advance(Duration::from_millis(1));
                assert_fates(&mut cluster, &gateway, ALICE, &[Fate::Held, Fate::Held]);
                assert_fates(&mut cluster, &gateway, BOB, &others);
                cluster.tick_for(Duration::from_secs(1));
                cluster.deliver_all();
            }
            cluster.tick_for(Duration::from_secs(2));
            for token in [ALICE, BOB] {
                assert_fates(&mut cluster, &gateway, token, &[alice(), alice()]);
            }
        }
    }
}

/// The old listener of an update goes with its timer, and the new one has had no request at this worker.
#[test]
fn an_end_acts_again_when_its_configuration_has_gone() {
    let (mut cluster, old) = warmed(&[ALICE], json!({}));
    let new = gateway(2, json!({}));
    cluster[0].configure(&new);
    end(
        &mut cluster,
        &old,
        &logout("/_matrix/client/v3/logout", ALICE),
        true,
    );
    cluster.process.advance(Duration::from_millis(1));
    let stream = cluster[1].request(&new, whoami(ALICE));
    cluster.answer_all(&active("alice"));
    cluster.deliver_all();
    assert_eq!(cluster[1].fate(stream), alice());
    cluster[0].drop_root(old.root);
    cluster.tick_for(Duration::from_secs(1));
    assert_eq!(cluster[1].send(&new, whoami(ALICE)), Fate::Held);
}

/// The VM of Envoy's main thread has configurations and no requests. A worker needs one timer.
#[test]
fn a_timer_is_handed_on_only_by_the_last_root_that_has_one() {
    let [first, second, third] = [1, 2, 3].map(|root| gateway(root, json!({})));
    let mut cluster = Cluster::new(2);
    for plugin in [&third, &first, &second] {
        cluster[0].configure(plugin);
        cluster[1].configure(plugin);
    }
    cluster[0].drop_root(first.root);
    assert_eq!(cluster[0].timers(), 0);

    cluster[1].send(&first, whoami(ALICE));
    cluster[1].send(&second, whoami(ALICE));
    let mut timers = |root| {
        cluster[1].drop_root(root);
        cluster[1].timers()
    };
    assert_eq!(timers(first.root), 1);
    assert_eq!(timers(second.root), 1);
    assert_eq!(timers(third.root), 0);
}

/// An update of the module makes other VMs, and the old one goes with the last of its clients. That the session has not ended yet
/// is known to the new one by then.
#[test]
fn an_end_acts_again_when_its_vm_has_gone() {
    for (request, others) in [
        (logout("/_matrix/client/v3/logout", ALICE), alice()),
        (logout_all(ALICE), Fate::Held),
        (revocation(ALICE), alice()),
    ] {
        let (mut cluster, gateway) = warmed(&[ALICE, BOB], json!({}));
        end(&mut cluster, &gateway, &request, true);
        cluster[0].drop_root(gateway.root);
        cluster[0].reload();
        for _ in 0..4 {
            // What is asked in the millisecond of an end counts as asked before.
            cluster.process.advance(Duration::from_millis(1));
            assert_eq!(cluster[1].send(&gateway, whoami(ALICE)), Fate::Held);
            assert_eq!(cluster[1].send(&gateway, whoami(BOB)), others);
            cluster.answer_all(&active("alice"));
            cluster.tick_for(Duration::from_secs(1));
        }
        ask_everywhere(&mut cluster, &gateway, ALICE);
        cluster.tick_for(Duration::from_secs(2));
        assert_fates(&mut cluster, &gateway, ALICE, &[alice(), alice()]);
    }
}

/// No worker of the new VM has had a request, so none has had a tick either. MAS may have ended the session long ago.
#[test]
fn the_first_request_of_a_vm_finds_what_the_one_before_has_left_to_end() {
    for request in [
        logout("/_matrix/client/v3/logout", ALICE),
        logout_all(ALICE),
        revocation(ALICE),
    ] {
        let (mut old, gateway) = warmed(&[ALICE], json!({}));
        end(&mut old, &gateway, &request, true);
        let mut last = old;
        // Each goes before it has had a tick.
        for _ in 0..3 {
            last.process.advance(Duration::from_millis(100));
            ask_everywhere(&mut last, &gateway, ALICE);
            last[0].drop_root(gateway.root);
            last[1].drop_root(gateway.root);
            last = Cluster::on(&last.process, 2);
            // The leases have run out.
            last.process.advance(Duration::from_secs(1));
            let stream = last[1].request(&gateway, whoami(ALICE));
            assert_eq!(last[1].fate(stream), Fate::Held, "{request:?}");
            // What is asked in the millisecond of an end counts as asked before, and is asked again.
            for _ in 0..2 {
                last.process.advance(Duration::from_millis(1));
                last.answer_all(&active("alice"));
            }
        }
    }
}

/// A VM that may not write shared data cannot take over what another has left, and finds it at each tick.
#[test]
fn what_cannot_be_taken_over_acts_once() {
    let (mut cluster, gateway) = warmed(&[ALICE], json!({}));
    let request = logout("/_matrix/client/v3/logout", ALICE);
    end(&mut cluster, &gateway, &request, true);
    cluster[0].drop_root(gateway.root);
    cluster[0].reload();
    cluster[1].faults().writing.set(Some(".ends"));
    cluster.process.advance(Duration::from_secs(1));
    let count = |cluster: &Cluster| cluster.metric("matrix_edge_auth_invalidations_total");
    let before = count(&cluster);
    for _ in 0..20 {
        let stream = cluster[1].request(&gateway, whoami(ALICE));
        cluster[1].answer_all(&active("alice"));
        assert_eq!(cluster[1].fate(stream), alice());
        cluster[1].tick_for(TICK);
    }
    assert_eq!(count(&cluster) - before, 1);
}

/// Two workers of the new VM get their first requests in one moment, and only one of them takes over what is left.
#[test]
fn no_first_request_is_decided_before_what_is_left_has_ended() {
    for access in 0..40 {
        let (mut old, gateway) = warmed(&[ALICE], json!({}));
        let request = logout("/_matrix/client/v3/logout", ALICE);
        end(&mut old, &gateway, &request, true);
        old.process.advance(Duration::from_millis(100));
        ask_everywhere(&mut old, &gateway, ALICE);
        for worker in &mut old.workers {
            worker.drop_root(gateway.root);
        }
        let mut one = SimulatedWorker::new(&old.process);
        let other = Rc::new(RefCell::new(SimulatedWorker::new(&old.process)));
        let stream = Rc::new(Cell::new(None));
        old.process.interfere(access, {
            let (gateway, other) = (Rc::clone(&gateway), Rc::clone(&other));
            let stream = Rc::clone(&stream);
            move || stream.set(Some(other.borrow_mut().request(&gateway, whoami(ALICE))))
        });
        assert_ne!(one.send(&gateway, whoami(ALICE)), alice(), "{access}");
        old.process.run_interference();
        let stream = stream.get().expect("it has come");
        assert_ne!(other.borrow().fate(stream), alice(), "{access}");
    }
}

/// The second logout comes right after the first, which has ended nothing, and waits for a tick.
#[test]
fn an_end_that_waits_for_a_tick_acts_when_its_vm_has_gone() {
    let (mut cluster, gateway) = warmed(&[ALICE], json!({}));
    for _ in 0..2 {
        end(&mut cluster, &gateway, &revocation(ALICE), false);
        ask_everywhere(&mut cluster, &gateway, ALICE);
    }
    cluster[0].drop_root(gateway.root);
    cluster[0].reload();
    assert_eq!(cluster[1].send(&gateway, whoami(ALICE)), alice());
    cluster.tick_for(TICK);
    assert_forgotten(&mut cluster, &gateway, ALICE);
}

/// Anyone can log invented tokens out, and whose worker goes first has the room first.
#[test]
fn invented_ends_leave_room_for_a_session_when_a_vm_goes() {
    let (mut cluster, gateway) = warmed(&[ALICE], json!({}));
    let mut flooded = Cluster::on(&cluster.process, 3);
    for (at, number) in (0..3).cycle().zip(0..3_300) {
        let request = logout("/_matrix/client/v3/logout", &invented(number));
        let stream = flooded[at].request(&gateway, request);
        flooded[at].hang_up(stream);
    }
    let request = logout("/_matrix/client/v3/logout", ALICE);
    end(&mut cluster, &gateway, &request, true);
    let flooded = flooded.workers.iter_mut();
    flooded.for_each(|worker| worker.drop_root(gateway.root));
    cluster[0].drop_root(gateway.root);
    cluster.process.advance(Duration::from_millis(1));
    let stream = cluster[1].request(&gateway, whoami(ALICE));
    cluster[1].answer_only_call(&active("alice"));
    assert_eq!(cluster[1].fate(stream), alice());
    cluster[1].tick_for(TICK);
    assert_eq!(cluster[1].send(&gateway, whoami(ALICE)), Fate::Held);
}

/// What has taken an answer away in the first VM finds none in the second.
#[test]
fn invented_ends_leave_room_for_a_session_when_two_vms_go() {
    let (mut first, gateway) = warmed(&[ALICE], json!({}));
    let request = logout("/_matrix/client/v3/logout", ALICE);
    end(&mut first, &gateway, &request, true);
    first[0].drop_root(gateway.root);
    let mut second = Cluster::on(&first.process, 2);
    second[0].request(&gateway, Request::get("/"));
    for number in 0..1_100 {
        let request = logout("/_matrix/client/v3/logout", &invented(number));
        let stream = second[1].request(&gateway, request);
        second[1].hang_up(stream);
    }
    second[1].drop_root(gateway.root);
    second[0].drop_root(gateway.root);
    first.process.advance(Duration::from_secs(1));
    let stream = first[1].request(&gateway, whoami(ALICE));
    first[1].answer_only_call(&active("alice"));
    assert_eq!(first[1].fate(stream), alice());
    let mut third = Cluster::on(&first.process, 1);
    assert_eq!(third[0].send(&gateway, whoami(ALICE)), Fate::Held);
}

/// MAS answers 200 also where it ends nothing.
#[test]
fn ends_that_mas_confirms_do_not_stop_one_that_it_does_not_confirm() {
    let (mut cluster, gateway) = warmed(&[ALICE], json!({}));
    end(
        &mut cluster,
        &gateway,
        &logout("/_matrix/client/v3/logout", ALICE),
        true,
    );
    for _ in 0..4 {
        cluster.skip(TICK);
        end(&mut cluster, &gateway, &revocation(ALICE), false);
    }
    cluster.tick_for(Duration::from_secs(1));
    cluster.deliver_all();
    ask_everywhere(&mut cluster, &gateway, ALICE);
    cluster.tick_for(Duration::from_secs(1));
    cluster.deliver_all();
    assert_forgotten(&mut cluster, &gateway, ALICE);
}

/// The same where one comes when the next repetition is due, and before the tick that brings it.
#[test]
fn an_end_that_mas_confirms_between_two_ticks_does_not_stop_one_that_it_does_not_confirm() {
    let (mut cluster, gateway) = warmed(&[ALICE], json!({}));
    cluster.process.advance(2 * TICK / 5);
    end(
        &mut cluster,
        &gateway,
        &logout("/_matrix/client/v3/logout", ALICE),
        true,
    );
    ask_everywhere(&mut cluster, &gateway, ALICE);
    cluster.skip(3 * TICK / 5);
    cluster.tick_for(2 * TICK);
    // 770 milliseconds after the first.
    cluster.process.advance(TICK / 2 - Duration::from_millis(5));
    end(&mut cluster, &gateway, &revocation(ALICE), false);
    cluster.process.advance(Duration::from_millis(5));
    ask_everywhere(&mut cluster, &gateway, ALICE);
    cluster.skip(TICK / 2);
    cluster.tick_for(Duration::from_secs(1));
    cluster.deliver_all();
    assert_forgotten(&mut cluster, &gateway, ALICE);
}

#[test]
fn an_end_that_mas_confirms_acts_once() {
    let (mut cluster, gateway) = warmed(&[ALICE], json!({}));
    end(&mut cluster, &gateway, &revocation(ALICE), false);
    ask_everywhere(&mut cluster, &gateway, ALICE);
    cluster.tick_for(Duration::from_secs(5));
    assert_fates(&mut cluster, &gateway, ALICE, &[alice(), alice()]);
}

#[test]
fn an_end_that_is_alone_acts_at_once_whatever_else_ends() {
    let (mut cluster, gateway) = warmed(&[ALICE, BOB], json!({}));
    for _ in 0..3 {
        let request = logout("/_matrix/client/v3/logout", ALICE);
        end(&mut cluster, &gateway, &request, false);
        ask_everywhere(&mut cluster, &gateway, ALICE);
    }
    let request = logout("/_matrix/client/v3/logout", BOB);
    end(&mut cluster, &gateway, &request, false);
    assert_forgotten(&mut cluster, &gateway, BOB);
    // A second later so does another one of the first.
    cluster.skip(TICK);
    ask_everywhere(&mut cluster, &gateway, ALICE);
    cluster.tick_for(Duration::from_secs(1));
    end(&mut cluster, &gateway, &revocation(ALICE), false);
    assert_forgotten(&mut cluster, &gateway, ALICE);
}

/// Also if it was the user's token alone that ended at first; in shadow mode, where nobody waits to learn the user; if another
/// worker ends the token before the tick; and if the listener's table has another size than that which has the answers.
#[test]
fn an_end_of_all_sessions_that_waits_ends_all_of_them() {
    for (mode, is_ended_elsewhere, slots) in [
        ("enforce", false, 65_536),
        ("shadow", false, 65_536),
        ("shadow", true, 65_536),
        ("shadow", true, 1_024),
    ] {
        let (mut cluster, enforcing) = warmed(&[ALICE, BOB], json!({}));
        end(&mut cluster, &enforcing, &revocation(ALICE), false);
        let other = gateway(2, json!({"mode": mode, "cache": {"slots": slots}}));
        let stream = cluster[0].request(&other, logout_all(ALICE));
        cluster.answer_all(&active("alice"));
        ask_everywhere(&mut cluster, &enforcing, ALICE);
        cluster[0].response(stream, 200);
        if is_ended_elsewhere {
            let stream = cluster[1].request(&enforcing, revocation(ALICE));
            cluster[1].response(stream, 200);
        }
        cluster.skip(TICK);
        cluster.deliver_all();
        for token in [ALICE, BOB] {
            assert_forgotten(&mut cluster, &enforcing, token);
        }
    }
}

/// Anyone can end invented tokens. They take no room from an end that takes an answer away, also while that one waits, and
/// whether MAS confirms them or not.
#[test]
fn ends_of_invented_tokens_make_no_end_cost_more() {
    for hangs_up in [false, true] {
        let (mut cluster, gateway) = warmed(&[ALICE], json!({}));
        let before = cluster.metric(QUESTIONS);
        let mut numbers = 0..;
        let mut end_invented_ones = |cluster: &mut Cluster, count| {
            for number in numbers.by_ref().take(count) {
                let stream = cluster[0].request(&gateway, revocation(&invented(number)));
                if hangs_up {
                    cluster[0].hang_up(stream);
                } else {
                    cluster[0].response(stream, 200);
                }
            }
        };
        end_invented_ones(&mut cluster, 2_000);
        for _ in 0..12 {
            for _ in 0..10 {
                end_invented_ones(&mut cluster, 200);
                cluster.process.advance(TICK / 25);
                end(&mut cluster, &gateway, &revocation(ALICE), false);
                cluster.process.advance(TICK / 25);
                ask_everywhere(&mut cluster, &gateway, ALICE);
            }
            cluster.skip(TICK / 5);
            cluster.deliver_all();
        }
        let questions = cluster.metric(QUESTIONS) - before;
        assert!((12..=13).contains(&questions), "{hangs_up}: {questions}");
    }
}

#[test]
fn where_nothing_more_is_remembered_an_end_acts_at_once() {
    let sessions: Vec<String> = (0..1_024).map(invented).collect();
    let mut tokens: Vec<&str> = sessions.iter().map(String::as_str).collect();
    tokens.push(ALICE);
    let (mut cluster, gateway) = warmed(&tokens, json!({}));
    for token in &sessions {
        end(&mut cluster, &gateway, &revocation(token), false);
    }
    for _ in 0..3 {
        end(&mut cluster, &gateway, &revocation(ALICE), false);
        let streams = cluster.request_each(&gateway, &whoami(ALICE));
        assert_eq!(cluster.fates(&streams), [Fate::Held, Fate::Held]);
        cluster.answer_all(&active("alice"));
        cluster.deliver_all();
    }
    // It is forgotten a second later.
    cluster.skip(Duration::from_secs(1));
    end(&mut cluster, &gateway, &revocation(ALICE), false);
    ask_everywhere(&mut cluster, &gateway, ALICE);
    end(&mut cluster, &gateway, &revocation(ALICE), false);
    let fates = cluster.send_each(&gateway, &whoami(ALICE));
    assert_eq!(fates, [alice(), alice()], "it waits");
}

/// What stands where the reading ends may be a half of a token, or the whole of another one.
#[test]
fn a_form_that_is_too_long_ends_nothing() {
    let room = MAX_REVOCATION_BYTES - "a=&token=".len() - ALICE.len();
    for (padding, rest, fate) in [
        (room, "", Fate::Held),
        (room, "x", alice()),
        (room + 1, "", alice()),
    ] {
        let (mut cluster, gateway) = warmed(&[ALICE], json!({}));
        let form = format!("a={}&token={ALICE}{rest}", "b".repeat(padding));
        let request = Request::new("POST", "/oauth2/revoke").body(form);
        end(&mut cluster, &gateway, &request, false);
        let fates = [fate.clone(), fate];
        assert_fates(&mut cluster, &gateway, ALICE, &fates);
    }
}
