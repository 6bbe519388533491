//! Envoy asks a server for its certificate only if it is told which ones are good. Without that it speaks TLS with anyone, and
//! whoever is on the way answers for MAS: that a token is active, and whose it is.
//!
//! The non-obvious rule: a `validation_context` that has neither an authority nor a certificate checks nothing. One that has the
//! authorities of the public, and no name, takes the certificate of anyone who has one: Envoy asks for the name in `sni`, but does
//! not compare it.

use super::{Deployment, Found, Rule, Severity, Spot, string_matcher::StringMatcher};
use crate::{
    check::deployment::{protocols, typed},
    yaml::Value,
};

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

/// What a certificate is checked by that only one server has, or that is not known.
const PINS: [&str; 4] = [
    "ca_certificate_provider_instance",
    "custom_validator_config",
    "verify_certificate_hash",
    "verify_certificate_spki",
];

/// The names that a certificate may have.
const NAMES: [&str; 2] = ["match_subject_alt_names", "match_typed_subject_alt_names"];

/// Where systems have the authorities of the public.
const PUBLIC: [&str; 9] = [
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/pki/tls/cacert.pem",
    "/etc/pki/tls/cert.pem",
    "/etc/pki/tls/certs",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
    "/etc/ssl/certs",
    "/etc/ssl/certs/ca-certificates.crt",
];

/// A name that no certificate for MAS has.
const NOBODY: &str = "nobody.invalid";

const HELP: &str = "write `validation_context: { trusted_ca: .., match_typed_subject_alt_names: .. }` with the authority and the \
                    name of MAS's certificate";

fn check<'t>(deployment: &Deployment<'t>, found: &mut Found<'t>) {
    for one in &deployment.uses {
        let asked = one.config().map(|config| &config.introspection.cluster);
        let Some(cluster) = asked.and_then(|name| deployment.cluster(one, name)) else {
            continue;
        };
        let matches = cluster.list(&["transport_socket_matches"]);
        let sockets = matches.filter_map(|one| one.get("transport_socket"));
        for socket in cluster.get("transport_socket").into_iter().chain(sockets) {
            check_socket(socket, is_named_by_caller(cluster), found);
        }
    }
}

fn check_socket<'t>(socket: Value<'t>, is_named: bool, found: &mut Found<'t>) {
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
                    HELP,
                );
            } else if let Some(spot) = nameless(config).filter(|_| !is_named) {
                found.add(
                    spot,
                    "these authorities sign for everyone, and no name is asked for: whoever is on the way to MAS, and has a \
                     certificate for any name, answers in its place",
                    HELP,
                );
            }
            return;
        }
        inner = config.get("transport_socket");
    }
}

/// Whether a certificate has to have the name that a call is for.
fn is_named_by_caller(cluster: Value<'_>) -> bool {
    let key = "upstream_http_protocol_options";
    let options = protocols(cluster).filter_map(|options| options.get(key));
    options
        .chain(cluster.get(key))
        .any(|options| options.boolean_at(&["auto_san_validation"]) == Some(true))
}

/// Where a configuration of TLS lets a certificate pass that is for any name.
fn nameless<'t>(config: Value<'t>) -> Option<Spot<'t>> {
    let common = config.get("common_tls_context")?;
    let combined = common.get("combined_validation_context");
    let may_be_elsewhere = |value: Value<'t>| ELSEWHERE.iter().any(|key| value.get(key).is_some());
    let is_known = ![Some(common), combined]
        .into_iter()
        .flatten()
        .any(may_be_elsewhere);
    let of_combined = combined.and_then(|it| it.get("default_validation_context"));
    let context = common.get("validation_context").or(of_combined)?;
    let is_pinned = PINS
        .iter()
        .filter_map(|key| context.get(key))
        .any(|pins| pins.is_mapping() || pins.items().next().is_some());
    let mut names = NAMES.into_iter().flat_map(|key| context.list(&[key]));
    let is_named = config.boolean_at(&["auto_sni_san_validation"]) == Some(true)
        || names.any(|name| {
            let matcher = name.get("matcher").unwrap_or(name);
            StringMatcher::of(matcher).matches(NOBODY) != Some(true)
        });
    let authority = context.at(&["trusted_ca", "filename"]);
    let is_public = authority.and_then(Value::text).is_some_and(|file| {
        let file = file.trim_end_matches('/');
        PUBLIC.contains(&file)
    });
    let key = if is_public {
        "trusted_ca"
    } else {
        "system_root_certs"
    };
    let is_found = is_known && !is_pinned && !is_named && context.get(key).is_some();
    is_found.then(|| Spot::key(context, key))
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
