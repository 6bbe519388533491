//! The edge's own figures: Envoy's `/stats`, as text.
//!
//! A line is `name.label=value.label=value: number`; the labels are those of `src/metrics.rs` of the module. Envoy makes
//! a counter when it is first counted, so what is absent is 0. Histograms are not read: Envoy merges them every five
//! seconds only.

use std::{collections::BTreeMap, net::SocketAddr, time::Duration};

use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Limited};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use tokio::time::{Instant, sleep};

/// What is asked for: the module's metrics, and what Envoy counts of requests under way.
const FILTER: &str =
    "matrix_edge_auth_|downstream_rq_active$|upstream_rq_active$|upstream_rq_total$";
const PREFIX: &str = "wasmcustom.matrix_edge_auth_";
/// More than Envoy ever says of these.
const LIMIT: usize = 1024 * 1024;
const PATIENCE: Duration = Duration::from_secs(2);
/// How soon the module has told what it has counted: it does so with its timer, four times a second.
const TOLD_WITHIN: Duration = Duration::from_millis(375);

/// Envoy's admin interface.
pub(super) struct Edge {
    admin: SocketAddr,
    client: Client<HttpConnector, Empty<Bytes>>,
}

impl Edge {
    pub(super) fn new(admin: SocketAddr) -> Self {
        let client = Client::builder(TokioExecutor::new()).build_http();
        Self { admin, client }
    }

    /// Reads the figures; `None` if Envoy does not answer.
    pub(super) async fn stats(&self) -> Option<Stats> {
        let uri = format!("http://{}/stats?filter={FILTER}", self.admin);
        let uri = uri.replace('|', "%7C").replace('$', "%24").parse().ok()?;
        let read = async {
            let response = self.client.get(uri).await.ok()?;
            if !response.status().is_success() {
                return None;
            }
            let body = Limited::new(response.into_body(), LIMIT);
            let body = body.collect().await.ok()?.to_bytes();
            Some(Stats::parse(&String::from_utf8_lossy(&body)))
        };
        tokio::time::timeout(PATIENCE, read).await.ok()?
    }
}

impl Edge {
    /// Reads the figures when all that has happened before is in them. Where more and more happens they are those of some
    /// seconds later.
    pub(super) async fn settled_stats(&self) -> Option<Stats> {
        let begun = Instant::now();
        let mut last = self.stats().await?;
        loop {
            sleep(TOLD_WITHIN).await;
            let stats = self.stats().await?;
            if stats.has_the_same_counts(&last) || begun.elapsed() > PATIENCE {
                return Some(stats);
            }
            last = stats;
        }
    }
}

/// One reading.
#[derive(Debug, Default)]
pub(super) struct Stats(Vec<(String, u64)>);

impl Stats {
    pub(super) fn parse(text: &str) -> Self {
        let sample = |line: &str| {
            let (name, value) = line.rsplit_once(": ")?;
            Some((name.to_owned(), value.trim().parse().ok()?))
        };
        Self(text.lines().filter_map(sample).collect())
    }

    /// Whether the module has counted nothing between the two.
    fn has_the_same_counts(&self, other: &Self) -> bool {
        let counts = |stats: &Self| -> u64 {
            let of_module = stats.0.iter().filter(|(name, _)| name.starts_with(PREFIX));
            of_module.map(|(_, value)| *value).sum()
        };
        counts(self) == counts(other)
    }

    /// A figure of Envoy itself, by its whole name.
    pub(super) fn of(&self, name: &str) -> u64 {
        let found = self.0.iter().find(|(of, _)| of == name);
        found.map_or(0, |(_, value)| *value)
    }

    /// A metric of the module that has no labels.
    pub(super) fn plain(&self, metric: &str) -> u64 {
        self.of(&format!("{PREFIX}{metric}"))
    }

    /// A metric of the module by one of its labels. Samples that differ in others are added up.
    pub(super) fn by(&self, metric: &str, label: &str) -> BTreeMap<String, u64> {
        let mut by: BTreeMap<String, u64> = BTreeMap::new();
        for (labels, value) in self.labelled(metric) {
            let found = labels.iter().find(|(name, _)| *name == label);
            if let Some((_, of)) = found {
                *by.entry((*of).to_owned()).or_default() += value;
            }
        }
        by
    }

    /// A metric of the module by two of its labels.
    pub(super) fn by_two(
        &self,
        metric: &str,
        [first, second]: [&str; 2],
    ) -> BTreeMap<(String, String), u64> {
        let mut by: BTreeMap<(String, String), u64> = BTreeMap::new();
        for (labels, value) in self.labelled(metric) {
            let of = |label| labels.iter().find(|(name, _)| *name == label);
            if let (Some((_, a)), Some((_, b))) = (of(first), of(second)) {
                *by.entry(((*a).to_owned(), (*b).to_owned())).or_default() += value;
            }
        }
        by
    }

    fn labelled<'s>(
        &'s self,
        metric: &str,
    ) -> impl Iterator<Item = (Vec<(&'s str, &'s str)>, u64)> + use<'s> {
        let prefix = format!("{PREFIX}{metric}.");
        self.0.iter().filter_map(move |(name, value)| {
            let labels = name.strip_prefix(&prefix)?;
            let labels = labels.split('.').filter_map(|label| label.split_once('='));
            Some((labels.collect(), *value))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_and_plain_names_are_read_and_the_rest_is_not() {
        let stats = Stats::parse(
            "http.matrix.downstream_rq_active: 3\n\
             wasmcustom.matrix_edge_auth_coalesced_requests_total: 1\n\
             wasmcustom.matrix_edge_auth_requests_total.verdict=active.source=local: 5\n\
             wasmcustom.matrix_edge_auth_requests_total.verdict=active.source=mas: 2\n\
             wasmcustom.matrix_edge_auth_requests_total.verdict=inactive.source=mas: 1\n\
             wasmcustom.matrix_edge_auth_held_duration_milliseconds: No recorded values\n",
        );
        assert_eq!(stats.of("http.matrix.downstream_rq_active"), 3);
        assert_eq!(stats.of("http.matrix"), 0);
        assert_eq!(stats.plain("coalesced_requests_total"), 1);
        assert_eq!(
            Vec::from_iter(stats.by("requests_total", "verdict")),
            [("active".to_owned(), 7), ("inactive".to_owned(), 1)]
        );
        let by = stats.by_two("requests_total", ["verdict", "source"]);
        assert_eq!(by.get(&("active".to_owned(), "mas".to_owned())), Some(&2));
        assert_eq!(by.len(), 3);
    }
}
