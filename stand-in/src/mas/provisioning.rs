//! MAS's calls to its homeserver: `POST /_synapse/mas/{call}`, JSON, with the shared secret as bearer.
//!
//! | event | calls |
//! |---|---|
//! | a session ends: [`Mas::revoke`], `/oauth2/revoke`, `/logout`, `/logout/all` | `sync_devices` |
//! | [`Mas::lock_user`], [`Mas::unlock_user`], [`Mas::provision_user`] | `provision_user`, then `sync_devices` |
//! | [`Mas::deactivate_user`] | `delete_user` |
//! | [`Mas::reactivate_user`] | `reactivate_user` |
//! | [`Mas::upsert_device`], [`Mas::delete_device`] | the call of that name |
//! | [`Mas::refresh`], [`Mas::revoke_unannounced`] | none |
//!
//! `sync_devices` names the devices that remain. So a session without a device ends with a call that does not tell
//! which session it was, and a device of two sessions stays until both have ended. A personal token without a device
//! ends without a call.
//!
//! The calls are made in the background, one after the other. As in MAS's job queue, a body is made of the state at the
//! moment of sending, not at that of the event, and a call that fails is tried again. MAS waits longer for that, and
//! runs jobs side by side. Without a homeserver events make no calls, then or later.

use std::{
    collections::VecDeque,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderValue, Request, header};
use http_body_util::{BodyExt, Full};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use serde_json::json;
use tokio::{
    sync::{mpsc, watch},
    time::Instant,
};

use super::{Mas, Shared, State, lock};

/// How long to wait before each further attempt; after the last the job is given up.
const BACKOFF: [Duration; 5] = [
    Duration::from_millis(25),
    Duration::from_millis(50),
    Duration::from_millis(100),
    Duration::from_millis(200),
    Duration::from_millis(400),
];
/// How long an attempt may take.
const TIMEOUT: Duration = Duration::from_secs(30);

/// One attempt to tell the homeserver something.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ProvisioningCall {
    /// The path, from `/_synapse/mas/` on.
    pub path: &'static str,
    /// The JSON, as sent.
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

    /// Has the homeserver create a device, as MAS does at login. The next `sync_devices` deletes it again unless a
    /// session of the user has it.
    pub fn upsert_device(&self, username: &str, device: &str) {
        self.shared
            .schedule(Job::UpsertDevice(username.to_owned(), device.to_owned()));
    }

    /// Has the homeserver delete a device. MAS's own jobs prefer `sync_devices`; sessions are left as they are.
    pub fn delete_device(&self, username: &str, device: &str) {
        self.shared
            .schedule(Job::DeleteDevice(username.to_owned(), device.to_owned()));
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

    /// Resolves when the homeserver was told of every event so far: no call is under way or yet to be made. It may have
    /// refused, so that a call was given up.
    pub async fn wait_until_provisioned(&self) {
        let _ = self
            .shared
            .provisioning
            .unfinished
            .subscribe()
            .wait_for(|jobs| *jobs == 0)
            .await;
    }
}

/// What the events and the background task share.
pub(super) struct Provisioning {
    homeserver: Mutex<Option<SocketAddr>>,
    jobs: mpsc::UnboundedSender<Job>,
    /// How many jobs wait or are under way.
    unfinished: watch::Sender<usize>,
    calls: Mutex<VecDeque<ProvisioningCall>>,
    answered: watch::Sender<u64>,
}

impl Provisioning {
    /// The jobs that come out of the receiver are for [`run`].
    pub(super) fn new(homeserver: Option<SocketAddr>) -> (Self, mpsc::UnboundedReceiver<Job>) {
        let (jobs, receiver) = mpsc::unbounded_channel();
        let provisioning = Self {
            homeserver: Mutex::new(homeserver),
            jobs,
            unfinished: watch::Sender::new(0),
            calls: Mutex::default(),
            answered: watch::Sender::new(0),
        };
        (provisioning, receiver)
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
    UpsertDevice(String, String),
}

impl Job {
    const fn path(&self) -> &'static str {
        match self {
            Self::DeleteDevice(..) => "/_synapse/mas/delete_device",
            Self::DeleteUser(_) => "/_synapse/mas/delete_user",
            Self::ProvisionUser(_) => "/_synapse/mas/provision_user",
            Self::ReactivateUser(_) => "/_synapse/mas/reactivate_user",
            Self::SyncDevices(_) => "/_synapse/mas/sync_devices",
            Self::UpsertDevice(..) => "/_synapse/mas/upsert_device",
        }
    }

    /// Members in MAS's order. The users here have no e-mail address, which MAS says with an empty list.
    fn body(&self, state: &State) -> String {
        match self {
            Self::DeleteDevice(user, device) | Self::UpsertDevice(user, device) => {
                json!({ "localpart": user, "device_id": device })
            }
            Self::DeleteUser(user) => json!({ "localpart": user, "erase": false }),
            Self::ProvisionUser(user) => {
                json!({ "localpart": user, "set_emails": [], "locked": state.is_locked(user) })
            }
            Self::ReactivateUser(user) => json!({ "localpart": user }),
            Self::SyncDevices(user) => {
                json!({ "localpart": user, "devices": state.devices(user) })
            }
        }
        .to_string()
    }
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

    /// False if there is no homeserver to tell.
    fn schedule(&self, job: Job) -> bool {
        let provisioning = &self.provisioning;
        if lock(&provisioning.homeserver).is_none() {
            return false;
        }
        provisioning.unfinished.send_modify(|jobs| *jobs += 1);
        // Fails only when the task has ended, and with it the stand-in.
        provisioning.jobs.send(job).is_ok()
    }
}

type Caller = Client<HttpConnector, Full<Bytes>>;

/// Makes the calls until it is aborted.
pub(super) async fn run(shared: Arc<Shared>, mut jobs: mpsc::UnboundedReceiver<Job>) {
    let mut connector = HttpConnector::new();
    connector.set_nodelay(true);
    let caller = Client::builder(TokioExecutor::new()).build(connector);
    while let Some(job) = jobs.recv().await {
        let mut backoff = BACKOFF.into_iter();
        while !attempt(&shared, &caller, &job).await {
            let Some(wait) = backoff.next() else { break };
            tokio::time::sleep(wait).await;
        }
        // After what the job itself has queued.
        shared
            .provisioning
            .unfinished
            .send_modify(|jobs| *jobs -= 1);
    }
}

/// Makes one call; whether the homeserver accepted it.
async fn attempt(shared: &Shared, caller: &Caller, job: &Job) -> bool {
    let path = job.path();
    let body = job.body(&lock(&shared.state));
    let sent = Instant::now();
    let status = match request(shared, path, &body) {
        Some(request) => tokio::time::timeout(TIMEOUT, status(caller, request))
            .await
            .ok()
            .flatten(),
        None => None,
    };
    let ended = Instant::now();
    let accepted = status.is_some_and(|status| (200..300).contains(&status));
    if accepted {
        follow_up(shared, job);
    }
    let call = ProvisioningCall {
        path,
        body,
        status,
        sent,
        ended,
    };
    shared.provisioning.record(call, shared.keep_requests);
    accepted
}

/// `None` if there is no homeserver, or the secret is nothing that a header can hold.
fn request(shared: &Shared, path: &str, body: &str) -> Option<Request<Full<Bytes>>> {
    let homeserver = (*lock(&shared.provisioning.homeserver))?;
    let bearer = format!("Bearer {}", lock(&shared.secret).0);
    let mut bearer = HeaderValue::try_from(bearer).ok()?;
    bearer.set_sensitive(true);
    Request::post(format!("http://{homeserver}{path}"))
        .header(header::AUTHORIZATION, bearer)
        .header(header::CONTENT_TYPE, "application/json")
        .body(Full::from(body.to_owned()))
        .ok()
}

/// Sends `request` and reads the whole answer, of which only the status counts.
async fn status(caller: &Caller, request: Request<Full<Bytes>>) -> Option<u16> {
    let (head, body) = caller.request(request).await.ok()?.into_parts();
    body.collect().await.ok()?;
    Some(head.status.as_u16())
}

/// What MAS does only once the homeserver knows.
fn follow_up(shared: &Shared, job: &Job) {
    match job {
        Job::ProvisionUser(user) => shared.sync_devices(Some(user.clone())),
        Job::ReactivateUser(user) => lock(&shared.state).reactivate(user),
        Job::DeleteDevice(..)
        | Job::DeleteUser(_)
        | Job::SyncDevices(_)
        | Job::UpsertDevice(..) => {}
    }
}
