//! What a held request of the gateway waits for, and what it needs to go on.

use std::rc::Rc;

use super::watch::Exchange;
use crate::{
    mas::token::TokenKind,
    matrix::{endpoint::AuthRequirement, reply::Cors},
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
        cors: Cors,
        requirement: AuthRequirement,
        kind: Option<TokenKind>,
    },
    /// Whose sessions it ends. It goes on in any case.
    LogoutAll,
}
