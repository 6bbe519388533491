//! The steps: what may happen to the workers.
//!
//! What a step means to the rules is noted before it is carried out. So a step of another worker can be
//! carried out in the middle of it.

use std::{cell::Cell, fmt, rc::Rc, time::Duration};

use matrix_edge_auth::{
    host::{CallId, RootId, StreamId},
    mas::introspection::IntrospectionResponse,
    worker::Plugin,
};

use super::{
    Deafness, EndKind, Role, Scenario, SessionEnd, Telling,
    mas::{Moment, SESSIONS, TOKENS, Told, Verdict, session_of},
    memory::{Asker, Lost, Open, Repeat},
    rules::{BETWEEN_TICKS, DOUBT, LOST_AFTER},
};
use crate::{
    simulated::{Call, Request, SimulatedWorker},
    whoami,
};

/// How often a worker ticks, and how much later that may be.
const TICK: u64 = 250;
const LATE: u64 = 100;

/// How long a worker waits before it repeats a call, at the least.
const RETRY_DELAY: u64 = 20;

/// Time passes in pieces of this many milliseconds at the most.
const PIECE: u64 = 125;

/// How long a worker is busy at the most: longer than any lease, call or wait lasts.
const BUSY: u64 = 8_000;

/// Where clients come from.
const SOURCES: [&str; 2] = ["192.0.2.1", "192.0.2.2"];

/// What happens to one worker.
enum Action {
    Request(Rc<Plugin>, Box<Request>, Purpose),
    Answer(CallId, Option<u16>, Option<String>, String),
    Response(StreamId, u16),
    Hints,
    Tick,
}

/// What a request is for.
#[derive(Debug)]
enum Purpose {
    Decide {
        session: usize,
        source: usize,
    },
    Answer {
        session: usize,
    },
    /// One that ends all sessions is asked about, and has a source.
    End {
        session: usize,
        kind: EndKind,
        source: usize,
    },
    Tell(Told),
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Request(_, _, purpose) => write!(f, "{purpose:?}"),
            Self::Answer(call, status, lifetime, body) => {
                write!(f, "{call:?} {status:?} {lifetime:?} {body}")
            }
            Self::Response(stream, status) => write!(f, "{stream:?} {status}"),
            Self::Hints => f.write_str("hints"),
            Self::Tick => f.write_str("tick"),
        }
    }
}

/// Carries an action out. The stream, if it is a request.
fn perform(worker: &mut SimulatedWorker, action: Action) -> Option<(StreamId, Purpose)> {
    match action {
        Action::Request(plugin, request, purpose) => {
            return Some((worker.request(&plugin, *request), purpose));
        }
        Action::Answer(call, status, lifetime, body) => {
            let response = IntrospectionResponse {
                status,
                content_type: status.map(|_| &b"application/json"[..]),
                lifetime: lifetime.as_ref().map(String::as_bytes),
                body: status.map(|_| body.as_bytes().into()),
            };
            worker.respond(call, response);
        }
        Action::Response(stream, status) => worker.response(stream, status),
        Action::Hints => drop(worker.deliver()),
        Action::Tick => worker.tick(),
    }
    None
}

impl Scenario {
    pub(super) fn take_a_step(&mut self) {
        self.step += 1;
        let worker = self.rng.usize(..self.members.len());
        // What waits for a tick waits for a moment only.
        if let Some(worker) = self.waiting_end()
            && self.rng.u32(..4) == 0
        {
            self.replace_a_vm(worker);
        }
        match self.rng.u32(..200) {
            0..80 => self.act(worker, Self::client_request),
            80..96 => self.act(worker, Self::homeserver_request),
            96..110 => self.compute(worker),
            110..142 => self.act(worker, Self::answer),
            142..146 if !self.is_busy(worker) => self.hang_up(worker),
            142..146 => {}
            146..164 => {
                self.occupy(worker);
                let millis = self.rng.u64(1..2_000);
                self.pass_time(millis);
            }
            164..169 => {
                let now = self.now();
                self.mas.change(now, &mut self.rng);
            }
            169..174 => self.act(worker, Self::tell),
            174..178 => self.act(worker, Self::session_end),
            178..184 => self.act_of_any(|scenario| scenario.response(None)),
            184..186 => self.act_of_any(Self::refusal),
            186..188 => self.lose_a_call(worker),
            188..195 => self.act(worker, |_, _| Some(Action::Hints)),
            195..197 => self.worker(worker, |worker| worker.drop_hints()),
            197..199 => self.replace_a_configuration(),
            _ if self.rng.bool() => self.replace_a_vm(worker),
            _ => self.fail_a_vm(worker),
        }
        self.check();
    }

    pub(super) fn let_everyone_be_answered(&mut self) {
        self.settings.interferes = false;
        let mut until = self.now().at + self.settings.patience() + TICK;
        if self.settings.is_crowded {
            // Calls and waits get the time back in which their worker was busy.
            until += BUSY + self.settings.patience();
        }
        while !self.open.is_empty() && self.now().at < until {
            self.pass_time(TICK);
        }
    }

    fn worker<T>(&self, worker: usize, f: impl FnOnce(&mut SimulatedWorker) -> T) -> T {
        f(&mut self.members[worker].worker.borrow_mut())
    }

    /// A worker of a crowded machine may become busy.
    fn occupy(&mut self, worker: usize) {
        if self.settings.is_crowded && self.rng.bool() {
            let millis = self.rng.u64(1..BUSY);
            self.show(|| format!("worker {worker} is busy for {millis} ms"));
            self.members[worker].busy_until = self.now().at + millis;
        }
    }

    fn is_busy(&self, worker: usize) -> bool {
        self.now().at < self.members[worker].busy_until
    }

    fn act_of_any(&mut self, choose: impl FnOnce(&mut Self) -> Option<(usize, Action)>) {
        if let Some((worker, action)) = choose(self) {
            self.carry_out(worker, action);
        }
    }

    fn act(&mut self, worker: usize, choose: impl FnOnce(&mut Self, usize) -> Option<Action>) {
        if self.is_busy(worker) {
            return;
        }
        if let Some(action) = choose(self, worker) {
            self.carry_out(worker, action);
        }
    }

    /// Carries an action out, and perhaps one of another worker in the middle of it.
    fn carry_out(&mut self, worker: usize, action: Action) {
        self.show(|| format!("worker {worker}: {action}"));
        let done = Rc::new(Cell::new(None));
        let intruder = self.intruder(worker);
        let other = intruder.as_ref().map(|(other, _)| *other);
        if let Some((other, action)) = intruder {
            self.show(|| format!("  amid it worker {other}: {action}"));
            let (at, done) = (Rc::clone(&self.members[other].worker), Rc::clone(&done));
            self.process.interfere(self.rng.usize(..12), move || {
                done.set(perform(&mut at.borrow_mut(), action));
            });
        }
        let own = self.worker(worker, |worker| perform(worker, action));
        self.process.run_interference();
        self.note_request(worker, own);
        if let Some(other) = other {
            self.note_request(other, done.take());
        }
    }

    /// A replay shows its steps.
    pub(super) fn show(&self, line: impl FnOnce() -> String) {
        if self.is_replay {
            let Moment { step, at } = self.now();
            println!("{at} {step:>4} {}", line());
        }
    }

    fn intruder(&mut self, worker: usize) -> Option<(usize, Action)> {
        if !self.settings.interferes || self.rng.bool() {
            return None;
        }
        let other = self.rng.usize(..self.members.len());
        if other == worker || self.is_busy(other) {
            return None;
        }
        let action = match self.rng.u32(..10) {
            0..3 => self.client_request(other),
            3 => self.homeserver_request(other),
            4..7 => self.answer(other),
            7 => self.tell(other),
            8 => return self.response(Some(worker)),
            _ => Some(Action::Hints),
        };
        action.map(|action| (other, action))
    }

    fn note_request(&mut self, worker: usize, request: Option<(StreamId, Purpose)>) {
        let Some((stream, purpose)) = request else {
            return;
        };
        let now = self.now();
        self.members[worker].reachable_since.get_or_insert(now.at);
        let (session, asker, source) = match purpose {
            Purpose::Decide { session, source } => (session, Asker::Client, Some(source)),
            Purpose::Answer { session } => (session, Asker::Homeserver, None),
            Purpose::End {
                session,
                kind,
                source,
            } => {
                self.session_ends.push(SessionEnd {
                    worker,
                    stream,
                    session,
                    kind,
                    status: None,
                    knows_user: false,
                });
                if kind != EndKind::LogoutAll {
                    return;
                }
                (session, Asker::LogoutAll, Some(source))
            }
            Purpose::Tell(told) => {
                self.tellings.push(Telling {
                    worker,
                    stream,
                    told,
                });
                return;
            }
        };
        let charge = source.map(|source| {
            self.charges.push((now, source, session));
            self.charges.len() - 1
        });
        let plugin = self.worker(worker, |worker| worker.plugin_of(stream));
        let cache = &plugin.config.cache;
        let open = Open {
            session,
            since: now,
            asker,
            charge,
            ttl: cache.ttl.as_millis() as u64,
            negative_ttl: cache.negative_ttl.as_millis() as u64,
        };
        self.open.insert((worker, stream), open);
    }

    fn plugin(&mut self, role: Role, worker: usize) -> Rc<Plugin> {
        let of_role = self.configured.iter().filter(|one| one.role == role);
        let chosen = self.rng.choice(of_role.collect::<Vec<_>>());
        Rc::clone(&chosen.expect("every role is configured").plugins[worker])
    }

    fn client_request(&mut self, worker: usize) -> Option<Action> {
        let session = self.rng.usize(..SESSIONS);
        let source = self.rng.usize(..2);
        let request = whoami(TOKENS[session].0).source(SOURCES[source]);
        let purpose = Purpose::Decide { session, source };
        Some(Action::Request(
            self.plugin(Role::Gateway, worker),
            request.into(),
            purpose,
        ))
    }

    fn homeserver_request(&mut self, worker: usize) -> Option<Action> {
        let session = self.rng.usize(..SESSIONS);
        let form = format!("token={}&token_type_hint=access_token", TOKENS[session].0);
        let request = Request::new("POST", "/oauth2/introspect")
            .header("content-type", "application/x-www-form-urlencoded")
            .header("x-mas-supports-device-id", "1")
            .bearer("secret")
            .body(form);
        let purpose = Purpose::Answer { session };
        Some(Action::Request(
            self.plugin(Role::Introspection, worker),
            request.into(),
            purpose,
        ))
    }

    fn choose_call(&mut self, worker: usize) -> Option<Call> {
        let calls = self.worker(worker, |worker| worker.calls());
        self.rng.choice(calls)
    }

    /// MAS computes the answer to a call, unless it has.
    fn compute(&mut self, worker: usize) {
        if let Some(call) = self.choose_call(worker) {
            self.answer_to(worker, &call);
        }
    }

    fn answer_to(&mut self, worker: usize, call: &Call) -> usize {
        if let Some(answer) = self.computed.get(&(worker, call.id)) {
            return *answer;
        }
        let question = (session_of(&call.body), self.asked_at(worker, call));
        let now = self.now();
        let answer = self.mas.compute(worker, question, now, &mut self.rng);
        self.computed.insert((worker, call.id), answer);
        answer
    }

    /// Since when the answer to a call's question is on its way.
    fn asked_at(&self, worker: usize, call: &Call) -> u64 {
        let first = self.repeated.get(&(worker, call.id));
        first.copied().unwrap_or(call.sent_at.as_millis())
    }

    /// An answer is delivered.
    fn answer(&mut self, worker: usize) -> Option<Action> {
        let call = self.choose_call(worker)?;
        let number = self.answer_to(worker, &call);
        self.computed.remove(&(worker, call.id));
        if self.is_repeated_after(worker, &call, number) {
            let repeat = Repeat {
                sent_at: call.sent_at.as_millis(),
                root: call.root,
                secret: call.secret(),
                is_due: false,
            };
            let key = (worker, session_of(&call.body));
            self.to_repeat.insert(key, repeat);
            let retry_at = self.now().at + RETRY_DELAY;
            self.members[worker].retry_at.get_or_insert(retry_at);
        } else {
            self.note_answer(number);
        }
        Some(match &self.mas.answers[number].verdict {
            Verdict::Active { body, left } => {
                let lifetime = left.as_ref().and_then(|left| left.lifetime.clone());
                Action::Answer(call.id, Some(200), lifetime, body.to_string())
            }
            Verdict::Inactive => Action::Answer(call.id, Some(200), None, crate::INACTIVE.into()),
            Verdict::Fault(status, body) => Action::Answer(call.id, *status, None, (*body).into()),
        })
    }

    /// Whether the call is to be made once more since its connection failed.
    fn is_repeated_after(&self, worker: usize, call: &Call, answer: usize) -> bool {
        let answer = &self.mas.answers[answer];
        let is_closed = matches!(answer.verdict, Verdict::Fault(_, crate::CONNECTION_CLOSED));
        is_closed && !self.repeated.contains_key(&(worker, call.id))
    }

    fn hang_up(&mut self, worker: usize) {
        let mine = self.open.keys().filter(|(at, _)| *at == worker).copied();
        let Some(key) = self.rng.choice(mine.collect::<Vec<_>>()) else {
            return;
        };
        self.hang_up_one(worker, key.1);
    }

    fn hang_up_one(&mut self, worker: usize, stream: StreamId) {
        self.open.remove(&(worker, stream));
        self.session_ends
            .retain(|end| (end.worker, end.stream) != (worker, stream));
        self.worker(worker, |worker| worker.hang_up(stream));
    }

    /// Time passes, and the workers tick, some of them late.
    fn pass_time(&mut self, millis: u64) {
        let mut left = millis;
        while left > 0 {
            let piece = left.min(PIECE);
            left -= piece;
            self.process.advance(Duration::from_millis(piece));
            for worker in 0..self.members.len() {
                let now = self.now().at;
                let member = &mut self.members[worker];
                let is_free = member.busy_until <= now;
                if is_free && now - member.ticked_at >= TICK + member.late {
                    member.ticked_at = now;
                    member.late = self.rng.choice([0, 0, 0, LATE]).unwrap();
                    self.step += 1;
                    self.note_tick(worker);
                    self.carry_out(worker, Action::Tick);
                    self.check();
                }
            }
            self.check();
        }
    }

    /// Calls that time out, and calls that were lost, fail at the tick.
    fn note_tick(&mut self, worker: usize) {
        let now = self.now();
        self.let_ends_act(worker);
        for call in self.worker(worker, |worker| worker.timed_out()) {
            self.computed.remove(&(worker, call.id));
            self.memory[session_of(&call.body)].failed = Some(now);
        }
        self.note_repeats(worker);
        for lost in self
            .lost
            .extract_if(.., |lost| lost.worker == worker && lost.until <= now.at)
        {
            let memory = &mut self.memory[lost.session];
            memory.give_up(now);
            if lost.fails {
                memory.failed = Some(now);
            }
        }
    }

    /// Calls are repeated with the tick, in what is left of their time, or have failed.
    fn note_repeats(&mut self, worker: usize) {
        let now = self.now();
        let retry_at = &mut self.members[worker].retry_at;
        if retry_at.take_if(|at| *at <= now.at).is_none() {
            return;
        }
        let timeout = self.settings.timeout;
        for ((at, session), repeat) in &mut self.to_repeat {
            if *at == worker {
                repeat.is_due = true;
                if now.at >= repeat.sent_at + timeout {
                    self.memory[*session].failed = Some(now);
                    self.memory[*session].failed_call = Some(repeat.sent_at);
                }
            }
        }
    }

    /// MAS tells the homeserver something.
    fn tell(&mut self, worker: usize) -> Option<Action> {
        let (request, told) = self.mas.run_a_job(&mut self.rng)?;
        if self.settings.unproven.is_none() {
            self.note_told(&told);
        }
        let plugin = self.plugin(Role::Provisioning, worker);
        Some(Action::Request(plugin, request.into(), Purpose::Tell(told)))
    }

    /// A client ends a session, often one that is being asked about.
    fn session_end(&mut self, worker: usize) -> Option<Action> {
        let asked = (0..self.members.len())
            .flat_map(|worker| self.worker(worker, |worker| worker.calls()))
            .map(|call| session_of(&call.body));
        let asked = self.rng.choice(asked.collect::<Vec<_>>());
        let asked = asked.filter(|_| self.rng.bool());
        let session = asked.unwrap_or_else(|| self.rng.usize(..SESSIONS));
        let token = TOKENS[session].0;
        let source = self.rng.usize(..2);
        let (kind, request) = match self.rng.u32(..5) {
            0..2 => (
                EndKind::Logout,
                Request::new("POST", "/_matrix/client/v3/logout").bearer(token),
            ),
            2 => (
                EndKind::LogoutAll,
                Request::new("POST", "/_matrix/client/v3/logout/all").bearer(token),
            ),
            _ => (
                EndKind::Revocation,
                Request::new("POST", "/oauth2/revoke").body(format!("token={token}")),
            ),
        };
        let purpose = Purpose::End {
            session,
            kind,
            source,
        };
        Some(Action::Request(
            self.plugin(Role::Gateway, worker),
            request.source(SOURCES[source]).into(),
            purpose,
        ))
    }

    /// MAS answers a client that ends a session, or the homeserver answers MAS, through any worker but this that is
    /// not busy.
    fn response(&mut self, except: Option<usize>) -> Option<(usize, Action)> {
        let is_telling = self.rng.bool();
        let can_read = |worker: usize| Some(worker) != except && !self.is_busy(worker);
        if is_telling {
            let tellings = self.tellings.iter().enumerate();
            let others = tellings.filter(|(_, telling)| can_read(telling.worker));
            let others: Vec<_> = others.map(|(at, _)| at).collect();
            let at = self.rng.choice(others)?;
            let Telling {
                worker,
                stream,
                told,
            } = self.tellings.swap_remove(at);
            let status = self.rng.choice([200, 200, 201, 500]).unwrap();
            // A request with the secret counts once more, whatever comes of it.
            if status < 300 || self.settings.unproven.is_none() {
                self.note_told(&told);
            }
            return Some((worker, Action::Response(stream, status)));
        }
        let ends = self.session_ends.iter().enumerate();
        let others = ends.filter(|(_, end)| can_read(end.worker));
        // What waits has not reached MAS.
        let reached = others.filter(|(_, end)| !self.open.contains_key(&(end.worker, end.stream)));
        let reached: Vec<_> = reached.map(|(at, _)| at).collect();
        let at = self.rng.choice(reached)?;
        let SessionEnd {
            worker,
            stream,
            session,
            kind,
            ..
        } = self.session_ends[at];
        let status = match self.session_ends[at].status {
            Some(status) => status,
            None => {
                let status = self.end_session(session, kind);
                self.session_ends[at].status = Some(status);
                if self.rng.u32(..3) == 0 {
                    return None;
                }
                status
            }
        };
        let end = self.session_ends.swap_remove(at);
        match status {
            200 => self.note_session_end(end),
            _ => self.note_unknown_at_logout(end),
        }
        Some((worker, Action::Response(stream, status)))
    }

    /// MAS does what a client asked for. Its status.
    fn end_session(&mut self, session: usize, kind: EndKind) -> u16 {
        let now = self.now();
        let is_compat = TOKENS[session].0.starts_with("mct_");
        match kind {
            EndKind::Revocation if is_compat => {}
            EndKind::Revocation => self.mas.end_session(session, now, &mut self.rng),
            _ if !self.mas.is_active(session, now.at) => return 401,
            EndKind::Logout => self.mas.end_session(session, now, &mut self.rng),
            EndKind::LogoutAll => {
                for other in (0..SESSIONS).filter(|other| TOKENS[*other].1 == TOKENS[session].1) {
                    self.mas.end_session(other, now, &mut self.rng);
                }
            }
        }
        200
    }

    /// The homeserver refuses a token that went on as active, rightly or wrongly.
    fn refusal(&mut self) -> Option<(usize, Action)> {
        let at = self.rng.usize(..self.forwarded.len().max(1));
        let (worker, ..) = *self.forwarded.get(at)?;
        if self.is_busy(worker) {
            return None;
        }
        let (worker, stream, session) = self.forwarded.swap_remove(at);
        let now = self.now().at;
        let deafness = self.deafness.entry((worker, session)).or_default();
        if deafness.may_end_by(now) {
            let is_certain = deafness.until <= now;
            *deafness = Deafness {
                until: now + DOUBT,
                is_certain,
            };
            if is_certain {
                self.note_refusal(session);
            } else {
                self.may_forget(session);
            }
        }
        Some((worker, Action::Response(stream, 401)))
    }

    fn lose_a_call(&mut self, worker: usize) {
        if let Some(call) = self.choose_call(worker) {
            self.show(|| format!("{:?} of worker {worker} is lost", call.id));
            self.worker(worker, |worker| worker.drop_call(call.id));
            self.note_lost(worker, &call);
        }
    }

    fn note_lost(&mut self, worker: usize, call: &Call) {
        self.computed.remove(&(worker, call.id));
        self.last_loss = self.now().at;
        let until = self.asked_at(worker, call) + self.settings.timeout + LOST_AFTER;
        self.lost
            .push(Lost::new(worker, call.root, session_of(&call.body), until));
    }

    /// What was to be repeated goes with its root.
    fn lose_repeats(&mut self, worker: usize, root: RootId) {
        let give_up_after = self.settings.timeout + LOST_AFTER;
        let lost = &mut self.lost;
        self.to_repeat.retain(|(at, session), repeat| {
            let is_gone = *at == worker && repeat.root == root;
            if is_gone {
                let until = repeat.sent_at + give_up_after;
                lost.push(Lost::new(worker, root, *session, until));
            }
            !is_gone
        });
    }

    /// A new configuration takes the place of an older one, whose remaining clients hang up.
    fn replace_a_configuration(&mut self) {
        let at = self.rng.usize(..self.configured.len());
        self.show(|| format!("{:?} is replaced", self.configured[at].root));
        let old = self.configured.remove(at);
        self.configure(old.role);
        for at in 0..self.members.len() {
            for stream in self.worker(at, |worker| worker.held_by(&old.plugins[at])) {
                self.hang_up_one(at, stream);
            }
            for call in self.worker(at, |worker| worker.calls()) {
                if call.root == old.root {
                    self.note_lost(at, &call);
                }
            }
            self.lose_repeats(at, old.root);
            let now = self.now();
            let lost = self.lost.iter_mut();
            for lost in lost.filter(|lost| lost.worker == at && lost.root == old.root) {
                lost.is_counted = false;
                lost.fails = lost.until <= now.at + BETWEEN_TICKS;
                self.memory[lost.session].orphan(now);
            }
            self.worker(at, |worker| worker.drop_root(old.root));
            self.members[at].go_out_of_reach();
        }
    }

    /// An update makes another VM in the place of a worker's, whose remaining clients hang up.
    fn replace_a_vm(&mut self, worker: usize) {
        self.show(|| format!("the VM of worker {worker} is replaced"));
        for at in 0..self.configured.len() {
            let plugin = Rc::clone(&self.configured[at].plugins[worker]);
            for stream in self.worker(worker, |worker| worker.held_by(&plugin)) {
                self.hang_up_one(worker, stream);
            }
        }
        for at in 0..self.configured.len() {
            let root = self.configured[at].root;
            for call in self.worker(worker, |worker| worker.calls()) {
                if call.root == root {
                    self.note_lost(worker, &call);
                }
            }
            self.worker(worker, |worker| worker.drop_root(root));
        }
        self.leave_ends(worker);
        self.make_a_vm(worker);
    }

    /// A VM fails. What it held stays unanswered, which nothing in it can help.
    fn fail_a_vm(&mut self, worker: usize) {
        self.show(|| format!("the VM of worker {worker} fails"));
        self.lose_ends(worker);
        self.make_a_vm(worker);
    }

    /// A worker gets a new VM, which has nothing of the old one's.
    fn make_a_vm(&mut self, worker: usize) {
        self.open.retain(|(at, _), _| *at != worker);
        self.computed.retain(|(at, _), _| *at != worker);
        self.repeated.retain(|(at, _), _| *at != worker);
        self.to_repeat.retain(|(at, _), _| *at != worker);
        self.deafness.retain(|(at, _), _| *at != worker);
        self.session_ends.retain(|end| end.worker != worker);
        self.tellings.retain(|telling| telling.worker != worker);
        self.forwarded.retain(|(at, ..)| *at != worker);
        let now = self.now();
        for lost in self.lost.extract_if(.., |lost| lost.worker == worker) {
            self.memory[lost.session].give_up(now);
        }
        self.worker(worker, SimulatedWorker::reload);
        for at in 0..self.configured.len() {
            let (role, root) = (self.configured[at].role, self.configured[at].root);
            let plugin = self.new_plugin(role, root.0);
            self.worker(worker, |worker| worker.configure(&plugin));
            self.configured[at].plugins[worker] = plugin;
        }
        let member = &mut self.members[worker];
        member.newest_call = CallId(0);
        member.retry_at = None;
        member.go_out_of_reach();
        self.vms += 1;
        self.last_loss = now.at;
    }
}
