//! Sessions that end while the gateway looks on: logouts and revocations on their way to MAS, and tokens that
//! the homeserver refuses.

use std::{
    net::{SocketAddr, TcpListener},
    time::Duration,
};

use base64ct::{Base64, Encoding};
use serde_json::{Value, json};
use stand_in::mas::{
    Client, DEFAULT_CLIENT_ID, DEFAULT_CLIENT_SECRET, Database, Fault, Options, Session,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{Instant, sleep},
};

use super::{
    edge::{Edge, WHOAMI, assert_not_active, new_token},
    http2::Http2,
    workers::{POLL, WORKERS, ask_until, connections, decided},
};
use crate::support::{
    envoy::bootstrap,
    http::{Connection, Request, Response, within_limit},
    product_time::Moment,
};

const VERSIONS: [&str; 4] = ["r0", "v1", "v3", "unstable"];

/// A client that authenticates in the form.
pub const POST_CLIENT: (&str, &str) = ("0000000000000000000000POST", "post-client-secret");

const REFUSAL: &str =
    r#"{"errcode":"M_UNKNOWN_TOKEN","error":"Token is not active","soft_logout":false}"#;

/// Starts the edge with four workers, in front of MAS as well. MAS tells the homeserver nothing.
async fn start(options: Options) -> Edge {
    Edge::start_with(json!({}), options, |builder| {
        builder.balanced().bootstrap(route_to_mas)
    })
    .await
}

/// MAS ends the session, and its client does not wait for the answer.
#[tokio::test]
async fn a_logout_whose_client_hangs_up_ends_the_session_at_the_edge() {
    end_without_an_answer(HangsUp::Client).await;
}

/// MAS ends the session, and fails before it answers.
#[tokio::test]
async fn a_logout_that_mas_does_not_answer_ends_the_session_at_the_edge() {
    end_without_an_answer(HangsUp::Mas).await;
}

/// MAS says that it has the request, which is no answer yet, and fails.
#[tokio::test]
async fn a_logout_that_mas_begins_to_answer_ends_the_session_at_the_edge() {
    end_without_an_answer(HangsUp::MasAfterHints).await;
}

/// MAS ends the session, and takes too long to say so.
#[tokio::test]
async fn a_logout_that_times_out_ends_the_session_at_the_edge() {
    end_without_an_answer(HangsUp::Envoy).await;
}

/// Who ends a request that has no answer yet.
#[derive(Clone, Copy, PartialEq)]
enum HangsUp {
    Client,
    Mas,
    /// After a response of 103.
    MasAfterHints,
    /// By its route's timeout.
    Envoy,
}

/// The edge notices that there is no answer, and is told once more that the session is active, before MAS ends it.
async fn end_without_an_answer(who: HangsUp) {
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await;
    let silent = silent.expect("a free port");
    let addr = silent.local_addr().expect("it is bound");
    let edge = Edge::start_with(json!({}), options(), |builder| {
        builder.balanced().bootstrap(move |config| {
            let is_timed = who == HangsUp::Envoy;
            route_to_silence(config, addr, if is_timed { "0.5s" } else { "0s" });
        })
    })
    .await;
    let mut connections = connections(&edge, 1).await;
    for revokes in [false, true] {
        let token = compat(&edge, "alice");
        hold_everywhere(&edge, &mut connections, &token).await;
        let request = if revokes {
            revocation_with_post(&token)
        } else {
            logout("v3", &token)
        };
        let mut client = TcpStream::connect(edge.envoy.addr())
            .await
            .expect("Envoy listens");
        let sent = client.write_all(&request.to_bytes()).await;
        sent.expect("Envoy reads");
        let (mut upstream, _) = silent.accept().await.expect("Envoy connects");
        let mut seen = Vec::new();
        // Its body as well, if it has one.
        let end = if revokes {
            token.as_bytes()
        } else {
            b"\r\n\r\n"
        };
        while !seen.windows(end.len()).any(|part| part == end) {
            let read = upstream.read_buf(&mut seen).await;
            assert_ne!(read.expect("Envoy sends"), 0);
        }
        match who {
            HangsUp::Client => drop(client),
            HangsUp::Mas => drop(upstream),
            HangsUp::MasAfterHints => {
                let hints = upstream.write_all(b"HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n");
                hints.await.expect("Envoy reads");
                drop(upstream);
            }
            HangsUp::Envoy => {}
        }
        let reason = if revokes { "revocation" } else { "logout" };
        within_limit("the end to be noticed", async {
            let name = "matrix_edge_auth_invalidations_total";
            while edge
                .envoy
                .stats_so_far()
                .await
                .sum(name, &[("reason", reason)])
                == 0.0
            {
                sleep(POLL).await;
            }
        })
        .await;
        for connection in &mut connections {
            assert_eq!(whoami(connection, &token).await.status, 200);
        }
        edge.mas.revoke_unannounced(&token);
        for connection in &mut connections {
            ask_until(connection, &token, "the end", |it| it.status == 401).await;
        }
    }
    edge.assert_alive().await;
}

/// What MAS serves of the homeserver's host and of its own. A request with `x-gone` leads nowhere.
pub fn route_to_mas(config: &mut Value) {
    // Nobody listens there any longer.
    let gone = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
    let gone = bootstrap::static_cluster("gone", gone.expect("a free port"));
    bootstrap::clusters(config).push(gone);
    let logout = "/_matrix/client/[^/]+/logout(/all)?";
    let manager = bootstrap::http_manager(config);
    let routes = &mut manager["route_config"]["virtual_hosts"][0]["routes"];
    let routes = routes.as_array_mut().expect("routes is a list");
    let gone = json!({"prefix": "/", "headers": [{"name": "x-gone", "present_match": true}]});
    for (at, (of, cluster)) in [
        (gone, "gone"),
        (json!({"safe_regex": {"regex": logout}}), "mas"),
        (json!({"prefix": "/oauth2/"}), "mas"),
    ]
    .into_iter()
    .enumerate()
    {
        let route = json!({"match": of, "route": {"cluster": cluster, "timeout": "0s"}});
        routes.insert(at, route);
    }
}

/// The same, with a stand-in for MAS at `addr` that answers nothing, and the timeout of these routes.
pub fn route_to_silence(config: &mut Value, addr: SocketAddr, timeout: &str) {
    route_to_mas(config);
    let cluster = bootstrap::static_cluster("silent", addr);
    bootstrap::clusters(config).push(cluster);
    let manager = bootstrap::http_manager(config);
    let routes = &mut manager["route_config"]["virtual_hosts"][0]["routes"];
    for route in routes.as_array_mut().expect("a list") {
        if route["route"]["cluster"] == "mas" {
            route["route"] = json!({"cluster": "silent", "timeout": timeout});
        }
    }
}

fn options() -> Options {
    let mut options = Options::default();
    options
        .clients
        .push(Client::post(POST_CLIENT.0, POST_CLIENT.1));
    options
}

/// A new token of a compat session.
pub fn compat(edge: &Edge, username: &str) -> String {
    let token = new_token("mct");
    let device = format!("OF_{token}");
    edge.mas.insert(&token, Session::compat(username, &device));
    token
}

/// A new token of a session of an OAuth 2.0 client.
fn of_client(edge: &Edge, client: &str) -> String {
    let token = new_token("mat");
    let session = Session::access("alice", &token).client_id(client);
    edge.mas.insert(&token, session);
    token
}

pub fn logout(version: &str, token: &str) -> Request {
    Request::new("POST", format!("/_matrix/client/{version}/logout")).bearer(token)
}

fn revocation(form: &[(&str, &str)]) -> Request {
    let mut body = form_urlencoded::Serializer::new(String::new());
    body.extend_pairs(form);
    let content_type = "application/x-www-form-urlencoded";
    Request::post("/oauth2/revoke", content_type, body.finish())
}

fn revocation_with_basic(token: &str) -> Request {
    let credential = format!("{DEFAULT_CLIENT_ID}:{DEFAULT_CLIENT_SECRET}");
    let credential = Base64::encode_string(credential.as_bytes());
    revocation(&[("token", token), ("token_type_hint", "access_token")])
        .header("Authorization", format!("Basic {credential}"))
}

pub fn revocation_with_post(token: &str) -> Request {
    let (id, secret) = POST_CLIENT;
    revocation(&[
        ("client_id", id),
        ("client_secret", secret),
        ("token", token),
    ])
}

#[tokio::test]
async fn the_next_request_of_a_session_that_ended_is_rejected() {
    let edge = start(options()).await;
    let mut connections = connections(&edge, 1).await;
    let bystander = compat(&edge, "alice");
    hold_everywhere(&edge, &mut connections, &bystander).await;
    let mut ends = Vec::new();
    for version in VERSIONS {
        let token = compat(&edge, "alice");
        ends.push((logout(version, &token), token));
    }
    let token = compat(&edge, "alice");
    // MAS takes the scheme in any case.
    let lower = Request::new("POST", "/_matrix/client/v3/logout?x=y")
        .header("authorization", format!("bearer {token}"))
        .body("{}");
    ends.push((lower, token));
    let token = of_client(&edge, DEFAULT_CLIENT_ID);
    ends.push((revocation_with_basic(&token), token));
    let token = of_client(&edge, POST_CLIENT.0);
    ends.push((revocation_with_post(&token), token));
    for (number, (end, token)) in ends.iter().enumerate() {
        hold_everywhere(&edge, &mut connections, token).await;
        // Each worker's turn.
        let at = number % WORKERS;
        let response = connections[at].request(end).await;
        assert_eq!(response.status, 200, "{number}: {response:?}");
        assert_not_active(&whoami(&mut connections[at], token).await);
        assert_eq!(edge.mas.calls(token), 2, "{number}");
        for connection in &mut connections {
            let rejected = ask_until(connection, token, "a 401", |r| r.status != 200).await;
            assert_not_active(&rejected);
        }
        assert_eq!(edge.mas.calls(token), 2, "{number}");
    }
    for connection in &mut connections {
        assert_eq!(whoami(connection, &bystander).await.status, 200);
    }
    assert_eq!(edge.mas.calls(&bystander), 1);
    edge.assert_alive().await;
}

/// Over HTTP/1.1 MAS has all of a body when it has as many bytes as the head says, and answers. The client's own end of the HTTP/2
/// stream comes later, or never.
#[tokio::test]
async fn an_end_counts_whenever_the_client_ends_its_request() {
    let edge = start(options()).await;
    let mut connections = connections(&edge, 1).await;
    let (id, secret) = POST_CLIENT;
    for ends in [false, true] {
        for revokes in [false, true] {
            let (path, token) = if revokes {
                ("/oauth2/revoke", of_client(&edge, id))
            } else {
                ("/_matrix/client/v3/logout", compat(&edge, "alice"))
            };
            hold_everywhere(&edge, &mut connections, &token).await;
            let authorization = format!("Bearer {token}");
            let form = format!("client_id={id}&client_secret={secret}&token={token}");
            let body = if revokes { form.as_str() } else { "{}" };
            let length = body.len().to_string();
            let mut fields = vec![("content-length", &*length)];
            if revokes {
                fields.push(("content-type", "application/x-www-form-urlencoded"));
            } else {
                fields.push(("content-type", "application/json"));
                fields.push(("authorization", &authorization));
            }
            let mut http2 = Http2::open(edge.envoy.addr()).await;
            let stream = http2.begin_post(path, &fields, body.as_bytes()).await;
            http2.answer_begins().await;
            if ends {
                http2.end(stream).await;
            }
            for connection in &mut connections {
                let rejected = ask_until(connection, &token, "a 401", |r| r.status != 200).await;
                assert_not_active(&rejected);
            }
        }
    }
    edge.assert_alive().await;
}

/// MAS ends a session when it has the head of a logout. Envoy or the module answers the client by itself, if it is still there.
#[tokio::test]
async fn a_logout_counts_whose_body_does_not_come_or_is_broken() {
    let separators = ["-", "_", ".", "~", "!"];
    let spellings = separators
        .iter()
        .flat_map(|a| separators.map(|b| format!("x{a}matrix{b}user-id: a\r\n")));
    let trailers: String = spellings.collect();
    let trailers = format!("2\r\n{{}}\r\n0\r\n{trailers}\r\n");
    let mut statuses = Vec::new();
    for rest in [None, Some("nothing of a chunk\r\n"), Some(&*trailers)] {
        statuses.push(logout_without_a_good_body(rest).await);
    }
    assert_eq!(statuses, [None, Some(400), Some(431)]);
}

/// A logout whose client sends this behind the head, or else hangs up. Returns what it is answered.
async fn logout_without_a_good_body(rest: Option<&str>) -> Option<u16> {
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await;
    let silent = silent.expect("a free port");
    let addr = silent.local_addr().expect("it is bound");
    let edge = Edge::start_with(json!({}), options(), |builder| {
        builder.balanced().bootstrap(move |config| {
            route_to_silence(config, addr, "0s");
            bootstrap::http_manager(config)["http_protocol_options"] =
                json!({"enable_trailers": true});
        })
    })
    .await;
    let mut connections = connections(&edge, 1).await;
    let token = compat(&edge, "alice");
    hold_everywhere(&edge, &mut connections, &token).await;
    let head = format!(
        "POST /_matrix/client/v3/logout HTTP/1.1\r\nhost: matrix.example.org\r\nauthorization: Bearer {token}\r\n\
         transfer-encoding: chunked\r\n\r\n"
    );
    let mut client = TcpStream::connect(edge.envoy.addr())
        .await
        .expect("Envoy listens");
    client
        .write_all(head.as_bytes())
        .await
        .expect("Envoy reads");
    let (mut upstream, _) = silent.accept().await.expect("Envoy connects");
    let mut seen = Vec::new();
    while !seen.windows(4).any(|part| part == b"\r\n\r\n") {
        let read = upstream.read_buf(&mut seen).await;
        assert_ne!(read.expect("Envoy sends"), 0);
    }
    edge.mas.revoke_unannounced(&token);
    let status = match rest {
        Some(rest) => {
            let sent = client.write_all(rest.as_bytes()).await;
            sent.expect("Envoy reads");
            Some(status_of_answer(&mut client).await)
        }
        None => {
            drop(client);
            None
        }
    };
    for connection in &mut connections {
        let rejected = ask_until(connection, &token, "a 401", |r| r.status != 200).await;
        assert_not_active(&rejected);
    }
    edge.assert_alive().await;
    status
}

/// Reads the first line of a response.
async fn status_of_answer(client: &mut TcpStream) -> u16 {
    let mut seen = Vec::new();
    within_limit("an answer", async {
        while !seen.contains(&b'\n') {
            let read = client.read_buf(&mut seen).await;
            assert_ne!(read.expect("Envoy answers"), 0);
        }
    })
    .await;
    let text = String::from_utf8_lossy(&seen);
    let status = text.split(' ').nth(1).expect("a status");
    status.parse().expect("a number")
}

#[tokio::test]
async fn a_logout_from_everywhere_ends_all_sessions_of_the_user() {
    let options = Options {
        logout_all: true,
        ..options()
    };
    let edge = start(options).await;
    let mut connections = connections(&edge, 1).await;
    for version in VERSIONS {
        let username = version.replace('/', "-");
        let [own, other] = [(); 2].map(|()| compat(&edge, &username));
        let oauth = edge.active(&username, "OAUTH");
        let bystander = compat(&edge, "bystander");
        for token in [&own, &other, &oauth, &bystander] {
            hold_everywhere(&edge, &mut connections, token).await;
        }
        let path = format!("/_matrix/client/{version}/logout/all");
        let everywhere = Request::new("POST", path).bearer(&own);
        let response = connections[2].request(&everywhere).await;
        assert_eq!(response.status, 200, "{response:?}");
        // The module counts time in milliseconds, and answers of the same one may be from before.
        sleep(Duration::from_millis(1)).await;
        for token in [&own, &other] {
            assert_not_active(&whoami(&mut connections[2], token).await);
            for connection in &mut connections {
                ask_until(connection, token, "a 401", |r| r.status == 401).await;
            }
        }
        for connection in &mut connections {
            // Not a compat session: MAS is asked, and says so.
            assert_eq!(whoami(connection, &oauth).await.status, 200);
            assert_eq!(whoami(connection, &bystander).await.status, 200);
        }
        let calls = [&own, &other, &oauth, &bystander].map(|token| edge.mas.calls(token));
        assert_eq!(calls, [2, 2, 2, 1], "{version}");
    }
    edge.assert_alive().await;
}

/// No worker holds the token that logs out, and MAS says whose it is while the logout waits.
#[tokio::test]
async fn a_logout_from_everywhere_by_an_unknown_token_ends_all_sessions_of_the_user() {
    const WITHIN: Duration = Duration::from_secs(1);
    let options = Options {
        logout_all: true,
        ..options()
    };
    let edge = start(options).await;
    let mut connections = connections(&edge, 1).await;
    for at in 0..WORKERS {
        let username = format!("user{at}");
        let [unknown, known] = [(); 2].map(|()| compat(&edge, &username));
        let bystander = compat(&edge, "bystander");
        for token in [&known, &bystander] {
            hold_everywhere(&edge, &mut connections, token).await;
        }
        let everywhere = Request::post("/_matrix/client/v3/logout/all", "application/json", "{}");
        let everywhere = everywhere.bearer(&unknown);
        let response = connections[at].request(&everywhere).await;
        let replied = Moment::now();
        assert_eq!(response.status, 200, "{response:?}");
        // The module counts time in milliseconds, and answers of the same one may be from before.
        sleep(Duration::from_millis(1)).await;
        for token in [&known, &unknown] {
            for connection in &mut connections {
                ask_until(connection, token, "a 401", |r| r.status == 401).await;
            }
        }
        assert!(replied.elapsed() < WITHIN, "{:?}", replied.elapsed());
        for connection in &mut connections {
            assert_eq!(whoami(connection, &bystander).await.status, 200);
        }
        let calls = [&known, &unknown, &bystander].map(|token| edge.mas.calls(token));
        assert_eq!(calls, [2, 2, 1], "worker {at}");
    }
    edge.assert_alive().await;
}

/// Whatever becomes of the question, MAS judges the logout itself.
#[tokio::test]
async fn a_logout_from_everywhere_is_never_rejected_by_the_edge() {
    let options = Options {
        logout_all: true,
        ..options()
    };
    let edge = start(options).await;
    let everywhere = |token: &str| {
        let request = Request::post("/_matrix/client/v3/logout/all", "application/json", "{}");
        request.bearer(token)
    };
    // An unknown token.
    let response = edge.send(&everywhere(&new_token("mct"))).await;
    assert_eq!(response.status, 401);
    assert_eq!(edge.mas.total_calls(), 1);
    // A question without an answer.
    for fault in [
        Fault::status(500, ""),
        Fault::html(),
        Fault::reset_mid_body(),
    ] {
        let token = compat(&edge, "alice");
        edge.mas.fault(fault.for_token(&token).times(1));
        let response = edge.send(&everywhere(&token)).await;
        assert_eq!(response.status, 200, "{response:?}");
    }
    let stats = edge.envoy.stats().await;
    assert_eq!(stats.sum("matrix_edge_auth_rejections_total", &[]), 0.0);
    edge.assert_alive().await;
}

#[tokio::test]
async fn an_answer_from_before_the_end_serves_nobody() {
    let edge = start(options()).await;
    let mut connections = connections(&edge, 1).await;
    let [one, two] = [compat(&edge, "alice"), of_client(&edge, DEFAULT_CLIENT_ID)];
    for (token, end) in [
        (&one, logout("v3", &one)),
        (&two, revocation_with_basic(&two)),
    ] {
        // What MAS said before the session ended arrives after that.
        let before =
            json!({"active": true, "username": "alice", "scope": "urn:matrix:client:api:*"});
        edge.mas.fault(
            Fault::status(200, before.to_string())
                .for_token(token)
                .times(1),
        );
        let (forwarded, calls) = (edge.homeserver.count(), edge.mas.total_calls());
        let hold = edge.mas.hold();
        for connection in &mut connections[..2] {
            let request = Request::get(WHOAMI).bearer(token);
            connection.send(&request.to_bytes()).await;
        }
        edge.wait_for_calls(calls + 1).await;
        let response = connections[3].request(&end).await;
        assert_eq!(response.status, 200, "{response:?}");
        hold.release();
        for connection in &mut connections[..2] {
            assert_not_active(&connection.response(false).await);
        }
        for connection in &mut connections {
            assert_not_active(&whoami(connection, token).await);
        }
        assert_eq!(edge.mas.calls(token), 2);
        assert_eq!(edge.homeserver.count(), forwarded);
    }
    edge.assert_alive().await;
}

/// An edge, connections to its workers, and a compat and an OAuth token of which every worker holds the answer for itself.
async fn held() -> (Edge, Vec<Connection>, [String; 2]) {
    let options = Options {
        pool_timeout: POLL,
        ..options()
    };
    let edge = start(options).await;
    let mut connections = connections(&edge, 1).await;
    let tokens = [compat(&edge, "alice"), of_client(&edge, DEFAULT_CLIENT_ID)];
    for token in &tokens {
        hold_everywhere(&edge, &mut connections, token).await;
    }
    (edge, connections, tokens)
}

#[tokio::test]
async fn what_does_not_end_a_session_changes_nothing() {
    let (edge, mut connections, [compat, oauth]) = held().await;
    let end = Request::new("POST", "/_matrix/client/v3/logout");
    for (request, status) in [
        (end.clone(), 401),
        (end.header("X-Token", &compat), 401),
        (
            Request::get("/_matrix/client/v3/logout").bearer(&compat),
            405,
        ),
        // Not served.
        (
            Request::new("POST", "/_matrix/client/v3/logout/all").bearer(&compat),
            404,
        ),
        (
            Request::new("POST", "/_matrix/client/v3/logout")
                .bearer(&compat)
                .header("X-Gone", "1"),
            503,
        ),
        // Another client's token, and no client.
        (revocation_with_post(&oauth), 401),
        (revocation(&[("token", &oauth)]), 400),
        (revocation_with_basic(&oauth).header("X-Gone", "1"), 503),
    ] {
        let response = connections[0].request(&request).await;
        assert_eq!(response.status, status, "{response:?}");
    }
    assert_untouched(&edge, &mut connections, &[&compat, &oauth]).await;
}

/// MAS answers 401 to the logout of an OAuth session, which lives on, and 500 while it has no database, which may have written the
/// end.
#[tokio::test]
async fn a_logout_that_mas_does_not_carry_out_has_the_next_request_ask() {
    let (edge, mut connections, [compat, oauth]) = held().await;
    for _ in 0..3 {
        let refused = connections[0].request(&logout("v3", &oauth)).await;
        assert_eq!(refused.status, 401, "{refused:?}");
        assert_eq!(whoami(&mut connections[0], &oauth).await.status, 200);
        assert_eq!(edge.mas.calls(&oauth), 2, "once in a while");
    }
    edge.mas.set_database(Database::Down);
    let failed = connections[0].request(&logout("v3", &compat)).await;
    assert_eq!(failed.status, 500, "{failed:?}");
    edge.mas.set_database(Database::Up);
    for connection in &mut connections {
        ask_until(connection, &compat, "MAS's answer", |response| {
            response.status == 200 && edge.mas.calls(&compat) > 1
        })
        .await;
    }
    edge.assert_alive().await;
}

#[tokio::test]
async fn a_token_that_the_homeserver_refuses_is_asked_about_again() {
    let edge = start(options()).await;
    let mut connections = connections(&edge, 1).await;
    let [active, ended] = [(); 2].map(|()| compat(&edge, "alice"));
    for token in [&active, &ended] {
        hold_everywhere(&edge, &mut connections, token).await;
    }
    edge.mas.revoke_unannounced(&ended);
    for (token, status) in [(&active, 200), (&ended, 401)] {
        edge.homeserver.respond(WHOAMI, 401, REFUSAL);
        let refused = whoami(&mut connections[0], token).await;
        assert_eq!((refused.status, refused.text()), (401, REFUSAL));
        assert_eq!(edge.mas.calls(token), 1, "only the next request asks");
        edge.homeserver.clear_responses();
        let forwarded = edge.homeserver.count();
        let next = whoami(&mut connections[0], token).await;
        assert_eq!(next.status, status);
        assert_eq!(edge.mas.calls(token), 2);
        if status == 401 {
            assert_not_active(&next);
            assert_eq!(edge.homeserver.count(), forwarded);
        }
        for connection in &mut connections {
            ask_until(connection, token, "the same", |r| r.status == status).await;
        }
        assert_eq!(edge.mas.calls(token), 2);
    }

    // A homeserver that has kept an answer from before may refuse for minutes.
    let token = compat(&edge, "alice");
    hold_everywhere(&edge, &mut connections, &token).await;
    edge.homeserver.respond(WHOAMI, 401, REFUSAL);
    for _ in 0..50 {
        for connection in &mut connections {
            assert_eq!(whoami(connection, &token).await.text(), REFUSAL);
        }
    }
    let calls = edge.mas.calls(&token);
    println!("{calls} calls for 200 refusals by {WORKERS} workers");
    assert!(calls <= 1 + WORKERS as u64, "{calls}");
    edge.homeserver.clear_responses();
    for connection in &mut connections {
        assert_eq!(whoami(connection, &token).await.status, 200);
    }
    edge.assert_alive().await;
}

#[tokio::test]
async fn other_answers_of_the_homeserver_change_nothing() {
    let edge = start(options()).await;
    let mut connections = connections(&edge, 1).await;
    let token = compat(&edge, "alice");
    hold_everywhere(&edge, &mut connections, &token).await;
    for status in [403, 404, 500, 200] {
        edge.homeserver.respond(WHOAMI, status, REFUSAL);
        for connection in &mut connections {
            let response = whoami(connection, &token).await;
            assert_eq!((response.status, response.text()), (status, REFUSAL));
        }
    }
    // About nobody's token: without one, with one that the edge does not know.
    edge.homeserver
        .respond("/_matrix/client/versions", 401, REFUSAL);
    for request in [
        Request::get("/_matrix/client/versions"),
        Request::get("/_matrix/client/versions").bearer("an-appservice-token"),
    ] {
        let response = connections[0].request(&request).await;
        assert_eq!(response.status, 401);
    }
    edge.homeserver.clear_responses();
    assert_untouched(&edge, &mut connections, &[&token]).await;
}

#[tokio::test]
async fn revoking_tokens_that_nobody_knows_changes_nothing() {
    const TOKENS: usize = 10_000;
    let edge = start(options()).await;
    let mut connections = connections(&edge, 4).await;
    let token = compat(&edge, "alice");
    hold_everywhere(&edge, &mut connections[..WORKERS], &token).await;
    let memory = edge.envoy.stat("server.memory_allocated").await;
    for _ in 0..TOKENS / connections.len() {
        for connection in &mut connections {
            let request = revocation_with_basic(&new_token("mat"));
            connection.send(&request.to_bytes()).await;
        }
        for connection in &mut connections {
            assert_eq!(connection.response(false).await.status, 200);
        }
    }
    let grown = edge.envoy.stat("server.memory_allocated").await;
    println!("{} KiB more", grown.saturating_sub(memory) / 1024);
    assert_untouched(&edge, &mut connections[..WORKERS], &[&token]).await;
}

/// MAS answers 200 to the revocation of a compat token, and lets it live.
#[tokio::test]
async fn revocations_that_end_nothing_cost_few_questions() {
    const ROUNDS: u32 = 100;
    let edge = start(options()).await;
    let mut connection = Connection::open(edge.envoy.addr()).await;
    let token = compat(&edge, "alice");
    assert_eq!(whoami(&mut connection, &token).await.status, 200);
    let begun = Instant::now();
    for _ in 0..ROUNDS {
        let revoked = connection.request(&revocation_with_post(&token)).await;
        assert_eq!(revoked.status, 200);
        assert_eq!(whoami(&mut connection, &token).await.status, 200);
    }
    let calls = edge.mas.calls(&token);
    let ticks = begun.elapsed().as_millis() as u64 / 250;
    println!("{calls} calls for {ROUNDS} revocations in {ticks} ticks");
    // The first one, the first end, and one for each tick.
    assert!(calls <= 2 + ticks + 1, "{calls}");
    // The last one acts as well.
    let calls = edge.mas.calls(&token);
    assert_eq!(
        connection
            .request(&revocation_with_post(&token))
            .await
            .status,
        200
    );
    ask_until(&mut connection, &token, "a new question", |_| {
        edge.mas.calls(&token) > calls
    })
    .await;
    edge.assert_alive().await;
}

/// Checks that every worker goes on with what it holds of these tokens, and that nothing was ended.
async fn assert_untouched(edge: &Edge, connections: &mut [Connection], tokens: &[&String]) {
    let before = decided(edge, "active", "local").await;
    for token in tokens {
        for connection in &mut *connections {
            assert_eq!(whoami(connection, token).await.status, 200);
        }
        assert_eq!(edge.mas.calls(token), 1);
    }
    let own = decided(edge, "active", "local").await - before;
    assert_eq!(own, (tokens.len() * WORKERS) as f64);
    let stats = edge.envoy.stats().await;
    assert_eq!(stats.sum("matrix_edge_auth_invalidations_total", &[]), 0.0);
    edge.assert_alive().await;
}

/// Has every worker hold the answer about a token for itself, after one call.
async fn hold_everywhere(edge: &Edge, connections: &mut [Connection], token: &str) {
    for _ in 0..2 {
        for connection in &mut *connections {
            assert_eq!(whoami(connection, token).await.status, 200);
        }
    }
    assert_eq!(edge.mas.calls(token), 1);
}

async fn whoami(connection: &mut Connection, token: &str) -> Response {
    connection
        .request(&Request::get(WHOAMI).bearer(token))
        .await
}
