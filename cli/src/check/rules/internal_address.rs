//! A client that can reach the introspection listener can test whether tokens are active. A client that can reach the
//! provisioning listener can reach Synapse's own listener for MAS, with only the secret between them.
//!
//! The non-obvious rule: an address that any interface has is no fault by itself. A filter chain may take only some
//! networks, a NetworkPolicy only some pods, and Docker publishes a port or does not. Such a restriction counts only as far
//! as it really closes the port: networks that are nearly all addresses, a policy for other pods, a Compose file of
//! something else and a filter that is not asked close nothing.

mod compose;
mod guards;
mod kubernetes;
mod networks;
mod routes;

use std::net::IpAddr;

use matrix_edge_auth::config::Role;

use self::guards::is_guarded;
use super::{Deployment, Found, Rule, Severity, Spot};
use crate::{check::deployment::Entry, yaml::Value};

/// The rule.
pub const RULE: Rule = Rule {
    name: "internal-address",
    severity: Severity::Error,
    may_point_at_secret: false,
    about: "An internal role can be reached from outside.",
    check,
};

/// What the files say of a port that every interface has.
enum Reach<'t> {
    /// The place that opens it, and how.
    Open(Spot<'t>, &'static str),
    /// It is closed to all but some.
    Closed,
    /// It is closed, if one of the NetworkPolicies is for the pods that run Envoy.
    Presumed,
    /// The files say nothing of it.
    Unknown,
}

fn check<'t>(deployment: &Deployment<'t>, found: &mut Found<'t>) {
    routes::check(deployment, found);
    for one in &deployment.uses {
        let (Some(entry), Some(role)) = (one.entry, one.role) else {
            continue;
        };
        if role == Role::Gateway || is_guarded(entry, before(entry, role)) {
            continue;
        }
        let open = entry.listener.into_iter().flat_map(sockets);
        for socket in open.filter(|socket| is_open(*socket)) {
            let port = socket.number_at(&["port_value"]).unwrap_or_default();
            let (harm, role) = (harm(role), role.name());
            match reach(deployment, socket, port) {
                Reach::Open(spot, how) => found.add(
                    spot,
                    format!("this opens the {role} listener: {how}"),
                    harm,
                ),
                Reach::Closed => {}
                Reach::Presumed => found.note(
                    Spot::key(socket, "address"),
                    format!(
                        "the {role} listener is taken to be closed by a NetworkPolicy: whether it is one for the pods with this \
                         port is not in these files"
                    ),
                    "give `check` the Deployment, or what else runs Envoy, as well; with kustomize, give it what that prints",
                ),
                Reach::Unknown => found.add(
                    Spot::key(socket, "address"),
                    format!("the {role} listener has an address that others than its caller may reach"),
                    harm,
                ),
            }
        }
    }
}

fn reach<'t>(deployment: &Deployment<'t>, socket: Value<'t>, port: u64) -> Reach<'t> {
    match kubernetes::reach(deployment, socket, port) {
        Reach::Unknown => compose::reach(deployment, socket, port),
        known => known,
    }
}

/// What comes of it that clients reach a role, and who is to reach it.
const fn harm_of(role: Role) -> (&'static str, &'static str) {
    match role {
        Role::Introspection => (
            "a client that reaches it can test whether tokens are active",
            "Synapse",
        ),
        _ => (
            "a client that reaches it is kept from the homeserver by the secret alone",
            "MAS",
        ),
    }
}

fn harm(role: Role) -> String {
    let (harm, caller) = harm_of(role);
    format!(
        "{harm}: use an internal address, or let only {caller} in by `filter_chain_match: {{ source_prefix_ranges: .. }}`, or \
         give `check` together with this file what closes the port: a NetworkPolicy, or a Compose file that does not publish it"
    )
}

/// Whether callers from outside of Envoy's own machine and network may reach a listener, as far as the files say.
pub(super) fn is_exposed(deployment: &Deployment<'_>, entry: Entry<'_>) -> bool {
    let mut open = entry
        .listener
        .into_iter()
        .flat_map(sockets)
        .filter(|socket| is_open(*socket));
    !is_guarded(entry, None) && open.any(|socket| is_reached(deployment, socket))
}

/// Whether callers from outside of Envoy's own machine and network may reach an address, as far as the files say.
pub(super) fn is_open_to_others(deployment: &Deployment<'_>, socket: Value<'_>) -> bool {
    is_open(socket) && is_reached(deployment, socket)
}

fn is_reached(deployment: &Deployment<'_>, socket: Value<'_>) -> bool {
    let port = socket.number_at(&["port_value"]).unwrap_or_default();
    matches!(
        reach(deployment, socket, port),
        Reach::Open(..) | Reach::Unknown
    )
}

/// The filter that answers callers by itself: what stands behind it asks nothing of them. In the provisioning role the module
/// leaves the answer to what is behind it.
fn before(entry: Entry<'_>, role: Role) -> Option<&str> {
    (role == Role::Introspection).then_some(entry.filter_name)
}

/// The addresses of a listener.
fn sockets<'t>(listener: Value<'t>) -> impl Iterator<Item = Value<'t>> {
    let path = ["address", "socket_address"];
    let more = listener.list(&["additional_addresses"]);
    listener
        .at(&path)
        .into_iter()
        .chain(more.filter_map(move |one| one.at(&path)))
}

/// Whether others than the host and its network may reach the address of a listener.
fn is_open(socket: Value<'_>) -> bool {
    is_open_address(socket.text_at(&["address"]).unwrap_or_default())
}

/// Whether an address is neither loopback nor of a private network. `100.64.0.0/10` counts as private: providers and
/// overlay networks share it behind their own addresses (RFC 6598).
fn is_open_address(address: &str) -> bool {
    match address.parse::<IpAddr>().map(|it| it.to_canonical()) {
        Ok(IpAddr::V4(it)) => {
            let is_shared = matches!(it.octets(), [100, 64..=127, ..]);
            !(it.is_loopback() || it.is_private() || it.is_link_local() || is_shared)
        }
        Ok(IpAddr::V6(it)) => {
            !(it.is_loopback() || it.is_unique_local() || it.is_unicast_link_local())
        }
        Err(_) => false,
    }
}
