//! The head of a client's request: what it must not bring is removed, and what decides it is read.

use std::cell::OnceCell;

use super::policy::RequestHead;
use crate::{
    config::IdentityHeaders,
    host::{HostError, Streams},
};

/// The head of the selected request. Each header is a host call, so it is read when it is first needed.
pub(super) struct Head<'h, H> {
    host: &'h H,
    target: Vec<u8>,
    authorization: Option<Vec<u8>>,
    method: OnceCell<Vec<u8>>,
}

impl<'h, H: Streams> Head<'h, H> {
    /// Removes the identity headers that a client sent, and reads what every request is decided by. After an
    /// error nothing is known of the request, and it must not go on.
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

impl<H: Streams> RequestHead for Head<'_, H> {
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

/// Removes the identity headers from the trailers of the selected request.
pub(super) fn strip_trailers(
    host: &impl Streams,
    identity_headers: &IdentityHeaders,
) -> Result<(), HostError> {
    identity_headers
        .reserved()
        .try_for_each(|name| host.remove_request_trailer(name))
}
