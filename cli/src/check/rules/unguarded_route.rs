//! An EnvoyExtensionPolicy for an HTTPRoute is for that route alone. Another route to the same server passes by the module, and its
//! requests keep the identity headers that a client wrote.

use super::{Deployment, Found, Rule, Severity, Spot};
use crate::{check::deployment::Host, yaml::Value};

/// The rule.
pub const RULE: Rule = Rule {
    name: "unguarded-route",
    severity: Severity::Error,
    about: "An HTTPRoute leads to the homeserver past the module, which is for other routes alone.",
    check,
};

fn check<'t>(deployment: &Deployment<'t>, found: &mut Found<'t>) {
    let policies: Vec<Value<'t>> = deployment
        .gateways()
        .filter(|one| one.host == Host::EnvoyGateway)
        .filter_map(|one| one.resource)
        .collect();
    let is_guarded = |route: &Value<'t>| {
        let name = route.text_at(&["metadata", "name"]);
        policies.iter().any(|policy| {
            targets(*policy).any(|target| match target.text_at(&["kind"]) {
                Some("HTTPRoute") => target.text_at(&["name"]) == name,
                _ => true,
            })
        })
    };
    let routes: Vec<Value<'t>> = deployment.resources.kind("HTTPRoute").collect();
    let guarded: Vec<&str> = routes
        .iter()
        .filter(|route| is_guarded(route))
        .flat_map(|route| backends(*route))
        .map(|(name, _)| name)
        .collect();
    if policies.is_empty() {
        return;
    }
    for route in routes.iter().filter(|route| !is_guarded(route)) {
        for (_, backend) in backends(*route).filter(|(name, _)| guarded.contains(name)) {
            found.add(
                Spot::key(backend, "name"),
                "this route passes by the module, whose policy is for other routes alone: its requests reach the server unverified, \
                 and with the identity headers that a client wrote",
                "let the policy's `targetRefs` name the Gateway, or this route as well",
            );
        }
    }
}

/// What a policy is for. One that selects by labels may be for anything.
fn targets<'t>(policy: Value<'t>) -> impl Iterator<Item = Value<'t>> {
    let by_labels = policy.list(&["spec", "targetSelectors"]);
    policy
        .list(&["spec", "targetRefs"])
        .chain(policy.at(&["spec", "targetRef"]))
        .chain(by_labels.filter(|it| it.text_at(&["kind"]) != Some("HTTPRoute")))
}

/// The servers that a route leads to.
fn backends<'t>(route: Value<'t>) -> impl Iterator<Item = (&'t str, Value<'t>)> {
    route
        .list(&["spec", "rules"])
        .flat_map(|rule| rule.list(&["backendRefs"]))
        .filter_map(|backend| Some((backend.text_at(&["name"])?, backend)))
}
