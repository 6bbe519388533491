//! A credential injector gives the credential to every request of its cluster. A client's route to that cluster lets anyone
//! `POST /oauth2/introspect` and be answered. If Synapse's own route leads there, MAS accepts every caller, also a caller
//! without a secret.

mod before;

use std::collections::HashSet;

use matrix_edge_auth::config::Role;

use super::{
    Deployment, Found, Rule, Severity, Spot,
    routes::{headers_of, managers_of, tables, targets},
};
use crate::{
    check::deployment::{protocols, typed},
    yaml::Value,
};

/// The rule.
pub const RULE: Rule = Rule {
    name: "injected-route",
    severity: Severity::Error,
    may_point_at_secret: false,
    about: "Requests of others than the module get the credential for MAS: in a cluster, by a route, or at a listener.",
    check,
};

const INJECTOR: &str = "CredentialInjector";
/// The header that has the credential.
const HEADER: &str = "authorization";

fn check<'t>(deployment: &Deployment<'t>, found: &mut Found<'t>) {
    for (number, envoy) in deployment.envoys.iter().enumerate() {
        before::check(deployment, number, found);
        let injecting = injecting_clusters(&envoy.clusters);
        if injecting.is_empty() {
            continue;
        }
        // Routes of a listener without the module count as well.
        for (manager, one) in managers_of(deployment, number) {
            if one.is_some_and(|one| one.is(Role::Provisioning)) {
                continue;
            }
            let leading = tables(manager)
                .flat_map(targets)
                .filter(|(name, _)| injecting.contains(name))
                .map(|(_, spot)| spot);
            for spot in leading.chain(tables(manager).flat_map(headers_of)) {
                found.add(
                    spot,
                    "every request of this cluster gets the credential for MAS: a client that uses this route can ask whose any \
                     token is",
                    "give MAS two clusters: route to one without `credential_injector`, and name the other in \
                     `introspection.cluster`",
                );
            }
        }
    }
}

/// The names of the clusters whose requests all get the credential.
pub(super) fn injecting_clusters<'t>(clusters: &[Value<'t>]) -> HashSet<&'t str> {
    let injecting = clusters.iter().filter(|cluster| is_injecting(**cluster));
    injecting
        .filter_map(|cluster| cluster.text_at(&["name"]))
        .collect()
}

/// Whether every request of a cluster gets the credential.
fn is_injecting(cluster: Value<'_>) -> bool {
    filters_of(cluster).any(is_injector)
}

/// Whether a filter adds a credential to `Authorization`, where the one for MAS is. Another header is for another service.
fn is_injector(filter: Value<'_>) -> bool {
    let Some((kind, config)) = filter.get("typed_config").and_then(typed) else {
        return false;
    };
    let credential = config.at(&["credential", "typed_config"]).and_then(typed);
    let header = credential.and_then(|(_, config)| config.text_at(&["header"]));
    kind.ends_with(INJECTOR) && header.is_none_or(|it| it.eq_ignore_ascii_case(HEADER))
}

/// The types of the filters that requests of a cluster pass. A filter that is turned off is left out.
pub(super) fn active_filters<'t>(cluster: Value<'t>) -> impl Iterator<Item = &'t str> {
    filters_of(cluster).filter_map(|filter| Some(typed(filter.get("typed_config")?)?.0))
}

/// The filters that requests of a cluster pass.
fn filters_of<'t>(cluster: Value<'t>) -> impl Iterator<Item = Value<'t>> {
    protocols(cluster)
        .flat_map(|options| options.list(&["http_filters"]))
        .filter(|filter| filter.boolean_at(&["disabled"]) != Some(true))
}
