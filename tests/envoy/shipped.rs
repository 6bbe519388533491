//! `envoy/local/envoy.yaml` as it is shipped, but for its ports: all three roles, with two workers.

use serde_json::{Value, json};
use stand_in::{
    homeserver::Homeserver,
    mas::{DEFAULT_SECRET, Mas, Options, Session},
};

use super::{
    edge::{WHOAMI, assert_not_active, identity, new_token, values},
    introspection_role::{assert_active, introspect},
};
use crate::support::{
    envoy::{Envoy, bootstrap, module, shipped},
    http::{self, Request},
};

pub async fn start(mas: &Mas, homeserver: &Homeserver) -> Envoy {
    let (mas, homeserver) = (mas.addr(), homeserver.addr());
    Envoy::builder()
        .concurrency(2)
        .env("MAS_SECRET", DEFAULT_SECRET)
        .bootstrap(move |config| {
            *config = shipped();
            // The harness brings the same ones.
            config["stats_config"].take();
            config["admin"]["address"]["socket_address"]["port_value"] = 0.into();
            for listener in bootstrap::listeners(config) {
                bootstrap::move_listener(listener);
                let manager = bootstrap::http_manager_of(listener);
                let vm = &mut bootstrap::plugin(manager)["vm_config"];
                vm["code"]["local"]["filename"] = json!(module());
            }
            for (cluster, addr) in [
                ("mas", mas),
                ("mas-for-synapse", mas),
                ("mas-introspection", mas),
                ("homeserver", homeserver),
                ("homeserver-media", homeserver),
            ] {
                bootstrap::move_cluster(bootstrap::cluster(config, cluster), addr);
            }
        })
        .start()
        .await
}

/// The line of the access log for a path that is asked for once.
async fn logged(envoy: &Envoy, path: &str) -> Value {
    let line = envoy.wait_for_log(&format!("\"{path}\"")).await;
    serde_json::from_str(&line).unwrap_or_else(|_| panic!("one line is one object: {line}"))
}

#[tokio::test]
async fn the_shipped_configuration_serves_all_three_roles() {
    let mas = Mas::start(Options::default()).await.expect("a free port");
    let homeserver = Homeserver::start_local().await.expect("a free port");
    let envoy = start(&mas, &homeserver).await;
    mas.set_homeserver(envoy.listener("provisioning"));
    let token = new_token("mat");
    mas.insert(&token, Session::access("alice", "PHONE"));
    let whoami = Request::get(WHOAMI)
        .header("X-Forwarded-For", "192.0.2.1")
        .bearer(&token);

    // The gateway asks once, and the introspection role answers out of the same cache.
    assert_eq!(
        http::send(envoy.listener("matrix"), &whoami).await.status,
        200
    );
    assert_eq!(
        identity(&homeserver.requests()[0]),
        [["@alice:example.org"], ["PHONE"]]
    );
    // Synapse believes the first of these.
    assert_eq!(
        values(&homeserver.requests()[0], "x-forwarded-for"),
        ["127.0.0.1"]
    );
    let answer = http::send(envoy.listener("introspection"), &introspect(&token)).await;
    assert_active(&answer, "alice");
    assert_eq!(mas.total_calls(), 1);
    let line = logged(&envoy, "/oauth2/introspect").await;
    assert_eq!(line["listener"], "introspection");
    assert_eq!(line["details"], "matrix_edge_auth_answered");

    // Clients reach MAS by its name, and nothing speaks for them there.
    let from_outside = introspect(&token)
        .header("Host", "auth.example.org")
        .header("Authorization", "Bearer x");
    assert_eq!(
        http::send(envoy.listener("matrix"), &from_outside)
            .await
            .status,
        401
    );

    // What MAS says of a user ends the answer.
    mas.lock_user("alice");
    while mas.total_calls() < 3 {
        let response = http::send(envoy.listener("matrix"), &whoami).await;
        assert!([200, 401].contains(&response.status), "{response:?}");
    }
    assert_not_active(&http::send(envoy.listener("matrix"), &whoami).await);
    assert!(!envoy.log().contains("Envoy refused"));
}

#[tokio::test]
async fn nobody_can_forge_a_line_of_the_shipped_access_log() {
    let mas = Mas::start(Options::default()).await.expect("a free port");
    let homeserver = Homeserver::start_local().await.expect("a free port");
    let envoy = start(&mas, &homeserver).await;
    let token = new_token("mct");
    let device = "X\",\"user\":\"@admin:example.org\"}\n{\"forged\":\"line\"}\u{2028}";
    mas.insert(&token, Session::compat("mallory", device));
    let request = |path: &str| Request::get(format!("{path}?access_token={token}"));
    let response = http::send(envoy.listener("matrix"), &request("/_matrix/client/v3/a")).await;
    assert_eq!(response.status, 200);
    let line = logged(&envoy, "/_matrix/client/v3/a").await;
    assert_eq!(line["user"], "@mallory:example.org");
    assert_eq!(
        line["device"],
        "X%22%2C%22user%22:%22@admin:example.org%22}%0A{%22forged%22:%22line%22}%E2%80%A8"
    );
    assert_eq!(line["details"], "via_upstream");

    // Nor by the path; and no token is in it.
    let forged = "/_matrix/client/v3/b%22%0A{}";
    assert_eq!(
        http::send(envoy.listener("matrix"), &request(forged))
            .await
            .status,
        200
    );
    assert_eq!(logged(&envoy, forged).await["status"], 200);

    // And why the edge refused.
    let refused = Request::get("/_matrix/client/v3/sync");
    assert_eq!(
        http::send(envoy.listener("matrix"), &refused).await.status,
        401
    );
    let line = logged(&envoy, "/_matrix/client/v3/sync").await;
    assert_eq!(line["details"], "matrix_edge_auth_missing_token");
    assert_eq!(
        (&line["user"], &line["device"]),
        (&Value::Null, &Value::Null)
    );
    assert!(!envoy.log().contains(&token));
}
