//! Every expression of the dashboard, of the rules, and of docs/operations.md and docs/runbook.md finds data in a Prometheus
//! that scrapes a real Envoy; and the dashboard's panels are drawn from that data.

use std::{env, fs, time::Duration};

use super::{
    dashboard::{Kind, panels},
    drawing,
    pages::questions,
    prometheus::Prometheus,
    rules::rules,
    site::Site,
};
use crate::support::envoy::repository;

/// Where the picture of the dashboard is.
const PICTURE: &str = "docs/dashboard.svg";

/// Panels that show nothing unless something is wrong, or too small.
const QUIET: [&str; 3] = ["Evictions", "Answers too long to keep", "VMs made anew"];

/// What rates are made over, where a scrape comes each second.
const RATE_INTERVAL: &str = "5s";

#[tokio::test(flavor = "multi_thread")]
async fn every_expression_returns_data_and_every_panel_is_drawn() {
    let is_update = env::var("UPDATE_FIGURES").is_ok_and(|value| value == "1");
    let length = Duration::from_secs(if is_update { 120 } else { 15 });
    let site = Site::start().await;
    let prometheus = Prometheus::start(site.envoy.admin()).await;
    // It begins some seconds after its own start.
    prometheus.wait_for("up", |is_up| is_up == 1.0).await;
    let start = prometheus.now().await;
    site.run(length).await;
    let end = prometheus.now().await;
    // The last requests have been scraped.
    let scraped = r#"timestamp(matrix_edge_auth_requests_total{verdict="active", source="local"})"#;
    prometheus.wait_for(scraped, |moment| moment > end).await;

    let mut empty = Vec::new();
    let mut drawn = Vec::new();
    for panel in panels() {
        let mut series = Vec::new();
        for target in &panel.targets {
            let query = target.query(RATE_INTERVAL);
            let found = prometheus.query(&query).await;
            if found.is_empty() {
                empty.push(format!("{}: {query}", panel.title));
            }
            for one in &found {
                for label in target.labels() {
                    let value = one.labels[label].as_str().unwrap_or_default();
                    assert!(!value.is_empty(), "{}: no label {label}", panel.title);
                }
            }
            let step = if is_update { 2 } else { 1 };
            for one in prometheus.query_range(&query, [start, end], step).await {
                series.push((drawing::name(&target.legend, &one.labels), one.points));
            }
        }
        drawn.push((panel, series));
    }
    for question in questions() {
        // The pages look back over more than this run.
        let query = question.query(&format!("{}s", length.as_secs()));
        if prometheus.query(&query).await.is_empty() {
            empty.push(format!("{}: {query}", question.page));
        }
    }
    for rule in rules() {
        for operand in rule.operands() {
            let inner = operand.trim().strip_prefix("absent(");
            let query = inner.map_or(operand.trim(), |inner| inner.trim_end_matches(')'));
            let query = without_offset(query);
            let found = prometheus.query(&query).await;
            // Names with labels in them are what must not be there.
            let is_absence = query.contains("_total_(verdict|");
            if found.is_empty() != is_absence {
                empty.push(format!("{}: {query}", rule.name));
            }
        }
    }
    assert!(
        empty.is_empty(),
        "no data, or data that should not be:\n{}",
        empty.join("\n")
    );

    for rule in prometheus.evaluated_rules().await {
        assert_eq!(rule["health"], "ok", "{rule}");
        let is_of_labels = rule["name"] == "MatrixEdgeAuthLabelsMissing";
        assert!(!is_of_labels || rule["state"] == "inactive", "{rule}");
    }

    let picture = drawing::draw(&drawn, [start, end]);
    for (panel, series) in &drawn {
        let title = &panel.title;
        assert!(picture.contains(title.as_str()), "{title}");
        let mut values = series.iter().flat_map(|(_, points)| points);
        let is_flat = values.all(|(_, value)| *value == 0.0 || value.is_nan());
        let may_be_flat = !matches!(panel.kind, Kind::Series { .. }) || QUIET.contains(&&**title);
        assert!(may_be_flat || !is_flat, "{title} shows nothing");
    }
    if is_update {
        fs::write(repository().join(PICTURE), &picture).expect("the picture is written");
    }
}

/// Returns an expression as it is now: the run is shorter than any offset.
fn without_offset(expression: &str) -> String {
    let mut parts = expression.split(" offset ");
    let mut now = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let rest = part.trim_start_matches(|c: char| c.is_ascii_digit());
        now.push_str(rest.strip_prefix('m').expect("minutes"));
    }
    now
}

/// The picture in the repository is of the dashboard in the repository.
#[test]
fn the_picture_shows_every_panel() {
    let picture = fs::read_to_string(repository().join(PICTURE)).expect("the picture");
    for panel in panels() {
        assert!(
            picture.contains(&panel.title),
            "{}: run with UPDATE_FIGURES=1",
            panel.title
        );
    }
}
