//! Scenarios on a simulated Envoy: the real core, a virtual clock, several workers, injected faults.

#![cfg(not(target_arch = "wasm32"))]

#[path = "support/simulated.rs"]
#[expect(dead_code, reason = "each test layer uses a part of it")]
mod simulated;

#[path = "scenarios/attack.rs"]
mod attack;
#[path = "scenarios/introspection_role.rs"]
mod introspection_role;
#[path = "scenarios/provisioning.rs"]
mod provisioning;
#[path = "scenarios/random.rs"]
mod random;
#[path = "scenarios/renewal.rs"]
mod renewal;
#[path = "scenarios/sessions.rs"]
mod sessions;
#[path = "scenarios/workers.rs"]
mod workers;

use std::{collections::BTreeMap, time::Duration};

use matrix_edge_auth::{
    cache::flight::MAX_WAITERS_PER_FLIGHT,
    host::RootId,
    mas::introspection::{IntrospectionResponse, MAX_RESPONSE_BYTES},
};
use serde_json::json;

use self::simulated::{Fate, Process, Request, SimulatedWorker, gateway};

const ALICE: &str = "mat_Z9zA8yB7xC6wD5vE4uF3tG2sH1rI0q_0lFrY1";
const BOB: &str = "mat_mavzfVABqZ5YsOOlB1f46RfHk7hp3I_0pfwQt";
const WHOAMI: &str = "/_matrix/client/v3/account/whoami";
const INACTIVE: &str = r#"{"active":false}"#;
const NOT_ACTIVE: &str =
    r#"{"errcode":"M_UNKNOWN_TOKEN","error":"Token is not active","soft_logout":false}"#;
const UNABLE: &str = r#"{"errcode":"M_UNKNOWN","error":"Unable to introspect the access token"}"#;

fn active(username: &str) -> String {
    json!({"active": true, "scope": "urn:matrix:client:api:*", "username": username}).to_string()
}

fn whoami(token: &str) -> Request {
    Request::get(WHOAMI).bearer(token)
}

fn unable() -> Fate {
    Fate::Answered(503, UNABLE.to_owned())
}

fn not_active() -> Fate {
    Fate::Answered(401, NOT_ACTIVE.to_owned())
}

#[test]
fn an_active_token_is_asked_about_once_and_annotates_every_request() {
    let process = Process::new();
    let mut worker = SimulatedWorker::new(&process);
    let gateway = gateway(1, json!({"filter_state": true}));
    let stream = worker.request(&gateway, whoami(ALICE));
    assert_eq!(worker.fate(stream), Fate::Held);
    worker.answer_the_call(
        r#"{"active":true,"scope":"urn:matrix:client:api:*","username":"alice","device_id":"A B"}"#,
    );
    let forwarded = Fate::Forwarded {
        user_id: Some("@alice:example.org".into()),
        device_id: Some("A%20B".into()),
    };
    assert_eq!(worker.fate(stream), forwarded);
    let seen = worker.seen_by_homeserver(stream);
    assert_eq!(seen.filter_state["matrix_user_id"], b"@alice:example.org");
    assert_eq!(seen.filter_state["matrix_device_id"], b"A B");
    for _ in 0..10 {
        assert_eq!(worker.fate_of(&gateway, whoami(ALICE)), forwarded);
    }
    assert!(worker.calls().is_empty());
    assert_eq!(
        process.metric("matrix_edge_auth_requests_total.verdict=active.source=local"),
        10
    );
    assert_eq!(
        process.metric("matrix_edge_auth_requests_total.verdict=active.source=mas"),
        1
    );
}

#[test]
fn what_one_worker_learns_the_others_know() {
    let process = Process::new();
    let mut workers: Vec<_> = (0..4).map(|_| SimulatedWorker::new(&process)).collect();
    let gateway = gateway(1, json!({}));
    workers[0].request(&gateway, whoami(ALICE));
    workers[0].answer_the_call(&active("alice"));
    workers[1].request(&gateway, whoami(BOB));
    workers[1].answer_the_call(INACTIVE);
    for worker in &mut workers {
        let fate = worker.fate_of(&gateway, whoami(ALICE));
        assert_eq!(fate, Fate::forwarded_as("@alice:example.org"));
        assert_eq!(worker.fate_of(&gateway, whoami(BOB)), not_active());
    }
}

#[test]
fn two_hundred_requests_with_one_cold_token_make_one_call() {
    let process = Process::new();
    let mut worker = SimulatedWorker::new(&process);
    let gateway = gateway(1, json!({}));
    let streams: Vec<_> = (0..200)
        .map(|_| worker.request(&gateway, whoami(ALICE)))
        .collect();
    assert_eq!(worker.calls().len(), 1);
    worker.hang_up(streams[0]);
    worker.answer_the_call(&active("alice"));
    for stream in &streams[1..] {
        assert_eq!(
            worker.fate(*stream),
            Fate::forwarded_as("@alice:example.org")
        );
    }
    assert_eq!(
        process.metric("matrix_edge_auth_coalesced_requests_total"),
        199
    );
}

#[test]
fn the_answer_is_kept_although_every_client_hung_up() {
    let process = Process::new();
    let mut worker = SimulatedWorker::new(&process);
    let gateway = gateway(1, json!({}));
    let stream = worker.request(&gateway, whoami(ALICE));
    worker.hang_up(stream);
    worker.answer_the_call(&active("alice"));
    assert_eq!(
        worker.fate_of(&gateway, whoami(ALICE)),
        Fate::forwarded_as("@alice:example.org")
    );
}

#[test]
fn calls_in_flight_are_bounded_and_the_rest_is_answered_at_once() {
    let process = Process::new();
    let mut worker = SimulatedWorker::new(&process);
    let gateway = gateway(1, json!({"introspection": {"max_in_flight": 1}}));
    let stream = worker.request(&gateway, whoami(ALICE));
    assert_eq!(worker.fate_of(&gateway, whoami(BOB)), unable());
    worker.answer_the_call(&active("alice"));
    assert_eq!(
        worker.fate(stream),
        Fate::forwarded_as("@alice:example.org")
    );
    assert_eq!(worker.fate_of(&gateway, whoami(BOB)), Fate::Held);
}

#[test]
fn waiting_requests_are_bounded() {
    let process = Process::new();
    let mut worker = SimulatedWorker::new(&process);
    let gateway = gateway(1, json!({}));
    for _ in 0..MAX_WAITERS_PER_FLIGHT {
        assert_eq!(worker.fate_of(&gateway, whoami(ALICE)), Fate::Held);
    }
    assert_eq!(worker.fate_of(&gateway, whoami(ALICE)), unable());
    assert_eq!(worker.calls().len(), 1);
}

#[test]
fn a_lost_answer_ends_in_503_at_the_deadline() {
    let process = Process::new();
    let mut worker = SimulatedWorker::new(&process);
    let gateway = gateway(1, json!({"introspection": {"timeout": "2s"}}));
    let stream = worker.request(&gateway, whoami(ALICE));
    worker.lose(worker.calls()[0].id);
    process.advance(Duration::from_millis(2_499));
    worker.tick();
    assert_eq!(worker.fate(stream), Fate::Held);
    process.advance(Duration::from_millis(1));
    worker.tick();
    assert_eq!(worker.fate(stream), unable());
    assert_eq!(
        worker.fate_of(&gateway, whoami(ALICE)),
        Fate::Held,
        "nothing was kept"
    );
}

#[test]
fn a_call_that_times_out_is_no_verdict() {
    let process = Process::new();
    let mut worker = SimulatedWorker::new(&process);
    let gateway = gateway(1, json!({}));
    let stream = worker.request(&gateway, whoami(ALICE));
    process.advance(Duration::from_secs(5));
    worker.tick();
    assert_eq!(worker.fate(stream), unable());
    assert_eq!(
        worker.fate_of(&gateway, whoami(ALICE)),
        Fate::Held,
        "nothing was kept"
    );
}

#[test]
fn every_fault_is_no_verdict_and_nothing_is_kept() {
    let oversized = vec![b' '; MAX_RESPONSE_BYTES + 1];
    let json_type: Option<&[u8]> = Some(b"application/json");
    let answered = |status, body| IntrospectionResponse {
        status,
        content_type: json_type,
        body,
    };
    let inactive = Some(INACTIVE.as_bytes());
    let faults = [
        answered(None, None),
        answered(Some(500), inactive),
        answered(Some(401), inactive),
        answered(Some(404), inactive),
        answered(Some(302), inactive),
        answered(Some(429), inactive),
        answered(Some(504), Some(b"upstream request timeout")),
        answered(Some(200), None),
        answered(Some(200), Some(&oversized)),
        answered(Some(200), Some(b"")),
        answered(Some(200), Some(b"{}")),
        answered(Some(200), Some(br#"{"active":"#)),
        answered(Some(200), Some(br#"{"active":"false"}"#)),
        answered(Some(200), Some(br#"{"active":null}"#)),
        IntrospectionResponse {
            status: Some(200),
            content_type: Some(b"text/html"),
            body: inactive,
        },
        IntrospectionResponse {
            status: Some(200),
            content_type: None,
            body: inactive,
        },
    ];
    for (pass, expected) in [
        ("reject", unable()),
        ("pass", Fate::forwarded_unannotated()),
    ] {
        let process = Process::new();
        let mut worker = SimulatedWorker::new(&process);
        let gateway = gateway(1, json!({"on_introspection_failure": pass}));
        for fault in faults {
            let stream = worker.request(&gateway, whoami(ALICE));
            worker.respond(worker.calls()[0].id, fault);
            assert_eq!(worker.fate(stream), expected);
        }
        worker.faults().dispatch.set(true);
        assert_eq!(worker.fate_of(&gateway, whoami(ALICE)), expected);
        worker.faults().dispatch.set(false);
        let stream = worker.request(&gateway, whoami(ALICE));
        worker.answer_the_call(&active("alice"));
        assert_eq!(
            worker.fate(stream),
            Fate::forwarded_as("@alice:example.org")
        );
    }
}

#[test]
fn tokens_that_cannot_exist_are_refused_without_a_call() {
    let process = Process::new();
    let mut worker = SimulatedWorker::new(&process);
    let gateway = gateway(1, json!({}));
    for token in [
        "mat_Z9zA8yB7xC6wD5vE4uF3tG2sH1rI0q_0lFrYA",
        "mar_NubfuQPk3YWreXGJJ83LhPVhojEH0p_FhKOB4",
        "syr_YWxpY2U_LEGACYlegacyLEGACY12_0aBcDe",
    ] {
        assert_eq!(
            worker.fate_of(&gateway, whoami(token)),
            not_active(),
            "{token}"
        );
    }
    let control = Request::get(&format!("{WHOAMI}?access_token=syt_a%00b"));
    assert_eq!(worker.fate_of(&gateway, control), not_active());
    assert!(worker.calls().is_empty());
    assert_eq!(
        process.keys(),
        1,
        "nothing is kept of them; one key is the worker's place"
    );
}

#[test]
fn unrecognized_tokens_follow_the_configuration() {
    let token = "as_secret_token";
    for (policy, expected) in [
        ("pass", Fate::forwarded_unannotated()),
        ("introspect", Fate::Held),
        ("reject", not_active()),
    ] {
        let mut worker = SimulatedWorker::new(&Process::new());
        let gateway = gateway(1, json!({"unrecognized_tokens": policy}));
        assert_eq!(
            worker.fate_of(&gateway, whoami(token)),
            expected,
            "{policy}"
        );
    }
}

#[test]
fn a_listed_appservice_token_passes_whatever_it_looks_like() {
    use sha2::Digest;
    for token in ["as_secret_token", ALICE, "mat_looks_like_one"] {
        let mut digest = String::new();
        for byte in sha2::Sha256::digest(token) {
            digest.push_str(&format!("{byte:02x}"));
        }
        let mut worker = SimulatedWorker::new(&Process::new());
        let gateway = gateway(
            1,
            json!({"unrecognized_tokens": "reject", "appservice_tokens": ["0".repeat(64), digest, "f".repeat(64)]}),
        );
        assert_eq!(
            worker.fate_of(&gateway, whoami(token)),
            Fate::forwarded_unannotated()
        );
    }
}

#[test]
fn an_identity_from_outside_never_gets_through() {
    let spoofed = |request: Request| {
        request
            .header("x-matrix-user-id", "@admin:example.org")
            .header("x-matrix-device-id", "EVIL")
            .header("x-matrix-user-id", "@other:example.org")
    };
    let process = Process::new();
    let mut worker = SimulatedWorker::new(&process);
    let enforce = gateway(1, json!({}));
    let shadow = gateway(2, json!({"mode": "shadow"}));
    let renamed = gateway(
        3,
        json!({"identity_headers": {"user_id": "x-user", "device_id": null}}),
    );
    for request in [
        Request::get("/_matrix/client/v3/login"),
        Request::get("/_matrix/client/versions"),
        Request::get("/_matrix/federation/v1/version"),
        Request::get("/_matrix/client/unknown"),
        Request::new("OPTIONS", WHOAMI),
        Request::new("OPTIONS", WHOAMI).bearer("mar_x"),
        Request::get(WHOAMI).bearer("as_secret_token"),
        Request::new("POST", WHOAMI).header("content-type", "application/x-www-form-urlencoded"),
    ] {
        for gateway in [&enforce, &shadow, &renamed] {
            let fate = worker.fate_of(gateway, spoofed(request.clone()));
            assert_eq!(fate, Fate::forwarded_unannotated(), "{request:?}");
        }
    }
    assert_eq!(
        worker.fate_of(&shadow, spoofed(Request::get(WHOAMI))),
        Fate::forwarded_unannotated()
    );
    let stream = worker.request(&enforce, spoofed(whoami(ALICE)));
    worker.answer_the_call(&active("alice"));
    assert_eq!(
        worker.fate(stream),
        Fate::forwarded_as("@alice:example.org")
    );
}

#[test]
fn a_request_whose_headers_cannot_be_read_or_changed_goes_nowhere() {
    let mut worker = SimulatedWorker::new(&Process::new());
    let gateway = gateway(1, json!({"on_introspection_failure": "pass"}));
    let spoofed = || whoami(ALICE).header("x-matrix-user-id", "@admin:example.org");
    worker.faults().get_header.set(true);
    assert_eq!(worker.fate_of(&gateway, spoofed()).status(), Some(500));
    worker.faults().get_header.set(false);
    worker.faults().set_header.set(true);
    assert_eq!(worker.fate_of(&gateway, spoofed()).status(), Some(500));
    let stream = worker.request(&gateway, whoami(ALICE));
    worker.answer_the_call(&active("alice"));
    assert_eq!(worker.fate(stream).status(), Some(500));
}

#[test]
fn shadow_mode_counts_what_it_would_reject_and_rejects_nothing() {
    let process = Process::new();
    let mut worker = SimulatedWorker::new(&process);
    let gateway = gateway(1, json!({"mode": "shadow"}));
    let passes = Fate::forwarded_unannotated();
    assert_eq!(worker.fate_of(&gateway, Request::get(WHOAMI)), passes);
    assert_eq!(worker.fate_of(&gateway, whoami("mar_x")), passes);
    assert_eq!(
        worker.fate_of(&gateway, Request::get("/_synapse/mas/query_user")),
        passes
    );
    let inactive = worker.request(&gateway, whoami(ALICE));
    worker.answer_the_call(INACTIVE);
    assert_eq!(worker.fate(inactive), passes);
    let fault = worker.request(&gateway, whoami(BOB));
    worker.answer_the_call("nonsense");
    assert_eq!(worker.fate(fault), passes);
    assert_eq!(process.metric("matrix_edge_auth_would_reject_total"), 5);
    assert_eq!(process.metric("matrix_edge_auth_rejections_total"), 0);
}

#[test]
fn a_pre_flight_always_passes_and_never_asks() {
    let mut worker = SimulatedWorker::new(&Process::new());
    let gateway = gateway(1, json!({}));
    let pre_flight = Request::new("OPTIONS", WHOAMI);
    for request in [
        pre_flight.clone(),
        pre_flight.clone().bearer(ALICE),
        pre_flight.clone().header("authorization", "Basic x"),
        pre_flight.bearer("mat_bad"),
    ] {
        assert_eq!(
            worker.fate_of(&gateway, request),
            Fate::forwarded_unannotated()
        );
    }
    assert!(worker.calls().is_empty());
}

#[test]
fn admin_endpoints_need_the_admin_scope() {
    let mut worker = SimulatedWorker::new(&Process::new());
    let gateway = gateway(1, json!({}));
    let admin = "/_synapse/admin/v2/users";
    let stream = worker.request(&gateway, Request::get(admin).bearer(ALICE));
    worker.answer_the_call(&active("alice"));
    let forbidden = r#"{"errcode":"M_FORBIDDEN","error":"You are not a server admin"}"#;
    assert_eq!(worker.fate(stream), Fate::Answered(403, forbidden.into()));
    assert_eq!(
        worker.fate_of(&gateway, whoami(ALICE)),
        Fate::forwarded_as("@alice:example.org")
    );
    let stream = worker.request(&gateway, Request::get(admin).bearer(BOB));
    worker.answer_the_call(
        r#"{"active":true,"scope":"urn:matrix:client:api:* urn:synapse:admin:*","username":"bob"}"#,
    );
    assert_eq!(worker.fate(stream), Fate::forwarded_as("@bob:example.org"));
}

#[test]
fn anyone_may_ask_who_they_are_at_the_admin_api() {
    let mut worker = SimulatedWorker::new(&Process::new());
    let gateway = gateway(1, json!({}));
    let whois = "/_synapse/admin/v1/whois/@alice:example.org";
    let stream = worker.request(&gateway, Request::get(whois).bearer(ALICE));
    worker.answer_the_call(&active("alice"));
    assert_eq!(
        worker.fate(stream),
        Fate::forwarded_as("@alice:example.org")
    );
    let missing = r#"{"errcode":"M_MISSING_TOKEN","error":"Missing access token"}"#;
    assert_eq!(
        worker.fate_of(&gateway, Request::get(whois)),
        Fate::Answered(401, missing.into())
    );
}

#[test]
fn an_unknown_path_lets_every_active_token_pass() {
    let unscoped = r#"{"active":true,"scope":"openid email","username":"alice"}"#;
    let nobody = r#"{"active":true,"scope":"urn:mas:admin"}"#;
    for (path, overrides) in [
        ("/hookshot/v1/rooms", json!({})),
        ("/_matrix/client/v3/future/thing", json!({})),
        // MAS's own, below a path that the configuration does not tell of.
        ("/auth/oauth2/userinfo", json!({})),
    ] {
        let gateway = gateway(1, overrides);
        let request = || Request::get(path).bearer(ALICE);
        for (body, expected) in [
            (unscoped, Fate::forwarded_unannotated()),
            (nobody, Fate::forwarded_unannotated()),
            (&*active("alice"), Fate::forwarded_as("@alice:example.org")),
            (INACTIVE, not_active()),
            ("nonsense", unable()),
        ] {
            let mut worker = SimulatedWorker::new(&Process::new());
            let cold = worker.request(&gateway, request());
            worker.answer_the_call(body);
            assert_eq!(worker.fate(cold), expected, "{path} {body}");
            if body != "nonsense" {
                assert_eq!(
                    worker.fate_of(&gateway, request()),
                    expected,
                    "warm: {body}"
                );
            }
        }
        // Without one, and with what is none.
        for request in [
            Request::get(path),
            Request::get(path).header("authorization", "Basic x"),
        ] {
            let mut worker = SimulatedWorker::new(&Process::new());
            assert_eq!(
                worker.fate_of(&gateway, request),
                Fate::forwarded_unannotated()
            );
        }
    }
    // What Matrix says of query parameters says nothing of other services.
    let rejecting = gateway(2, json!({"query_token": "reject"}));
    let request = Request::get(&format!("/hookshot/v1/rooms?access_token={ALICE}"));
    let mut worker = SimulatedWorker::new(&Process::new());
    assert_eq!(
        worker.fate_of(&rejecting, request),
        Fate::forwarded_unannotated()
    );
    // Nor is a path that the table knows an unknown one.
    let gateway = gateway(1, json!({}));
    let mut worker = SimulatedWorker::new(&Process::new());
    let stream = worker.request(
        &gateway,
        Request::get("/_matrix/client/versions").bearer(ALICE),
    );
    worker.answer_the_call(unscoped);
    assert!(matches!(worker.fate(stream), Fate::Answered(401, _)));
}

#[test]
fn a_method_that_the_homeserver_refuses_is_left_to_it() {
    let sync = "/_matrix/client/unstable/org.matrix.simplified_msc3575/sync";
    let gateway = gateway(1, json!({}));
    let mut worker = SimulatedWorker::new(&Process::new());
    worker.request(&gateway, whoami(BOB));
    worker.answer_the_call(INACTIVE);
    for method in ["GET", "HEAD", "PUT", "DELETE", "PATCH", "get"] {
        let request = || Request::new(method, sync);
        for request in [
            request(),
            request().bearer(ALICE),
            request().bearer(BOB),
            request().bearer("mat_bad"),
            request().header("authorization", "Basic x"),
        ] {
            assert_eq!(
                worker.fate_of(&gateway, request),
                Fate::forwarded_unannotated(),
                "{method}"
            );
        }
    }
    assert!(worker.calls().is_empty());
    let request = Request::new("POST", sync);
    assert_eq!(
        worker.fate_of(&gateway, request.clone().bearer(BOB)),
        not_active()
    );
    assert_eq!(worker.fate_of(&gateway, request.bearer(ALICE)), Fate::Held);
    // A blocked path stays blocked.
    let blocked = Request::new("PATCH", "/_synapse/mas/query_user");
    assert!(matches!(
        worker.fate_of(&gateway, blocked),
        Fate::Answered(404, _)
    ));
}

#[test]
fn discovery_never_looks_at_a_token() {
    let gateway = gateway(1, json!({}));
    let mut worker = SimulatedWorker::new(&Process::new());
    for path in ["auth_issuer", "auth_metadata"] {
        let path = format!("/_matrix/client/unstable/org.matrix.msc2965/{path}");
        assert_eq!(
            worker.fate_of(&gateway, Request::get(&path).bearer("mat_bad")),
            Fate::forwarded_unannotated()
        );
    }
}

#[test]
fn a_query_token_is_rejected_where_configured() {
    let mut worker = SimulatedWorker::new(&Process::new());
    let request = Request::get(&format!("{WHOAMI}?access_token={ALICE}"));
    assert_eq!(
        worker.fate_of(&gateway(1, json!({})), request.clone()),
        Fate::Held
    );
    let missing = r#"{"errcode":"M_MISSING_TOKEN","error":"Missing access token"}"#;
    let rejecting = gateway(2, json!({"query_token": "reject"}));
    assert_eq!(
        worker.fate_of(&rejecting, request),
        Fate::Answered(401, missing.into())
    );
}

#[test]
fn the_introspection_is_the_one_synapse_sends_with_the_trace_of_the_request() {
    let mut worker = SimulatedWorker::new(&Process::new());
    let gateway = gateway(
        1,
        json!({"introspection": {"authority": "auth.example.org"}, "unrecognized_tokens": "introspect"}),
    );
    let request = whoami("a+b&token_type_hint=x")
        .header("traceparent", "00-1-2-01")
        .header("tracestate", b"\xff")
        .header("x-request-id", "r-1");
    worker.request(&gateway, request);
    let call = worker.calls().remove(0);
    let headers: BTreeMap<_, _> = call.headers.into_iter().collect();
    let expected = BTreeMap::from(
        [
            (":method", "POST"),
            (":authority", "auth.example.org"),
            (":path", "/oauth2/introspect"),
            ("accept", "application/json"),
            ("authorization", "Bearer secret"),
            ("content-type", "application/x-www-form-urlencoded"),
            ("x-mas-supports-device-id", "1"),
            ("traceparent", "00-1-2-01"),
            ("x-request-id", "r-1"),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_owned())),
    );
    assert_eq!(headers, expected);
    assert_eq!(
        call.body,
        "token=a%2Bb%26token_type_hint%3Dx&token_type_hint=access_token"
    );
}

#[test]
fn the_other_credential_forms_and_the_shard_label() {
    let authorization = |introspection: serde_json::Value| {
        let mut worker = SimulatedWorker::new(&Process::new());
        let mut config = json!({"introspection": {"cluster": "mas", "credential": null}});
        config["introspection"] = introspection;
        let config =
            json!({"server_name": "example.org", "introspection": config["introspection"]});
        let config =
            matrix_edge_auth::config::parse(config.to_string().as_bytes(), &|_| None).unwrap();
        let gateway = std::rc::Rc::new(matrix_edge_auth::worker::Plugin::new(RootId(1), config));
        worker.request(&gateway, whoami(ALICE));
        let headers: BTreeMap<_, _> = worker.calls().remove(0).headers.into_iter().collect();
        (
            headers.get("authorization").cloned(),
            headers[":authority"].clone(),
        )
    };
    let basic = json!({"client_id": "a b", "client_secret": {"value": "s:é".replace('é', "x")}});
    assert_eq!(
        authorization(json!({"cluster": "mas", "credential": {"basic": basic}}))
            .0
            .as_deref(),
        Some("Basic YStiOnMlM0F4"),
    );
    assert_eq!(
        authorization(json!({"cluster": "mas", "credential": {"injected": true}})).0,
        None
    );
    let (_, authority) = authorization(json!({
        "cluster": "mas", "authority": "auth.example.org", "shard_by_token": true,
        "credential": {"injected": true},
    }));
    let (label, rest) = authority.split_once('.').unwrap();
    assert_eq!((label.len(), rest), (4, "auth.example.org"));
}

#[test]
fn a_configuration_update_shares_the_cache_and_the_flights() {
    let process = Process::new();
    let mut worker = SimulatedWorker::new(&process);
    let (old, new) = (gateway(1, json!({})), gateway(2, json!({"mode": "shadow"})));
    let first = worker.request(&old, whoami(ALICE));
    let second = worker.request(&new, whoami(ALICE));
    worker.answer_the_call(&active("alice"));
    for stream in [first, second] {
        assert_eq!(
            worker.fate(stream),
            Fate::forwarded_as("@alice:example.org")
        );
    }
    assert_eq!(
        worker.fate_of(&new, whoami(ALICE)),
        Fate::forwarded_as("@alice:example.org")
    );
}

#[test]
fn another_mas_is_asked_on_its_own() {
    let mut worker = SimulatedWorker::new(&Process::new());
    let one = gateway(1, json!({}));
    let other = gateway(2, json!({"introspection": {"cluster": "other"}}));
    worker.request(&one, whoami(ALICE));
    worker.answer_the_call(&active("alice"));
    assert_eq!(worker.fate_of(&other, whoami(ALICE)), Fate::Held);
}

#[test]
fn who_waits_for_the_call_of_a_vanished_configuration_is_asked_again() {
    let mut worker = SimulatedWorker::new(&Process::new());
    let (old, new) = (gateway(1, json!({})), gateway(2, json!({})));
    let first = worker.request(&old, whoami(ALICE));
    let second = worker.request(&new, whoami(ALICE));
    worker.hang_up(first);
    worker.drop_root(RootId(1));
    assert!(worker.calls().is_empty(), "its calls went with it");
    worker.tick();
    worker.answer_the_call(&active("alice"));
    assert_eq!(
        worker.fate(second),
        Fate::forwarded_as("@alice:example.org")
    );
}
