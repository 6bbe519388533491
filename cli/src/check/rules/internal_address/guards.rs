//! Whether Envoy itself takes only some callers at a listener.
//!
//! The non-obvious rule: what only looks like a guard is none. `require_client_certificate` asks for nothing until something
//! says which certificates are good: without that, Envoy serves a client that has none. An RBAC filter may be turned off, or
//! stand behind a filter that answers before it, or refuse some requests and take all others.

use super::networks::are_nearly_all;
use crate::{
    check::deployment::{Entry, settings, typed},
    yaml::Value,
};

/// The sources, in the order of their numbers.
const SOURCES: &[&str] = &["ANY", "SAME_IP_OR_LOOPBACK", "EXTERNAL"];

/// What becomes of a certificate that no trusted one has signed, in the order of the numbers.
const VERIFICATIONS: &[&str] = &["VERIFY_TRUST_CHAIN", "ACCEPT_UNTRUSTED"];

/// Deepest nesting of principals that is looked at.
const MAX_DEPTH: usize = 8;

/// Whether Envoy itself takes only some callers. Of the HTTP filters those count that stand before the one of this name, or all.
pub(super) fn is_guarded(entry: Entry<'_>, before: Option<&str>) -> bool {
    let by_chain = |chain: Value<'_>| {
        let rule = chain.get("filter_chain_match");
        let by_source = rule.is_some_and(|rule| {
            ["source_prefix_ranges", "direct_source_prefix_ranges"]
                .iter()
                .any(|key| is_narrow(rule, key))
                || rule.name_at(&["source_type"], SOURCES) == Some("SAME_IP_OR_LOOPBACK")
        });
        let socket = chain.get("transport_socket").and_then(settings);
        by_source || socket.is_some_and(wants_certificate) || chain.list(&["filters"]).any(is_rbac)
    };
    let mut filters = entry
        .manager
        .list(&["http_filters"])
        .take_while(|filter| before.is_none() || filter.text_at(&["name"]) != before);
    entry.chain.is_some_and(by_chain) || filters.any(is_rbac)
}

/// Whether TLS takes only clients with a certificate that something vouches for. What comes by SDS is taken to do so, and so is
/// a validator of the user's own.
fn wants_certificate(socket: Value<'_>) -> bool {
    const UNSEEN: [&str; 3] = [
        "validation_context_sds_secret_config",
        "validation_context_certificate_provider",
        "validation_context_certificate_provider_instance",
    ];
    let Some(common) = socket.get("common_tls_context") else {
        return false;
    };
    let combined = common.get("combined_validation_context");
    let is_unseen = |context: Value<'_>| UNSEEN.iter().any(|key| context.get(key).is_some());
    let seen = [
        common.get("validation_context"),
        combined.and_then(|it| it.get("default_validation_context")),
    ];
    socket.boolean_at(&["require_client_certificate"]) == Some(true)
        && (is_unseen(common)
            || combined.is_some_and(is_unseen)
            || seen.into_iter().flatten().any(vouches))
}

/// Whether a validation context says which certificates are good. One that takes untrusted certificates takes any.
fn vouches(context: Value<'_>) -> bool {
    const LISTS: [&str; 2] = ["verify_certificate_hash", "verify_certificate_spki"];
    const SINGLE: [&str; 3] = [
        "ca_certificate_provider_instance",
        "custom_validator_config",
        "trusted_ca",
    ];
    let takes_any = context.name_at(&["trust_chain_verification"], VERIFICATIONS);
    takes_any != Some("ACCEPT_UNTRUSTED")
        && (SINGLE.iter().any(|key| context.get(key).is_some())
            || LISTS
                .iter()
                .any(|key| context.list(&[key]).next().is_some()))
}

/// Whether a rule has ranges, and they leave most addresses out.
fn is_narrow(rule: Value<'_>, key: &str) -> bool {
    let ranges: Vec<(&str, u64)> = rule.list(&[key]).map(range).collect();
    !ranges.is_empty() && !are_nearly_all(ranges)
}

/// A range of addresses. Without a length it is all addresses.
fn range(range: Value<'_>) -> (&str, u64) {
    let prefix = range.text_at(&["address_prefix"]).unwrap_or_default();
    (prefix, range.number_at(&["prefix_len"]).unwrap_or(0))
}

/// Whether a filter lets only some callers in. A rule that denies counts if it is for every request, and leaves out those that
/// come in.
fn is_rbac(filter: Value<'_>) -> bool {
    let config = filter.get("typed_config").and_then(typed);
    let config = config.filter(|(kind, _)| kind.ends_with(".RBAC"));
    let Some(rules) = config.and_then(|(_, config)| config.get("rules")) else {
        return false;
    };
    if filter.boolean_at(&["disabled"]) == Some(true) {
        return false;
    }
    let policies = rules.get("policies").into_iter().flat_map(Value::members);
    let is_any = |one: Value<'_>| one.boolean_at(&["any"]) == Some(true);
    let mut wide = policies
        .map(|(_, policy)| policy)
        .filter(|policy| policy.list(&["permissions"]).any(is_any))
        .filter(|policy| are_most(policy.list(&["principals"]), MAX_DEPTH));
    let action = rules.name_at(&["action"], &["ALLOW", "DENY", "LOG"]);
    match action.unwrap_or("ALLOW") {
        "ALLOW" => wide.next().is_none(),
        "DENY" => wide.next().is_some(),
        _ => false,
    }
}

/// Whether principals, of which one is enough, are most callers: any, all but some, or nearly all addresses.
fn are_most<'t>(principals: impl Iterator<Item = Value<'t>>, depth: usize) -> bool {
    const ADDRESSES: [&str; 3] = ["direct_remote_ip", "remote_ip", "source_ip"];
    let mut ranges = Vec::new();
    for one in principals {
        let others = one.list(&["or_ids", "ids"]);
        if one.boolean_at(&["any"]) == Some(true)
            || one.get("not_id").is_some()
            || depth > 0 && are_most(others, depth - 1)
        {
            return true;
        }
        let own = ADDRESSES.into_iter().filter_map(|key| one.get(key));
        ranges.extend(own.map(range));
    }
    are_nearly_all(ranges)
}
