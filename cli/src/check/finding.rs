//! What a rule found: where, what is wrong, and what to write instead.

use crate::yaml::{Place, Tree, Value};

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// Requests pass unverified, the module does not start, or a role does nothing.
    Error,
    /// The deployment works until something happens: a restart of MAS, a failed VM, a client that lies.
    Warning,
    /// The files do not tell whether something is wrong. No rule has this severity, but a finding of any rule may.
    Note,
}

impl Severity {
    /// Its name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warning => "warning",
            Self::Note => "note",
        }
    }
}

/// One finding.
pub struct Finding<'t> {
    /// The rule's name; `configuration` is the module's own refusal.
    pub rule: &'static str,
    /// How bad it is.
    pub severity: Severity,
    /// Whether the line may have a secret, though no key in it tells.
    pub may_be_secret: bool,
    /// The file.
    pub tree: &'t Tree,
    /// Where in it.
    pub place: Place,
    /// What is wrong.
    pub message: String,
    /// What to write instead.
    pub help: String,
}

/// Where a finding points.
#[derive(Clone)]
pub struct Spot<'t> {
    /// The file.
    pub tree: &'t Tree,
    /// Where in it.
    pub place: Place,
}

impl<'t> Spot<'t> {
    /// A value.
    pub fn value(value: Value<'t>) -> Self {
        Self {
            tree: value.tree,
            place: value.place(),
        }
    }

    /// The key of a member, or the whole if there is no such key.
    pub fn key(value: Value<'t>, key: &str) -> Self {
        Self {
            tree: value.tree,
            place: value.key_place(key).unwrap_or_else(|| value.place()),
        }
    }

    /// The first of these keys that the value has, or the whole if it has none of them.
    pub fn first_key(value: Value<'t>, keys: &[&str]) -> Self {
        let place = keys.iter().find_map(|key| value.key_place(key));
        Self {
            tree: value.tree,
            place: place.unwrap_or_else(|| value.place()),
        }
    }
}
