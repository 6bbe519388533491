//! Heads and trailers: nothing that a server could take for an identity passes, in any role, however it is spelt.

use std::rc::Rc;

use matrix_edge_auth::{host::StreamId, worker::Plugin};
use serde_json::json;

use crate::{
    ALICE, BOB, active, alice, every_key,
    introspection_role::{introspect, passed_on},
    simulated::{Fate, Process, Request, SimulatedWorker, gateway, plugin},
    whoami,
};

/// Trailers of which all but one claim to be the edge's.
const FORGED: [(&str, &str); 5] = [
    ("x-matrix-user-id", "@admin:example.org"),
    ("x-checksum", "1234"),
    ("x_matrix_device_id", "FORGED"),
    ("x-matrix-user-id", "@other:example.org"),
    ("x.matrix_user-id", "@third:example.org"),
];

/// Spellings that some server takes for `x-matrix-user-id` or `x-matrix-device-id`.
const SPELLINGS: [&str; 6] = [
    "x-matrix-user-id",
    "x_matrix_user_id",
    "X_Matrix_User_Id",
    "x-matrix_user-id",
    "x_matrix-device_id",
    "x.matrix.device.id",
];

/// More spellings of one name than are removed.
fn many_spellings() -> impl Iterator<Item = String> {
    let separators = "-_.~!#$%&'*+^`|".chars();
    let pairs = separators
        .clone()
        .flat_map(move |a| separators.clone().map(move |b| (a, b)));
    pairs.map(|(a, b)| format!("x-matrix{a}user{b}id"))
}

fn spoofed(request: Request) -> Request {
    SPELLINGS
        .iter()
        .fold(request.header("x-matrix", "1"), |request, name| {
            request.header(name, "forged").header(name, "twice")
        })
}

fn roles() -> [Rc<Plugin>; 4] {
    [
        gateway(1, json!({})),
        gateway(2, json!({"mode": "shadow"})),
        plugin(3, "introspection", json!({})),
        plugin(4, "provisioning", json!({})),
    ]
}

fn names(request: &Request) -> Vec<&str> {
    let names = request.headers.iter().map(|(name, _)| &**name);
    names.filter(|name| name.starts_with(['x', 'X'])).collect()
}

fn trailers(worker: &SimulatedWorker, stream: StreamId) -> Vec<(String, Vec<u8>)> {
    worker.seen_by_homeserver(stream).trailers
}

#[test]
fn no_spelling_of_an_identity_header_passes_any_role() {
    for role in roles() {
        let mut worker = SimulatedWorker::new(&Process::new());
        for request in [
            Request::get("/unknown"),
            Request::get("/_matrix/client/versions"),
            Request::new("OPTIONS", "/_matrix/client/v3/sync"),
            Request::new("POST", "/_synapse/mas_of_another").body("x"),
            Request::new("POST", "/oauth2/revoke").body("token=x"),
        ] {
            let stream = worker.request(&role, spoofed(request));
            let seen = worker.seen_by_homeserver(stream);
            assert_eq!(names(&seen), ["x-matrix"]);
        }
    }
}

#[test]
fn the_true_identity_stands_in_place_of_every_spelling() {
    let mut worker = SimulatedWorker::new(&Process::new());
    let gateway = gateway(1, json!({}));
    let held = worker.request(&gateway, spoofed(whoami(ALICE)));
    worker.answer_only_call(&active("alice"));
    let hit = worker.request(&gateway, spoofed(whoami(ALICE)));
    for stream in [held, hit] {
        assert_eq!(worker.fate(stream), alice());
        let seen = worker.seen_by_homeserver(stream);
        assert_eq!(names(&seen), ["x-matrix", "x-matrix-user-id"]);
    }
}

#[test]
fn more_spellings_than_are_removed_are_refused_in_any_role_and_mode() {
    let body = r#"{"errcode":"M_TOO_LARGE","error":"Too many identity headers"}"#;
    for role in roles() {
        let process = Process::new();
        let mut worker = SimulatedWorker::new(&process);
        let with = |number| {
            let request = Request::get("/unknown");
            many_spellings()
                .take(number)
                .fold(request, |request, name| request.header(&name, "forged"))
        };
        let stream = worker.request(&role, with(16));
        assert!(names(&worker.seen_by_homeserver(stream)).is_empty());
        let stream = worker.request(&role, with(17));
        assert_eq!(worker.fate(stream), Fate::Replied(431, body.to_owned()));
        let allowed = worker.reply_header(stream, "access-control-allow-origin");
        assert_eq!(allowed.as_deref(), Some("*"));
        let name = "matrix_edge_auth_rejections_total.reason=too_many_forged";
        assert_eq!(process.metric(name), 1);
    }
}

/// What a client sends through a tunnel is seen by no filter, and the homeserver takes it for another request.
#[test]
fn no_role_and_mode_lets_a_tunnel_through() {
    let body = r#"{"errcode":"M_UNRECOGNIZED","error":"Unrecognized request"}"#;
    for role in roles() {
        let process = Process::new();
        let mut worker = SimulatedWorker::new(&process);
        let connect = Request::default().header(":authority", "x:1");
        let with_path = connect.clone().header(":path", "/_matrix/client/v3/sync");
        for request in [
            connect.clone().header(":method", "CONNECT"),
            with_path.header(":method", "CONNECT"),
            connect.header(":method", "GET"),
        ] {
            let fate = worker.send(&role, request);
            assert_eq!(fate, Fate::Replied(404, body.to_owned()));
        }
        let name = "matrix_edge_auth_rejections_total.reason=unrecognized";
        assert_eq!(process.metric(name), 3);
    }
}

/// An empty head is what a host gives that has none to give.
#[test]
fn a_head_without_a_method_goes_nowhere() {
    for role in roles() {
        let mut worker = SimulatedWorker::new(&Process::new());
        let fate = worker.send(&role, Request::default());
        assert_eq!(fate.status(), Some(500));
    }
}

#[test]
fn trailers_are_cleaned_in_every_role() {
    let clean = [("x-checksum".to_owned(), b"1234".to_vec())];
    for role in roles() {
        let mut worker = SimulatedWorker::new(&Process::new());
        let stream = worker.request_headers(&role, Request::new("POST", "/unknown"), false);
        worker.request_trailers(stream, &FORGED);
        assert_eq!(trailers(&worker, stream), clean);
        worker.faults().trailers.set(true);
        let stream = worker.request_headers(&role, Request::new("POST", "/unknown"), false);
        worker.request_trailers(stream, &FORGED);
        assert_eq!(worker.fate(stream).status(), Some(500));
    }
}

/// Envoy makes 200 of every reply to what calls itself gRPC, which a caller would take for success.
#[test]
fn a_refusal_keeps_its_status_in_every_role_if_the_request_is_of_grpc() {
    for role in roles() {
        let mut worker = SimulatedWorker::new(&Process::new());
        let post = |path| {
            let request = Request::new("POST", path).bearer("secret");
            request.header("content-type", "application/grpc")
        };
        let forged = many_spellings().take(17);
        let forged = forged.fold(post("/unknown"), |request, name| request.header(&name, "x"));
        let stream = worker.request(&role, forged);
        assert_eq!(worker.reply_status(stream), 431);
        worker.faults().trailers.set(true);
        // In the provisioning role the second is watched before.
        for path in ["/unknown", "/_synapse/mas/delete_user"] {
            let stream = worker.request_headers(&role, post(path), false);
            worker.request_trailers(stream, &FORGED);
            let status = worker.fate(stream).status();
            assert_eq!(Some(worker.reply_status(stream)), status, "{path}");
        }
        worker.faults().get_header.set(true);
        let stream = worker.request(&role, post("/unknown"));
        assert_eq!(worker.reply_status(stream), 500);
    }
}

#[test]
fn trailers_are_cleaned_while_the_request_is_held_and_after() {
    let mut worker = SimulatedWorker::new(&Process::new());
    let gateway = gateway(1, json!({}));
    let clean = [("x-checksum".to_owned(), b"1234".to_vec())];
    let held = worker.request_headers(&gateway, whoami(ALICE), false);
    worker.request_trailers(held, &FORGED);
    assert_eq!(worker.fate(held), Fate::Held);
    worker.answer_only_call(&active("alice"));
    let passing = worker.request_headers(&gateway, whoami(ALICE), false);
    worker.request_trailers(passing, &FORGED);
    for stream in [held, passing] {
        assert_eq!(worker.fate(stream), alice());
        assert_eq!(trailers(&worker, stream), clean);
    }
}

#[test]
fn a_held_request_whose_trailers_cannot_be_cleaned_is_answered_once() {
    let mut worker = SimulatedWorker::new(&Process::new());
    let gateway = gateway(1, json!({}));
    let held = worker.request_headers(&gateway, whoami(ALICE), false);
    worker.faults().trailers.set(true);
    worker.request_trailers(held, &FORGED);
    assert_eq!(worker.fate(held).status(), Some(500));
    worker.answer_only_call(&active("alice"));
    assert_eq!(worker.fate(held).status(), Some(500));
}

#[test]
fn forged_headers_do_not_change_what_the_homeserver_is_answered() {
    let mut worker = SimulatedWorker::new(&Process::new());
    let role = plugin(3, "introspection", json!({}));
    let stream = worker.request(&role, spoofed(introspect(ALICE)));
    assert_eq!(worker.fate(stream), Fate::Held);
    let stream = worker.request(&role, introspect(ALICE).bearer("secret"));
    assert_eq!(worker.fate(stream), passed_on(), "two credentials");
}

/// A removal takes all fields of a name.
#[test]
fn one_spelling_may_come_as_often_as_a_client_likes() {
    for role in roles() {
        let mut worker = SimulatedWorker::new(&Process::new());
        let request = (0..40).fold(Request::get("/unknown"), |request, number| {
            request.header("x-matrix-user-id", format!("@eve{number}:example.org"))
        });
        let stream = worker.request(&role, request);
        assert!(names(&worker.seen_by_homeserver(stream)).is_empty());
    }
}

#[test]
fn the_trailers_of_a_request_that_was_answered_are_left_alone() {
    let mut worker = SimulatedWorker::new(&Process::new());
    let gateway = gateway(1, json!({}));
    let request = Request::new("POST", "/_matrix/client/v3/createRoom");
    let stream = worker.request_headers(&gateway, request, false);
    assert_eq!(worker.fate(stream).status(), Some(401));
    // A second reply would break the first one off.
    worker.faults().trailers.set(true);
    worker.request_trailers(stream, &FORGED);
    assert_eq!(worker.fate(stream).status(), Some(401));
}

#[test]
fn a_request_in_line_whose_trailers_cannot_be_cleaned_costs_no_call() {
    let mut worker = SimulatedWorker::new(&Process::new());
    let gateway = gateway(1, json!({"introspection": {"max_in_flight": 1}}));
    worker.request(&gateway, whoami(ALICE));
    let waits = worker.request_headers(&gateway, whoami(BOB), false);
    assert_eq!(worker.calls().len(), 1, "the other one waits in line");
    worker.faults().trailers.set(true);
    worker.request_trailers(waits, &FORGED);
    worker.answer_only_call(&active("alice"));
    assert!(worker.calls().is_empty());
    assert_eq!(worker.fate(waits).status(), Some(500));
}

#[test]
fn no_client_can_send_a_header_that_tells_an_identity() {
    let headers = every_key::gateway()["identity_headers"].clone();
    let names = headers.as_object().unwrap().values();
    let names: Vec<&str> = names.map(|name| name.as_str().unwrap()).collect();
    assert!(names.len() >= 5, "{names:?}");
    let process = Process::new();
    let mut worker = SimulatedWorker::new(&process);
    let gateway = gateway(1, json!({"identity_headers": headers}));
    let spoofed = |request: Request| {
        let names = names.iter();
        names.fold(request, |request, name| request.header(name, "spoofed"))
    };
    let public = spoofed(Request::get("/_matrix/client/versions"));
    let stream = worker.request(&gateway, public);
    let seen = worker.seen_by_homeserver(stream);
    for name in &names {
        assert_eq!(seen.value(name), None, "{name}");
    }
    let stream = worker.request(&gateway, spoofed(whoami(ALICE)));
    worker.answer_only_call(&active("alice"));
    let seen = worker.seen_by_homeserver(stream);
    for name in &names {
        assert_ne!(seen.value(name), Some(&b"spoofed"[..]), "{name}");
    }
}
