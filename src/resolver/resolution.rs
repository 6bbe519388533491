//! What goes into the resolver and what comes out of it: a question with a waiter, and a resolution.
//!
//! The non-obvious rule: there are three verdicts. A fault is [`Verdict::None`], with a reason, and there is no
//! way from it to [`Verdict::Inactive`].

use alloc::{boxed::Box, rc::Rc, string::String, vec::Vec};

use super::{clients::ClientKey, upstream::Upstream};
use crate::{
    cache::{ActiveEntry, Cached, epoch::Stamp, question::QuestionKey},
    clock::Instant,
    host::StreamId,
    maps::sorted::SortedMap,
    mas::introspection::{InactiveAnswer, NoVerdict},
    metrics::Outcome,
    token::{AccessToken, TokenDigest},
};

/// A question to resolve: whose token is this?
#[derive(Clone, Copy)]
pub struct Query<'a> {
    /// Who is asked.
    pub upstream: &'a Rc<Upstream>,
    /// The token.
    pub token: &'a AccessToken<'a>,
    /// Its digest.
    pub digest: TokenDigest,
    /// The request that brought the token.
    pub origin: &'a dyn Origin,
}

impl Query<'_> {
    /// Returns the name of the question.
    pub fn key(&self) -> QuestionKey {
        self.upstream.question(&self.digest)
    }

    /// Returns the client that brought the token. This is a host call.
    pub fn client(&self) -> Option<ClientKey> {
        let address = self.origin.client_address()?;
        Some(ClientKey::of(&address))
    }
}

/// What a call inherits from the request that causes it. Each method is a few host calls, so none is made
/// unless there is a call to make.
pub trait Origin {
    /// Returns the headers that show both requests in one trace.
    fn trace(&self) -> Vec<(&'static str, String)>;

    /// Returns the address of the client as Envoy trusts it, without the port.
    fn client_address(&self) -> Option<Vec<u8>>;
}

/// What is known of a token. `A` is what is known of an active one.
#[derive(Clone, Debug)]
pub enum Verdict<A = Box<ActiveEntry>> {
    /// MAS said so, and it has not expired.
    Active(A),
    /// MAS said so, or the token has expired or cannot exist.
    Inactive(InactiveAnswer),
    /// Everything else.
    None(NoVerdict),
}

impl From<Cached> for Verdict {
    fn from(cached: Cached) -> Self {
        match cached {
            Cached::Active(entry) => Self::Active(entry),
            Cached::Inactive(answer) => Self::Inactive(answer),
            Cached::Expired => Self::Inactive(InactiveAnswer::default()),
        }
    }
}

/// Where a verdict comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Provenance {
    /// The shared cache.
    Shared,
    /// The shared cache, past the entry's time (RFC 5861 `stale-if-error`) or doubted, because MAS gave no answer or no call was
    /// free.
    Stale,
    /// A call, of this worker or another.
    Introspected,
}

/// A verdict and where it comes from.
#[derive(Clone, Debug)]
pub struct Found {
    /// The token.
    pub digest: TokenDigest,
    /// The verdict.
    pub verdict: Verdict,
    /// Where it comes from.
    pub provenance: Provenance,
    /// The epoch counters at the moment of the finding; what a role keeps of it counts while they stand.
    pub stamp: Stamp,
    /// A role may keep what it makes of it: the shared cache holds a fresh answer that says so.
    pub may_be_kept: bool,
}

impl Found {
    /// Returns how the metrics call it.
    pub fn outcome(&self) -> Outcome {
        match (&self.verdict, self.provenance) {
            (Verdict::Active(_), Provenance::Shared) => Outcome::ActiveShared,
            (Verdict::Active(_), Provenance::Stale) => Outcome::ActiveStale,
            (Verdict::Active(_), Provenance::Introspected) => Outcome::ActiveIntrospected,
            (Verdict::Inactive(_), Provenance::Shared | Provenance::Stale) => {
                Outcome::InactiveShared
            }
            (Verdict::Inactive(_), Provenance::Introspected) => Outcome::InactiveIntrospected,
            (Verdict::None(NoVerdict::OverBudget { .. }), _) => Outcome::OverBudget,
            (Verdict::None(_), _) => Outcome::NoVerdict,
        }
    }
}

/// A request that waits for a verdict.
#[derive(Debug)]
pub struct Waiting<W> {
    /// Who is asked, and what serves if there is no answer.
    pub upstream: Rc<Upstream>,
    /// When the request began to wait.
    pub since: Instant,
    /// When it gives up waiting.
    pub give_up_at: Instant,
    /// The client whose place among the waiting it takes, if that is counted.
    pub(super) client: Option<ClientKey>,
    /// What the role needs to go on with the request.
    pub waiter: W,
}

/// Names a request that waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum WaiterId {
    /// A held request, by its stream. It waits no longer when the stream ends.
    Held(StreamId),
    /// A request that has gone on already, by a number. It waits until there is a verdict, whatever becomes of its
    /// stream.
    Passed(u64),
}

/// The end of the wait of requests of one configuration, and the verdict that they waited for.
#[derive(Debug)]
pub struct Resolution<W> {
    /// What was found.
    pub found: Found,
    /// The requests that waited.
    pub waiters: SortedMap<WaiterId, Waiting<W>>,
}

/// What is to be forgotten.
#[derive(Clone, Copy, Debug)]
pub enum Invalidation<'a> {
    /// The active answer about this token.
    Token(&'a TokenDigest),
    /// Nothing, but the active answer about this token is doubted: the homeserver has refused the token.
    Refusal(&'a TokenDigest),
    /// Answers about the tokens of this user.
    User(
        &'a crate::mas::user::UserKey,
        &'a crate::mas::provisioning::Voiding,
    ),
}
