//! A route of the Gateway API may write headers: the proxy does so behind all filters.

use super::{Deployment, Found, is_of_matrix, tell};
use crate::{
    check::{
        deployment::{Host, Route, namespace},
        rules::{
            filter_order::headers,
            routes::before_servers,
            servers::Servers,
            written::{is_of_module, named},
        },
    },
    yaml::Value,
};

pub(super) fn check<'t>(deployment: &Deployment<'t>, found: &mut Found<'t>) {
    let mut names = Vec::new();
    let gateways: Vec<_> = before_servers(deployment).collect();
    for one in &gateways {
        if !matches!(one.host, Host::Envoy | Host::Nobody) {
            names.extend(headers(one));
        }
    }
    if names.is_empty() {
        return;
    }
    let servers = Servers::of(deployment, &gateways);
    for kind in ["HTTPRoute", "GRPCRoute"] {
        let routes = deployment.resources.kind(kind);
        for route in routes.filter(|route| Route::of(*route).is_at_gateway()) {
            let rules = route.list(&["spec", "rules"]);
            for rule in rules {
                let mut matches = rule.list(&["matches"]);
                let names_matrix = matches.any(|one| {
                    let path = one.text_at(&["path", "value"]);
                    path.is_some_and(is_of_matrix)
                });
                let is_homeservers = |backend: &Value<'t>| {
                    let name = backend.text_at(&["name"]).unwrap_or_default();
                    let namespace = backend.text_at(&["namespace"]).or(namespace::of(route));
                    names_matrix
                        || servers.are_unknown()
                        || servers.have(name, namespace, backend.get("port"))
                };
                let backends = || rule.list(&["backendRefs"]).filter(is_homeservers);
                for place in backends() {
                    check_filters(place, &names, found);
                }
                if names_matrix || backends().next().is_some() {
                    check_filters(rule, &names, found);
                }
            }
        }
    }
}

fn check_filters<'t>(place: Value<'t>, headers: &[String], found: &mut Found<'t>) {
    let filters = place.list(&["filters"]);
    for modifier in filters.filter_map(|it| it.get("requestHeaderModifier")) {
        for one in ["set", "add"]
            .into_iter()
            .flat_map(|key| modifier.list(&[key]))
        {
            let value = one.text_at(&["value"]).unwrap_or_default();
            let name = one.get("name");
            let header = name.and_then(|name| Some((name, named(name, headers)?)));
            let written = header.filter(|(_, header)| !is_of_module(value, header));
            tell(written.into_iter().collect(), found);
        }
    }
}
