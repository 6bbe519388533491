//! Tokens of application services are strings of the operator's own choosing, which MAS does not know. Where foreign tokens
//! are refused, every bridge is, unless its token is listed.

use matrix_edge_auth::config::UnrecognizedTokens;

use super::{Deployment, Found, Rule, Severity};

/// The rule.
pub const RULE: Rule = Rule {
    name: "bridges",
    severity: Severity::Warning,
    about: "Foreign tokens are refused, and no appservice is listed: every bridge gets 401.",
    check,
};

fn check<'t>(deployment: &Deployment<'t>, found: &mut Found<'t>) {
    for one in deployment.gateways() {
        let Some(config) = one.config() else {
            continue;
        };
        if config.unrecognized_tokens != UnrecognizedTokens::Pass
            && config.appservice_tokens.is_empty()
        {
            found.add(
                one.key(&["unrecognized_tokens"]),
                "tokens that MAS did not issue are refused, and no appservice's is listed: every bridge gets 401",
                "list them under `appservice_tokens`: `matrix-edge-auth digest --registration FILE..` prints it",
            );
        }
    }
}
