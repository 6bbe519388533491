//! All requests that go to a cluster share its limits. Clients can fill them, with logins that do not end. Then Envoy
//! refuses the module's own calls, or those that the introspection role leaves to MAS, and both look as if MAS had failed.
//!
//! The rule `injected-route` tells of a route to a cluster whose requests get the credential.

use std::collections::HashSet;

use matrix_edge_auth::config::Role;

use super::{
    Deployment, Found, Rule, Severity,
    injected_route::injecting_clusters,
    routes::{headers_of, managers_of, tables, targets},
};
use crate::check::deployment::NetworkFilter;

/// The rule.
pub const RULE: Rule = Rule {
    name: "shared-cluster",
    severity: Severity::Warning,
    may_point_at_secret: false,
    about: "Clients can fill the limits of a cluster that the module's calls, or Synapse's, need.",
    check,
};

const CALLS_TOO: &str = "the module's own calls go to this cluster too: what fills its limits keeps them from MAS, and each \
                         unproven token gets 503";
const OTHER_CLUSTER: &str =
    "give MAS another cluster for this route, and let none lead to `introspection.cluster`";

fn check<'t>(deployment: &Deployment<'t>, found: &mut Found<'t>) {
    for (number, envoy) in deployment.envoys.iter().enumerate() {
        let own = || deployment.uses.iter().filter(|one| one.envoy == number);
        let asked: HashSet<&str> = own()
            .filter_map(|one| one.configuration)
            .filter_map(|configuration| configuration.text_at(&["introspection", "cluster"]))
            .collect();
        let injecting = injecting_clusters(&envoy.clusters);
        // A TCP proxy passes no injector, and its connections count for the same limits.
        for filter in envoy.network_filters().filter(NetworkFilter::is_tcp_proxy) {
            for (name, spot) in targets(filter.config) {
                if asked.contains(name) {
                    found.add(spot, CALLS_TOO, OTHER_CLUSTER);
                }
            }
        }
        let of_clients: HashSet<&str> = own()
            .filter(|one| one.is(Role::Gateway))
            .filter_map(|one| one.entry)
            .flat_map(|entry| tables(entry.manager))
            .flat_map(targets)
            .map(|(name, _)| name)
            .collect();
        for (manager, one) in managers_of(deployment, number) {
            if asked.is_disjoint(&injecting) {
                for spot in tables(manager).flat_map(headers_of) {
                    found.add(
                        spot,
                        "a client's header names the cluster, and may name that of the module's own calls: what fills its limits \
                         keeps them from MAS",
                        "name the cluster in the route",
                    );
                }
            }
            let is_introspection = one.is_some_and(|one| one.is(Role::Introspection));
            for (name, spot) in tables(manager).flat_map(targets) {
                if asked.contains(name) && !injecting.contains(name) {
                    found.add(spot, CALLS_TOO, OTHER_CLUSTER);
                } else if is_introspection && of_clients.contains(name) {
                    found.add(
                        spot,
                        "clients' requests go to this cluster too: when they fill its limits, Envoy refuses Synapse's",
                        "give this listener a cluster of its own, as `mas-for-synapse` in envoy/local/envoy.yaml",
                    );
                }
            }
        }
    }
}
