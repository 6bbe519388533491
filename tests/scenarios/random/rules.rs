//! The rules.
//!
//! What happens in one step counts as happening at once: where its order matters, the rules are lenient.
//! In a crowded scenario leases, calls and waits end at any time, since their worker may be busy. There the rules about
//! who is served what hold all the same, and those about how often MAS is asked and how long a client waits do not.

use std::collections::{BTreeSet, btree_map::Entry};

use matrix_edge_auth::host::StreamId;
use serde_json::Value;

use super::{
    ROOMY, Scenario, TTL, WINDOW,
    mas::{Answer, Moment, SESSIONS, TOKENS, Verdict, session_of},
    memory::{Asker, Open},
};
use crate::{not_active, simulated::Fate, unable};

/// How long after an invalidation an answer may still be served, by contract.
const INVALIDATION: u64 = 1_000;

/// How long an active answer serves after it has come, however long it took: other workers wait for it.
const HANDED_OVER: u64 = 500;

/// Roles with a cap of their own: the gateway and the introspection role.
const ASKING_ROLES: usize = 2;

/// After a call's timeout its answer counts as lost.
pub const LOST_AFTER: u64 = 500;

/// How long a lease holds that is not renewed.
pub const LEASE: u64 = 1_000;

/// An end or a refusal so short before a question may count as one that came while MAS was asked: the token is asked about again.
/// A worker that has just begun to use a table of a new size may keep an answer there that is not found for so long.
pub const LOOK_LASTS: u64 = 250;

/// How long nobody asks again after a call was sent that failed.
const BACKOFF: u64 = LEASE;

/// Longest that a question waits for a free call: ticks that are late count as if they were not.
const QUEUED: u64 = 4 * BETWEEN_TICKS;

/// Longest time between two ticks of a worker.
pub const BETWEEN_TICKS: u64 = 475;

/// How long after an end at a worker a further one of the same session waits there for the next tick.
pub const SPACING: u64 = 1_000;

/// Less than this is no time in which MAS's word of a revival counts for an answer that is on its way.
const BRIEF_CALL: u64 = 250;

/// A second answer that is void serves nobody if its call took so long.
const HEARD_WITHIN: u64 = 1_000;

/// Longest that a request waits while nobody asks: until the lease has run out twice at the most.
const UNATTENDED: u64 = 2 * LEASE + BETWEEN_TICKS;

/// An active answer is renewed this long before its end.
const RENEWAL: u64 = TTL / 10;

/// How long another refusal of a token by the homeserver says nothing new to a worker.
pub const DOUBT: u64 = 10_000;

/// What must hold after every step.
impl Scenario {
    pub(super) fn check(&mut self) {
        self.check_calls();
        let open = std::mem::take(&mut self.open);
        for ((worker, stream), request) in open {
            if self.is_undecided(worker, stream, request) {
                self.open.insert((worker, stream), request);
            }
        }
        let now = self.now();
        for member in &mut self.members {
            let worker = member.worker.borrow();
            if std::mem::replace(&mut member.queues, worker.queues()) != worker.queues() {
                // A queue may come with messages from before.
                member.messages_read = Moment::default();
            }
            if member.reachable_since.is_some() && !worker.has_messages() {
                member.messages_read = now;
            }
            let local = worker.local_entries();
            assert!(
                local <= self.settings.local_entries,
                "a worker's own cache is bounded"
            );
        }
    }

    fn check_calls(&mut self) {
        let now = self.now();
        let cap = self.settings.max_in_flight;
        let mut asked = [0; SESSIONS];
        for at in 0..self.members.len() {
            let calls = self.members[at].worker.borrow().calls();
            let lost = self
                .lost
                .iter()
                .filter(|lost| lost.worker == at && lost.is_counted);
            let (known, uncertain) = lost.fold((0, 0), |(known, all), lost| {
                (known + usize::from(now.at < lost.until), all + 1)
            });
            // Those that a tick has just repeated are among the calls.
            let waiting = self.to_repeat.iter();
            let waiting = waiting.filter(|((worker, _), it)| *worker == at && !it.is_due);
            let waiting = waiting.count();
            // A quarter more, for tokens that were active lately.
            assert!(
                calls.len() + waiting + known <= ASKING_ROLES * (cap + cap.div_ceil(4)),
                "the cap on calls in flight is kept"
            );
            let has_never_been_active = |session: usize| {
                let mut answers = self.mas.answers.iter();
                !answers.any(|answer| {
                    answer.session == session && matches!(answer.verdict, Verdict::Active { .. })
                })
            };
            let unknown = calls
                .iter()
                .filter(|call| has_never_been_active(session_of(&call.body)));
            assert!(
                unknown.count() <= ASKING_ROLES * cap,
                "the cap on calls about unknown tokens is kept"
            );
            if calls.len() + waiting + uncertain >= cap {
                self.full = Some(now);
            }
            for call in calls {
                let session = session_of(&call.body);
                asked[session] += 1;
                if call.id > self.members[at].newest_call {
                    self.show(|| format!("  worker {at} asks about {session}: {:?}", call.id));
                    self.members[at].newest_call = call.id;
                    let secret = call.secret();
                    let waiting = self.to_repeat.entry((at, session));
                    if let Entry::Occupied(repeat) = waiting
                        && repeat.get().secret == secret
                    {
                        let repeat = repeat.remove();
                        self.repeated.insert((at, call.id), repeat.sent_at);
                    } else if !self.settings.is_crowded {
                        self.check_reason_to_ask(session, now.at);
                    }
                }
            }
        }
        // A busy worker may be given time back.
        let timeout = self.settings.timeout;
        let is_crowded = self.settings.is_crowded;
        self.to_repeat.retain(|_, repeat| {
            let is_over = now.at >= repeat.sent_at + timeout;
            assert!(
                !repeat.is_due || is_over || is_crowded,
                "a call whose connection failed is repeated"
            );
            !repeat.is_due
        });
        for (_, session) in self.to_repeat.keys() {
            asked[*session] += 1;
        }
        for (memory, asked) in self.memory.iter_mut().zip(asked) {
            assert!(
                asked <= 1 || self.settings.is_crowded,
                "one call per token in the whole process"
            );
            if asked > 0 {
                memory.attended_at = now.at;
            }
        }
    }

    fn check_reason_to_ask(&self, session: usize, now: u64) {
        let failed = self.memory[session].failed_call;
        assert!(
            failed.is_none_or(|sent_at| now >= sent_at + BACKOFF) || self.settings.has_secrets,
            "a second between a call that fails and the next"
        );
        let Some(kept) = self.memory[session].kept else {
            return;
        };
        let renews = kept.is_active && self.settings.refresh_ahead;
        let until = kept.until - if renews { RENEWAL } else { 0 };
        assert!(
            now >= until || self.settings.slots < ROOMY || self.settings.is_varied,
            "one answer per token and TTL: about {session} at {now}, kept until {until}"
        );
    }

    fn is_undecided(&mut self, worker: usize, stream: StreamId, request: Open) -> bool {
        let Open { session, since, .. } = request;
        let now = self.now();
        let fate = self.members[worker].worker.borrow().fate(stream);
        let is_client = request.asker == Asker::Client;
        match fate {
            Fate::Held if self.settings.is_crowded => return true,
            Fate::Held => {
                assert!(
                    now.at - since.at < self.settings.patience(),
                    "nobody waits past the deadline"
                );
                self.check_reason_to_wait(worker, request);
                return true;
            }
            fate if request.asker == Asker::LogoutAll => {
                let expected = Fate::forwarded_unannotated();
                assert_eq!(fate, expected, "a logout from everywhere goes on");
                self.note_identified(worker, stream, request);
            }
            Fate::Forwarded { user_id, device_id } if is_client => {
                let identity = (user_id, device_id.as_deref());
                let expected = (Some(self.mas.user_id(session)), TOKENS[session].2);
                assert_eq!(identity, expected, "an identity is that of the token");
                let seen = self.members[worker]
                    .worker
                    .borrow()
                    .seen_by_homeserver(stream);
                let number = std::str::from_utf8(seen.value("x-client").unwrap()).unwrap();
                self.check_active(request, number.parse().unwrap());
                if self.rng.u32(..8) == 0 {
                    self.forwarded.push((worker, stream, session));
                }
            }
            Fate::Forwarded { .. } => {
                // In the last second of its life MAS itself speaks of a token.
                let expiry = self.mas.sessions[session].expires_at;
                let ends = expiry.is_some_and(|expiry| {
                    now.at + 1_500 + self.settings.timeout + LOST_AFTER >= expiry
                });
                let is_full = self.full.is_some_and(|full| full.at >= request.since.at);
                assert!(
                    ends || is_full
                        || self.settings.is_crowded
                        || self.was_outdated(worker, request),
                    "the homeserver's question is answered: about {session}, at worker {worker} since {since:?}"
                );
            }
            Fate::Replied(200, body) => self.check_body(request, &body),
            fate if fate == not_active() => self.check_inactive(request, false),
            Fate::Replied(429, _) if self.settings.is_crowded => {}
            Fate::Replied(429, _) => self.check_budget(request),
            Fate::Replied(503, body) => {
                let expected = if is_client { unable() } else { unavailable() };
                assert_eq!(Fate::Replied(503, body), expected);
                self.check_reason_to_fail(worker, request);
            }
            fate => panic!("{fate:?}"),
        }
        false
    }

    /// An answer of "active" is served.
    fn check_active(&self, request: Open, number: usize) {
        let Open {
            session,
            since,
            ttl,
            ..
        } = request;
        let answer = &self.mas.answers[number];
        assert_eq!(answer.session, session, "an identity is that of the token");
        assert!(answer.delivered.is_some(), "active only if MAS said so");
        let has_failed =
            |failed: Option<Moment>| failed.is_some_and(|failed| failed.at >= answer.sent_at);
        // An answer from before an end or a refusal is taken out or doubted as soon as it is in. Another worker may read
        // it just then.
        let is_just_coming = answer
            .delivered
            .is_some_and(|delivered| delivered.step == since.step);
        let mut doubts = self.memory[session].doubts.iter();
        let is_doubted = !is_just_coming
            && doubts.any(|doubt| since.at > doubt.at + INVALIDATION && answer.sent_at < doubt.at);
        assert!(
            !is_doubted
                || has_failed(self.memory[session].failed)
                || has_failed(self.full)
                // Another worker may have told of an earlier failure late, or was waited for too long.
                || self.members.len() > 1,
            "a doubted answer is served only where there is no other"
        );
        let ttl_end = answer.sent_at + ttl;
        let handed_over = answer.delivered.map_or(0, |came| came.at + HANDED_OVER);
        if since.at >= ttl_end.max(handed_over) {
            assert!(
                since.at < ttl_end + self.settings.stale,
                "nothing is served past its TTL: about {session}, since {since:?}, asked at {} with a TTL of {ttl} ms",
                answer.sent_at
            );
            assert!(
                // Another worker may have told of an earlier failure late.
                has_failed(self.memory[session].failed)
                    || has_failed(self.full)
                    || self.members.len() > 1,
                "stale answers only after a failure"
            );
        }
        let expiry = self.mas.sessions[session].expires_at;
        // Who has waited for the answer gets it, however long it took.
        let is_cached = answer.delivered.is_some_and(|delivered| delivered < since);
        if let (
            Verdict::Active {
                left: Some(left), ..
            },
            Some(expiry),
            true,
        ) = (&answer.verdict, expiry, is_cached)
        {
            let is_told_to_end = since.at >= answer.sent_at + left.at_least;
            let has_ended = left.is_exact && since.at >= expiry + 500;
            assert!(
                !is_told_to_end && !has_ended,
                "nothing is served past its expiry"
            );
        }
        let mut ends = self.memory[session].ends.iter();
        let ended = !self.was_asked_again(answer, since)
            && !is_just_coming
            && ends.any(|end| {
                let is_missed = end.by_answer && self.misses(answer, end.told.at);
                let is_told = since.at > end.told.at + INVALIDATION && end.waits_at.is_none();
                is_told && !is_missed && answer.computed < end.changed
            });
        assert!(!ended, "nothing is served long after an invalidation");
    }

    /// A token is called inactive, to a client or to the homeserver, which keeps what it is told.
    fn check_inactive(&self, request: Open, is_kept: bool) {
        let Open {
            session,
            since,
            negative_ttl,
            ..
        } = request;
        let expiry = self.mas.sessions[session].expires_at;
        if expiry.is_some_and(|expiry| self.now().at >= expiry) {
            return;
        }
        let said = |answer: &Answer| matches!(answer.verdict, Verdict::Inactive);
        let answers = self
            .mas
            .answers
            .iter()
            .filter(|answer| answer.session == session);
        let inactive: Vec<_> = answers
            .clone()
            .filter(|answer| said(answer) && answer.delivered.is_some())
            // Who has waited for the answer gets it, however long it took.
            .filter(|answer| {
                since.at < answer.sent_at + negative_ttl || answer.delivered >= Some(since)
            })
            .collect();
        assert!(
            !inactive.is_empty(),
            "401 only if MAS said inactive or the expiry has passed"
        );
        // It serves who has waited for it.
        let is_brief = |answer: &Answer| {
            answer.delivered.is_some_and(|delivered| {
                delivered >= since && delivered.at < answer.sent_at + BRIEF_CALL
            })
        };
        let revoked = |answer: &Answer| {
            !self.was_asked_again(answer, since)
                && (is_kept || !is_brief(answer))
                && self.memory[session].revivals.iter().any(|revival| {
                    revival.told.step < since.step && answer.computed < revival.changed
                })
        };
        let inactive: Vec<_> = inactive
            .into_iter()
            .filter(|answer| !revoked(answer))
            .collect();
        assert!(!inactive.is_empty(), "no 401 after MAS told of a revival");
        let active = answers.filter(|answer| !said(answer) && answer.is_kept);
        let earlier: Vec<_> = active
            .filter(|answer| answer.delivered.is_some_and(|delivered| delivered < since))
            .collect();
        let is_newest = |inactive: &&Answer| {
            earlier.iter().all(|active| {
                let is_missed = active
                    .delivered
                    .is_some_and(|delivered| self.misses(inactive, delivered.at));
                is_missed
                    || inactive.delivered >= active.delivered && inactive.sent_at >= active.sent_at
            })
        };
        assert!(
            inactive.iter().any(is_newest),
            "no 401 after MAS said active"
        );
    }

    /// Whether what MAS says at that moment may not reach an earlier answer: one that was just kept in a table of a new size.
    fn misses(&self, earlier: &Answer, at: u64) -> bool {
        let kept = earlier.delivered;
        self.settings.is_varied && kept.is_some_and(|kept| at < kept.at + LOOK_LASTS)
    }

    /// An answer is asked for again once at the most. The second serves those who have waited, even if
    /// it is outdated too.
    fn was_asked_again(&self, answer: &Answer, since: Moment) -> bool {
        let orphaned_at = self.memory[answer.session].orphaned_at;
        let is_outdated = |first: &Answer| {
            let is_followed = first.delivered.is_some_and(|delivered| {
                // The second call may have gone with its root, and been made anew.
                let is_anew = (delivered.at..=answer.sent_at).contains(&orphaned_at);
                delivered.at == answer.sent_at || is_anew
            });
            first.session == answer.session && !first.is_kept && is_followed
        };
        answer.delivered >= Some(since) && self.mas.answers.iter().any(is_outdated)
    }

    /// Whether MAS has told of users in both calls about a token, so that the second answer serves no homeserver, and no client
    /// if the call took a second. A worker that waits for another one's answer may hear of that late. It leaves the homeserver's
    /// question to MAS also if the answer was void when it heard of it.
    fn was_outdated(&self, worker: usize, request: Open) -> bool {
        let Open { session, since, .. } = request;
        let is_homeserver = request.asker == Asker::Homeserver;
        let heard = self.members[worker].messages_read.step;
        let forgotten_at = self.memory[session].forgotten_at;
        self.mas.answers.iter().any(|answer| {
            let is_void = answer.worker != worker && answer.sent_at <= forgotten_at;
            let is_of_second = !answer.is_kept && self.was_asked_again(answer, Moment::default());
            answer.session == session
                && (is_of_second || is_homeserver && is_void)
                && answer.delivered.is_some_and(|delivered| {
                    let is_late = delivered.at >= answer.sent_at + HEARD_WITHIN;
                    delivered.step >= heard.min(since.step) && (is_late || is_homeserver)
                })
        })
    }

    /// The homeserver gets an answer.
    fn check_body(&self, request: Open, body: &str) {
        if body == crate::INACTIVE {
            self.check_inactive(request, true);
            return;
        }
        let told: Value = serde_json::from_str(body).unwrap();
        let number: usize = told["client_id"].as_str().unwrap().parse().unwrap();
        self.check_active(request, number);
        let answer = &self.mas.answers[number];
        let Verdict::Active { body: said, left } = &answer.verdict else {
            panic!("MAS said no such thing");
        };
        let mut said = said.clone();
        if let Some(left) = left {
            said["expires_in"] = told["expires_in"].clone();
            let told = told["expires_in"].as_u64().unwrap() * 1_000;
            let now = self.now().at;
            let expiry = self.mas.sessions[request.session].expires_at.unwrap();
            let widened = left.widened + answer.delivered.unwrap().at - answer.computed.at;
            assert!(
                // Half a second by MAS's rounding, one by the edge's.
                now + told <= expiry + 1_500 + widened,
                "the life that is left is not overstated"
            );
            // The homeserver counts from now, and then says 401 by itself.
            let direct = (expiry.saturating_sub(now) + 500) / 1_000 * 1_000;
            assert!(told >= direct, "the life that is left is not understated");
        }
        assert_eq!(said.to_string(), body, "the answer is MAS's own");
    }

    /// Only distinct tokens that MAS called inactive are charged, and none of them is the request's own.
    fn check_budget(&self, request: Open) {
        let (now, source, _) = self.charges[request.charge.expect("a client's request")];
        let is_charged = |session: usize, since: Moment| {
            let expiry = self.mas.sessions[session].expires_at;
            let has_expired = expiry.is_some_and(|expiry| expiry <= now.at);
            has_expired
                || self.mas.answers.iter().any(|answer| {
                    let is_inactive = matches!(answer.verdict, Verdict::Inactive);
                    // The window begins when the client is told. A worker that waits for another one's answer may tell
                    // it as late as a lease holds, or as its question waits for a free call.
                    let latest = QUEUED.max(LEASE + BETWEEN_TICKS);
                    let is_in_window = |at: Moment| at >= since && at.at + latest + WINDOW > now.at;
                    answer.session == session
                        && is_inactive
                        && answer.delivered.is_some_and(is_in_window)
                })
        };
        let charged: BTreeSet<usize> = self
            .charges
            .iter()
            .filter(|(since, of, session)| {
                *of == source && *session != request.session && is_charged(*session, *since)
            })
            .map(|(.., session)| *session)
            .collect();
        let budget = self.settings.budget.expect("there is a budget");
        assert!(
            charged.len() >= budget,
            "429 only if so many tokens turned out inactive: {charged:?} of {budget}, {source} about {} at {now:?}",
            request.session
        );
    }

    /// Without a verdict there was a failure, a lost call, or a cap; perhaps another worker's, and perhaps up to a second
    /// before the request.
    fn check_reason_to_fail(&self, worker: usize, request: Open) {
        assert!(
            self.settings.is_crowded
                || self.has_reason_to_fail(worker, request)
                || self.now().at - request.since.at >= self.settings.patience() - BETWEEN_TICKS,
            "a 503 has a cause: worker {worker} about {}, since {:?}, now {:?}, failed {:?}, full {:?}",
            request.session,
            request.since,
            self.now(),
            self.memory[request.session].failed,
            self.full
        );
    }

    /// Whether a failure, a lost call or a cap may have left a request without a verdict.
    pub(super) fn has_reason_to_fail(&self, worker: usize, request: Open) -> bool {
        let Open { session, since, .. } = request;
        let heard = self.members[worker].messages_read.step;
        let recent = |moment: Option<Moment>| {
            moment.is_some_and(|moment| moment.step >= heard.min(since.step))
        };
        let failed = self.memory[session].failed;
        let backs_off = failed.is_some_and(|failed| failed.at + BACKOFF > since.at);
        // Who joins a question that waits in line waits with it, and is refused with it if the client who asked first has
        // spent its budget meanwhile.
        let may_have_joined = self.settings.budget.is_some()
            && self.full.is_some_and(|full| full.at + QUEUED >= since.at);
        backs_off
            || recent(failed)
            || recent(self.full)
            || may_have_joined
            || self.was_outdated(worker, request)
    }

    /// A request that waits will be told, or somebody's lease runs out.
    fn check_reason_to_wait(&self, worker: usize, Open { session, since, .. }: Open) {
        let now = self.now().at;
        let member = &self.members[worker];
        let lost = self.lost.iter().filter(|lost| lost.session == session);
        let attended_at = self.memory[session].attended_at;
        let attended_until = lost
            .map(|lost| lost.until)
            .max()
            .max(Some(attended_at))
            .unwrap();
        // A question that waits for a free call marks nobody's lease.
        let may_queue = self.full.is_some_and(|full| full.at + QUEUED >= now);
        let in_line = if may_queue { QUEUED } else { 0 };
        assert!(
            now < attended_until.max(since.at) + UNATTENDED + in_line,
            "who waits has something to wait for: worker {worker} about {session}, since {since:?}, attended until \
             {attended_until}"
        );
        let is_reachable = member
            .reachable_since
            .is_some_and(|since| since + 1_100 < attended_at);
        // Who asked may still have to hear that somebody waits.
        let mut members = self.members.iter();
        let have_heard = members.all(|member| !member.worker.borrow().has_messages());
        let is_told = is_reachable && have_heard;
        let is_certain =
            !self.settings.interferes && !may_queue && self.last_loss + 2 * UNATTENDED < now;
        assert!(
            !(is_told && is_certain && attended_at < now),
            "who waits is answered by the hint"
        );
    }

    pub(super) fn check_memory(&self) {
        let tables = 2 * self.settings.most_slots() as usize;
        let sizes_and_their_marks = 4;
        let leases = 2 * SESSIONS;
        let budgets = 4;
        let histories = SESSIONS;
        let users_and_nobody = 3;
        let lines_of_the_log = 2;
        let secrets_epoch_events_and_mark = 5;
        let bound = tables
            + sizes_and_their_marks
            + leases
            + budgets
            + histories
            + users_and_nobody
            + lines_of_the_log
            + secrets_epoch_events_and_mark
            + self.vms;
        assert!(self.process.keys() <= bound, "bounded keys");
    }
}

fn unavailable() -> Fate {
    let body = r#"{"error":"temporarily_unavailable","error_description":"Unable to introspect the token"}"#;
    Fate::Replied(503, body.to_owned())
}
