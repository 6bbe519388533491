//! Carries a decision out on the selected request, save for resuming it.
//!
//! The filter state has the same percent-encoded values as the headers. A device id may hold a newline, which
//! would write a line of its own into an access log in text form.

use super::{
    policy::{Annotation, Decision},
    watch::{Exchange, Watch},
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

/// What the media types of gRPC begin with.
const GRPC: &[u8] = b"application/grpc";

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
                host.count(Metric::WouldReject(rejection.reason()));
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

/// Answers a request in place of the homeserver, in any mode.
pub(super) fn reject<H: Streams + Metrics>(
    host: &H,
    exchange: &Exchange,
    rejection: Rejection,
    cors: Cors,
) {
    host.count(Metric::Rejected(rejection.reason()));
    let reply = rejection.reply(cors);
    if is_grpc(host) {
        exchange.set_watch(Watch::GrpcReply(reply.status));
    }
    exchange.reply(host, &reply);
}

/// Whether the selected request calls itself gRPC. Envoy then makes 200 of every reply.
fn is_grpc(host: &impl Streams) -> bool {
    let content_type = host.request_header("content-type").ok().flatten();
    let content_type = content_type.unwrap_or_default();
    let start = content_type.get(..GRPC.len());
    start.is_some_and(|start| start.eq_ignore_ascii_case(GRPC))
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
        host.set_filter_state(STATE_USER_ID, &header_value(user_id))?;
        if let Some(device_id) = device_id {
            host.set_filter_state(STATE_DEVICE_ID, &header_value(device_id))?;
        }
    }
    Ok(())
}
