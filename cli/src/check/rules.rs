//! The rules: a file for each, with the trap, why it is one, and what to write instead.
//!
//! What is named here and not in [`RULES`] is no rule: several rules ask it about the routes of requests.
//! docs/internals/development.md says how a rule is added.

mod admin_interface;
mod bridges;
mod budget_address;
mod capabilities;
mod circuit_breaker;
mod configuration;
mod duplicate_key;
mod environment;
mod fail_closed;
mod fail_open;
mod filter_order;
mod forwarded_for;
mod homeserver;
mod hosts;
mod http_rules;
mod identity_header;
mod idle_timeout;
mod injected_route;
mod internal_address;
mod introspection_buffer;
mod labels;
mod leads;
mod long_ttl;
mod matcher;
mod merge_key;
mod missing_capability;
mod missing_injector;
mod path_normalisation;
mod path_rule;
mod placeholder;
mod question;
mod restricted_endpoints;
mod retries;
mod route_lists;
mod routes;
mod samples;
mod server_certificate;
mod servers;
mod shared_cluster;
mod shared_vm;
mod short_ttl;
mod slots;
mod stop_iteration;
mod sync_timeout;
mod tokens;
mod traefik;
mod underscores;
mod unguarded_route;
mod unknown_cluster;
mod upgrades;
mod upstream_filter;
mod virtual_routes;
mod visible_secret;
mod vm_id;

use std::collections::HashSet;

pub use self::placeholder::remaining;
use super::{
    deployment::Deployment,
    envoy::{bare_listener, endpoints},
    finding::{Finding, Severity, Spot},
    headers::{string_matcher, written},
};
use crate::yaml::Tree;

/// One rule.
pub struct Rule {
    /// Its name, which does not change.
    pub name: &'static str,
    /// How bad its findings are.
    pub severity: Severity,
    /// Whether a line that it points at may have a secret, though no key in the line tells.
    pub may_point_at_secret: bool,
    /// What it finds, in one sentence.
    pub about: &'static str,
    /// Adds what it finds.
    check: for<'d, 't> fn(&'d Deployment<'t>, &mut Found<'t>),
}

/// All rules, by name.
pub const RULES: &[Rule] = &[
    admin_interface::RULE,
    bridges::RULE,
    budget_address::RULE,
    capabilities::RULE,
    circuit_breaker::RULE,
    configuration::RULE,
    duplicate_key::RULE,
    environment::RULE,
    fail_closed::RULE,
    fail_open::RULE,
    filter_order::RULE,
    forwarded_for::RULE,
    identity_header::RULE,
    idle_timeout::RULE,
    injected_route::RULE,
    internal_address::RULE,
    introspection_buffer::RULE,
    labels::RULE,
    long_ttl::RULE,
    merge_key::RULE,
    missing_capability::RULE,
    missing_injector::RULE,
    path_normalisation::RULE,
    placeholder::RULE,
    question::RULE,
    restricted_endpoints::RULE,
    retries::RULE,
    server_certificate::RULE,
    shared_cluster::RULE,
    shared_vm::RULE,
    short_ttl::RULE,
    slots::RULE,
    stop_iteration::RULE,
    sync_timeout::RULE,
    underscores::RULE,
    unguarded_route::RULE,
    unknown_cluster::RULE,
    upgrades::RULE,
    upstream_filter::RULE,
    visible_secret::RULE,
    vm_id::RULE,
];

/// What one rule found.
#[derive(Default)]
pub struct Found<'t>(Vec<Remark<'t>>);

/// A finding, or a note, of one rule.
struct Remark<'t> {
    spot: Spot<'t>,
    message: String,
    help: String,
    is_note: bool,
}

impl<'t> Found<'t> {
    /// Adds a finding: where, what is wrong, and what to write instead. Without a place there is nothing to point at, and
    /// nothing is added.
    fn add(
        &mut self,
        spot: impl Into<Option<Spot<'t>>>,
        message: impl Into<String>,
        help: impl Into<String>,
    ) {
        if let Some(spot) = spot.into() {
            self.0.push(Remark {
                spot,
                message: message.into(),
                help: help.into(),
                is_note: false,
            });
        }
    }

    /// Adds a note: what cannot be known from the files, and what would tell.
    fn note(
        &mut self,
        spot: impl Into<Option<Spot<'t>>>,
        message: impl Into<String>,
        help: impl Into<String>,
    ) {
        if let Some(spot) = spot.into() {
            self.0.push(Remark {
                spot,
                message: message.into(),
                help: help.into(),
                is_note: true,
            });
        }
    }
}

/// Applies all rules. Each rule says one thing of one place once, also if aliases put the place into several others.
pub fn apply<'t>(deployment: &Deployment<'t>) -> Vec<Finding<'t>> {
    let mut findings: Vec<Finding<'t>> = Vec::new();
    for rule in RULES {
        let mut found = Found::default();
        (rule.check)(deployment, &mut found);
        let mut told = HashSet::new();
        for remark in found.0 {
            let Spot { tree, place } = remark.spot;
            let file: *const Tree = tree;
            let message = remark.message.clone();
            if told.insert((file, place.clone(), remark.is_note, message)) {
                findings.push(Finding {
                    rule: rule.name,
                    may_be_secret: rule.may_point_at_secret,
                    severity: if remark.is_note {
                        Severity::Note
                    } else {
                        rule.severity
                    },
                    tree,
                    place,
                    message: remark.message,
                    help: remark.help,
                });
            }
        }
    }
    findings
}
