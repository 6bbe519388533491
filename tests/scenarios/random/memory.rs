//! What must be remembered to check the rules.

use std::collections::BTreeMap;

use matrix_edge_auth::host::{RootId, StreamId};

use super::{
    Deafness, EndKind, NEGATIVE_TTL, ROOMY, SESSIONS, Scenario, SessionEnd, TTL,
    mas::{Moment, TOKENS, Told, Verdict},
    rules::{BETWEEN_TICKS, DOUBT, LEASE, LOOK_LASTS, SPACING},
};

/// A request that is not decided.
#[derive(Clone, Copy)]
pub struct Open {
    pub session: usize,
    pub since: Moment,
    pub asker: Asker,
    /// Its place among the charges of its source.
    pub charge: Option<usize>,
    /// How long an answer holds for it, and an answer of "inactive".
    pub ttl: u64,
    pub negative_ttl: u64,
}

/// Who waits, and for what.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Asker {
    /// A client, to be let through.
    Client,
    /// The homeserver, for an answer.
    Homeserver,
    /// A client that ends all sessions of its user.
    LogoutAll,
}

/// A call whose answer never comes.
pub struct Lost {
    pub worker: usize,
    pub root: RootId,
    pub session: usize,
    /// When the worker gives it up.
    pub until: u64,
    /// It counts as under way until then.
    pub is_counted: bool,
    /// Whoever waits is told of a failure then. A call that went with its root is made again, unless it
    /// would have been given up at the next tick.
    pub fails: bool,
}

/// A call whose connection failed, and which a tick is to repeat.
#[derive(Clone)]
pub struct Repeat {
    /// When it was sent.
    pub sent_at: u64,
    pub root: RootId,
    /// What it was sent with. A call with another secret is no repeat.
    pub secret: Option<String>,
    /// Its tick has come.
    pub is_due: bool,
}

impl Lost {
    pub fn new(worker: usize, root: RootId, session: usize, until: u64) -> Self {
        Self {
            worker,
            root,
            session,
            until,
            is_counted: true,
            fails: true,
        }
    }
}

/// No worker's number: what its VM has left waits for any other.
const LEFT: usize = usize::MAX;

/// What is remembered of one token.
#[derive(Default)]
pub struct Memory {
    /// The answer that the shared cache holds for certain.
    pub kept: Option<Kept>,
    /// When something last made the edge forget answers about it.
    pub forgotten_at: u64,
    /// Since then, answers of "active" from before no longer count.
    pub ends: Vec<Change>,
    /// When each worker was last told by a client that it ends.
    pub ended_at: BTreeMap<usize, u64>,
    /// When a worker listened to a refusal of the homeserver. Answers of "active" to questions from before are doubted.
    pub doubts: Vec<Moment>,
    /// Since then, answers of "inactive" from before no longer count.
    pub revivals: Vec<Change>,
    /// When a call last failed.
    pub failed: Option<Moment>,
    /// When the last call that failed was sent.
    pub failed_call: Option<u64>,
    /// When a call was last under way.
    pub attended_at: u64,
    /// When a call last went with its root, and left its lease behind.
    pub orphaned_at: u64,
}

impl Memory {
    /// A call has gone with its root. If its lease was void, the next call's is too.
    pub fn orphan(&mut self, now: Moment) {
        self.orphaned_at = now.at;
    }

    /// A call is given up whose answer never came.
    pub fn give_up(&mut self, now: Moment) {
        self.attended_at = now.at;
    }
}

/// An answer in the shared cache.
#[derive(Clone, Copy)]
pub struct Kept {
    /// The step of its coming.
    since: u64,
    pub is_active: bool,
    /// Of an answer of "inactive": its user is known.
    has_user: bool,
    pub until: u64,
}

/// A change in MAS that the edge was told of.
pub struct Change {
    pub told: Moment,
    pub changed: Moment,
    /// It was told by an answer of "inactive".
    pub by_answer: bool,
    /// It is a further end of a session at this worker, and counts from its next tick on. Or it was [left](LEFT).
    pub waits_at: Option<usize>,
}

/// Notes of what is about to happen.
impl Scenario {
    pub(super) fn note_answer(&mut self, number: usize) {
        let now = self.now();
        let (session, sent_at) = {
            let answer = &self.mas.answers[number];
            (answer.session, answer.sent_at)
        };
        let is_older = self.mas.answers.iter().any(|other| {
            let is_verdict = !matches!(other.verdict, Verdict::Fault(..));
            let is_later = other.session == session && other.sent_at > sent_at;
            is_verdict && is_later && other.delivered.is_some()
        });
        let answer = &mut self.mas.answers[number];
        answer.delivered = Some(now);
        let memory = &mut self.memory[answer.session];
        let is_active = matches!(answer.verdict, Verdict::Active { .. });
        let may_count = if is_active { LOOK_LASTS } else { 1 };
        let is_outdated = is_older
            || memory.forgotten_at + may_count > answer.sent_at
            || memory.orphaned_at + LEASE + BETWEEN_TICKS > answer.sent_at;
        let kept = match &answer.verdict {
            Verdict::Fault(..) => {
                memory.failed = Some(now);
                memory.failed_call = Some(answer.sent_at);
                return;
            }
            Verdict::Active { left, .. } => Kept {
                since: now.step,
                is_active: true,
                has_user: true,
                until: answer.sent_at + left.as_ref().map_or(TTL, |left| TTL.min(left.at_least)),
            },
            Verdict::Inactive => {
                if !is_outdated {
                    memory.ends.push(Change {
                        told: now,
                        changed: answer.computed,
                        by_answer: true,
                        waits_at: None,
                    });
                }
                Kept {
                    since: now.step,
                    is_active: false,
                    has_user: memory.kept.is_some_and(|kept| kept.is_active),
                    until: answer.sent_at + NEGATIVE_TTL,
                }
            }
        };
        answer.is_kept = !is_outdated;
        memory.kept = Some(kept).filter(|kept| !is_outdated && now.at < kept.until);
    }

    /// MAS tells the homeserver, or the homeserver agrees.
    pub(super) fn note_told(&mut self, told: &Told) {
        for (session, (_, user, _)) in TOKENS.iter().enumerate() {
            let is_of_user = told.inactive_of.as_ref() == Some(user);
            if told.active[session] {
                self.forget(session, true);
                self.note_end(session, None);
            }
            if is_of_user {
                self.note_revival(session);
            }
            let kept = self.memory[session].kept;
            let is_negative = kept.is_some_and(|kept| !kept.is_active);
            let has_user = kept.is_some_and(|kept| kept.has_user);
            if is_of_user || (is_negative && !has_user && told.inactive_of.is_some()) {
                self.forget(session, false);
            }
            if told.inactive_of.is_some() {
                // An answer of "inactive" that is on its way is of an unknown user.
                let now = self.now();
                let memory = &mut self.memory[session];
                memory.forgotten_at = now.at;
                memory.kept = memory.kept.filter(|kept| kept.since < now.step);
                // One that comes in this very step may be asked for again, and then ends nothing.
                let holds = |end: &Change| !end.by_answer || end.told.step < now.step;
                memory.ends.retain(holds);
                self.void_just_coming(session);
            }
            if self.settings.has_neighbours {
                // A record that is displaced voids everything of both users.
                self.forget(session, true);
                self.forget(session, false);
            }
        }
    }

    /// A request that ends sessions goes on. If it ends all of a user, notes whether the edge knows the user for
    /// certain: from the cache, or because nothing else can have ended its waiting.
    pub(super) fn note_identified(&mut self, worker: usize, stream: StreamId, request: Open) {
        let Open { session, since, .. } = request;
        let now = self.now();
        let has_waited = since.step < now.step;
        assert!(
            has_waited
                || self.settings.is_crowded
                || self.may_know(session)
                || self.has_reason_to_fail(worker, request),
            "MAS is asked whose sessions end"
        );
        let is_kept = self.memory[session].kept.is_some_and(|kept| {
            let is_known = kept.since < now.step || has_waited && kept.since == now.step;
            is_known && kept.is_active && now.at + 1_000 < kept.until
        });
        let is_certain = is_kept
            && self.settings.slots == ROOMY
            && !self.settings.is_crowded
            && !self.settings.is_varied
            && now.at - since.at < self.settings.timeout
            && !self.has_reason_to_fail(worker, request);
        let mut ends = self.session_ends.iter_mut();
        let end = ends.find(|end| (end.worker, end.stream) == (worker, stream));
        end.expect("a session end").knows_user = is_certain;
    }

    /// Whether any cache may hold an answer about a token, or its source may have no budget left to ask.
    fn may_know(&self, session: usize) -> bool {
        let oldest = TTL.max(NEGATIVE_TTL) + self.settings.stale;
        let now = self.now().at;
        let expiry = self.mas.sessions[session].expires_at;
        let mut answers = self.mas.answers.iter();
        self.settings.budget.is_some()
            || expiry.is_some_and(|expiry| now + 1_000 >= expiry)
            || answers.any(|answer| answer.session == session && answer.sent_at + oldest > now)
    }

    pub(super) fn note_session_end(&mut self, end: SessionEnd) {
        self.forget(end.session, true);
        self.note_end(end.session, Some(end.worker));
        if end.kind == EndKind::LogoutAll {
            // If it is known whose token it was, everything is forgotten of the user.
            for (other, (_, user, _)) in TOKENS.iter().enumerate() {
                self.forget(other, true);
                self.forget(other, false);
                if end.knows_user && *user == TOKENS[end.session].1 {
                    self.note_end(other, Some(end.worker));
                }
            }
        }
    }

    /// MAS has answered a logout with 401. The edge listens if it knows the token, which is not certain.
    pub(super) fn note_unknown_at_logout(&mut self, end: SessionEnd) {
        let now = self.now().at;
        let deafness = self.deafness.entry((end.worker, end.session)).or_default();
        if !deafness.may_end_by(now) {
            return;
        }
        *deafness = Deafness {
            until: now + DOUBT,
            is_certain: false,
        };
        self.forget(end.session, true);
    }

    /// The edge may doubt what is kept, or not.
    pub(super) fn may_forget(&mut self, session: usize) {
        self.forget(session, true);
    }

    pub(super) fn note_refusal(&mut self, session: usize) {
        let now = self.now();
        self.forget(session, true);
        self.memory[session].doubts.push(now);
    }

    /// The edge may forget this kind of answer.
    fn forget(&mut self, session: usize, active: bool) {
        let now = self.now();
        let memory = &mut self.memory[session];
        memory.forgotten_at = now.at;
        let remains = |kept: &Kept| kept.is_active != active && kept.since < now.step;
        memory.kept = memory.kept.filter(remains);
        self.void_just_coming(session);
    }

    /// An answer that comes in this very step may be void.
    fn void_just_coming(&mut self, session: usize) {
        let step = self.now().step;
        let answers = self.mas.answers.iter_mut();
        for answer in answers.filter(|answer| answer.session == session) {
            answer.is_kept &= answer
                .delivered
                .is_none_or(|delivered| delivered.step < step);
        }
    }

    /// A worker comes to its tick.
    pub(super) fn let_ends_act(&mut self, worker: usize) {
        let now = self.now();
        let has_timer = self.members[worker].worker.borrow().timers() > 0;
        let ends = self.memory.iter_mut().flat_map(|memory| &mut memory.ends);
        for end in ends {
            if end.waits_at == Some(worker) {
                end.told = now;
                end.waits_at = None;
            } else if end.waits_at == Some(LEFT) && has_timer {
                // Another end of the session may have come to the worker that takes it over.
                end.told = now;
                end.told.at += SPACING + BETWEEN_TICKS;
                end.waits_at = None;
            }
        }
        for session in 0..SESSIONS {
            let ended_at = self.memory[session].ended_at.get(&worker);
            if ended_at.is_some_and(|ended_at| now.at < ended_at + SPACING + BETWEEN_TICKS) {
                self.forget(session, true);
            }
        }
    }

    /// A worker at which an end waits for a tick.
    pub(super) fn waiting_end(&self) -> Option<usize> {
        let mut ends = self.memory.iter().flat_map(|memory| &memory.ends);
        ends.find_map(|end| end.waits_at.filter(|worker| *worker != LEFT))
    }

    /// A worker's VM goes, and leaves the ends that waited there to whichever worker comes to its tick.
    pub(super) fn leave_ends(&mut self, worker: usize) {
        for memory in &mut self.memory {
            let ends = memory.ends.iter_mut();
            for end in ends.filter(|end| end.waits_at == Some(worker)) {
                end.waits_at = Some(LEFT);
            }
            memory.ended_at.remove(&worker);
        }
    }

    /// A worker is lost, and the ends with it that waited there.
    pub(super) fn lose_ends(&mut self, worker: usize) {
        for memory in &mut self.memory {
            memory.ends.retain(|end| end.waits_at != Some(worker));
            memory.ended_at.remove(&worker);
        }
    }

    /// MAS tells of an end, or a client does, at a worker.
    fn note_end(&mut self, session: usize, worker: Option<usize>) {
        let told = self.now();
        let last = worker.and_then(|worker| {
            let ended_at = &mut self.memory[session].ended_at;
            ended_at.insert(worker, told.at)
        });
        let is_further = last.is_some_and(|last| told.at < last + SPACING + BETWEEN_TICKS);
        let now = &self.mas.sessions[session];
        if !now.stands {
            let changed = now.stands_since;
            self.memory[session].ends.push(Change {
                told,
                changed,
                by_answer: false,
                waits_at: worker.filter(|_| is_further),
            });
        }
    }

    fn note_revival(&mut self, session: usize) {
        let told = self.now();
        let now = &self.mas.sessions[session];
        if now.stands {
            let changed = now.stands_since;
            self.memory[session].revivals.push(Change {
                told,
                changed,
                by_answer: false,
                waits_at: None,
            });
        }
    }
}
