//! The proxy-wasm adapter: Envoy's callbacks in, host calls out. No decision is made here.
//!
//! It speaks the ABI itself (proxy-wasm 0.2.1), without the SDK. The SDK exports every callback that there is, and each
//! one costs the crossing into the VM whether it is of use or not; it ends the VM when a callback names a context that
//! it does not know; and it loses the answers to the calls of streams that have ended.

mod abi;
mod callbacks;
mod clock;
mod environment;
mod host;
mod log;
mod only_thread;
mod panic;
mod random;
mod root;
mod stream;
#[cfg(feature = "trap")]
mod trap;
mod vm;
