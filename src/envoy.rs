//! The proxy-wasm adapter: Envoy's callbacks in, host calls out. No decision is made here.

mod abi;
mod clock;
mod dispatch;
mod host;
mod root;
mod stream;
#[cfg(feature = "trap")]
mod trap;
mod vm;

use proxy_wasm::types::LogLevel;

use self::root::Root;

proxy_wasm::main! {{
    proxy_wasm::set_log_level(LogLevel::Info);
    proxy_wasm::set_root_context(|id| Box::new(Root::new(id)));
}}
