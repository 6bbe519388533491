//! `POST /logout/all`: MAS ends all sessions of a user, and the request names one token only.
//!
//! The non-obvious rule: whose token it is must be known before the request goes on. Afterwards the token is
//! inactive, and MAS does not say any longer whose it was. So the request waits for a resolution like others, but
//! no resolution rejects or annotates it: MAS judges the request itself. Without a user, only what is known of the
//! token ends.

use alloc::rc::Rc;

use super::{
    policy::Need,
    waiter::{Purpose, Waiter},
    watch::{Exchange, Watch},
};
use crate::{
    host::{Callback, Host, RequestHead},
    resolver::{Found, Resolver, Verdict},
    role::origin::ClientOrigin,
};

/// Finds out whose token the selected request has. `None`: the request is held.
pub(super) fn identify<H: Host, W: From<Waiter>>(
    cb: &Callback<'_, H>,
    resolver: &mut Resolver<W>,
    exchange: &Rc<Exchange>,
    head: &RequestHead,
    need: &Need<'_>,
) -> Option<Found> {
    let origin = ClientOrigin {
        host: cb.host,
        head,
    };
    let query = need.query(&exchange.plugin.upstream, &origin);
    if let Some(found) = resolver.lookup(cb, &query) {
        return Some(found);
    }
    let waiter = Waiter {
        exchange: Rc::clone(exchange),
        purpose: Purpose::LogoutAll,
    };
    resolver.resolve(cb, &query, Some(exchange.stream), waiter.into())
}

/// Watches whether MAS ends the sessions of the user that was found.
pub(super) fn watch(exchange: &Exchange, found: &Found) {
    let user = match &found.verdict {
        Verdict::Active(entry) => entry.user,
        Verdict::Inactive(_) | Verdict::None(_) => None,
    };
    exchange.set_watch(Watch::logout_all(found.digest, user));
}
