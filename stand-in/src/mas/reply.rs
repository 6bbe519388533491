//! Replies as MAS sends them: status, headers in their order, body. hyper adds `content-length` and `date` after them,
//! as it does for MAS.

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Method, Response, StatusCode, Uri, header};
use http_body_util::Full;

/// The `vary` of every endpoint that allows cross-origin calls.
const VARY: &str = "origin, access-control-request-method, access-control-request-headers";

/// A whole answer.
#[derive(Clone, Debug)]
pub(super) struct Reply {
    pub(super) status: StatusCode,
    pub(super) headers: Vec<(HeaderName, String)>,
    pub(super) body: Bytes,
}

impl Reply {
    fn new(status: u16, headers: Vec<(HeaderName, String)>, body: impl Into<Bytes>) -> Self {
        let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        Self {
            status,
            headers,
            body: body.into(),
        }
    }

    /// JSON, open to every origin.
    pub(super) fn json(status: u16, body: impl Into<Bytes>) -> Self {
        Self::typed(status, "application/json", body)
    }

    /// Any content type, open to every origin.
    pub(super) fn typed(status: u16, content_type: &str, body: impl Into<Bytes>) -> Self {
        let mut headers = vec![(header::CONTENT_TYPE, content_type.to_owned())];
        headers.extend(cors());
        Self::new(status, headers, body)
    }

    /// No body, open to every origin.
    pub(super) fn empty(status: u16) -> Self {
        Self::new(status, cors().into(), Bytes::new())
    }

    /// An OAuth 2.0 error (RFC 6749, section 5.2).
    pub(super) fn oauth(status: u16, error: &str, description: &str) -> Self {
        let body = serde_json::json!({ "error": error, "error_description": description });
        Self::json(status, body.to_string())
    }

    /// What is wrong with the request, MAS does not say.
    pub(super) fn invalid_request() -> Self {
        Self::oauth(
            400,
            "invalid_request",
            "The request is missing a required parameter, includes an invalid parameter value, includes a parameter \
             more than once, or is otherwise malformed.",
        )
    }

    pub(super) fn client_id_mismatch(in_header: &str, in_form: &str) -> Self {
        let description =
            format!("client_id in form ({in_form:?}) does not match credential ({in_header:?})");
        Self::oauth(400, "invalid_grant", &description)
    }

    pub(super) fn server_error(description: &str) -> Self {
        Self::oauth(500, "server_error", description)
    }

    /// A Matrix error.
    pub(super) fn matrix(status: u16, errcode: &str, error: &str) -> Self {
        let body = serde_json::json!({ "errcode": errcode, "error": error });
        Self::json(status, body.to_string())
    }

    /// No database connection came free in time.
    pub(super) fn pool_timed_out() -> Self {
        Self::typed(
            500,
            "text/plain",
            "pool timed out while waiting for an open connection\ndetails: \n",
        )
    }

    /// Another method than the endpoint's.
    pub(super) fn method_not_allowed(allow: &str) -> Self {
        let mut reply = Self::empty(405);
        reply.headers.push((header::ALLOW, allow.to_owned()));
        reply
    }

    /// The answer to `OPTIONS`.
    pub(super) fn preflight(allow: &str) -> Self {
        let headers = vec![
            (header::VARY, VARY.to_owned()),
            (header::ACCESS_CONTROL_ALLOW_METHODS, "*".to_owned()),
            (
                header::ACCESS_CONTROL_ALLOW_HEADERS,
                "authorization,accept,accept-language,content-language,content-type,x-requested-with".to_owned(),
            ),
            (header::ACCESS_CONTROL_MAX_AGE, "3600".to_owned()),
            (header::ACCESS_CONTROL_ALLOW_ORIGIN, "*".to_owned()),
            (header::ALLOW, allow.to_owned()),
        ];
        Self::new(200, headers, Bytes::new())
    }

    /// A path that MAS does not serve: a web page, in our own words, that names the request as MAS's does.
    pub(super) fn not_found(method: &Method, uri: &Uri) -> Self {
        let target = uri
            .path_and_query()
            .map_or(uri.path(), |target| target.as_str());
        let request = format!("{method} {target} HTTP/1.1")
            .replace('&', "&amp;")
            .replace('<', "&lt;")
            .replace('/', "&#x2f;");
        let page = format!(
            "<!DOCTYPE html>\n<html lang=\"en\">\n  <head><meta charset=\"utf-8\"><title>stand-in MAS</title></head>\n  \
             <body>\n    <h1>404</h1>\n    <pre>{request}</pre>\n  </body>\n</html>\n"
        );
        Self::new(
            404,
            vec![(header::CONTENT_TYPE, "text/html; charset=utf-8".to_owned())],
            page,
        )
    }

    /// Outside the cross-origin endpoints.
    pub(super) fn plain(status: u16, content_type: &str, body: impl Into<Bytes>) -> Self {
        Self::new(
            status,
            vec![(header::CONTENT_TYPE, content_type.to_owned())],
            body,
        )
    }

    /// Says that the connection ends with this answer, where a server in its shutdown says so: after the length.
    pub(super) fn closing(mut self) -> Self {
        self.headers
            .push((header::CONTENT_LENGTH, self.body.len().to_string()));
        self.headers.push((header::CONNECTION, "close".to_owned()));
        self
    }

    pub(super) fn into_response(self) -> Response<Full<Bytes>> {
        let mut response = Response::new(Full::new(self.body));
        *response.status_mut() = self.status;
        for (name, value) in self.headers {
            // A value that cannot be sent (a test's odd content type) is left out rather than a panic in the server.
            if let Ok(value) = HeaderValue::from_str(&value) {
                response.headers_mut().append(name, value);
            }
        }
        response
    }
}

fn cors() -> [(HeaderName, String); 2] {
    [
        (header::VARY, VARY.to_owned()),
        (header::ACCESS_CONTROL_ALLOW_ORIGIN, "*".to_owned()),
    ]
}
