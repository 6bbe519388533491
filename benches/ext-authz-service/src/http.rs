//! The HTTP flavour: Envoy sends the head of each request, and 200 lets it through with the headers of the answer.

use std::sync::Arc;

use axum::{
    Router,
    body::Body,
    extract::State,
    http::{HeaderMap, HeaderValue, Response, StatusCode, header},
};
use tokio::net::TcpListener;

use crate::verdicts::{UNAVAILABLE, UNKNOWN_TOKEN, Verdict, Verdicts, token};

pub async fn serve(listener: TcpListener, verdicts: Arc<Verdicts>) {
    use axum::serve::ListenerExt;
    // Envoy asks for any path that a client may ask for.
    let app = Router::new().fallback(check).with_state(verdicts);
    let listener = listener.tap_io(|stream| {
        // An answer is one small write. It fails only if the connection is gone.
        let _ = stream.set_nodelay(true);
    });
    axum::serve(listener, app)
        .await
        .expect("the listener stays");
}

async fn check(State(verdicts): State<Arc<Verdicts>>, headers: HeaderMap) -> Response<Body> {
    let token = headers
        .get(header::AUTHORIZATION)
        .and_then(|value| value.to_str().ok())
        .and_then(token);
    let verdict = match token {
        Some(token) => verdicts.of(token).await,
        None => Ok(Verdict::Inactive),
    };
    let mut response = Response::new(Body::empty());
    match verdict {
        Ok(Verdict::Active(identity)) => {
            let headers = response.headers_mut();
            insert(headers, "x-matrix-user-id", &identity.user_id);
            if let Some(device_id) = &identity.device_id {
                insert(headers, "x-matrix-device-id", device_id);
            }
        }
        Ok(Verdict::Inactive) => refuse(&mut response, StatusCode::UNAUTHORIZED, UNKNOWN_TOKEN),
        Err(_) => refuse(&mut response, StatusCode::SERVICE_UNAVAILABLE, UNAVAILABLE),
    }
    response
}

fn insert(headers: &mut HeaderMap, name: &'static str, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        headers.insert(name, value);
    }
}

fn refuse(response: &mut Response<Body>, status: StatusCode, body: &'static str) {
    *response.status_mut() = status;
    response.headers_mut().insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/json"),
    );
    *response.body_mut() = Body::from(body);
}
