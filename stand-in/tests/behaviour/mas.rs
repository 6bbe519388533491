//! The stand-in MAS over a socket: faults, holds, counters, revocation, keep-alive, the control interface.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use base64ct::{Base64, Encoding};
use bytes::Bytes;
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use serde_json::{Value, json};
use stand_in::{
    clock::Clock,
    mas::{self, DEFAULT_SECRET, Fault, Introspected, Mas, Options, Session},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::mpsc,
};

const TRUE_ANSWER: &str = r#"{"active":false}"#;

#[tokio::test]
async fn an_answer_can_be_damaged_in_every_way() {
    let mas = start().await;
    let cases: Vec<(Fault, u16, &str, &str)> = vec![
        (
            Fault::delay(Duration::from_millis(1)),
            200,
            "application/json",
            TRUE_ANSWER,
        ),
        (Fault::status(503, "busy"), 503, "application/json", "busy"),
        (
            Fault::too_many_requests(),
            429,
            "application/json",
            r#"{"errcode":"M_LIMIT_EXCEEDED","error":"Too many requests"}"#,
        ),
        (
            Fault::redirect("/elsewhere"),
            302,
            "text/html; charset=utf-8",
            "",
        ),
        (
            Fault::html(),
            200,
            "text/html; charset=utf-8",
            "<!DOCTYPE html><html><body>Welcome</body></html>",
        ),
        (Fault::empty_object(), 200, "application/json", "{}"),
        (
            Fault::content_type("text/plain"),
            200,
            "text/plain",
            TRUE_ANSWER,
        ),
        (Fault::missing_active(), 200, "application/json", "{}"),
        (
            Fault::active_literal(r#""true""#),
            200,
            "application/json",
            r#"{"active":"true"}"#,
        ),
        (
            Fault::active_literal("null"),
            200,
            "application/json",
            r#"{"active":null}"#,
        ),
        (
            Fault::active_literal("1"),
            200,
            "application/json",
            r#"{"active":1}"#,
        ),
        (
            Fault::duplicate_active(),
            200,
            "application/json",
            r#"{"active":true,"active":false}"#,
        ),
        (
            Fault::invalid_json(),
            200,
            "application/json",
            r#"{"active":false"#,
        ),
    ];
    let client = Caller::new(mas.addr());
    for (fault, status, content_type, body) in cases {
        let shown = format!("{fault:?}");
        mas.fault(fault.times(1));
        let answer = client.introspect("garbage").await.expect("an answer");
        assert_eq!(
            (answer.0.as_u16(), answer.1.as_str(), answer.2.as_str()),
            (status, content_type, body),
            "{shown}"
        );
    }
    let (_, _, body) = client.introspect("garbage").await.expect("an answer");
    assert_eq!(body, TRUE_ANSWER, "every fault was spent");
}

#[tokio::test]
async fn an_oversized_answer_is_whole() {
    let mas = start().await;
    mas.fault(Fault::oversized(40_000_000));
    let (_, _, body) = Caller::new(mas.addr())
        .introspect("garbage")
        .await
        .expect("an answer");
    assert_eq!(body.len(), 40_000_000);
    assert!(
        body.starts_with(r#"{"active":false,"padding":"xx"#),
        "{:?}",
        &body[..40]
    );
}

#[tokio::test]
async fn a_connection_can_be_broken_in_every_way() {
    let mas = start().await;
    let half = "\r\ncontent-length: 16\r\n\r\n{\"active";
    for (fault, sent, reset) in [
        (Fault::close(), "", false),
        (Fault::reset(), "", true),
        (Fault::truncated(), half, false),
        (Fault::reset_mid_body(), half, true),
        (Fault::garbage(), "\x16\x03\x01 this is no HTTP", false),
    ] {
        let shown = format!("{fault:?}");
        mas.fault(fault.times(1));
        let mut stream = TcpStream::connect(mas.addr()).await.expect("it listens");
        stream
            .write_all(&raw_introspection("garbage"))
            .await
            .expect("it reads");
        let mut received = Vec::new();
        let ended = loop {
            match stream.read_buf(&mut received).await {
                Ok(0) => break Ok(()),
                Ok(_) => {}
                Err(error) => break Err(error.kind()),
            }
        };
        let received = String::from_utf8_lossy(&received);
        assert_eq!(received.is_empty(), sent.is_empty(), "{shown}: {received}");
        assert!(received.contains(sent), "{shown}: {received}");
        assert!(!received.contains(TRUE_ANSWER), "{shown}: {received}");
        let expected = if reset {
            Err(std::io::ErrorKind::ConnectionReset)
        } else {
            Ok(())
        };
        assert_eq!(ended, expected, "{shown}");
    }
}

#[tokio::test]
async fn what_hangs_is_answered_when_the_faults_are_cleared() {
    let mas = start().await;
    let hung = mas::token("mat", "hung");
    mas.fault(Fault::hang().for_token(&hung));
    let client = Caller::new(mas.addr());
    let pending = tokio::spawn({
        let client = client.clone();
        async move { client.introspect(&hung).await }
    });
    mas.wait_for_calls(1).await;
    // Others, which came later, are answered meanwhile.
    for _ in 0..3 {
        client.introspect("garbage").await.expect("an answer");
    }
    assert!(!pending.is_finished());
    mas.clear_faults();
    let (status, _, body) = pending.await.expect("no panic").expect("an answer");
    assert_eq!((status.as_u16(), body.as_str()), (200, TRUE_ANSWER));
}

#[tokio::test]
async fn a_fault_for_one_token_leaves_the_others_alone() {
    let mas = start().await;
    let (alice, bob) = (mas::token("mat", "alice"), mas::token("mat", "bob"));
    mas.insert(&alice, Session::access("alice", "A"));
    mas.insert(&bob, Session::access("bob", "B"));
    mas.fault(Fault::status(500, "").for_token(&alice));
    let client = Caller::new(mas.addr());
    assert_eq!(client.introspect(&alice).await.expect("an answer").0, 500);
    assert_eq!(client.introspect(&bob).await.expect("an answer").0, 200);
}

#[tokio::test]
async fn a_hold_lets_requests_arrive_but_no_answer_out() {
    let mas = start().await;
    let token = mas::token("mat", "alice");
    mas.insert(&token, Session::access("alice", "A"));
    let (first, second) = (mas.hold(), mas.hold());
    let client = Caller::new(mas.addr());
    let calls: Vec<_> = (0..20)
        .map(|_| {
            let (client, token) = (client.clone(), token.clone());
            tokio::spawn(async move { client.introspect(&token).await.expect("an answer").2 })
        })
        .collect();
    mas.wait_for_calls(20).await;
    first.release();
    assert!(
        calls.iter().all(|call| !call.is_finished()),
        "the second hold still lives"
    );
    mas.revoke(&token);
    drop(second);
    for call in calls {
        assert_eq!(
            call.await.expect("no panic"),
            TRUE_ANSWER,
            "answered from the state at release"
        );
    }
    assert_eq!((mas.calls(&token), mas.total_calls()), (20, 20));
}

#[tokio::test]
async fn revoking_over_http_ends_the_session_at_once() {
    let mas = start().await;
    let (access, compat) = (mas::token("mat", "a"), mas::token("mct", "c"));
    mas.insert(
        &access,
        Session::access("alice", "A").client_id(mas::DEFAULT_CLIENT_ID),
    );
    mas.insert(&compat, Session::compat("alice", "C"));
    let client = Caller::new(mas.addr());
    for token in [&access, &compat] {
        assert!(
            client
                .introspect(token)
                .await
                .expect("an answer")
                .2
                .starts_with(r#"{"active":true"#)
        );
    }
    // client_secret_basic of the default client.
    let revoked = client
        .send(
            Method::POST,
            "/oauth2/revoke",
            "Basic MDAwMDAwMDAwMDAwMDAwMDAwMDAwMEVER0U6c3RhbmQtaW4tY2xpZW50LXNlY3JldA==",
            format!("token={access}"),
        )
        .await
        .expect("an answer");
    assert_eq!((revoked.0.as_u16(), revoked.2.as_str()), (200, ""));
    let logged_out = client
        .send(
            Method::POST,
            "/_matrix/client/v3/logout",
            &format!("Bearer {compat}"),
            String::new(),
        )
        .await
        .expect("an answer");
    assert_eq!((logged_out.0.as_u16(), logged_out.2.as_str()), (200, "{}"));
    for token in [&access, &compat] {
        assert_eq!(
            client.introspect(token).await.expect("an answer").2,
            TRUE_ANSWER
        );
    }
    assert_eq!(mas.total_calls(), 4, "only introspections count");
}

/// MAS takes the pair as it is: it does not decode the halves, which RFC 6749 (section 2.3.1) has form-encoded.
#[tokio::test]
async fn a_basic_pair_is_compared_byte_for_byte() {
    let secret = "n0Tq+3u/9mZ2yVQ1==";
    let mas = Mas::start(Options {
        clients: vec![mas::Client::basic("01CLIENT", secret)],
        ..Options::default()
    })
    .await
    .expect("a free port");
    let client = Caller::new(mas.addr());
    for (secret, status) in [(secret, 200), ("n0Tq%2B3u%2F9mZ2yVQ1%3D%3D", 401)] {
        let pair = Base64::encode_string(format!("01CLIENT:{secret}").as_bytes());
        let authorization = format!("Basic {pair}");
        let form = "token=garbage&token_type_hint=access_token".to_owned();
        let (found, _, body) = client
            .send(Method::POST, "/oauth2/introspect", &authorization, form)
            .await
            .expect("an answer");
        assert_eq!(found, status, "{body}");
    }
}

#[tokio::test]
async fn the_secret_rotates() {
    let mas = start().await;
    let client = Caller::new(mas.addr());
    mas.set_secret("new");
    assert_eq!(
        client.introspect("garbage").await.expect("an answer").0,
        401
    );
    let body = "token=garbage".to_owned();
    let answer = client
        .send(Method::POST, "/oauth2/introspect", "Bearer new", body)
        .await
        .expect("an answer");
    assert_eq!(answer.0, 200);
}

#[tokio::test]
async fn a_session_ends_by_the_clock() {
    let clock = Clock::manual(Duration::from_secs(1_000_000));
    let mas = Mas::start(Options {
        clock: clock.clone(),
        ..Options::default()
    })
    .await
    .expect("a port");
    let token = mas::token("mat", "alice");
    mas.insert(
        &token,
        Session::access("alice", "A").expires_in(Duration::from_secs(60)),
    );
    let client = Caller::new(mas.addr());
    clock.advance(Duration::from_millis(59_600));
    let body: Value =
        serde_json::from_str(&client.introspect(&token).await.expect("an answer").2).expect("JSON");
    assert_eq!(
        (&body["active"], &body["expires_in"], &body["exp"]),
        (&json!(true), &json!(0), &json!(1_000_060))
    );
    clock.advance(Duration::from_millis(400));
    assert_eq!(
        client.introspect(&token).await.expect("an answer").2,
        TRUE_ANSWER
    );
}

#[tokio::test]
async fn thousands_of_requests_share_a_connection_and_old_ones_are_forgotten() {
    let mas = Mas::start(Options {
        keep_requests: 10,
        ..Options::default()
    })
    .await
    .expect("a port");
    let client = Caller::new(mas.addr());
    for n in 0..3000 {
        client
            .introspect(&format!("garbage{n}"))
            .await
            .expect("an answer");
    }
    assert_eq!(
        (mas.total_calls(), mas.connections(), mas.requests().len()),
        (3000, 1, 10)
    );
    assert_eq!(
        mas.requests()[9].body,
        mas::introspection_body("garbage2999")
    );
}

#[tokio::test]
async fn http2_with_prior_knowledge_works() {
    let mas = start().await;
    let client = Caller::http2(mas.addr());
    assert_eq!(
        client.introspect("garbage").await.expect("an answer").2,
        TRUE_ANSWER
    );
}

#[tokio::test]
async fn what_was_received_is_kept_in_order_and_not_shown() {
    let mas = start().await;
    Caller::new(mas.addr())
        .introspect("mat_secret")
        .await
        .expect("an answer");
    let requests = mas.requests();
    let names: Vec<&str> = requests[0]
        .headers
        .iter()
        .map(|(name, _)| name.as_str())
        .collect();
    assert_eq!(
        names,
        [
            "authorization",
            "content-type",
            "x-mas-supports-device-id",
            "host",
            "content-length"
        ]
    );
    assert_eq!(
        requests[0].header("authorization"),
        Some(format!("Bearer {DEFAULT_SECRET}").as_bytes())
    );
    assert_eq!(
        (requests[0].method.as_str(), requests[0].path()),
        ("POST", "/oauth2/introspect")
    );
    let shown = format!("{requests:?} {mas:?}");
    assert!(
        !shown.contains("mat_secret") && !shown.contains(DEFAULT_SECRET),
        "{shown}"
    );
}

#[tokio::test]
async fn once_stopped_it_refuses_connections() {
    let mas = start().await;
    let addr = mas.addr();
    let mut open = TcpStream::connect(addr).await.expect("it listens");
    mas.stop().await;
    let refused = TcpStream::connect(addr).await.expect_err("nobody listens");
    assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
    assert!(
        matches!(open.read(&mut [0]).await, Ok(0) | Err(_)),
        "open connections end too"
    );
}

#[tokio::test]
async fn introspections_are_told_by_name() {
    let (tell, mut told) = mpsc::unbounded_channel::<Introspected>();
    let on_introspection = Some(Arc::new(move |introspected: &Introspected| {
        tell.send(introspected.clone()).expect("the test listens");
    }) as mas::OnIntrospection);
    let mas = Mas::start(Options {
        on_introspection,
        ..Options::default()
    })
    .await
    .expect("a port");
    let token = mas::token("mat", "alice");
    mas.insert(&token, Session::access("alice", "A"));
    mas.name(&token, "alice");
    let client = Caller::new(mas.addr());
    client.introspect(&token).await.expect("an answer");
    client.introspect("garbage").await.expect("an answer");
    mas.fault(Fault::html());
    client.introspect(&token).await.expect("an answer");
    for (name, calls, total, outcome) in [
        (Some("alice"), 1, 1, "active"),
        (None, 1, 2, "inactive"),
        (Some("alice"), 2, 3, "fault: status"),
    ] {
        let introspected = told.recv().await.expect("told");
        assert_eq!(
            (
                introspected.name.as_deref(),
                introspected.calls,
                introspected.total,
                introspected.outcome.as_str()
            ),
            (name, calls, total, outcome)
        );
    }
}

#[tokio::test]
async fn a_forgotten_token_leaves_nothing_behind() {
    let mas = start().await;
    let client = Caller::new(mas.addr());
    let token = mas::token("mat", "forgotten");
    mas.insert(&token, Session::access("alice", "PHONE"));
    assert!(
        client
            .introspect(&token)
            .await
            .expect("an answer")
            .2
            .contains("alice")
    );
    assert_eq!(mas.calls(&token), 1);
    assert!(mas.time_left(&token).is_some());
    mas.forget(&token);
    assert!(!mas.is_active(&token));
    assert_eq!((mas.calls(&token), mas.time_left(&token)), (0, None));
}

#[tokio::test]
async fn the_control_interface_adds_tokens_and_faults_and_counts_by_name() {
    let mas = start().await;
    let control = mas
        .control(SocketAddr::from(([127, 0, 0, 1], 0)))
        .await
        .expect("a port");
    let operator = Caller::new(control.addr());
    let client = Caller::new(mas.addr());
    let token = mas::token("mct", "bob");

    let new = json!({ "name": "bob", "kind": "compat", "username": "bob", "device": "B", "expires_in_s": 60.0 });
    assert_eq!(
        operator.control(Method::POST, "/tokens", &new).await,
        (200, json!({}))
    );
    assert!(
        client
            .introspect(&token)
            .await
            .expect("an answer")
            .2
            .contains(r#""device_id":"B""#)
    );
    let fault = json!({ "kind": "status", "status": 503, "token": "bob", "times": 1 });
    assert_eq!(
        operator.control(Method::POST, "/faults", &fault).await,
        (200, json!({}))
    );
    assert_eq!(client.introspect(&token).await.expect("an answer").0, 503);
    assert_eq!(
        operator
            .control(Method::POST, "/faults", &json!({ "kind": "close" }))
            .await
            .0,
        200
    );
    client.introspect("garbage").await.expect_err("closed");
    assert_eq!(
        operator
            .control(Method::DELETE, "/faults", &json!(null))
            .await
            .0,
        200
    );
    assert_eq!(
        operator
            .control(Method::DELETE, "/tokens/bob", &json!(null))
            .await
            .0,
        200
    );
    assert_eq!(
        client.introspect(&token).await.expect("an answer").2,
        TRUE_ANSWER
    );

    let (status, calls) = operator.control(Method::GET, "/calls", &json!(null)).await;
    assert_eq!(status, 200);
    assert_eq!(
        (&calls["tokens"], &calls["unnamed"].as_u64()),
        (&json!({ "bob": 3 }), &Some(mas.total_calls() - 3))
    );

    for (path, wrong) in [
        ("/faults", json!({ "kind": "status" })),
        ("/faults", json!({ "kind": "explode" })),
        ("/faults", json!({ "kind": "hang", "token": "nobody" })),
        ("/faults", json!({ "kind": "hang", "tokn": "bob" })),
        ("/tokens", json!({ "name": "x" })),
    ] {
        let (status, body) = operator.control(Method::POST, path, &wrong).await;
        assert_eq!(status, 400, "{wrong}");
        assert!(
            body["error"]
                .as_str()
                .is_some_and(|error| !error.is_empty()),
            "{wrong}: {body}"
        );
    }
    assert_eq!(
        operator
            .control(Method::GET, "/nothing", &json!(null))
            .await
            .0,
        404
    );
}

#[tokio::test]
async fn a_mas_that_was_killed_comes_back_with_its_sessions() {
    let mas = start().await;
    let token = mas::token("mat", "alice");
    mas.insert(&token, Session::access("alice", "A"));
    let client = Caller::new(mas.addr());
    assert!(client.introspect(&token).await.is_ok());
    mas.take_down().await;
    assert!(client.introspect(&token).await.is_err());
    assert!(mas.is_active(&token) && !mas.is_active(&mas::token("mat", "bob")));
    for _ in 0..2 {
        mas.bring_up().await.expect("the same port");
    }
    let (status, _, body) = client.introspect(&token).await.expect("an answer");
    assert!(status == 200 && body.contains("alice"), "{status} {body}");
    mas.revoke(&token);
    assert!(!mas.is_active(&token));
}

async fn start() -> Mas {
    Mas::start(Options::default()).await.expect("a free port")
}

/// A caller with a connection pool.
#[derive(Clone)]
struct Caller {
    addr: SocketAddr,
    client: Client<HttpConnector, Full<Bytes>>,
}

/// Status, content type, body.
type Answer = Result<(StatusCode, String, String), Box<dyn std::error::Error + Send + Sync>>;

impl Caller {
    fn new(addr: SocketAddr) -> Self {
        Self {
            addr,
            client: Client::builder(TokioExecutor::new()).build_http(),
        }
    }

    fn http2(addr: SocketAddr) -> Self {
        Self {
            addr,
            client: Client::builder(TokioExecutor::new())
                .http2_only(true)
                .build_http(),
        }
    }

    /// Asks as Synapse does.
    async fn introspect(&self, token: &str) -> Answer {
        let body = String::from_utf8(mas::introspection_body(token).to_vec())?;
        self.send(
            Method::POST,
            "/oauth2/introspect",
            &format!("Bearer {DEFAULT_SECRET}"),
            body,
        )
        .await
    }

    async fn send(&self, method: Method, path: &str, authorization: &str, body: String) -> Answer {
        let request = Request::builder()
            .method(method)
            .uri(format!("http://{}{path}", self.addr))
            .header("authorization", authorization)
            .header("content-type", "application/x-www-form-urlencoded")
            .header("x-mas-supports-device-id", "1")
            .body(Full::from(body))?;
        let response = self.client.request(request).await?;
        let status = response.status();
        let content_type = response
            .headers()
            .get("content-type")
            .map(|value| value.to_str().map(str::to_owned));
        let body = response.into_body().collect().await?.to_bytes();
        Ok((
            status,
            content_type.transpose()?.unwrap_or_default(),
            String::from_utf8(body.to_vec())?,
        ))
    }

    async fn control(&self, method: Method, path: &str, body: &Value) -> (u16, Value) {
        let (status, _, body) = self
            .send(method, path, "", body.to_string())
            .await
            .expect("an answer");
        (status.as_u16(), serde_json::from_str(&body).expect("JSON"))
    }
}

fn raw_introspection(token: &str) -> Vec<u8> {
    let body = mas::introspection_body(token);
    let mut request = format!(
        "POST /oauth2/introspect HTTP/1.1\r\nhost: mas\r\nauthorization: Bearer {DEFAULT_SECRET}\r\n\
         content-type: application/x-www-form-urlencoded\r\ncontent-length: {}\r\n\r\n",
        body.len()
    )
    .into_bytes();
    request.extend_from_slice(&body);
    request
}
