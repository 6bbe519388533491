//! Roles share an answer if they ask the same question: cluster, authority, path and kind of credential.
//!
//! The non-obvious rule: an introspection listener that this Envoy's own questions lead to is a tier of a fleet, and asks
//! another question than its callers on purpose (envoy/fleet). Two internal roles are not compared, since it is the gateway
//! that asks about clients' tokens.

use matrix_edge_auth::config::Role;

use super::{Deployment, Found, Rule, Severity};
use crate::check::deployment::Use;

/// The rule.
pub const RULE: Rule = Rule {
    name: "question",
    severity: Severity::Warning,
    may_point_at_secret: false,
    about: "Roles of one Envoy ask MAS in different ways, and so do not share answers.",
    check,
};

fn check<'t>(deployment: &Deployment<'t>, found: &mut Found<'t>) {
    for one in &deployment.uses {
        let Some(own) = one.config().filter(|own| own.role != Role::Gateway) else {
            continue;
        };
        let gateways: Vec<_> = deployment
            .peers(one)
            .filter_map(Use::config)
            .filter(|other| other.role == Role::Gateway)
            .collect();
        let is_shared = gateways
            .iter()
            .any(|gateway| gateway.fingerprint() == own.fingerprint());
        let gateway = gateways.first();
        let Some(gateway) = gateway.filter(|_| !is_shared && !is_tier(deployment, one)) else {
            continue;
        };
        let (key, value) = differing(gateway, own);
        found.add(
            one.key(&["introspection", key]),
            format!(
                "the {} role asks another question than the gateway, so the two do not share answers: `introspection.{key}` \
                 differs",
                own.role.name()
            ),
            format!("give all roles the same `introspection`, with {value}"),
        );
    }
}

/// The first key that makes the questions different, and what the gateway has there.
fn differing(
    gateway: &matrix_edge_auth::config::Config,
    own: &matrix_edge_auth::config::Config,
) -> (&'static str, String) {
    let (theirs, own) = (&gateway.introspection, &own.introspection);
    if theirs.cluster != own.cluster {
        ("cluster", format!("`cluster: {}`", theirs.cluster))
    } else if theirs.authority != own.authority {
        ("authority", format!("`authority: {}`", theirs.authority))
    } else if theirs.path != own.path {
        ("path", format!("`path: {}`", theirs.path))
    } else {
        let kind = theirs.credential.kind();
        ("credential", format!("a credential of the kind `{kind}`"))
    }
}

/// Whether a cluster that another use asks leads to this listener.
fn is_tier(deployment: &Deployment<'_>, one: &Use<'_>) -> bool {
    let port = one
        .entry
        .and_then(|entry| entry.listener)
        .and_then(|listener| listener.number_at(&["address", "socket_address", "port_value"]));
    let leads_here = |other: &Use<'_>| {
        let asked = other.config().map(|config| &config.introspection.cluster);
        let cluster = asked.and_then(|name| deployment.cluster(other, name));
        cluster
            .into_iter()
            .flat_map(|cluster| cluster.list(&["load_assignment", "endpoints"]))
            .flat_map(|locality| locality.list(&["lb_endpoints"]))
            .any(|endpoint| {
                endpoint.number_at(&["endpoint", "address", "socket_address", "port_value"]) == port
            })
    };
    port.is_some() && deployment.others(one).any(leads_here)
}
