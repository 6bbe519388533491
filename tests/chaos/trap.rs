//! The switch that makes a VM fail is in no module but the one that was built for these tests; and what becomes of the
//! requests that a VM holds when it fails.

use std::time::Duration;

use serde_json::{Value, json};
use stand_in::{
    homeserver::Homeserver,
    mas::{DEFAULT_SECRET, Mas, Options, Session, token},
};
use tokio::{task::JoinSet, time::Instant};

use super::{
    faults::{Configured, TRAP},
    phone::{Ending, Leaving, Parts, Phone},
    rig::{ANNOUNCED, FAILED, configurations, trap_module},
};
use crate::support::{
    envoy::{Builder, Envoy, bootstrap, module},
    http::{self, Request},
};

const WHOAMI: &str = "/_matrix/client/v3/account/whoami";

#[test]
fn only_the_module_of_these_tests_names_the_switch() {
    let names_it = |path| {
        let bytes = std::fs::read(path).expect("a module that can be read");
        bytes
            .windows(TRAP.len())
            .any(|window| window == TRAP.as_bytes())
    };
    assert!(
        names_it(trap_module()),
        "or the test would find nothing anywhere"
    );
    assert!(!names_it(module()));
}

#[tokio::test]
async fn the_shipped_module_does_not_fail_when_it_is_asked_to() {
    let Stage {
        mas,
        envoy,
        homeserver,
    } = Stage::set(|builder| builder).await;
    mas.insert(&token("mat", "alice"), Session::access("alice", "PHONE"));
    for when in ["head", "answer"] {
        let asking = whoami("alice").header(TRAP, when);
        assert_eq!(http::send(envoy.addr(), &asking).await.status, 200);
    }
    assert_eq!((homeserver.count(), mas.total_calls()), (2, 1));
    assert!(!envoy.log().contains(FAILED));
}

/// Envoy leaves them alone until `stream_idle_timeout`. Its 504 of then passes the failed filter, which makes a 503 of it.
/// New ones get that at once, until the VM is made again. None hangs, and none passes.
#[tokio::test]
async fn what_a_vm_held_when_it_failed_ends_with_the_idle_timeout() {
    const IDLE: Duration = Duration::from_secs(2);
    let Stage {
        mas,
        envoy,
        homeserver,
    } = Stage::set(|builder| {
        builder.bootstrap(|config| {
            trap_module_in(config);
            bootstrap::http_manager(config)["stream_idle_timeout"] = "2s".into();
        })
    })
    .await;
    for user in ["alice", "bob"] {
        mas.insert(&token("mat", user), Session::access(user, "PHONE"));
    }
    let hold = mas.hold();
    let begun = Instant::now();
    let held = tokio::spawn({
        let addr = envoy.addr();
        async move { http::send(addr, &whoami("alice")).await }
    });
    mas.wait_for_calls(1).await;

    let trap = Request::get("/_matrix/client/versions").header(TRAP, "head");
    let failing = http::send(envoy.addr(), &trap).await;
    assert_eq!((failing.status, failing.text()), (503, ""));
    envoy.wait_for_log(FAILED).await;
    // A message may quote what it is about.
    let log = envoy.log();
    assert!(log.contains(ANNOUNCED), "{log}");
    assert!(!log.contains("the token of a test"), "{log}");

    let ended = held.await.expect("an answer");
    hold.release();
    assert_eq!((ended.status, ended.text()), (503, ""));
    // Envoy's timers count from when its loop last read the clock, a few milliseconds ago.
    let waited = begun.elapsed() + Duration::from_millis(50);
    assert!(waited >= IDLE, "{waited:?}");
    assert_eq!(homeserver.count(), 0, "neither has passed");

    // By now the VM may be made again, which the next request does.
    let reloaded = http::within_limit("a new VM", async {
        loop {
            let response = http::send(envoy.addr(), &whoami("bob")).await;
            if response.status == 200 {
                break response;
            }
            assert_eq!((response.status, response.text()), (503, ""));
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    let user = &reloaded.json()["headers"]["x-matrix-user-id"];
    assert_eq!(*user, json!(["@bob:example.org"]));
}

/// The calls of a VM that fails are in none of the module's figures, and leave Envoy's own count of what is under way.
#[tokio::test]
async fn the_calls_of_a_vm_that_failed_stay_in_no_figure() {
    const CALLS: usize = 3;
    let Stage {
        mas,
        envoy,
        homeserver: _homeserver,
    } = Stage::set(|builder| {
        builder.bootstrap(|config| {
            trap_module_in(config);
            bootstrap::http_manager(config)["stream_idle_timeout"] = "2s".into();
        })
    })
    .await;
    let hold = mas.hold();
    let mut held = JoinSet::new();
    for user in 0..CALLS {
        let (addr, user) = (envoy.addr(), format!("user{user}"));
        held.spawn(async move { http::send(addr, &whoami(&user)).await });
    }
    mas.wait_for_calls(CALLS as u64).await;
    assert_eq!(envoy.stats_so_far().await.calls_under_way(), CALLS as f64);
    let trap = Request::get("/_matrix/client/versions").header(TRAP, "head");
    assert_eq!(http::send(envoy.addr(), &trap).await.status, 503);
    envoy.wait_for_log(FAILED).await;
    held.join_all().await;
    hold.release();

    mas.insert(&token("mat", "bob"), Session::access("bob", "PHONE"));
    http::within_limit("a new VM, and none of the old one's calls", async {
        while http::send(envoy.addr(), &whoami("bob")).await.status != 200
            || envoy.stats_so_far().await.calls_under_way() > 0.0
        {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    let stats = Request::get("/stats/prometheus");
    let stats = http::send(envoy.admin(), &stats).await;
    let types = stats.text().lines();
    let types = types.filter(|line| line.starts_with("# TYPE matrix_edge_auth_"));
    let types: Vec<_> = types.map(|line| line.rsplit(' ').next()).collect();
    assert!(types.contains(&Some("counter")) && types.contains(&Some("histogram")));
    assert!(!types.contains(&Some("gauge")), "{types:?}");
    let calls = "matrix_edge_auth_introspections_total";
    assert_eq!(envoy.stats().await.sum(calls, &[]), 1.0, "bob's");
}

/// Envoy delivers a hint to a thread and to the number of the root that has registered the queue. In the VM that comes
/// after one that has failed, a request can have that number.
#[tokio::test]
async fn a_hint_for_a_vm_that_has_failed_leaves_the_next_one_alive() {
    const BEFORE: usize = 12;
    const HELD: usize = 3 * BEFORE;
    let Stage {
        mas,
        envoy,
        homeserver,
    } = Stage::set(|builder| {
        builder
            .balanced()
            .bootstrap(trap_module_in)
            .dynamic_listeners()
            .option("--drain-time-s", "1")
    })
    .await;
    for name in ["bob", "carol"] {
        mas.insert(&token("mat", name), Session::access(name, "PHONE"));
    }
    let versions = || Parts::new("GET", "/_matrix/client/versions");

    // Contexts are numbered as they come: a root, some requests, and then the root of another configuration.
    let mut first = Phone::new(envoy.addr(), true);
    for _ in 0..BEFORE {
        assert_eq!(status(&mut first, versions()).await, 200);
    }
    envoy
        .update_listener(|listener| {
            let mut configuration = configuration();
            configuration["cache"]["ttl"] = "15s".into();
            bootstrap::configure(bootstrap::http_manager_of(listener), &configuration);
        })
        .await
        .expect("a good configuration");
    // The first root ends with the connections of its listener, and the second takes its seat.
    drop(first);
    let draining = "listener_manager.total_filter_chains_draining";
    envoy.wait_for_stat(draining, |left| left == 0).await;
    // In turn each to another worker.
    let mut failing = Phone::new(envoy.addr(), true);
    assert_eq!(status(&mut failing, versions()).await, 200);
    let mut telling = Phone::new(envoy.addr(), true);
    assert_eq!(status(&mut telling, as_user(WHOAMI, "carol")).await, 200);

    let trap = versions().header(TRAP, "head");
    assert_eq!(status(&mut failing, trap).await, 503);
    envoy.wait_for_log(FAILED).await;
    http::within_limit("a new VM", async {
        while status(&mut failing, versions()).await != 200 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    // What the next VM holds has all numbers up to that of the second root, and more.
    let calls = mas.total_calls();
    let hold = mas.hold();
    let mut held = JoinSet::new();
    for _ in 0..HELD {
        let mut phone = failing.fork();
        held.spawn(async move { status(&mut phone, as_user(WHOAMI, "bob")).await });
    }
    http::within_limit("a call", mas.wait_for_calls(calls + 1)).await;
    let joined = "wasmcustom.matrix_edge_auth_coalesced_requests_total";
    envoy
        .wait_for_stat(joined, |joined| joined == HELD as u64 - 1)
        .await;
    // A session that ends is told to all.
    let mut logout = as_user("/_matrix/client/v3/logout", "carol");
    logout.method = "POST";
    assert_eq!(status(&mut telling, logout).await, 200);
    assert_eq!(status(&mut telling, versions()).await, 200);

    hold.release();
    while let Some(status) = held.join_next().await {
        assert_eq!(status.expect("an answer"), 200);
    }
    assert_eq!(envoy.log().matches(FAILED).count(), 1, "see the log");
    drop(homeserver);
}

/// One worker with the gateway, between MAS and a homeserver.
struct Stage {
    mas: Mas,
    homeserver: Homeserver,
    envoy: Envoy,
}

impl Stage {
    async fn set(adapt: impl FnOnce(Builder) -> Builder) -> Self {
        let mas = Mas::start(Options::default()).await.expect("a free port");
        let homeserver = Homeserver::start_local().await.expect("a free port");
        let builder = Envoy::builder()
            .plugin(configuration())
            .homeserver(homeserver.addr())
            .mas(mas.addr());
        let envoy = adapt(builder).start().await;
        Self {
            mas,
            homeserver,
            envoy,
        }
    }
}

/// The gateway's, with the time that a held request needs here.
fn configuration() -> Value {
    let [mut gateway, ..] = configurations(&Configured::new(DEFAULT_SECRET));
    gateway["introspection"]["cluster"] = "mas".into();
    gateway["introspection"]["timeout"] = "1m".into();
    gateway
}

/// Takes the module that can be made to fail.
fn trap_module_in(config: &mut Value) {
    let plugin = bootstrap::plugin(bootstrap::http_manager(config));
    plugin["vm_config"]["code"]["local"]["filename"] = trap_module().to_string_lossy().into();
}

async fn status(phone: &mut Phone, request: Parts) -> u16 {
    match phone.send(request, Leaving::Never).await {
        Ending::Answered(status, _) => status,
        other => panic!("no answer: {other:?}"),
    }
}

fn as_user(path: &str, user: &str) -> Parts {
    Parts::new("GET", path).header("authorization", format!("Bearer {}", token("mat", user)))
}

fn whoami(user: &str) -> Request {
    Request::get(WHOAMI).bearer(&token("mat", user))
}
