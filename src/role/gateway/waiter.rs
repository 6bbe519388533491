//! What a request of the gateway waits for, and what it needs to be decided.

use alloc::rc::Rc;

use super::{
    carry_out::ReplyForm,
    outcome::{self, RequestId},
    policy::Terms,
    watch::Exchange,
};
use crate::{
    config::{Config, Mode},
    host::RequestHead,
    role::exchange::Phase,
};

/// What a request that waits needs to be decided.
#[derive(Debug)]
pub struct Waiter {
    pub(super) exchange: Rc<Exchange>,
    pub(super) purpose: Purpose,
}

impl Waiter {
    /// Returns how far the request has come.
    pub fn phase(&self) -> Phase {
        self.exchange.phase()
    }
}

/// What a request waits for.
#[derive(Debug)]
pub(super) enum Purpose {
    /// Whether it may go on, and as whom.
    Access { form: ReplyForm, terms: Terms },
    /// Whose sessions it ends. It goes on in any case.
    LogoutAll,
    /// What `enforce` would have made of it. In shadow mode it has gone on already, and its stream may have ended.
    Shadow {
        terms: Terms,
        /// What the access log calls the request, if it is to be told of.
        request_id: Option<RequestId>,
    },
}

impl Purpose {
    /// Returns what a request waits for whose token is to be proven, in the configuration's mode.
    pub fn of(config: &Config, head: &RequestHead, terms: Terms) -> Self {
        match config.mode {
            Mode::Enforce => Self::Access {
                form: ReplyForm::of(head),
                terms,
            },
            Mode::Shadow => Self::Shadow {
                terms,
                request_id: outcome::request_id(config, head),
            },
        }
    }
}
