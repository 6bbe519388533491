//! Shadow mode counts what `enforce` would have rejected, with what became of the request in its place.
//!
//! The non-obvious rule: either may be known first, the verdict or the homeserver's answer. The exchange remembers the one until
//! the other comes.

use super::watch::{Exchange, Watch};
use crate::{
    host::Metrics,
    metrics::{HomeserverAnswer, Metric, RejectionReason},
};

/// Notes in shadow mode that `enforce` would have rejected the request for this reason: counts it, and counts it with
/// what became of the request as soon as both are known.
pub fn would_reject(host: &impl Metrics, exchange: &Exchange, reason: RejectionReason) {
    host.count(Metric::WouldReject(reason));
    match exchange.take_watch() {
        Watch::Answered(answer) => host.count(Metric::WouldRejectAnswer(reason, answer)),
        _ => exchange.set_watch(Watch::WouldReject(reason)),
    }
}

/// Notes in shadow mode what has become of a request.
pub fn settle(host: &impl Metrics, exchange: &Exchange, watch: Watch, answer: HomeserverAnswer) {
    match watch {
        Watch::WouldReject(reason) => host.count(Metric::WouldRejectAnswer(reason, answer)),
        Watch::Undecided => exchange.set_watch(Watch::Answered(answer)),
        watch => exchange.set_watch(watch),
    }
}
