//! What is not for the introspection role passes it untouched, as it comes, and causes no introspection.

use std::time::Duration;

use serde_json::json;
use sha2::{Digest, Sha256};
use stand_in::{
    SeenRequest,
    mas::{DEFAULT_CLIENT_ID, DEFAULT_CLIENT_SECRET, Options, introspection_body},
};

use super::{
    edge::{Edge, WHOAMI, hex, new_token},
    introspection::basic,
    introspection_role::{NAME, PATH, ask, assert_mas_answers, headers, plugin, secret, start},
    uploads::noise,
};
use crate::support::http::{self, Connection, Request};

#[tokio::test]
async fn everything_else_that_mas_serves_passes() {
    let edge = start(json!({})).await;
    let token = edge.alice();
    let form = "application/x-www-form-urlencoded";
    for request in [
        Request::get("/.well-known/openid-configuration"),
        Request::new("HEAD", "/.well-known/openid-configuration"),
        Request::new("OPTIONS", PATH).header("Origin", "https://app.example"),
        Request::new("HEAD", PATH),
        Request::get(PATH),
        Request::new("PUT", PATH)
            .bearer("x")
            .body(introspection_body(&token)),
        Request::get("/oauth2/userinfo").bearer(&token),
        Request::post(
            "/oauth2/token",
            form,
            "grant_type=refresh_token&refresh_token=x",
        ),
        Request::post("/oauth2/introspect/", form, introspection_body(&token)).bearer("x"),
        Request::get("/_matrix/client/v3/login"),
        Request::get(WHOAMI).bearer(&token),
        Request::get("/health"),
        Request::get("/"),
        Request::get("/%2e%2e/a?b=%00"),
    ] {
        assert_mas_answers(&edge, &request, 0).await;
    }
    edge.assert_alive().await;
}

/// As MAS would see it: method, target, headers and body, whatever the form and the credential.
#[tokio::test]
async fn what_passes_is_untouched_and_streams() {
    // The stand-in homeserver tells what it sees, also of a body that has not ended.
    let edge = Edge::start_with(json!({}), Options::default(), |builder| {
        builder.internal_listener(NAME, plugin(json!({})), "homeserver")
    })
    .await;
    let token = edge.alice();
    let requests = [
        Request::post("/upload?a=b", "image/png", noise(5 << 20)),
        Request::new("PUT", "/upload").chunked(noise(5 << 20)),
        headers("Bearer wrong").body(introspection_body(&token)),
        headers(&secret())
            .body("token=a&token=b")
            .header("X-Matrix", "@a:b"),
        headers(&secret()).chunked(noise(300_000)),
    ];
    for request in requests {
        let mut plain = Connection::open(edge.homeserver.addr()).await;
        plain.request(&request).await;
        ask(&edge, &request).await;
        let seen = edge.homeserver.requests();
        let [.., direct, passed] = &seen[..] else {
            panic!("two requests: {seen:?}");
        };
        assert_eq!(what(passed), what(direct));
    }

    for head in [
        Request::new("POST", "/upload"),
        headers("Bearer wrong"),
        headers(&secret()),
    ] {
        let body = noise(2 << 20);
        let bytes = head.chunked(&body).to_bytes();
        let (first, second) = bytes.split_at(bytes.len() / 2);
        let started = edge.homeserver.started();
        let mut connection = Connection::open(edge.envoy.listener(NAME)).await;
        connection.send(first).await;
        http::within_limit("the beginning to arrive", async {
            edge.homeserver.wait_for_started(started + 1).await;
            while edge
                .homeserver
                .pending()
                .iter()
                .all(|seen| seen.body_bytes < 900_000)
            {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await;
        connection.send(second).await;
        assert_eq!(connection.response(false).await.status, 200);
        let seen = edge.homeserver.requests().pop().expect("a request");
        assert_eq!(seen.body_sha256, hex(&Sha256::digest(&body)));
    }
    assert_eq!(edge.mas.total_calls(), 0);
    edge.assert_alive().await;
}

/// Nothing that MAS is asked or says for itself is taken for a question about a token.
#[tokio::test]
async fn the_traffic_of_a_mas_host_causes_no_introspection() {
    // The stand-in homeserver is the host here: it answers as it is told.
    let edge = Edge::start_with(json!({}), Options::default(), |builder| {
        builder.internal_listener(NAME, plugin(json!({})), "homeserver")
    })
    .await;
    let [access, refresh] = [edge.alice(), new_token("mar")];
    let reply = json!({
        "access_token": edge.alice(),
        "refresh_token": new_token("mar"),
        "token_type": "Bearer",
        "expires_in": 300,
    });
    let paths = [
        "/oauth2/token",
        "/oauth2/revoke",
        "/oauth2/userinfo",
        "/_matrix/client/v3/login",
        "/_matrix/client/v3/refresh",
        "/_matrix/client/v3/logout",
        "/api/admin/v1/users",
        "/graphql",
    ];
    let bodies = [
        format!("grant_type=refresh_token&refresh_token={refresh}&client_id=x"),
        format!("grant_type=client_credentials&token={access}&access_token={access}"),
        format!("token={access}&token_type_hint=access_token"),
        String::new(),
    ];
    let authorizations = [
        None,
        Some(basic(DEFAULT_CLIENT_ID, DEFAULT_CLIENT_SECRET)),
        Some(secret()),
        Some(format!("Bearer {access}")),
        Some(format!("Bearer {refresh}")),
        Some(format!("Bearer {}", new_token("mat"))),
    ];
    let json = json!({"refresh_token": refresh, "access_token": access}).to_string();
    let mut sent = 0;
    for path in paths {
        edge.homeserver.respond(path, 200, reply.to_string());
        for authorization in &authorizations {
            let forms = bodies
                .iter()
                .map(|body| Request::post(path, "application/x-www-form-urlencoded", body));
            let others = [
                Request::post(path, "application/json", &json),
                Request::get(path),
                Request::get(format!("{path}?access_token={access}")),
            ];
            for mut request in forms.chain(others) {
                if let Some(authorization) = authorization {
                    request = request.header("Authorization", authorization);
                }
                for addr in [edge.envoy.addr(), edge.envoy.listener(NAME)] {
                    let response = http::send(addr, &request).await;
                    assert_eq!(response.json(), reply, "{path}");
                    sent += 1;
                }
            }
        }
    }
    assert_eq!(edge.homeserver.count(), sent);
    assert_eq!(edge.mas.total_calls(), 0);
    edge.assert_alive().await;
}

/// What of a request must not change. Names and values of the headers that a proxy adds are left out.
fn what(seen: &SeenRequest) -> impl PartialEq + std::fmt::Debug {
    let by_proxy = [
        "content-length",
        "transfer-encoding",
        "x-envoy-expected-rq-timeout-ms",
        "x-envoy-external-address",
        "x-forwarded-for",
        "x-forwarded-proto",
        "x-request-id",
    ];
    let mut headers = seen.headers.clone();
    headers.retain(|(name, _)| !by_proxy.contains(&name.as_str()));
    let line = (seen.method.clone(), seen.target.clone());
    (line, headers, seen.body_bytes, seen.body_sha256.clone())
}
