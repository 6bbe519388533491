//! What the edge and Synapse ask MAS for one and the same token, and what both say when MAS does
//! not tell.

use stand_in::{
    SeenRequest,
    mas::{Fault, token},
};

use super::{
    answer::{Answer, until_answered},
    rig::{is_from_synapse, with_rig},
};
use crate::support::http::{self, Request};

const WHOAMI: &str = "/_matrix/client/v3/account/whoami";

#[test]
fn a_token_used_ten_times_is_introspected_once_by_the_edge_and_once_by_synapse() {
    with_rig(async |rig| {
        let gateway = rig.gateway().await;
        let token = token("mat", "used ten times");
        rig.give_token(&token, "alice");
        let before = rig.mas.total_calls();
        for _ in 0..10 {
            let response = http::send(gateway.addr(), &Request::get(WHOAMI).bearer(&token)).await;
            assert_eq!(response.json()["user_id"], "@alice:example.org");
        }
        let reached = gateway.recorder.take();
        assert_eq!(reached.len(), 10);
        for head in reached {
            assert_eq!(head.texts("x-matrix-user-id"), ["@alice:example.org"]);
            assert_eq!(head.texts("x-matrix-device-id"), ["ALICEPHONE"]);
        }
        let asked = rig.asked_since(before);
        assert_eq!(
            (asked.by_edge, asked.by_synapse),
            (vec![token.clone()], vec![token])
        );
    });
}

#[test]
fn the_edge_introspects_as_synapse_does() {
    with_rig(async |rig| {
        let gateway = rig.gateway().await;
        for token in [
            token("mat", "asked alike"),
            "an+odd/token=&%20~\"".to_owned(),
        ] {
            rig.give_token(&token, "alice");
            let before = rig.mas.total_calls();
            let response = http::send(gateway.addr(), &Request::get(WHOAMI).bearer(&token)).await;
            assert_eq!(response.status, 200, "{response:?}");
            let requests = rig.introspections_since(before);
            let [by_edge, by_synapse] = requests.as_slice() else {
                panic!("{} introspections", requests.len());
            };
            assert!(
                !is_from_synapse(by_edge) && is_from_synapse(by_synapse),
                "first the edge"
            );
            assert_eq!(Question::of(by_edge), Question::of(by_synapse));
        }
    });
}

/// All of an introspection request that MAS looks at.
#[derive(Debug, PartialEq, Eq)]
struct Question {
    request_line: (String, String),
    headers: Vec<Option<Vec<u8>>>,
    body: Vec<u8>,
}

impl Question {
    fn of(request: &SeenRequest) -> Self {
        let headers = [
            "authorization",
            "accept",
            "content-type",
            "x-mas-supports-device-id",
        ];
        Self {
            request_line: (request.method.clone(), request.target.clone()),
            headers: headers
                .map(|name| request.header(name).map(<[u8]>::to_vec))
                .into(),
            body: request.body.to_vec(),
        }
    }
}

#[test]
fn without_a_verdict_the_edge_answers_as_synapse_does_and_remembers_nothing() {
    let faults = [
        ("active is a string", Fault::active_literal(r#""true""#)),
        ("active is missing", Fault::missing_active()),
        ("active is null", Fault::active_literal("null")),
        ("closed", Fault::close()),
        ("empty object", Fault::empty_object()),
        ("garbage", Fault::garbage()),
        ("HTML", Fault::html()),
        ("invalid JSON", Fault::invalid_json()),
        ("reset", Fault::reset()),
        ("reset in the body", Fault::reset_mid_body()),
        (
            "secret refused",
            Fault::status(401, r#"{"error":"access_denied"}"#),
        ),
        (
            "server error",
            Fault::status(500, r#"{"error":"server_error"}"#),
        ),
        ("too many requests", Fault::too_many_requests()),
        ("truncated", Fault::truncated()),
        ("unavailable", Fault::status(503, "")),
    ];
    with_rig(async |rig| {
        let gateway = rig.gateway().await;
        for (name, fault) in faults {
            let token = token("mat", name);
            rig.give_token(&token, "alice");
            let request = Request::get(WHOAMI).bearer(&token);
            rig.mas.fault(fault);
            let through = Answer::from(&http::send(gateway.addr(), &request).await);
            let mut direct = Answer::from(&http::send(rig.synapse.addr(), &request).await);
            rig.mas.clear_faults();
            direct.say_when_to_come_back();
            assert_eq!(through, direct, "{name}");
            assert_eq!(direct.status, 503, "{name}");
            assert!(
                gateway.recorder.take().is_empty(),
                "{name}: nothing reaches Synapse"
            );
            // After a call that failed MAS is left alone about a token for a second.
            let afterwards =
                until_answered(async || http::send(gateway.addr(), &request).await).await;
            assert_eq!(afterwards.status, 200, "{name}: {afterwards:?}");
            gateway.recorder.take();
        }
    });
}

#[test]
fn a_pre_flight_passes_with_any_token_and_asks_nobody() {
    with_rig(async |rig| {
        let gateway = rig.gateway().await;
        let before = rig.mas.total_calls();
        for path in [
            WHOAMI,
            "/_matrix/client/v3/sync",
            "/_synapse/admin/v2/users",
            "/nowhere",
        ] {
            for token in ["nobody's", "mar_refresh"] {
                let request = Request::new("OPTIONS", path)
                    .bearer(token)
                    .header("Origin", "https://app.example")
                    .header("Access-Control-Request-Method", "PUT")
                    .header("Access-Control-Request-Headers", "authorization");
                let through = Answer::from(&http::send(gateway.addr(), &request).await);
                let direct = Answer::from(&http::send(rig.synapse.addr(), &request).await);
                assert_eq!(through, direct, "{path}");
                assert_eq!(
                    (direct.status, gateway.recorder.take().len()),
                    (204, 1),
                    "{path}"
                );
            }
        }
        assert_eq!(rig.mas.total_calls(), before);
    });
}
