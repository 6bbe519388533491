//! The headers of requests that a filter or a route writes.
//!
//! The non-obvious rule: who is asked about a request may answer with headers for it, and these are written too. What a program
//! reads or takes out, and what it gives to responses, is not written.

use super::string_matcher::StringMatcher;
use crate::yaml::{Value, is_field};

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

/// Keys of the headers that are taken from the answer of who was asked about a request.
const ANSWERED: [&str; 2] = [
    "allowed_upstream_headers",
    "allowed_upstream_headers_to_append",
];

/// Keys of programs.
const PROGRAMS: [&str; 3] = ["inline_code", "inline_string", "inline_bytes"];

/// Where a filter writes one of these headers, each time with the header.
pub(super) fn by_filter<'t, 'h>(
    config: Value<'t>,
    headers: &'h [String],
) -> Vec<(Value<'t>, &'h str)> {
    let of = |key: &str, names: &[&str]| names.iter().any(|name| is_field(key, name));
    let lists: [&[&str]; 5] = [&ADDED, &CLAIMS, &NAMES, &ANSWERED, &PROGRAMS];
    let mut found = Vec::new();
    for value in config.within(|key| lists.iter().any(|names| of(key, names))) {
        for (key, member) in value.members() {
            if of(key, &ADDED) {
                found.extend(by_list(member, headers));
            } else if of(key, &CLAIMS) {
                let names = member.items().filter_map(|it| it.get("header_name"));
                found.extend(names.filter_map(|name| Some((name, named(name, headers)?))));
            } else if of(key, &NAMES) {
                found.extend(named(member, headers).map(|header| (member, header)));
            } else if of(key, &ANSWERED) {
                let patterns = member.list(&["patterns"]);
                found.extend(patterns.filter_map(|one| Some((one, matched(one, headers)?))));
            } else if of(key, &PROGRAMS) {
                found.extend(by_program(member, headers).map(|header| (member, header)));
            }
        }
    }
    found.sort_by_key(|(value, _)| value.place().start);
    found
}

/// Where a route, or what it is in, writes one of these headers.
pub(super) fn by_place<'t, 'h>(
    place: Value<'t>,
    headers: &'h [String],
) -> Vec<(Value<'t>, &'h str)> {
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
pub(super) fn is_of_module(value: &str, header: &str) -> bool {
    let value = value.to_ascii_lowercase();
    value.starts_with("%filter_state(wasm.matrix_") || value == format!("%req({header})%")
}

/// The header that a text is the name of.
pub(super) fn named<'h>(text: Value<'_>, headers: &'h [String]) -> Option<&'h str> {
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

/// The header that a program writes into requests: it names the header other than to read it or to take it out.
fn by_program<'h>(program: Value<'_>, headers: &'h [String]) -> Option<&'h str> {
    written_in(program.text()?, headers)
}

fn written_in<'h>(text: &str, headers: &'h [String]) -> Option<&'h str> {
    let text = of_requests(&text.to_ascii_lowercase());
    let writes = ["replace(", "add("].iter().any(|word| text.contains(word));
    let is_written = |header: &&String| {
        text.match_indices(header.as_str()).any(|(start, _)| {
            let before = text.get(..start).unwrap_or_default();
            let after = text.get(start + header.len()..).unwrap_or_default();
            let is_part = |c: char| c.is_ascii_alphanumeric() || c == '-';
            let quoted = before.trim_end_matches(['"', '\'', ' ']);
            !before.ends_with(is_part)
                && !after.starts_with(is_part)
                && !["get(", "remove("].iter().any(|it| quoted.ends_with(it))
        })
    };
    let found = headers.iter().find(|header| writes && is_written(header));
    found.map(String::as_str)
}

/// A program without its comments, and without what it does with responses.
fn of_requests(text: &str) -> String {
    let lines = text.lines().filter_map(|line| line.split("--").next());
    let text = lines.collect::<Vec<_>>().join("\n");
    let (request, response) = ("function envoy_on_request", "function envoy_on_response");
    let Some((before, rest)) = text.split_once(response) else {
        return text;
    };
    let after = rest.find(request).and_then(|start| rest.get(start..));
    format!("{before}{}", after.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_writes_what_it_names_and_neither_reads_nor_takes_out() {
        let headers = ["x-matrix-user-id".to_owned()];
        let request = "function envoy_on_request(h) ";
        let response = "function envoy_on_response(h) ";
        let write = "h:headers():replace(\"X-Matrix-User-Id\", \"a\")\nend\n";
        let other = "h:headers():add(\"x-other\", \"a\")\nend\n";
        for (program, expected) in [
            (format!("{request}{write}"), true),
            (
                format!("local name = 'x-matrix-user-id'\n{request}h:headers():add(name, 1)"),
                true,
            ),
            (format!("{response}{other}{request}{write}"), true),
            (format!("{response}{write}"), false),
            (format!("{response}{write}{request}{other}"), false),
            (format!("-- x-matrix-user-id\n{request}{other}"), false),
            (
                format!("{request}h:headers():get(\"x-matrix-user-id\")\n{other}"),
                false,
            ),
            (
                format!("{request}h:headers():remove('x-matrix-user-id')\n{other}"),
                false,
            ),
            (
                format!("{request}h:headers():replace(\"x-matrix-user-id-hash\", \"a\")"),
                false,
            ),
            ("h:logInfo('x-matrix-user-id')".to_owned(), false),
        ] {
            assert_eq!(
                written_in(&program, &headers).is_some(),
                expected,
                "{program}"
            );
        }
    }
}
