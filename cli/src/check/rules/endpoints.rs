//! The servers of clusters. Two clusters with one server are two ways to the same.

use std::collections::HashSet;

use crate::yaml::Value;

/// The address of a server, and its port. A pipe has a path, and no port.
pub(super) type Endpoint<'t> = (&'t str, Option<u64>);

/// The servers of a cluster that the files name.
pub(super) fn endpoints<'t>(cluster: Value<'t>) -> impl Iterator<Item = Endpoint<'t>> {
    cluster
        .list(&["load_assignment", "endpoints"])
        .flat_map(|locality| locality.list(&["lb_endpoints"]))
        .filter_map(|endpoint| endpoint.at(&["endpoint", "address"]))
        .filter_map(|address| {
            let socket = address.get("socket_address");
            match socket {
                Some(socket) => Some((
                    socket.text_at(&["address"])?,
                    socket.number_at(&["port_value"]),
                )),
                None => Some((address.text_at(&["pipe", "path"])?, None)),
            }
        })
}

/// The names of the clusters that have a server of one of these clusters.
pub(super) fn with_same<'t>(clusters: &[Value<'t>], names: &HashSet<&str>) -> HashSet<&'t str> {
    let name = |cluster: &Value<'t>| cluster.text_at(&["name"]);
    let is_named = |cluster: &&Value<'t>| name(cluster).is_some_and(|name| names.contains(name));
    let named = clusters.iter().filter(is_named);
    let servers: HashSet<Endpoint<'t>> = named.flat_map(|cluster| endpoints(*cluster)).collect();
    let has_one = |cluster: &&Value<'t>| endpoints(**cluster).any(|it| servers.contains(&it));
    clusters.iter().filter(has_one).filter_map(name).collect()
}
