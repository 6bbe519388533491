//! A filter before the module sees the identity headers that a client wrote: the module takes them out, and writes its own, when
//! the request comes to it. So what decides by an identity must stand behind the module.
//!
//! The non-obvious rule: a filter names such a header also without deciding by it. Where a filter takes the header out, or where
//! another filter writes it, nothing is decided. CORS tells browsers of headers of responses, and looks at `origin` alone.

pub(super) mod istio;

use super::{
    Deployment, Found, Rule, Severity, Spot,
    routes::{before_servers, places},
};
use crate::{
    check::{
        deployment::{Entry, Host, Use, plugin_of_filter, typed},
        headers::{lua, names::named},
    },
    yaml::{Value, is_field},
};

/// The rule.
pub const RULE: Rule = Rule {
    name: "filter-order",
    severity: Severity::Error,
    may_point_at_secret: false,
    about: "What decides by an identity header is asked before the module, and so by the header that a client wrote.",
    check,
};

/// The headers that are the edge's even when a configuration turns them off.
const DEFAULTS: [&str; 2] = ["x-matrix-user-id", "x-matrix-device-id"];

/// Keys below which headers are taken out or written.
const WRITTEN: [&str; 8] = [
    "claim_to_headers",
    "headers_to_add",
    "remove",
    "remove_on_match",
    "request_headers_to_remove",
    "response_headers_to_add",
    "response_headers_to_remove",
    "stat_prefix",
];

fn check<'t>(deployment: &Deployment<'t>, found: &mut Found<'t>) {
    for one in before_servers(deployment) {
        if let (Host::Envoy, Some(entry)) = (one.host, one.entry) {
            check_envoy(one, entry, found);
        }
    }
    istio::check(deployment, found);
}

/// The names of the identity headers.
pub(super) fn headers(one: &Use<'_>) -> Vec<String> {
    let own = one.config().map(|config| &config.identity_headers);
    let own = own.into_iter().flat_map(|headers| headers.configured());
    own.chain(DEFAULTS).map(str::to_owned).collect()
}

/// Tells of the filters that stand before the module in its list.
fn check_envoy<'t>(one: &Use<'t>, entry: Entry<'t>, found: &mut Found<'t>) {
    let headers = headers(one);
    let is_own = |filter: &Value<'t>| {
        plugin_of_filter(*filter).map(Value::key) == one.plugin.map(Value::key)
    };
    let filters = entry.manager.list(&["http_filters"]);
    for filter in filters.take_while(|filter| !is_own(filter)) {
        let Some((kind, config)) = filter.get("typed_config").and_then(typed) else {
            continue;
        };
        if kind.ends_with(".Cors") {
            continue;
        }
        let mut parts = vec![config];
        let name = filter.text_at(&["name"]).unwrap_or_default();
        for place in places(entry.manager) {
            let own = place.get("typed_per_filter_config");
            parts.extend(own.and_then(|own| own.entry(name)));
            if kind.ends_with("RateLimit") {
                parts.extend(place.get("rate_limits"));
            }
        }
        let sort = match kind {
            kind if kind.ends_with(".HeaderMutation") => Sort::Writing,
            kind if kind.ends_with(".Lua") => Sort::Script,
            _ => Sort::Other,
        };
        for part in parts {
            for (value, header) in naming(part, &headers, sort) {
                found.add(
                    Spot::value(value),
                    format!(
                        "a filter before the module reads `{header}`, which a client may write: the module takes it out, and \
                         writes its own, only behind this filter"
                    ),
                    "write the filter behind the module in `http_filters`",
                );
            }
        }
    }
}

/// What the texts of a configuration are.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Sort {
    /// They name headers that are written.
    Writing,
    /// They are programs.
    Script,
    /// They may name headers that something is decided by.
    Other,
}

/// The texts in a value that name one of these headers, each with the header. Of what writes headers only the texts that are
/// written count, such as `%REQ(...)%`, and of programs those that read the header.
fn naming<'t, 'h>(
    whole: Value<'t>,
    headers: &'h [String],
    sort: Sort,
) -> Vec<(Value<'t>, &'h str)> {
    let is_left_out = |key: &str| {
        let is_written = WRITTEN.iter().any(|name| is_field(key, name));
        is_written || sort == Sort::Writing && key == "key"
    };
    let values = whole.within(is_left_out).into_iter();
    let header_in = |text: &str| {
        // A script has a function. What is none, such as a value that scripts ask for, may be a name.
        if sort == Sort::Script && text.contains('(') {
            lua::read(text, headers)
        } else {
            named(text, headers)
        }
    };
    let naming = |value: Value<'t>| Some((value, header_in(value.text()?)?));
    let mut found: Vec<_> = values.filter_map(naming).collect();
    found.sort_by_key(|(value, _)| value.place().start);
    found
}
