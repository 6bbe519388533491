//! The introspection role reads a form of up to 64 KiB. Envoy refuses a form that is longer than its buffer.

use matrix_edge_auth::config::Role;

use super::{Deployment, Found, Rule, Severity, Spot};

/// The rule.
pub const RULE: Rule = Rule {
    name: "introspection-buffer",
    severity: Severity::Warning,
    may_point_at_secret: false,
    about: "An introspection listener buffers less than the longest form that the role reads.",
    check,
};

const KEY: &str = "per_connection_buffer_limit_bytes";
const FORM: u64 = 65_536;

fn check<'t>(deployment: &Deployment<'t>, found: &mut Found<'t>) {
    for one in &deployment.uses {
        let listener = one.entry.and_then(|entry| entry.listener);
        let Some(listener) = listener.filter(|_| one.is(Role::Introspection)) else {
            continue;
        };
        if listener.number_at(&[KEY]).is_some_and(|limit| limit < FORM) {
            found.add(
                Spot::key(listener, KEY),
                "Envoy refuses a form that is longer than this, and the role reads forms of up to 64 KiB",
                format!("write `{KEY}: {FORM}`, or leave it out: Envoy's default is more"),
            );
        }
    }
}
