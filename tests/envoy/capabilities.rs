//! Least power: Envoy gives the module the functions that it names, and no others.
//!
//! The harness puts the shipped restriction into every listener with the module, so all other tests here show that
//! it leaves the module what it needs.

use std::process::Command;

use serde_json::json;
use stand_in::mas::Options;

use super::edge::{Edge, assert_no_verdict};
use crate::support::envoy::{bootstrap, module, repository};

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

/// The restriction is in force: a function that is taken from the list is denied.
#[tokio::test]
async fn a_module_that_may_not_call_asks_nobody() {
    let edge = Edge::start_with(json!({}), Options::default(), |builder| {
        builder.bootstrap(|config| {
            let plugin = bootstrap::plugin(bootstrap::http_manager(config));
            let taken = plugin[bootstrap::CAPABILITIES]["allowed_capabilities"]
                .as_object_mut()
                .and_then(|allowed| allowed.remove("proxy_http_call"));
            assert_eq!(taken, Some(json!({})));
        })
    })
    .await;
    assert_no_verdict(&edge.whoami(&edge.alice()).await);
    assert_eq!(edge.mas.total_calls(), 0);
}
