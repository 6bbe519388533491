//! Dead tokens: a real Synapse that has to find out by itself, beside the module before it, and beside Envoys that do less.
//!
//! Synapse keeps "inactive" for two minutes, and so does the module here, so both are asked about tokens that they know and about
//! tokens that they do not. What an Envoy takes that knows no token, with and without a filter, is the least that any filter of
//! Envoy can take.

use std::{env, path::Path};

use serde_json::json;

use super::{Extent, contender, goal, range};
use crate::{
    Gateway, client,
    control::{self, Refusal},
    median,
    process::Process,
    tokens,
    upstream::Mas,
};

/// Of Synapse a request takes half a millisecond or more.
const REQUESTS: usize = 1_024;
const QUICK_REQUESTS: usize = 256;

/// A request that takes an Envoy a fiftieth of the time has to be made more often to be counted as well.
const SHORTER: usize = 8;

const MODULE: &str = "the module";

/// A server and what a request took it in each round.
struct Server<'a> {
    name: &'static str,
    client: client::Client,
    process: &'a Process,
    /// How many times as many requests a round has.
    times: usize,
    micros: Vec<f64>,
}

impl<'a> Server<'a> {
    fn of(name: &'static str, gateway: &'a Gateway, times: usize) -> Self {
        Self {
            name,
            client: client::Client::open(gateway.addr()),
            process: &gateway.process,
            times,
            micros: Vec::new(),
        }
    }

    fn round(&mut self, tokens: &[String], number: usize) {
        let requests: Vec<_> = tokens.iter().map(|token| client::attack(token)).collect();
        let number = number * self.times;
        let before = self.process.exact_cpu_micros();
        self.client.send(&requests, number, 401);
        let used = self.process.exact_cpu_micros() - before;
        self.micros.push(used / number as f64);
    }

    /// What it took in each round, in parts of what another one took.
    fn parts_of(&self, other: &Server<'_>) -> Vec<f64> {
        let rounds = self.micros.iter().zip(&other.micros);
        rounds.map(|(own, other)| own / other).collect()
    }
}

pub async fn dead_tokens(mas: &Mas, extent: &Extent) {
    let Some((synapse, process)) = contender::synapse(mas.addr()).await else {
        return;
    };
    let as_long = json!({"cache": {"negative_ttl": "2m"}});
    let gateway = Gateway::start(mas, 1, as_long).await;
    let refusal = Refusal::of(&gateway, &tokens("nobody", 1)[0]).await;
    assert_eq!(refusal.status, 401, "an inactive token");
    let at_once = control::at_once(1, &refusal).await;
    let after_a_call = control::after_a_call(mas, 1, &refusal).await;
    let by_hand = refusal_by_hand(mas).await;
    let number = crate::extent(REQUESTS, QUICK_REQUESTS);
    let mut reached = Vec::new();
    for is_known in [true, false] {
        let mut servers = vec![Server {
            name: "Synapse alone",
            client: client::Client::open(synapse.addr()),
            process: &process,
            times: 1,
            micros: Vec::new(),
        }];
        let case = if is_known {
            servers.extend([
                Server::of("Envoy that refuses everybody, no filter", &at_once, SHORTER),
                Server::of("a module by hand that does", &by_hand, SHORTER),
                Server::of(MODULE, &gateway, SHORTER),
            ]);
            "seen before"
        } else {
            servers.extend([
                Server::of(
                    "Envoy that asks about everybody, no filter",
                    &after_a_call,
                    1,
                ),
                Server::of(MODULE, &gateway, 1),
            ]);
            "unproven"
        };
        for round in 0..=extent.rounds {
            let (of, count) = if is_known { (0, 100) } else { (round, number) };
            let dead = tokens(&format!("homeserver {case} {of}"), count);
            let turn = round % servers.len();
            servers.rotate_left(turn);
            servers
                .iter_mut()
                .for_each(|server| server.round(&dead, number));
            servers.rotate_right(turn);
            if round == 0 {
                // It fills caches.
                servers.iter_mut().for_each(|server| server.micros.clear());
            }
        }
        print(case, &servers);
        let module = servers.last().expect("the module");
        reached.push((case, median(&module.parts_of(&servers[0]))));
    }
    for (case, part) in reached {
        goal(
            &format!("a dead token, {case}, takes at most 1/20 of Synapse alone"),
            part,
            0.05,
        );
    }
}

/// The module that does nothing but refuse.
async fn refusal_by_hand(mas: &Mas) -> Gateway {
    let built = env::var("INSTRUCTIONS_BUILT").expect("scripts/bench makes the modules by hand");
    Gateway::with_other_module(mas, &Path::new(&built).join("limit_refusal.wasm")).await
}

fn print(case: &str, servers: &[Server<'_>]) {
    println!(
        "\n| an inactive token, {case}, HTTP/1.1 | CPU, us | part of Synapse's | lowest to highest |"
    );
    println!("|---|--:|--:|--:|");
    for (place, server) in servers.iter().enumerate() {
        print!("| {} | {:.1} |", server.name, median(&server.micros));
        if place == 0 {
            println!("  |  |");
            continue;
        }
        let parts = server.parts_of(&servers[0]);
        let (lowest, highest) = range(&parts);
        println!(
            " 1/{:.1} | 1/{:.1} to 1/{:.1} |",
            1.0 / median(&parts),
            1.0 / lowest,
            1.0 / highest
        );
    }
}
