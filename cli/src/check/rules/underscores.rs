//! To some servers `x_matrix_user_id` and `x-matrix-user-id` are one header. The module removes every spelling of its own
//! headers. Only Envoy can keep out headers that other filters and servers believe.

use super::{Deployment, Found, Rule, Severity, Spot, routes::before_servers};
use crate::{check::deployment::Host, yaml::Value};

/// The rule.
pub const RULE: Rule = Rule {
    name: "underscores",
    severity: Severity::Warning,
    may_point_at_secret: false,
    about: "A client may send headers with underscores, which some servers take for those with hyphens.",
    check,
};

const MESSAGE: &str = "a client may send headers with underscores, which some servers read as those with hyphens: it could \
                       forge what another filter sets";
const KEY: &str = "headers_with_underscores_action";

fn check<'t>(deployment: &Deployment<'t>, found: &mut Found<'t>) {
    for one in before_servers(deployment) {
        match (one.host, one.entry) {
            (Host::Envoy, Some(entry)) if !is_safe(entry.manager) => {
                let options = entry.manager.get("common_http_protocol_options");
                let spot = match options.filter(|options| options.get(KEY).is_some()) {
                    Some(options) => Spot::key(options, KEY),
                    None => Spot::first_key(
                        entry.manager,
                        &["common_http_protocol_options", "stat_prefix"],
                    ),
                };
                let help =
                    format!("write `common_http_protocol_options: {{ {KEY}: REJECT_REQUEST }}`");
                found.add(spot, MESSAGE, help);
            }
            (Host::WasmPlugin | Host::EnvoyFilter, _)
                if !deployment.merged_managers(one).any(is_safe) =>
            {
                found.add(
                    one.spot(),
                    format!("Istio lets headers with underscores pass, and no EnvoyFilter of these files says otherwise: \
                             {MESSAGE}"),
                    "apply envoy/istio/connection.yaml as well; if you do, give it to `check` together with this file",
                );
            }
            (Host::EnvoyGateway, _) => {
                for policy in deployment.policies_for([one].into_iter()) {
                    let headers = policy.at(&["spec", "headers"]);
                    let key = "withUnderscoresAction";
                    if let Some(headers) = headers.filter(|it| it.text_at(&[key]) == Some("Allow"))
                    {
                        let help = format!("write `{key}: RejectRequest`, which is the default");
                        found.add(Spot::key(headers, key), MESSAGE, help);
                    }
                }
            }
            _ => {}
        }
    }
}

/// The actions, in the order of their numbers.
const ACTIONS: &[&str] = &["ALLOW", "REJECT_REQUEST", "DROP_HEADER"];

fn is_safe(manager: Value<'_>) -> bool {
    let action = manager.name_at(&["common_http_protocol_options", KEY], ACTIONS);
    matches!(action, Some("REJECT_REQUEST" | "DROP_HEADER"))
}
