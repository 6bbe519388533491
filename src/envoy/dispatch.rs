//! HTTP calls that outlive the request which caused them.
//!
//! The SDK delivers an answer to the context whose callback made the call, and drops it if that context has
//! gone: made from a stream's callback, a call loses its answer when that client hangs up, and everyone
//! who waits for it waits in vain. So every call is made by the root. From a stream's callback there is a
//! trampoline: the SDK's own timer callback is called for the root, and makes the call from there.
//!
//! The SDK also fails, and the VM with it, when a queue calls a context that is no root: see [`add_root`].

#![expect(unsafe_code, reason = "the SDK's callbacks are foreign functions")]

use std::{
    cell::{Cell, RefCell},
    time::Duration,
};

use proxy_wasm::{hostcalls, types::Status};

use super::abi;
use crate::{
    host::{CallId, NotSent, RootId, StreamId},
    mas::introspection::IntrospectionRequest,
};

unsafe extern "C" {
    // Exported by the SDK in this same module. It borrows the roots, which stream callbacks do not.
    fn proxy_on_tick(context: u32);
    // Exported by the SDK as well. It borrows nothing but the roots.
    fn proxy_on_context_create(context: u32, root: u32);
}

struct OwnedRequest {
    cluster: String,
    headers: Vec<(&'static str, String)>,
    body: Vec<u8>,
    timeout: Duration,
}

thread_local! {
    static PENDING: RefCell<Option<OwnedRequest>> = const { RefCell::new(None) };
    static SENT: Cell<Option<Result<CallId, NotSent>>> = const { Cell::new(None) };
}

/// Makes the SDK take a stream for a root as well. A queue of a VM that has failed may call the stream, which has the
/// number that a root of that VM had, and the SDK fails where there is no root of that number. This one has no
/// configuration and does nothing. It stays, since the SDK ends only one context of a number; there are no more of them
/// than seats.
pub(super) fn add_root(stream: StreamId) {
    const NO_ROOT: u32 = 0;
    // SAFETY: Envoy gives a number to one context only, so there is no such root yet.
    unsafe { proxy_on_context_create(stream.0, NO_ROOT) };
}

/// Sends `request` as a call of `root`, from a callback of `context`.
pub(super) fn dispatch(
    context: u32,
    root: RootId,
    request: &IntrospectionRequest<'_>,
) -> Result<CallId, NotSent> {
    let call = OwnedRequest::new(request);
    if context == root.0 {
        return send(root, &call);
    }
    PENDING.set(Some(call));
    // SAFETY: the root is alive, since a stream of its own is.
    unsafe { proxy_on_tick(root.0) };
    let sent = SENT.take().unwrap_or(Err(NotSent::Refused));
    abi::set_effective_context(context).map_err(|_| NotSent::Refused)?;
    sent
}

/// Makes the call that a stream's callback has left here. `false`: this is a real tick.
pub(super) fn send_pending(root: RootId) -> bool {
    let Some(call) = PENDING.take() else {
        return false;
    };
    SENT.set(Some(send(root, &call)));
    true
}

fn send(root: RootId, call: &OwnedRequest) -> Result<CallId, NotSent> {
    abi::set_effective_context(root.0).map_err(|_| NotSent::Refused)?;
    let headers = call
        .headers
        .iter()
        .map(|(name, value)| (*name, &**value))
        .collect();
    hostcalls::dispatch_http_call(
        &call.cluster,
        headers,
        Some(&call.body),
        Vec::new(),
        call.timeout,
    )
    .map(CallId)
    .map_err(|status| match status {
        // Also where a pseudo-header is missing, but none is.
        Status::BadArgument => NotSent::UnknownCluster,
        _ => NotSent::Refused,
    })
}

impl OwnedRequest {
    fn new(request: &IntrospectionRequest<'_>) -> Self {
        let owned = |(name, value): (&'static str, &str)| (name, value.to_owned());
        Self {
            cluster: request.cluster().to_owned(),
            headers: request.headers().into_iter().map(owned).collect(),
            body: request.body().to_vec(),
            timeout: request.timeout(),
        }
    }
}
