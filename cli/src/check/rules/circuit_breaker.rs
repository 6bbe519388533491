//! Envoy's default circuit breaker lets three calls of a cluster be repeated at a time, and 1,024 be under way. When a server
//! restarts, all calls on the connections that it closes fail at once. The module repeats them by itself, which no breaker limits,
//! unless its cluster is to repeat them, or in a fleet the module asks Envoy to. A call that the breaker refuses fails, while a
//! call over `max_in_flight` only waits its turn.
//!
//! The non-obvious rule: a `retry_budget` takes the place of `max_retries`. Its defaults are 20 % and at least three calls: of
//! many calls that fail at once, most are then not repeated.

use std::collections::BTreeMap;

use matrix_edge_auth::config::Role;

use super::{Deployment, Found, Rule, Severity, Spot, retries::repeats};
use crate::{
    check::deployment::{Host, Use, protocols},
    yaml::Value,
};

/// The rule.
pub const RULE: Rule = Rule {
    name: "circuit-breaker",
    severity: Severity::Warning,
    may_point_at_secret: false,
    about: "The circuit breaker of MAS's cluster refuses calls that the module may make.",
    check,
};

/// Counts where each call has a connection of its own.
const CONNECTIONS: &str = "max_connections";

/// Repetitions that Envoy allows at a time, unless it is told otherwise.
const DEFAULT_RETRIES: u64 = 3;
/// The part of the calls under way, in percent, that a `retry_budget` lets Envoy repeat, unless the budget says otherwise.
const DEFAULT_SHARE: f64 = 20.0;
/// The only part that is enough: all calls under way fail at once.
const ALL: f64 = 100.0;
/// Calls that Envoy allows at a time, unless it is told otherwise.
const DEFAULT_REQUESTS: u64 = 1_024;
/// The workers that the shipped configurations are made for. Envoy's default is one for each processor.
const USUAL_WORKERS: u64 = 8;

fn check<'t>(deployment: &Deployment<'t>, found: &mut Found<'t>) {
    for one in &deployment.uses {
        let Some(asked) = one.config().map(|config| &config.introspection) else {
            continue;
        };
        let Some(cluster) = deployment.cluster(one, &asked.cluster) else {
            continue;
        };
        if asked.envoys_retries() > 0 || repeats(cluster) {
            check_retries(cluster, found);
        }
        let calls = calls(deployment, one.envoy, &asked.cluster);
        if calls > 0 {
            check_limits(deployment, one, cluster, calls, found);
        }
    }
}

/// Tells of a cluster that lets only a few calls be repeated at a time.
fn check_retries<'t>(cluster: Value<'t>, found: &mut Found<'t>) {
    if let Some(permitted) = few_retries(cluster) {
        found.add(
            spot(cluster),
            format!(
                "when a server of this cluster restarts, Envoy is to repeat all calls on the connections that close, and lets \
                 {permitted} be repeated at a time: the others fail, and their requests get 503"
            ),
            "write `circuit_breakers: { thresholds: [{ max_retries: 256 }] }`, without `retry_budget`",
        );
    }
}

/// Tells of each limit that is too low. `calls` are those that one worker may make at a time.
fn check_limits<'t>(
    deployment: &Deployment<'t>,
    one: &Use<'t>,
    cluster: Value<'t>,
    calls: u64,
    found: &mut Found<'t>,
) {
    let workers = workers(deployment, one);
    let needed = calls.saturating_mul(workers.unwrap_or(1));
    let limits = limits(cluster);
    for (key, allowed) in limits.iter().copied() {
        if allowed < needed {
            let shortfall = Shortfall {
                key,
                allowed,
                needed,
                workers,
            };
            found.add(spot(cluster), shortfall.message(), shortfall.help());
        }
    }
    let most_workers = limits.iter().map(|(_, allowed)| allowed / calls).min();
    if workers.is_none()
        && let Some(most) = most_workers.filter(|most| (1..USUAL_WORKERS).contains(most))
    {
        let noun = if most == 1 {
            "Envoy worker"
        } else {
            "Envoy workers"
        };
        found.note(
            spot(cluster),
            format!(
                "the limits of this cluster are enough for {most} {noun}, each with {calls} calls at a time, and Envoy has one for \
                 each processor unless it is told otherwise"
            ),
            if one.host == Host::EnvoyGateway {
                format!("write `concurrency` in the EnvoyProxy, or {calls} for each Envoy worker")
            } else {
                format!(
                    "start Envoy with `--concurrency {most}` at the most, or write {calls} for each Envoy worker; give `check` the \
                     Deployment or the Compose file with `--concurrency` as well"
                )
            },
        );
    }
}

/// A limit that is lower than the calls that Envoy's workers may make at a time.
struct Shortfall {
    key: &'static str,
    allowed: u64,
    needed: u64,
    /// How many workers make these calls. `None` is one worker, of a number that the files do not say.
    workers: Option<u64>,
}

impl Shortfall {
    fn message(&self) -> String {
        let Self {
            key,
            allowed,
            needed,
            ..
        } = self;
        let who = self.several_workers().map_or_else(
            || "one Envoy worker".to_owned(),
            |count| format!("{count} Envoy workers"),
        );
        let effect = if *key == CONNECTIONS {
            "over HTTP/1.1 each has a connection of its own, and the others wait until their time is up"
        } else {
            "what Envoy refuses fails, and what is over `max_in_flight` only waits"
        };
        format!("`{key}` is {allowed}, and {who} may make {needed} calls at a time: {effect}")
    }

    fn help(&self) -> String {
        let Self { key, needed, .. } = self;
        let each = match self.several_workers() {
            Some(_) => "",
            None => " for each Envoy worker",
        };
        format!("write `{key}: {needed}`{each}, or lower `introspection.max_in_flight`")
    }

    fn several_workers(&self) -> Option<u64> {
        self.workers.filter(|count| *count != 1)
    }
}

fn spot(cluster: Value<'_>) -> Spot<'_> {
    Spot::first_key(cluster, &["circuit_breakers", "name"])
}

/// How many workers Envoy has, if the files say so.
fn workers(deployment: &Deployment<'_>, one: &Use<'_>) -> Option<u64> {
    let mut given: Vec<u64> = if one.host == Host::EnvoyGateway {
        let proxies = deployment.resources.kind("EnvoyProxy");
        proxies
            .filter_map(|proxy| proxy.number_at(&["spec", "concurrency"]))
            .map(at_least_one)
            .collect()
    } else {
        let containers = deployment.containers(one).into_iter();
        containers.filter_map(concurrency).collect()
    };
    given.sort_unstable();
    given.dedup();
    match given.as_slice() {
        [workers] => Some(*workers),
        _ => None,
    }
}

/// Envoy runs one worker if it is told to run none.
fn at_least_one(workers: u64) -> u64 {
    workers.max(1)
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
    value.parse().ok().map(at_least_one)
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

/// How many calls may be repeated at a time, in words, if those are few. A budget takes the place of `max_retries`: it allows
/// its share of the calls under way, and never less than its minimum.
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

/// The limits of a cluster that count for calls, and what they allow.
fn limits(cluster: Value<'_>) -> Vec<(&'static str, u64)> {
    let mut keys = vec!["max_requests", "max_pending_requests"];
    if !shares_connections(cluster) {
        keys.push(CONNECTIONS);
    }
    keys.into_iter()
        .map(|key| (key, limit(cluster, key, DEFAULT_REQUESTS)))
        .collect()
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
