//! The page of `make run`: what happens between clients, edge and MAS, live, with buttons that make it happen.
//!
//! It is served on the control port, beside the control interface ([`Control`](crate::mas::Control)):
//!
//! | request | |
//! |---|---|
//! | `GET /`, `/page.css`, `/page.js` | the page; plain files, nothing is built |
//! | `GET /page/state` | all that it shows, as JSON: `page/snapshot.rs` |
//! | `GET /page/events` | the same, as server-sent events, whenever it changes |
//! | `POST /page/buttons/{name}` | presses a button: `page/button.rs` |
//!
//! Its figures are the edge's own metrics, read from Envoy's admin interface, and the stand-in MAS's own counts. What
//! the edge has cached cannot be read from outside, so the page shows an estimate and calls it so: `page/estimate.rs`.
//! No answer holds a token.
//!
//! `guard.rs` refuses what a page of another origin asks for. A button also needs the header `x-page-button`, which such
//! a page cannot send without a pre-flight request, and that gets no permission.

use std::{convert::Infallible, fmt, io, net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full, combinators::BoxBody};
use hyper::body::Incoming;
use serde::Serialize;

use crate::{guard, mas::Mas, server::Server};

mod button;
mod cast;
mod edge;
mod estimate;
mod herd;
mod journal;
mod kind;
mod observer;
mod snapshot;
mod stream;

use button::Button;
pub use cast::{Cast, Member};
use edge::Edge;
pub use observer::Observer;
use snapshot::Figures;

/// What a button's request must bring along.
const BUTTON_HEADER: &str = "x-page-button";

/// Where the page finds the stack that it shows.
#[derive(Clone)]
pub struct Stack {
    /// The stand-in MAS.
    pub mas: Arc<Mas>,
    /// The sessions that the page's requests use.
    pub cast: Arc<Cast>,
    /// What was seen of MAS so far: the same that [`Options`](crate::mas::Options) of `mas` report to.
    pub observer: Arc<Observer>,
    /// Where clients find the edge.
    pub gateway: SocketAddr,
    /// Where the homeserver asks the edge about tokens.
    pub introspection: SocketAddr,
    /// Envoy's admin interface.
    pub admin: SocketAddr,
    /// The secret that homeserver and MAS share.
    pub secret: String,
    /// How long the edge keeps answers.
    pub cache: Cache,
}

/// How long the edge keeps answers, as its configuration says.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Cache {
    /// `cache.ttl`: an active answer.
    #[serde(rename = "ttl_ms", serialize_with = "as_millis")]
    pub ttl: Duration,
    /// `cache.negative_ttl`: an inactive answer.
    #[serde(rename = "negative_ttl_ms", serialize_with = "as_millis")]
    pub negative_ttl: Duration,
    /// `cache.stale_if_error`: how much longer an active answer serves while MAS cannot be asked.
    #[serde(rename = "stale_ms", serialize_with = "as_millis")]
    pub stale_if_error: Duration,
}

fn as_millis<S: serde::Serializer>(time: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u64(millis(*time))
}

impl fmt::Debug for Stack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stack")
            .field("gateway", &self.gateway)
            .field("introspection", &self.introspection)
            .field("admin", &self.admin)
            .field("cache", &self.cache)
            .finish_non_exhaustive()
    }
}

/// A running page. Dropping it closes its port; MAS lives on as long as another owner does.
pub struct Page {
    server: Server,
}

impl Page {
    /// Serves the page and the control interface on `listen`.
    ///
    /// # Errors
    ///
    /// If the address is not of loopback, or cannot be listened on.
    pub async fn start(listen: SocketAddr, stack: Stack) -> io::Result<Self> {
        guard::check_listen(listen)?;
        let shared = Arc::new(Shared::new(stack));
        let server = Server::start(listen, move |request, _| {
            answer(Arc::clone(&shared), request)
        })
        .await?;
        Ok(Self { server })
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.server.addr()
    }
}

impl fmt::Debug for Page {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Page").field("addr", &self.addr()).finish()
    }
}

/// What the answers to all requests share.
struct Shared {
    stack: Stack,
    edge: Edge,
    figures: Figures,
    herd: herd::Herd,
    /// Held while a session, a user or MAS itself is changed: a change shows its effect before the next one begins.
    changing: tokio::sync::Mutex<()>,
    watchers: Arc<tokio::sync::Semaphore>,
}

impl Shared {
    fn new(stack: Stack) -> Self {
        Self {
            edge: Edge::new(stack.admin),
            stack,
            figures: Figures::default(),
            herd: herd::Herd::default(),
            changing: tokio::sync::Mutex::default(),
            watchers: Arc::new(tokio::sync::Semaphore::new(stream::MOST_WATCHERS)),
        }
    }
}

type Answer = Response<BoxBody<Bytes, Infallible>>;

async fn answer(shared: Arc<Shared>, request: Request<Incoming>) -> Answer {
    if let Err(refusal) = guard::check(&request) {
        return boxed(refusal.into_response());
    }
    let path = request.uri().path();
    let mut answer = match (request.method(), path) {
        (&Method::GET, "/") => file("text/html; charset=utf-8", include_str!("page/index.html")),
        (&Method::GET, "/page.css") => {
            file("text/css; charset=utf-8", include_str!("page/page.css"))
        }
        (&Method::GET, "/page.js") => file(
            "text/javascript; charset=utf-8",
            include_str!("page/page.js"),
        ),
        (&Method::GET, "/page/state") => json(StatusCode::OK, &snapshot::take(&shared).await),
        (&Method::GET, "/page/events") => stream::open(shared),
        (&Method::POST, _) if path.starts_with("/page/buttons/") => {
            let name = path.trim_start_matches("/page/buttons/").to_owned();
            press(&shared, &name, request.headers()).await
        }
        _ => boxed(shared.stack.mas.control_answer(request).await),
    };
    protect(answer.headers_mut());
    answer
}

async fn press(shared: &Arc<Shared>, name: &str, headers: &HeaderMap) -> Answer {
    if !headers.contains_key(BUTTON_HEADER) {
        let error = format!("a button needs the header {BUTTON_HEADER}");
        return json(StatusCode::FORBIDDEN, &Pressed::failed(error));
    }
    let Some(button) = Button::named(name) else {
        let error = format!("there is no button {name:?}");
        return json(StatusCode::NOT_FOUND, &Pressed::failed(error));
    };
    let (status, mut pressed) = match button.press(shared).await {
        Ok(told) => (StatusCode::OK, Pressed::done(told)),
        Err(error) => (StatusCode::CONFLICT, Pressed::failed(error)),
    };
    // As it is after the button's effect: the page shows it at once.
    pressed.state = Some(snapshot::take(shared).await);
    json(status, &pressed)
}

/// The answer to a button.
#[derive(Serialize)]
struct Pressed {
    /// What came of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    told: Option<String>,
    /// Why nothing came of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    state: Option<snapshot::Snapshot>,
}

impl Pressed {
    const fn done(told: String) -> Self {
        Self {
            told: Some(told),
            error: None,
            state: None,
        }
    }

    const fn failed(error: String) -> Self {
        Self {
            told: None,
            error: Some(error),
            state: None,
        }
    }
}

fn file(content_type: &'static str, text: &'static str) -> Answer {
    let mut response = Response::new(Full::from(text));
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    boxed(response)
}

fn json(status: StatusCode, body: &impl Serialize) -> Answer {
    let body = serde_json::to_vec(body).unwrap_or_default();
    let mut response = Response::new(Full::from(body));
    *response.status_mut() = status;
    response.headers_mut().insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/json"),
    );
    boxed(response)
}

fn boxed(response: Response<Full<Bytes>>) -> Answer {
    response.map(BodyExt::boxed)
}

/// Nothing is loaded from elsewhere, nothing is framed, nothing is kept.
fn protect(headers: &mut HeaderMap) {
    let policy = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; \
                  base-uri 'none'; form-action 'none'; frame-ancestors 'none'";
    for (name, value) in [
        (header::CONTENT_SECURITY_POLICY, policy),
        (header::X_FRAME_OPTIONS, "DENY"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::CACHE_CONTROL, "no-store"),
        (
            HeaderName::from_static("cross-origin-resource-policy"),
            "same-origin",
        ),
        (
            HeaderName::from_static("cross-origin-opener-policy"),
            "same-origin",
        ),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
