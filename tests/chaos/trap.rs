//! The switch that makes a VM fail is in no module but the one that was built for these tests; and what becomes of the
//! requests that a VM holds when it fails.

use std::time::Duration;

use serde_json::json;
use stand_in::{
    homeserver::Homeserver,
    mas::{Mas, Options, Session, token},
};
use tokio::time::Instant;

use super::{
    faults::{Configured, TRAP},
    rig::{FAILED, configurations, trap_module},
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
            let manager = bootstrap::http_manager(config);
            manager["stream_idle_timeout"] = "2s".into();
            let local = &mut bootstrap::plugin(manager)["vm_config"]["code"]["local"];
            local["filename"] = trap_module().to_string_lossy().into();
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

    let ended = held.await.expect("an answer");
    hold.release();
    assert_eq!((ended.status, ended.text()), (503, ""));
    assert!(begun.elapsed() >= IDLE, "{:?}", begun.elapsed());
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
        let [mut gateway, ..] = configurations(&Configured::new(stand_in::mas::DEFAULT_SECRET));
        gateway["introspection"]["cluster"] = "mas".into();
        gateway["introspection"]["timeout"] = "1m".into();
        let builder = Envoy::builder()
            .plugin(gateway)
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

fn whoami(user: &str) -> Request {
    Request::get(WHOAMI).bearer(&token("mat", user))
}
