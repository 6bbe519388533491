//! The provisioning role lets MAS's requests and the homeserver's responses pass untouched.

use serde_json::json;
use sha2::{Digest, Sha256};
use stand_in::{
    SeenRequest,
    mas::{DEFAULT_SECRET, Options},
};
use tokio::time::sleep;

use super::{
    edge::{Edge, WHOAMI, hex, new_token},
    provisioning::{LISTENER, provisioning, start},
    workers::POLL,
};
use crate::support::{
    envoy::Envoy,
    http::{self, Connection, Request, Response, within_limit},
};

/// All that an Envoy without the module does to a request, and nothing more.
#[tokio::test]
async fn requests_and_responses_pass_as_if_the_module_were_not_there() {
    let edge = Edge::start_with(json!({}), Options::default(), |builder| {
        builder.internal_listener(LISTENER, provisioning(), "homeserver")
    })
    .await;
    let bare = Envoy::builder().homeserver(edge.homeserver.addr());
    let bare = bare.start().await;
    let post = |body: &str| {
        Request::post("/_synapse/mas/sync_devices", "application/json", body).bearer(DEFAULT_SECRET)
    };
    let devices = r#"{"localpart": "alice",  "devices":["PHONE"]}"#;
    for (number, request) in [
        post(devices),
        post("").chunked(devices),
        post("").chunked(devices.repeat(3_000)),
        post(devices).header("Expect", "100-continue"),
        post(devices)
            .header("X-Matrix", "@admin:example.org")
            .header("X-Two", "1")
            .header("x-two", "2")
            .header("User-Agent", "matrix-authentication-service/1.4.0"),
        post(""),
        post("{"),
        post("\u{0}\u{ff}"),
        Request::new("POST", "/_synapse/mas/delete_user").bearer(DEFAULT_SECRET),
        post(devices).header("Authorization", "Bearer another"),
        Request::post("/_synapse/mas/sync_devices", "text/plain", devices),
        Request::post("/_synapse/mas/sync_devices?x=%2F", "text/plain", devices).bearer("wrong"),
        Request::get("/_synapse/mas/query_user?localpart=alice").bearer(DEFAULT_SECRET),
        Request::new("OPTIONS", "/_synapse/mas/sync_devices"),
        Request::get(WHOAMI).bearer(&new_token("mat")),
        Request::get("/_synapse/admin/v1/users?access_token=x"),
    ]
    .iter()
    .enumerate()
    {
        for status in [None, Some(200), Some(404), Some(500)] {
            let paths = ["sync_devices", "delete_user", "query_user"];
            edge.homeserver.clear_responses();
            if let Some(status) = status {
                for path in paths {
                    let path = format!("/_synapse/mas/{path}");
                    edge.homeserver.respond(&path, status, "{\"a\": [1,\n2]}");
                }
            }
            let mut exchanges = Vec::new();
            for addr in [edge.envoy.listener(LISTENER), bare.addr()] {
                let response = http::send(addr, request).await;
                let seen = edge.homeserver.requests().pop().expect("a request");
                exchanges.push((as_sent(&seen), as_received(&response)));
            }
            assert_eq!(exchanges[0], exchanges[1], "request {number}, {status:?}");
        }
    }
    edge.assert_alive().await;
}

/// All of a request but what differs from one to the next.
fn as_sent(seen: &SeenRequest) -> impl PartialEq + std::fmt::Debug + use<> {
    let headers = seen.headers.iter();
    let headers = headers.filter(|(name, _)| name != "x-request-id").cloned();
    (
        seen.method.clone(),
        seen.target.clone(),
        headers.collect::<Vec<_>>(),
        (seen.body_bytes, seen.body_sha256.clone()),
        seen.trailers.clone(),
    )
}

/// All of a response but what differs from one to the next.
fn as_received(response: &Response) -> impl PartialEq + std::fmt::Debug + use<> {
    const VARY: [&str; 3] = ["content-length", "date", "x-envoy-upstream-service-time"];
    let mut headers = response.headers.clone();
    headers.retain(|(name, _)| !VARY.contains(&&**name));
    // The stand-in echoes what `as_sent` has seen already.
    let is_echo = response.body.starts_with(br#"{"method":"#);
    let body = if is_echo { &[] } else { &*response.body };
    (response.status, headers, body.to_vec())
}

#[tokio::test]
async fn a_large_body_passes_while_it_is_still_coming() {
    const LARGE: usize = 20 << 20;
    let edge = start(json!({})).await;
    let devices = "\"A_DEVICE_OF_A_USER_WHO_HAS_MANY\",".repeat(LARGE / 34);
    for chunked in [false, true] {
        let [alice, bob] = ["alice", "bob"].map(|name| edge.active(name, "PHONE"));
        for token in [&alice, &bob] {
            assert_eq!(edge.whoami(token).await.status, 200);
        }
        let body = format!(r#"{{"localpart":"alice","devices":[{devices}"PHONE"]}}"#);
        let request = Request::new("POST", "/_synapse/mas/sync_devices").bearer(DEFAULT_SECRET);
        let request = if chunked {
            request.chunked(&body)
        } else {
            request.body(&body)
        };
        let bytes = request.to_bytes();
        let (half, rest) = bytes.split_at(bytes.len() / 2);
        let mut connection = Connection::open(edge.envoy.listener(LISTENER)).await;
        connection.send(half).await;
        // Envoy itself keeps some of it in its buffers.
        within_limit("the first half to arrive", async {
            while !matches!(&*edge.homeserver.pending(), [pending] if pending.body_bytes > (LARGE / 4) as u64)
            {
                sleep(POLL).await;
            }
        })
        .await;
        assert_eq!(edge.whoami(&alice).await.status, 200);
        assert_eq!(edge.mas.calls(&alice), 1, "it has not ended");
        connection.send(rest).await;
        assert_eq!(connection.response(false).await.status, 200);
        let requests = edge.homeserver.requests();
        let is_long = |seen: &&SeenRequest| seen.body_bytes == body.len() as u64;
        let seen = requests.iter().rfind(is_long).expect("the whole body");
        assert_eq!(seen.body_sha256, hex(&Sha256::digest(&body)));
        // Too long to be kept: everything about this user may have changed.
        within_limit("alice to be asked about", async {
            while edge.mas.calls(&alice) == 1 {
                assert_eq!(edge.whoami(&alice).await.status, 200);
            }
        })
        .await;
        assert_eq!(edge.whoami(&bob).await.status, 200);
        assert_eq!(edge.mas.calls(&bob), 1);
    }
    edge.assert_alive().await;
}
