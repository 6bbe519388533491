//! In Envoy's own configuration the filters behind the module may write headers, those of a cluster, and routes with what they are
//! in.

use std::collections::HashSet;

use super::{Deployment, Found, tell};
use crate::{
    check::{
        deployment::{Entry, Host, Use, plugin_of_filter, protocols, settings},
        rules::{
            filter_order::headers,
            routes::{before_servers, places, tables, targets},
            written::{by_filter, by_place},
        },
    },
    yaml::Value,
};

pub(super) fn check<'t>(deployment: &Deployment<'t>, found: &mut Found<'t>) {
    for one in before_servers(deployment) {
        if let (Host::Envoy, Some(entry)) = (one.host, one.entry) {
            check_use(deployment, one, entry, found);
        }
    }
}

fn check_use<'t>(
    deployment: &Deployment<'t>,
    one: &Use<'t>,
    entry: Entry<'t>,
    found: &mut Found<'t>,
) {
    let headers = headers(one);
    let is_own = |filter: &Value<'t>| {
        plugin_of_filter(*filter).map(Value::key) == one.plugin.map(Value::key)
    };
    let filters = entry.manager.list(&["http_filters"]);
    let behind: Vec<Value<'t>> = filters
        .skip_while(|filter| !is_own(filter))
        .skip(1)
        .collect();
    let is_on = |filter: &&Value<'t>| filter.boolean_at(&["disabled"]) != Some(true);
    for config in behind.iter().filter(is_on).filter_map(|it| settings(*it)) {
        tell(by_filter(config, &headers), found);
    }
    let names: HashSet<&str> = behind
        .iter()
        .filter_map(|filter| filter.text_at(&["name"]))
        .collect();
    for place in places(entry.manager) {
        tell(by_place(place, &headers), found);
        let own = place.get("typed_per_filter_config");
        for (name, config) in own.into_iter().flat_map(Value::members) {
            if names.contains(name) {
                tell(by_filter(config, &headers), found);
            }
        }
    }
    let led = tables(entry.manager).flat_map(targets);
    let led: HashSet<&str> = led.map(|(name, _)| name).collect();
    for cluster in led
        .into_iter()
        .filter_map(|name| deployment.cluster(one, name))
    {
        let filters = protocols(cluster).flat_map(|options| options.list(&["http_filters"]));
        for config in filters.filter_map(settings) {
            tell(by_filter(config, &headers), found);
        }
    }
}
