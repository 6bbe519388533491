//! A matcher may stand before the module, and keep requests from it.
//!
//! The non-obvious rule: it may do so for paths without tokens. What a client writes otherwise, such as a header, decides nothing
//! that can be believed.

use std::collections::HashSet;

use super::{Deployment, Found, Spot};
use crate::{
    check::{
        deployment::{Envoy, WRAPPER, plugin_of_filter, typed},
        rules::{
            matcher::{Outcome, outcomes, skipping},
            routes::before_servers,
        },
    },
    yaml::Value,
};

const KEY: &str = "xds_matcher";
const HELP: &str = "write the module as a filter of its own, and turn it off by `typed_per_filter_config` on routes without tokens \
                    alone, such as `/_matrix/federation/`";

/// Tells of the matchers of an Envoy that keep requests with tokens from a gateway.
pub(super) fn check<'t>(
    deployment: &Deployment<'t>,
    number: usize,
    envoy: &Envoy<'t>,
    found: &mut Found<'t>,
) {
    let own = before_servers(deployment).filter(|one| one.envoy == number);
    let plugins: HashSet<_> = own.filter_map(|one| one.plugin.map(Value::key)).collect();
    for filter in envoy
        .managers()
        .flat_map(|manager| manager.list(&["http_filters"]))
    {
        let config = filter.get("typed_config").and_then(typed);
        let Some((WRAPPER, config)) = config else {
            continue;
        };
        let matcher = config.get(KEY);
        let past: Vec<Outcome<'t>> = if let Some(plugin) = plugin_of_filter(filter) {
            let is_own = plugins.contains(&plugin.key());
            let all = matcher.into_iter().flat_map(skipping);
            all.filter(|_| is_own).collect()
        } else if config.has_any(&plugins) {
            let all = matcher.map(outcomes).unwrap_or_default();
            let has_module = |one: &Outcome<'t>| one.action.has_any(&plugins);
            if !all.iter().any(Outcome::takes_all) {
                found.add(
                    Spot::key(config, KEY),
                    "the module is asked only about requests that this matcher takes: all others reach the server unverified, and \
                     with the identity headers that a client wrote",
                    HELP,
                );
                continue;
            }
            all.into_iter().filter(|one| !has_module(one)).collect()
        } else {
            continue;
        };
        tell(config, &past, found);
    }
}

/// Tells of what a matcher does with requests that do not come to the module.
fn tell<'t>(config: Value<'t>, past: &[Outcome<'t>], found: &mut Found<'t>) {
    let mut private = past.iter().filter(|one| one.takes_private()).peekable();
    if private.peek().is_none() {
        return;
    }
    if private.all(Outcome::asks_connection) {
        found.note(
            Spot::key(config, KEY),
            "this matcher keeps requests from the module by where they come from: whether clients come from there is not in these \
             files",
            HELP,
        );
    } else {
        found.add(
            Spot::key(config, KEY),
            "this matcher keeps requests that need a token from the module: they reach the server unverified, and with the \
             identity headers that a client wrote",
            HELP,
        );
    }
}
