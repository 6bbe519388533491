//! Synapse believes the first address in `X-Forwarded-For`. A client may write one, and Envoy adds the true one at the end.

use super::{Deployment, Found, Rule, Severity, Spot, routes::before_servers};
use crate::{check::deployment::Host, yaml::Value};

/// The rule.
pub const RULE: Rule = Rule {
    name: "forwarded-for",
    severity: Severity::Warning,
    about: "Synapse takes the client's address from a header that the client can write.",
    check,
};

fn check<'t>(deployment: &Deployment<'t>, found: &mut Found<'t>) {
    for one in before_servers(deployment).filter(|one| one.host == Host::Envoy) {
        let Some(routes) = one
            .entry
            .and_then(|entry| entry.manager.get("route_config"))
        else {
            continue;
        };
        let hosts = routes.list(&["virtual_hosts"]);
        if !overwrites(routes) && !hosts.into_iter().all(overwrites) {
            found.add(
                Spot::first_key(routes, &["request_headers_to_add", "name", "virtual_hosts"]),
                "Synapse believes the first address in `X-Forwarded-For`, which any client can write",
                "write `request_headers_to_add: [{ header: { key: x-forwarded-for, value: \
                 \"%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%\" }, append_action: OVERWRITE_IF_EXISTS_OR_ADD }]` in the route \
                 configuration",
            );
        }
    }
}

/// In the order of the numbers.
const ACTIONS: &[&str] = &[
    "APPEND_IF_EXISTS_OR_ADD",
    "ADD_IF_ABSENT",
    "OVERWRITE_IF_EXISTS_OR_ADD",
    "OVERWRITE_IF_EXISTS",
];

/// Whether the one address that is left is Envoy's.
fn overwrites(value: Value<'_>) -> bool {
    value.list(&["request_headers_to_add"]).any(|one| {
        let name = one.text_at(&["header", "key"]);
        let action = one.name_at(&["append_action"], ACTIONS);
        name.is_some_and(|name| name.eq_ignore_ascii_case("x-forwarded-for"))
            && matches!(
                action,
                Some("OVERWRITE_IF_EXISTS_OR_ADD" | "OVERWRITE_IF_EXISTS")
            )
    })
}
