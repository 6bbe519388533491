//! `tls.yaml` and the two files that it names: the members speak to each other in TLS, and with nobody else.

use std::{fs, net::SocketAddr, path::Path, process::Command, time::Duration};

use serde_json::Value;
use stand_in::mas::Session;
use tempfile::TempDir;

use super::{
    super::{edge::WHOAMI, sessions::logout, tls},
    ask_all, sessions,
    site::{Fleet, MEMBERS},
};
use crate::support::{
    envoy::{bootstrap, read, yaml},
    http::{self, Request, within_limit},
    product_time::Moment,
};

/// The folder of the certificates, in the place of `/etc/envoy`.
fn certificates() -> TempDir {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let folder = dir.path().join("tls");
    fs::create_dir(&folder).expect("a new directory");
    tls::make_certificate(&folder, &["edge-1"]);
    // It has signed itself, so it is its own authority.
    for (from, to) in [
        ("fullchain.pem", "authority.pem"),
        ("fullchain.pem", "member.pem"),
        ("privkey.pem", "member.key"),
    ] {
        fs::copy(folder.join(from), folder.join(to)).expect("a file of our own");
    }
    for name in ["certificate.yaml", "authority.yaml"] {
        let text = in_place(&format!("envoy/fleet/{name}"), dir.path());
        fs::write(dir.path().join(name), text).expect("a file of our own");
    }
    dir
}

fn in_place(path: &str, dir: &Path) -> String {
    read(path).replace("/etc/envoy", &dir.display().to_string())
}

/// Puts the parts where the file says.
fn apply(config: &mut Value, parts: &Value) {
    let insert = |into: &mut Value, part: &Value| {
        let (Some(into), Some(part)) = (into.as_object_mut(), part.as_object()) else {
            panic!("a part of an object: {part}");
        };
        into.extend(part.clone());
    };
    for listener in bootstrap::listeners(config) {
        if ["tier", "ends"].contains(&listener["name"].as_str().unwrap_or_default()) {
            insert(&mut listener["filter_chains"][0], &parts["of_listeners"]);
        }
    }
    for cluster in bootstrap::clusters(config) {
        let name = cluster["name"].as_str().unwrap_or_default();
        let is_meant = |of: &&str| name.starts_with(of);
        if ["introspection-tier", "member-", "revocations-"]
            .iter()
            .any(is_meant)
        {
            insert(cluster, &parts["of_clusters"]);
        }
    }
}

/// What curl says of `/live` of a listener.
async fn look(addr: SocketAddr, scheme: &str, options: &[String]) -> String {
    let mut curl = Command::new("curl");
    curl.args([
        "-sk",
        "--max-time",
        "10",
        "-o",
        "/dev/null",
        "-w",
        "%{http_code}",
    ])
    .args(options)
    .arg(format!("{scheme}://{addr}/live"));
    let looked = tokio::task::spawn_blocking(move || curl.output()).await;
    let looked = looked.expect("no panic").expect("curl is installed");
    String::from_utf8(looked.stdout).expect("text")
}

#[tokio::test]
async fn members_with_certificates_ask_and_hear_each_other_and_nobody_else() {
    let dir = certificates();
    let parts = yaml(&in_place("envoy/fleet/tls.yaml", dir.path()));
    let fleet = Fleet::start_with(move |config| apply(config, &parts), None).await;
    let tokens = sessions(&fleet, 60);
    for member in 0..MEMBERS {
        ask_all(&mut fleet.connections(member).await[0], &tokens).await;
    }
    assert_eq!(fleet.mas.total_calls(), 60);
    assert!(fleet.introspections().await.iter().all(|share| *share > 0));

    let token = fleet.session(Session::compat("alice", "PHONE"));
    let whoami = Request::get(WHOAMI).bearer(&token);
    for member in 0..MEMBERS {
        assert_eq!(
            http::send(fleet.member(member).addr(), &whoami)
                .await
                .status,
            200
        );
    }
    let ended = Moment::now();
    let logout = http::send(fleet.member(0).addr(), &logout("v3", &token)).await;
    assert_eq!(logout.status, 200);
    within_limit("all members to hear", async {
        for member in 0..MEMBERS {
            while http::send(fleet.member(member).addr(), &whoami)
                .await
                .status
                == 200
            {}
        }
    })
    .await;
    // Unheard, it would hold for 30 s and longer. `ends.rs` measures.
    assert!(
        ended.elapsed() < Duration::from_secs(10),
        "{:?}",
        ended.elapsed()
    );

    let pair = |file: &str| dir.path().join("tls").join(file).display().to_string();
    let member = [
        "--cert".to_owned(),
        pair("member.pem"),
        "--key".to_owned(),
        pair("member.key"),
    ];
    for listener in ["tier", "ends"] {
        let addr = SocketAddr::from(([127, 0, 0, 1], fleet.member(1).listener(listener).port()));
        assert_eq!(look(addr, "http", &[]).await, "000", "{listener}");
        assert_eq!(look(addr, "https", &[]).await, "000", "{listener}");
        assert_ne!(look(addr, "https", &member).await, "000", "{listener}");
    }
    fleet.assert_untroubled();
}
