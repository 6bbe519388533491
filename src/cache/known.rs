//! What the shared cache knows of a token, and for whom.

use std::rc::Rc;

use super::expiry::Expiry;
use crate::{
    clock::Instant,
    mas::{
        introspection::{ActiveAnswer, InactiveAnswer},
        user::UserKey,
    },
    token::TokenDigest,
};

/// What the cache knows of a token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cached {
    /// MAS said active, not long ago.
    Active(Box<ActiveEntry>),
    /// MAS said inactive, not long ago.
    Inactive(InactiveAnswer),
    /// MAS said active, and its expiry has passed since.
    Ended,
}

/// An active token, and until when that is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ActiveEntry {
    /// Which token.
    pub digest: TokenDigest,
    /// What MAS said.
    pub answer: Rc<ActiveAnswer>,
    /// Whose token it is.
    pub user: Option<UserKey>,
    /// When the token ends; `None` if it does not.
    pub expiry: Option<Expiry>,
    /// The moment before MAS was asked.
    pub asked_at: Instant,
    /// End of the answer, for this reader.
    pub fresh_until: Instant,
    /// From then on the answer is renewed in the background if it is used. `None` if that is turned off,
    /// or would gain nothing because the token itself ends with the answer.
    pub refresh_at: Option<Instant>,
}

/// What the cache knows of a token to requests that waited while another worker asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Awaited {
    /// What it knows.
    pub cached: Cached,
    /// It serves only those of them that came before this moment. `None`: it serves everybody.
    pub serves_before: Option<Instant>,
    /// What MAS has told of users since the question voids the answer.
    pub is_void: bool,
}

impl From<Cached> for Awaited {
    /// What serves everybody.
    fn from(cached: Cached) -> Self {
        Self {
            cached,
            serves_before: None,
            is_void: false,
        }
    }
}
