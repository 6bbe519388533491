//! Paths must reach Synapse as they were sent: federation signs them, and an event id or room alias may hold `%2F`.

use super::{Deployment, Found, Rule, Severity, Spot, routes::before_servers};
use crate::{check::deployment::Host, yaml::Value};

/// The rule.
pub const RULE: Rule = Rule {
    name: "path-normalisation",
    severity: Severity::Error,
    about: "Envoy rewrites paths, which breaks signatures of federation, key backup and room aliases.",
    check,
};

const KEPT: &str = "KEEP_UNCHANGED";
/// In the order of the numbers.
const ACTIONS: &[&str] = &[
    DEFAULT,
    KEPT,
    "REJECT_REQUEST",
    "UNESCAPE_AND_REDIRECT",
    "UNESCAPE_AND_FORWARD",
];
const DEFAULT: &str = "IMPLEMENTATION_SPECIFIC_DEFAULT";

fn check<'t>(deployment: &Deployment<'t>, found: &mut Found<'t>) {
    for one in before_servers(deployment) {
        match (one.host, one.entry) {
            (Host::Envoy, Some(entry)) => manager(entry.manager, found),
            (Host::WasmPlugin | Host::EnvoyFilter, _) => {
                let mut managers = deployment.resources.managers();
                if !managers.any(|one| one.boolean_at(&["normalize_path"]) == Some(false)) {
                    found.add(
                        one.spot(),
                        "Istio's gateways rewrite paths (`normalize_path`), and no EnvoyFilter of these files turns it off: a \
                         federation request whose path changes fails its signature",
                        "apply envoy/istio/connection.yaml as well; if you do, give it to `check` together with this file",
                    );
                }
            }
            (Host::EnvoyGateway, _) => {
                let mut policies = deployment.resources.kind("ClientTrafficPolicy");
                let is_kept = policies.any(|policy| {
                    policy.text_at(&["spec", "path", "escapedSlashesAction"])
                        == Some("KeepUnchanged")
                        && policy.boolean_at(&["spec", "path", "disableMergeSlashes"]) == Some(true)
                });
                if !is_kept {
                    found.add(
                        one.spot(),
                        "Envoy Gateway answers a path with `%2F` by a redirect to another path and merges slashes, and no \
                         ClientTrafficPolicy of these files says otherwise: key backup and room aliases break",
                        "apply a ClientTrafficPolicy with `path: { escapedSlashesAction: KeepUnchanged, \
                         disableMergeSlashes: true }`; if you do, give it to `check` together with this file",
                    );
                }
            }
            _ => {}
        }
    }
}

fn manager<'t>(manager: Value<'t>, found: &mut Found<'t>) {
    for key in ["normalize_path", "merge_slashes"] {
        if manager.boolean_at(&[key]) == Some(true) {
            found.add(
                Spot::key(manager, key),
                format!("`{key}` changes paths: a federation request whose path changes fails its signature, and Synapse \
                         sees another path than the client sent"),
                format!("write `{key}: false`"),
            );
        }
    }
    let key = "path_with_escaped_slashes_action";
    if manager
        .name_at(&[key], ACTIONS)
        .is_some_and(|action| action != KEPT && action != DEFAULT)
    {
        found.add(
            Spot::key(manager, key),
            "a path with `%2F` is changed or refused: key backup, room aliases and event ids may hold one",
            format!("write `{key}: {KEPT}`"),
        );
    }
}
