//! The kinds of requests that a button sends, and what became of one.
//!
//! What the edge decided, and from where, is not in its answer. It is read from the metrics before and after. If
//! another request was counted in between, nobody can tell which was which, and the page says so.

use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use serde_json::Value;
use tokio::time::Instant;

use super::{
    Member, Shared,
    edge::Stats,
    journal::{Tone, Who},
};
use crate::mas::introspection_body;

/// Longer than the edge ever takes.
const PATIENCE: Duration = Duration::from_secs(70);
const ANSWER_LIMIT: usize = 1024 * 1024;
const WHOAMI: &str = "/_matrix/client/v3/account/whoami";

/// A kind of request.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Kind {
    /// With a member's token. The new session begins with it.
    Of(Member),
    /// With a token whose checksum is wrong: MAS cannot have made it.
    Impossible,
    /// With a token of another service's.
    Foreign,
    /// Without a token where one is needed.
    NoToken,
    /// To an endpoint that needs none.
    Public,
    /// To the admin API, with a token without its scope.
    Admin,
    /// To a path that is never public.
    Internal,
    /// The homeserver's own question about alice's token.
    Synapse,
}

impl Kind {
    /// All of them, by the name of their button.
    pub(super) const ALL: [(&'static str, Self); 13] = [
        ("alice", Self::Of(Member::Alice)),
        ("bob", Self::Of(Member::Bob)),
        ("new", Self::Of(Member::New)),
        ("expired", Self::Of(Member::Expired)),
        ("logged-out", Self::Of(Member::LoggedOut)),
        ("unknown", Self::Of(Member::Unknown)),
        ("impossible", Self::Impossible),
        ("foreign", Self::Foreign),
        ("no-token", Self::NoToken),
        ("public", Self::Public),
        ("admin", Self::Admin),
        ("internal", Self::Internal),
        ("synapse", Self::Synapse),
    ];

    const fn title(self) -> &'static str {
        match self {
            Self::Of(member) => member.title(),
            Self::Impossible => "a token that cannot exist",
            Self::Foreign => "a token of another service",
            Self::NoToken => "no token",
            Self::Public => "a public endpoint",
            Self::Admin => "alice's phone at the admin API",
            Self::Internal => "an internal path",
            Self::Synapse => "the homeserver asks about alice's phone",
        }
    }

    const fn path(self) -> &'static str {
        match self {
            Self::Public => "/_matrix/client/versions",
            Self::Admin => "/_synapse/admin/v1/rooms",
            Self::Internal => "/_synapse/mas/provision_user",
            Self::Synapse => "/oauth2/introspect",
            _ => WHOAMI,
        }
    }

    /// The metric that counts its verdict.
    const fn metric(self) -> &'static str {
        match self {
            Self::Synapse => "introspection_answers_total",
            _ => "requests_total",
        }
    }

    fn token(self, shared: &Shared) -> Option<String> {
        let cast = &shared.stack.cast;
        match self {
            Self::Of(Member::New) => {
                shared.stack.observer.forget(Member::New);
                Some(cast.begin_again(Member::New))
            }
            Self::Of(member) => Some(cast.token(member)),
            Self::Admin => Some(cast.token(Member::Alice)),
            Self::Impossible => {
                let mut token = cast.token(Member::Alice);
                // The last digit of the checksum.
                let wrong = if token.ends_with('0') { '1' } else { '0' };
                token.pop();
                token.push(wrong);
                Some(token)
            }
            Self::Foreign => Some("a-token-of-a-bridge".to_owned()),
            Self::NoToken | Self::Public | Self::Internal | Self::Synapse => None,
        }
    }

    fn request(self, shared: &Shared) -> Option<Request<Full<Bytes>>> {
        let stack = &shared.stack;
        if self == Self::Synapse {
            return Request::post(format!("http://{}{}", stack.introspection, self.path()))
                .header(header::AUTHORIZATION, format!("Bearer {}", stack.secret))
                .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded")
                .header(header::ACCEPT, "application/json")
                .header("x-mas-supports-device-id", "1")
                .body(introspection_body(&stack.cast.token(Member::Alice)).into())
                .ok();
        }
        let mut request = Request::get(format!("http://{}{}", stack.gateway, self.path()));
        if let Some(token) = self.token(shared) {
            request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
        }
        request.body(Full::default()).ok()
    }

    /// Sends one, and tells what became of it.
    pub(super) async fn send(self, shared: &Shared) -> Result<String, String> {
        let request = self.request(shared).ok_or("the request cannot be made")?;
        let before = shared.edge.stats().await;
        // Those who watch see it wait.
        shared.stack.observer.wake();
        let begun = Instant::now();
        let answer = send(request).await?;
        let took = begun.elapsed();
        let after = shared.edge.settled_stats().await;
        let source = before
            .zip(after)
            .and_then(|(before, after)| source(self.metric(), &before, &after));
        let told = format!(
            "{}: {}, {}; {}",
            self.title(),
            self.describe(&answer),
            source.unwrap_or("others came at the same time, so it cannot be told from where"),
            duration(took),
        );
        let tone = tone(answer.status);
        shared.stack.observer.write(Who::Client, tone, told.clone());
        Ok(told)
    }

    /// The status, and what can be said of the body.
    fn describe(self, answer: &Received) -> String {
        let body: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
        let seen = |name: &str| body["headers"][name][0].as_str();
        let status = answer.status.as_u16();
        if let Some(errcode) = body["errcode"].as_str() {
            return format!("{status} {errcode}");
        }
        match (self, seen("x-matrix-user-id"), seen("x-matrix-device-id")) {
            (Self::Synapse, ..) => match body["active"].as_bool() {
                Some(true) => format!("{status} active"),
                Some(false) => format!("{status} inactive"),
                None => status.to_string(),
            },
            (_, Some(user), Some(device)) => {
                format!("{status}, the homeserver sees {user} on {device}")
            }
            (_, Some(user), None) => format!("{status}, the homeserver sees {user}"),
            // Only the stand-in tells what it saw.
            (_, None, _) if body["headers"].is_object() => {
                format!("{status}, the homeserver sees no identity")
            }
            (_, None, _) => status.to_string(),
        }
    }
}

/// The end of a session by its client: `POST /logout` through the gateway.
pub(super) async fn log_out(shared: &Shared) -> Result<StatusCode, String> {
    let stack = &shared.stack;
    let uri = format!("http://{}/_matrix/client/v3/logout", stack.gateway);
    let bearer = format!("Bearer {}", stack.cast.token(Member::Bob));
    let request = Request::builder()
        .method(Method::POST)
        .uri(uri)
        .header(header::AUTHORIZATION, bearer)
        .body(Full::default())
        .map_err(|error| error.to_string())?;
    Ok(send(request).await?.status)
}

/// How an answer of this status is to be taken.
pub(super) fn tone(status: StatusCode) -> Tone {
    match status.as_u16() {
        200..400 => Tone::Passed,
        400..500 => Tone::Refused,
        _ => Tone::Failed,
    }
}

/// For people to read.
pub(super) fn duration(time: Duration) -> String {
    match time.as_millis() {
        0 => "under 1 ms".to_owned(),
        short @ 1..1000 => format!("{short} ms"),
        _ => format!("{:.1} s", time.as_secs_f64()),
    }
}

struct Received {
    status: StatusCode,
    body: Bytes,
}

/// On a connection of its own, so that either of Envoy's workers may get it.
async fn send(request: Request<Full<Bytes>>) -> Result<Received, String> {
    let client: Client<HttpConnector, Full<Bytes>> = Client::builder(TokioExecutor::new())
        .pool_max_idle_per_host(0)
        .build_http();
    let exchange = async {
        let response = client
            .request(request)
            .await
            .map_err(|error| format!("the edge does not answer: {error}"))?;
        let status = response.status();
        let body = Limited::new(response.into_body(), ANSWER_LIMIT);
        let body = body.collect().await;
        let body = body.map_err(|error| format!("the answer broke off: {error}"))?;
        Ok(Received {
            status,
            body: body.to_bytes(),
        })
    };
    tokio::time::timeout(PATIENCE, exchange)
        .await
        .map_err(|_| "the edge did not answer in time".to_owned())?
}

/// Where the verdict came from, if exactly one request was counted between the two readings.
fn source(metric: &str, before: &Stats, after: &Stats) -> Option<&'static str> {
    let labels = ["verdict", "source"];
    let before = before.by_two(metric, labels);
    let mut counted = after
        .by_two(metric, labels)
        .into_iter()
        .filter_map(|(key, now)| {
            let new = now.saturating_sub(before.get(&key).copied().unwrap_or_default());
            (new > 0).then_some((key, new))
        });
    let ((verdict, source), 1) = counted.next()? else {
        return None;
    };
    if counted.next().is_some() {
        return None;
    }
    Some(match (verdict.as_str(), source.as_str()) {
        (_, "local") => "from the Envoy worker's own cache",
        (_, "shared") => "from the shared cache",
        (_, "stale") => "from the cache past its time, since MAS cannot be asked",
        ("no_verdict", "budget") => "over its budget",
        ("no_verdict", _) => "MAS gave no verdict",
        (_, "mas") => "MAS was asked",
        ("inactive", "offline") => "decided without MAS",
        _ => "no verdict needed",
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn from(before: &[(&str, u64)], after: &[(&str, u64)]) -> Option<&'static str> {
        let stats = |counts: &[(&str, u64)]| {
            let line = |(labels, count): &(&str, u64)| {
                format!("wasmcustom.matrix_edge_auth_requests_total.{labels}: {count}\n")
            };
            Stats::parse(&counts.iter().map(line).collect::<String>())
        };
        source("requests_total", &stats(before), &stats(after))
    }

    #[test]
    fn one_request_tells_where_its_verdict_is_from() {
        let local = "verdict=active.source=local";
        let mas = "verdict=no_verdict.source=mas";
        assert_eq!(
            from(&[(local, 1)], &[(local, 2)]),
            Some("from the Envoy worker's own cache")
        );
        assert_eq!(
            from(&[(local, 1)], &[(local, 1), (mas, 1)]),
            Some("MAS gave no verdict")
        );
        assert_eq!(from(&[(local, 1)], &[(local, 3)]), None);
        assert_eq!(from(&[(local, 1)], &[(local, 2), (mas, 1)]), None);
        assert_eq!(from(&[(local, 1)], &[(local, 1)]), None);
    }
}
