//! A rule of the configuration: which paths and methods it is for, and what they need.

use alloc::{string::String, vec::Vec};

use super::{method::Method, requirement::AuthRequirement, spelling::Spelling};

/// One entry of `endpoints` in the configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// The paths it is for.
    pub path: PathMatch,
    /// The methods it is for; `None` for all. `GET` includes `HEAD`.
    pub methods: Option<Vec<Method>>,
    /// What they need.
    pub requirement: AuthRequirement,
}

impl Rule {
    /// Returns whether it is for this method.
    pub(super) fn is_for(&self, method: Method) -> bool {
        self.methods.as_ref().is_none_or(|methods| {
            let handler = method.handler();
            methods.iter().any(|allowed| allowed.handler() == handler)
        })
    }

    /// How much it asks for; 0 if no token is needed.
    pub(super) fn strictness(&self) -> u8 {
        match self.requirement {
            AuthRequirement::Admin => 2,
            AuthRequirement::Required => 1,
            _ => 0,
        }
    }
}

/// The stricter of two rules; of two that are as strict the first.
pub(super) fn stricter<'r>(one: Option<&'r Rule>, other: Option<&'r Rule>) -> Option<&'r Rule> {
    match (one, other) {
        (Some(one), Some(other)) if other.strictness() > one.strictness() => Some(other),
        (one, other) => one.or(other),
    }
}

/// How a rule names paths. Raw bytes are compared, without the query; where the rule restricts, other spellings count too.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PathMatch {
    /// This path and no other.
    Exact(String),
    /// Every path that starts with these bytes, as in an Envoy route.
    Prefix(String),
}

impl PathMatch {
    /// Returns the path as segments, to be compared with other spellings.
    pub(super) fn spelling(&self) -> Spelling {
        match self {
            Self::Exact(exact) => Spelling::of_path(exact),
            Self::Prefix(prefix) => Spelling::of_prefix(prefix),
        }
    }

    /// Returns whether it names this path, as it is on the wire.
    pub(super) fn matches(&self, path: &[u8]) -> bool {
        match self {
            Self::Exact(exact) => path == exact.as_bytes(),
            Self::Prefix(prefix) => path.starts_with(prefix.as_bytes()),
        }
    }
}
