//! What a request of the gateway waits for, and what it needs to be decided.

use std::rc::Rc;

use super::{carry_out::ReplyForm, outcome::RequestId, watch::Exchange};
use crate::{mas::token::TokenKind, matrix::endpoint::AuthRequirement};

/// What a request that waits needs to be decided.
#[derive(Debug)]
pub struct Waiter {
    pub(super) exchange: Rc<Exchange>,
    pub(super) purpose: Purpose,
}

/// What a request waits for.
#[derive(Debug)]
pub(super) enum Purpose {
    /// Whether it may go on, and as whom.
    Access {
        form: ReplyForm,
        requirement: AuthRequirement,
        kind: Option<TokenKind>,
        is_doubtful: bool,
    },
    /// Whose sessions it ends. It goes on in any case.
    LogoutAll,
    /// What `enforce` would have made of it. In shadow mode it has gone on already, and its stream may have ended.
    Shadow {
        requirement: AuthRequirement,
        kind: Option<TokenKind>,
        /// What the access log calls the request, if it is to be told of.
        request_id: Option<RequestId>,
    },
}
