//! Refreshes in the stand-in MAS: one after the other, at once, again with a token that was used.

use std::time::Duration;

use crate::support::caller::{is_active, send};
use http::Request;
use stand_in::{
    clock::Clock,
    mas::{Client, DEFAULT_SECRET, Mas, Options, Session},
};

#[tokio::test]
async fn a_refresh_ends_the_old_pair_and_keeps_the_session() {
    for session in [Session::access("alice", "A"), Session::compat("alice", "A")] {
        let clock = Clock::manual(Duration::from_secs(1_800_000_000));
        let mas = Mas::start(Options {
            clock: clock.clone(),
            ..Options::default()
        })
        .await
        .expect("a free port");
        let session = session.expires_in(Duration::from_secs(60));
        mas.insert("old", session.refresh_token("r0"));
        clock.advance(Duration::from_secs(59));
        refresh(&mas, "r0", "new", "r1");
        clock.advance(Duration::from_secs(2));
        assert!(!is_active(&mas, "old").await);
        assert!(is_active(&mas, "new").await, "its life is counted anew");
        mas.revoke("r1");
        assert!(!is_active(&mas, "new").await);
    }
}

#[tokio::test]
async fn two_refreshes_at_once_both_succeed() {
    for session in [Session::access("alice", "A"), Session::compat("alice", "A")] {
        let mas = start_with(session).await;
        let one = mas.begin_refresh("r0").expect("it is good");
        let other = mas.begin_refresh("r0").expect("it still is");
        assert!(is_active(&mas, "old").await, "nothing has changed yet");
        one.commit("one", "r1");
        other.commit("other", "r2");
        for (token, is_still_active) in [("old", false), ("one", true), ("other", true)] {
            assert_eq!(is_active(&mas, token).await, is_still_active, "{token}");
        }
        mas.revoke("one");
        assert!(!is_active(&mas, "other").await, "it is one session");
    }
}

#[tokio::test]
async fn of_two_at_once_an_oauth_client_may_go_on_with_either() {
    let mas = start_with(Session::access("alice", "A")).await;
    refresh_twice_at_once(&mas);
    refresh(&mas, "r1", "one2", "r3");
    refresh(&mas, "r2", "other2", "r4");
    for token in ["one2", "other2"] {
        assert!(is_active(&mas, token).await, "{token}");
    }
}

#[tokio::test]
async fn of_two_at_once_a_compat_client_may_go_on_with_the_later() {
    let mas = start_with(Session::compat("alice", "A")).await;
    refresh_twice_at_once(&mas);
    assert!(mas.begin_refresh("r1").is_none());
    refresh(&mas, "r2", "other2", "r4");
    for (token, is_still_active) in [("one", true), ("other", false), ("other2", true)] {
        assert_eq!(is_active(&mas, token).await, is_still_active, "{token}");
    }
}

#[tokio::test]
async fn a_used_oauth_refresh_token_is_good_again_while_its_successors_are_unused() {
    let mas = start_with(Session::access("alice", "A")).await;
    refresh(&mas, "r0", "lost", "r1");
    refresh(&mas, "r0", "new", "r2");
    assert!(!is_active(&mas, "lost").await);
    assert!(mas.begin_refresh("r1").is_none(), "it was lost, too");
    // An introspection as active is a use.
    assert!(is_active(&mas, "new").await);
    assert!(mas.begin_refresh("r0").is_none());
    refresh(&mas, "r2", "newer", "r3");
    assert!(mas.begin_refresh("r0").is_none());
    assert!(is_active(&mas, "newer").await, "a replay ends nothing");
}

#[tokio::test]
async fn a_used_compat_refresh_token_is_never_good_again() {
    let mas = start_with(Session::compat("alice", "A")).await;
    refresh(&mas, "r0", "new", "r1");
    assert!(mas.begin_refresh("r0").is_none());
    assert!(is_active(&mas, "new").await);
}

#[tokio::test]
async fn what_is_no_refresh_token_of_a_live_session_is_refused() {
    let mas = start_with(Session::access("alice", "A")).await;
    for token in ["old", "unknown"] {
        assert!(mas.begin_refresh(token).is_none(), "{token}");
    }
    // MAS does not look at the user here.
    mas.lock_user("alice");
    refresh(&mas, "r0", "new", "r1");
    assert!(!is_active(&mas, "new").await);
    mas.unlock_user("alice");
    assert!(is_active(&mas, "new").await);
    let late = mas.begin_refresh("r1").expect("it is good");
    mas.revoke("new");
    assert!(mas.begin_refresh("r1").is_none());
    late.commit("late", "r2");
    assert!(
        !is_active(&mas, "late").await,
        "the session ended meanwhile"
    );
}

#[tokio::test]
async fn a_used_refresh_token_is_inactive() {
    let mas = start_with(Session::compat("alice", "A")).await;
    // Without a hint MAS also answers about refresh tokens.
    let introspect = async |token: &str| {
        let request = Request::post(format!("http://{}/oauth2/introspect", mas.addr()))
            .header("authorization", format!("Bearer {DEFAULT_SECRET}"))
            .header("content-type", "application/x-www-form-urlencoded");
        send(request, &format!("token={token}")).await.1
    };
    assert!(introspect("r0").await.starts_with(r#"{"active":true"#));
    refresh(&mas, "r0", "new", "r1");
    assert_eq!(introspect("r0").await, r#"{"active":false}"#);
    assert!(introspect("r1").await.starts_with(r#"{"active":true"#));
}

#[tokio::test]
async fn the_token_endpoint_refreshes_for_a_client_that_it_knows() {
    let clients = vec![Client::public("APP")];
    let options = Options {
        clients,
        ..Options::default()
    };
    let mas = Mas::start(options).await.expect("a free port");
    let session = Session::access("alice", "A").expires_in(Duration::from_secs(60));
    mas.insert("old", session.refresh_token("r0"));
    let ask = async |form: &str| {
        let request = Request::post(format!("http://{}/oauth2/token", mas.addr()))
            .header("content-type", "application/x-www-form-urlencoded");
        let (status, body) = send(request, form).await;
        let body: serde_json::Value = serde_json::from_str(&body).expect("JSON");
        (status.as_u16(), body)
    };
    let grant = "grant_type=refresh_token&refresh_token=";
    for (form, status, error) in [
        (format!("{grant}r0&client_id=OTHER"), 401, "invalid_client"),
        (format!("{grant}old&client_id=APP"), 400, "invalid_grant"),
        (
            "grant_type=password&client_id=APP".to_owned(),
            400,
            "unsupported_grant_type",
        ),
    ] {
        let (refused, body) = ask(&form).await;
        assert_eq!(refused, status, "{body}");
        assert_eq!(body["error"], error);
    }
    assert!(is_active(&mas, "old").await);

    let (status, issued) = ask(&format!("{grant}r0&client_id=APP")).await;
    assert_eq!(status, 200, "{issued}");
    assert_eq!(issued["token_type"], "Bearer");
    assert_eq!(issued["expires_in"], 60);
    let [access, refresh] =
        ["access_token", "refresh_token"].map(|key| issued[key].as_str().expect("a token"));
    assert!(!is_active(&mas, "old").await);
    assert!(is_active(&mas, access).await);

    mas.revoke(access);
    let (status, body) = ask(&format!("{grant}{refresh}&client_id=APP")).await;
    assert_eq!((status, &body["error"]), (400, &"invalid_grant".into()));
}

/// A MAS with this session under the access token `old` and the refresh token `r0`.
async fn start_with(session: Session) -> Mas {
    let mas = Mas::start(Options::default()).await.expect("a free port");
    mas.insert("old", session.refresh_token("r0"));
    mas
}

fn refresh(mas: &Mas, with: &str, access_token: &str, refresh_token: &str) {
    mas.begin_refresh(with)
        .expect("the refresh token is good")
        .commit(access_token, refresh_token);
}

/// Issues `one` with `r1` and, last, `other` with `r2`.
fn refresh_twice_at_once(mas: &Mas) {
    let one = mas.begin_refresh("r0").expect("it is good");
    let other = mas.begin_refresh("r0").expect("it still is");
    one.commit("one", "r1");
    other.commit("other", "r2");
}
