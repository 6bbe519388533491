//! `envoy/fleet/`: three Envoys of two workers each, which ask MAS together, and tell each other what ends.

mod ends;
mod restart;
mod site;
mod tls;

use std::{net::SocketAddr, time::Duration};

use serde_json::Value;
use stand_in::mas::Session;
use tokio::{
    io::AsyncReadExt,
    net::TcpSocket,
    task::JoinSet,
    time::{Instant, sleep_until},
};

use self::site::{Fleet, MEMBERS};
use super::{
    deployed::set_everywhere,
    edge::{WHOAMI, assert_is_matrix_error, assert_not_active, assert_too_large, new_token},
    introspection_role::{assert_active, introspect},
    workers::ask_until,
};
use crate::support::{
    envoy::bootstrap,
    http::{self, Connection, Request, within_limit},
    switch::Switch,
};

/// Workers of each member.
const WORKERS: usize = 2;

/// An OAuth 2.0 client that authenticates in the form.
const CLIENT: (&str, &str) = ("0000000000000000000000POST", "post-client-secret");

/// Asks who has each of these tokens, which are all active.
async fn ask_all(connection: &mut Connection, tokens: &[String]) {
    for token in tokens {
        let response = connection
            .request(&Request::get(WHOAMI).bearer(token))
            .await;
        assert_eq!(response.status, 200, "{response:?}");
    }
}

fn sessions(fleet: &Fleet, count: usize) -> Vec<String> {
    let session = |number| fleet.session(Session::access(&format!("user{number}"), "PHONE"));
    (0..count).map(session).collect()
}

#[tokio::test]
async fn a_thousand_tokens_on_three_members_are_a_thousand_introspections() {
    let fleet = Fleet::start().await;
    let tokens = sessions(&fleet, 1_000);
    let begun = Instant::now();
    let mut clients = JoinSet::new();
    for member in 0..MEMBERS {
        for (worker, mut connection) in fleet.connections(member).await.into_iter().enumerate() {
            let mut tokens = tokens.clone();
            let seed = (member * WORKERS + worker) as u64;
            fastrand::Rng::with_seed(seed).shuffle(&mut tokens);
            clients.spawn(async move { ask_all(&mut connection, &tokens).await });
        }
    }
    while let Some(client) = clients.join_next().await {
        client.expect("a client");
    }
    assert_eq!(fleet.mas.total_calls(), 1_000);
    // Synapse as well, at any member.
    for (number, token) in tokens.iter().enumerate().step_by(10) {
        let member = fleet.member(number / 10 % MEMBERS);
        let answer = http::send(member.listener("introspection"), &introspect(token)).await;
        assert_active(&answer, &format!("user{number}"));
    }
    assert_eq!(fleet.mas.total_calls(), 1_000);
    assert!(tokens.iter().all(|token| fleet.mas.calls(token) == 1));
    let shares = fleet.introspections().await;
    println!(
        "6,100 requests in {:?}; introspections by member: {shares:?}",
        begun.elapsed()
    );
    assert_eq!(shares.iter().sum::<u64>(), 1_000);
    assert!(
        shares.iter().all(|share| (200..=470).contains(share)),
        "{shares:?}"
    );
    fleet.assert_untroubled();
}

/// How long an answer may hold in all in [`with_short_ttls`].
const BOUND: Duration = Duration::from_secs(2 + 4);

/// Lets an answer hold for two seconds in a member and for four in the tier, instead of 30 and 120.
fn with_short_ttls(config: &mut Value) {
    set_ttls(config, "2s", "4s");
}

/// Lets an answer hold for so long in a member and in the tier.
fn set_ttls(config: &mut Value, member: &str, tier: &str) {
    for listener in bootstrap::listeners(config) {
        for filter in bootstrap::http_filters(bootstrap::http_manager_of(listener)) {
            let plugin = filter.pointer_mut("/typed_config/config/configuration/value");
            if let Some(ttl) = plugin.and_then(|plugin| plugin.pointer_mut("/cache/ttl")) {
                *ttl = match ttl.as_str() {
                    Some("30s") => member.into(),
                    Some("120s") => tier.into(),
                    other => panic!("an unknown ttl: {other:?}"),
                };
            }
        }
    }
}

#[tokio::test]
async fn a_member_that_misses_an_end_believes_in_the_session_until_its_answers_are_too_old() {
    let nobody = TcpSocket::new_v4().expect("a socket");
    nobody
        .bind(SocketAddr::from(([127, 0, 0, 1], 0)))
        .expect("a free port");
    let nobody = nobody.local_addr().expect("an address");
    let way = Switch::start(nobody).await;
    let fleet = Fleet::start_with(with_short_ttls, Some(&way)).await;
    fleet
        .mas
        .set_homeserver(fleet.member(0).listener("provisioning"));
    // Of many, some are the third member's to answer for.
    let tokens = sessions(&fleet, 30);
    let mut workers = Vec::new();
    for member in 0..MEMBERS {
        workers.extend(fleet.connections(member).await);
    }
    way.lead_to(nobody);
    for connection in &mut workers {
        ask_all(connection, &tokens).await;
    }
    for token in &tokens {
        fleet.mas.revoke(token);
    }
    let ended = Instant::now();
    fleet.mas.wait_until_provisioned().await;
    // It has not heard of them.
    let mut late = 0;
    for token in &tokens {
        let request = Request::get(WHOAMI).bearer(token);
        late += usize::from(workers[5].request(&request).await.status == 200);
    }
    assert!(late > 0, "what the third member has missed");
    sleep_until(ended + BOUND).await;
    for connection in &mut workers {
        for token in &tokens {
            let request = Request::get(WHOAMI).bearer(token);
            assert_not_active(&connection.request(&request).await);
        }
    }
    fleet.assert_untroubled();
}

#[tokio::test]
async fn a_member_that_was_dead_when_a_session_ended_knows_it_from_the_first_request() {
    let mut fleet = Fleet::start().await;
    let tokens = sessions(&fleet, 30);
    for member in 0..MEMBERS {
        ask_all(&mut fleet.connections(member).await[0], &tokens).await;
    }
    fleet.kill(2);
    fleet
        .mas
        .set_homeserver(fleet.member(0).listener("provisioning"));
    for token in &tokens {
        fleet.mas.revoke(token);
    }
    fleet.mas.wait_until_provisioned().await;
    // Until the end has counted twice.
    sleep_until(Instant::now() + Duration::from_secs(1)).await;
    fleet.restart(2).await;
    for member in [2, 0, 1] {
        for mut connection in fleet.connections(member).await {
            for token in &tokens {
                let request = Request::get(WHOAMI).bearer(token);
                assert_not_active(&connection.request(&request).await);
            }
        }
    }
    fleet.assert_untroubled();
}

/// As if so many revocations were under way that no further one is mirrored.
fn without_room_for_revocations(config: &mut Value) {
    for member in 1..=MEMBERS {
        let cluster = bootstrap::cluster(config, &format!("revocations-{member}"));
        let limit = &mut cluster["circuit_breakers"]["thresholds"][0]["max_requests"];
        assert!(
            limit.as_u64().is_some_and(|limit| limit <= 2_048),
            "{limit}"
        );
        *limit = 0.into();
    }
}

/// Anyone can send revocations, with invented tokens. What they fill is theirs alone.
#[tokio::test]
async fn a_flood_of_revocations_keeps_no_other_end_from_the_members() {
    let fleet = Fleet::start_with(without_room_for_revocations, None).await;
    let token = new_token("mct");
    fleet.mas.insert(&token, Session::compat("alice", "PHONE"));
    let mut workers = Vec::new();
    for member in 0..MEMBERS {
        workers.extend(fleet.connections(member).await);
    }
    for connection in &mut workers {
        ask_all(connection, std::slice::from_ref(&token)).await;
    }
    for _ in 0..20 {
        let invented = super::sessions::revocation_with_post(&new_token("mat"));
        let revoked = workers[0]
            .request(&invented.header("Host", "auth.example.org"))
            .await;
        assert_eq!(revoked.status, 200, "{revoked:?}");
    }
    for member in 1..=MEMBERS {
        let dropped = format!("cluster.revocations-{member}.upstream_rq_active_overflow");
        let envoy = fleet.member(0);
        envoy.wait_for_stat(&dropped, |dropped| dropped == 20).await;
    }
    let logout = super::sessions::logout("v3", &token);
    assert_eq!(workers[0].request(&logout).await.status, 200);
    for connection in &mut workers {
        ask_until(connection, &token, "the end", |it| it.status == 401).await;
    }
    fleet.assert_untroubled();
}

#[tokio::test]
async fn the_listeners_for_members_are_closed_to_others_and_can_only_end_answers() {
    let fleet = Fleet::start().await;
    let token = &sessions(&fleet, 1)[0];
    let [mut connection, _] = <[Connection; WORKERS]>::try_from(fleet.connections(0).await)
        .unwrap_or_else(|_| panic!("one connection for each worker"));
    ask_all(&mut connection, std::slice::from_ref(token)).await;
    let ends = fleet.member(0).listener("ends");

    // Another address of this machine is not in the network of the members.
    for listener in ["introspection", "provisioning", "tier", "ends"] {
        let socket = TcpSocket::new_v4().expect("a socket");
        socket
            .bind(SocketAddr::from(([127, 0, 0, 2], 0)))
            .expect("an address of loopback");
        let mut stream = socket
            .connect(fleet.member(0).listener(listener))
            .await
            .expect("is accepted at first");
        // It may be reset or closed.
        let read = within_limit("the connection to end", stream.read(&mut [0; 1])).await;
        assert!(matches!(read, Ok(0) | Err(_)), "{listener}");
    }

    // Who is in the network learns nothing, whatever token is tried: nothing is asked and nothing is told.
    for path in [WHOAMI, "/_matrix/client/v3/sync", "/oauth2/introspect", "/"] {
        for token in [token.as_str(), "mat_invented"] {
            let response = http::send(ends, &Request::get(path).bearer(token)).await;
            assert_eq!((response.status, response.text()), (404, ""), "{path}");
        }
    }
    assert_eq!(fleet.mas.total_calls(), 1);

    // And can end an answer, which costs one question and no session.
    let logout = super::sessions::logout("v3", token);
    assert_eq!(http::send(ends, &logout).await.status, 200);
    ask_all(&mut connection, std::slice::from_ref(token)).await;
    assert_eq!(fleet.homeserver.count(), 2 + WORKERS as u64);

    // A client cannot have the members read a long body.
    let long = super::sessions::logout("v3", token).body(vec![b'x'; 100_000]);
    assert_too_large(&connection.request(&long).await);
    fleet.assert_untroubled();
}

/// MAS serves the login API on its own host as well, and takes any word for the version.
#[tokio::test]
async fn a_logout_ends_everywhere_whatever_its_host_and_version() {
    let fleet = Fleet::start().await;
    let mut workers = Vec::new();
    for member in 0..MEMBERS {
        workers.extend(fleet.connections(member).await);
    }
    for (host, version) in [
        ("auth.example.org", "v3"),
        ("auth.example.org:443", "v1"),
        ("matrix.example.org", "v1"),
        ("matrix.example.org", "org.example"),
    ] {
        let token = new_token("mct");
        fleet.mas.insert(&token, Session::compat("alice", "PHONE"));
        for connection in &mut workers {
            ask_all(connection, std::slice::from_ref(&token)).await;
        }
        let begun = Instant::now();
        let logout = super::sessions::logout(version, &token).header("Host", host);
        let response = workers[0].request(&logout).await;
        assert_eq!(response.status, 200, "{host} {version}: {response:?}");
        for connection in &mut workers {
            ask_until(connection, &token, "the end", |it| it.status == 401).await;
        }
        // Unheard, it would hold for 30 s and longer. `ends.rs` measures.
        let took = begun.elapsed();
        assert!(took < Duration::from_secs(10), "{host} {version}: {took:?}");
    }
    fleet.assert_untroubled();
}

#[tokio::test]
async fn what_is_not_for_the_public_has_no_route() {
    let fleet = Fleet::start_with(|config| set_everywhere(config, "mode", "shadow"), None).await;
    let gateway = fleet.member(0).addr();
    for (host, path) in [
        ("matrix.example.org", "/_synapse/admin/v1/users"),
        ("matrix.example.org", "/_synapse/mas/query_user"),
        ("auth.example.org", "/api/admin/v1/users"),
        ("auth.example.org", "/metrics"),
    ] {
        let response = http::send(gateway, &Request::get(path).header("Host", host)).await;
        assert_eq!(response.status, 404, "{path}");
        assert_is_matrix_error(&response, "M_UNRECOGNIZED");
    }
    assert_eq!(fleet.homeserver.count(), 0);
}

/// Envoy leaves the headers of its fault filter in a client's request, and the one behind `ends` takes its delay from a header.
#[tokio::test]
async fn no_client_changes_how_its_logout_is_mirrored() {
    let fleet = Fleet::start().await;
    let faults = async |member: usize, kind: &str| {
        let name = format!("http.nowhere.fault.{kind}");
        fleet.member(member).stat(&name).await
    };
    let token = new_token("mct");
    fleet.mas.insert(&token, Session::compat("alice", "PHONE"));
    let logout = super::envoy_headers::commanding(super::sessions::logout("v3", &token));
    let response = http::send(fleet.member(0).addr(), &logout).await;
    assert_eq!(response.status, 200, "{response:?}");
    for member in 0..MEMBERS {
        let name = "http.nowhere.fault.delays_injected";
        let envoy = fleet.member(member);
        // What is heard first, and what is heard again.
        envoy.wait_for_stat(name, |delays| delays == 2).await;
        assert_eq!(faults(member, "aborts_injected").await, 0);
        assert_eq!(faults(member, "response_rl_injected").await, 0);
    }
    fleet.assert_untroubled();
}
