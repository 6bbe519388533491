//! How the stand-in MAS makes its calls to the homeserver: what runs side by side, what is tried again, when and with
//! what, and how the calls look on the wire.

use std::{net::SocketAddr, time::Duration};

use crate::support::{
    caller::{is_active, send},
    told::{calls, start, start_mas, start_with},
};
use http::{Method, Request, StatusCode};
use serde_json::{Value, json};
use stand_in::{
    clock::Clock,
    homeserver::Homeserver,
    mas::{Control, Mas, Options, Session},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

const DELETE_USER: &str = "/_synapse/mas/delete_user";
const PROVISION_USER: &str = "/_synapse/mas/provision_user";
const REACTIVATE_USER: &str = "/_synapse/mas/reactivate_user";
const SYNC_DEVICES: &str = "/_synapse/mas/sync_devices";

/// The first attempt and those after it.
const ATTEMPTS: usize = 11;

#[tokio::test]
async fn a_failed_call_is_made_again_with_what_is_true_then() {
    let (mas, homeserver) = start().await;
    mas.insert("phone", Session::access("alice", "PHONE"));
    homeserver.respond(SYNC_DEVICES, 500, "");
    mas.revoke("phone");
    mas.wait_until_retrying(1).await;
    mas.insert("tablet", Session::access("alice", "TABLET"));
    homeserver.clear_responses();
    mas.retry_now();
    mas.wait_until_provisioned().await;
    assert_eq!(
        calls(&homeserver),
        [
            r#"sync_devices {"localpart":"alice","devices":[]}"#,
            r#"sync_devices {"localpart":"alice","devices":["TABLET"]}"#,
        ]
    );
    assert_eq!(statuses(&mas), [Some(500), Some(200)]);
}

#[tokio::test]
async fn a_lock_that_is_told_after_the_unlock_says_unlocked() {
    const SYNC: &str = r#"sync_devices {"localpart":"alice","devices":[]}"#;
    const UNLOCKED: &str = r#"provision_user {"localpart":"alice","set_emails":[],"locked":false}"#;

    let (mas, homeserver) = start().await;
    homeserver.respond(PROVISION_USER, 503, "");
    mas.lock_user("alice");
    mas.wait_until_retrying(1).await;
    homeserver.clear_responses();
    // A job that waits to be tried again holds up no later one of the same user.
    mas.unlock_user("alice");
    mas.wait_for_provisioning(3).await;
    mas.retry_now();
    mas.wait_until_provisioned().await;
    assert_eq!(
        calls(&homeserver),
        [
            r#"provision_user {"localpart":"alice","set_emails":[],"locked":true}"#,
            UNLOCKED,
            SYNC,
            UNLOCKED,
            SYNC,
        ]
    );
}

#[tokio::test]
async fn a_deactivation_that_is_told_again_ends_what_began_since() {
    let (mas, homeserver) = start().await;
    homeserver.respond(DELETE_USER, 503, "");
    mas.deactivate_user("alice");
    mas.wait_until_retrying(1).await;
    mas.reactivate_user("alice");
    mas.wait_for_provisioning(2).await;
    mas.insert("phone", Session::access("alice", "PHONE"));
    homeserver.clear_responses();
    mas.retry_now();
    mas.wait_until_provisioned().await;
    mas.reactivate_user("alice");
    mas.wait_until_provisioned().await;
    assert!(!is_active(&mas, "phone").await, "its session has ended");
}

#[tokio::test]
async fn a_user_is_active_again_only_once_the_homeserver_knows() {
    let (mas, homeserver) = start().await;
    mas.deactivate_user("alice");
    mas.wait_until_provisioned().await;
    mas.insert("phone", Session::access("alice", "PHONE"));
    homeserver.respond(REACTIVATE_USER, 500, "");
    mas.reactivate_user("alice");
    mas.wait_until_retrying(1).await;
    assert!(!is_active(&mas, "phone").await);
    homeserver.clear_responses();
    mas.retry_now();
    mas.wait_until_provisioned().await;
    assert!(is_active(&mas, "phone").await);
}

#[tokio::test]
async fn a_failed_account_is_not_synced() {
    let (mas, homeserver) = start().await;
    homeserver.respond(PROVISION_USER, 500, "");
    mas.provision_user("alice");
    mas.wait_until_retrying(1).await;
    mas.delete_device("alice", "LAST");
    mas.wait_for_provisioning(2).await;
    let made = calls(&homeserver);
    assert!(
        !made.iter().any(|call| call.starts_with("sync")),
        "{made:?}"
    );
}

#[tokio::test]
async fn retries_come_after_5_10_20_seconds_and_so_on() {
    let clock = Clock::manual(Duration::from_secs(1_800_000_000));
    let (mas, homeserver) = start_with(Options {
        clock: clock.clone(),
        ..Options::default()
    })
    .await;
    homeserver.respond(SYNC_DEVICES, 500, "");
    mas.insert("phone", Session::access("alice", "PHONE"));
    mas.revoke("phone");
    let mut delays = Vec::new();
    for attempts in 1.. {
        mas.wait_for_provisioning(attempts).await;
        tokio::select! {
            () = mas.wait_until_retrying(1) => {}
            () = mas.wait_until_provisioned() => break,
        }
        let due = mas.next_retry().expect("it has failed");
        delays.push((due - clock.now()).as_secs());
        clock.set(due);
    }
    assert_eq!(delays, [5, 10, 20, 40, 80, 160, 320, 640, 1280, 2560]);
    assert_eq!(statuses(&mas).len(), ATTEMPTS, "then it is given up");
    assert_eq!(mas.next_retry(), None);
}

#[tokio::test]
async fn delays_can_be_shortened() {
    let clock = Clock::manual(Duration::from_secs(1_800_000_000));
    let (mas, homeserver) = start_with(Options {
        clock: clock.clone(),
        first_retry_delay: Duration::from_millis(50),
        ..Options::default()
    })
    .await;
    homeserver.respond(SYNC_DEVICES, 500, "");
    for (failed, user, delay_ms) in [(1, "alice", 50), (2, "bob", 7)] {
        mas.insert(user, Session::access(user, "PHONE"));
        mas.revoke(user);
        mas.wait_until_retrying(failed).await;
        let due = mas.next_retry().expect("it has failed");
        assert_eq!(due - clock.now(), Duration::from_millis(delay_ms));
        mas.set_first_retry_delay(Duration::from_millis(7));
    }
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
    mas.wait_until_retrying(1).await;
    mas.retry_now();
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
    let options = Options {
        first_retry_delay: Duration::ZERO,
        ..Options::default()
    };
    let mas = start_mas(&gone, options).await;
    gone.stop().await;
    mas.delete_device("alice", "PHONE");
    mas.wait_until_provisioned().await;
    assert_eq!(statuses(&mas), [None; ATTEMPTS]);

    let homeserver = Homeserver::start_local().await.expect("a free port");
    mas.set_homeserver(homeserver.addr());
    mas.delete_device("alice", "TABLET");
    mas.wait_until_provisioned().await;
    assert_eq!(
        calls(&homeserver),
        [r#"delete_device {"localpart":"alice","device_id":"TABLET"}"#]
    );
}

#[tokio::test]
async fn jobs_of_different_users_run_side_by_side_and_those_of_one_in_order() {
    const ALICE: &str = r#"{"localpart":"alice","devices":[]}"#;
    const BOB: &str = r#"{"localpart":"bob","devices":[]}"#;

    let (mas, homeserver) = start_with_raw_homeserver().await;
    for user in ["alice", "alice", "bob"] {
        mas.insert("phone", Session::access(user, "PHONE"));
        mas.revoke("phone");
    }
    let mut requests = Vec::new();
    for _ in 0..2 {
        let (connection, _) = homeserver.accept().await.expect("a connection");
        requests.push(RawRequest::read(connection).await);
    }
    requests.sort_by(|one, other| one.body.cmp(&other.body));
    let bodies: Vec<&str> = requests.iter().map(|request| &*request.body).collect();
    assert_eq!(bodies, [ALICE, BOB], "neither has been answered");
    let alice = requests.remove(0).answer().await;
    assert_eq!(RawRequest::read(alice).await.body, ALICE);
}

#[tokio::test]
async fn calls_have_a_length_and_keep_their_connection() {
    let (mas, homeserver) = start_with_raw_homeserver().await;
    mas.upsert_device("alice", "PHONE");
    mas.delete_device("alice", "TABLET");
    let (connection, _) = homeserver.accept().await.expect("a connection");
    let first = RawRequest::read(connection).await;
    let head = first.head.to_lowercase();
    let length = format!("\r\ncontent-length: {}\r\n", first.body.len());
    assert!(
        head.starts_with("post /_synapse/mas/upsert_device http/1.1\r\n") && head.contains(&length),
        "{head}"
    );
    for absent in ["transfer-encoding:", "connection:"] {
        assert!(!head.contains(absent), "{head}");
    }
    let second = RawRequest::read(first.answer().await).await;
    assert_eq!(second.body, r#"{"localpart":"alice","device_id":"TABLET"}"#);
    second.answer().await;
    mas.wait_until_provisioned().await;
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
async fn the_control_interface_shortens_delays_retries_and_tells_of_both() {
    let clock = Clock::manual(Duration::from_secs(1_800_000_000));
    let (mas, homeserver) = start_with(Options {
        clock: clock.clone(),
        ..Options::default()
    })
    .await;
    let control = mas
        .control(SocketAddr::from(([127, 0, 0, 1], 0)))
        .await
        .expect("a free port");
    let ask = async |method, path, body| ask(&control, method, path, body).await;
    let delay = json!({ "first_ms": 20 });
    ask(Method::PUT, "/provisioning/retry-delay", delay).await;
    homeserver.respond(SYNC_DEVICES, 500, "");
    mas.insert("phone", Session::access("alice", "PHONE"));
    mas.revoke("phone");
    let retrying = json!({ "unfinished": 1, "retrying": 1 });
    for path in ["/provisioning/retrying", "/provisioning"] {
        assert_eq!(ask(Method::GET, path, json!({})).await, retrying);
    }
    let due = mas.next_retry().expect("it has failed");
    assert_eq!(due - clock.now(), Duration::from_millis(20));
    homeserver.clear_responses();
    ask(Method::POST, "/provisioning/retry", json!({})).await;
    assert_eq!(
        ask(Method::GET, "/provisioning/finished", json!({})).await,
        json!({ "unfinished": 0, "retrying": 0 })
    );
    assert_eq!(statuses(&mas), [Some(500), Some(200)]);
}

#[tokio::test]
async fn the_control_interface_logs_in_and_deactivates() {
    let (mas, homeserver) = start().await;
    let control = mas
        .control(SocketAddr::from(([127, 0, 0, 1], 0)))
        .await
        .expect("a free port");
    let ask = async |method, path, body| ask(&control, method, path, body).await;
    mas.insert("old", Session::access("alice", "PHONE"));
    let login = json!({
        "name": "alice's phone", "token": "new", "username": "alice", "device": "PHONE", "display_name": "Phone",
    });
    ask(Method::POST, "/logins", login).await;
    assert!(!is_active(&mas, "old").await && is_active(&mas, "new").await);
    ask(Method::GET, "/provisioning/finished", json!({})).await;
    ask(Method::POST, "/users/alice/deactivate", json!({})).await;
    ask(Method::GET, "/provisioning/finished", json!({})).await;
    assert!(!is_active(&mas, "new").await);
    assert_eq!(
        calls(&homeserver),
        [
            r#"upsert_device {"localpart":"alice","device_id":"PHONE","display_name":"Phone"}"#,
            r#"delete_user {"localpart":"alice","erase":true}"#,
        ]
    );
}

/// A MAS whose homeserver is a listener, for the test to accept its connections.
async fn start_with_raw_homeserver() -> (Mas, TcpListener) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let mas = Mas::start(Options {
        homeserver: Some(listener.local_addr().expect("it is bound")),
        ..Options::default()
    })
    .await
    .expect("a free port");
    (mas, listener)
}

/// The statuses of the calls made.
fn statuses(mas: &Mas) -> Vec<Option<u16>> {
    mas.provisioning().iter().map(|call| call.status).collect()
}

/// Asks the control interface, which does not refuse.
async fn ask(control: &Control, method: Method, path: &str, body: Value) -> Value {
    let url = format!("http://{}{path}", control.addr());
    let request = Request::builder().method(method).uri(url);
    let (status, answer) = send(request, &body.to_string()).await;
    assert_eq!(status, StatusCode::OK, "{path}: {answer}");
    serde_json::from_str(&answer).expect("JSON")
}

/// A request as it came, not answered yet.
struct RawRequest {
    /// With the line break of its last line.
    head: String,
    body: String,
    connection: TcpStream,
}

impl RawRequest {
    async fn read(mut connection: TcpStream) -> Self {
        let mut received = String::new();
        loop {
            let mut buffer = [0; 4096];
            let read = connection.read(&mut buffer).await.expect("it sends");
            assert_ne!(read, 0, "closed after {received:?}");
            received.push_str(std::str::from_utf8(&buffer[..read]).expect("text"));
            // All bodies are JSON objects without others in them.
            if let Some((head, body)) = received.split_once("\r\n\r\n")
                && body.ends_with('}')
            {
                return Self {
                    head: format!("{head}\r\n"),
                    body: body.to_owned(),
                    connection,
                };
            }
        }
    }

    /// Accepts the call, and returns the connection for the next one.
    async fn answer(mut self) -> TcpStream {
        let response = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}";
        self.connection.write_all(response).await.expect("it reads");
        self.connection
    }
}
