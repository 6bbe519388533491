//! Every introspection that was recorded with a real MAS, through the introspection role: the answers are MAS's.
//!
//! Each is asked cold and again at once, and must be what was recorded and what the stand-in says without Envoy:
//! status, headers in their order, body. Not compared, besides what `support/recorded_mas.rs` says:
//! - the headers in [`ADDED`];
//! - the number in `expires_in` of an answer from the cache: it is lower by the answer's age.
//!
//! [`Served::of`] says how each is to be served, so that a role that keeps less or more fails.

use std::{collections::HashSet, time::Duration};

use serde_json::json;
use stand_in::mas::Mas;
use tokio::time::Instant;

use super::{edge, introspection_role as role};
use crate::support::{
    envoy::Envoy,
    recorded_mas::{Answer, Record, SECRET, exchange, records, without},
    replayed_mas::Replay,
};

/// Headers of a connection and those that Envoy or the module adds: `server` names Envoy, since MAS sends none,
/// `x-envoy-upstream-service-time` tells how long MAS took, `connection` is about MAS's connection to Envoy,
/// `x-matrix-edge-auth-lifetime` says more exactly what `expires_in` says.
const ADDED: [&str; 4] = [
    "connection",
    "server",
    "x-envoy-upstream-service-time",
    "x-matrix-edge-auth-lifetime",
];

/// How a request is served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Served {
    /// By a call of the module, and then from the cache.
    Kept,
    /// Without MAS.
    Offline,
    /// By MAS, each time.
    Passed,
    /// By MAS, each time, after a call of the module that failed. The module makes none within a second of the last.
    Failed,
}

impl Served {
    /// How a request is to be served.
    fn of(record: &Record) -> Self {
        match record.name.as_str() {
            _ if !is_synapses(record) => Self::Passed,
            name if MAS_ALONE.contains(&name) => Self::Passed,
            name if OFFLINE.contains(&name) => Self::Offline,
            name if FAILED.contains(&name) => Self::Failed,
            _ => Self::Kept,
        }
    }

    /// How many requests MAS gets for a cold one and for the one after it.
    fn calls(self) -> [u64; 2] {
        match self {
            Self::Kept => [1, 0],
            Self::Offline => [0, 0],
            Self::Passed => [1, 1],
            Self::Failed => [2, 2],
        }
    }
}

/// Whether it is the request that Synapse sends, whatever the token: its form, its header, the configured secret.
fn is_synapses(record: &Record) -> bool {
    let headers = |name: &str| -> Vec<String> {
        let lines = record.request_headers.iter();
        let split = lines.filter_map(|line| line.split_once(": "));
        let named = split.filter(|(given, _)| given.eq_ignore_ascii_case(name));
        named.map(|(_, value)| value.to_owned()).collect()
    };
    let names: Vec<&str> = record
        .request_body
        .split('&')
        .filter_map(|field| field.split('=').next())
        .collect();
    record.request == "POST /oauth2/introspect HTTP/1.1"
        && headers("authorization")
            .iter()
            .map(|value| value.replacen("bearer", "Bearer", 1))
            .eq([format!("Bearer {SECRET}")])
        && headers("x-mas-supports-device-id") == ["1"]
        && headers("content-type") == ["application/x-www-form-urlencoded"]
        && names == ["token", "token_type_hint"]
        && record.request_body.ends_with("=access_token")
}

/// Tokens that cannot exist: of another kind, with a bad checksum, with a space.
const OFFLINE: [&str; 4] = [
    "14-compat-refresh-token-hint-access_token",
    "22-refresh-token-hint-access_token",
    "32-badcrc-right-prefix",
    "40-token-with-trailing-space",
];

/// MAS's database is down.
const FAILED: [&str; 2] = ["dbdown-introspect-valid-1", "dbdown-noworker-valid"];

/// Requests of Synapse's form that are MAS's to answer.
const MAS_ALONE: [&str; 6] = [
    // Not ASCII; longer than any token of MAS; NUL, twice, on which MAS fails; over 64 KiB; no token.
    "39-garbage-with-specials",
    "42-token-8k",
    "43-token-nul",
    "44-syt-with-nul",
    "45-syt-3mb",
    "46-empty-token",
];

/// They are kept for a second or two, which may be over.
const NEAR_ITS_END: [&str; 2] = ["30-expires-in-0.9s-rounding", "31-expires-in-1.9s-rounding"];

/// What an Envoy without the module does as well: it joins the two headers to one value that is no credential.
const CHANGED_BY_ENVOY: &str = "65-auth-two-headers";

#[tokio::test]
async fn every_recorded_introspection_is_answered_as_recorded() {
    assert_eq!(replay(|_| ()).await, 18, "introspections that are kept");
}

/// Most recorded requests lack the header without which the cache answers nothing. This is what MAS makes of them
/// with it.
#[tokio::test]
async fn with_the_device_header_every_introspection_is_answered_as_by_mas() {
    let add_header = |record: &mut Record| {
        let headers = &mut record.request_headers;
        headers.retain(|line| !line.to_lowercase().starts_with("x-mas-supports-device-id"));
        headers.push("X-MAS-Supports-Device-Id: 1".to_owned());
    };
    assert_eq!(replay(add_header).await, 48, "introspections that are kept");
}

/// Takes the stand-in through the recording, with the introspections as `change` makes them. How many were kept.
async fn replay(change: impl Fn(&mut Record)) -> usize {
    let records = records();
    let mut replay = Replay::start(&records).await;
    let plain = Envoy::builder().homeserver(replay.mas.addr()).start().await;
    let mut proxy = Proxy::start(&replay.mas).await;
    let mut kept = 0;
    let mut differences = Vec::new();
    for record in records.iter().filter(|record| !record.is_out_of_scope()) {
        replay.advance_to(record);
        let mut compare = |what: &str, compared: Result<(), String>| {
            if let Err(difference) = compared {
                differences.push(format!("{}, {what}: {difference}", record.name));
            }
        };
        if !record.request.contains("/oauth2/introspect") {
            // What it does to MAS matters here, and that it passes.
            let answer = exchange(proxy.addr(), &record.request_bytes()).await;
            compare("passed", record.compare(&answer, &ADDED));
            continue;
        }
        let mut changed = record.clone();
        change(&mut changed);
        let request = changed.request_bytes();
        let served = Served::of(&changed);
        if served == Served::Kept {
            kept += 1;
            // What was kept of the token before is warm, and may be of another time.
            if !proxy.kept.insert(record.token()) {
                proxy = Proxy::start(&replay.mas).await;
                proxy.kept.insert(record.token());
            }
        }
        let is_changed_by_envoy = record.name == CHANGED_BY_ENVOY;
        let direct = if is_changed_by_envoy {
            exchange(plain.addr(), &request).await
        } else {
            exchange(replay.mas.addr(), &request).await
        };
        let before = Instant::now();
        let (cold, cold_calls) = proxy.ask(&request).await;
        let (warm, warm_calls) = proxy.ask(&request).await;
        if !is_changed_by_envoy && changed.request_headers == record.request_headers {
            compare("recorded", record.compare(&cold, &ADDED));
        }
        compare("cold", same(&direct, &cold, Duration::ZERO));
        compare("warm", same(&direct, &warm, before.elapsed()));
        let (expected, actual) = (served.calls(), [cold_calls, warm_calls]);
        let is_held_off =
            served == Served::Failed && actual.iter().all(|calls| (1..=2).contains(calls));
        if actual != expected && !is_held_off && !NEAR_ITS_END.contains(&&*record.name) {
            let difference = format!("{actual:?} requests to MAS instead of {expected:?}");
            compare("cold and warm", Err(difference));
        }
    }
    assert!(
        differences.is_empty(),
        "{} differ:\n{}",
        differences.len(),
        differences.join("\n")
    );
    kept
}

/// Whether two answers are the same, but for what the module's documentation says and an `age` of the second.
fn same(direct: &Answer, answer: &Answer, age: Duration) -> Result<(), String> {
    let comparable = |answer: &Answer| {
        let (body, expires_in) = cut_expires_in(&answer.body);
        let headers = without(&answer.headers, &[&ADDED[..], &["date"]].concat());
        ((answer.status.clone(), headers, body), expires_in)
    };
    let ((direct, direct_left), (answer, left)) = (comparable(direct), comparable(answer));
    if direct != answer {
        return Err(format!("\n  by MAS {direct:?}\n  answered {answer:?}"));
    }
    // Rounded down.
    let seconds = age.as_secs();
    match (direct_left, left) {
        (None, None) => Ok(()),
        (Some(direct), Some(left)) if (direct - seconds..=direct).contains(&left) => Ok(()),
        _ => Err(format!("expires_in {left:?} instead of {direct_left:?}")),
    }
}

/// A body without the number in its `expires_in`, and that.
fn cut_expires_in(body: &str) -> (String, Option<u64>) {
    let name = "\"expires_in\":";
    let Some((start, rest)) = body.split_once(name) else {
        return (body.to_owned(), None);
    };
    let digits = rest.chars().take_while(char::is_ascii_digit).count();
    let (number, end) = rest.split_at(digits);
    (format!("{start}{name}{end}"), number.parse().ok())
}

/// Envoy before the stand-in, with an empty cache.
struct Proxy {
    envoy: Envoy,
    /// The tokens of which it keeps an answer.
    kept: HashSet<Option<String>>,
}

impl Proxy {
    async fn start(mas: &Mas) -> Self {
        let changes = json!({
            "introspection": {"credential": {"bearer": {"value": SECRET}}},
            // What MAS fails on is then answered by MAS.
            "on_introspection_failure": "pass",
            // Calls are counted here.
            "cache": {"refresh_ahead": false},
        });
        let envoy = Envoy::builder()
            .plugin(edge::plugin(changes.clone()))
            .homeserver(mas.addr())
            .mas(mas.addr())
            .internal_listener(role::NAME, role::plugin(changes), "mas")
            .start()
            .await;
        Self {
            envoy,
            kept: HashSet::new(),
        }
    }

    fn addr(&self) -> std::net::SocketAddr {
        self.envoy.listener(role::NAME)
    }

    /// The answer, and how many requests it cost MAS.
    async fn ask(&self, request: &[u8]) -> (Answer, u64) {
        let before = self.requests_to_mas().await;
        let answer = exchange(self.addr(), request).await;
        (answer, self.requests_to_mas().await - before)
    }

    async fn requests_to_mas(&self) -> u64 {
        self.envoy.stat("cluster.mas.upstream_rq_total").await
    }
}
