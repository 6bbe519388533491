//! From exec to ready: an Envoy with the module, one with the SDK's empty filter, one with a filter of a few bytes that does
//! nothing, and one without a filter.
//!
//! Their order changes from round to round. Envoy is ready when its admin interface says so, which is asked
//! every 10 ms.

use std::{env, path::Path, time::Instant};

use serde_json::json;

use super::{
    answering, extent, median, replace_module,
    support::envoy::{Builder, Envoy},
    upstream::Mas,
};

const WORKERS: u32 = 4;

pub async fn beside_an_empty_filter(mas: &Mas) {
    let [empty, sdk] = ["EMPTY_MODULE", "SDK_MODULE"]
        .map(|name| env::var(name).expect("scripts/bench makes the other filters"));
    let mut millis = [const { Vec::new() }; 4];
    for round in 0..=extent(15, 3) {
        for turn in 0..4 {
            let which = (round + turn) % 4;
            let builder = match which {
                0 => with_module(mas),
                1 => with_module(mas).bootstrap(replace_module(Path::new(&sdk))),
                2 => with_module(mas).bootstrap(replace_module(Path::new(&empty))),
                _ => Envoy::builder(),
            };
            let started = Instant::now();
            let envoy = answering(builder).concurrency(WORKERS).start().await;
            let took = started.elapsed().as_secs_f64() * 1_000.0;
            drop(envoy);
            // The first round brings the files into memory.
            if round > 0 {
                millis[which].push(took);
            }
        }
    }
    let [module, sdk, empty, none] = millis.map(|mut millis| {
        millis.sort_by(f64::total_cmp);
        (median(&millis), millis[0], millis[millis.len() - 1])
    });
    println!("\n| {WORKERS} workers | exec to ready, ms | ratio | lowest to highest, ms |");
    println!("|---|--:|--:|--:|");
    for (name, (median, lowest, highest)) in [
        ("no filter", none),
        ("a filter of a few bytes that does nothing", empty),
        ("the SDK's empty filter", sdk),
        ("the module", module),
    ] {
        let ratio = median / sdk.0;
        println!("| {name} | {median:.0} | {ratio:.2} | {lowest:.0} to {highest:.0} |");
    }
}

fn with_module(mas: &Mas) -> Builder {
    let plugin = json!({
        "server_name": "example.org",
        "introspection": {
            "cluster": "mas",
            "authority": "auth.example.org",
            "credential": {"bearer": {"value": "bench"}},
        },
    });
    Envoy::builder().plugin(plugin).mas(mas.addr())
}
