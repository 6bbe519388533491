//! What ends with a session that a client ends, and how often that may be.
//!
//! The non-obvious rule: MAS may not have ended anything. It answers 200 to the revocation of a token that it lets live, and
//! in a fleet a mirrored request says nothing of MAS's answer. Each end costs a question, so a client could make the edge
//! ask as often as it likes. So the first end of a token, or of all of a user's tokens, acts at once, and further ones
//! within [`SPACING`] are merged into one that acts at the next tick. No end is lost.
//!
//! Anyone can end an invented token, so what is remembered is bounded. An end that took no answer away gives way to one that
//! did. Where there is still no room, an end acts at once.

use std::{rc::Rc, time::Duration};

use crate::{
    clock::Instant,
    host::{Backend, Callback},
    mas::{provisioning::Revocation, user::UserKey},
    metrics::InvalidationReason,
    resolver::{Invalidation, Resolver},
    role::plugin::Plugin,
    token::TokenDigest,
};

/// How long after an end a further one waits for the next tick.
const SPACING: Duration = Duration::from_secs(1);

/// Ends that are remembered. One takes some 80 bytes, and all of them are looked through for each end.
const MAX_ENDS: usize = 1_024;

/// What ends if a request succeeds.
#[derive(Debug)]
pub enum Ending {
    /// The session of this token, which logs out.
    Logout(TokenDigest),
    /// All sessions of a user, if that was found out, and of the token that the request has.
    LogoutAll(TokenDigest, Option<UserKey>),
    /// The session of this token, which is revoked.
    Revocation(TokenDigest),
}

/// Whose answers end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Subject {
    /// One token's.
    Token(TokenDigest),
    /// All active ones about a user. No logout makes a token active, so what is known of inactive ones holds on.
    User(UserKey),
}

/// An end of some answers.
#[derive(Debug)]
struct End {
    plugin: Rc<Plugin>,
    reason: InvalidationReason,
    /// All answers about the user whose token it is end as well.
    ends_owner: bool,
}

/// The last end of a subject.
#[derive(Debug)]
struct Recent {
    subject: Subject,
    /// Until then a further one waits for a tick.
    until: Instant,
    /// One of its ends took an answer away. An end costs a question only then, or if MAS was just being asked.
    took: bool,
    /// It waits.
    waiting: Option<End>,
}

/// The ends of a while.
#[derive(Debug, Default)]
pub(super) struct SessionEnds(Vec<Recent>);

impl SessionEnds {
    /// Ends a session, now or at the next tick.
    pub fn end<H: Backend, W>(
        &mut self,
        cb: &Callback<'_, H>,
        resolver: &mut Resolver<W>,
        plugin: &Rc<Plugin>,
        ending: &Ending,
    ) {
        let (token, reason, user, is_all) = match ending {
            Ending::Logout(token) => (token, InvalidationReason::Logout, None, false),
            Ending::LogoutAll(token, user) => (token, InvalidationReason::Logout, *user, true),
            Ending::Revocation(token) => (token, InvalidationReason::Revocation, None, false),
        };
        let end = End {
            plugin: Rc::clone(plugin),
            reason,
            ends_owner: is_all && user.is_none(),
        };
        let owner = self.act(cb, resolver, Subject::Token(*token), &end);
        if let Some(user) = user.or(owner) {
            self.act(cb, resolver, Subject::User(user), &end.of_owner());
        }
    }

    /// Lets the ends act that wait, and forgets those that are too old to matter.
    pub fn on_tick<H: Backend, W>(&mut self, cb: &Callback<'_, H>, resolver: &mut Resolver<W>) {
        let now = cb.now();
        let mut due = Vec::new();
        self.0.retain_mut(|recent| {
            let Some(end) = recent.waiting.take() else {
                return now < recent.until;
            };
            // It keeps its place.
            recent.until = now;
            due.push((recent.subject, end));
            true
        });
        for (subject, end) in due {
            if let Some(owner) = self.act(cb, resolver, subject, &end) {
                self.act(cb, resolver, Subject::User(owner), &end.of_owner());
            }
        }
    }

    /// Ends answers now, or notes that they end at the next tick. Returns whose token it was, if all of that user's end as
    /// well.
    fn act<H: Backend, W>(
        &mut self,
        cb: &Callback<'_, H>,
        resolver: &mut Resolver<W>,
        subject: Subject,
        end: &End,
    ) -> Option<UserKey> {
        let now = cb.now();
        let cache = &end.plugin.upstream.cache;
        let mut recents = self.0.iter_mut();
        let owner = match recents.find(|recent| recent.subject == subject) {
            Some(recent) if now < recent.until => {
                let waiting = recent.waiting.take();
                let ends_owner = waiting.is_some_and(|end| end.ends_owner) || end.ends_owner;
                recent.waiting = Some(End {
                    plugin: Rc::clone(&end.plugin),
                    reason: end.reason,
                    ends_owner,
                });
                // Whose token it is may not be known any longer at the tick.
                match &subject {
                    Subject::Token(token) => cache
                        .lookup_stale(cb.host, token, now)
                        .and_then(|known| known.user),
                    Subject::User(_) => None,
                }
            }
            recent => {
                let everything = Revocation::AllExcept(Vec::new());
                let what = match &subject {
                    Subject::Token(token) => Invalidation::Token(token),
                    Subject::User(user) => Invalidation::User(user, &everything),
                };
                let removed = resolver.invalidate(cb, cache, what, end.reason);
                let until = now + SPACING;
                let took = removed.is_some() || matches!(subject, Subject::User(_));
                if let Some(recent) = recent {
                    recent.until = until;
                    recent.took |= took;
                } else {
                    self.remember(Recent {
                        subject,
                        until,
                        took,
                        waiting: None,
                    });
                }
                removed.and_then(|removed| removed.user)
            }
        };
        owner.filter(|_| end.ends_owner)
    }

    /// Remembers one more. Among as many as there may be, it takes the place of one that took nothing away.
    fn remember(&mut self, recent: Recent) {
        if self.0.len() < MAX_ENDS {
            self.0.push(recent);
        } else if recent.took
            && let Some(other) = self.0.iter_mut().find(|other| other.gives_way())
        {
            *other = recent;
        }
    }
}

impl Recent {
    /// It took nothing away, and nothing waits to.
    fn gives_way(&self) -> bool {
        !self.took && self.waiting.is_none()
    }
}

impl End {
    /// The same of all answers about a user.
    fn of_owner(&self) -> Self {
        Self {
            plugin: Rc::clone(&self.plugin),
            reason: self.reason,
            ends_owner: false,
        }
    }
}
