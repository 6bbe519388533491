//! The gateway role: an access token comes in, and the request goes on annotated, waits, or is rejected.

use std::{collections::BTreeMap, time::Duration};

use serde_json::json;

use crate::{
    ALICE, BOB, INACTIVE, WHOAMI, active, alice, not_active,
    simulated::{Cluster, Fate, Process, Request, SimulatedWorker, gateway},
    unable, whoami,
};

#[test]
fn an_active_token_is_asked_about_once_and_annotates_every_request() {
    let process = Process::new();
    let mut worker = SimulatedWorker::new(&process);
    let gateway = gateway(1, json!({"filter_state": true}));
    let stream = worker.request(&gateway, whoami(ALICE));
    assert_eq!(worker.fate(stream), Fate::Held);
    worker.answer_only_call(
        r#"{"active":true,"scope":"urn:matrix:client:api:*","username":"alice","device_id":"A\nB"}"#,
    );
    let forwarded = Fate::Forwarded {
        user_id: Some("@alice:example.org".into()),
        device_id: Some("A%0AB".into()),
    };
    assert_eq!(worker.fate(stream), forwarded);
    let seen = worker.seen_by_homeserver(stream);
    assert_eq!(seen.filter_state["matrix_user_id"], b"@alice:example.org");
    assert_eq!(seen.filter_state["matrix_device_id"], b"A%0AB");
    assert_eq!(seen.filter_state["matrix_verdict"], b"active");
    assert_eq!(seen.filter_state["matrix_verdict_source"], b"mas");
    for _ in 0..10 {
        assert_eq!(worker.send(&gateway, whoami(ALICE)), forwarded);
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
    let mut cluster = Cluster::new(4);
    let gateway = gateway(1, json!({}));
    cluster[0].request(&gateway, whoami(ALICE));
    cluster[0].answer_only_call(&active("alice"));
    cluster[1].request(&gateway, whoami(BOB));
    cluster[1].answer_only_call(INACTIVE);
    let fates = cluster.send_each(&gateway, &whoami(ALICE));
    assert_eq!(fates, vec![alice(); 4]);
    let fates = cluster.send_each(&gateway, &whoami(BOB));
    assert_eq!(fates, vec![not_active(); 4]);
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
    worker.answer_only_call(&active("alice"));
    for stream in &streams[1..] {
        assert_eq!(worker.fate(*stream), alice());
    }
    assert_eq!(
        process.metric("matrix_edge_auth_coalesced_requests_total"),
        199
    );
}

/// A herd is answered in parts, each in a callback of its own. Whoever hangs up in between is answered no more: the simulated
/// Envoy, like the real one, takes a reply to a stream that has ended for the end of itself.
#[test]
fn a_request_that_ends_between_the_answer_and_its_turn_is_left_alone() {
    for body in [INACTIVE, &active("alice")] {
        let mut worker = SimulatedWorker::new(&Process::new());
        let gateway = gateway(1, json!({}));
        let streams = [(); 300].map(|()| worker.request(&gateway, whoami(ALICE)));
        worker.faults().late_timers.set(true);
        worker.answer_only_call(body);
        let (answered, waiting): (Vec<_>, Vec<_>) = streams
            .into_iter()
            .partition(|stream| worker.fate(*stream) != Fate::Held);
        assert!(!answered.is_empty() && waiting.len() > 2);
        let (left, gone) = waiting.split_at(2);
        for stream in gone {
            worker.hang_up(*stream);
        }
        worker.faults().late_timers.set(false);
        worker.tick();
        for stream in left {
            assert_eq!(worker.fate(*stream), worker.fate(answered[0]));
        }
    }
}

/// Envoy answers a held request by itself, for example since its stream was silent for too long, and the stream lives on until the
/// body of that is sent.
#[test]
fn a_request_that_envoy_has_answered_is_not_answered_again() {
    for body in [INACTIVE, &active("alice")] {
        for mode in ["enforce", "shadow"] {
            let process = Process::new();
            let mut worker = SimulatedWorker::new(&process);
            let gateway = gateway(1, json!({"mode": mode}));
            let answered = worker.request(&gateway, whoami(ALICE));
            let held = worker.request(&gateway, whoami(ALICE));
            worker.local_response(answered, 504);
            worker.answer_only_call(body);
            let calls = worker.host_calls();
            let ended = |call| calls.get(call).copied().unwrap_or(0);
            let expected = if mode == "enforce" { 1 } else { 0 };
            assert_eq!(ended("reply") + ended("resume"), expected, "{mode}");
            worker.hang_up(answered);
            worker.hang_up(held);
        }
    }
}

#[test]
fn the_answer_is_kept_although_every_client_hung_up() {
    let process = Process::new();
    let mut worker = SimulatedWorker::new(&process);
    let gateway = gateway(1, json!({}));
    let stream = worker.request(&gateway, whoami(ALICE));
    worker.hang_up(stream);
    worker.answer_only_call(&active("alice"));
    assert_eq!(worker.send(&gateway, whoami(ALICE)), alice());
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
            worker.send(&gateway, whoami(token)),
            not_active(),
            "{token}"
        );
    }
    let control = Request::get(&format!("{WHOAMI}?access_token=syt_a%00b"));
    assert_eq!(worker.send(&gateway, control), not_active());
    assert!(worker.calls().is_empty());
    assert_eq!(
        process.keys(),
        2,
        "nothing is kept of them; the keys are the worker's place and the secret that names tokens"
    );
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
            let fate = worker.send(gateway, spoofed(request.clone()));
            assert_eq!(fate, Fate::forwarded_unannotated(), "{request:?}");
        }
    }
    assert_eq!(
        worker.send(&shadow, spoofed(Request::get(WHOAMI))),
        Fate::forwarded_unannotated()
    );
    let stream = worker.request(&enforce, spoofed(whoami(ALICE)));
    worker.answer_only_call(&active("alice"));
    assert_eq!(worker.fate(stream), alice());
}

/// Nobody hides a token from the gateway by a media type that only may be that of a form.
#[test]
fn a_token_in_the_query_is_asked_about_unless_the_body_is_a_form() {
    let process = Process::new();
    let mut worker = SimulatedWorker::new(&process);
    let gateway = gateway(1, json!({"cache": {"negative_ttl": "0s"}}));
    for (content_type, is_named) in [
        ("application/json", true),
        ("application/json;a==?", true),
        ("=?utf-8?q?application/x-www-form-urlencoded?=", false),
        ("=?utf-8?q?multipart/form-data;?= boundary=x", false),
    ] {
        let post = || {
            let target = format!("{WHOAMI}?access_token={ALICE}");
            Request::new("POST", &target).header("content-type", content_type)
        };
        let stream = worker.request(&gateway, post());
        worker.answer_only_call(INACTIVE);
        assert_eq!(worker.fate(stream), not_active(), "{content_type}");
        let expected = if is_named {
            alice()
        } else {
            // Synapse may find another token in the body.
            Fate::forwarded_unannotated()
        };
        let stream = worker.request(&gateway, post());
        worker.answer_only_call(&active("alice"));
        assert_eq!(worker.fate(stream), expected, "{content_type}");
        // From the worker's own cache as well.
        assert_eq!(worker.send(&gateway, post()), expected, "{content_type}");
        let logout = worker.request(
            &gateway,
            Request::new("POST", "/_matrix/client/v3/logout").bearer(ALICE),
        );
        worker.response(logout, 200);
        // A second end within a second waits for the next tick.
        worker.tick_for(Duration::from_secs(1));
    }
}

#[test]
fn shadow_mode_counts_what_it_would_reject_and_rejects_nothing() {
    let process = Process::new();
    let mut worker = SimulatedWorker::new(&process);
    let gateway = gateway(1, json!({"mode": "shadow"}));
    let passes = Fate::forwarded_unannotated();
    assert_eq!(worker.send(&gateway, Request::get(WHOAMI)), passes);
    assert_eq!(worker.send(&gateway, whoami("mar_x")), passes);
    assert_eq!(
        worker.send(&gateway, Request::get("/_synapse/mas/query_user")),
        passes
    );
    let inactive = worker.request(&gateway, whoami(ALICE));
    worker.answer_only_call(INACTIVE);
    assert_eq!(worker.fate(inactive), passes);
    let fault = worker.request(&gateway, whoami(BOB));
    worker.answer_only_call("nonsense");
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
            worker.send(&gateway, request),
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
    worker.answer_only_call(&active("alice"));
    let forbidden = r#"{"errcode":"M_FORBIDDEN","error":"You are not a server admin"}"#;
    assert_eq!(worker.fate(stream), Fate::Replied(403, forbidden.into()));
    assert_eq!(worker.send(&gateway, whoami(ALICE)), alice());
    let stream = worker.request(&gateway, Request::get(admin).bearer(BOB));
    worker.answer_only_call(
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
    worker.answer_only_call(&active("alice"));
    assert_eq!(worker.fate(stream), alice());
    let missing = r#"{"errcode":"M_MISSING_TOKEN","error":"Missing access token"}"#;
    assert_eq!(
        worker.send(&gateway, Request::get(whois)),
        Fate::Replied(401, missing.into())
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
        let request = || Request::get(path).bearer(ALICE);
        for (body, expected) in [
            (unscoped, Fate::forwarded_unannotated()),
            (nobody, Fate::forwarded_unannotated()),
            (&*active("alice"), alice()),
            (INACTIVE, not_active()),
            ("nonsense", unable()),
        ] {
            // What a worker keeps of a process ends with it.
            let gateway = gateway(1, overrides.clone());
            let mut worker = SimulatedWorker::new(&Process::new());
            let cold = worker.request(&gateway, request());
            worker.answer_only_call(body);
            assert_eq!(worker.fate(cold), expected, "{path} {body}");
            if body != "nonsense" {
                assert_eq!(worker.send(&gateway, request()), expected, "warm: {body}");
            }
        }
        // Without one, and with what is none.
        for request in [
            Request::get(path),
            Request::get(path).header("authorization", "Basic x"),
        ] {
            let mut worker = SimulatedWorker::new(&Process::new());
            assert_eq!(
                worker.send(&gateway(1, overrides.clone()), request),
                Fate::forwarded_unannotated()
            );
        }
    }
    // What Matrix says of query parameters says nothing of other services.
    let rejecting = gateway(2, json!({"query_token": "reject"}));
    let request = Request::get(&format!("/hookshot/v1/rooms?access_token={ALICE}"));
    let mut worker = SimulatedWorker::new(&Process::new());
    assert_eq!(
        worker.send(&rejecting, request),
        Fate::forwarded_unannotated()
    );
    // Nor is a path that the table knows an unknown one.
    let gateway = gateway(1, json!({}));
    let mut worker = SimulatedWorker::new(&Process::new());
    let stream = worker.request(
        &gateway,
        Request::get("/_matrix/client/versions").bearer(ALICE),
    );
    worker.answer_only_call(unscoped);
    assert!(matches!(worker.fate(stream), Fate::Replied(401, _)));
}

#[test]
fn a_method_that_the_homeserver_refuses_is_left_to_it() {
    let sync = "/_matrix/client/unstable/org.matrix.simplified_msc3575/sync";
    let gateway = gateway(1, json!({}));
    let mut worker = SimulatedWorker::new(&Process::new());
    worker.request(&gateway, whoami(BOB));
    worker.answer_only_call(INACTIVE);
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
                worker.send(&gateway, request),
                Fate::forwarded_unannotated(),
                "{method}"
            );
        }
    }
    assert!(worker.calls().is_empty());
    let request = Request::new("POST", sync);
    assert_eq!(
        worker.send(&gateway, request.clone().bearer(BOB)),
        not_active()
    );
    assert_eq!(worker.send(&gateway, request.bearer(ALICE)), Fate::Held);
    // A blocked path stays blocked.
    let blocked = Request::new("PATCH", "/_synapse/mas/query_user");
    assert!(matches!(
        worker.send(&gateway, blocked),
        Fate::Replied(404, _)
    ));
}

#[test]
fn discovery_never_looks_at_a_token() {
    let gateway = gateway(1, json!({}));
    let mut worker = SimulatedWorker::new(&Process::new());
    for path in ["auth_issuer", "auth_metadata"] {
        let path = format!("/_matrix/client/unstable/org.matrix.msc2965/{path}");
        assert_eq!(
            worker.send(&gateway, Request::get(&path).bearer("mat_bad")),
            Fate::forwarded_unannotated()
        );
    }
}

#[test]
fn where_envoy_injects_the_credential_nobody_outside_can_introspect() {
    let process = Process::new();
    let mut worker = SimulatedWorker::new(&process);
    let injected = |root, mode| {
        let credential = json!({"cluster": "mas-introspection", "credential": {"injected": true}});
        gateway(root, json!({"mode": mode, "introspection": credential}))
    };
    let known = gateway(
        3,
        json!({"introspection": {"cluster": "mas-introspection"}}),
    );
    let introspect = || Request::new("POST", "/oauth2/introspect").body("token=x");
    let unrecognized = r#"{"errcode":"M_UNRECOGNIZED","error":"Unrecognized request"}"#;
    let refused = Fate::Replied(404, unrecognized.into());
    let passes = Fate::forwarded_unannotated();
    for gateway in [injected(1, "enforce"), injected(2, "shadow")] {
        for request in [
            introspect().cluster("mas-introspection"),
            // Envoy does not tell.
            introspect(),
            introspect().cluster("mas-introspection").bearer(ALICE),
            Request::new("OPTIONS", "/oauth2/introspect"),
            Request::new("POST", "/auth//oauth2/%2569NTROSPECT/").cluster("mas-introspection"),
        ] {
            assert_eq!(
                worker.send(&gateway, request.clone()),
                refused,
                "{request:?}"
            );
        }
        for request in [
            introspect().cluster("mas"),
            Request::new("POST", "/oauth2/token").cluster("mas-introspection"),
        ] {
            assert_eq!(
                worker.send(&gateway, request.clone()),
                passes,
                "{request:?}"
            );
        }
    }
    let request = introspect().cluster("mas-introspection");
    assert_eq!(
        worker.send(&known, request),
        passes,
        "MAS refuses it itself"
    );
    assert!(worker.calls().is_empty());
    let name = "matrix_edge_auth_rejections_total.reason=unrecognized";
    assert_eq!(process.metric(name), 10);
}

/// Envoy would refuse a call with a longer one, and each that waits is held in memory.
#[test]
fn a_trace_header_goes_along_up_to_a_kibibyte() {
    for (length, goes_along) in [(1_024, true), (1_025, false)] {
        let mut worker = SimulatedWorker::new(&Process::new());
        let id = "x".repeat(length);
        worker.request(
            &gateway(1, json!({})),
            whoami(ALICE).header("x-request-id", &id),
        );
        let calls = worker.calls();
        let sent = calls[0]
            .headers
            .iter()
            .any(|(name, _)| name == "x-request-id");
        assert_eq!(sent, goes_along, "{length}");
    }
}

/// Envoy has no other place for what a request tells of its trace than the call that the request makes.
#[test]
fn the_state_of_a_trace_goes_along_with_its_parent_only() {
    let parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let gateway = gateway(1, json!({}));
    for (fields, expected) in [
        (&[("tracestate", "a=1")][..], &[][..]),
        (&[("traceparent", parent)], &["traceparent"]),
        (
            &[("tracestate", "a=1"), ("traceparent", parent)],
            &["traceparent", "tracestate"],
        ),
    ] {
        let mut worker = SimulatedWorker::new(&Process::new());
        let request = fields.iter().fold(whoami(ALICE), |request, (name, value)| {
            request.header(name, value)
        });
        worker.request(&gateway, request);
        let call = worker.calls().pop().expect("one call");
        let names = call.headers.iter().map(|(name, _)| &**name);
        let sent: Vec<&str> = names.filter(|name| name.starts_with("trace")).collect();
        assert_eq!(sent, expected, "{fields:?}");
    }
}

#[test]
fn a_pre_flight_to_a_blocked_path_is_refused() {
    let mut worker = SimulatedWorker::new(&Process::new());
    let gateway = gateway(1, json!({}));
    for request in [
        Request::new("OPTIONS", "/_synapse/mas/query_user"),
        Request::new("OPTIONS", "/_synapse/mas/query_user").bearer(ALICE),
    ] {
        assert_eq!(worker.send(&gateway, request).status(), Some(404));
    }
}

/// The homeserver believes the headers, so each has a name only if the operator gives it one.
#[test]
fn an_identity_is_told_in_the_headers_that_are_configured_and_nowhere_else() {
    let answer = r#"{"active":true,"scope":"urn:matrix:client:api:*","username":"alice","device_id":"A","client_id":"element"}"#;
    let told = [
        ("x-kind", "access_token"),
        ("x-client", "element"),
        ("x-scope", "urn:matrix:client:api:*"),
    ];
    let names = json!({"token_kind": "x-kind", "client_id": "x-client", "scope": "x-scope"});
    for (names, is_told) in [(names, true), (json!({}), false)] {
        let gateway = gateway(1, json!({"identity_headers": names}));
        let mut worker = SimulatedWorker::new(&Process::new());
        let asked = worker.request(&gateway, whoami(ALICE));
        worker.answer_only_call(answer);
        let known = worker.request(&gateway, whoami(ALICE));
        for stream in [asked, known] {
            let seen = worker.seen_by_homeserver(stream);
            for (name, value) in told {
                let expected = is_told.then_some(value.as_bytes());
                assert_eq!(seen.value(name), expected, "{name}");
            }
            assert!(seen.filter_state.is_empty(), "it is not configured");
        }
    }
}

#[test]
fn how_long_a_request_was_held_is_recorded() {
    let process = Process::new();
    let mut worker = SimulatedWorker::new(&process);
    let gateway = gateway(1, json!({}));
    let held = || process.metric("matrix_edge_auth_held_duration_milliseconds");
    for token in [ALICE, BOB] {
        worker.request(&gateway, whoami(token));
        process.advance(Duration::from_millis(40));
    }
    assert_eq!(held(), 0, "both wait");
    worker.answer_all(&active("alice"));
    assert_eq!(held(), 80 + 40);
    worker.request(&gateway, whoami(ALICE));
    assert_eq!(held(), 120, "a hit waits for nothing");
}

/// A test that expects 0 of it would always pass.
#[test]
#[should_panic(expected = "no metric of the module begins with matrix_edge_auth_request_total")]
fn a_misspelt_metric_is_not_0() {
    Process::new().metric("matrix_edge_auth_request_total");
}
