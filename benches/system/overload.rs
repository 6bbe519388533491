//! More unknown tokens than a slow MAS can answer, for longer than any answer takes.

use std::{cell::Cell, convert::Infallible, time::Duration};

use serde_json::json;

use super::{
    Gateway,
    attack::log_in,
    client,
    control::{self, Refusal},
    extent,
    flood::{Attack, Pace},
    latency::{self, QUIET, Table},
    probe::Percentiles,
    process::Apart,
    progress, setting, tokens,
    upstream::Mas,
};

/// How long MAS takes for an answer.
const SLOW: Duration = Duration::from_secs(2);

/// How long; `ATTACK_SECONDS` overrides it.
const SECONDS: u64 = 20;

const QUIET_TIME: Duration = Duration::from_secs(10);

const MAX_IN_FLIGHT: usize = 256;
const LIVE: usize = 1_000;

const GAUGE: &str = "cluster.mas.upstream_rq_active";
const LOOK: Duration = Duration::from_millis(250);

/// What becomes of those who are too many, and of live sessions: two workers that share the processors with
/// attacker, MAS and client, and one worker that has one for itself and gets half of the attack.
pub async fn slow_mas() {
    let runs = [(2, 2_500, false), (1, 1_250, true)];
    for &(workers, rate, is_apart) in extent(&runs[..], &runs[1..]) {
        run(workers, rate, is_apart).await;
    }
}

/// `rate`: requests a second, each with a token that nobody has seen.
async fn run(workers: u32, rate: u64, is_apart: bool) {
    let time = Duration::from_secs(setting("ATTACK_SECONDS", extent(SECONDS, 5)));
    // As many as wait for MAS, and as many as come in the second for which each of the others waits in line.
    let connections = workers as usize * MAX_IN_FLIGHT + rate as usize;
    println!(
        "\nAttack: {rate} cold tokens a second for {time:?}, while MAS takes {SLOW:?}; {connections} connections, \
         {workers} workers{}, max_in_flight {MAX_IN_FLIGHT}",
        if is_apart {
            " on a processor of their own"
        } else {
            ""
        }
    );
    let mas = Mas::start();
    let gateway = Gateway::start(&mas, workers, json!({})).await;
    let live = log_in(&mas, &gateway, LIVE);
    let control = control::at_once(workers, &refusal(&mas, &gateway).await).await;
    let asked = mas.active_calls();
    mas.delay(SLOW);
    let _apart = is_apart.then(|| Apart::begin(&[&gateway.process, &control.process]));

    progress(&format!(
        "two Envoys, quiet and under attack: about {} s",
        2 * (QUIET_TIME + time + SLOW).as_secs()
    ));
    let envoys = [("module", &gateway), ("no module, 503 at once", &control)];
    let mut table = Table::default();
    for (name, envoy) in envoys {
        let quiet = extent(QUIET_TIME, QUIET_TIME / 5);
        let (measured, _) = latency::measure(envoy, &live, quiet, None).await;
        table.add(name, QUIET, measured);
    }
    let most = Cell::new(0);
    let mut answers = Vec::new();
    for (name, envoy) in envoys {
        let attack = Attack {
            connections,
            requests: cold(name, rate * time.as_secs()),
            pace: Pace::PerSecond(rate),
            gives_way: false,
        };
        progress(&format!("{name}: {} cold tokens", attack.requests.len()));
        let (measured, got) = tokio::select! {
            done = latency::measure(envoy, &live, time, Some(attack)) => done,
            never = watch(&gateway, &most) => match never {},
        };
        table.add(name, "attack", measured);
        answers.push((name, got));
    }
    table.print();

    println!(
        "\n| | requests | asked, 401 | 503 | of those with `Retry-After` | p50, us | p99, us | slowest, us | other | rate | latest sent |"
    );
    println!("|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|");
    for (name, got) in &answers {
        let refused = || got.all.iter().filter(|answer| answer.status == 503);
        let times = Percentiles::of(refused().map(|answer| answer.took).collect());
        println!(
            "| {name} | {} | {} | {} | {} | {:.0} | {:.0} | {:.0} | {} | {:.0}/s | {:.0} ms |",
            got.all.len(),
            got.count(401),
            got.count(503),
            refused().filter(|answer| answer.has_retry_after).count(),
            times.p50,
            times.p99,
            times.slowest,
            got.all.len() - got.count(401) - got.count(503),
            got.all.len() as f64 / got.lasted.as_secs_f64(),
            got.late.as_secs_f64() * 1e3,
        );
    }
    println!(
        "\n  calls under way: {} at the most by Envoy's own count, {} by MAS's (limit: {}); live sessions \
         MAS was asked about: {}",
        most.get(),
        mas.most_open(),
        workers as usize * MAX_IN_FLIGHT,
        mas.active_calls() - asked,
    );
}

/// The module's answer when there is no verdict, as it gives it when MAS takes longer than it may.
async fn refusal(mas: &Mas, gateway: &Gateway) -> Refusal {
    progress("waiting 5 s for the module to give up");
    mas.delay(Duration::from_secs(6));
    let refusal = Refusal::of(gateway, &tokens("nobody", 1)[0]).await;
    assert_eq!(refusal.status, 503, "no verdict");
    refusal
}

fn cold(name: &str, number: u64) -> Vec<Vec<u8>> {
    (0..number)
        .map(|number| {
            client::attack(&stand_in::mas::token(
                "mat",
                &format!("cold {name} {number}"),
            ))
        })
        .collect()
}

/// Keeps the highest number of calls under way that was seen.
async fn watch(gateway: &Gateway, most: &Cell<u64>) -> Infallible {
    loop {
        let calls = gateway.envoy.stat(GAUGE).await;
        most.set(most.get().max(calls));
        tokio::time::sleep(LOOK).await;
    }
}
