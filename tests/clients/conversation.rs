//! Two people talk: one with matrix-js-sdk, the other with matrix-nio.

use std::time::Duration;

use serde_json::{Value, json};

use super::{
    app::{App, Library, Login},
    rig::{Rig, with_rig},
};

/// Longer than any test.
pub const LONG: Duration = Duration::from_secs(300);

#[test]
fn they_meet_in_a_room_and_send_messages_and_media() {
    with_rig(async |rig| {
        let _edge = rig.edge(json!({})).await;
        let (alice, bob, room) = pair(&rig, "conversation", LONG).await;
        for app in [&alice, &bob] {
            app.assert_logged_in().await;
        }
        // Each waits in a long-polling sync until the other sends.
        for (from, to) in [(&alice, &bob), (&bob, &alice), (&alice, &bob)] {
            let body = format!("from {} after {} events", from.user(), to.events());
            from.call("send", json!({"room": room, "body": body})).await;
            to.message(from.user(), &body).await;
        }
        for (from, to) in [(&alice, &bob), (&bob, &alice)] {
            let text = format!("{} ", from.user()).repeat(10_000);
            let uri = from.call("upload", json!({"text": text})).await;
            let copy = to.call("download", json!({"uri": uri})).await;
            assert_eq!(copy, text, "{uri}");
        }
        for app in [&alice, &bob] {
            app.assert_logged_in().await;
        }
    });
}

/// Two applications that sync, matrix-js-sdk first, whose users are in one room, and the room. The access tokens of the
/// first live for `lifetime`.
pub async fn pair(rig: &Rig, name: &str, lifetime: Duration) -> (App, App, Value) {
    let [one, other] = ["alice", "bob"].map(|user| format!("{name}_{user}"));
    let alice = App::start(rig, Library::Js, &one, Login::OAuth(lifetime)).await;
    let bob = App::start(rig, Library::Nio, &other, Login::Compat).await;
    alice.sync().await;
    let room = alice
        .call("create_room", json!({"invite": bob.user()}))
        .await;
    bob.call("join", json!({"room": room})).await;
    bob.sync().await;
    (alice, bob, room)
}
