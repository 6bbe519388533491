//! `/sync` waits, 30 seconds as a rule, and a first one may take minutes. Envoy's default for a whole answer is 15 seconds.

mod gateway_api;
mod istio;

use super::{
    Deployment, Found, Rule, Severity, Spot,
    hosts::{hosts, unknown_host},
    routes::{USUAL_WAIT, WAITING, before_servers, guarded_routes, scopes, tables, targets},
};
use crate::{
    check::{
        deployment::{Host, Use, protocols},
        duration::duration,
    },
    yaml::Value,
};

/// The rule.
pub const RULE: Rule = Rule {
    name: "sync-timeout",
    severity: Severity::Error,
    may_point_at_secret: false,
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
            Host::WasmPlugin | Host::EnvoyFilter => {
                for manager in deployment.merged_managers(one) {
                    check_manager(manager, found);
                }
            }
            Host::EnvoyGateway | Host::Nobody => {}
        }
    }
    // Routes are looked at once, however many uses there are.
    let has = |hosts: &[Host]| before_servers(deployment).any(|one| hosts.contains(&one.host));
    if has(&[Host::EnvoyGateway]) {
        gateway_api::check(deployment, found);
    }
    if has(&[Host::WasmPlugin, Host::EnvoyFilter]) {
        istio::check(deployment, found);
        gateway_api::check_set(deployment, found);
    }
}

fn check_envoy<'t>(deployment: &Deployment<'t>, one: &Use<'t>, found: &mut Found<'t>) {
    for route in guarded_routes(deployment, one, &WAITING) {
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
        note_unknown(unknown_host(deployment, one), found);
        for host in hosts(deployment, one) {
            check_retries(host, found);
        }
        check_manager(entry.manager, found);
    }
    let envoy = deployment.envoys.get(one.envoy);
    if let Some(bootstrap) = envoy.and_then(|envoy| envoy.bootstrap) {
        check_overload(bootstrap, found);
    }
}

/// Notes that routes of a connection manager come from elsewhere: all, those of one scope, or some virtual hosts.
fn note_other_routes<'t>(manager: Value<'t>, found: &mut Found<'t>) {
    let has_scopes = scopes(manager).next().is_some();
    let scoped = (!has_scopes).then_some((manager, "scoped_routes"));
    let of_scopes = scopes(manager).map(|scope| (scope, "route_configuration_name"));
    let of_tables = tables(manager).map(|table| (table, "vhds"));
    let others = std::iter::once((manager, "rds"))
        .chain(scoped)
        .chain(of_scopes)
        .chain(of_tables);
    for (place, key) in others.filter(|(place, key)| place.get(key).is_some()) {
        let which = if key == "vhds" { "some" } else { "the" };
        found.note(
            Spot::key(place, key),
            format!("{which} routes of this listener come from elsewhere: neither their timeouts nor where they lead is looked at"),
            "write them into the listener (`route_config`) for `check`: a file of routes is not looked at",
        );
    }
}

/// Notes that nothing says which of some hosts or routes is the homeserver's.
fn note_unknown<'t>(one: Option<Value<'t>>, found: &mut Found<'t>) {
    let spot = one.map(|one| Spot::first_key(one, &["domains", "name", "match", "matches"]));
    found.note(
        spot,
        "nothing says which of these hosts is the homeserver's, and they lead to different servers: neither their timeouts nor          where they lead is looked at",
        "give `check` what tells: a host that is called `matrix.` or as the `server_name`, a route for `/_matrix`, or the provisioning          role",
    );
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
