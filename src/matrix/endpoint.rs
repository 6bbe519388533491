//! What each endpoint needs of its caller: from method and raw path to an [`AuthRequirement`].
//!
//! The table names the families of endpoints that need a token, and the exceptions among them. A
//! path that it does not know passes without a token, since it is a 404, an endpoint of the future,
//! or another service's. A wrong *required* on a path that Synapse serves to anyone would be an
//! outage; a wrong *optional* is harmless, because Synapse checks for itself.
//!
//! MAS may live below a path of any host that the edge serves. Everything below that path is MAS's.
//!
//! The non-obvious rule: Synapse reads paths in two ways. It matches the raw path of every API, so
//! `%61ccount` is another, unknown, path. What is no API, such as `/_synapse/client/unsubscribe`, it
//! finds in a tree, and there it decodes each segment once and skips empty ones before the first.
//! The table says which is which. The paths that are never public are of the second kind too, and
//! are looked for in every encoding, since a proxy in between may decode more often.

mod blocked;
#[cfg(not(target_arch = "wasm32"))]
mod explanation;
mod family;
mod method;
mod requirement;
mod table;

use std::cell::LazyCell;

use crate::form::scan::position;

#[cfg(not(target_arch = "wasm32"))]
pub use self::explanation::{Decider, Explanation};
pub(super) use self::table::after_version;
pub use self::{method::Method, requirement::AuthRequirement};

/// What the built-in table says of a request for `target`, the raw `:path`. `method` is asked at
/// most once, and only where the answer depends on it.
pub fn classify(target: &[u8], method: impl FnOnce() -> Method) -> AuthRequirement {
    if blocked::is_blocked(path(target)) {
        return AuthRequirement::Blocked;
    }
    table::classify(path(target), &LazyCell::new(method))
}

/// The endpoints of one configuration: its rules are tried, in order, before the built-in table.
/// Neither they nor the prefix of MAS can open a blocked path.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Endpoints {
    rules: Vec<Rule>,
    /// The path that MAS lives below, without the slash at its end; empty if that is the root.
    mas_prefix: String,
}

impl Endpoints {
    /// The first rule that matches a request decides.
    pub fn new(rules: Vec<Rule>) -> Self {
        Self {
            rules,
            mas_prefix: String::new(),
        }
    }

    /// The same for a MAS whose introspection endpoint is `target`: what stands before
    /// `/oauth2/introspect` is its prefix on every host.
    #[must_use]
    pub fn with_introspection_at(mut self, target: &str) -> Self {
        let path = target.split('?').next().unwrap_or(target);
        let prefix = path.strip_suffix("/oauth2/introspect");
        self.mas_prefix = prefix.unwrap_or_default().to_owned();
        self
    }

    /// Like [`classify`], with the rules first.
    pub fn classify(&self, target: &[u8], method: impl FnOnce() -> Method) -> AuthRequirement {
        self.classify_path(path(target), method)
    }

    /// The same for a path that has no query.
    pub fn classify_path(&self, path: &[u8], method: impl FnOnce() -> Method) -> AuthRequirement {
        if blocked::is_blocked(path) {
            return AuthRequirement::Blocked;
        }
        let method = LazyCell::new(method);
        if let Some(rule) = self.rule(path, &method) {
            return rule.requirement;
        }
        match table::classify(path, &method) {
            // Only here: a prefix such as `/_matrix` must not open what the homeserver serves.
            AuthRequirement::Unknown | AuthRequirement::None
                if self.below_mas_prefix(path).is_some() =>
            {
                AuthRequirement::MasOwned
            }
            requirement => requirement,
        }
    }

    /// Whether the homeserver refuses a request for its method alone, before it looks at a token. Nothing
    /// is known of paths that a rule names, whatever methods the rule is for: who serves them is the
    /// operator's knowledge.
    pub fn refuses(&self, target: &[u8], method: Method) -> bool {
        let path = path(target);
        let is_ruled = self.rules.iter().any(|rule| rule.path.matches(path));
        !is_ruled && table::refuses(path, method)
    }

    /// The target as MAS has it: without its prefix, if it is below that.
    pub fn mas_target<'t>(&self, target: &'t [u8]) -> &'t [u8] {
        self.below_mas_prefix(target).unwrap_or(target)
    }

    fn rule<F>(&self, path: &[u8], method: &LazyCell<Method, F>) -> Option<&Rule>
    where
        F: FnOnce() -> Method,
    {
        self.rules.iter().find(|rule| {
            rule.path.matches(path)
                && rule.methods.as_ref().is_none_or(|methods| {
                    methods
                        .iter()
                        .any(|allowed| allowed.handler() == method.handler())
                })
        })
    }

    /// What of `target` follows MAS's prefix, if it has one.
    fn below_mas_prefix<'t>(&self, target: &'t [u8]) -> Option<&'t [u8]> {
        if self.mas_prefix.is_empty() {
            return None;
        }
        let rest = target.strip_prefix(self.mas_prefix.as_bytes())?;
        matches!(rest.first(), None | Some(b'/' | b'?')).then_some(rest)
    }
}

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

/// How a rule names paths. Raw bytes are compared, without the query.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PathMatch {
    /// This path and no other.
    Exact(String),
    /// Every path that starts with these bytes, as in an Envoy route.
    Prefix(String),
}

impl PathMatch {
    fn matches(&self, path: &[u8]) -> bool {
        match self {
            Self::Exact(exact) => path == exact.as_bytes(),
            Self::Prefix(prefix) => path.starts_with(prefix.as_bytes()),
        }
    }
}

/// The path of a request target: everything before the first `?`.
pub(super) fn path(target: &[u8]) -> &[u8] {
    let end = position(target, b'?');
    end.and_then(|end| target.get(..end)).unwrap_or(target)
}

#[cfg(test)]
mod tests;
