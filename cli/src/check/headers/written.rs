//! The headers of requests that a filter or a route writes.
//!
//! The non-obvious rule: who is asked about a request may answer with headers for it, and these are written too. What a program
//! reads or takes out, and what it gives to responses, is not written.

use super::{lua, string_matcher::StringMatcher};
use crate::{
    check::{deployment::typed, finding::Spot},
    yaml::{Value, is_field},
};

/// Lists of headers that are added to requests.
const ADDED: [&str; 3] = [
    "request_headers_to_add",
    "request_headers_to_add_when_not_enforced",
    "request_mutations",
];

/// A list of claims of a token that become headers.
const CLAIMS: [&str; 1] = ["claim_to_headers"];

/// Keys whose values name a header that is written.
const NAMES: [&str; 2] = ["forward_payload_header", "forward_username_header"];

/// Keys whose members' values name headers that are written, each for a fact about the caller.
const FACTS: [&str; 2] = ["geo_field_keys", "geo_headers_to_add"];

/// Keys of what has the name of a header that is written, and the key of the name.
const HOLDERS: [(&str, &str); 3] = [
    ("forwarding", "header"),
    ("ip_tag_header", "header"),
    ("token_header", "name"),
];

/// A credential that names the header which it is written into.
pub const GENERIC: &str = ".injected_credentials.generic.v3.Generic";

/// Keys of the headers that are taken from the answer of who was asked about a request.
const ANSWERED: [&str; 2] = [
    "allowed_upstream_headers",
    "allowed_upstream_headers_to_append",
];

/// Keys of programs.
const PROGRAMS: [&str; 3] = ["inline_code", "inline_string", "inline_bytes"];

/// How much of a program is read in one step.
const BYTES_OF_STEP: usize = 16;

/// Where a filter writes one of these headers, each time with the header.
pub fn by_filter<'t, 'h>(config: Value<'t>, headers: &'h [String]) -> Vec<(Spot<'t>, &'h str)> {
    let of = |key: &str, names: &[&str]| names.iter().any(|name| is_field(key, name));
    let lists: [&[&str]; 6] = [&ADDED, &CLAIMS, &NAMES, &FACTS, &ANSWERED, &PROGRAMS];
    let mut found = Vec::new();
    let mut programs = Vec::new();
    for value in config.within(|key| lists.iter().any(|names| of(key, names))) {
        found.extend(by_injector(value, headers));
        for (key, member) in value.members() {
            let holder = HOLDERS.iter().find(|(holder, _)| is_field(key, holder));
            if let Some((_, name)) = holder {
                let name = member.get(name);
                found.extend(name.and_then(|name| Some((name, named(name, headers)?))));
            } else if of(key, &ADDED) {
                found.extend(by_list(member, headers));
            } else if of(key, &FACTS) {
                let names = member.members().map(|(_, name)| name);
                found.extend(names.filter_map(|name| Some((name, named(name, headers)?))));
            } else if of(key, &CLAIMS) {
                let names = member.items().filter_map(|it| it.get("header_name"));
                found.extend(names.filter_map(|name| Some((name, named(name, headers)?))));
            } else if of(key, &NAMES) {
                found.extend(named(member, headers).map(|header| (member, header)));
            } else if of(key, &ANSWERED) {
                let patterns = member.list(&["patterns"]);
                found.extend(patterns.filter_map(|one| Some((one, matched(one, headers)?))));
            } else if of(key, &PROGRAMS) {
                programs.extend(by_program(member, headers));
            }
        }
    }
    let spots = found
        .into_iter()
        .map(|(value, it)| (Spot::value(value), it));
    let mut found: Vec<_> = spots.chain(programs).collect();
    found.sort_by_key(|(spot, _)| spot.place.start);
    found
}

/// Where a program writes one of these headers.
fn by_program<'t, 'h>(program: Value<'t>, headers: &'h [String]) -> Vec<(Spot<'t>, &'h str)> {
    let tree = program.tree;
    let text = program.text().unwrap_or_default();
    let text = if tree.spend(text.len() / BYTES_OF_STEP) {
        text
    } else {
        ""
    };
    let (bytes, names): (Vec<_>, Vec<_>) = lua::written(text, headers).into_iter().unzip();
    let places = program.places_in(bytes).into_iter();
    let spots = places.map(|place| Spot { tree, place });
    spots.zip(names).collect()
}

/// The name of the header that a generic credential injector writes, if it is one of these.
fn by_injector<'t, 'h>(value: Value<'t>, headers: &'h [String]) -> Option<(Value<'t>, &'h str)> {
    let (kind, config) = typed(value)?;
    let name = config.get("header").filter(|_| kind.ends_with(GENERIC))?;
    Some((name, named(name, headers)?))
}

/// Where a route, or what it is in, writes one of these headers.
pub fn by_place<'t, 'h>(place: Value<'t>, headers: &'h [String]) -> Vec<(Value<'t>, &'h str)> {
    let added = place.get("request_headers_to_add");
    added.map_or_else(Vec::new, |added| by_list(added, headers))
}

/// Where a list of headers has one of these. What the module itself said, and the header's own value, are left out.
fn by_list<'t, 'h>(list: Value<'t>, headers: &'h [String]) -> Vec<(Value<'t>, &'h str)> {
    let one = |entry: Value<'t>| {
        let header = entry.at(&["append", "header"]).or(entry.get("header"))?;
        let key = header.get("key")?;
        let name = named(key, headers)?;
        let value = header.text_at(&["value"]).unwrap_or_default();
        (!is_of_module(value, name)).then_some((key, name))
    };
    list.items().filter_map(one).collect()
}

/// Whether a value is what the module said of the request.
pub fn is_of_module(value: &str, header: &str) -> bool {
    let value = value.to_ascii_lowercase();
    value.starts_with("%filter_state(wasm.matrix_") || value == format!("%req({header})%")
}

/// The header that a text is the name of.
pub fn named<'h>(text: Value<'_>, headers: &'h [String]) -> Option<&'h str> {
    let text = text.text()?;
    let mut all = headers.iter();
    let found = all.find(|header| header.eq_ignore_ascii_case(text));
    found.map(String::as_str)
}

/// The first header that a pattern of names takes.
fn matched<'h>(pattern: Value<'_>, headers: &'h [String]) -> Option<&'h str> {
    let pattern = StringMatcher::of_headers(pattern);
    let takes = |header: &&String| pattern.matches(header) == Some(true);
    headers.iter().find(takes).map(String::as_str)
}
