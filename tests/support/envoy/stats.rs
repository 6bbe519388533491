//! Envoy's statistics in the Prometheus text format.

use std::{collections::BTreeMap, fmt};

use matrix_edge_auth::metrics::{Kind, Metric};

/// All samples of one scrape.
pub struct Stats(Vec<Sample>);

struct Sample {
    name: String,
    labels: BTreeMap<String, String>,
    value: f64,
}

impl Stats {
    /// Reads the text format.
    pub fn parse(text: &str) -> Self {
        let samples = text
            .lines()
            .filter(|line| !line.is_empty() && !line.starts_with('#'));
        Self(samples.map(Sample::parse).collect())
    }

    /// The sum of the samples of `name` that have all of `labels`; `None` if there is none. Panics if it is a metric of the module and
    /// the module has no such series: a test that expects 0 of a misspelt one would always pass.
    pub fn find(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        assert!(
            !name.starts_with("matrix_edge_auth_") || is_of_module(name, labels),
            "the module has no series {name}{labels:?}"
        );
        let mut matching = self.matching(name, labels).peekable();
        matching.peek()?;
        Some(matching.map(|sample| sample.value).sum())
    }

    /// Like [`find`](Self::find), where a sample that does not exist counts 0: Envoy makes most of them when
    /// they are first counted.
    pub fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        self.find(name, labels).unwrap_or_default()
    }

    /// Requests of the cluster `mas` that are under way, as Envoy itself counts them.
    pub fn calls_under_way(&self) -> f64 {
        let labels = [("envoy_cluster_name", "mas")];
        self.sum("envoy_cluster_upstream_rq_active", &labels)
    }

    /// The names of all samples that start with `prefix`, each once.
    pub fn names(&self, prefix: &str) -> Vec<&str> {
        let mut names: Vec<&str> = self.0.iter().map(|sample| sample.name.as_str()).collect();
        names.retain(|name| name.starts_with(prefix));
        names.sort_unstable();
        names.dedup();
        names
    }

    /// The samples of all names that start with `prefix`, for a message.
    pub fn of(&self, prefix: &str) -> String {
        self.0
            .iter()
            .filter(|sample| sample.name.starts_with(prefix))
            .map(|sample| format!("{} {:?} {}\n", sample.name, sample.labels, sample.value))
            .collect()
    }

    fn matching(&self, name: &str, labels: &[(&str, &str)]) -> impl Iterator<Item = &Sample> {
        self.0.iter().filter(move |sample| {
            sample.name == name
                && labels
                    .iter()
                    .all(|(label, value)| sample.labels.get(*label).is_some_and(|v| v == value))
        })
    }
}

/// Whether the module has a series of this name with these labels, beside those that Envoy adds.
fn is_of_module(name: &str, labels: &[(&str, &str)]) -> bool {
    Metric::all().into_iter().any(|metric| {
        let full = metric.name();
        let (own_name, own_labels) = full.split_once('.').unwrap_or((&full, ""));
        let end = name.strip_prefix(own_name);
        let is_named = end.is_some_and(|end| match metric.kind() {
            Kind::Counter => end.is_empty(),
            Kind::Histogram => ["_bucket", "_count", "_sum"].contains(&end),
        });
        let has = |label: &str, value: &str| {
            let own = own_labels.split('.').filter_map(|it| it.split_once('='));
            let is_of_envoy = label == "le" || label.starts_with("envoy_");
            is_of_envoy || own.into_iter().any(|own| own == (label, value))
        };
        is_named && labels.iter().all(|(label, value)| has(label, value))
    })
}

impl Sample {
    fn parse(line: &str) -> Self {
        let (head, value) = line
            .rsplit_once(' ')
            .unwrap_or_else(|| panic!("not a sample: {line:?}"));
        let (name, labels) = match head.split_once('{') {
            Some((name, labels)) => (name, labels.trim_end_matches('}')),
            None => (head, ""),
        };
        Self {
            name: name.to_owned(),
            labels: parse_labels(labels),
            value: value
                .parse()
                .unwrap_or_else(|_| panic!("not a value: {line:?}")),
        }
    }
}

/// `a="b",c="d"`. Label values in these tests hold no escapes, but may hold commas and braces.
fn parse_labels(mut text: &str) -> BTreeMap<String, String> {
    let mut labels = BTreeMap::new();
    while let Some((name, rest)) = text.split_once("=\"") {
        let (value, rest) = rest.split_once('"').expect("a label value ends");
        labels.insert(name.to_owned(), value.to_owned());
        text = rest.trim_start_matches(',');
    }
    labels
}

impl fmt::Debug for Stats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.of(""))
    }
}
