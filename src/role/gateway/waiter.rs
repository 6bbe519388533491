//! What a request of the gateway waits for, and what it needs to be decided.

use std::rc::Rc;

use super::watch::Exchange;
use crate::{
    host::{Callback, Host},
    mas::token::TokenKind,
    matrix::{endpoint::AuthRequirement, reply::Cors},
    resolver::{Waiting, max_hold},
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
        cors: Cors,
        requirement: AuthRequirement,
        kind: Option<TokenKind>,
    },
    /// Whose sessions it ends. It goes on in any case.
    LogoutAll,
    /// What `enforce` would have made of it. In shadow mode it has gone on already, and its stream may have ended.
    Shadow {
        requirement: AuthRequirement,
        kind: Option<TokenKind>,
    },
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
