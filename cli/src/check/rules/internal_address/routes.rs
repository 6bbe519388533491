//! A route may lead from a listener for clients to an internal listener of the same Envoy.
//!
//! The non-obvious rule: the address of the internal listener does not help then, since it is Envoy itself that calls. A gateway
//! whose routes all lead back, as in a fleet, is for no clients.

use std::collections::{HashMap, HashSet};

use matrix_edge_auth::config::Role;

use super::{Deployment, Found, harm_of, is_exposed, sockets};
use crate::{
    check::{
        deployment::{Envoy, typed},
        rules::{
            bare_listener::entry_of,
            endpoints::{endpoints, is_loopback, normal},
            routes::{before_servers, tables, targets},
        },
    },
    yaml::Value,
};

pub(super) fn check<'t>(deployment: &Deployment<'t>, found: &mut Found<'t>) {
    for (number, envoy) in deployment.envoys.iter().enumerate() {
        let clusters = leading_inside(deployment, number, envoy);
        let open = open_clusters(envoy);
        if clusters.is_empty() && open.is_empty() {
            continue;
        }
        let own = || deployment.uses.iter().filter(|one| one.envoy == number);
        let with_module: HashSet<_> = own()
            .filter_map(|one| Some(one.entry?.manager.key()))
            .collect();
        let gateways = before_servers(deployment).filter(|one| one.envoy == number);
        let of_clients = gateways.filter_map(|one| Some(one.entry?.manager));
        let bare = envoy.network_filters().filter(|filter| {
            (filter.is_manager() || filter.is_tcp_proxy())
                && !with_module.contains(&filter.config.key())
                && is_exposed(deployment, entry_of(*filter))
        });
        let leading = of_clients
            .chain(bare.map(|filter| filter.config))
            .flat_map(|config| {
                let whole = config.get("route_config").is_none().then_some(config);
                tables(config).chain(whole)
            });
        for (name, spot) in leading.flat_map(targets) {
            if open.contains(name) {
                found.add(
                    spot,
                    "here a client names the server itself, and may name an internal listener of this Envoy, its admin interface, \
                     or the homeserver past the module",
                    "name the servers in the cluster",
                );
            } else if let Some(role) = clusters.get(name) {
                let (harm, _) = harm_of(*role);
                found.add(
                    spot,
                    format!(
                        "this leads clients to the {} listener of this Envoy, whatever address that has: {harm}",
                        role.name()
                    ),
                    "lead clients to MAS and the homeserver alone",
                );
            }
        }
    }
}

/// The clusters that have an internal listener of this Envoy among their servers, with its role.
fn leading_inside<'t>(
    deployment: &Deployment<'t>,
    number: usize,
    envoy: &Envoy<'t>,
) -> HashMap<&'t str, Role> {
    let uses = deployment.uses.iter().filter(|one| one.envoy == number);
    let internal = uses.filter(|one| one.is(Role::Introspection) || one.is(Role::Provisioning));
    let own: Vec<(String, u64, Role)> = internal
        .filter_map(|one| Some((one.entry?.listener?, one.role?)))
        .flat_map(|(listener, role)| sockets(listener).map(move |socket| (socket, role)))
        .filter_map(|(socket, role)| {
            let address = normal(socket.text_at(&["address"])?);
            Some((address, socket.number_at(&["port_value"])?, role))
        })
        .collect();
    let name = |cluster: Value<'t>| cluster.text_at(&["name"]);
    let role = |cluster: Value<'t>| {
        let mut servers = endpoints(cluster);
        servers.find_map(|(host, port)| {
            let mut here = own.iter().filter(|(_, own, _)| Some(*own) == port);
            let it = here.find(|(address, _, _)| *address == host || is_loopback(&host));
            it.map(|(_, _, role)| *role)
        })
    };
    let all = envoy.clusters.iter();
    all.filter_map(|cluster| Some((name(*cluster)?, role(*cluster)?)))
        .collect()
}

/// The clusters whose servers a request names: by a header, or by its host.
fn open_clusters<'t>(envoy: &Envoy<'t>) -> HashSet<&'t str> {
    let is_open = |cluster: &&Value<'t>| {
        let by_header = ["original_dst_lb_config", "use_http_header"];
        let kind = cluster
            .get("cluster_type")
            .and_then(|it| it.get("typed_config"));
        let kind = kind.and_then(typed).map(|(kind, _)| kind);
        cluster.boolean_at(&by_header) == Some(true)
            || kind.is_some_and(|kind| kind.contains(".dynamic_forward_proxy."))
    };
    let open = envoy.clusters.iter().filter(is_open);
    open.filter_map(|cluster| cluster.text_at(&["name"]))
        .collect()
}
