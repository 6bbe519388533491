//! A failure of the VM under the configurations that Istio and Envoy Gateway make. Istio's WasmPlugin says
//! `failStrategy: FAIL_RELOAD`. Envoy Gateway has no such setting, so its README says to alert on it.

use std::time::Duration;

use serde_json::Value;
use stand_in::{
    homeserver::Homeserver,
    mas::{DEFAULT_SECRET, Mas, Options, Session, token},
};
use tempfile::TempDir;
use tokio::time::Instant;

use super::{
    faults::TRAP,
    rig::{FAILED, trap_module},
};
use crate::support::{
    envoy::Envoy,
    http::{self, Request, within_limit},
    mesh::{Upstreams, envoy_gateway, istio, manifests},
};

/// Longer than Envoy waits before it makes a VM anew.
const LONG: Duration = Duration::from_secs(4);

struct Stage {
    envoy: Envoy,
    listener: &'static str,
    _mas: Mas,
    _homeserver: Homeserver,
    _dir: TempDir,
}

impl Stage {
    async fn set(listener: &'static str, make: impl FnOnce(Upstreams, &TempDir) -> Value) -> Self {
        let mas = Mas::start(Options::default()).await.expect("a free port");
        mas.insert(&token("mat", "alice"), Session::access("alice", "PHONE"));
        let homeserver = Homeserver::start_local().await.expect("a free port");
        let dir = tempfile::tempdir().expect("a temporary directory");
        let upstreams = Upstreams {
            homeserver: homeserver.addr(),
            mas: mas.addr(),
            other: homeserver.addr(),
        };
        let mut made = make(upstreams, &dir);
        // The harness brings the same labels.
        made["stats_config"].take();
        let envoy = Envoy::builder()
            .env("MAS_SECRET", DEFAULT_SECRET)
            .bootstrap(move |config| *config = made)
            .start()
            .await;
        Self {
            envoy,
            listener,
            _mas: mas,
            _homeserver: homeserver,
            _dir: dir,
        }
    }

    async fn whoami(&self) -> u16 {
        let request =
            Request::get("/_matrix/client/v3/account/whoami").bearer(&token("mat", "alice"));
        http::send(self.envoy.listener(self.listener), &request)
            .await
            .status
    }

    /// Lets the VM fail.
    async fn fail(&self) {
        assert_eq!(self.whoami().await, 200);
        let request = Request::get("/_matrix/client/versions").header(TRAP, "head");
        let response = http::send(self.envoy.listener(self.listener), &request).await;
        assert_eq!(response.status, 503);
        self.envoy.wait_for_log(FAILED).await;
    }
}

fn files(folder: &str, names: &[&str]) -> Vec<Value> {
    names
        .iter()
        .flat_map(|name| manifests::file(&format!("envoy/{folder}/{name}.yaml")))
        .collect()
}

#[tokio::test]
async fn istio_makes_a_failed_vm_anew() {
    for resources in [
        files("istio", &["wasmplugin", "connection", "routes"]),
        files(
            "istio",
            &["envoyfilter", "connection", "routes", "internal"],
        ),
    ] {
        let stage = Stage::set("0.0.0.0_443", |upstreams, dir| {
            istio::configuration(
                &resources,
                |port| port,
                &trap_module(),
                upstreams,
                dir.path(),
            )
        })
        .await;
        stage.fail().await;
        within_limit("a new VM", async {
            loop {
                match stage.whoami().await {
                    200 => break,
                    status => assert_eq!(status, 503),
                }
            }
        })
        .await;
    }
}

#[tokio::test]
async fn under_envoy_gateway_a_failed_vm_stays_failed_and_nothing_passes() {
    let resources = files("envoy-gateway", &["gateway", "policies", "routes"]);
    let stage = Stage::set("matrix", |upstreams, _| {
        envoy_gateway::configuration(&resources, &trap_module(), upstreams)
    })
    .await;
    stage.fail().await;
    let begun = Instant::now();
    while begun.elapsed() < LONG {
        assert_eq!(stage.whoami().await, 503);
    }
    // What that page and docs/runbook.md say to alert on, and that no metric tells.
    stage
        .envoy
        .wait_for_log(r#""details":"wasm_fail_stream""#)
        .await;
    let stats = stage.envoy.stats_so_far().await;
    let reloads = stats.find("envoy_wasm_matrix_edge_auth_vm_reload", &[]);
    assert_eq!(reloads, Some(0.0));
}
