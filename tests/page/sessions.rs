//! The buttons that end sessions and begin them again: what MAS does reaches every worker of the edge.

use crate::rig::Rig;

/// Presses a button until the page tells what it must: all workers know within a second.
async fn press_until(rig: &Rig, button: &str, wanted: &str) {
    let mut told = String::new();
    for _ in 0..200 {
        told = rig.press(button).await;
        if told.contains(wanted) {
            return;
        }
    }
    panic!("{button} never told {wanted}: {told}");
}

#[tokio::test]
async fn a_locked_user_is_refused_until_unlocked() {
    let rig = Rig::start().await;
    rig.press("send-alice").await;
    let before = rig.figures().await;
    let told = rig.press("lock").await;
    assert_eq!(
        told,
        "Locked alice, and MAS has told the homeserver through the edge."
    );
    let expected = ["locked", "nothingended: MAS told the homeserver"];
    assert_eq!(rig.member("alice").await, expected);
    let after = rig.figures().await;
    assert!(
        after.invalidated > before.invalidated,
        "{before:?} {after:?}"
    );
    assert_eq!(after.requests, before.requests);

    press_until(&rig, "send-alice", "401 M_UNKNOWN_TOKEN").await;
    assert!(rig.figures().await.refused > before.refused);
    let before = rig.figures().await;
    // The button has changed.
    let told = rig.press("unlock").await;
    assert_eq!(
        told,
        "Unlocked alice, and MAS has told the homeserver through the edge."
    );
    assert!(rig.figures().await.invalidated > before.invalidated);
    assert_eq!(rig.member("alice").await[0], "active");
    press_until(&rig, "send-alice", "200, the homeserver sees @alice").await;
}

#[tokio::test]
async fn a_session_that_its_client_ends_is_refused_until_it_logs_in_again() {
    let rig = Rig::start().await;
    rig.press("send-bob").await;
    let before = rig.figures().await;
    let told = rig.press("log-out").await;
    let expected = "Logged bob's old client out, and MAS has told the homeserver through the edge.";
    assert_eq!(told, expected);
    let expected = ["logged out", "nothingended: the client logged out"];
    assert_eq!(rig.member("bob").await, expected);
    let after = rig.figures().await;
    assert!(
        after.invalidated > before.invalidated,
        "{before:?} {after:?}"
    );

    press_until(&rig, "send-bob", "401 M_UNKNOWN_TOKEN").await;
    rig.press("log-in").await;
    assert_eq!(rig.member("bob").await, ["active", "nothing"]);
    press_until(&rig, "send-bob", "200, the homeserver sees @bob").await;
}
