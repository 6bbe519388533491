//! MAS fails, or restarts: the applications are told to wait. None loses its session, and all go on afterwards.

use std::net::SocketAddr;

use serde_json::{Value, json};
use stand_in::mas::Fault;

use super::{
    app::App,
    conversation::{LONG, pair},
    rig::{Rig, with_rig},
};
use crate::support::http::{self, Request, within_limit};

#[test]
fn a_503_logs_nobody_out() {
    survive("503", async |rig| {
        rig.mas
            .fault(Fault::status(500, r#"{"error":"server_error"}"#));
        Outage(|rig| rig.mas.clear_faults())
    });
}

#[test]
fn a_restart_of_mas_logs_nobody_out() {
    survive("restart", async |rig| {
        // The port takes connections and closes them, as a load balancer before a MAS that is gone.
        rig.to_mas.lead_to(SocketAddr::from(([127, 0, 0, 1], 0)));
        Outage(|rig| rig.to_mas.lead_to(rig.mas.addr()))
    });
}

struct Outage(fn(&Rig));

/// `fail` makes MAS fail, and returns what mends it.
fn survive(name: &str, fail: impl AsyncFnOnce(&Rig) -> Outage) {
    with_rig(async |rig| {
        // Soon all have to be asked about again.
        let cache = json!({"ttl": "1s", "refresh_ahead": false});
        let _edge = rig.edge(json!({"cache": cache})).await;
        let (alice, bob, room) = pair(&rig, name, LONG).await;
        let Outage(mend) = fail(&rig).await;

        for app in [&alice, &bob] {
            let refusal = within_limit("a 503", refusal(app)).await;
            assert_eq!(refusal["status"], 503, "{refusal}");
            assert_eq!(refusal["errcode"], "M_UNKNOWN", "{refusal}");
            assert_eq!(refusal["retry_after"], "1", "{refusal}");
        }
        // Their syncs return by a message, which reaches Synapse by another way, and the next ones are refused.
        let before = [alice.events(), bob.events()];
        post_directly(&rig, &bob, &room, "during").await;
        alice.message(bob.user(), "during").await;
        bob.message(bob.user(), "during").await;
        alice
            .event_since(before[0], "sync", |sync| sync["state"] == "RECONNECTING")
            .await;
        bob.event_since(before[1], "sync", |sync| sync["state"] == "ERROR")
            .await;

        mend(&rig);
        let before = [alice.events(), bob.events()];
        alice.synced_since(before[0]).await;
        bob.synced_since(before[1]).await;
        bob.call("send", json!({"room": room, "body": "afterwards"}))
            .await;
        alice.message(bob.user(), "afterwards").await;
        for app in [&alice, &bob] {
            app.assert_logged_in().await;
        }
        assert_eq!(alice.count("refreshed"), 0, "its token was never doubted");
    });
}

/// Asks until that is refused.
async fn refusal(app: &App) -> Value {
    loop {
        if let Err(refusal) = app.try_call("whoami", json!({})).await {
            return refusal;
        }
    }
}

/// Sends a message past Envoy. Synapse knows the token from before.
async fn post_directly(rig: &Rig, app: &App, room: &Value, body: &str) {
    let room = room.as_str().expect("a room");
    let path = format!("/_matrix/client/v3/rooms/{room}/send/m.room.message/{body}");
    let content = json!({"msgtype": "m.text", "body": body}).to_string();
    let request = Request::new("PUT", path)
        .bearer(app.first_token())
        .header("Content-Type", "application/json")
        .body(content);
    let response = http::send(rig.synapse.addr(), &request).await;
    assert_eq!(response.status, 200, "{response:?}");
}
