//! Tells how a request was decided: to the metrics, and with `filter_state` to the filters and logs after this one.
//!
//! The filter state has the words of the metric's labels, so a line of an access log and a graph say the same. A
//! host that refuses it costs a word in a log and no request.

use crate::{
    config::Config,
    host::{Metrics, Streams},
    metrics::{Metric, Outcome, RejectionReason},
};

/// Filter-state names; Envoy puts `wasm.` before them.
const STATE_VERDICT: &str = "matrix_verdict";
const STATE_SOURCE: &str = "matrix_verdict_source";
const STATE_WOULD_REJECT: &str = "matrix_would_reject";

/// The verdict of a request that has none yet.
const PENDING: &str = "pending";

/// Counts the outcome of the selected request, and says it in the filter state if that is asked for.
#[inline]
pub(super) fn tell<H: Streams + Metrics>(host: &H, config: &Config, outcome: Outcome) {
    host.count(Metric::Request(outcome));
    if config.filter_state {
        set_state(host, config, STATE_VERDICT, outcome.verdict());
        set_state(host, config, STATE_SOURCE, outcome.source());
    }
}

/// Says in the filter state that the selected request goes on before its verdict, as it does in shadow mode. What is
/// said later takes the place of it.
pub(super) fn tell_pending(host: &impl Streams, config: &Config) {
    set_state(host, config, STATE_VERDICT, PENDING);
}

/// Says in the filter state that `enforce` would have rejected the selected request, and why.
pub(super) fn tell_would_reject(host: &impl Streams, config: &Config, reason: RejectionReason) {
    set_state(host, config, STATE_WOULD_REJECT, reason.label());
}

fn set_state(host: &impl Streams, config: &Config, name: &str, value: &str) {
    if config.filter_state
        && let Err(error) = host.set_filter_state(name, value.as_bytes())
    {
        log::warn!("Envoy refused the filter state {name} with {error}");
    }
}
