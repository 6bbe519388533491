//! MAS gives no verdicts: the log names what to look at, in one line on each topic and minute.

use std::time::Duration;

use log::Level;
use matrix_edge_auth::mas::introspection::{IntrospectionResponse, MAX_RESPONSE_BYTES};
use serde_json::{Value, json};

use crate::{
    ALICE, BOB, active,
    attack::invented,
    introspection_role::{introspect, passed_on},
    simulated::{
        Cluster, Fate, Process, SimulatedWorker, UNKNOWN_CLUSTER, gateway, plugin, take_log,
    },
    unable, whoami,
};

const SECRET: &str = "s3cret-of-this-test";
const MINUTE: Duration = Duration::from_secs(60);

fn settings(introspection: Value) -> Value {
    let mut keys = json!({
        "authority": "auth.example.org",
        "credential": {"bearer": {"value": SECRET}},
    });
    for (key, value) in introspection.as_object().into_iter().flatten() {
        keys[key] = value.clone();
    }
    json!({"introspection": keys})
}

/// Takes out the log's lines of this level. They tell nothing that a client or a server sent, and no secret.
fn lines(level: Level) -> Vec<String> {
    let mut lines = take_log();
    for (_, line) in &lines {
        for secret in [ALICE, BOB, SECRET, "mat_", "evil", "\n"] {
            assert!(!line.contains(secret), "{line}");
        }
    }
    lines.retain(|(of, _)| *of == level);
    lines.into_iter().map(|(_, line)| line).collect()
}

/// Takes out the one warning.
#[track_caller]
fn only_warning() -> String {
    let warnings = lines(Level::Warn);
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    warnings[0].clone()
}

/// MAS, or what stands in its place, answers like this.
fn response(
    status: u16,
    content_type: &'static str,
    body: &'static str,
) -> IntrospectionResponse<'static> {
    IntrospectionResponse {
        status: Some(status),
        content_type: Some(content_type.as_bytes()),
        lifetime: None,
        body: Some(body.as_bytes().into()),
    }
}

#[test]
fn each_answer_that_is_no_verdict_names_what_to_look_at() {
    let json_type = "application/json";
    let oversized = vec![b' '; MAX_RESPONSE_BYTES + 1];
    let tls = "upstream connect error or disconnect/reset before headers. reset reason: remote connection failure, \
               transport failure reason: TLS_error:|evil";
    let cases = [
        (
            response(401, json_type, "evil"),
            vec!["answered 401", "introspection.credential"],
        ),
        (
            response(403, json_type, ""),
            vec!["answered 403", "introspection.credential"],
        ),
        (
            response(404, json_type, "evil"),
            vec!["answered 404", "introspection.path"],
        ),
        (
            response(405, json_type, ""),
            vec!["answered 405", "introspection.path"],
        ),
        (
            response(301, json_type, ""),
            vec!["answered 301", "introspection.authority"],
        ),
        (
            response(500, json_type, "evil"),
            vec!["answered 500", "MAS's log"],
        ),
        (
            response(503, json_type, "evil"),
            vec!["answered 503", "MAS's log"],
        ),
        (response(429, json_type, ""), vec!["answered 429"]),
        (
            response(200, "text/html", "<evil>"),
            vec!["not JSON", "introspection.authority"],
        ),
        (
            response(200, json_type, "{\"evil\":1}"),
            vec!["no introspection response", "introspection.path"],
        ),
        (
            response(504, "text/plain", "upstream request timeout"),
            vec!["introspection.timeout (2500ms)"],
        ),
        (
            response(503, "text/plain", "no healthy upstream"),
            vec!["no host of the cluster is healthy"],
        ),
        (
            response(503, "text/plain", tls),
            vec!["no connection came about", "TLS settings"],
        ),
        (
            IntrospectionResponse {
                body: Some((&oversized).into()),
                ..response(200, json_type, "")
            },
            vec!["too long"],
        ),
        (
            IntrospectionResponse {
                status: None,
                body: None,
                ..response(0, json_type, "")
            },
            vec!["broke off"],
        ),
    ];
    for (answer, expected) in cases {
        take_log();
        let mut worker = SimulatedWorker::new(&Process::new());
        let gateway = gateway(1, settings(json!({"timeout": "2500ms", "retries": 0})));
        for number in 0..3 {
            let stream = worker.request(&gateway, whoami(&invented(number)));
            worker.respond(worker.calls()[0].id, answer.clone());
            assert_eq!(worker.fate(stream), unable());
        }
        let line = only_warning();
        for part in expected
            .into_iter()
            .chain(["cluster mas (auth.example.org/oauth2/introspect)"])
        {
            assert!(line.contains(part), "{part:?} in {line:?}");
        }
    }
}

#[test]
fn a_credential_that_the_module_does_not_know_is_named_as_envoys() {
    take_log();
    let mut worker = SimulatedWorker::new(&Process::new());
    let gateway = gateway(1, settings(json!({"credential": {"injected": true}})));
    worker.request(&gateway, whoami(ALICE));
    worker.answer(worker.calls()[0].id, 401, "");
    let line = only_warning();
    assert!(line.contains("that Envoy injects"), "{line}");
}

#[test]
fn a_call_that_envoy_does_not_take_names_the_cluster() {
    for (cluster, refuses, expected) in [
        (
            UNKNOWN_CLUSTER,
            false,
            "Envoy knows no cluster of that name",
        ),
        ("mas", true, "Envoy does not send the question"),
    ] {
        take_log();
        let mut worker = SimulatedWorker::new(&Process::new());
        worker.faults().dispatch.set(refuses);
        let gateway = gateway(1, settings(json!({"cluster": cluster})));
        for token in [ALICE, BOB, ALICE] {
            assert_eq!(worker.send(&gateway, whoami(token)), unable());
        }
        let line = only_warning();
        assert!(
            line.contains(expected) && line.contains(&format!("cluster {cluster} ")),
            "{line}"
        );
    }
}

#[test]
fn a_lost_answer_and_a_full_line_are_told_of() {
    take_log();
    let process = Process::new();
    let mut worker = SimulatedWorker::new(&process);
    let gateway = gateway(1, settings(json!({"timeout": "2s", "max_in_flight": 1})));
    worker.request(&gateway, whoami(ALICE));
    let waiting = worker.request(&gateway, whoami(BOB));
    worker.drop_call(worker.calls()[0].id);
    for _ in 0..4 {
        process.advance(Duration::from_millis(250));
        worker.tick();
    }
    assert_eq!(worker.fate(waiting), unable());
    let line = only_warning();
    assert!(line.contains("introspection.max_in_flight (1)"), "{line}");
    worker.tick_for(Duration::from_millis(1_500));
    let line = only_warning();
    assert!(line.contains("Envoy delivered no answer"), "{line}");
}

/// Also while a stale answer still serves.
#[test]
fn a_failing_renewal_is_told_of_before_anyone_is_harmed() {
    take_log();
    let process = Process::new();
    let mut worker = SimulatedWorker::new(&process);
    let mut settings = settings(json!({}));
    settings["cache"] = json!({"ttl": "10s", "stale_if_error": "1h"});
    let gateway = gateway(1, settings);
    worker.request(&gateway, whoami(ALICE));
    worker.answer_only_call(&active("alice"));
    process.advance(Duration::from_secs(10));
    worker.tick();
    let stream = worker.request(&gateway, whoami(ALICE));
    worker.answer(worker.calls()[0].id, 500, "");
    assert_eq!(
        worker.fate(stream),
        Fate::forwarded_as("@alice:example.org")
    );
    let line = only_warning();
    assert!(line.contains("answered 500"), "{line}");
}

#[test]
fn all_workers_together_write_one_line_in_a_minute() {
    take_log();
    let gateway = gateway(1, settings(json!({})));
    let mut cluster = Cluster::new(3);
    cluster.seat_all(&gateway);
    let mut tokens = (0..).map(invented);
    let mut fail_all = |cluster: &mut Cluster, status: u16| {
        for worker in 0..3 {
            for token in tokens.by_ref().take(5) {
                cluster[worker].request(&gateway, whoami(&token));
                let calls = cluster[worker].calls();
                calls
                    .iter()
                    .for_each(|call| cluster[worker].answer(call.id, status, ""));
                cluster.deliver_all();
            }
        }
    };
    fail_all(&mut cluster, 500);
    assert_eq!(lines(Level::Warn).len(), 1);
    // Another topic is told of at once.
    fail_all(&mut cluster, 401);
    assert_eq!(lines(Level::Warn).len(), 1);
    cluster.process.advance(MINUTE - Duration::from_millis(1));
    fail_all(&mut cluster, 500);
    assert_eq!(lines(Level::Warn).len(), 0);
    cluster.process.advance(Duration::from_millis(1));
    fail_all(&mut cluster, 500);
    assert_eq!(lines(Level::Warn).len(), 1);
}

#[test]
fn two_mas_are_told_of_one_by_one() {
    take_log();
    let mut worker = SimulatedWorker::new(&Process::new());
    for (root, cluster) in [(1, "one"), (2, "two")] {
        let gateway = gateway(root, settings(json!({"cluster": cluster})));
        worker.request(&gateway, whoami(ALICE));
        worker.answer(worker.calls()[0].id, 500, "");
        let line = only_warning();
        assert!(line.contains(&format!("cluster {cluster} ")), "{line}");
    }
}

#[test]
fn the_first_answer_is_told_of_once() {
    take_log();
    let gateway = gateway(1, settings(json!({})));
    let mut cluster = Cluster::new(2);
    cluster.seat_all(&gateway);
    for (worker, token) in [(0, ALICE), (1, BOB)] {
        cluster[worker].request(&gateway, whoami(token));
        cluster[worker].answer_only_call(&active("alice"));
    }
    let told = lines(Level::Info);
    assert_eq!(
        told,
        ["MAS answers, at cluster mas (auth.example.org/oauth2/introspect)"]
    );
}

#[test]
fn when_mas_answers_again_one_line_says_so() {
    take_log();
    let gateway = gateway(1, settings(json!({})));
    let mut cluster = Cluster::new(2);
    cluster.seat_all(&gateway);
    let ask = |cluster: &mut Cluster, status: u16| {
        for worker in 0..2 {
            // A token that no cache knows.
            cluster[worker].request(&gateway, whoami(if worker == 0 { ALICE } else { BOB }));
            let call = cluster[worker].calls()[0].id;
            cluster[worker].answer(call, status, r#"{"active":false}"#);
        }
        cluster.process.advance(Duration::from_secs(10));
    };
    ask(&mut cluster, 200);
    assert_eq!(lines(Level::Info).len(), 1);
    cluster.process.advance(MINUTE);
    ask(&mut cluster, 500);
    assert_eq!(lines(Level::Warn).len(), 1);
    ask(&mut cluster, 200);
    let again = "MAS answers again, at cluster mas (auth.example.org/oauth2/introspect)";
    assert_eq!(lines(Level::Info), [again]);
    ask(&mut cluster, 200);
    assert_eq!(lines(Level::Info).len(), 0);

    // A MAS that comes and goes is told of once in a minute each way, and the last line is right in the end.
    ask(&mut cluster, 401);
    assert_eq!(lines(Level::Warn).len(), 1);
    ask(&mut cluster, 200);
    assert_eq!(take_log().len(), 0);
    cluster.process.advance(MINUTE);
    ask(&mut cluster, 200);
    assert_eq!(lines(Level::Info), [again]);
}

/// Too many questions at once are no silence of MAS. A worker that cannot write what was told knows it by itself.
#[test]
fn after_an_overload_no_line_says_that_mas_answers_again() {
    for cannot_write in [false, true] {
        take_log();
        let role = plugin(
            2,
            "introspection",
            json!({"introspection": {"max_in_flight": 1}}),
        );
        let mut worker = SimulatedWorker::new(&Process::new());
        worker.faults().writing.set(cannot_write.then_some(""));
        worker.request(&role, introspect(ALICE));
        worker.answer_only_call(&active("alice"));
        assert_eq!(lines(Level::Info).len(), 1, "MAS answers");
        worker.tick_for(MINUTE * 2);
        worker.request(&role, introspect(BOB));
        let refused = worker.send(&role, introspect(&invented(1)));
        assert_eq!(refused, passed_on());
        only_warning();
        worker.answer_only_call(&active("bob"));
        assert_eq!(lines(Level::Info), [""; 0], "cannot write: {cannot_write}");
    }
}
