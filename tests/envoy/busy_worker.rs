//! A worker that comes to nothing for more than a second, while sessions end at the others.
//!
//! `busy_worker.c`, preloaded into Envoy, keeps a chosen worker busy. Nothing here waits for a time: that the worker's lease on
//! a question has run out shows by another worker asking the same question.

#![cfg(target_os = "linux")]

use std::{
    fs::{self, File},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use serde_json::json;
use stand_in::mas::Options;
use tokio::sync::watch;

use super::{
    clock,
    edge::{Edge, WHOAMI, assert_not_active},
    sessions::{compat, logout, route_to_mas},
    workers::{POLL, WORKERS, decided, served},
};
use crate::support::{
    envoy::Builder,
    http::{Connection, Request, within_limit},
};

/// The switch that Envoy's workers look at. `busy_worker.c` has its form.
struct Switch {
    file: File,
    path: PathBuf,
    library: PathBuf,
}

impl Switch {
    /// In a folder of its own.
    fn new(folder: &Path) -> Self {
        let path = folder.join("switch");
        fs::write(&path, [0; 16]).expect("a file of our own");
        let file = File::options().read(true).write(true).open(&path);
        Self {
            file: file.expect("a file of our own"),
            path,
            library: clock::build("busy_worker", folder),
        }
    }

    /// An Envoy that looks at it, and deals connections out to its workers in turn.
    fn preload(&self, builder: Builder) -> Builder {
        builder
            .env("LD_PRELOAD", &self.library.to_string_lossy())
            .env("BUSY_WORKER", &self.path.to_string_lossy())
            .balanced()
    }

    /// Keeps a worker busy, and returns once it is. `None`: no worker.
    async fn keep_busy(&self, worker: Option<usize>) {
        let wanted = worker.map_or(0, |worker| worker as i64 + 1);
        let write = self.file.write_all_at(&wanted.to_ne_bytes(), 0);
        write.expect("a file of our own");
        within_limit("the worker to be busy, or free", async {
            while self.busy() != wanted {
                tokio::time::sleep(POLL).await;
            }
        })
        .await;
    }

    fn busy(&self) -> i64 {
        let mut bytes = [0; 8];
        let read = self.file.read_exact_at(&mut bytes, 8);
        read.expect("a file of our own");
        i64::from_ne_bytes(bytes)
    }
}

/// Opens a connection, and returns it with the worker that serves it.
async fn connection(edge: &Edge) -> (usize, Connection) {
    let before = served(edge, "active").await;
    let mut connection = Connection::open(edge.envoy.addr()).await;
    // Envoy balances what it has accepted.
    let versions = Request::get("/_matrix/client/versions");
    assert_eq!(connection.request(&versions).await.status, 200);
    let after = served(edge, "active").await;
    let worker = (0..WORKERS).find(|worker| after[*worker] > before[*worker]);
    (worker.expect("a worker serves it"), connection)
}

#[tokio::test]
async fn an_answer_that_a_busy_worker_reads_after_the_logout_serves_nobody() {
    end_while_busy(false).await;
}

#[tokio::test]
async fn nor_does_it_take_the_place_of_a_later_answer() {
    end_while_busy(true).await;
}

/// MAS says in time that a session has ended, and the worker is busy until the call has long timed out. That says nothing of
/// MAS, so no client can have an answer of before served by keeping its worker busy.
#[tokio::test]
async fn a_worker_that_was_busy_serves_nothing_stale() {
    const TIMEOUT: Duration = Duration::from_secs(1);
    let dir = tempfile::tempdir().expect("a temporary directory");
    let switch = Switch::new(dir.path());
    let settings = json!({
        "cache": {"ttl": "1s", "stale_if_error": "10m", "refresh_ahead": false},
        "introspection": {"timeout": "1s"},
    });
    let (answered, mut answers) = watch::channel(0);
    let options = Options {
        on_introspection: Some(Arc::new(move |_| answered.send_modify(|count| *count += 1))),
        ..Options::default()
    };
    let edge = Edge::start_with(settings, options, |builder| switch.preload(builder)).await;
    let token = edge.alice();
    let whoami = Request::get(WHOAMI).bearer(&token);
    let (busy, mut asking) = connection(&edge).await;
    assert_eq!(asking.request(&whoami).await.status, 200);
    edge.mas.revoke_unannounced(&token);

    // The answer has passed its TTL when MAS is asked again.
    let hold = edge.mas.hold();
    within_limit("MAS to be asked again", async {
        loop {
            asking.send(&whoami.to_bytes()).await;
            tokio::select! {
                response = asking.response(false) => assert_eq!(response.status, 200),
                () = edge.mas.wait_for_calls(2) => break,
            }
        }
    })
    .await;
    switch.keep_busy(Some(busy)).await;
    hold.release();
    within_limit("MAS to answer", answers.wait_for(|count| *count >= 2))
        .await
        .expect("MAS lives");
    // The call's timeout, and the half second after which it counts as lost.
    tokio::time::sleep(2 * TIMEOUT).await;

    switch.keep_busy(None).await;
    let late = within_limit("the held request", asking.response(false)).await;
    assert_not_active(&late);
    assert_not_active(&asking.request(&whoami).await);
    assert_eq!(decided(&edge, "active", "stale").await, 0.0);
}

/// MAS says that the token is active. Before the worker that asked has read that, the session ends, and another worker may have
/// asked again.
async fn end_while_busy(is_known: bool) {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let switch = Switch::new(dir.path());
    let (answered, mut answers) = watch::channel(0);
    let options = Options {
        on_introspection: Some(Arc::new(move |_| answered.send_modify(|count| *count += 1))),
        ..Options::default()
    };
    let edge = Edge::start_with(json!({}), options, |builder| {
        switch.preload(builder).bootstrap(route_to_mas)
    })
    .await;
    let token = compat(&edge, "alice");
    let whoami = Request::get(WHOAMI).bearer(&token);
    let (busy, mut asking) = connection(&edge).await;
    let (free, mut other) = connection(&edge).await;
    assert_ne!(busy, free, "Envoy deals them out");
    let before = edge.homeserver.count();

    // The worker has asked, and is busy when MAS answers.
    let hold = edge.mas.hold();
    asking.send(&whoami.to_bytes()).await;
    edge.mas.wait_for_calls(1).await;
    switch.keep_busy(Some(busy)).await;
    hold.release();
    let mut wait_for_answers = async |number: usize| {
        let wait = answers.wait_for(|count| *count >= number);
        within_limit("MAS to answer", wait)
            .await
            .expect("MAS lives");
    };
    wait_for_answers(1).await;
    // Another asks once the first has been silent for the time of a lease.
    assert_eq!(other.request(&whoami).await.status, 200);
    assert_eq!(edge.mas.calls(&token), 2);
    wait_for_answers(2).await;
    assert_eq!(other.request(&logout("v3", &token)).await.status, 200);
    if is_known {
        assert_not_active(&other.request(&whoami).await);
    }

    switch.keep_busy(None).await;
    let late = within_limit("the held request", asking.response(false)).await;
    assert_not_active(&late);
    for connection in [&mut asking, &mut other] {
        assert_not_active(&connection.request(&whoami).await);
    }
    // One request was the session's: that of the other worker, while it lasted.
    assert_eq!(edge.homeserver.count(), before + 1);
    assert!(!edge.envoy.log().contains("RuntimeError"), "see the log");
}
