//! The ends of sessions that pass by the gateway: logouts, revocations, and tokens that the homeserver
//! refuses although they are active as far as is known.
//!
//! All of them only make the edge forget. None is taken for MAS's word that a token is inactive: the next
//! request asks MAS.

use std::time::Duration;

use serde::Deserialize;

use super::{
    MAX_RETRIES, Plugin, Worker,
    exchange::{Collector, Exchange, Interest},
    peers::Hint,
};
use crate::{
    cache::{
        TokenDigest,
        epoch::Subject,
        revocation::{Revocation, UserKey},
        table::Removed,
    },
    clock::Instant,
    host::Host,
    mas::object_text,
    matrix::logout::{SessionEnd, revoked_token},
    metrics::Metric,
};

/// The error of a homeserver is shorter than this.
const MAX_ERROR_BYTES: usize = 1024;

/// A token that the homeserver refuses again and again, while MAS calls it active, costs one call in this
/// time and worker: Synapse keeps an answer of "inactive" for two minutes.
const DOUBT: Duration = Duration::from_secs(10);

/// A response with 401 to a token that is active as far as is known.
#[derive(Debug)]
pub(super) struct Refusal {
    token: TokenDigest,
    body: Collector,
}

/// A Matrix error, as much of it as matters.
#[derive(Deserialize)]
struct MatrixError {
    errcode: String,
}

impl Worker {
    /// Takes in the headers of a response. `is_whole`: there is no body.
    pub fn on_response(
        &mut self,
        host: &impl Host,
        plugin: &Plugin,
        exchange: &Exchange,
        is_whole: bool,
    ) {
        let interest = exchange.take_interest();
        if let Interest::None = interest {
            return;
        }
        let status = status(host);
        let is_success = status.is_some_and(|status| (200..300).contains(&status));
        match interest {
            Interest::Active(token) if status == Some(401) && !is_whole => {
                let body = Collector::new(MAX_ERROR_BYTES);
                exchange.set_interest(Interest::Refusal(Refusal { token, body }));
            }
            Interest::SessionEnd(end, form) if is_success => {
                self.on_session_end(host, plugin, end, &form);
            }
            Interest::Provisioning(provisioning) if is_success => {
                self.on_provisioned(host, plugin, &provisioning);
            }
            Interest::Introspection(introspection) => {
                self.on_introspected_by_mas(host, introspection, status);
            }
            _ => {}
        }
    }

    /// Takes in a piece of a response's body.
    pub fn on_response_body(
        &mut self,
        host: &impl Host,
        plugin: &Plugin,
        exchange: &Exchange,
        size: usize,
        is_last: bool,
    ) {
        let Interest::Refusal(mut refusal) = exchange.take_interest() else {
            return;
        };
        refusal.body.add(size, |size| host.response_body(size));
        if !is_last {
            exchange.set_interest(Interest::Refusal(refusal));
            return;
        }
        let error = object_text(refusal.body.bytes())
            .and_then(|text| serde_json::from_str::<MatrixError>(text).ok());
        if error.is_some_and(|error| error.errcode == "M_UNKNOWN_TOKEN") {
            self.doubt(host, plugin, &refusal.token);
        }
    }

    /// Takes in a piece of a revocation's form.
    pub(super) fn on_session_end_body(
        host: &impl Host,
        exchange: &Exchange,
        end: SessionEnd,
        mut form: Collector,
        size: usize,
    ) {
        form.add(size, |size| host.request_body(size));
        exchange.set_interest(Interest::SessionEnd(end, form));
    }

    fn on_session_end(
        &mut self,
        host: &impl Host,
        plugin: &Plugin,
        end: SessionEnd,
        form: &Collector,
    ) {
        let now = self.read_clock(host);
        match end {
            SessionEnd::Logout(token) => {
                self.forget_token(host, plugin, &token, "logout", now);
            }
            SessionEnd::LogoutAll(token) => {
                let removed = self.forget_token(host, plugin, &token, "logout", now);
                if let Some(user) = removed.and_then(|removed| removed.user) {
                    let everything = &Revocation::Everything;
                    self.forget_user(host, plugin, &user, everything, "logout", now);
                }
            }
            SessionEnd::Revocation if !form.is_truncated() => {
                if let Some(token) = revoked_token(form.bytes()) {
                    self.forget_token(host, plugin, &token, "revocation", now);
                }
            }
            SessionEnd::Revocation => {}
        }
    }

    fn doubt(&mut self, host: &impl Host, plugin: &Plugin, token: &TokenDigest) {
        let now = self.read_clock(host);
        let is_settled = self.doubted.get(token).is_some_and(|until| now < *until);
        if is_settled || self.doubted.len() >= MAX_RETRIES {
            return;
        }
        self.doubted.insert(*token, now + DOUBT);
        self.forget_token(host, plugin, token, "homeserver", now);
    }

    /// Forgets the active answer about a token in all workers, also one that is on its way. Nothing is
    /// written for a token that nobody knows: anyone can name such a token.
    pub(super) fn forget_token(
        &mut self,
        host: &impl Host,
        plugin: &Plugin,
        token: &TokenDigest,
        reason: &'static str,
        now: Instant,
    ) -> Option<Removed> {
        let removed = plugin.cache.drop_active(host, token);
        let is_asked_about = self.leases.void(host, token, now);
        if removed.is_some() || is_asked_about {
            self.tell_of_end(host, Subject::Token(token), reason, now);
        }
        removed
    }

    /// Forgets what is known of a user in all workers, also what is on its way.
    pub(super) fn forget_user(
        &mut self,
        host: &impl Host,
        plugin: &Plugin,
        user: &UserKey,
        revocation: &Revocation,
        reason: &'static str,
        now: Instant,
    ) {
        let revocations = plugin.cache.revocations();
        if revocations.add(host, user, revocation, now).is_err() {
            log::error!(
                "shared data could not be written; answers about a user hold until their TTL"
            );
        }
        self.tell_of_end(host, Subject::User(user), reason, now);
    }

    /// In this order: what a worker reads after it has seen the number raised is already forgotten.
    fn tell_of_end(
        &mut self,
        host: &impl Host,
        subject: Subject<'_>,
        reason: &'static str,
        now: Instant,
    ) {
        self.epochs.raise(host, subject);
        self.peers.tell(host, Hint::Invalidated, now);
        host.count(Metric::Invalidated(reason));
    }
}

fn status(host: &impl Host) -> Option<u16> {
    let status = host.response_header(":status").ok().flatten()?;
    std::str::from_utf8(&status).ok()?.parse().ok()
}
