//! What the shared cache knows of a token, and for whom.

use alloc::{boxed::Box, rc::Rc};

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
    Expired,
}

impl Cached {
    /// Returns whether it is to be renewed in the background.
    pub fn is_due(&self, now: Instant) -> bool {
        match self {
            Self::Active(entry) => entry.refresh_at.is_some_and(|at| at <= now),
            Self::Inactive(_) | Self::Expired => false,
        }
    }
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

/// Whose a known token is: the user, if MAS has named one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owner(pub Option<UserKey>);

/// What the cache knows of a token to requests that waited while another worker asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Awaited {
    /// What it knows.
    pub cached: Cached,
    /// Whom it serves.
    pub audience: Audience,
}

/// Which of the requests that waited an answer serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Audience {
    /// All of them, and those that come.
    Everyone,
    /// Those that came before the answer did, at this moment: it was past its time as it came.
    CameBeforeAnswer(Instant),
    /// Those that came before the question was sent, at this moment: what MAS may have told of users since would void the answer.
    CameBeforeQuestion(Instant),
}

impl Audience {
    /// Returns whether it serves a request that has waited since then.
    pub fn includes(self, since: Instant) -> bool {
        match self {
            Self::Everyone => true,
            Self::CameBeforeAnswer(moment) | Self::CameBeforeQuestion(moment) => since < moment,
        }
    }
}

impl From<Cached> for Awaited {
    /// What serves everybody.
    fn from(cached: Cached) -> Self {
        Self {
            cached,
            audience: Audience::Everyone,
        }
    }
}
