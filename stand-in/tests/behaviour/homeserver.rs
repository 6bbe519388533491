//! The stand-in homeserver over a socket: what it saw, when, and what it is told to answer.

use std::{net::SocketAddr, sync::Arc};

use serde_json::{Value, json};
use stand_in::{SeenRequest, homeserver::Homeserver};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

#[tokio::test]
async fn it_answers_with_what_it_saw() {
    let homeserver = Homeserver::start_local().await.expect("a port");
    let (head, body) = exchange(
        homeserver.addr(),
        b"PUT /_matrix/client/v3/a%2Fb?x=1 HTTP/1.1\r\nHost: h\r\nX-A: 1\r\nX-B: 3\r\nx-a: 2\r\nContent-Length: 3\r\n\r\nabc",
    )
    .await;
    assert!(
        head.starts_with("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n"),
        "{head}"
    );
    assert_eq!(
        serde_json::from_str::<Value>(&body).expect("JSON"),
        json!({
            "method": "PUT",
            "path": "/_matrix/client/v3/a%2Fb",
            "query": "x=1",
            "headers": { "content-length": ["3"], "host": ["h"], "x-a": ["1", "2"], "x-b": ["3"] },
            "body_bytes": 3,
            "body_sha256": "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
        })
    );
    let seen = &homeserver.requests()[0];
    assert_eq!(
        (seen.target.as_str(), seen.body.as_ref()),
        ("/_matrix/client/v3/a%2Fb?x=1", b"abc".as_slice())
    );
    assert!(
        !format!("{seen:?}").contains("x=1"),
        "the query may hold a token"
    );
}

#[tokio::test]
async fn it_tells_what_began_from_what_is_complete() {
    let homeserver = Homeserver::start_local().await.expect("a port");
    assert!(!homeserver.first_byte_seen());
    let mut stream = TcpStream::connect(homeserver.addr())
        .await
        .expect("it listens");
    stream
        .write_all(b"POST /upload HTTP/1.1\r\nhost: h\r\ncontent-length: 4\r\n\r\nab")
        .await
        .expect("it reads");
    homeserver.wait_for_started(1).await;
    assert!(homeserver.first_byte_seen());
    assert_eq!(
        (
            homeserver.started(),
            homeserver.count(),
            homeserver.requests().len()
        ),
        (1, 0, 0)
    );
    let pending = homeserver.pending();
    assert_eq!((pending.len(), pending[0].path()), (1, "/upload"));
    stream.write_all(b"cd").await.expect("it reads");
    homeserver.wait_for(1).await;
    assert_eq!((homeserver.count(), homeserver.pending().len()), (1, 0));
    assert_eq!(homeserver.requests()[0].body, "abcd");
}

#[tokio::test]
async fn it_shows_each_request_as_its_headers_arrive() {
    let (tell, mut told) = tokio::sync::mpsc::unbounded_channel();
    let watch = Arc::new(move |request: &SeenRequest| {
        tell.send(request.target.clone()).expect("the test listens");
    });
    let homeserver = Homeserver::start_watched(SocketAddr::from(([127, 0, 0, 1], 0)), watch)
        .await
        .expect("a port");
    let mut stream = TcpStream::connect(homeserver.addr()).await.expect("a peer");
    let beginning = b"PUT /a?b HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\na";
    stream.write_all(beginning).await.expect("a peer");
    assert_eq!(told.recv().await.as_deref(), Some("/a?b"));
    assert_eq!(homeserver.count(), 0);
}

#[tokio::test]
async fn it_takes_large_bodies_and_trailers() {
    const CHUNK: usize = 1 << 20;

    let homeserver = Homeserver::start_local().await.expect("a port");
    let mut request =
        b"POST /upload HTTP/1.1\r\nhost: h\r\ntrailer: x-t\r\ntransfer-encoding: chunked\r\n\r\n"
            .to_vec();
    for _ in 0..25 {
        request.extend_from_slice(format!("{CHUNK:x}\r\n").as_bytes());
        request.resize(request.len() + CHUNK, b'x');
        request.extend_from_slice(b"\r\n");
    }
    request.extend_from_slice(b"0\r\nX-T: end\r\n\r\n");
    let (_, body) = exchange(homeserver.addr(), &request).await;
    let body: Value = serde_json::from_str(&body).expect("JSON");
    assert_eq!(
        (&body["body_bytes"], &body["trailers"]),
        (&json!(25 * CHUNK), &json!({ "x-t": ["end"] }))
    );
    let seen = &homeserver.requests()[0];
    assert_eq!((seen.body_bytes, seen.body.len()), (25 << 20, 64 * 1024));
}

#[tokio::test]
async fn it_answers_as_told_on_a_path() {
    let homeserver = Homeserver::start_local().await.expect("a port");
    homeserver.respond("/who", 401, r#"{"errcode":"M_UNKNOWN_TOKEN"}"#);
    let request = |path: &str| format!("GET {path} HTTP/1.1\r\nhost: h\r\n\r\n").into_bytes();
    let (head, body) = exchange(homeserver.addr(), &request("/who?access_token=x")).await;
    assert!(head.starts_with("HTTP/1.1 401 Unauthorized\r\n"), "{head}");
    assert_eq!(body, r#"{"errcode":"M_UNKNOWN_TOKEN"}"#);
    let (head, _) = exchange(homeserver.addr(), &request("/whoami")).await;
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
    homeserver.clear_responses();
    let (head, _) = exchange(homeserver.addr(), &request("/who")).await;
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
    assert_eq!(homeserver.count(), 3);
}

/// Head and body of the one response.
async fn exchange(addr: SocketAddr, request: &[u8]) -> (String, String) {
    let mut stream = TcpStream::connect(addr).await.expect("it listens");
    stream.write_all(request).await.expect("it reads");
    let mut received = String::new();
    loop {
        let mut buffer = [0; 4096];
        let read = stream.read(&mut buffer).await.expect("it answers");
        assert_ne!(read, 0, "closed after {received:?}");
        received.push_str(std::str::from_utf8(&buffer[..read]).expect("text"));
        if let Some((head, body)) = received.split_once("\r\n\r\n") {
            let length = head
                .split("content-length: ")
                .nth(1)
                .and_then(|rest| rest.split("\r\n").next());
            if length == Some(body.len().to_string().as_str()) {
                return (head.to_owned(), body.to_owned());
            }
        }
    }
}
