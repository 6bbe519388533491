//! `allow_on_headers_stop_iteration` says whether Envoy hands the body over while the module holds the headers.
//!
//! The introspection role reads a form before it decides, and gets no form without this flag. In the gateway role the flag
//! lets a large upload gather in Envoy while its verdict is pending, and end in a 413 of Envoy's. Before 1.39 Envoy also
//! loses the part of a body that comes together with the verdict, and the homeserver stores the rest as if it was whole.

use matrix_edge_auth::config::Role;

use super::{Deployment, Found, Rule, Severity, Spot};
use crate::check::deployment::Host;

/// The rule.
pub const RULE: Rule = Rule {
    name: "stop-iteration",
    severity: Severity::Error,
    may_point_at_secret: false,
    about: "`allow_on_headers_stop_iteration` is missing on an introspection listener, or set on a gateway.",
    check,
};

pub(super) const KEY: &str = "allow_on_headers_stop_iteration";
const COUNTS: &str = "before Envoy 1.40 a change of it alone counts from the next start on, or with another `name` of the plugin";
const UNANSWERED: &str = "the introspection role gets no form to read: it answers nothing from the cache, and each \
                          introspection takes a second longer";

fn check<'t>(deployment: &Deployment<'t>, found: &mut Found<'t>) {
    for one in &deployment.uses {
        let Some(plugin) = one.plugin else {
            continue;
        };
        let is_set = plugin.boolean_at(&[KEY]) == Some(true);
        match (one.role, one.host) {
            (Some(Role::Introspection), Host::WasmPlugin | Host::EnvoyGateway) => found.add(
                one.key(&["role"]),
                format!("{UNANSWERED}; this kind of resource cannot set `{KEY}`"),
                "run this role in an Envoy of your own (envoy/kubernetes), or with Istio by an EnvoyFilter \
                 (envoy/istio/envoyfilter.yaml)",
            ),
            (Some(Role::Introspection), _) if !is_set => found.add(
                Spot::first_key(plugin, &[KEY, "name"]),
                UNANSWERED,
                format!("write `{KEY}: true` beside `configuration`; {COUNTS}"),
            ),
            (Some(Role::Gateway), _) if is_set => found.add(
                Spot::key(plugin, KEY),
                "a large upload gets Envoy's 413 while its verdict is pending, and before Envoy 1.39 uploads arrive cut short, \
                 with a 200",
                format!("leave `{KEY}` out: Envoy then holds the body back itself; {COUNTS}"),
            ),
            _ => {}
        }
    }
}
