//! Dead tokens: a real Synapse that has to find out by itself, beside the module before it.
//!
//! Synapse keeps "inactive" for two minutes, and so does the module here, so both are asked about tokens that they know and about
//! tokens that they do not.

use serde_json::json;

use super::{Extent, contender, goal, range};
use crate::{Gateway, client, median, process::Process, tokens, upstream::Mas};

/// Of Synapse a request takes milliseconds.
const REQUESTS: usize = 1_024;
const QUICK_REQUESTS: usize = 256;

/// A server and what it took.
struct Server<'a> {
    client: client::Client,
    process: &'a Process,
    micros: Vec<f64>,
}

impl Server<'_> {
    fn round(&mut self, tokens: &[String], number: usize) {
        let requests: Vec<_> = tokens.iter().map(|token| client::whoami(token)).collect();
        let before = self.process.exact_cpu_micros();
        self.client.send(&requests, number, 401);
        let used = self.process.exact_cpu_micros() - before;
        self.micros.push(used / number as f64);
    }
}

pub async fn dead_tokens(mas: &Mas, extent: &Extent) {
    let Some((synapse, process)) = contender::synapse(mas.addr()).await else {
        return;
    };
    let as_long = json!({"cache": {"negative_ttl": "2m"}});
    let gateway = Gateway::start(mas, 1, as_long).await;
    let number = crate::extent(REQUESTS, QUICK_REQUESTS);
    println!(
        "\n| inactive token, HTTP/1.1 | Synapse alone, us | the module, us | the module's part of it | lowest to highest |"
    );
    println!("|---|--:|--:|--:|--:|");
    let mut reached = Vec::new();
    for (case, is_known) in [("seen before", true), ("unproven", false)] {
        let mut alone = Server {
            client: client::Client::open(synapse.addr()),
            process: &process,
            micros: Vec::new(),
        };
        let mut edge = Server {
            client: client::Client::open(gateway.addr()),
            process: &gateway.process,
            micros: Vec::new(),
        };
        for round in 0..=extent.rounds {
            let count = if is_known { 100 } else { number };
            let dead = tokens(
                &format!("homeserver {case} {}", if is_known { 0 } else { round }),
                count,
            );
            // A request that takes the module a fiftieth of the time has to be made more often to be counted as well.
            let at_edge = if is_known { 8 * number } else { number };
            if round % 2 == 0 {
                alone.round(&dead, number);
                edge.round(&dead, at_edge);
            } else {
                edge.round(&dead, at_edge);
                alone.round(&dead, number);
            }
            if round == 0 {
                alone.micros.clear();
                edge.micros.clear();
            }
        }
        let pairs = edge.micros.iter().zip(&alone.micros);
        let parts: Vec<f64> = pairs.map(|(edge, alone)| edge / alone).collect();
        let (lowest, highest) = range(&parts);
        let part = median(&parts);
        println!(
            "| {case} | {:.0} | {:.1} | 1/{:.1} | 1/{:.1} to 1/{:.1} |",
            median(&alone.micros),
            median(&edge.micros),
            1.0 / part,
            1.0 / lowest,
            1.0 / highest
        );
        reached.push((case, part));
    }
    for (case, part) in reached {
        goal(
            &format!("a dead token, {case}, takes at most 1/20 of Synapse alone"),
            part,
            0.05,
        );
    }
}
