//! The names of tokens: all workers have the same ones, whatever shared data does at first.

use std::{rc::Rc, time::Duration};

use matrix_edge_auth::worker::Plugin;
use serde_json::json;

use crate::{
    ALICE, active, alice,
    simulated::{Cluster, Fate, Request, gateway, plugin},
    whoami,
};

/// Two workers, each with a configuration of its own as in Envoy. Shared data, or a part of it, has failed the first.
struct Recovered {
    cluster: Cluster,
    gateways: [Rc<Plugin>; 2],
}

impl Recovered {
    fn new(part: &'static str, first: &Request) -> Self {
        let gateways = [0; 2].map(|_| gateway(1, json!({})));
        let mut cluster = Cluster::new(2);
        cluster[0].faults().shared_data.set(Some(part));
        for _ in 0..3 {
            cluster[0].request(&gateways[0], first.clone());
            cluster.run_for(Duration::from_secs(1), &active("alice"));
        }
        cluster[0].faults().shared_data.set(None);
        cluster.run_for(Duration::from_secs(5), &active("alice"));
        Self { cluster, gateways }
    }

    fn fate(&mut self, worker: usize) -> Fate {
        self.cluster[worker].send(&self.gateways[worker], whoami(ALICE))
    }
}

/// Whatever fails a worker, and whatever it is asked meanwhile.
fn each(test: impl Fn(Recovered)) {
    for part in ["", "secret", "seed"] {
        for first in [Request::get("/"), whoami(ALICE)] {
            println!("{part:?} failed at {:?}", first.value(":path"));
            test(Recovered::new(part, &first));
        }
    }
}

#[test]
fn a_worker_that_shared_data_failed_at_its_start_shares_answers_afterwards() {
    each(|mut workers| {
        if workers.fate(1) == Fate::Held {
            workers.cluster[1].answer_only_call(&active("alice"));
        }
        assert_eq!(workers.fate(0), alice());
        workers.cluster.skip(Duration::from_secs(121));
        assert_eq!(
            [0, 1].map(|worker| workers.fate(worker)),
            [Fate::Held, Fate::Held]
        );
        assert_eq!(workers.cluster.calls().len(), 1, "one question for both");
    });
}

#[test]
fn a_session_that_ends_at_a_worker_that_shared_data_failed_at_its_start_is_forgotten_by_all() {
    each(|mut workers| {
        if workers.fate(1) == Fate::Held {
            workers.cluster[1].answer_only_call(&active("alice"));
        }
        assert_eq!(workers.fate(1), alice());
        let logout = Request::new("POST", "/_matrix/client/v3/logout").bearer(ALICE);
        let stream = workers.cluster[0].request(&workers.gateways[0], logout);
        workers.cluster[0].response(stream, 200);
        workers.cluster.deliver_all();
        workers.cluster.tick_for(Duration::from_secs(2));
        assert_eq!(
            [0, 1].map(|worker| workers.fate(worker)),
            [Fate::Held, Fate::Held]
        );
    });
}

/// A token has one name wherever it stands, whatever its length and however its form is cut.
#[test]
fn a_token_has_one_name_in_header_query_and_forms() {
    let open = json!({"unrecognized_tokens": "introspect"});
    for length in (1..40).chain([63, 64, 65, 127, 128, 129, 255, 256, 257, 1_000]) {
        let token: String = "a+Z/=9~.".chars().cycle().take(length).collect();
        let coded: String = token.bytes().map(|byte| format!("%{byte:02x}")).collect();
        let gateways = [0; 2].map(|_| gateway(1, open.clone()));
        let roles = [0; 2].map(|_| plugin(2, "introspection", json!({})));
        let mut cluster = Cluster::new(2);
        cluster[0].request(&gateways[0], whoami(&token));
        cluster[0].answer_only_call(&active("alice"));
        let ask = |cluster: &mut Cluster, at: usize| {
            let query = format!("{}?access_token={coded}", crate::WHOAMI);
            let form = format!("token={coded}&token_type_hint=access_token");
            let introspect = Request::new("POST", "/oauth2/introspect")
                .header("content-type", "application/x-www-form-urlencoded")
                .header("x-mas-supports-device-id", "1")
                .bearer("secret")
                .body(form);
            [
                cluster[at].send(&gateways[at], whoami(&token)),
                cluster[at].send(&gateways[at], Request::get(&query)),
                cluster[at].send(&roles[at], introspect),
            ]
        };
        let answered = Fate::Replied(200, active("alice"));
        for at in [1, 0] {
            let fates = ask(&mut cluster, at);
            assert_eq!(fates, [alice(), alice(), answered.clone()], "{length}");
        }
        let form = format!("x=token&token={coded}&token=b");
        let end = Request::new("POST", "/oauth2/revoke")
            .header("content-type", "application/x-www-form-urlencoded");
        let stream = cluster[1].request_headers(&gateways[1], end, false);
        let pieces: Vec<&[u8]> = form.as_bytes().chunks(1 + length % 5).collect();
        for (at, piece) in pieces.iter().enumerate() {
            cluster[1].request_body(stream, piece, at + 1 == pieces.len());
        }
        cluster[1].response(stream, 200);
        cluster.deliver_all();
        cluster.tick_for(Duration::from_secs(1));
        for at in [0, 1] {
            assert_eq!(
                ask(&mut cluster, at),
                [Fate::Held, Fate::Held, Fate::Held],
                "{length}"
            );
        }
        assert_eq!(cluster.calls().len(), 1, "{length}");
    }
}

/// Nobody is refused because shared data takes nothing: MAS is asked without a lease.
#[test]
fn while_shared_data_takes_nothing_mas_is_asked() {
    let gateway = gateway(1, json!({}));
    let mut cluster = Cluster::new(1);
    cluster[0].faults().shared_data.set(Some(""));
    let stream = cluster[0].request(&gateway, whoami(ALICE));
    cluster.run_for(Duration::from_secs(60), &active("alice"));
    assert_eq!(cluster[0].fate(stream), alice());
}
