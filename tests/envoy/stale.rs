//! `stale_if_error`: what is served while MAS fails, and what never is.

use std::time::Duration;

use serde_json::json;
use stand_in::mas::{Fault, Session};
use tokio::time::{Instant, sleep};

use super::{
    edge::{Edge, WHOAMI, assert_no_verdict, assert_not_active, new_token},
    workers::{POLL, WORKERS, ask_all, ask_until, connections, decided, start},
};
use crate::support::{
    http::{Connection, Request, Response},
    product_time::{EARLY, Moment, Stalls},
};

const TTL: Duration = Duration::from_secs(2);

/// How late the end of an answer may be noticed.
const LATE: Duration = Duration::from_secs(2);

fn down() -> Fault {
    Fault::status(503, "")
}

#[tokio::test]
async fn an_answer_serves_past_its_time_while_mas_fails_up_to_the_limit() {
    let edge = start(json!({"cache": {"ttl": "2s", "stale_if_error": "3s"}})).await;
    let mut connections = connections(&edge, 1).await;
    let token = edge.alice();
    let request = Request::get(WHOAMI).bearer(&token);
    let cold = Instant::now();
    ask_all(&mut connections, [&token; WORKERS].into_iter()).await;
    // The question was sent between the two.
    let (known, known_by_product) = (Instant::now(), Moment::now());
    edge.mas.fault(down());
    let mut served = Duration::ZERO;
    'served: loop {
        for connection in &mut connections {
            let sent = known.elapsed();
            let response = connection.request(&request).await;
            if response.status != 200 {
                assert_no_verdict(&response);
                break 'served;
            }
            served = sent;
        }
        sleep(POLL).await;
    }
    let limit = TTL + Duration::from_secs(3);
    println!("served for {served:?} of {limit:?}");
    assert!(served < limit, "the answer is as old as its question");
    assert!(cold.elapsed() >= limit - EARLY);
    assert!(known_by_product.elapsed() < limit + LATE);
    let stale = decided(&edge, "active", "stale").await;
    println!("{stale} stale answers, {} calls", edge.mas.calls(&token));
    assert!(stale > 0.0);
    // One a second and worker at the most; each but the last answered by an old answer.
    assert!(edge.mas.calls(&token) <= 2 + 4 * (WORKERS as u64));

    edge.mas.clear_faults();
    ask_until(&mut connections[0], &token, "an answer", |response| {
        response.status == 200
    })
    .await;
    edge.assert_alive().await;
}

/// Also for who comes for the first time after the end.
#[tokio::test]
async fn a_token_that_was_not_in_use_is_served_after_one_failure() {
    let edge = start(json!({"cache": {"ttl": "1s", "stale_if_error": "1h"}})).await;
    let token = edge.alice();
    assert_eq!(edge.whoami(&token).await.status, 200);
    edge.mas.fault(down());
    sleep(TTL).await;
    assert_eq!(edge.mas.calls(&token), 1);
    assert_eq!(edge.whoami(&token).await.status, 200);
    assert_eq!(edge.mas.calls(&token), 2);
    assert_eq!(decided(&edge, "active", "stale").await, 1.0);
}

/// MAS fails without an answer: who uses the token is served, and one call waits.
#[tokio::test]
async fn one_retry_at_a_time_and_nobody_waits_for_it() {
    const TIMEOUT: Duration = Duration::from_secs(20);
    let edge = start(json!({
        "introspection": {"timeout": format!("{}s", TIMEOUT.as_secs())},
        "cache": {"ttl": "2s", "stale_if_error": "1h"},
    }))
    .await;
    let mut connections = connections(&edge, 10).await;
    let count = connections.len();
    let token = edge.alice();
    ask_all(&mut connections, std::iter::repeat_n(&token, count)).await;
    edge.mas.fault(down());
    serve_stale_on_each(&edge, &mut connections[..WORKERS], &token).await;
    edge.mas.clear_faults();
    edge.mas.fault(Fault::hang());
    let failed = edge.mas.calls(&token);
    let (hanging, stalls) = (Instant::now(), Stalls::measure());
    let mut slowest = Duration::ZERO;
    while hanging.elapsed() < 3 * TTL {
        let asked = Moment::now();
        for response in ask_all(&mut connections, std::iter::repeat_n(&token, count)).await {
            assert_eq!(response.status, 200, "{response:?}");
        }
        slowest = slowest.max(asked.elapsed());
        let calls = edge.mas.calls(&token) - failed;
        let most = *stalls.calls_for_a_token(WORKERS).end();
        assert!(calls <= most, "one at a time");
        sleep(POLL).await;
    }
    println!("{count} requests at once took {slowest:?} at the most");
    assert!(slowest < TIMEOUT / 4, "nobody waits for the retry");
    let calls = edge.mas.calls(&token) - failed;
    assert!(stalls.calls_for_a_token(WORKERS).contains(&calls));
}

#[tokio::test]
async fn nothing_is_served_past_the_tokens_own_expiry() {
    const LIFE: Duration = Duration::from_secs(5);
    let edge = start(json!({"cache": {"ttl": "2s", "stale_if_error": "1h"}})).await;
    let mut connections = connections(&edge, 1).await;
    let token = new_token("mat");
    let session = Session::access("alice", "PHONE").expires_in(LIFE);
    edge.mas.insert(&token, session);
    ask_all(&mut connections, [&token; WORKERS].into_iter()).await;
    let known = Instant::now();
    edge.mas.fault(down());
    let request = Request::get(WHOAMI).bearer(&token);
    let mut served = Duration::ZERO;
    while known.elapsed() < LIFE + LATE {
        for connection in &mut connections {
            let sent = known.elapsed();
            let response = connection.request(&request).await;
            match response.status {
                200 => served = sent,
                503 => assert_no_verdict(&response),
                _ => assert_not_active(&response),
            }
        }
        sleep(POLL).await;
    }
    println!("served for {served:?} of {LIFE:?}");
    assert!(TTL < served && served < LIFE);
    assert!(decided(&edge, "active", "stale").await > 0.0);
    // The expiry has passed, which MAS need not say.
    for connection in &mut connections {
        assert_not_active(&connection.request(&request).await);
    }
}

#[tokio::test]
async fn nothing_is_served_once_mas_has_said_inactive() {
    let cache = json!({"ttl": "2s", "negative_ttl": "1s", "stale_if_error": "1h"});
    let edge = start(json!({"cache": cache})).await;
    let mut connections = connections(&edge, 1).await;
    let token = edge.alice();
    ask_all(&mut connections, [&token; WORKERS].into_iter()).await;
    edge.mas.revoke(&token);
    for connection in &mut connections {
        let rejected = |response: &Response| response.status == 401;
        assert_not_active(&ask_until(connection, &token, "a 401", rejected).await);
    }
    edge.mas.fault(down());
    let failing = Instant::now();
    while failing.elapsed() < 2 * TTL {
        for response in ask_all(&mut connections, [&token; WORKERS].into_iter()).await {
            match response.status {
                503 => assert_no_verdict(&response),
                _ => assert_not_active(&response),
            }
        }
        sleep(POLL).await;
    }
    assert!(
        decided(&edge, "no_verdict", "mas").await > 0.0,
        "the 401 has ended"
    );
    assert_eq!(decided(&edge, "active", "stale").await, 0.0);
}

/// Each worker has seen MAS fail, but only one sees it recover.
#[tokio::test]
async fn once_mas_answers_again_it_is_asked_by_every_worker() {
    let edge = start(json!({"cache": {"ttl": "2s", "stale_if_error": "1h"}})).await;
    let mut connections = connections(&edge, 1).await;
    let token = edge.alice();
    ask_all(&mut connections, [&token; WORKERS].into_iter()).await;
    edge.mas.fault(down());
    serve_stale_on_each(&edge, &mut connections, &token).await;
    edge.mas.clear_faults();
    let renewed = decided(&edge, "active", "shared").await;
    let connection = &mut connections[0];
    while decided(&edge, "active", "shared").await == renewed {
        ask_200(connection, &token).await;
        sleep(POLL).await;
    }
    edge.mas.revoke(&token);
    // The renewed answer ends.
    sleep(TTL).await;
    for response in ask_all(&mut connections, [&token; WORKERS].into_iter()).await {
        assert_not_active(&response);
    }
}

#[tokio::test]
async fn while_mas_answers_no_worker_serves_an_old_answer() {
    let edge = start(json!({"cache": {"ttl": "2s", "stale_if_error": "1h"}})).await;
    let mut connections = connections(&edge, 1).await;
    let token = edge.alice();
    let cold = Instant::now();
    while cold.elapsed() < 2 * TTL {
        ask_all(&mut connections, [&token; WORKERS].into_iter()).await;
        sleep(POLL).await;
    }
    edge.mas.revoke(&token);
    // The last renewal ends.
    sleep(TTL).await;
    for response in ask_all(&mut connections, [&token; WORKERS].into_iter()).await {
        assert_not_active(&response);
    }
    assert_eq!(decided(&edge, "active", "stale").await, 0.0);
}

/// Uploading keys for signing takes interactive authentication: the homeserver's first answer is a 401.
#[tokio::test]
async fn a_refusal_of_the_homeserver_ends_no_session_while_mas_is_down() {
    const UPLOAD: &str = "/_matrix/client/v3/keys/device_signing/upload";
    for stale_if_error in ["0s", "1h"] {
        let cache = json!({"ttl": "10m", "stale_if_error": stale_if_error});
        let edge = start(json!({"cache": cache})).await;
        let mut connections = connections(&edge, 1).await;
        let token = edge.alice();
        ask_all(&mut connections, [&token; WORKERS].into_iter()).await;
        edge.mas.fault(down());
        let flows = json!({"flows": [{"stages": ["m.login.password"]}], "session": "s"});
        edge.homeserver.respond(UPLOAD, 401, flows.to_string());
        let upload = Request::new("POST", UPLOAD).bearer(&token);
        let refused = connections[0].request(&upload).await;
        assert_eq!((refused.status, refused.text()), (401, &*flows.to_string()));
        // MAS is asked in vain, and all workers know of the refusal.
        serve_stale_on_each(&edge, &mut connections, &token).await;
        edge.mas.clear_faults();
        let calls = edge.mas.calls(&token);
        ask_until(&mut connections[0], &token, "a new answer", |response| {
            assert_eq!(response.status, 200, "{response:?}");
            edge.mas.calls(&token) > calls
        })
        .await;
        edge.assert_alive().await;
    }
}

/// Uses a token on each connection until it is served by an old answer.
async fn serve_stale_on_each(edge: &Edge, connections: &mut [Connection], token: &str) {
    for connection in connections {
        let before = decided(edge, "active", "stale").await;
        while decided(edge, "active", "stale").await == before {
            ask_200(connection, token).await;
            sleep(POLL).await;
        }
    }
}

async fn ask_200(connection: &mut Connection, token: &str) {
    let request = Request::get(WHOAMI).bearer(token);
    let response = connection.request(&request).await;
    assert_eq!(response.status, 200, "{response:?}");
}
