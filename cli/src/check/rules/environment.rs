//! Before version 1.39 Envoy gives every plugin of one VM the environment of the first. A secret that only the second
//! plugin names is then not there, and Envoy does not start.
//!
//! The non-obvious rule: another module is another VM, whatever the `vm_id`.

use std::collections::HashMap;

use super::{Deployment, Found, Rule, Severity, Spot, shared_vm};
use crate::{
    check::deployment::{Environment, Host, environment, namespace, variables},
    yaml::Value,
};

/// The rule.
pub const RULE: Rule = Rule {
    name: "environment",
    severity: Severity::Warning,
    may_point_at_secret: false,
    about: "Plugins of one VM are given different environments, of which Envoy before 1.39 takes one for all.",
    check,
};

const MESSAGE: &str = "another plugin with the same VM is given another environment: Envoy before 1.39 takes that of \
                       the first for both, and the module then refuses its configuration for a missing secret";
const HELP: &str = "give every plugin of one module and `vm_id` the same list of variables";

fn check<'t>(deployment: &Deployment<'t>, found: &mut Found<'t>) {
    check_vms(deployment, found);
    check_wasm_plugins(deployment, found);
}

/// Tells of a plugin whose environment differs from that of the first plugin with the same VM.
fn check_vms<'t>(deployment: &Deployment<'t>, found: &mut Found<'t>) {
    let mut first: HashMap<shared_vm::Identity<'t>, Environment> = HashMap::new();
    for one in &deployment.uses {
        let Some((identity, vm)) = shared_vm::identity(one).zip(one.vm()) else {
            continue;
        };
        let own = environment(vm);
        let first = first.entry(identity).or_insert_with(|| own.clone());
        if *first != own {
            let spot = Spot::first_key(vm, &["environment_variables", "vm_id"]);
            found.add(spot, MESSAGE, HELP);
        }
    }
}

/// Tells of a WasmPlugin whose environment differs from that of another one of the same module. All WasmPlugins of a gateway have
/// the same, empty, `vm_id`. Two are taken to be of one gateway if they are in one namespace, and nothing in their selectors says
/// otherwise.
fn check_wasm_plugins<'t>(deployment: &Deployment<'t>, found: &mut Found<'t>) {
    let plugins: Vec<_> = deployment.resources.kind("WasmPlugin").collect();
    for one in &deployment.uses {
        let Some(spec) = one.plugin.filter(|_| one.host == Host::WasmPlugin) else {
            continue;
        };
        let own = variables(spec);
        let is_own = |plugin: &&Value<'t>| plugin.get("spec").map(Value::key) == Some(spec.key());
        let Some(resource) = plugins.iter().find(is_own) else {
            continue;
        };
        let mut others = plugins.iter().filter(|it| {
            namespace::of(**it) == namespace::of(*resource)
                && may_share_gateway(**it, *resource)
                && have_same_module(**it, *resource)
        });
        if others.any(|other| other.get("spec").is_some_and(|spec| variables(spec) != own)) {
            let spot = Spot::first_key(spec, &["vmConfig", "url"]);
            found.add(spot, MESSAGE, HELP);
        }
    }
}

/// Whether two WasmPlugins may be for one gateway: no label has another value, and no other Gateway is named.
fn may_share_gateway(one: Value<'_>, other: Value<'_>) -> bool {
    let are_same = |(key, value): (&str, Value<'_>)| {
        let label = labels_of(other).and_then(|labels| labels.entry(key)?.text());
        label.is_none() || label == value.text()
    };
    let own_targets: Vec<_> = targets(one);
    let targets = targets(other);
    let is_named = own_targets.is_empty()
        || targets.is_empty()
        || own_targets.iter().any(|target| targets.contains(target));
    let mut labels = labels_of(one).into_iter().flat_map(Value::members);
    is_named && labels.all(are_same)
}

/// Whether two WasmPlugins have one module, by its address or its digest.
fn have_same_module(one: Value<'_>, other: Value<'_>) -> bool {
    let said = |resource: Value<'_>, key| {
        let text = resource.get("spec").and_then(|spec| spec.text_at(&[key]));
        text.map(|text| text.trim_start_matches("oci://").to_owned())
    };
    ["url", "sha256"].iter().any(|key| {
        let own = said(one, key);
        own.is_some() && own == said(other, key)
    })
}

/// The labels that a WasmPlugin selects pods by.
fn labels_of(resource: Value<'_>) -> Option<Value<'_>> {
    resource.at(&["spec", "selector", "matchLabels"])
}

/// What a WasmPlugin is attached to, by kind and name.
fn targets(resource: Value<'_>) -> Vec<[Option<&str>; 2]> {
    let several = resource.list(&["spec", "targetRefs"]);
    let all = several.chain(resource.at(&["spec", "targetRef"]));
    all.map(|target| ["kind", "name"].map(|key| target.text_at(&[key])))
        .collect()
}
