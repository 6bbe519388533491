//! Keeps web pages of other origins away from an interface on loopback that has no authentication.
//!
//! Any page that a browser shows can make requests to loopback. It cannot read the answers, but it could press buttons
//! (cross-site request forgery), or take an own name of the page's server that leads to loopback, and then read as well
//! (DNS rebinding). So a request is refused unless
//!
//! - `Host` names loopback itself: a name that somebody else controls leads to no answer;
//! - `Origin`, which browsers send with every request of another origin that may change something, is absent or the same;
//! - `Sec-Fetch-Site`, where a browser sends it, says that the request is of the same origin or of the user. Following
//!   a link to a page is allowed from everywhere.
//!
//! Programs send neither of the last two, and pass. The port is not compared: it may be forwarded.

use std::{io, net::SocketAddr};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri, header};
use http_body_util::Full;

/// Why a request is refused.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Refusal {
    /// It was sent to a name that is not loopback's.
    Host,
    /// A page of another origin sent it.
    Origin,
}

impl Refusal {
    /// The answer: 403, or 421 where the request is at the wrong server.
    pub(crate) fn into_response(self) -> Response<Full<Bytes>> {
        let (status, error) = match self {
            Self::Host => (
                StatusCode::MISDIRECTED_REQUEST,
                "this is called localhost or by a loopback address only",
            ),
            Self::Origin => (StatusCode::FORBIDDEN, "a page of another origin asks"),
        };
        let body = serde_json::json!({ "error": error }).to_string();
        let mut response = Response::new(Full::from(body));
        *response.status_mut() = status;
        response.headers_mut().insert(
            header::CONTENT_TYPE,
            HeaderValue::from_static("application/json"),
        );
        response
    }
}

/// Refuses an address that other machines could reach.
pub(crate) fn check_listen(listen: SocketAddr) -> io::Result<()> {
    if listen.ip().is_loopback() {
        return Ok(());
    }
    Err(io::Error::new(
        io::ErrorKind::InvalidInput,
        format!("{listen} is not on loopback, and there is no authentication"),
    ))
}

/// Refuses what a page of another origin may have sent.
pub(crate) fn check<B>(request: &Request<B>) -> Result<(), Refusal> {
    let headers = request.headers();
    let host = host(request.uri(), headers).ok_or(Refusal::Host)?;
    if !is_loopback(host) {
        return Err(Refusal::Host);
    }
    let is_own = |origin: &str| origin.strip_prefix("http://") == Some(host);
    if only(headers, "origin").is_some_and(|origin| !origin.is_some_and(is_own)) {
        return Err(Refusal::Origin);
    }
    let is_foreign = match only(headers, "sec-fetch-site") {
        None | Some(Some("same-origin" | "none")) => false,
        Some(_) => true,
    };
    if is_foreign && !is_visit(request.method(), headers) {
        return Err(Refusal::Origin);
    }
    Ok(())
}

/// Somebody follows a link: a page is shown in a window of its own.
fn is_visit(method: &Method, headers: &HeaderMap) -> bool {
    method == Method::GET
        && only(headers, "sec-fetch-mode") == Some(Some("navigate"))
        && only(headers, "sec-fetch-dest") == Some(Some("document"))
}

/// Whom the request is for, with the port. HTTP/2 says it in the target.
fn host<'r>(uri: &'r Uri, headers: &'r HeaderMap) -> Option<&'r str> {
    match only(headers, "host") {
        Some(host) => host,
        None => uri.authority().map(|authority| authority.as_str()),
    }
}

fn is_loopback(host: &str) -> bool {
    let name = match host.strip_prefix('[') {
        Some(rest) => match rest.split_once(']') {
            Some((address, "")) => address,
            Some((address, port)) if port.starts_with(':') => address,
            _ => return false,
        },
        None => host.split_once(':').map_or(host, |(name, _)| name),
    };
    name.eq_ignore_ascii_case("localhost")
        || name
            .parse()
            .is_ok_and(|address: std::net::IpAddr| address.is_loopback())
}

/// `None` without the header, `Some(None)` where it is there more than once or is not text.
fn only<'h>(headers: &'h HeaderMap, name: &str) -> Option<Option<&'h str>> {
    let mut values = headers.get_all(name).iter();
    let first = values.next()?;
    Some(match values.next() {
        None => first.to_str().ok(),
        Some(_) => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(method: &str, headers: &[(&str, &str)]) -> Result<(), Refusal> {
        let request = Request::builder().method(method).uri("/page/buttons/herd");
        let request = headers.iter().fold(request, |request, (name, value)| {
            request.header(*name, *value)
        });
        check(&request.body(()).expect("a request"))
    }

    #[test]
    fn only_names_of_loopback_are_answered() {
        for own in [
            "127.0.0.1:18081",
            "localhost:18081",
            "LOCALHOST",
            "127.0.0.1",
            "[::1]:18081",
            "[::1]",
        ] {
            assert_eq!(checked("GET", &[("host", own)]), Ok(()), "{own}");
        }
        for foreign in [
            "attacker.example:18081",
            "127.0.0.1.attacker.example:18081",
            "localhost.attacker.example",
            "192.0.2.1:18081",
            "0.0.0.0:18081",
            "[::1",
            "[::1]x",
            "::1",
            "",
        ] {
            let refused = checked("GET", &[("host", foreign)]);
            assert_eq!(refused, Err(Refusal::Host), "{foreign}");
        }
        assert_eq!(checked("GET", &[]), Err(Refusal::Host));
        let twice = [("host", "localhost"), ("host", "localhost")];
        assert_eq!(checked("GET", &twice), Err(Refusal::Host));
    }

    #[test]
    fn pages_of_other_origins_are_refused() {
        let host = ("host", "127.0.0.1:18081");
        let own = ("origin", "http://127.0.0.1:18081");
        assert_eq!(checked("POST", &[host, own]), Ok(()));
        for origin in [
            "null",
            "http://127.0.0.1:3000",
            "http://localhost:18081",
            "https://127.0.0.1:18081",
            "https://attacker.example",
        ] {
            let refused = checked("POST", &[host, ("origin", origin)]);
            assert_eq!(refused, Err(Refusal::Origin), "{origin}");
        }
        for site in ["cross-site", "same-site", "x"] {
            let refused = checked("GET", &[host, ("sec-fetch-site", site)]);
            assert_eq!(refused, Err(Refusal::Origin), "{site}");
        }
        for site in ["same-origin", "none"] {
            assert_eq!(checked("GET", &[host, ("sec-fetch-site", site)]), Ok(()));
        }
    }

    #[test]
    fn a_link_may_lead_here_and_a_frame_or_a_form_may_not() {
        let visit = |method, dest| {
            let headers = [
                ("host", "localhost:18081"),
                ("sec-fetch-site", "cross-site"),
                ("sec-fetch-mode", "navigate"),
                ("sec-fetch-dest", dest),
            ];
            checked(method, &headers)
        };
        assert_eq!(visit("GET", "document"), Ok(()));
        assert_eq!(visit("GET", "iframe"), Err(Refusal::Origin));
        assert_eq!(visit("POST", "document"), Err(Refusal::Origin));
    }

    #[test]
    fn other_machines_cannot_be_listened_to() {
        assert!(check_listen(SocketAddr::from(([127, 0, 0, 1], 0))).is_ok());
        for open in [[0, 0, 0, 0], [192, 0, 2, 1]] {
            assert!(check_listen(SocketAddr::from((open, 0))).is_err());
        }
    }
}
