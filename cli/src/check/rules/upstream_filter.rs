//! Envoy has HTTP filters behind the router, too: those of a cluster, and `upstream_http_filters` of the router. There each
//! try of a request has filters of its own. Where a route hedges, Envoy ends one try while the module answers the other,
//! and a token that is refused ends Envoy itself. So the module must not stand there.

use std::collections::HashSet;

use super::{Deployment, Found, Rule, Severity, Spot};
use crate::{check::deployment::typed, yaml::Value};

/// The rule.
pub const RULE: Rule = Rule {
    name: "upstream-filter",
    severity: Severity::Error,
    may_point_at_secret: false,
    about: "The module is among the filters of a cluster, where a request with an inactive token can end Envoy.",
    check,
};

/// The types of configuration that have filters behind the router, and the key of these filters.
const PLACES: [(&str, &str); 2] = [
    (
        "envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
        "http_filters",
    ),
    (
        "envoy.extensions.filters.http.router.v3.Router",
        "upstream_http_filters",
    ),
];

fn check<'t>(deployment: &Deployment<'t>, found: &mut Found<'t>) {
    let plugins: HashSet<_> = deployment
        .uses
        .iter()
        .filter_map(|one| one.plugin.map(Value::key))
        .collect();
    if plugins.is_empty() {
        return;
    }
    for (tree, document) in &deployment.documents {
        let values = document
            .values
            .clone()
            .take_while(|_| tree.spend(1))
            .map(|id| tree.value(id));
        for (kind, config) in values.filter_map(typed) {
            for (_, key) in PLACES.iter().filter(|(place, _)| *place == kind) {
                let filters = config.get(key);
                // A filter may also come by discovery, or by a matcher.
                if filters.is_some_and(|filters| filters.has_any(&plugins)) {
                    found.add(
                        Spot::key(config, key),
                        "the module is no filter behind the router: where a route tries a request twice at a time, an inactive \
                         token ends Envoy there",
                        "take it out here, and put it first into `http_filters` of the connection manager, as in \
                         envoy/local/envoy.yaml",
                    );
                }
            }
        }
    }
}
