//! The differences that are meant: each has a name, the condition under which it is expected, and a section in
//! `docs/parity.md` that says why it is safe. Any other difference fails the test.
//!
//! No condition lets a request be served, or act as somebody, that Synapse alone would refuse: see [`is_bypass`].

use super::{author::Case, outcome::Outcome};

/// What became of one request on its three ways.
pub struct Outcomes {
    /// Sent to Synapse itself; HTTP/1.1 only.
    pub direct: Option<Outcome>,
    /// Through an Envoy without the module.
    pub plain: Outcome,
    /// Through the module.
    pub gated: Outcome,
}

/// A difference that is meant.
pub struct Difference {
    /// As `docs/parity.md` names it.
    pub name: &'static str,
    /// Whether `case` is one.
    pub covers: fn(&Case, &Outcomes) -> bool,
}

/// Between the module and an Envoy without it.
pub const OF_MODULE: [Difference; 0] = [];

/// Between an Envoy without the module and Synapse itself.
pub const OF_ENVOY: [Difference; 0] = [];

/// Whether the module let something through that Synapse alone would not have: this is in no list.
pub fn is_bypass(outcomes: &Outcomes) -> bool {
    let Outcomes { plain, gated, .. } = outcomes;
    let is_served = (200..400).contains(&gated.status()) && !(200..400).contains(&plain.status());
    let acts_otherwise = gated.actor().is_some() && gated.actor() != plain.actor();
    is_served || acts_otherwise
}
