//! The provisioning role: between MAS and the homeserver. MAS's requests pass untouched, and what they tell of
//! users and devices ends answers.
//!
//! A caller that knows the shared secret is MAS. It is believed as soon as the request is seen, and once more
//! when the homeserver has agreed: an answer that MAS gave in between may be from before. Where the module does
//! not know the secret, the homeserver's agreement is the proof. The requests of other callers end nothing.

use super::{
    exchange::{self, BodyPrefix, Chunk, Phase, Wants},
    response_status,
};
use crate::{
    host::{Callback, Host},
    mas::provisioning::{ProvisioningEndpoint, ProvisioningEvent},
    resolver::{Invalidation, Resolver},
};

/// Longest body that is read whole, in bytes: some ten thousand devices of one user.
const MAX_BODY_BYTES: usize = 1024 * 1024;

/// An exchange of this role.
pub type Exchange = exchange::Exchange<Watch>;

/// What this role still watches for in an exchange.
#[derive(Debug, Default)]
pub enum Watch {
    /// Nothing.
    #[default]
    Nothing,
    /// A request that may end answers.
    Request(ProvisioningRequest),
}

impl exchange::Watch for Watch {
    fn wants(&self) -> Wants {
        let is_request = matches!(self, Self::Request(_));
        Wants {
            request_body: is_request,
            response_headers: is_request,
        }
    }
}

/// A request of MAS that passes.
#[derive(Debug)]
pub struct ProvisioningRequest {
    endpoint: ProvisioningEndpoint,
    /// Its credential is MAS's.
    is_authenticated: bool,
    body: BodyPrefix,
    event: Option<ProvisioningEvent>,
}

/// The provisioning role. It keeps nothing of its own.
#[derive(Debug, Default)]
pub struct Provisioning;

impl Provisioning {
    /// Takes in the headers of a request, which goes on whatever it is. `is_whole`: there is no body.
    pub fn on_request_headers<H: Host>(
        &self,
        cb: &Callback<'_, H>,
        exchange: &Exchange,
        is_whole: bool,
    ) {
        exchange.set_phase(Phase::Forwarded);
        if let Some(request) = ProvisioningRequest::read(cb, exchange).filter(|_| !is_whole) {
            exchange.set_watch(Watch::Request(request));
        }
    }

    /// Takes in a piece of the body.
    pub fn on_request_body<H: Host, W>(
        &self,
        cb: &Callback<'_, H>,
        resolver: &mut Resolver<W>,
        exchange: &Exchange,
        chunk: Chunk,
    ) {
        let Watch::Request(mut request) = exchange.take_watch() else {
            return;
        };
        request
            .body
            .add(chunk.size, |size| cb.host.request_body(size));
        if chunk.is_last {
            request.parse();
            if request.is_authenticated {
                request.apply(cb, resolver, exchange);
            }
        }
        exchange.set_watch(Watch::Request(request));
    }

    /// Takes in the headers of the homeserver's response.
    pub fn on_response_headers<H: Host, W>(
        &self,
        cb: &Callback<'_, H>,
        resolver: &mut Resolver<W>,
        exchange: &Exchange,
    ) {
        let Watch::Request(request) = exchange.take_watch() else {
            return;
        };
        if response_status(cb.host).is_some_and(|status| (200..300).contains(&status)) {
            request.apply(cb, resolver, exchange);
        }
    }
}

impl ProvisioningRequest {
    /// Reads the head of the selected request; `None` if it cannot end anything.
    fn read<H: Host>(cb: &Callback<'_, H>, exchange: &Exchange) -> Option<Self> {
        let header = |name| cb.host.request_header(name).ok().flatten();
        let endpoint = ProvisioningEndpoint::of(&header(":method")?, &header(":path")?)?;
        let credential = &exchange.plugin.config.introspection.credential;
        let is_authenticated = match credential.shared_secret() {
            Some(secret) if secret.matches(&header("authorization")?) => true,
            Some(_) => return None,
            None => false,
        };
        Some(Self {
            endpoint,
            is_authenticated,
            body: BodyPrefix::new(MAX_BODY_BYTES),
            event: None,
        })
    }

    /// Reads the body, which is complete, and drops it.
    fn parse(&mut self) {
        self.event = if self.body.is_truncated() {
            self.endpoint.read_beginning(self.body.bytes())
        } else {
            self.endpoint.read(self.body.bytes())
        };
        self.body = BodyPrefix::new(0);
    }

    fn apply<H: Host, W>(
        &self,
        cb: &Callback<'_, H>,
        resolver: &mut Resolver<W>,
        exchange: &Exchange,
    ) {
        if let Some(ProvisioningEvent { user, revocation }) = &self.event {
            let cache = &exchange.plugin.upstream.cache;
            let what = Invalidation::User(user, revocation);
            resolver.invalidate(cb, cache, what, self.endpoint.label());
        }
    }
}
