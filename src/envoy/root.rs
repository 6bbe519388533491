//! The root context: one plugin configuration, its calls and its timer.

use alloc::{borrow::Cow, rc::Rc};

use super::{
    abi::{self, Buffer, Map},
    clock, environment,
    host::Envoy,
    random,
};
use crate::{
    config,
    host::{CallId, Fields, RootId},
    mas::introspection::{IntrospectionResponse, LIFETIME},
    role::series,
    worker::{Plugin, Worker},
};

/// A plugin configuration, once Envoy has handed it over.
pub(super) struct Root {
    pub id: RootId,
    plugin: Option<Rc<Plugin>>,
}

impl Root {
    pub fn new(id: RootId) -> Self {
        Self { id, plugin: None }
    }

    pub fn plugin(&self) -> Option<&Rc<Plugin>> {
        self.plugin.as_ref()
    }

    pub fn host(&self) -> Envoy {
        Envoy::of(self.id.0)
    }

    /// Reads the configuration, of `size` bytes. `false`: Envoy must not serve with it.
    pub fn configure(&mut self, size: usize) -> bool {
        let bytes = abi::buffer(Buffer::PluginConfiguration, 0, size)
            .ok()
            .flatten()
            .unwrap_or_default();
        // Without a clock nothing is ever over, and without a timer nothing that waits. A period of 0 starts none. Without
        // random numbers all could tell which tokens fall together.
        let has_timer = abi::set_tick_period(0).is_ok();
        let (Some(now), Some(_), true) = (clock::read(), random::read(), has_timer) else {
            log::error!(
                "configuration refused: allowed_capabilities lacks clock_time_get, random_get or \
                 proxy_set_tick_period_milliseconds"
            );
            return false;
        };
        match config::parse(&bytes, &|name| environment::variable(name)) {
            Ok(config) => {
                let host = self.host();
                series::define(&host, &config);
                let plugin = Plugin::new(self.id, config);
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

    /// Reads the response to a call of this root.
    pub fn on_call_response(
        &self,
        worker: &mut Worker,
        call: CallId,
        num_headers: usize,
        body_size: usize,
    ) {
        #[cfg(feature = "trap")]
        super::trap::on_call_response();
        // Without headers there was no response, and asking for them is an error.
        let fields = (num_headers > 0)
            .then(|| Fields::parse(abi::header_map(Map::CallResponse).ok()?))
            .flatten()
            .unwrap_or_default();
        let read = worker.bodies().read_answer(body_size, || {
            let body = abi::buffer(Buffer::CallResponseBody, 0, body_size);
            body.ok().map(Option::unwrap_or_default)
        });
        // The share is given back with the callback.
        let (body, _share) = read.unzip();
        let response = IntrospectionResponse {
            status: fields.status(),
            content_type: fields.first("content-type"),
            lifetime: fields.first(LIFETIME),
            body: body.map(Cow::Owned),
        };
        worker.on_call_response(&self.host(), self.id, call, response);
    }
}
