//! A filter that does nothing, written with the proxy-wasm SDK: what the SDK itself costs a request.
//!
//! The SDK exports every callback, so Envoy calls all of them, and for each the SDK looks the request up.

#![cfg(target_os = "wasi")]
#![expect(missing_docs, reason = "the SDK's macro documents nothing")]

use proxy_wasm::{
    traits::{Context, HttpContext, RootContext},
    types::ContextType,
};

proxy_wasm::main! {{
    proxy_wasm::set_root_context(|_| Box::new(Root));
}}

struct Root;

impl Context for Root {}

impl RootContext for Root {
    fn get_type(&self) -> Option<ContextType> {
        Some(ContextType::HttpContext)
    }

    fn create_http_context(&self, _id: u32) -> Option<Box<dyn HttpContext>> {
        Some(Box::new(Stream))
    }
}

struct Stream;

impl Context for Stream {}

impl HttpContext for Stream {}
