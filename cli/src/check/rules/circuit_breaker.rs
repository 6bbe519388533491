//! Envoy's default circuit breaker lets three calls of a cluster be repeated at a time, and 1,024 be under way. When MAS
//! restarts, every call on a connection that it closes is repeated at once; what the breaker refuses fails, while what is
//! over `max_in_flight` only waits its turn.
//!
//! The non-obvious rule: a `retry_budget` takes the place of `max_retries`, and its defaults, 20 % and at least three, refuse more of
//! what fails at once.

use std::collections::BTreeMap;

use matrix_edge_auth::config::Role;

use super::{Deployment, Found, Rule, Severity, Spot};
use crate::{
    check::deployment::{Host, Use, protocols},
    yaml::Value,
};

/// The rule.
pub const RULE: Rule = Rule {
    name: "circuit-breaker",
    severity: Severity::Warning,
    about: "The circuit breaker of MAS's cluster refuses calls that the module may make.",
    check,
};

/// Repetitions that Envoy allows at a time, unless it is told otherwise.
const DEFAULT_RETRIES: u64 = 3;
/// The part of the calls under way that a budget lets be repeated, in percent, unless it says otherwise.
const DEFAULT_SHARE: f64 = 20.0;
/// The only part that leaves none out: all of them fail at once.
const ALL: f64 = 100.0;
/// Calls that it allows.
const DEFAULT_REQUESTS: u64 = 1_024;
/// What the shipped configurations are made for. Envoy's own number is the machine's.
const USUAL_WORKERS: u64 = 8;

fn check<'t>(deployment: &Deployment<'t>, found: &mut Found<'t>) {
    for one in &deployment.uses {
        let Some(asked) = one.config().map(|config| &config.introspection) else {
            continue;
        };
        let Some(cluster) = deployment.cluster(one, &asked.cluster) else {
            continue;
        };
        let spot = || Spot::first_key(cluster, &["circuit_breakers", "name"]);
        if asked.retries > 0
            && let Some(permitted) = few_retries(cluster)
        {
            found.add(
                spot(),
                format!(
                    "when MAS restarts, every call on a connection that it closes is repeated at once, and Envoy lets {permitted} be \
                     repeated at a time: the others fail, and their requests get 503"
                ),
                "write `circuit_breakers: { thresholds: [{ max_retries: 256 }] }`, without `retry_budget`",
            );
        }
        let calls = calls(deployment, one.envoy, &asked.cluster);
        if calls == 0 {
            continue;
        }
        let workers = workers(deployment, one);
        let mut enough_for = u64::MAX;
        for key in ["max_requests", "max_pending_requests", "max_connections"] {
            if key == "max_connections" && shares_connections(cluster) {
                continue;
            }
            let allowed = limit(cluster, key, DEFAULT_REQUESTS);
            let needed = calls.saturating_mul(workers.unwrap_or(1));
            enough_for = enough_for.min(allowed / calls);
            if allowed < needed {
                let what = match key {
                    "max_connections" => {
                        "over HTTP/1.1 each has a connection of its own, and the others wait until their time is up"
                    }
                    _ => "what Envoy refuses fails, and what is over `max_in_flight` only waits",
                };
                let (who, each) = match workers {
                    Some(count) if count != 1 => (
                        format!("{count} Envoy workers may make {needed}"),
                        String::new(),
                    ),
                    _ => (
                        format!("one Envoy worker may make {needed}"),
                        " for each Envoy worker".to_owned(),
                    ),
                };
                found.add(
                    spot(),
                    format!("`{key}` is {allowed}, and {who} calls at a time: {what}"),
                    format!(
                        "write `{key}: {needed}`{each}, or lower `introspection.max_in_flight`"
                    ),
                );
            }
        }
        if workers.is_none() && (1..USUAL_WORKERS).contains(&enough_for) {
            let ends = if enough_for == 1 { "" } else { "s" };
            found.note(
                spot(),
                format!(
                    "the limits of this cluster are enough for {enough_for} Envoy worker{ends}, each with {calls} calls at a time, and Envoy \
                     has one for each processor unless it is told otherwise"
                ),
                if one.host == Host::EnvoyGateway {
                    format!("write `concurrency` in the EnvoyProxy, or {calls} for each Envoy worker")
                } else {
                    format!(
                        "start Envoy with `--concurrency {enough_for}` at the most, or write {calls} for each Envoy worker; give \
                         `check` the Deployment or the Compose file with `--concurrency` as well"
                    )
                },
            );
        }
    }
}

/// How many workers Envoy has, if the files say so.
fn workers(deployment: &Deployment<'_>, one: &Use<'_>) -> Option<u64> {
    let resources = &deployment.resources;
    let mut given: Vec<u64> = if one.host == Host::EnvoyGateway {
        let proxies = resources.kind("EnvoyProxy");
        proxies
            .filter_map(|proxy| proxy.number_at(&["spec", "concurrency"]))
            .collect()
    } else {
        let kinds = ["Deployment", "DaemonSet", "StatefulSet"];
        let pods = kinds
            .into_iter()
            .flat_map(|kind| resources.kind(kind))
            .filter_map(|one| one.at(&["spec", "template", "spec"]));
        let containers = pods.flat_map(|pod| pod.list(&["containers"]));
        containers
            .chain(resources.services.iter().copied())
            .filter_map(concurrency)
            .collect()
    };
    given.sort_unstable();
    given.dedup();
    match given.as_slice() {
        [workers] => Some(*workers),
        _ => None,
    }
}

/// The value of `--concurrency` in a container's command.
fn concurrency(container: Value<'_>) -> Option<u64> {
    let words: Vec<&str> = ["command", "args"]
        .into_iter()
        .filter_map(|key| container.get(key))
        .flat_map(|command| command.items().chain([command]))
        .filter_map(Value::text)
        .flat_map(str::split_whitespace)
        .collect();
    let mut pairs = words.iter().zip(words.iter().skip(1));
    let apart = pairs.find(|(flag, _)| **flag == "--concurrency");
    let together = words
        .iter()
        .find_map(|it| it.strip_prefix("--concurrency="));
    let value = apart.map(|(_, value)| *value).or(together)?;
    value.parse().ok().filter(|workers| *workers > 0)
}

/// The calls that one worker may make to a cluster at a time: the gateway and the introspection role each have a limit, and a
/// quarter more for tokens that were active lately.
fn calls(deployment: &Deployment<'_>, envoy: usize, cluster: &str) -> u64 {
    let mut by_role = BTreeMap::new();
    for one in &deployment.uses {
        if let Some(config) = one.config().filter(|_| one.envoy == envoy)
            && config.introspection.cluster == cluster
            && config.role != Role::Provisioning
        {
            let most: &mut u64 = by_role.entry(config.role == Role::Gateway).or_default();
            let limit = config.introspection.max_in_flight as u64;
            *most = (*most).max(limit + limit.div_ceil(4));
        }
    }
    by_role.values().sum()
}

/// Whether many calls go over one connection.
fn shares_connections(cluster: Value<'_>) -> bool {
    protocols(cluster).any(|options| {
        options
            .at(&["explicit_http_config", "http2_protocol_options"])
            .is_some()
            || options.get("auto_config").is_some()
    })
}

/// How many calls may be repeated at a time, in words, if those are few. With a budget its share of the calls under way counts,
/// but never less than its own minimum, and `max_retries` does not.
fn few_retries(cluster: Value<'_>) -> Option<String> {
    let budget = threshold(cluster).and_then(|it| it.get("retry_budget"));
    let Some(budget) = budget.filter(|it| it.is_mapping()) else {
        let allowed = limit(cluster, "max_retries", DEFAULT_RETRIES);
        return (allowed <= DEFAULT_RETRIES).then(|| allowed.to_string());
    };
    let share = budget.get("budget_percent").map_or(DEFAULT_SHARE, |share| {
        let value = share.text_at(&["value"]).or(share.text());
        value
            .and_then(|value| value.parse().ok())
            .unwrap_or_default()
    });
    let minimum = budget
        .number_at(&["min_retry_concurrency"])
        .unwrap_or(DEFAULT_RETRIES);
    (share < ALL && minimum <= DEFAULT_RETRIES)
        .then(|| format!("{share} % of those under way, or {minimum},"))
}

/// What the cluster allows at default priority.
fn limit(cluster: Value<'_>, key: &str, default: u64) -> u64 {
    threshold(cluster)
        .and_then(|one| one.number_at(&[key]))
        .unwrap_or(default)
}

fn threshold(cluster: Value<'_>) -> Option<Value<'_>> {
    let mut thresholds = cluster.list(&["circuit_breakers", "thresholds"]);
    thresholds.find(|one| {
        one.name_at(&["priority"], &["DEFAULT", "HIGH"])
            .is_none_or(|priority| priority == "DEFAULT")
    })
}
