//! A homeserver that refuses a token which is active at the edge: its 401 counts whatever the body is, and also
//! where the module could not read one.

use std::net::SocketAddr;

use serde_json::{Value, json};
use stand_in::mas::Options;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

use super::{
    edge::{Edge, WHOAMI},
    workers::{WORKERS, ask_until, connections},
};
use crate::support::{
    envoy::bootstrap,
    http::{self, Connection, Request},
};

const REFUSAL: &str =
    r#"{"errcode":"M_UNKNOWN_TOKEN","error":"Token is not active","soft_logout":false}"#;

/// Homeservers that a request reaches by naming them in `x-homeserver`, and what they send.
const TRAILERS: (&str, &str) = (
    "trailers",
    "HTTP/1.1 401 Unauthorized\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n\
     b\r\n{\"errcode\":\r\n14\r\n \"M_UNKNOWN_TOKEN\" }\r\n0\r\nx-checksum: 1\r\n\r\n",
);
const CUT: (&str, &str) = (
    "cut",
    "HTTP/1.1 401 Unauthorized\r\ncontent-type: application/json\r\ncontent-length: 200\r\n\r\n\
     {\"errcode\":\"M_UNK",
);

/// Sends these bytes in answer to each request, and closes the connection.
async fn answer_with(answer: &'static str) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let addr = listener.local_addr().expect("an address");
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(answer_one(stream, answer));
        }
    });
    addr
}

async fn answer_one(mut stream: TcpStream, answer: &str) -> std::io::Result<()> {
    let mut request = Vec::new();
    // The requests of these tests have no body.
    while !request.ends_with(b"\r\n\r\n") && stream.read_buf(&mut request).await? > 0 {}
    stream.write_all(answer.as_bytes()).await?;
    stream.shutdown().await
}

/// Starts the edge with four workers, a compressor behind the module, and these further homeservers.
async fn start(homeservers: &[(&str, &'static str)]) -> Edge {
    let mut clusters = Vec::new();
    for (name, answer) in homeservers {
        let mut cluster = bootstrap::static_cluster(name, answer_with(answer).await);
        cluster["typed_extension_protocol_options"] = json!({
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
                "explicit_http_config": {"http_protocol_options": {"enable_trailers": true}},
            },
        });
        clusters.push(cluster);
    }
    Edge::start_with(json!({}), Options::default(), |builder| {
        builder.balanced().bootstrap(move |config| {
            for cluster in clusters {
                add_homeserver(config, cluster);
            }
            // Before the router, so that the module sees what comes out of it.
            let filters = bootstrap::http_filters(bootstrap::http_manager(config));
            filters.insert(1, compressor());
        })
    })
    .await
}

fn add_homeserver(config: &mut Value, cluster: Value) {
    let route = json!({
        "match": {"prefix": "/", "headers": [
            {"name": "x-homeserver", "string_match": {"exact": cluster["name"]}},
        ]},
        "route": {"cluster": cluster["name"], "timeout": "0s"},
    });
    let manager = bootstrap::http_manager(config);
    let routes = &mut manager["route_config"]["virtual_hosts"][0]["routes"];
    routes
        .as_array_mut()
        .expect("routes is a list")
        .insert(0, route);
    bootstrap::clusters(config).push(cluster);
}

fn compressor() -> Value {
    json!({
        "name": "envoy.filters.http.compressor",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.http.compressor.v3.Compressor",
            "compressor_library": {
                "name": "gzip",
                "typed_config": {
                    "@type": "type.googleapis.com/envoy.extensions.compression.gzip.compressor.v3.Gzip",
                },
            },
        },
    })
}

fn whoami(token: &str) -> Request {
    Request::get(WHOAMI).bearer(token)
}

/// Has every worker hold the answer about a new token, lets `refuse` have it refused, and checks that MAS is asked
/// once more.
async fn assert_counts(
    edge: &Edge,
    connections: &mut [Connection],
    what: &str,
    refuse: impl AsyncFnOnce(&str),
) {
    let token = edge.alice();
    for _ in 0..2 {
        for connection in &mut *connections {
            assert_eq!(connection.request(&whoami(&token)).await.status, 200);
        }
    }
    assert_eq!(edge.mas.calls(&token), 1);
    refuse(&token).await;
    assert_eq!(edge.mas.calls(&token), 1, "{what}: only the next asks");
    for connection in &mut *connections {
        let has_asked = |_: &_| edge.mas.calls(&token) == 2;
        let response = ask_until(connection, &token, what, has_asked).await;
        assert_eq!(response.status, 200, "{what}");
    }
    assert_eq!(edge.mas.calls(&token), 2, "{what}");
}

#[tokio::test]
async fn a_401_counts_whatever_its_body_is() {
    let edge = start(&[TRAILERS, CUT]).await;
    let mut connections = connections(&edge, 1).await;
    assert_eq!(connections.len(), WORKERS);
    let addr = edge.envoy.addr();
    let long = REFUSAL.replace("Token", &"x".repeat(100_000));
    for body in [
        REFUSAL,
        "",
        &long,
        "<html>M_UNKNOWN_TOKEN</html>",
        // Interactive authentication. Only the body tells it apart, so it costs a question.
        r#"{"flows":[{"stages":["m.login.sso"]}],"params":{},"session":"x"}"#,
    ] {
        assert_counts(&edge, &mut connections, body, async |token| {
            edge.homeserver.respond(WHOAMI, 401, body.to_owned());
            let response = http::send(addr, &whoami(token)).await;
            assert_eq!((response.status, response.text()), (401, body));
            edge.homeserver.clear_responses();
        })
        .await;
    }
    assert_counts(&edge, &mut connections, "gzip", async |token| {
        edge.homeserver.respond(WHOAMI, 401, REFUSAL);
        let request = whoami(token).header("Accept-Encoding", "gzip");
        let response = http::send(addr, &request).await;
        assert_eq!(response.status, 401);
        assert_eq!(response.header("content-encoding"), Some("gzip"));
        edge.homeserver.clear_responses();
    })
    .await;
    assert_counts(&edge, &mut connections, "trailers", async |token| {
        let request = whoami(token).header("X-Homeserver", TRAILERS.0);
        let response = http::send(addr, &request).await;
        assert_eq!(response.status, 401);
        assert!(response.text().contains("M_UNKNOWN_TOKEN"));
    })
    .await;
    assert_counts(&edge, &mut connections, "cut", async |token| {
        let request = whoami(token).header("X-Homeserver", CUT.0);
        let response = http::try_send(addr, &request).await;
        assert!(response.is_none(), "it broke off: {response:?}");
    })
    .await;
    edge.assert_alive().await;
}
