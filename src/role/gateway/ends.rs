//! What ends with a session that a client ends, and how often that may be.
//!
//! The non-obvious rule: MAS may not have ended anything. It answers 200 to the revocation of a token that it lets live, and
//! in a fleet a mirrored request says nothing of MAS's answer. Each end costs a question, so a client could make the edge
//! ask as often as it likes. So the first end of a token, or of all of a user's tokens, acts at once, and further ones
//! within [`MIN_INTERVAL`] are merged into one that acts at the next tick. Each end acts at least once.
//!
//! Where MAS has not answered, it may end the session only later, and a question in between brings an "active" that is out of
//! date. So such an end acts at once and again and again for some seconds. What still waits when the VM goes is handed over to
//! another one (`ends/handover.rs`).
//!
//! Anyone can end an invented token, so what is remembered is bounded. An end that removed no answer gives way to one that
//! did, and is repeated no more. Where there is still no room, an end acts at once and only once. `tests/scenarios/ends.rs` shows
//! the rest of it.

use alloc::{rc::Rc, vec::Vec};
use core::time::Duration;

mod ended_by;
mod handover;

pub use self::ended_by::EndedBy;
use self::handover::{EndSubject, HandedOverEnd, Incoming, Outgoing};
use crate::{
    cache::SharedCache,
    clock::Instant,
    host::{Backend, Callback, Store},
    mas::{provisioning::Voiding, user::UserKey},
    resolver::{Invalidation, Resolver},
    role::plugin::Plugin,
    token::TokenDigest,
};

/// How long after an end a further one waits for the next tick. With that tick it is a second at the most.
const MIN_INTERVAL: Duration = Duration::from_millis(750);

/// For how long an end acts again and again that MAS has not confirmed, each time after [`MIN_INTERVAL`]. It acts for the last time
/// after three seconds or more.
const REPEAT_FOR: Duration = Duration::from_millis(3_750);

/// Ends that are remembered. One takes some 100 bytes, and all of them are looked through for each end. Twice as many are left to
/// other VMs, of all workers together.
const MAX_ENDS: usize = 1_024;

/// What ends if a request succeeds.
#[derive(Debug)]
pub struct Ending {
    /// The token that logs out or is revoked.
    pub token: TokenDigest,
    /// Which of the two.
    pub by: EndedBy,
    /// What ends with it.
    pub scope: Scope,
}

/// Which sessions end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// That of the token.
    Session,
    /// All of the token's user, who is this one if that was found out.
    AllOfUser(Option<UserKey>),
}

impl Ending {
    /// The end of this token's session.
    pub fn of_session(token: TokenDigest, by: EndedBy) -> Self {
        Self {
            token,
            by,
            scope: Scope::Session,
        }
    }
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
    by: EndedBy,
    /// If set, all answers about the token's user end as well.
    ends_owner: bool,
    /// It removed an answer in another VM.
    removed_answer: bool,
    /// The moment from which on it acts.
    due_at: Instant,
    /// The moment before which it acts again and again.
    repeat_until: Instant,
}

/// The last end of a subject.
#[derive(Debug)]
struct Recent {
    subject: EndSubject,
    /// Until then a further one waits for a tick.
    deferred_until: Instant,
    /// One of its ends removed an answer. An end costs a question only then, or if MAS was just being asked.
    removed_answer: bool,
    /// Whose token it is, if an answer that was removed has told. No other answer may be there any longer as a further end comes,
    /// or none that this listener finds: its table may have another size.
    owner: Option<UserKey>,
    /// One that waits for a tick.
    deferred: Option<End>,
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
        let now = cb.now();
        let user = match ending.scope {
            Scope::Session => None,
            Scope::AllOfUser(user) => user,
        };
        let end = End {
            plugin: Rc::clone(plugin),
            by: ending.by,
            ends_owner: ending.scope == Scope::AllOfUser(None),
            removed_answer: false,
            due_at: now,
            repeat_until: match reply {
                MasReply::Ended => now,
                MasReply::Unheard => now + REPEAT_FOR,
            },
        };
        self.apply_with_owner(cb, resolver, EndSubject::Token(ending.token), user, end);
    }

    /// Lets the ends act that wait, and forgets those that are too old to matter.
    pub fn on_tick<H: Backend, W>(&mut self, cb: &Callback<'_, H>, resolver: &mut Resolver<W>) {
        let now = cb.now();
        let mut due = Vec::new();
        self.recents.retain_mut(|recent| {
            let Some(end) = recent.deferred.take_if(|end| end.due_at <= now) else {
                return now < recent.deferred_until;
            };
            // It keeps its place.
            recent.deferred_until = now;
            due.push((recent.subject, end));
            true
        });
        for (subject, end) in due {
            self.apply_with_owner(cb, resolver, subject, None, end);
        }
    }

    /// Applies the ends that other VMs have left, and takes them over. If this worker takes them first, it applies them again at
    /// later ticks.
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
        self.apply_incoming(cb, resolver, plugin, &incoming, |_| now);
        if incoming.take(cb.host).is_ok() {
            self.apply_incoming(cb, resolver, plugin, &incoming, |end| end.repeat_until);
        }
    }

    /// Applies all ends of a handover, each now and again and again before the moment that `until` gives it.
    fn apply_incoming<H: Backend, W>(
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
                by: other.by,
                ends_owner: other.ends_owner,
                removed_answer: other.removed_answer,
                due_at: cb.now(),
                repeat_until: until(&other),
            };
            self.apply_with_owner(cb, resolver, other.subject, None, end);
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
    fn apply_with_owner<H: Backend, W>(
        &mut self,
        cb: &Callback<'_, H>,
        resolver: &mut Resolver<W>,
        subject: EndSubject,
        user: Option<UserKey>,
        end: End,
    ) {
        let mut of_user = end.clone();
        of_user.ends_owner = false;
        let ends_owner = end.ends_owner;
        let owner = self.apply_or_defer(cb, resolver, subject, end);
        if let Some(user) = user.or(owner.filter(|_| ends_owner)) {
            self.apply_or_defer(cb, resolver, EndSubject::User(user), of_user);
        }
    }

    /// Ends answers now, or notes that they end at the next tick. Returns whose token it was, if that is known.
    fn apply_or_defer<H: Backend, W>(
        &mut self,
        cb: &Callback<'_, H>,
        resolver: &mut Resolver<W>,
        subject: EndSubject,
        end: End,
    ) -> Option<UserKey> {
        let now = cb.now();
        let mut recents = self.recents.iter_mut();
        match recents.find(|recent| recent.subject == subject) {
            Some(recent) if now < recent.deferred_until => {
                // Whose token it is may not be known any longer at the tick.
                let cache = &end.plugin.upstream.cache;
                let owner = recent
                    .owner
                    .or_else(|| owner_of(&subject, cb.host, cache, now));
                recent.defer(end);
                owner
            }
            recent => {
                let everything = Voiding::AllExcept(Vec::new());
                let what = match &subject {
                    EndSubject::Token(token) => Invalidation::Token(token),
                    EndSubject::User(user) => Invalidation::User(user, &everything),
                };
                let (cache, reason) = (&end.plugin.upstream.cache, end.by.into());
                let removed = resolver.invalidate(cb, cache, what, reason).flatten();
                let deferred_until = now + MIN_INTERVAL;
                let owner = removed.and_then(|removed| removed.user);
                let mut last = Recent {
                    subject,
                    deferred_until,
                    owner,
                    removed_answer: end.removed_answer
                        || removed.is_some()
                        || matches!(subject, EndSubject::User(_)),
                    deferred: end.repetition(deferred_until),
                };
                if let Some(recent) = recent {
                    last.removed_answer |= recent.removed_answer;
                    last.owner = owner.or(recent.owner);
                    // One that is due comes with the next tick all the same, and so do its repetitions.
                    if let Some(due) = recent.deferred.take() {
                        last.defer(due);
                    }
                    *recent = last;
                } else {
                    self.remember(last);
                }
                owner
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
    /// Lets a further end wait for a tick, together with one that waits already.
    fn defer(&mut self, mut end: End) {
        if let Some(other) = &self.deferred {
            end.ends_owner |= other.ends_owner;
            end.repeat_until = end.repeat_until.max(other.repeat_until);
        }
        self.deferred = Some(end);
    }

    /// Its end as another VM gets it, if it waits.
    fn handed_over(&self) -> Option<HandedOverEnd> {
        let end = self.deferred.as_ref()?;
        Some(HandedOverEnd {
            subject: self.subject,
            by: end.by,
            ends_owner: end.ends_owner,
            removed_answer: self.removed_answer,
            repeat_until: end.repeat_until,
        })
    }

    /// It removed no answer, and nothing waits but perhaps its own repetition.
    fn gives_way(&self) -> bool {
        !self.removed_answer
            && self
                .deferred
                .as_ref()
                .is_none_or(|end| end.due_at >= self.deferred_until)
    }
}

impl End {
    /// Its repetition at that moment, if there is to be one.
    fn repetition(self, due_at: Instant) -> Option<Self> {
        (due_at < self.repeat_until).then_some(Self { due_at, ..self })
    }
}

/// Returns whose token it is, as far as the shared cache still knows.
fn owner_of(
    subject: &EndSubject,
    store: &impl Store,
    cache: &SharedCache,
    now: Instant,
) -> Option<UserKey> {
    match subject {
        EndSubject::Token(token) => cache.lookup_stale(store, token, now)?.user,
        EndSubject::User(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::{
        config,
        host::{RootId, Runtime as _, fake::FakeHost},
    };

    const ROOT: RootId = RootId(1);

    fn plugin() -> Rc<Plugin> {
        Rc::new(Plugin::new(ROOT, config::tests::with(json!({}))))
    }

    fn end_at(plugin: &Rc<Plugin>, due_at: Instant) -> End {
        End {
            plugin: Rc::clone(plugin),
            by: EndedBy::Logout,
            ends_owner: false,
            removed_answer: false,
            due_at,
            repeat_until: due_at,
        }
    }

    /// Anyone can end invented tokens, and what is remembered of those makes room for the others.
    #[test]
    fn only_an_end_that_removed_nothing_and_for_which_nothing_waits_gives_way() {
        let (plugin, now) = (plugin(), Instant::from_millis(1_000_000));
        let deferred_until = now + MIN_INTERVAL;
        for (removed_answer, due_at, gives_way) in [
            (false, None, true),
            // Its own repetition, and another end.
            (false, Some(deferred_until), true),
            (false, Some(now), false),
            (true, None, false),
            (true, Some(deferred_until), false),
        ] {
            let recent = Recent {
                subject: EndSubject::Token(TokenDigest::of(b"token")),
                deferred_until,
                removed_answer,
                owner: None,
                deferred: due_at.map(|due_at| end_at(&plugin, due_at)),
            };
            assert_eq!(recent.gives_way(), gives_way, "{recent:?}");
        }
    }

    #[test]
    fn what_has_removed_an_answer_once_stays_and_so_does_the_end_of_a_user() {
        let (plugin, host) = (plugin(), FakeHost::default());
        let mut resolver = Resolver::<u32>::default();
        let token = EndSubject::Token(TokenDigest::of(b"token"));
        let user = EndSubject::User(UserKey::of("alice"));
        let mut ends = SessionEnds::default();
        ends.remember(Recent {
            subject: token,
            deferred_until: host.now(),
            removed_answer: true,
            owner: None,
            deferred: None,
        });
        for subject in [token, user] {
            let cb = Callback::new(&host, ROOT);
            ends.apply_or_defer(&cb, &mut resolver, subject, end_at(&plugin, host.now()));
        }
        let removed: Vec<_> = ends
            .recents
            .iter()
            .map(|recent| recent.removed_answer)
            .collect();
        assert_eq!(removed, [true, true]);
    }
}
