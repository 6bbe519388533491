//! Replies to requests that call themselves gRPC.
//!
//! The non-obvious rule: Envoy makes 200 of every reply to one before any filter sees it, which a client would take for success,
//! and puts the body into `grpc-message`. So the status is put back as the reply passes. There is no way to send a body.

use crate::host::{RequestHead, Streams};

/// What the media types of gRPC begin with.
const MEDIA_TYPE: &[u8] = b"application/grpc";

/// Returns whether Envoy takes a request for gRPC.
pub fn is_grpc(head: &RequestHead) -> bool {
    let start = head
        .content_type()
        .and_then(|value| value.get(..MEDIA_TYPE.len()));
    start.is_some_and(|start| start.eq_ignore_ascii_case(MEDIA_TYPE))
}

/// Gives a reply its status back, if Envoy has changed it.
pub fn restore_status(host: &impl Streams, status: u16) {
    let is_changed = host.response_header("grpc-status").ok().flatten().is_some();
    if is_changed && let Err(error) = host.set_response_status(status) {
        log::error!("Envoy refused a header operation with {error}; the client gets 200");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::Fields;

    /// What Envoy takes for gRPC is never missed. A reply to anything else has no `grpc-status` and is left alone.
    #[test]
    fn a_request_is_grpc_by_the_beginning_of_its_media_type() {
        for (content_type, expected) in [
            ("application/grpc", true),
            ("application/grpc+proto", true),
            ("application/grpc-web", true),
            ("Application/GRPC", true),
            ("application/grp", false),
            ("application/json", false),
            ("text/application/grpc", false),
        ] {
            let fields = [("content-type", content_type.as_bytes())];
            let head = RequestHead::new(Fields::of(fields.into_iter()));
            assert_eq!(is_grpc(&head), expected, "{content_type}");
        }
        let none: [(&str, &[u8]); 0] = [];
        assert!(!is_grpc(&RequestHead::new(Fields::of(none.into_iter()))));
    }
}
