//! What the stand-in MAS tells its homeserver: which event makes which calls, byte for byte.

use std::{net::SocketAddr, time::Duration};

use crate::support::{
    caller::{introspect, is_active, send},
    told::{calls, start, start_with},
};
use http::{Method, Request, StatusCode};
use serde_json::{Value, json};
use stand_in::{
    homeserver::Homeserver,
    mas::{self, DEFAULT_SECRET, Mas, Options, Session},
};

const DELETE_DEVICE: &str = "/_synapse/mas/delete_device";
const DELETE_USER: &str = "/_synapse/mas/delete_user";
const IS_LOCALPART_AVAILABLE: &str = "/_synapse/mas/is_localpart_available";
const PROVISION_USER: &str = "/_synapse/mas/provision_user";
const QUERY_USER: &str = "/_synapse/mas/query_user";
const REACTIVATE_USER: &str = "/_synapse/mas/reactivate_user";
const SYNC_DEVICES: &str = "/_synapse/mas/sync_devices";
const UPSERT_DEVICE: &str = "/_synapse/mas/upsert_device";

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
            r#"delete_user {"localpart":"alice","erase":true}"#,
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
async fn a_compat_login_takes_the_device_over_and_tells_of_the_device_only() {
    let (mas, homeserver) = start().await;
    for (token, session) in [
        ("compat", Session::compat("alice", "PHONE")),
        ("oauth", Session::access("alice", "PHONE")),
        ("personal", Session::personal("alice", "PHONE")),
        ("tablet", Session::compat("alice", "TABLET")),
        ("none", Session::access("alice", "").no_device()),
        ("bob", Session::compat("bob", "PHONE")),
    ] {
        mas.insert(token, session);
    }
    mas.compat_login("first", Session::compat("alice", "PHONE"));
    // At once, whatever the homeserver knows.
    for (token, is_still_active) in [
        ("compat", false),
        ("oauth", false),
        ("personal", true),
        ("tablet", true),
        ("none", true),
        ("bob", true),
        ("first", true),
    ] {
        assert_eq!(is_active(&mas, token).await, is_still_active, "{token}");
    }
    let named = Session::compat("alice", "PHONE").display_name("Alice's \"phone\"");
    mas.compat_login("second", named);
    mas.compat_login("new", Session::compat("alice", "WATCH"));
    mas.wait_until_provisioned().await;
    assert!(!is_active(&mas, "first").await && is_active(&mas, "second").await);
    assert_eq!(
        calls(&homeserver),
        [
            r#"upsert_device {"localpart":"alice","device_id":"PHONE"}"#,
            r#"upsert_device {"localpart":"alice","device_id":"PHONE","display_name":"Alice's \"phone\""}"#,
            r#"upsert_device {"localpart":"alice","device_id":"WATCH"}"#,
        ]
    );
}

#[tokio::test]
async fn a_login_that_the_homeserver_refuses_fails_without_another_try() {
    let (mas, homeserver) = start_with(Options {
        first_retry_delay: Duration::ZERO,
        ..Options::default()
    })
    .await;
    mas.insert("old", Session::compat("alice", "PHONE"));
    homeserver.respond(UPSERT_DEVICE, 500, "");
    mas.compat_login("new", Session::compat("alice", "PHONE"));
    mas.wait_until_provisioned().await;
    for token in ["old", "new"] {
        assert!(!is_active(&mas, token).await, "{token}");
    }
    assert_eq!(
        calls(&homeserver),
        [
            r#"upsert_device {"localpart":"alice","device_id":"PHONE"}"#,
            r#"sync_devices {"localpart":"alice","devices":[]}"#,
        ]
    );
}

#[tokio::test]
#[should_panic(expected = "a login makes a compat session with a device")]
async fn an_oauth_session_is_no_compat_login() {
    let (mas, _homeserver) = start().await;
    mas.compat_login("phone", Session::access("alice", "PHONE"));
}

#[tokio::test]
async fn an_oauth_session_without_a_device_is_synced_when_it_is_revoked() {
    let (mas, homeserver) = start_with(Options {
        clients: vec![mas::Client::public("app")],
        ..Options::default()
    })
    .await;
    mas.insert("phone", Session::compat("alice", "PHONE"));
    let session = Session::access("alice", "").no_device().client_id("app");
    mas.insert("script", session);
    revoke(&mas, "app", "script").await;
    mas.wait_until_provisioned().await;
    assert!(!is_active(&mas, "script").await);
    assert_eq!(
        calls(&homeserver),
        [r#"sync_devices {"localpart":"alice","devices":["PHONE"]}"#]
    );
}

#[tokio::test]
async fn a_personal_token_ends_with_its_owner_who_alone_is_told_of() {
    let (mas, homeserver) = start().await;
    mas.insert("bot", Session::personal("bot", "BOT").owned_by("alice"));
    mas.insert("other", Session::personal("bot", "BOT2").owned_by("carol"));
    mas.insert("own", Session::personal("alice", "OWN").owned_by("alice"));
    assert!(is_active(&mas, "bot").await);
    mas.lock_user("alice");
    mas.wait_until_provisioned().await;
    assert!(!is_active(&mas, "bot").await);
    mas.unlock_user("alice");
    mas.wait_until_provisioned().await;
    assert!(is_active(&mas, "bot").await);
    mas.deactivate_user("alice");
    mas.wait_until_provisioned().await;
    mas.reactivate_user("alice");
    mas.wait_until_provisioned().await;
    for (token, is_still_active) in [("bot", false), ("other", true), ("own", false)] {
        assert_eq!(is_active(&mas, token).await, is_still_active, "{token}");
    }
    assert_eq!(
        calls(&homeserver),
        [
            r#"provision_user {"localpart":"alice","set_emails":[],"locked":true}"#,
            r#"sync_devices {"localpart":"alice","devices":["OWN"]}"#,
            r#"provision_user {"localpart":"alice","set_emails":[],"locked":false}"#,
            r#"sync_devices {"localpart":"alice","devices":["OWN"]}"#,
            r#"delete_user {"localpart":"alice","erase":true}"#,
            r#"reactivate_user {"localpart":"alice"}"#,
        ]
    );
}

#[tokio::test]
async fn mas_asks_about_users_with_get() {
    let (mas, homeserver) = start().await;
    assert!(mas.query_user("alice").await);
    assert_eq!(mas.is_localpart_available("a~b=c/d").await, Some(true));
    // Not asked.
    assert_eq!(mas.is_localpart_available("\u{e9}").await, Some(false));
    homeserver.respond(QUERY_USER, 404, r#"{"errcode":"M_NOT_FOUND"}"#);
    assert!(!mas.query_user("\u{e9}").await);
    for (errcode, is_available) in [
        ("M_USER_IN_USE", Some(false)),
        ("M_INVALID_USERNAME", Some(false)),
        ("M_EXCLUSIVE", Some(false)),
        ("M_UNKNOWN", None),
    ] {
        let body = json!({ "errcode": errcode }).to_string();
        homeserver.respond(IS_LOCALPART_AVAILABLE, 400, body);
        assert_eq!(mas.is_localpart_available("bob").await, is_available);
    }
    let requests = homeserver.requests();
    let targets: Vec<&str> = requests.iter().map(|request| &*request.target).collect();
    assert_eq!(
        targets[..3],
        [
            "/_synapse/mas/query_user?localpart=alice",
            "/_synapse/mas/is_localpart_available?localpart=a~b%3Dc%2Fd",
            "/_synapse/mas/query_user?localpart=%C3%A9",
        ]
    );
    assert_eq!(
        targets[3..],
        ["/_synapse/mas/is_localpart_available?localpart=bob"; 4]
    );
    for request in &requests {
        assert_eq!(request.method, "GET");
        assert_eq!(
            request.header("authorization"),
            Some(format!("Bearer {DEFAULT_SECRET}").as_bytes())
        );
        for absent in ["content-type", "content-length", "transfer-encoding"] {
            assert_eq!(request.header(absent), None, "{absent}");
        }
    }
    let kept = mas.provisioning();
    assert_eq!(kept.len(), requests.len());
    assert_eq!(
        (&kept[0].method, kept[0].path, kept[0].query.as_deref()),
        (&Method::GET, QUERY_USER, Some("localpart=alice"))
    );
    assert_eq!((kept[0].body.as_str(), kept[0].status), ("", Some(200)));
}

#[tokio::test]
async fn compat_devices_may_have_odd_names() {
    let (mas, homeserver) = start().await;
    let long = "D".repeat(255);
    let devices = ["", "a\tb", "a\nb", "a\u{1}b", &long];
    for device in devices {
        let token = mas::token("mct", device);
        mas.compat_login(&token, Session::compat("alice", device));
        let answer = introspect(&mas, &token, true).await;
        let answer: Value = serde_json::from_str(&answer).expect("JSON");
        assert_eq!(
            (&answer["active"], &answer["device_id"]),
            (&json!(true), &json!(device)),
            "{device:?}"
        );
        // To a caller that cannot read `device_id`, a device that no scope can name makes the token inactive.
        let can_be_named = device.bytes().all(|byte| byte.is_ascii_graphic());
        assert_eq!(is_active(&mas, &token).await, can_be_named, "{device:?}");
    }
    mas.insert("other", Session::compat("alice", "OTHER"));
    mas.revoke("other");
    mas.wait_until_provisioned().await;
    let synced = format!(
        r#"sync_devices {{"localpart":"alice","devices":["","{long}","a\u0001b","a\tb","a\nb"]}}"#
    );
    let long = format!(r#"upsert_device {{"localpart":"alice","device_id":"{long}"}}"#);
    assert_eq!(
        calls(&homeserver),
        [
            r#"upsert_device {"localpart":"alice","device_id":""}"#,
            r#"upsert_device {"localpart":"alice","device_id":"a\tb"}"#,
            r#"upsert_device {"localpart":"alice","device_id":"a\nb"}"#,
            r#"upsert_device {"localpart":"alice","device_id":"a\u0001b"}"#,
            &long,
            &synced,
        ]
    );
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
    // Calls about one user are made in order: this one would come last.
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
