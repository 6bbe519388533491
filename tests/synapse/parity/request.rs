//! A generated request, apart from the version of HTTP that carries it.

use std::fmt;

use super::super::rig::SERVER_NAME;

/// The version of HTTP that a request is sent with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    Http1,
    Http2,
}

/// What a request says, byte for byte.
#[derive(Clone)]
pub struct Request {
    pub version: Version,
    pub method: String,
    /// The request target of HTTP/1.1, the `:path` of HTTP/2.
    pub target: Vec<u8>,
    /// Names, and all that follows the colon.
    pub fields: Vec<(String, Vec<u8>)>,
    pub body: Vec<u8>,
    /// Whether the body is sent in chunks over HTTP/1.1.
    pub is_chunked: bool,
}

impl Request {
    /// The bytes of HTTP/1.1 (RFC 9112).
    pub fn http1_bytes(&self) -> Vec<u8> {
        let mut bytes = [self.method.as_bytes(), b" ", &self.target, b" HTTP/1.1\r\n"].concat();
        bytes.extend(format!("Host: {SERVER_NAME}\r\n").bytes());
        for (name, value) in &self.fields {
            bytes.extend_from_slice(&[name.as_bytes(), b":", value, b"\r\n"].concat());
        }
        if self.is_chunked {
            bytes.extend(
                format!(
                    "Transfer-Encoding: chunked\r\n\r\n{:x}\r\n",
                    self.body.len()
                )
                .bytes(),
            );
            bytes.extend_from_slice(&self.body);
            bytes.extend_from_slice(if self.body.is_empty() {
                b"\r\n"
            } else {
                b"\r\n0\r\n\r\n"
            });
            return bytes;
        }
        if self.has_length() {
            bytes.extend(format!("Content-Length: {}\r\n", self.body.len()).bytes());
        }
        bytes.extend_from_slice(b"\r\n");
        bytes.extend_from_slice(&self.body);
        bytes
    }

    /// The header fields of HTTP/2 (RFC 9113, section 8.3).
    pub fn http2_fields(&self) -> Vec<(Vec<u8>, Vec<u8>)> {
        let field = |name: &str, value: &[u8]| (name.as_bytes().to_vec(), value.to_vec());
        let mut fields = vec![
            field(":method", self.method.as_bytes()),
            field(":scheme", b"http"),
            field(":authority", SERVER_NAME.as_bytes()),
            field(":path", &self.target),
        ];
        fields.extend(
            self.fields
                .iter()
                // White space around a value is none of the value here, and forbidden.
                .map(|(name, value)| field(&name.to_ascii_lowercase(), value.trim_ascii())),
        );
        if self.has_length() && !self.is_chunked {
            fields.push(field(
                "content-length",
                self.body.len().to_string().as_bytes(),
            ));
        }
        fields
    }

    /// The values of the field `name`, without white space around them.
    pub fn values<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a [u8]> {
        self.fields
            .iter()
            .filter(move |(given, _)| given.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.trim_ascii())
    }

    /// The path: what stands before the query.
    pub fn path(&self) -> &[u8] {
        self.target
            .split(|&byte| byte == b'?')
            .next()
            .unwrap_or_default()
    }

    fn has_length(&self) -> bool {
        !self.body.is_empty() || matches!(&*self.method, "POST" | "PUT" | "DELETE" | "PATCH")
    }
}

impl fmt::Display for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.version {
            Version::Http1 => write!(f, "{}", self.http1_bytes().escape_ascii()),
            Version::Http2 => {
                for (name, value) in self.http2_fields() {
                    write!(f, "{}: {}, ", name.escape_ascii(), value.escape_ascii())?;
                }
                write!(f, "body: {}", self.body.escape_ascii())
            }
        }
    }
}
