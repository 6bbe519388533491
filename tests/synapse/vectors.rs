//! The rows of `tests/vectors/extraction.tsv`: requests, and what a real Synapse 1.163.2 made of
//! them.
//!
//! The file writes bytes that do not show as `\t`, `\r`, `\n` and `\xHH`, joins header lines with `
//! | `, and writes the whole request of one row (which folds a header over two lines) as `RAW ...`.

use std::{fs, path::Path};

/// One request and what became of it.
#[derive(Clone, Debug)]
pub struct Row {
    /// Name of the row, such as `H01`.
    pub id: String,
    /// What the row is about.
    pub case: String,
    /// The method, as sent.
    pub method: String,
    /// The request target, as sent.
    pub target: Vec<u8>,
    /// Header lines as sent, without `Host` and without what frames the body.
    pub header_lines: Vec<Vec<u8>>,
    /// The body, not framed.
    pub body: Vec<u8>,
    /// The status of the answer.
    pub status: u16,
    /// `errcode` of the answer, if that is a Matrix error.
    pub errcode: Option<String>,
    /// `error` of the answer, if that is a Matrix error.
    pub error: Option<String>,
    /// The token that Synapse introspected.
    pub token: Option<String>,
    /// The user that Synapse acted as.
    pub requester: Option<String>,
    raw: Option<Vec<u8>>,
}

/// All rows, in the order of the file.
///
/// # Panics
///
/// If the file is not as described.
pub fn extraction() -> Vec<Row> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors/extraction.tsv");
    let text =
        fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let mut lines = text
        .lines()
        .map(|line| line.split('\t').collect::<Vec<_>>());
    let names = lines.next().expect("a header line");
    lines
        .map(|cells| {
            assert_eq!(cells.len(), names.len(), "cells of {cells:?}");
            row(|name| {
                let at = names.iter().position(|known| *known == name);
                cells[at.unwrap_or_else(|| panic!("no column {name}"))]
            })
        })
        .collect()
}

fn row<'a>(cell: impl Fn(&str) -> &'a str) -> Row {
    let some = |name: &str| {
        Some(cell(name))
            .filter(|text| !text.is_empty())
            .map(str::to_owned)
    };
    let (headers, raw) = match cell("headers") {
        "" => (Vec::new(), None),
        text => match text.strip_prefix("RAW ") {
            Some(request) => (Vec::new(), Some(unescape(request))),
            None => (text.split(" | ").map(unescape).collect(), None),
        },
    };
    Row {
        id: cell("id").to_owned(),
        case: cell("case").to_owned(),
        method: cell("method").to_owned(),
        target: unescape(cell("request_target")),
        header_lines: headers,
        body: unescape(cell("body")),
        status: cell("synapse_status").parse().expect("a status"),
        errcode: some("synapse_errcode"),
        error: some("synapse_error"),
        token: some("token_introspected(urlencoded)").map(|token| form_decode(&token)),
        requester: some("synapse_requester").filter(|user| user != "None"),
        raw,
    }
}

impl Row {
    /// The request as bytes, for a server named `host`.
    pub fn request(&self, host: &str) -> Vec<u8> {
        if let Some(raw) = &self.raw {
            return raw.clone();
        }
        let mut request = [
            self.method.as_bytes(),
            b" ",
            &self.target,
            b" HTTP/1.1\r\nHost: ",
        ]
        .concat();
        request.extend_from_slice(host.as_bytes());
        for line in &self.header_lines {
            request.extend_from_slice(b"\r\n");
            request.extend_from_slice(line);
        }
        if self.is_chunked() {
            request.extend(format!("\r\n\r\n{:x}\r\n", self.body.len()).bytes());
            request.extend_from_slice(&self.body);
            request.extend_from_slice(b"\r\n0\r\n\r\n");
        } else if self.method == "POST" || self.method == "PUT" {
            request.extend(format!("\r\nContent-Length: {}\r\n\r\n", self.body.len()).bytes());
            request.extend_from_slice(&self.body);
        } else {
            request.extend_from_slice(b"\r\n\r\n");
        }
        request
    }

    /// The values of the header `name`, as sent.
    pub fn header_values(&self, name: &str) -> impl Iterator<Item = &[u8]> {
        self.header_lines.iter().filter_map(move |line| {
            let colon = line.iter().position(|&byte| byte == b':')?;
            line[..colon]
                .eq_ignore_ascii_case(name.as_bytes())
                .then(|| &line[colon + 1..])
        })
    }

    /// Every `alice1`, `bob-b15` and the like in the request, with the user it names. The recorded
    /// MAS took each of them for an active token of that user, so that a wrong reading of a request
    /// shows as a wrong user.
    pub fn tokens_mentioned(&self) -> Vec<(String, &'static str)> {
        String::from_utf8_lossy(&self.request(""))
            .split(|c: char| !c.is_ascii_alphanumeric() && c != '-')
            .filter_map(|word| {
                let user = ["alice", "bob"]
                    .into_iter()
                    .find(|user| word.starts_with(user))?;
                word.ends_with(|c: char| c.is_ascii_digit())
                    .then(|| (word.to_owned(), user))
            })
            .collect()
    }

    /// Whether Synapse looks for a token in the body, where a filter of headers cannot see it.
    pub fn is_decided_by_form(&self) -> bool {
        const FORM: &[u8] = b"application/x-www-form-urlencoded";
        let content_type = self
            .header_values("content-type")
            .next()
            .unwrap_or_default()
            .trim_ascii_start();
        self.method == "POST"
            && self.header_values("authorization").next().is_none()
            && content_type
                .get(..FORM.len())
                .is_some_and(|start| start.eq_ignore_ascii_case(FORM))
    }

    fn is_chunked(&self) -> bool {
        self.header_values("transfer-encoding").next().is_some()
    }
}

fn form_decode(token: &str) -> String {
    let pair = format!("token={token}");
    let (_, token) = form_urlencoded::parse(pair.as_bytes())
        .next()
        .expect("one pair");
    token.into_owned()
}

fn unescape(text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut rest = text;
    while let Some((before, escape)) = rest.split_once('\\') {
        bytes.extend_from_slice(before.as_bytes());
        let (byte, length) = match escape.as_bytes() {
            [b't', ..] => (b'\t', 1),
            [b'r', ..] => (b'\r', 1),
            [b'n', ..] => (b'\n', 1),
            [b'x', ..] => (
                u8::from_str_radix(&escape[1..3], 16).expect("two hexadecimal digits"),
                3,
            ),
            _ => panic!("unknown escape in {text:?}"),
        };
        bytes.push(byte);
        rest = &escape[length..];
    }
    bytes.extend_from_slice(rest.as_bytes());
    bytes
}
