//! Faults on command: what a MAS, a proxy or a network does to an introspection when it does not answer it.

use std::time::Duration;

use bytes::Bytes;
use http::StatusCode;

/// One way to misbehave, until [`Mas::clear_faults`](super::Mas::clear_faults) or for a number of times.
///
/// The faults that damage an answer start from the true one, so they damage an active as well as an inactive answer.
#[derive(Clone, Debug)]
pub struct Fault {
    pub(super) kind: FaultKind,
    pub(super) delay: Duration,
    pub(super) token: Option<super::Redacted>,
    pub(super) remaining: Option<u64>,
}

#[derive(Clone, Debug)]
pub(super) enum FaultKind {
    /// The true answer (after the delay).
    None,
    Hang,
    Close,
    CloseReused,
    Reset,
    ResetMidBody,
    Truncated,
    Garbage,
    Oversized(usize),
    ContentType(String),
    Reply {
        status: StatusCode,
        content_type: &'static str,
        location: Option<String>,
        body: Bytes,
    },
    MissingActive,
    ActiveLiteral(String),
    DuplicateActive,
    InvalidJson,
}

impl FaultKind {
    /// What to call it in a line of log.
    pub(super) const fn label(&self) -> &'static str {
        match self {
            Self::None => "delay",
            Self::Hang => "hang",
            Self::Close => "close",
            Self::CloseReused => "close reused",
            Self::Reset => "reset",
            Self::ResetMidBody => "reset mid-body",
            Self::Truncated => "truncated",
            Self::Garbage => "garbage",
            Self::Oversized(_) => "oversized",
            Self::ContentType(_) => "content type",
            Self::Reply { .. } => "status",
            Self::MissingActive => "missing active",
            Self::ActiveLiteral(_) => "active literal",
            Self::DuplicateActive => "duplicate active",
            Self::InvalidJson => "invalid JSON",
        }
    }
}

impl Fault {
    const fn new(kind: FaultKind) -> Self {
        Self {
            kind,
            delay: Duration::ZERO,
            token: None,
            remaining: None,
        }
    }

    /// The true answer, late.
    pub const fn delay(by: Duration) -> Self {
        let mut fault = Self::new(FaultKind::None);
        fault.delay = by;
        fault
    }

    /// No answer until the faults are cleared (then the true one) or the caller leaves.
    pub const fn hang() -> Self {
        Self::new(FaultKind::Hang)
    }

    /// This status with this body, as JSON.
    ///
    /// # Panics
    ///
    /// If `status` is not an HTTP status from 200 to 999.
    pub fn status(status: u16, body: impl Into<Bytes>) -> Self {
        assert!(status >= 200, "an interim status answers nothing: {status}");
        let status = StatusCode::from_u16(status).expect("a three-digit status");
        Self::new(FaultKind::Reply {
            status,
            content_type: "application/json",
            location: None,
            body: body.into(),
        })
    }

    /// `429` with no `Retry-After`, as MAS limits rates.
    pub fn too_many_requests() -> Self {
        Self::status(
            429,
            r#"{"errcode":"M_LIMIT_EXCEEDED","error":"Too many requests"}"#,
        )
    }

    /// `302` to `location`.
    pub fn redirect(location: &str) -> Self {
        Self::new(FaultKind::Reply {
            status: StatusCode::FOUND,
            content_type: "text/html; charset=utf-8",
            location: Some(location.to_owned()),
            body: Bytes::new(),
        })
    }

    /// `200` with an HTML page, as a captive portal or a misrouted host answers.
    pub fn html() -> Self {
        Self::new(FaultKind::Reply {
            status: StatusCode::OK,
            content_type: "text/html; charset=utf-8",
            location: None,
            body: Bytes::from_static(b"<!DOCTYPE html><html><body>Welcome</body></html>"),
        })
    }

    /// `200` with `{}`.
    pub fn empty_object() -> Self {
        Self::status(200, "{}")
    }

    /// The connection ends in order before any response byte.
    pub const fn close() -> Self {
        Self::new(FaultKind::Close)
    }

    /// A connection that has answered one request ends in order when the next arrives: an idle limit that runs out
    /// just then. The first request of every connection gets the true answer.
    pub const fn close_reused() -> Self {
        Self::new(FaultKind::CloseReused)
    }

    /// The connection is reset before any response byte.
    pub const fn reset() -> Self {
        Self::new(FaultKind::Reset)
    }

    /// The headers and half the body, then a reset.
    pub const fn reset_mid_body() -> Self {
        Self::new(FaultKind::ResetMidBody)
    }

    /// The headers and half the body that they announce, then an orderly close.
    pub const fn truncated() -> Self {
        Self::new(FaultKind::Truncated)
    }

    /// Bytes that are not HTTP, then a close.
    pub const fn garbage() -> Self {
        Self::new(FaultKind::Garbage)
    }

    /// The true answer in JSON that is padded to `bytes`: valid, only too long.
    pub const fn oversized(bytes: usize) -> Self {
        Self::new(FaultKind::Oversized(bytes))
    }

    /// The true answer under another content type.
    pub fn content_type(content_type: &str) -> Self {
        Self::new(FaultKind::ContentType(content_type.to_owned()))
    }

    /// The true answer without its `active` member.
    pub const fn missing_active() -> Self {
        Self::new(FaultKind::MissingActive)
    }

    /// The true answer with this JSON text in place of `active`: `"\"true\""`, `"null"`, `"1"`.
    pub fn active_literal(json: &str) -> Self {
        Self::new(FaultKind::ActiveLiteral(json.to_owned()))
    }

    /// The true answer with a second, opposite `active` in front.
    pub const fn duplicate_active() -> Self {
        Self::new(FaultKind::DuplicateActive)
    }

    /// The true answer without its last byte, of the length that it announces.
    pub const fn invalid_json() -> Self {
        Self::new(FaultKind::InvalidJson)
    }

    /// Waits this long first.
    #[must_use]
    pub fn after(self, delay: Duration) -> Self {
        Self { delay, ..self }
    }

    /// Hits only introspections of this token.
    #[must_use]
    pub fn for_token(self, token: &str) -> Self {
        Self {
            token: Some(super::Redacted(token.to_owned())),
            ..self
        }
    }

    /// Hits `n` introspections, then ends.
    #[must_use]
    pub fn times(self, n: u64) -> Self {
        Self {
            remaining: Some(n),
            ..self
        }
    }
}

/// The faults in force, in the order they were set; the first that matches hits.
#[derive(Debug, Default)]
pub(super) struct Faults(Vec<Fault>);

impl Faults {
    pub(super) fn add(&mut self, fault: Fault) {
        self.0.push(fault);
    }

    pub(super) fn clear(&mut self) {
        self.0.clear();
    }

    /// What each of them does, to be shown.
    pub(super) fn labels(&self) -> Vec<String> {
        let label = |fault: &Fault| match fault.delay {
            Duration::ZERO => fault.kind.label().to_owned(),
            delay if matches!(fault.kind, FaultKind::None) => {
                format!("delay of {} ms", delay.as_millis())
            }
            delay => format!("{} after {} ms", fault.kind.label(), delay.as_millis()),
        };
        self.0.iter().map(label).collect()
    }

    /// The fault that hits an introspection of `token` now, counted as used.
    pub(super) fn take(&mut self, token: Option<&str>) -> Option<Fault> {
        let at = self.0.iter().position(|fault| {
            fault.remaining != Some(0)
                && fault
                    .token
                    .as_ref()
                    .is_none_or(|only| Some(only.0.as_str()) == token)
        })?;
        let fault = &mut self.0[at];
        fault.remaining = fault.remaining.map(|n| n - 1);
        let taken = fault.clone();
        if taken.remaining == Some(0) {
            self.0.remove(at);
        }
        Some(taken)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_ends_after_its_times() {
        let mut faults = Faults::default();
        faults.add(Fault::hang().times(2));
        assert!(faults.take(None).is_some());
        assert!(faults.take(Some("a")).is_some());
        assert!(faults.take(None).is_none());
        assert!(faults.0.is_empty());
    }

    #[test]
    fn a_fault_for_one_token_spares_the_others() {
        let mut faults = Faults::default();
        faults.add(Fault::close().for_token("a"));
        faults.add(Fault::hang().for_token("b").times(0));
        assert!(faults.take(Some("b")).is_none());
        assert!(faults.take(None).is_none());
        assert!(matches!(
            faults.take(Some("a")).map(|f| f.kind),
            Some(FaultKind::Close)
        ));
    }

    #[test]
    fn labels_name_the_delay() {
        let mut faults = Faults::default();
        faults.add(Fault::delay(Duration::from_secs(2)));
        faults.add(Fault::hang());
        faults.add(Fault::close().after(Duration::from_millis(5)));
        assert_eq!(
            faults.labels(),
            ["delay of 2000 ms", "hang", "close after 5 ms"]
        );
    }

    #[test]
    fn debug_shows_no_token() {
        assert!(!format!("{:?}", Fault::hang().for_token("mat_secret")).contains("mat_secret"));
    }
}
