//! Everything fails at once around the module in a real Envoy, for as long as `CHAOS_SECONDS` says, and what must never
//! happen is counted. `docs/internals/chaos.md` says what fails, what is counted and what was measured.
//!
//! Needs an Envoy, `dist/matrix-edge-auth.wasm` and a module with the feature `trap`: `make chaos` sees to all of them.

#![expect(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test program: its helpers may fail a test too"
)]

#[path = "../support"]
#[allow(
    dead_code,
    reason = "shared by several test programs, each of which uses a part"
)]
mod support {
    pub mod envoy;
    pub mod http;
    pub mod mesh;
    pub mod product_time;
}

mod client;
mod faults;
mod leaks;
mod ledger;
mod meshes;
mod phone;
mod rig;
mod synapse;
mod tally;
mod trap;
mod world;

use std::{env, time::Duration};

use self::{rig::Rig, world::World};

/// How long everything fails, and the seed of what fails when.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_that_is_promised_breaks() {
    let seconds = number("CHAOS_SECONDS").unwrap_or(60);
    let seed = number("CHAOS_SEED").unwrap_or_else(|| fastrand::u64(..1 << 32));
    println!(
        "chaos: {seconds} s, seed {seed}; to repeat: make chaos SECONDS={seconds} SEED={seed}"
    );
    let world = World::new(seed, Duration::from_secs(seconds));
    let rig = Rig::start(&world).await;
    let sums = rig.run().await;
    println!("{sums}");
    sums.assert_promises();
}

fn number(name: &str) -> Option<u64> {
    let value = env::var(name).ok().filter(|value| !value.is_empty())?;
    Some(
        value
            .parse()
            .unwrap_or_else(|_| panic!("{name} is no number")),
    )
}
