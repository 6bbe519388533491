//! What an attacker has tried, and what must stay in vain: bytes in odd places, HTTP/2 written by hand,
//! hop-by-hop tricks, clients that hang up in the middle, two configurations in one VM.

use serde_json::json;
use stand_in::mas::Options;

use super::{
    edge::{
        Edge, NOBODY, WHOAMI, assert_no_verdict, assert_not_active, identity, new_token, plugin,
    },
    http2::Http2,
};
use crate::support::{
    envoy::bootstrap,
    http::{self, Connection, Request, within_limit},
};

const ALICE: [[&str; 1]; 2] = [["@alice:example.org"], ["PHONE"]];

/// How many requests Envoy has not answered yet.
const ACTIVE: &str = "http.gateway.downstream_rq_active";

/// The module reads some of these headers and passes others on to MAS.
#[tokio::test]
async fn every_byte_in_every_header_leaves_the_vm_alive() {
    let edge = Edge::start(json!({})).await;
    let token = edge.alice();
    for name in [
        "authorization",
        "content-type",
        "traceparent",
        "tracestate",
        "x-matrix-user-id",
    ] {
        for byte in 0..=u8::MAX {
            let mut request = Request::post(WHOAMI, "text/plain", "x").header(name, [b'a', byte]);
            if name != "authorization" {
                // Cold, so that the trace headers are read.
                request = request.bearer(&new_token("mat"));
            }
            // 400 is Envoy's own, for what is no header value.
            let status = edge.send(&request).await.status;
            assert!([400, 401].contains(&status), "{name} {byte:#x}: {status}");
        }
    }
    assert!(!edge.homeserver.first_byte_seen());
    assert_eq!(edge.whoami(&token).await.status, 200);
    edge.assert_alive().await;
}

/// `Connection` names headers that the next hop removes: it must not name ours.
#[tokio::test]
async fn the_identity_cannot_be_declared_hop_by_hop() {
    let edge = Edge::start(json!({})).await;
    let token = edge.alice();
    for named in ["X-Matrix-User-Id", "close, X-Matrix-User-Id"] {
        let request = Request::get(WHOAMI)
            .bearer(&token)
            .header("Connection", named);
        let seen = edge.pass(request).await;
        assert_eq!(identity(&seen), ALICE);
        assert_eq!(seen.header("connection"), None);
    }
}

#[tokio::test]
async fn nothing_of_an_upgrade_goes_on_before_the_verdict() {
    let edge = Edge::start_with(json!({}), Options::default(), |builder| {
        builder.bootstrap(|config| {
            let websocket = json!([{"upgrade_type": "websocket"}]);
            bootstrap::http_manager(config)["upgrade_configs"] = websocket;
        })
    })
    .await;
    let hold = edge.mas.hold();
    let mut connection = Connection::open(edge.envoy.addr()).await;
    let request = Request::get(WHOAMI)
        .bearer(&new_token("mat"))
        .header("Connection", "Upgrade")
        .header("Upgrade", "websocket")
        .header("X-Matrix-User-Id", "@evil:example.org");
    connection.send(&request.to_bytes()).await;
    connection.send(b"what comes after the upgrade").await;
    edge.wait_for_calls(1).await;
    assert!(!edge.homeserver.first_byte_seen());
    hold.release();
    assert_not_active(&connection.response(false).await);
    assert!(!edge.homeserver.first_byte_seen());
}

/// Through a tunnel to the homeserver anyone could send it identity headers.
#[tokio::test]
async fn no_tunnel_leads_to_the_homeserver() {
    for mode in ["enforce", "shadow"] {
        let edge = Edge::start_with(json!({"mode": mode}), Options::default(), |builder| {
            builder.bootstrap(|config| {
                let manager = bootstrap::http_manager(config);
                manager["upgrade_configs"] = json!([{"upgrade_type": "CONNECT"}]);
                let host = &mut manager["route_config"]["virtual_hosts"][0];
                host["domains"] = json!(["*"]);
                let tunnel = json!({
                    "match": {"connect_matcher": {}},
                    "route": {
                        "cluster": "homeserver",
                        "upgrade_configs": [{"upgrade_type": "CONNECT", "connect_config": {}}],
                    },
                });
                let routes = host["routes"].as_array_mut().expect("a list");
                routes.insert(0, tunnel);
            })
        })
        .await;
        let token = edge.alice();
        for authorization in [String::new(), format!("Authorization: Bearer {token}\r\n")] {
            let mut connection = Connection::open(edge.envoy.addr()).await;
            let connect = format!("CONNECT x:1 HTTP/1.1\r\nHost: x:1\r\n{authorization}\r\n");
            connection.send(connect.as_bytes()).await;
            let response = connection.response(false).await;
            assert_eq!(response.status, 404, "{mode}: {response:?}");
            assert_eq!(response.json()["errcode"], "M_UNRECOGNIZED", "{mode}");
        }
        assert!(!edge.homeserver.first_byte_seen(), "{mode}");
        edge.assert_alive().await;
    }
}

/// Such questions would wait with their tokens in every worker while MAS hangs.
#[tokio::test]
async fn tokens_that_are_longer_than_any_of_mas_are_not_held_in_memory() {
    let edge = Edge::start(json!({})).await;
    let hold = edge.mas.hold();
    for number in 0..100 {
        let token = format!("syt_{number:050000}");
        let response = edge.whoami(&token).await;
        assert_no_verdict(&response);
    }
    assert_eq!(edge.mas.total_calls(), 0);
    hold.release();
    let token = edge.alice();
    assert_eq!(edge.whoami(&token).await.status, 200);
    edge.assert_alive().await;
}

/// Envoy joins the fields of one name with commas in HTTP/2 as well.
#[tokio::test]
async fn http2_hides_no_second_credential_and_no_identity() {
    let edge = Edge::start(json!({})).await;
    let [alice, bob] = [edge.alice(), edge.active("bob", "LAPTOP")].map(|t| format!("Bearer {t}"));
    let mut http2 = Http2::open(edge.envoy.addr()).await;
    let spoofed = ("x-matrix-user-id", "@evil:example.org");
    let mut passes = 0;
    for (path, fields) in [
        (
            WHOAMI,
            vec![("authorization", &*alice), ("authorization", &bob)],
        ),
        (
            WHOAMI,
            vec![("authorization", "Bearer"), ("authorization", &alice[7..])],
        ),
        ("/_synapse/mas/query_user", vec![("authorization", &*alice)]),
        (WHOAMI, vec![spoofed]),
        (WHOAMI, vec![spoofed, ("authorization", &alice), spoofed]),
        ("/_matrix/client/versions", vec![spoofed, spoofed]),
    ] {
        let expected = match (path, &fields[..]) {
            (WHOAMI, [_, ("authorization", _), _]) => {
                vec![vec!["@alice:example.org"], vec!["PHONE"]]
            }
            ("/_matrix/client/versions", _) => NOBODY.to_vec(),
            _ => Vec::new(),
        };
        http2.request(path, &fields, true).await;
        if expected.is_empty() {
            continue;
        }
        passes += 1;
        within_limit("the homeserver", edge.homeserver.wait_for(passes)).await;
        let seen = edge.homeserver.requests();
        assert_eq!(seen.len() as u64, passes, "only what is expected passes");
        assert_eq!(identity(&seen[seen.len() - 1]).to_vec(), expected);
    }
    edge.assert_alive().await;
}

/// Streams that end while they are held: reset one by one, and all at once with their connection.
#[tokio::test]
async fn clients_that_hang_up_by_the_hundred_leave_nothing_behind() {
    let edge = Edge::start(json!({})).await;
    let tokens: Vec<String> = (0..10).map(|_| edge.alice()).collect();
    let headers: Vec<String> = tokens.iter().map(|t| format!("Bearer {t}")).collect();
    let hold = edge.mas.hold();
    // The homeserver serves both methods here, so the token counts with both.
    let state = "/_matrix/client/v3/rooms/!room:example.org/state/m.room.name";
    for round in 0..10 {
        let mut http2 = Http2::open(edge.envoy.addr()).await;
        for number in 0..90 {
            let field = ("authorization", &*headers[number % headers.len()]);
            // Some with a body that does not end.
            let stream = http2.request(state, &[field], number % 2 == 0).await;
            if number % 3 == 0 {
                http2.reset(stream).await;
            }
        }
        edge.envoy.wait_for_stat(ACTIVE, |n| n == 60).await;
        // Envoy has sent the calls, but on a busy machine they may not have arrived yet.
        edge.wait_for_calls(10).await;
        drop(http2);
        edge.envoy.wait_for_stat(ACTIVE, |n| n == 0).await;
        assert_eq!(
            edge.mas.total_calls(),
            10,
            "round {round}: one call a token"
        );
    }
    hold.release();
    // What was asked for nobody in the end is known.
    edge.wait_for_metric(
        "matrix_edge_auth_introspections_total",
        &[("outcome", "active")],
        10.0,
    )
    .await;
    for token in &tokens {
        assert_eq!(edge.whoami(token).await.status, 200);
    }
    assert_eq!(edge.mas.total_calls(), 10);
    assert_eq!(edge.homeserver.count(), 10);
    edge.assert_alive().await;
}

/// A herd is answered in parts, a callback each. Envoy keeps a stream that is reset in between for a moment, and a reply to it
/// would end Envoy itself.
#[tokio::test]
async fn a_herd_that_is_reset_at_its_first_answer_leaves_envoy_alive() {
    const CONNECTIONS: usize = 12;
    const STREAMS: usize = 25;
    let edge = Edge::start_with(json!({}), Options::default(), |builder| {
        builder.concurrency(1)
    })
    .await;
    for round in 0..15 {
        let bearer = format!("Bearer {}", new_token("mat"));
        let hold = edge.mas.hold();
        let mut herd = Vec::new();
        for _ in 0..CONNECTIONS {
            let mut http2 = Http2::open(edge.envoy.addr()).await;
            let mut streams = Vec::new();
            for number in 0..STREAMS {
                let field = ("authorization", &*bearer);
                // Some with a body that does not end.
                streams.push(http2.request(WHOAMI, &[field], number % 5 > 0).await);
            }
            herd.push((http2, streams));
        }
        let all = (CONNECTIONS * STREAMS) as u64;
        edge.envoy.wait_for_stat(ACTIVE, |n| n == all).await;
        hold.release();
        herd[0].0.answer_begins().await;
        for (http2, streams) in herd.iter_mut().rev() {
            http2.reset_all(streams).await;
        }
        edge.envoy.wait_for_stat(ACTIVE, |n| n == 0).await;
        println!("round {round}: {} calls", edge.mas.total_calls());
    }
    edge.assert_alive().await;
}

/// Two listeners, one VM: every answer goes to the request that waits for it, under its own configuration.
#[tokio::test]
async fn two_configurations_in_one_vm_do_not_mix_up_their_calls() {
    let edge = Edge::start_with(json!({}), Options::default(), |builder| {
        builder.bootstrap(|config| {
            let mut second = bootstrap::listener(config).clone();
            second["name"] = "second".into();
            let other = plugin(json!({"identity_headers": {"user_id": "x-second-user-id"}}));
            bootstrap::configure(bootstrap::http_manager_of(&mut second), &other);
            config["static_resources"]["listeners"]
                .as_array_mut()
                .expect("listeners is a list")
                .push(second);
        })
    })
    .await;
    let addrs = [
        (edge.envoy.addr(), "x-matrix-user-id"),
        (edge.envoy.listener("second"), "x-second-user-id"),
    ];
    let hold = edge.mas.hold();
    let mut waiting = Vec::new();
    for number in 0..20 {
        let user = format!("user{number}");
        let request = Request::get(WHOAMI).bearer(&edge.active(&user, "X"));
        // Half of the calls are made by the one root, half by the other; each answers requests of both.
        for turn in [number, number + 1] {
            let (addr, header) = addrs[turn % 2];
            let request = request.clone();
            let answer = tokio::spawn(async move { http::send(addr, &request).await });
            waiting.push((answer, header, format!("@{user}:example.org")));
            // In this order, so that the first of the two makes the call.
            edge.envoy
                .wait_for_stat(ACTIVE, |n| n == waiting.len() as u64)
                .await;
        }
    }
    edge.wait_for_calls(20).await;
    edge.wait_for_coalesced(20).await;
    hold.release();
    for (answer, header, user_id) in waiting {
        let answer = answer.await.expect("a response");
        assert_eq!(answer.json()["headers"][header][0], user_id);
    }
    edge.assert_alive().await;
}

/// Envoy sends replies after the callback that makes them, and calls the module back for each from within the one
/// before: a thousand in one callback exceed the stack of the VM.
#[tokio::test]
async fn thousands_who_wait_for_one_token_are_answered_without_harm() {
    const WAITING: u32 = 2_000;
    let edge = Edge::start_with(json!({}), Options::default(), |builder| {
        builder.bootstrap(|config| {
            // Envoy's own limits are near 1,000.
            for cluster in bootstrap::clusters(config) {
                let limit = 100_000;
                cluster["circuit_breakers"]["thresholds"] = json!([{
                    "max_connections": limit,
                    "max_pending_requests": limit,
                    "max_requests": limit,
                }]);
            }
        })
    })
    .await;
    for is_active in [false, true] {
        let token = if is_active {
            edge.alice()
        } else {
            new_token("mat")
        };
        let hold = edge.mas.hold();
        let waiting = edge.spawn_many(&Request::get(WHOAMI).bearer(&token), WAITING as usize);
        let joined = (WAITING - 1) * (1 + u32::from(is_active));
        edge.wait_for_coalesced(joined).await;
        hold.release();
        for response in waiting.join_all().await {
            match is_active {
                false => assert_not_active(&response),
                true => assert_eq!(response.status, 200, "{response:?}"),
            }
        }
        assert_eq!(edge.mas.calls(&token), 1);
    }
    edge.assert_alive().await;
}
