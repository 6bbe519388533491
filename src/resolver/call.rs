//! One call to MAS: what it takes to make it, and to make it again.

use alloc::{rc::Rc, string::String, vec::Vec};
use core::time::Duration;

use super::{
    clients::{ClientKey, load::Slot},
    resolution::Query,
    upstream::Upstream,
};
use crate::{
    cache::Owner,
    clock::Instant,
    host::{CallId, HttpCall, NotSent, RootId, Runtime, extended},
    mas::introspection::IntrospectionRequest,
    token::{AccessToken, TokenDigest},
};

/// Added to the call's own timeout before its answer counts as lost. Envoy answers a timed-out call with
/// 504, so this is for answers that Envoy never delivers.
pub const CALL_GRACE: Duration = Duration::from_millis(500);

/// What a call needs.
#[derive(Debug)]
pub struct CallContext {
    /// Who is asked.
    pub upstream: Rc<Upstream>,
    /// The client that brought the token, if it matters.
    pub client: Option<ClientKey>,
    /// Whose the token is, if it is known: MAS has called it active, and only the answer's time is over. Looked up only where
    /// it matters.
    pub owner: Option<Owner>,
    /// Whether the next void answer counts as the second. Set when MAS is asked again since an answer was void or superseded;
    /// cleared when only requests are left that came after the question.
    pub is_repeated: bool,
    /// The call was made again, because this worker had no time for the answer.
    pub is_excused: bool,
    token: AccessToken<'static>,
    digest: TokenDigest,
    trace: Vec<(&'static str, String)>,
}

impl CallContext {
    /// Returns what a call for `query` needs. Reads the trace headers of its request.
    // Inlined like `Flight::new`, so that a flight is put together once and not handed on in parts.
    #[inline(always)]
    pub fn new(query: &Query<'_>, client: Option<ClientKey>, owner: Option<Owner>) -> Self {
        Self {
            upstream: Rc::clone(query.upstream),
            client,
            owner,
            is_repeated: false,
            is_excused: false,
            token: query.token.clone().into_owned(),
            digest: query.digest,
            trace: query.origin.trace(),
        }
    }

    /// Returns the digest of the token.
    pub fn digest(&self) -> &TokenDigest {
        &self.digest
    }

    /// Returns how many bytes this holds that a client sent.
    pub fn bytes(&self) -> usize {
        let trace: usize = self.trace.iter().map(|(_, value)| value.len()).sum();
        self.token.as_bytes().len() + trace
    }

    /// Returns what the call counts against.
    pub fn slot(&self) -> Slot {
        Slot {
            pool: self.upstream.admission.pool,
            client: self.client,
            is_known: self.owner.is_some(),
        }
    }

    /// Returns who takes turns in line for the call: the client, or the user of a known token. Behind one address there may be many
    /// people, and who refreshes a token again and again has had many.
    pub fn in_turn(&self) -> Option<ClientKey> {
        match self.owner {
            Some(Owner(user)) => user.as_ref().map(ClientKey::of_user),
            None => self.client,
        }
    }

    /// Sends the request as a call of `root`: the request's own, or the one whose callback runs. The answer may take so long.
    pub fn send(
        &self,
        host: &impl Runtime,
        root: RootId,
        timeout: Duration,
    ) -> Result<CallId, NotSent> {
        let settings = &self.upstream.settings;
        let request = IntrospectionRequest::new(settings, &self.token, &self.trace);
        let own = request.own_headers();
        let headers = extended(
            self.upstream.fixed_headers(),
            own.map(|(name, value)| (name, value.as_bytes())),
        );
        let call = HttpCall {
            cluster: request.cluster(),
            headers: &headers,
            body: request.body(),
            timeout,
        };
        host.dispatch(root, call)
    }

    /// Returns when an answer to a call made at `now` is no longer expected.
    pub fn deadline(&self, now: Instant) -> Instant {
        now + self.upstream.settings.timeout + CALL_GRACE
    }
}
