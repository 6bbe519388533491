//! Which ports of an Envoy in Docker Compose are published.
//!
//! The non-obvious rule: a service with the network of another has the ports that the other publishes.

use std::{collections::HashSet, net::IpAddr};

use super::{Reach, Spot, is_open_address};
use crate::{
    check::deployment::{Deployment, Service, with_defaults},
    yaml::Value,
};

const MODE: &str = "network_mode";

/// What Compose files say of a port of the Envoy whose listener this socket is of. What is not in the files may publish any port.
pub(super) fn reach<'t>(deployment: &Deployment<'t>, socket: Value<'t>, port: u64) -> Reach<'t> {
    let mut left = deployment.services_of(socket);
    let mut reach = match left.as_slice() {
        [] => Reach::Unknown,
        _ => Reach::Closed,
    };
    let mut seen = HashSet::new();
    while let Some(service) = left.pop() {
        if !seen.insert(service.name) {
            continue;
        }
        if let Some((spot, how)) = opened(service, port) {
            return Reach::Open(spot, how);
        }
        match network(deployment, service) {
            Network::Own => {}
            Network::Of(other) => left.push(other),
            Network::Unknown => reach = Reach::Unknown,
        }
    }
    reach
}

/// What opens a port of a service.
fn opened<'t>(service: &Service<'t>, port: u64) -> Option<(Spot<'t>, &'static str)> {
    let mode = service.said_last(MODE);
    if let Some((part, "host")) = mode {
        let how = "the container has the host's own addresses";
        return Some((Spot::key(part, MODE), how));
    }
    let ports = service.said(&["ports"]).into_iter();
    let mut mappings = ports.flat_map(Value::items);
    let mapping = mappings.find(|mapping| publishes(*mapping, port))?;
    Some((Spot::value(mapping), "the port is published"))
}

/// The network that a service has.
enum Network<'d, 't> {
    Own,
    /// That of another service.
    Of(&'d Service<'t>),
    /// That of a container that is not in the files.
    Unknown,
}

fn network<'d, 't>(deployment: &'d Deployment<'t>, service: &Service<'t>) -> Network<'d, 't> {
    let Some((part, mode)) = service.said_last(MODE) else {
        return Network::Own;
    };
    let services = deployment.resources.services.iter();
    let mut services = services.take_while(|_| part.tree.spend(1));
    let other = if let Some(name) = mode.strip_prefix("service:") {
        services.find(|other| other.name == name)
    } else if let Some(name) = mode.strip_prefix("container:") {
        services.find(|other| {
            let own = other.said_last("container_name");
            own.is_some_and(|(_, own)| own == name)
        })
    } else {
        return Network::Own;
    };
    other.map_or(Network::Unknown, Network::Of)
}

/// Whether a mapping, in its short or its long form, leads from outside to a port.
fn publishes(mapping: Value<'_>, port: u64) -> bool {
    let Some(text) = mapping.text().map(with_defaults) else {
        let said = |key| mapping.text_at(&[key]).map(with_defaults);
        let is_tcp = said("protocol").is_none_or(|it| it == "tcp");
        let target = said("target").and_then(|target| target.parse().ok());
        let address = said("host_ip").unwrap_or_default();
        return is_tcp && target == Some(port) && is_reached_at(&address);
    };
    let (text, protocol) = text.rsplit_once('/').unwrap_or((&text, "tcp"));
    let (outside, inside) = text.rsplit_once(':').unwrap_or(("", text));
    let (first, last) = inside.split_once('-').unwrap_or((inside, inside));
    let is_within = match (first.parse::<u64>(), last.parse()) {
        (Ok(first), Ok(last)) => (first..=last).contains(&port),
        _ => false,
    };
    let (address, _) = outside.rsplit_once(':').unwrap_or_default();
    protocol == "tcp" && is_within && is_reached_at(address)
}

/// Whether others than the host and its network reach an address of the host. Without one, Docker takes every address.
fn is_reached_at(address: &str) -> bool {
    let address = address.trim_start_matches('[').trim_end_matches(']');
    let is_name = address.parse::<IpAddr>().is_err();
    (is_name && address != "localhost") || is_open_address(address)
}
