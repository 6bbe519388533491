//! The operator chooses the tokens of application services, and MAS does not know them. A gateway that refuses foreign
//! tokens refuses every bridge whose token is not listed.

use matrix_edge_auth::config::UnrecognizedTokens;

use super::{Deployment, Found, Rule, Severity};

/// The rule.
pub const RULE: Rule = Rule {
    name: "bridges",
    severity: Severity::Warning,
    may_point_at_secret: false,
    about: "Foreign tokens are refused, and no appservice is listed: every bridge gets 401.",
    check,
};

fn check<'t>(deployment: &Deployment<'t>, found: &mut Found<'t>) {
    for one in deployment.gateways() {
        let Some(config) = one.config() else {
            continue;
        };
        // An empty list says that there are no bridges, and is no oversight.
        let is_listed = one
            .configuration
            .is_some_and(|configuration| configuration.get("appservice_tokens").is_some());
        if config.unrecognized_tokens != UnrecognizedTokens::Pass && !is_listed {
            found.add(
                one.key(&["unrecognized_tokens"]),
                "tokens that MAS did not issue are refused, and no appservice's is listed: every bridge gets 401",
                "list them under `appservice_tokens`: `matrix-edge-auth digest --registration FILE..` prints it; without any \
                 bridge write `appservice_tokens: []`",
            );
        }
    }
}
