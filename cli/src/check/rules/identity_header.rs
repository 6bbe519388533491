//! The homeserver believes the identity headers, since the module writes them. So nothing else may: neither a filter behind the
//! module nor a route, out of what a client sends or with a value of its own.
//!
//! The non-obvious rule: a header that is only added where it is absent is added to requests without an identity. Before the module
//! anyone may write the headers, since the module takes them out.

mod envoy;
mod gateway_api;
mod istio;

use super::{Deployment, Found, Rule, Severity, Spot};

/// The rule.
pub const RULE: Rule = Rule {
    name: "identity-header",
    severity: Severity::Error,
    may_point_at_secret: false,
    about: "Something else than the module writes an identity header, and the homeserver believes it.",
    check,
};

fn check<'t>(deployment: &Deployment<'t>, found: &mut Found<'t>) {
    envoy::check(deployment, found);
    istio::check(deployment, found);
    gateway_api::check(deployment, found);
}

/// Whether a path, the beginning of one or an expression names what is the homeserver's.
fn is_of_matrix(path: &str) -> bool {
    path.contains("_matrix") || path.contains("_synapse")
}

/// Tells of where a header is written.
fn tell<'t, S: Into<Spot<'t>>>(written: Vec<(S, &str)>, found: &mut Found<'t>) {
    for (spot, header) in written {
        tell_at(spot.into(), header, found);
    }
}

fn tell_at<'t>(spot: Spot<'t>, header: &str, found: &mut Found<'t>) {
    found.add(
        spot,
        format!(
            "`{header}` is written here, behind the module: the homeserver believes it as if the module had written it, also \
             on requests without a token"
        ),
        "leave this header to the module, and write another one; what the module found is in the filter state \
         (`%FILTER_STATE(wasm.matrix_user_id:PLAIN)%`, with `filter_state: true`)",
    );
}
