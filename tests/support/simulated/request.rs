//! A request to a simulated Envoy, and what becomes of it.

use std::collections::BTreeMap;

/// A request as the simulated proxy holds it.
#[derive(Clone, Debug, Default)]
pub struct Request {
    pub headers: Vec<(String, Vec<u8>)>,
    pub filter_state: BTreeMap<String, Vec<u8>>,
    pub trailers: Vec<(String, Vec<u8>)>,
    pub(super) source: Vec<u8>,
    pub(super) cluster: Option<Vec<u8>>,
    pub(super) body: Vec<u8>,
    /// What Envoy holds of the body, or the piece that passes.
    pub(super) buffered: Vec<u8>,
    pub(super) reply: Option<(u16, String)>,
    pub(super) reply_headers: Vec<(String, String)>,
    pub(super) resumed: bool,
}

impl Request {
    pub fn new(method: &str, path: &str) -> Self {
        Self::default()
            .header(":method", method)
            .header(":path", path)
    }

    pub fn get(path: &str) -> Self {
        Self::new("GET", path)
    }

    pub fn header(mut self, name: &str, value: impl AsRef<[u8]>) -> Self {
        self.headers
            .push((name.to_owned(), value.as_ref().to_vec()));
        self
    }

    /// A body, of which `content-length` tells the length.
    pub fn body(mut self, body: impl AsRef<[u8]>) -> Self {
        self.body = body.as_ref().to_vec();
        let length = self.body.len().to_string();
        self.header("content-length", length)
    }

    pub fn source(mut self, source: &str) -> Self {
        self.source = source.as_bytes().to_vec();
        self
    }

    /// The cluster that Envoy routes it to.
    pub fn cluster(mut self, cluster: &str) -> Self {
        self.cluster = Some(cluster.as_bytes().to_vec());
        self
    }

    pub fn bearer(self, token: &str) -> Self {
        self.header("authorization", format!("Bearer {token}"))
    }

    /// Whether the module has answered it, and Envoy makes a reply of gRPC of that.
    pub(super) fn is_grpc_reply(&self) -> bool {
        let content_type = self.value("content-type").unwrap_or_default();
        self.reply.is_some() && content_type.starts_with(b"application/grpc")
    }

    pub fn value(&self, name: &str) -> Option<&[u8]> {
        self.headers
            .iter()
            .find(|(key, _)| key == name)
            .map(|(_, value)| value.as_slice())
    }
}

/// What has become of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It waits.
    Held,
    /// It went on, with this user and device.
    Forwarded {
        user_id: Option<String>,
        device_id: Option<String>,
    },
    /// It was answered at the edge: status and body.
    Replied(u16, String),
}

impl Fate {
    pub fn forwarded_as(user_id: &str) -> Self {
        Self::Forwarded {
            user_id: Some(user_id.to_owned()),
            device_id: None,
        }
    }

    pub fn forwarded_unannotated() -> Self {
        Self::Forwarded {
            user_id: None,
            device_id: None,
        }
    }

    pub fn status(&self) -> Option<u16> {
        match self {
            Self::Replied(status, _) => Some(*status),
            _ => None,
        }
    }
}
