//! MAS as the simulation knows it: users, sessions, what it has answered and when, and the jobs by which it
//! tells the homeserver.
//!
//! An answer shows the state of the moment in which MAS computed it; it may be delivered much later. A job
//! is made when the state changes and runs later; like MAS's own, it sends what is true when it runs.

use std::{rc::Rc, sync::LazyLock};

use fastrand::Rng;
use matrix_edge_auth::{
    cache::voiding::Voidings,
    clock::Instant,
    mas::{
        provisioning::Voiding,
        user::{DeviceKey, UserKey},
    },
};
use serde_json::{Value, json};

use super::relay::{Left, relay};
use crate::simulated::{Process, Request, store};

/// A moment: virtual milliseconds, and the step, which orders what happens in one millisecond.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment {
    pub step: u64,
    pub at: u64,
}

pub const SESSIONS: usize = 4;

/// Tokens with the right checksum, the user and the device of each. The first user has two devices and a
/// token without one.
pub const TOKENS: [(&str, usize, Option<&str>); SESSIONS] = [
    ("mat_Z9zA8yB7xC6wD5vE4uF3tG2sH1rI0q_0lFrY1", 0, Some("A")),
    ("mct_qGh7iRXFLAjieIGwtXLPByYRJfDhd1_GkhVP2", 0, Some("B")),
    ("mpt_axW7vg7OvqRxfwDbI1mInQZa8ByaHA_dl7rZ3", 0, None),
    ("mat_mavzfVABqZ5YsOOlB1f46RfHk7hp3I_0pfwQt", 1, Some("A")),
];

/// The token that a call is about.
pub fn session_of(body: &str) -> usize {
    TOKENS
        .iter()
        .position(|(token, ..)| body.contains(token))
        .expect("a known token")
}

/// A secret of the process, and two users whose records share a slot under it.
pub struct World {
    pub secret: [u8; 16],
    pub neighbours: [String; 2],
}

/// Some worlds to choose from: it takes a while to find neighbours.
pub static WORLDS: LazyLock<Vec<World>> = LazyLock::new(|| {
    let mut rng = Rng::with_seed(0);
    let secrets = std::iter::repeat_with(|| rng.u128(..).to_le_bytes());
    let world = |secret| World {
        secret,
        neighbours: neighbours(secret),
    };
    secrets.take(8).map(world).collect()
});

fn neighbours(secret: [u8; 16]) -> [String; 2] {
    let process = Process::new();
    process.set_secret(secret);
    let add = |process: &Rc<Process>, name: &str| {
        let before = process.keys();
        let ends = Voiding::Device(DeviceKey::of("A"));
        Voidings::default()
            .add(
                &store(process),
                &UserKey::of(name),
                &ends,
                Instant::default(),
            )
            .expect("shared data can be written");
        process.keys() > before
    };
    let name = |number: usize| format!("user{number}");
    // The first that takes no slot of its own, and whose slot that is.
    let last = (0..).find(|number| !add(&process, &name(*number))).unwrap();
    let shares_a_slot = |number: &usize| {
        let process = Process::new();
        process.set_secret(secret);
        add(&process, &name(last));
        !add(&process, &name(*number))
    };
    let first = (0..last).find(shares_a_slot).unwrap();
    [name(first), name(last)]
}

/// The session of one token.
#[derive(Clone, Default)]
pub struct Session {
    has_ended: bool,
    pub expires_at: Option<u64>,
    /// Whether the token counts, but for its expiry; and since when that is so.
    pub stands: bool,
    pub stands_since: Moment,
}

#[derive(Clone, Default)]
struct User {
    is_locked: bool,
    is_deleted: bool,
}

/// What MAS said of a token, or that it failed.
#[derive(Clone)]
pub enum Verdict {
    Active {
        /// `None` if the token does not expire.
        left: Option<Left>,
        body: Value,
    },
    Inactive,
    Fault(Option<u16>, &'static str),
}

/// An answer of MAS.
#[derive(Clone)]
pub struct Answer {
    pub session: usize,
    /// Which worker asked.
    pub worker: usize,
    /// When Envoy sent the question.
    pub sent_at: u64,
    pub computed: Moment,
    pub delivered: Option<Moment>,
    /// It was kept, as far as can be told.
    pub is_kept: bool,
    pub verdict: Verdict,
}

/// What MAS has yet to tell the homeserver.
#[derive(Clone, Copy)]
enum Job {
    DeleteDevice(usize, &'static str),
    /// A login has taken the device over, which ended its session. It tells of nothing else.
    UpsertDevice(usize, &'static str),
    SyncDevices(usize),
    ProvisionUser(usize),
    DeleteUser(usize),
    ReactivateUser(usize),
}

/// What a request of MAS says.
#[derive(Clone, Debug, Default)]
pub struct Told {
    /// Answers of "active" about these tokens are void.
    pub active: [bool; SESSIONS],
    /// Answers of "inactive" about this user's tokens are void.
    pub inactive_of: Option<usize>,
}

pub struct Mas {
    names: [String; 2],
    users: [User; 2],
    pub sessions: [Session; SESSIONS],
    pub answers: Vec<Answer>,
    jobs: Vec<Job>,
    /// Other Envoys may stand between MAS and this one.
    is_relayed: bool,
}

impl Mas {
    pub fn new(names: [String; 2], is_relayed: bool, rng: &mut Rng, now: u64) -> Self {
        let mut mas = Self {
            names,
            users: std::array::from_fn(|_| User {
                is_locked: rng.u32(..8) == 0,
                is_deleted: false,
            }),
            sessions: std::array::from_fn(|_| Session {
                has_ended: rng.u32(..4) == 0,
                expires_at: rng.bool().then(|| now + rng.u64(1..45_000)),
                ..Session::default()
            }),
            answers: Vec::new(),
            jobs: Vec::new(),
            is_relayed,
        };
        mas.note_changes(Moment::default());
        mas
    }

    pub fn user_id(&self, session: usize) -> String {
        format!("@{}:example.org", self.names[TOKENS[session].1])
    }

    pub fn is_active(&self, session: usize, now: u64) -> bool {
        let Session {
            stands, expires_at, ..
        } = self.sessions[session];
        stands && expires_at.is_none_or(|expiry| now < expiry)
    }

    /// Computes the answer to a worker's question about a token, sent at a moment; returns its number.
    pub fn compute(
        &mut self,
        worker: usize,
        (session, sent_at): (usize, u64),
        now: Moment,
        rng: &mut Rng,
    ) -> usize {
        let number = self.answers.len();
        let verdict = match rng.u32(..16) {
            0 => Verdict::Fault(Some(500), r#"{"active":false}"#),
            1 => Verdict::Fault(Some(200), r#"{"active":"false"}"#),
            2 => Verdict::Fault(None, ""),
            // The module asks again.
            3 => Verdict::Fault(Some(503), crate::CONNECTION_CLOSED),
            _ if self.is_active(session, now.at) => self.active(session, number, now.at, rng),
            _ => Verdict::Inactive,
        };
        self.answers.push(Answer {
            session,
            worker,
            sent_at,
            computed: now,
            delivered: None,
            is_kept: false,
            verdict,
        });
        number
    }

    /// "Active", as MAS says it or as it comes through other Envoys.
    fn active(&self, session: usize, number: usize, now: u64, rng: &mut Rng) -> Verdict {
        let Some(expiry) = self.sessions[session].expires_at else {
            let body = self.body(session, number);
            return Verdict::Active { left: None, body };
        };
        let say = |at: u64| {
            // MAS rounds to the nearest second.
            let expires_in = (expiry - at + 500) / 1_000;
            let mut body = self.body(session, number);
            body["expires_in"] = expires_in.into();
            (body, expires_in)
        };
        let since = self.sessions[session].stands_since.at;
        let relayed = self.is_relayed && rng.u32(..4) > 0;
        let relayed = relayed.then(|| relay(say, since, now, rng)).flatten();
        let (body, left) = relayed.unwrap_or_else(|| {
            let (body, expires_in) = say(now);
            (body, Left::direct(expires_in))
        });
        let left = Some(left);
        Verdict::Active { left, body }
    }

    /// The client's name tells which answer this is.
    fn body(&self, session: usize, number: usize) -> Value {
        let (_, user, device) = TOKENS[session];
        let mut body = json!({
            "active": true,
            "scope": "urn:matrix:client:api:*",
            "username": self.names[user],
            "client_id": number.to_string(),
        });
        if let Some(device) = device {
            body["device_id"] = device.into();
        }
        body
    }

    /// Something changes in MAS, and a job will tell of it; or a session is back, which nobody tells.
    pub fn change(&mut self, now: Moment, rng: &mut Rng) {
        let session = rng.usize(..SESSIONS);
        let user = rng.usize(..self.users.len());
        match rng.u32(..12) {
            0..3 => self.end_session(session, now, rng),
            3..5 => {
                self.users[user].is_locked ^= true;
                self.jobs.push(Job::ProvisionUser(user));
            }
            5 => {
                self.users[user].is_deleted ^= true;
                self.jobs.push(if self.users[user].is_deleted {
                    Job::DeleteUser(user)
                } else {
                    Job::ReactivateUser(user)
                });
            }
            6..8 => {
                if std::mem::take(&mut self.users[user].is_locked) {
                    self.jobs.push(Job::ProvisionUser(user));
                }
                if std::mem::take(&mut self.users[user].is_deleted) {
                    self.jobs.push(Job::ReactivateUser(user));
                }
            }
            _ => self.sessions[session].has_ended = false,
        }
        self.note_changes(now);
    }

    /// A job may be stuck for longer than the simulation lasts.
    pub fn end_session(&mut self, session: usize, now: Moment, rng: &mut Rng) {
        let (_, user, device) = TOKENS[session];
        self.sessions[session].has_ended = true;
        self.note_changes(now);
        if rng.u32(..3) == 0 {
            return;
        }
        self.jobs.push(match device {
            Some(device) => match rng.u32(..4) {
                0 => Job::DeleteDevice(user, device),
                1 => Job::UpsertDevice(user, device),
                _ => Job::SyncDevices(user),
            },
            None => Job::SyncDevices(user),
        });
    }

    fn note_changes(&mut self, now: Moment) {
        for (session, (_, user, _)) in self.sessions.iter_mut().zip(TOKENS) {
            let user = &self.users[user];
            let stands = !session.has_ended && !user.is_locked && !user.is_deleted;
            if stands != session.stands {
                session.stands = stands;
                session.stands_since = now;
            }
        }
    }

    /// Runs one of the jobs, in any order; some run twice.
    pub fn run_a_job(&mut self, rng: &mut Rng) -> Option<(Request, Told)> {
        let at = rng.usize(..self.jobs.len().max(1));
        let job = *self.jobs.get(at)?;
        if rng.u32(..6) > 0 {
            self.jobs.swap_remove(at);
        }
        Some(self.run(job))
    }

    fn run(&self, job: Job) -> (Request, Told) {
        let tokens = |user, ends: &dyn Fn(Option<&str>, &Session) -> bool| {
            std::array::from_fn(|session| {
                let (_, owner, device) = TOKENS[session];
                owner == user && ends(device, &self.sessions[session])
            })
        };
        let everything = |user| Told {
            active: tokens(user, &|_, _| true),
            inactive_of: Some(user),
        };
        // Who is locked or deleted brings no token back.
        let all_active = |user| Told {
            inactive_of: None,
            ..everything(user)
        };
        let of_device = |user, told_of: &str| Told {
            active: tokens(user, &|device, _| device == Some(told_of)),
            inactive_of: None,
        };
        let (endpoint, user, told, more) = match job {
            Job::DeleteDevice(user, device) => {
                let told = of_device(user, device);
                ("delete_device", user, told, json!({"device_id": device}))
            }
            Job::UpsertDevice(user, device) => {
                let told = of_device(user, device);
                ("upsert_device", user, told, json!({"device_id": device}))
            }
            Job::SyncDevices(user) => {
                let active = tokens(user, &|device, session| {
                    device.is_none() || session.has_ended
                });
                let inactive_of = None;
                let survive = tokens(user, &|_, session| !session.has_ended);
                let survivors = TOKENS.iter().zip(survive).filter(|(_, survives)| *survives);
                let devices: Vec<&str> =
                    survivors.filter_map(|((.., device), _)| *device).collect();
                let told = Told {
                    active,
                    inactive_of,
                };
                ("sync_devices", user, told, json!({"devices": devices}))
            }
            Job::ProvisionUser(user) => {
                let is_locked = self.users[user].is_locked;
                let told = if is_locked {
                    all_active(user)
                } else {
                    let inactive_of = Some(user);
                    Told {
                        inactive_of,
                        ..Told::default()
                    }
                };
                ("provision_user", user, told, json!({"locked": is_locked}))
            }
            Job::DeleteUser(user) => (
                "delete_user",
                user,
                all_active(user),
                json!({"erase": false}),
            ),
            Job::ReactivateUser(user) => ("reactivate_user", user, everything(user), json!({})),
        };
        let mut body = more;
        body["localpart"] = self.names[user].as_str().into();
        let request = Request::new("POST", &format!("/_synapse/mas/{endpoint}"))
            .bearer("secret")
            .body(body.to_string());
        (request, told)
    }
}
