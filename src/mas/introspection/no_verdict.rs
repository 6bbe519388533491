//! Why there is no verdict: the question was not asked, or what came back is no introspection response.
//!
//! The non-obvious rule: Envoy answers a call itself if MAS does not, and such a reply looks like MAS's own. Only its
//! text tells them apart. The text is read for a few known words and never shown: it may come from elsewhere.

use crate::metrics::IntrospectionOutcome;

/// Why there is no verdict. Never cached, never a 401.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum NoVerdict {
    /// The call could not be made: Envoy knows no such cluster.
    UnknownCluster,
    /// The call could not be made: no healthy host, circuit breaker, missing credential.
    Undeliverable,
    /// Envoy's own reply: the connection failed before MAS answered.
    Unreachable(ConnectionFault),
    /// Envoy's own reply: MAS did not answer in time.
    Timeout,
    /// The call ended without a response: reset, or a body over Envoy's own limit.
    Reset,
    /// Another status than 200.
    Status(u16),
    /// A body over [`MAX_RESPONSE_BYTES`](super::MAX_RESPONSE_BYTES).
    Oversized,
    /// A 200 whose content type is not JSON, for example a page of HTML.
    NotJson,
    /// Not an introspection response: not JSON, truncated, `active` missing or not a boolean.
    Malformed,
    /// The answer never came; the deadline of the call passed.
    Lost,
    /// Not asked: too many calls in flight or requests waiting on this worker.
    Overloaded,
    /// Not asked: no token of MAS is as long, and a question holds its token while it waits.
    TokenTooLong,
    /// Not asked: a call about the token, of this worker or another, has just failed.
    Elsewhere,
    /// MAS has told of the user, or of somebody who may be the user, during each call: its answer may be from before.
    Outdated,
    /// Not asked: this client brought too many inactive tokens.
    OverBudget {
        /// When it may try again.
        retry_after_ms: u64,
    },
}

/// What a missing verdict says of MAS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Statement {
    /// MAS has failed. It may have been asked, so that asking again at once would only add to its load.
    Failed,
    /// MAS cannot be asked. Envoy held the question back, which says nothing of the next one and cost MAS nothing.
    NotSent,
    /// MAS may be slow: there is more to ask at once than there are calls.
    Overloaded,
    /// MAS is well, and what it said before does not hold any more.
    Outdated,
    /// Nothing: what the client sent is the reason.
    Nothing,
}

/// What ended a connection to MAS, as Envoy calls it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ConnectionFault {
    /// No host of the cluster is healthy.
    NoHealthyHost,
    /// More calls or connections than a circuit breaker of the cluster allows.
    Overflow,
    /// No connection came about, or no TLS session on it: Envoy does not tell which.
    Failure,
    /// None came about in time.
    ConnectTimeout,
    /// MAS closed the connection.
    Termination,
    /// MAS, or what stands in between, ended the stream.
    StreamReset,
    /// What came back is not HTTP, or not of the version that the cluster says.
    Protocol,
    /// Something else.
    Other,
}

/// What Envoy's replies to a failed connection begin with.
const CONNECTION_FAILED: &[u8] = b"upstream connect error or disconnect/reset before headers";

/// Envoy's whole reply where no host can be asked.
const NO_HEALTHY_HOST: &[u8] = b"no healthy upstream";

/// Envoy's whole reply to a call past its timeout.
const TIMED_OUT: &[u8] = b"upstream request timeout";

/// How far a reply is read.
const MAX_REPLY_BYTES: usize = 1_024;

/// Words of Envoy's replies. The first that is found counts.
const FAULTS: [(&[u8], ConnectionFault); 8] = [
    (b"connection failure", ConnectionFault::Failure),
    (b"connection timeout", ConnectionFault::ConnectTimeout),
    (b"connection termination", ConnectionFault::Termination),
    (b"protocol error", ConnectionFault::Protocol),
    (b"overflow", ConnectionFault::Overflow),
    (b"refused stream", ConnectionFault::StreamReset),
    (b"remote reset", ConnectionFault::StreamReset),
    (b"local reset", ConnectionFault::StreamReset),
];

impl NoVerdict {
    /// Returns what a response with another status than 200 says: whether it is MAS's own or Envoy's.
    pub fn of_status(status: u16, body: &[u8]) -> Self {
        match status {
            504 if body == TIMED_OUT => Self::Timeout,
            503 if body == NO_HEALTHY_HOST => Self::Unreachable(ConnectionFault::NoHealthyHost),
            502 | 503 if body.starts_with(CONNECTION_FAILED) => {
                let body = body.get(..MAX_REPLY_BYTES).unwrap_or(body);
                let contains = |word: &[u8]| body.windows(word.len()).any(|part| part == word);
                let fault = FAULTS.iter().find(|(word, _)| contains(word));
                Self::Unreachable(fault.map_or(ConnectionFault::Other, |(_, fault)| *fault))
            }
            _ => Self::Status(status),
        }
    }

    /// Returns whether it says that MAS cannot be asked, or gave no answer. Otherwise MAS may be as well as ever.
    pub const fn is_failure(self) -> bool {
        matches!(self.says(), Statement::Failed | Statement::NotSent)
    }

    /// Returns whether no worker is to ask about the token again for a while: MAS may have been asked and gave no answer.
    pub const fn holds_off_others(self) -> bool {
        matches!(self.says(), Statement::Failed)
    }

    /// Returns what has happened to the connection if it failed before MAS began to answer, so that the call may be repeated. A
    /// call that Envoy held back is not repeated: nothing has changed a moment later.
    pub fn lost_connection(self) -> Option<ConnectionFault> {
        match self {
            Self::Unreachable(fault) if self.holds_off_others() => Some(fault),
            _ => None,
        }
    }

    /// Returns whether a stale answer may serve.
    pub const fn admits_stale(self) -> bool {
        !matches!(self.says(), Statement::Outdated | Statement::Nothing)
    }

    /// Returns what it says of MAS. All that follows from that is decided above.
    const fn says(self) -> Statement {
        use ConnectionFault as Fault;
        match self {
            Self::UnknownCluster
            | Self::Undeliverable
            | Self::Unreachable(Fault::NoHealthyHost | Fault::Overflow) => Statement::NotSent,
            Self::Unreachable(
                Fault::Failure
                | Fault::ConnectTimeout
                | Fault::Termination
                | Fault::StreamReset
                | Fault::Protocol
                | Fault::Other,
            )
            | Self::Timeout
            | Self::Reset
            | Self::Status(_)
            | Self::Oversized
            | Self::NotJson
            | Self::Malformed
            | Self::Lost
            | Self::Elsewhere => Statement::Failed,
            Self::Overloaded => Statement::Overloaded,
            Self::Outdated => Statement::Outdated,
            Self::TokenTooLong | Self::OverBudget { .. } => Statement::Nothing,
        }
    }

    /// Returns what the metrics call it; `None` if this worker tried to ask nothing, or if MAS has answered.
    pub const fn outcome(self) -> Option<IntrospectionOutcome> {
        match self {
            Self::UnknownCluster | Self::Undeliverable => Some(IntrospectionOutcome::Undeliverable),
            Self::Unreachable(_) => Some(IntrospectionOutcome::Unreachable),
            Self::Timeout => Some(IntrospectionOutcome::Timeout),
            Self::Reset => Some(IntrospectionOutcome::Reset),
            Self::Status(_) => Some(IntrospectionOutcome::Status),
            Self::Oversized => Some(IntrospectionOutcome::Oversized),
            Self::NotJson | Self::Malformed => Some(IntrospectionOutcome::Malformed),
            Self::Lost => Some(IntrospectionOutcome::Lost),
            Self::Overloaded => Some(IntrospectionOutcome::Overloaded),
            Self::Elsewhere | Self::OverBudget { .. } | Self::Outdated | Self::TokenTooLong => None,
        }
    }
}

impl ConnectionFault {
    /// Returns it in words.
    pub const fn text(self) -> &'static str {
        match self {
            Self::NoHealthyHost => "no host of the cluster is healthy",
            Self::Overflow => "a circuit breaker of the cluster allows no more",
            Self::Failure => "no connection came about",
            Self::ConnectTimeout => "no connection came about in time",
            Self::Termination => "the connection was closed",
            Self::StreamReset => "the stream was reset",
            Self::Protocol => {
                "what came back is not HTTP of the version that the cluster is set to"
            }
            Self::Other => "the connection failed",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As Envoy writes them; the transport failure reason only before 1.40.
    #[test]
    fn envoys_own_replies_are_told_from_those_of_mas() {
        use ConnectionFault as Fault;
        for (status, body, expected) in [
            (504, "upstream request timeout", NoVerdict::Timeout),
            (
                503,
                "no healthy upstream",
                NoVerdict::Unreachable(Fault::NoHealthyHost),
            ),
            (
                503,
                "upstream connect error or disconnect/reset before headers. reset reason: remote connection failure, \
                 transport failure reason: delayed connect error: Connection refused",
                NoVerdict::Unreachable(Fault::Failure),
            ),
            (
                503,
                "upstream connect error or disconnect/reset before headers. retried and the latest reset reason: \
                 connection termination",
                NoVerdict::Unreachable(Fault::Termination),
            ),
            (
                503,
                "upstream connect error or disconnect/reset before headers. reset reason: remote connection failure, \
                 transport failure reason: TLS_error:|268435581:SSL routines:OPENSSL_internal:CERTIFICATE_VERIFY_FAILED",
                NoVerdict::Unreachable(Fault::Failure),
            ),
            (
                502,
                "upstream connect error or disconnect/reset before headers. reset reason: protocol error",
                NoVerdict::Unreachable(Fault::Protocol),
            ),
            (
                503,
                "upstream connect error or disconnect/reset before headers. reset reason: overflow",
                NoVerdict::Unreachable(Fault::Overflow),
            ),
            (
                503,
                "upstream connect error or disconnect/reset before headers",
                NoVerdict::Unreachable(Fault::Other),
            ),
            (503, "upstream", NoVerdict::Status(503)),
            (503, "", NoVerdict::Status(503)),
            (504, "no healthy upstream", NoVerdict::Status(504)),
            (401, "upstream request timeout", NoVerdict::Status(401)),
        ] {
            assert_eq!(
                NoVerdict::of_status(status, body.as_bytes()),
                expected,
                "{body}"
            );
        }
    }

    /// Makes a list of the reasons and what follows from each. The compiler asks for a row of a new one.
    macro_rules! rows {
        ($($pattern:pat = $reason:expr => $expected:expr,)*) => {{
            let _ = |reason| match reason {
                $($pattern => {})*
            };
            [$(($reason, $expected)),*]
        }};
    }

    #[test]
    fn what_follows_from_a_missing_verdict() {
        use ConnectionFault::*;
        use NoVerdict::*;
        // Whether it is a failure of MAS; whether no worker asks again for a while; whether a stale answer may serve.
        const FAILED: [bool; 3] = [true, true, true];
        const NOT_SENT: [bool; 3] = [true, false, true];
        let rows = rows![
            UnknownCluster = UnknownCluster => NOT_SENT,
            Undeliverable = Undeliverable => NOT_SENT,
            Unreachable(NoHealthyHost) = Unreachable(NoHealthyHost) => NOT_SENT,
            Unreachable(Overflow) = Unreachable(Overflow) => NOT_SENT,
            Unreachable(Failure) = Unreachable(Failure) => FAILED,
            Unreachable(ConnectTimeout) = Unreachable(ConnectTimeout) => FAILED,
            Unreachable(Termination) = Unreachable(Termination) => FAILED,
            Unreachable(StreamReset) = Unreachable(StreamReset) => FAILED,
            Unreachable(Protocol) = Unreachable(Protocol) => FAILED,
            Unreachable(Other) = Unreachable(Other) => FAILED,
            Timeout = Timeout => FAILED,
            Reset = Reset => FAILED,
            Status(_) = Status(500) => FAILED,
            Oversized = Oversized => FAILED,
            NotJson = NotJson => FAILED,
            Malformed = Malformed => FAILED,
            Lost = Lost => FAILED,
            Elsewhere = Elsewhere => FAILED,
            Overloaded = Overloaded => [false, false, true],
            TokenTooLong = TokenTooLong => [false, false, false],
            Outdated = Outdated => [false, false, false],
            OverBudget { .. } = OverBudget { retry_after_ms: 1 } => [false, false, false],
        ];
        for (why, expected) in rows {
            let follows = [why.is_failure(), why.holds_off_others(), why.admits_stale()];
            assert_eq!(follows, expected, "{why:?}");
        }
    }

    #[test]
    fn a_long_reply_is_read_from_its_beginning_only() {
        let mut body = CONNECTION_FAILED.to_vec();
        body.extend(vec![b' '; MAX_REPLY_BYTES]);
        body.extend(b"overflow");
        let expected = NoVerdict::Unreachable(ConnectionFault::Other);
        assert_eq!(NoVerdict::of_status(503, &body), expected);
    }
}
