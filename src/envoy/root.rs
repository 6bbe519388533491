//! The root context: one plugin configuration, its calls and its timer.

use std::{rc::Rc, str};

use proxy_wasm::{
    traits::{Context, HttpContext, RootContext},
    types::ContextType,
};

use super::{
    abi::{self, Buffer, Map},
    dispatch,
    host::Envoy,
    stream::Stream,
    vm::with_worker,
};
use crate::{
    config,
    host::{CallId, QueueId, RootId, Runtime as _, StreamId},
    mas::introspection::{IntrospectionResponse, LIFETIME, MAX_RESPONSE_BYTES},
    role::series,
    worker::Plugin,
};

/// A plugin configuration, once Envoy has handed it over.
pub(super) struct Root {
    id: RootId,
    plugin: Option<Rc<Plugin>>,
}

impl Root {
    pub fn new(id: u32) -> Self {
        Self {
            id: RootId(id),
            plugin: None,
        }
    }

    fn host(&self) -> Envoy {
        Envoy { context: self.id.0 }
    }
}

impl Context for Root {
    fn on_http_call_response(
        &mut self,
        token: u32,
        num_headers: usize,
        body_size: usize,
        _num_trailers: usize,
    ) {
        #[cfg(feature = "trap")]
        super::trap::on_call_response();
        let header = |name| abi::header(Map::CallResponse, name).ok().flatten();
        // Without headers there was no response, and asking for one is an error.
        let status = (num_headers > 0).then(|| header(":status")).flatten();
        let status = status.and_then(|status| str::from_utf8(&status).ok()?.parse().ok());
        // Each reading is a host call, and nothing more is read of an error.
        let header_of_200 = |name| (status == Some(200)).then(|| header(name)).flatten();
        let content_type = header_of_200("content-type");
        let lifetime = header_of_200(LIFETIME);
        let share = (body_size <= MAX_RESPONSE_BYTES)
            .then(|| with_worker(|worker| worker.bodies().take_for_answer(body_size)).flatten())
            .flatten();
        let body = share.as_ref().and_then(|_| {
            let body = abi::buffer(Buffer::CallResponseBody, 0, body_size);
            body.ok().map(Option::unwrap_or_default)
        });
        let response = IntrospectionResponse {
            status,
            content_type: content_type.as_deref(),
            lifetime: lifetime.as_deref(),
            body: body.as_deref(),
        };
        with_worker(|worker| {
            worker.on_call_response(&self.host(), self.id, CallId(token), response)
        });
    }
}

impl RootContext for Root {
    fn on_configure(&mut self, size: usize) -> bool {
        let bytes = abi::buffer(Buffer::PluginConfiguration, 0, size)
            .ok()
            .flatten()
            .unwrap_or_default();
        match config::parse(&bytes, &|name| std::env::var(name).ok()) {
            Ok(config) => {
                series::define(&self.host(), &config);
                let plugin = Plugin::new(self.id, config);
                let (host, now) = (self.host(), self.host().now());
                if let Some(line) = plugin.first_announcement(&host, now) {
                    log::info!("{line}");
                }
                if let Some(warning) = plugin.first_warning(&host, now) {
                    log::warn!("{warning}");
                }
                self.plugin = Some(Rc::new(plugin));
                true
            }
            Err(error) => {
                log::error!("configuration refused: {error}");
                false
            }
        }
    }

    fn on_tick(&mut self) {
        if !dispatch::send_pending(self.id) {
            with_worker(|worker| worker.on_tick(&self.host(), self.id));
        }
    }

    fn on_queue_ready(&mut self, queue: u32) {
        // Without a configuration this is no root of Envoy's, see `dispatch::add_root`.
        if self.plugin.is_none() {
            return;
        }
        with_worker(|worker| worker.on_queue(&self.host(), self.id, QueueId(queue)));
    }

    fn get_type(&self) -> Option<ContextType> {
        Some(ContextType::HttpContext)
    }

    fn create_http_context(&self, id: u32) -> Option<Box<dyn HttpContext>> {
        Some(Box::new(Stream::new(StreamId(id), self.plugin.clone())))
    }
}

impl Drop for Root {
    fn drop(&mut self) {
        with_worker(|worker| worker.on_root_end(self.id));
    }
}
