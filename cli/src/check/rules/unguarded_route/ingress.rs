//! In Kubernetes an Ingress, or a route of the Gateway API, of Traefik or of Istio, from before the module may still lead to the
//! homeserver's Service.
//!
//! The non-obvious rule: it is told by the address. Envoy's clusters name the Service by a host of the cluster, and routes by its
//! name. While a gateway of these files is in shadow mode, the rollout has not ended, and a note tells of such a resource.

use std::collections::HashSet;

use matrix_edge_auth::config::Mode;

use super::{Deployment, Found, UNREAD};
use crate::check::{
    deployment::{Host, Resources, Use},
    rules::{leads::leads, routes::before_servers, servers::Servers},
};

const HELP: &str = "lead it to the Service of Envoy, or to paths without tokens alone, such as `/_matrix/federation` and \
                    `/_matrix/key`";

pub(super) fn check<'t>(deployment: &Deployment<'t>, found: &mut Found<'t>) {
    let gateways: Vec<_> = before_servers(deployment).collect();
    if gateways.is_empty() {
        return;
    }
    let is_enforced = !is_rollout(&deployment.resources, &gateways);
    let servers = Servers::of(deployment, &gateways);
    // What stands before the module, or not, is told by the policies of Envoy Gateway, and by where Istio inserts the module.
    let are_bare = gateways.iter().all(|one| one.host == Host::Envoy);
    for lead in leads(deployment) {
        if !(lead.is_private || lead.is_unread) || lead.may_be_guarded && !are_bare {
            continue;
        }
        if !servers.have(lead.name, lead.namespace, lead.port) {
            continue;
        }
        if !lead.is_private {
            found.note(lead.spot, UNREAD, HELP);
            continue;
        }
        let message = format!(
            "this {} leads to the homeserver past the module: requests that need a token reach the server unverified, and with \
             the identity headers that a client wrote",
            lead.resource.text_at(&["kind"]).unwrap_or_default()
        );
        if is_enforced {
            found.add(lead.spot, message, HELP);
        } else {
            found.note(lead.spot, message, HELP);
        }
    }
}

/// Whether requests still come to a gateway in shadow mode. A gateway that no Service leads to waits for its turn, if Services lead
/// to others.
fn is_rollout(resources: &Resources<'_>, gateways: &[&Use<'_>]) -> bool {
    let ports = resources
        .kind("Service")
        .flat_map(|service| service.list(&["spec", "ports"]))
        .filter_map(|port| resources.port(port.get("targetPort").or_else(|| port.get("port"))?));
    let ports: HashSet<u64> = ports.collect();
    let is_led_to = |one: &&&Use<'_>| {
        let listener = one.entry.and_then(|entry| entry.listener);
        let port =
            listener.and_then(|it| it.number_at(&["address", "socket_address", "port_value"]));
        port.is_some_and(|port| ports.contains(&port))
    };
    let is_shadow = |one: &&&Use<'_>| {
        one.config()
            .is_some_and(|config| config.mode == Mode::Shadow)
    };
    if gateways.iter().any(|one| is_led_to(&one)) {
        gateways.iter().filter(is_led_to).any(|one| is_shadow(&one))
    } else {
        gateways.iter().any(|one| is_shadow(&one))
    }
}
