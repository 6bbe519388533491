//! What the module adds to the latency of a hit while its worker is busy for half of the time.
//!
//! Half of the time means the time of the worker's thread at the load that is measured: a request costs a worker that has many
//! to read at once a fraction of what it costs one that has few. So the rate is found by trying. An Envoy without a filter gets
//! the same rate, which is less than half of what it can take. A third has the module that makes the calls of a hit and has no
//! code of its own (`instructions/limit.wat`): what that adds no filter can spare.
//!
//! The non-obvious rule: each round starts new Envoys. One process takes up to a tenth more for a request than another of the
//! same module, by where its code and data happen to lie, and near the 99th percentile that tenth is a third. So one
//! process says little, however long it is watched.

use std::{env, path::Path, time::Duration};

use serde_json::json;

use super::{
    Gateway,
    attack::log_in,
    client, extent,
    flood::{Attack, Flood, Pace},
    goal,
    latency::{self, QUIET, Table},
    median,
    probe::Percentiles,
    process::Apart,
    progress,
    upstream::Mas,
};

/// The load that is meant.
const HALF: &str = "half load";

/// Of a worker's time.
const BUSY: f64 = 0.5;

/// The rate that is tried first, in requests a second, and how often another one is tried.
const FIRST_RATE: u64 = 4_000;
const TRIES: usize = 4;

const MODULE: &str = "module";
const BY_HAND: &str = "by hand";
const NO_FILTER: &str = "no filter";

const LIVE: usize = 1_000;
const CONNECTIONS: usize = 64;
const ROUNDS: usize = 7;
const ROUND: Duration = Duration::from_secs(4);

/// One Envoy with the module, one with the calls of a hit alone and one without a filter, quiet and at half load, in turn. Each
/// has one worker, and that has a processor of its own.
pub async fn beside_no_filter(mas: &Mas) {
    println!(
        "\nLatency of a hit while the worker is busy for half of the time, on a processor of its own"
    );
    let (rounds, time) = (extent(ROUNDS, 1), extent(ROUND, ROUND / 4));
    let mut rate = None;
    let mut table = Table::default();
    for round in 0..rounds {
        let envoys = [
            (NO_FILTER, Gateway::without_module().await),
            (BY_HAND, calls_by_hand(mas).await),
            (MODULE, Gateway::start(mas, 1, json!({})).await),
        ];
        let [(_, plain), (_, by_hand), (_, module)] = &envoys;
        let live = log_in(mas, module, LIVE);
        for other in [plain, by_hand] {
            log_in(mas, other, LIVE);
        }
        let _apart = Apart::begin(&[&plain.process, &by_hand.process, &module.process]);
        let rate = match rate {
            Some(rate) => rate,
            None => *rate.insert(half_load(module, &live, time).await),
        };
        progress(&format!(
            "three Envoys, quiet and at {rate} requests a second: round {} of {rounds}",
            round + 1
        ));
        for (load, rate) in [(QUIET, None), (HALF, Some(rate))] {
            for turn in 0..envoys.len() {
                let (name, envoy) = &envoys[(round + turn) % envoys.len()];
                let attack = rate.map(|rate| hits(&live, rate, time));
                let (measured, _) = latency::measure(envoy, &live, time, attack).await;
                table.add(name, load, measured);
            }
        }
    }
    table.print();
    println!("\n| at half load | p50, us | lowest to highest | p99, us | lowest to highest |");
    println!("|---|--:|--:|--:|--:|");
    for name in [BY_HAND, MODULE] {
        print!("| {name} adds |");
        for percentile in [p50, p99] {
            let added = table.added(name, NO_FILTER, HALF, percentile);
            let (lowest, highest) = (added[0], added[added.len() - 1]);
            print!(" {:.0} | {lowest:.0} to {highest:.0} |", median(&added));
        }
        println!();
    }
    for (name, percentile, at_most) in [("p50", p50 as Percentile, 60.0), ("p99", p99, 150.0)] {
        goal(
            &format!("a hit at half load adds at most {at_most} us to no filter, {name}"),
            median(&table.added(MODULE, NO_FILTER, HALF, percentile)),
            at_most,
        );
    }
}

async fn calls_by_hand(mas: &Mas) -> Gateway {
    let built = env::var("INSTRUCTIONS_BUILT").expect("scripts/bench makes the modules by hand");
    Gateway::with_other_module(mas, &Path::new(&built).join("limit.wasm")).await
}

type Percentile = fn(&Percentiles) -> f64;

fn p50(hits: &Percentiles) -> f64 {
    hits.p50
}

fn p99(hits: &Percentiles) -> f64 {
    hits.p99
}

/// Finds the rate at which the worker is busy for half of the time, in requests a second.
async fn half_load(gateway: &Gateway, live: &[String], time: Duration) -> u64 {
    let mut rate = FIRST_RATE;
    for _ in 0..TRIES {
        let before = gateway.process.workers().ran;
        let flood = Flood::start(gateway.addr(), hits(live, rate, time)).await;
        let lasted = flood.finish().await.lasted.as_secs_f64();
        let ran = gateway.process.workers().ran - before;
        let busy = ran.as_secs_f64() / lasted;
        // Never more than twice as much at a time: a worker that is full tells nothing.
        let factor = (BUSY / busy).clamp(0.5, 2.0);
        rate = (rate as f64 * factor) as u64;
    }
    rate
}

/// Requests of people who are logged in, beside those that are timed.
fn hits(live: &[String], rate: u64, time: Duration) -> Attack {
    let number = (rate as f64 * time.as_secs_f64()) as usize;
    let requests = live.iter().map(|token| client::whoami(token)).cycle();
    Attack {
        connections: CONNECTIONS,
        requests: requests.take(number).collect(),
        pace: Pace::PerSecond(rate),
        gives_way: true,
    }
}
