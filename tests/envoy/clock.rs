//! Steps of the wall clock neither extend nor end an answer.
//!
//! The wall clock of the Envoy process is moved by `wall_clock.c`; its monotonic clock is left alone.

#![cfg(target_os = "linux")]

use std::{
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, SystemTime},
};

use serde_json::json;
use stand_in::mas::{Options, Session};
use tokio::time::{Instant, sleep, sleep_until};

use super::edge::{Edge, assert_not_active, new_token};
use crate::support::{
    envoy::bootstrap,
    http::{self, Request},
};

const DAY: i64 = 24 * 60 * 60;

/// What the active answer, and the inactive one and the token that ends, last.
const TTL: Duration = Duration::from_secs(10);
const LIFE: Duration = Duration::from_secs(5);

/// MAS rounds lifetimes to a second, and the test needs time itself.
const LATE: Duration = Duration::from_secs(2);

#[tokio::test]
async fn a_day_forward_ends_nothing() {
    step_the_clock(DAY).await;
}

#[tokio::test]
async fn a_day_back_extends_nothing() {
    step_the_clock(-DAY).await;
}

/// Three answers are kept: active, inactive, and active with an end of its own. Each must end when it would
/// have without the step.
async fn step_the_clock(seconds: i64) {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let library = build("wall_clock", dir.path());
    let offset = dir.path().join("offset");
    set(&offset, 0);
    let cache = json!({"ttl": "10s", "negative_ttl": "5s", "refresh_ahead": false});
    let edge = Edge::start_with(json!({"cache": cache}), Options::default(), |builder| {
        builder
            .env("LD_PRELOAD", &library.to_string_lossy())
            .env("WALL_CLOCK_OFFSET", &offset.to_string_lossy())
            .bootstrap(|config| {
                bootstrap::http_manager(config)["access_log"] = json!([{
                    "name": "envoy.access_loggers.stdout",
                    "typed_config": {
                        "@type": "type.googleapis.com/envoy.extensions.access_loggers.stream.v3.StdoutAccessLog",
                        "log_format": {"text_format_source": {"inline_string": "%REQ(:PATH)% began at %START_TIME(%s)%\n"}},
                    },
                }]);
            })
    })
    .await;
    assert!(
        ahead(&edge, "/before").await.abs() < DAY / 2,
        "not moved yet"
    );

    let cold = Instant::now();
    let (active, inactive, ending) = (edge.alice(), new_token("mat"), new_token("mat"));
    edge.mas
        .insert(&ending, Session::access("bob", "X").expires_in(LIFE));
    let all = [(&active, 200), (&inactive, 401), (&ending, 200)];
    for (token, status) in all {
        assert_eq!(edge.whoami(token).await.status, status);
    }
    let known = Instant::now();
    set(&offset, seconds);
    let moved = ahead(&edge, "/after").await;
    println!("Envoy's wall clock is {moved} s ahead");
    assert!((moved - seconds).abs() < DAY / 2);

    // None has ended: all come from the cache until their time.
    let mut looked = 0;
    while cold.elapsed() < LIFE - Duration::from_secs(1) {
        for (token, expected) in all {
            let status = edge.whoami(token).await.status;
            let calls = edge.mas.calls(token);
            // On a machine that stalls the answer may come after the end.
            if cold.elapsed() < LIFE - Duration::from_secs(1) {
                assert_eq!((status, calls), (expected, 1));
                looked += 1;
            }
        }
        sleep(Duration::from_millis(50)).await;
    }
    assert!(looked > 0);
    // And none is extended.
    sleep_until(known + LIFE + LATE).await;
    assert_not_active(&edge.whoami(&ending).await);
    assert_not_active(&edge.whoami(&inactive).await);
    assert_eq!(edge.mas.calls(&inactive), 2);
    assert_eq!(edge.whoami(&active).await.status, 200);
    assert_eq!(edge.mas.calls(&active), 1);
    sleep_until(known + TTL).await;
    assert_eq!(edge.whoami(&active).await.status, 200);
    assert_eq!(edge.mas.calls(&active), 2);
    edge.assert_alive().await;
}

/// How many seconds Envoy's wall clock is ahead of ours, by its access log. `path` is not used otherwise.
async fn ahead(edge: &Edge, path: &str) -> i64 {
    http::send(edge.envoy.addr(), &Request::get(path)).await;
    let line = edge.envoy.wait_for_log(&format!("{path} began at ")).await;
    let (_, began) = line.rsplit_once(' ').expect("words");
    let began: i64 = began.trim().parse().expect("seconds since the epoch");
    let ours = SystemTime::UNIX_EPOCH
        .elapsed()
        .expect("it is after the epoch");
    began - i64::try_from(ours.as_secs()).expect("a present time")
}

/// Moves Envoy's wall clock, at once.
fn set(offset: &Path, seconds: i64) {
    use std::io::Write;

    // In place: Envoy has the file mapped.
    let file = std::fs::File::options()
        .write(true)
        .create(true)
        .truncate(false)
        .open(offset);
    file.and_then(|mut file| file.write_all(&seconds.to_ne_bytes()))
        .unwrap_or_else(|error| panic!("cannot write {}: {error}", offset.display()));
}

/// Builds a library to be preloaded, from its source in this folder. Rust links with `cc`, so there is one.
pub fn build(name: &str, dir: &Path) -> PathBuf {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/envoy/{name}.c"));
    let library = dir.join(format!("{name}.so"));
    let status = Command::new("cc")
        .args([
            "-shared", "-fPIC", "-O1", "-Wall", "-Wextra", "-Werror", "-o",
        ])
        .args([&library, &source])
        .status()
        .unwrap_or_else(|error| panic!("cannot run cc: {error}; install a C compiler"));
    assert!(status.success(), "cc fails on {}", source.display());
    library
}
