//! A route of the Gateway API may write headers: the proxy does so behind all filters.

use super::{Deployment, Found, tell};
use crate::{
    check::{
        deployment::{Host, Route},
        rules::{
            filter_order::headers,
            routes::before_servers,
            written::{is_of_module, named},
        },
    },
    yaml::Value,
};

pub(super) fn check<'t>(deployment: &Deployment<'t>, found: &mut Found<'t>) {
    let mut names = Vec::new();
    for one in before_servers(deployment) {
        if !matches!(one.host, Host::Envoy | Host::Nobody) {
            names.extend(headers(one));
        }
    }
    if names.is_empty() {
        return;
    }
    for kind in ["HTTPRoute", "GRPCRoute"] {
        let routes = deployment.resources.kind(kind);
        for route in routes.filter(|route| Route::of(*route).is_at_gateway()) {
            let rules = route.list(&["spec", "rules"]);
            for rule in rules {
                let backends = rule.list(&["backendRefs"]);
                for place in backends.chain([rule]) {
                    check_filters(place, &names, found);
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
