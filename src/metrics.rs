//! The metrics, as an enum: what is counted and under which name.
//!
//! A name carries its labels as `.label=value`; the `stats_tags` in `envoy/stats_tags.yaml` turn them into
//! Prometheus labels. The set is small and fixed, and no value ever comes from a request.

use crate::mas::introspection::NoVerdict;

/// Something worth counting.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Metric {
    /// A client request was decided.
    Request(Outcome),
    /// A table of the shared cache was looked into.
    Lookup(Table, Hit),
    /// A request joined an introspection that was already in flight.
    Coalesced,
    /// An introspection call ended.
    Introspection(Answered),
    /// How long an introspection call took, as a histogram in milliseconds.
    IntrospectionMillis,
    /// The edge answered in place of the homeserver, for this reason.
    Rejected(&'static str),
    /// Shadow mode let a request pass that `enforce` would have rejected, for this reason.
    WouldReject(&'static str),
}

/// How a client request was decided: the verdict and where it came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Outcome {
    /// Active, from the shared cache.
    ActiveCached,
    /// Active, by an introspection.
    ActiveIntrospected,
    /// Inactive, from the shared cache.
    InactiveCached,
    /// Inactive, by an introspection.
    InactiveIntrospected,
    /// Inactive without asking: the token cannot exist.
    InactiveOffline,
    /// MAS was asked, or should have been, and there is no verdict.
    NoVerdict,
    /// No verdict was needed or possible: public endpoint, no token, appservice token.
    NotAsked,
}

/// The two tables of the shared cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Table {
    /// Active tokens.
    Active,
    /// Inactive tokens.
    Negative,
}

/// The result of a look-up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Hit {
    /// A fresh entry was found.
    Hit,
    /// None was, or only a stale one.
    Miss,
}

/// How an introspection call ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Answered {
    /// `active: true`.
    Active,
    /// `active: false`.
    Inactive,
    /// Without a verdict.
    Failed(NoVerdict),
}

/// What kind of metric the host is to define.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Only grows, by one.
    Counter,
    /// Collects samples.
    Histogram,
}

impl Metric {
    /// Counter or histogram.
    pub fn kind(self) -> Kind {
        match self {
            Self::IntrospectionMillis => Kind::Histogram,
            _ => Kind::Counter,
        }
    }

    /// The metric's name before Envoy's own prefix, with its labels.
    pub fn name(self) -> String {
        match self {
            Self::Request(outcome) => {
                let (verdict, source) = outcome.labels();
                format!("matrix_edge_auth_requests_total.verdict={verdict}.source={source}")
            }
            Self::Lookup(table, hit) => {
                let table = match table {
                    Table::Active => "active",
                    Table::Negative => "negative",
                };
                let result = match hit {
                    Hit::Hit => "hit",
                    Hit::Miss => "miss",
                };
                format!("matrix_edge_auth_cache_lookups_total.table={table}.result={result}")
            }
            Self::Coalesced => "matrix_edge_auth_coalesced_requests_total".to_owned(),
            Self::Introspection(answered) => {
                let outcome = answered.label();
                format!("matrix_edge_auth_introspections_total.outcome={outcome}")
            }
            Self::IntrospectionMillis => {
                "matrix_edge_auth_introspection_duration_milliseconds".to_owned()
            }
            Self::Rejected(reason) => {
                format!("matrix_edge_auth_rejections_total.reason={reason}")
            }
            Self::WouldReject(reason) => {
                format!("matrix_edge_auth_would_reject_total.reason={reason}")
            }
        }
    }
}

impl Outcome {
    fn labels(self) -> (&'static str, &'static str) {
        match self {
            Self::ActiveCached => ("active", "cache"),
            Self::ActiveIntrospected => ("active", "mas"),
            Self::InactiveCached => ("inactive", "cache"),
            Self::InactiveIntrospected => ("inactive", "mas"),
            Self::InactiveOffline => ("inactive", "offline"),
            Self::NoVerdict => ("no_verdict", "mas"),
            Self::NotAsked => ("not_asked", "offline"),
        }
    }
}

impl Answered {
    fn label(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Inactive => "inactive",
            Self::Failed(NoVerdict::Undeliverable) => "undeliverable",
            Self::Failed(NoVerdict::Reset) => "reset",
            Self::Failed(NoVerdict::Status) => "status",
            Self::Failed(NoVerdict::Oversized) => "oversized",
            Self::Failed(NoVerdict::Malformed) => "malformed",
            Self::Failed(NoVerdict::Lost) => "lost",
            Self::Failed(NoVerdict::Overloaded) => "overloaded",
        }
    }
}
