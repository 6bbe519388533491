//! A client that can reach the introspection listener can test whether tokens are active. One that can reach the
//! provisioning listener can reach Synapse's own listener for MAS, with only the secret between them.
//!
//! The non-obvious rule: an address that any interface has is no fault by itself. A filter chain may take only some
//! networks, a NetworkPolicy only some pods, and Docker publishes a port or does not.

use std::net::IpAddr;

use matrix_edge_auth::config::Role;

use super::{Deployment, Found, Rule, Severity, Spot};
use crate::{
    check::deployment::{Entry, Use, role_name},
    yaml::Value,
};

/// The rule.
pub const RULE: Rule = Rule {
    name: "internal-address",
    severity: Severity::Error,
    about: "An internal role can be reached from outside.",
    check,
};

fn check<'t>(deployment: &Deployment<'t>, found: &mut Found<'t>) {
    for one in &deployment.uses {
        let Some(entry) = one.entry.filter(|_| one.role != Role::Gateway) else {
            continue;
        };
        let socket = entry
            .listener
            .and_then(|listener| listener.at(&["address", "socket_address"]));
        let Some(socket) = socket.filter(|socket| is_open(*socket) && !is_guarded(entry)) else {
            continue;
        };
        let port = socket.number_at(&["port_value"]);
        match published(deployment, port) {
            Published::To(spot) => found.add(
                spot,
                format!(
                    "this opens the {} listener to everyone",
                    role_name(one.role)
                ),
                harm(one),
            ),
            Published::No => {}
            Published::Unknown => found.add(
                Spot::key(socket, "address"),
                format!(
                    "the {} listener has an address that others than its caller may reach",
                    role_name(one.role)
                ),
                harm(one),
            ),
        }
    }
}

fn harm(one: &Use<'_>) -> String {
    let (harm, caller) = match one.role {
        Role::Introspection => (
            "a client that reaches it can test whether tokens are active",
            "Synapse",
        ),
        _ => (
            "a client that reaches it is kept from the homeserver by the secret alone",
            "MAS",
        ),
    };
    format!(
        "{harm}: use an internal address, or let only {caller} in by `filter_chain_match: {{ source_prefix_ranges: .. }}`, or \
         give `check` together with this file what closes the port: a NetworkPolicy, or a Compose file that does not publish it"
    )
}

/// Whether the address is neither loopback nor of a private network.
fn is_open(socket: Value<'_>) -> bool {
    let address = socket.text_at(&["address"]).unwrap_or_default();
    match address.parse() {
        Ok(IpAddr::V4(it)) => !(it.is_loopback() || it.is_private() || it.is_link_local()),
        Ok(IpAddr::V6(it)) => {
            !(it.is_loopback() || it.is_unique_local() || it.is_unicast_link_local())
        }
        Err(_) => false,
    }
}

/// Whether Envoy itself takes only some callers.
fn is_guarded(entry: Entry<'_>) -> bool {
    let by_chain = |chain: Value<'_>| {
        let has = |path: &[&str]| chain.list(path).next().is_some();
        has(&["filter_chain_match", "source_prefix_ranges"])
            || has(&["filter_chain_match", "direct_source_prefix_ranges"])
            || chain.boolean_at(&[
                "transport_socket",
                "typed_config",
                "require_client_certificate",
            ]) == Some(true)
            || chain.list(&["filters"]).any(is_rbac)
    };
    entry.chain.is_some_and(by_chain) || entry.manager.list(&["http_filters"]).any(is_rbac)
}

/// Whether a filter lets only some callers in.
fn is_rbac(filter: Value<'_>) -> bool {
    let is_it = filter
        .text_at(&["typed_config", "@type"])
        .is_some_and(|name| name.ends_with(".RBAC"));
    is_it && filter.at(&["typed_config", "rules"]).is_some()
}

enum Published<'t> {
    To(Spot<'t>),
    No,
    Unknown,
}

/// What Kubernetes or Docker makes of a port that every interface has.
fn published<'t>(deployment: &Deployment<'t>, port: Option<u64>) -> Published<'t> {
    let resources = &deployment.resources;
    let is_it = |value: Value<'t>| resources.port(value) == port;
    for service in resources.kind("Service") {
        let kind = service.text_at(&["spec", "type"]);
        let mut ports = service.list(&["spec", "ports"]);
        let leads_here =
            ports.any(|one| one.get("targetPort").or(one.get("port")).is_some_and(is_it));
        if let (Some("LoadBalancer" | "NodePort"), true, Some(spec)) =
            (kind, leads_here, service.get("spec"))
        {
            return Published::To(Spot::key(spec, "type"));
        }
    }
    let is_closed = resources
        .kind("NetworkPolicy")
        .flat_map(|policy| policy.list(&["spec", "ingress"]))
        .filter(|rule| rule.list(&["from"]).next().is_some())
        .flat_map(|rule| rule.list(&["ports"]))
        .any(|one| one.get("port").is_some_and(is_it));
    if is_closed {
        return Published::No;
    }
    let mappings = resources
        .services
        .iter()
        .flat_map(|service| service.list(&["ports"]));
    for mapping in mappings {
        let text = mapping.text().unwrap_or_default();
        let (outside, inside) = text.rsplit_once(':').unwrap_or(("", text));
        let inside: Option<u64> = inside.split('/').next().and_then(|it| it.parse().ok());
        let is_local = outside.starts_with("127.") || outside.starts_with("[::1]");
        if inside.is_some() && inside == port && !is_local {
            return Published::To(Spot::value(mapping));
        }
    }
    if resources.services.is_empty() {
        Published::Unknown
    } else {
        Published::No
    }
}
