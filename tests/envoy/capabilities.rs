//! Least power: Envoy gives the module the functions that it names, and no others.
//!
//! The harness puts the shipped restriction into every listener with the module, so all other tests here show that
//! it leaves the module what it needs.

use std::process::Command;

use serde_json::{Value, json};
use stand_in::mas::Options;

use super::edge::{Edge, WHOAMI, assert_no_verdict, closed_port, identity, plugin};
use crate::support::{
    envoy::{Envoy, bootstrap, module, repository},
    http::{Request, within_limit},
};

/// The script reads the module's import and export sections.
#[test]
fn the_shipped_restrictions_are_what_the_module_imports_and_exports() {
    let check = Command::new("python3")
        .args(["-B", "scripts/lib/capabilities.py", "--check"])
        .current_dir(repository())
        .env("MATRIX_EDGE_AUTH_WASM", module())
        .output()
        .expect("Python, which setup needs as well");
    let said = String::from_utf8_lossy(&check.stdout);
    assert!(check.status.success(), "{said}{check:?}");
}

/// The module may not call this function.
fn without(function: &'static str) -> impl FnOnce(&mut Value) {
    move |config| {
        let plugin = bootstrap::plugin(bootstrap::http_manager(config));
        let taken = plugin[bootstrap::CAPABILITIES]["allowed_capabilities"]
            .as_object_mut()
            .and_then(|allowed| allowed.remove(function));
        assert_eq!(taken, Some(json!({})), "{function}");
    }
}

/// Starts one whose module may not call this function.
pub async fn start_without(function: &'static str) -> Edge {
    Edge::start_with(json!({}), Options::default(), |builder| {
        builder.bootstrap(without(function))
    })
    .await
}

/// The restriction is in force: a function that is taken from the list is denied.
#[tokio::test]
async fn a_module_that_may_not_call_asks_nobody() {
    let edge = start_without("proxy_http_call").await;
    assert_no_verdict(&edge.whoami(&edge.alice()).await);
    assert_eq!(edge.mas.total_calls(), 0);
}

/// What only spares time and calls may be denied, and the first request of a worker is decided as well.
#[tokio::test]
async fn without_queues_or_shared_data_requests_are_decided() {
    for function in [
        "proxy_register_shared_queue",
        "proxy_set_shared_data",
        "proxy_get_shared_data",
    ] {
        let edge = start_without(function).await;
        for _ in 0..2 {
            let request = Request::get(WHOAMI).bearer(&edge.alice());
            let passed = within_limit(function, edge.pass(request)).await;
            assert_eq!(identity(&passed), [["@alice:example.org"], ["PHONE"]]);
        }
    }
}

/// Nothing would ever be over, or nothing that waits, or all could tell which tokens fall together.
#[tokio::test]
async fn without_a_clock_timers_or_random_numbers_no_configuration_is_taken() {
    for function in [
        "clock_time_get",
        "random_get",
        "proxy_set_tick_period_milliseconds",
    ] {
        let (_nobody, nowhere) = closed_port();
        let envoy = Envoy::builder().plugin(plugin(json!({})));
        let envoy = envoy.homeserver(nowhere).mas(nowhere);
        let started = envoy.bootstrap(without(function)).try_start().await;
        let refused = started.err().expect("a refusal").log;
        let lines = refused.lines();
        let mut refusals = lines.filter(|line| line.contains("configuration refused:"));
        assert!(refusals.any(|line| line.contains(function)), "{refused}");
    }
}
