//! A request as a stand-in received it.

use std::fmt;

use bytes::Bytes;
use http::{HeaderMap, request::Parts};

/// A request as it arrived. `Debug` shows neither values nor the query, since they may hold tokens and secrets.
#[derive(Clone)]
pub struct SeenRequest {
    /// The method, as sent.
    pub method: String,
    /// The request target, as sent: path and query, not decoded.
    pub target: String,
    /// Names (lower case) and values in the order they arrived; repeated names stand together.
    pub headers: Vec<(String, Bytes)>,
    /// The start of the body: all of it unless it is longer than the stand-in keeps (2 MB for MAS, 64 KiB for the homeserver).
    pub body: Bytes,
    /// The length of the whole body.
    pub body_bytes: u64,
    /// SHA-256 of the whole body, lower hex; empty while the body has not ended.
    pub body_sha256: String,
    /// Trailers, like `headers`.
    pub trailers: Vec<(String, Bytes)>,
}

impl SeenRequest {
    pub(crate) fn from_head(head: &Parts) -> Self {
        let target = head
            .uri
            .path_and_query()
            .map_or_else(|| head.uri.to_string(), ToString::to_string);
        let mut headers = pairs(&head.headers);
        // HTTP/2 carries the host as `:authority`.
        if let Some(authority) = head.uri.authority()
            && !head.headers.contains_key(http::header::HOST)
        {
            headers.insert(
                0,
                (
                    "host".to_owned(),
                    Bytes::copy_from_slice(authority.as_str().as_bytes()),
                ),
            );
        }
        Self {
            method: head.method.to_string(),
            target,
            headers,
            body: Bytes::new(),
            body_bytes: 0,
            body_sha256: String::new(),
            trailers: Vec::new(),
        }
    }

    /// The target without its query.
    pub fn path(&self) -> &str {
        self.target
            .split_once('?')
            .map_or(&self.target, |(path, _)| path)
    }

    /// The query, without the `?`, not decoded.
    pub fn query(&self) -> Option<&str> {
        self.target.split_once('?').map(|(_, query)| query)
    }

    /// The first value of the header `name` (lower case).
    pub fn header(&self, name: &str) -> Option<&[u8]> {
        self.header_values(name).next()
    }

    /// Every value of the header `name` (lower case), in order.
    pub fn header_values<'s, 'n>(
        &'s self,
        name: &'n str,
    ) -> impl Iterator<Item = &'s [u8]> + use<'s, 'n> {
        self.headers
            .iter()
            .filter(move |(n, _)| n == name)
            .map(|(_, value)| value.as_ref())
    }
}

impl fmt::Debug for SeenRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&str> = self.headers.iter().map(|(name, _)| name.as_str()).collect();
        f.debug_struct("SeenRequest")
            .field("method", &self.method)
            .field("path", &self.path())
            .field("header_names", &names)
            .field("body_bytes", &self.body_bytes)
            .finish_non_exhaustive()
    }
}

pub(crate) fn pairs(headers: &HeaderMap) -> Vec<(String, Bytes)> {
    headers
        .iter()
        .map(|(name, value)| {
            (
                name.as_str().to_owned(),
                Bytes::copy_from_slice(value.as_bytes()),
            )
        })
        .collect()
}

/// Lower hex.
pub(crate) fn hex(bytes: &[u8]) -> String {
    use fmt::Write as _;

    bytes
        .iter()
        .fold(String::with_capacity(bytes.len() * 2), |mut hex, byte| {
            // Writing to a String cannot fail.
            let _ = write!(hex, "{byte:02x}");
            hex
        })
}
