//! The shipped files have gaps to fill in: a digest of zeros, a secret `change-me`, hosts below `example.org`. What is left of
//! them fails late, and not as what it is: MAS answers 401 to the secret, Istio answers 403 to every request without the
//! image, and with another server's name every request names a user who does not exist.
//!
//! The non-obvious rule: hosts below `example.org` are a fault only beside a real one. A file in which all hosts are examples
//! reaches nothing, which nobody overlooks, and it is what documentation and tests are made of. A file in which one was
//! forgotten works for the most part.

use super::{Deployment, Found, Rule, Severity, Spot};
use crate::yaml::Value;

/// The rule.
pub const RULE: Rule = Rule {
    name: "placeholder",
    severity: Severity::Error,
    about: "A digest, a secret or a host is still that of a shipped file.",
    check,
};

/// The digest that no image has.
const ZEROS: &str = "0000000000000000000000000000000000000000000000000000000000000000";

/// How a secret that is to be changed is spelt, without what separates its words.
const TO_CHANGE: &str = "changeme";

/// What may stand before a secret.
const SCHEMES: [&str; 2] = ["Bearer ", "Basic "];

/// Domains that nobody can have (RFC 2606). What stands below `localhost` is a real name, for a trial.
const EXAMPLES: [&str; 4] = ["example.org", "example.com", "example.net", "example"];

fn check<'t>(deployment: &Deployment<'t>, found: &mut Found<'t>) {
    let has_real_host = deployment
        .uses
        .iter()
        .filter_map(|one| one.configuration)
        .any(|configuration| hosts_of(configuration).any(|host| !is_example(host)));
    for (tree, document) in &deployment.documents {
        for id in document.values.clone() {
            let value = tree.value(id);
            // What stands as text inside of another document is a document of its own.
            if value.embedded().is_none()
                && let Some(text) = value.text()
                && let Some((message, help)) = fault(text, has_real_host)
            {
                found.add(Spot::value(value), message, help);
            }
        }
    }
}

/// The hosts that a configuration of the module names.
fn hosts_of<'t>(configuration: Value<'t>) -> impl Iterator<Item = &'t str> {
    let paths: [&[&str]; 2] = [&["server_name"], &["introspection", "authority"]];
    paths
        .into_iter()
        .filter_map(move |path| configuration.text_at(path))
}

fn fault(text: &str, has_real_host: bool) -> Option<(&'static str, &'static str)> {
    if text.strip_prefix("sha256:").unwrap_or(text) == ZEROS
        || text.ends_with(&format!("@sha256:{ZEROS}"))
    {
        Some((
            "this digest is a placeholder, and no image has it: the module is not loaded",
            "write the digest that `make package` prints, or that your registry shows",
        ))
    } else if is_unchanged_secret(text) {
        Some((
            "this secret is a placeholder: MAS answers 401 to it, and each unproven token gets 503",
            "write the secret: `matrix.secret` of MAS, for the module's calls",
        ))
    } else if has_real_host && names_example(text) {
        Some((
            "this host is a placeholder, and other hosts of these files are real",
            "write your own; `server_name` is the part after the colon of user ids",
        ))
    } else {
        None
    }
}

fn is_unchanged_secret(text: &str) -> bool {
    let secret = SCHEMES
        .into_iter()
        .find_map(|scheme| text.strip_prefix(scheme))
        .unwrap_or(text);
    let letters = secret.chars().filter(|c| !matches!(c, '-' | '_' | ' '));
    letters.flat_map(char::to_lowercase).eq(TO_CHANGE.chars())
}

/// Whether a text has an example's host in it, as a URL or a document for clients may have.
fn names_example(text: &str) -> bool {
    text.split(|c: char| !(c.is_ascii_alphanumeric() || matches!(c, '.' | '-')))
        .any(|word| word.contains('.') && is_example(word))
}

/// Whether a host, with or without a port, is an example's.
fn is_example(host: &str) -> bool {
    let name = host.split(':').next().unwrap_or_default();
    EXAMPLES.iter().any(|domain| {
        name.strip_suffix(domain)
            .is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
    })
}
