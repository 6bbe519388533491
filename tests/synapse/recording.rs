//! The exchanges of `tests/wire/synapse.jsonl`, recorded between raw clients and a real Synapse
//! 1.163.2.
//!
//! The homeserver, its appservice and its shared secret had other names there; they are replaced by
//! those of the rig. The recorder cut the CR of line ends and the end of one very long header.

use std::{fs, path::Path};

use serde::Deserialize;

use super::{
    answer::Answer,
    rig::{SECRET, SERVER_NAME},
};
use crate::support::synapse::AS_TOKEN;

const RENAMED: [(&str, &str); 5] = [
    ("rig.test", SERVER_NAME),
    ("rig-as-token-0123456789", AS_TOKEN),
    ("rigbot", "bridgebot"),
    ("rigas_", "bridge_"),
    ("the-shared-secret", SECRET),
];
const CUT: &str = "...(8022 bytes)";

/// One request, and the answer to it if there was one.
#[derive(Debug, Deserialize)]
pub struct Exchange {
    /// What it is about.
    pub name: String,
    request: String,
    request_headers: Vec<String>,
    request_body: String,
    status: String,
    response_headers: Vec<String>,
    response_body: String,
}

/// All exchanges, in the order of the file.
pub fn exchanges() -> Vec<Exchange> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/wire/synapse.jsonl");
    let text =
        fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    text.lines()
        .map(|line| serde_json::from_str(line).expect("an exchange"))
        .collect()
}

impl Exchange {
    /// The request as bytes. Its length is counted anew.
    pub fn request(&self) -> Vec<u8> {
        let body = rename(&self.request_body);
        let mut request = format!("{}\r\n", self.request);
        for header in &self.request_headers {
            if header.starts_with("Content-Length:") {
                request.push_str(&format!("Content-Length: {}", body.len()));
            } else if let Some(start) = header.strip_suffix(CUT) {
                request.push_str(&format!("{start:x<8022}"));
            } else {
                request.push_str(header);
            }
            request.push_str("\r\n");
        }
        request.push_str("\r\n");
        request.push_str(&body);
        rename(&request).into_bytes()
    }

    /// The status, if there was an answer.
    pub fn status(&self) -> Option<u16> {
        self.status.split(' ').nth(1)?.parse().ok()
    }

    /// The answer.
    pub fn answer(&self) -> Answer {
        let headers = self.response_headers.iter().map(|header| {
            let (name, value) = header.split_once(':').expect("a header");
            (name, value.trim())
        });
        let is_chunked = self
            .response_headers
            .iter()
            .any(|header| header == "Transfer-Encoding: chunked");
        let body = if is_chunked {
            unchunk(&self.response_body)
        } else {
            self.response_body.clone()
        };
        Answer::new(
            self.status().expect("an answer"),
            headers,
            rename(&body).as_bytes(),
        )
    }

    /// Whether the client asks who it is.
    pub fn is_whoami(&self) -> bool {
        self.request.contains("/account/whoami")
    }

    /// The token in the `Authorization` header.
    pub fn bearer(&self) -> Option<&str> {
        self.request_headers
            .iter()
            .find_map(|header| header.strip_prefix("Authorization: Bearer "))
    }
}

fn rename(text: &str) -> String {
    RENAMED
        .iter()
        .fold(text.to_owned(), |text, (theirs, ours)| {
            text.replace(theirs, ours)
        })
}

/// Joins chunks whose line ends are LF.
fn unchunk(text: &str) -> String {
    let mut body = String::new();
    let mut rest = text;
    loop {
        let (size, chunk) = rest.split_once('\n').unwrap_or((rest, ""));
        let size = usize::from_str_radix(size, 16).expect("a chunk size");
        if size == 0 {
            return body;
        }
        body.push_str(&chunk[..size]);
        rest = chunk[size..].trim_start_matches('\n');
    }
}
