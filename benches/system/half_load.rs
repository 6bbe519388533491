//! What the module adds to the latency of a hit while its worker is busy for half of the time.
//!
//! Half of the time means the time of the worker's thread at the load that is measured: a request costs a worker that has many
//! to read at once a fraction of what it costs one that has few. So the rate is found by trying. An Envoy without a filter gets
//! the same rate, which is less than half of what it can take.

use std::time::Duration;

use serde_json::json;

use super::{
    Gateway,
    attack::log_in,
    client, extent,
    flood::{Attack, Flood, Pace},
    goal,
    latency::{self, QUIET, Table},
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
const NO_FILTER: &str = "no filter";

const LIVE: usize = 1_000;
const CONNECTIONS: usize = 64;
const ROUNDS: usize = 5;
const ROUND: Duration = Duration::from_secs(4);

/// One Envoy with the module and one without a filter, quiet and at half load, in turn. Each has one worker, and that has a
/// processor of its own.
pub async fn beside_no_filter(mas: &Mas) {
    println!(
        "\nLatency of a hit while the worker is busy for half of the time, on a processor of its own"
    );
    let gateway = Gateway::start(mas, 1, json!({})).await;
    let plain = Gateway::without_module().await;
    let live = log_in(mas, &gateway, LIVE);
    log_in(mas, &plain, LIVE);
    let _apart = Apart::begin(&[&gateway.process, &plain.process]);
    let (rounds, time) = (extent(ROUNDS, 1), extent(ROUND, ROUND / 4));
    let rate = half_load(&gateway, &live, time).await;
    progress(&format!(
        "two Envoys, quiet and at {rate} requests a second, {rounds} times: about {} s",
        4 * rounds as u64 * time.as_secs()
    ));
    let mut table = Table::default();
    for _ in 0..rounds {
        for (load, rate) in [(QUIET, None), (HALF, Some(rate))] {
            for (name, envoy) in [(NO_FILTER, &plain), (MODULE, &gateway)] {
                let attack = rate.map(|rate| hits(&live, rate, time));
                let (measured, _) = latency::measure(envoy, &live, time, attack).await;
                table.add(name, load, measured);
            }
        }
    }
    table.print();
    for (percentile, added, at_most) in [
        (
            "p50",
            table.added(MODULE, NO_FILTER, HALF, |hits| hits.p50),
            60.0,
        ),
        (
            "p99",
            table.added(MODULE, NO_FILTER, HALF, |hits| hits.p99),
            150.0,
        ),
    ] {
        goal(
            &format!("a hit at half load adds at most {at_most} us to no filter, {percentile}"),
            added,
            at_most,
        );
    }
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
