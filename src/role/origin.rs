//! What a call to MAS inherits from the selected request: its trace, and its client.

use crate::{
    host::Streams,
    mas::introspection::{REQUEST_ID, TRACE_PARENT, TRACE_STATE},
    resolver::Origin,
};

/// Longest trace header that travels along, in bytes. W3C Trace Context asks for 512 to be kept.
const MAX_TRACE_BYTES: usize = 1024;

/// A client's request, which is the selected one, as the origin of a call.
pub struct ClientOrigin<'h, H>(pub &'h H);

/// A request of the homeserver. It brings the tokens of all its clients, so neither a budget nor a share is
/// its own.
pub struct HomeserverOrigin<'h, H>(pub &'h H);

impl<H: Streams> Origin for ClientOrigin<'_, H> {
    fn trace(&self) -> Vec<(&'static str, String)> {
        trace(self.0)
    }

    fn client_address(&self) -> Option<Vec<u8>> {
        self.0.source_address()
    }
}

impl<H: Streams> Origin for HomeserverOrigin<'_, H> {
    fn trace(&self) -> Vec<(&'static str, String)> {
        trace(self.0)
    }

    fn client_address(&self) -> Option<Vec<u8>> {
        None
    }
}

/// Reads the trace headers. Oversized ones are left out: Envoy would refuse the call.
fn trace(host: &impl Streams) -> Vec<(&'static str, String)> {
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
