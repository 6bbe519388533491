//! The names of tokens: all workers have the same ones, whatever shared data does at first.

use std::{rc::Rc, time::Duration};

use matrix_edge_auth::worker::Plugin;
use serde_json::json;

use crate::{
    ALICE, active, alice,
    simulated::{Cluster, Fate, Request, gateway},
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
