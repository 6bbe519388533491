//! Carries a decision out on the selected request, save for resuming it.
//!
//! The filter state has the same percent-encoded values as the headers. A device id may hold a newline, which
//! would write a line of its own into an access log in text form.

use alloc::string::String;

use super::{
    outcome,
    policy::{Annotation, Decision},
    shadow,
    watch::{Exchange, Watch},
};
use crate::{
    config::{Config, Mode},
    host::{HostError, Metrics, RequestHead, Streams},
    matrix::reply::{Cors, Rejection},
    metrics::Metric,
    role::{exchange::Phase, grpc, head},
};

/// Filter-state names; Envoy puts `wasm.` before them.
const STATE_USER_ID: &str = "matrix_user_id";
const STATE_DEVICE_ID: &str = "matrix_device_id";

/// How a reply has to be so that the client of a request understands it.
#[derive(Clone, Copy, Debug)]
pub(super) struct ReplyForm {
    cors: Cors,
    /// The request calls itself gRPC. Envoy then makes 200 of every reply.
    is_grpc: bool,
}

impl ReplyForm {
    /// Returns the form of a reply to the request with this head.
    pub fn of(head: &RequestHead) -> Self {
        Self {
            cors: Cors::of(head.target()),
            is_grpc: grpc::is_grpc(head),
        }
    }
}

/// Carries `decision` out.
pub(super) fn carry_out<H: Streams + Metrics>(
    host: &H,
    exchange: &Exchange,
    decision: Decision,
    form: impl FnOnce() -> ReplyForm,
) {
    let config = &exchange.plugin.config;
    match decision {
        Decision::Forward => exchange.set_phase(Phase::Forwarded),
        Decision::Annotate(annotation) => match annotate(host, config, &annotation) {
            Ok(()) => exchange.set_phase(Phase::Forwarded),
            Err(error) => head::refuse(host, exchange, error.into()),
        },
        Decision::Reject(rejection) => match config.mode {
            Mode::Shadow => {
                outcome::tell_would_reject(host, config, rejection.reason());
                shadow::would_reject(host, exchange, rejection.reason());
                exchange.set_phase(Phase::Forwarded);
            }
            Mode::Enforce => reject(host, exchange, rejection, form()),
        },
    }
}

/// Answers a request in place of the homeserver, in any mode.
pub(super) fn reject<H: Streams + Metrics>(
    host: &H,
    exchange: &Exchange,
    rejection: Rejection,
    form: ReplyForm,
) {
    host.count(Metric::Rejected(rejection.reason()));
    let reply = rejection.reply(form.cors);
    if form.is_grpc {
        exchange.set_watch(Watch::GrpcReply(reply.status));
    }
    exchange.reply(host, &reply);
}

fn annotate(
    host: &impl Streams,
    config: &Config,
    annotation: &Annotation,
) -> Result<(), HostError> {
    let headers = &annotation.identity;
    let names = &config.identity_headers;
    let kind = annotation.kind.map(|kind| kind.as_str().as_bytes());
    let add = |name: &Option<String>, value: Option<&[u8]>| match (name, value) {
        (Some(name), Some(value)) => host.add_request_header(name, value),
        _ => Ok(()),
    };
    add(&names.user_id, Some(&headers.user_id))?;
    add(&names.device_id, headers.device_id.as_deref())?;
    add(&names.client_id, headers.client_id.as_deref())?;
    add(&names.scope, headers.scope.as_deref())?;
    add(&names.token_kind, kind)?;
    if config.filter_state {
        host.set_filter_state(STATE_USER_ID, &headers.user_id)?;
        if let Some(device_id) = &headers.device_id {
            host.set_filter_state(STATE_DEVICE_ID, device_id)?;
        }
    }
    Ok(())
}
