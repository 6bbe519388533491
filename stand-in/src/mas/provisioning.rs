//! MAS's calls to its homeserver: `/_synapse/mas/{call}`, JSON, with the shared secret as bearer.
//!
//! | event | calls |
//! |---|---|
//! | a session ends: [`Mas::revoke`], `/oauth2/revoke`, `/logout`, `/logout/all` | `sync_devices` |
//! | [`Mas::compat_login`] | `upsert_device`; if that fails, `sync_devices` |
//! | [`Mas::lock_user`], [`Mas::unlock_user`], [`Mas::provision_user`] | `provision_user`, then `sync_devices` |
//! | [`Mas::deactivate_user`] | `delete_user` |
//! | [`Mas::reactivate_user`] | `reactivate_user` |
//! | [`Mas::upsert_device`], [`Mas::delete_device`] | the call of that name |
//! | [`Mas::query_user`], [`Mas::is_localpart_available`] | the call of that name, with `GET` |
//! | [`Mas::refresh`], [`Mas::begin_refresh`], [`Mas::revoke_unannounced`] | none |
//!
//! `sync_devices` names the devices that remain. So a session without a device ends with a call that does not tell
//! which session it was, and a device of two sessions stays until both have ended. A personal token without a device
//! ends without a call. The sessions that give way to a login on their device end without a `sync_devices`, and
//! `upsert_device` looks the same where there were none. The deactivation of a user who owns a personal token that acts
//! as another names only the owner.
//!
//! Most calls are jobs: they are made in the background, and `mas/queue.rs` says in which order and when again if they
//! fail. A body is made of the state at the moment of sending, not at that of the event: a lock that is told only after
//! the unlock says `"locked":false`. `upsert_device` is no job in MAS but part of the login, so it is made once.
//! Without a homeserver events make no calls, then or later.
//!
//! The calls are HTTP/1.1 with `content-length`, on connections that are kept alive, as MAS's are.

use std::{
    collections::VecDeque,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderValue, Method, Request, header};
use http_body_util::{BodyExt, Full};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::{Deserialize, Serialize};
use tokio::{
    sync::{Notify, watch},
    task::JoinSet,
    time::Instant,
};

use super::{
    Mas, Session, Shared, State, lock,
    queue::{Outcome, Progress, Queue, Queued},
};

/// How long an attempt may take.
const TIMEOUT: Duration = Duration::from_secs(30);

/// One attempt to tell the homeserver something.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ProvisioningCall {
    /// `POST`, or `GET` for a question.
    pub method: Method,
    /// The path, from `/_synapse/mas/` on.
    pub path: &'static str,
    /// The query of a question, without the `?`, as sent.
    pub query: Option<String>,
    /// The JSON, as sent; empty for a question.
    pub body: String,
    /// The status answered; absent if the connection was refused or broke, or nothing came in time.
    pub status: Option<u16>,
    /// When sending began, the connection included.
    pub sent: Instant,
    /// When the whole answer was there, or the attempt had failed.
    pub ended: Instant,
}

impl Mas {
    /// Names the homeserver to call, from now on. It may be a proxy in front of it, which starts later than MAS.
    pub fn set_homeserver(&self, homeserver: SocketAddr) {
        *lock(&self.shared.provisioning.homeserver) = Some(homeserver);
    }

    /// Has the homeserver create the account of a user, or learn whether it is locked.
    pub fn provision_user(&self, username: &str) {
        self.shared
            .schedule(Job::ProvisionUser(username.to_owned()));
    }

    /// Begins a session of the legacy login API under `token`, as a login on the session's device does: all sessions of
    /// the user on that device end, OAuth 2.0 ones as well, and the homeserver is told of the device and of nothing
    /// else. If it refuses, the login fails and the new session ends too.
    ///
    /// # Panics
    ///
    /// If this is no compat session, or it has no device. MAS makes one up where the client names none.
    pub fn compat_login(&self, token: &str, session: Session) {
        assert!(
            session.is_compat() && session.device.is_some(),
            "a login makes a compat session with a device: {session:?}"
        );
        self.shared.compat_login(token, session);
    }

    /// Has the homeserver create a device, as MAS does when an OAuth 2.0 session begins. The next `sync_devices` deletes
    /// it again unless a session of the user has it.
    pub fn upsert_device(&self, username: &str, device: &str) {
        self.shared.schedule(Job::UpsertDevice {
            user: username.to_owned(),
            device: device.to_owned(),
            display_name: None,
            login: None,
        });
    }

    /// Has the homeserver delete a device. MAS's own jobs prefer `sync_devices`; sessions are left as they are.
    pub fn delete_device(&self, username: &str, device: &str) {
        self.shared
            .schedule(Job::DeleteDevice(username.to_owned(), device.to_owned()));
    }

    /// Asks the homeserver about a user, as MAS does for its consent pages. Returns whether the homeserver answered.
    pub async fn query_user(&self, username: &str) -> bool {
        let path = "/_synapse/mas/query_user";
        ask(&self.shared, path, username)
            .await
            .is_some_and(|answer| is_success(answer.status))
    }

    /// Asks the homeserver whether a new user may have this name, as MAS does at registration. `None` if it does not
    /// answer that. MAS asks nothing about a name that is not ASCII, which cannot be had.
    pub async fn is_localpart_available(&self, username: &str) -> Option<bool> {
        const TAKEN: [&str; 3] = ["M_USER_IN_USE", "M_INVALID_USERNAME", "M_EXCLUSIVE"];
        if !username.is_ascii() {
            return Some(false);
        }
        let path = "/_synapse/mas/is_localpart_available";
        let answer = ask(&self.shared, path, username).await?;
        if is_success(answer.status) {
            return Some(true);
        }
        let error: MatrixError = serde_json::from_slice(&answer.body).ok()?;
        TAKEN.contains(&error.errcode.as_str()).then_some(false)
    }

    /// Waits this long before the first retry of a job that fails from now on; further delays grow with it. MAS waits 5,
    /// 10, 20 s and so on.
    pub fn set_first_retry_delay(&self, delay: Duration) {
        self.shared.set_first_retry_delay(delay);
    }

    /// When the next failed job is tried again, by the stand-in's clock; `None` if none waits for that.
    pub fn next_retry(&self) -> Option<Duration> {
        lock(&self.shared.provisioning.queue).next_retry()
    }

    /// Tries the failed jobs again at once, without the rest of their delay.
    pub fn retry_now(&self) {
        self.shared.retry_now();
    }

    /// The calls made, each attempt by itself, oldest first; at most
    /// [`Options::keep_requests`](super::Options::keep_requests).
    pub fn provisioning(&self) -> Vec<ProvisioningCall> {
        lock(&self.shared.provisioning.calls)
            .iter()
            .cloned()
            .collect()
    }

    /// Resolves when at least `answered` calls were answered since the start, whatever the status.
    pub async fn wait_for_provisioning(&self, answered: u64) {
        // The sender lives in `self`, so waiting cannot fail.
        let _ = self
            .shared
            .provisioning
            .answered
            .subscribe()
            .wait_for(|calls| *calls >= answered)
            .await;
    }

    /// Resolves when at least `jobs` have failed and wait to be tried again. A test then need not wait as long as MAS:
    /// there is [`retry_now`](Self::retry_now), or a manual clock to advance to [`next_retry`](Self::next_retry).
    pub async fn wait_until_retrying(&self, jobs: usize) {
        self.shared.wait_until_retrying(jobs).await;
    }

    /// Resolves when the homeserver was told of every event so far: no call is under way or yet to be made. It may have
    /// refused, so that a call was given up.
    pub async fn wait_until_provisioned(&self) {
        self.shared.wait_until_provisioned().await;
    }
}

/// What the events and the background task share.
pub(super) struct Provisioning {
    caller: Caller,
    homeserver: Mutex<Option<SocketAddr>>,
    queue: Mutex<Queue<Job>>,
    /// Of the queue, changed under its lock.
    progress: watch::Sender<Progress>,
    /// Tells [`run`] that the queue has changed.
    changed: Notify,
    calls: Mutex<VecDeque<ProvisioningCall>>,
    answered: watch::Sender<u64>,
}

impl Provisioning {
    pub(super) fn new(homeserver: Option<SocketAddr>, first_retry_delay: Duration) -> Self {
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        Self {
            caller: Client::builder(TokioExecutor::new()).build(connector),
            homeserver: Mutex::new(homeserver),
            queue: Mutex::new(Queue::new(first_retry_delay)),
            progress: watch::Sender::default(),
            changed: Notify::new(),
            calls: Mutex::default(),
            answered: watch::Sender::new(0),
        }
    }

    /// Changes the queue, and lets those know who wait for its progress.
    fn update<T>(&self, change: impl FnOnce(&mut Queue<Job>) -> T) -> T {
        let mut queue = lock(&self.queue);
        let changed = change(&mut queue);
        self.progress.send_replace(queue.progress());
        changed
    }

    fn record(&self, call: ProvisioningCall, keep: usize) {
        let is_answered = call.status.is_some();
        let mut calls = lock(&self.calls);
        calls.push_back(call);
        if calls.len() > keep {
            calls.pop_front();
        }
        drop(calls);
        // Last, so that whoever waits for the count finds the call in place.
        if is_answered {
            self.answered.send_modify(|answered| *answered += 1);
        }
    }
}

/// Something to tell the homeserver about a user.
pub(super) enum Job {
    DeleteDevice(String, String),
    DeleteUser(String),
    ProvisionUser(String),
    ReactivateUser(String),
    SyncDevices(String),
    UpsertDevice {
        user: String,
        device: String,
        display_name: Option<String>,
        /// The token of the compat login that the call is part of.
        login: Option<String>,
    },
}

impl Job {
    fn user(&self) -> &str {
        match self {
            Self::DeleteDevice(user, _)
            | Self::DeleteUser(user)
            | Self::ProvisionUser(user)
            | Self::ReactivateUser(user)
            | Self::SyncDevices(user)
            | Self::UpsertDevice { user, .. } => user,
        }
    }

    const fn path(&self) -> &'static str {
        match self {
            Self::DeleteDevice(..) => "/_synapse/mas/delete_device",
            Self::DeleteUser(_) => "/_synapse/mas/delete_user",
            Self::ProvisionUser(_) => "/_synapse/mas/provision_user",
            Self::ReactivateUser(_) => "/_synapse/mas/reactivate_user",
            Self::SyncDevices(_) => "/_synapse/mas/sync_devices",
            Self::UpsertDevice { .. } => "/_synapse/mas/upsert_device",
        }
    }

    /// The JSON to send: of what is true now.
    fn body(&self, state: &State) -> String {
        let body = Body {
            localpart: self.user(),
            device_id: None,
            display_name: None,
            erase: None,
            set_emails: None,
            locked: None,
            devices: None,
        };
        let body = match self {
            Self::DeleteDevice(_, device) => Body {
                device_id: Some(device),
                ..body
            },
            Self::UpsertDevice {
                device,
                display_name,
                ..
            } => Body {
                device_id: Some(device),
                display_name: display_name.as_deref(),
                ..body
            },
            // What the admin API asks for unless it is told otherwise.
            Self::DeleteUser(_) => Body {
                erase: Some(true),
                ..body
            },
            Self::ProvisionUser(user) => Body {
                set_emails: Some([]),
                locked: Some(state.is_locked(user)),
                ..body
            },
            Self::ReactivateUser(_) => body,
            Self::SyncDevices(user) => Body {
                devices: Some(state.devices(user).into_iter().collect()),
                ..body
            },
        };
        // Plain strings and numbers cannot fail to be written.
        serde_json::to_string(&body).unwrap_or_default()
    }
}

/// The members that calls have, in MAS's order; absent ones are left out, never null.
#[derive(Serialize)]
struct Body<'a> {
    localpart: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    device_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    display_name: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    erase: Option<bool>,
    /// The users here have no e-mail address, which MAS says with an empty list.
    #[serde(skip_serializing_if = "Option::is_none")]
    set_emails: Option<[&'a str; 0]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    locked: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    devices: Option<Vec<&'a str>>,
}

/// The events, for the handle, the endpoints and the control interface alike.
impl Shared {
    pub(super) fn end_session(&self, token: &str) {
        let user = lock(&self.state).end(token);
        self.sync_devices(user);
    }

    pub(super) fn lock_user(&self, username: &str) {
        lock(&self.state).lock(username);
        self.schedule(Job::ProvisionUser(username.to_owned()));
    }

    pub(super) fn unlock_user(&self, username: &str) {
        lock(&self.state).unlock(username);
        self.schedule(Job::ProvisionUser(username.to_owned()));
    }

    pub(super) fn deactivate_user(&self, username: &str) {
        lock(&self.state).deactivate(username);
        self.schedule(Job::DeleteUser(username.to_owned()));
    }

    pub(super) fn reactivate_user(&self, username: &str) {
        if !self.schedule(Job::ReactivateUser(username.to_owned())) {
            lock(&self.state).reactivate(username);
        }
    }

    /// After the end of a session: the user to sync is `None` if MAS says nothing of that session.
    pub(super) fn sync_devices(&self, user: Option<String>) {
        if let Some(user) = user {
            self.schedule(Job::SyncDevices(user));
        }
    }

    pub(super) fn compat_login(&self, token: &str, session: Session) {
        let job = session
            .username
            .clone()
            .zip(session.device.clone())
            .map(|(user, device)| Job::UpsertDevice {
                user,
                device,
                display_name: session.display_name.clone(),
                login: Some(token.to_owned()),
            });
        lock(&self.state).log_in(token, session, self.clock.now());
        if let Some(job) = job {
            self.schedule(job);
        }
    }

    /// False if there is no homeserver to tell.
    fn schedule(&self, job: Job) -> bool {
        let provisioning = &self.provisioning;
        if lock(&provisioning.homeserver).is_none() {
            return false;
        }
        let user = job.user().to_owned();
        provisioning.update(|queue| queue.add(&user, job));
        provisioning.changed.notify_one();
        true
    }

    pub(super) fn set_first_retry_delay(&self, delay: Duration) {
        lock(&self.provisioning.queue).set_first_retry_delay(delay);
    }

    pub(super) fn retry_now(&self) {
        self.provisioning.update(Queue::retry_now);
        self.provisioning.changed.notify_one();
    }

    pub(super) fn provisioning_progress(&self) -> Progress {
        *self.provisioning.progress.borrow()
    }

    pub(super) async fn wait_until_retrying(&self, jobs: usize) {
        self.wait_for_progress(|progress| progress.retrying >= jobs)
            .await;
    }

    pub(super) async fn wait_until_provisioned(&self) {
        self.wait_for_progress(|progress| progress.unfinished == 0)
            .await;
    }

    async fn wait_for_progress(&self, is_reached: impl Fn(&Progress) -> bool) {
        // The sender lives in `self`, so waiting cannot fail.
        let _ = self
            .provisioning
            .progress
            .subscribe()
            .wait_for(is_reached)
            .await;
    }
}

/// Runs the jobs until it is aborted.
pub(super) async fn run(shared: Arc<Shared>) {
    let provisioning = &shared.provisioning;
    let mut running = JoinSet::new();
    loop {
        while let Some(job) = provisioning.update(|queue| queue.start(shared.clock.now())) {
            running.spawn(run_once(Arc::clone(&shared), job));
        }
        let next_retry = lock(&provisioning.queue).next_retry();
        tokio::select! {
            () = provisioning.changed.notified() => {}
            Some(_) = running.join_next() => {}
            () = shared.clock.wait_until(next_retry.unwrap_or_default()), if next_retry.is_some() => {}
        }
    }
}

/// Runs a job, and takes note of how that ended.
async fn run_once(shared: Arc<Shared>, queued: Queued<Job>) {
    let outcome = attempt(&shared, &queued.job).await;
    shared
        .provisioning
        .update(|queue| queue.end(queued, outcome, shared.clock.now()));
}

/// Makes the call of a job, and does what MAS does besides.
async fn attempt(shared: &Shared, job: &Job) -> Outcome {
    if let Job::DeleteUser(user) = job {
        // Each time anew, so a retry also ends what began since, and undoes a reactivation.
        lock(&shared.state).deactivate(user);
    }
    let body = job.body(&lock(&shared.state));
    let target = Target {
        method: Method::POST,
        path: job.path(),
        query: None,
    };
    let accepted = call(shared, target, body)
        .await
        .is_some_and(|answer| is_success(answer.status));
    match job {
        Job::ProvisionUser(user) if accepted => shared.sync_devices(Some(user.clone())),
        Job::ReactivateUser(user) if accepted => lock(&shared.state).reactivate(user),
        Job::UpsertDevice { login, .. } if !accepted => {
            // A login that fails leaves no session.
            if let Some(token) = login {
                shared.end_session(token);
            }
            return Outcome::Done;
        }
        _ => {}
    }
    if accepted {
        Outcome::Done
    } else {
        Outcome::Failed
    }
}

/// Asks about a user with `GET`.
async fn ask(shared: &Shared, path: &'static str, username: &str) -> Option<Answer> {
    /// All bytes but those are percent-encoded.
    const UNRESERVED: &AsciiSet = &NON_ALPHANUMERIC
        .remove(b'-')
        .remove(b'.')
        .remove(b'_')
        .remove(b'~');
    let username = utf8_percent_encode(username, UNRESERVED);
    let target = Target {
        method: Method::GET,
        path,
        query: Some(format!("localpart={username}")),
    };
    call(shared, target, String::new()).await
}

type Caller = Client<HttpConnector, Full<Bytes>>;

/// What to call.
struct Target {
    method: Method,
    path: &'static str,
    query: Option<String>,
}

/// What the homeserver said.
struct Answer {
    status: u16,
    body: Bytes,
}

/// The body of an answer that is no success.
#[derive(Deserialize)]
struct MatrixError {
    errcode: String,
}

const fn is_success(status: u16) -> bool {
    status >= 200 && status < 300
}

/// Makes one call and keeps it for [`Mas::provisioning`]; `None` if nothing was answered.
async fn call(shared: &Shared, target: Target, body: String) -> Option<Answer> {
    let sent = Instant::now();
    let answer = match request(shared, &target, &body) {
        Some(request) => tokio::time::timeout(TIMEOUT, send(shared, request))
            .await
            .ok()
            .flatten(),
        None => None,
    };
    let call = ProvisioningCall {
        method: target.method,
        path: target.path,
        query: target.query,
        body,
        status: answer.as_ref().map(|answer| answer.status),
        sent,
        ended: Instant::now(),
    };
    if let Some(tell) = &shared.on_provisioning {
        tell(&call);
    }
    shared.provisioning.record(call, shared.keep_requests);
    answer
}

/// `None` if there is no homeserver, or the secret is nothing that a header can hold.
fn request(shared: &Shared, target: &Target, body: &str) -> Option<Request<Full<Bytes>>> {
    let homeserver = (*lock(&shared.provisioning.homeserver))?;
    let bearer = format!("Bearer {}", lock(&shared.secret).0);
    let mut bearer = HeaderValue::try_from(bearer).ok()?;
    bearer.set_sensitive(true);
    let query = target
        .query
        .as_ref()
        .map(|query| format!("?{query}"))
        .unwrap_or_default();
    let mut request = Request::builder()
        .method(&target.method)
        .uri(format!("http://{homeserver}{}{query}", target.path))
        .header(header::AUTHORIZATION, bearer);
    if target.method == Method::POST {
        request = request.header(header::CONTENT_TYPE, "application/json");
    }
    request.body(Full::from(body.to_owned())).ok()
}

/// Sends `request` and reads the whole answer.
async fn send(shared: &Shared, request: Request<Full<Bytes>>) -> Option<Answer> {
    let caller = &shared.provisioning.caller;
    let (head, body) = caller.request(request).await.ok()?.into_parts();
    Some(Answer {
        status: head.status.as_u16(),
        body: body.collect().await.ok()?.to_bytes(),
    })
}
