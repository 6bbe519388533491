//! The metrics, as an enum: what is counted and under which name.
//!
//! A name carries its labels as `.label=value`; the `stats_tags` in `envoy/stats_tags.yaml` turn them into
//! Prometheus labels. The set is small and fixed, and no value ever comes from a request.
//!
//! The non-obvious rule: a reason or an outcome has one name wherever it is told: in the metric, in the access log,
//! in docs/operations.md, which must list every one of them and explain it.

use alloc::{borrow::ToOwned, string::String, vec, vec::Vec};

mod labels;

pub use self::labels::{
    CacheTable, Evicted, HomeserverAnswer, IntrospectionOutcome, InvalidationReason, LookupResult,
    Outcome, PresentedSecret, RejectionReason,
};
use self::labels::{Label, NONE};

/// What kind of metric the host is to define. There is no gauge: what a VM adds to one stays there when the VM fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Only grows.
    Counter,
    /// Collects samples.
    Histogram,
}

/// Defines the metrics, each with the enums of its labels, its kind and its name, and as many rows for them.
macro_rules! metrics {
    ($($(#[$doc:meta])* $metric:ident $(($($label:ty),+))?: $kind:ident $name:literal,)*) => {
        /// Something worth counting.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Metric {
            $($(#[$doc])* $metric $(($($label),+))?,)*
        }

        /// A metric with all values of its labels.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        enum Row {
            $($metric,)*
        }

        impl Row {
            const ALL: &[Self] = &[$(Self::$metric),*];
        }

        impl Metric {
            /// Counter or histogram.
            pub fn kind(self) -> Kind {
                match self {
                    $(Self::$metric { .. } => Kind::$kind,)*
                }
            }

            fn row(self) -> Row {
                match self {
                    $(Self::$metric { .. } => Row::$metric,)*
                }
            }

            /// The name without labels.
            fn family(self) -> &'static str {
                match self {
                    $(Self::$metric { .. } => $name,)*
                }
            }
        }
    };
}

metrics! {
    /// A client request was decided.
    Request(Outcome): Counter "requests_total",
    /// An introspection request of a caller that is served here was answered, or passed on.
    Answered(Outcome): Counter "introspection_answers_total",
    /// A table of the shared cache was looked into.
    Lookup(CacheTable, LookupResult): Counter "cache_lookups_total",
    /// An entry of the shared cache made room for another.
    Evicted(CacheTable, Evicted): Counter "cache_evictions_total",
    /// An entry of a worker's own cache made room for another.
    LocalEvicted: Counter "cache_evictions_total",
    /// An answer was too long for the shared cache.
    TooLong(CacheTable): Counter "cache_too_long_total",
    /// A request joined an introspection that was already in flight.
    Coalesced: Counter "coalesced_requests_total",
    /// A request waits for an introspection that another worker makes.
    LeaseWait: Counter "lease_waits_total",
    /// A question waits in line, because every call that it may have is under way.
    LineWait: Counter "line_waits_total",
    /// An answer in use is renewed before it ends.
    Refresh: Counter "refreshes_total",
    /// An active answer was dropped before its time, or all answers about a user, for this reason.
    Invalidated(InvalidationReason): Counter "invalidations_total",
    /// An introspection call ended: `active`, `inactive`, or why there is no verdict.
    Introspection(IntrospectionOutcome): Counter "introspections_total",
    /// The module repeated a call whose connection had failed.
    Retry: Counter "introspection_retries_total",
    /// How long an introspection call took that has ended, as a histogram in milliseconds.
    IntrospectionMillis: Histogram "introspection_duration_milliseconds",
    /// How long a request was held, as a histogram in milliseconds.
    HeldMillis: Histogram "held_duration_milliseconds",
    /// The edge answered in place of the homeserver, for this reason.
    Rejected(RejectionReason): Counter "rejections_total",
    /// Shadow mode let a request pass that `enforce` would have rejected, for this reason.
    WouldReject(RejectionReason): Counter "would_reject_total",
    /// A request that may end answers passed from MAS to the homeserver.
    ProvisioningRequest(PresentedSecret): Counter "provisioning_requests_total",
    /// What became of a request that `enforce` would have rejected, once that is known.
    WouldRejectAnswer(RejectionReason, HomeserverAnswer): Counter "would_reject_answers_total",
}

// No label has more values. One more reason would need longer rows.
const _: () = assert!(RejectionReason::ALL.len() <= Metric::ROW);

// It is as long as several rows, so none may come after it.
const _: () = assert!(Row::WouldRejectAnswer as usize + 1 == Row::ALL.len());

impl Metric {
    /// Every metric.
    pub fn all() -> Vec<Self> {
        Row::ALL.iter().flat_map(|row| row.metrics()).collect()
    }

    /// Places that metrics have.
    pub const PLACES: usize = (Row::ALL.len() - 1 + HomeserverAnswer::ALL.len()) * Self::ROW;

    /// Places in a row.
    const ROW: usize = 16;

    /// Returns the metric's place among all of them, for a list that is looked up without a search.
    pub fn place(self) -> usize {
        let place = match self {
            Self::LocalEvicted
            | Self::Coalesced
            | Self::LeaseWait
            | Self::LineWait
            | Self::Refresh
            | Self::Retry
            | Self::IntrospectionMillis
            | Self::HeldMillis => 0,
            Self::Request(outcome) | Self::Answered(outcome) => outcome as usize,
            Self::Lookup(table, hit) => LookupResult::ALL.len() * table as usize + hit as usize,
            Self::Evicted(table, evicted) => Evicted::ALL.len() * table as usize + evicted as usize,
            Self::TooLong(table) => table as usize,
            Self::Invalidated(reason) => reason as usize,
            Self::Introspection(outcome) => outcome as usize,
            Self::Rejected(reason) | Self::WouldReject(reason) => reason as usize,
            Self::ProvisioningRequest(secret) => secret as usize,
            Self::WouldRejectAnswer(reason, answer) => {
                Self::ROW * answer as usize + reason as usize
            }
        };
        Self::ROW * self.row() as usize + place
    }

    /// The metric's name before Envoy's own prefix, with its labels.
    pub fn name(self) -> String {
        let mut full = "matrix_edge_auth_".to_owned();
        full.push_str(self.family());
        for (label, value) in self.labels() {
            if !label.is_empty() {
                for part in [".", label, "=", value] {
                    full.push_str(part);
                }
            }
        }
        full
    }

    fn labels(self) -> [Label; 2] {
        match self {
            Self::Coalesced
            | Self::LeaseWait
            | Self::LineWait
            | Self::Refresh
            | Self::Retry
            | Self::IntrospectionMillis
            | Self::HeldMillis => [NONE; 2],
            Self::Request(outcome) | Self::Answered(outcome) => outcome.labels(),
            Self::Lookup(table, hit) => [("table", table.label()), ("result", hit.label())],
            Self::Evicted(table, evicted) => {
                [("table", table.label()), ("reason", evicted.label())]
            }
            Self::LocalEvicted => [("table", "local"), ("reason", "capacity")],
            Self::TooLong(table) => [("table", table.label()), NONE],
            Self::Invalidated(reason) => [("reason", reason.label()), NONE],
            Self::Introspection(outcome) => [("outcome", outcome.label()), NONE],
            Self::Rejected(reason) | Self::WouldReject(reason) => {
                [("reason", reason.label()), NONE]
            }
            Self::ProvisioningRequest(secret) => [("secret", secret.label()), NONE],
            Self::WouldRejectAnswer(reason, answer) => {
                [("answer", answer.label()), ("reason", reason.label())]
            }
        }
    }
}

impl Row {
    /// Returns its metrics.
    fn metrics(self) -> Vec<Metric> {
        match self {
            Self::Request => each(Outcome::ALL, Metric::Request),
            Self::Answered => each(Outcome::ALL, Metric::Answered),
            Self::Lookup => each_pair(CacheTable::ALL, LookupResult::ALL, Metric::Lookup),
            Self::Evicted => each_pair(CacheTable::ALL, Evicted::ALL, Metric::Evicted),
            Self::LocalEvicted => vec![Metric::LocalEvicted],
            Self::TooLong => each(CacheTable::ALL, Metric::TooLong),
            Self::Coalesced => vec![Metric::Coalesced],
            Self::LeaseWait => vec![Metric::LeaseWait],
            Self::LineWait => vec![Metric::LineWait],
            Self::Refresh => vec![Metric::Refresh],
            Self::Invalidated => each(InvalidationReason::ALL, Metric::Invalidated),
            Self::Introspection => each(IntrospectionOutcome::ALL, Metric::Introspection),
            Self::Retry => vec![Metric::Retry],
            Self::IntrospectionMillis => vec![Metric::IntrospectionMillis],
            Self::HeldMillis => vec![Metric::HeldMillis],
            Self::Rejected => each(RejectionReason::ALL, Metric::Rejected),
            Self::WouldReject => each(RejectionReason::ALL, Metric::WouldReject),
            Self::ProvisioningRequest => each(PresentedSecret::ALL, Metric::ProvisioningRequest),
            Self::WouldRejectAnswer => each_pair(
                RejectionReason::ALL,
                HomeserverAnswer::ALL,
                Metric::WouldRejectAnswer,
            ),
        }
    }
}

fn each<T: Copy>(values: &[T], metric: fn(T) -> Metric) -> Vec<Metric> {
    values.iter().map(|value| metric(*value)).collect()
}

fn each_pair<T: Copy, U: Copy>(
    values: &[T],
    others: &[U],
    metric: fn(T, U) -> Metric,
) -> Vec<Metric> {
    let pairs = |value: &T| {
        let value = *value;
        others.iter().map(move |other| metric(value, *other))
    };
    values.iter().flat_map(pairs).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn labels<T: Copy>(all: &[T], label: fn(T) -> &'static str) -> Vec<&'static str> {
        let labels: Vec<_> = all.iter().map(|value| label(*value)).collect();
        let distinct: BTreeSet<_> = labels.iter().collect();
        assert_eq!(distinct.len(), labels.len(), "{labels:?}");
        labels
    }

    fn reasons() -> Vec<&'static str> {
        labels(RejectionReason::ALL, RejectionReason::label)
    }

    fn outcomes() -> Vec<&'static str> {
        labels(IntrospectionOutcome::ALL, IntrospectionOutcome::label)
    }

    #[test]
    fn every_metric_has_a_place_of_its_own() {
        let all = Metric::all();
        let names: BTreeSet<_> = all.iter().map(|metric| metric.name()).collect();
        let places: BTreeSet<_> = all.iter().map(|metric| metric.place()).collect();
        assert_eq!((names.len(), places.len()), (all.len(), all.len()));
        assert!(places.iter().all(|place| *place < Metric::PLACES));
    }

    /// The manual has a line for each metric, with all values of its labels, or says that they are those of a line above.
    #[test]
    fn the_manual_names_every_metric_and_value() {
        for metric in Metric::all() {
            let name = format!("`matrix_edge_auth_{}`", metric.family());
            let line = include_str!("../docs/operations.md")
                .lines()
                .find(|line| line.starts_with("| `") && line.contains(&name))
                .unwrap_or_else(|| panic!("{name} is not in the manual"));
            let is_named = |word: &str, text: &str| text.contains(&format!("`{word}`"));
            for (label, value) in metric.labels() {
                let above = line.split_once(" as above");
                let is_above = above.is_some_and(|(before, _)| is_named(label, before));
                assert!(
                    label.is_empty() || is_above || is_named(label, line) && is_named(value, line),
                    "{}",
                    metric.name()
                );
            }
        }
    }

    /// The operations manual has a row for each reason and outcome, with a meaning and what to do.
    #[test]
    fn the_manual_explains_every_reason_and_outcome() {
        let manual = include_str!("../docs/operations.md");
        for (heading, labels) in [("## Reasons", reasons()), ("## Outcomes", outcomes())] {
            let section = manual.split_once(heading).unwrap().1;
            let section = section.split("\n## ").next().unwrap_or_default();
            let rows: Vec<_> = section
                .lines()
                .filter(|row| row.starts_with("| `"))
                .collect();
            assert_eq!(rows.len(), labels.len(), "{heading}");
            for label in labels {
                let start = format!("| `{label}` |");
                let row = rows.iter().find(|row| row.starts_with(&start));
                let cells = row.map(|row| row.split('|').filter(|cell| !cell.trim().is_empty()));
                assert!(cells.is_some_and(|cells| cells.count() >= 3), "{label}");
            }
        }
    }
}
