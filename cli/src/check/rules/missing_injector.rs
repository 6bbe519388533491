//! `credential: { injected: true }` leaves it to Envoy to add the credential. A cluster without an injector adds none, and MAS
//! answers 401 to each question.
//!
//! The rule looks only at a cluster that is in the files. Any filter of the cluster may add the credential, except for the
//! codec that ends each list.

use super::{Deployment, Found, Rule, Severity, injected_route::active_filters};
use crate::yaml::Value;

/// The rule.
pub const RULE: Rule = Rule {
    name: "missing-injector",
    severity: Severity::Error,
    may_point_at_secret: false,
    about: "Envoy is to add the credential for MAS, and the cluster adds none.",
    check,
};

fn check<'t>(deployment: &Deployment<'t>, found: &mut Found<'t>) {
    for one in &deployment.uses {
        let Some(asked) = one.config().map(|config| &config.introspection) else {
            continue;
        };
        let is_injected = asked.credential.kind() == "injected";
        let cluster = deployment.cluster(one, &asked.cluster);
        if is_injected && cluster.is_some_and(|cluster| !has_filters(cluster)) {
            found.add(
                one.key(&["introspection", "credential"]),
                "nothing adds the credential to the requests of this cluster: MAS answers 401, and each unproven token gets 503",
                "write `credential: { bearer: { env: MAS_SECRET } }`, or give the cluster a `credential_injector`, as in \
                 envoy/production/envoy.yaml",
            );
        }
    }
}

/// Whether requests of a cluster pass a filter that may change them.
fn has_filters(cluster: Value<'_>) -> bool {
    active_filters(cluster).any(|name| !name.ends_with("UpstreamCodec"))
}
