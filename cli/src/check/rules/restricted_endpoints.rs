//! A rule of `endpoints` with `required` or `admin` is for paths whose tokens the homeserver does not judge. A token that
//! the module leaves to the homeserver passes there, too, and nobody judges it.

use matrix_edge_auth::config::{FormTokens, UnrecognizedTokens};

use super::{Deployment, Found, Rule, Severity};

/// The rule.
pub const RULE: Rule = Rule {
    name: "restricted-endpoints",
    severity: Severity::Warning,
    may_point_at_secret: false,
    about: "A rule of `endpoints` asks for a token, and what is no token of MAS passes it.",
    check,
};

fn check<'t>(deployment: &Deployment<'t>, found: &mut Found<'t>) {
    for one in deployment.gateways() {
        let Some(config) = one.config() else {
            continue;
        };
        let foreign = config.unrecognized_tokens == UnrecognizedTokens::Pass;
        let forms = config.form_tokens == FormTokens::Pass;
        let (passes, help) = match (foreign, forms) {
            (true, true) => (
                "any string that is not in the format of MAS's tokens, and any form-encoded `POST`",
                "`unrecognized_tokens: reject`, with the bridges' tokens in `appservice_tokens`, and `form_tokens: reject`",
            ),
            (true, false) => (
                "any string that is not in the format of MAS's tokens",
                "`unrecognized_tokens: reject`, with the bridges' tokens in `appservice_tokens`",
            ),
            (false, true) => ("any form-encoded `POST`", "`form_tokens: reject`"),
            (false, false) => continue,
        };
        if config.endpoints.restricts() {
            found.add(
                one.key(&["endpoints"]),
                format!("{passes} passes the rules of `required` and `admin`"),
                format!("write {help}, unless who serves these paths checks tokens itself"),
            );
        }
    }
}
