//! The provisioning role: what MAS tells the homeserver ends answers in every worker.

use std::rc::Rc;

use matrix_edge_auth::worker::Plugin;
use serde_json::{Value, json};

use crate::{
    ALICE, BOB, INACTIVE, active, not_active,
    simulated::{Fate, Process, Request, SimulatedWorker, gateway, plugin},
    whoami,
};

const CAROL: &str = "mct_qGh7iRXFLAjieIGwtXLPByYRJfDhd1_GkhVP2";
const DAVE: &str = "mpt_axW7vg7OvqRxfwDbI1mInQZa8ByaHA_dl7rZ3";
const SECRET: &str = "secret";

fn on_device(username: &str, device_id: &str) -> String {
    let mut answer: Value = serde_json::from_str(&active(username)).unwrap();
    answer["device_id"] = device_id.into();
    answer.to_string()
}

fn told(endpoint: &str, secret: &str, body: Value) -> Request {
    Request::new("POST", &format!("/_synapse/mas/{endpoint}"))
        .header("content-type", "application/json")
        .bearer(secret)
        .body(body.to_string())
}

/// Two workers which hold three tokens of alice, on device A, on B and on none, and one of bob.
struct Rig {
    process: Rc<Process>,
    gateway: Rc<Plugin>,
    provisioning: Rc<Plugin>,
    workers: [SimulatedWorker; 2],
}

const TOKENS: [(&str, char); 4] = [(ALICE, 'A'), (CAROL, 'B'), (DAVE, '-'), (BOB, 'b')];

impl Rig {
    fn new(overrides: Value) -> Self {
        let process = Process::new();
        let mut rig = Self {
            workers: [
                SimulatedWorker::new(&process),
                SimulatedWorker::new(&process),
            ],
            process,
            gateway: gateway(1, overrides.clone()),
            provisioning: plugin(2, "provisioning", overrides),
        };
        // The first request takes a worker's place among the others.
        for worker in &mut rig.workers {
            worker.request(&rig.gateway, Request::get("/"));
        }
        for (token, body) in [
            (ALICE, on_device("alice", "A")),
            (CAROL, on_device("alice", "B")),
            (DAVE, active("alice")),
            (BOB, on_device("bob", "A")),
        ] {
            rig.workers[0].request(&rig.gateway, whoami(token));
            rig.workers[0].answer_the_call(&body);
        }
        assert_eq!(rig.gone(), "");
        rig
    }

    /// MAS's request passes a worker; whether the homeserver has it.
    fn tell(&mut self, request: Request, status: u16) {
        let stream = self.workers[0].request(&self.provisioning, request);
        let fate = self.workers[0].fate(stream);
        assert_eq!(fate, Fate::forwarded_unannotated());
        self.deliver();
        self.workers[0].response(stream, status, &["{}"]);
        self.deliver();
    }

    fn pass(&mut self, minutes: u64) {
        self.process
            .advance(std::time::Duration::from_secs(60 * minutes));
        for worker in &mut self.workers {
            worker.tick();
        }
    }

    fn deliver(&mut self) {
        for worker in &mut self.workers {
            while worker.deliver() {}
        }
    }

    /// The tokens that no worker lets pass without asking.
    fn gone(&mut self) -> String {
        let mut gone = [String::new(), String::new()];
        for (worker, gone) in self.workers.iter_mut().zip(&mut gone) {
            for (token, name) in TOKENS {
                let stream = worker.request(&self.gateway, whoami(token));
                if worker.fate(stream) == Fate::Held {
                    gone.push(name);
                    worker.hang_up(stream);
                }
            }
        }
        let [one, two] = gone;
        assert_eq!(one, two, "the workers agree");
        one
    }
}

#[test]
fn each_request_ends_the_answers_it_tells_of_and_no_others() {
    for (endpoint, body, expected) in [
        (
            "sync_devices",
            json!({"localpart": "alice", "devices": ["A"]}),
            "B-",
        ),
        (
            "sync_devices",
            json!({"localpart": "alice", "devices": ["A", "B", "C"]}),
            "-",
        ),
        (
            "sync_devices",
            json!({"localpart": "alice", "devices": []}),
            "AB-",
        ),
        (
            "delete_device",
            json!({"localpart": "alice", "device_id": "B"}),
            "B",
        ),
        (
            "delete_user",
            json!({"localpart": "alice", "erase": true}),
            "AB-",
        ),
        ("reactivate_user", json!({"localpart": "alice"}), "AB-"),
        (
            "provision_user",
            json!({"localpart": "alice", "set_emails": [], "locked": true}),
            "AB-",
        ),
        (
            "provision_user",
            json!({"localpart": "alice", "locked": false}),
            "",
        ),
        (
            "upsert_device",
            json!({"localpart": "alice", "device_id": "A"}),
            "",
        ),
        (
            "sync_devices",
            json!({"localpart": "nobody", "devices": []}),
            "",
        ),
    ] {
        let mut rig = Rig::new(json!({}));
        rig.tell(told(endpoint, SECRET, body.clone()), 200);
        assert_eq!(rig.gone(), expected, "{endpoint} {body}");
    }
}

#[test]
fn mas_is_believed_at_once_and_again_when_the_homeserver_agrees() {
    let mut rig = Rig::new(json!({}));
    let body = json!({"localpart": "alice", "device_id": "B"});
    let request = told("delete_device", SECRET, body);
    let stream = rig.workers[0].request(&rig.provisioning, request);
    rig.deliver();
    assert_eq!(rig.gone(), "B", "before the homeserver has answered");
    // MAS still says active, from before it changed its mind.
    rig.process.advance(std::time::Duration::from_millis(1));
    rig.workers[1].request(&rig.gateway, whoami(CAROL));
    for worker in &mut rig.workers {
        for call in worker.calls() {
            worker.answer(call.id, 200, &on_device("alice", "B"));
        }
    }
    rig.process.advance(std::time::Duration::from_millis(1));
    rig.workers[0].response(stream, 200, &[]);
    rig.deliver();
    assert_eq!(rig.gone(), "B");
}

#[test]
fn mas_may_know_the_homeserver_below_a_path() {
    let mut rig = Rig::new(json!({}));
    let request = Request::new("POST", "/synapse/_synapse/mas/sync_devices")
        .bearer(SECRET)
        .body(json!({"localpart": "alice", "devices": ["A"]}).to_string());
    rig.tell(request, 200);
    assert_eq!(rig.gone(), "B-");
}

#[test]
fn only_mas_is_believed() {
    let everything = || json!({"localpart": "alice"});
    for request in [
        told("delete_user", "wrong", everything()),
        Request::new("POST", "/_synapse/mas/delete_user").body(everything().to_string()),
        Request::new("POST", "/_synapse/mas/delete_user")
            .header("authorization", "Basic c2VjcmV0")
            .body(everything().to_string()),
        told("delete_user/", SECRET, everything()),
        Request::new("PUT", "/_synapse/mas/delete_user")
            .bearer(SECRET)
            .body(everything().to_string()),
        told("delete_user", SECRET, json!(["alice"])),
    ] {
        let mut rig = Rig::new(json!({}));
        rig.tell(request.clone(), 200);
        assert_eq!(rig.gone(), "", "{request:?}");
    }
}

#[test]
fn without_a_secret_the_homeserver_must_agree_first() {
    let request = || told("delete_user", "whatever", json!({"localpart": "alice"}));
    let configure = || json!({"introspection": {"credential": {"injected": true}}});
    for (status, expected) in [(200, "AB-"), (201, "AB-"), (401, ""), (403, ""), (500, "")] {
        let mut rig = Rig::new(configure());
        rig.tell(request(), status);
        assert_eq!(rig.gone(), expected, "{status}");
    }
    let mut rig = Rig::new(configure());
    rig.workers[0].request(&rig.provisioning, request());
    rig.deliver();
    assert_eq!(rig.gone(), "", "not before it has answered");
}

#[test]
fn a_body_of_any_size_passes_and_ends_answers() {
    for devices in [10, 1_000, 200_000] {
        let mut rig = Rig::new(json!({}));
        let devices: Vec<String> = (0..devices).map(|n| format!("D{n}")).collect();
        let body = json!({"localpart": "alice", "devices": devices}).to_string();
        let request = Request::new("POST", "/_synapse/mas/sync_devices").bearer(SECRET);
        let stream = rig.workers[0].request_headers(&rig.provisioning, request, false);
        assert_eq!(rig.workers[0].fate(stream), Fate::forwarded_unannotated());
        for piece in body.as_bytes().chunks(16_384) {
            rig.workers[0].request_body(stream, piece, false);
        }
        assert_eq!(rig.gone(), "", "it has not ended");
        rig.workers[0].request_body(stream, b"", true);
        rig.deliver();
        assert_eq!(rig.gone(), "AB-");
    }
}

#[test]
fn an_unlocked_user_is_not_called_inactive_any_longer() {
    let mut rig = Rig::new(json!({"cache": {"negative_ttl": "2m"}}));
    rig.tell(
        told(
            "provision_user",
            SECRET,
            json!({"localpart": "alice", "locked": true}),
        ),
        200,
    );
    rig.process.advance(std::time::Duration::from_secs(1));
    for token in [ALICE, CAROL] {
        rig.workers[0].request(&rig.gateway, whoami(token));
        rig.workers[0].answer_the_call(INACTIVE);
        let fate = rig.workers[1].fate_of(&rig.gateway, whoami(token));
        assert_eq!(fate, not_active());
    }
    rig.process.advance(std::time::Duration::from_secs(1));
    rig.tell(
        told(
            "provision_user",
            SECRET,
            json!({"localpart": "alice", "locked": false}),
        ),
        200,
    );
    assert_eq!(rig.gone(), "AB-");
}

#[test]
fn an_answer_may_hold_for_an_hour_and_still_ends_when_mas_says_so() {
    let settings = json!({"cache": {"ttl": "1h", "refresh_ahead": false}});
    let mut rig = Rig::new(settings.clone());
    rig.pass(59);
    assert_eq!(rig.gone(), "");
    rig.pass(1);
    assert_eq!(rig.gone(), "AB-b");

    let mut rig = Rig::new(settings);
    rig.pass(30);
    rig.tell(
        told(
            "sync_devices",
            SECRET,
            json!({"localpart": "alice", "devices": ["A"]}),
        ),
        200,
    );
    assert_eq!(rig.gone(), "B-");
    rig.pass(29);
    assert_eq!(rig.gone(), "B-");
}
