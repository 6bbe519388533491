//! The provisioning role: MAS's requests to the homeserver pass untouched, and what they tell of ends answers.
//!
//! Whoever knows the shared secret is MAS, and is believed as soon as the request is seen, and once more when
//! the homeserver has agreed: an answer that MAS gave in between may be from before. Where the module does
//! not know the secret, the homeserver's agreement is the proof. Anybody else's requests end nothing.

use super::{
    Plugin, Worker,
    exchange::{Collector, Exchange, Interest},
};
use crate::{
    host::Host,
    mas::provisioning::{ProvisioningEndpoint, ProvisioningEvent},
};

/// Longest body that is read whole, in bytes: some ten thousand devices of one user.
const MAX_BODY_BYTES: usize = 1024 * 1024;

/// A request of MAS that passes.
#[derive(Debug)]
pub(super) struct Provisioning {
    endpoint: ProvisioningEndpoint,
    /// It has proved to be MAS's.
    is_proven: bool,
    body: Collector,
    event: Option<ProvisioningEvent>,
}

impl Provisioning {
    /// The request in the selected stream, if it can end anything.
    pub fn of(host: &impl Host, plugin: &Plugin) -> Option<Self> {
        let header = |name| host.request_header(name).ok().flatten();
        let endpoint = ProvisioningEndpoint::of(&header(":method")?, &header(":path")?)?;
        let is_proven = match plugin.config.introspection.credential.shared_secret() {
            Some(secret) if secret.matches(&header("authorization")?) => true,
            Some(_) => return None,
            None => false,
        };
        Some(Self {
            endpoint,
            is_proven,
            body: Collector::new(MAX_BODY_BYTES),
            event: None,
        })
    }

    fn read(&mut self) {
        self.event = if self.body.is_truncated() {
            self.endpoint.read_beginning(self.body.bytes())
        } else {
            self.endpoint.read(self.body.bytes())
        };
        self.body = Collector::new(0);
    }
}

impl Worker {
    /// Takes in a piece of the body.
    pub(super) fn on_provisioning_body(
        &mut self,
        host: &impl Host,
        plugin: &Plugin,
        exchange: &Exchange,
        mut provisioning: Provisioning,
        size: usize,
        is_last: bool,
    ) {
        provisioning.body.add(size, |size| host.request_body(size));
        if is_last {
            provisioning.read();
            if provisioning.is_proven {
                self.apply(host, plugin, &provisioning);
            }
        }
        exchange.set_interest(Interest::Provisioning(provisioning));
    }

    /// The homeserver has answered with 2xx.
    pub(super) fn on_provisioned(
        &mut self,
        host: &impl Host,
        plugin: &Plugin,
        provisioning: &Provisioning,
    ) {
        self.apply(host, plugin, provisioning);
    }

    fn apply(&mut self, host: &impl Host, plugin: &Plugin, provisioning: &Provisioning) {
        let Some(ProvisioningEvent { user, revocation }) = &provisioning.event else {
            return;
        };
        let now = self.read_clock(host);
        let reason = provisioning.endpoint.label();
        self.forget_user(host, plugin, user, revocation, reason, now);
    }
}
