//! The metrics as Prometheus sees them, with labels made by the shipped `envoy/stats_tags.yaml`.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use matrix_edge_auth::metrics::{
    CacheTable, Evicted, HomeserverAnswer, IntrospectionOutcome, InvalidationReason, Kind,
    LookupResult, Metric, Outcome, PresentedSecret, RejectionReason,
};
use serde_json::json;
use stand_in::mas::{Fault, Options};

use super::edge::{Edge, WHOAMI, new_token, plugin};
use crate::support::{
    envoy::stats::Stats,
    http::{self, Request},
};

#[tokio::test]
async fn every_metric_is_counted_under_its_labels() {
    let edge = Edge::start(json!({"introspection": {"max_in_flight": 1}})).await;
    let (active, inactive) = (edge.alice(), new_token("mat"));
    // Introspected, then from the cache.
    for _ in 0..2 {
        edge.whoami(&active).await;
        edge.whoami(&inactive).await;
    }
    edge.whoami(&new_token("mar")).await;
    edge.send(&Request::get(WHOAMI)).await;
    edge.send(&Request::get("/_matrix/client/versions")).await;
    for fault in [
        Fault::status(500, ""),
        Fault::reset_mid_body(),
        Fault::oversized(70_000),
        Fault::oversized(8_193),
        Fault::html(),
    ] {
        edge.mas.fault(fault.times(1));
        edge.whoami(&edge.alice()).await;
    }
    let hold = edge.mas.hold();
    let waiting = edge.spawn_many(&Request::get(WHOAMI).bearer(&edge.alice()), 3);
    edge.wait_for_coalesced(2).await;
    // It waits in line for a free call, in vain.
    edge.whoami(&edge.alice()).await;
    hold.release();
    waiting.join_all().await;

    let stats = edge.envoy.stats().await;
    for (metric, value) in [
        ("requests_total verdict=active source=mas", 5),
        ("requests_total verdict=active source=local", 1),
        ("requests_total verdict=inactive source=mas", 1),
        ("requests_total verdict=inactive source=shared", 1),
        ("requests_total verdict=inactive source=offline", 1),
        ("requests_total verdict=no_verdict source=mas", 5),
        ("requests_total verdict=not_asked source=offline", 2),
        ("cache_lookups_total table=negative result=hit", 1),
        ("cache_lookups_total table=negative result=miss", 11),
        ("cache_lookups_total table=active result=miss", 12),
        ("cache_too_long_total table=active", 1),
        ("coalesced_requests_total", 2),
        ("line_waits_total", 1),
        ("introspections_total outcome=active", 3),
        ("introspections_total outcome=inactive", 1),
        ("introspections_total outcome=status", 1),
        ("introspections_total outcome=reset", 1),
        ("introspections_total outcome=oversized", 1),
        ("introspections_total outcome=malformed", 1),
        ("introspections_total outcome=overloaded", 1),
        ("rejections_total reason=not_active", 3),
        ("rejections_total reason=missing_token", 1),
        ("rejections_total reason=introspection_failed", 5),
    ] {
        let (name, labels) = parse(metric);
        let counted = stats.find(&name, &labels);
        assert_eq!(
            counted,
            Some(f64::from(value)),
            "{metric}:\n{}",
            stats.of("matrix_edge_auth")
        );
    }
    let timed = "matrix_edge_auth_introspection_duration_milliseconds_count";
    edge.wait_for_metric(timed, &[], 8.0).await;
    for name in stats.names("matrix_edge_auth") {
        let ends_as_it_should = ["_total", "_bucket", "_sum", "_count"]
            .iter()
            .any(|end| name.ends_with(end));
        assert!(ends_as_it_should, "a label was left in the name {name}");
    }
}

/// Each configuration makes its own series, and no request makes another. A scrape with `usedonly` shows the counters.
#[tokio::test]
async fn every_series_is_there_at_0_from_the_start() {
    let edge = Edge::start_with(json!({"mode": "shadow"}), Options::default(), |envoy| {
        let role = |role: &str| plugin(json!({"role": role}));
        envoy
            .internal_listener("introspection", role("introspection"), "mas")
            .internal_listener("provisioning", role("provisioning"), "homeserver")
    })
    .await;
    let series = async |query: &str| {
        let target = format!("/stats/prometheus{query}");
        let text = http::send(edge.envoy.admin(), &Request::get(target)).await;
        let lines = text
            .text()
            .lines()
            .filter(|line| line.starts_with("matrix_edge_auth_") && !line.contains("_bucket{"));
        let series = lines.map(|line| {
            let (name, value) = line.rsplit_once(' ').expect("a sample");
            (name.to_owned(), value.to_owned())
        });
        series.collect::<BTreeMap<_, _>>()
    };
    let before = series("").await;
    assert!(before.values().all(|value| value == "0"), "{before:?}");
    let shown: BTreeSet<_> = before.keys().map(|name| sorted(name)).collect();
    assert_eq!(shown, every_series());
    let used = series("?usedonly").await;
    let counters = before.keys().filter(|name| name.contains("_total"));
    for counter in counters {
        assert!(used.contains_key(counter), "{counter}");
    }
    let (active, inactive) = (edge.alice(), new_token("mat"));
    for _ in 0..2 {
        edge.whoami(&active).await;
        edge.whoami(&inactive).await;
        edge.send(&Request::get(WHOAMI)).await;
    }
    let requests = "matrix_edge_auth_requests_total";
    edge.wait_for_metric(requests, &[], 6.0).await;
    let after = series("").await;
    assert!(after.keys().eq(before.keys()), "{after:?}");
}

/// A series as Prometheus sees it, with its labels in the order of their names.
fn sorted(series: &str) -> String {
    let (name, labels) = series.split_once('{').expect("labels");
    let mut labels: Vec<&str> = labels.trim_end_matches('}').split(',').collect();
    labels.sort_unstable();
    format!("{name}{{{}}}", labels.join(","))
}

/// Every series of the three roles together in shadow mode, by the values that each label has.
fn every_series() -> BTreeSet<String> {
    let mut all = vec![
        Metric::LocalEvicted,
        Metric::Coalesced,
        Metric::LeaseWait,
        Metric::LineWait,
        Metric::Refresh,
        Metric::Retry,
        Metric::IntrospectionMillis,
        Metric::HeldMillis,
    ];
    all.extend(Outcome::ALL.iter().copied().map(Metric::Request));
    // The introspection role looks into the shared cache only, and has no budget.
    let answers = Outcome::ALL.iter().copied();
    let answers = answers.filter(|it| !matches!(it, Outcome::ActiveLocal | Outcome::OverBudget));
    all.extend(answers.map(Metric::Answered));
    for table in CacheTable::ALL {
        all.extend(
            LookupResult::ALL
                .iter()
                .map(|hit| Metric::Lookup(*table, *hit)),
        );
        let evicted = Evicted::ALL.iter();
        all.extend(evicted.map(|evicted| Metric::Evicted(*table, *evicted)));
        all.push(Metric::TooLong(*table));
    }
    let invalidations = InvalidationReason::ALL.iter().copied();
    all.extend(invalidations.map(Metric::Invalidated));
    let outcomes = IntrospectionOutcome::ALL.iter().copied();
    all.extend(outcomes.map(Metric::Introspection));
    let secrets = PresentedSecret::ALL.iter().copied();
    all.extend(secrets.map(Metric::ProvisioningRequest));
    for reason in RejectionReason::ALL {
        all.extend([Metric::Rejected(*reason), Metric::WouldReject(*reason)]);
        let answers = HomeserverAnswer::ALL.iter();
        all.extend(answers.map(|answer| Metric::WouldRejectAnswer(*reason, *answer)));
    }
    let names = all.into_iter().flat_map(|metric| {
        let name = metric.name();
        let mut parts = name.split('.');
        let base = parts.next().unwrap_or_default().to_owned();
        let labels = parts.filter_map(|part| part.split_once('='));
        let labels: Vec<String> = labels
            .map(|(key, value)| format!("{key}=\"{value}\""))
            .collect();
        let labels = labels.join(",");
        let ends: &[&str] = match metric.kind() {
            Kind::Counter => &[""],
            Kind::Histogram => &["_count", "_sum"],
        };
        let series = ends
            .iter()
            .map(move |end| sorted(&format!("{base}{end}{{{labels}}}")));
        series.collect::<Vec<_>>()
    });
    names.collect()
}

#[tokio::test]
async fn each_configuration_is_announced_in_one_line_by_all_workers() {
    let edge = Edge::start_with(json!({"mode": "shadow"}), Options::default(), |envoy| {
        let internal = plugin(json!({"role": "provisioning"}));
        let envoy = envoy.internal_listener("provisioning", internal, "homeserver");
        envoy.concurrency(3)
    })
    .await;
    edge.assert_alive().await;
    let log = edge.envoy.log();
    for what in [
        "role gateway, mode shadow",
        "role provisioning, mode enforce",
    ] {
        let version = env!("CARGO_PKG_VERSION");
        let line = format!("matrix-edge-auth {version}: {what}, server_name example.org");
        assert_eq!(log.matches(&line).count(), 1, "{line} in {log}");
    }
}

#[tokio::test]
async fn would_reject_has_its_label() {
    let edge = Edge::start(json!({"mode": "shadow"})).await;
    edge.send(&Request::get(WHOAMI)).await;
    let stats = edge.envoy.stats().await;
    let reason = [("reason", "missing_token")];
    assert_eq!(
        stats.find("matrix_edge_auth_would_reject_total", &reason),
        Some(1.0),
        "{}",
        stats.of("matrix_edge_auth")
    );
}

#[tokio::test]
async fn the_latency_of_introspections_is_in_milliseconds() {
    let edge = Edge::start(json!({})).await;
    edge.mas.fault(Fault::delay(Duration::from_millis(300)));
    edge.whoami(&edge.alice()).await;
    let timed = "matrix_edge_auth_introspection_duration_milliseconds_count";
    edge.wait_for_metric(timed, &[], 1.0).await;
    let stats = edge.envoy.stats().await;
    let sum = stats.sum(
        "matrix_edge_auth_introspection_duration_milliseconds_sum",
        &[],
    );
    assert!((300.0..3000.0).contains(&sum), "{sum}");
    let bucket = "matrix_edge_auth_introspection_duration_milliseconds_bucket";
    assert_eq!(stats.find(bucket, &[("le", "250")]), Some(0.0));
    assert_eq!(
        stats.find(bucket, &[("le", "+Inf")]),
        Some(1.0),
        "{}",
        stats.of("matrix_edge_auth")
    );
}

#[tokio::test]
async fn metrics_have_prometheus_types() {
    let edge = Edge::start(json!({})).await;
    edge.whoami(&edge.alice()).await;
    let text = http::send(edge.envoy.admin(), &Request::get("/stats/prometheus")).await;
    for line in [
        "# TYPE matrix_edge_auth_requests_total counter",
        "# TYPE matrix_edge_auth_introspection_duration_milliseconds histogram",
    ] {
        assert!(text.text().lines().any(|given| given == line), "{line}");
    }
}

/// A name without what all names begin with, and labels.
fn parse(metric: &str) -> (String, Vec<(&str, &str)>) {
    let mut words = metric.split(' ');
    let name = words.next().unwrap_or_default();
    let labels = words.filter_map(|label| label.split_once('=')).collect();
    (format!("matrix_edge_auth_{name}"), labels)
}

/// A test that expects 0 of it would always pass.
#[test]
fn a_misspelt_series_is_not_0() {
    let none = Stats::parse("");
    for metric in Metric::all() {
        let full = metric.name();
        let mut parts = full.split('.');
        let base = parts.next().expect("a name");
        let labels: Vec<_> = parts.filter_map(|part| part.split_once('=')).collect();
        let ends: &[&str] = match metric.kind() {
            Kind::Counter => &[""],
            Kind::Histogram => &["_bucket", "_count", "_sum"],
        };
        for end in ends {
            let name = format!("{base}{end}");
            assert_eq!(none.sum(&name, &labels), 0.0, "it is not counted yet");
        }
    }
    for (name, labels) in [
        ("matrix_edge_auth_request_total", &[][..]),
        ("matrix_edge_auth_requests_total", &[("verdict", "activ")]),
        ("matrix_edge_auth_requests_total", &[("verdcit", "active")]),
        (
            "matrix_edge_auth_rejections_total",
            &[("verdict", "active")],
        ),
    ] {
        let panics = std::panic::catch_unwind(|| none.sum(name, labels)).is_err();
        assert!(panics, "{name}{labels:?}");
    }
}
