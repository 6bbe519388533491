//! A policy of Envoy Gateway is for a Gateway, one of its listeners, an HTTPRoute, or one of its rules, and what is nearer replaces
//! what is further away: it is not added to it. Where another policy applies, or none, requests pass by the module, and keep the identity
//! headers that a client wrote.

use super::{Deployment, Found, Rule, Severity, Spot};
use crate::{
    check::deployment::{Host, is_near},
    yaml::Value,
};

/// The rule.
pub const RULE: Rule = Rule {
    name: "unguarded-route",
    severity: Severity::Error,
    about: "An HTTPRoute leads to the homeserver past the module, which is for other routes alone.",
    check,
};

/// Routes that a policy may be for.
const ROUTES: [&str; 2] = ["HTTPRoute", "GRPCRoute"];

/// Paths of the homeserver that need no token, as its federation.
const OPEN: [&str; 3] = ["/_matrix/federation", "/_matrix/key", "/.well-known"];

fn check<'t>(deployment: &Deployment<'t>, found: &mut Found<'t>) {
    let own: Vec<Value<'t>> = deployment
        .gateways()
        .filter(|one| one.host == Host::EnvoyGateway)
        .filter_map(|one| one.resource)
        .collect();
    if own.is_empty() {
        return;
    }
    let policies: Vec<Policy<'t>> = deployment
        .resources
        .kind("EnvoyExtensionPolicy")
        .map(|resource| Policy {
            resource,
            has_module: own
                .iter()
                .any(|one| one.id == resource.id && std::ptr::eq(one.tree, resource.tree)),
        })
        .collect();
    let gateways: Vec<Value<'t>> = deployment.resources.kind("Gateway").collect();
    let mut guarded: Vec<&str> = Vec::new();
    let mut unguarded: Vec<Value<'t>> = Vec::new();
    let routes = ROUTES
        .into_iter()
        .flat_map(|kind| deployment.resources.kind(kind));
    for route in routes {
        for rule in route.list(&["spec", "rules"]) {
            let is_guarded = is_guarded(&policies, &gateways, route, rule);
            if is_guarded || is_of_homeserver(rule) {
                guarded.extend(backends(rule).map(|(name, _)| name));
            }
            if !is_guarded && !is_open(rule) {
                unguarded.push(rule);
            }
        }
    }
    for rule in unguarded {
        for (_, backend) in backends(rule).filter(|(name, _)| guarded.contains(name)) {
            found.add(
                Spot::key(backend, "name"),
                "this route passes by the module, whose policy is for others alone: its requests reach the server unverified, \
                 and with the identity headers that a client wrote",
                "let the policy's `targetRefs` name the Gateway, or each listener and this route as well; a second policy for this route \
                 replaces the one of its Gateway",
            );
        }
    }
}

/// A policy that adds filters.
struct Policy<'t> {
    resource: Value<'t>,
    has_module: bool,
}

/// Whether the policies that are nearest to a rule of a route have the module, at every listener that it may be at.
fn is_guarded(
    policies: &[Policy<'_>],
    gateways: &[Value<'_>],
    route: Value<'_>,
    rule: Value<'_>,
) -> bool {
    // Of the policies for one thing, whether one has the module. `None` without any.
    let decided = |is_it: &dyn Fn(Value<'_>) -> bool, near: Option<Value<'_>>| {
        let mut own = policies
            .iter()
            .filter(|policy| near.is_none_or(|near| is_near(policy.resource, near)))
            .filter(|policy| targets(policy.resource).any(is_it))
            .peekable();
        own.peek()?;
        Some(own.any(|policy| policy.has_module))
    };
    let is_of_routes = |target: Value<'_>| {
        let kind = target.text_at(&["kind"]);
        kind.is_some_and(|kind| ROUTES.contains(&kind))
    };
    let section = |target: Value<'_>| target.text_at(&["sectionName"]).map(str::to_owned);
    let rule_name = rule.text_at(&["name"]).map(str::to_owned);
    let of_route = |target: Value<'_>| {
        target.text_at(&["kind"]) == route.text_at(&["kind"])
            && target.text_at(&["name"]) == route.text_at(&["metadata", "name"])
    };
    let by_rule =
        |target: Value<'_>| of_route(target) && rule_name.is_some() && section(target) == rule_name;
    let by_route = |target: Value<'_>| of_route(target) && section(target).is_none();
    if let Some(has_module) =
        decided(&by_rule, Some(route)).or_else(|| decided(&by_route, Some(route)))
    {
        return has_module;
    }
    let parents: Vec<Value<'_>> = route.list(&["spec", "parentRefs"]).collect();
    if parents.is_empty() {
        return decided(&|target| !is_of_routes(target), None) == Some(true);
    }
    parents.into_iter().all(|parent| {
        let name = parent.text_at(&["name"]);
        let of_gateway = |target: Value<'_>| {
            let named = target.text_at(&["name"]);
            // A selector has no name, and may be for any Gateway.
            !is_of_routes(target) && (named.is_none() || named == name)
        };
        let by_gateway = |target: Value<'_>| of_gateway(target) && section(target).is_none();
        let at = |listener: &str| {
            let by_listener = |target: Value<'_>| {
                of_gateway(target) && target.text_at(&["sectionName"]) == Some(listener)
            };
            decided(&by_listener, None).or_else(|| decided(&by_gateway, None)) == Some(true)
        };
        let gateway = gateways
            .iter()
            .find(|gateway| gateway.text_at(&["metadata", "name"]) == name);
        match (parent.text_at(&["sectionName"]), gateway) {
            (Some(listener), _) => at(listener),
            (None, Some(gateway)) => listeners(*gateway, route).all(at),
            // Which listeners there are is not known.
            (None, None) => decided(&of_gateway, None) == Some(true),
        }
    })
}

/// The listeners of a Gateway that a route without the name of one is at: those that take HTTP for one of its hosts.
fn listeners<'t>(gateway: Value<'t>, route: Value<'t>) -> impl Iterator<Item = &'t str> {
    let hosts: Vec<&str> = route
        .list(&["spec", "hostnames"])
        .filter_map(Value::text)
        .collect();
    gateway
        .list(&["spec", "listeners"])
        .filter(|one| matches!(one.text_at(&["protocol"]), Some("HTTP" | "HTTPS") | None))
        .filter(move |one| {
            let own = one.text_at(&["hostname"]);
            own.is_none_or(|own| {
                hosts.is_empty() || hosts.iter().any(|host| meet(own, host) || meet(host, own))
            })
        })
        .filter_map(|one| one.text_at(&["name"]))
}

/// Whether a host is one that a pattern is for.
fn meet(pattern: &str, host: &str) -> bool {
    pattern == host
        || pattern
            .strip_prefix('*')
            .is_some_and(|end| host.ends_with(end))
}

/// What a policy is for. One that selects by labels may be for any Gateway.
fn targets<'t>(policy: Value<'t>) -> impl Iterator<Item = Value<'t>> {
    let by_labels = policy.list(&["spec", "targetSelectors"]);
    policy
        .list(&["spec", "targetRefs"])
        .chain(policy.at(&["spec", "targetRef"]))
        .chain(by_labels.filter(|it| it.text_at(&["kind"]) != Some("HTTPRoute")))
}

/// The paths that a rule is for.
fn paths<'t>(rule: Value<'t>) -> impl Iterator<Item = &'t str> {
    let matches = rule.list(&["matches"]);
    matches.filter_map(|one| one.text_at(&["path", "value"]))
}

fn is_of_homeserver(rule: Value<'_>) -> bool {
    paths(rule).any(|path| path.contains("/_matrix") || path.contains("/_synapse"))
}

/// Whether a rule is for requests without a token alone.
fn is_open(rule: Value<'_>) -> bool {
    let mut paths = paths(rule).peekable();
    let is_it = |path: &str| OPEN.iter().any(|open| path.starts_with(open));
    paths.peek().is_some() && paths.all(is_it)
}

/// The servers that a rule leads to.
fn backends<'t>(rule: Value<'t>) -> impl Iterator<Item = (&'t str, Value<'t>)> {
    rule.list(&["backendRefs"])
        .filter_map(|backend| Some((backend.text_at(&["name"])?, backend)))
}
