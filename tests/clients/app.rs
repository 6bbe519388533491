//! Client applications: matrix-js-sdk under Node and matrix-nio under Python, each in a process of its own.

use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use serde_json::{Value, json};
use stand_in::mas::{Session, token};

use super::rig::{OAUTH_CLIENT, Rig, user_id};
use crate::support::{envoy::repository, peer::Peer};

const MISSING: &str = "Run `scripts/setup clients`.";

/// The library that an application is made with.
#[derive(Clone, Copy, Debug)]
pub enum Library {
    /// matrix-js-sdk.
    Js,
    /// matrix-nio.
    Nio,
}

/// How a session came about.
pub enum Login {
    /// By OAuth 2.0: the access token lives for this long, and can be refreshed.
    OAuth(Duration),
    /// By the legacy login API: the token does not expire.
    Compat,
}

/// A running application with a session.
pub struct App {
    name: String,
    user: String,
    token: String,
    peer: Peer,
}

impl App {
    /// Starts an application of a user, who is made if need be, on a device of its own.
    pub async fn start(rig: &Rig, library: Library, localpart: &str, login: Login) -> Self {
        static DEVICES: AtomicU64 = AtomicU64::new(0);
        let device = format!("DEVICE{}", DEVICES.fetch_add(1, Ordering::Relaxed));
        let name = format!("{localpart}'s {library:?} on {device}");
        rig.make_user(localpart).await;
        rig.synapse.upsert_device(localpart, &device).await;
        let mut begin = json!({"url": rig.url(), "user": user_id(localpart), "device": device});
        let token = match login {
            Login::OAuth(lifetime) => {
                let (access, refresh) = (token("mat", &name), token("mar", &name));
                let session = Session::access(localpart, &device)
                    .client_id(OAUTH_CLIENT)
                    .expires_in(lifetime)
                    .refresh_token(&refresh);
                rig.mas.insert(&access, session);
                begin["refresh_token"] = refresh.into();
                begin["oauth_client"] = OAUTH_CLIENT.into();
                access
            }
            Login::Compat => {
                let token = token("mct", &name);
                rig.mas.insert(&token, Session::compat(localpart, &device));
                token
            }
        };
        begin["token"] = (*token).into();
        let peer = Peer::start(&name, &mut command(library), b'\n', MISSING);
        let app = Self {
            name,
            user: user_id(localpart),
            token,
            peer,
        };
        app.call("begin", begin).await;
        app
    }

    /// The user.
    pub fn user(&self) -> &str {
        &self.user
    }

    /// The access token that it began with.
    pub fn first_token(&self) -> &str {
        &self.token
    }

    /// Calls a method that succeeds.
    pub async fn call(&self, method: &str, parameters: Value) -> Value {
        self.try_call(method, parameters)
            .await
            .unwrap_or_else(|error| panic!("{method} of {}: {error:#}", self.name))
    }

    /// Calls a method.
    ///
    /// # Errors
    ///
    /// What the library says that went wrong.
    pub async fn try_call(&self, method: &str, parameters: Value) -> Result<Value, Value> {
        self.peer
            .try_call(json!({"method": method, "params": parameters}))
            .await
    }

    /// Begins to sync, and returns when it has synced for the first time.
    pub async fn sync(&self) {
        let before = self.events();
        self.call("sync", json!({})).await;
        self.synced_since(before).await;
    }

    /// Resolves when it has synced since there were `from` events.
    pub async fn synced_since(&self, from: usize) {
        self.peer
            .event_since(from, "sync", |sync| sync["state"] == "SYNCING")
            .await;
    }

    /// Resolves when an event as `wanted` came since there were `from` of them, with its parameters.
    pub async fn event_since(
        &self,
        from: usize,
        method: &str,
        wanted: impl Fn(&Value) -> bool,
    ) -> Value {
        self.peer.event_since(from, method, wanted).await
    }

    /// Resolves when it has shown a message since it started.
    pub async fn message(&self, sender: &str, body: &str) {
        self.event_since(0, "message", |message| {
            message["sender"] == sender && message["body"] == body
        })
        .await;
    }

    /// How many events there were.
    pub fn events(&self) -> usize {
        self.peer.events()
    }

    /// How many events there were by this name.
    pub fn count(&self, method: &str) -> usize {
        let events = self.peer.events_since(0).into_iter();
        events.filter(|event| event["method"] == method).count()
    }

    /// Checks that it still has its session.
    pub async fn assert_logged_in(&self) {
        let found = self.call("whoami", json!({})).await;
        assert_eq!(found["user_id"], self.user, "{}", self.name);
        assert_eq!(self.count("logged_out"), 0, "{}", self.name);
    }
}

fn command(library: Library) -> Command {
    let driver = |path: &str| repository().join("tests/clients").join(path);
    match library {
        Library::Js => {
            let mut command = Command::new(node());
            command.arg(driver("js/client.mjs"));
            command
        }
        Library::Nio => {
            let mut command = Command::new(python());
            command.arg(driver("nio/client.py"));
            command
        }
    }
}

/// The Node that setup has found to be recent enough, or the one on PATH.
fn node() -> PathBuf {
    let modules = repository().join("tests/clients/js/node_modules/matrix-js-sdk");
    assert_exists("matrix-js-sdk", &modules);
    let own = repository().join(".tools/node/node");
    env::var_os("NODE").map_or_else(
        || if own.exists() { own } else { "node".into() },
        PathBuf::from,
    )
}

/// The Python that has matrix-nio.
fn python() -> PathBuf {
    let python = repository().join(".tools/nio/bin/python");
    assert_exists("matrix-nio", &python);
    python
}

fn assert_exists(what: &str, path: &Path) {
    assert!(
        path.exists(),
        "no {what}: {} does not exist. {MISSING}",
        path.display()
    );
}
