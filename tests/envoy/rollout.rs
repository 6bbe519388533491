//! What `docs/rollout.md` says of each step and of the way back: what happens to the cache, and to connections that are
//! open meanwhile.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use serde_json::{Value, json};
use stand_in::mas::{Options, Session};
use tokio::net::TcpListener;

use super::{
    edge::{Edge, NOBODY, WHOAMI, assert_not_active, identity, new_token, plugin},
    sessions::{compat, logout, route_to_mas, route_to_silence},
};
use crate::support::{
    envoy::{Builder, Envoy, bootstrap, module},
    http::{self, Connection, Request, within_limit},
    product_time::Moment,
};

/// As long as an ended session may be served where it is heard of.
const SECOND: Duration = Duration::from_secs(1);

async fn start(changes: Value) -> Edge {
    start_with(changes, |builder| builder).await
}

/// The listeners come from a file, and those that are replaced keep their connections to the end of the test.
async fn start_with(changes: Value, adapt: impl FnOnce(Builder) -> Builder) -> Edge {
    Edge::start_with(changes, Options::default(), |builder| {
        adapt(builder)
            .dynamic_listeners()
            .option("--drain-time-s", "3600")
            .bootstrap(route_to_mas)
    })
    .await
}

async fn configure(edge: &Edge, changes: Value) {
    update_plugin(edge, |_| {}, changes)
        .await
        .expect("an update");
}

/// Changes the filter's `PluginConfig` and the module's own configuration in one update.
async fn update_plugin(
    edge: &Edge,
    edit: impl FnOnce(&mut Value),
    changes: Value,
) -> Result<(), String> {
    edge.envoy
        .update_listener(|listener| {
            let manager = bootstrap::http_manager_of(listener);
            edit(bootstrap::plugin(manager));
            bootstrap::configure(manager, &plugin(changes));
        })
        .await
}

/// What turns the identity headers off.
pub fn without_headers() -> Value {
    json!({"identity_headers": {"user_id": null, "device_id": null}})
}

/// A module that does the same and has other bytes: an empty custom section of this name is at its end.
fn another_version(edge: &Edge, name: &str) -> PathBuf {
    let mut bytes = fs::read(module()).expect("the module");
    let length = u8::try_from(name.len()).expect("a short name");
    bytes.extend([0, length + 1, length]);
    bytes.extend(name.bytes());
    let path = edge.envoy.dir().join(format!("{name}.wasm"));
    fs::write(&path, bytes).expect("a file in our own directory");
    path
}

/// The change of a plugin that loads this module.
fn load(path: &Path) -> impl FnOnce(&mut Value) {
    move |plugin| plugin["vm_config"]["code"]["local"]["filename"] = json!(path)
}

/// Checks that requests with this token get 401 a second from now on, at the latest.
async fn assert_ends(connection: &mut Connection, token: &str) {
    let ended = Moment::now();
    let whoami = Request::get(WHOAMI).bearer(token);
    loop {
        let sent = Moment::now();
        let response = connection.request(&whoami).await;
        if response.status == 401 {
            assert_not_active(&response);
            return;
        }
        assert_eq!(response.status, 200, "{response:?}");
        assert!(sent.since(ended) <= SECOND, "it is served after a second");
    }
}

#[tokio::test]
async fn the_mode_changes_in_both_directions_without_a_question_to_mas() {
    let edge = start(json!({"mode": "shadow"})).await;
    let (alice, inactive) = (edge.alice(), new_token("mat"));
    let mut open = Connection::open(edge.envoy.addr()).await;
    for token in [&alice, &inactive] {
        let whoami = Request::get(WHOAMI).bearer(token);
        assert_eq!(open.request(&whoami).await.status, 200);
    }
    edge.wait_for_calls(2).await;
    let known = [("verdict", "active"), ("source", "mas")];
    edge.wait_for_metric("matrix_edge_auth_requests_total", &known, 1.0)
        .await;
    let would_reject = "matrix_edge_auth_would_reject_total";
    edge.wait_for_metric(would_reject, &[], 1.0).await;

    configure(&edge, json!({"mode": "enforce"})).await;
    let seen = edge.pass(Request::get(WHOAMI).bearer(&alice)).await;
    assert_eq!(identity(&seen), [["@alice:example.org"], ["PHONE"]]);
    assert_not_active(&edge.whoami(&inactive).await);

    configure(&edge, json!({"mode": "shadow"})).await;
    let seen = edge.pass(Request::get(WHOAMI).bearer(&alice)).await;
    assert_eq!(identity(&seen), [["@alice:example.org"], ["PHONE"]]);
    let seen = edge.pass(Request::get(WHOAMI).bearer(&inactive)).await;
    assert_eq!(identity(&seen), NOBODY);
    edge.wait_for_metric(would_reject, &[], 2.0).await;
    assert_eq!(edge.mas.total_calls(), 2);

    // The connection from before has the first listener still, in shadow mode.
    let whoami = Request::get(WHOAMI).bearer(&inactive);
    assert_eq!(open.request(&whoami).await.status, 200);
    edge.assert_alive().await;
}

/// How long the old mode still counts, also for a client that does not hear `Connection: close`.
#[tokio::test]
async fn a_connection_from_before_keeps_its_mode_until_it_has_drained() {
    let drain = Duration::from_secs(2);
    let edge = Edge::start_with(json!({"mode": "shadow"}), Options::default(), |builder| {
        builder.dynamic_listeners().option("--drain-time-s", "2")
    })
    .await;
    let whoami = Request::get(WHOAMI).bearer(&new_token("mat"));
    let mut open = Connection::open(edge.envoy.addr()).await;
    assert_eq!(open.request(&whoami).await.status, 200);
    configure(&edge, json!({"mode": "enforce"})).await;
    let delivered = Moment::now();
    assert_not_active(&edge.send(&whoami).await);
    while let Some(response) = open.try_request(&whoami).await {
        assert_eq!(response.status, 200, "{response:?}");
        assert!(delivered.elapsed() < drain + 2 * SECOND, "it is still open");
    }
}

/// An Envoy with one worker, whose MAS says nothing to a logout, and whose old listeners end after so many seconds. Returns what
/// the logout is sent to, too.
async fn start_with_silent_logout(drain_seconds: &'static str) -> (Edge, TcpListener) {
    let silent = TcpListener::bind("127.0.0.1:0").await;
    let silent = silent.expect("a free port");
    let addr = silent.local_addr().expect("it is bound");
    let edge = Edge::start_with(json!({}), Options::default(), |builder| {
        builder
            .concurrency(1)
            .dynamic_listeners()
            .option("--drain-time-s", drain_seconds)
            .bootstrap(move |config| {
                route_to_silence(config, addr, "0s");
            })
    })
    .await;
    (edge, silent)
}

/// Sends a logout to which MAS says nothing, and makes an update meanwhile, until the old listener has ended and cut it off.
async fn cut_off(
    edge: &Edge,
    silent: &TcpListener,
    logout: Request,
    edit: impl FnOnce(&mut Value),
) {
    let mut client = Connection::open(edge.envoy.addr()).await;
    let sent = tokio::spawn(async move { client.try_request(&logout).await });
    let _unanswered = silent.accept().await.expect("Envoy connects");
    let changes = without_headers();
    update_plugin(edge, edit, changes).await.expect("an update");
    let response = sent.await.expect("no panic");
    assert!(response.is_none(), "{response:?}");
}

/// The end of the old listener is the end of a logout that MAS has not answered, and of the timer by which that acts again. The
/// new listener has had no request that would have started another one.
#[tokio::test]
async fn a_logout_that_an_update_cuts_off_acts_again_and_again() {
    let (edge, silent) = start_with_silent_logout("1").await;
    let token = edge.alice();
    edge.pass(Request::get(WHOAMI).bearer(&token)).await;
    let logout = Request::new("POST", "/_matrix/client/v3/logout/all").bearer(&token);
    cut_off(&edge, &silent, logout, |_| {}).await;
    // It acts at first on the token and on the user, and then on the user alone.
    within_limit("the logout to act for the third time", async {
        let name = "matrix_edge_auth_invalidations_total";
        while edge.envoy.stats_so_far().await.sum(name, &[]) < 4.0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    edge.assert_alive().await;
}

/// The same where the update makes another VM: the old one goes with the old listener, and with what waits there. MAS ends the
/// session a moment later, when the new one has asked about it already.
#[tokio::test]
async fn a_logout_that_a_new_module_cuts_off_acts_again_and_again() {
    let (edge, silent) = start_with_silent_logout("1").await;
    for (at, request) in ["logout", "logout/all", "revoke"].into_iter().enumerate() {
        let token = compat(&edge, "alice");
        let whoami = Request::get(WHOAMI).bearer(&token);
        edge.pass(whoami.clone()).await;
        let end = match request {
            "revoke" => Request::new("POST", "/oauth2/revoke").body(format!("token={token}")),
            end => Request::new("POST", format!("/_matrix/client/v3/{end}")).bearer(&token),
        };
        let path = another_version(&edge, &format!("next{at}"));
        cut_off(&edge, &silent, end, load(&path)).await;
        let mut client = Connection::open(edge.envoy.addr()).await;
        assert_eq!(client.request(&whoami).await.status, 200, "{request}");
        edge.mas.revoke_unannounced(&token);
        assert_ends(&mut client, &token).await;
    }
    edge.assert_alive().await;
}

/// The new VM has had no request, and so no tick, when MAS has ended the session. The old one has asked about it a moment before
/// it goes.
#[tokio::test]
async fn the_first_request_after_an_update_is_served_by_nothing_that_is_left_to_end() {
    let (edge, silent) = start_with_silent_logout("0").await;
    let token = compat(&edge, "alice");
    let whoami = Request::get(WHOAMI).bearer(&token);
    edge.pass(whoami.clone()).await;
    let mut client = Connection::open(edge.envoy.addr()).await;
    let logout = logout("v3", &token);
    let sent = tokio::spawn(async move { client.try_request(&logout).await });
    let _unanswered = silent.accept().await.expect("Envoy connects");
    sent.abort();
    within_limit("the edge to ask anew", async {
        while edge.mas.total_calls() < 2 {
            edge.pass(whoami.clone()).await;
        }
    })
    .await;

    let vms = "wasm.envoy.wasm.runtime.v8.active";
    let before = edge.envoy.stat(vms).await;
    let path = another_version(&edge, "next");
    update_plugin(&edge, load(&path), json!({}))
        .await
        .expect("an update");
    within_limit("the old VMs to go", async {
        while edge.envoy.stat(vms).await > before {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    edge.mas.revoke_unannounced(&token);
    assert_not_active(&edge.send(&whoami).await);
    edge.assert_alive().await;
}

/// Shared data belongs to the `vm_id` and outlives the module: the new one serves what the old one has asked. What ends
/// a session is heard by both, while the old one still has connections.
#[tokio::test]
async fn an_upgrade_keeps_the_cache_and_both_versions_hear_of_ends() {
    let edge = start(json!({})).await;
    let (alice, bob) = (edge.alice(), compat(&edge, "bob"));
    let mut old = Connection::open(edge.envoy.addr()).await;
    for token in [&alice, &bob] {
        let whoami = Request::get(WHOAMI).bearer(token);
        assert_eq!(old.request(&whoami).await.status, 200);
    }
    let vms = "wasm.envoy.wasm.runtime.v8.created";
    let created = edge.envoy.stat(vms).await;
    let path = another_version(&edge, "next");
    update_plugin(&edge, load(&path), json!({}))
        .await
        .expect("an update");
    assert!(edge.envoy.stat(vms).await > created, "VMs of the new one");
    let mut new = Connection::open(edge.envoy.addr()).await;
    for token in [&alice, &bob] {
        let whoami = Request::get(WHOAMI).bearer(token);
        assert_eq!(new.request(&whoami).await.status, 200);
    }
    assert_eq!(edge.mas.total_calls(), 2);

    assert_eq!(new.request(&logout("v3", &bob)).await.status, 200);
    assert_ends(&mut new, &bob).await;
    assert_ends(&mut old, &bob).await;
    edge.assert_alive().await;
}

/// The upgrade that keeps nothing: with another `vm_id` nothing is shared, also not what ends a session. So connections
/// to the old one keep its answers, and the way back finds them, until it has drained.
#[tokio::test]
async fn another_vm_id_begins_empty_and_is_deaf_to_the_other() {
    let edge = start(json!({})).await;
    let bob = compat(&edge, "bob");
    let whoami = Request::get(WHOAMI).bearer(&bob);
    let mut old = Connection::open(edge.envoy.addr()).await;
    assert_eq!(old.request(&whoami).await.status, 200);
    let rename = |plugin: &mut Value| plugin["vm_config"]["vm_id"] = "another".into();
    update_plugin(&edge, rename, json!({}))
        .await
        .expect("an update");
    let mut new = Connection::open(edge.envoy.addr()).await;
    assert_eq!(new.request(&whoami).await.status, 200);
    assert_eq!(edge.mas.calls(&bob), 2);

    assert_eq!(new.request(&logout("v3", &bob)).await.status, 200);
    assert_ends(&mut new, &bob).await;
    let calls = edge.mas.calls(&bob);
    tokio::time::sleep(SECOND).await;
    assert_eq!(old.request(&whoami).await.status, 200);
    assert_eq!(edge.mas.calls(&bob), calls, "out of the cache of the old");
}

/// A file that is written over is no update, and the next update of anything loads it. So a module gets a name of its own.
#[tokio::test]
async fn a_module_that_is_written_over_is_loaded_by_the_next_update() {
    let edge = start(json!({})).await;
    let path = another_version(&edge, "fixed-name");
    update_plugin(&edge, load(&path), json!({}))
        .await
        .expect("an update");
    let token = edge.alice();
    assert_eq!(edge.whoami(&token).await.status, 200);
    fs::write(&path, "not a module").expect("a file in our own directory");
    assert_eq!(edge.whoami(&token).await.status, 200);
    let refused = update_plugin(&edge, |_| {}, json!({"mode": "shadow"})).await;
    let refused = refused.expect_err("a refusal");
    assert!(
        refused.contains("Unable to create Wasm plugin"),
        "{refused}"
    );
    assert_eq!(edge.whoami(&new_token("mat")).await.status, 401);
}

/// The number of slots says where an answer is looked for. What a worker holds for itself is found as before.
#[tokio::test]
async fn another_number_of_slots_asks_once_more_and_the_way_back_does_not() {
    for (local_entries, again) in [(0, 1), (4_096, 0)] {
        let sized = |slots: u32| json!({"cache": {"slots": slots, "local_entries": local_entries}});
        let edge = start(sized(65_536)).await;
        let token = edge.alice();
        assert_eq!(edge.whoami(&token).await.status, 200);
        for slots in [131_072, 65_536] {
            configure(&edge, sized(slots)).await;
            for _ in 0..3 {
                assert_eq!(edge.whoami(&token).await.status, 200);
            }
            assert_eq!(edge.mas.calls(&token), 1 + again, "{local_entries}");
        }
        edge.assert_alive().await;
    }
}

/// Shared data is memory of the process, so the next one begins with an empty cache. Until the first has ended, each
/// keeps its own answers: the internal listeners have moved, and what MAS says of a session reaches the new one only.
#[tokio::test]
async fn a_hot_restart_begins_with_an_empty_cache_and_the_old_process_hears_nothing() {
    let roles = |builder: Builder| {
        builder
            .internal_listener(
                "provisioning",
                plugin(json!({"role": "provisioning"})),
                "homeserver",
            )
            .option("--drain-time-s", "3600")
            .option("--parent-shutdown-time-s", "7200")
            .bootstrap(route_to_mas)
    };
    let edge = Edge::start_with(json!({}), Options::default(), |builder| {
        roles(builder).replaceable()
    })
    .await;
    let token = edge.alice();
    let whoami = Request::get(WHOAMI).bearer(&token);
    let mut old = Connection::open(edge.envoy.addr()).await;
    assert_eq!(old.request(&whoami).await.status, 200);
    let requests = edge.envoy.stats().await;
    let requests = requests.sum("matrix_edge_auth_requests_total", &[]);
    assert_eq!(requests, 1.0);

    let builder = Envoy::builder()
        .plugin(plugin(json!({})))
        .homeserver(edge.homeserver.addr())
        .mas(edge.mas.addr());
    let next = roles(builder).taking_over_from(&edge.envoy).start().await;
    assert_eq!(next.addr(), edge.envoy.addr());
    // The old one takes no new connection, once it has stopped to listen.
    within_limit("a connection to the next process", async {
        while edge.mas.calls(&token) < 2 {
            assert_eq!(http::send(next.addr(), &whoami).await.status, 200);
        }
    })
    .await;
    let mut new = Connection::open(next.addr()).await;
    assert_eq!(new.request(&whoami).await.status, 200);
    assert_eq!(old.request(&whoami).await.status, 200);
    assert_eq!(edge.mas.calls(&token), 2);

    edge.mas.set_homeserver(next.listener("provisioning"));
    edge.mas.lock_user("alice");
    edge.mas.wait_until_provisioned().await;
    assert_ends(&mut new, &token).await;
    tokio::time::sleep(SECOND).await;
    let response = old.request(&whoami).await;
    assert_eq!(response.status, 200, "{response:?}");
    // Envoy hands its counters on, so rates have no gap.
    let stats = next.stats().await;
    let handed_on = stats.sum("matrix_edge_auth_requests_total", &[]);
    assert!(
        handed_on > requests,
        "{}",
        stats.of("matrix_edge_auth_requests")
    );
}

/// The process before ends by itself, and takes what is still connected with it.
#[tokio::test]
async fn a_hot_restart_ends_the_old_process_in_time() {
    let timed = |builder: Builder| {
        builder
            .option("--drain-time-s", "1")
            .option("--parent-shutdown-time-s", "2")
    };
    let edge = Edge::start_with(json!({}), Options::default(), |builder| {
        timed(builder).replaceable()
    })
    .await;
    let token = edge.alice();
    let whoami = Request::get(WHOAMI).bearer(&token);
    let mut old = Connection::open(edge.envoy.addr()).await;
    assert_eq!(old.request(&whoami).await.status, 200);
    let builder = Envoy::builder()
        .plugin(plugin(json!({})))
        .homeserver(edge.homeserver.addr())
        .mas(edge.mas.addr());
    let next = timed(builder).taking_over_from(&edge.envoy).start().await;
    within_limit("the process before to end", async {
        while edge.envoy.is_alive() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    assert!(old.try_request(&whoami).await.is_none());
    for _ in 0..10 {
        assert_eq!(http::send(next.addr(), &whoami).await.status, 200);
    }
    assert_eq!(edge.mas.calls(&token), 2);
}

/// The first step after shadow mode that another filter can see: a header of one's own, and back.
#[tokio::test]
async fn an_identity_header_comes_and_goes_by_an_update() {
    let edge = start(without_headers()).await;
    let token = new_token("mct");
    edge.mas.insert(&token, Session::compat("alice", "PHONE"));
    let whoami = Request::get(WHOAMI)
        .bearer(&token)
        .header("X-Matrix-User-Id", "@admin:example.org");
    assert_eq!(identity(&edge.pass(whoami.clone()).await), NOBODY);
    configure(&edge, json!({})).await;
    let seen = edge.pass(whoami.clone()).await;
    assert_eq!(identity(&seen), [["@alice:example.org"], ["PHONE"]]);
    configure(&edge, without_headers()).await;
    assert_eq!(identity(&edge.pass(whoami).await), NOBODY);
    assert_eq!(edge.mas.calls(&token), 1);
}
