//! What a fault makes of the true answer: another reply, or other bytes on the wire.

use bytes::Bytes;
use http::header;

use super::{
    fault::{Fault, FaultKind},
    reply::Reply,
};
use crate::server::{End, Sabotage, Wire};

/// Turns the true answer into what the fault makes of it.
pub(super) fn damage(fault: Fault, mut truth: Reply, wire: &Wire) -> Reply {
    let sabotage = |bytes: Vec<u8>, end| {
        wire.sabotage(Sabotage {
            bytes: bytes.into(),
            end,
        })
    };
    match fault.kind {
        FaultKind::None | FaultKind::Hang => {}
        FaultKind::CloseReused if !wire.is_reused() => {}
        FaultKind::Close | FaultKind::CloseReused => sabotage(Vec::new(), End::Close),
        FaultKind::Reset => sabotage(Vec::new(), End::Reset),
        FaultKind::ResetMidBody => sabotage(half(&truth), End::Reset),
        FaultKind::Truncated => sabotage(half(&truth), End::Close),
        FaultKind::Garbage => sabotage(
            b"\x16\x03\x01 this is no HTTP\r\n\r\n\x00\xff".to_vec(),
            End::Close,
        ),
        FaultKind::Oversized(bytes) => {
            truth.body = edit(&truth.body, |members| {
                format!(
                    r#"{{{members},"padding":"{}"}}"#,
                    "x".repeat(bytes.saturating_sub(members.len() + 15))
                )
            });
        }
        FaultKind::ContentType(content_type) => {
            if let Some((_, value)) = truth
                .headers
                .iter_mut()
                .find(|(name, _)| *name == header::CONTENT_TYPE)
            {
                *value = content_type;
            }
        }
        FaultKind::Reply {
            status,
            content_type,
            location,
            body,
        } => {
            truth = Reply::typed(status.as_u16(), content_type, body);
            truth
                .headers
                .extend(location.map(|location| (header::LOCATION, location)));
        }
        FaultKind::MissingActive => truth.body = with_active(&truth.body, ""),
        FaultKind::ActiveLiteral(json) => {
            truth.body = with_active(&truth.body, &format!(r#""active":{json}"#))
        }
        FaultKind::DuplicateActive => {
            let opposite = !truth.body.starts_with(br#"{"active":true"#);
            truth.body = edit(&truth.body, |members| {
                format!(r#"{{"active":{opposite},{members}}}"#)
            });
        }
        FaultKind::InvalidJson => truth.body.truncate(truth.body.len().saturating_sub(1)),
    }
    truth
}

/// A JSON object's members, without the braces, put through `rewrite`.
fn edit(object: &[u8], rewrite: impl FnOnce(&str) -> String) -> Bytes {
    let text = String::from_utf8_lossy(object);
    let members = text
        .strip_prefix('{')
        .and_then(|rest| rest.strip_suffix('}'))
        .unwrap_or_default();
    rewrite(members).into()
}

/// Puts `replacement` in the place of the leading `active` member.
fn with_active(object: &[u8], replacement: &str) -> Bytes {
    edit(object, |members| {
        let (_, others) = members.split_once(',').unwrap_or_default();
        let between = if replacement.is_empty() || others.is_empty() {
            ""
        } else {
            ","
        };
        format!("{{{replacement}{between}{others}}}")
    })
}

/// The reply's bytes on the wire, up to the middle of the body that it announces.
fn half(reply: &Reply) -> Vec<u8> {
    let mut bytes = format!("HTTP/1.1 {}\r\n", reply.status).into_bytes();
    for (name, value) in &reply.headers {
        bytes.extend_from_slice(format!("{name}: {value}\r\n").as_bytes());
    }
    bytes.extend_from_slice(format!("content-length: {}\r\n\r\n", reply.body.len()).as_bytes());
    bytes.extend_from_slice(&reply.body[..reply.body.len() / 2]);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn damaged(fault: Fault, body: &str) -> String {
        let reply = damage(fault, Reply::json(200, body.to_owned()), &Wire::default());
        String::from_utf8(reply.body.to_vec()).expect("text")
    }

    #[test]
    fn active_is_replaced_removed_and_doubled() {
        let active = r#"{"active":true,"scope":"a,b"}"#;
        let inactive = r#"{"active":false}"#;
        assert_eq!(
            damaged(Fault::active_literal("null"), active),
            r#"{"active":null,"scope":"a,b"}"#
        );
        assert_eq!(
            damaged(Fault::active_literal("1"), inactive),
            r#"{"active":1}"#
        );
        assert_eq!(
            damaged(Fault::missing_active(), active),
            r#"{"scope":"a,b"}"#
        );
        assert_eq!(damaged(Fault::missing_active(), inactive), "{}");
        assert_eq!(
            damaged(Fault::duplicate_active(), active),
            r#"{"active":false,"active":true,"scope":"a,b"}"#
        );
        assert_eq!(
            damaged(Fault::duplicate_active(), inactive),
            r#"{"active":true,"active":false}"#
        );
        assert_eq!(
            damaged(Fault::invalid_json(), inactive),
            r#"{"active":false"#
        );
    }

    #[test]
    fn oversized_is_valid_json_of_the_size() {
        let body = damaged(Fault::oversized(100_000), r#"{"active":true,"scope":""}"#);
        assert_eq!(body.len(), 100_000);
        assert_eq!(
            serde_json::from_str::<serde_json::Value>(&body).expect("JSON")["active"],
            true
        );
    }
}
