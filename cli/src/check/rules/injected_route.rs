//! A credential injector gives the credential to every request of its cluster. A client's route to that cluster lets anyone
//! `POST /oauth2/introspect` and be answered. On Synapse's own route to it MAS accepts every caller, also one without a
//! secret.

use matrix_edge_auth::config::Role;

use super::{
    Deployment, Found, Rule, Severity,
    routes::{header_of, targets},
};
use crate::yaml::Value;

/// The rule.
pub const RULE: Rule = Rule {
    name: "injected-route",
    severity: Severity::Error,
    about: "A route leads to a cluster whose requests all get the credential for MAS.",
    check,
};

const INJECTOR: &str = "CredentialInjector";

fn check<'t>(deployment: &Deployment<'t>, found: &mut Found<'t>) {
    for one in &deployment.uses {
        let Some(entry) = one.entry.filter(|_| !one.is(Role::Provisioning)) else {
            continue;
        };
        let routes = entry
            .manager
            .list(&["route_config", "virtual_hosts"])
            .flat_map(|host| host.list(&["routes"]));
        for action in routes.filter_map(|route| route.get("route")) {
            let leading = targets(action).filter(|(name, _)| {
                let cluster = deployment.cluster(one, name);
                cluster.is_some_and(is_injecting)
            });
            let envoy = deployment.envoys.get(one.envoy);
            let clusters = envoy.into_iter().flat_map(|envoy| &envoy.clusters);
            let by_header = header_of(action).filter(|_| clusters.copied().any(is_injecting));
            for spot in leading.map(|(_, spot)| spot).chain(by_header) {
                found.add(
                    spot,
                    "every request of this cluster gets the credential for MAS: a client that uses this route can ask whose any token is",
                    "give MAS two clusters: route to one without `credential_injector`, and name the other in \
                     `introspection.cluster`",
                );
            }
        }
    }
}

/// Whether every request of a cluster gets the credential.
pub(super) fn is_injecting(cluster: Value<'_>) -> bool {
    let options = cluster.get("typed_extension_protocol_options");
    let protocols = options.into_iter().flat_map(|options| options.members());
    let filters = protocols.flat_map(|(_, options)| options.list(&["http_filters"]));
    let mut types = filters.filter_map(|filter| filter.text_at(&["typed_config", "@type"]));
    types.any(|name| name.ends_with(INJECTOR))
}
