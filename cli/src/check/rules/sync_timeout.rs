//! `/sync` waits, 30 seconds as a rule, and a first one may take minutes. Envoy's default for a whole answer is 15 seconds.

use super::{
    Deployment, Found, Rule, Severity, Spot,
    routes::{
        USUAL_WAIT, WAITING, before_servers, duration, guarded_routes, hosts, is_full_match,
        targets,
    },
};
use crate::{
    check::deployment::{Host, Use, protocols},
    yaml::Value,
};

/// The rule.
pub const RULE: Rule = Rule {
    name: "sync-timeout",
    severity: Severity::Error,
    about: "A timeout ends `/sync` before the server answers.",
    check,
};

const LONGEST: [&str; 2] = ["common_http_protocol_options", "max_stream_duration"];
/// In the order of the numbers.
const TIMERS: &[&str] = &[
    "UNSPECIFIED",
    "HTTP_DOWNSTREAM_CONNECTION_IDLE",
    "HTTP_DOWNSTREAM_STREAM_IDLE",
];

const DEFAULT: &str =
    "without `timeout` Envoy ends each answer after 15 s, and clients let `/sync` wait for 30 s";

fn check<'t>(deployment: &Deployment<'t>, found: &mut Found<'t>) {
    for one in before_servers(deployment) {
        match one.host {
            Host::Envoy => envoy(deployment, one, found),
            Host::EnvoyGateway => gateway_api(deployment, found),
            Host::WasmPlugin | Host::EnvoyFilter => istio(deployment, one, found),
            Host::Nobody => {}
        }
    }
}

fn envoy<'t>(deployment: &Deployment<'t>, one: &Use<'t>, found: &mut Found<'t>) {
    for route in guarded_routes(one, &WAITING) {
        let Some(action) = route.get("route") else {
            continue;
        };
        if action.get("timeout").is_none() {
            let spot = Spot::first_key(action, &["cluster", "weighted_clusters"]);
            found.add(
                spot,
                DEFAULT,
                "write `timeout: 0s` beside it; `stream_idle_timeout` still ends what is silent",
            );
        }
        ends(action, &["timeout"], found);
        ends(action, &["idle_timeout"], found);
        ends(
            action,
            &["max_stream_duration", "max_stream_duration"],
            found,
        );
        retries(action, found);
        for (name, _) in targets(action) {
            let cluster = deployment.cluster(one, name);
            for options in cluster.into_iter().flat_map(protocols) {
                ends(options, &LONGEST, found);
            }
        }
    }
    if let Some(entry) = one.entry {
        let manager = entry.manager;
        if manager.get("route_config").is_none() {
            let keys = ["rds", "scoped_routes"];
            if let Some(key) = keys.into_iter().find(|key| manager.get(key).is_some()) {
                found.note(
                    Spot::key(manager, key),
                    "the routes of this listener come from elsewhere: neither their timeouts nor where they lead is looked at",
                    "write them into the listener (`route_config`) for `check`: a file of routes is not looked at",
                );
            }
        }
        for host in hosts(entry, one.config()) {
            retries(host, found);
        }
        ends(entry.manager, &["stream_idle_timeout"], found);
        ends(entry.manager, &LONGEST, found);
    }
    let envoy = deployment.envoys.get(one.envoy);
    if let Some(bootstrap) = envoy.and_then(|envoy| envoy.bootstrap) {
        overload(bootstrap, found);
    }
}

/// A try that is ended is repeated, and ended again.
fn retries<'t>(value: Value<'t>, found: &mut Found<'t>) {
    ends(value, &["retry_policy", "per_try_timeout"], found);
    ends(value, &["retry_policy", "per_try_idle_timeout"], found);
}

/// What idle requests are left with when memory is short.
fn overload<'t>(bootstrap: Value<'t>, found: &mut Found<'t>) {
    let actions = bootstrap.list(&["overload_manager", "actions"]);
    let factors = actions.flat_map(|action| action.list(&["typed_config", "timer_scale_factors"]));
    for factor in factors {
        if factor.name_at(&["timer"], TIMERS) == Some("HTTP_DOWNSTREAM_STREAM_IDLE") {
            ends(factor, &["min_timeout"], found);
        }
    }
}

/// The longest prefix wins, wherever it stands.
fn gateway_api<'t>(deployment: &Deployment<'t>, found: &mut Found<'t>) {
    policies(deployment, found);
    for route in deployment.resources.kind("HTTPRoute") {
        for path in WAITING {
            let rules = route.list(&["spec", "rules"]);
            let longest = rules
                .filter_map(|rule| Some((prefix(rule, path)?, rule)))
                .max_by_key(|(length, _)| *length);
            // A route for everything is another service's.
            let Some((_, rule)) = longest.filter(|(length, _)| *length > 1) else {
                continue;
            };
            match rule
                .at(&["timeouts"])
                .filter(|it| it.get("request").is_some())
            {
                Some(timeouts) => {
                    ends(timeouts, &["request"], found);
                    ends(timeouts, &["backendRequest"], found);
                }
                None => found.add(
                    Spot::first_key(rule, &["timeouts", "matches", "backendRefs"]),
                    DEFAULT,
                    "write `timeouts: { request: 0s }` in this rule",
                ),
            }
        }
    }
}

/// What Envoy Gateway's policies say of timeouts, for whatever they are.
fn policies<'t>(deployment: &Deployment<'t>, found: &mut Found<'t>) {
    for policy in deployment.resources.kind("ClientTrafficPolicy") {
        ends(
            policy,
            &["spec", "timeout", "http", "streamIdleTimeout"],
            found,
        );
    }
    for policy in deployment.resources.kind("BackendTrafficPolicy") {
        for key in ["requestTimeout", "maxStreamDuration", "streamIdleTimeout"] {
            ends(policy, &["spec", "timeout", "http", key], found);
        }
        ends(policy, &["spec", "retry", "perRetry", "timeout"], found);
    }
}

/// The length of the longest prefix of a rule that is one of the path.
fn prefix(rule: Value<'_>, path: &str) -> Option<usize> {
    let length = |one: Value<'_>| {
        let value = one.text_at(&["path", "value"])?;
        let is_match = match one.text_at(&["path", "type"]) {
            Some("Exact") => path == value,
            Some("RegularExpression") => is_full_match(value, path),
            _ => path.starts_with(value),
        };
        is_match.then_some(value.len().min(path.len()))
    };
    rule.list(&["matches"]).filter_map(length).max()
}

/// Without a timeout Istio sets none.
fn istio<'t>(deployment: &Deployment<'t>, one: &Use<'t>, found: &mut Found<'t>) {
    for manager in deployment.merged_managers(one) {
        ends(manager, &["stream_idle_timeout"], found);
        ends(manager, &LONGEST, found);
    }
    for service in deployment.resources.kind("VirtualService") {
        for path in WAITING {
            let first = service.list(&["spec", "http"]).find(|route| {
                route.list(&["match"]).any(|one| {
                    let uri = |key| one.text_at(&["uri", key]);
                    uri("prefix").is_some_and(|it| path.starts_with(it))
                        || uri("exact") == Some(path)
                        || uri("regex").is_some_and(|it| is_full_match(it, path))
                })
            });
            if let Some(route) = first {
                ends(route, &["timeout"], found);
                ends(route, &["retries", "perTryTimeout"], found);
            }
        }
    }
}

/// Tells of a limit that is no longer than a usual wait.
fn ends<'t>(value: Value<'t>, path: &[&str], found: &mut Found<'t>) {
    let [parents @ .., key] = path else {
        return;
    };
    let Some(parent) = value.at(parents) else {
        return;
    };
    let limit = parent.text_at(&[key]).and_then(duration);
    if limit.is_some_and(|limit| !limit.is_zero() && limit <= USUAL_WAIT) {
        let help = if key.to_ascii_lowercase().contains("idle") {
            format!("write `{key}: 120s`, or more")
        } else if *key == "min_timeout" {
            format!("write `{key}: 35s`, or more")
        } else if key.to_ascii_lowercase().contains("try")
            || *key == "timeout" && parents.contains(&"retry")
        {
            format!("leave `{key}` out, or write more than 30 s")
        } else {
            format!("write `{key}: 0s`; `stream_idle_timeout` still ends what is silent")
        };
        found.add(
            Spot::key(parent, key),
            format!("`{key}` ends each `/sync` that has no news: clients let it wait for 30 s"),
            help,
        );
    }
}
