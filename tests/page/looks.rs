//! What a person sees: on small and large screens, by keyboard, without a network, when the stack ends.

use std::{fs, path::Path};

use crate::{rig::Rig, support::envoy::repository};

#[tokio::test]
async fn it_fits_every_screen_and_shows_no_token() {
    let rig = Rig::start().await;
    for button in ["send-alice", "send-bob", "send-expired", "log-out"] {
        rig.press(button).await;
    }
    for (width, height) in [
        (320, 640),
        (390, 844),
        (768, 1024),
        (1280, 800),
        (1920, 1080),
    ] {
        rig.browser.look(width, height, "light").await;
        let overflow =
            "document.documentElement.scrollWidth - document.documentElement.clientWidth";
        assert_eq!(rig.browser.run(overflow).await, 0, "{width} pixels");
    }
    let shown = rig.browser.run("document.documentElement.outerHTML").await;
    let state = rig
        .browser
        .run("fetch('/page/state').then((answer) => answer.text())")
        .await;
    for text in [shown, state] {
        let text = text.as_str().expect("a text");
        assert!(text.contains("alice"));
        for prefix in ["mat_", "mct_", "mpt_", "Bearer"] {
            assert!(!text.contains(prefix), "{prefix}");
        }
    }
}

#[tokio::test]
async fn a_keyboard_is_enough() {
    let rig = Rig::start().await;
    let focused = "document.activeElement.dataset?.button ?? ''";
    for _ in 0..40 {
        if rig.browser.run(focused).await == "send-bob" {
            break;
        }
        rig.browser.key("Tab", 9, "").await;
    }
    assert_eq!(rig.browser.run(focused).await, "send-bob");
    rig.browser
        .run("void (window.pressed = document.activeElement)")
        .await;
    rig.browser.key("Enter", 13, "\r").await;
    rig.wait_for_figure("requests", 1).await;
    let told = rig.ended("send-bob").await;
    assert!(told.starts_with("Bob's old client: 200"), "{told}");
    // It is still where it was, for the next press.
    assert_eq!(rig.browser.run(focused).await, "send-bob");
}

#[tokio::test]
async fn nothing_is_loaded_from_elsewhere_and_the_console_stays_empty() {
    let rig = Rig::start().await;
    rig.press("send-alice").await;
    let own = format!("http://{}", rig.page.addr());
    let loaded = rig
        .browser
        .run("performance.getEntriesByType('resource').map(({name}) => name)")
        .await;
    let loaded = loaded.as_array().expect("a list");
    assert!(loaded.len() >= 3, "{loaded:?}");
    for name in loaded {
        assert!(
            name.as_str().is_some_and(|name| name.starts_with(&own)),
            "{name}"
        );
    }
    let mistakes = rig.browser.mistakes();
    assert!(mistakes.is_empty(), "{mistakes:?}");
}

#[tokio::test]
async fn a_page_whose_stack_has_ended_says_so() {
    let Rig { page, browser, .. } = Rig::start().await;
    drop(page);
    browser
        .wait_for(r#"document.getElementById("link").textContent.startsWith("Not connected")"#)
        .await;
}

/// The picture in the README is of a run like this. `UPDATE_FIGURES=1` takes it anew.
#[tokio::test]
async fn a_picture_of_it() {
    let rig = Rig::start().await;
    rig.browser.look(1280, 820, "light").await;
    for kind in [
        "alice",
        "alice",
        "bob",
        "bob",
        "new",
        "public",
        "synapse",
        "foreign",
        "expired",
        "unknown",
        "impossible",
        "no-token",
    ] {
        rig.press(&format!("send-{kind}")).await;
    }
    rig.press("lock").await;
    rig.press("unlock").await;
    rig.press("send-alice").await;
    rig.press("herd").await;
    // The dots of the herd are on their way, and the first have arrived.
    rig.browser
        .wait_for(
            "((dots) => (window.most = Math.max(window.most ?? 0, dots)) > dots || dots === 0)
                (document.querySelectorAll('#wires circle').length)",
        )
        .await;
    let picture = rig.browser.picture().await;
    assert!(picture.starts_with(b"\x89PNG"));
    let place = match std::env::var_os("UPDATE_FIGURES") {
        Some(_) => repository().join("docs/page.png"),
        None => Path::new(env!("CARGO_TARGET_TMPDIR")).join("page.png"),
    };
    fs::write(place, picture).expect("a writable place");
}
