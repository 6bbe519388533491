//! `/sync` waits, 30 seconds as a rule, and a first one may take minutes. Envoy's default for a whole answer is 15 seconds.

use super::{
    Deployment, Found, Rule, Severity, Spot,
    routes::{USUAL_WAIT, WAITING, before_servers, guarded_routes, hosts, targets},
};
use crate::{
    check::{
        deployment::{Host, Use, protocols},
        duration::duration,
        pattern::is_full_match,
    },
    yaml::Value,
};

/// The rule.
pub const RULE: Rule = Rule {
    name: "sync-timeout",
    severity: Severity::Error,
    about: "A timeout ends `/sync` before the server answers.",
    check,
};

const MAX_DURATION: [&str; 2] = ["common_http_protocol_options", "max_stream_duration"];
/// The timers of the overload manager, in the order of their numbers.
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
            Host::Envoy => check_envoy(deployment, one, found),
            Host::EnvoyGateway => check_gateway_api(deployment, found),
            Host::WasmPlugin | Host::EnvoyFilter => check_istio(deployment, one, found),
            Host::Nobody => {}
        }
    }
}

fn check_envoy<'t>(deployment: &Deployment<'t>, one: &Use<'t>, found: &mut Found<'t>) {
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
        check_limit(action, &["timeout"], Remedy::TurnOff, found);
        check_limit(action, &["idle_timeout"], Remedy::IDLE, found);
        check_limit(
            action,
            &["max_stream_duration", "max_stream_duration"],
            Remedy::TurnOff,
            found,
        );
        check_retries(action, found);
        for (name, _) in targets(action) {
            let cluster = deployment.cluster(one, name);
            for options in cluster.into_iter().flat_map(protocols) {
                check_limit(options, &MAX_DURATION, Remedy::TurnOff, found);
            }
        }
    }
    if let Some(entry) = one.entry {
        note_other_routes(entry.manager, found);
        for host in hosts(entry, one.config()) {
            check_retries(host, found);
        }
        check_manager(entry.manager, found);
    }
    let envoy = deployment.envoys.get(one.envoy);
    if let Some(bootstrap) = envoy.and_then(|envoy| envoy.bootstrap) {
        check_overload(bootstrap, found);
    }
}

/// Notes that the routes of a connection manager come from elsewhere.
fn note_other_routes<'t>(manager: Value<'t>, found: &mut Found<'t>) {
    if manager.get("route_config").is_some() {
        return;
    }
    let mut keys = ["rds", "scoped_routes"].into_iter();
    if let Some(key) = keys.find(|key| manager.get(key).is_some()) {
        found.note(
            Spot::key(manager, key),
            "the routes of this listener come from elsewhere: neither their timeouts nor where they lead is looked at",
            "write them into the listener (`route_config`) for `check`: a file of routes is not looked at",
        );
    }
}

/// Tells of a limit of a connection manager.
fn check_manager<'t>(manager: Value<'t>, found: &mut Found<'t>) {
    check_limit(manager, &["stream_idle_timeout"], Remedy::IDLE, found);
    check_limit(manager, &MAX_DURATION, Remedy::TurnOff, found);
}

/// Tells of a limit for each try. Envoy repeats a try that it has ended, and then ends the repetition, too.
fn check_retries<'t>(value: Value<'t>, found: &mut Found<'t>) {
    check_limit(
        value,
        &["retry_policy", "per_try_timeout"],
        Remedy::LeaveOut,
        found,
    );
    check_limit(
        value,
        &["retry_policy", "per_try_idle_timeout"],
        Remedy::IDLE,
        found,
    );
}

/// Tells of an idle timeout that Envoy shortens too much when memory is short.
fn check_overload<'t>(bootstrap: Value<'t>, found: &mut Found<'t>) {
    let actions = bootstrap.list(&["overload_manager", "actions"]);
    let factors = actions.flat_map(|action| action.list(&["typed_config", "timer_scale_factors"]));
    for factor in factors {
        if factor.name_at(&["timer"], TIMERS) == Some("HTTP_DOWNSTREAM_STREAM_IDLE") {
            check_limit(factor, &["min_timeout"], Remedy::AtLeast("35s"), found);
        }
    }
}

/// Tells of HTTPRoutes, whose rule with the longest prefix wins, wherever the rule stands.
fn check_gateway_api<'t>(deployment: &Deployment<'t>, found: &mut Found<'t>) {
    check_policies(deployment, found);
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
                    check_limit(timeouts, &["request"], Remedy::TurnOff, found);
                    check_limit(timeouts, &["backendRequest"], Remedy::TurnOff, found);
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

/// Tells of policies of Envoy Gateway. All of them count, whatever they are for.
fn check_policies<'t>(deployment: &Deployment<'t>, found: &mut Found<'t>) {
    for policy in deployment.resources.kind("ClientTrafficPolicy") {
        check_limit(
            policy,
            &["spec", "timeout", "http", "streamIdleTimeout"],
            Remedy::IDLE,
            found,
        );
    }
    for policy in deployment.resources.kind("BackendTrafficPolicy") {
        for (key, remedy) in [
            ("requestTimeout", Remedy::TurnOff),
            ("maxStreamDuration", Remedy::TurnOff),
            ("streamIdleTimeout", Remedy::IDLE),
        ] {
            let path = ["spec", "timeout", "http", key];
            check_limit(policy, &path, remedy, found);
        }
        check_limit(
            policy,
            &["spec", "retry", "perRetry", "timeout"],
            Remedy::LeaveOut,
            found,
        );
    }
}

/// The length of the longest prefix in a rule that the path begins with.
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

/// Tells of EnvoyFilters and VirtualServices. A VirtualService without a timeout is no fault: Istio then sets none.
fn check_istio<'t>(deployment: &Deployment<'t>, one: &Use<'t>, found: &mut Found<'t>) {
    for manager in deployment.merged_managers(one) {
        check_manager(manager, found);
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
                check_limit(route, &["timeout"], Remedy::TurnOff, found);
                check_limit(
                    route,
                    &["retries", "perTryTimeout"],
                    Remedy::LeaveOut,
                    found,
                );
            }
        }
    }
}

/// What to write instead of a limit that ends `/sync`.
#[derive(Clone, Copy)]
enum Remedy {
    /// This limit, or a longer one.
    AtLeast(&'static str),
    /// No key, or a limit that is longer than a usual wait.
    LeaveOut,
    /// Zero, which is no limit.
    TurnOff,
}

impl Remedy {
    /// For the time in which nothing is sent.
    const IDLE: Self = Self::AtLeast("120s");

    fn help(self, key: &str) -> String {
        match self {
            Self::AtLeast(limit) => format!("write `{key}: {limit}`, or more"),
            Self::LeaveOut => format!("leave `{key}` out, or write more than 30 s"),
            Self::TurnOff => {
                format!("write `{key}: 0s`; `stream_idle_timeout` still ends what is silent")
            }
        }
    }
}

/// Tells of a limit that is no longer than a usual wait.
fn check_limit<'t>(value: Value<'t>, path: &[&str], remedy: Remedy, found: &mut Found<'t>) {
    let [parents @ .., key] = path else {
        return;
    };
    let Some(parent) = value.at(parents) else {
        return;
    };
    let limit = parent.text_at(&[key]).and_then(duration);
    if limit.is_some_and(|limit| !limit.is_zero() && limit <= USUAL_WAIT) {
        found.add(
            Spot::key(parent, key),
            format!("`{key}` ends each `/sync` that has no news: clients let it wait for 30 s"),
            remedy.help(key),
        );
    }
}
