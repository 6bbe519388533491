//! MAS is killed and brought back: what the edge knows goes on, and what it does not know gets no verdict.

use std::time::Duration;

use stand_in::page::Cache;

use crate::rig::{Rig, SHIPPED};

#[tokio::test]
async fn without_mas_known_tokens_pass_and_cold_ones_get_503() {
    let rig = Rig::start().await;
    rig.press("send-alice").await;
    let told = rig.press("kill").await;
    assert_eq!(told, "Killed MAS: its port refuses connections.");
    assert_eq!(rig.text("mas-state").await, "down");
    assert!(!rig.mas.is_up());

    let told = rig.press("send-alice").await;
    assert!(told.contains("200, the homeserver sees @alice"), "{told}");
    let before = rig.figures().await;
    let told = rig.press("send-new").await;
    assert!(
        told.starts_with("A new session: 503 M_UNKNOWN, MAS gave no verdict;"),
        "{told}"
    );
    assert_eq!(rig.figures().await.spared, before.spared);
    let told = rig.press("herd").await;
    assert!(
        told.contains("1,000 got 503; 0 calls reached MAS, 0 spared;"),
        "{told}"
    );
    let bar = rig
        .browser
        .run("document.querySelector('[data-verdict=no_verdict]').parentElement.textContent")
        .await;
    assert_eq!(bar, "No verdict: 503 MAS gave none 1,0011,001");
    let after = rig.figures().await;
    assert_eq!((after.at_mas, after.spared), (before.at_mas, before.spared));

    for (button, told) in [
        ("lock", "MAS is down: bring it back first."),
        (
            "log-out",
            "POST /logout of bob's old client got 503 Service Unavailable.",
        ),
    ] {
        assert_eq!(rig.press(button).await, told);
    }
    assert!(!rig.mas.is_locked("alice"));

    assert_eq!(rig.press("bring-back").await, "Brought MAS back.");
    assert_eq!(rig.text("mas-state").await, "up");
    let told = rig.press("send-new").await;
    assert!(told.contains("200, the homeserver sees @dave"), "{told}");
}

#[tokio::test]
async fn a_stale_answer_shows_as_one() {
    let cache = Cache {
        ttl: Duration::from_secs(1),
        stale_if_error: Duration::from_secs(600),
        ..SHIPPED
    };
    let rig = Rig::start_with(cache).await;
    rig.press("send-alice").await;
    rig.press("kill").await;
    let stale = "200, the homeserver sees @alice:example.org on PHONE, from the cache past its time, since MAS cannot be asked;";
    let mut told = rig.press("send-alice").await;
    while !told.contains(stale) {
        assert!(
            told.contains("own cache") || told.contains("shared cache"),
            "{told}"
        );
        told = rig.press("send-alice").await;
    }
    let cached = &rig.member("alice").await[1];
    assert_eq!(cached, "nothingits time is over");
}
