//! The gRPC flavour: `envoy.service.auth.v3.Authorization`.

use std::sync::Arc;

use envoy_types::{
    ext_authz::v3::{
        CheckRequestExt, CheckResponseExt, DeniedHttpResponseBuilder, OkHttpResponseBuilder,
        pb::{Authorization, AuthorizationServer, CheckRequest, CheckResponse, HttpStatusCode},
    },
    pb::envoy::config::core::v3::header_value_option::HeaderAppendAction,
};
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status, transport::Server};

use crate::verdicts::{Identity, UNAVAILABLE, UNKNOWN_TOKEN, Verdict, Verdicts, token};

struct Service(Arc<Verdicts>);

pub async fn serve(listener: TcpListener, verdicts: Arc<Verdicts>) {
    Server::builder()
        .tcp_nodelay(true)
        .add_service(AuthorizationServer::new(Service(verdicts)))
        .serve_with_incoming(TcpListenerStream::new(listener))
        .await
        .expect("the listener stays");
}

#[tonic::async_trait]
impl Authorization for Service {
    async fn check(
        &self,
        request: Request<CheckRequest>,
    ) -> Result<Response<CheckResponse>, Status> {
        let request = request.into_inner();
        let headers = request.get_client_headers();
        let token = headers
            .and_then(|headers| headers.get("authorization"))
            .and_then(|value| token(value));
        let verdict = match token {
            Some(token) => self.0.of(token).await,
            None => Ok(Verdict::Inactive),
        };
        Ok(Response::new(match verdict {
            Ok(Verdict::Active(identity)) => allowed(&identity),
            Ok(Verdict::Inactive) => denied(HttpStatusCode::Unauthorized, UNKNOWN_TOKEN),
            Err(_) => denied(HttpStatusCode::ServiceUnavailable, UNAVAILABLE),
        }))
    }
}

fn allowed(identity: &Identity) -> CheckResponse {
    let mut headers = OkHttpResponseBuilder::new();
    let overwrite = Some(HeaderAppendAction::OverwriteIfExistsOrAdd);
    headers.add_header("x-matrix-user-id", &identity.user_id, overwrite, false);
    if let Some(device_id) = &identity.device_id {
        headers.add_header("x-matrix-device-id", device_id, overwrite, false);
    }
    let mut response = CheckResponse::with_status(Status::ok(""));
    response.set_http_response(headers);
    response
}

fn denied(status: HttpStatusCode, body: &str) -> CheckResponse {
    let mut refusal = DeniedHttpResponseBuilder::new();
    refusal
        .set_http_status(status)
        .add_header("content-type", "application/json", None, false)
        .set_body(body);
    let mut response = CheckResponse::with_status(Status::permission_denied(""));
    response.set_http_response(refusal);
    response
}
