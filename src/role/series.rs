//! The series that a plugin configuration can count, so that each is there at 0 before its first event.
//!
//! A rate over a counter that begins to exist with its first event does not see that event, and an alert cannot tell a
//! metric that is 0 from a name that is wrong.

use crate::{
    config::{Config, Mode, Role},
    host::Metrics,
    metrics::{
        CacheTable, Evicted, HomeserverAnswer, IntrospectionOutcome, InvalidationReason,
        LookupResult, Metric, Outcome, PresentedSecret, RejectionReason,
    },
};

/// Defines all series that a plugin with `config` can count.
pub fn define(host: &impl Metrics, config: &Config) {
    each(config, &mut |metric| host.define(metric));
}

/// Calls `define` for each series that a plugin with `config` can count.
fn each(config: &Config, define: &mut dyn FnMut(Metric)) {
    // Every role answers requests whose heads it cannot clean.
    define(Metric::Rejected(RejectionReason::Internal));
    define(Metric::Rejected(RejectionReason::TooManyForged));
    define(Metric::Rejected(RejectionReason::Unrecognized));
    match config.role {
        Role::Gateway => {
            gateway(config.mode, define);
            asking(define);
        }
        Role::Introspection => {
            for outcome in Outcome::ALL {
                if !matches!(outcome, Outcome::ActiveLocal | Outcome::OverBudget) {
                    define(Metric::Answered(*outcome));
                }
            }
            asking(define);
        }
        Role::Provisioning => {
            for secret in PresentedSecret::ALL {
                define(Metric::ProvisioningRequest(*secret));
            }
            for reason in InvalidationReason::ALL {
                if reason.is_provisioning() {
                    define(Metric::Invalidated(*reason));
                }
            }
        }
    }
}

fn gateway(mode: Mode, define: &mut dyn FnMut(Metric)) {
    define(Metric::LocalEvicted);
    for outcome in Outcome::ALL {
        define(Metric::Request(*outcome));
    }
    for reason in InvalidationReason::ALL {
        if !reason.is_provisioning() {
            define(Metric::Invalidated(*reason));
        }
    }
    for reason in RejectionReason::ALL {
        define(Metric::Rejected(*reason));
        if mode == Mode::Shadow {
            define(Metric::WouldReject(*reason));
            for answer in HomeserverAnswer::ALL {
                define(Metric::WouldRejectAnswer(*reason, *answer));
            }
        }
    }
}

/// What a role counts that asks MAS.
fn asking(define: &mut dyn FnMut(Metric)) {
    for table in [CacheTable::Active, CacheTable::Negative] {
        for metric in [
            Metric::Lookup(table, LookupResult::Hit),
            Metric::Lookup(table, LookupResult::Miss),
            Metric::Evicted(table, Evicted::Expired),
            Metric::Evicted(table, Evicted::Live),
            Metric::TooLong(table),
        ] {
            define(metric);
        }
    }
    for outcome in IntrospectionOutcome::ALL {
        define(Metric::Introspection(*outcome));
    }
    for metric in [
        Metric::Invalidated(InvalidationReason::Introspection),
        Metric::Coalesced,
        Metric::LeaseWait,
        Metric::LineWait,
        Metric::Refresh,
        Metric::Retry,
        Metric::IntrospectionMillis,
        Metric::HeldMillis,
    ] {
        define(metric);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use serde_json::json;

    use super::*;
    use crate::{config, host::fake::FakeHost};

    /// Who counts a metric: a gateway that enforces, one in shadow mode, the introspection role, the provisioning role.
    fn counts(metric: Metric) -> [bool; 4] {
        const NOBODY: [bool; 4] = [false; 4];
        const GATEWAY: [bool; 4] = [true, true, false, false];
        const SHADOW: [bool; 4] = [false, true, false, false];
        const INTROSPECTION: [bool; 4] = [false, false, true, false];
        const PROVISIONING: [bool; 4] = [false, false, false, true];
        /// Who asks MAS.
        const ASKING: [bool; 4] = [true, true, true, false];
        match metric {
            Metric::Request(_) | Metric::LocalEvicted => GATEWAY,
            // The introspection role has the shared cache only, and counts nobody's tokens.
            Metric::Answered(Outcome::ActiveLocal | Outcome::OverBudget) => NOBODY,
            Metric::Answered(_) => INTROSPECTION,
            Metric::Invalidated(reason) => match reason {
                InvalidationReason::Introspection => ASKING,
                InvalidationReason::Homeserver
                | InvalidationReason::Logout
                | InvalidationReason::Revocation => GATEWAY,
                InvalidationReason::DeleteDevice
                | InvalidationReason::DeleteUser
                | InvalidationReason::ProvisionUser
                | InvalidationReason::ReactivateUser
                | InvalidationReason::SyncDevices
                | InvalidationReason::UpsertDevice => PROVISIONING,
            },
            Metric::Rejected(
                RejectionReason::Internal
                | RejectionReason::TooManyForged
                | RejectionReason::Unrecognized,
            ) => [true; 4],
            Metric::Rejected(_) => GATEWAY,
            Metric::WouldReject(_) | Metric::WouldRejectAnswer(..) => SHADOW,
            Metric::ProvisioningRequest(_) => PROVISIONING,
            Metric::Lookup(..)
            | Metric::Evicted(..)
            | Metric::TooLong(_)
            | Metric::Introspection(_)
            | Metric::Coalesced
            | Metric::LeaseWait
            | Metric::LineWait
            | Metric::Refresh
            | Metric::Retry
            | Metric::IntrospectionMillis
            | Metric::HeldMillis => ASKING,
        }
    }

    #[test]
    fn each_role_defines_every_metric_that_it_counts_and_no_other() {
        let roles = [
            ("gateway", "enforce"),
            ("gateway", "shadow"),
            ("introspection", "enforce"),
            ("provisioning", "enforce"),
        ];
        for (at, (role, mode)) in roles.into_iter().enumerate() {
            let counted = Metric::all()
                .into_iter()
                .filter(|metric| counts(*metric)[at]);
            let expected: BTreeSet<String> = counted.map(Metric::name).collect();
            assert_eq!(defined(role, mode), expected, "{role} {mode}");
        }
    }

    fn defined(role: &str, mode: &str) -> BTreeSet<String> {
        let host = FakeHost::default();
        let config = config::tests::with(json!({"role": role, "mode": mode}));
        define(&host, &config);
        let metrics = host.metrics.borrow();
        assert!(metrics.values().all(|value| *value == 0));
        metrics.keys().cloned().collect()
    }

    #[test]
    fn a_role_defines_what_it_can_count() {
        let [gateway, introspection, provisioning] =
            ["gateway", "introspection", "provisioning"].map(|role| defined(role, "enforce"));
        let shadow = defined("gateway", "shadow");
        let has =
            |set: &BTreeSet<String>, name: &str| set.contains(&format!("matrix_edge_auth_{name}"));
        for (name, roles) in [
            (
                "requests_total.verdict=active.source=local",
                [true, false, false],
            ),
            (
                "introspection_answers_total.verdict=active.source=shared",
                [false, true, false],
            ),
            (
                "introspection_answers_total.verdict=active.source=local",
                [false, false, false],
            ),
            ("invalidations_total.reason=logout", [true, false, false]),
            (
                "invalidations_total.reason=introspection",
                [true, true, false],
            ),
            (
                "invalidations_total.reason=sync_devices",
                [false, false, true],
            ),
            ("refreshes_total", [true, true, false]),
            ("introspection_retries_total", [true, true, false]),
            (
                "provisioning_requests_total.secret=matching",
                [false, false, true],
            ),
            ("rejections_total.reason=not_active", [true, false, false]),
            ("rejections_total.reason=internal", [true, true, true]),
            (
                "would_reject_total.reason=not_active",
                [false, false, false],
            ),
        ] {
            let found = [&gateway, &introspection, &provisioning].map(|set| has(set, name));
            assert_eq!(found, roles, "{name}");
        }
        let only_in_shadow = shadow.difference(&gateway).count();
        let reasons = RejectionReason::ALL.len();
        assert_eq!(only_in_shadow, reasons * (1 + HomeserverAnswer::ALL.len()));
        assert!(gateway.is_subset(&shadow));
    }
}
