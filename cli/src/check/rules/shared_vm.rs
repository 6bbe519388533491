//! Before version 1.40 Envoy keeps the list of functions with the VM, and takes the list of the plugin that is loaded
//! first. A plugin with the whole list may then lack a function, or not be called at all, because another plugin of its VM
//! lacks the function.
//!
//! Envoy tells VMs apart by `vm_id`, `code` and `vm_config.configuration`. It keeps `allow_on_headers_stop_iteration` by
//! the plugin's name and configuration as well, so each role of a VM has its own.

use std::collections::{BTreeMap, BTreeSet};

use matrix_edge_auth::config::Role;

use super::{
    Deployment, Found, Rule, Severity, Spot,
    capabilities::{self, allowed},
    missing_capability::missing,
    stop_iteration,
};
use crate::{
    check::deployment::Use,
    yaml::{Reader, Value},
};

/// The rule.
pub const RULE: Rule = Rule {
    name: "shared-vm",
    severity: Severity::Error,
    may_point_at_secret: false,
    about: "Plugins of one VM differ in their functions or in `allow_on_headers_stop_iteration`: Envoy before 1.40 takes one for \
            all.",
    check,
};

fn check<'t>(deployment: &Deployment<'t>, found: &mut Found<'t>) {
    let mut vms: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for one in &deployment.uses {
        if let Some((plugin, identity)) = one.plugin.zip(identity(one)) {
            let plugins = vms.entry(identity).or_default();
            plugins.push((one, plugin));
        }
    }
    for plugins in vms.values() {
        check_functions(plugins, found);
        check_stop_iteration(plugins, found);
    }
}

/// What tells a VM from others: the number of its Envoy, its `vm_id`, its code and its own configuration.
pub(super) type Identity<'t> = (usize, &'t str, [Option<String>; 2]);

/// The VM of a use in Envoy's own words.
pub(super) fn identity<'t>(one: &Use<'t>) -> Option<Identity<'t>> {
    let vm = one.vm().filter(|_| one.is_envoys())?;
    let id = vm.text_at(&["vm_id"]).unwrap_or_default();
    let rest = ["code", "configuration"].map(|key| written(vm.get(key)));
    Some((one.envoy, id, rest))
}

/// Tells of each plugin that may call a function which another plugin of its VM may not call.
fn check_functions<'t>(plugins: &[(&Use<'t>, Value<'t>)], found: &mut Found<'t>) {
    let missing =
        |plugin| -> BTreeSet<&'static str> { allowed(plugin).flat_map(missing).collect() };
    let of_all: BTreeSet<_> = plugins
        .iter()
        .flat_map(|(_, plugin)| missing(*plugin))
        .collect();
    if of_all.is_empty() {
        return;
    }
    for (_, plugin) in plugins {
        let own = missing(*plugin);
        let of_others: Vec<_> = of_all.difference(&own).copied().collect();
        if !of_others.is_empty() {
            found.add(
                Spot::first_key(*plugin, &[capabilities::KEY, "name", "vm_config"]),
                format!(
                    "another plugin of this VM may not have functions that this one may: before Envoy 1.40 the list of the plugin \
                     that is loaded first counts for all, and this one then lacks {}",
                    of_others.join(", ")
                ),
                "give all plugins of one `vm_id` the same list; before Envoy 1.40 it counts from the next start on, or with \
                 another `vm_config.configuration` in all of them",
            );
        }
    }
}

/// Tells of each plugin whose `allow_on_headers_stop_iteration` is right, if a double of it has the wrong one. The rule
/// `stop-iteration` tells of the double.
fn check_stop_iteration<'t>(plugins: &[(&Use<'t>, Value<'t>)], found: &mut Found<'t>) {
    let mut doubles: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for (one, plugin) in plugins {
        let names = ["name", "root_id"].map(|key| plugin.text_at(&[key]));
        let listener = one.entry.and_then(|entry| entry.listener);
        let place = ["traffic_direction", "metadata"]
            .map(|key| written(listener.and_then(|listener| listener.get(key))));
        let key = (names, place, written(one.configuration));
        doubles.entry(key).or_default().push((one, *plugin));
    }
    for doubles in doubles.values() {
        let is_right = |(one, plugin): &&(&&Use<'t>, Value<'t>)| {
            let is_set = plugin.boolean_at(&[stop_iteration::KEY]) == Some(true);
            one.is(Role::Introspection) && is_set || one.is(Role::Gateway) && !is_set
        };
        let is_told = |(one, _): &(&&Use<'t>, Value<'t>)| !one.is(Role::Provisioning);
        let right = doubles.iter().filter(is_right).count();
        if !doubles.iter().all(is_told) || right == doubles.len() {
            continue;
        }
        for (_, plugin) in doubles.iter().filter(is_right) {
            found.add(
                Spot::first_key(*plugin, &[stop_iteration::KEY, "name", "vm_config"]),
                format!(
                    "another plugin of this VM has the same name and configuration, and another `{}`: before Envoy 1.40 that of \
                     the plugin that is loaded first counts for both",
                    stop_iteration::KEY
                ),
                "give both the same, or each a `name` of its own",
            );
        }
    }
}

/// A value in one form, so that two values can be compared.
fn written(value: Option<Value<'_>>) -> Option<String> {
    value
        .and_then(|value| value.json(Reader::Envoy))
        .map(|json| json.to_string())
}
