//! A switch that makes this worker's VM fail, so that tests can see what Envoy does then.
//!
//! Only the feature `trap` compiles it, which `make build` never sets: in the shipped module there is nothing to find.
//! A request names the moment by the header [`SWITCH`]: `head` is the request's own headers, `answer` the next answer to
//! one of the worker's calls. The log says that the panic was here, so a test can tell it from all others.

use core::cell::Cell;

use super::{
    abi::{self, Map},
    only_thread::OnlyThread,
};

/// The header of a request that asks for a failure.
const SWITCH: &str = "x-matrix-edge-auth-trap";

static IS_AWAITING_ANSWER: OnlyThread<Cell<bool>> = OnlyThread::new(Cell::new(false));

/// Fails if the request whose headers have come asks for it.
pub(super) fn on_request_headers() {
    match abi::header(Map::Request, SWITCH).ok().flatten().as_deref() {
        Some(b"head") => fail(),
        Some(b"answer") => IS_AWAITING_ANSWER.set(true),
        _ => {}
    }
}

/// Fails if a request has asked for it before.
pub(super) fn on_call_response() {
    if IS_AWAITING_ANSWER.take() {
        fail();
    }
}

#[expect(clippy::panic, reason = "what a panic does is to be seen")]
fn fail() -> ! {
    panic!("the token of a test")
}
