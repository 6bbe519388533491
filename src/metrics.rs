//! The metrics, as an enum: what is counted and under which name.
//!
//! A name carries its labels as `.label=value`; the `stats_tags` in `envoy/stats_tags.yaml` turn them into
//! Prometheus labels. The set is small and fixed, and no value ever comes from a request.
//!
//! The non-obvious rule: a reason or an outcome has one name wherever it is told: in the metric, in the access log,
//! in docs/operations.md, which must list every one of them and explain it.

mod labels;

pub use self::labels::{
    CacheTable, Evicted, HomeserverAnswer, IntrospectionOutcome, InvalidationReason, LookupResult,
    Outcome, PresentedSecret, RejectionReason,
};
use self::labels::{Label, NONE};

/// Something worth counting.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Metric {
    /// A client request was decided.
    Request(Outcome),
    /// An introspection request of the homeserver was answered, or passed on.
    Answered(Outcome),
    /// A table of the shared cache was looked into.
    Lookup(CacheTable, LookupResult),
    /// An entry of the shared cache made room for another.
    Evicted(CacheTable, Evicted),
    /// An entry of a worker's own cache made room for another.
    LocalEvicted,
    /// An answer was too long for the shared cache.
    TooLong(CacheTable),
    /// A request joined an introspection that was already in flight.
    Coalesced,
    /// A request waits for an introspection that another worker makes.
    LeaseWait,
    /// A question waits in line, because every call that it may have is under way.
    LineWait,
    /// An answer in use is renewed before it ends.
    Refresh,
    /// An active answer was dropped before its time, or all answers about a user, for this reason.
    Invalidated(InvalidationReason),
    /// An introspection call ended: `active`, `inactive`, or why there is no verdict.
    Introspection(IntrospectionOutcome),
    /// How long an introspection call took that has ended, as a histogram in milliseconds.
    IntrospectionMillis,
    /// How long a request was held, as a histogram in milliseconds.
    HeldMillis,
    /// The edge answered in place of the homeserver, for this reason.
    Rejected(RejectionReason),
    /// Shadow mode let a request pass that `enforce` would have rejected, for this reason.
    WouldReject(RejectionReason),
    /// What became of such a request, once that is known.
    WouldRejectAnswer(RejectionReason, HomeserverAnswer),
    /// A request that may end answers passed from MAS to the homeserver.
    ProvisioningRequest(PresentedSecret),
}

/// What kind of metric the host is to define.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Only grows.
    Counter,
    /// Collects samples.
    Histogram,
}

const _: () = assert!(RejectionReason::ALL.len() <= Metric::ROW);

impl Metric {
    /// Counter or histogram. There is no gauge: what a VM adds to one stays there when the VM fails.
    pub fn kind(self) -> Kind {
        match self {
            Self::IntrospectionMillis | Self::HeldMillis => Kind::Histogram,
            _ => Kind::Counter,
        }
    }

    /// Every metric.
    pub fn all() -> Vec<Self> {
        let mut all = vec![
            Self::LocalEvicted,
            Self::Coalesced,
            Self::LeaseWait,
            Self::LineWait,
            Self::Refresh,
            Self::IntrospectionMillis,
            Self::HeldMillis,
        ];
        all.extend(Outcome::ALL.iter().map(|value| Self::Request(*value)));
        all.extend(Outcome::ALL.iter().map(|value| Self::Answered(*value)));
        for table in CacheTable::ALL {
            all.extend(
                LookupResult::ALL
                    .iter()
                    .map(|hit| Self::Lookup(*table, *hit)),
            );
            let evicted = Evicted::ALL.iter();
            all.extend(evicted.map(|evicted| Self::Evicted(*table, *evicted)));
            all.push(Self::TooLong(*table));
        }
        let reasons = InvalidationReason::ALL.iter();
        all.extend(reasons.map(|value| Self::Invalidated(*value)));
        let outcomes = IntrospectionOutcome::ALL.iter();
        all.extend(outcomes.map(|value| Self::Introspection(*value)));
        let secrets = PresentedSecret::ALL.iter();
        all.extend(secrets.map(|value| Self::ProvisioningRequest(*value)));
        for reason in RejectionReason::ALL {
            all.push(Self::Rejected(*reason));
            all.push(Self::WouldReject(*reason));
            let answers = HomeserverAnswer::ALL.iter();
            all.extend(answers.map(|answer| Self::WouldRejectAnswer(*reason, *answer)));
        }
        all
    }

    /// Places that metrics have.
    pub const PLACES: usize = (Self::ROWS + HomeserverAnswer::ALL.len()) * Self::ROW;

    /// Rows of metrics with one label at the most.
    const ROWS: usize = 17;

    /// Places in a row. No label has more values.
    const ROW: usize = 16;

    /// Returns the metric's place among all of them, for a list that is looked up without a search. Each kind of metric has
    /// a row, and the one with two reasons has a row for each answer.
    pub fn place(self) -> usize {
        let (row, place) = match self {
            Self::Request(outcome) => (0, outcome as usize),
            Self::Answered(outcome) => (1, outcome as usize),
            Self::Lookup(table, hit) => {
                (2, LookupResult::ALL.len() * table as usize + hit as usize)
            }
            Self::Evicted(table, evicted) => {
                (3, Evicted::ALL.len() * table as usize + evicted as usize)
            }
            Self::LocalEvicted => (4, 0),
            Self::TooLong(table) => (5, table as usize),
            Self::Coalesced => (6, 0),
            Self::LeaseWait => (7, 0),
            Self::LineWait => (8, 0),
            Self::Refresh => (9, 0),
            Self::Invalidated(reason) => (10, reason as usize),
            Self::Introspection(outcome) => (11, outcome as usize),
            Self::IntrospectionMillis => (12, 0),
            Self::HeldMillis => (13, 0),
            Self::Rejected(reason) => (14, reason as usize),
            Self::WouldReject(reason) => (15, reason as usize),
            Self::ProvisioningRequest(secret) => (16, secret as usize),
            Self::WouldRejectAnswer(reason, answer) => {
                (Self::ROWS + answer as usize, reason as usize)
            }
        };
        row * Self::ROW + place
    }

    /// The metric's name before Envoy's own prefix, with its labels.
    pub fn name(self) -> String {
        let (name, labels) = self.name_and_labels();
        let mut full = "matrix_edge_auth_".to_owned();
        full.push_str(name);
        for (label, value) in labels {
            if !label.is_empty() {
                for part in [".", label, "=", value] {
                    full.push_str(part);
                }
            }
        }
        full
    }

    fn name_and_labels(self) -> (&'static str, [Label; 2]) {
        match self {
            Self::Request(outcome) => ("requests_total", outcome.labels()),
            Self::Answered(outcome) => ("introspection_answers_total", outcome.labels()),
            Self::Lookup(table, hit) => (
                "cache_lookups_total",
                [("table", table.label()), ("result", hit.label())],
            ),
            Self::Evicted(table, evicted) => (
                "cache_evictions_total",
                [("table", table.label()), ("reason", evicted.label())],
            ),
            Self::LocalEvicted => (
                "cache_evictions_total",
                [("table", "local"), ("reason", "capacity")],
            ),
            Self::TooLong(table) => ("cache_too_long_total", [("table", table.label()), NONE]),
            Self::Coalesced => ("coalesced_requests_total", [NONE; 2]),
            Self::LeaseWait => ("lease_waits_total", [NONE; 2]),
            Self::LineWait => ("line_waits_total", [NONE; 2]),
            Self::Refresh => ("refreshes_total", [NONE; 2]),
            Self::Invalidated(reason) => {
                ("invalidations_total", [("reason", reason.label()), NONE])
            }
            Self::Introspection(outcome) => {
                ("introspections_total", [("outcome", outcome.label()), NONE])
            }
            Self::IntrospectionMillis => ("introspection_duration_milliseconds", [NONE; 2]),
            Self::HeldMillis => ("held_duration_milliseconds", [NONE; 2]),
            Self::Rejected(reason) => ("rejections_total", [("reason", reason.label()), NONE]),
            Self::WouldReject(reason) => ("would_reject_total", [("reason", reason.label()), NONE]),
            Self::WouldRejectAnswer(reason, answer) => (
                "would_reject_answers_total",
                [("answer", answer.label()), ("reason", reason.label())],
            ),
            Self::ProvisioningRequest(secret) => (
                "provisioning_requests_total",
                [("secret", secret.label()), NONE],
            ),
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
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

    /// Every metric.
    pub(crate) fn metrics() -> Vec<Metric> {
        let all = Metric::all();
        // A kind of metric that is new has a row of its own.
        let rows: BTreeSet<_> = all.iter().map(|one| one.place() / Metric::ROW).collect();
        let number = Metric::PLACES / Metric::ROW;
        assert_eq!(rows.len(), number, "a kind of metric lacks");
        all
    }

    #[test]
    fn every_metric_has_a_place_of_its_own() {
        let all = metrics();
        let names: BTreeSet<_> = all.iter().map(|metric| metric.name()).collect();
        let places: BTreeSet<_> = all.iter().map(|metric| metric.place()).collect();
        assert_eq!((names.len(), places.len()), (all.len(), all.len()));
        assert!(places.iter().all(|place| *place < Metric::PLACES));
    }

    /// The manual has a line for each metric, with all values of its label.
    #[test]
    fn the_manual_names_every_value() {
        let invalidations = labels(InvalidationReason::ALL, InvalidationReason::label);
        let answers = labels(HomeserverAnswer::ALL, HomeserverAnswer::label);
        for (metric, labels) in [
            ("introspections_total", outcomes()),
            ("invalidations_total", invalidations),
            ("rejections_total", reasons()),
            ("would_reject_answers_total", answers),
        ] {
            let line = include_str!("../docs/operations.md")
                .lines()
                .find(|line| line.starts_with(&format!("| `matrix_edge_auth_{metric}`")))
                .unwrap();
            for label in labels {
                assert!(line.contains(&format!("`{label}`")), "{metric}: {label}");
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
