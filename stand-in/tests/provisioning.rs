//! What the stand-in MAS tells its homeserver: which event makes which calls, byte for byte, and how they are made.

#![expect(clippy::expect_used, reason = "a test file")]

use std::{net::SocketAddr, time::Duration};

use bytes::Bytes;
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use stand_in::{
    SeenRequest,
    homeserver::Homeserver,
    mas::{self, DEFAULT_SECRET, Mas, Options, Session},
};
use tokio::net::TcpListener;

const DELETE_DEVICE: &str = "/_synapse/mas/delete_device";
const DELETE_USER: &str = "/_synapse/mas/delete_user";
const PROVISION_USER: &str = "/_synapse/mas/provision_user";
const REACTIVATE_USER: &str = "/_synapse/mas/reactivate_user";
const SYNC_DEVICES: &str = "/_synapse/mas/sync_devices";
const UPSERT_DEVICE: &str = "/_synapse/mas/upsert_device";

/// The first attempt and those after it.
const ATTEMPTS: u64 = 6;

#[tokio::test]
async fn a_call_carries_the_secret_and_compact_json() {
    let (mas, homeserver) = start().await;
    mas.insert("phone", Session::access("alice", "PHONE"));
    mas.revoke("phone");
    mas.wait_for_provisioning(1).await;
    let requests = homeserver.requests();
    let [request] = requests.as_slice() else {
        panic!("one request: {requests:?}");
    };
    assert_eq!(
        (request.method.as_str(), request.target.as_str()),
        ("POST", SYNC_DEVICES)
    );
    assert_eq!(
        request.header("authorization"),
        Some(format!("Bearer {DEFAULT_SECRET}").as_bytes())
    );
    assert_eq!(
        request.header("content-type"),
        Some(b"application/json".as_slice())
    );
    assert_eq!(
        request.body,
        br#"{"localpart":"alice","devices":[]}"#.as_slice()
    );

    let calls = mas.provisioning();
    let [call] = calls.as_slice() else {
        panic!("one call: {calls:?}");
    };
    assert_eq!((call.path, call.status), (SYNC_DEVICES, Some(200)));
    assert_eq!(call.body.as_bytes(), request.body);
    assert!(call.sent <= call.ended, "{call:?}");
}

#[tokio::test]
async fn every_end_of_a_session_names_the_devices_that_remain() {
    let (mas, homeserver) = start_with(Options {
        clients: vec![mas::Client::public("app")],
        logout_all: true,
        ..Options::default()
    })
    .await;
    for (token, session) in [
        ("tablet", Session::access("alice", "TABLET")),
        ("web", Session::access("alice", "WEB").client_id("app")),
        ("script", Session::personal("alice", "SCRIPT")),
        ("old1", Session::compat("alice", "OLD 1")),
        ("old2", Session::compat("alice", "OLD 2")),
        ("old3", Session::compat("alice", "OLD 3")),
        ("phone", Session::access("alice", "PHONE")),
        ("bob", Session::access("bob", "PHONE2")),
    ] {
        mas.insert(token, session);
    }
    mas.revoke("tablet");
    mas.wait_until_provisioned().await;
    revoke(&mas, "app", "web").await;
    mas.wait_until_provisioned().await;
    mas.revoke("script");
    mas.wait_until_provisioned().await;
    assert_eq!(log_out(&mas, "logout", "old2").await, StatusCode::OK);
    mas.wait_until_provisioned().await;
    assert_eq!(log_out(&mas, "logout/all", "old1").await, StatusCode::OK);
    mas.wait_until_provisioned().await;
    assert_eq!(
        calls(&homeserver),
        [
            r#"sync_devices {"localpart":"alice","devices":["OLD 1","OLD 2","OLD 3","PHONE","SCRIPT","WEB"]}"#,
            r#"sync_devices {"localpart":"alice","devices":["OLD 1","OLD 2","OLD 3","PHONE","SCRIPT"]}"#,
            r#"sync_devices {"localpart":"alice","devices":["OLD 1","OLD 2","OLD 3","PHONE"]}"#,
            r#"sync_devices {"localpart":"alice","devices":["OLD 1","OLD 3","PHONE"]}"#,
            r#"sync_devices {"localpart":"alice","devices":["PHONE"]}"#,
        ]
    );
}

#[tokio::test]
async fn a_device_stays_while_a_session_has_it() {
    let (mas, homeserver) = start().await;
    mas.insert("phone", Session::access("alice", "PHONE"));
    mas.insert("phone again", Session::compat("alice", "PHONE"));
    mas.insert("no device", Session::access("alice", "").no_device());
    mas.insert("expired", Session::access("alice", "TABLET").expired());
    for token in ["phone", "no device", "phone again", "expired"] {
        mas.revoke(token);
        mas.wait_until_provisioned().await;
    }
    assert_eq!(
        calls(&homeserver),
        [
            r#"sync_devices {"localpart":"alice","devices":["PHONE","TABLET"]}"#,
            r#"sync_devices {"localpart":"alice","devices":["PHONE","TABLET"]}"#,
            r#"sync_devices {"localpart":"alice","devices":["TABLET"]}"#,
            r#"sync_devices {"localpart":"alice","devices":[]}"#,
        ]
    );
}

#[tokio::test]
async fn locking_and_unlocking_leave_the_devices() {
    let (mas, homeserver) = start().await;
    mas.insert("phone", Session::access("alice", "PHONE"));
    mas.lock_user("alice");
    mas.wait_until_provisioned().await;
    mas.unlock_user("alice");
    mas.wait_until_provisioned().await;
    assert_eq!(
        calls(&homeserver),
        [
            r#"provision_user {"localpart":"alice","set_emails":[],"locked":true}"#,
            r#"sync_devices {"localpart":"alice","devices":["PHONE"]}"#,
            r#"provision_user {"localpart":"alice","set_emails":[],"locked":false}"#,
            r#"sync_devices {"localpart":"alice","devices":["PHONE"]}"#,
        ]
    );
}

#[tokio::test]
async fn a_user_comes_and_goes() {
    let (mas, homeserver) = start().await;
    mas.provision_user("alice");
    mas.wait_until_provisioned().await;
    mas.upsert_device("alice", "PHONE");
    mas.insert("phone", Session::access("alice", "PHONE"));
    mas.delete_device("alice", "OLD \"1\"");
    mas.deactivate_user("alice");
    mas.wait_until_provisioned().await;
    assert!(!is_active(&mas, "phone").await);
    mas.reactivate_user("alice");
    mas.wait_until_provisioned().await;
    assert!(!is_active(&mas, "phone").await, "its session has ended");
    mas.insert("phone", Session::access("alice", "PHONE"));
    assert!(is_active(&mas, "phone").await);
    assert_eq!(
        calls(&homeserver),
        [
            r#"provision_user {"localpart":"alice","set_emails":[],"locked":false}"#,
            r#"sync_devices {"localpart":"alice","devices":[]}"#,
            r#"upsert_device {"localpart":"alice","device_id":"PHONE"}"#,
            r#"delete_device {"localpart":"alice","device_id":"OLD \"1\""}"#,
            r#"delete_user {"localpart":"alice","erase":false}"#,
            r#"reactivate_user {"localpart":"alice"}"#,
        ]
    );
    let paths: Vec<&str> = mas.provisioning().iter().map(|call| call.path).collect();
    assert_eq!(
        paths,
        [
            PROVISION_USER,
            SYNC_DEVICES,
            UPSERT_DEVICE,
            DELETE_DEVICE,
            DELETE_USER,
            REACTIVATE_USER
        ]
    );
}

#[tokio::test]
async fn a_user_is_active_again_only_once_the_homeserver_knows() {
    let (mas, homeserver) = start().await;
    mas.deactivate_user("alice");
    mas.wait_until_provisioned().await;
    mas.insert("phone", Session::access("alice", "PHONE"));
    homeserver.respond(REACTIVATE_USER, 500, "");
    mas.reactivate_user("alice");
    mas.wait_until_provisioned().await;
    assert!(!is_active(&mas, "phone").await);
    homeserver.clear_responses();
    mas.reactivate_user("alice");
    mas.wait_until_provisioned().await;
    assert!(is_active(&mas, "phone").await);
}

#[tokio::test]
async fn what_mas_does_not_tell_makes_no_call() {
    let (mas, homeserver) = start_with(Options {
        clients: vec![mas::Client::public("app"), mas::Client::public("other")],
        ..Options::default()
    })
    .await;
    mas.insert("old", Session::access("alice", "PHONE").client_id("app"));
    mas.refresh("old", "new");
    assert!(is_active(&mas, "new").await && !is_active(&mas, "old").await);
    mas.insert("replayed", Session::access("alice", "REPLAYED"));
    mas.revoke_unannounced("replayed");
    assert!(!is_active(&mas, "replayed").await);
    mas.insert("script", Session::personal("alice", "").no_device());
    mas.revoke("script");
    mas.insert("client", Session::client_credentials("app"));
    mas.revoke("client");
    mas.revoke("nobody's");
    mas.insert("compat", Session::compat("alice", "OLD"));
    // Of another client, of no session, of a kind that this endpoint does not end.
    for (client, token) in [("other", "new"), ("app", "old"), ("app", "compat")] {
        revoke(&mas, client, token).await;
    }
    assert_eq!(
        log_out(&mas, "logout", "new").await,
        StatusCode::UNAUTHORIZED
    );
    assert_eq!(
        log_out(&mas, "logout/all", "compat").await,
        StatusCode::NOT_FOUND
    );
    // Calls are made in order: this one would come last.
    mas.upsert_device("alice", "LAST");
    mas.wait_until_provisioned().await;
    assert_eq!(
        calls(&homeserver),
        [r#"upsert_device {"localpart":"alice","device_id":"LAST"}"#]
    );
}

#[tokio::test]
async fn without_a_homeserver_there_are_no_calls_not_even_later() {
    let mas = Mas::start(Options::default()).await.expect("a free port");
    mas.insert("phone", Session::access("alice", "PHONE"));
    mas.lock_user("alice");
    mas.unlock_user("alice");
    mas.revoke("phone");
    mas.deactivate_user("alice");
    mas.reactivate_user("alice");
    mas.provision_user("alice");
    mas.insert("phone", Session::access("alice", "PHONE"));
    assert!(is_active(&mas, "phone").await);

    let homeserver = Homeserver::start_local().await.expect("a free port");
    mas.set_homeserver(homeserver.addr());
    mas.revoke("phone");
    mas.wait_until_provisioned().await;
    assert_eq!(
        calls(&homeserver),
        [r#"sync_devices {"localpart":"alice","devices":[]}"#]
    );
    assert_eq!(mas.provisioning().len(), 1);
}

#[tokio::test]
async fn a_failed_call_is_made_again_with_what_is_true_then() {
    let (mas, homeserver) = start().await;
    mas.insert("phone", Session::access("alice", "PHONE"));
    homeserver.respond(SYNC_DEVICES, 500, "");
    mas.revoke("phone");
    mas.wait_for_provisioning(1).await;
    mas.insert("tablet", Session::access("alice", "TABLET"));
    homeserver.clear_responses();
    mas.wait_until_provisioned().await;
    let calls = mas.provisioning();
    let [first, .., last] = calls.as_slice() else {
        panic!("two calls or more: {calls:?}");
    };
    assert_eq!(
        (first.status, first.body.as_str()),
        (Some(500), r#"{"localpart":"alice","devices":[]}"#)
    );
    assert_eq!(
        (last.status, last.body.as_str()),
        (Some(200), r#"{"localpart":"alice","devices":["TABLET"]}"#)
    );
}

#[tokio::test]
async fn a_broken_call_is_made_again_at_the_new_address() {
    let breaking = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let mas = Mas::start(Options {
        homeserver: Some(breaking.local_addr().expect("it is bound")),
        ..Options::default()
    })
    .await
    .expect("a free port");
    let homeserver = Homeserver::start_local().await.expect("a free port");
    mas.insert("phone", Session::access("alice", "PHONE"));
    mas.revoke("phone");
    let (connection, _) = breaking.accept().await.expect("a connection");
    mas.set_homeserver(homeserver.addr());
    drop(connection);
    mas.wait_until_provisioned().await;
    assert_eq!(
        calls(&homeserver),
        [r#"sync_devices {"localpart":"alice","devices":[]}"#]
    );
    let statuses: Vec<Option<u16>> = mas.provisioning().iter().map(|call| call.status).collect();
    assert_eq!(statuses, [None, Some(200)]);
}

#[tokio::test]
async fn a_homeserver_that_is_gone_is_given_up() {
    let gone = Homeserver::start_local().await.expect("a free port");
    let mas = start_mas(&gone, Options::default()).await;
    gone.stop().await;
    mas.upsert_device("alice", "PHONE");
    mas.wait_until_provisioned().await;
    let made = mas.provisioning();
    assert_eq!(made.len() as u64, ATTEMPTS);
    assert!(made.iter().all(|call| call.status.is_none()), "{made:?}");

    let homeserver = Homeserver::start_local().await.expect("a free port");
    mas.set_homeserver(homeserver.addr());
    mas.upsert_device("alice", "TABLET");
    mas.wait_until_provisioned().await;
    assert_eq!(
        calls(&homeserver),
        [r#"upsert_device {"localpart":"alice","device_id":"TABLET"}"#]
    );
}

#[tokio::test]
async fn order_is_kept_past_a_job_that_is_given_up() {
    let (mas, homeserver) = start().await;
    homeserver.respond(DELETE_USER, 503, "");
    mas.deactivate_user("alice");
    mas.lock_user("bob");
    mas.upsert_device("carol", "PHONE");
    mas.wait_until_provisioned().await;
    let mut expected =
        vec![r#"delete_user {"localpart":"alice","erase":false}"#.to_owned(); ATTEMPTS as usize];
    // A user is synced by a job of its own, behind what was queued meanwhile.
    expected.extend(
        [
            r#"provision_user {"localpart":"bob","set_emails":[],"locked":true}"#,
            r#"upsert_device {"localpart":"carol","device_id":"PHONE"}"#,
            r#"sync_devices {"localpart":"bob","devices":[]}"#,
        ]
        .map(str::to_owned),
    );
    assert_eq!(calls(&homeserver), expected);
    let made = mas.provisioning();
    assert!(
        made.windows(2).all(|pair| pair[0].ended <= pair[1].sent),
        "one at a time: {made:?}"
    );
}

#[tokio::test]
async fn a_failed_account_is_not_synced() {
    let (mas, homeserver) = start().await;
    homeserver.respond(PROVISION_USER, 500, "");
    mas.provision_user("alice");
    mas.wait_until_provisioned().await;
    homeserver.clear_responses();
    mas.delete_device("alice", "LAST");
    mas.wait_until_provisioned().await;
    assert!(
        !calls(&homeserver)
            .iter()
            .any(|call| call.starts_with("sync"))
    );
}

#[tokio::test]
async fn a_new_secret_counts_and_no_secret_shows() {
    let (mas, homeserver) = start().await;
    mas.set_secret("rotated-secret");
    mas.insert("mat_token", Session::access("alice", "PHONE"));
    mas.revoke("mat_token");
    mas.wait_until_provisioned().await;
    assert_eq!(
        homeserver.requests()[0].header("authorization"),
        Some(b"Bearer rotated-secret".as_slice())
    );
    let shown = format!("{mas:?} {:?}", mas.provisioning());
    assert!(
        !shown.contains("secret") && !shown.contains("mat_token"),
        "{shown}"
    );
}

#[tokio::test]
async fn only_the_last_calls_are_kept() {
    let (mas, _homeserver) = start_with(Options {
        keep_requests: 2,
        ..Options::default()
    })
    .await;
    for device in ["A", "B", "C"] {
        mas.upsert_device("alice", device);
    }
    mas.wait_until_provisioned().await;
    let bodies: Vec<String> = mas
        .provisioning()
        .into_iter()
        .map(|call| call.body)
        .collect();
    assert_eq!(
        bodies,
        [
            r#"{"localpart":"alice","device_id":"B"}"#,
            r#"{"localpart":"alice","device_id":"C"}"#
        ]
    );
}

#[tokio::test]
async fn the_control_interface_tells_the_homeserver_too() {
    let (mas, homeserver) = start().await;
    mas.insert("phone", Session::access("alice", "PHONE"));
    mas.name("phone", "alice's phone");
    let control = mas
        .control(SocketAddr::from(([127, 0, 0, 1], 0)))
        .await
        .expect("a free port");
    let ask = async |method: Method, path: &str| {
        let url = format!("http://{}{path}", control.addr());
        send(Request::builder().method(method).uri(url), "").await.0
    };
    assert_eq!(ask(Method::POST, "/users/alice/lock").await, StatusCode::OK);
    mas.wait_until_provisioned().await;
    assert!(!is_active(&mas, "phone").await);
    assert_eq!(
        ask(Method::POST, "/users/%61lice/unlock").await,
        StatusCode::OK
    );
    mas.wait_until_provisioned().await;
    assert!(is_active(&mas, "phone").await);
    assert_eq!(
        ask(Method::DELETE, "/tokens/alice%27s%20phone").await,
        StatusCode::OK
    );
    mas.wait_until_provisioned().await;
    assert!(!is_active(&mas, "phone").await);
    assert_eq!(
        calls(&homeserver),
        [
            r#"provision_user {"localpart":"alice","set_emails":[],"locked":true}"#,
            r#"sync_devices {"localpart":"alice","devices":["PHONE"]}"#,
            r#"provision_user {"localpart":"alice","set_emails":[],"locked":false}"#,
            r#"sync_devices {"localpart":"alice","devices":["PHONE"]}"#,
            r#"sync_devices {"localpart":"alice","devices":[]}"#,
        ]
    );
    for (method, path, status) in [
        (Method::POST, "/users/%ff/lock", StatusCode::BAD_REQUEST),
        (Method::POST, "/users/alice", StatusCode::NOT_FOUND),
        (Method::GET, "/users/alice/lock", StatusCode::NOT_FOUND),
    ] {
        assert_eq!(ask(method, path).await, status, "{path}");
    }
}

async fn start() -> (Mas, Homeserver) {
    start_with(Options::default()).await
}

async fn start_with(options: Options) -> (Mas, Homeserver) {
    let homeserver = Homeserver::start_local().await.expect("a free port");
    (start_mas(&homeserver, options).await, homeserver)
}

async fn start_mas(homeserver: &Homeserver, options: Options) -> Mas {
    Mas::start(Options {
        homeserver: Some(homeserver.addr()),
        ..options
    })
    .await
    .expect("a free port")
}

/// What arrived, as `{call} {body}`.
fn calls(homeserver: &Homeserver) -> Vec<String> {
    let call = |request: &SeenRequest| {
        let name = request.path().trim_start_matches("/_synapse/mas/");
        format!("{name} {}", String::from_utf8_lossy(&request.body))
    };
    homeserver.requests().iter().map(call).collect()
}

async fn is_active(mas: &Mas, token: &str) -> bool {
    let body = String::from_utf8(mas::introspection_body(token).to_vec()).expect("ASCII");
    let request = Request::post(format!("http://{}/oauth2/introspect", mas.addr()))
        .header("authorization", format!("Bearer {DEFAULT_SECRET}"))
        .header("content-type", "application/x-www-form-urlencoded");
    let (status, answer) = send(request, &body).await;
    assert_eq!(status, StatusCode::OK);
    answer.starts_with(r#"{"active":true"#)
}

async fn revoke(mas: &Mas, client: &str, token: &str) {
    let request = Request::post(format!("http://{}/oauth2/revoke", mas.addr()))
        .header("content-type", "application/x-www-form-urlencoded");
    send(request, &format!("client_id={client}&token={token}")).await;
}

async fn log_out(mas: &Mas, endpoint: &str, token: &str) -> StatusCode {
    let url = format!("http://{}/_matrix/client/v3/{endpoint}", mas.addr());
    let request = Request::post(url).header("authorization", format!("Bearer {token}"));
    send(request, "").await.0
}

async fn send(request: http::request::Builder, body: &str) -> (StatusCode, String) {
    let client: Client<HttpConnector, Full<Bytes>> =
        Client::builder(TokioExecutor::new()).build_http();
    let request = request
        .body(Full::from(body.to_owned()))
        .expect("a valid request");
    let response = tokio::time::timeout(Duration::from_secs(10), client.request(request))
        .await
        .expect("in time")
        .expect("an answer");
    let status = response.status();
    let body = response
        .into_body()
        .collect()
        .await
        .expect("a whole body")
        .to_bytes();
    (status, String::from_utf8_lossy(&body).into_owned())
}
