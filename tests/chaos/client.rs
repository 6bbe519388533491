//! One client: it has a session, uses it, renews it, ends it, and sometimes behaves as no client should.

use std::{collections::VecDeque, net::SocketAddr, sync::Arc, time::Duration};

use hyper::body::Bytes;
use stand_in::mas::{DEFAULT_CLIENT_ID, DEFAULT_CLIENT_SECRET, Mas, Session, token};
use tokio::time::Instant;

use super::{
    ledger::{Credential, Token, Via},
    phone::{Ending, Flow, Leaving, PATIENCE, Parts, Phone, leave_in_head},
    rig::IDLE_TIMEOUT,
    tally::Breach,
    world::{NUMBER, Needs, World, kind},
};

/// How many clients there are. Each user has two.
pub const CLIENTS: u64 = 2_000;
/// How long a client rests between two things that it does, in the middle.
const REST: Duration = Duration::from_secs(12);
/// The token of a bridge, which the edge knows by its digest.
pub const APPSERVICE: &str = "as_token_of_a_bridge";
/// A path with a long answer.
pub const LONG: &str = "/_matrix/client/v1/media/download/example.org/long";
const UPLOAD: &str = "/_matrix/media/v3/upload";
const WHOAMI: &str = "/_matrix/client/v3/account/whoami";
const FORM: &str = "application/x-www-form-urlencoded";

/// A client.
pub struct Client {
    world: Arc<World>,
    mas: Arc<Mas>,
    random: fastrand::Rng,
    gateway: SocketAddr,
    phone: Phone,
    name: String,
    user: String,
    is_compat: bool,
    made: u64,
    token: String,
    device: String,
    /// Tokens that were its own.
    dead: VecDeque<String>,
    /// How long its access tokens live.
    life: Option<Duration>,
    unlock_at: Option<Instant>,
}

/// A request before it is sent.
struct Ask {
    what: &'static str,
    needs: Needs,
    credential: Credential,
    request: Parts,
    leaving: Leaving,
}

impl Client {
    /// A client that logs in.
    pub fn new(world: &Arc<World>, mas: &Arc<Mas>, gateway: SocketAddr, number: u64) -> Self {
        let mut random = world.random(1_000 + number);
        let is_http2 = random.u8(..3) == 0;
        let mut client = Self {
            world: Arc::clone(world),
            mas: Arc::clone(mas),
            gateway,
            phone: Phone::new(gateway, is_http2),
            name: format!("{}-{number}", world.seed),
            user: format!("u{}", number / 2),
            is_compat: random.bool(),
            made: 0,
            token: String::new(),
            device: String::new(),
            dead: VecDeque::new(),
            life: None,
            unlock_at: None,
            random,
        };
        client.log_in();
        client
    }

    /// Does things until the run is over.
    pub async fn live(mut self) {
        // Not all at once.
        let first = self.random_time(Duration::ZERO, 2 * REST);
        self.world.pause(first).await;
        while !self.world.is_over() {
            self.unlock_if_due();
            self.act().await;
            let rest = self.random_time(REST / 10, 2 * REST);
            let rest = rest.mul_f64(self.world.lateness.slowness());
            let rest = self.unlock_at.map_or(rest, |at| {
                rest.min(at.saturating_duration_since(Instant::now()))
            });
            self.world.pause(rest).await;
        }
        self.unlock_at = self.unlock_at.map(|_| Instant::now());
        self.unlock_if_due();
    }

    async fn act(&mut self) {
        self.refresh_if_due();
        match self.random.u8(..100) {
            0..30 => {
                for _ in 0..self.random.u8(1..4) {
                    let credential = self.own();
                    self.whoami("whoami", credential).await;
                }
            }
            30..38 => self.burst().await,
            38..44 => self.put(100).await,
            44..48 => self.put(200_000).await,
            48..52 => self.with_token_in_query().await,
            52..56 => self.without_token().await,
            56..60 => self.profile().await,
            60..66 => {
                let dead = self.random.choice(&self.dead).cloned();
                let credential = dead.map_or_else(|| self.invented(), Credential::Issued);
                self.whoami("whoami, an ended session", credential).await;
            }
            66..70 => {
                let credential = self.invented();
                self.whoami("whoami, invented", credential).await;
            }
            70..72 => {
                let credential = Credential::Appservice(APPSERVICE.to_owned());
                self.whoami("whoami, a bridge", credential).await;
            }
            72..76 => self.refresh(),
            76..80 => self.log_out().await,
            80 => self.log_out_everywhere().await,
            81..83 => self.take_over(),
            83..85 => self.be_revoked(),
            85..89 => self.be_locked(),
            _ => self.leave().await,
        }
    }

    // Sessions.

    fn new_token(&mut self, prefix: &str) -> String {
        self.made += 1;
        token(prefix, &format!("{}-{}", self.name, self.made))
    }

    /// Begins a session on a new device.
    fn log_in(&mut self) {
        let token = self.new_token(if self.is_compat { "mct" } else { "mat" });
        self.device = format!("D{}", token[4..14].to_uppercase());
        let session = if self.is_compat {
            self.life = None;
            Session::compat(&self.user, &self.device)
        } else {
            let life = self.random_time(Duration::from_secs(10), Duration::from_secs(120));
            self.life = Some(life);
            Session::access(&self.user, &self.device)
                .client_id(DEFAULT_CLIENT_ID)
                .expires_in(life)
        };
        let before = Instant::now();
        self.mas.insert(&token, session);
        self.has_token(token, before);
    }

    /// MAS has issued a token since `before`.
    fn has_token(&mut self, token: String, before: Instant) {
        let mut issued = Token::new(&self.user, &self.device);
        issued.is_compat = self.is_compat;
        issued.expiry = self.life.map(|life| (before + life, Instant::now() + life));
        self.world.ledger().issue(&token, issued, before);
        self.world.remember(&token);
        let before = std::mem::replace(&mut self.token, token);
        if !before.is_empty() {
            self.dead.push_back(before);
            if self.dead.len() > 4 {
                self.dead.pop_front();
            }
        }
    }

    /// Most clients refresh before their token expires, some wait for the 401.
    fn refresh_if_due(&mut self) {
        let expiry = self
            .world
            .ledger()
            .of(&self.token)
            .and_then(|held| held.expiry);
        let soon = Instant::now() + Duration::from_secs(3);
        if expiry.is_some_and(|(earliest, _)| earliest < soon) && self.random.u8(..10) > 0 {
            self.refresh();
        }
    }

    fn refresh(&mut self) {
        if self.is_compat {
            return;
        }
        let new = self.new_token("mat");
        let before = Instant::now();
        self.world
            .ledger()
            .may_end(&self.token, Via::Nothing, before);
        self.mas.refresh(&self.token, &new);
        self.world
            .ledger()
            .has_ended(&self.token, false, Instant::now());
        if self.mas.is_active(&new) {
            self.world.tally.count("did: refresh");
            self.has_token(new, before);
        } else if !self.world.ledger().is_locked(&self.user) {
            self.log_in();
        }
    }

    /// Logs in on the device that it has, as a client does that has lost its session.
    fn take_over(&mut self) {
        if !self.is_compat {
            return;
        }
        let new = self.new_token("mct");
        let before = Instant::now();
        self.world
            .ledger()
            .may_end(&self.token, Via::UpsertDevice, before);
        // First in the ledger: the call to the homeserver may fail at once, and the login with it.
        let old = self.token.clone();
        self.has_token(new.clone(), before);
        self.mas
            .compat_login(&new, Session::compat(&self.user, &self.device));
        self.world.ledger().has_ended(&old, false, Instant::now());
        self.world.tally.count("did: login on the same device");
    }

    /// Somebody ends the session on the account page.
    fn be_revoked(&mut self) {
        self.world
            .ledger()
            .may_end(&self.token, Via::SyncDevices, Instant::now());
        self.mas.revoke(&self.token);
        self.world
            .ledger()
            .has_ended(&self.token, false, Instant::now());
        self.world.tally.count("did: session ended by MAS");
    }

    /// An admin locks the user, for a while.
    fn be_locked(&mut self) {
        let pause = self.random_time(Duration::from_millis(100), Duration::from_secs(8));
        let mut ledger = self.world.ledger();
        if ledger.is_locked(&self.user) {
            return;
        }
        let before = Instant::now();
        // Both under the ledger, so that nobody reads it between MAS's change and the note of it.
        self.mas.lock_user(&self.user);
        let now = Instant::now();
        ledger.locked(&self.user, before, now);
        drop(ledger);
        self.unlock_at = Some(now + pause);
        self.world.tally.count("did: lock and unlock");
    }

    fn unlock_if_due(&mut self) {
        if self.unlock_at.is_none_or(|at| Instant::now() < at) {
            return;
        }
        self.unlock_at = None;
        let mut ledger = self.world.ledger();
        let before = Instant::now();
        self.mas.unlock_user(&self.user);
        ledger.unlocked(&self.user, before, Instant::now());
    }

    /// Ends the session through the edge.
    async fn log_out(&mut self) {
        let token = self.token.clone();
        let request = if self.is_compat {
            Parts::new("POST", "/_matrix/client/v3/logout")
                .header("authorization", format!("Bearer {token}"))
                .body(Flow::whole("{}"))
        } else {
            Parts::new("POST", "/oauth2/revoke")
                .header("content-type", FORM)
                .header("authorization", basic())
                .body(Flow::whole(format!(
                    "token={token}&token_type_hint=access_token"
                )))
        };
        let begun = Instant::now();
        self.world.ledger().may_end(&token, Via::SyncDevices, begun);
        let ask = Ask {
            what: "logout",
            needs: Needs::Nothing,
            credential: Credential::Issued(token.clone()),
            request,
            leaving: Leaving::Never,
        };
        let is_done = self.ask(ask).await == Some(200);
        let mut ledger = self.world.ledger();
        // Otherwise MAS may have ended it or not: nothing is known of the token any more. A revocation changes nothing
        // while the user is locked, and is answered with 200 all the same.
        if is_done && !ledger.may_have_been_locked(&self.user, begun) {
            ledger.has_ended(&token, true, Instant::now());
            self.world.tally.count("did: logout");
        }
        drop(ledger);
        self.log_in();
    }

    /// Ends all sessions of the user that the legacy login API has begun.
    async fn log_out_everywhere(&mut self) {
        if !self.is_compat {
            return;
        }
        let credential = self.own();
        let tokens = {
            let mut ledger = self.world.ledger();
            ledger.all_may_end(&self.user, Instant::now())
        };
        let request = Parts::new("POST", "/_matrix/client/v3/logout/all")
            .header("authorization", format!("Bearer {}", self.token))
            .body(Flow::whole("{}"));
        let ask = Ask {
            what: "logout/all",
            needs: Needs::Nothing,
            credential,
            request,
            leaving: Leaving::Never,
        };
        if self.ask(ask).await == Some(200) {
            let mut ledger = self.world.ledger();
            ledger.all_have_ended(&self.user, &tokens, Instant::now());
            self.world.tally.count("did: logout/all");
        }
        self.log_in();
    }

    // Requests.

    fn own(&self) -> Credential {
        Credential::Issued(self.token.clone())
    }

    fn invented(&mut self) -> Credential {
        let mut invented = self.new_token("mat");
        if self.random.bool() {
            // MAS cannot have made it.
            invented.push('x');
        }
        Credential::Invented(invented)
    }

    async fn whoami(&mut self, what: &'static str, credential: Credential) {
        let ask = self.get(what, WHOAMI, credential, Needs::Token);
        self.ask(ask).await;
    }

    async fn profile(&mut self) {
        let credential = match self.random.u8(..3) {
            0 => Credential::None,
            1 => self.invented(),
            _ => self.own(),
        };
        let path = "/_matrix/client/v3/profile/@bob:example.org/displayname";
        let ask = self.get("profile", path, credential, Needs::NoBadToken);
        self.ask(ask).await;
    }

    async fn without_token(&mut self) {
        let ask = self.get(
            "whoami without a token",
            WHOAMI,
            Credential::None,
            Needs::Token,
        );
        self.ask(ask).await;
        let path = "/_matrix/client/v3/directory/room/%23a:example.org";
        let credential = if self.random.bool() {
            self.own()
        } else {
            self.invented()
        };
        let ask = self.get("a public path", path, credential, Needs::Nothing);
        self.ask(ask).await;
    }

    async fn with_token_in_query(&mut self) {
        let credential = if self.random.u8(..4) == 0 {
            self.invented()
        } else {
            self.own()
        };
        let token = credential.token().unwrap_or_default();
        let target = format!("/_matrix/client/v3/sync?timeout=0&access_token={token}");
        let request = self.decorated(Parts::new("GET", target));
        let ask = Ask {
            what: "sync, token in the query",
            needs: Needs::Token,
            credential,
            request,
            leaving: Leaving::Never,
        };
        self.ask(ask).await;
    }

    async fn put(&mut self, bytes: usize) {
        let path = format!(
            "/_matrix/client/v3/rooms/!r:example.org/send/m.room.message/{}",
            self.made
        );
        let body = Bytes::from(vec![b' '; bytes]);
        let mut ask = self.get("an event", &path, self.own(), Needs::Token);
        ask.request.method = "PUT";
        ask.request = ask.request.body(Flow::whole(body));
        self.ask(ask).await;
    }

    /// Asks the same several times at once.
    async fn burst(&mut self) {
        let mut asks = Vec::new();
        for _ in 0..self.random.u8(2..6) {
            let ask = self.get("whoami, several at once", WHOAMI, self.own(), Needs::Token);
            let (world, phone) = (Arc::clone(&self.world), self.phone.fork());
            asks.push(tokio::spawn(async move {
                let mut phone = phone;
                send(&world, &mut phone, ask).await
            }));
        }
        let mut is_refused = false;
        for ask in asks {
            is_refused |= ask.await.expect("no panic in a request") == Some(401);
        }
        if is_refused {
            self.renew();
        }
    }

    /// Begins something and hangs up.
    async fn leave(&mut self) {
        let soon = self.random_time(Duration::ZERO, Duration::from_millis(60));
        let late = self.random_time(Duration::ZERO, Duration::from_secs(3));
        match self.random.u8(..5) {
            0 => {
                let head =
                    format!("GET {WHOAMI} HTTP/1.1\r\nHost: matrix.example.org\r\nAuthoriza");
                let length = self.random.usize(..head.len());
                self.world.tally.count("hung up: in the head");
                leave_in_head(self.gateway, &head.as_bytes()[..length]).await;
            }
            1 => {
                let mut ask = self.get("an upload", UPLOAD, self.own(), Needs::Token);
                ask.request.method = "POST";
                let sent = self.random.usize(..150_000);
                ask.request = ask.request.body(Flow::endless(vec![b' '; sent]));
                ask.leaving = Leaving::After(late);
                self.world.tally.count("hung up: in the body");
                self.ask(ask).await;
            }
            2 => {
                let mut ask = self.get(
                    "a revocation",
                    "/oauth2/revoke",
                    Credential::None,
                    Needs::Nothing,
                );
                ask.request.method = "POST";
                ask.request = ask
                    .request
                    .header("content-type", FORM)
                    .body(Flow::endless("token_type_hint=access_token&token=mat_"));
                ask.leaving = Leaving::After(late);
                self.world.tally.count("hung up: in a form");
                self.ask(ask).await;
            }
            3 => {
                let mut ask = self.get("a long answer", LONG, self.own(), Needs::Token);
                ask.leaving = Leaving::InAnswer;
                self.world.tally.count("hung up: in the answer");
                self.ask(ask).await;
            }
            _ => {
                // A token that no cache knows, so that it is held.
                if !self.world.ledger().is_locked(&self.user) {
                    self.refresh();
                }
                let mut ask = self.get("whoami", WHOAMI, self.own(), Needs::Token);
                ask.leaving = Leaving::After(soon);
                self.world.tally.count("hung up: while held");
                self.ask(ask).await;
            }
        }
        if self.random.bool() {
            self.phone.hang_up();
        }
    }

    fn get(&mut self, what: &'static str, path: &str, credential: Credential, needs: Needs) -> Ask {
        let mut request = self.decorated(Parts::new("GET", path));
        if let Some(token) = credential.token() {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        Ask {
            what,
            needs,
            credential,
            request,
            leaving: Leaving::Never,
        }
    }

    /// One request in four tries to be somebody else.
    fn decorated(&mut self, request: Parts) -> Parts {
        match self.random.u8(..8) {
            0 => request
                .header("x-matrix-user-id", "@admin:example.org")
                .header("x-matrix-device-id", "ADMIN"),
            1 => request
                .header("x_matrix_user_id", "@admin:example.org")
                .header("x-matrix_device_id", "ADMIN"),
            _ => request,
        }
    }

    /// Sends a request, and does with the answer what a client does. Returns the status.
    async fn ask(&mut self, ask: Ask) -> Option<u16> {
        let is_own = ask.credential.token() == Some(&self.token);
        let status = send(&self.world, &mut self.phone, ask).await;
        if is_own && status == Some(401) {
            self.renew();
        }
        status
    }

    /// After a 401: refreshes if that is possible, or else logs in again. A locked user can do neither.
    fn renew(&mut self) {
        if self.world.ledger().is_locked(&self.user) || self.mas.is_active(&self.token) {
            return;
        }
        if self.is_compat {
            self.log_in();
        } else {
            self.refresh();
        }
    }

    fn random_time(&mut self, least: Duration, most: Duration) -> Duration {
        least + (most.saturating_sub(least)).mul_f64(self.random.f64())
    }
}

fn basic() -> String {
    use base64ct::{Base64, Encoding};

    let pair = format!("{DEFAULT_CLIENT_ID}:{DEFAULT_CLIENT_SECRET}");
    format!("Basic {}", Base64::encode_string(pair.as_bytes()))
}

/// Sends a request and judges its answer. Returns the status.
async fn send(world: &World, phone: &mut Phone, ask: Ask) -> Option<u16> {
    loop {
        let is_kept = phone.has_connection();
        let number = world.send(ask.what, &ask.credential, ask.needs);
        let request = ask.request.clone().header(NUMBER, number.to_string());
        world.tally.count("requests");
        let ending = phone.send(request, ask.leaving).await;
        let span = world.span(number);
        match ending {
            Ending::Answered(status, body) => {
                let took = span.seen - span.sent;
                world.tally.longest("an answer", took);
                if took > PATIENCE + span.lateness {
                    let case = format!("{} during {}, {took:?}", ask.what, world.fault());
                    world.tally.breach(Breach::Unanswered, case);
                }
                judge(world, &ask, status, &body, span);
                return Some(status);
            }
            // Envoy closes connections whose listener was replaced; every client then tries again.
            Ending::Cut(_) if is_kept => world.tally.count("a kept connection had ended"),
            Ending::Cut(why) => {
                let case = format!("{} during {}: {why}", ask.what, world.fault());
                world.tally.breach(Breach::Unexplained, case);
                return None;
            }
            Ending::Unanswered => {
                let case = format!("{} during {}, never", ask.what, world.fault());
                world.tally.breach(Breach::Unanswered, case);
                return None;
            }
            Ending::Left => return None,
        }
    }
}

fn judge(world: &World, ask: &Ask, status: u16, body: &[u8], span: super::ledger::Span) {
    let json: serde_json::Value = serde_json::from_slice(body).unwrap_or_default();
    let errcode = json["errcode"].as_str().or(json["error"].as_str());
    let said = match (status, errcode) {
        (200, _) => "",
        (_, Some(errcode)) => errcode,
        (503, None) if body.is_empty() && span.seen - span.sent >= IDLE_TIMEOUT => {
            "of Envoy: held by a VM that failed"
        }
        (503, None) if body.is_empty() => "of Envoy: the VM had failed",
        (_, None) => std::str::from_utf8(body).unwrap_or("(no text)"),
    };
    let said = match said {
        "stream timeout" => "of Envoy: held for too long",
        said if said.starts_with("upstream connect error") => "of Envoy: no connection to MAS",
        said if said.starts_with("pool timed out") => "of MAS: no database",
        said => said,
    };
    world.tally.count(format!("answer: {status} {said}"));
    if status == 503 && said == "M_UNKNOWN" && world.is_calm() {
        world
            .tally
            .count("answer: 503 M_UNKNOWN, while nothing failed");
    }
    match status {
        200 => {}
        401 => {
            if let Err(why) = world.ledger().judge_refusal(&ask.credential, span) {
                let case = format!(
                    "{} of {} during {}: {why}; {}",
                    ask.what,
                    kind(&ask.credential),
                    world.fault(),
                    world.truth(&ask.credential)
                );
                world.tally.breach(Breach::Wrong401, case);
            }
        }
        500 | 502 | 503 | 504 | 408 => {}
        _ => {
            let case = format!("{} during {}: {status} {said}", ask.what, world.fault());
            world.tally.breach(Breach::Unexplained, case);
        }
    }
}
