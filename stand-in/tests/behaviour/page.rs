//! The page's port, without an Envoy: who is answered, what is never told, and that streams end.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{Request, StatusCode, header::HOST};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use stand_in::{
    mas::{Mas, Options},
    page::{Cache, Cast, Member, Observer, Page, Stack},
};
use tokio::net::TcpStream;

const LOOPBACK: SocketAddr =
    SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 0);
const BUTTON: (&str, &str) = ("x-page-button", "1");

struct Rig {
    mas: Arc<Mas>,
    cast: Arc<Cast>,
    page: Page,
}

async fn stack() -> Stack {
    let mas = Arc::new(Mas::start(Options::default()).await.expect("a free port"));
    // Nobody listens there: the port was free a moment ago.
    let nobody = std::net::TcpListener::bind(LOOPBACK)
        .and_then(|listener| listener.local_addr())
        .expect("a free port");
    Stack {
        cast: Arc::new(Cast::begin(Arc::clone(&mas))),
        mas,
        observer: Arc::new(Observer::default()),
        gateway: nobody,
        introspection: nobody,
        admin: nobody,
        secret: "a-secret-that-nobody-is-told".to_owned(),
        cache: Cache {
            ttl: Duration::from_secs(120),
            negative_ttl: Duration::from_secs(10),
            stale_if_error: Duration::ZERO,
        },
    }
}

async fn start() -> Rig {
    let stack = stack().await;
    Rig {
        mas: Arc::clone(&stack.mas),
        cast: Arc::clone(&stack.cast),
        page: Page::start(LOOPBACK, stack).await.expect("a free port"),
    }
}

type Answer = http::Response<hyper::body::Incoming>;

impl Rig {
    /// Sends a request, and returns the answer's head. The connection lives as long as the body.
    async fn open(&self, method: &str, path: &str, headers: &[(&str, &str)]) -> Answer {
        let stream = TcpStream::connect(self.page.addr()).await.expect("a port");
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.expect("HTTP");
        tokio::spawn(connection);
        let mut request = Request::builder().method(method).uri(path);
        if !headers.iter().any(|(name, _)| *name == "host") {
            request = request.header(HOST, self.page.addr().to_string());
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Full::<Bytes>::default()).expect("a request");
        sender.send_request(request).await.expect("an answer")
    }

    async fn send(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
    ) -> (StatusCode, String) {
        let answer = self.open(method, path, headers).await;
        let status = answer.status();
        let body = answer.into_body().collect().await.expect("a whole body");
        let body = String::from_utf8(body.to_bytes().to_vec()).expect("UTF-8");
        (status, body)
    }
}

#[tokio::test]
async fn nothing_that_is_served_holds_a_token_or_the_secret() {
    let rig = start().await;
    for button in [
        "send-alice",
        "send-new",
        "herd",
        "log-out",
        "log-in",
        "nothing",
    ] {
        let path = format!("/page/buttons/{button}");
        let (_, body) = rig.send("POST", &path, &[BUTTON]).await;
        assert_hides(&rig, &body);
    }
    for path in ["/", "/page.css", "/page.js", "/page/state", "/calls"] {
        let (status, body) = rig.send("GET", path, &[]).await;
        assert_eq!(status, 200, "{path}");
        assert_hides(&rig, &body);
    }
}

fn assert_hides(rig: &Rig, body: &str) {
    for member in Member::ALL {
        assert!(!body.contains(&rig.cast.token(member)), "{body}");
    }
    for part in ["mat_", "mct_", "a-secret-that-nobody-is-told"] {
        assert!(!body.contains(part), "{body}");
    }
}

#[tokio::test]
async fn figures_that_cannot_be_read_are_absent() {
    let rig = start().await;
    let (_, state) = rig.send("GET", "/page/state", &[]).await;
    let state: Value = serde_json::from_str(&state).expect("JSON");
    assert_eq!(state["edge"], Value::Null);
    assert_eq!(
        state["mas"],
        json!({"is_up": true, "calls": 0, "under_way": 0, "faults": []})
    );
    let (status, told) = rig
        .send("POST", "/page/buttons/send-alice", &[BUTTON])
        .await;
    assert_eq!(status, 409);
    assert!(told.contains("the edge does not answer"), "{told}");
}

#[tokio::test]
async fn pressing_often_makes_nothing_grow() {
    let rig = start().await;
    for button in ["send-new", "herd", "log-in"].repeat(40) {
        rig.send("POST", &format!("/page/buttons/{button}"), &[BUTTON])
            .await;
    }
    let (_, calls) = rig.send("GET", "/calls", &[]).await;
    let calls: Value = serde_json::from_str(&calls).expect("JSON");
    assert_eq!(
        calls["tokens"].as_object().map(|tokens| tokens.len()),
        Some(7),
        "{calls}"
    );
    let (_, state) = rig.send("GET", "/page/state", &[]).await;
    let state: Value = serde_json::from_str(&state).expect("JSON");
    assert_eq!(
        state["journal"].as_array().map(Vec::len),
        Some(40),
        "{state}"
    );
}

#[tokio::test]
async fn strangers_are_refused_on_the_whole_port() {
    let rig = start().await;
    let own = format!("http://{}", rig.page.addr());
    let foreign = ("origin", "https://attacker.example");
    let rebound = ("host", "attacker.example:18081");
    for (path, headers, expected) in [
        ("/page/buttons/kill", vec![], 403),
        ("/page/buttons/kill", vec![BUTTON, foreign], 403),
        (
            "/page/buttons/kill",
            vec![BUTTON, ("sec-fetch-site", "cross-site")],
            403,
        ),
        (
            "/page/buttons/kill",
            vec![BUTTON, ("sec-fetch-site", "same-site")],
            403,
        ),
        ("/page/buttons/kill", vec![BUTTON, rebound], 421),
        ("/users/alice/lock", vec![foreign], 403),
        ("/users/alice/lock", vec![rebound], 421),
        ("/users/alice/lock", vec![("origin", "null")], 403),
    ] {
        let (status, body) = rig.send("POST", path, &headers).await;
        assert_eq!(status, expected, "{path} {headers:?}: {body}");
    }
    assert!(rig.mas.is_up() && !rig.mas.is_locked("alice"));
    for path in ["/", "/page/state", "/page/events", "/calls"] {
        assert_eq!(rig.send("GET", path, &[rebound]).await.0, 421, "{path}");
        assert_eq!(rig.send("GET", path, &[foreign]).await.0, 403, "{path}");
    }
    let own = ("origin", own.as_str());
    let site = ("sec-fetch-site", "same-origin");
    let headers = [BUTTON, own, site];
    let (status, _) = rig.send("POST", "/page/buttons/kill", &headers).await;
    assert_eq!(status, 200);
    assert!(!rig.mas.is_up());
    // A program in a terminal sends neither.
    assert_eq!(rig.send("POST", "/users/alice/lock", &[]).await.0, 200);
    assert!(rig.mas.is_locked("alice"));
}

#[tokio::test]
async fn the_control_interface_without_a_page_refuses_strangers_too() {
    let mas = Mas::start(Options::default()).await.expect("a free port");
    let control = mas.control(LOOPBACK).await.expect("a free port");
    let stream = TcpStream::connect(control.addr()).await.expect("a port");
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.expect("HTTP");
    tokio::spawn(connection);
    let request = Request::post("/users/alice/lock")
        .header(HOST, control.addr().to_string())
        .header("origin", "https://attacker.example")
        .body(Full::<Bytes>::default())
        .expect("a request");
    assert_eq!(
        sender
            .send_request(request)
            .await
            .expect("an answer")
            .status(),
        403
    );
    assert!(!mas.is_locked("alice"));
}

#[tokio::test]
async fn other_machines_cannot_reach_it() {
    let everywhere = SocketAddr::from(([0, 0, 0, 0], 0));
    let stack = stack().await;
    let kind = |error: std::io::Error| error.kind();
    let refused = stack.mas.control(everywhere).await.map_err(kind);
    assert_eq!(refused.err(), Some(std::io::ErrorKind::InvalidInput));
    let refused = Page::start(everywhere, stack).await.map_err(kind);
    assert_eq!(refused.err(), Some(std::io::ErrorKind::InvalidInput));
}

#[tokio::test]
async fn the_page_is_not_framed_and_loads_nothing_from_elsewhere() {
    let rig = start().await;
    let answer = rig.open("GET", "/", &[]).await;
    let policy = answer.headers()["content-security-policy"]
        .to_str()
        .expect("ASCII");
    for rule in [
        "default-src 'none'",
        "frame-ancestors 'none'",
        "script-src 'self'",
    ] {
        assert!(policy.contains(rule), "{policy}");
    }
    assert_eq!(answer.headers()["x-frame-options"], "DENY");
    assert!(!answer.headers().contains_key("access-control-allow-origin"));
}

#[tokio::test]
async fn a_stream_tells_each_change_and_ends_with_its_connection() {
    let rig = start().await;
    let next = async |stream: &mut Answer| loop {
        let frame = tokio::time::timeout(Duration::from_secs(30), stream.body_mut().frame());
        let frame = frame.await.expect("in time").expect("more").expect("whole");
        let text = frame.into_data().expect("data");
        // Between events there are signs of life.
        if let Some(event) = text.strip_prefix(b"data: ") {
            return serde_json::from_slice::<Value>(event).expect("JSON");
        }
    };
    let mut streams = Vec::new();
    for _ in 0..16 {
        let mut stream = rig.open("GET", "/page/events", &[]).await;
        assert_eq!(stream.status(), 200);
        assert_eq!(stream.headers()["content-type"], "text/event-stream");
        assert_eq!(next(&mut stream).await["mas"]["is_up"], true);
        streams.push(stream);
    }
    rig.send("POST", "/page/buttons/kill", &[BUTTON]).await;
    for stream in &mut streams {
        while next(stream).await["mas"]["is_up"] == true {}
    }
    assert_eq!(rig.send("GET", "/page/events", &[]).await.0, 503);
    drop(streams);
    // The other end learns of it when the connection's task runs next.
    let opened = async {
        while rig.open("GET", "/page/events", &[]).await.status() != 200 {
            tokio::task::yield_now().await;
        }
    };
    let opened = tokio::time::timeout(Duration::from_secs(30), opened).await;
    opened.expect("a place is free");
}
