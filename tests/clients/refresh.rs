//! Access tokens that end while their application is busy: it refreshes them, and nobody notices.

use std::time::Duration;

use serde_json::json;

use super::{app::App, conversation::pair, rig::with_rig};

/// So short that several end in the time that a test may take.
const LIFETIME: Duration = Duration::from_secs(2);
/// How many are to end.
const REFRESHES: usize = 4;

#[test]
fn a_refresh_under_load_is_noticed_by_nobody() {
    with_rig(async |rig| {
        let _edge = rig.edge(json!({})).await;
        let (alice, bob, room) = pair(&rig, "refresh", LIFETIME).await;
        let send = async {
            let mut sent = 0;
            while alice.count("refreshed") < REFRESHES {
                let message = json!({"room": room, "body": format!("message {sent}")});
                alice.call("send", message).await;
                sent += 1;
            }
            sent
        };
        let (sent, ..) = tokio::join!(
            send,
            ask_until_refreshed(&alice),
            ask_until_refreshed(&alice),
            ask_until_refreshed(&alice),
        );
        for number in 0..sent {
            bob.message(alice.user(), &format!("message {number}"))
                .await;
        }
        // Both wait in a sync that began with another token.
        bob.call("send", json!({"room": room, "body": "bye"})).await;
        alice.message(bob.user(), "bye").await;
        for app in [&alice, &bob] {
            app.assert_logged_in().await;
        }
        let first = rig.mas.calls(alice.first_token());
        assert!(first > 0, "it was used");
    });
}

/// Each call succeeds, whichever token it is made with.
async fn ask_until_refreshed(app: &App) {
    while app.count("refreshed") < REFRESHES {
        app.call("whoami", json!({})).await;
    }
}
