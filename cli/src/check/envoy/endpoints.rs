//! The servers of clusters. Two clusters with one server are two ways to the same.

use std::{
    collections::{HashMap, HashSet},
    net::IpAddr,
};

use crate::yaml::Value;

/// The address of a server, and its port. A pipe has a path, and no port; of a service that is discovered only the name is known.
pub type Endpoint = (String, Option<u64>);

/// An address as all others are written that mean the same: in lower case, without the ending of a cluster's own hosts, and one for
/// Envoy's own machine.
pub fn normal(host: &str) -> String {
    let host = host.trim_end_matches('.').to_ascii_lowercase();
    if is_loopback(&host) {
        return "localhost".to_owned();
    }
    let own = host.strip_suffix(".cluster.local").unwrap_or(&host);
    own.strip_suffix(".svc").unwrap_or(own).to_owned()
}

/// Whether an address is of Envoy's own machine.
pub fn is_loopback(host: &str) -> bool {
    let address = host.parse::<IpAddr>();
    host == "localhost" || address.is_ok_and(|it| it.to_canonical().is_loopback())
}

/// The servers of a cluster that the files name.
pub fn endpoints(cluster: Value<'_>) -> impl Iterator<Item = Endpoint> {
    let service = cluster.text_at(&["eds_cluster_config", "service_name"]);
    let discovered = service.map(|name| (format!("service {name}"), None));
    let listed = cluster
        .list(&["load_assignment", "endpoints"])
        .flat_map(|locality| locality.list(&["lb_endpoints"]))
        .filter_map(|endpoint| endpoint.at(&["endpoint", "address"]))
        .filter_map(|address| {
            let socket = address.get("socket_address");
            match socket {
                Some(socket) => Some((
                    normal(socket.text_at(&["address"])?),
                    socket.number_at(&["port_value"]),
                )),
                None => Some((address.text_at(&["pipe", "path"])?.to_owned(), None)),
            }
        });
    listed.chain(discovered)
}

/// The names of the clusters that lead to a server of one of these clusters, and their own.
///
/// An aggregate leads where its parts lead, and a part of it may be an aggregate.
pub fn with_same<'t>(clusters: &[Value<'t>], names: &HashSet<&str>) -> HashSet<&'t str> {
    let named: Vec<(&str, Value<'t>)> = clusters
        .iter()
        .filter_map(|cluster| Some((cluster.text_at(&["name"])?, *cluster)))
        .collect();
    let mut parts: HashMap<&str, Vec<&str>> = HashMap::new();
    let mut aggregates: HashMap<&str, Vec<&str>> = HashMap::new();
    for (name, cluster) in &named {
        let list = cluster.list(&["cluster_type", "typed_config", "clusters"]);
        for part in list.filter_map(Value::text) {
            parts.entry(name).or_default().push(part);
            aggregates.entry(part).or_default().push(name);
        }
    }
    let all = || named.iter().copied();
    let own = all().filter(|(name, _)| names.contains(name));
    let own = reached(own.map(|(name, _)| name), &parts);
    let servers: HashSet<Endpoint> = all()
        .filter(|(name, _)| own.contains(name))
        .flat_map(|(_, cluster)| endpoints(cluster))
        .collect();
    let same = all().filter(|(name, cluster)| {
        own.contains(name) || endpoints(*cluster).any(|it| servers.contains(&it))
    });
    reached(same.map(|(name, _)| name), &aggregates)
}

/// All that can be reached from these names, themselves among them.
fn reached<'t>(
    names: impl Iterator<Item = &'t str>,
    steps: &HashMap<&'t str, Vec<&'t str>>,
) -> HashSet<&'t str> {
    let mut waiting: Vec<&str> = names.collect();
    let mut found = HashSet::new();
    while let Some(name) = waiting.pop() {
        if found.insert(name) {
            waiting.extend(steps.get(name).into_iter().flatten());
        }
    }
    found
}
