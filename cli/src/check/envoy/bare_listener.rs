//! Listeners without the module: who may pass there, and where their requests come in.

use crate::{
    check::deployment::{Entry, NetworkFilter, typed},
    yaml::Value,
};

/// Filters that let only authenticated callers pass.
const GUARDS: [&str; 5] = [
    ".ApiKeyAuth",
    ".BasicAuth",
    ".ExtAuthz",
    ".JwtAuthentication",
    ".OAuth2",
];

/// Whether a connection manager has a filter that authenticates callers, or a filter that comes from elsewhere and may do
/// so.
pub fn has_guard(manager: Value<'_>) -> bool {
    manager.list(&["http_filters"]).any(is_guard)
}

/// Whether an HTTP filter authenticates callers, or comes from elsewhere and may do so.
pub fn is_guard(filter: Value<'_>) -> bool {
    let kind = filter.get("typed_config").and_then(typed);
    kind.is_some_and(|(kind, _)| GUARDS.iter().any(|guard| kind.ends_with(guard)))
        || filter.get("config_discovery").is_some()
}

/// Where the requests of a filter come in, as those of a use of the module that is turned off.
pub fn entry_of(filter: NetworkFilter<'_>) -> Entry<'_> {
    Entry {
        listener: Some(filter.listener),
        chain: Some(filter.chain),
        manager: filter.config,
        filter_name: "",
        is_off: true,
    }
}
