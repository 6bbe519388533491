//! What the lines of the log about a MAS that gives no verdicts are about.

use crate::mas::introspection::NoVerdict;

/// What a line is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Topic {
    /// MAS answers.
    Answers,
    /// Envoy knows no cluster of the configured name.
    UnknownCluster,
    /// Envoy does not send the question.
    Undeliverable,
    /// The connection to MAS fails.
    Unreachable,
    /// MAS does not answer in time.
    Timeout,
    /// The answer breaks off.
    Reset,
    /// MAS does not take the credential.
    Credential,
    /// MAS has no endpoint at the configured path.
    Path,
    /// MAS redirects, or does not know its name.
    Authority,
    /// MAS answers another status than 200.
    Status,
    /// The answer is too long.
    Oversized,
    /// The answer is not JSON.
    NotJson,
    /// The answer is no introspection response.
    Malformed,
    /// Envoy delivers no answer at all.
    Lost,
    /// More questions at once than there are calls.
    Overloaded,
}

impl Topic {
    /// How many topics there are.
    pub const NUMBER: usize = Self::Overloaded as usize + 1;

    /// Returns what a question without a verdict is about. `None`: another worker tells of it, or there is nothing wrong with MAS.
    pub fn of(why: NoVerdict) -> Option<Self> {
        Some(match why {
            NoVerdict::UnknownCluster => Self::UnknownCluster,
            NoVerdict::Undeliverable => Self::Undeliverable,
            NoVerdict::Unreachable(_) => Self::Unreachable,
            NoVerdict::Timeout => Self::Timeout,
            NoVerdict::Reset => Self::Reset,
            NoVerdict::Status(401 | 403) => Self::Credential,
            NoVerdict::Status(404 | 405 | 410) => Self::Path,
            NoVerdict::Status(300..=399 | 421) => Self::Authority,
            NoVerdict::Status(_) => Self::Status,
            NoVerdict::Oversized => Self::Oversized,
            NoVerdict::NotJson => Self::NotJson,
            NoVerdict::Malformed => Self::Malformed,
            NoVerdict::Lost => Self::Lost,
            NoVerdict::Overloaded => Self::Overloaded,
            NoVerdict::Elsewhere
            | NoVerdict::OverBudget { .. }
            | NoVerdict::Outdated
            | NoVerdict::TokenTooLong => {
                return None;
            }
        })
    }
}
