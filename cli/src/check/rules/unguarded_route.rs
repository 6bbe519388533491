//! A route that leads to the homeserver past the module: its requests reach the server unverified, and with the identity headers
//! that a client wrote.

mod envoy;
mod gateway_api;
mod ingress;
mod istio;
mod matcher;
mod upgrades;

use super::{Deployment, Found, Rule, Severity, Spot};

/// The rule.
pub const RULE: Rule = Rule {
    name: "unguarded-route",
    severity: Severity::Error,
    may_point_at_secret: false,
    about: "A route leads to the homeserver past the module, which is for other routes alone.",
    check,
};

/// Paths of the homeserver that need no token, such as those of federation.
const OPEN: [&str; 3] = ["/_matrix/federation", "/_matrix/key", "/.well-known"];

/// What is told of a route with an expression that cannot be tried.
const UNREAD: &str = "the regular expression of this route cannot be tried here: whether requests that need a token pass by the \
                      module this way is not known";

fn check<'t>(deployment: &Deployment<'t>, found: &mut Found<'t>) {
    envoy::check(deployment, found);
    gateway_api::check(deployment, found);
    istio::check(deployment, found);
    ingress::check(deployment, found);
}
