//! What MAS has answered, on its way into the shared cache.

use crate::{
    clock::Instant,
    mas::{
        introspection::{Answer, Lifetime},
        user::UserKey,
    },
    token::TokenDigest,
};

/// An answer and the times of its call.
#[derive(Clone, Debug)]
pub struct Introspected {
    /// Which token.
    pub digest: TokenDigest,
    /// The moment before the request was sent.
    pub asked_at: Instant,
    /// The moment after the answer came.
    pub answered_at: Instant,
    /// What MAS said.
    pub answer: Answer,
    /// How much longer the token lives, as of some moment between the two: see [`Answer::lifetime`].
    pub lifetime: Option<Lifetime>,
    /// The call was brief and under the lease, so no other worker has asked meanwhile. If a worker that asked earlier stores
    /// "inactive" afterwards, it takes that out again when it sees another worker's lease.
    pub is_exclusive: bool,
    /// Whose token it is, if it is active. Known here, since a digest costs as much as half a host call.
    pub(super) user: Option<UserKey>,
}

impl Introspected {
    /// Returns the answer about the token of this digest.
    pub fn new(
        digest: TokenDigest,
        asked_at: Instant,
        answered_at: Instant,
        answer: Answer,
        lifetime: Option<Lifetime>,
    ) -> Self {
        let user = match &answer {
            Answer::Active(answer) => answer.username().map(UserKey::of),
            Answer::Inactive(_) => None,
        };
        Self {
            digest,
            asked_at,
            answered_at,
            answer,
            lifetime,
            is_exclusive: false,
            user,
        }
    }

    /// Whether MAS said that the token is active.
    pub fn is_active(&self) -> bool {
        matches!(self.answer, Answer::Active(_))
    }
}
