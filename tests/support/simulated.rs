//! A simulated Envoy: several workers with one shared data, a virtual clock and injected faults, running
//! the real core.
//!
//! | file | what |
//! |---|---|
//! | `process.rs`, `queues.rs` | what all workers share |
//! | `interference.rs` | what a test does to shared data in the middle of a callback |
//! | `request.rs` | a request, and what becomes of it |
//! | `vm.rs` | what Envoy holds for one worker, and its faults |
//! | `worker.rs` | one worker: Envoy's callbacks into the core |
//! | `host.rs` | the core's calls to Envoy, with Envoy's awkward rules |
//! | `cluster.rs` | several workers, and time that passes for all of them |
//! | `configuration.rs` | configurations of the roles |

#[path = "simulated/cluster.rs"]
mod cluster;
#[path = "simulated/configuration.rs"]
mod configuration;
#[path = "simulated/host.rs"]
mod host;
#[path = "simulated/interference.rs"]
mod interference;
#[path = "simulated/log.rs"]
mod log;
#[path = "simulated/process.rs"]
mod process;
#[path = "simulated/queues.rs"]
mod queues;
#[path = "simulated/request.rs"]
mod request;
#[path = "simulated/vm.rs"]
mod vm;
#[path = "simulated/worker.rs"]
mod worker;

#[allow(unused_imports, reason = "each test layer uses a part of it")]
pub use self::{
    cluster::Cluster,
    configuration::{gateway, plugin},
    host::{UNKNOWN_CLUSTER, store},
    log::take_log,
    process::Process,
    request::{Fate, Request},
    vm::{Call, Faults},
    worker::SimulatedWorker,
};
