//! The three verdicts and what becomes of a request: who passes as whom, and Synapse's replies to all others.

use serde_json::json;
use sha2::{Digest, Sha256};
use stand_in::mas::{DEFAULT_SECRET, Fault, Session};

use super::edge::{Edge, NOBODY, WHOAMI, assert_not_active, hex, identity, new_token, values};
use crate::support::{
    http::{Connection, Request, send_raw},
    recorded::assert_is_synapses,
};

#[tokio::test]
async fn an_active_token_passes_as_its_user_and_device() {
    let edge = Edge::start(json!({})).await;
    let token = edge.alice();
    for request in [
        Request::get(WHOAMI).bearer(&token),
        Request::get(format!("{WHOAMI}?access_token={token}")),
        Request::get(format!(
            "{WHOAMI}?x=1;access%5Ftoken={token}&access_token=x"
        )),
        Request::post("/_matrix/client/v3/keys/query", "application/json", "{}").bearer(&token),
        Request::get("/_matrix/client/versions").bearer(&token),
        Request::get("/_matrix/client/unknown").bearer(&token),
    ] {
        let seen = edge.pass(request).await;
        assert_eq!(identity(&seen), [["@alice:example.org"], ["PHONE"]]);
    }
    let seen = edge.pass(Request::get(WHOAMI).bearer(&token)).await;
    // The homeserver still checks for itself.
    assert_eq!(values(&seen, "authorization"), [format!("Bearer {token}")]);
}

#[tokio::test]
async fn every_kind_of_access_token_passes() {
    let edge = Edge::start(json!({})).await;
    let alice_without_device = [vec!["@alice:example.org"], vec![]];
    for (token, session, expected) in [
        (
            new_token("mct"),
            Session::compat("bob", "OLD"),
            [vec!["@bob:example.org"], vec!["OLD"]],
        ),
        (
            "syt_Ym9i_x_y".to_owned(),
            Session::compat("bob", "OLD"),
            [vec!["@bob:example.org"], vec!["OLD"]],
        ),
        (
            new_token("mpt"),
            Session::personal("alice", "BOT"),
            [vec!["@alice:example.org"], vec!["BOT"]],
        ),
        (
            new_token("mat"),
            Session::access("alice", "X").no_device(),
            alice_without_device,
        ),
    ] {
        edge.mas.insert(&token, session);
        let seen = edge.pass(Request::get(WHOAMI).bearer(&token)).await;
        assert_eq!(identity(&seen), expected);
    }
}

#[tokio::test]
async fn an_identity_that_is_no_header_value_is_percent_encoded() {
    let edge = Edge::start(json!({})).await;
    let token = new_token("mct");
    edge.mas.insert(
        &token,
        Session::compat("bob\r\nx-admin: 1", "we ird/\"dev\"\\é%20+&=💥"),
    );
    let seen = edge.pass(Request::get(WHOAMI).bearer(&token)).await;
    let user = "@bob%0D%0Ax-admin:%201:example.org";
    let device = "we%20ird/%22dev%22%5C%C3%A9%2520+&=%F0%9F%92%A5";
    assert_eq!(identity(&seen), [[user], [device]]);
}

#[tokio::test]
async fn an_inactive_token_gets_synapses_401() {
    let edge = Edge::start(json!({})).await;
    let [revoked, expired, locked] = [edge.alice(), new_token("mat"), edge.active("carol", "X")];
    edge.mas.revoke(&revoked);
    edge.mas
        .insert(&expired, Session::access("alice", "PHONE").expired());
    edge.mas.lock_user("carol");
    for token in [&revoked, &expired, &locked, &new_token("mat")] {
        assert_not_active(&edge.whoami(token).await);
        assert_eq!(edge.mas.calls(token), 1);
    }
    assert!(!edge.homeserver.first_byte_seen());
}

#[tokio::test]
async fn a_missing_or_malformed_credential_gets_synapses_401() {
    let edge = Edge::start(json!({})).await;
    let token = &edge.alice();
    let whoami = || Request::get(WHOAMI);
    let query = |query: &str| Request::get(format!("{WHOAMI}?{query}"));
    let authorization = |value: &str| whoami().header("Authorization", value);
    for (request, recorded) in [
        (whoami(), "whoami-no-token"),
        (query("access_token"), "whoami-query-noequals"),
        (
            query(&format!("ACCESS_TOKEN={token}")),
            "whoami-query-uppercase-name",
        ),
        (query("access_token="), "whoami-query-empty"),
        (
            query(&format!("access_token=&access_token={token}")),
            "whoami-query-empty-then-valid",
        ),
        (
            authorization(&format!("bearer {token}")),
            "whoami-lowercase-bearer",
        ),
        (
            authorization(&format!("Bearer  {token}")),
            "whoami-two-spaces",
        ),
        (authorization("Bearer"), "whoami-empty-bearer"),
        (authorization("Basic eDp5"), "whoami-basic"),
        (authorization(""), "whoami-empty-authorization"),
        (
            // Envoy joins them with a comma, here as on the way to the homeserver.
            whoami().bearer(token).bearer(token),
            "whoami-comma-joined",
        ),
        (
            query("access_token=x").bearer(token),
            "whoami-header-valid-query-garbage",
        ),
        (
            whoami().header("Authorization", b"Bearer \xc3\xa9"),
            "whoami-nonascii-token",
        ),
        (query("access_token=%ff"), "whoami-latin1-pct"),
    ] {
        assert_is_synapses(&edge.send(&request).await, recorded, &[]);
    }
    assert_eq!(edge.mas.total_calls(), 0);
    assert!(!edge.homeserver.first_byte_seen());
}

#[tokio::test]
async fn a_token_that_cannot_exist_is_inactive_without_asking() {
    let edge = Edge::start(json!({})).await;
    for token in [
        &new_token("mar"),
        &new_token("mcr"),
        "syr_YWxpY2U_LEGACYlegacyLEGACY12_0aBcDe",
        "mat_Z9zA8yB7xC6wD5vE4uF3tG2sH1rI0q_0lFrYA",
        "mct_Z9zA8yB7xC6wD5vE4uF3tG2sH1rI0q_0lFrY1",
    ] {
        assert_not_active(&edge.whoami(token).await);
    }
    assert_eq!(edge.mas.total_calls(), 0);
    assert!(!edge.homeserver.first_byte_seen());
}

#[tokio::test]
async fn a_token_that_no_mas_made_passes_unannotated_by_default() {
    let edge = Edge::start(json!({})).await;
    let seen = edge
        .pass(Request::get(WHOAMI).bearer("as_secret_token"))
        .await;
    assert_eq!(identity(&seen), NOBODY);
    assert_eq!(edge.mas.total_calls(), 0);
}

#[tokio::test]
async fn a_token_that_no_mas_made_can_be_rejected() {
    let edge = Edge::start(json!({"unrecognized_tokens": "reject"})).await;
    assert_not_active(&edge.whoami("as_secret_token").await);
    assert_eq!(edge.mas.total_calls(), 0);
}

#[tokio::test]
async fn a_token_that_no_mas_made_can_be_introspected() {
    let edge = Edge::start(json!({"unrecognized_tokens": "introspect"})).await;
    edge.mas.insert("opaque", Session::access("alice", "PHONE"));
    let seen = edge.pass(Request::get(WHOAMI).bearer("opaque")).await;
    assert_eq!(identity(&seen), [["@alice:example.org"], ["PHONE"]]);
    assert_not_active(&edge.whoami("as_secret_token").await);
    assert_eq!(edge.mas.total_calls(), 2);
}

#[tokio::test]
async fn control_bytes_never_reach_mas() {
    for policy in ["pass", "reject", "introspect"] {
        let edge = Edge::start(json!({"unrecognized_tokens": policy})).await;
        for token in [
            "syt_a%00b",
            "syt_a%0D%0Ab",
            "mat_a%00b",
            "%7F",
            "x%09y",
            "syt_%1b",
        ] {
            let response = edge
                .send(&Request::get(format!("{WHOAMI}?access_token={token}")))
                .await;
            let may_exist = !token.starts_with("syt_") && !token.starts_with("mat_");
            let passes = policy == "pass" && may_exist;
            let status = if passes { 200 } else { 401 };
            assert_eq!(response.status, status, "{policy} {token}: {response:?}");
        }
        edge.send(&Request::get(WHOAMI).bearer("syt_a\tb")).await;
        assert_eq!(edge.mas.total_calls(), 0, "{policy}");
        for seen in edge.homeserver.requests() {
            assert_eq!(identity(&seen), NOBODY, "{policy}");
        }
    }
}

#[tokio::test]
async fn appservice_tokens_pass_unannotated_whatever_they_look_like() {
    let tokens = [
        "as_secret_token".to_owned(),
        new_token("mat"),
        "mat_bad_checksum".to_owned(),
    ];
    let digests = tokens.clone().map(|token| hex(&Sha256::digest(token)));
    let edge =
        Edge::start(json!({"unrecognized_tokens": "reject", "appservice_tokens": digests})).await;
    for token in &tokens {
        let seen = edge.pass(Request::get(WHOAMI).bearer(token)).await;
        assert_eq!(identity(&seen), NOBODY);
    }
    assert_eq!(edge.mas.total_calls(), 0);
}

#[tokio::test]
async fn an_active_token_that_names_no_matrix_user_gets_synapses_reply() {
    let edge = Edge::start(json!({})).await;
    let api = "urn:matrix:client:api:*";
    let two_devices = format!("{api} urn:matrix:client:device:A urn:matrix:client:device:B");
    for (session, status, errcode, error) in [
        (
            Session::access("alice", "X").scope("openid"),
            401,
            "M_UNKNOWN_TOKEN",
            "Token doesn't grant access to the Matrix C-S API",
        ),
        (
            Session::client_credentials("CLIENT"),
            401,
            "M_UNKNOWN_TOKEN",
            "Token doesn't grant access to the Matrix C-S API",
        ),
        (
            Session::client_credentials("CLIENT").scope(api),
            500,
            "M_FORBIDDEN",
            "Invalid username claim in the introspection result",
        ),
        (
            Session::access("alice", "X").scope(&two_devices),
            500,
            "M_FORBIDDEN",
            "Multiple device IDs in scope",
        ),
        (
            Session::compat("alice", &"x".repeat(256)),
            500,
            "M_FORBIDDEN",
            "Invalid device ID in introspection result",
        ),
    ] {
        let token = new_token("mat");
        edge.mas.insert(&token, session);
        let response = edge.whoami(&token).await;
        let body = response.json();
        assert_eq!(
            (response.status, &body["errcode"], &body["error"]),
            (status, &errcode.into(), &error.into())
        );
    }
    let no_api = new_token("mat");
    edge.mas
        .insert(&no_api, Session::access("alice", "X").scope("openid"));
    assert_is_synapses(&edge.whoami(&no_api).await, "kind-alice_oauth_noapi", &[]);
    assert!(!edge.homeserver.first_byte_seen());
}

#[tokio::test]
async fn a_reply_to_head_has_no_body() {
    let edge = Edge::start(json!({})).await;
    let response = edge.send(&Request::new("HEAD", WHOAMI)).await;
    assert_is_synapses(&response, "whoami-HEAD-no-token", &[]);
    // Two on one connection: a body after the first would be taken for the second.
    let head = format!("HEAD {WHOAMI} HTTP/1.1\r\nHost: x\r\n\r\n");
    let get = format!("GET {WHOAMI} HTTP/1.1\r\nHost: x\r\n\r\n");
    let mut connection = Connection::open(edge.envoy.addr()).await;
    connection.send((head + &get).as_bytes()).await;
    assert_eq!(connection.response(true).await.status, 401);
    assert_is_synapses(&connection.response(false).await, "whoami-no-token", &[]);
    let seen = edge
        .pass(Request::new("HEAD", WHOAMI).bearer(&edge.alice()))
        .await;
    assert_eq!(identity(&seen), [["@alice:example.org"], ["PHONE"]]);
}

#[tokio::test]
async fn a_token_in_a_form_body_is_left_to_the_homeserver() {
    let edge = Edge::start(json!({})).await;
    let token = edge.alice();
    let path = "/_matrix/client/v3/keys/query";
    let form = |target: &str| {
        Request::post(
            target,
            "application/x-www-form-urlencoded",
            format!("access_token={token}"),
        )
    };
    for target in [path.to_owned(), format!("{path}?access_token={token}")] {
        let seen = edge.pass(form(&target)).await;
        assert_eq!(identity(&seen), NOBODY);
    }
    assert_eq!(edge.mas.total_calls(), 0);
    let seen = edge.pass(form(path).bearer(&token)).await;
    assert_eq!(identity(&seen), [["@alice:example.org"], ["PHONE"]]);
}

#[tokio::test]
async fn query_tokens_can_be_refused() {
    let edge = Edge::start(json!({"query_token": "reject"})).await;
    let token = edge.alice();
    let response = edge
        .send(&Request::get(format!("{WHOAMI}?access_token={token}")))
        .await;
    assert_is_synapses(&response, "whoami-no-token", &[]);
    assert_eq!(edge.mas.total_calls(), 0);
    assert_eq!(edge.whoami(&token).await.status, 200);
}

#[tokio::test]
async fn bytes_that_are_not_utf8_do_no_harm() {
    let edge = Edge::start(json!({})).await;
    let token = edge.alice();
    let request = |line: &[u8], headers: &[u8]| {
        [line, b" HTTP/1.1\r\nHost: x\r\n", headers, b"\r\n"].concat()
    };
    let whoami = format!("GET {WHOAMI}");
    let authorization = format!("Authorization: Bearer {token}\r\n");
    let odd: &[u8] =
        b"X-Odd: \xff\xfe\r\ntraceparent: \xff\r\nContent-Type: \xff\r\nX-Matrix-User-Id: \xff\r\n";
    let raw = request(whoami.as_bytes(), &[odd, authorization.as_bytes()].concat());
    let response = send_raw(edge.envoy.addr(), &raw).await;
    assert_eq!(response.status, 200, "{response:?}");
    assert_eq!(
        identity(&edge.homeserver.requests()[0]),
        [["@alice:example.org"], ["PHONE"]]
    );
    send_raw(
        edge.envoy.addr(),
        &request(b"GET /_matrix/client/v3/\xff?access_token=\xff", odd),
    )
    .await;
    send_raw(
        edge.envoy.addr(),
        &request(whoami.as_bytes(), b"Authorization: \xff\r\n"),
    )
    .await;
    edge.assert_alive().await;
}

#[tokio::test]
async fn secrets_and_tokens_are_neither_logged_nor_counted_under() {
    let edge = Edge::start(json!({})).await;
    let [alice, revoked] = [edge.alice(), edge.alice()];
    edge.mas.revoke(&revoked);
    edge.whoami(&alice).await;
    edge.whoami(&revoked).await;
    edge.mas.fault(Fault::status(500, "").times(1));
    edge.whoami(&edge.alice()).await;
    let log = edge.envoy.log();
    let metrics = format!("{:?}", edge.envoy.stats().await);
    for secret in [&*alice, &*revoked, DEFAULT_SECRET] {
        let digest = hex(&Sha256::digest(secret));
        for shown in [&log, &metrics] {
            assert!(!shown.contains(secret) && !shown.contains(&digest));
        }
    }
}
