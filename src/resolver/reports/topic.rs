//! What the lines of the log about a MAS that gives no verdicts are about.
//!
//! The non-obvious rule: the moment of the last line lies in shared data under the topic's number, and two versions of the module
//! may read it. So a number is never given to another topic. A new topic has the next one.

use crate::mas::introspection::NoVerdict;

/// Defines the topics, each with its number.
macro_rules! topics {
    ($(#[$doc:meta])* $enum:ident: $($(#[$variant_doc:meta])* $variant:ident = $number:literal,)*) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum $enum {
            $($(#[$variant_doc])* $variant = $number,)*
        }

        impl $enum {
            /// Every topic.
            pub const ALL: &[Self] = &[$(Self::$variant),*];
        }
    };
}

topics! {
    /// What a line is about.
    Topic:
    /// MAS answers.
    Answers = 0,
    /// Envoy knows no cluster of the configured name.
    UnknownCluster = 1,
    /// Envoy does not send the question.
    Undeliverable = 2,
    /// The connection to MAS fails.
    Unreachable = 3,
    /// MAS does not answer in time.
    Timeout = 4,
    /// The answer breaks off.
    Reset = 5,
    /// MAS does not take the credential.
    Credential = 6,
    /// MAS has no endpoint at the configured path.
    Path = 7,
    /// MAS redirects, or does not know its name.
    Authority = 8,
    /// MAS answers another status than 200.
    Status = 9,
    /// The answer is too long.
    Oversized = 10,
    /// The answer is not JSON.
    NotJson = 11,
    /// The answer is no introspection response.
    Malformed = 12,
    /// Envoy delivers no answer at all.
    Lost = 13,
    /// More questions at once than there are calls.
    Overloaded = 14,
}

impl Topic {
    /// How many topics there are. Their numbers are lower.
    pub const NUMBER: usize = Self::ALL.len();

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_topic_has_a_place_of_its_own() {
        let numbers = Topic::ALL.iter().map(|topic| *topic as usize);
        assert!(numbers.eq(0..Topic::NUMBER));
    }
}
