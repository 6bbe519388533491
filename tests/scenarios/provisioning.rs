//! The provisioning role: what MAS tells the homeserver ends answers in every worker.

use std::{rc::Rc, time::Duration};

use log::Level;
use matrix_edge_auth::{
    cache::voiding::Voidings,
    clock::Instant,
    host::StreamId,
    mas::{introspection::Answer, provisioning::Voiding, user::UserKey},
    shared_data::{key_space::KeySpace, name::Space},
    worker::Plugin,
};
use serde_json::{Value, json};

use crate::{
    ALICE, BOB, INACTIVE, active, alice, not_active,
    simulated::{
        Cluster, Fate, Process, Request, SimulatedWorker, gateway, plugin, store, take_log,
    },
    whoami,
};

const CAROL: &str = "mct_qGh7iRXFLAjieIGwtXLPByYRJfDhd1_GkhVP2";
const DAVE: &str = "mpt_axW7vg7OvqRxfwDbI1mInQZa8ByaHA_dl7rZ3";
/// A client's own, by client credentials.
const NOBODYS: &str = "mat_NobodyNobodyNobodyNobodyNobody_hXOsz1";
const SECRET: &str = "secret";
const MINUTE: Duration = Duration::from_secs(60);

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
    cluster: Cluster,
    gateway: Rc<Plugin>,
    provisioning: Rc<Plugin>,
}

const TOKENS: [(&str, char); 4] = [(ALICE, 'A'), (CAROL, 'B'), (DAVE, '-'), (BOB, 'b')];

impl Rig {
    fn new(overrides: Value) -> Self {
        let mut rig = Self {
            cluster: Cluster::new(2),
            gateway: gateway(1, overrides.clone()),
            provisioning: plugin(2, "provisioning", overrides),
        };
        rig.cluster.seat_all(&rig.gateway);
        for (token, body) in [
            (ALICE, on_device("alice", "A")),
            (CAROL, on_device("alice", "B")),
            (DAVE, active("alice")),
            (BOB, on_device("bob", "A")),
        ] {
            rig.cluster[0].request(&rig.gateway, whoami(token));
            rig.cluster[0].answer_only_call(&body);
        }
        assert_eq!(rig.gone(), "");
        rig
    }

    /// MAS's request passes a worker, and the homeserver answers it with `status`.
    fn tell(&mut self, request: Request, status: u16) {
        let stream = self.cluster[0].request(&self.provisioning, request);
        let fate = self.cluster[0].fate(stream);
        assert_eq!(fate, Fate::forwarded_unannotated());
        self.cluster.deliver_all();
        self.cluster[0].response(stream, status);
        self.cluster.deliver_all();
    }

    /// Returns the names of the tokens that no worker lets pass without asking MAS.
    fn gone(&mut self) -> String {
        let mut gone = [String::new(), String::new()];
        for (worker, gone) in self.cluster.workers.iter_mut().zip(&mut gone) {
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

/// What MAS said counts once more with whatever ends its request: the homeserver may have done what it was told, and an answer
/// that MAS gave meanwhile may be from before. A caller who is not proven ends nothing without the homeserver's agreement.
#[test]
fn a_proven_request_counts_once_more_whatever_the_answer_to_it_is() {
    type Ending = fn(&mut SimulatedWorker, StreamId);
    let endings: [Ending; 4] = [
        |worker, stream| worker.hang_up(stream),
        |worker, stream| worker.lost_response(stream, 504),
        |worker, stream| worker.local_response(stream, 503),
        |worker, stream| worker.response(stream, 500),
    ];
    for (number, ending) in endings.into_iter().enumerate() {
        for (secret, expected) in [(SECRET, "AB-"), ("another", "")] {
            let mut rig = Rig::new(json!({}));
            let body = json!({"localpart": "alice", "erase": false});
            let request = told("delete_user", secret, body);
            let stream = rig.cluster[0].request(&rig.provisioning, request);
            rig.cluster.deliver_all();
            rig.cluster.skip(Duration::from_secs(1));
            if secret == SECRET {
                // MAS answers from before the end.
                for (token, name) in [(ALICE, "A"), (CAROL, "B"), (DAVE, "-")] {
                    rig.cluster[1].request(&rig.gateway, whoami(token));
                    rig.cluster[1].answer_only_call(&on_device("alice", name));
                }
                rig.cluster.deliver_all();
                assert_eq!(rig.gone(), "");
            }
            rig.cluster.skip(Duration::from_secs(1));
            ending(&mut rig.cluster[0], stream);
            rig.cluster.deliver_all();
            assert_eq!(rig.gone(), expected, "{number} {secret}");
        }
    }
}

/// All of the body has come, and Envoy has not been told that it has ended: over HTTP/1.1 the homeserver has it.
#[test]
fn a_proven_request_whose_end_is_not_seen_counts_as_its_stream_ends() {
    let body = json!({"localpart": "alice", "erase": false}).to_string();
    for (secret, length, expected) in [
        (SECRET, body.len(), "AB-"),
        (SECRET, body.len() - 1, ""),
        ("another", body.len(), ""),
    ] {
        let mut rig = Rig::new(json!({}));
        let request = Request::new("POST", "/_synapse/mas/delete_user")
            .bearer(secret)
            .body(&body);
        let stream = rig.cluster[0].request_headers(&rig.provisioning, request, false);
        rig.cluster[0].request_body(stream, &body.as_bytes()[..length], false);
        rig.cluster.skip(Duration::from_secs(1));
        rig.cluster[0].hang_up(stream);
        rig.cluster.deliver_all();
        assert_eq!(rig.gone(), expected, "{secret} {length}");
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
            json!({"localpart": "alice", "device_id": "A", "display_name": "Phone"}),
            "A",
        ),
        (
            "upsert_device",
            json!({"localpart": "alice", "device_id": "NEW"}),
            "",
        ),
        (
            "update_device_display_name",
            json!({"localpart": "alice", "device_id": "A", "display_name": "Phone"}),
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
    let stream = rig.cluster[0].request(&rig.provisioning, request);
    rig.cluster.deliver_all();
    assert_eq!(rig.gone(), "B", "before the homeserver has answered");
    // MAS still says active, from before it changed its mind.
    rig.cluster.process.advance(Duration::from_millis(1));
    rig.cluster[1].request(&rig.gateway, whoami(CAROL));
    rig.cluster.answer_all(&on_device("alice", "B"));
    rig.cluster.process.advance(Duration::from_millis(1));
    rig.cluster[0].response(stream, 200);
    rig.cluster.deliver_all();
    assert_eq!(rig.gone(), "B");
}

/// Such a worker keeps nothing for itself, and comes neither to its hints nor to a tick.
#[test]
fn a_busy_worker_takes_no_answer_of_an_ended_session_from_the_shared_cache_for_longer_than_a_second()
 {
    let mut rig = Rig::new(json!({"cache": {"local_entries": 0}}));
    rig.cluster.skip(Duration::from_secs(5));
    rig.cluster.tick_for(Duration::from_millis(250));
    let body = json!({"localpart": "alice", "devices": ["A"]});
    let request = told("sync_devices", SECRET, body);
    rig.cluster[0].request(&rig.provisioning, request);
    let fate = |rig: &mut Rig, worker: usize, token| {
        let stream = rig.cluster[worker].request(&rig.gateway, whoami(token));
        rig.cluster[worker].fate(stream)
    };
    assert_eq!(fate(&mut rig, 0, DAVE), Fate::Held, "it was told itself");
    rig.cluster.process.advance(Duration::from_secs(1));
    assert_eq!(fate(&mut rig, 1, CAROL), Fate::Held);
    for token in [ALICE, BOB] {
        let forwarded = fate(&mut rig, 1, token);
        assert!(matches!(forwarded, Fate::Forwarded { .. }), "{token}");
    }
}

/// Synapse would keep such an answer for itself.
#[test]
fn the_introspection_role_gives_no_answer_of_an_ended_session_away_before_it_is_told() {
    let mut rig = Rig::new(json!({}));
    rig.cluster.skip(Duration::from_secs(5));
    rig.cluster.tick_for(Duration::from_millis(250));
    let introspection = plugin(3, "introspection", json!({}));
    rig.cluster.seat_all(&introspection);
    let question = |token: &str| {
        Request::new("POST", "/oauth2/introspect")
            .header("accept", "application/json")
            .header("content-type", "application/x-www-form-urlencoded")
            .header("x-mas-supports-device-id", "1")
            .bearer(SECRET)
            .body(format!("token={token}&token_type_hint=access_token"))
    };
    let body = json!({"localpart": "alice", "devices": ["A"]});
    rig.cluster[0].request(&rig.provisioning, told("sync_devices", SECRET, body));
    for (token, is_held) in [(CAROL, true), (BOB, false)] {
        let stream = rig.cluster[1].request(&introspection, question(token));
        let fate = rig.cluster[1].fate(stream);
        assert_eq!(fate == Fate::Held, is_held, "{token}: {fate:?}");
    }
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
fn what_is_no_request_of_mas_ends_nothing() {
    let everything = || json!({"localpart": "alice"});
    for request in [
        told("delete_user/", SECRET, everything()),
        Request::new("PUT", "/_synapse/mas/delete_user")
            .bearer(SECRET)
            .body(everything().to_string()),
        Request::new("POST", "/_synapse/mas/delete_user").bearer(SECRET),
        told("delete_user", SECRET, json!(["alice"])),
    ] {
        let mut rig = Rig::new(json!({}));
        rig.tell(request.clone(), 200);
        assert_eq!(rig.gone(), "", "{request:?}");
    }
}

/// Each names the value of the metric's label.
fn unproven() -> [(Request, Value, &'static str); 5] {
    let request = || {
        Request::new("POST", "/_synapse/mas/delete_user")
            .body(json!({"localpart": "alice"}).to_string())
    };
    let injected = json!({"introspection": {"credential": {"injected": true}}});
    [
        // MAS has its new secret, and the edge has not.
        (request().bearer("new"), json!({}), "different"),
        (
            request().header("authorization", "Basic c2VjcmV0"),
            json!({}),
            "different",
        ),
        (request(), json!({}), "missing"),
        (request().bearer("whatever"), injected.clone(), "unchecked"),
        (request(), injected, "unchecked"),
    ]
}

#[test]
fn what_the_edge_cannot_prove_counts_once_the_homeserver_has_agreed() {
    for (request, settings, label) in unproven() {
        for (status, expected) in [
            (200, "AB-"),
            (201, "AB-"),
            (302, ""),
            (401, ""),
            (403, ""),
            (500, ""),
        ] {
            let mut rig = Rig::new(settings.clone());
            rig.tell(request.clone(), status);
            assert_eq!(rig.gone(), expected, "{label} {status}");
            let counted = format!("matrix_edge_auth_provisioning_requests_total.secret={label}");
            assert_eq!(rig.cluster.metric(&counted), 1, "{label}");
        }
        let mut rig = Rig::new(settings.clone());
        let stream = rig.cluster[0].request(&rig.provisioning, request.clone());
        rig.cluster[0].local_response(stream, 200);
        rig.cluster.deliver_all();
        assert_eq!(rig.gone(), "", "{label}: Envoy has agreed, and nobody else");

        let mut rig = Rig::new(settings);
        let stream = rig.cluster[0].request(&rig.provisioning, request);
        let fate = rig.cluster[0].fate(stream);
        assert_eq!(fate, Fate::forwarded_unannotated());
        rig.cluster.deliver_all();
        assert_eq!(rig.gone(), "", "{label}: not before it has answered");
    }
}

#[test]
fn little_is_kept_of_a_body_whose_sender_is_not_proven() {
    // Survivors that are too many to be kept count as none.
    for (devices, expected) in [(4_000, "B-"), (7_000, "AB-")] {
        let mut rig = Rig::new(json!({}));
        let devices: Vec<String> = (0..devices).map(|n| format!("D{n:06}")).collect();
        let devices = [vec!["A".to_owned()], devices].concat();
        // MAS names the user first.
        let body = format!(r#"{{"localpart":"alice","devices":{}}}"#, json!(devices));
        let request = Request::new("POST", "/_synapse/mas/sync_devices").bearer("new");
        rig.tell(request.body(body), 200);
        assert_eq!(rig.gone(), expected, "{} devices", devices.len());
    }
}

#[test]
fn a_body_of_any_size_passes_and_ends_answers() {
    for devices in [10, 1_000, 200_000] {
        let mut rig = Rig::new(json!({}));
        let devices: Vec<String> = (0..devices).map(|n| format!("D{n}")).collect();
        let body = json!({"localpart": "alice", "devices": devices}).to_string();
        let request = Request::new("POST", "/_synapse/mas/sync_devices").bearer(SECRET);
        let stream = rig.cluster[0].request_headers(&rig.provisioning, request, false);
        assert_eq!(rig.cluster[0].fate(stream), Fate::forwarded_unannotated());
        for piece in body.as_bytes().chunks(16_384) {
            rig.cluster[0].request_body(stream, piece, false);
        }
        assert_eq!(rig.gone(), "", "it has not ended");
        rig.cluster[0].request_body(stream, b"", true);
        rig.cluster.deliver_all();
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
    rig.cluster.process.advance(Duration::from_secs(1));
    for token in [ALICE, CAROL] {
        rig.cluster[0].request(&rig.gateway, whoami(token));
        rig.cluster[0].answer_only_call(INACTIVE);
        let fate = rig.cluster[1].send(&rig.gateway, whoami(token));
        assert_eq!(fate, not_active());
    }
    rig.cluster.process.advance(Duration::from_secs(1));
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

/// MAS names the user of each token that is anybody's. One answer that leaves the user and the scope out, by whatever fault,
/// must not outlast what MAS tells.
#[test]
fn an_active_answer_that_names_nobody_ends_with_a_word_about_anybody() {
    for (answer, refused) in [
        (r#"{"active":true}"#, 401),
        (r#"{"active":true,"scope":"urn:matrix:client:api:*"}"#, 500),
    ] {
        let mut rig = Rig::new(json!({}));
        rig.cluster[0].request(&rig.gateway, whoami(NOBODYS));
        rig.cluster[0].answer_only_call(answer);
        for worker in [0, 1, 0, 1] {
            let fate = rig.cluster[worker].send(&rig.gateway, whoami(NOBODYS));
            assert!(
                matches!(fate, Fate::Replied(status, _) if status == refused),
                "{fate:?}"
            );
        }
        rig.cluster.process.advance(Duration::from_secs(1));
        let unlocked = json!({"localpart": "alice", "locked": false});
        rig.tell(told("provision_user", SECRET, unlocked), 200);
        for worker in [0, 1] {
            let request = rig.cluster[worker].request(&rig.gateway, whoami(NOBODYS));
            assert_eq!(rig.cluster[worker].fate(request), Fate::Held, "{answer}");
        }
    }
}

/// With `negative_ttl: 0s` an inactive answer serves only the requests that wait for it: one that is void not even these. MAS
/// tells that a user is back after the answer has come to one worker, and before the other has read it.
#[test]
fn who_waits_is_given_no_inactive_answer_to_a_user_who_is_back() {
    let mut rig = Rig::new(json!({"cache": {"negative_ttl": "0s"}}));
    let waiting = rig.cluster.request_each(&rig.gateway, &whoami(NOBODYS));
    rig.cluster.tick_for(Duration::from_secs(2));
    rig.cluster[0].answer_only_call(INACTIVE);
    let unlocked = json!({"localpart": "alice", "locked": false});
    let unlocked = told("provision_user", SECRET, unlocked);
    let stream = rig.cluster[0].request(&rig.provisioning, unlocked);
    rig.cluster[0].response(stream, 200);
    rig.cluster.deliver_all();
    assert_eq!(
        rig.cluster.fates(&waiting),
        [not_active(), Fate::Held],
        "the first was given it before"
    );
    rig.cluster[1].answer_only_call(&active("alice"));
    assert_eq!(rig.cluster[1].fate(waiting[1]), alice());
}

#[test]
fn an_answer_may_hold_for_an_hour_and_still_ends_when_mas_says_so() {
    let settings = json!({"cache": {"ttl": "1h", "refresh_ahead": false}});
    let mut rig = Rig::new(settings.clone());
    rig.cluster.skip(59 * MINUTE);
    assert_eq!(rig.gone(), "");
    rig.cluster.skip(1 * MINUTE);
    assert_eq!(rig.gone(), "AB-b");

    let mut rig = Rig::new(settings);
    rig.cluster.skip(30 * MINUTE);
    rig.tell(
        told(
            "sync_devices",
            SECRET,
            json!({"localpart": "alice", "devices": ["A"]}),
        ),
        200,
    );
    assert_eq!(rig.gone(), "B-");
    rig.cluster.skip(29 * MINUTE);
    assert_eq!(rig.gone(), "B-");
}

/// A wrong "inactive" logs a person out, so one that cannot be held against MAS's word is asked about again.
#[test]
fn an_inactive_answer_that_cannot_be_held_against_a_revival_is_asked_about_again() {
    // Where the record of who is back cannot be read, and the mark of what a worker keeps for itself.
    for (part, requests) in [("revived", 1), ("kept", 3)] {
        let gateway = gateway(1, json!({"cache": {"negative_ttl": "10s"}}));
        let provisioning = plugin(2, "provisioning", json!({}));
        let mut cluster = Cluster::new(2);
        cluster.seat_all(&gateway);
        cluster[0].request(&gateway, whoami(ALICE));
        cluster[0].answer_only_call(INACTIVE);
        cluster.deliver_all();
        for _ in 0..requests {
            assert_eq!(cluster[0].send(&gateway, whoami(ALICE)), not_active());
        }
        cluster.skip(Duration::from_secs(1));
        let unlocked = json!({"localpart": "alice", "locked": false});
        let unlocked = told("provision_user", SECRET, unlocked);
        let stream = cluster[1].request(&provisioning, unlocked);
        cluster[1].response(stream, 200);
        cluster.deliver_all();
        cluster.skip(Duration::from_secs(2));
        cluster[0].faults().shared_data.set(Some(part));
        let stream = cluster[0].request(&gateway, whoami(ALICE));
        cluster[0].faults().shared_data.set(None);
        assert_eq!(cluster[0].calls().len(), 1, "{part}");
        cluster[0].answer_only_call(&active("alice"));
        assert_eq!(cluster[0].fate(stream), alice(), "{part}");
        assert_eq!(cluster[0].send(&gateway, whoami(ALICE)), alice(), "{part}");
    }
}

/// Only the homeserver's agreement shows that MAS has the other secret: anyone can present a wrong one.
#[test]
fn a_secret_that_differs_from_mas_is_told_of_once() {
    let warned = || {
        let lines = take_log();
        let told = lines.iter().filter(|(level, line)| {
            *level == Level::Warn && line.contains("introspection.credential differs")
        });
        told.count()
    };
    warned();
    let mut rig = Rig::new(json!({}));
    for (request, settings, label) in unproven() {
        for status in [401, 302, 500] {
            rig.tell(request.clone(), status);
        }
        if label != "different" {
            let mut other = Rig::new(settings);
            other.tell(request, 200);
        }
        assert_eq!(warned(), 0, "{label}");
    }
    let different = || told("delete_user", "new", json!({"localpart": "carol"}));
    rig.tell(different(), 200);
    assert_eq!(warned(), 1);
    rig.tell(different(), 200);
    rig.tell(
        told("delete_user", SECRET, json!({"localpart": "carol"})),
        200,
    );
    assert_eq!(warned(), 0, "once in a worker");
}

/// Further ones share a moment, and of their tokens MAS is asked once more.
#[test]
fn thirty_two_devices_of_a_user_are_told_apart() {
    let others = |number| (1..number).map(|n| format!("D{n}")).collect::<Vec<_>>();
    for (number, gone) in [(32, "B-"), (33, "AB-")] {
        let mut rig = Rig::new(json!({}));
        let devices = [others(number), vec!["A".to_owned()]].concat();
        let body = json!({"localpart": "alice", "devices": devices});
        rig.tell(told("sync_devices", SECRET, body), 200);
        assert_eq!(rig.gone(), gone, "{number} survive");

        let mut rig = Rig::new(json!({}));
        for device in others(number + 1) {
            let body = json!({"localpart": "alice", "device_id": device});
            rig.tell(told("delete_device", SECRET, body), 200);
            rig.cluster.process.advance(Duration::from_millis(1));
        }
        let gone = if number == 32 { "" } else { "AB-" };
        assert_eq!(rig.gone(), gone, "{number} are deleted");
    }
}

/// A worker read the clock before another one did, and writes after it. So the latest moment of a place is not always that of the
/// user who was last there.
#[test]
fn an_answer_that_is_void_stays_void_whoever_takes_the_place_of_its_user() {
    let process = Process::new();
    let store = store(&process);
    let places = KeySpace::new(Space::Users, 16_384);
    let place = |user: &UserKey| places.key(&store, &user.0).as_bytes().to_vec();
    let alice = UserKey::of("alice");
    let mut others = (0..)
        .map(|number| UserKey::of(&format!("user-{number}")))
        .filter(|user| place(user) == place(&alice));
    let mut other = || others.next().expect("there is no end of users");
    let Ok(Answer::Active(answer)) = Answer::parse(active("alice").into_bytes()) else {
        panic!("it is active");
    };
    let voidings = Voidings::default();
    for (user, at) in [(alice, 2_000), (other(), 1_000), (other(), 3_000)] {
        let everything = Voiding::AllExcept(Vec::new());
        let added = voidings.add(&store, &user, &everything, Instant::from_millis(at));
        assert_eq!(added, Ok(()));
        let asked_at = Instant::from_millis(1_500);
        assert!(voidings.voids_active(&store, &alice, &answer, asked_at));
    }
    let later = Instant::from_millis(2_500);
    assert!(!voidings.voids_active(&store, &alice, &answer, later));
}
