//! Without the provisioning role the edge hears of a session's end only from a logout or a revocation that passes it. A
//! session that an administrator ends, or MAS itself, is served until `cache.ttl`, which should therefore stay short.
//!
//! Of several Envoys only one hears of an end: the one that MAS's call comes to. The others serve the session until `cache.ttl`,
//! unless the listener for MAS mirrors what it hears to each of them, as in envoy/fleet.
//!
//! Whether the provisioning role is absent is known only in a whole bootstrap whose listeners do not come from elsewhere.

use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};

use matrix_edge_auth::config::Role;

use super::{
    Deployment, Found, Rule, Severity, Spot,
    routes::{leads_back, mirrors, tables},
};
use crate::{
    check::deployment::{Host, Multiplier, Use},
    yaml::Value,
};

/// The rule.
pub const RULE: Rule = Rule {
    name: "long-ttl",
    severity: Severity::Warning,
    may_point_at_secret: false,
    about: "`cache.ttl` is long, and an Envoy does not hear of sessions that end.",
    check,
};

/// The default of `cache.ttl`, and what Synapse's own cache has.
const USUAL: Duration = Duration::from_secs(120);

fn check<'t>(deployment: &Deployment<'t>, found: &mut Found<'t>) {
    let fleets: HashSet<_> = deployment
        .uses
        .iter()
        .filter(|one| one.is(Role::Provisioning) && may_mirror(deployment, one))
        .map(|one| (one.envoy, one.homeserver))
        .collect();
    let mut multipliers = HashMap::new();
    for one in &deployment.uses {
        let ttl = one.config().map_or(USUAL, |config| config.cache.ttl);
        if ttl <= USUAL {
            continue;
        }
        let multiplier = *multipliers
            .entry((one.envoy, one.resource.map(Value::key)))
            .or_insert_with(|| deployment.multiplier(one));
        let hears = |other: &Use<'_>| other.is(Role::Provisioning);
        if !deployment.peers(one).any(hears) {
            check_untold(deployment, one, ttl.as_secs(), multiplier, found);
        } else if !one.is(Role::Provisioning) // It serves no answer.
            && !fleets.contains(&(one.envoy, one.homeserver))
        {
            check_several(one, ttl.as_secs(), multiplier, found);
        }
    }
}

/// Tells of a use that runs in several Envoys, or may do so, of which one hears of an end.
fn check_several<'t>(
    one: &Use<'t>,
    seconds: u64,
    multiplier: Option<Multiplier<'t>>,
    found: &mut Found<'t>,
) {
    let spot = one.key(&["cache", "ttl"]);
    match multiplier {
        Some(Multiplier::Several(kind)) => found.add(
            spot,
            format!(
                "the {kind} lets several Envoys run, and they do not tell each other: only the one that hears of a session's end \
                 ends it, and the others serve it for up to {seconds} s"
            ),
            "write `ttl: 120s`: a longer one is for one Envoy alone, or for several that tell each other, as in envoy/fleet",
        ),
        Some(Multiplier::Daemon) => found.note(
            spot,
            format!(
                "a DaemonSet runs an Envoy on each node that it is for: if these are several, only the one that hears of a \
                 session's end ends it, and the others serve it for up to {seconds} s"
            ),
            "write `ttl: 120s`, unless there is one node",
        ),
        None => {}
    }
}

/// Tells of a use in whose Envoy no provisioning role is.
fn check_untold<'t>(
    deployment: &Deployment<'t>,
    one: &Use<'t>,
    seconds: u64,
    multiplier: Option<Multiplier<'t>>,
    found: &mut Found<'t>,
) {
    let envoy = deployment.envoys.get(one.envoy);
    let bootstrap = envoy.and_then(|envoy| envoy.bootstrap);
    let dynamic = bootstrap.and_then(|root| root.get("dynamic_resources"));
    let dynamic = dynamic.filter(|_| envoy.is_some_and(|envoy| !envoy.has_listeners));
    let key = "lds_config";
    if let Some(dynamic) = dynamic {
        found.note(
            Spot::key(dynamic, key),
            format!(
                "more listeners come from elsewhere: whether one of them hears of a session that MAS ends is not in these files, \
                 and an answer serves for up to {seconds} s"
            ),
            "give `check` the file that they come from as well, or one that has all listeners",
        );
    } else if one.host != Host::Nobody && (one.host != Host::Envoy || bootstrap.is_some()) {
        found.add(
            one.key(&["cache", "ttl"]),
            format!("nothing here hears of a session that MAS ends, and its answer serves for up to {seconds} s"),
            match multiplier {
                None | Some(Multiplier::Daemon) => {
                    "write `ttl: 120s`, or add a listener with `role: provisioning` that MAS's `matrix.endpoint` leads to"
                }
                Some(Multiplier::Several(_)) => {
                    "write `ttl: 120s`: a longer one is for one Envoy alone, or for several that tell each other, as in \
                     envoy/fleet, each with a listener with `role: provisioning` that MAS's `matrix.endpoint` leads to"
                }
            },
        );
    }
}

/// Whether what comes to a provisioning role may be mirrored to other Envoys. Routes that cannot be seen may do so.
fn may_mirror<'t>(deployment: &Deployment<'t>, one: &Use<'t>) -> bool {
    match (one.host, one.entry) {
        (Host::Envoy, Some(entry)) => {
            let mut routes = tables(entry.manager).peekable();
            let is_own = |name| leads_back(deployment, one, name);
            routes.peek().is_none()
                || routes
                    .flat_map(mirrors)
                    .any(|name| !name.is_some_and(is_own))
        }
        (Host::EnvoyFilter | Host::WasmPlugin, _) => has_mirrors_of_istio(deployment),
        (Host::EnvoyGateway, _) => false,
        (Host::Envoy | Host::Nobody, _) => true,
    }
}

/// Whether a VirtualService or an EnvoyFilter mirrors requests, whichever these are.
fn has_mirrors_of_istio(deployment: &Deployment<'_>) -> bool {
    let resources = &deployment.resources;
    let mut routes = resources
        .kind("VirtualService")
        .flat_map(|service| service.list(&["spec", "http"]));
    let mut patches = resources
        .kind("EnvoyFilter")
        .flat_map(|filter| filter.list(&["spec", "configPatches"]))
        .filter_map(|patch| patch.at(&["patch", "value"]));
    routes.any(|route| route.get("mirror").is_some() || route.get("mirrors").is_some())
        || patches.any(|value| mirrors(value).next().is_some())
}
