//! Tells how a request was decided: to the metrics, and with `filter_state` to the filters and logs after this one.
//!
//! The filter state has the words of the metric's labels, so a line of an access log and a graph say the same. A
//! host that refuses it costs a word in a log and no request.

use crate::{
    config::Config,
    host::{Metrics, RequestHead, Streams},
    mas::introspection::REQUEST_ID,
    metrics::{Metric, Outcome, RejectionReason},
};

/// Filter-state names; Envoy puts `wasm.` before them.
const STATE_VERDICT: &str = "matrix_verdict";
const STATE_SOURCE: &str = "matrix_verdict_source";
const STATE_WOULD_REJECT: &str = "matrix_would_reject";

/// A UUID, as Envoy writes it.
pub(super) type RequestId = [u8; 36];

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

/// Says it in the module's log: the stream has ended, and its line of the access log is written.
#[cold]
pub(super) fn log_would_reject(request_id: &RequestId, reason: RejectionReason) {
    let request_id = str::from_utf8(request_id).unwrap_or_default();
    let reason = reason.label();
    log::info!("shadow: request {request_id} would have been rejected: {reason}");
}

/// Returns what Envoy calls the selected request, if its verdict may come too late for the access log. `None` also for
/// a name that is not of Envoy's form: a client's own could forge a line.
pub(super) fn request_id(config: &Config, head: &RequestHead) -> Option<RequestId> {
    let id = config.filter_state.then(|| head.first(REQUEST_ID))??;
    let id = RequestId::try_from(id).ok()?;
    id.iter().all(u8::is_ascii_graphic).then_some(id)
}

fn set_state(host: &impl Streams, config: &Config, name: &str, value: &str) {
    if config.filter_state
        && let Err(error) = host.set_filter_state(name, value.as_bytes())
    {
        log::warn!("Envoy refused the filter state {name} with {error}");
    }
}
