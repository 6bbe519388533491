//! What a call to MAS inherits from the selected request: its trace, and its client.

use crate::{
    host::Streams,
    mas::introspection::{REQUEST_ID, TRACE_PARENT, TRACE_STATE},
    resolver::Origin,
};

/// Longest trace header that travels along, in bytes. W3C Trace Context asks for 512 to be kept.
const MAX_TRACE_BYTES: usize = 1024;

/// The selected request of a host, as the origin of a call.
pub struct RequestOrigin<'h, H>(pub &'h H);

impl<H: Streams> Origin for RequestOrigin<'_, H> {
    /// Oversized headers are left out: Envoy would refuse the call.
    fn trace(&self) -> Vec<(&'static str, String)> {
        let present = |name| {
            let value = self.0.request_header(name).ok().flatten()?;
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

    fn client_address(&self) -> Option<Vec<u8>> {
        self.0.source_address()
    }
}
