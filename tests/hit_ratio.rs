//! How close the shared table comes to an ideal least-recently-used cache of the same size.

#![cfg(not(target_arch = "wasm32"))]

#[path = "support/simulated.rs"]
#[expect(dead_code, reason = "each test layer uses a part of it")]
mod simulated;

use std::{
    collections::{BTreeMap, HashMap},
    time::Duration,
};

use fastrand::Rng;
use matrix_edge_auth::{
    cache::{Introspected, SharedCache},
    config,
    mas::introspection::Answer,
    token::TokenSecret,
};

use self::simulated::{Process, store};

const SLOTS: u32 = 2_000;
const SESSIONS: usize = 20_000;
const REQUESTS: usize = 200_000;
const WARM_UP: usize = REQUESTS / 4;

/// Sessions by popularity: the n-th is used in proportion to 1 / n^0.9.
fn trace(rng: &mut Rng) -> Vec<usize> {
    let mut total = 0.0;
    let cumulative: Vec<f64> = (1..=SESSIONS)
        .map(|rank| {
            total += (rank as f64).powf(-0.9);
            total
        })
        .collect();
    (0..REQUESTS)
        .map(|_| {
            let at = rng.f64() * total;
            cumulative.partition_point(|sum| *sum < at)
        })
        .collect()
}

fn ideal(trace: &[usize]) -> f64 {
    let mut used_at: HashMap<usize, usize> = HashMap::new();
    let mut by_age: BTreeMap<usize, usize> = BTreeMap::new();
    let mut hits = 0;
    for (now, session) in trace.iter().enumerate() {
        match used_at.insert(*session, now) {
            Some(before) => {
                by_age.remove(&before);
                hits += usize::from(now >= WARM_UP);
            }
            None if used_at.len() > SLOTS as usize => {
                let (_, oldest) = by_age.pop_first().unwrap();
                used_at.remove(&oldest);
            }
            None => {}
        }
        by_age.insert(now, *session);
    }
    hits as f64 / (REQUESTS - WARM_UP) as f64
}

fn ours(trace: &[usize]) -> f64 {
    let process = Process::new();
    let store = store(&process);
    let settings = config::Cache {
        ttl: Duration::from_secs(3600),
        negative_ttl: Duration::from_secs(10),
        stale_if_error: Duration::ZERO,
        refresh_ahead: false,
        slots: SLOTS,
        negative_slots: 1,
        local_entries: 0,
    };
    let cache = SharedCache::new(&settings, 1);
    let answer = Answer::parse(br#"{"active":true}"#.to_vec()).expect("an answer of MAS");
    let mut hits = 0;
    for (number, session) in trace.iter().enumerate() {
        // About a hundred requests a second: the time of use is kept to the second.
        if number % 100 == 0 {
            process.advance(Duration::from_secs(1));
        }
        let now = process.now();
        let digest = TokenSecret::NONE.digest(&session.to_le_bytes());
        if cache.lookup(&store, &digest, now).is_some() {
            hits += usize::from(number >= WARM_UP);
        } else {
            let asked = Introspected::new(digest, now, now, answer.clone(), None);
            cache.store(&store, &asked);
        }
    }
    hits as f64 / (REQUESTS - WARM_UP) as f64
}

#[test]
fn the_table_is_within_5_percent_of_an_ideal_lru() {
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let trace = trace(&mut Rng::with_seed(seed));
    let (ideal, ours) = (ideal(&trace), ours(&trace));
    println!(
        "hit ratio on Zipf(0.9), {SESSIONS} sessions, {SLOTS} slots: ours {ours:.4}, ideal LRU {ideal:.4}"
    );
    assert!(ours >= 0.95 * ideal, "ours {ours:.4}, ideal {ideal:.4}");
}
