//! What a real Synapse answered: `tests/wire/synapse.jsonl`, one recorded exchange a line.

use serde_json::Value;

use super::http::Response;

/// Headers that differ from one server, moment or framing to the next.
const NOT_COMPARED: [&str; 5] = [
    "server",
    "date",
    "connection",
    "content-length",
    "transfer-encoding",
];

const EXPOSE_HEADERS: &str = "access-control-expose-headers";

/// Synapse's response in the exchange `name`.
pub fn synapse(name: &str) -> Response {
    include_str!("../wire/synapse.jsonl")
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).expect("a record is JSON"))
        .find(|record| record["name"] == name)
        .map(|record| response(&record))
        .unwrap_or_else(|| panic!("no exchange was recorded as {name:?}"))
}

/// Checks status, body and headers of `response` against the exchange `name`. `more` names the headers that
/// it has besides.
///
/// # Panics
///
/// If they differ.
#[track_caller]
pub fn assert_is_synapses(response: &Response, name: &str, more: &[&str]) {
    let recorded = synapse(name);
    assert_eq!(
        response.status, recorded.status,
        "status, unlike {name}:\n{response:?}"
    );
    assert_eq!(
        response.body, recorded.body,
        "body, unlike {name}:\n{response:?}"
    );
    assert_eq!(
        comparable(response, more),
        comparable(&recorded, &[]),
        "headers, unlike {name}"
    );
    for header in more {
        assert!(
            response.header(header).is_some(),
            "no {header}:\n{response:?}"
        );
    }
}

fn comparable(response: &Response, except: &[&str]) -> Vec<(String, Vec<u8>)> {
    let mut headers: Vec<(String, Vec<u8>)> = response
        .headers
        .iter()
        .map(|(name, value)| (name.to_ascii_lowercase(), value.clone()))
        .map(|(name, value)| match value.strip_suffix(b", Retry-After") {
            // A header that Synapse does not send is one that it does not show to pages.
            Some(synapses) if except.contains(&"retry-after") && name == EXPOSE_HEADERS => {
                (name, synapses.to_vec())
            }
            _ => (name, value),
        })
        .filter(|(name, _)| {
            !NOT_COMPARED.contains(&name.as_str()) && !except.contains(&name.as_str())
        })
        .collect();
    headers.sort();
    headers
}

fn response(record: &Value) -> Response {
    let text = |key: &str| {
        record[key]
            .as_str()
            .expect("a record's members are strings")
    };
    let headers: Vec<(String, Vec<u8>)> = record["response_headers"]
        .as_array()
        .expect("a list of header lines")
        .iter()
        .filter_map(|line| line.as_str()?.split_once(": "))
        .map(|(name, value)| (name.to_owned(), value.as_bytes().to_vec()))
        .collect();
    let chunked = headers
        .iter()
        .any(|(name, value)| name == "Transfer-Encoding" && value == b"chunked");
    let body = text("response_body");
    Response {
        status: text("status")
            .split(' ')
            .nth(1)
            .and_then(|status| status.parse().ok())
            .expect("a status line"),
        headers,
        body: if chunked {
            one_chunk(body)
        } else {
            body.into()
        },
    }
}

/// The content of a chunked body of one chunk, whose line ends were recorded as LF.
fn one_chunk(body: &str) -> Vec<u8> {
    match body.split_once('\n') {
        Some((size, rest)) => {
            let size = usize::from_str_radix(size, 16).expect("a chunk size");
            rest.as_bytes()[..size].to_vec()
        }
        // To a HEAD request.
        None => Vec::new(),
    }
}
