//! Headers by which Envoy is told what to do with a request, from a client: none changes what a shipped configuration does.
//!
//! At a listener with `use_remote_address` Envoy itself removes those that set timeouts, retries, statistics and traces, as long
//! as no address counts as internal. It leaves in those of its fault filter, and what it tells the next server.

use stand_in::{
    SeenRequest,
    homeserver::Homeserver,
    mas::{Mas, Options, Session},
};

use super::{
    deployed::Deployed,
    edge::{WHOAMI, identity, new_token},
    envoy_gateway, istio, kubernetes, production, shipped,
};
use crate::support::{
    envoy::Envoy,
    http::{self, Request, Response},
};

/// What Envoy removes, each with a value that would change something.
const REMOVED: [(&str, &str); 21] = [
    ("x-envoy-decorator-operation", "forged"),
    ("x-envoy-downstream-service-cluster", "forged"),
    ("x-envoy-downstream-service-node", "forged"),
    ("x-envoy-expected-rq-timeout-ms", "1"),
    ("x-envoy-force-trace", "1"),
    ("x-envoy-hedge-on-per-try-timeout", "true"),
    ("x-envoy-internal", "true"),
    ("x-envoy-ip-tags", "forged"),
    ("x-envoy-max-retries", "9"),
    ("x-envoy-original-host", "forged"),
    ("x-envoy-original-path", "/forged"),
    ("x-envoy-original-url", "/forged"),
    ("x-envoy-retriable-header-names", "x-matrix-none"),
    ("x-envoy-retriable-status-codes", "503"),
    ("x-envoy-retry-grpc-on", "internal"),
    ("x-envoy-retry-on", "5xx,retriable-status-codes"),
    ("x-envoy-upstream-alt-stat-name", "named_by_a_client"),
    ("x-envoy-upstream-rq-per-try-timeout-ms", "1"),
    ("x-envoy-upstream-rq-timeout-alt-response", "1"),
    ("x-envoy-upstream-rq-timeout-ms", "1"),
    // Envoy 1.37 obeys it, and so a client can end its own request early, as it can by hanging up.
    ("x-envoy-upstream-stream-duration-ms", "600000"),
];

/// What Envoy leaves in, and only a fault filter obeys. A request that was delayed by these would be too late for its test.
const FAULTS: [(&str, &str); 7] = [
    ("x-envoy-fault-abort-grpc-request", "14"),
    ("x-envoy-fault-abort-request", "503"),
    ("x-envoy-fault-abort-request-percentage", "100"),
    ("x-envoy-fault-delay-request", "600000"),
    ("x-envoy-fault-delay-request-percentage", "0"),
    ("x-envoy-fault-throughput-response", "1"),
    ("x-envoy-fault-throughput-response-percentage", "100"),
];

/// The request with all of these.
pub fn commanding(request: Request) -> Request {
    let all = REMOVED.into_iter().chain(FAULTS);
    all.fold(request, |request, (name, value)| {
        request.header(name, value)
    })
}

/// A request of alice's with all of these.
fn of_alice(mas: &Mas) -> Request {
    let token = new_token("mat");
    mas.insert(&token, Session::access("alice", "PHONE"));
    let whoami = Request::get(WHOAMI).header("Host", production::MATRIX);
    commanding(whoami.bearer(&token))
}

/// Checks that a request with these headers passes as one without, and that one which the homeserver fails is not sent again.
async fn assert_changes_nothing(
    mas: &Mas,
    homeserver: &Homeserver,
    envoy: &Envoy,
    send: impl AsyncFn(&Request) -> Response,
) {
    let seen = || -> Vec<SeenRequest> {
        let mut seen = homeserver.requests();
        seen.retain(|seen| seen.target == WHOAMI);
        seen
    };
    let response = send(&of_alice(mas)).await;
    assert_eq!(response.status, 200, "{response:?}");
    let passed = seen();
    assert_eq!(passed.len(), 1);
    assert_eq!(identity(&passed[0])[0], ["@alice:example.org"]);
    for (name, _) in REMOVED {
        assert_eq!(passed[0].header(name), None, "{name}");
    }
    homeserver.respond(WHOAMI, 503, "{}");
    let response = send(&of_alice(mas)).await;
    assert_eq!(response.status, 503, "{response:?}");
    assert_eq!(seen().len(), 2, "sent once each");
    let stats = http::send(envoy.admin(), &Request::get("/stats")).await;
    assert!(
        !stats.text().contains("named_by_a_client"),
        "a statistic of a client's"
    );
}

#[tokio::test]
async fn none_changes_what_production_does() {
    let site = production::Site::start().await;
    let homeserver = &site.upstreams["synapse-client-reader"];
    assert_changes_nothing(&site.mas, homeserver, &site.envoy, async |request| {
        site.send("gateway", request).await
    })
    .await;
}

#[tokio::test]
async fn none_changes_what_the_local_file_does() {
    let mas = Mas::start(Options::default()).await.expect("a free port");
    let homeserver = Homeserver::start_local().await.expect("a free port");
    let envoy = shipped::start(&mas, &homeserver).await;
    assert_changes_nothing(&mas, &homeserver, &envoy, async |request| {
        http::send(envoy.listener("matrix"), request).await
    })
    .await;
}

/// The same for a folder whose gateway is this listener.
async fn assert_changes_nothing_at(deployed: &Deployed, listener: &str) {
    let (mas, homeserver) = (&deployed.mas, &deployed.homeserver);
    assert_changes_nothing(mas, homeserver, &deployed.envoy, async |request| {
        deployed.send(listener, request).await
    })
    .await;
}

#[tokio::test]
async fn none_changes_what_kubernetes_does() {
    assert_changes_nothing_at(&kubernetes::start().await, "enforce").await;
}

/// Its gateways have the fault filter, too.
#[tokio::test]
async fn none_changes_what_istio_does() {
    let deployed = istio::start(istio::enforcing()).await;
    assert_changes_nothing_at(&deployed, istio::GATEWAY).await;
}

#[tokio::test]
async fn none_changes_what_envoy_gateway_does() {
    let deployed = envoy_gateway::start(&envoy_gateway::enforcing()).await;
    assert_changes_nothing_at(&deployed, envoy_gateway::MATRIX).await;
}
