//! Floods of invented tokens, and what they do to memory and to the people who are logged in.

use std::{collections::BTreeSet, time::Duration};

use serde_json::json;

use super::{
    Gateway,
    client::{self, Client},
    control::{self, Refusal},
    extent,
    flood::{Answers, Attack, Flood, Pace},
    latency::{self, Measured, QUIET, Table},
    plots,
    process::Apart,
    progress, setting, tokens,
    upstream::Mas,
};

/// Invented tokens after the warm-up; `ATTACK_TOKENS` overrides it.
const TOKENS: u64 = 100_000;
const QUICK_TOKENS: u64 = 20_000;

/// Until every slot for inactive answers and for leases has been written at least once: 16,384 slots are
/// all hit after about 16,384 x ln 16,384 = 159,000 tokens.
const WARM_UP: u64 = 200_000;

/// Until V8 has compiled for speed what an invented token takes.
const COMPILED: u64 = 50_000;

/// Tokens made at once, ahead.
const BATCH: u64 = 50_000;

/// How often each Envoy is measured under each load; `ATTACK_ROUNDS` overrides it.
const ROUNDS: u64 = 3;

/// How long each of these measurements takes.
const ROUND: Duration = Duration::from_secs(4);

/// Each for `round`.
fn loads(round: Duration) -> [(&'static str, Option<Pace>); 5] {
    [
        (QUIET, None),
        ("500/s", Some(Pace::PerSecond(500))),
        ("1,000/s", Some(MODERATE)),
        ("2,000/s", Some(Pace::PerSecond(2_000))),
        ("all it can take", Some(Pace::FlatOut(round))),
    ]
}

const MODERATE: Pace = Pace::PerSecond(1_000);

/// More requests a second than any Envoy here answers, so that enough are made ahead.
const FLAT_OUT: u64 = 25_000;

/// The attack comes from one address, so it is over its budget: 429.
const WITH_BUDGET: &str = "module, with `unknown_token_budget`";

const WORKERS: u32 = 2;
const LIVE: usize = 1_000;
const CONNECTIONS: usize = 64;
const MIB: f64 = 1024.0 * 1024.0;

/// Invented tokens that MAS must be asked about.
pub async fn unknown_tokens(mas: &Mas) {
    let number = setting("ATTACK_TOKENS", extent(TOKENS, QUICK_TOKENS));
    println!(
        "\nAttack: invented tokens with a valid checksum, {CONNECTIONS} connections, {WORKERS} workers"
    );
    let gateway = Gateway::start(mas, WORKERS, json!({})).await;
    let live = log_in(mas, &gateway, LIVE);
    let asked = mas.active_calls();
    let mut invented = Invented::default();
    let before = gateway.memory().await;

    let warm_up = number.min(WARM_UP);
    invented.flood(&gateway, warm_up, "warming up").await;
    let warm = gateway.memory().await;
    let left = (warm_up + number).saturating_sub(invented.answered);
    invented.flood(&gateway, left, "the rest").await;
    let end = gateway.memory().await;
    let requests: Vec<Vec<u8>> = live.iter().map(|token| client::whoami(token)).collect();
    Client::open(gateway.addr()).send(&requests, LIVE, 200);

    println!("\n| | resident, MiB | allocated by Envoy, MiB |\n|---|--:|--:|");
    for (name, memory) in [
        ("before", before),
        ("after the warm-up", warm),
        ("at the end", end),
    ] {
        let [resident, allocated] = [memory.0, memory.1].map(|bytes| bytes as f64 / MIB);
        println!("| {name} | {resident:.1} | {allocated:.1} |");
    }
    println!(
        "\n  growth after the warm-up of {warm_up} tokens, over {} more: {:+.2} MiB resident (goal: at most 16)",
        invented.answered - warm_up,
        (end.0 as f64 - warm.0 as f64) / MIB
    );
    let evicted = gateway
        .metric("cache_evictions_total", &[("table", "active")])
        .await;
    println!(
        "  answers: {} x 401, {} other; MAS was asked {} times about {LIVE} live sessions that came back after \
         the attack; active answers evicted: {evicted}",
        invented.rejected,
        invented.answered - invented.rejected,
        mas.active_calls() - asked,
    );
}

/// Live sessions under every load, at the module and at Envoys without it, in turn: whatever disturbs the
/// machine disturbs all of them. Each has one worker, and that has a processor of its own.
pub async fn side_by_side(mas: &Mas) {
    println!(
        "\nAttack: live sessions beside invented tokens with a valid checksum, {CONNECTIONS} connections, one \
         worker on a processor of its own"
    );
    let gateway = Gateway::start(mas, 1, json!({})).await;
    let budget = json!({"unknown_token_budget": {"per_source": 100, "window": "60s"}});
    let with_budget = Gateway::start(mas, 1, budget).await;
    let live = log_in(mas, &gateway, LIVE);
    log_in(mas, &with_budget, LIVE);
    let refusal = Refusal::of(&gateway, &tokens("nobody", 1)[0]).await;
    let at_once = control::at_once(1, &refusal).await;
    let after_a_call = control::after_a_call(mas, 1, &refusal).await;
    let envoys = [
        ("module", &gateway),
        (WITH_BUDGET, &with_budget),
        ("no module, 401 after a call", &after_a_call),
        ("no module, 401 at once", &at_once),
    ];
    let _apart = Apart::begin(&envoys.map(|(_, envoy)| &envoy.process));
    let mut invented = Invented::default();
    for envoy in [&gateway, &with_budget] {
        invented
            .flood(envoy, extent(COMPILED, COMPILED / 5), "warming up")
            .await;
    }
    let rounds = setting("ATTACK_ROUNDS", extent(ROUNDS, 1));
    let round_time = extent(ROUND, Duration::from_secs(1));
    let loads = loads(round_time);
    progress(&format!(
        "{} Envoys under {} loads, {rounds} times: about {} s",
        envoys.len(),
        loads.len(),
        rounds * (envoys.len() * loads.len()) as u64 * round_time.as_secs()
    ));
    for (_, envoy) in envoys.iter().skip(2) {
        // Memory that is needed once.
        invented
            .measure(envoy, &live, round_time / 4, Some(MODERATE))
            .await;
    }
    let mut table = Table::default();
    let mut lengths = BTreeSet::new();
    for round in 1..=rounds {
        for (load, pace) in loads {
            for (name, envoy) in envoys {
                let (measured, answers) = invented.measure(envoy, &live, round_time, pace).await;
                table.add(name, load, measured);
                if name != WITH_BUDGET {
                    lengths.extend(answers.all.iter().map(|answer| answer.length));
                }
            }
        }
        progress(&format!("{round} of {rounds} times"));
    }
    assert_eq!(lengths.len(), 1, "all answers are alike, whoever answers");
    table.print();
    plots::save("latency", &table.figures());
}

/// Invented tokens that cannot exist.
pub async fn impossible_tokens(mas: &Mas) {
    println!("\nAttack: invented tokens with a wrong checksum");
    let gateway = Gateway::start(mas, WORKERS, json!({})).await;
    let mut client = Client::open(gateway.addr());
    let batch = |from: u64| -> Vec<Vec<u8>> {
        (from..from + 10_000)
            .map(|n| client::whoami(&super::damaged(&invented(n))))
            .collect()
    };
    client.send(&batch(0), 10_000, 401);
    let before = (mas.calls(), gateway.memory().await);
    let number = setting("ATTACK_TOKENS", extent(TOKENS, QUICK_TOKENS));
    let mut sent = 0;
    while sent < number {
        client.send(&batch(sent), 10_000, 401);
        sent += 10_000;
        if sent % 100_000 == 0 {
            progress(&format!("{sent} of {number}"));
        }
    }
    let after = (mas.calls(), gateway.memory().await);
    let lookups = gateway.metric("cache_lookups_total", &[]).await;
    println!(
        "  {sent} tokens, all 401: {} calls to MAS, {lookups} look-ups in the shared cache (a write follows a \
         look-up), {:+.2} MiB resident",
        after.0 - before.0,
        (after.1.0 as f64 - before.1.0 as f64) / MIB
    );
}

/// Makes sessions that every worker of this Envoy knows.
pub fn log_in(mas: &Mas, gateway: &Gateway, number: usize) -> Vec<String> {
    let live = tokens("live", number);
    mas.activate(&live);
    let requests: Vec<Vec<u8>> = live.iter().map(|token| client::whoami(token)).collect();
    // Often and on many connections, so that all workers are asked.
    for _ in 0..8 {
        Client::open(gateway.addr()).send(&requests, number, 200);
    }
    live
}

fn invented(number: u64) -> String {
    stand_in::mas::token("mat", &format!("invented {number}"))
}

/// Invented tokens, each sent once.
#[derive(Default)]
struct Invented {
    next: u64,
    /// By the module.
    answered: u64,
    rejected: u64,
}

impl Invented {
    /// Sends so many tokens as fast as answers come.
    async fn flood(&mut self, gateway: &Gateway, number: u64, what: &str) {
        let end = self.answered + number;
        while self.answered < end {
            let attack = Attack {
                connections: CONNECTIONS,
                requests: self.requests(BATCH.min(end - self.answered)),
                pace: Pace::FlatOut(Duration::MAX),
                gives_way: true,
            };
            let flood = Flood::start(gateway.addr(), attack).await;
            self.count(&flood.finish().await);
            progress(&format!("{what}: {} tokens left", end - self.answered));
        }
    }

    async fn measure(
        &mut self,
        gateway: &Gateway,
        live: &[String],
        time: Duration,
        pace: Option<Pace>,
    ) -> (Measured, Answers) {
        let attack = pace.map(|pace| {
            let rate = match pace {
                Pace::PerSecond(rate) => rate,
                Pace::FlatOut(_) => FLAT_OUT,
            };
            Attack {
                connections: CONNECTIONS,
                requests: self.requests(rate * time.as_secs()),
                pace,
                gives_way: true,
            }
        });
        latency::measure(gateway, live, time, attack).await
    }

    fn requests(&mut self, number: u64) -> Vec<Vec<u8>> {
        let from = self.next;
        self.next += number;
        (from..self.next)
            .map(|number| client::attack(&invented(number)))
            .collect()
    }

    fn count(&mut self, answers: &Answers) {
        self.answered += answers.all.len() as u64;
        self.rejected += answers.count(401) as u64;
    }
}
