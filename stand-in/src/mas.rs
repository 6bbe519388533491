//! A stand-in for Matrix Authentication Service.
//!
//! A small state machine (sessions, tokens, users, clients) behind the endpoints that the edge and Synapse call:
//!
//! | endpoint | |
//! |---|---|
//! | `POST /oauth2/introspect` | RFC 7662 |
//! | `POST /oauth2/revoke` | RFC 7009 |
//! | `POST /oauth2/token` | the refresh grant of RFC 6749; its answers were not recorded |
//! | `POST /_matrix/client/{version}/logout`, `/logout/all` | compat sessions |
//! | `GET /oauth2/userinfo`, `/.well-known/openid-configuration`, `/health` | |
//!
//! Given a homeserver ([`Options::homeserver`]), it also tells it about users and devices, by the calls that MAS makes:
//! `mas/provisioning.rs` says which event makes which, [`Mas::provisioning`] which were made.
//!
//! Status, headers and their order, and the order of body members are those recorded with MAS 1.22; a replay test keeps
//! it so. It logs nobody in: a test inserts the sessions that it wants, and says which token a login ([`Mas::compat_login`])
//! or a refresh ([`Mas::begin_refresh`]) gives out. Only the token endpoint makes tokens up.
//!
//! ```no_run
//! # async fn example() -> std::io::Result<()> {
//! use std::time::Duration;
//! use stand_in::mas::{Fault, Mas, Options, Session, token};
//!
//! let mas = Mas::start(Options::default()).await?;
//! let alice = token("mat", "alice");
//! mas.insert(&alice, Session::access("alice", "PHONE").expires_in(Duration::from_secs(60)));
//! mas.fault(Fault::status(503, "").for_token(&alice).times(1));
//!
//! let hold = mas.hold(); // introspections arrive and are counted, but wait
//! mas.wait_for_calls(1).await;
//! hold.release();
//! assert_eq!(mas.calls(&alice), 1);
//! # Ok(())
//! # }
//! ```

use std::{
    collections::{HashMap, VecDeque},
    fmt, io,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError, atomic::AtomicU64},
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use tokio::{sync::watch, task::JoinSet};

use crate::{SeenRequest, clock::Clock, server::Server};

mod client;
mod control;
mod damage;
mod fault;
mod handler;
mod issue;
mod provisioning;
mod queue;
mod reply;
mod session;
mod state;
mod token;

pub use client::Client;
pub use control::Control;
pub use fault::Fault;
use fault::Faults;
use provisioning::Provisioning;
pub use provisioning::ProvisioningCall;
pub use session::Session;
use state::{RefreshInProgress, State};
pub use token::token;

/// The shared secret of [`Options::default`].
pub const DEFAULT_SECRET: &str = "stand-in-shared-secret";
/// The `client_secret_basic` client of [`Options::default`].
pub const DEFAULT_CLIENT_ID: &str = "0000000000000000000000EDGE";
/// The secret of [`DEFAULT_CLIENT_ID`].
pub const DEFAULT_CLIENT_SECRET: &str = "stand-in-client-secret";

/// How a [`Mas`] starts.
#[derive(Clone)]
pub struct Options {
    /// Where to listen; a free loopback port by default.
    pub listen: SocketAddr,
    /// The secret shared with the homeserver, which introspects with it as a bearer.
    pub secret: String,
    /// The OAuth 2.0 clients.
    pub clients: Vec<Client>,
    /// The time that sessions live in.
    pub clock: Clock,
    /// The issuer in the discovery document, ending in `/`; the listening address by default.
    pub issuer: Option<String>,
    /// How long a request waits for a database that is down; 30 s in MAS.
    pub pool_timeout: Duration,
    /// The homeserver, or what stands in front of it; none until [`Mas::set_homeserver`] unless said.
    pub homeserver: Option<SocketAddr>,
    /// How long a job waits before it is tried again for the first time: 5 s in MAS. Further delays grow with it. They
    /// pass by [`clock`](Self::clock).
    pub first_retry_delay: Duration,
    /// How many requests [`Mas::requests`] and how many calls [`Mas::provisioning`] keeps; the oldest go first.
    pub keep_requests: usize,
    /// Whether `/logout/all` is served; in MAS it needs a device that says it is compat only.
    pub logout_all: bool,
    /// Called for each introspection as it is answered.
    pub on_introspection: Option<OnIntrospection>,
    /// Called for each attempt to tell the homeserver something, once it has ended.
    pub on_provisioning: Option<OnProvisioning>,
}

/// See [`Options::on_introspection`].
pub type OnIntrospection = Arc<dyn Fn(&Introspected) + Send + Sync>;

/// See [`Options::on_provisioning`].
pub type OnProvisioning = Arc<dyn Fn(&ProvisioningCall) + Send + Sync>;

impl Default for Options {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            secret: DEFAULT_SECRET.to_owned(),
            clients: vec![Client::basic(DEFAULT_CLIENT_ID, DEFAULT_CLIENT_SECRET)],
            clock: Clock::system(),
            issuer: None,
            pool_timeout: Duration::from_secs(30),
            homeserver: None,
            first_retry_delay: queue::FIRST_RETRY_DELAY,
            keep_requests: 10_000,
            logout_all: false,
            on_introspection: None,
            on_provisioning: None,
        }
    }
}

impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Options")
            .field("listen", &self.listen)
            .field("clients", &self.clients)
            .field("clock", &self.clock)
            .field("homeserver", &self.homeserver)
            .finish_non_exhaustive()
    }
}

/// One introspection, told without its token.
#[derive(Clone, Debug)]
pub struct Introspected {
    /// The name that the token was given with [`Mas::name`].
    pub name: Option<String>,
    /// How often this token was introspected, this time included; zero if the request held no token.
    pub calls: u64,
    /// How many introspections there were, this one included.
    pub total: u64,
    /// What was answered: `active`, `inactive`, a status, or a fault.
    pub outcome: String,
}

/// Whether MAS can reach its database.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Database {
    /// As it should.
    Up,
    /// Every request that needs it waits for [`Options::pool_timeout`], then fails.
    Down,
    /// The same, while MAS is shutting down because of it: answers also close the connection.
    DownAndExiting,
}

/// A running stand-in MAS. Dropping it closes its listener and all connections.
pub struct Mas {
    shared: Arc<Shared>,
    server: Server,
    /// Dropping it ends the calls to the homeserver.
    #[expect(dead_code, reason = "held for its drop")]
    provisioning: JoinSet<()>,
}

impl Mas {
    /// Starts listening and answering.
    ///
    /// # Errors
    ///
    /// If the address cannot be listened on.
    pub async fn start(options: Options) -> io::Result<Self> {
        let listen = options.listen;
        let shared = Arc::new(Shared::new(options));
        let server = Server::start(listen, {
            let shared = Arc::clone(&shared);
            move |request, wire| handler::answer(Arc::clone(&shared), request, wire)
        })
        .await?;
        lock(&shared.issuer).get_or_insert_with(|| format!("http://{}/", server.addr()));
        let mut provisioning = JoinSet::new();
        provisioning.spawn(provisioning::run(Arc::clone(&shared)));
        Ok(Self {
            shared,
            server,
            provisioning,
        })
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.server.addr()
    }

    /// Stops, and returns once the port refuses connections.
    pub async fn stop(self) {
        self.server.stop().await;
    }

    /// Closes the port and all connections, as a process that is killed does, and returns once it refuses. What MAS has in
    /// its database stays, and its calls to the homeserver go on.
    pub async fn take_down(&self) {
        self.server.close().await;
    }

    /// Listens again on the same port after [`take_down`](Self::take_down).
    ///
    /// # Errors
    ///
    /// If another program has taken the port meanwhile.
    pub async fn bring_up(&self) -> io::Result<()> {
        self.server.open().await
    }

    /// Whether it listens: not after [`take_down`](Self::take_down).
    pub fn is_up(&self) -> bool {
        self.server.is_open()
    }

    /// Makes `token` valid for `session`, from now on. Any string will do; [`token()`] makes one as MAS does.
    pub fn insert(&self, token: &str, session: Session) {
        self.shared.insert(token, session);
    }

    /// Ends the session of `token` and all its tokens: inactive from now on.
    pub fn revoke(&self, token: &str) {
        self.shared.end_session(token);
    }

    /// The same without a word to the homeserver, as MAS ends the session of a replayed authorisation code.
    pub fn revoke_unannounced(&self, token: &str) {
        lock(&self.shared.state).end(token);
    }

    /// Replaces the access token of a session, as a refresh or the regeneration of a personal token does: `old` is
    /// inactive from now on, `new` lives as long as `old` did when it was new. A refresh token stays as it is.
    pub fn refresh(&self, old: &str, new: &str) {
        lock(&self.shared.state).refresh(old, new, self.shared.clock.now());
    }

    /// Begins a refresh: MAS looks whether `refresh_token` is good, and nothing has changed yet. `None` if MAS refuses it.
    /// Two that have begun before either is committed both succeed, as with MAS, and both new access tokens are active.
    ///
    /// A refresh token is good once more after its use while the tokens that it was exchanged for are unused, since their
    /// answer may have been lost; they are inactive then. One of the legacy login API is good once only.
    pub fn begin_refresh(&self, refresh_token: &str) -> Option<Refresh> {
        let begun = lock(&self.shared.state).begin_refresh(refresh_token)?;
        Some(Refresh {
            shared: Arc::clone(&self.shared),
            begun,
        })
    }

    /// Locks a user: all tokens are inactive until unlocked.
    pub fn lock_user(&self, username: &str) {
        self.shared.lock_user(username);
    }

    /// Unlocks a user: the same tokens are active again.
    pub fn unlock_user(&self, username: &str) {
        self.shared.unlock_user(username);
    }

    /// Deactivates a user as the admin API does, with erasure: all sessions end, personal tokens that the user owns but
    /// that act as another as well, and tokens inserted later are inactive too.
    pub fn deactivate_user(&self, username: &str) {
        self.shared.deactivate_user(username);
    }

    /// Reactivates a user, once the homeserver has done so. The sessions from before stay ended.
    pub fn reactivate_user(&self, username: &str) {
        self.shared.reactivate_user(username);
    }

    /// Replaces the shared secret; the old one is refused from now on.
    pub fn set_secret(&self, secret: &str) {
        *lock(&self.shared.secret) = Redacted(secret.to_owned());
    }

    /// Takes the database away or gives it back.
    pub fn set_database(&self, database: Database) {
        *lock(&self.shared.database) = database;
    }

    /// Gives a token a name for [`Introspected`] and the control interface, which never show tokens.
    pub fn name(&self, token: &str, name: &str) {
        lock(&self.shared.names).insert(token.to_owned(), name.to_owned());
    }

    /// How often `token` was introspected, whatever was answered.
    pub fn calls(&self, token: &str) -> u64 {
        self.shared.calls(token)
    }

    /// How many introspections were received.
    pub fn total_calls(&self) -> u64 {
        *self.shared.total.borrow()
    }

    /// How many introspections were under way at the same time, at the most: received and not answered, and the caller
    /// had not left.
    pub fn most_at_once(&self) -> u64 {
        lock(&self.shared.at_once).most
    }

    /// How many introspections are under way now.
    pub fn under_way(&self) -> u64 {
        lock(&self.shared.at_once).now
    }

    /// The introspection requests received, oldest first; at most [`Options::keep_requests`].
    pub fn requests(&self) -> Vec<SeenRequest> {
        lock(&self.shared.seen).iter().cloned().collect()
    }

    /// How many TCP connections were accepted.
    pub fn connections(&self) -> u64 {
        self.server.traffic().connections()
    }

    /// Whether an introspection would call `token` an active access token now. Nothing changes by looking.
    pub fn is_active(&self, token: &str) -> bool {
        lock(&self.shared.state).is_active(token, self.shared.clock.now())
    }

    /// Whether a user is locked.
    pub fn is_locked(&self, username: &str) -> bool {
        lock(&self.shared.state).is_locked(username)
    }

    /// What is left of the life of `token`; `None` if it does not expire, or is not there.
    pub fn time_left(&self, token: &str) -> Option<Duration> {
        lock(&self.shared.state).left_of(token, self.shared.clock.now())
    }

    /// Drops a token with all that is known of it: its session, its name and its count. The homeserver is not told.
    pub fn forget(&self, token: &str) {
        lock(&self.shared.state).forget(token);
        lock(&self.shared.names).remove(token);
        lock(&self.shared.calls).remove(token);
    }

    /// What the faults in force do, in the order they were added.
    pub fn faults(&self) -> Vec<String> {
        lock(&self.shared.faults).labels()
    }

    /// Adds a fault. Faults hit introspections only; of those in force the first that matches hits.
    pub fn fault(&self, fault: Fault) {
        lock(&self.shared.faults).add(fault);
    }

    /// Ends all faults. What hangs is answered.
    pub fn clear_faults(&self) {
        self.shared.clear_faults();
    }

    /// Holds all answers to introspections back until the returned value is released or dropped. Requests are
    /// received and counted meanwhile; they are answered from the state at the moment of release.
    pub fn hold(&self) -> Hold {
        self.shared.holds.send_modify(|holds| *holds += 1);
        Hold(Arc::clone(&self.shared))
    }

    /// Resolves when at least `total` introspections were received since the start.
    pub async fn wait_for_calls(&self, total: u64) {
        // The sender lives in `self`, so waiting cannot fail.
        let _ = self
            .shared
            .total
            .subscribe()
            .wait_for(|calls| *calls >= total)
            .await;
    }

    /// Starts the control interface on its own port: see [`Control`].
    ///
    /// # Errors
    ///
    /// If the address is not of loopback, or cannot be listened on.
    pub async fn control(&self, listen: SocketAddr) -> io::Result<Control> {
        Control::start(Arc::clone(&self.shared), listen).await
    }

    /// Answers a request to the control interface that came in on another server's port.
    pub(crate) fn control_answer(
        &self,
        request: Request<Incoming>,
    ) -> impl Future<Output = Response<Full<Bytes>>> + use<> {
        control::answer(Arc::clone(&self.shared), request)
    }
}

impl fmt::Debug for Mas {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mas")
            .field("addr", &self.addr())
            .field("total_calls", &self.total_calls())
            .finish_non_exhaustive()
    }
}

/// A refresh that has begun: see [`Mas::begin_refresh`]. Dropped, it changes nothing.
#[must_use = "a refresh changes something only when it is committed"]
pub struct Refresh {
    shared: Arc<Shared>,
    begun: RefreshInProgress,
}

impl Refresh {
    /// Issues the new tokens. The access token that came with the refresh token is inactive from now on, even if it was
    /// never used, and so is the refresh token.
    pub fn commit(self, access_token: &str, refresh_token: &str) {
        let now = self.shared.clock.now();
        lock(&self.shared.state).commit_refresh(self.begun, access_token, refresh_token, now);
    }
}

impl fmt::Debug for Refresh {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Refresh")
    }
}

/// While it lives, introspections are received and counted but not answered.
#[must_use = "dropping a hold releases it"]
pub struct Hold(Arc<Shared>);

impl Hold {
    /// Lets the answers go, unless another hold still lives.
    pub fn release(self) {}
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.0.holds.send_modify(|holds| *holds -= 1);
    }
}

impl fmt::Debug for Hold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Hold")
    }
}

/// How many introspections are under way, and how many were at the most.
#[derive(Debug, Default)]
struct AtOnce {
    now: u64,
    most: u64,
}

/// An introspection under way. It ends when this is dropped, also by a caller that leaves.
struct UnderWay<'a>(&'a Shared);

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        lock(&self.0.at_once).now -= 1;
    }
}

/// What the server's tasks and the test's handles share.
struct Shared {
    clock: Clock,
    clients: Vec<Client>,
    issuer: Mutex<Option<String>>,
    logout_all: bool,
    pool_timeout: Duration,
    on_introspection: Option<OnIntrospection>,
    on_provisioning: Option<OnProvisioning>,
    secret: Mutex<Redacted>,
    database: Mutex<Database>,
    provisioning: Provisioning,
    state: Mutex<State>,
    names: Mutex<HashMap<String, String>>,
    calls: Mutex<HashMap<String, u64>>,
    /// How many refreshes the token endpoint has seen.
    issued: AtomicU64,
    keep_requests: usize,
    seen: Mutex<VecDeque<SeenRequest>>,
    faults: Mutex<Faults>,
    /// Counts how often the faults were cleared, which ends what hangs.
    cleared: watch::Sender<u64>,
    total: watch::Sender<u64>,
    at_once: Mutex<AtOnce>,
    holds: watch::Sender<usize>,
}

impl Shared {
    fn new(options: Options) -> Self {
        let provisioning = Provisioning::new(options.homeserver, options.first_retry_delay);
        Self {
            clock: options.clock,
            clients: options.clients,
            issuer: Mutex::new(options.issuer),
            logout_all: options.logout_all,
            pool_timeout: options.pool_timeout,
            on_introspection: options.on_introspection,
            on_provisioning: options.on_provisioning,
            secret: Mutex::new(Redacted(options.secret)),
            database: Mutex::new(Database::Up),
            provisioning,
            state: Mutex::default(),
            names: Mutex::default(),
            calls: Mutex::default(),
            issued: AtomicU64::new(0),
            keep_requests: options.keep_requests,
            seen: Mutex::default(),
            faults: Mutex::default(),
            cleared: watch::Sender::new(0),
            total: watch::Sender::new(0),
            at_once: Mutex::default(),
            holds: watch::Sender::new(0),
        }
    }

    fn insert(&self, token: &str, session: Session) {
        lock(&self.state).insert(token, session, self.clock.now());
    }

    fn calls(&self, token: &str) -> u64 {
        lock(&self.calls).get(token).copied().unwrap_or_default()
    }

    fn clear_faults(&self) {
        let mut faults = lock(&self.faults);
        faults.clear();
        self.cleared.send_modify(|times| *times += 1);
    }

    /// The fault that hits an introspection of `token` now, and what tells when it is cleared.
    fn take_fault(&self, token: Option<&str>) -> Option<(Fault, watch::Receiver<u64>)> {
        // Under the lock that clears: no fault is taken before and watched after.
        let mut faults = lock(&self.faults);
        Some((faults.take(token)?, self.cleared.subscribe()))
    }

    /// Counts an introspection as under way until the returned value is dropped.
    fn begin(&self) -> UnderWay<'_> {
        let mut at_once = lock(&self.at_once);
        at_once.now += 1;
        at_once.most = at_once.most.max(at_once.now);
        UnderWay(self)
    }

    /// Counts an introspection and keeps its request; returns the token's and the total count.
    fn record(&self, request: SeenRequest, token: Option<&str>) -> (u64, u64) {
        let calls = token.map_or(0, |token| {
            let mut calls = lock(&self.calls);
            let count = calls.entry(token.to_owned()).or_default();
            *count += 1;
            *count
        });
        let mut seen = lock(&self.seen);
        if seen.len() >= self.keep_requests {
            seen.pop_front();
        }
        if self.keep_requests > 0 {
            seen.push_back(request);
        }
        drop(seen);
        let mut total = 0;
        // Last, so that whoever waits for the count finds the rest in place.
        self.total.send_modify(|n| {
            *n += 1;
            total = *n;
        });
        (calls, total)
    }
}

/// A secret or a token; `Debug` does not show it.
#[derive(Clone, Eq, PartialEq)]
struct Redacted(String);

impl fmt::Debug for Redacted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

/// A panic elsewhere leaves these plain values whole, so a poisoned lock is still good.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The form-encoded body that Synapse sends to introspect `token`.
pub fn introspection_body(token: &str) -> Bytes {
    form_urlencoded::Serializer::new(String::new())
        .append_pair("token", token)
        .append_pair("token_type_hint", "access_token")
        .finish()
        .into()
}
