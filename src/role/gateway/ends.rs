//! What ends with a session that a client ends, and how often that may be.
//!
//! The non-obvious rule: MAS may not have ended anything. It answers 200 to the revocation of a token that it lets live, and
//! in a fleet a mirrored request says nothing of MAS's answer. Each end costs a question, so a client could make the edge
//! ask as often as it likes. So the first end of a token, or of all of a user's tokens, acts at once, and further ones
//! within [`SPACING`] are merged into one that acts at the next tick. No end is lost.
//!
//! Where MAS has not answered, it may end the session only later, and a question in between brings an "active" that is out of
//! date. So such an end acts at once and again and again for some seconds. What still waits when the VM goes is handed over to
//! another one (`ends/handover.rs`).
//!
//! Anyone can end an invented token, so what is remembered is bounded. An end that removed no answer gives way to one that
//! did. Where there is still no room, an end acts at once.

mod handover;

use std::{rc::Rc, time::Duration};

use self::handover::{HandedOverEnd, Incoming, Outgoing, Subject};
use crate::{
    clock::Instant,
    host::{Backend, Callback, Store},
    mas::{provisioning::Revocation, user::UserKey},
    metrics::InvalidationReason,
    resolver::{Invalidation, Resolver},
    role::plugin::Plugin,
    token::TokenDigest,
};

/// How long after an end a further one waits for the next tick. With that tick it is a second at the most.
const SPACING: Duration = Duration::from_millis(750);

/// For how long an end acts again and again that MAS has not confirmed, each time after [`SPACING`]. It acts for the last time
/// after three seconds or more.
const REPETITION: Duration = Duration::from_millis(3_750);

/// Ends that are remembered. One takes some 80 bytes, and all of them are looked through for each end. Twice as many are left to
/// other VMs, of all workers together.
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

/// What MAS has said to a request that asks it to end a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum MasReply {
    /// It has ended.
    Ended,
    /// The answer was not heard, so MAS may end it only later.
    Unheard,
}

/// An end of some answers.
#[derive(Clone, Debug)]
struct End {
    plugin: Rc<Plugin>,
    reason: InvalidationReason,
    /// If set, all answers about the token's user end as well.
    ends_owner: bool,
    /// It removed an answer in another VM.
    removed_answer: bool,
    /// The moment from which on it acts.
    at: Instant,
    /// The moment before which it acts again and again.
    until: Instant,
}

/// The last end of a subject.
#[derive(Debug)]
struct Recent {
    subject: Subject,
    /// Until then a further one waits for a tick.
    until: Instant,
    /// One of its ends removed an answer. An end costs a question only then, or if MAS was just being asked.
    removed_answer: bool,
    /// It waits.
    waiting: Option<End>,
}

/// The ends of a while.
#[derive(Debug, Default)]
pub(super) struct SessionEnds {
    recents: Vec<Recent>,
    /// Which handover of other VMs was last found.
    found: u32,
}

impl SessionEnds {
    /// Ends a session, now or at the next tick. It acts more than once if MAS's reply was not heard.
    pub fn end<H: Backend, W>(
        &mut self,
        cb: &Callback<'_, H>,
        resolver: &mut Resolver<W>,
        plugin: &Rc<Plugin>,
        ending: &Ending,
        reply: MasReply,
    ) {
        let (token, reason, user, is_all) = match ending {
            Ending::Logout(token) => (token, InvalidationReason::Logout, None, false),
            Ending::LogoutAll(token, user) => (token, InvalidationReason::Logout, *user, true),
            Ending::Revocation(token) => (token, InvalidationReason::Revocation, None, false),
        };
        let now = cb.now();
        let end = End {
            plugin: Rc::clone(plugin),
            reason,
            ends_owner: is_all && user.is_none(),
            removed_answer: false,
            at: now,
            until: match reply {
                MasReply::Ended => now,
                MasReply::Unheard => now + REPETITION,
            },
        };
        self.act_on_all(cb, resolver, Subject::Token(*token), user, end);
    }

    /// Lets the ends act that wait, and forgets those that are too old to matter.
    pub fn on_tick<H: Backend, W>(&mut self, cb: &Callback<'_, H>, resolver: &mut Resolver<W>) {
        let now = cb.now();
        let mut due = Vec::new();
        self.recents.retain_mut(|recent| {
            let Some(end) = recent.waiting.take_if(|end| end.at <= now) else {
                return now < recent.until;
            };
            // It keeps its place.
            recent.until = now;
            due.push((recent.subject, end));
            true
        });
        for (subject, end) in due {
            self.act_on_all(cb, resolver, subject, None, end);
        }
    }

    /// Lets act what other VMs have left, and takes it over. It acts again with the next tick and later where no other worker
    /// has been faster.
    pub fn take_over<H: Backend, W>(
        &mut self,
        cb: &Callback<'_, H>,
        resolver: &mut Resolver<W>,
        plugin: &Rc<Plugin>,
    ) {
        let Some(incoming) = Incoming::find(cb.host) else {
            return;
        };
        if incoming.number() == self.found {
            return;
        }
        // Where it cannot be taken it acts only once.
        self.found = incoming.number();
        let now = cb.now();
        // It acts before it is taken, see `handover`.
        self.act_on_incoming(cb, resolver, plugin, &incoming, |_| now);
        if incoming.take(cb.host).is_ok() {
            self.act_on_incoming(cb, resolver, plugin, &incoming, |end| end.until);
        }
    }

    /// Lets all of a handover act, each end now and again and again before the moment that `until` gives it.
    fn act_on_incoming<H: Backend, W>(
        &mut self,
        cb: &Callback<'_, H>,
        resolver: &mut Resolver<W>,
        plugin: &Rc<Plugin>,
        incoming: &Incoming,
        until: impl Fn(&HandedOverEnd) -> Instant,
    ) {
        for other in incoming.ends() {
            let end = End {
                plugin: Rc::clone(plugin),
                reason: other.reason,
                ends_owner: other.ends_owner,
                removed_answer: other.removed_answer,
                at: cb.now(),
                until: until(&other),
            };
            self.act_on_all(cb, resolver, other.subject, None, end);
        }
    }

    /// Hands what waits over to another VM, since this one goes. Ends that removed no answer have half of the room.
    pub fn leave(&self, store: &impl Store) {
        let all = self.recents.iter().filter_map(Recent::handed_over);
        let (removing, others): (Vec<_>, Vec<_>) = all.partition(|end| end.removed_answer);
        for (ends, max) in [(removing, 2 * MAX_ENDS), (others, MAX_ENDS)] {
            let mut outgoing = Outgoing::default();
            ends.iter().for_each(|end| outgoing.add(end));
            if let Err(error) = outgoing.leave(store, max) {
                error.log("a logout without an answer may not act again");
            }
        }
    }

    /// Ends answers, and all of the user's as well: `user` is that one, or else the owner of the token, if those are to end.
    fn act_on_all<H: Backend, W>(
        &mut self,
        cb: &Callback<'_, H>,
        resolver: &mut Resolver<W>,
        subject: Subject,
        user: Option<UserKey>,
        end: End,
    ) {
        let mut of_user = end.clone();
        of_user.ends_owner = false;
        let ends_owner = end.ends_owner;
        let owner = self.act(cb, resolver, subject, end);
        if let Some(user) = user.or(owner.filter(|_| ends_owner)) {
            self.act(cb, resolver, Subject::User(user), of_user);
        }
    }

    /// Ends answers now, or notes that they end at the next tick. Returns whose token it was, if that is known.
    fn act<H: Backend, W>(
        &mut self,
        cb: &Callback<'_, H>,
        resolver: &mut Resolver<W>,
        subject: Subject,
        mut end: End,
    ) -> Option<UserKey> {
        let now = cb.now();
        let cache = &end.plugin.upstream.cache;
        let mut recents = self.recents.iter_mut();
        match recents.find(|recent| recent.subject == subject) {
            Some(recent) if now < recent.until => {
                // Whose token it is may not be known any longer at the tick.
                let owner = match &subject {
                    Subject::Token(token) => cache
                        .lookup_stale(cb.host, token, now)
                        .and_then(|known| known.user),
                    Subject::User(_) => None,
                };
                if let Some(other) = &recent.waiting {
                    end.ends_owner |= other.ends_owner;
                    end.until = end.until.max(other.until);
                }
                recent.waiting = Some(end);
                owner
            }
            recent => {
                let everything = Revocation::AllExcept(Vec::new());
                let what = match &subject {
                    Subject::Token(token) => Invalidation::Token(token),
                    Subject::User(user) => Invalidation::User(user, &everything),
                };
                let removed = resolver.invalidate(cb, cache, what, end.reason);
                let until = now + SPACING;
                let mut last = Recent {
                    subject,
                    until,
                    removed_answer: end.removed_answer
                        || removed.is_some()
                        || matches!(subject, Subject::User(_)),
                    waiting: end.again(until),
                };
                if let Some(recent) = recent {
                    last.removed_answer |= recent.removed_answer;
                    *recent = last;
                } else {
                    self.remember(last);
                }
                removed.and_then(|removed| removed.user)
            }
        }
    }

    /// Remembers one more. Among as many as there may be, it takes the place of one that removed no answer.
    fn remember(&mut self, recent: Recent) {
        if self.recents.len() < MAX_ENDS {
            self.recents.push(recent);
        } else if recent.removed_answer
            && let Some(other) = self.recents.iter_mut().find(|other| other.gives_way())
        {
            *other = recent;
        }
    }
}

impl Recent {
    /// Its end as another VM gets it, if it waits.
    fn handed_over(&self) -> Option<HandedOverEnd> {
        let end = self.waiting.as_ref()?;
        Some(HandedOverEnd {
            subject: self.subject,
            reason: end.reason,
            ends_owner: end.ends_owner,
            removed_answer: self.removed_answer,
            until: end.until,
        })
    }

    /// It removed no answer, and nothing waits but perhaps its own repetition.
    fn gives_way(&self) -> bool {
        !self.removed_answer && self.waiting.as_ref().is_none_or(|end| end.at >= self.until)
    }
}

impl End {
    /// Its repetition at that moment, if there is to be one.
    fn again(self, at: Instant) -> Option<Self> {
        (at < self.until).then_some(Self { at, ..self })
    }
}
