//! The request methods that endpoints are told apart by (RFC 9110, section 9).

/// The methods that endpoints are told apart by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// `GET`
    Get,
    /// `HEAD`
    Head,
    /// `POST`
    Post,
    /// `PUT`
    Put,
    /// `DELETE`
    Delete,
    /// `OPTIONS`
    Options,
    /// `PATCH`
    Patch,
    /// Anything else, also `get`: methods are case-sensitive (RFC 9110, section 9.1).
    Other,
}

impl Method {
    /// The method that `:method` names.
    pub fn from_bytes(method: &[u8]) -> Self {
        match method {
            b"GET" => Self::Get,
            b"HEAD" => Self::Head,
            b"POST" => Self::Post,
            b"PUT" => Self::Put,
            b"DELETE" => Self::Delete,
            b"OPTIONS" => Self::Options,
            b"PATCH" => Self::Patch,
            _ => Self::Other,
        }
    }

    /// The method whose handler runs: Synapse treats `HEAD` as `GET`.
    pub(super) fn handler(self) -> Self {
        match self {
            Self::Head => Self::Get,
            method => method,
        }
    }
}
