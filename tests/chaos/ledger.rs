//! The truth: which token is whose, and from when to when MAS calls it active.
//!
//! Every change is bracketed by two moments, since MAS changes somewhere between the call and its return. A judgement
//! gives the edge the benefit of that doubt, and of the staleness that the README allows:
//!
//! - an answer from before holds for a second after MAS's call or the client's logout was answered with 2xx;
//! - until then, and where nothing tells the edge, an active one for [`STALEST`], an inactive one for [`LONGEST_NO`];
//! - an expired token for half a second, to which MAS rounds. Nothing makes a token expired early.
//!
//! To the second comes what the machine was late with its own timers just then ([`Lateness`](super::world::Lateness)).

use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};

use stand_in::mas::ProvisioningCall;
use tokio::time::Instant;

/// The longest `cache.ttl` and `cache.stale_if_error` of any configuration here, together.
pub const STALEST: Duration = Duration::from_secs(LONGEST_TTL + LONGEST_STALE);
/// The longest `cache.ttl`.
pub const LONGEST_TTL: u64 = 20;
/// The longest `cache.stale_if_error`.
pub const LONGEST_STALE: u64 = 10;
/// The longest `cache.negative_ttl` of any configuration here.
pub const LONGEST_NO: Duration = Duration::from_secs(10);
/// What the README promises.
const PROMISED: Duration = Duration::from_secs(1);
/// MAS rounds what is left of a token's life to the nearest second.
const ROUNDING: Duration = Duration::from_millis(500);
/// By how much the clocks of MAS and of this program may disagree about an expiry.
const CLOCKS: Duration = Duration::from_millis(20);

/// What a request brings.
#[derive(Clone, Debug)]
pub enum Credential {
    /// Nothing.
    None,
    /// A token that MAS has issued, active or not.
    Issued(String),
    /// A token that nobody has issued, well-formed or not.
    Invented(String),
    /// An appservice's, which the edge is configured to let pass without an identity.
    Appservice(String),
}

impl Credential {
    /// The token itself.
    pub fn token(&self) -> Option<&str> {
        match self {
            Self::None => None,
            Self::Issued(token) | Self::Invented(token) | Self::Appservice(token) => Some(token),
        }
    }
}

/// How the edge learns that a session has ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Via {
    /// MAS names the devices that remain.
    SyncDevices,
    /// MAS names the device that was taken over.
    UpsertDevice,
    /// Not at all.
    Nothing,
}

/// All tokens and users, and the requests under way.
#[derive(Default)]
pub struct Ledger {
    tokens: HashMap<String, Token>,
    locks: HashMap<String, Vec<Lock>>,
    /// Users whose sessions of the legacy login API MAS may end at any moment, those too that begin meanwhile: a
    /// `logout/all` is under way, or the last one got no answer.
    ending: HashSet<String>,
}

/// A token that MAS has issued.
#[derive(Clone)]
pub struct Token {
    /// The localpart.
    pub user: String,
    /// The device.
    pub device: String,
    /// Whether it is of the legacy login API.
    pub is_compat: bool,
    /// The earliest and the latest moment at which it may expire.
    pub expiry: Option<(Instant, Instant)>,
    end: Option<End>,
}

impl Token {
    /// One that lives until its session ends.
    pub fn new(user: &str, device: &str) -> Self {
        Self {
            user: user.to_owned(),
            device: device.to_owned(),
            is_compat: false,
            expiry: None,
            end: None,
        }
    }
}

#[derive(Clone, Copy)]
struct End {
    /// Not before.
    from: Instant,
    /// Surely by; `None` while it is not known whether it has come.
    by: Option<Instant>,
    /// When the edge knew.
    told: Option<Instant>,
    via: Via,
}

#[derive(Clone, Copy)]
struct Lock {
    from: Instant,
    by: Instant,
    told: Option<Instant>,
    unlock: Option<Unlock>,
}

#[derive(Clone, Copy)]
struct Unlock {
    from: Instant,
    by: Instant,
    told: Option<Instant>,
}

/// The time between two moments of a request, and what the machine was late with meanwhile.
#[derive(Clone, Copy, Debug)]
pub struct Span {
    /// Before anything of the request was sent.
    pub sent: Instant,
    /// When it reached the homeserver, or its answer was there.
    pub seen: Instant,
    /// How late the machine is.
    pub lateness: Duration,
}

impl Ledger {
    /// Takes note of a token that MAS has issued.
    pub fn issue(&mut self, token: &str, issued: Token, now: Instant) {
        let is_ending = issued.is_compat && self.ending.contains(&issued.user);
        self.tokens.insert(token.to_owned(), issued);
        if is_ending {
            self.may_end(token, Via::SyncDevices, now);
        }
    }

    /// From now on all sessions of the legacy login API of a user may end. Returns the tokens of those that there are.
    pub fn all_may_end(&mut self, user: &str, now: Instant) -> Vec<String> {
        self.ending.insert(user.to_owned());
        let tokens = self.compat_tokens(user);
        for token in &tokens {
            self.may_end(token, Via::SyncDevices, now);
        }
        tokens
    }

    /// All sessions that there were have ended, and the edge has seen it. Later ones stay.
    pub fn all_have_ended(&mut self, user: &str, tokens: &[String], now: Instant) {
        self.ending.remove(user);
        for token in tokens {
            self.has_ended(token, true, now);
        }
    }

    /// What is known of a token.
    pub fn of(&self, token: &str) -> Option<&Token> {
        self.tokens.get(token)
    }

    /// The tokens of the legacy login API of a user that have not ended.
    fn compat_tokens(&self, user: &str) -> Vec<String> {
        let mut tokens: Vec<String> = self
            .tokens
            .iter()
            .filter(|(_, held)| held.user == user && held.is_compat && held.end.is_none())
            .map(|(token, _)| token.clone())
            .collect();
        tokens.sort_unstable();
        tokens
    }

    /// From now on the token may end.
    pub fn may_end(&mut self, token: &str, via: Via, now: Instant) {
        if let Some(held) = self.tokens.get_mut(token) {
            held.end.get_or_insert(End {
                from: now,
                by: None,
                told: None,
                via,
            });
        }
    }

    /// The token has ended by now. `is_told`: the edge has seen it.
    pub fn has_ended(&mut self, token: &str, is_told: bool, now: Instant) {
        if let Some(end) = self.end_mut(token) {
            end.by.get_or_insert(now);
            if is_told {
                end.told.get_or_insert(now);
            }
        }
    }

    fn end_mut(&mut self, token: &str) -> Option<&mut End> {
        self.tokens.get_mut(token)?.end.as_mut()
    }

    /// Whether the user is locked, or may be.
    pub fn is_locked(&self, user: &str) -> bool {
        self.locks
            .get(user)
            .and_then(|locks| locks.last())
            .is_some_and(|lock| lock.unlock.is_none())
    }

    /// Whether the user may have been locked at any time since then.
    pub fn may_have_been_locked(&self, user: &str, since: Instant) -> bool {
        let locks = self.locks.get(user).map_or(&[][..], |locks| locks);
        locks
            .iter()
            .any(|lock| lock.unlock.is_none_or(|unlock| unlock.by >= since))
    }

    /// The user was locked between the two moments.
    pub fn locked(&mut self, user: &str, from: Instant, by: Instant) {
        self.locks.entry(user.to_owned()).or_default().push(Lock {
            from,
            by,
            told: None,
            unlock: None,
        });
    }

    /// The user was unlocked between the two moments.
    pub fn unlocked(&mut self, user: &str, from: Instant, by: Instant) {
        let unlock = Unlock {
            from,
            by,
            told: None,
        };
        if let Some(lock) = self.locks.get_mut(user).and_then(|locks| locks.last_mut()) {
            lock.unlock.get_or_insert(unlock);
        }
    }

    /// MAS has told the homeserver something, through the edge, or has tried to.
    pub fn told(&mut self, call: &ProvisioningCall) {
        let body: serde_json::Value = serde_json::from_str(&call.body).unwrap_or_default();
        let user = body["localpart"].as_str().unwrap_or_default();
        let is_taken = call
            .status
            .is_some_and(|status| (200..300).contains(&status));
        match call.path {
            "/_synapse/mas/provision_user" if is_taken => {
                self.told_lock(user, body["locked"] == true, call);
            }
            "/_synapse/mas/sync_devices" if is_taken => {
                let remain = body["devices"]
                    .as_array()
                    .map_or(&[][..], |devices| devices);
                self.told_end(call, |held| {
                    held.user == user && !remain.iter().any(|device| *device == *held.device)
                });
            }
            "/_synapse/mas/upsert_device" => {
                let device = body["device_id"].as_str().unwrap_or_default();
                let is_its = |held: &Token| held.user == user && held.device == device;
                if is_taken {
                    self.told_end(call, |held| {
                        is_its(held) && held.end.is_some_and(|end| end.via == Via::UpsertDevice)
                    });
                } else {
                    self.login_failed(call.sent, is_its);
                }
            }
            _ => {}
        }
    }

    fn told_lock(&mut self, user: &str, is_locked: bool, call: &ProvisioningCall) {
        for lock in self.locks.get_mut(user).into_iter().flatten() {
            if is_locked && lock.by <= call.sent {
                lock.told.get_or_insert(call.ended);
            }
            if let Some(unlock) = &mut lock.unlock
                && !is_locked
                && unlock.by <= call.sent
            {
                unlock.told.get_or_insert(call.ended);
            }
        }
    }

    fn told_end(&mut self, call: &ProvisioningCall, is_meant: impl Fn(&Token) -> bool) {
        for held in self.tokens.values_mut() {
            if !is_meant(held) {
                continue;
            }
            if let Some(end) = &mut held.end
                && end.via != Via::Nothing
                && end.by.is_some_and(|by| by <= call.sent)
            {
                end.told.get_or_insert(call.ended);
            }
        }
    }

    /// A login of which the homeserver cannot be told leaves no session.
    fn login_failed(&mut self, now: Instant, is_its: impl Fn(&Token) -> bool) {
        for held in self.tokens.values_mut() {
            if is_its(held) {
                held.end.get_or_insert(End {
                    from: now,
                    by: None,
                    told: None,
                    via: Via::SyncDevices,
                });
            }
        }
    }

    /// Judges a 401 of the edge, or an `active: false`.
    ///
    /// # Errors
    ///
    /// If MAS would have called the token active all the time: why that is known.
    pub fn judge_refusal(&self, credential: &Credential, span: Span) -> Result<(), String> {
        let token = match credential {
            Credential::None | Credential::Invented(_) => return Ok(()),
            Credential::Appservice(_) => return Err("an appservice's token".to_owned()),
            Credential::Issued(token) => token,
        };
        let held = self.tokens.get(token).expect("an issued token is known");
        if held.end.is_some_and(|end| end.from <= span.seen)
            || held
                .expiry
                .is_some_and(|(earliest, _)| earliest <= span.seen + CLOCKS)
        {
            return Ok(());
        }
        let locks = self.locks.get(&held.user).map_or(&[][..], |locks| locks);
        let is_locked = locks.iter().any(|lock| {
            let over = lock.unlock.map(|unlock| {
                let told = unlock.told.map(|told| told + PROMISED);
                let longest = unlock.by + LONGEST_NO;
                told.map_or(longest, |told| told.min(longest)) + span.lateness
            });
            lock.from <= span.seen && over.is_none_or(|over| span.sent <= over)
        });
        if is_locked {
            return Ok(());
        }
        let after = locks.last().and_then(|lock| lock.unlock).map(|unlock| {
            format!(
                ", {:?} after an unlock, {:?} after the edge was told",
                span.sent.saturating_duration_since(unlock.by),
                unlock
                    .told
                    .map(|told| span.sent.saturating_duration_since(told))
            )
        });
        Err(format!(
            "active all the time{}; took {:?}",
            after.unwrap_or_default(),
            span.seen - span.sent
        ))
    }

    /// Judges that the edge vouches for a request, or says `active: true`.
    ///
    /// # Errors
    ///
    /// If MAS has not called the token active for longer than an answer may hold: why that is known.
    pub fn judge_acceptance(&self, token: &str, span: Span) -> Result<&Token, String> {
        let held = self.tokens.get(token).ok_or("a token that nobody issued")?;
        let since = |moment: Instant| span.sent.saturating_duration_since(moment);
        if let Some((_, latest)) = held.expiry
            && since(latest) > ROUNDING + CLOCKS + span.lateness
        {
            return Err(format!("expired for {:?}", since(latest)));
        }
        if let Some(end) = held.end
            && let Some(by) = end.by
            && span.sent > holds_until(by, end.told) + span.lateness
        {
            return Err(format!(
                "ended ({:?}) for {:?}, told for {:?}, late by {:?}",
                end.via,
                since(by),
                end.told.map(since),
                span.lateness
            ));
        }
        let locks = self.locks.get(&held.user).map_or(&[][..], |locks| locks);
        let locked = locks.iter().find(|lock| {
            span.sent > holds_until(lock.by, lock.told) + span.lateness
                && lock.unlock.is_none_or(|unlock| span.seen < unlock.from)
        });
        match locked {
            Some(lock) => Err(format!(
                "locked for {:?}, told for {:?}, late by {:?}",
                since(lock.by),
                lock.told.map(since),
                span.lateness
            )),
            None => Ok(held),
        }
    }
}

/// How long an active answer may hold past the end of what it says.
fn holds_until(by: Instant, told: Option<Instant>) -> Instant {
    let longest = by + STALEST;
    told.map_or(longest, |told| (told + PROMISED).min(longest))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALICE: &str = "alice";

    struct Book {
        ledger: Ledger,
        start: Instant,
    }

    impl Book {
        fn new() -> Self {
            let (mut ledger, start) = (Ledger::default(), Instant::now());
            ledger.issue("t", Token::new(ALICE, "PHONE"), start);
            Self { ledger, start }
        }

        fn at(&self, seconds: f64) -> Instant {
            self.start + Duration::from_secs_f64(seconds)
        }

        fn span(&self, sent: f64, seen: f64) -> Span {
            Span {
                sent: self.at(sent),
                seen: self.at(seen),
                lateness: Duration::ZERO,
            }
        }

        fn may_refuse(&self, sent: f64, seen: f64) -> bool {
            let credential = Credential::Issued("t".to_owned());
            self.ledger
                .judge_refusal(&credential, self.span(sent, seen))
                .is_ok()
        }

        fn may_accept(&self, sent: f64, seen: f64) -> bool {
            self.ledger
                .judge_acceptance("t", self.span(sent, seen))
                .is_ok()
        }

        fn tell(&mut self, path: &'static str, body: &str, sent: f64, ended: f64) {
            let call = ProvisioningCall {
                method: hyper::Method::POST,
                path,
                query: None,
                body: body.to_owned(),
                status: Some(200),
                sent: self.at(sent),
                ended: self.at(ended),
            };
            self.ledger.told(&call);
        }
    }

    #[test]
    fn a_session_that_ends_may_be_refused_at_once_and_accepted_for_a_second_after_the_call() {
        let mut book = Book::new();
        assert!(!book.may_refuse(0.0, 9.9));
        book.ledger.may_end("t", Via::SyncDevices, book.at(10.0));
        assert!(!book.may_refuse(0.0, 9.9) && book.may_refuse(0.0, 10.0));
        assert!(book.may_accept(1000.0, 1000.1), "it may still be active");
        book.ledger.has_ended("t", false, book.at(11.0));
        assert!(book.may_accept(11.0 + 29.9, 50.0) && !book.may_accept(11.0 + 30.1, 50.0));
        let gone = r#"{"localpart":"alice","devices":["OTHER"]}"#;
        book.tell("/_synapse/mas/sync_devices", gone, 10.9, 11.1);
        assert!(book.may_accept(13.0, 13.1), "the call may be from before");
        book.tell("/_synapse/mas/sync_devices", gone, 11.0, 12.0);
        assert!(book.may_accept(12.9, 13.1) && !book.may_accept(13.1, 13.2));
    }

    #[test]
    fn a_device_that_remains_tells_of_no_end() {
        let mut book = Book::new();
        book.ledger.may_end("t", Via::SyncDevices, book.at(1.0));
        book.ledger.has_ended("t", false, book.at(1.0));
        let there = r#"{"localpart":"alice","devices":["PHONE"]}"#;
        book.tell("/_synapse/mas/sync_devices", there, 2.0, 2.0);
        assert!(book.may_accept(5.0, 5.1));
    }

    #[test]
    fn a_locked_user_is_refused_until_the_edge_knows_of_the_unlock() {
        let mut book = Book::new();
        book.ledger.locked(ALICE, book.at(10.0), book.at(10.0));
        assert!(!book.may_refuse(0.0, 9.9) && book.may_refuse(0.0, 10.1));
        assert!(book.may_refuse(1000.0, 1000.1));
        let locked = r#"{"localpart":"alice","locked":true}"#;
        book.tell("/_synapse/mas/provision_user", locked, 10.0, 11.0);
        assert!(book.may_accept(11.9, 12.1) && !book.may_accept(12.1, 12.2));
        book.ledger.unlocked(ALICE, book.at(20.0), book.at(20.0));
        assert!(
            book.may_accept(12.1, 20.1),
            "held until the user was unlocked"
        );
        assert!(book.may_refuse(29.9, 30.0) && !book.may_refuse(30.1, 30.2));
        let unlocked = r#"{"localpart":"alice","locked":false}"#;
        book.tell("/_synapse/mas/provision_user", unlocked, 21.0, 22.0);
        assert!(book.may_refuse(22.9, 23.5) && !book.may_refuse(23.1, 23.2));
    }

    #[test]
    fn a_lock_is_remembered() {
        let mut book = Book::new();
        assert!(!book.ledger.may_have_been_locked(ALICE, book.at(0.0)));
        book.ledger.locked(ALICE, book.at(10.0), book.at(10.0));
        assert!(book.ledger.may_have_been_locked(ALICE, book.at(11.0)));
        book.ledger.unlocked(ALICE, book.at(20.0), book.at(20.0));
        assert!(book.ledger.may_have_been_locked(ALICE, book.at(15.0)));
        assert!(!book.ledger.may_have_been_locked(ALICE, book.at(21.0)));
    }

    #[test]
    fn a_session_that_begins_during_a_logout_of_all_may_end_with_them() {
        let mut book = Book::new();
        let compat = || Token {
            is_compat: true,
            ..Token::new(ALICE, "PHONE")
        };
        let tokens = book.ledger.all_may_end(ALICE, book.at(10.0));
        book.ledger.issue("t", compat(), book.at(11.0));
        assert!(!book.may_refuse(0.0, 10.9) && book.may_refuse(0.0, 11.0));
        book.ledger.all_have_ended(ALICE, &tokens, book.at(12.0));
        assert!(book.may_refuse(13.0, 13.1), "it may have been among them");
        book.ledger.issue("t", compat(), book.at(14.0));
        assert!(!book.may_refuse(14.0, 100.0), "it began afterwards");
    }

    #[test]
    fn nothing_expires_early_and_only_half_a_second_late() {
        let mut book = Book::new();
        let mut token = Token::new(ALICE, "PHONE");
        token.expiry = Some((book.at(10.0), book.at(10.0)));
        book.ledger.issue("t", token, book.start);
        assert!(!book.may_refuse(0.0, 9.9) && book.may_refuse(0.0, 10.0));
        assert!(book.may_accept(10.4, 11.0) && !book.may_accept(10.6, 11.0));
    }

    #[test]
    fn an_invented_token_is_never_accepted_and_an_appservices_never_refused() {
        let book = Book::new();
        let span = book.span(0.0, 1.0);
        assert!(book.ledger.judge_acceptance("invented", span).is_err());
        for (credential, may_be_refused) in [
            (Credential::None, true),
            (Credential::Invented("invented".to_owned()), true),
            (Credential::Appservice("bridge".to_owned()), false),
        ] {
            let judged = book.ledger.judge_refusal(&credential, span);
            assert_eq!(judged.is_ok(), may_be_refused, "{credential:?}");
        }
    }
}
