//! Whether Envoy itself takes only some callers at a listener.
//!
//! The non-obvious rule: what only looks like a guard is none. `require_client_certificate` asks for nothing until something
//! says which certificates are good: without that, Envoy serves a client that has none. An RBAC filter may be turned off, also by a
//! route, or stand behind a filter that answers before it, or refuse some requests and take all others, or go by what the caller
//! writes.

use super::networks::are_nearly_all;
use crate::{
    check::{
        deployment::{Entry, settings, typed},
        rules::{route_lists::routes_of, routes::tables},
    },
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
        by_source
            || socket.is_some_and(wants_certificate)
            || chain.list(&["filters"]).any(|filter| is_rbac(filter, true))
    };
    let mut filters = entry
        .manager
        .list(&["http_filters"])
        .take_while(|filter| before.is_none() || filter.text_at(&["name"]) != before);
    entry.chain.is_some_and(by_chain)
        || filters.any(|filter| guards_all_routes(filter, entry.manager))
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

/// Whether an HTTP filter lets only some callers in, by whatever route they ask.
fn guards_all_routes(filter: Value<'_>, manager: Value<'_>) -> bool {
    let is_direct = manager.boolean_at(&["use_remote_address"]) == Some(true);
    let name = filter.text_at(&["name"]).unwrap_or_default();
    let own = |place: Value<'_>| {
        let config = place.get("typed_per_filter_config")?.entry(name)?;
        Some(is_guard_of_route(config, is_direct))
    };
    // What stands nearest to a route counts.
    is_rbac(filter, is_direct)
        && tables(manager).all(|table| {
            let of_table = own(table).unwrap_or(true);
            table.list(&["virtual_hosts"]).all(|host| {
                let of_host = own(host).unwrap_or(of_table);
                routes_of(host).filter(is_asked).all(|route| {
                    let of_route = own(route).unwrap_or(of_host);
                    let mut clusters = route
                        .list(&["route", "weighted_clusters", "clusters"])
                        .peekable();
                    if clusters.peek().is_none() {
                        of_route
                    } else {
                        clusters.all(|cluster| own(cluster).unwrap_or(of_route))
                    }
                })
            })
        })
}

/// Whether a route is one for requests. What Envoy answers by itself at a single path is for probes.
fn is_asked(route: &Value<'_>) -> bool {
    route.get("direct_response").is_none() || route.at(&["match", "path"]).is_none()
}

/// Whether an RBAC filter lets only some callers in by what a route says of it, which takes the place of its own rules.
fn is_guard_of_route(config: Value<'_>, is_direct: bool) -> bool {
    let (kind, config) = typed(config).unwrap_or(("", config));
    if !kind.ends_with(".FilterConfig") {
        return has_guarding_rules(config, is_direct);
    }
    let inner = config.get("config").and_then(typed);
    config.boolean_at(&["disabled"]) != Some(true)
        && inner.is_none_or(|(_, inner)| has_guarding_rules(inner, is_direct))
}

/// Whether what a route says of the filter has rules, and they let only some callers in.
fn has_guarding_rules(config: Value<'_>, is_direct: bool) -> bool {
    let rules = config.at(&["rbac", "rules"]);
    rules.is_some_and(|rules| are_guarding(rules, is_direct))
}

/// Whether a filter lets only some callers in by its own rules.
fn is_rbac(filter: Value<'_>, is_direct: bool) -> bool {
    let config = filter.get("typed_config").and_then(typed);
    let config = config.filter(|(kind, _)| kind.ends_with(".RBAC"));
    let rules = config.and_then(|(_, config)| config.get("rules"));
    filter.boolean_at(&["disabled"]) != Some(true)
        && rules.is_some_and(|rules| are_guarding(rules, is_direct))
}

/// Whether rules let only some callers in. Permissions say what may be asked, and nothing of who asks. A rule that denies counts if
/// it is for every request, and nobody else evades it.
fn are_guarding(rules: Value<'_>, is_direct: bool) -> bool {
    let policies = rules.get("policies").into_iter().flat_map(Value::members);
    let mut policies = policies.map(|(_, policy)| policy);
    let may_be = |policy: Value<'_>, wanted: bool| {
        let principals: Vec<_> = policy.list(&["principals"]).collect();
        Callers { is_direct }.may_be(&principals, wanted, MAX_DEPTH)
    };
    let is_any = |one: Value<'_>| one.boolean_at(&["any"]) == Some(true);
    let action = rules.name_at(&["action"], &["ALLOW", "DENY", "LOG"]);
    match action.unwrap_or("ALLOW") {
        "ALLOW" => !policies.any(|policy| may_be(policy, true)),
        "DENY" => policies
            .any(|policy| policy.list(&["permissions"]).any(is_any) && !may_be(policy, false)),
        _ => false,
    }
}

/// What a caller of whom nothing is known can be, by itself or by what it writes.
#[derive(Clone, Copy)]
struct Callers {
    /// Whether `remote_ip` is the address of the connection. Otherwise it is what `X-Forwarded-For` says.
    is_direct: bool,
}

impl Callers {
    /// Whether nearly every caller can be one of these principals or, if that is not wanted, none of them.
    fn may_be(self, principals: &[Value<'_>], wanted: bool, depth: usize) -> bool {
        // Many small networks may be all addresses together.
        let all = principals.iter().filter_map(|one| address(*one));
        let are_all = are_nearly_all(all.map(range));
        let mut each = principals.iter();
        if wanted {
            are_all || each.any(|one| self.may_be_one(*one, true, depth))
        } else {
            !are_all && each.all(|one| self.may_be_one(*one, false, depth))
        }
    }

    fn may_be_one(self, one: Value<'_>, wanted: bool, depth: usize) -> bool {
        let Some(depth) = depth.checked_sub(1) else {
            return true;
        };
        let members = |key: &str| one.get(key).map(|it| it.list(&["ids"]).collect::<Vec<_>>());
        if one.boolean_at(&["any"]) == Some(true) {
            wanted
        } else if let Some(other) = one.get("not_id") {
            self.may_be_one(other, !wanted, depth)
        } else if let Some(ids) = members("or_ids") {
            self.may_be(&ids, wanted, depth)
        } else if let Some(ids) = members("and_ids") {
            let may_be = |one| self.may_be_one(one, wanted, depth);
            match wanted {
                true => ids.into_iter().all(may_be),
                false => ids.into_iter().any(may_be),
            }
        } else if let Some(header) = one.get("header") {
            can_write(header, wanted)
        } else if let Some(address) = address(one) {
            let is_written = !self.is_direct && one.get("remote_ip").is_some();
            is_written || are_nearly_all([range(address)]) == wanted
        } else {
            // The path is the caller's choice. Of anything else it is not known who has it.
            one.get("url_path").is_some() || !wanted
        }
    }
}

/// Whether every caller can have a request match a header, or not match it. A value may be a secret.
fn can_write(header: Value<'_>, wanted: bool) -> bool {
    const VALUES: [&str; 7] = [
        "contains_match",
        "exact_match",
        "prefix_match",
        "range_match",
        "safe_regex_match",
        "string_match",
        "suffix_match",
    ];
    let name = header.text_at(&["name"]).unwrap_or_default();
    let has_value = VALUES.iter().any(|key| header.get(key).is_some());
    let is_inverted = header.boolean_at(&["invert_match"]) == Some(true);
    name.starts_with(':') || !has_value || is_inverted == wanted
}

/// The range of addresses that a principal is.
fn address(principal: Value<'_>) -> Option<Value<'_>> {
    let keys = ["direct_remote_ip", "remote_ip", "source_ip"];
    keys.into_iter().find_map(|key| principal.get(key))
}
