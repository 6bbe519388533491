//! Two versions of the module in one Envoy, while an update takes its time: each writes over what the other has written in a format
//! of its own.

use std::{rc::Rc, time::Duration};

use matrix_edge_auth::{shared_data::name::FORMAT_VERSION, worker::Plugin};
use serde_json::{Value, json};

use crate::{
    ALICE, BOB, active, alice,
    simulated::{Cluster, Fate, Process, Request, gateway, plugin},
    whoami,
};

const SECOND: Duration = Duration::from_secs(1);
const WORKERS: usize = 3;

/// Lets all values of this kind be of another format. It has the same beginning.
fn write_in_another_format(process: &Process, kind: &str) {
    let kind = format!("matrix-edge-auth.{kind}");
    process.rewrite(|key, value| {
        let is_meant = key.starts_with(&kind) && value.first() == Some(&FORMAT_VERSION);
        is_meant.then(|| [&[FORMAT_VERSION + 1], &value[1..]].concat())
    });
}

/// Workers that all keep Alice's session for themselves. There is one bucket.
fn cluster(gateway: &Rc<Plugin>) -> Cluster {
    let mut cluster = Cluster::new(WORKERS);
    cluster.seat_all(gateway);
    cluster[0].request(gateway, whoami(ALICE));
    cluster[0].answer_only_call(&active("alice"));
    assert_eq!(
        cluster.send_each(gateway, &whoami(ALICE)),
        vec![alice(); WORKERS]
    );
    cluster.skip(SECOND);
    cluster
}

fn settings() -> Value {
    json!({"cache": {"ttl": "1h", "slots": 8}})
}

#[test]
fn what_mas_has_told_is_not_forgotten_when_another_version_writes_it_over() {
    let gateway = gateway(1, settings());
    let provisioning = plugin(2, "provisioning", json!({}));
    for is_written_over in [false, true] {
        let mut cluster = cluster(&gateway);
        let request = Request::new("POST", "/_synapse/mas/delete_user")
            .header("content-type", "application/json")
            .bearer("secret")
            .body(json!({"localpart": "alice", "erase": false}).to_string());
        let stream = cluster[1].request(&provisioning, request);
        cluster[1].response(stream, 200);
        if is_written_over {
            write_in_another_format(&cluster.process, "u");
        }
        cluster.skip(2 * SECOND);
        let fates = cluster.send_each(&gateway, &whoami(ALICE));
        assert_eq!(fates, vec![Fate::Held; WORKERS], "{is_written_over}");
    }
}

/// The answer has no entry any more by which its end would be told.
#[test]
fn workers_look_up_again_what_another_version_has_lost() {
    let gateway = gateway(1, settings());
    let mut cluster = cluster(&gateway);
    write_in_another_format(&cluster.process, "a");
    // This version takes the bucket, with an answer of its own.
    cluster[2].request(&gateway, whoami(BOB));
    cluster[2].answer_only_call(&active("bob"));
    cluster.skip(SECOND);
    let fates = cluster.send_each(&gateway, &whoami(ALICE));
    assert_eq!(fates, vec![Fate::Held; WORKERS]);
}

#[test]
fn a_session_ends_of_which_another_version_has_the_answer() {
    let gateway = gateway(1, settings());
    let mut cluster = cluster(&gateway);
    write_in_another_format(&cluster.process, "a");
    let logout = Request::new("POST", "/_matrix/client/v3/logout").bearer(ALICE);
    let stream = cluster[1].request(&gateway, logout);
    cluster[1].response(stream, 200);
    cluster.skip(SECOND);
    let fates = cluster.send_each(&gateway, &whoami(ALICE));
    assert_eq!(fates, vec![Fate::Held; WORKERS]);
    let mut is_gone = true;
    cluster.process.rewrite(|key, value| {
        let is_answer = key.starts_with("matrix-edge-auth.a") && !key.ends_with("sizes");
        is_gone &= !is_answer || value.len() <= 1;
        None
    });
    assert!(is_gone, "the other version does not serve it either");
}
