//! How often MAS is asked about one token, when the edge and every process of Synapse want to know.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use serde_json::json;
use stand_in::mas::token;
use tokio::{task::JoinSet, time::Instant};

use super::rig::{Rig, introspection, with_rig};
use crate::support::{
    envoy::Envoy,
    http::{Connection, Request},
};

/// Every process of Synapse serves it, and it needs a token.
const WHOAMI: &str = "/_matrix/client/v3/account/whoami";

const TOKENS: usize = 1_000;
/// How many clients there are at a time.
const CLIENTS: usize = 16;

/// What the introspection listener is for.
#[test]
fn without_an_introspection_listener_every_process_asks_about_every_token() {
    with_rig(async |rig| {
        let envoy = rig.gateway().start().await;
        let introspections = use_tokens("direct", &rig, &envoy).await;
        // The edge, and each of Synapse's processes.
        assert_eq!(introspections, 4 * TOKENS as u64);
    });
}

#[test]
fn with_an_introspection_listener_mas_is_asked_once_about_a_token() {
    with_rig(async |rig| {
        let plugin = json!({"role": "introspection", "introspection": introspection()});
        let envoy = rig
            .gateway()
            .internal_listener("introspection", plugin, "mas")
            .start()
            .await;
        rig.to_mas.lead_to(envoy.listener("introspection"));
        let introspections = use_tokens("introspection listener", &rig, &envoy).await;
        // All of Synapse's questions came this way.
        let asked = envoy.stat("http.introspection.downstream_rq_total").await;
        assert_eq!(asked, 3 * TOKENS as u64);
        assert_eq!(introspections, TOKENS as u64);
    });
}

/// Uses new tokens once on the edge and once on each of Synapse's processes, all four at about the same
/// time and so within one TTL. Returns how many introspections MAS saw.
async fn use_tokens(name: &str, rig: &Rig, envoy: &Envoy) -> u64 {
    let tokens = (0..TOKENS).map(|number| token("mat", &format!("{name} {number}")));
    let tokens: Vec<String> = tokens.collect();
    for (number, token) in tokens.iter().enumerate() {
        rig.give_token(token, number);
    }
    let [main, one, two] = rig.synapse.addrs();
    let work = Arc::new(Work {
        tokens,
        addrs: [envoy.addr(), main, one, two],
        next: AtomicUsize::new(0),
    });
    let before = rig.mas.total_calls();
    let started = Instant::now();
    let clients: JoinSet<()> = (0..CLIENTS).map(|_| client(Arc::clone(&work))).collect();
    clients.join_all().await;
    let introspections = rig.mas.total_calls() - before;
    println!(
        "{name}: {TOKENS} tokens, each used on the edge and on 3 processes of Synapse: {introspections} \
         introspections in {:.1?}",
        started.elapsed()
    );
    introspections
}

/// What the clients do together.
struct Work {
    tokens: Vec<String>,
    addrs: [SocketAddr; 4],
    next: AtomicUsize,
}

/// Takes the next token and address until there are no more.
async fn client(work: Arc<Work>) {
    let mut connections = Vec::new();
    for addr in work.addrs {
        connections.push(Connection::open(addr).await);
    }
    loop {
        let number = work.next.fetch_add(1, Ordering::Relaxed);
        let Some(token) = work.tokens.get(number / connections.len()) else {
            break;
        };
        let turn = number % connections.len();
        let request = Request::get(WHOAMI).bearer(token);
        let response = connections[turn].request(&request).await;
        assert_eq!(response.status, 200, "{response:?}");
    }
}
