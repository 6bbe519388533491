//! The metrics, as an enum: what is counted and under which name.
//!
//! A name carries its labels as `.label=value`; the `stats_tags` in `envoy/stats_tags.yaml` turn them into
//! Prometheus labels. The set is small and fixed, and no value ever comes from a request.

/// Something worth counting.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Metric {
    /// A client request was decided.
    Request(Outcome),
    /// An introspection request of the homeserver was answered, or passed on.
    Answered(Outcome),
    /// A table of the shared cache was looked into.
    Lookup(Table, Hit),
    /// An entry of the shared cache made room for another.
    Evicted(Table, Evicted),
    /// An entry of a worker's own cache made room for another.
    LocalEvicted,
    /// An answer was too long for the shared cache.
    TooLong(Table),
    /// A request joined an introspection that was already in flight.
    Coalesced,
    /// A request waits for an introspection that another worker makes.
    LeaseWait,
    /// A question waits in line, because every call that it may have is under way.
    LineWait,
    /// An answer in use is renewed before it ends.
    Refresh,
    /// An active answer was dropped before its time, or all answers about a user, for this reason.
    Invalidated(&'static str),
    /// An introspection call ended: `active`, `inactive`, or why there is no verdict.
    Introspection(&'static str),
    /// Introspection calls under way in all workers.
    InFlight,
    /// How long an introspection call took, as a histogram in milliseconds.
    IntrospectionMillis,
    /// How long a request was held, as a histogram in milliseconds.
    HeldMillis,
    /// The edge answered in place of the homeserver, for this reason.
    Rejected(&'static str),
    /// Shadow mode let a request pass that `enforce` would have rejected, for this reason.
    WouldReject(&'static str),
    /// A request that may end answers passed from MAS to the homeserver.
    ProvisioningRequest(PresentedSecret),
}

/// How a request was decided: the verdict and where it came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Outcome {
    /// Active, from the worker's own cache.
    ActiveLocal,
    /// Active, from the shared cache.
    ActiveShared,
    /// Active past its time, because MAS cannot be asked.
    ActiveStale,
    /// Active, by an introspection.
    ActiveIntrospected,
    /// Inactive, from the shared cache.
    InactiveShared,
    /// Inactive, by an introspection.
    InactiveIntrospected,
    /// Inactive without asking: the token cannot exist.
    InactiveOffline,
    /// MAS was asked, or should have been, and there is no verdict.
    NoVerdict,
    /// The source of the request brought too many unknown tokens.
    OverBudget,
    /// No verdict was needed or possible: public endpoint, no token, appservice token.
    NotAsked,
}

/// How the secret that a provisioning request presents compares with the one that is configured here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum PresentedSecret {
    /// It is the same: the caller is MAS.
    Matching,
    /// It is another one.
    Different,
    /// The request presents none.
    Missing,
    /// No shared secret is configured here.
    Unchecked,
}

/// The two tables of the shared cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Table {
    /// Active tokens.
    Active,
    /// Inactive tokens.
    Negative,
}

/// What an entry was when it made room for another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Evicted {
    /// An answer past its time.
    Expired,
    /// An answer that still held.
    Live,
}

/// The result of a look-up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Hit {
    /// A fresh entry was found.
    Hit,
    /// None was, or only a stale one.
    Miss,
}

/// What kind of metric the host is to define.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Only grows.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Collects samples.
    Histogram,
}

impl Metric {
    /// Counter, gauge or histogram.
    pub fn kind(self) -> Kind {
        match self {
            Self::IntrospectionMillis | Self::HeldMillis => Kind::Histogram,
            Self::InFlight => Kind::Gauge,
            _ => Kind::Counter,
        }
    }

    /// The metric's name before Envoy's own prefix, with its labels.
    pub fn name(self) -> String {
        let (name, labels): (&str, Vec<(&str, &str)>) = match self {
            Self::Request(outcome) => ("requests_total", outcome.labels()),
            Self::Answered(outcome) => ("introspection_answers_total", outcome.labels()),
            Self::Lookup(table, hit) => (
                "cache_lookups_total",
                vec![("table", table.label()), ("result", hit.label())],
            ),
            Self::Evicted(table, evicted) => {
                let reason = match evicted {
                    Evicted::Expired => "ended",
                    Evicted::Live => "capacity",
                };
                (
                    "cache_evictions_total",
                    vec![("table", table.label()), ("reason", reason)],
                )
            }
            Self::LocalEvicted => (
                "cache_evictions_total",
                vec![("table", "local"), ("reason", "capacity")],
            ),
            Self::TooLong(table) => ("cache_too_long_total", vec![("table", table.label())]),
            Self::Coalesced => ("coalesced_requests_total", vec![]),
            Self::LeaseWait => ("lease_waits_total", vec![]),
            Self::LineWait => ("line_waits_total", vec![]),
            Self::Refresh => ("refreshes_total", vec![]),
            Self::Invalidated(reason) => ("invalidations_total", vec![("reason", reason)]),
            Self::Introspection(outcome) => ("introspections_total", vec![("outcome", outcome)]),
            Self::InFlight => ("introspections_in_flight", vec![]),
            Self::IntrospectionMillis => ("introspection_duration_milliseconds", vec![]),
            Self::HeldMillis => ("held_duration_milliseconds", vec![]),
            Self::Rejected(reason) => ("rejections_total", vec![("reason", reason)]),
            Self::WouldReject(reason) => ("would_reject_total", vec![("reason", reason)]),
            Self::ProvisioningRequest(secret) => (
                "provisioning_requests_total",
                vec![("secret", secret.label())],
            ),
        };
        let mut full = format!("matrix_edge_auth_{name}");
        for (label, value) in labels {
            full.push_str(&format!(".{label}={value}"));
        }
        full
    }
}

impl Outcome {
    fn labels(self) -> Vec<(&'static str, &'static str)> {
        let (verdict, source) = match self {
            Self::ActiveLocal => ("active", "local"),
            Self::ActiveShared => ("active", "shared"),
            Self::ActiveStale => ("active", "stale"),
            Self::ActiveIntrospected => ("active", "mas"),
            Self::InactiveShared => ("inactive", "shared"),
            Self::InactiveIntrospected => ("inactive", "mas"),
            Self::InactiveOffline => ("inactive", "offline"),
            Self::NoVerdict => ("no_verdict", "mas"),
            Self::OverBudget => ("no_verdict", "budget"),
            Self::NotAsked => ("not_asked", "offline"),
        };
        vec![("verdict", verdict), ("source", source)]
    }
}

impl PresentedSecret {
    fn label(self) -> &'static str {
        match self {
            Self::Matching => "matching",
            Self::Different => "different",
            Self::Missing => "missing",
            Self::Unchecked => "unchecked",
        }
    }
}

impl Table {
    fn label(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Negative => "negative",
        }
    }
}

impl Hit {
    fn label(self) -> &'static str {
        match self {
            Self::Hit => "hit",
            Self::Miss => "miss",
        }
    }
}
