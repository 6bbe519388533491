//! One request on the host: reading its head, and carrying a decision out.

use std::cell::OnceCell;

use super::{Phase, land::respond_with};
use crate::{
    config::{Config, IdentityHeaders, Mode},
    gate::{Annotation, Decision, RequestHead},
    host::{Host, HostError},
    mas::introspection::{REQUEST_ID, TRACE_PARENT, TRACE_STATE},
    matrix::{
        identity::{Identity, header_value},
        reply::{Cors, Rejection},
    },
    metrics::Metric,
};

/// Filter-state names; Envoy puts `wasm.` before them.
const STATE_USER_ID: &str = "matrix_user_id";
const STATE_DEVICE_ID: &str = "matrix_device_id";

/// Longest trace header that travels along, in bytes. W3C Trace Context asks for 512 to be kept.
const MAX_TRACE_BYTES: usize = 1024;

/// The head of the selected request. Each header is a host call, so it is read when it is first needed.
pub(super) struct Head<'h, H> {
    host: &'h H,
    target: Vec<u8>,
    authorization: Option<Vec<u8>>,
    method: OnceCell<Vec<u8>>,
}

impl<'h, H: Host> Head<'h, H> {
    /// Removes what a client must not send and reads what every request is decided by. After an error
    /// nothing is known of the request, and it must not go on.
    pub fn read(host: &'h H, identity_headers: &IdentityHeaders) -> Result<Self, HostError> {
        for name in identity_headers.reserved() {
            // Asking first is cheaper: removing makes Envoy match the route again.
            if host.request_header(name)?.is_some() {
                host.remove_request_header(name)?;
            }
        }
        Ok(Self {
            host,
            target: host.request_header(":path")?.unwrap_or_default(),
            authorization: host.request_header("authorization")?,
            method: OnceCell::new(),
        })
    }
}

impl<H: Host> RequestHead for Head<'_, H> {
    fn target(&self) -> &[u8] {
        &self.target
    }

    fn method(&self) -> &[u8] {
        self.method.get_or_init(|| {
            self.host
                .request_header(":method")
                .ok()
                .flatten()
                .unwrap_or_default()
        })
    }

    fn authorization(&self) -> Option<&[u8]> {
        self.authorization.as_deref()
    }

    fn content_type(&self) -> Option<Vec<u8>> {
        self.host.request_header("content-type").ok().flatten()
    }
}

/// The headers of the selected request that an introspection for it carries along. Oversized ones are
/// left out: Envoy would refuse the call.
pub(super) fn trace(host: &impl Host) -> Vec<(&'static str, String)> {
    let present = |name| {
        let value = host.request_header(name).ok().flatten()?;
        let value = String::from_utf8(value).ok()?;
        (value.len() <= MAX_TRACE_BYTES).then_some((name, value))
    };
    let mut headers = Vec::new();
    headers.extend(present(REQUEST_ID));
    headers.extend(present(TRACE_PARENT));
    // On its own it means nothing: W3C Trace Context, section 3.3.
    if headers.iter().any(|(name, _)| *name == TRACE_PARENT) {
        headers.extend(present(TRACE_STATE));
    }
    headers
}

/// Removes from the trailers of the selected request what a client must not send in them either.
pub(super) fn clean_trailers(
    host: &impl Host,
    identity_headers: &IdentityHeaders,
) -> Result<(), HostError> {
    identity_headers
        .reserved()
        .try_for_each(|name| host.remove_request_trailer(name))
}

/// Carries a decision out on the selected request, save for resuming it.
pub(super) fn apply(host: &impl Host, config: &Config, decision: Decision, cors: Cors) -> Phase {
    match decision {
        Decision::Forward => Phase::Forwarded,
        Decision::Annotate(annotation) => match annotate(host, config, &annotation) {
            Ok(()) => Phase::Forwarded,
            Err(error) => refuse(host, error),
        },
        Decision::Reject(rejection) => match config.mode {
            Mode::Shadow => {
                host.count(Metric::WouldReject(rejection.label()));
                Phase::Forwarded
            }
            Mode::Enforce => {
                host.count(Metric::Rejected(rejection.label()));
                respond(host, rejection, cors)
            }
        },
    }
}

/// Answers a request that Envoy would not let us read or change: forwarding it could carry a forged
/// identity along.
pub(super) fn refuse(host: &impl Host, HostError(status): HostError) -> Phase {
    log::error!(
        "Envoy refused a header operation with status {status}; the request is answered with 500"
    );
    host.count(Metric::Rejected(Rejection::Internal.label()));
    respond(host, Rejection::Internal, Cors::Standard)
}

fn respond(host: &impl Host, rejection: Rejection, cors: Cors) -> Phase {
    respond_with(host, &rejection.reply(cors))
}

fn annotate(host: &impl Host, config: &Config, annotation: &Annotation) -> Result<(), HostError> {
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
