//! What a held request of the gateway waits for, and what it needs to go on.

use std::rc::Rc;

use super::{carry_out::ReplyForm, watch::Exchange};
use crate::{
    host::{Callback, Host},
    mas::token::TokenKind,
    matrix::endpoint::AuthRequirement,
    resolver::{Waiting, max_hold},
};

/// What a held request needs to go on.
#[derive(Debug)]
pub struct Waiter {
    pub(super) exchange: Rc<Exchange>,
    pub(super) purpose: Purpose,
}

/// What a held request waits for.
#[derive(Debug)]
pub(super) enum Purpose {
    /// Whether it may go on, and as whom.
    Access {
        form: ReplyForm,
        requirement: AuthRequirement,
        kind: Option<TokenKind>,
    },
    /// Whose sessions it ends. It goes on in any case.
    LogoutAll,
}

impl Waiter {
    /// Returns the waiter as the resolver takes it. It begins to wait now.
    pub(super) fn into_waiting<H: Host, W: From<Self>>(self, cb: &Callback<'_, H>) -> Waiting<W> {
        let upstream = Rc::clone(&self.exchange.plugin.upstream);
        Waiting {
            since: cb.now(),
            give_up_at: cb.now() + max_hold(&upstream),
            upstream,
            waiter: self.into(),
        }
    }
}
