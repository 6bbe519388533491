//! An upgrade may have filters of its own, which stand in place of those of its connection manager.
//!
//! The non-obvious rule: any request may ask for an upgrade, also one that is for no WebSocket, and the homeserver answers it as it
//! answers others.

use std::collections::HashSet;

use matrix_edge_auth::config::Role;

use super::{Deployment, Found, Spot, envoy::guarded_actions};
use crate::{
    check::{
        deployment::Entry,
        rules::{
            bare_listener::is_guard,
            routes::tables,
            upgrades::{KEY, is_allowed, is_same},
        },
    },
    yaml::{Id, Tree, Value},
};

/// Tells of the filters of upgrades without the module, where requests for these servers may be upgraded.
pub(super) fn check<'t>(
    deployment: &Deployment<'t>,
    entry: Entry<'t>,
    servers: &HashSet<&str>,
    found: &mut Found<'t>,
) {
    let own = entry.manager.list(&[KEY]);
    let with_filters = own.filter(|upgrade| upgrade.list(&["filters"]).next().is_some());
    let mut upgrades: Vec<Value<'t>> = with_filters.collect();
    if upgrades.is_empty() {
        return;
    }
    let gateways = deployment.uses.iter().filter(|one| one.is(Role::Gateway));
    let plugins: HashSet<_> = gateways
        .filter_map(|one| one.plugin.map(Value::key))
        .collect();
    upgrades.retain(|upgrade| {
        let mut filters = upgrade.list(&["filters"]);
        !filters.any(|filter| guards(entry, filter, &plugins))
    });
    let actions = guarded_actions(entry, servers);
    // Routes that come from elsewhere say nothing of upgrades, as far as these files tell.
    let is_unseen = tables(entry.manager).next().is_none();
    for upgrade in upgrades {
        if !upgrade.tree.spend(actions.len()) {
            return;
        }
        let takes = |action: &Value<'t>| {
            let mut own = action.list(&[KEY]);
            let own = own.find(|one| is_same(*one, upgrade));
            is_allowed(&own.unwrap_or(upgrade))
        };
        if actions.iter().any(takes) || is_unseen && is_allowed(&upgrade) {
            found.add(
                Spot::key(upgrade, "filters"),
                "requests for this upgrade pass these filters alone, and the module is not among them: they reach the server \
                 unverified, and with the identity headers that a client wrote",
                "leave `filters` out, so that an upgrade passes the filters of the connection manager",
            );
        }
    }
}

/// Whether a filter of an upgrade is the module, one of these plugins, or may authenticate callers otherwise.
fn guards(entry: Entry<'_>, filter: Value<'_>, plugins: &HashSet<(*const Tree, Id)>) -> bool {
    // A filter that is off may be turned on by routes, as that of the connection manager.
    let is_on = entry.is_off || filter.boolean_at(&["disabled"]) != Some(true);
    is_on && (is_guard(filter) || filter.has_any(plugins))
}
