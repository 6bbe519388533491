//! Envoy asks a server for its certificate only if it is told which ones are good. Without that it speaks TLS with anyone, and
//! whoever is on the way answers for MAS: that a token is active, and whose it is.
//!
//! The non-obvious rule: a `validation_context` that has neither an authority nor a certificate checks nothing.

use super::{Deployment, Found, Rule, Severity, Spot};
use crate::{check::deployment::typed, yaml::Value};

/// The rule.
pub const RULE: Rule = Rule {
    name: "server-certificate",
    severity: Severity::Warning,
    may_point_at_secret: false,
    about: "The module asks MAS by TLS, and any certificate is taken for that of MAS.",
    check,
};

/// Deepest nesting of transport sockets that is looked at.
const MAX_DEPTH: usize = 4;

/// What becomes of a certificate that no trusted one has signed, in the order of the numbers.
const VERIFICATIONS: &[&str] = &["VERIFY_TRUST_CHAIN", "ACCEPT_UNTRUSTED"];

/// What a certificate is checked by.
const CHECKS: [&str; 6] = [
    "ca_certificate_provider_instance",
    "custom_validator_config",
    "system_root_certs",
    "trusted_ca",
    "verify_certificate_hash",
    "verify_certificate_spki",
];

/// Where what a certificate is checked by comes from elsewhere.
const ELSEWHERE: [&str; 3] = [
    "validation_context_certificate_provider",
    "validation_context_certificate_provider_instance",
    "validation_context_sds_secret_config",
];

fn check<'t>(deployment: &Deployment<'t>, found: &mut Found<'t>) {
    for one in &deployment.uses {
        let asked = one.config().map(|config| &config.introspection.cluster);
        let Some(cluster) = asked.and_then(|name| deployment.cluster(one, name)) else {
            continue;
        };
        let matches = cluster.list(&["transport_socket_matches"]);
        let sockets = matches.filter_map(|one| one.get("transport_socket"));
        for socket in cluster.get("transport_socket").into_iter().chain(sockets) {
            check_socket(socket, found);
        }
    }
}

fn check_socket<'t>(socket: Value<'t>, found: &mut Found<'t>) {
    let mut inner = Some(socket);
    for _ in 0..MAX_DEPTH {
        let Some((kind, config)) = inner
            .and_then(|socket| socket.get("typed_config"))
            .and_then(typed)
        else {
            return;
        };
        if kind.ends_with(".UpstreamTlsContext") {
            if let Some(spot) = unchecked(config) {
                found.add(
                    spot,
                    "no certificate is asked for that only MAS has: whoever is on the way to MAS answers in its place, that a \
                     token is active or that it is not",
                    "write `validation_context: { trusted_ca: .., match_typed_subject_alt_names: .. }` with the authority and the \
                     name of MAS's certificate",
                );
            }
            return;
        }
        inner = config.get("transport_socket");
    }
}

/// Where a configuration of TLS lets any certificate pass.
fn unchecked<'t>(config: Value<'t>) -> Option<Spot<'t>> {
    let key = "common_tls_context";
    let Some(common) = config.get(key) else {
        return Some(Spot::value(config));
    };
    let combined = common.get("combined_validation_context");
    let of_combined = combined.and_then(|it| it.get("default_validation_context"));
    let context = common.get("validation_context").or(of_combined);
    let verification = "trust_chain_verification";
    if let Some(context) = context
        && context.name_at(&[verification], VERIFICATIONS) == Some("ACCEPT_UNTRUSTED")
    {
        return Some(Spot::key(context, verification));
    }
    let has_any = |value: Option<Value<'t>>, keys: &[&str]| {
        value.is_some_and(|value| keys.iter().any(|key| value.get(key).is_some()))
    };
    let is_checked = has_any(context, &CHECKS)
        || has_any(Some(common), &ELSEWHERE)
        || has_any(combined, &ELSEWHERE);
    (!is_checked).then(|| Spot::key(config, key))
}
