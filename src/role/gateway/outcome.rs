//! Tells how a request was decided: to the metrics, and with `filter_state` to the filters and logs after this one.
//!
//! The filter state has the words of the metric's labels, so a line of an access log and a graph say the same. A
//! host that refuses it costs a word in a log and no request.

use crate::{
    config::Config,
    host::{Metrics, Streams},
    metrics::{Metric, Outcome},
};

/// Filter-state names; Envoy puts `wasm.` before them.
const STATE_VERDICT: &str = "matrix_verdict";
const STATE_SOURCE: &str = "matrix_verdict_source";

/// Counts the outcome of the selected request, and says it in the filter state if that is asked for.
pub(super) fn tell<H: Streams + Metrics>(host: &H, config: &Config, outcome: Outcome) {
    host.count(Metric::Request(outcome));
    if !config.filter_state {
        return;
    }
    for (name, value) in [
        (STATE_VERDICT, outcome.verdict()),
        (STATE_SOURCE, outcome.source()),
    ] {
        if let Err(error) = host.set_filter_state(name, value.as_bytes()) {
            log::warn!("Envoy refused the filter state {name} with {error}");
        }
    }
}
