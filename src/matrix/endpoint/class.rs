//! What the table and the rules say of a request: what it needs, and which methods are served there.
//!
//! The non-obvious rule: which methods are served is known only where a family of the table decides, and there are no rules,
//! since a rule may name the path for another method. Everywhere else the caller asks
//! [`Endpoints::refuses`](super::Endpoints::refuses).

use super::{method::Method, requirement::AuthRequirement};

/// What is known of a request by its path and method.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Class {
    /// What it needs.
    pub requirement: AuthRequirement,
    /// Which methods are served there.
    pub served: Served,
}

impl From<AuthRequirement> for Class {
    fn from(requirement: AuthRequirement) -> Self {
        Self {
            requirement,
            served: Served::default(),
        }
    }
}

/// The methods that the homeserver has handlers for on a path, if they were looked up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Served(pub(super) Option<&'static [Method]>);

impl Served {
    /// Returns whether the homeserver refuses a request for its method alone. `None`: that was not looked up, see
    /// [`Endpoints::refuses`](super::Endpoints::refuses).
    pub fn refuses(self, method: Method) -> Option<bool> {
        self.0.map(|served| !served.contains(&method.handler()))
    }
}
