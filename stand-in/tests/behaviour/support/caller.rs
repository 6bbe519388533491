//! What the tests ask a stand-in MAS over HTTP.

use std::time::Duration;

use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use stand_in::mas::{self, DEFAULT_SECRET, Mas};

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
