//! The head of a request: it is read once, and what the client must not bring is removed before anything else.
//!
//! In every role, since each listener may lead to a server that believes the identity headers. For the same reason no
//! role lets a tunnel through (RFC 9110, section 9.3.6): what a client sends inside of it no filter sees.
//!
//! The non-obvious rule: to some servers `x_matrix_user_id` is `x-matrix-user-id`, and Envoy lets it pass unless it is
//! told otherwise. So names are compared as the most lenient server would
//! ([`IdentityHeaders::is_reserved`](crate::config::IdentityHeaders::is_reserved)).

use alloc::vec::Vec;
use core::str;

use super::{
    exchange::{Exchange, Phase, Watch},
    plugin::Plugin,
};
use crate::{
    host::{Fields, HostError, Metrics, RequestHead, Streams},
    matrix::reply::{Cors, Rejection},
    metrics::Metric,
};

/// How many names may be removed from one request. No honest client sends any. Each costs a host call, which searches
/// all fields, and there are thousands of spellings.
const MAX_REMOVED: usize = 16;

/// Why a request may still bring an identity header. It must not go on.
#[derive(Clone, Copy, Debug)]
pub(super) enum Unclean {
    /// It brought more of them than are removed.
    TooMany,
    /// It asks for a tunnel, and may bring them through that.
    Tunnel,
    /// The host refused.
    Refused(HostError),
}

impl From<HostError> for Unclean {
    fn from(error: HostError) -> Self {
        Self::Refused(error)
    }
}

/// Reads the head of the selected request, and removes the identity headers that it brought. After an error nothing
/// is known of the request, and it must not go on.
#[inline]
pub(super) fn read(host: &impl Streams, plugin: &Plugin) -> Result<RequestHead, Unclean> {
    let head = host.request_head()?;
    if head.method().is_empty() {
        // Every request has a method, so nothing was read.
        return Err(HostError::MISSING.into());
    }
    if head.method() == b"CONNECT" || head.target().is_empty() {
        return Err(Unclean::Tunnel);
    }
    if may_be_reserved(head.fields(), plugin) {
        for name in reserved(head.fields(), plugin)? {
            host.remove_request_header(name)?;
        }
    }
    Ok(head)
}

/// Removes the identity headers from the trailers of the selected request. After an error it must not go on. Envoy
/// shows the trailers of a held request once, as they come; when it goes on, they go with it.
pub(super) fn clean_trailers<W: Watch>(
    host: &impl Streams,
    exchange: &Exchange<W>,
) -> Result<(), Unclean> {
    if exchange.phase() == Phase::Replied {
        return Ok(());
    }
    let trailers = host.request_trailers()?;
    for name in reserved(&trailers, &exchange.plugin)? {
        host.remove_request_trailer(name)?;
    }
    Ok(())
}

/// Removes the identity headers from the trailers of the selected request, or answers it.
pub(super) fn clean_trailers_or_refuse<W: Watch>(
    host: &(impl Streams + Metrics),
    exchange: &Exchange<W>,
) {
    if let Err(why) = clean_trailers(host, exchange) {
        refuse(host, exchange, why);
    }
}

/// Answers a request that could not be read or changed: forwarding it could carry a forged identity along. Whether it calls itself
/// gRPC may not be known either.
pub(super) fn refuse<W: Watch>(
    host: &(impl Streams + Metrics),
    exchange: &Exchange<W>,
    why: Unclean,
) {
    let rejection = rejection(why);
    host.count(Metric::Rejected(rejection.reason()));
    let reply = rejection.reply(Cors::Standard);
    exchange.set_watch(W::grpc_reply(reply.status));
    exchange.reply(host, &reply);
}

/// Returns how such a request is answered.
fn rejection(why: Unclean) -> Rejection {
    match why {
        Unclean::TooMany => Rejection::TooManyForged,
        Unclean::Tunnel => Rejection::Unrecognized,
        Unclean::Refused(error) => {
            log::error!(
                "Envoy refused a header operation with {error}; the request is answered with 500"
            );
            Rejection::Internal
        }
    }
}

/// Nearly always the lengths of all names tell that there is no identity header among the fields.
#[inline]
fn may_be_reserved(fields: &Fields, plugin: &Plugin) -> bool {
    fields.name_lengths().meet(plugin.reserved_lengths)
}

/// Returns the names of the identity headers among the fields, each spelling once.
fn reserved<'f>(fields: &'f Fields, plugin: &Plugin) -> Result<Vec<&'f str>, Unclean> {
    let mut names = Vec::new();
    let identity_headers = &plugin.config.identity_headers;
    for name in fields.names() {
        if !identity_headers.is_reserved(name) {
            continue;
        }
        // Letters, digits and ASCII separators.
        let name = str::from_utf8(name).unwrap_or_default();
        if names.contains(&name) {
            continue;
        }
        if names.len() == MAX_REMOVED {
            return Err(Unclean::TooMany);
        }
        names.push(name);
    }
    Ok(names)
}

#[cfg(test)]
mod tests {
    use std::rc::Rc;

    use serde_json::json;

    use super::*;
    use crate::{
        config,
        host::{RootId, StreamId, fake::FakeHost},
        role::gateway,
    };

    /// Whether such a request calls itself gRPC cannot be told, and Envoy would make 200 of the reply.
    #[test]
    fn a_request_that_cannot_be_read_keeps_its_status_if_it_is_of_grpc() {
        let config = config::tests::with(json!({}));
        let plugin = Rc::new(Plugin::new(RootId(1), config));
        for (why, status) in [
            (Unclean::TooMany, 431),
            (Unclean::Tunnel, 404),
            (Unclean::Refused(HostError::INTERNAL_FAILURE), 500),
        ] {
            let (host, exchange) = (FakeHost::default(), Exchange::new(&plugin, StreamId(1)));
            refuse(&host, &exchange, why);
            assert_eq!(host.replies.borrow()[0].status, status);
            let watch = exchange.take_watch();
            assert!(
                matches!(watch, gateway::Watch::GrpcReply(restored) if restored == status),
                "{why:?}: {watch:?}"
            );
        }
    }
}
