//! What a request of the gateway waits for, and what it needs to be decided.

use std::rc::Rc;

use super::{
    carry_out::ReplyForm,
    outcome::{self, RequestId},
    policy::Need,
    watch::Exchange,
};
use crate::{
    config::{Config, Mode},
    host::RequestHead,
    mas::token::TokenKind,
    matrix::endpoint::AuthRequirement,
};

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

impl Purpose {
    /// Returns what a request waits for whose token is to be proven, in the configuration's mode.
    pub fn of(config: &Config, head: &RequestHead, question: &Need<'_>) -> Self {
        let (requirement, kind) = (question.class.requirement, question.kind);
        match config.mode {
            Mode::Enforce => Self::Access {
                form: ReplyForm::of(head),
                requirement,
                kind,
                is_doubtful: question.is_doubtful,
            },
            Mode::Shadow => Self::Shadow {
                requirement,
                kind,
                request_id: outcome::request_id(config, head),
            },
        }
    }
}
