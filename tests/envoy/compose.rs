//! `envoy/compose/`: its Envoy as it is shipped, but for its addresses, and whether its files agree with each other.
//! `tests/synapse/compose.rs` gives its Synapse configuration to a Synapse, `tests/manifests` the whole to docker-compose.

use serde_json::{Value, json};
use stand_in::mas::{DEFAULT_SECRET, Session};

use super::{
    deployed::{Deployed, PATHS, REDUNDANT_PATHS},
    edge::{WHOAMI, assert_not_active, new_token},
    introspection_role::{assert_active, introspect},
};
use crate::support::{
    envoy::module,
    http::Request,
    mesh::{self, elements, manifests, text},
};

pub const GATEWAY: &str = "gateway";

fn envoy() -> Value {
    manifests::document("envoy/compose/envoy.yaml")
}

/// All as in the containers, where the secret that Envoy presents to MAS is in a file.
pub async fn start() -> Deployed {
    let mut deployed = Deployed::start(|upstreams, dir| {
        let bearer = dir.join("bearer");
        std::fs::write(&bearer, format!("Bearer {DEFAULT_SECRET}")).expect("a directory");
        let mut config = envoy();
        mesh::on_loopback(&mut config, upstreams);
        let secret = &mut config["static_resources"]["secrets"][0]["generic_secret"]["secret"];
        assert_eq!(*secret, json!({"filename": "/secrets/bearer"}));
        secret["filename"] = json!(bearer);
        for listener in mesh::each(&mut config["static_resources"]["listeners"]) {
            let manager = &mut listener["filter_chains"][0]["filters"][0]["typed_config"];
            let plugin = &mut manager["http_filters"][0]["typed_config"]["config"];
            plugin["vm_config"]["code"]["local"]["filename"] = json!(module());
        }
        config
    })
    .await;
    deployed.server_name = "example.localhost";
    deployed
}

#[tokio::test]
async fn the_gateway_asks_with_the_secret_that_envoy_adds() {
    let deployed = start().await;
    deployed.assert_annotates(GATEWAY).await;
    deployed.assert_enforces(GATEWAY).await;
    deployed.assert_logs(GATEWAY).await;
    deployed.assert_keeps(GATEWAY, &PATHS).await;
    deployed.assert_keeps(GATEWAY, &REDUNDANT_PATHS).await;
    deployed.assert_login_is_of_mas(GATEWAY).await;
    deployed.assert_waits_for_whole_requests(GATEWAY).await;
    deployed.assert_answers_as_synapse(GATEWAY).await;
    deployed
        .assert_holds_bodies(GATEWAY, ["homeserver", "homeserver-media"])
        .await;
    deployed.assert_untroubled();
}

/// MAS is asked by a client for itself: nothing speaks for it.
#[tokio::test]
async fn nobody_outside_introspects() {
    let deployed = start().await;
    let question = introspect(&deployed.alice())
        .header("Host", "auth.localhost:10000")
        .header("Authorization", "Bearer x");
    assert_eq!(deployed.send(GATEWAY, &question).await.status, 401);
}

/// The module knows no secret. So it answers Synapse out of the cache once MAS has answered Synapse, and believes MAS once
/// Synapse has.
#[tokio::test]
async fn the_internal_roles_answer_and_end() {
    let deployed = start().await;
    deployed
        .mas
        .set_homeserver(deployed.envoy.listener("provisioning"));
    let token = new_token("mat");
    deployed
        .mas
        .insert(&token, Session::access("carol", "PHONE"));
    let whoami = Request::get(WHOAMI).bearer(&token);
    deployed.pass(GATEWAY, &whoami).await;
    // Each worker believes Synapse once it has seen MAS answer it.
    loop {
        let calls = deployed.mas.total_calls();
        let answer = deployed.send("introspection", &introspect(&token)).await;
        assert_active(&answer, "carol");
        if deployed.mas.total_calls() == calls {
            break;
        }
    }
    deployed.mas.lock_user("carol");
    while deployed.send(GATEWAY, &whoami).await.status == 200 {}
    assert_not_active(&deployed.send(GATEWAY, &whoami).await);
    let stats = deployed.envoy.stats().await;
    assert!(stats.sum("matrix_edge_auth_invalidations_total", &[]) >= 1.0);
    deployed.assert_untroubled();
}

/// A service that another names must be there, on a network that both are on, with the port that it listens on.
#[test]
fn the_files_agree() {
    let compose = manifests::document("envoy/compose/compose.yaml");
    let (mas, synapse) = (
        manifests::document("envoy/compose/mas.yaml"),
        manifests::document("envoy/compose/homeserver.yaml"),
    );
    let config = envoy();
    let listeners: Vec<(&str, String)> = elements(&config["static_resources"]["listeners"])
        .iter()
        .map(|listener| {
            let port = &listener["address"]["socket_address"]["port_value"];
            (text(&listener["name"]), port.to_string())
        })
        .collect();
    let port = |name: &str| {
        let found = listeners.iter().find(|(listener, _)| *listener == name);
        found.map(|(_, port)| port.clone()).expect("a listener")
    };
    let (asked, told) = (
        &synapse["matrix_authentication_service"]["endpoint"],
        &mas["matrix"]["endpoint"],
    );
    assert_eq!(*asked, format!("http://envoy:{}/", port("introspection")));
    assert_eq!(*told, format!("http://envoy:{}/", port("provisioning")));
    let published = format!("127.0.0.1:{0}:{0}", port(GATEWAY));
    assert_eq!(compose["services"]["envoy"]["ports"], json!([published]));

    for cluster in elements(&config["static_resources"]["clusters"]) {
        let address =
            &cluster["load_assignment"]["endpoints"][0]["lb_endpoints"][0]["endpoint"]["address"];
        let address = &address["socket_address"];
        let listens = match text(&address["address"]) {
            "synapse" => synapse["listeners"][0]["port"].to_string(),
            "mas" => text(&mas["http"]["listeners"][0]["binds"][0]["address"])
                .trim_start_matches("[::]:")
                .to_owned(),
            other => panic!("there is no service {other}"),
        };
        assert_eq!(address["port_value"].to_string(), listens);
    }
    for (service, networks) in [
        ("envoy", json!(["matrix", "public"])),
        ("mas", json!(["matrix", "database"])),
        ("synapse", json!(["matrix", "database"])),
        ("postgres", json!(["database"])),
    ] {
        assert_eq!(compose["services"][service]["networks"], networks);
        let is_published = !compose["services"][service]["ports"].is_null();
        assert_eq!(is_published, service == "envoy");
    }
    for network in ["matrix", "database"] {
        assert_eq!(compose["networks"][network]["internal"], true);
    }

    // One server name, one secret, one host of MAS.
    assert_eq!(mas["matrix"]["homeserver"], synapse["server_name"]);
    assert_eq!(
        mas["matrix"]["secret_file"],
        synapse["matrix_authentication_service"]["secret_path"]
    );
    for listener in elements(&config["static_resources"]["listeners"]) {
        let manager = &listener["filter_chains"][0]["filters"][0]["typed_config"];
        let plugin =
            &manager["http_filters"][0]["typed_config"]["config"]["configuration"]["value"];
        let name = &plugin["server_name"];
        assert!(name.is_null() || *name == synapse["server_name"]);
        let host = text(&plugin["introspection"]["authority"]);
        let public = text(&mas["http"]["public_base"]);
        assert_eq!(public, format!("http://{host}:{}/", port(GATEWAY)));
    }
}

#[test]
fn the_labels_are_those_of_the_project() {
    let shipped = manifests::document("envoy/stats_tags.yaml");
    assert_eq!(envoy()["stats_config"], shipped["stats_config"]);
}
