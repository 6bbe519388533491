//! A stand-in MAS with a homeserver to tell, and what the tests ask the two.

use std::time::Duration;

use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use stand_in::{
    SeenRequest,
    homeserver::Homeserver,
    mas::{self, DEFAULT_SECRET, Mas, Options},
};

/// Starts both with the defaults.
pub async fn start() -> (Mas, Homeserver) {
    start_with(Options::default()).await
}

/// Starts both, MAS with these options.
pub async fn start_with(options: Options) -> (Mas, Homeserver) {
    let homeserver = Homeserver::start_local().await.expect("a free port");
    (start_mas(&homeserver, options).await, homeserver)
}

/// Starts a MAS that calls `homeserver`.
pub async fn start_mas(homeserver: &Homeserver, options: Options) -> Mas {
    Mas::start(Options {
        homeserver: Some(homeserver.addr()),
        ..options
    })
    .await
    .expect("a free port")
}

/// What arrived, as `{call} {body}`.
pub fn calls(homeserver: &Homeserver) -> Vec<String> {
    let call = |request: &SeenRequest| {
        let name = request.path().trim_start_matches("/_synapse/mas/");
        format!("{name} {}", String::from_utf8_lossy(&request.body))
    };
    homeserver.requests().iter().map(call).collect()
}

/// Whether `token` is active for a caller that reads scopes only.
pub async fn is_active(mas: &Mas, token: &str) -> bool {
    introspect(mas, token, false)
        .await
        .starts_with(r#"{"active":true"#)
}

/// MAS's answer about `token`, to a caller that says it can read `device_id` or does not.
pub async fn introspect(mas: &Mas, token: &str, reads_device_id: bool) -> String {
    let body = String::from_utf8(mas::introspection_body(token).to_vec()).expect("ASCII");
    let mut request = Request::post(format!("http://{}/oauth2/introspect", mas.addr()))
        .header("authorization", format!("Bearer {DEFAULT_SECRET}"))
        .header("content-type", "application/x-www-form-urlencoded");
    if reads_device_id {
        request = request.header("x-mas-supports-device-id", "1");
    }
    let (status, answer) = send(request, &body).await;
    assert_eq!(status, StatusCode::OK);
    answer
}

/// Sends a request; status and body of the answer.
pub async fn send(request: http::request::Builder, body: &str) -> (StatusCode, String) {
    let client: Client<HttpConnector, Full<Bytes>> =
        Client::builder(TokioExecutor::new()).build_http();
    let request = request
        .body(Full::from(body.to_owned()))
        .expect("a valid request");
    let response = tokio::time::timeout(Duration::from_secs(10), client.request(request))
        .await
        .expect("in time")
        .expect("an answer");
    let status = response.status();
    let body = response
        .into_body()
        .collect()
        .await
        .expect("a whole body")
        .to_bytes();
    (status, String::from_utf8_lossy(&body).into_owned())
}
