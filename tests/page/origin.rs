//! A page of another origin, in the same browser, presses no button and reads nothing.

use serde_json::{Value, json};
use stand_in::homeserver::Homeserver;

use crate::{rig::Rig, support::browser::Browser};

#[tokio::test]
async fn a_foreign_page_presses_no_button() {
    let rig = Rig::start().await;
    let own = format!("http://{}", rig.page.addr());
    let server = Homeserver::start_local().await.expect("a free port");
    let foreign = Browser::open(&format!("http://{}/", server.addr())).await;
    // What needs no pre-flight is sent, and what needs one is not.
    for (path, request) in [
        (
            "/page/buttons/kill",
            json!({"method": "POST", "mode": "no-cors"}),
        ),
        (
            "/page/buttons/kill",
            json!({"method": "POST", "headers": {"X-Page-Button": "1"}}),
        ),
        (
            "/users/alice/lock",
            json!({"method": "POST", "mode": "no-cors"}),
        ),
        (
            "/faults",
            json!({"method": "POST", "mode": "no-cors", "body": r#"{"kind":"hang"}"#}),
        ),
        ("/faults", json!({"method": "DELETE"})),
        ("/page/state", json!({})),
        ("/calls", json!({})),
    ] {
        let url = json!(format!("{own}{path}"));
        let script = format!(
            "fetch({url}, {request}).then((answer) => [answer.type, answer.status], () => 'refused')"
        );
        let seen = foreign.run(&script).await;
        // Of an opaque answer nothing can be read.
        assert!(
            seen == "refused" || seen == json!(["opaque", 0]),
            "{path}: {seen}"
        );
    }
    // A form is a navigation, which no fetch rule stops.
    let script = format!(
        r#"new Promise((resolve) => {{
            const frame = document.createElement("iframe");
            frame.name = "target";
            frame.onload = () => resolve(true);
            document.body.append(frame);
            const form = document.createElement("form");
            Object.assign(form, {{method: "POST", action: "{own}/users/alice/lock", target: "target"}});
            document.body.append(form);
            form.submit();
        }})"#
    );
    foreign.run(&script).await;
    assert!(rig.mas.is_up());
    assert!(!rig.mas.is_locked("alice"));
    assert!(rig.mas.faults().is_empty());
    // Its own page does all that.
    rig.press("lock").await;
    assert!(rig.mas.is_locked("alice"));
}

#[tokio::test]
async fn a_foreign_name_that_leads_to_loopback_shows_nothing() {
    let rig = Rig::start().await;
    let url = format!(
        "http://rebound.example:{}/page/state",
        rig.page.addr().port()
    );
    let rule = "--host-resolver-rules=MAP rebound.example 127.0.0.1";
    let rebound = Browser::open_with(&url, &[rule]).await;
    let shown = rebound.run("document.body.textContent").await;
    let shown: Value = serde_json::from_str(shown.as_str().expect("a text")).expect("JSON");
    let error = "this is called localhost or by a loopback address only";
    assert_eq!(shown, json!({"error": error}));
    let script = "fetch('/page/buttons/kill', {method: 'POST', headers: {'X-Page-Button': '1'}}).then(({status}) => status)";
    assert_eq!(rebound.run(script).await, 421);
    assert!(rig.mas.is_up());
}
