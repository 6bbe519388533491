//! Bodies that do not end, and what they cost: memory of one budget, and host calls by their length.

use std::{rc::Rc, time::Duration};

use matrix_edge_auth::{
    host::StreamId,
    role::body::{BEGINNING, BODY_BUDGET},
    worker::Plugin,
};
use serde_json::json;

use crate::{
    ALICE, BOB, active, alice,
    introspection_role::{answered, introspect, passed_on},
    simulated::{Fate, Process, Request, SimulatedWorker, gateway, plugin},
    whoami,
};

const KIB: usize = 1024;

/// A worker whose gateway has asked MAS about alice's token.
fn warmed() -> (SimulatedWorker, Rc<Plugin>) {
    warmed_in(&Process::new())
}

fn warmed_in(process: &Rc<Process>) -> (SimulatedWorker, Rc<Plugin>) {
    let gateway = gateway(1, json!({}));
    let mut worker = SimulatedWorker::new(process);
    worker.request(&gateway, whoami(ALICE));
    worker.answer_only_call(&active("alice"));
    (worker, gateway)
}

/// A request whose body has come so far.
fn begin(
    worker: &mut SimulatedWorker,
    plugin: &Rc<Plugin>,
    request: Request,
    body: &[u8],
) -> StreamId {
    let stream = worker.request_headers(plugin, request, false);
    for piece in body.chunks(16 * KIB) {
        worker.request_body(stream, piece, false);
    }
    stream
}

fn revocation() -> Request {
    Request::new("POST", "/oauth2/revoke")
}

fn sync_devices(secret: &str) -> Request {
    Request::new("POST", "/_synapse/mas/sync_devices").bearer(secret)
}

/// MAS's answer with a scope that makes it this long.
fn answer_of(length: usize) -> String {
    let answer = |scope: &str| active("alice").replace("urn:matrix:client:api:*", scope);
    let scope = "urn:matrix:client:api:* ";
    let filling = length - answer(scope).len();
    answer(&format!("{scope}{}", "x".repeat(filling)))
}

/// One that is longer is asked for each time, which is counted.
#[test]
fn answers_of_up_to_8_kib_are_kept() {
    let not_kept = "matrix_edge_auth_cache_too_long_total.table=active";
    for (length, is_kept) in [(2_500, true), (8 * KIB, true), (8 * KIB + 1, false)] {
        let process = Process::new();
        let gateway = gateway(1, json!({}));
        let mut workers = [(); 2].map(|()| SimulatedWorker::new(&process));
        for (asked, worker) in workers.iter_mut().enumerate() {
            let stream = worker.request(&gateway, whoami(ALICE));
            let is_asked = asked == 0 || !is_kept;
            assert_eq!(worker.calls().len(), usize::from(is_asked), "{length}");
            worker.answer_all(&answer_of(length));
            assert_eq!(worker.fate(stream), alice());
        }
        assert_eq!(process.metric(not_kept), if is_kept { 0 } else { 2 });
    }
}

/// Anyone can send them.
#[test]
fn unfinished_revocations_keep_nothing_of_their_forms() {
    let (mut worker, gateway) = warmed();
    for length in [100, 8_000, 64 * KIB] {
        let form = format!("token={}", "x".repeat(length));
        for _ in 0..1_000 {
            let stream = begin(&mut worker, &gateway, revocation(), form.as_bytes());
            assert_eq!(worker.fate(stream), passed_on());
        }
    }
    assert_eq!(worker.body_bytes(), 0);
    assert_eq!(worker.send(&gateway, whoami(ALICE)), alice());
    // And one that ends is read.
    let stream = worker.request(&gateway, revocation().body(format!("token={ALICE}")));
    worker.response(stream, 200);
    assert_eq!(worker.send(&gateway, whoami(ALICE)), Fate::Held);
}

/// Who reaches the listener of the provisioning role can send these, and cannot hide with them what MAS tells.
#[test]
fn unfinished_provisioning_requests_share_one_budget_and_hide_nothing() {
    const STREAMS: usize = 1_000;
    let process = Process::new();
    let (mut worker, gateway) = warmed_in(&process);
    let provisioning = plugin(2, "provisioning", json!({}));
    let unfinished = format!(
        r#"{{"localpart":"eve","devices":["{}"#,
        "x".repeat(64 * KIB)
    );
    let mut streams = Vec::new();
    for _ in 0..STREAMS {
        let request = sync_devices("guessed");
        streams.push(begin(
            &mut worker,
            &provisioning,
            request,
            unfinished.as_bytes(),
        ));
    }
    let taken = worker.body_bytes();
    assert!(taken > BODY_BUDGET / 2, "{taken}: there is a budget");
    assert!(
        taken <= BODY_BUDGET + STREAMS * BEGINNING,
        "{taken}: it is not exceeded"
    );

    // What MAS answers is read all the same.
    let asked = worker.request(&gateway, whoami(BOB));
    worker.answer_only_call(&active("bob"));
    assert!(matches!(worker.fate(asked), Fate::Forwarded { .. }));

    // A short body is read whole. Of a long one the user is known, all of whose answers end.
    let devices: Vec<String> = (0..1_000).map(|n| format!("D{n}")).collect();
    for devices in [&devices[..1], &devices] {
        assert_eq!(worker.send(&gateway, whoami(ALICE)), alice());
        let body = json!({"localpart": "alice", "devices": devices}).to_string();
        let told = worker.request(&provisioning, sync_devices("secret").body(body));
        worker.response(told, 200);
        let stream = worker.request(&gateway, whoami(ALICE));
        assert_eq!(worker.fate(stream), Fate::Held);
        // MAS is asked after what it told.
        worker.hang_up(stream);
        worker.answer_only_call(&active("alice"));
        process.advance(Duration::from_secs(1));
        worker.request(&gateway, whoami(ALICE));
        worker.answer_all(&active("alice"));
    }

    for stream in streams {
        worker.hang_up(stream);
    }
    assert_eq!(worker.body_bytes(), 0);
}

/// The budget is used up by a caller that has the credential. Then MAS answers.
#[test]
fn introspections_over_the_budget_are_left_to_mas() {
    let (mut worker, _) = warmed();
    let role = plugin(2, "introspection", json!({}));
    let announced = || {
        let headers = introspect(ALICE).headers;
        let headers = headers
            .into_iter()
            .filter(|(name, _)| name != "content-length");
        headers.fold(
            Request::default().header("content-length", (64 * KIB).to_string()),
            |request, (name, value)| request.header(&name, value),
        )
    };
    let mut held = Vec::new();
    let refused = loop {
        let stream = worker.request_headers(&role, announced(), false);
        if worker.fate(stream) != Fate::Held {
            break stream;
        }
        held.push(stream);
    };
    assert_eq!(worker.fate(refused), passed_on());
    assert!(
        worker.body_bytes() <= BODY_BUDGET,
        "{}",
        worker.body_bytes()
    );
    assert_eq!(worker.send(&role, introspect(ALICE)), passed_on());
    worker.hang_up(held.remove(0));
    let answer = active("alice");
    assert_eq!(worker.send(&role, introspect(ALICE)), answered(&answer));
    for stream in held {
        worker.hang_up(stream);
    }
    assert_eq!(worker.body_bytes(), 0);
}

/// Also where Envoy holds the body, and shows all of it again with each piece.
#[test]
fn reading_a_body_takes_host_calls_by_its_length() {
    let (mut worker, gateway) = warmed();
    let provisioning = plugin(2, "provisioning", json!({}));
    let introspection = plugin(3, "introspection", json!({}));
    let readings = |worker: &SimulatedWorker| {
        let calls = worker.host_calls();
        calls.get("request body").copied().unwrap_or_default()
    };
    let mut cost = |plugin: &Rc<Plugin>, request: Request, body: &[u8], piece: usize| {
        let before = readings(&worker);
        let stream = worker.request_headers(plugin, request, false);
        for piece in body.chunks(piece) {
            worker.request_body(stream, piece, false);
        }
        worker.request_body(stream, b"", true);
        readings(&worker) - before
    };
    let json = |length: usize| format!(r#"{{"localpart":"alice","x":"{}"}}"#, "x".repeat(length));
    for kib in [64, 128, 256, 512] {
        let calls = cost(
            &provisioning,
            sync_devices("secret"),
            json(kib * KIB).as_bytes(),
            16 * KIB,
        );
        assert_eq!(calls, kib as u64 / 16 + 1, "{kib} KiB");
    }
    for piece in [100, 1_000, 64 * KIB] {
        let form = format!("token={}", "x".repeat(64 * KIB - 6));
        let calls = cost(&gateway, revocation(), form.as_bytes(), piece);
        assert!(calls <= (8 * KIB / piece) as u64 + 1, "{piece}: {calls}");
        let held = introspect(BOB)
            .headers
            .into_iter()
            .filter(|(name, _)| name != "content-length")
            .fold(Request::default(), |request, (name, value)| {
                request.header(&name, value)
            })
            .header("content-length", form.len().to_string());
        // The first window shows that the token is too long to be read.
        assert_eq!(cost(&introspection, held, form.as_bytes(), piece), 1);
    }
}
