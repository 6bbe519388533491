//! The buttons that send one request each.

use std::collections::BTreeSet;

use crate::rig::{BARS, Rig};

/// What a button must tell, by how much the page's figures must grow (requests, calls, refused), and which of its bars.
type Case = (&'static str, &'static str, [u64; 3], &'static str);

#[tokio::test]
async fn each_kind_of_request_changes_the_figures_that_it_must() {
    let rig = Rig::start().await;
    let cases: [Case; 12] = [
        (
            "alice",
            "Alice's phone: 200, the homeserver sees @alice:example.org on PHONE, MAS was asked;",
            [1, 1, 0],
            "active",
        ),
        (
            "bob",
            "Bob's old client: 200, the homeserver sees @bob:example.org on OLD%20CLIENT, MAS was asked;",
            [1, 1, 0],
            "active",
        ),
        (
            "new",
            "A new session: 200, the homeserver sees @dave:example.org on NEW, MAS was asked;",
            [1, 1, 0],
            "active",
        ),
        (
            "public",
            "A public endpoint: 200, the homeserver sees no identity, no verdict needed;",
            [1, 0, 0],
            "not_asked",
        ),
        (
            "foreign",
            "A token of another service: 200, the homeserver sees no identity, no verdict needed;",
            [1, 0, 0],
            "not_asked",
        ),
        (
            "expired",
            "An expired token: 401 M_UNKNOWN_TOKEN, MAS was asked;",
            [1, 1, 1],
            "inactive",
        ),
        (
            "logged-out",
            "A logged-out token: 401 M_UNKNOWN_TOKEN, MAS was asked;",
            [1, 1, 1],
            "inactive",
        ),
        (
            "unknown",
            "A token that nobody has: 401 M_UNKNOWN_TOKEN, MAS was asked;",
            [1, 1, 1],
            "inactive",
        ),
        (
            "impossible",
            "A token that cannot exist: 401 M_UNKNOWN_TOKEN, decided without MAS;",
            [1, 0, 1],
            "inactive",
        ),
        (
            "no-token",
            "No token: 401 M_MISSING_TOKEN, no verdict needed;",
            [1, 0, 1],
            "not_asked",
        ),
        (
            "internal",
            "An internal path: 404 M_UNRECOGNIZED,",
            [1, 0, 1],
            "not_asked",
        ),
        // A question of the homeserver's is no client's request.
        (
            "synapse",
            "The homeserver asks about alice's phone: 200 active, from the shared cache;",
            [0, 0, 0],
            "answers",
        ),
    ];
    for (kind, told, [requests, calls, refused], bar) in cases {
        let before = rig.figures().await;
        let is_told = rig.press(&format!("send-{kind}")).await;
        assert!(is_told.starts_with(told), "{is_told}");
        let after = rig.figures().await;
        assert_eq!(after.requests - before.requests, requests, "{kind}");
        assert_eq!(after.calls - before.calls, calls, "{kind}");
        assert_eq!(after.at_mas - before.at_mas, calls, "{kind}");
        assert_eq!(after.refused - before.refused, refused, "{kind}");
        for (at, name) in BARS.iter().enumerate() {
            let grown = after.by_verdict[at] - before.by_verdict[at];
            assert_eq!(grown, u64::from(*name == bar), "{kind}: {name}");
        }
    }
    // Alice's token is known by now, to one worker or to all.
    let before = rig.figures().await;
    let told = rig.press("send-admin").await;
    let expected = "Alice's phone at the admin API: 403 M_FORBIDDEN, from ";
    assert!(told.starts_with(expected), "{told}");
    let after = rig.figures().await;
    assert_eq!(after.requests - before.requests, 1);
    assert_eq!(after.calls, before.calls);
    assert_eq!(after.from_cache - before.from_cache, 1);
    assert_eq!(after.refused - before.refused, 1);
}

/// Buttons that the page has, and those that take their places.
#[test]
fn every_button_is_pressed_by_a_test() {
    let page = include_str!("../../stand-in/src/page/index.html");
    let script = include_str!("../../stand-in/src/page/page.js");
    let name = |text: &str| text.split('"').next().map(str::to_owned);
    let shown = page.split("data-button=\"").skip(1).filter_map(name);
    let toggles = script
        .lines()
        .filter(|line| line.contains("toggle(\"toggle-"));
    let turned = toggles
        .flat_map(|line| line.split("[\"").skip(1))
        .filter_map(name);
    let buttons: BTreeSet<String> = shown.chain(turned).collect();
    assert_eq!(buttons.len(), 22, "{buttons:?}");
    let tests = [
        include_str!("herd.rs"),
        include_str!("outage.rs"),
        include_str!("requests.rs"),
        include_str!("sessions.rs"),
    ]
    .concat();
    for button in buttons {
        // Those that send one request are a table, without what their names begin with.
        let of_table = button.trim_start_matches("send-");
        let is_pressed = [button.as_str(), of_table]
            .iter()
            .any(|name| tests.contains(&format!("\"{name}\"")));
        assert!(is_pressed, "{button}");
    }
}

#[tokio::test]
async fn a_token_that_is_known_spares_a_call_each_time() {
    let rig = Rig::start().await;
    assert_eq!(rig.member("alice").await, ["active", "nothing"]);
    rig.press("send-alice").await;
    let [at_mas, cached] = rig.member("alice").await;
    assert_eq!(at_mas, "active");
    assert!(cached.starts_with("activeuntil ≈ "), "{cached}");
    assert!(cached.ends_with(" left"), "{cached}");
    let before = rig.figures().await;
    let mut own_cache = 0;
    // Each is on a connection of its own, so either worker may have it. Each of the two asks the shared cache once.
    for _ in 0..6 {
        let told = rig.press("send-alice").await;
        assert!(told.contains("200, the homeserver sees @alice"), "{told}");
        own_cache += u32::from(told.contains("from the Envoy worker's own cache"));
        assert!(told.contains("cache"), "{told}");
    }
    assert!(own_cache >= 4, "{own_cache}");
    let after = rig.figures().await;
    assert_eq!(after.spared - before.spared, 6);
    assert_eq!(after.from_cache - before.from_cache, 6);
    assert_eq!(after.calls, before.calls);

    rig.press("send-unknown").await;
    let told = rig.press("send-unknown").await;
    assert!(
        told.contains("401 M_UNKNOWN_TOKEN, from the shared cache"),
        "{told}"
    );
    let [at_mas, cached] = rig.member("unknown").await;
    assert_eq!(at_mas, "unknown");
    assert!(cached.starts_with("inactiveuntil ≈ "), "{cached}");
}

#[tokio::test]
async fn requests_of_other_clients_show_without_a_button() {
    use crate::support::http::{self, Request};

    let rig = Rig::start().await;
    let before = rig.figures().await.requests;
    let whoami = Request::get("/_matrix/client/v3/account/whoami");
    let answer = http::send(rig.envoy.listener("matrix"), &whoami).await;
    assert_eq!(answer.status, 401);
    rig.wait_for_figure("requests", before + 1).await;
    rig.assert_true().await;
}
