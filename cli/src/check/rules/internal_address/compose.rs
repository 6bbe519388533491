//! Which ports of an Envoy in Docker Compose are published.

use super::{Reach, Spot};
use crate::{check::deployment::Deployment, yaml::Value};

/// What Compose files say of a port of the Envoy whose listener this socket is of.
pub(super) fn reach<'t>(deployment: &Deployment<'t>, socket: Value<'t>, port: u64) -> Reach<'t> {
    let mut reach = Reach::Unknown;
    for service in deployment.services_with(socket) {
        if service.text_at(&["network_mode"]) == Some("host") {
            let spot = Spot::key(service, "network_mode");
            return Reach::Open(spot, "the container has the host's own addresses");
        }
        for mapping in service.list(&["ports"]) {
            if publishes(mapping, port) {
                return Reach::Open(Spot::value(mapping), "the port is published");
            }
        }
        reach = Reach::Closed;
    }
    reach
}

/// Whether a mapping, in its short or its long form, leads from outside to a port.
fn publishes(mapping: Value<'_>, port: u64) -> bool {
    let text = match mapping.text() {
        Some(text) => text,
        None => {
            let address = mapping.text_at(&["host_ip"]).unwrap_or_default();
            let is_tcp = mapping.text_at(&["protocol"]).is_none_or(|it| it == "tcp");
            return is_tcp && !is_local(address) && mapping.number_at(&["target"]) == Some(port);
        }
    };
    let (text, protocol) = text.rsplit_once('/').unwrap_or((text, "tcp"));
    let (outside, inside) = text.rsplit_once(':').unwrap_or(("", text));
    let (first, last) = inside.split_once('-').unwrap_or((inside, inside));
    let is_within = match (first.parse::<u64>(), last.parse()) {
        (Ok(first), Ok(last)) => (first..=last).contains(&port),
        _ => false,
    };
    protocol == "tcp" && is_within && !is_local(outside)
}

/// Whether an address, or a text that begins with one, is of the host alone.
fn is_local(address: &str) -> bool {
    ["127.", "[::1]", "::1", "localhost"]
        .iter()
        .any(|local| address.starts_with(local))
}
