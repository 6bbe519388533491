//! A logout ends the session of those whom it means, for both libraries and in both ways to log out, and of nobody else.

use serde_json::json;

use super::{
    app::{App, Library, Login},
    conversation::LONG,
    rig::with_rig,
};
use crate::support::{envoy::Envoy, http::within_limit};

/// matrix-js-sdk revokes its tokens then (RFC 7009), and learns of the end when it tries to refresh.
#[test]
fn an_oauth_session_ends_with_its_logout() {
    with_rig(async |rig| {
        let edge = rig.edge(json!({})).await;
        let phone = App::start(&rig, Library::Js, "logout_oauth", Login::OAuth(LONG)).await;
        let laptop = App::start(&rig, Library::Js, "logout_oauth", Login::OAuth(LONG)).await;
        for app in [&phone, &laptop] {
            app.assert_logged_in().await;
        }
        phone.call("logout", json!({})).await;
        assert_logged_out(&phone).await;
        laptop.assert_logged_in().await;
        assert_the_edge_saw_it(&edge).await;
    });
}

#[test]
fn a_compat_session_ends_with_its_logout() {
    with_rig(async |rig| {
        let edge = rig.edge(json!({})).await;
        for (library, user) in [(Library::Js, "logout_js"), (Library::Nio, "logout_nio")] {
            let phone = App::start(&rig, library, user, Login::Compat).await;
            let laptop = App::start(&rig, library, user, Login::Compat).await;
            for app in [&phone, &laptop] {
                app.sync().await;
                app.assert_logged_in().await;
            }
            phone.call("logout", json!({})).await;
            assert_logged_out(&phone).await;
            laptop.assert_logged_in().await;
        }
        assert_the_edge_saw_it(&edge).await;
    });
}

#[test]
fn everybody_is_logged_out_by_a_logout_of_all_devices() {
    with_rig(async |rig| {
        let edge = rig.edge(json!({})).await;
        let start = async |library| {
            let app = App::start(&rig, library, "logout_all", Login::Compat).await;
            app.sync().await;
            app.assert_logged_in().await;
            app
        };
        let apps = [
            start(Library::Nio).await,
            start(Library::Js).await,
            start(Library::Nio).await,
        ];
        let other = App::start(&rig, Library::Js, "logout_other", Login::Compat).await;
        other.assert_logged_in().await;
        apps[0].call("logout_all", json!({})).await;
        for app in &apps {
            assert_logged_out(app).await;
        }
        other.assert_logged_in().await;
        assert_the_edge_saw_it(&edge).await;
    });
}

/// Asks until that is refused, which the edge promises within a second. The application must have understood it.
async fn assert_logged_out(app: &App) {
    let refusal = within_limit("a refusal", async {
        loop {
            if let Err(refusal) = app.try_call("whoami", json!({})).await {
                return refusal;
            }
        }
    })
    .await;
    assert_eq!(refusal["status"], 401, "{refusal}");
    assert_eq!(refusal["errcode"], "M_UNKNOWN_TOKEN", "{refusal}");
    app.event_since(0, "logged_out", |_| true).await;
}

/// Checks that the edge ended answers itself, by what passed it to or from MAS. Synapse, which MAS tells of the device,
/// refuses the application too, so that alone shows nothing.
async fn assert_the_edge_saw_it(edge: &Envoy) {
    let stats = edge.stats().await;
    let name = "matrix_edge_auth_invalidations_total";
    let by_refusals = stats.sum(name, &[("reason", "homeserver")]);
    let all = stats.sum(name, &[]);
    assert!(
        all > by_refusals,
        "{all} answers ended, {by_refusals} of them by refusals"
    );
}
