//! MAS closes kept-alive connections that were idle, and a call that goes out just then fails. One repetition heals that:
//! the module's own, or that of a retry policy of the cluster.
//!
//! A client's request to MAS may be repeated only if it did not arrive. MAS carries a logout out once, and answers the second one
//! with 401. A client whose address Envoy takes for an internal one may say itself how its requests are repeated.

use std::net::IpAddr;

use super::{Deployment, Found, Rule, Severity, Spot, hosts::ends};
use crate::{
    check::deployment::{Entry, protocols},
    yaml::Value,
};

/// The rule.
pub const RULE: Rule = Rule {
    name: "retries",
    severity: Severity::Warning,
    may_point_at_secret: false,
    about: "A call that meets a connection which MAS is closing is not repeated, or a logout that reached MAS is.",
    check,
};

/// Conditions under which Envoy repeats also what has arrived.
const ALSO_ARRIVED: [&str; 5] = [
    "5xx",
    "gateway-error",
    "reset",
    "retriable-headers",
    "retriable-status-codes",
];

fn check<'t>(deployment: &Deployment<'t>, found: &mut Found<'t>) {
    check_calls(deployment, found);
    for one in deployment.gateways() {
        if let Some(entry) = one.entry {
            check_internal(entry, found);
        }
        for (host, route) in ends(deployment, one) {
            let own = route.at(&["route", "retry_policy"]);
            if let Some(policy) = own.or(host.get("retry_policy")) {
                check_logout(policy, found);
            }
            let hedge = route.at(&["route", "hedge_policy"]);
            if let Some(policy) = hedge.or(host.get("hedge_policy")) {
                check_hedge(policy, found);
            }
        }
    }
}

/// Tells of a policy that repeats a logout which MAS may have carried out.
fn check_logout<'t>(policy: Value<'t>, found: &mut Found<'t>) {
    let key = "retry_on";
    let conditions = policy.text_at(&[key]).unwrap_or_default();
    let is_off = policy.number_at(&["num_retries"]) == Some(0);
    let mut conditions = conditions.split(',').map(str::trim);
    if let Some(condition) = conditions.find(|it| !is_off && ALSO_ARRIVED.contains(it)) {
        found.add(
            Spot::key(policy, key),
            format!(
                "with `{condition}` a logout may be sent to MAS twice, and MAS answers the second one with 401: the user's other \
                 sessions then end here only as MAS tells of them, or with `cache.ttl`"
            ),
            "repeat only what did not arrive: write `retry_on: connect-failure,refused-stream`",
        );
    }
}

/// Tells of a policy that sends a second logout while the first one waits.
fn check_hedge<'t>(policy: Value<'t>, found: &mut Found<'t>) {
    let key = "hedge_on_per_try_timeout";
    if policy.boolean_at(&[key]) == Some(true) {
        found.add(
            Spot::key(policy, key),
            "a logout that MAS takes long for is sent a second time, and MAS answers that with 401: the user's other sessions then \
             end here only as MAS tells of them, or with `cache.ttl`",
            "take out the `hedge_policy` for what MAS serves",
        );
    }
}

/// Tells of addresses whose requests may say how Envoy repeats them.
fn check_internal<'t>(entry: Entry<'t>, found: &mut Found<'t>) {
    let key = "internal_address_config";
    let ranges = entry.manager.list(&[key, "cidr_ranges"]);
    let of_clients = |range: &Value<'t>| {
        let length = range.number_at(&["prefix_len"]).unwrap_or_default();
        let address = range.text_at(&["address_prefix"]).unwrap_or_default();
        let address = address.parse::<IpAddr>().map(|it| (it, it.to_canonical()));
        match address {
            Ok((_, IpAddr::V4(it))) if it.is_loopback() => false,
            Ok((IpAddr::V4(_), IpAddr::V4(it))) => length < 32 || !it.is_private(),
            Ok((_, IpAddr::V4(it))) => length < 128 || !it.is_private(),
            Ok((_, IpAddr::V6(it))) => length < 128 || !(it.is_loopback() || it.is_unique_local()),
            Err(_) => false,
        }
    };
    if let Some(range) = ranges.into_iter().find(of_clients) {
        found.add(
            Spot::first_key(range, &["address_prefix"]),
            "Envoy obeys the headers of whoever is in this network: with `x-envoy-retry-on: 5xx` a client has its logout sent to \
             MAS several times, and with `x-envoy-upstream-rq-timeout-ms` it sets timeouts",
            "name the single private addresses of your own callers, or leave `internal_address_config` out",
        );
    }
}

/// Whether a cluster has a retry policy of its own, which holds for each of its requests.
pub(super) fn repeats(cluster: Value<'_>) -> bool {
    protocols(cluster).any(|options| options.get("retry_policy").is_some())
}

/// Tells of each use whose calls are not repeated.
fn check_calls<'t>(deployment: &Deployment<'t>, found: &mut Found<'t>) {
    for one in &deployment.uses {
        let Some(asked) = one.config().map(|config| &config.introspection) else {
            continue;
        };
        let cluster = deployment.cluster(one, &asked.cluster);
        if asked.retries == 0 && !cluster.is_some_and(repeats) {
            found.add(
                one.key(&["introspection", "retries"]),
                "a call that goes out as MAS closes the connection fails, and its request gets 503",
                "leave `retries` out: the default is 1",
            );
        }
    }
}
