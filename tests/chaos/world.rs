//! What all parts of a run share: the truth, the counts, the requests under way, and how late the machine is.

use std::{
    collections::{HashMap, VecDeque},
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use stand_in::{SeenRequest, mas::Mas};
use tokio::time::Instant;

use super::{
    leaks::Hidden,
    ledger::{Credential, Ledger, Span},
    tally::{Breach, Tally},
};

/// The header by which a request is told from all others.
pub const NUMBER: &str = "x-chaos-number";
/// The homeserver's name.
pub const SERVER_NAME: &str = "example.org";

/// How many tokens [`World::any_token`] chooses from.
const RECENT: usize = 3_000;

/// What a request needs for the homeserver to see it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Needs {
    /// A token that is active.
    Token,
    /// None, but one that is given must be active.
    NoBadToken,
    /// None, and any will do.
    Nothing,
}

/// A request as it was sent.
#[derive(Clone)]
struct Sent {
    at: Instant,
    credential: Credential,
    needs: Needs,
    what: &'static str,
}

/// Everything that is shared.
pub struct World {
    /// From which all that is random follows.
    pub seed: u64,
    /// How long everything fails.
    pub length: Duration,
    /// The counts.
    pub tally: Tally,
    /// How late the machine is.
    pub lateness: Lateness,
    /// The tokens and secrets, which nobody may read.
    pub hidden: Hidden,
    ledger: Mutex<Ledger>,
    sent: Mutex<HashMap<u64, Sent>>,
    recent: Mutex<VecDeque<String>>,
    numbers: AtomicU64,
    end: Mutex<Option<Instant>>,
    mas: OnceLock<Arc<Mas>>,
    fault: Mutex<String>,
    disturbed: Mutex<Option<Instant>>,
}

impl World {
    /// A world in which nothing has happened.
    pub fn new(seed: u64, length: Duration) -> Arc<Self> {
        Arc::new(Self {
            seed,
            length,
            tally: Tally::default(),
            lateness: Lateness::default(),
            hidden: Hidden::default(),
            ledger: Mutex::default(),
            sent: Mutex::default(),
            recent: Mutex::default(),
            numbers: AtomicU64::new(0),
            end: Mutex::default(),
            mas: OnceLock::new(),
            fault: Mutex::new("nothing".to_owned()),
            disturbed: Mutex::default(),
        })
    }

    /// The random numbers of one part of the run.
    pub fn random(&self, part: u64) -> fastrand::Rng {
        fastrand::Rng::with_seed(self.seed.wrapping_mul(1_000_003).wrapping_add(part))
    }

    /// Takes the MAS that can be asked about a case.
    pub fn ask(&self, mas: &Arc<Mas>) {
        let _ = self.mas.set(Arc::clone(mas));
    }

    /// What MAS would say of a token now, for the words of a case.
    pub fn truth(&self, credential: &Credential) -> &'static str {
        let token = credential.token().unwrap_or_default();
        match self.mas.get().map(|mas| mas.is_active(token)) {
            Some(true) => "MAS calls it active now",
            _ => "MAS does not call it active now",
        }
    }

    /// Begins to count the time.
    pub fn begin(&self) {
        *lock(&self.end) = Some(Instant::now() + self.length);
    }

    /// When everything ends.
    pub fn end(&self) -> Instant {
        lock(&self.end).expect("the run has begun")
    }

    /// Whether the time is over.
    pub fn is_over(&self) -> bool {
        Instant::now() >= self.end()
    }

    /// Resolves after this time, or when the time of the run is over.
    pub async fn pause(&self, pause: Duration) {
        tokio::time::sleep_until((Instant::now() + pause).min(self.end())).await;
    }

    /// The truth.
    pub fn ledger(&self) -> MutexGuard<'_, Ledger> {
        lock(&self.ledger)
    }

    /// Something fails, or has just failed, for a moment.
    pub fn disturb(&self) {
        *lock(&self.disturbed) = Some(Instant::now());
    }

    /// Whether nothing fails, and nothing has for a while.
    pub fn is_calm(&self) -> bool {
        const WHILE: Duration = Duration::from_secs(2);
        let disturbed = *lock(&self.disturbed);
        self.fault() == "nothing" && disturbed.is_none_or(|at| at.elapsed() > WHILE)
    }

    /// Says what fails now.
    pub fn set_fault(&self, fault: &str) {
        self.disturb();
        fault.clone_into(&mut lock(&self.fault));
    }

    /// What fails now.
    pub fn fault(&self) -> String {
        lock(&self.fault).clone()
    }

    /// Remembers a token, for [`any_token`](Self::any_token).
    pub fn remember(&self, token: &str) {
        self.hidden.hide(token);
        let mut recent = lock(&self.recent);
        recent.push_back(token.to_owned());
        if recent.len() > RECENT {
            recent.pop_front();
        }
    }

    /// A token that was issued lately.
    pub fn any_token(&self, random: &mut fastrand::Rng) -> Option<String> {
        let recent = lock(&self.recent);
        (!recent.is_empty()).then(|| recent[random.usize(..recent.len())].clone())
    }

    /// Takes note of a request that is about to be sent; returns its number.
    pub fn send(&self, what: &'static str, credential: &Credential, needs: Needs) -> u64 {
        if let Some(token) = credential.token() {
            self.hidden.hide(token);
        }
        let number = self.numbers.fetch_add(1, Ordering::Relaxed);
        let sent = Sent {
            at: Instant::now(),
            credential: credential.clone(),
            needs,
            what,
        };
        lock(&self.sent).insert(number, sent);
        number
    }

    /// The time since a request was sent.
    pub fn span(&self, number: u64) -> Span {
        let sent = lock(&self.sent)[&number].at;
        self.span_since(sent)
    }

    /// The time since `sent`.
    pub fn span_since(&self, sent: Instant) -> Span {
        Span {
            sent,
            seen: Instant::now(),
            lateness: self.lateness.since(sent),
        }
    }

    /// Judges a request that has reached the homeserver.
    pub fn arrived(&self, request: &SeenRequest) {
        let number = request
            .header(NUMBER)
            .and_then(|number| std::str::from_utf8(number).ok()?.parse().ok());
        let sent = number.and_then(|number: u64| lock(&self.sent).get(&number).cloned());
        let Some(sent) = sent else {
            if !request.path().starts_with("/_synapse/mas/") {
                let case = format!("{} {} was sent by nobody", request.method, request.path());
                self.tally.breach(Breach::Unverified, case);
            }
            return;
        };
        let user = identities(request, "x-matrix-user-id");
        let device = identities(request, "x-matrix-device-id");
        if let Err((breach, why)) = self.judge(&sent, &user, &device) {
            let case = format!(
                "{} of {} with {user:?} {device:?} during {}: {why}; {}",
                sent.what,
                kind(&sent.credential),
                self.fault(),
                self.truth(&sent.credential)
            );
            self.tally.breach(breach, case);
        }
    }

    fn judge(
        &self,
        sent: &Sent,
        user: &[String],
        device: &[String],
    ) -> Result<(), (Breach, String)> {
        if user.is_empty() && device.is_empty() {
            let is_fine = match (&sent.credential, sent.needs) {
                (_, Needs::Nothing) | (Credential::Appservice(_), _) => true,
                (Credential::None, Needs::NoBadToken) => true,
                (_, Needs::Token | Needs::NoBadToken) => false,
            };
            let why = || {
                (
                    Breach::Unverified,
                    "it passed without an identity".to_owned(),
                )
            };
            return is_fine.then_some(()).ok_or_else(why);
        }
        let Credential::Issued(token) = &sent.credential else {
            return Err((Breach::WrongIdentity, "it is nobody's".to_owned()));
        };
        let ledger = self.ledger();
        let held = ledger
            .judge_acceptance(token, self.span_since(sent.at))
            .map_err(|why| (Breach::Unverified, why))?;
        let is_its =
            *user == [format!("@{}:{SERVER_NAME}", held.user)] && *device == [held.device.clone()];
        is_its.then_some(()).ok_or_else(|| {
            let why = format!("it is {}'s, device {}", held.user, held.device);
            (Breach::WrongIdentity, why)
        })
    }
}

/// The values of a header, in whatever way a server might read its name.
fn identities(request: &SeenRequest, name: &str) -> Vec<String> {
    request
        .headers
        .iter()
        .filter(|(given, _)| given.replace('_', "-") == name)
        .map(|(_, value)| String::from_utf8_lossy(value).into_owned())
        .collect()
}

/// What kind of credential it is, without the token.
pub const fn kind(credential: &Credential) -> &'static str {
    match credential {
        Credential::None => "no token",
        Credential::Issued(_) => "an issued token",
        Credential::Invented(_) => "an invented token",
        Credential::Appservice(_) => "an appservice's token",
    }
}

/// How late timers are on this machine, which other programs keep busy too.
#[derive(Default)]
pub struct Lateness(Mutex<VecDeque<(Instant, Duration)>>);

impl Lateness {
    /// How often it is measured.
    const EVERY: Duration = Duration::from_millis(20);
    /// For how long before a moment a measurement counts.
    const BEFORE: Duration = Duration::from_secs(5);
    /// How long a measurement is kept, longer than any request takes.
    const FOR: Duration = Duration::from_secs(60);
    /// What is allowed on a machine that is never late: a worker looks four times a second.
    const ALWAYS: Duration = Duration::from_millis(300);

    /// Measures until the run is over.
    pub async fn measure(&self, world: &World) {
        while !world.is_over() {
            let due = Instant::now() + Self::EVERY;
            tokio::time::sleep_until(due).await;
            let now = Instant::now();
            let late = now - due;
            world
                .tally
                .longest("lateness of this program's timers", late);
            let mut measured = lock(&self.0);
            // Those that a later and greater one outdoes.
            while measured.back().is_some_and(|(_, before)| *before <= late) {
                measured.pop_back();
            }
            measured.push_back((now, late));
            while measured
                .front()
                .is_some_and(|(at, _)| now - *at > Self::FOR)
            {
                measured.pop_front();
            }
        }
    }

    /// How late they were at the most since `moment`, or shortly before it.
    pub fn since(&self, moment: Instant) -> Duration {
        Self::ALWAYS + self.measured_since(moment)
    }

    /// How much more slowly everything must go for the machine to keep up: 1 where it does.
    pub fn slowness(&self) -> f64 {
        const IN_TIME: f64 = 0.25;
        const MOST: f64 = 20.0;
        let late = self.measured_since(Instant::now());
        (late.as_secs_f64() / IN_TIME).clamp(1.0, MOST)
    }

    fn measured_since(&self, moment: Instant) -> Duration {
        let measured = lock(&self.0);
        // Each is greater than all after it.
        let greatest = measured.iter().find(|(at, _)| *at + Self::BEFORE >= moment);
        greatest.map_or(Duration::ZERO, |(_, late)| *late)
    }
}

/// A panic elsewhere leaves these plain values whole, so a poisoned lock is still good.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
