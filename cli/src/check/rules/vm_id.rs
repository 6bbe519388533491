//! Listeners share the cache if, and only if, they have one `vm_id`. A provisioning role ends nothing in a cache that it
//! does not share. A plugin without a `vm_id` shares the cache with every other plugin without one. Two homeservers in one
//! Envoy have nothing to share, and each has a `vm_id` of its own.

use matrix_edge_auth::config::Role;

use super::{Deployment, Found, Rule, Severity, Spot};
use crate::{
    check::deployment::{Host, Use},
    yaml::{Reader, Value},
};

/// The rule.
pub const RULE: Rule = Rule {
    name: "vm-id",
    severity: Severity::Error,
    may_point_at_secret: false,
    about: "Roles of one Envoy have no `vm_id`, or different ones, and so do not share the cache.",
    check,
};

fn check<'t>(deployment: &Deployment<'t>, found: &mut Found<'t>) {
    for one in &deployment.uses {
        if one.host == Host::EnvoyGateway && one.is(Role::Provisioning) {
            found.add(
                one.key(&["role"]),
                "Envoy Gateway gives each policy a `vm_id` of its own: what MAS says here ends no answer of the gateway",
                "run all three roles in an Envoy of your own (envoy/kubernetes)",
            );
        }
        let Some(vm) = one.vm().filter(|_| one.is_envoys()) else {
            continue;
        };
        let spot = Spot::first_key(vm, &["vm_id", "runtime", "code"]);
        let first = deployment.peers(one).find(|peer| peer.is_envoys());
        match (id(one), first.map(id)) {
            ("", _) if is_alone(deployment, one) => found.note(
                spot,
                "without a `vm_id` every other plugin without one shares the cache: whether there is one is not in these files",
                "write `vm_id: matrix_edge_auth`",
            ),
            ("", _) => found.add(
                spot,
                "without a `vm_id` every other plugin without one shares the cache, and can read and change it",
                "write the same `vm_id: matrix_edge_auth` for all roles",
            ),
            (own, Some(first)) if own != first && !first.is_empty() => found.add(
                spot,
                format!(
                    "this role does not share the cache of the others, whose `vm_id` is \"{first}\": answers are asked \
                     for twice, and what MAS says to one ends nothing in the other"
                ),
                format!("write `vm_id: {first}`"),
            ),
            _ => check_modules(deployment, one, vm, found),
        }
    }
}

/// Tells of a role whose module differs from the first one with the same `vm_id`. The homeserver makes no difference here: each
/// module with this `vm_id` writes into the cache.
fn check_modules<'t>(
    deployment: &Deployment<'t>,
    one: &Use<'t>,
    vm: Value<'t>,
    found: &mut Found<'t>,
) {
    let mut all = deployment.uses.iter();
    let first =
        all.find(|other| other.envoy == one.envoy && other.is_envoys() && id(other) == id(one));
    let is_same = |key| {
        let of = |one: &Use<'t>| one.vm().and_then(|vm| vm.get(key)?.json(Reader::Envoy));
        match (first.and_then(of), of(one)) {
            (Some(first), Some(own)) => first == own,
            _ => true,
        }
    };
    if let Some(key) = ["code", "runtime"].into_iter().find(|key| !is_same(key)) {
        found.add(
            Spot::first_key(vm, &[key, "vm_id"]),
            format!(
                "another role with this `vm_id` has another `{key}`: two modules write one cache, and each may take the other's \
                 answers for its own"
            ),
            "give all roles of one `vm_id` the same `code` and `runtime`",
        );
    }
}

/// Whether the document of a use has no other plugin.
fn is_alone(deployment: &Deployment<'_>, one: &Use<'_>) -> bool {
    let is_other = |value: Value<'_>| {
        value
            .get("vm_config")
            .is_some_and(|vm| vm.get("code").is_some())
            && one.plugin.is_none_or(|plugin| plugin.id != value.id)
    };
    let mut documents = deployment.documents.iter().filter(|(tree, document)| {
        one.plugin.is_some_and(|plugin| {
            std::ptr::eq(plugin.tree, *tree) && document.values.contains(&plugin.id)
        })
    });
    !documents.any(|(tree, document)| {
        document
            .values
            .clone()
            .take_while(|_| tree.spend(1))
            .any(|id| is_other(tree.value(id)))
    })
}

fn id<'t>(one: &Use<'t>) -> &'t str {
    one.vm()
        .and_then(|vm| vm.text_at(&["vm_id"]))
        .unwrap_or_default()
}
