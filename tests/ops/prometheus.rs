//! A real Prometheus on a free port, which scrapes one Envoy each second and evaluates the shipped rules.

use std::{
    net::SocketAddr,
    process::{Child, Command, Stdio},
    time::Duration,
};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{
    rules,
    support::{
        envoy::{log::Log, repository},
        http::{self, Request, within_limit},
    },
};

/// How often a condition is looked at.
const POLL: Duration = Duration::from_millis(50);

/// A series over time: its labels, and moments in seconds with values.
pub struct Series {
    pub labels: Value,
    pub points: Vec<(f64, f64)>,
}

/// A running Prometheus. It ends when the value is dropped.
pub struct Prometheus {
    process: Child,
    addr: SocketAddr,
    _directory: TempDir,
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Prometheus {
    /// Starts it, and returns once it answers.
    pub async fn start(envoy: SocketAddr) -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let configuration = json!({
            "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
            "rule_files": [repository().join(rules::PATH)],
            "scrape_configs": [{
                "job_name": "matrix-edge-auth",
                "metrics_path": "/stats/prometheus",
                "static_configs": [{"targets": [envoy], "labels": {"instance": "edge-1"}}],
            }],
        });
        // JSON is YAML.
        let path = directory.path().join("prometheus.yaml");
        std::fs::write(&path, configuration.to_string()).expect("a file");
        let program = std::env::var("PROMETHEUS").unwrap_or("prometheus".into());
        let mut process = Command::new(program)
            .arg(format!("--config.file={}", path.display()))
            .arg(format!(
                "--storage.tsdb.path={}",
                directory.path().join("data").display()
            ))
            .arg("--web.listen-address=127.0.0.1:0")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("prometheus runs: see `make setup`");
        let log = Log::of(&mut process);
        let line = within_limit(
            "Prometheus to listen",
            log.wait_for(0, "msg=\"Listening on\" address="),
        )
        .await;
        let addr = line.rsplit("address=").next().unwrap_or_default();
        let addr = addr.trim().parse().unwrap_or_else(|_| panic!("{line}"));
        within_limit("Prometheus", log.wait_for(0, "Server is ready")).await;
        Self {
            process,
            addr,
            _directory: directory,
        }
    }

    /// Returns the time of its clock, in seconds.
    pub async fn now(&self) -> f64 {
        let data = self.get("query", &[("query", "time()")]).await;
        point(&data["result"]).1
    }

    /// Returns the series that an expression has now.
    pub async fn query(&self, expression: &str) -> Vec<Series> {
        let data = self.get("query", &[("query", expression)]).await;
        match data["resultType"].as_str() {
            Some("vector") => series(&data, |one| vec![point(&one["value"])]),
            other => panic!("{expression}: {other:?}"),
        }
    }

    /// Returns the series that an expression had from `start` to `end`, each `step` seconds.
    pub async fn query_range(
        &self,
        expression: &str,
        [start, end]: [f64; 2],
        step: u32,
    ) -> Vec<Series> {
        let [start, end, step] = [start.to_string(), end.to_string(), step.to_string()];
        let parameters = [
            ("query", expression),
            ("start", &start),
            ("end", &end),
            ("step", &step),
        ];
        let data = self.get("query_range", &parameters).await;
        series(&data, |one| {
            let points = one["values"].as_array().expect("values");
            points.iter().map(point).collect()
        })
    }

    /// Returns every rule as Prometheus sees it, once each has been evaluated.
    pub async fn evaluated_rules(&self) -> Vec<Value> {
        within_limit("an evaluation of every rule", async {
            loop {
                let data = self.get("rules", &[]).await;
                let groups = data["groups"].as_array().expect("groups").iter();
                let rules: Vec<Value> = groups
                    .flat_map(|group| group["rules"].as_array().expect("rules"))
                    .cloned()
                    .collect();
                if rules.iter().all(|rule| rule["health"] != "unknown") {
                    return rules;
                }
                tokio::time::sleep(POLL).await;
            }
        })
        .await
    }

    /// Resolves when an expression has a value that is as `wanted`.
    pub async fn wait_for(&self, expression: &str, wanted: impl Fn(f64) -> bool) {
        within_limit(expression, async {
            loop {
                let found = self.query(expression).await;
                if found
                    .iter()
                    .any(|one| one.points.iter().any(|(_, value)| wanted(*value)))
                {
                    return;
                }
                tokio::time::sleep(POLL).await;
            }
        })
        .await;
    }

    async fn get(&self, what: &str, parameters: &[(&str, &str)]) -> Value {
        let query = form_urlencoded::Serializer::new(String::new())
            .extend_pairs(parameters)
            .finish();
        let request = Request::get(format!("/api/v1/{what}?{query}"));
        let response = http::send(self.addr, &request).await;
        let mut answer = response.json();
        assert_eq!(answer["status"], "success", "{parameters:?}: {answer}");
        answer["data"].take()
    }
}

fn series(data: &Value, points: impl Fn(&Value) -> Vec<(f64, f64)>) -> Vec<Series> {
    let found = data["result"].as_array().expect("a result");
    found
        .iter()
        .map(|one| Series {
            labels: one["metric"].clone(),
            points: points(one),
        })
        .collect()
}

/// A moment and a value, which is text: it may be `NaN`.
fn point(pair: &Value) -> (f64, f64) {
    let value = pair[1].as_str().and_then(|value| value.parse().ok());
    (pair[0].as_f64().expect("a moment"), value.expect("a value"))
}
