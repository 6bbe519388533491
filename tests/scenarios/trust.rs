//! Trust is keyed by the question: several configurations in one process, at once or one after the other, that ask
//! other MAS, have tables of another size, or let answers hold for another time.

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
    time::Duration,
};

use matrix_edge_auth::{
    host::{CallId, Store, StreamId},
    worker::Plugin,
};
use serde_json::{Value, json};

use crate::{
    ALICE, BOB, INACTIVE, active, alice, not_active,
    simulated::{Cluster, Fate, Process, Request, SimulatedWorker, gateway, plugin, store},
    whoami,
};

/// As long as an ended session may be served.
const SECOND: Duration = Duration::from_secs(1);

/// Returns a gateway with tables of this size. It has a server name of its own, so a worker's own grants serve no
/// other configuration, and each has to look into its tables.
fn sized(root: u32, slots: u32) -> Rc<Plugin> {
    sized_with(root, json!({"slots": slots, "negative_slots": slots}))
}

fn sized_with(root: u32, cache: Value) -> Rc<Plugin> {
    let server_name = format!("{root}.example.org");
    gateway(root, json!({"server_name": server_name, "cache": cache}))
}

/// Returns a gateway that lets answers hold this long.
fn lasting(root: u32, ttl: &str) -> Rc<Plugin> {
    gateway(root, json!({"cache": {"ttl": ttl, "refresh_ahead": false}}))
}

/// Returns a gateway before the MAS of this cluster.
fn before(root: u32, cluster: &str, cache: Value) -> Rc<Plugin> {
    gateway(
        root,
        json!({"introspection": {"cluster": cluster}, "cache": cache}),
    )
}

fn logout() -> Request {
    Request::new("POST", "/_matrix/client/v3/logout").bearer(ALICE)
}

fn revocation(token: &str) -> Request {
    Request::new("POST", "/oauth2/revoke").body(format!("token={token}"))
}

/// Alice logs out through this worker.
fn log_out(worker: &mut SimulatedWorker, plugin: &Rc<Plugin>) {
    let stream = worker.request(plugin, logout());
    worker.response(stream, 200);
}

/// Lets every worker of the cluster hold alice's token for each configuration.
fn warm(cluster: &mut Cluster, plugins: &[Rc<Plugin>]) {
    for plugin in plugins {
        cluster.seat_all(plugin);
        cluster[0].request(plugin, whoami(ALICE));
        cluster.answer_all(&active("alice"));
        let user = format!("@alice:{}", plugin.config.server_name);
        let fates = cluster.send_each(plugin, &whoami(ALICE));
        assert_eq!(
            fates,
            vec![Fate::forwarded_as(&user); cluster.workers.len()]
        );
    }
}

/// Checks that no worker serves alice's token without asking, whatever the configuration.
fn assert_forgotten(cluster: &mut Cluster, plugins: &[Rc<Plugin>], what: &str) {
    for plugin in plugins {
        let fates = cluster.send_each(plugin, &whoami(ALICE));
        assert_eq!(fates, vec![Fate::Held; cluster.workers.len()], "{what}");
    }
}

#[test]
fn two_mas_that_know_one_token_have_an_answer_each() {
    // One bucket, and nothing in front of it.
    let cache = |ttl| json!({"slots": 8, "ttl": ttl, "local_entries": 0, "refresh_ahead": false});
    let process = Process::new();
    let mut worker = SimulatedWorker::new(&process);
    let (one, two) = (
        before(1, "one", cache("1h")),
        before(2, "two", cache("10s")),
    );
    for (gateway, name) in [(&one, "alice"), (&two, "bob")] {
        worker.request(gateway, whoami(ALICE));
        worker.answer_only_call(&active(name));
    }
    let bob = Fate::forwarded_as("@bob:example.org");
    for _ in 0..3 {
        assert_eq!(worker.send(&one, whoami(ALICE)), alice());
        assert_eq!(worker.send(&two, whoami(ALICE)), bob);
    }
    // What the second MAS says later does not count for the first.
    worker.tick();
    process.advance(Duration::from_secs(10));
    worker.tick();
    assert_eq!(worker.send(&two, whoami(ALICE)), Fate::Held);
    worker.answer_only_call(INACTIVE);
    assert_eq!(worker.send(&two, whoami(ALICE)), not_active());
    assert_eq!(worker.send(&one, whoami(ALICE)), alice());
    // A logout ends both: only the next answers can say where it counted.
    log_out(&mut worker, &two);
    assert_eq!(worker.send(&one, whoami(ALICE)), Fate::Held);
}

#[test]
fn a_caller_whom_one_mas_answered_is_unknown_to_the_other() {
    let asks = |cluster: &str| json!({"introspection": {"cluster": cluster, "credential": {"injected": true}}});
    let role = |root, cluster| plugin(root, "introspection", asks(cluster));
    let (one, two) = (role(1, "one"), role(2, "two"));
    let mut worker = SimulatedWorker::new(&Process::new());
    for (root, cluster) in [(3, "one"), (4, "two")] {
        worker.request(&gateway(root, asks(cluster)), whoami(ALICE));
        worker.answer_only_call(&active("alice"));
    }
    let asked = |token: &str| {
        Request::new("POST", "/oauth2/introspect")
            .header("content-type", "application/x-www-form-urlencoded")
            .header("x-mas-supports-device-id", "1")
            .bearer("hers")
            .body(format!("token={token}&token_type_hint=access_token"))
    };
    let passed_on = Fate::forwarded_unannotated();
    let stream = worker.request(&one, asked(ALICE));
    assert_eq!(worker.fate(stream), passed_on);
    worker.response(stream, 200);
    let answered = Fate::Replied(200, active("alice"));
    assert_eq!(worker.send(&one, asked(ALICE)), answered);
    for token in [ALICE, BOB] {
        let stream = worker.request(&two, asked(token));
        assert_eq!(worker.fate(stream), passed_on, "cached or cold");
        worker.response(stream, 401);
    }
    assert!(worker.calls().is_empty(), "nobody asks on its behalf");
    assert_eq!(worker.send(&one, asked(ALICE)), answered);
}

#[test]
fn a_homeserver_that_refuses_a_token_is_listened_to_beside_another() {
    let mut worker = SimulatedWorker::new(&Process::new());
    let gateways = [before(1, "one", json!({})), before(2, "two", json!({}))];
    for gateway in &gateways {
        worker.request(gateway, whoami(ALICE));
        worker.answer_only_call(&active("alice"));
        let refused = worker.request(gateway, whoami(ALICE));
        worker.response(refused, 401);
        assert_eq!(worker.send(gateway, whoami(ALICE)), Fate::Held);
        worker.answer_only_call(&active("alice"));
    }
}

#[test]
fn a_session_that_ends_is_gone_for_tables_of_every_size() {
    for sizes in [[64, 65_536], [65_536, 64], [8, 1_000]] {
        for with_hints in [true, false] {
            let mut cluster = Cluster::new(3);
            let plugins = [sized(1, sizes[0]), sized(2, sizes[1])];
            warm(&mut cluster, &plugins);
            log_out(&mut cluster[1], &plugins[0]);
            if with_hints {
                cluster.deliver_all();
            } else {
                cluster.drop_hints();
                cluster.tick_for(SECOND);
            }
            assert_forgotten(&mut cluster, &plugins, &format!("{sizes:?}"));
        }
    }
}

/// Something by which this worker learns, for this configuration, that alice's session has ended.
type End<'a> = &'a dyn Fn(&mut SimulatedWorker, &Rc<Plugin>);

/// Nor does the way matter by which the edge learns of it.
#[test]
fn every_end_of_a_session_counts_for_tables_of_every_size() {
    let provisioning = plugin(3, "provisioning", json!({"cache": {"slots": 1_000}}));
    let ends: [(&str, End<'_>); 4] = [
        ("revocation", &|worker, plugin| {
            let stream = worker.request(plugin, revocation(ALICE));
            worker.response(stream, 200);
        }),
        ("refusal", &|worker, plugin| {
            let stream = worker.request(plugin, whoami(ALICE));
            worker.response(stream, 401);
        }),
        ("logout where nothing was asked", &|worker, _| {
            log_out(worker, &sized(4, 123_456));
        }),
        ("delete_user", &|worker, _| {
            let told = Request::new("POST", "/_synapse/mas/delete_user")
                .bearer("secret")
                .body(r#"{"localpart":"alice","erase":false}"#);
            worker.request(&provisioning, told);
        }),
    ];
    for (name, end) in ends {
        let mut cluster = Cluster::new(2);
        let plugins = [sized(1, 64), sized(2, 65_536)];
        warm(&mut cluster, &plugins);
        end(&mut cluster[1], &plugins[0]);
        cluster.tick_for(SECOND);
        assert_forgotten(&mut cluster, &plugins, name);
    }
}

#[test]
fn an_inactive_answer_ends_the_active_one_under_every_size() {
    let mut cluster = Cluster::new(2);
    let small = json!({"slots": 64, "negative_slots": 64, "ttl": "10s", "refresh_ahead": false});
    let large = json!({"slots": 65_536, "negative_slots": 65_536, "ttl": "1h"});
    let plugins = [sized_with(1, small), sized_with(2, large)];
    warm(&mut cluster, &plugins);
    cluster.skip(Duration::from_secs(10));
    assert_eq!(cluster[0].send(&plugins[0], whoami(ALICE)), Fate::Held);
    cluster[0].answer_only_call(INACTIVE);
    cluster.tick_for(SECOND);
    let fates = cluster.send_each(&plugins[1], &whoami(ALICE));
    assert_eq!(fates, vec![Fate::Held; 2]);
}

#[test]
fn an_active_answer_ends_the_inactive_one_under_every_size() {
    let mut worker = SimulatedWorker::new(&Process::new());
    let plugins = [sized(1, 64), sized(2, 65_536)];
    worker.request(&plugins[0], whoami(ALICE));
    worker.answer_only_call(INACTIVE);
    assert_eq!(worker.send(&plugins[0], whoami(ALICE)), not_active());
    worker.request(&plugins[1], whoami(ALICE));
    worker.answer_only_call(&active("alice"));
    assert_ne!(worker.send(&plugins[0], whoami(ALICE)), not_active());
}

#[test]
fn what_ended_under_a_new_size_stays_ended_when_the_update_is_rolled_back() {
    let mut cluster = Cluster::new(2);
    let old = [sized(1, 65_536)];
    warm(&mut cluster, &old);
    let new = [sized(2, 64)];
    warm(&mut cluster, &new);
    log_out(&mut cluster[0], &new[0]);
    cluster.tick_for(SECOND);
    assert_forgotten(&mut cluster, &new, "after the update");
    assert_forgotten(&mut cluster, &[sized(3, 65_536)], "rolled back");
}

#[test]
fn without_room_for_another_size_a_session_still_ends_for_all() {
    let mut cluster = Cluster::new(2);
    for root in 1..=64 {
        cluster[0].send(&sized(root, root * 8), whoami(BOB));
    }
    cluster.answer_all(INACTIVE);
    let plugins = [sized(65, 8), sized(66, 65_536), sized(67, 1 << 20)];
    warm(&mut cluster, &plugins);
    log_out(&mut cluster[1], &plugins[0]);
    cluster.tick_for(SECOND);
    assert_forgotten(&mut cluster, &plugins, "of a full register");
}

#[test]
fn an_update_to_a_shorter_ttl_counts_for_answers_that_are_held() {
    let mut cluster = Cluster::new(2);
    let old = lasting(1, "1h");
    warm(&mut cluster, std::slice::from_ref(&old));
    let new = lasting(2, "10s");
    cluster.skip(Duration::from_secs(9));
    assert_eq!(cluster.send_each(&new, &whoami(ALICE)), vec![alice(); 2]);
    cluster.skip(Duration::from_secs(1));
    assert_eq!(cluster[0].send(&old, whoami(ALICE)), alice());
    assert_forgotten(&mut cluster, &[new], "its own ttl");
}

#[test]
fn an_update_to_a_shorter_negative_ttl_counts_for_answers_that_are_held() {
    let process = Process::new();
    let mut worker = SimulatedWorker::new(&process);
    let negative = |root, ttl| gateway(root, json!({"cache": {"negative_ttl": ttl}}));
    let (old, new) = (negative(1, "1m"), negative(2, "2s"));
    worker.request(&old, whoami(ALICE));
    worker.answer_only_call(INACTIVE);
    process.advance(Duration::from_millis(1_999));
    assert_eq!(worker.send(&new, whoami(ALICE)), not_active());
    process.advance(Duration::from_millis(1));
    assert_eq!(worker.send(&old, whoami(ALICE)), not_active());
    assert_eq!(worker.send(&new, whoami(ALICE)), Fate::Held);
}

#[test]
fn who_waits_for_the_call_of_another_configuration_keeps_to_its_own_ttl() {
    let (long, short) = (lasting(1, "1h"), lasting(2, "10s"));
    for (first, second) in [(&long, &short), (&short, &long)] {
        let mut cluster = Cluster::new(2);
        cluster[0].request(first, whoami(ALICE));
        for worker in &mut cluster.workers {
            worker.request(first, whoami(ALICE));
            worker.request(second, whoami(ALICE));
        }
        cluster[0].answer_only_call(&active("alice"));
        cluster.deliver_all();
        assert!(cluster.calls().is_empty(), "one call for all");
        for plugin in [first, second] {
            assert_eq!(cluster.send_each(plugin, &whoami(ALICE)), vec![alice(); 2]);
        }
        cluster.skip(Duration::from_secs(10));
        assert_forgotten(&mut cluster, std::slice::from_ref(&short), "the short one");
    }
}

/// It is as old for who waits in the worker that has asked, and asking anew would take as long again.
#[test]
fn who_waits_is_given_an_answer_that_took_longer_than_its_ttl() {
    let (long, short) = (lasting(1, "1h"), lasting(2, "2s"));
    for asking in [&long, &short] {
        let mut cluster = Cluster::new(4);
        cluster[0].request(asking, whoami(ALICE));
        let waiting: Vec<_> = [&long, &short]
            .map(|plugin| cluster.request_each(plugin, &whoami(ALICE)))
            .concat();
        cluster.tick_for(Duration::from_secs(3));
        cluster[0].answer_only_call(&active("alice"));
        cluster.deliver_all();
        assert!(cluster.calls().is_empty(), "one call for all");
        for fates in waiting.chunks(4).map(|streams| cluster.fates(streams)) {
            assert_eq!(fates, vec![alice(); 4]);
        }
        cluster.skip(Duration::from_millis(499));
        assert_eq!(cluster.send_each(&short, &whoami(ALICE)), vec![alice(); 4]);
        cluster.skip(Duration::from_millis(1));
        assert_forgotten(
            &mut cluster,
            std::slice::from_ref(&short),
            "and not for long",
        );
    }
}

/// The same of an inactive answer, which serves no request that comes later.
#[test]
fn who_waits_is_given_an_inactive_answer_that_took_longer_than_its_ttl() {
    let lasting = |root, ttl: &str| {
        let introspection = json!({"timeout": "15s"});
        gateway(
            root,
            json!({"introspection": introspection, "cache": {"negative_ttl": ttl}}),
        )
    };
    let (long, short) = (lasting(1, "10s"), lasting(2, "1s"));
    let none = lasting(3, "0s");
    for (asking, took) in [(&long, 12), (&short, 3), (&none, 3), (&none, 0)] {
        let mut cluster = Cluster::new(4);
        cluster[0].request(asking, whoami(ALICE));
        let waiting: Vec<_> = [&long, &short, &none]
            .map(|plugin| cluster.request_each(plugin, &whoami(ALICE)))
            .concat();
        cluster.tick_for(Duration::from_secs(took));
        cluster.skip(Duration::from_millis(50));
        cluster[0].answer_only_call(INACTIVE);
        cluster.deliver_all();
        assert!(cluster.calls().is_empty(), "one call for all");
        for fates in waiting.chunks(4).map(|streams| cluster.fates(streams)) {
            assert_eq!(fates, vec![not_active(); 4]);
        }
        assert_eq!(
            cluster.send_each(&none, &whoami(ALICE)),
            vec![Fate::Held; 4]
        );
        assert_eq!(cluster.calls().len(), 1);
    }
}

/// An answer of a configuration with a short TTL takes the place of one with a long TTL, ends and is pushed out.
/// Who held the first for itself must not be missed by a logout then.
#[test]
fn a_session_ends_for_who_holds_an_answer_longer_than_the_shared_cache() {
    let cached = |root, ttl| {
        let cache = json!({"ttl": ttl, "slots": 8, "refresh_ahead": false});
        gateway(root, json!({"cache": cache}))
    };
    let (long, short) = (cached(1, "1h"), cached(2, "10s"));
    let mut cluster = Cluster::new(2);
    warm(&mut cluster, std::slice::from_ref(&long));
    cluster.skip(Duration::from_secs(11));
    cluster[1].request(&short, whoami(ALICE));
    cluster[1].answer_only_call(&active("alice"));
    cluster.skip(Duration::from_secs(11));
    for number in 0..20 {
        let token = crate::attack::invented(number);
        cluster[1].request(&long, whoami(&token));
        cluster[1].answer_only_call(&active("bob"));
    }
    log_out(&mut cluster[1], &long);
    cluster.tick_for(SECOND);
    assert_eq!(cluster[0].send(&long, whoami(ALICE)), Fate::Held);
}

#[test]
fn invented_tokens_that_are_asked_about_and_revoked_reach_no_worker() {
    let plugin = gateway(1, json!({}));
    let mut cluster = Cluster::new(2);
    warm(&mut cluster, std::slice::from_ref(&plugin));
    for number in 0..10 {
        let token = crate::attack::invented(number);
        let waiting = cluster[0].request(&plugin, whoami(&token));
        let stream = cluster[1].request(&plugin, revocation(&token));
        cluster[1].response(stream, 200);
        cluster[0].answer_only_call(INACTIVE);
        assert_eq!(cluster[0].fate(waiting), not_active());
    }
    assert_eq!(cluster.metric("matrix_edge_auth_invalidations_total"), 0);
    assert_eq!(cluster.process.messages(), 0);
    let epochs = store(&cluster.process).read(b"matrix-edge-auth.epoch");
    assert!(epochs.is_none(), "no epoch was raised");
}

/// A worker with alice's request, which waits for a call, and another worker; both have a configuration of their
/// own.
struct Race {
    process: Rc<Process>,
    workers: [Rc<RefCell<SimulatedWorker>>; 2],
    plugins: [Rc<Plugin>; 2],
    call: CallId,
    ending: StreamId,
}

impl Race {
    fn new(sizes: [u32; 2]) -> Self {
        let process = Process::new();
        let workers = [(); 2].map(|()| Rc::new(RefCell::new(SimulatedWorker::new(&process))));
        let plugins = [sized(1, sizes[0]), sized(2, sizes[1])];
        workers[0].borrow_mut().request(&plugins[0], whoami(ALICE));
        let call = workers[0].borrow().calls()[0].id;
        let ending = workers[1].borrow_mut().request(&plugins[1], logout());
        Self {
            process,
            workers,
            plugins,
            call,
            ending,
        }
    }

    /// MAS's answer from before the logout arrives.
    fn answer(&self) -> impl FnOnce() + use<> {
        let (worker, call) = (Rc::clone(&self.workers[0]), self.call);
        move || worker.borrow_mut().answer(call, 200, &active("alice"))
    }

    /// MAS's answer to the logout arrives.
    fn end(&self) -> impl FnOnce() + use<> {
        let (worker, ending) = (Rc::clone(&self.workers[1]), self.ending);
        move || worker.borrow_mut().response(ending, 200)
    }

    /// A second later nobody knows alice's token without asking.
    fn check(&self, what: &str) {
        self.process.run_interference();
        for _ in 0..4 {
            self.process.advance(SECOND / 4);
            self.workers
                .iter()
                .for_each(|worker| worker.borrow_mut().tick());
        }
        for worker in &self.workers {
            for plugin in &self.plugins {
                let fate = worker.borrow_mut().send(plugin, whoami(ALICE));
                assert_eq!(fate, Fate::Held, "{what}");
            }
        }
    }
}

/// Every place in the one callback at which the other may run as a whole.
#[test]
fn a_session_that_ends_while_its_answer_comes_is_ended() {
    for sizes in [[64, 64], [64, 65_536]] {
        for after in 0..24 {
            let race = Race::new(sizes);
            race.process.interfere(after, race.answer());
            race.end()();
            race.check(&format!(
                "{sizes:?}: the answer {after} calls into the logout"
            ));
            let race = Race::new(sizes);
            race.process.interfere(after, race.end());
            race.answer()();
            race.check(&format!(
                "{sizes:?}: the logout {after} calls into the answer"
            ));
        }
    }
}

/// An "active" of an earlier question comes after the "inactive" of a later one, and is taken out again. Meanwhile a third
/// worker has read it, at every place where it can.
#[test]
fn an_answer_that_is_taken_out_again_serves_nowhere() {
    let mut readings = 0;
    for after in 0..24 {
        let process = Process::new();
        let gateway = gateway(1, json!({"cache": {"ttl": "1h"}}));
        let workers = [(); 3].map(|()| Rc::new(RefCell::new(SimulatedWorker::new(&process))));
        for worker in &workers {
            worker.borrow_mut().request(&gateway, Request::get("/"));
        }
        let tick = |time: Duration| {
            process.advance(time);
            for worker in &workers {
                worker.borrow_mut().tick();
            }
        };
        tick(2 * SECOND);
        let [asks_first, asks_later, reads] = &workers;
        asks_first.borrow_mut().request(&gateway, whoami(ALICE));
        let call = asks_first.borrow().calls()[0].id;
        // It is busy, and its lease runs out.
        process.advance(Duration::from_millis(1_250));
        asks_later.borrow_mut().tick();
        reads.borrow_mut().tick();
        asks_later.borrow_mut().request(&gateway, whoami(ALICE));
        process.advance(Duration::from_millis(10));
        asks_later.borrow_mut().answer_only_call(INACTIVE);
        process.advance(Duration::from_millis(10));
        let has_read = Rc::new(Cell::new(false));
        process.interfere(after, {
            let (reads, gateway, has_read) =
                (Rc::clone(reads), Rc::clone(&gateway), Rc::clone(&has_read));
            move || {
                let fate = reads.borrow_mut().send(&gateway, whoami(ALICE));
                has_read.set(fate == alice());
            }
        });
        asks_first.borrow_mut().answer(call, 200, &active("alice"));
        process.run_interference();
        readings += usize::from(has_read.get());
        for _ in 0..4 {
            tick(SECOND / 4);
        }
        for worker in &workers {
            let fate = worker.borrow_mut().send(&gateway, whoami(ALICE));
            assert_eq!(fate, not_active(), "{after}");
        }
    }
    assert!(readings > 0, "it can be read in between");
}
