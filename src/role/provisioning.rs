//! The provisioning role: between MAS and the homeserver. MAS's requests pass untouched, and what they tell of
//! users and devices ends answers.
//!
//! A caller that knows the shared secret is MAS. Its request ends answers as soon as it is seen. It does so once more when the
//! request is answered, also by an error or by Envoy, or when its stream ends without a response: what MAS said of a token in
//! between may be from before.
//!
//! The non-obvious rule: a caller with another secret is not taken for an impostor. While a secret is replaced,
//! the other one may be MAS's new one. So for each request that is not proven here, the homeserver's agreement is
//! the proof, whatever credential the request has. A caller who does not know the homeserver's secret gets a
//! refusal from it, and the request ends nothing: its body is not even parsed. Without an answer it ends nothing
//! either. MAS tells the homeserver again until it has one.

use super::{
    body::{BodyBudget, BodyPrefix},
    exchange::{self, Chunk, Phase, Wants},
    grpc, head,
};
use crate::{
    host::{Callback, Host, RequestHead},
    mas::provisioning::{ProvisioningEndpoint, ProvisioningEvent},
    matrix::credential::Authorization,
    metrics::{Metric, PresentedSecret},
    resolver::{Invalidation, Resolver},
};

/// Longest body that is read whole, in bytes: some ten thousand devices of one user.
const MAX_BODY_BYTES: usize = 1024 * 1024;

/// The same for a request that is not proven yet, since anyone who reaches the listener can send one.
const MAX_UNPROVEN_BODY_BYTES: usize = 64 * 1024;

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
    /// The request was refused here with this status, and may call itself gRPC.
    GrpcReply(u16),
}

impl exchange::Watch for Watch {
    fn wants(&self) -> Wants {
        match self {
            Self::Nothing => Wants::default(),
            Self::Request(_) => Wants {
                request_body: true,
                response_headers: true,
                stream_end: true,
            },
            Self::GrpcReply(_) => Wants {
                response_headers: true,
                ..Wants::default()
            },
        }
    }

    fn grpc_reply(status: u16) -> Self {
        Self::GrpcReply(status)
    }
}

/// A request of MAS that passes.
#[derive(Debug)]
pub struct ProvisioningRequest {
    endpoint: ProvisioningEndpoint,
    secret: PresentedSecret,
    /// As far as it has come; `None` once it is parsed.
    body: Option<BodyPrefix>,
    event: Option<ProvisioningEvent>,
}

/// The provisioning role in one worker.
#[derive(Debug, Default)]
pub struct Provisioning {
    /// The log says that MAS's secret is another one.
    has_warned: bool,
}

impl Provisioning {
    /// Takes in the headers of a request, which goes on whatever it is, if it can be read. `is_whole`: there is no body.
    pub fn on_request_headers<H: Host>(
        &self,
        cb: &Callback<'_, H>,
        exchange: &Exchange,
        is_whole: bool,
        budget: &BodyBudget,
    ) {
        let head = match head::read(cb.host, &exchange.plugin) {
            Ok(head) => head,
            Err(why) => return head::refuse(cb.host, exchange, why),
        };
        exchange.set_phase(Phase::Forwarded);
        if is_whole {
            return;
        }
        if let Some(request) = ProvisioningRequest::of(cb, exchange, &head, budget) {
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
        if let Some(body) = &mut request.body {
            body.add(cb.host, chunk.size);
        }
        let is_proven = request.secret == PresentedSecret::Matching;
        if is_proven && chunk.is_last && request.parse() {
            request.apply(cb, resolver, exchange);
        }
        exchange.set_watch(Watch::Request(request));
    }

    /// Takes in the trailers of a request, which is answered if they cannot be cleaned.
    pub fn on_request_trailers<H: Host>(&self, cb: &Callback<'_, H>, exchange: &Exchange) {
        head::clean_trailers_or_refuse(cb.host, exchange);
    }

    /// Takes in the headers of a response.
    pub fn on_response_headers<H: Host, W>(
        &mut self,
        cb: &Callback<'_, H>,
        resolver: &mut Resolver<W>,
        exchange: &Exchange,
    ) {
        let mut request = match exchange.take_watch() {
            Watch::Nothing => return,
            Watch::GrpcReply(status) => return grpc::restore_status(cb.host, status),
            Watch::Request(request) => request,
        };
        if let Some(200..300) = cb.host.upstream_status() {
            if request.secret == PresentedSecret::Different {
                self.warn_of_difference();
            }
            request.parse();
        }
        // Of a request that is not proven nothing is parsed before the homeserver agrees.
        request.apply(cb, resolver, exchange);
    }

    /// Notes that a stream has ended. The homeserver may have done what MAS told it, unheard.
    pub fn on_stream_end<H: Host, W>(
        &self,
        cb: &Callback<'_, H>,
        resolver: &mut Resolver<W>,
        exchange: &Exchange,
    ) {
        if let Watch::Request(mut request) = exchange.take_watch() {
            // The homeserver may have all of a body whose end Envoy has not seen.
            if request.secret == PresentedSecret::Matching {
                request.parse();
            }
            request.apply(cb, resolver, exchange);
        }
    }

    /// Says once that the homeserver accepts another secret than the one that is configured here. Only its
    /// agreement shows that: anyone can present a wrong one.
    fn warn_of_difference(&mut self) {
        if !core::mem::replace(&mut self.has_warned, true) {
            log::warn!(
                "introspection.credential differs from the secret that MAS presents and the homeserver accepts; what MAS says \
                 counts only after the homeserver's answer. Compare it with matrix.secret of MAS"
            );
        }
    }
}

impl ProvisioningRequest {
    /// Returns what a request is about; `None` if it cannot end anything.
    fn of<H: Host>(
        cb: &Callback<'_, H>,
        exchange: &Exchange,
        head: &RequestHead,
        budget: &BodyBudget,
    ) -> Option<Self> {
        let endpoint = ProvisioningEndpoint::of(head.method(), head.target())?;
        let credential = &exchange.plugin.config.introspection.credential;
        let secret = match (credential.shared_secret(), head.authorization()) {
            (None, _) => PresentedSecret::Unchecked,
            (Some(_), Authorization::None) => PresentedSecret::Missing,
            (Some(secret), Authorization::One(presented)) if secret.matches(presented) => {
                PresentedSecret::Matching
            }
            (Some(_), _) => PresentedSecret::Different,
        };
        cb.host.count(Metric::ProvisioningRequest(secret));
        let max_body_bytes = match secret {
            PresentedSecret::Matching => MAX_BODY_BYTES,
            _ => MAX_UNPROVEN_BODY_BYTES,
        };
        Some(Self {
            endpoint,
            secret,
            body: Some(BodyPrefix::new(max_body_bytes, budget)),
            event: None,
        })
    }

    /// Reads the body and drops it. `false`: that is done already.
    fn parse(&mut self) -> bool {
        let Some(body) = self.body.take() else {
            return false;
        };
        self.event = if body.is_truncated() {
            self.endpoint.read_beginning(body.bytes())
        } else {
            self.endpoint.read(body.bytes())
        };
        true
    }

    fn apply<H: Host, W>(
        &self,
        cb: &Callback<'_, H>,
        resolver: &mut Resolver<W>,
        exchange: &Exchange,
    ) {
        if let Some(ProvisioningEvent { user, voiding }) = &self.event {
            let cache = &exchange.plugin.upstream.cache;
            let what = Invalidation::User(user, voiding);
            resolver.invalidate(cb, cache, what, self.endpoint.reason());
        }
    }
}
