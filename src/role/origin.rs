//! What a call to MAS inherits from the selected request: its trace, and its client.
//!
//! Both are read only when there is a call.

use alloc::{borrow::ToOwned, string::String, vec::Vec};

use crate::{
    host::{RequestHead, Streams},
    mas::introspection::{REQUEST_ID, TRACE_PARENT, TRACE_STATE},
    resolver::Origin,
};

/// Longest trace header that travels along, in bytes. W3C Trace Context asks for 512 to be kept.
const MAX_TRACE_BYTES: usize = 1024;

/// A client's request, which is the selected one, as the origin of a call.
pub struct ClientOrigin<'h, H> {
    /// The proxy.
    pub host: &'h H,
    /// The head of the request.
    pub head: &'h RequestHead,
}

/// A request of the homeserver, which is the selected one. It brings the tokens of all its clients, so neither a
/// budget nor a share is its own. Its head was read in an earlier callback, and is read again.
pub struct HomeserverOrigin<'h, H>(pub &'h H);

impl<H: Streams> Origin for ClientOrigin<'_, H> {
    fn trace(&self) -> Vec<(&'static str, String)> {
        trace(self.head)
    }

    fn client_address(&self) -> Option<Vec<u8>> {
        self.host.source_address()
    }
}

impl<H: Streams> Origin for HomeserverOrigin<'_, H> {
    fn trace(&self) -> Vec<(&'static str, String)> {
        let head = self.0.request_head().ok();
        head.map(|head| trace(&head)).unwrap_or_default()
    }

    fn client_address(&self) -> Option<Vec<u8>> {
        None
    }
}

/// Returns the trace headers. Oversized ones are left out: Envoy would refuse the call.
fn trace(head: &RequestHead) -> Vec<(&'static str, String)> {
    let present = |name| present(head, name);
    let mut headers = Vec::with_capacity(1);
    if let Some(id) = present(REQUEST_ID) {
        headers.push(id);
    }
    if let Some(parent) = present(TRACE_PARENT) {
        headers.push(parent);
        // On its own it means nothing: W3C Trace Context, section 3.3.
        headers.extend(present(TRACE_STATE));
    }
    headers
}

#[inline(never)]
fn present(head: &RequestHead, name: &'static str) -> Option<(&'static str, String)> {
    let value = head.first(name)?;
    let value = core::str::from_utf8(value).ok()?;
    (value.len() <= MAX_TRACE_BYTES).then(|| (name, value.to_owned()))
}
