//! Carries a decision out on the selected request, save for resuming it.

use super::{
    policy::{Annotation, Decision},
    watch::Exchange,
};
use crate::{
    config::{Config, Mode},
    host::{HostError, Metrics, Streams},
    matrix::{
        identity::{Identity, header_value},
        reply::{Cors, Rejection},
    },
    metrics::Metric,
    role::exchange::Phase,
};

/// Filter-state names; Envoy puts `wasm.` before them.
const STATE_USER_ID: &str = "matrix_user_id";
const STATE_DEVICE_ID: &str = "matrix_device_id";

/// Carries `decision` out.
pub(super) fn carry_out<H: Streams + Metrics>(
    host: &H,
    exchange: &Exchange,
    decision: Decision,
    cors: Cors,
) {
    let config = &exchange.plugin.config;
    match decision {
        Decision::Forward => exchange.set_phase(Phase::Forwarded),
        Decision::Annotate(annotation) => match annotate(host, config, &annotation) {
            Ok(()) => exchange.set_phase(Phase::Forwarded),
            Err(error) => fail_closed(host, exchange, error),
        },
        Decision::Reject(rejection) => match config.mode {
            Mode::Shadow => {
                host.count(Metric::WouldReject(rejection.label()));
                exchange.set_phase(Phase::Forwarded);
            }
            Mode::Enforce => reject(host, exchange, rejection, cors),
        },
    }
}

/// Answers a request that Envoy would not let us read or change: forwarding it could carry a forged identity
/// along.
pub(super) fn fail_closed<H: Streams + Metrics>(host: &H, exchange: &Exchange, error: HostError) {
    log::error!("Envoy refused a header operation with {error}; the request is answered with 500");
    reject(host, exchange, Rejection::Internal, Cors::Standard);
}

fn reject<H: Streams + Metrics>(host: &H, exchange: &Exchange, rejection: Rejection, cors: Cors) {
    host.count(Metric::Rejected(rejection.label()));
    exchange.reply(host, &rejection.reply(cors));
}

fn annotate(
    host: &impl Streams,
    config: &Config,
    annotation: &Annotation,
) -> Result<(), HostError> {
    let Some(Identity { user_id, device_id }) = annotation.identity() else {
        return Ok(());
    };
    let names = &config.identity_headers;
    for (name, value) in [
        (&names.user_id, Some(user_id.as_str())),
        (&names.device_id, device_id.as_deref()),
        (&names.client_id, annotation.client_id()),
        (&names.scope, Some(annotation.scope())),
        (&names.token_kind, annotation.kind.map(|kind| kind.as_str())),
    ] {
        if let (Some(name), Some(value)) = (name, value) {
            host.set_request_header(name, &header_value(value))?;
        }
    }
    if config.filter_state {
        host.set_filter_state(STATE_USER_ID, user_id.as_bytes())?;
        if let Some(device_id) = device_id {
            host.set_filter_state(STATE_DEVICE_ID, device_id.as_bytes())?;
        }
    }
    Ok(())
}
