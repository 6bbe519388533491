//! A budget counts by the client's address. Unless Envoy is told that clients connect to it themselves, Envoy takes the address
//! from `X-Forwarded-For`, which the client writes.

use super::{Deployment, Found, Rule, Severity, Spot};
use crate::{
    check::deployment::{Host, typed},
    yaml::Value,
};

/// The rule.
pub const RULE: Rule = Rule {
    name: "budget-address",
    severity: Severity::Error,
    may_point_at_secret: false,
    about: "`unknown_token_budget` counts by an address that the client itself writes.",
    check,
};

const KEY: &str = "use_remote_address";

fn check<'t>(deployment: &Deployment<'t>, found: &mut Found<'t>) {
    for one in deployment.gateways().filter(|one| one.host == Host::Envoy) {
        let has_budget = one
            .config()
            .is_some_and(|config| config.unknown_token_budget.is_some());
        let Some(manager) = one.entry.map(|entry| entry.manager).filter(|_| has_budget) else {
            continue;
        };
        let extensions: Vec<Value<'t>> = manager
            .list(&["original_ip_detection_extensions"])
            .collect();
        if let Some(extension) = extensions.iter().copied().find(is_of_header) {
            found.note(
                Spot::first_key(extension, &["name", "typed_config"]),
                "the budget counts by the address in a header: whether clients can write it is not in these files",
                "let only the proxy that sets the header connect to this listener",
            );
        }
        let is_trusted = manager.boolean_at(&[KEY]) == Some(true) || !extensions.is_empty();
        if !is_trusted {
            let spot = match manager.get(KEY) {
                Some(_) => Some(Spot::key(manager, KEY)),
                None => one.key(&["unknown_token_budget"]),
            };
            found.add(
                spot,
                "the budget counts by the address in `X-Forwarded-For`, which the client writes: it can spend a budget for each \
                 request, or that of another",
                format!(
                    "write `{KEY}: true` in the connection manager, and `xff_num_trusted_hops` if there are proxies before it"
                ),
            );
        }
    }
}

/// Whether an extension takes the address from a header of whoever connects.
fn is_of_header(extension: &Value<'_>) -> bool {
    let config = extension.get("typed_config").and_then(typed);
    config.is_some_and(|(kind, config)| {
        kind.ends_with(".CustomHeaderConfig")
            || kind.ends_with(".XffConfig")
                && !is_of_few(config.list(&["xff_trusted_cidrs", "cidrs"]))
    })
}

/// Whether there are ranges of proxies, and none has half of all addresses or more.
fn is_of_few<'t>(ranges: impl Iterator<Item = Value<'t>>) -> bool {
    let mut ranges = ranges.peekable();
    ranges.peek().is_some() && ranges.all(|range| range.number_at(&["prefix_len"]) > Some(1))
}
