//! The shipped files have gaps to fill in: a digest of zeros, a secret `change-me`, hosts below `example.org`. A gap that
//! is left fails late, and looks like another fault: MAS answers 401 to the secret, Istio answers 403 to every request
//! without the image, and with another server's name every request names a user who does not exist.
//!
//! The non-obvious rule: a placeholder is a fault only beside a host of the reader's own. Files in which all hosts are
//! examples are templates, a manual or a test. For these the report says how much is still to be filled in, and that is no
//! finding.

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

/// The spelling of a secret that is to be changed, without what separates its words.
const TO_CHANGE: &str = "changeme";

/// The schemes that may stand before a secret.
const SCHEMES: [&str; 2] = ["Bearer ", "Basic "];

/// Domains that nobody can have (RFC 2606). A name below `localhost` is a real one, for a trial.
const EXAMPLES: [&str; 4] = ["example.org", "example.com", "example.net", "example"];

/// Something that stands for a value of the reader's own.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Digest,
    Secret,
    Host,
}

impl Kind {
    /// What is wrong with it, and what to write.
    const fn fault(self) -> (&'static str, &'static str) {
        match self {
            Self::Digest => (
                "this digest is a placeholder, and no image has it: the module is not loaded",
                "write the digest that `make package` prints, or that your registry shows",
            ),
            Self::Secret => (
                "this secret is a placeholder: MAS answers 401 to it, and each unproven token gets 503",
                "write the secret: `matrix.secret` of MAS, for the module's calls",
            ),
            Self::Host => (
                "this host is a placeholder, and other hosts of these files are real",
                "write your own; `server_name` is the part after the colon of user ids",
            ),
        }
    }
}

fn check<'t>(deployment: &Deployment<'t>, found: &mut Found<'t>) {
    if !is_template(deployment) {
        for (value, kind) in all(deployment) {
            let (message, help) = kind.fault();
            found.add(Spot::value(value), message, help);
        }
    }
}

/// Returns how many digests, secrets and hosts are still to be filled in, if the files are templates.
pub fn remaining(deployment: &Deployment<'_>) -> [usize; 3] {
    let count = |kind| all(deployment).filter(|(_, one)| *one == kind).count();
    if is_template(deployment) {
        [Kind::Digest, Kind::Secret, Kind::Host].map(count)
    } else {
        [0; 3]
    }
}

/// Whether no configuration of the module names a host of the reader's own.
fn is_template(deployment: &Deployment<'_>) -> bool {
    let configurations = deployment.uses.iter().filter_map(|one| one.configuration);
    configurations.flat_map(hosts_of).all(is_example)
}

/// All placeholders. A text that holds a document is passed over, since the document's own values are looked at.
fn all<'d, 't>(deployment: &'d Deployment<'t>) -> impl Iterator<Item = (Value<'t>, Kind)> + 'd {
    let values = deployment
        .documents
        .iter()
        .flat_map(|(tree, document)| document.values.clone().map(|id| tree.value(id)));
    values
        .filter(|value| value.embedded().is_none())
        .filter_map(|value| Some((value, kind(value.text()?)?)))
}

/// The hosts that a configuration of the module names.
fn hosts_of<'t>(configuration: Value<'t>) -> impl Iterator<Item = &'t str> {
    let paths: [&[&str]; 2] = [&["server_name"], &["introspection", "authority"]];
    paths
        .into_iter()
        .filter_map(move |path| configuration.text_at(path))
}

fn kind(text: &str) -> Option<Kind> {
    if text.strip_prefix("sha256:").unwrap_or(text) == ZEROS
        || text.ends_with(&format!("@sha256:{ZEROS}"))
    {
        Some(Kind::Digest)
    } else if is_unchanged_secret(text) {
        Some(Kind::Secret)
    } else if names_example(text) {
        Some(Kind::Host)
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
